//! Which pools can have the same template, and which can have none.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::rc::Rc;

use crate::config::pool::{Access, Pool};
use crate::config::profile::{MountKind, Namespace, Profile};
use crate::pool::prepare::{CONF, Prepared};
use crate::sandbox::landlock::Use;
use crate::spec::class;

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
    // That of IPC as well: what is made in the host's outlives the sandbox (svipc(7)), and would belong to
    // whoever is given its uid next.
    let needed = [Namespace::User, Namespace::Mount, Namespace::Pid, Namespace::Uts, Namespace::Ipc];
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
