//! What the probe is told about the world outside, by `key=value` arguments, and
//! what it sees of itself before it does anything.

use std::fs;

use crate::numbers as nr;
use crate::raw::call;

/// Written where only somebody who has got through can read it. The probe's own
/// arguments and environment never contain it.
pub(crate) fn secret() -> String {
    ["howdah", "audit", "secret"].join("-")
}

/// Set in the environment of the canary's and the neighbour's process.
pub(crate) const SECRET_VARIABLE: &str = "HOWDAH_AUDIT_CANARY";

/// The world as it was told and seen.
pub(crate) struct World {
    arguments: Vec<(String, String)>,
    /// Whether a seccomp filter is in force here.
    pub(crate) filtered: bool,
    /// Whether mounts are another namespace's than the host's.
    pub(crate) own_mounts: bool,
    /// The descriptors that were open at the very beginning.
    pub(crate) descriptors: Vec<u64>,
}

impl World {
    /// Looks around. Before anything else: it opens files itself.
    pub(crate) fn look(arguments: impl Iterator<Item = String>) -> Self {
        const F_GETFD: u64 = 1;
        const PR_GET_SECCOMP: u64 = 21;
        let descriptors = (0..65536).filter(|fd| call(nr::FCNTL, &[*fd, F_GETFD]).is_ok()).collect();
        let split =
            |word: String| word.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
        let mut world = Self {
            arguments: arguments.filter_map(split).collect(),
            // A filter that kills or refuses prctl is one, too.
            filtered: call(nr::PRCTL, &[PR_GET_SECCOMP]) != Ok(0),
            own_mounts: false,
            descriptors,
        };
        let host = world.get("mnt").to_owned();
        world.own_mounts = !host.is_empty()
            && fs::read_link("/proc/self/ns/mnt").is_ok_and(|own| own.to_string_lossy() != host);
        world
    }

    /// A value; empty if it was not told.
    pub(crate) fn get(&self, key: &str) -> &str {
        self.arguments.iter().find(|(name, _)| name == key).map_or("", |(_, value)| value)
    }

    /// Every value of a key.
    pub(crate) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.arguments.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// A number; `None` if it was not told.
    pub(crate) fn number(&self, key: &str) -> Option<u64> {
        self.get(key).parse().ok()
    }

    /// The listening sockets' descriptors.
    pub(crate) fn listeners(&self) -> Vec<u64> {
        self.all("listener").filter_map(|word| word.parse().ok()).collect()
    }
}
