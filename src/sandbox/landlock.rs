//! Landlock: what the spec says each path is for is all that may be done there,
//! whatever the mounts themselves would allow; and which ports, sockets and
//! processes are within reach. landlock(7).

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use nix::errno::Errno;

use super::step::{Step, StepError};

/// The newest ABI whose rights the rules name; older kernels enforce what they know.
/// 7 knows the rights of 6, and howdah has no use for its way of telling the kernel's
/// audit. Above it come a call for programs of several threads (8), and a right
/// to connect to the sockets that a pool finds in its mounts (9): they are there for that.
const NEWEST: ABI = ABI::V7;

/// What a path may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Use {
    /// Read.
    Read,
    /// Read and execute.
    Execute,
    /// Read, write, create, remove; nothing is executed.
    Write,
    /// The five harmless devices.
    Device,
}

impl Use {
    fn rights(self) -> BitFlags<AccessFs> {
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let device_nodes = AccessFs::MakeChar | AccessFs::MakeBlock;
        match self {
            Self::Read => read,
            Self::Execute => read | AccessFs::Execute,
            Self::Write => {
                AccessFs::from_all(NEWEST) & !(device_nodes | AccessFs::Execute | AccessFs::IoctlDev)
            }
            Self::Device => {
                AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev
            }
        }
    }
}

/// What is allowed; all else that the kernel's Landlock knows is not.
#[derive(Debug, Clone, Default)]
pub(super) struct Rules {
    /// Path by path inside the sandbox. The most specific does not win: rights
    /// add up along a path, so the root's must be the least.
    pub(super) files: Vec<(PathBuf, Use)>,
    /// Directories and files outside, for what they may be used when they are attached inside:
    /// a rule is of the inode, wherever it is to be seen.
    pub(super) sources: Vec<(Arc<OwnedFd>, Use)>,
    /// TCP ports to bind; `None`: all. Below ABI 4 the kernel enforces nothing of it.
    pub(super) tcp_bind: Option<Vec<u16>>,
    /// TCP ports to connect to; `None`: all.
    pub(super) tcp_connect: Option<Vec<u16>>,
    /// The least ABI: what it knows is enforced, or nothing is launched.
    pub(super) least: u32,
}

impl Rules {
    /// The TCP rights that are allowed only where a rule says so.
    fn handled_tcp(&self) -> BitFlags<AccessNet> {
        let bind = self.tcp_bind.as_ref().map_or(BitFlags::empty(), |_| AccessNet::BindTcp.into());
        bind | self.tcp_connect.as_ref().map_or(BitFlags::empty(), |_| AccessNet::ConnectTcp.into())
    }

    fn ports(&self) -> impl Iterator<Item = NetPort> + '_ {
        let rules = |ports: &Option<Vec<u16>>, right: AccessNet| {
            let ports = ports.clone().unwrap_or_default();
            ports.into_iter().map(move |port| NetPort::new(port, right))
        };
        rules(&self.tcp_bind, AccessNet::BindTcp).chain(rules(&self.tcp_connect, AccessNet::ConnectTcp))
    }
}

/// The Landlock ABI of the running kernel; 0 where there is none.
pub fn kernel_abi() -> i32 {
    crate::sys::landlock_abi().unwrap_or(0)
}

/// The ABI that is in force where Landlock is on: the kernel's, or the newest that howdah knows.
pub fn abi_in_force() -> u32 {
    u32::try_from(kernel_abi()).unwrap_or(0).min(NEWEST as u32)
}

/// Why this kernel cannot do what is demanded of its Landlock. Displays as one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LandlockError {
    /// Not compiled in.
    #[error(
        "this kernel has no Landlock: use one with CONFIG_SECURITY_LANDLOCK=y (Linux 5.13 or later), \
         or write landlock = false in a profile of your own"
    )]
    Absent,
    /// Compiled in, and not among the security modules that were switched on at boot.
    #[error(
        "Landlock is switched off in this kernel: add landlock to lsm= on the kernel's command line, \
         or write landlock = false in a profile of your own"
    )]
    Off,
    /// Too old.
    #[error(
        "the profile demands Landlock ABI {least} and this kernel has {kernel}: use {newer}, \
         or lower landlock_abi in a profile of your own"
    )]
    Older {
        /// What is demanded.
        least: u32,
        /// What there is.
        kernel: u32,
        /// "Linux 6.12 or later"
        newer: String,
    },
}

