//! A network namespace made before it is needed: making one is the slowest
//! step of a launch (a third of a millisecond), and nothing of a pool is in it.
//! It serves one sandbox and is never used again.
//!
//! It belongs to howdah's user namespace and not to the sandbox's: nobody inside
//! has a capability over it, also if he found one.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::Mode;

use super::step::{At, Step, StepError};
use crate::sys;

/// At most one namespace in stock, with loopback up, and the way home.
#[derive(Debug)]
pub struct SpareNetwork {
    home: OwnedFd,
    ready: Option<OwnedFd>,
}

/// The network namespace that this process is in.
fn current() -> nix::Result<OwnedFd> {
    open("/proc/self/ns/net", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).map(sys::owned)
}

impl SpareNetwork {
    /// An empty stock; `None` where this process could leave its own network
    /// namespace and not come back, as without root (setns(2)).
    pub fn open() -> Option<Self> {
        let home = current().ok()?;
        setns(home.as_fd(), CloneFlags::CLONE_NEWNET).ok()?;
        Some(Self { home, ready: None })
    }

    /// Makes the one in stock, if it is gone.
    ///
    /// # Errors
    /// That of unshare(2) or of raising loopback; launches make their own then.
    pub fn refill(&mut self) -> Result<(), StepError> {
        if self.ready.is_some() {
            return Ok(());
        }
        unshare(CloneFlags::CLONE_NEWNET).at(Step::Clone, "(a spare network namespace)")?;
        let made = sys::raise_loopback().and_then(|()| current());
        self.go_home();
        self.ready = Some(made.at(Step::RaiseLoopback, "(of a spare network namespace)")?);
        Ok(())
    }

    /// A stock that holds `ready`: the next launch from it lives there.
    ///
    /// # Errors
    /// That of duplicating a descriptor.
    pub fn of(&self, ready: BorrowedFd<'_>) -> nix::Result<Self> {
        let copy = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map_err(|_| Errno::EMFILE);
        Ok(Self { home: copy(self.home.as_fd())?, ready: Some(copy(ready)?) })
    }

    /// Moves this process into the one in stock; false if there is none. A
    /// child cloned now lives there; [`Self::go_home`] must follow at once.
    pub(super) fn enter(&mut self) -> bool {
        let Some(ready) = self.ready.take() else { return false };
        if setns(ready.as_fd(), CloneFlags::CLONE_NEWNET).is_ok() {
            return true;
        }
        self.go_home();
        false
    }

    /// Back to where howdah's sockets are bound.
    pub(super) fn go_home(&self) {
        if setns(self.home.as_fd(), CloneFlags::CLONE_NEWNET).is_err() {
            // It was possible when the stock was opened. A howdah that binds its sockets in a
            // network of its own would serve nobody; the next one adopts what runs.
            std::process::abort();
        }
    }
}
