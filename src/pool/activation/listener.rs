//! One listening socket, and what must be looked at because a tenant holds a
//! copy of it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockname, getsockopt, sockopt};

use super::bind::{bind, unlink_failed};
use super::error::{ActivationError, errno};
use crate::config::pool::Socket;
use crate::config::types::Listen;
use crate::sys;

/// Who made a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// systemd, or another program that speaks its protocol.
    Systemd {
        /// Its FDNAME, if names were passed.
        name: Option<String>,
    },
    /// howdah bound it.
    Own,
}

/// Whether clients can connect to a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// They can.
    Accepting,
    /// shutdown(2) was called on it: no connection will ever come again on a
    /// unix socket, whatever is done to it.
    ShutDown,
    /// It is bound and does not listen: what shutdown(2), or connect(2) to
    /// AF_UNSPEC, leaves of a TCP listener.
    NotListening,
}

/// A file, whatever its name: device and inode number (stat(2)).
pub type Identity = (u64, u64);

/// A listening socket of a pool. Dropping it closes the descriptor and leaves
/// the path of a unix socket: [`Listener::close_and_unlink`] is for that.
#[derive(Debug)]
pub struct Listener {
    address: Listen,
    origin: Origin,
    /// The socket file as we bound it; `None` for TCP, for a passed socket and
    /// once it is unlinked. The number cannot be given to another file while
    /// `fd` is open: the kernel's socket holds on to its inode.
    file: Option<Identity>,
    fd: OwnedFd,
}

impl Listener {
    pub(super) fn new(address: Listen, origin: Origin, file: Option<Identity>, fd: OwnedFd) -> Self {
        Self { address, origin, file, fd }
    }

    /// Where it listens: of a TCP port 0, the port that the kernel chose.
    pub fn address(&self) -> &Listen {
        &self.address
    }

    /// Whether systemd passed it, and gives it to the next howdah.
    pub fn is_passed(&self) -> bool {
        matches!(self.origin, Origin::Systemd { .. })
    }

    /// Who made it.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Takes over a socket that an earlier howdah bound and a generation still
    /// has. `files`: for each address, the file that howdah made for it. `None`
    /// for a descriptor that no pool can listen on.
    pub fn adopt(fd: OwnedFd, files: &[(String, Option<Identity>)]) -> Option<Self> {
        let address = super::inherited::examine(&fd, getsockname(fd.as_raw_fd())).ok()?;
        let text = address.to_string();
        let file = files.iter().find(|(known, _)| *known == text).and_then(|(_, file)| *file);
        let listener = Self::new(address, Origin::Own, file, fd);
        if matches!(listener.address, Listen::Tcp(_)) {
            // It may be that of a pool that was on its way out.
            let _ = sys::attach_filter(listener.as_fd(), &KEEP_ALL);
        }
        Some(listener)
    }

    /// Device and inode of the file of an own unix socket.
    pub fn file(&self) -> Option<Identity> {
        self.file
    }

    /// Whether a new connection can reach it, as far as its file goes: one that
    /// was removed or replaced leaves a socket that nobody finds.
    pub fn is_reachable(&self) -> bool {
        let (Listen::Unix(path), Origin::Own) = (&self.address, &self.origin) else { return true };
        std::fs::symlink_metadata(path.as_path())
            .is_ok_and(|found| Some((found.dev(), found.ino())) == self.file)
    }

