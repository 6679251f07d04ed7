//! One listening socket, and what must be looked at because a tenant holds a
//! copy of it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockname, getsockopt, sockopt};

use super::bind::{like, unlink_failed};
use super::diag;
use super::error::{ActivationError, errno};
use super::options::Snapshot;
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

/// The file status flags that can be changed on a socket to its harm.
pub(super) const CHANGEABLE: OFlag = OFlag::O_NONBLOCK.union(OFlag::O_ASYNC);

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
    /// Its options before any tenant had it; `None` until one gets it.
    pub(super) options: Option<Snapshot>,
    /// How many could wait then; `None` of a unix socket, of which only a search through all tells it.
    pub(super) backlog: Option<u32>,
}

impl Listener {
    /// A listener as it is before any generation of ours gets it. What systemd
    /// passes does not block from here on.
    pub(super) fn new(address: Listen, origin: Origin, file: Option<Identity>, fd: OwnedFd) -> Self {
        let listener = Self { address, origin, file, fd, options: None, backlog: None };
        if listener.is_passed() {
            // Nobody put a filter there that serves the site: a tenant of an earlier howdah did.
            let _ = listener.detach_filter();
            let _ = listener.make_blocking();
        }
        listener
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
        // A tenant has had it: what it should be like, a socket tells that nobody has had.
        let options = Some(Snapshot::of(like(&address).ok()?.as_fd()));
        let listener = Self { address, origin: Origin::Own, file, fd, options, backlog: None };
        // It may be that of a pool that was on its way out.
        let _ = listener.detach_filter();
        Some(listener)
    }

    /// For before a generation gets a copy: remembers what it is like, if none has had one yet.
    pub fn remember(&mut self) {
        if self.options.is_none() {
            self.options = Some(Snapshot::of(self.fd.as_fd()));
            self.backlog = self.queue_limit();
        }
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
    /// makes idle php-fpm workers see EAGAIN and exit. And O_ASYNC, which is of
    /// no use to php-fpm. For before each start.
    pub fn make_blocking(&self) -> Result<(), ActivationError> {
        let failed = |errno| ActivationError::step("clear O_NONBLOCK of", &self.address, errno);
        let flags = self.flags().map_err(failed)?;
        if flags.intersects(CHANGEABLE) {
            fcntl(self.fd.as_raw_fd(), FcntlArg::F_SETFL(flags - CHANGEABLE)).map_err(failed)?;
        }
        Ok(())
    }

    pub(super) fn flags(&self) -> Result<OFlag, Errno> {
        fcntl(self.fd.as_raw_fd(), FcntlArg::F_GETFL).map(OFlag::from_bits_retain)
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

    /// Whether a filter is attached (socket(7), SO_ATTACH_FILTER and SO_ATTACH_BPF).
    pub(super) fn has_filter(&self) -> bool {
        // SO_GET_FILTER has the number of SO_ATTACH_FILTER, and tells how many instructions there
        // are; of an eBPF program, which has no text to show, it says EACCES.
        match sys::socket_option(self.as_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &mut []) {
            Ok(length) => length > 0,
            Err(errno) => errno == Errno::EACCES,
        }
    }

    /// Takes the filter off, if there is one.
    pub(super) fn detach_filter(&self) -> Result<(), Errno> {
        match sys::set_socket_option(self.as_fd(), libc::SOL_SOCKET, libc::SO_DETACH_FILTER, &[0; 4]) {
            Err(Errno::ENOENT) => Ok(()),
            other => other,
        }
    }

    /// The most connections that may wait, of TCP: tcpi_sacked of TCP_INFO (tcp(7)) of a listener.
    pub(super) fn queue_limit(&self) -> Option<u32> {
        const SACKED: usize = 28;
        let mut info = [0; 104];
        let length = sys::socket_option(self.as_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, &mut info).ok()?;
        let value = info.get(SACKED..SACKED + 4).filter(|_| length >= SACKED + 4)?;
        value.try_into().ok().map(u32::from_ne_bytes)
    }

    /// Whether only signed segments are heard.
    pub(super) fn is_signed(&self) -> bool {
        matches!(self.address, Listen::Tcp(address) if diag::is_signed(address))
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
