//! System calls that no library of ours wraps: clone3, pidfds, the mount API,
//! close_range. The only room with `unsafe`.
//!
//! Each function is one call of the kernel with typed arguments. What the calls
//! are for is the business of the rooms that use them.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_int, c_long, c_uint};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::unistd::Pid;

/// Turns the kernel's answer (negative: errno is set) into a `Result`.
fn checked(answer: c_long) -> nix::Result<c_long> {
    Errno::result(answer)
}

/// Takes the descriptor that a system call has just made.
fn made(answer: c_long) -> nix::Result<OwnedFd> {
    let raw = checked(answer)? as RawFd;
    // SAFETY: the kernel has just given this number to us, nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Takes over a descriptor that a library has just made and returned as a number.
///
/// # Panics
/// If `raw` is negative.
pub fn owned(raw: RawFd) -> OwnedFd {
    // SAFETY: callers hand in what an open, accept or similar call has just
    // returned to them and keep no copy of the number.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

/// What the kernel says, in the form of every line of howdah's: `Permission denied (EACCES)`.
pub fn told(error: &std::io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(errno) => format!("{} ({errno:?})", errno.desc()),
        None => error.to_string(),
    }
}

// ---- processes

/// Which side of [`clone3`] we are on.
pub enum Cloned {
    /// The new process.
    Child,
    /// The caller, with the child's pid in the caller's pid namespace and its pidfd.
    Parent {
        /// The child's pid.
        pid: Pid,
        /// A close-on-exec pidfd of the child (pidfd_open(2)).
        pidfd: OwnedFd,
    },
}

/// clone3(2) as a fork: the child gets a copy of the memory and goes on where
/// the caller stands. `namespaces` are `CLONE_NEW*` bits; `cgroup`, a
/// descriptor of a cgroup v2 directory, is where the child is born
/// (CLONE_INTO_CGROUP, Linux 5.7).
///
/// The program must have one thread: a lock that another thread holds would
/// stay locked in the child for ever. howdah has one thread.
///
/// # Errors
/// Those of clone3(2): ENOSPC (too many namespaces), EPERM, EBUSY (the cgroup
/// has controllers enabled for children), EAGAIN (pids.max or RLIMIT_NPROC).
pub fn clone3(namespaces: u64, cgroup: Option<BorrowedFd<'_>>) -> nix::Result<Cloned> {
    // libc's constant of this name does not fit its type.
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut pidfd: c_int = -1;
    let mut flags = namespaces | libc::CLONE_PIDFD as u64;
    if cgroup.is_some() {
        flags |= CLONE_INTO_CGROUP;
    }
    let arguments = libc::clone_args {
        flags,
        pidfd: (&raw mut pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: cgroup.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    // SAFETY: without CLONE_VM and without a stack this is fork(2): the child
    // has its own copy of everything, and one thread means no foreign lock.
    // `arguments` and `pidfd` outlive the call.
    let answer = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of_val(&arguments)) };
    match checked(answer)? {
        0 => Ok(Cloned::Child),
        pid => {
            // SAFETY: with CLONE_PIDFD the kernel wrote a new descriptor there.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned::Parent { pid: Pid::from_raw(pid as i32), pidfd })
        }
    }
}

/// Ends this process at once, without destructors or exit handlers (_exit(2)):
/// what a child that has not executed anything must do.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: takes no pointer and does not return.
    unsafe { libc::_exit(status) }
}

/// keyctl(2), KEYCTL_JOIN_SESSION_KEYRING: a session keyring without a name, new and empty
/// (session-keyring(7)). A kernel without keyrings has none to leave, which is as good.
///
/// # Errors
/// EDQUOT, ENOMEM; EPERM of a seccomp filter above us.
pub fn join_session_keyring() -> nix::Result<()> {
    const JOIN_SESSION_KEYRING: c_long = 1;
    let no_name = std::ptr::null::<libc::c_char>();
    // SAFETY: a null name asks for an anonymous keyring; no other pointer.
    match checked(unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, no_name) }) {
        Err(Errno::ENOSYS) => Ok(()),
        joined => joined.map(drop),
    }
}

