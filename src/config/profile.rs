//! Isolation profiles: which walls a pool has.
//!
//! A profile is a TOML file that says what is different from its base; a list in
//! it replaces the base's list. Four are compiled in; `hosting` is below them all,
//! and a pool without a word about it has that. Every wall can be taken down by a
//! file of one's own, because a test that a wall holds proves nothing until the
//! same attack succeeds without it.
//!
//! This room knows nothing of pools and does not apply anything.

mod calls;
mod compare;
mod layers;
mod raw;
mod seccomp_file;
mod sysctl;
mod uses;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use caps::Capability;
use oci_spec::runtime::LinuxSeccomp;

pub use calls::{Dangerous, Execve};
pub use sysctl::namespace_of;
pub use uses::{MountFlag, MountFlags, MountKind};

use super::pool::{Limits, Network, ProfileRef};
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
    /// Whether Landlock confines files, TCP, signals and abstract sockets.
    pub landlock: bool,
    /// The least ABI of Landlock: below it the pool does not start.
    pub landlock_abi: u32,
    /// Beside the image: where Landlock lets programs be executed.
    pub landlock_execute: BTreeSet<MountKind>,
    /// Whether a pool without a network may use TCP on its own loopback.
    pub loopback_tcp: bool,
    /// Whether a pool without a way out may listen on TCP only where Landlock keeps that
    /// socket from being a way into the host's network.
    pub tcp_listener_held: bool,
    /// Whether listen(2) and Fast Open are let through where the filter says so. No key of a
    /// file: false where the pool holds a socket of the host's network, of which Landlock holds
    /// all but these.
    pub listen: bool,
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
    /// With which flags the pool's mounts are mounted.
    pub mount_flags: MountFlags,
    /// Where the pool's file says nothing.
    pub network: Network,
    /// Kernel settings of the pool's own namespaces, by sysctl(8)'s names.
    pub sysctl: BTreeMap<String, String>,
    /// Where the pool's file says nothing.
    pub limits: Limits,
    /// The files that it was made of and their texts, its own first.
    pub files: Vec<(PathBuf, String)>,
    /// Every file that was looked for, also those that are not there: what the profile rests on.
    pub looked_for: Vec<PathBuf>,
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

/// The profile `hosting` as it is compiled in.
pub fn hosting() -> Profile {
    built_in("hosting")
}

/// A profile as it is compiled in, whatever the machine's files say.
fn built_in(name: &str) -> Profile {
    let mut layers = layers::Layers::new(Path::new(""));
    layers.read_built_in(name).and_then(|()| layers.resolve()).expect("compiled in, and a test reads it")
}

#[cfg(test)]
mod tests;