/// Refuses a kernel whose Landlock is below `least`.
///
/// # Errors
/// What is missing and what to do.
pub fn demand(least: u32) -> Result<(), LandlockError> {
    judge(crate::sys::landlock_abi(), least)
}

fn judge(kernel: nix::Result<i32>, least: u32) -> Result<(), LandlockError> {
    match kernel {
        // Landlock's own word for a module that is there and was not switched on (landlock_create_ruleset(2)).
        Err(Errno::EOPNOTSUPP) => Err(LandlockError::Off),
        Err(_) | Ok(..1) => Err(LandlockError::Absent),
        Ok(abi) => {
            let kernel = (abi as u32).min(NEWEST as u32);
            let newer = || newer(least);
            if kernel < least { Err(LandlockError::Older { least, kernel, newer: newer() }) } else { Ok(()) }
        }
    }
}

/// The kernel that brought an ABI.
fn newer(abi: u32) -> String {
    const SINCE: [&str; 7] = ["5.13", "5.19", "6.2", "6.7", "6.10", "6.12", "6.15"];
    match SINCE.get(abi as usize - 1) {
        Some(version) => format!("Linux {version} or later"),
        None => format!("a howdah that knows it (this one knows up to {})", NEWEST as u32),
    }
}

/// Restricts the calling process. Paths are those of its own root.
///
/// # Errors
/// A rule whose path cannot be opened, or a kernel that does not enforce what
/// the least ABI knows: a restriction that was asked for is in force, or the
/// launch stops.
pub(super) fn apply(rules: &Rules, no_new_privs: bool) -> Result<(), StepError> {
    let refuse = |what: String| StepError::new(Step::RestrictFiles, what, Errno::last());
    let mut ruleset = create(rules).map_err(|error| refuse(error.to_string()))?;
    for (path, purpose) in &rules.files {
        let object = PathFd::new(path).map_err(|error| refuse(error.to_string()))?;
        ruleset = ruleset
            .add_rule(PathBeneath::new(object, purpose.rights()))
            .map_err(|error| refuse(format!("to {}: {error}", path.display())))?;
    }
    for (source, purpose) in &rules.sources {
        ruleset = ruleset
            .add_rule(PathBeneath::new(source, purpose.rights()))
            .map_err(|error| refuse(format!("to a source: {error}")))?;
    }
    for port in rules.ports() {
        ruleset = ruleset.add_rule(port).map_err(|error| refuse(format!("to a TCP port: {error}")))?;
    }
    // What it refuses goes to the kernel's audit, where that is on: by default it would
    // be silent from execve(2) on (LANDLOCK_RESTRICT_SELF_LOG_NEW_EXEC_ON, Linux 6.15).
    let ruleset = ruleset.log_new_exec(true).map_err(|error| refuse(error.to_string()))?;
    let status =
        ruleset.no_new_privs(no_new_privs).restrict_self().map_err(|error| refuse(error.to_string()))?;
    if status.ruleset == RulesetStatus::NotEnforced {
        return Err(StepError::new(Step::RestrictFiles, "(the kernel enforces nothing)", Errno::ENOSYS));
    }
    Ok(())
}

/// The ruleset without its rules. Rights of the least ABI are demanded; what
/// came later is enforced where the kernel knows it.
fn create(rules: &Rules) -> Result<RulesetCreated, RulesetError> {
    let least = ABI::from(rules.least.clamp(1, NEWEST as u32) as i32);
    let tcp = rules.handled_tcp();
    let mut set = Ruleset::default();
    for (level, abi) in [(CompatLevel::HardRequirement, least), (CompatLevel::BestEffort, NEWEST)] {
        set = set.set_compatibility(level).handle_access(AccessFs::from_all(abi))?;
        let (ports, scopes) = (AccessNet::from_all(abi) & tcp, Scope::from_all(abi));
        if !ports.is_empty() {
            set = set.handle_access(ports)?;
        }
        if !scopes.is_empty() {
            set = set.scope(scopes)?;
        }
    }
    set.create()
}

#[cfg(test)]
mod tests;
