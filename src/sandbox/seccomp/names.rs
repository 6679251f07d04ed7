//! System calls by name and by number.

use syscalls::Sysno;

use super::SeccompError;

/// Calls that came after the tables of syscalls 0.6 (its later versions need a
/// newer Rust than howdah does). Every architecture of those tables has the same
/// numbers for them.
const NEWER: &[(&str, u32)] = &[
    ("mseal", 462),
    ("setxattrat", 463),
    ("getxattrat", 464),
    ("listxattrat", 465),
    ("removexattrat", 466),
    ("open_tree_attr", 467),
    ("file_getattr", 468),
    ("file_setattr", 469),
];

/// The name of the system call `number` on this machine, as the kernel's log tells it.
pub fn name(number: u32) -> Option<&'static str> {
    match Sysno::new(number as usize) {
        Some(call) => Some(call.name()),
        None => NEWER.iter().find(|(_, newer)| *newer == number).map(|(name, _)| *name),
    }
}

/// The number of `name` here; `None` where only other architectures have it
/// (an allow-list of several machines names them all).
pub(super) fn number(name: &str) -> Result<Option<u32>, SeccompError> {
    if let Ok(call) = name.parse::<Sysno>() {
        return Ok(Some(call.id() as u32));
    }
    if let Some((_, number)) = NEWER.iter().find(|(newer, _)| *newer == name) {
        return Ok(Some(*number));
    }
    let elsewhere = name.parse::<syscalls::x86_64::Sysno>().is_ok()
        || name.parse::<syscalls::aarch64::Sysno>().is_ok()
        || name.parse::<syscalls::riscv64::Sysno>().is_ok()
        || name.parse::<syscalls::x86::Sysno>().is_ok()
        || name.parse::<syscalls::arm::Sysno>().is_ok()
        || name.parse::<syscalls::powerpc64::Sysno>().is_ok()
        || name.parse::<syscalls::s390x::Sysno>().is_ok();
    if elsewhere { Ok(None) } else { Err(SeccompError::UnknownSyscall(name.into())) }
}
