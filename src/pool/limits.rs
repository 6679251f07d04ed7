//! Which limit ended, refused or held something: from the kernel's counters
//! before and after, and from what php-fpm says, to reasons. Pure: no file and
//! no clock of its own.
//!
//! What the kernel counts nobody in a pool can forge. What php-fpm says comes
//! through a pipe that its workers can write to as well: a tenant can make
//! howdah tell of a limit that was not hit, of its own pool only; such a reason
//! names the pool as its witness.

mod counters;
mod log;
mod tally;
mod verdict;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use counters::Counters;
pub use log::{said, says_full};
pub use tally::{Bucket, Hit, Tally, within_bounds};
pub use verdict::{End, Kills};

/// What a limit did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// A process, or all of the generation, was ended.
    Ended,
    /// Something was asked for and not given.
    Refused,
    /// Work goes on, slower or later.
    Held,
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ended => "ended",
            Self::Refused => "refused",
            Self::Held => "held",
        })
    }
}

/// Who tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Witness {
    /// A counter or an audit record of the kernel's.
    Kernel,
    /// A line of the pool's log, which php-fpm writes and a worker can.
    Pool,
    /// howdah itself.
    Howdah,
}

/// A limit that did something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// The limit by its key in the pool file, or the wall: "memory", "seccomp".
    pub limit: &'static str,
    /// What it did.
    pub effect: Effect,
    /// What tells this case from others of the same limit: a system call, a path; may be empty.
    pub subject: String,
    /// How many times.
    pub count: u64,
    /// What happened, in words.
    pub detail: String,
    /// Who tells of it.
    pub witness: Witness,
}

impl Reason {
    /// One case.
    pub fn new(limit: &'static str, effect: Effect, witness: Witness, detail: impl Into<String>) -> Self {
        Self { limit, effect, subject: String::new(), count: 1, detail: detail.into(), witness }
    }

    /// The same, of this subject.
    #[must_use]
    pub fn of(mut self, subject: impl Into<String>) -> Self {
        self.subject = subject.into();
        self
    }

    /// Whether work goes on: a busy pool may live at such a limit, or a program try
    /// again and again what it need not have.
    pub fn is_common(&self) -> bool {
        let wall = matches!(self.limit, "seccomp" | "landlock");
        self.effect == Effect::Held || (wall && self.effect == Effect::Refused)
    }

    /// Whether the kernel has a counter for it, where its controller is.
    pub fn is_counted(&self) -> bool {
        self.limit == "tasks"
    }

    /// The same, so many times.
    #[must_use]
    pub fn times(mut self, count: u64) -> Self {
        self.count = count;
        self
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "limit {}: {}", self.limit, self.detail)
    }
}
