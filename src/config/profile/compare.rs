//! A profile beside the built-in `hosting`: what it opens, and what it closes.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use super::super::pool::{Limits, Network};
use super::{MountFlag, MountKind, Namespace, Proc, Profile, hosting, seccomp_file};

impl Profile {
    /// What `hosting` refuses and this profile does not, each as a few words; of
    /// two filters it can only say that they differ.
    pub fn weakened(&self) -> Vec<String> {
        if self.is_hosting() {
            return Vec::new();
        }
        let hosting = hosting();
        let mut found = Vec::new();
        match self.seccomp.as_ref().map(seccomp_file::name_of) {
            None => found.push("seccomp is off".to_owned()),
            Some(Some("strict" | "hosting")) => {}
            Some(Some(name)) => found.push(format!("seccomp is the filter of {name}")),
            Some(None) => found.push("seccomp is not the filter of hosting".to_owned()),
        }
        if self.dangerous < hosting.dangerous {
            found.push("dangerous system calls do not kill".to_owned());
        }
        if self.execve < hosting.execve {
            found.push("programs may be executed".to_owned());
        }
        let switches = [
            (self.landlock, "landlock is off"),
            (self.no_new_privs, "no_new_privs is off"),
            (self.close_descriptors, "inherited descriptors are kept"),
        ];
        found.extend(switches.iter().filter(|(on, _)| !on).map(|(_, text)| (*text).to_owned()));
        let shared = Namespace::ALL.iter().filter(|namespace| !self.namespaces.contains(namespace));
        found.extend(shared.map(|namespace| format!("the host's {namespace} namespace is shared")));
        found.extend(self.capabilities.iter().map(|capability| format!("{capability} is kept")));
        if self.proc == Proc::Full {
            found.push("/proc shows the machine".to_owned());
        }
        let visible = hosting.masked_paths.iter().filter(|path| !self.masked_paths.contains(path));
        found.extend(visible.map(|path| format!("{path} is not masked")));
        let writable = hosting
            .readonly_paths
            .iter()
            .filter(|path| !self.readonly_paths.contains(path) && !self.masked_paths.contains(path));
        found.extend(writable.map(|path| format!("{path} is not read-only")));
        found.extend(opened(self, &hosting));
        if reach(&self.network) > reach(&hosting.network) {
            found.push(format!("network.mode is {:?} by default", self.network.mode()));
        }
        found.extend(limits(&self.limits, &hosting.limits, Ordering::Greater));
        found
    }

    /// What this profile refuses and `hosting` does not, each as a few words.
    pub fn stricter(&self) -> Vec<String> {
        if self.is_hosting() {
            return Vec::new();
        }
        let hosting = hosting();
        let mut found = Vec::new();
        if self.seccomp.as_ref().and_then(seccomp_file::name_of) == Some("strict") {
            found.push("seccomp is the filter of strict".to_owned());
        }
        if self.dangerous > hosting.dangerous {
            found.push("dangerous system calls kill".to_owned());
        }
        if self.execve > hosting.execve {
            found.push("nothing is executed after php-fpm".to_owned());
        }
        if self.landlock && self.landlock_abi > hosting.landlock_abi {
            found.push(format!("Landlock ABI {} is demanded", self.landlock_abi));
        }
        if self.landlock && !self.loopback_tcp && hosting.loopback_tcp {
            found.push("no TCP on its own loopback".to_owned());
        }
        // The same walls, looked at from the other side.
        let closed = |kind: MountKind| {
            let more: Vec<_> = missing(&hosting, self, kind).into_iter().map(MountFlag::as_str).collect();
            (!more.is_empty()).then(|| format!("{kind} is {}", more.join(",")))
        };
        found.extend(MountKind::ALL.into_iter().filter_map(closed));
        let refused = hosting.landlock_execute.difference(&self.landlock_execute);
        found.extend(refused.filter(|_| self.landlock).map(|kind| format!("nothing in {kind} is executed")));
        let masked = self.masked_paths.iter().filter(|path| !hosting.masked_paths.contains(path));
        found.extend(masked.map(|path| format!("{path} is masked")));
        found.extend(limits(&self.limits, &hosting.limits, Ordering::Less));
        found
    }
}

