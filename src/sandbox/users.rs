//! A user namespace that exists only to be named by an id-mapped mount
//! (mount_setattr(2), "ID-mapped mounts"): who owns what on the disk, as it is to be seen.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::Pid;

use crate::sys;

/// A user namespace without maps, and the process that keeps it until they are written.
/// Dropped, both are gone; mounts that were made with it stay.
#[derive(Debug)]
pub(super) struct Users {
    pid: Pid,
    pidfd: OwnedFd,
}

impl Users {
    /// Makes one ahead of its use.
    ///
    /// # Errors
    /// Those of clone3(2).
    pub(super) fn new() -> nix::Result<Self> {
        let parent = nix::unistd::getpid();
        match sys::clone3(libc::CLONE_NEWUSER as u64, None)? {
            sys::Cloned::Parent { pid, pidfd } => Ok(Self { pid, pidfd }),
            sys::Cloned::Child => keep(parent),
        }
    }

    /// The process that keeps it.
    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// Writes maps in which `(uid, gid)` and `other` change places and everybody else is as on the
    /// disk: what belongs to the one shows as the other's, and what the other makes belongs to the
    /// one. Files of third parties keep their owners.
    ///
    /// # Errors
    /// That of writing the maps: EPERM where this process's own user namespace does not have all ids.
    pub(super) fn exchange(&self, one: (u32, u32), other: (u32, u32)) -> nix::Result<OwnedFd> {
        let write = |file: &str, text: String| {
            let error = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
            fs::write(format!("/proc/{}/{file}", self.pid), text).map_err(error)
        };
        write("uid_map", exchanging(one.0, other.0))?;
        write("gid_map", exchanging(one.1, other.1))?;
        let path = format!("/proc/{}/ns/user", self.pid);
        open(path.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).map(sys::owned)
    }
}

impl Drop for Users {
    fn drop(&mut self) {
        let _ = sys::pidfd_send_signal(self.pidfd.as_fd(), Signal::SIGKILL);
        let _ = nix::sys::wait::waitpid(self.pid, None);
    }
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

/// A map of all ids to themselves, but for two that change places (user_namespaces(7); five
/// lines at most, which every kernel takes).
fn exchanging(one: u32, other: u32) -> String {
    let (low, high) = (u64::from(one.min(other)), u64::from(one.max(other)));
    // The last number is none of anybody's.
    let end = u64::from(u32::MAX);
    let all = [(0, 0, low), (low, high, 1), (low + 1, low + 1, high.saturating_sub(low + 1)), (high, low, 1)];
    let mut lines: Vec<_> = if low == high { vec![(0, 0, end)] } else { all.to_vec() };
    if low != high {
        lines.push((high + 1, high + 1, end - (high + 1)));
    }
    let lines = lines.iter().filter(|(_, _, count)| *count > 0);
    lines.map(|(inside, outside, count)| format!("{inside} {outside} {count}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_ids_change_places_and_all_others_stay() {
        assert_eq!(exchanging(1000, 5), "0 0 5\n5 1000 1\n6 6 994\n1000 5 1\n1001 1001 4294966294\n");
        assert_eq!(exchanging(0, 1), "0 1 1\n1 0 1\n2 2 4294967293\n");
        assert_eq!(exchanging(7, 7), "0 0 4294967295\n");
    }
}
