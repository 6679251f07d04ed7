//! One listening socket in howdah's hands.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};

use crate::config::types::Listen;
use crate::sys;

/// Where a listener comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// systemd holds it too, and gives it to the next howdah.
    Passed,
    /// howdah bound it. For a unix socket, device and inode of its path: what is ours to remove.
    Own {
        /// `st_dev` and `st_ino`.
        file: Option<(u64, u64)>,
    },
}

/// Whether a socket can still accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It listens.
    Listens,
    /// Somebody who had it shut it down or disconnected it: every connection is refused for ever.
    Dead,
}

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    address: Listen,
    origin: Origin,
    socket: OwnedFd,
}

impl Listener {
    pub(super) fn new(address: Listen, origin: Origin, socket: OwnedFd) -> Self {
        Self { address, origin, socket }
    }

    /// Its address.
    pub fn address(&self) -> &Listen {
        &self.address
    }

    /// Whether systemd passed it.
    pub fn is_passed(&self) -> bool {
        self.origin == Origin::Passed
    }

    /// Clears O_NONBLOCK of the open file description, which a tenant of an
    /// earlier generation may have set: php-fpm's idle workers would see EAGAIN
    /// and end, over and over.
    ///
    /// # Errors
    /// That of fcntl(2).
    pub fn make_blocking(&self) -> nix::Result<()> {
        fcntl(self.socket.as_raw_fd(), FcntlArg::F_SETFL(OFlag::empty())).map(drop)
    }

    /// Whether a connection waits to be accepted.
    pub fn has_waiting(&self) -> bool {
        self.poll().contains(PollFlags::POLLIN)
    }

    /// Whether it can still accept. A unix listener that was shut down says so by
    /// POLLHUP or POLLRDHUP only; a TCP one is no listener any more.
    pub fn health(&self) -> Health {
        let listens = getsockopt(&self.socket, sockopt::AcceptConn).unwrap_or(false);
        let ended = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::from_bits_retain(libc::POLLRDHUP);
        if listens && !self.poll().intersects(ended) { Health::Listens } else { Health::Dead }
    }

    fn poll(&self) -> PollFlags {
        let asked = PollFlags::POLLIN | PollFlags::from_bits_retain(libc::POLLRDHUP);
        let mut one = [PollFd::new(self.socket.as_fd(), asked)];
        match poll(&mut one, PollTimeout::ZERO) {
            Ok(_) => one[0].revents().unwrap_or(PollFlags::empty()),
            Err(_) => PollFlags::POLLERR,
        }
    }

    /// Lets no new connection in; those in the queue stay. systemd's socket is
    /// left alone: what comes in there waits for the next howdah.
    pub fn stop_listening(&self) {
        match (&self.origin, &self.address) {
            (Origin::Passed, _) => {}
            (Origin::Own { .. }, Listen::Unix(_)) => self.remove_file(),
            // A filter that keeps nothing drops every SYN; a client tries again, and finds the port closed then.
            (Origin::Own { .. }, Listen::Tcp(_)) => drop(sys::drop_all_packets(self.socket.as_fd())),
        }
    }

    /// Removes the path of an own unix socket, if it is still ours.
    fn remove_file(&self) {
        let (Origin::Own { file: Some(own) }, Listen::Unix(path)) = (&self.origin, &self.address) else {
            return;
        };
        let now = fs::symlink_metadata(path.as_path()).map(|data| (data.dev(), data.ino()));
        if now.is_ok_and(|now| now == *own) {
            let _ = fs::remove_file(path.as_path());
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.remove_file();
    }
}
