//! Isolation profiles: which walls a pool has.
//!
//! A profile is a TOML file that says what is different from its base; a list in
//! it replaces the base's list. The base of them all, `hosting`, is compiled in,
//! and a pool without a word about it has that. Every wall can be taken down by a
//! file of one's own, because a test that a wall holds proves nothing until the
//! same attack succeeds without it.
//!
//! This room knows nothing of pools and does not apply anything.

mod calls;
mod layers;
mod raw;
mod seccomp_file;

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use caps::Capability;
use oci_spec::runtime::LinuxSeccomp;

pub use calls::{Dangerous, Execve};

use super::pool::{Limits, ProfileRef};
use super::types::AbsPath;

/// Which walls a pool has.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// Its name, or the stem of its file.
    pub name: Box<str>,
    /// The name or file it started from; `None`: the built-in `hosting`.
    pub base: Option<Box<str>>,
    /// The system calls php-fpm and its programs may use, as its file says; `None`: all.
    /// What is in force is [`Profile::filter`].
    pub seccomp: Option<LinuxSeccomp>,
    /// What comes of a call that only an attacker makes, if the filter refuses it.
    pub dangerous: Dangerous,
    /// How often a program may be executed.
    pub execve: Execve,
    /// Whether Landlock confines files.
    pub landlock: bool,
    /// Whether set-user-id programs and file capabilities are without effect.
    pub no_new_privs: bool,
    /// Capabilities that php-fpm keeps, in its own user namespace.
    pub capabilities: Vec<Capability>,
    /// Whether inherited descriptors are closed.
    pub close_descriptors: bool,
    /// The namespaces that are the pool's own.
    pub namespaces: BTreeSet<Namespace>,
    /// How much `/proc` shows.
    pub proc: Proc,
    /// Hidden, where [`Proc::Full`] would show them.
    pub masked_paths: Vec<AbsPath>,
    /// Not to be written, where [`Proc::Full`] shows them.
    pub readonly_paths: Vec<AbsPath>,
    /// Where the pool's file says nothing.
    pub limits: Limits,
}

/// How much `/proc` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proc {
    /// Processes only: mount option `subset=pid` (Linux 5.8).
    Pid,
    /// All but the masked paths.
    Full,
}

/// A namespace, namespaces(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Namespace {
    /// user_namespaces(7)
    User,
    /// mount_namespaces(7)
    Mount,
    /// pid_namespaces(7)
    Pid,
    /// network_namespaces(7)
    Network,
    /// ipc_namespaces(7)
    Ipc,
    /// uts_namespaces(7)
    Uts,
    /// cgroup_namespaces(7)
    Cgroup,
}

impl Namespace {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::User, Self::Mount, Self::Pid, Self::Network, Self::Ipc, Self::Uts, Self::Cgroup];

    /// Its word in a profile, which is OCI's.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Mount => "mount",
            Self::Pid => "pid",
            Self::Network => "network",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
            Self::Cgroup => "cgroup",
        }
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why there is no such profile. Displays as one line.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// A line of a file is wrong.
    #[error("{}:{line}: {reason}", file.display())]
    Line {
        /// The file.
        file: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A file cannot be read.
    #[error("{}: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No profile has the name.
    #[error("{0}")]
    Unknown(String),
}

/// The profile that `profile` means. A file of `directory` (`/etc/howdah/profiles`)
/// goes before what is compiled in.
pub fn load(profile: &ProfileRef, directory: &Path) -> Result<Profile, ProfileError> {
    let mut layers = layers::Layers::new(directory);
    layers.read(profile)?;
    layers.resolve()
}

/// The profile that is compiled in.
pub fn hosting() -> Profile {
    let mut layers = layers::Layers::new(Path::new(""));
    layers.push_built_in();
    layers.resolve().expect("compiled in, and a test reads it")
}

impl Profile {
    /// What `hosting` refuses and this profile does not, each as a few words; of
    /// two filters it can only say that they differ.
    pub fn weakened(&self) -> Vec<String> {
        let hosting = hosting();
        let mut found = Vec::new();
        match &self.seccomp {
            None => found.push("seccomp is off".to_owned()),
            Some(filter) if Some(filter) != hosting.seccomp.as_ref() => {
                found.push("seccomp is not the filter of hosting".to_owned());
            }
            Some(_) => {}
        }
        if self.dangerous < hosting.dangerous {
            found.push("dangerous system calls do not kill".to_owned());
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
        found.extend(larger(&self.limits, &hosting.limits));
        found
    }
}

/// Limits of `ours` above those of `hosting`.
fn larger(ours: &Limits, hosting: &Limits) -> Vec<String> {
    fn row<T: PartialOrd + fmt::Display>(name: &str, ours: &Option<T>, theirs: &Option<T>) -> Option<String> {
        match (ours, theirs) {
            (Some(ours), Some(theirs)) if ours > theirs => {
                Some(format!("limits.{name} is {ours}, above {theirs}"))
            }
            (None, Some(theirs)) => Some(format!("limits.{name} is unset, above {theirs}")),
            _ => None,
        }
    }
    [
        row("memory", &ours.memory, &hosting.memory),
        row("swap", &ours.swap, &hosting.swap),
        row("tasks", &ours.tasks, &hosting.tasks),
        row("tmp", &ours.tmp, &hosting.tmp),
        row("open_files", &ours.open_files, &hosting.open_files),
        row("core", &ours.core, &hosting.core),
        row("memlock", &ours.memlock, &hosting.memlock),
        row("msgqueue", &ours.msgqueue, &hosting.msgqueue),
        row("sigpending", &ours.sigpending, &hosting.sigpending),
        row("stack", &ours.stack, &hosting.stack),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests;