/// pidfd_open(2), Linux 5.3. Close-on-exec.
pub fn pidfd_open(pid: Pid) -> nix::Result<OwnedFd> {
    // SAFETY: no pointers.
    made(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })
}

/// pidfd_send_signal(2), Linux 5.1.
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: nix::sys::signal::Signal) -> nix::Result<()> {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo asks the kernel to fill in what kill(2) would.
    let answer =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal as c_int, none, 0) };
    checked(answer).map(drop)
}

/// pidfd_getfd(2), Linux 5.6: a duplicate of another process's descriptor. Close-on-exec.
///
/// # Errors
/// EPERM without PTRACE_MODE_ATTACH_REALCREDS over the process, EBADF, ESRCH.
pub fn pidfd_getfd(pidfd: BorrowedFd<'_>, number: RawFd) -> nix::Result<OwnedFd> {
    // SAFETY: no pointers.
    made(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) })
}

/// close_range(2) over `first..=last`, Linux 5.9. With `close_on_exec`, they
/// are only marked (CLOSE_RANGE_CLOEXEC, Linux 5.11).
///
/// The caller must not hold an [`OwnedFd`] in the range that it will use or drop later,
/// unless `close_on_exec` is set.
pub fn close_range(first: c_uint, last: c_uint, close_on_exec: bool) -> nix::Result<()> {
    let flags = if close_on_exec { libc::CLOSE_RANGE_CLOEXEC } else { 0 };
    // SAFETY: no pointers; that no live OwnedFd is closed is the caller's promise above.
    checked(unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) }).map(drop)
}

/// prlimit(2): sets a limit of another process.
///
/// # Errors
/// EPERM above its hard limit without CAP_SYS_RESOURCE.
pub fn set_limit_of(
    pid: Pid,
    resource: nix::sys::resource::Resource,
    soft: u64,
    hard: u64,
) -> nix::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `limit` outlives the call, and nobody asks for the old one.
    let answer =
        unsafe { libc::prlimit64(pid.as_raw(), resource as _, &raw const limit, std::ptr::null_mut()) };
    Errno::result(answer).map(drop)
}

/// setpriority(2): the nice value of one process.
///
/// # Errors
/// EACCES for a lower value than it has, without CAP_SYS_NICE; ESRCH.
pub fn set_nice(pid: Pid, nice: i32) -> nix::Result<()> {
    // SAFETY: no pointers.
    Errno::result(unsafe { libc::setpriority(libc::PRIO_PROCESS, pid.as_raw() as libc::id_t, nice) })
        .map(drop)
}

/// The memory of a process, bytes, in which a page that n processes share counts as an nth (PSS;
/// proc_pid_smaps(5)); `None` where it is gone or not ours to look at.
pub fn pss(pid: Pid) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Whether a process has the real uid `uid` (getpriority(2): ESRCH where none has). All that this
/// process's pid namespace can see is asked.
pub fn has_processes(uid: u32) -> bool {
    // The least nice value of them may be -1, too.
    Errno::clear();
    // SAFETY: no pointers.
    let nice = unsafe { libc::getpriority(libc::PRIO_USER, uid) };
    !(nice == -1 && Errno::last() == Errno::ESRCH)
}

/// getpriority(2): the nice value of this process.
pub fn own_nice() -> i32 {
    // SAFETY: no pointers. It cannot fail for the caller itself, so that -1 is a value.
    unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
}

/// The secure bits of this process (capabilities(7)).
pub fn secure_bits() -> nix::Result<c_int> {
    // SAFETY: no pointers.
    Errno::result(unsafe { libc::prctl(libc::PR_GET_SECUREBITS, 0, 0, 0, 0) })
}

/// Sets them.
///
/// # Errors
/// EPERM without CAP_SETPCAP.
pub fn set_secure_bits(bits: c_int) -> nix::Result<()> {
    // SAFETY: no pointers.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_SECUREBITS, bits as libc::c_ulong, 0, 0, 0) }).map(drop)
}

