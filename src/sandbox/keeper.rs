//! A process that does nothing but keep a user namespace, and what was made with it, until the id
//! maps are written: only by a process that is in it can they be (user_namespaces(7)).

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::sys;

/// A user namespace without maps, and the process that keeps it. Dropped, the process is gone; what
/// somebody has open of the namespaces stays.
#[derive(Debug)]
pub(super) struct Keeper {
    pid: Pid,
    pidfd: OwnedFd,
}

impl Keeper {
    /// Makes a user namespace and `others` (`CLONE_NEW*` bits), in which the process does `first`.
    ///
    /// # Errors
    /// Those of clone3(2).
    pub(super) fn new(others: i32, first: impl FnOnce()) -> nix::Result<Self> {
        let parent = nix::unistd::getpid();
        match sys::clone3((libc::CLONE_NEWUSER | others) as u64, None)? {
            sys::Cloned::Parent { pid, pidfd } => Ok(Self { pid, pidfd }),
            sys::Cloned::Child => {
                first();
                keep(parent)
            }
        }
    }

    /// The process.
    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// Writes the maps.
    ///
    /// # Errors
    /// That of writing: EPERM where this process's own user namespace does not have these ids.
    pub(super) fn map(&self, uids: &str, gids: &str) -> nix::Result<()> {
        let write = |file: &str, text: &str| fs::write(format!("/proc/{}/{file}", self.pid), text);
        let written = write("uid_map", uids).and_then(|()| write("gid_map", gids));
        written.map_err(|error| errno_of(&error))
    }

    /// A namespace of its, by its name in `/proc/PID/ns` (namespaces(7)).
    ///
    /// # Errors
    /// That of opening.
    pub(super) fn namespace(&self, name: &str) -> nix::Result<OwnedFd> {
        let opened = File::open(format!("/proc/{}/ns/{name}", self.pid));
        opened.map(OwnedFd::from).map_err(|error| errno_of(&error))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = sys::pidfd_send_signal(self.pidfd.as_fd(), Signal::SIGKILL);
        let _ = nix::sys::wait::waitpid(self.pid, None);
    }
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

/// In the child: is there, and ends with its parent.
fn keep(parent: Pid) -> ! {
    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
    // Listening sockets among them, which nobody else may keep.
    let _ = sys::close_range(0, u32::MAX, false);
    if nix::unistd::getppid() == parent {
        // Signals are blocked or deadly: it never returns but by an odd one.
        nix::unistd::pause();
    }
    sys::exit_now(0)
}
