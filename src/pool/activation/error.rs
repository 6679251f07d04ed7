//! What can go wrong with a socket, each as one line: what was tried, where,
//! why it failed, what to do.

use std::fmt;
use std::io;
use std::os::fd::RawFd;

use nix::errno::Errno;

use crate::config::types::PoolName;

/// A socket that cannot be had. Its display is one line without a full stop.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ActivationError {
    /// A system call failed.
    #[error("{step} {place}: {} ({errno:?}){}{advice}", errno.desc(), colon(advice))]
    Step {
        /// The deed: "bind", "listen on".
        step: &'static str,
        /// The address, path or socket it was done to.
        place: String,
        /// What the kernel said.
        errno: Errno,
        /// What to do about it; empty where we do not know.
        advice: String,
    },
    /// A variable of systemd's protocol holds what systemd would not write.
    #[error("{variable}={value:?}: {reason}: start howdah from a socket unit, or unset the variable")]
    Environment {
        /// `LISTEN_PID`, `LISTEN_FDS` or `LISTEN_FDNAMES`.
        variable: &'static str,
        /// Its value, lossily as text.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A passed descriptor is of no use to any pool.
    #[error("passed {passed}: {reason}")]
    Passed {
        /// Which one.
        passed: Passed,
        /// Why, and what to do.
        reason: String,
    },
    /// One of these, while a pool's sockets were opened.
    #[error("pool {pool}: {error}")]
    OfPool {
        /// The pool.
        pool: PoolName,
        /// What happened.
        error: Box<ActivationError>,
    },
}

impl ActivationError {
    pub(super) fn step(step: &'static str, place: impl ToString, errno: Errno) -> Self {
        Self::Step { step, place: place.to_string(), errno, advice: String::new() }
    }

    pub(super) fn advise(mut self, text: impl Into<String>) -> Self {
        if let Self::Step { advice, .. } = &mut self {
            *advice = text.into();
        }
        self
    }

    pub(super) fn of(self, pool: &PoolName) -> Self {
        Self::OfPool { pool: pool.clone(), error: Box::new(self) }
    }

    /// Whether the same call may succeed later with nothing changed in howdah's
    /// files or rights: the address was taken, or the machine was short of something.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Step { errno, .. } => matches!(
                errno,
                Errno::EADDRINUSE
                    | Errno::EADDRNOTAVAIL
                    | Errno::EMFILE
                    | Errno::ENFILE
                    | Errno::ENOBUFS
                    | Errno::ENOMEM
                    | Errno::ENOSPC
                    | Errno::EAGAIN
                    | Errno::EINTR
            ),
            Self::OfPool { error, .. } => error.is_retryable(),
            Self::Environment { .. } | Self::Passed { .. } => false,
        }
    }
}

fn colon(advice: &str) -> &'static str {
    if advice.is_empty() { "" } else { ": " }
}

/// The errno of an error of std's.
pub(super) fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

/// A descriptor that was passed, as a person can find it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passed {
    /// Its number when howdah was started: 3 and up.
    pub number: RawFd,
    /// Its FDNAME; `None` when no names were passed.
    pub name: Option<String>,
    /// Its local address as text; `None` when it has none.
    pub address: Option<String>,
}

impl fmt::Display for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "descriptor {}", self.number)?;
        match (&self.name, &self.address) {
            (Some(name), Some(address)) => write!(f, " ({name:?}, {address})"),
            (Some(name), None) => write!(f, " ({name:?})"),
            (None, Some(address)) => write!(f, " ({address})"),
            (None, None) => Ok(()),
        }
    }
}
