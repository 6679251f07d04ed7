//! Sockets that howdah binds itself.
//!
//! A unix socket is bound under its final name, not under a temporary one that
//! is renamed: `ss` and `/proc/net/unix` go on telling the name that was bound,
//! and a temporary name would count against the 107 bytes. In exchange there
//! is a moment, when a stale file is replaced, in which the path is missing
//! (ENOENT) or does not listen yet (ECONNREFUSED).

use std::fs::{File, OpenOptions, Permissions};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, UnixAddr, connect, getsockname, setsockopt, sockopt,
};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Uid, fchownat};

use super::error::{ActivationError, errno};
use super::listener::{Identity, Listener, Origin, unlink_if};
use crate::config::pool::Socket;
use crate::config::types::Listen;
use crate::{paths, sys};

/// Binds `listen` and listens: close-on-exec, blocking.
///
/// Unix (unix(7)): a missing parent directory is made with mode 0755; owner,
/// group and mode are `socket`'s before the first client can connect, whatever
/// the umask is; a socket file that nobody listens on is replaced, one that
/// somebody listens on is refused, and what is no socket is never touched.
/// To tell, howdah connects to it once.
///
/// TCP (tcp(7), ipv6(7)): SO_REUSEADDR, so that a restart need not wait for old
/// connections; IPV6_V6ONLY, so that `[::]` is IPv6 alone whatever the
/// machine's default is. Of `socket` only the backlog means anything.
///
/// The queue is never longer than net.core.somaxconn (listen(2); 4096 unless
/// the administrator changed it).
pub fn bind(listen: &Listen, socket: &Socket) -> Result<Listener, ActivationError> {
    match listen {
        Listen::Unix(path) => bind_unix(listen, path.as_path(), socket),
        Listen::Tcp(address) => bind_tcp(listen, *address, socket.backlog),
    }
}

/// A socket with the options that one for `listen` has, not bound yet.
pub(super) fn like(listen: &Listen) -> Result<OwnedFd, ActivationError> {
    let family = match listen {
        Listen::Unix(_) => return stream_socket(listen, AddressFamily::Unix, SockFlag::empty()),
        Listen::Tcp(SocketAddr::V4(_)) => AddressFamily::Inet,
        Listen::Tcp(SocketAddr::V6(_)) => AddressFamily::Inet6,
    };
    let fd = stream_socket(listen, family, SockFlag::empty())?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)
        .and_then(|()| match family {
            AddressFamily::Inet6 => setsockopt(&fd, sockopt::Ipv6V6Only, &true),
            _ => Ok(()),
        })
        .map_err(|errno| failed("set the options of", listen, errno))?;
    Ok(fd)
}

fn bind_tcp(listen: &Listen, address: SocketAddr, backlog: u32) -> Result<Listener, ActivationError> {
    let fd = like(listen)?;
    nix::sys::socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(address))
        .map_err(|errno| failed("bind", listen, errno))?;
    // With SO_REUSEADDR two sockets may be bound as long as neither listens:
    // "in use" can come from either call.
    sys::listen(fd.as_fd(), backlog).map_err(|errno| failed("listen on", listen, errno))?;
    let port = getsockname::<SockaddrStorage>(fd.as_raw_fd()).ok().and_then(|own| {
        own.as_sockaddr_in().map(|own| own.port()).or(own.as_sockaddr_in6().map(|own| own.port()))
    });
    let mut address = address;
    address.set_port(port.unwrap_or(address.port()));
    Ok(Listener::new(Listen::Tcp(address), Origin::Own, None, fd))
}

fn bind_unix(listen: &Listen, path: &Path, socket: &Socket) -> Result<Listener, ActivationError> {
    refuse_diversion(listen, path)?;
    let fd = like(listen)?;
    // bind(2) gives the file the mode of the socket's own inode, less the
    // umask. Nobody but root can connect until the last chmod.
    fchmod(fd.as_raw_fd(), Mode::empty()).map_err(|errno| failed("close the mode of", listen, errno))?;
    bind_path(listen, path, &fd)?;
    let bound = open_path(path).map_err(|errno| failed("open", listen, errno))?;
    let file = identity(&bound).map_err(|errno| failed("look at", listen, errno))?;
    let listens = hand_over(listen, &bound, socket).and_then(|()| {
        sys::listen(fd.as_fd(), socket.backlog).map_err(|errno| failed("listen on", listen, errno))
    });
    if let Err(error) = listens {
        // The first failure is the one to tell.
        let _ = unlink_if(path, file);
        return Err(error);
    }
    Ok(Listener::new(listen.clone(), Origin::Own, Some(file), fd))
}