/// sigaction(2), for the default and ignoring actions only.
///
/// # Panics
/// If `action` has a handler function.
pub fn set_signal_action(
    signal: nix::sys::signal::Signal,
    action: &nix::sys::signal::SigAction,
) -> nix::Result<()> {
    use nix::sys::signal::{SigHandler, sigaction};
    assert!(matches!(action.handler(), SigHandler::SigDfl | SigHandler::SigIgn));
    // SAFETY: no function of ours is called in signal context.
    unsafe { sigaction(signal, action) }.map(drop)
}

// ---- mounts (the API of Linux 5.2; mount_setattr is of 5.12)

/// `MOUNT_ATTR_*` bits of mount_setattr(2) and fsmount(2).
pub mod attr {
    /// Read-only.
    pub const RDONLY: u64 = 0x1;
    /// Set-user-id bits and file capabilities are ignored.
    pub const NOSUID: u64 = 0x2;
    /// Device nodes are dead.
    pub const NODEV: u64 = 0x4;
    /// Nothing is executed.
    pub const NOEXEC: u64 = 0x8;
}

/// open_tree(2) with OPEN_TREE_CLONE: a detached copy of the mount at `path`,
/// with what is mounted below it if `recursive`. `path` may be empty to mean `directory` itself.
///
/// # Errors
/// EPERM without CAP_SYS_ADMIN over the mount namespace; EINVAL where a
/// submount is locked and `recursive` is off; those of path resolution.
pub fn open_tree_clone(directory: BorrowedFd<'_>, path: &CStr, recursive: bool) -> nix::Result<OwnedFd> {
    let mut flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH as c_uint;
    if recursive {
        flags |= libc::AT_RECURSIVE as c_uint;
    }
    // SAFETY: `path` is a C string that outlives the call.
    made(unsafe { libc::syscall(libc::SYS_open_tree, directory.as_raw_fd(), path.as_ptr(), flags) })
}

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// mount_setattr(2) on the tree behind `tree`: sets `attributes` and makes its
/// propagation private, in all of it if `recursive`.
pub fn restrict_tree(tree: BorrowedFd<'_>, attributes: u64, recursive: bool) -> nix::Result<()> {
    set_tree(tree, attributes, recursive, None)
}

/// The same, and what belongs to an id inside `users` on the disk belongs to the id that
/// it is mapped to (MOUNT_ATTR_IDMAP, Linux 5.12): `users` is a user namespace with its maps written.
///
/// # Errors
/// EINVAL where a file system of the tree cannot be id-mapped; EPERM where it is already.
pub fn map_tree(
    tree: BorrowedFd<'_>,
    attributes: u64,
    recursive: bool,
    users: BorrowedFd<'_>,
) -> nix::Result<()> {
    set_tree(tree, attributes, recursive, Some(users))
}

fn set_tree(
    tree: BorrowedFd<'_>,
    attributes: u64,
    recursive: bool,
    users: Option<BorrowedFd<'_>>,
) -> nix::Result<()> {
    const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
    let argument = MountAttr {
        attr_set: attributes | users.map_or(0, |_| MOUNT_ATTR_IDMAP),
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: users.map_or(0, |users| users.as_raw_fd() as u64),
    };
    let mut flags = libc::AT_EMPTY_PATH as c_uint;
    if recursive {
        flags |= libc::AT_RECURSIVE as c_uint;
    }
    // SAFETY: `argument` has the kernel's layout (MOUNT_ATTR_SIZE_VER0) and outlives the call.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const argument,
            size_of::<MountAttr>(),
        )
    };
    checked(answer).map(drop)
}

/// move_mount(2): attaches the detached mount `tree` on the directory or file
/// that `target` is open on (O_PATH will do).
pub fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> nix::Result<()> {
    const MOVE_MOUNT_F_EMPTY_PATH: c_uint = 0x4;
    const MOVE_MOUNT_T_EMPTY_PATH: c_uint = 0x40;
    let empty = c"".as_ptr();
    // SAFETY: both paths are the empty C string.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            empty,
            target.as_raw_fd(),
            empty,
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
        )
    };
    checked(answer).map(drop)
}

