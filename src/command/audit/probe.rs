//! The probe: a static program that `build.rs` has compiled, as something that
//! can be executed in any sandbox, whatever its image is.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MemFdCreateFlag, memfd_create};

use super::super::{Failure, LAUNCH};
use crate::sys;

const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/probe"));

/// Above every descriptor that a plan gives out, so that it survives until execve(2).
pub(super) const ABOVE_ALL: i32 = 200;

/// The probe in memory, sealed: no attack changes what the next one is. No
/// file system is between it and the sandbox; Landlock has no rule for what has no path.
pub(super) struct Probe(OwnedFd);

impl Probe {
    pub(super) fn new() -> Result<Self, Failure> {
        let failed = |errno: Errno| {
            let hint = match errno {
                Errno::EACCES => ": is vm.memfd_noexec set? audit executes its probe from memory",
                _ => "",
            };
            Failure::new(LAUNCH, format!("the probe: memfd_create: {} ({errno:?}){hint}", errno.desc()))
        };
        let mut file = File::from(made().map_err(failed)?);
        file.write_all(PROGRAM)
            .map_err(|error| Failure::new(LAUNCH, format!("the probe: {}", sys::told(&error))))?;
        let seals =
            SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
        fcntl(file.as_raw_fd(), FcntlArg::F_ADD_SEALS(seals)).map_err(failed)?;
        fcntl(file.as_raw_fd(), FcntlArg::F_DUPFD_CLOEXEC(ABOVE_ALL))
            .map(sys::owned)
            .map(Self)
            .map_err(failed)
    }

    /// Where it is executed, by this process and by its children until they execute something.
    pub(super) fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.0.as_raw_fd())
    }

    /// Writes it to `path`, for launchers that know files only.
    pub(super) fn write(path: &Path) -> Result<(), Failure> {
        use std::os::unix::fs::OpenOptionsExt;
        let mut options = File::options();
        options.write(true).create_new(true).mode(0o755);
        let written = options.open(path).and_then(|mut file| file.write_all(PROGRAM));
        written.map_err(|error| Failure::file(LAUNCH, path, &error))
    }
}

/// MFD_EXEC (Linux 6.3) says that it is to be executed, where vm.memfd_noexec is 1.
fn made() -> nix::Result<OwnedFd> {
    const MFD_EXEC: u32 = 0x10;
    let flags = MemFdCreateFlag::MFD_CLOEXEC | MemFdCreateFlag::MFD_ALLOW_SEALING;
    match memfd_create(c"howdah-probe", flags | MemFdCreateFlag::from_bits_retain(MFD_EXEC)) {
        Err(Errno::EINVAL) => memfd_create(c"howdah-probe", flags),
        other => other,
    }
}