/// bind(2) knows paths only: as root it would make its file wherever a tenant has put a symlink in the
/// place of a directory, between any look at it and the call. So nobody but root may be able to.
fn refuse_diversion(listen: &Listen, path: &Path) -> Result<(), ActivationError> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    if !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    match paths::who_could_divert(directory) {
        Ok(Some((diverting, owner))) => {
            let advice = format!(
                "{} is uid {owner}'s or open to others, who could lead root elsewhere: \
                 choose a path of which all directories but the last are root's",
                diverting.display()
            );
            Err(ActivationError::step("bind", listen, Errno::EACCES).advise(advice))
        }
        // What is wrong with the path bind will say.
        Ok(None) | Err(_) => Ok(()),
    }
}

/// bind(2), and once each what can be put right when it fails.
fn bind_path(listen: &Listen, path: &Path, fd: &OwnedFd) -> Result<(), ActivationError> {
    let address = UnixAddr::new(path).map_err(|errno| failed("bind", listen, errno))?;
    let (mut parents_made, mut way_made) = (false, false);
    loop {
        match nix::sys::socket::bind(fd.as_raw_fd(), &address) {
            Ok(()) => return Ok(()),
            Err(Errno::ENOENT) if !parents_made => {
                parents_made = true;
                make_parents(listen, path)?;
            }
            Err(Errno::EADDRINUSE) if !way_made => {
                way_made = true;
                remove_stale(listen, path, &address)?;
            }
            Err(errno) => return Err(failed("bind", listen, errno)),
        }
    }
}