    /// Clears O_NONBLOCK (fcntl(2), F_SETFL), which a generation may have set:
    /// the flag belongs to the open file description that all copies share, and
    /// makes idle php-fpm workers see EAGAIN and exit. For before each start.
    pub fn make_blocking(&self) -> Result<(), ActivationError> {
        let failed = |errno| ActivationError::step("clear O_NONBLOCK of", &self.address, errno);
        let flags = fcntl(self.fd.as_raw_fd(), FcntlArg::F_GETFL).map_err(failed)?;
        let flags = OFlag::from_bits_retain(flags);
        if flags.contains(OFlag::O_NONBLOCK) {
            fcntl(self.fd.as_raw_fd(), FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK)).map_err(failed)?;
        }
        Ok(())
    }

    /// Whether a connection waits in the listen queue, now (poll(2)). `false`
    /// for a listener that was shut down, which poll calls readable for ever.
    pub fn has_waiting(&self) -> bool {
        let events = self.poll();
        events.readable && !events.hung_up
    }

    /// Whether clients can connect (socket(7), SO_ACCEPTCONN; poll(2), POLLRDHUP).
    pub fn health(&self) -> Health {
        // On unix SO_ACCEPTCONN stays 1 after shutdown(2); on TCP it does not,
        // and poll says POLLHUP of every socket that is not connected.
        if !getsockopt(&self.fd, sockopt::AcceptConn).unwrap_or(false) {
            Health::NotListening
        } else if self.poll().hung_up {
            Health::ShutDown
        } else {
            Health::Accepting
        }
    }

    /// Whether clients can connect: [`Listener::health`] as a truth value.
    pub fn accepts(&self) -> bool {
        self.health() == Health::Accepting
    }

    /// Makes a poisoned listener accept again. TCP: listen(2) again, on the same
    /// socket (which keeps its port, unless the kernel had chosen it). A unix socket of ours: a new one, bound in its place; connections
    /// that wait in the old one are refused. A passed unix socket cannot be
    /// repaired from here: the error says who can.
    pub fn repair(&mut self, socket: &Socket) -> Result<(), ActivationError> {
        match (&self.address, &self.origin) {
            (Listen::Tcp(_), origin) => {
                // systemd's own word for a backlog is "as long as allowed".
                let backlog = if *origin == Origin::Own { socket.backlog } else { u32::MAX };
                sys::listen(self.as_fd(), backlog)
                    .map_err(|errno| ActivationError::step("listen again on", &self.address, errno))
            }
            (Listen::Unix(_), Origin::Own) => {
                *self = bind(&self.address, socket)?;
                Ok(())
            }
            (Listen::Unix(_), Origin::Systemd { .. }) => {
                Err(ActivationError::step("listen again on", &self.address, Errno::ESHUTDOWN)
                    .advise("a process shut it down for good: restart its socket unit"))
            }
        }
    }

    /// For a drain: no new client can connect, those already in the queue can
    /// still be accepted. The path of a unix socket of ours is unlinked (if it
    /// is still ours); our TCP listener drops every SYN, so that its client
    /// tries again a second later and finds the port closed or its next owner.
    /// A passed socket stays as it is: it is systemd's, and serves the next howdah.
    pub fn stop_accepting_new(&mut self) -> Result<(), ActivationError> {
        match (&self.address, &self.origin) {
            (_, Origin::Systemd { .. }) => Ok(()),
            (Listen::Unix(_), Origin::Own) => self.unlink(),
            (Listen::Tcp(_), Origin::Own) => sys::attach_filter(self.as_fd(), &DROP_SYN)
                .map_err(|errno| ActivationError::step("drop new connections to", &self.address, errno)),
        }
    }

    /// Closes it. The path of a unix socket of ours is unlinked, if the file
    /// there is still the one that we bound.
    pub fn close_and_unlink(mut self) -> Result<(), ActivationError> {
        self.unlink()
    }

    /// Unlinks before `fd` is closed, or the inode number would prove nothing.
    fn unlink(&mut self) -> Result<(), ActivationError> {
        match (&self.address, self.file.take()) {
            (Listen::Unix(path), Some(file)) => {
                unlink_if(path.as_path(), file).map_err(|errno| unlink_failed(&self.address, errno))
            }
            _ => Ok(()),
        }
    }

    fn poll(&self) -> Events {
        // nix has no name for POLLRDHUP, and answers None for events with a bit
        // that it does not know; of those we ask for this one alone.
        let asked = PollFlags::POLLIN | PollFlags::from_bits_retain(libc::POLLRDHUP);
        let mut set = [PollFd::new(self.as_fd(), asked)];
        match poll(&mut set, PollTimeout::ZERO).map(|_| set[0].revents()) {
            Ok(Some(events)) => Events {
                readable: events.contains(PollFlags::POLLIN),
                hung_up: events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL),
            },
            Ok(None) => Events { readable: true, hung_up: true },
            // Interrupted or out of memory: nothing was learnt.
            Err(_) => Events { readable: false, hung_up: false },
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

struct Events {
    readable: bool,
    hung_up: bool,
}

/// Keeps every packet: what a socket without a filter does, and what takes another filter's place.
const KEEP_ALL: [libc::sock_filter; 1] =
    [libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: u32::MAX }];

/// Classic BPF that drops a TCP segment with SYN and without ACK, and takes
/// all others: a listener's filter also sees the last ACK of a handshake, and
/// every connection made from then on inherits it, so `ret 0` would make
/// clients deaf who believe that they are connected. The data of a socket
/// filter starts at the TCP header; its byte 13 holds the flags (RFC 9293, 3.1).
const DROP_SYN: [libc::sock_filter; 5] = {
    const fn op(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
        libc::sock_filter { code: code as u16, jt, jf, k }
    }
    [
        op(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, 13),
        op(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, 0x12),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, 0x02),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
    ]
};

/// Unlinks `path` if it is the file `ours`; that it is gone, or another's, is no error.
pub(super) fn unlink_if(path: &Path, ours: Identity) -> Result<(), Errno> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if (found.dev(), found.ino()) == ours => match std::fs::remove_file(path) {
            Err(error) if errno(&error) != Errno::ENOENT => Err(errno(&error)),
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}
