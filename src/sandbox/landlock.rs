//! Landlock over the file system: what each mount of the plan is for is all
//! that may be done in it. landlock(7).

use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};
use nix::errno::Errno;

use super::step::{Step, StepError};

/// The newest ABI whose rights the rules name; older kernels enforce what they know.
const NEWEST: ABI = ABI::V6;

/// What a mount may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Read.
    Read,
    /// Read and execute.
    Execute,
    /// Read, write, create, remove; nothing is executed.
    Write,
    /// Read, write, create, remove and execute.
    WriteExecute,
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
            Self::WriteExecute => AccessFs::from_all(NEWEST) & !(device_nodes | AccessFs::IoctlDev),
            Self::Device => {
                AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev
            }
        }
    }
}

/// The rules, path by path inside the sandbox. The most specific does not win:
/// rights add up along a path, so the root's must be the least.
#[derive(Debug, Clone, Default)]
pub(super) struct Rules(pub(super) Vec<(PathBuf, Use)>);

/// The Landlock ABI of the running kernel; 0 where there is none.
pub fn kernel_abi() -> i32 {
    crate::sys::landlock_abi().unwrap_or(0)
}

/// Restricts the calling process. Paths are those of its own root.
///
/// # Errors
/// A rule whose path cannot be opened, or a kernel that enforces nothing: a
/// restriction that was asked for is in force, or the launch stops.
pub(super) fn apply(rules: &Rules, no_new_privs: bool) -> Result<(), StepError> {
    let refuse = |what: String| StepError::new(Step::RestrictFiles, what, Errno::last());
    // Rights of ABI 1 are demanded; what came later is enforced where the kernel knows it.
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))
        .and_then(|set| {
            set.set_compatibility(CompatLevel::BestEffort).handle_access(AccessFs::from_all(NEWEST))
        })
        .and_then(|set| set.scope(Scope::from_all(NEWEST)))
        .and_then(Ruleset::create)
        .map_err(|error| refuse(error.to_string()))?;
    for (path, purpose) in &rules.0 {
        let object = PathFd::new(path).map_err(|error| refuse(error.to_string()))?;
        ruleset = ruleset
            .add_rule(PathBeneath::new(object, purpose.rights()))
            .map_err(|error| refuse(format!("to {}: {error}", path.display())))?;
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