/// A new file system of the type `name`, mounted nowhere: fsopen(2), fsconfig(2)
/// for each of `options` ("key=value" or "flag"), fsmount(2) with `attributes`.
///
/// # Errors
/// The failing call's; EINVAL for an option that the file system does not know.
pub fn new_mount(name: &CStr, options: &[CString], attributes: u64) -> nix::Result<OwnedFd> {
    const FSOPEN_CLOEXEC: c_uint = 1;
    const FSMOUNT_CLOEXEC: c_uint = 1;
    const FSCONFIG_SET_FLAG: c_uint = 0;
    const FSCONFIG_SET_STRING: c_uint = 1;
    const FSCONFIG_CMD_CREATE: c_uint = 6;
    let null = std::ptr::null::<libc::c_char>();
    // SAFETY: `name` is a C string that outlives the call.
    let context = made(unsafe { libc::syscall(libc::SYS_fsopen, name.as_ptr(), FSOPEN_CLOEXEC) })?;
    let raw = context.as_raw_fd();
    for option in options {
        let text = option.to_bytes();
        let answer = match text.iter().position(|byte| *byte == b'=') {
            Some(at) => {
                let key = CString::new(&text[..at]).map_err(|_| Errno::EINVAL)?;
                let value = CString::new(&text[at + 1..]).map_err(|_| Errno::EINVAL)?;
                // SAFETY: both are C strings that outlive the call.
                unsafe {
                    libc::syscall(
                        libc::SYS_fsconfig,
                        raw,
                        FSCONFIG_SET_STRING,
                        key.as_ptr(),
                        value.as_ptr(),
                        0,
                    )
                }
            }
            // SAFETY: `option` is a C string that outlives the call; a flag has no value.
            None => unsafe {
                libc::syscall(libc::SYS_fsconfig, raw, FSCONFIG_SET_FLAG, option.as_ptr(), null, 0)
            },
        };
        checked(answer)?;
    }
    // SAFETY: the command takes neither key nor value.
    checked(unsafe { libc::syscall(libc::SYS_fsconfig, raw, FSCONFIG_CMD_CREATE, null, null, 0) })?;
    // SAFETY: no pointers.
    made(unsafe { libc::syscall(libc::SYS_fsmount, raw, FSMOUNT_CLOEXEC, attributes as c_uint) })
}

// ---- network

/// Brings `lo` up in this network namespace (netdevice(7): SIOCSIFFLAGS).
pub fn raise_loopback() -> nix::Result<()> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let carrier = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: an ifreq of zeros is valid: a name of NULs and no flags.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(b"lo") {
        *slot = *byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which outlives the call.
    let answer =
        unsafe { libc::ioctl(carrier.as_fd().as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
    Errno::result(answer).map(drop)
}

// ---- security modules

/// The Landlock ABI of the running kernel (landlock_create_ruleset(2),
/// LANDLOCK_CREATE_RULESET_VERSION).
///
/// # Errors
/// ENOSYS or EOPNOTSUPP where Landlock is not there or switched off.
pub fn landlock_abi() -> nix::Result<i32> {
    const VERSION: c_uint = 1;
    let none = std::ptr::null::<libc::c_void>();
    // SAFETY: the version query takes no ruleset.
    checked(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0, VERSION) })
        .map(|abi| abi as i32)
}

/// Installs a seccomp filter on the calling thread and returns its listener
/// (SECCOMP_FILTER_FLAG_NEW_LISTENER, Linux 5.0; close-on-exec): calls that the
/// filter answers with SECCOMP_RET_USER_NOTIF wait for who reads there.
///
/// # Errors
/// EACCES without no_new_privs; EBUSY where an earlier filter has a listener already.
pub fn filter_with_listener(program: &[seccompiler::sock_filter]) -> nix::Result<OwnedFd> {
    /// `struct sock_fprog`, of which libc has one with its own `sock_filter`.
    #[repr(C)]
    struct Program {
        length: u16,
        instructions: *const seccompiler::sock_filter,
    }
    let length = u16::try_from(program.len()).map_err(|_| Errno::EINVAL)?;
    let argument = Program { length, instructions: program.as_ptr() };
    // SAFETY: `argument` has the kernel's layout; it and the `length` instructions that it
    // points to outlive the call, which copies them.
    made(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const argument,
        )
    })
}

