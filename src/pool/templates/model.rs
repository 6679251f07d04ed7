//! What the templates of a class are made of, and which pools are of it.

use std::fs::{self, DirBuilder, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use oci_spec::runtime::Spec;

use super::standing::Standing;
use crate::config::pool::{Access, Pool};
use crate::config::profile::{MountKind, Namespace, Profile};
use crate::image;
use crate::pool::prepare::{CONF, Prepared};
use crate::sandbox::landlock::Use;
use crate::sandbox::step::{Step, StepError};
use crate::spec::class;

/// What the templates of one class are made of.
pub(super) struct Model {
    pub(super) class: Rc<str>,
    pub(super) prepared: Rc<Prepared>,
    pub(super) listeners: usize,
    pub(super) standing: Standing,
    /// When one of its pools last asked for one.
    pub(super) asked: Instant,
    /// What one takes of the memory, bytes; `None`: nobody has looked yet.
    pub(super) each: Option<u64>,
}

/// A short name of the class of `prepared` with `listeners` sockets: pools that show the same share their templates.
pub fn class_name(prepared: &Prepared, listeners: usize) -> String {
    short_name(&class_of(prepared, listeners))
}

/// The short name of a class.
pub(super) fn short_name(class: &Rc<str>) -> String {
    let mut hasher = DefaultHasher::new();
    class.hash(&mut hasher);
    format!("{:08x}", hasher.finish() as u32)
}

/// The class of `prepared`, which was made for `listeners` sockets: worked out once, for a start must not wait for it.
pub fn class_of(prepared: &Prepared, listeners: usize) -> Rc<str> {
    let make = || {
        let files: Vec<_> = prepared.files.iter().filter(|(name, _)| name != CONF).collect();
        let spec = class::class(&prepared.spec, listeners);
        format!("{spec} {:?} {:?} {files:?}", prepared.own_ids, prepared.layout.links).into()
    };
    Rc::clone(prepared.class.get_or_init(make))
}

/// Why `pool` is always launched cold; `None`: it need not be.
pub fn always_cold(pool: &Pool, prepared: &Prepared) -> Option<&'static str> {
    let profile = &prepared.profile;
    if pool.start.template == Some(false) {
        return Some("its file says [start] template = false");
    }
    let needed = [Namespace::User, Namespace::Mount, Namespace::Pid, Namespace::Uts];
    if needed.iter().any(|kind| !profile.namespaces.contains(kind)) {
        return Some("its profile leaves out a namespace that a template needs");
    }
    if prepared.files.iter().any(|(name, text)| name == CONF && names_other_events(text)) {
        return Some("its php-fpm configuration sets events.mechanism, and a template needs epoll");
    }
    None
}

/// Whether php-fpm is told to wait for events otherwise than by epoll, which it takes by itself where
/// it can (fpm_events.c, `fpm_event_pre_init`).
fn names_other_events(configuration: &str) -> bool {
    let lines = configuration.lines().filter_map(|line| line.split_once('='));
    let mut named = lines.filter(|(key, _)| key.trim().eq_ignore_ascii_case("events.mechanism"));
    named.any(|(_, value)| !value.trim().trim_matches(['"', '\'']).eq_ignore_ascii_case("epoll"))
}

/// What Landlock has to allow of the mounts of `pool`, beside reading them.
pub fn sources(pool: &Pool, profile: &Profile) -> Vec<(PathBuf, Use)> {
    let mut all = Vec::new();
    for mount in &pool.mounts {
        let kind = match mount.access {
            Access::ReadOnly => MountKind::Code,
            Access::ReadWrite => MountKind::Writable,
        };
        let path = mount.source.as_path().to_owned();
        if profile.landlock_execute.contains(&kind) {
            all.push((path.clone(), Use::Execute));
        }
        if mount.access == Access::ReadWrite {
            all.push((path, Use::Write));
        }
    }
    all
}

/// The root directory of a template: the class's part of `/etc`, the points where mounts go, and
/// in place of the configuration a FIFO at which php-fpm waits.
pub(super) fn make_root(rootfs: &Path, prepared: &Prepared, spec: &Spec, gid: u32) -> Result<(), StepError> {
    let make = || -> io::Result<()> {
        // Whoever is in it must get through its own root; nobody else has anything to look for there.
        if let Some(all) = rootfs.parent().and_then(Path::parent) {
            DirBuilder::new().recursive(true).mode(0o700).create(all)?;
        }
        DirBuilder::new().recursive(true).mode(0o755).create(rootfs)?;
        let etc = rootfs.join("etc/howdah");
        fs::create_dir_all(&etc)?;
        for (name, text) in prepared.files.iter().filter(|(name, _)| name != CONF) {
            image::write_secret(&rootfs.join("etc").join(name), text, gid).map_err(|(_, error)| error)?;
        }
        let fifo = rootfs.join("etc").join(CONF);
        mkfifo(&fifo, Mode::from_bits_truncate(0o640))?;
        chown(&fifo, None, Some(gid))?;
        prepared.layout.make_links(rootfs).map_err(|(_, error)| error)?;
        fs::create_dir_all(rootfs.join(class::STATE.trim_start_matches('/')))
    };
    make().map_err(|error| step(Step::AttachRoot, &rootfs.display().to_string(), &error))?;
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    crate::sandbox::mounts::make_mount_points(rootfs, mounts)
        .map_err(|(path, error)| step(Step::AttachMount, &path.display().to_string(), &error))
}

pub(super) fn step(step: Step, object: &str, error: &io::Error) -> StepError {
    StepError::new(step, object, Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
}

/// The reading end of its log; its descriptors: standard input, the log twice, and in the place of
/// each listening socket something harmless.
pub(super) fn descriptors((uid, gid): (u32, u32), listeners: usize) -> io::Result<(OwnedFd, Vec<OwnedFd>)> {
    let (log, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    nix::fcntl::fcntl(
        std::os::fd::AsRawFd::as_raw_fd(&log),
        nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK),
    )?;
    std::os::unix::fs::fchown(&writer, Some(uid), Some(gid))?;
    let null: OwnedFd = File::open("/dev/null")?.into();
    let mut all = vec![null.try_clone()?, writer.try_clone()?, writer];
    for _ in 0..listeners {
        all.push(null.try_clone()?);
    }
    Ok((log, all))
}