/// Makes the directories above `path` that are missing, each with mode 0755.
fn make_parents(listen: &Listen, path: &Path) -> Result<(), ActivationError> {
    let missing: Vec<&Path> = path.ancestors().skip(1).take_while(|above| !above.exists()).collect();
    for directory in missing.into_iter().rev() {
        let made = std::fs::create_dir(directory).and_then(|()| {
            // By descriptor and without following a link: the umask may have
            // taken bits, and the name may be another's by now.
            let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
            let directory = OpenOptions::new().read(true).custom_flags(flags).open(directory)?;
            directory.set_permissions(Permissions::from_mode(0o755))
        });
        match made {
            Err(error) if errno(&error) != Errno::EEXIST => {
                let place = format!("{} for {listen}", directory.display());
                return Err(ActivationError::step("make directory", place, errno(&error))
                    .advise(advice(listen, errno(&error))));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Removes the socket file of a server that is gone; refuses everything else.
fn remove_stale(listen: &Listen, path: &Path, address: &UnixAddr) -> Result<(), ActivationError> {
    let in_use = |why: &str| failed("bind", listen, Errno::EADDRINUSE).advise(why);
    let found = match std::fs::symlink_metadata(path) {
        Err(error) if errno(&error) == Errno::ENOENT => return Ok(()),
        found => found.map_err(|error| failed("look at", listen, errno(&error)))?,
    };
    if !found.file_type().is_socket() {
        return Err(in_use(&format!(
            "{} is there: move it away or choose another path",
            kind_of(found.file_type())
        )));
    }
    // Without blocking: EAGAIN is a server whose queue is full.
    let probe = stream_socket(listen, AddressFamily::Unix, SockFlag::SOCK_NONBLOCK)?;
    match connect(probe.as_raw_fd(), address) {
        Err(Errno::ECONNREFUSED) => {}
        Err(Errno::ENOENT) => return Ok(()),
        Ok(()) | Err(Errno::EAGAIN | Errno::EPROTOTYPE) => return Err(in_use(LIVE)),
        Err(errno) => {
            return Err(failed("connect to", listen, errno).advise(
                "cannot tell whether a server listens there: remove the file or choose another path",
            ));
        }
    }
    unlink_if(path, (found.dev(), found.ino())).map_err(|errno| unlink_failed(listen, errno))
}

const LIVE: &str = "a live server listens there: stop it or choose another path";

/// Gives the bound file its owner, group and mode, by a descriptor: what is
/// changed is what was opened, whatever the path means by then.
fn hand_over(listen: &Listen, file: &File, socket: &Socket) -> Result<(), ActivationError> {
    let (owner, group) = (Uid::from_raw(socket.owner), Gid::from_raw(socket.group));
    fchownat(Some(file.as_raw_fd()), "", Some(owner), Some(group), AtFlags::AT_EMPTY_PATH).map_err(
        |errno| {
            let place = format!("{listen} to {owner}:{group}");
            ActivationError::step("chown", place, errno).advise(
                if matches!(errno, Errno::EPERM | Errno::EINVAL) {
                    // EINVAL: in the user namespace of a howdah without root the other id does not exist.
                    "only root can give a socket away: run as root, or choose owner and group of this user"
                } else {
                    ""
                },
            )
        },
    )?;
    // fchmod(2) refuses an O_PATH descriptor; its name in /proc does not.
    let name = format!("/proc/self/fd/{}", file.as_raw_fd());
    std::fs::set_permissions(name, Permissions::from_mode(socket.mode.bits()))
        .map_err(|error| ActivationError::step("chmod", listen, errno(&error)))
}

fn open_path(path: &Path) -> Result<File, Errno> {
    let flags = libc::O_PATH | libc::O_NOFOLLOW;
    OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|error| errno(&error))
}

fn identity(file: &File) -> Result<Identity, Errno> {
    file.metadata().map(|found| (found.dev(), found.ino())).map_err(|error| errno(&error))
}

fn stream_socket(
    listen: &Listen,
    family: AddressFamily,
    flags: SockFlag,
) -> Result<OwnedFd, ActivationError> {
    nix::sys::socket::socket(family, SockType::Stream, flags | SockFlag::SOCK_CLOEXEC, None)
        .map_err(|errno| failed("make a socket for", listen, errno))
}

/// A step that failed at `listen`, with what to do about it.
fn failed(step: &'static str, listen: &Listen, errno: Errno) -> ActivationError {
    ActivationError::step(step, listen, errno).advise(advice(listen, errno))
}

/// unlink(2) failed: EPERM is a sticky directory's word.
pub(super) fn unlink_failed(listen: &Listen, errno: Errno) -> ActivationError {
    let error = failed("unlink", listen, errno);
    match errno {
        Errno::EPERM => error.advise("only its owner may remove it: run as root or choose another path"),
        _ => error,
    }
}

/// What to do when the kernel says `errno` of `listen`; empty where we do not know.
fn advice(listen: &Listen, errno: Errno) -> String {
    match (listen, errno) {
        (Listen::Unix(path), Errno::EACCES) => {
            let above = path.as_path().ancestors().skip(1).find(|above| above.exists());
            let above = above.unwrap_or(Path::new("/"));
            format!("needs write permission on {}: run as root or choose another path", above.display())
        }
        (Listen::Unix(_), Errno::EROFS) => "the file system is read-only: choose another path".into(),
        (Listen::Unix(_), Errno::ENOTDIR) => "a part of the path is no directory: choose another path".into(),
        (Listen::Unix(_), Errno::EADDRINUSE) => LIVE.into(),
        (Listen::Tcp(_), Errno::EADDRINUSE) => {
            "another program listens there: stop it or choose another port".into()
        }
        (Listen::Tcp(address), Errno::EACCES) => {
            let port = address.port();
            format!("port {port} needs CAP_NET_BIND_SERVICE: run as root or choose a port from 1024")
        }
        (Listen::Tcp(_), Errno::EADDRNOTAVAIL) => "no interface of this machine has the address".into(),
        (Listen::Tcp(_), Errno::EAFNOSUPPORT) => "this kernel has IPv6 switched off".into(),
        (_, Errno::EMFILE) => "too many descriptors: raise LimitNOFILE= or ulimit -n".into(),
        _ => String::new(),
    }
}

fn kind_of(kind: std::fs::FileType) -> &'static str {
    if kind.is_file() {
        "a regular file"
    } else if kind.is_dir() {
        "a directory"
    } else if kind.is_symlink() {
        "a symbolic link"
    } else {
        "a special file"
    }
}