/// A system call that waits (`struct seccomp_notif`).
#[derive(Debug, Clone, Copy)]
pub struct Notification {
    /// Its number in the answer.
    pub id: u64,
    /// Who makes it, by the caller's pid namespace.
    pub pid: Pid,
    /// The system call.
    pub number: i32,
}

/// SECCOMP_IOCTL_NOTIF_SET_FLAGS with SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP (Linux 6.6): caller and
/// listener wait for each other on one processor; an idle one need not be woken for a word.
///
/// # Errors
/// EINVAL on an older kernel.
pub fn wait_in_turns(listener: BorrowedFd<'_>) -> nix::Result<()> {
    /// `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP`, which libc does not have.
    const SYNC_WAKE_UP: u64 = 1;
    // SAFETY: the flags are the argument itself; nothing is read or written by way of it.
    let done =
        unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS as _, SYNC_WAKE_UP) };
    Errno::result(done).map(drop)
}

/// SECCOMP_IOCTL_NOTIF_RECV: the next call that waits; waits for one if there is none.
///
/// # Errors
/// ENOENT where the caller was killed in the meantime; EOVERFLOW on a kernel whose
/// structure is larger than we have room for.
pub fn notification(listener: BorrowedFd<'_>) -> nix::Result<Notification> {
    #[repr(C)]
    struct Room {
        known: libc::seccomp_notif,
        // The kernel writes as much as its own structure has, which may grow.
        more: [u64; 32],
    }
    // SAFETY: both structures are numbers only, of which zeros are valid.
    let (mut sizes, mut room): (libc::seccomp_notif_sizes, Room) = unsafe { std::mem::zeroed() };
    // SAFETY: SECCOMP_GET_NOTIF_SIZES writes one seccomp_notif_sizes.
    let answer =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_NOTIF_SIZES, 0, &raw mut sizes) };
    checked(answer)?;
    if usize::from(sizes.seccomp_notif) > size_of::<Room>() {
        return Err(Errno::EOVERFLOW);
    }
    // SAFETY: the room is zeroed, as the call demands, and large enough by the check above.
    let answer =
        unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV as _, &raw mut room) };
    Errno::result(answer)?;
    Ok(Notification {
        id: room.known.id,
        pid: Pid::from_raw(room.known.pid as i32),
        number: room.known.data.nr,
    })
}

/// SECCOMP_IOCTL_NOTIF_SEND: the call `id` goes on as if there were no filter
/// (SECCOMP_USER_NOTIF_FLAG_CONTINUE, Linux 5.5).
///
/// # Errors
/// ENOENT where the caller was killed in the meantime.
pub fn let_through(listener: BorrowedFd<'_>, id: u64) -> nix::Result<()> {
    let flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
    let answer = libc::seccomp_notif_resp { id, val: 0, error: 0, flags };
    // SAFETY: the call reads one seccomp_notif_resp; the kernel knows its size from the number of the ioctl.
    let done =
        unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND as _, &raw const answer) };
    Errno::result(done).map(drop)
}

/// SECCOMP_IOCTL_NOTIF_ADDFD (Linux 5.9): puts a duplicate of `fd` at the number `at` in the
/// process whose call `id` waits, in place of what is there, open across execve(2).
///
/// # Errors
/// ENOENT where the caller was killed in the meantime.
pub fn put_descriptor(listener: BorrowedFd<'_>, id: u64, fd: BorrowedFd<'_>, at: u32) -> nix::Result<()> {
    let argument = libc::seccomp_notif_addfd {
        id,
        flags: libc::SECCOMP_ADDFD_FLAG_SETFD as u32,
        srcfd: fd.as_raw_fd() as u32,
        newfd: at,
        newfd_flags: 0,
    };
    // SAFETY: the call reads one seccomp_notif_addfd, which outlives it.
    let done = unsafe {
        libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ADDFD as _, &raw const argument)
    };
    Errno::result(done).map(drop)
}

/// Whether `path` carries the extended attribute `name` (getxattr(2)).
pub fn has_xattr(path: &std::path::Path, name: &str) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let (Ok(path), Ok(name)) = (CString::new(path.as_os_str().as_bytes()), CString::new(name)) else {
        return false;
    };
    // SAFETY: both are C strings that outlive the call; a null value of size 0 asks for the length only.
    unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), std::ptr::null_mut(), 0) >= 0 }
}

