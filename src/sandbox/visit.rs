//! Another process's mount and UTS namespaces, entered and left again: howdah has one thread,
//! so that setns(2) moves all of it, and nothing else happens meanwhile.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::Mode;

use super::step::{At, Step, StepError};
use crate::sys;

/// The way home.
#[derive(Debug)]
pub struct Home {
    mounts: OwnedFd,
    names: OwnedFd,
    root: OwnedFd,
    directory: OwnedFd,
}

impl Home {
    /// Remembers where this process is.
    ///
    /// # Errors
    /// That of open(2); EPERM where it could leave and not come back, as without root.
    pub fn open() -> nix::Result<Self> {
        let of = |path: &str, flags| open(path, flags | OFlag::O_CLOEXEC, Mode::empty()).map(sys::owned);
        let home = Self {
            mounts: of("/proc/self/ns/mnt", OFlag::O_RDONLY)?,
            names: of("/proc/self/ns/uts", OFlag::O_RDONLY)?,
            root: of("/", OFlag::O_PATH)?,
            directory: of(".", OFlag::O_PATH)?,
        };
        home.go()?;
        Ok(home)
    }

    /// Does `deed` in the mount and UTS namespaces of the process behind `pidfd`
    /// (setns(2) takes a pidfd since Linux 5.8), and comes back.
    ///
    /// # Errors
    /// That of entering; the deed's.
    pub(super) fn visit<T>(
        &self,
        pidfd: BorrowedFd<'_>,
        deed: impl FnOnce() -> Result<T, StepError>,
    ) -> Result<T, StepError> {
        let entered = setns(pidfd, CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS);
        let done =
            entered.at(Step::AttachMount, "(its mount namespace cannot be entered)").and_then(|()| deed());
        if self.go().is_err() {
            // It was possible before. A howdah in a sandbox would take its files for the host's;
            // the next one adopts what runs.
            std::process::abort();
        }
        done
    }

    fn go(&self) -> nix::Result<()> {
        setns(self.mounts.as_fd(), CloneFlags::CLONE_NEWNS)?;
        setns(self.names.as_fd(), CloneFlags::CLONE_NEWUTS)?;
        // The root of the mount namespace may not be what was ours (chroot(2)).
        nix::unistd::fchdir(self.root.as_raw_fd())?;
        nix::unistd::chroot(".")?;
        nix::unistd::fchdir(self.directory.as_raw_fd())
    }
}
