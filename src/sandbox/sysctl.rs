//! Kernel settings that a sandbox's namespaces have for themselves (OCI runtime
//! spec, config-linux, "Sysctl").
//!
//! Inside, `/proc` shows no settings and is not to be written. The child writes
//! them through a procfs that is attached nowhere and that nobody else sees.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use oci_spec::runtime::Linux;

use super::step::{At, Step, StepError};
use crate::config::profile::{Namespace, namespace_of};
use crate::sys;

/// The settings of one sandbox.
pub(super) struct Sysctls {
    /// The name by sysctl(8), the path below `/proc`, and the value.
    settings: Vec<(String, PathBuf, String)>,
    /// Whether one of them is the network's.
    pub(super) of_network: bool,
}

/// The spec's settings, if each belongs to one of the sandbox's own `namespaces`
/// (`CLONE_NEW*` bits): any other would be the host's.
pub(super) fn plan(linux: &Linux, namespaces: u64) -> Result<Sysctls, StepError> {
    let mut sysctls = Sysctls { settings: Vec::new(), of_network: false };
    for (key, value) in linux.sysctl().iter().flatten() {
        let namespace = namespace_of(key);
        let bit = match namespace {
            Some(Namespace::Ipc) => libc::CLONE_NEWIPC,
            Some(Namespace::Network) => libc::CLONE_NEWNET,
            _ => 0,
        };
        if namespaces & bit as u64 == 0 || key.contains(['/', '\0']) || key.contains("..") {
            let object = format!("{key} (it would be the host's)");
            return Err(StepError::new(Step::SetSysctl, object, Errno::EINVAL));
        }
        sysctls.of_network |= namespace == Some(Namespace::Network);
        let path = PathBuf::from("sys").join(key.replace('.', "/"));
        sysctls.settings.push((key.clone(), path, value.clone()));
    }
    sysctls.settings.sort();
    Ok(sysctls)
}

/// Sets them for the calling process's namespaces.
pub(super) fn apply(sysctls: &Sysctls) -> Result<(), StepError> {
    if sysctls.settings.is_empty() {
        return Ok(());
    }
    let attributes = sys::attr::NOSUID | sys::attr::NODEV | sys::attr::NOEXEC;
    let proc = sys::new_mount(c"proc", &[], attributes).at(Step::SetSysctl, "(mount a proc to set it in)")?;
    for (key, path, value) in &sysctls.settings {
        let words = format!("{key} to {value}");
        let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        let file = openat(Some(proc.as_raw_fd()), path, flags, Mode::empty())
            .map(|raw| std::fs::File::from(sys::owned(raw)))
            .at(Step::SetSysctl, &words)?;
        // Whole or not at all: the second write(2) would be another value.
        (&file).write(value.as_bytes()).map_err(|error| {
            StepError::new(
                Step::SetSysctl,
                &words,
                Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)),
            )
        })?;
    }
    Ok(())
}
