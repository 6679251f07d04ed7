//! How a template is made: its ids, its place on the host, its sandbox.

use std::cell::RefCell;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, chown, fchown};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::Mode;
use nix::unistd::{mkfifo, pipe2};
use oci_spec::runtime::Spec;

use super::NoTemplates;
use super::classes::Model;
use super::ids::Ids;
use super::lodging::{Lodging, directory};
use super::waiting::Waiting;
use crate::config::types::IdRange;
use crate::pool::graves::Graves;
use crate::pool::outbound;
use crate::pool::prepare::{CONF, Places, Prepared};
use crate::sandbox::cgroup::Base;
use crate::sandbox::landlock::Use;
use crate::sandbox::step::{Step, StepError};
use crate::sandbox::template::{Ahead, Template};
use crate::sandbox::{Plan, SpareNetwork, mounts};
use crate::spec::class;
use crate::{image, paths, sys};

/// The nice value of one that starts.
const NICE: i32 = 19;

/// Where templates come from.
pub(super) struct Births {
    ids: Rc<RefCell<Ids>>,
    number: u64,
    directory: PathBuf,
    graves: Graves,
}

impl Births {
    /// With ids of `range`.
    ///
    /// # Errors
    /// These cannot be kept from other howdahs.
    pub(super) fn open(range: IdRange, places: &Places, graves: &Graves) -> Result<Self, NoTemplates> {
        let ids = Rc::new(RefCell::new(Ids::open(range, &places.state)?));
        Ok(Self { ids, number: 0, directory: directory(places), graves: graves.clone() })
    }

    /// Begins to make one of the class of `model`, which may have `sources` attached later.
    ///
    /// # Errors
    /// The failing step; nothing of it is left then.
    pub(super) fn make(
        &mut self,
        Model { class, prepared, listeners, .. }: &Model,
        base: &Base,
        network: Option<&mut SpareNetwork>,
        sources: Vec<(PathBuf, Use)>,
    ) -> Result<Waiting, StepError> {
        let lodging = self.lodge(prepared.own_ids)?;
        let (ids, rootfs) = (lodging.ids, lodging.directory.join("rootfs"));
        let spec = class::template(&prepared.spec, ids.0, ids.1, &rootfs);
        make_root(&rootfs, prepared, &spec, ids.1)?;
        let refuse = |error: io::Error| step(Step::ArrangeDescriptors, "(of a template)", &error);
        let (log, descriptors) = descriptors(ids, *listeners).map_err(refuse)?;
        let plan = Plan::new(&spec, prepared.seccomp.clone(), descriptors)?;
        let open =
            |(path, of): &(PathBuf, Use)| paths::open_trusted(path).ok().map(|fd| (path.clone(), fd, *of));
        let opened = sources.iter().filter_map(open).collect();
        let name = lodging.name();
        let cgroup = base
            .create(&name, std::iter::empty(), |_| false)
            .map_err(|error| StepError::new(Step::Clone, format!("({error})"), Errno::EIO))?;
        // What is missing is told when a pool starts.
        let programs = prepared.outbound.as_ref().and_then(|outbound| outbound::programs(outbound).ok());
        let ahead = Ahead {
            rootfs: &rootfs,
            sources: opened,
            maps: lodging.lender.is_some(),
            programs: programs.as_ref(),
        };
        match Template::launch(&spec, plan, ahead, cgroup.as_fd(), network) {
            Ok(template) => {
                let _ = sys::set_nice(template.process.pid, NICE);
                Ok(Waiting {
                    template,
                    log,
                    cgroup,
                    lodging,
                    class: Rc::clone(class),
                    prepared: Rc::clone(prepared),
                    sources: sources.into_iter().collect(),
                    made: Instant::now(),
                    is_ready: false,
                    graves: self.graves.clone(),
                    loaded: None,
                })
            }
            Err(error) => {
                let _ = cgroup.remove();
                Err(error)
            }
        }
    }

    /// Ids and a directory that nobody else has.
    fn lodge(&mut self, own_ids: Option<(u32, u32)>) -> Result<Lodging, StepError> {
        let refuse = |error: io::Error| step(Step::MapIdentity, "(of a template)", &error);
        let none_left = || StepError::new(Step::MapIdentity, "(all template_ids are used)", Errno::EAGAIN);
        let (ids, lender) = match own_ids {
            Some(ids) => (ids, None),
            None => {
                let id = self.ids.borrow_mut().take().map_err(refuse)?.ok_or_else(none_left)?;
                ((id, id), Some(Rc::clone(&self.ids)))
            }
        };
        // An earlier howdah may have had our pid, and a generation that it made lives there.
        let directory = loop {
            self.number += 1;
            let name = format!("template-{}-{}", nix::unistd::getpid(), self.number);
            let directory = self.directory.join(name);
            if !directory.exists() {
                break directory;
            }
        };
        Ok(Lodging { ids, directory, lender })
    }
}

impl Drop for Births {
    fn drop(&mut self) {
        // Those that are still there keep theirs, and the last one takes it with it.
        let _ = fs::remove_dir(&self.directory);
    }
}

/// The root directory of a template: the class's part of `/etc`, the points where mounts go, and
/// in place of the configuration a FIFO at which php-fpm waits.
fn make_root(rootfs: &Path, prepared: &Prepared, spec: &Spec, gid: u32) -> Result<(), StepError> {
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
    mounts::make_mount_points(rootfs, mounts)
        .map_err(|(path, error)| step(Step::AttachMount, &path.display().to_string(), &error))
}

/// The reading end of its log; its descriptors: standard input, the log twice, and in the place of
/// each listening socket something harmless.
fn descriptors((uid, gid): (u32, u32), listeners: usize) -> io::Result<(OwnedFd, Vec<OwnedFd>)> {
    let (log, writer) = pipe2(OFlag::O_CLOEXEC)?;
    fcntl(log.as_raw_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    fchown(&writer, Some(uid), Some(gid))?;
    let null: OwnedFd = File::open("/dev/null")?.into();
    let mut all = vec![null.try_clone()?, writer.try_clone()?, writer];
    for _ in 0..listeners {
        all.push(null.try_clone()?);
    }
    Ok((log, all))
}

pub(super) fn step(step: Step, object: &str, error: &io::Error) -> StepError {
    StepError::new(step, object, Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_in_which_somebody_lives_is_not_given_out() {
        let parent = tempfile::tempdir().unwrap();
        let [runtime, state] = ["run", "state"].map(|name| parent.path().join(name));
        fs::create_dir(&state).unwrap();
        let places = Places { runtime, state, profiles: "/".into(), drain: std::time::Duration::ZERO };
        let range = IdRange { first: 1_800_000_000, last: 1_800_000_009 };
        let mut births = Births::open(range, &places, &Graves::default()).unwrap();
        // As a howdah with the same pid has left it.
        let taken = births.directory.join(format!("template-{}-1", nix::unistd::getpid()));
        fs::create_dir_all(&taken).unwrap();
        let lodging = births.lodge(Some((5, 5))).unwrap();
        assert_ne!(lodging.directory, taken);
        drop(lodging);
        assert!(taken.is_dir());
    }
}