// ---- sockets

/// A new descriptor, close-on-exec, for the open file behind the number `fd`
/// (fcntl(2), F_DUPFD_CLOEXEC): how a number that another program passed
/// becomes a value that somebody owns.
pub fn duplicate(fd: RawFd) -> nix::Result<OwnedFd> {
    // SAFETY: no memory is passed; a number that is not open is EBADF.
    made(c_long::from(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) }))
}

/// listen(2) with any backlog: nix refuses 4096 and more. The kernel cuts it
/// to net.core.somaxconn.
pub fn listen(fd: BorrowedFd<'_>, backlog: u32) -> nix::Result<()> {
    let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
    // SAFETY: no memory is passed.
    Errno::result(unsafe { libc::listen(fd.as_raw_fd(), backlog) }).map(drop)
}

/// getsockopt(2) with the value as the kernel's own bytes; how many of `value` it has filled.
///
/// Not for an option whose value holds an address, through which the kernel would write elsewhere.
pub fn socket_option(fd: BorrowedFd<'_>, level: i32, option: i32, value: &mut [u8]) -> nix::Result<usize> {
    let mut length = value.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which `value` has, and the length itself.
    let answer = unsafe {
        libc::getsockopt(fd.as_raw_fd(), level, option, value.as_mut_ptr().cast(), &raw mut length)
    };
    Errno::result(answer).map(|_| length as usize)
}

/// setsockopt(2) with the value as the kernel's own bytes: those that [`socket_option`] gave.
pub fn set_socket_option(fd: BorrowedFd<'_>, level: i32, option: i32, value: &[u8]) -> nix::Result<()> {
    // SAFETY: the kernel reads `value` within its length and writes nothing.
    let answer = unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, option, value.as_ptr().cast(), value.len() as libc::socklen_t)
    };
    Errno::result(answer).map(drop)
}

/// connect(2) to AF_UNSPEC: a TCP socket of any state becomes one that is bound and nothing more.
pub fn disconnect(fd: BorrowedFd<'_>) -> nix::Result<()> {
    // SAFETY: a sockaddr of zeros is valid, of the family AF_UNSPEC.
    let nowhere: libc::sockaddr = unsafe { std::mem::zeroed() };
    // SAFETY: `nowhere` outlives the call, and the length is its own.
    let answer = unsafe {
        libc::connect(fd.as_raw_fd(), &raw const nowhere, size_of::<libc::sockaddr>() as libc::socklen_t)
    };
    Errno::result(answer).map(drop)
}

/// Attaches a classic BPF program to a socket (socket(7), SO_ATTACH_FILTER).
pub fn attach_filter(fd: BorrowedFd<'_>, program: &[libc::sock_filter]) -> nix::Result<()> {
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

// ---- user namespaces

/// Makes a user namespace and lets it go again: whether one can be made now.
///
/// # Errors
/// Those of clone3(2).
pub fn try_user_namespace() -> nix::Result<()> {
    match clone3(libc::CLONE_NEWUSER as u64, None)? {
        Cloned::Child => exit_now(0),
        Cloned::Parent { pid, .. } => nix::sys::wait::waitpid(pid, None).map(drop),
    }
}

/// Moves this process into a user namespace in which its own uid and gid are the
/// only ones, and into a mount namespace of that one's (user_namespaces(7)).
///
/// # Errors
/// What was being done, and the kernel's reason.
pub fn enter_user_namespace() -> Result<(), (String, Errno)> {
    use nix::sched::{CloneFlags, unshare};
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)
        .map_err(|errno| ("unshare".to_owned(), errno))?;
    let texts = [
        ("uid_map", format!("{uid} {uid} 1\n")),
        // Without this the kernel lets nobody unprivileged map a gid.
        ("setgroups", "deny".to_owned()),
        ("gid_map", format!("{gid} {gid} 1\n")),
    ];
    for (file, text) in texts {
        std::fs::write(format!("/proc/self/{file}"), text)
            .map_err(|error| (file.to_owned(), Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))))?;
    }
    Ok(())
}
