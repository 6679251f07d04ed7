//! What came of an attack.

use std::io;

use crate::raw::Answer;
use crate::world::World;

pub(crate) const EPERM: i32 = 1;
pub(crate) const ENOENT: i32 = 2;
pub(crate) const ESRCH: i32 = 3;
pub(crate) const EACCES: i32 = 13;
pub(crate) const EINVAL: i32 = 22;
pub(crate) const ENOTTY: i32 = 25;
pub(crate) const ENOSYS: i32 = 38;
const EAFNOSUPPORT: i32 = 97;

/// Why something cannot be seen: that nothing was seen would be no wall.
pub(crate) const NO_PROC: &str = "there is no /proc to see it by";

/// What came of an attack.
pub(crate) enum Outcome {
    /// Refused: by which errno, or what was seen instead.
    Held(String),
    /// It succeeded: what was got.
    Open(String),
    /// It could not be tried: why.
    NotTried(String),
    /// The listening socket is poisoned, unless somebody repairs it.
    Poisoned(String),
}

pub(crate) fn held(why: impl Into<String>) -> Outcome {
    Outcome::Held(why.into())
}

pub(crate) fn open(what: impl Into<String>) -> Outcome {
    Outcome::Open(what.into())
}

pub(crate) fn not_tried(why: impl Into<String>) -> Outcome {
    Outcome::NotTried(why.into())
}

/// Of a call that only a privilege or a filter refuses: whatever else the kernel
/// says, it was reached.
pub(crate) fn reached(world: &World, answer: Answer) -> Outcome {
    match answer {
        Ok(_) => open("succeeded"),
        Err(EPERM) => held("EPERM"),
        Err(EACCES) => held("EACCES"),
        Err(ENOSYS) if world.filtered => held("ENOSYS"),
        Err(ENOSYS) => not_tried("the kernel does not have it"),
        Err(EAFNOSUPPORT) if world.filtered => held("EAFNOSUPPORT"),
        Err(EAFNOSUPPORT) => not_tried("the kernel does not have it"),
        Err(errno) => open(format!("the kernel was reached: {}", name(errno))),
    }
}

/// Of a call that must succeed to be of use.
pub(crate) fn done(world: &World, answer: Answer, what: &str) -> Outcome {
    match answer {
        Ok(_) => open(what),
        Err(ENOSYS) if !world.filtered => not_tried("the kernel does not have it"),
        Err(errno) => held(name(errno)),
    }
}

/// The same of what std did.
pub(crate) fn tried<T>(result: io::Result<T>, what: impl FnOnce(T) -> String) -> Outcome {
    match result {
        Ok(value) => Outcome::Open(what(value)),
        Err(error) => held(told(&error)),
    }
}

/// The first that is open; else what the first one says.
pub(crate) fn first_open(outcomes: impl IntoIterator<Item = Outcome>, otherwise: &str) -> Outcome {
    let mut first = None;
    for outcome in outcomes {
        if matches!(outcome, Outcome::Open(_)) {
            return outcome;
        }
        first.get_or_insert(outcome);
    }
    first.unwrap_or_else(|| held(otherwise))
}

pub(crate) fn told(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), name)
}

/// An errno's name, errno(3).
pub(crate) fn name(errno: i32) -> String {
    let known = [
        (1, "EPERM"),
        (2, "ENOENT"),
        (3, "ESRCH"),
        (6, "ENXIO"),
        (8, "ENOEXEC"),
        (9, "EBADF"),
        (11, "EAGAIN"),
        (12, "ENOMEM"),
        (13, "EACCES"),
        (14, "EFAULT"),
        (16, "EBUSY"),
        (17, "EEXIST"),
        (19, "ENODEV"),
        (20, "ENOTDIR"),
        (22, "EINVAL"),
        (25, "ENOTTY"),
        (26, "ETXTBSY"),
        (28, "ENOSPC"),
        (30, "EROFS"),
        (38, "ENOSYS"),
        (88, "ENOTSOCK"),
        (93, "EPROTONOSUPPORT"),
        (95, "EOPNOTSUPP"),
        (97, "EAFNOSUPPORT"),
        (99, "EADDRNOTAVAIL"),
        (101, "ENETUNREACH"),
        (106, "EISCONN"),
        (107, "ENOTCONN"),
        (110, "ETIMEDOUT"),
        (111, "ECONNREFUSED"),
        (113, "EHOSTUNREACH"),
        (116, "ESTALE"),
        (126, "ENOKEY"),
    ];
    known
        .iter()
        .find(|(number, _)| *number == errno)
        .map_or_else(|| format!("errno {errno}"), |(_, name)| (*name).to_owned())
}
