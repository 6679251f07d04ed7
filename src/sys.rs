//! System calls that no library wraps as this program needs them; the only
//! room with `unsafe`. Each function does one call, and says what it relies on.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

// sockets

/// A new descriptor, close-on-exec, for the open file behind the number `fd`
/// (fcntl(2), F_DUPFD_CLOEXEC): how a number that another program passed
/// becomes a value that somebody owns.
pub fn duplicate(fd: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: no memory is passed; a number that is not open is EBADF.
    let new = Errno::result(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) })?;
    // SAFETY: the kernel made this descriptor one line above, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(new) })
}

/// Closes every descriptor from `first` to `last`, both included (close_range(2)).
///
/// To be called while no value of this process owns a descriptor in the range:
/// at start, for what the parent left open.
pub fn close_range(first: u32, last: u32) -> Result<(), Errno> {
    // SAFETY: no memory is passed.
    Errno::result(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

/// listen(2) with any backlog: nix refuses 4096 and more. The kernel cuts it
/// to net.core.somaxconn.
pub fn listen(fd: BorrowedFd<'_>, backlog: u32) -> Result<(), Errno> {
    let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
    // SAFETY: no memory is passed.
    Errno::result(unsafe { libc::listen(fd.as_raw_fd(), backlog) }).map(drop)
}

/// Attaches a classic BPF program to a socket (socket(7), SO_ATTACH_FILTER).
pub fn attach_filter(fd: BorrowedFd<'_>, program: &[libc::sock_filter]) -> Result<(), Errno> {
    let length = u16::try_from(program.len()).map_err(|_| Errno::EINVAL)?;
    let fprog = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    // SAFETY: `fprog` and the `length` instructions it points to outlive the
    // call; the kernel copies them and writes to neither.
    let answer = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const fprog).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    Errno::result(answer).map(drop)
}
