//! Sockets that systemd passes: LISTEN_FDS, LISTEN_PID, LISTEN_FDNAMES (sd_listen_fds(3)).

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};

use libsystemd::activation::receive_descriptors_with_names;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{SockType, SockaddrStorage, getsockname, getsockopt, sockopt};

use super::{ActivationError, Listener, Origin};
use crate::config::types::Listen;
use crate::sys;

/// One passed socket: a listening stream socket with an address.
#[derive(Debug)]
pub struct Inherited {
    /// Its FDNAME; "unknown" where systemd gave none.
    pub name: String,
    /// The number it came as, for messages.
    pub number: i32,
    /// Its address.
    pub address: Listen,
    socket: OwnedFd,
}

impl Inherited {
    pub(super) fn into_listener(self) -> Listener {
        Listener::new(self.address, Origin::Passed, self.socket)
    }
}

/// Takes the sockets that systemd passed, once: the variables are gone from the environment then.
///
/// # Errors
/// Variables that make no sense, or a descriptor that is no listening stream socket with an address.
pub fn inherited() -> Result<Vec<Inherited>, ActivationError> {
    if std::env::var_os("LISTEN_FDS").is_none() || !is_for_us() {
        return Ok(Vec::new());
    }
    let descriptors =
        receive_descriptors_with_names(true).map_err(|error| ActivationError::Protocol(error.to_string()))?;
    descriptors.into_iter().map(|(fd, name)| take(fd.into_raw_fd(), name)).collect()
}

/// Variables of another process, which it let us inherit, are not ours to act on (sd_listen_fds(3)).
fn is_for_us() -> bool {
    let pid = std::env::var("LISTEN_PID").ok().and_then(|text| text.parse::<i32>().ok());
    pid.is_none_or(|pid| pid == nix::unistd::getpid().as_raw())
}

fn take(number: i32, name: String) -> Result<Inherited, ActivationError> {
    let closed = ActivationError::Protocol(format!("descriptor {number} is not open"));
    if fcntl(number, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).is_err() {
        return Err(closed);
    }
    let socket = sys::owned(number);
    let address = getsockname::<SockaddrStorage>(number);
    let words = address.as_ref().map_or_else(|_| "no socket".to_owned(), ToString::to_string);
    let unfit = |why| ActivationError::Unfit { name: name.clone(), number, address: words.clone(), why };
    let address = address.map_err(|errno| {
        unfit(if errno == Errno::ENOTSOCK {
            "is no socket: pass listening sockets only"
        } else {
            "has no address"
        })
    })?;
    match getsockopt(&socket, sockopt::SockType) {
        Ok(SockType::Stream) => {}
        Ok(SockType::Datagram) => {
            return Err(unfit("is a datagram socket: use ListenStream= in the socket unit"));
        }
        _ => return Err(unfit("is no stream socket: use ListenStream= in the socket unit")),
    }
    let address = listen_of(&address)
        .ok_or_else(|| unfit("has no address that php-fpm can serve: use a path, IPv4 or IPv6"))?;
    if !getsockopt(&socket, sockopt::AcceptConn).unwrap_or(false) {
        return Err(unfit("does not listen: use Accept=no in the socket unit"));
    }
    Ok(Inherited { name, number, address, socket })
}

/// The address in a pool file's words; `None` for abstract and unnamed ones.
fn listen_of(address: &SockaddrStorage) -> Option<Listen> {
    if let Some(unix) = address.as_unix_addr() {
        return Some(Listen::Unix(unix.path()?.to_str()?.parse().ok()?));
    }
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(Listen::Tcp(SocketAddr::V4((*v4).into())));
    }
    address.as_sockaddr_in6().map(|v6| Listen::Tcp(SocketAddr::V6((*v6).into())))
}

/// Closes every descriptor above 2 that is not in `keep`: what whoever started
/// howdah left open must not reach a tenant. To be called before anything else opens one.
///
/// # Errors
/// That of close_range(2).
pub fn close_other_descriptors(keep: &[BorrowedFd<'_>]) -> nix::Result<()> {
    let mut kept: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd() as u32).collect();
    kept.sort_unstable();
    let mut first = 3;
    for number in kept {
        if first < number {
            sys::close_range(first, number - 1, false)?;
        }
        first = number + 1;
    }
    sys::close_range(first, u32::MAX, false)
}

impl std::os::fd::AsFd for Inherited {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
