//! Sockets that howdah binds itself.

use std::fs::{self, DirBuilder};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, lchown};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, UnixAddr, bind as bind_socket, connect,
    listen, setsockopt, socket, sockopt,
};
use nix::sys::stat::{FchmodatFlags, Mode, umask};

use super::{ActivationError, Listener, Origin, refused};
use crate::config::pool::Socket;
use crate::config::types::{AbsPath, Listen};
use crate::sys;

/// Binds `address` and listens. A unix socket gets the owner, group and mode
/// of `settings`; its directory is made (0755) if it is missing; a socket file
/// that nobody listens on any more is replaced. It is never open to more than
/// `settings` allows: it is bound with no permission at all.
///
/// The queue is `settings.backlog` long, or `net.core.somaxconn` if that is less (listen(2)).
///
/// # Errors
/// A live server, a file that is no socket, a port in use, missing rights.
pub fn bind(address: &Listen, settings: &Socket) -> Result<Listener, ActivationError> {
    let (socket, file) = match address {
        Listen::Unix(path) => bind_unix(address, path, settings)?,
        Listen::Tcp(tcp) => (bind_tcp(address, SockaddrStorage::from(*tcp))?, None),
    };
    let backlog =
        i32::try_from(settings.backlog).ok().and_then(|n| Backlog::new(n).ok()).unwrap_or(Backlog::MAXCONN);
    listen(&socket, backlog).map_err(|errno| refused("listen on", address, errno))?;
    Ok(Listener::new(address.clone(), Origin::Own { file }, socket))
}

fn stream(family: AddressFamily, address: &Listen) -> Result<OwnedFd, ActivationError> {
    socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
        .map_err(|errno| refused("socket for", address, errno))
}

/// The socket, and device and inode of its path.
type Bound = (OwnedFd, Option<(u64, u64)>);

fn bind_unix(address: &Listen, path: &AbsPath, settings: &Socket) -> Result<Bound, ActivationError> {
    let path = path.as_path();
    let refuse = |step| move |error: std::io::Error| refused(step, address, errno_of(&error));
    if let Some(directory) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(directory)
            .map_err(refuse("make the directory of"))?;
    }
    clear_stale(address, path)?;
    let socket = stream(AddressFamily::Unix, address)?;
    let place = UnixAddr::new(path).map_err(|errno| refused("bind", address, errno))?;
    let before = umask(Mode::from_bits_truncate(0o777));
    let bound = bind_socket(socket.as_raw_fd(), &place);
    umask(before);
    bound.map_err(|errno| refused("bind", address, errno))?;
    let data = fs::symlink_metadata(path).map_err(refuse("look at"))?;
    if (data.uid(), data.gid()) != (settings.owner, settings.group) {
        let given = lchown_socket(path, settings);
        given.inspect_err(|_| drop(fs::remove_file(path))).map_err(refuse("chown"))?;
    }
    // Through no symlink: in a directory of the tenant's, the path may have become one since.
    let mode = Mode::from_bits_truncate(settings.mode.bits());
    nix::sys::stat::fchmodat(None, path, mode, FchmodatFlags::NoFollowSymlink)
        .map_err(|errno| refused("chmod", address, errno))?;
    Ok((socket, Some((data.dev(), data.ino()))))
}

fn lchown_socket(path: &Path, settings: &Socket) -> std::io::Result<()> {
    lchown(path, Some(settings.owner), Some(settings.group))
}

/// Removes a socket file that nobody listens on. What else is there stays and is an error.
fn clear_stale(address: &Listen, path: &Path) -> Result<(), ActivationError> {
    let Ok(data) = fs::symlink_metadata(path) else { return Ok(()) };
    if !data.file_type().is_socket() {
        return Err(ActivationError::NotASocket { path: path.to_owned() });
    }
    let probe =
        socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)
            .map_err(|errno| refused("socket for", address, errno))?;
    let place = UnixAddr::new(path).map_err(|errno| refused("bind", address, errno))?;
    match connect(probe.as_raw_fd(), &place) {
        Err(Errno::ECONNREFUSED) => {
            fs::remove_file(path).map_err(|error| refused("replace the stale", address, errno_of(&error)))
        }
        Err(Errno::ENOENT) => Ok(()),
        // EAGAIN: its queue is full; EPROTOTYPE: a datagram socket lives there.
        Ok(()) | Err(Errno::EAGAIN | Errno::EPROTOTYPE) => Err(refused("bind", address, Errno::EADDRINUSE)),
        Err(errno) => Err(refused("look at", address, errno)),
    }
}

fn bind_tcp(address: &Listen, place: SockaddrStorage) -> Result<OwnedFd, ActivationError> {
    use nix::sys::socket::SockaddrLike;
    let refuse = |step| move |errno| refused(step, address, errno);
    let family = place.family().unwrap_or(AddressFamily::Inet);
    let socket = stream(family, address)?;
    // A port whose last connections are in TIME_WAIT is free; one that is listened on is not (socket(7)).
    setsockopt(&socket, sockopt::ReuseAddr, &true).map_err(refuse("set SO_REUSEADDR on"))?;
    if family == AddressFamily::Inet6 {
        sys::set_v6_only(std::os::fd::AsFd::as_fd(&socket)).map_err(refuse("set IPV6_V6ONLY on"))?;
    }
    bind_socket(socket.as_raw_fd(), &place).map_err(refuse("bind"))?;
    Ok(socket)
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}