impl Profile {
    /// The file that it was read from; `None`: it is built in.
    pub fn own_file(&self) -> Option<&Path> {
        self.files.first().map(|(file, _)| file.as_path()).filter(|file| !file.starts_with("(built in)"))
    }

    /// Whether it is the built-in `hosting`, with no file over it: the most frequent
    /// one, and not worth reading another for.
    fn is_hosting(&self) -> bool {
        matches!(self.files.as_slice(), [(file, _)] if file.starts_with("(built in)"))
    }
}

/// How far a network goes.
fn reach(network: &Network) -> u8 {
    match network {
        Network::None => 0,
        Network::Outbound(_) => 1,
        Network::Host(_) => 2,
    }
}

/// Flags that `theirs` has on a kind of mount and `ours` has not.
fn missing(ours: &Profile, theirs: &Profile, kind: MountKind) -> BTreeSet<MountFlag> {
    theirs.mount_flags.of(kind).difference(ours.mount_flags.of(kind)).copied().collect()
}

/// What Landlock and the mounts of `ours` let through and those of `hosting` do not.
fn opened(ours: &Profile, hosting: &Profile) -> Vec<String> {
    let mut found = Vec::new();
    for kind in MountKind::ALL {
        let lost = missing(ours, hosting, kind);
        found.extend(lost.into_iter().map(|flag| format!("{kind} is mounted without {}", flag.as_str())));
    }
    let more = ours.landlock_execute.difference(&hosting.landlock_execute);
    found.extend(more.map(|kind| format!("Landlock lets {kind} be executed")));
    if ours.loopback_tcp && !hosting.loopback_tcp {
        found.push("TCP on its own loopback".to_owned());
    }
    if !ours.tcp_listener_held && hosting.tcp_listener_held {
        found.push("a TCP listener that nothing holds is let through".to_owned());
    }
    found
}

/// Limits of `ours` that are above those of `hosting` (`Greater`) or below them (`Less`).
fn limits(ours: &Limits, hosting: &Limits, wanted: Ordering) -> Vec<String> {
    type Row = Option<(Ordering, String)>;
    fn row<T: PartialOrd + fmt::Display>(name: &str, ours: &Option<T>, theirs: &Option<T>) -> Row {
        let name = format!("limits.{name}");
        match (ours, theirs) {
            (Some(ours), Some(theirs)) => match ours.partial_cmp(theirs)? {
                Ordering::Equal => None,
                Ordering::Greater => Some((Ordering::Greater, format!("{name} is {ours}, above {theirs}"))),
                Ordering::Less => Some((Ordering::Less, format!("{name} is {ours}, below {theirs}"))),
            },
            (None, Some(theirs)) => Some((Ordering::Greater, format!("{name} is unset, above {theirs}"))),
            (Some(ours), None) => Some((Ordering::Less, format!("{name} is {ours}"))),
            (None, None) => None,
        }
    }
    let rows = [
        row("memory", &ours.memory, &hosting.memory),
        row("swap", &ours.swap, &hosting.swap),
        row("tasks", &ours.tasks, &hosting.tasks),
        row("cpu", &ours.cpu, &hosting.cpu),
        row("tmp", &ours.tmp, &hosting.tmp),
        row("open_files", &ours.open_files, &hosting.open_files),
        row("core", &ours.core, &hosting.core),
        row("memlock", &ours.memlock, &hosting.memlock),
        row("msgqueue", &ours.msgqueue, &hosting.msgqueue),
        row("sigpending", &ours.sigpending, &hosting.sigpending),
        row("stack", &ours.stack, &hosting.stack),
    ];
    rows.into_iter().flatten().filter(|(order, _)| *order == wanted).map(|(_, words)| words).collect()
}
