//! "Is there a request in this generation?" Everything is made to stand still,
//! then looked at: is any descriptor of a worker a connection accepted from our
//! listening sockets, and does any worker stand anywhere but in accept() on one?
//! Neither: it may be killed, and nothing can be lost, for whatever arrives now
//! waits in the listen queue.
//!
//! Workers are the children of process 1 that run its program. What a script
//! has left running beside them does not keep a pool up.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, SockaddrLike, SockaddrStorage, getsockname, getsockopt, setsockopt, sockopt,
};
use nix::unistd::Pid;
use syscalls::Sysno;

use crate::sandbox::cgroup::Cgroup;
use crate::sys;

/// How often a generation that is freezing is asked whether it stands still.
const ASK: Duration = Duration::from_micros(200);

/// What one of our listening sockets looks like from outside.
#[derive(Debug, Clone)]
pub struct Door {
    /// Its inode, as `/proc/PID/fd` shows it.
    inode: u64,
    address: SockaddrStorage,
}

impl Door {
    /// The marks of a listening socket.
    ///
    /// # Errors
    /// Those of fstat(2) and getsockname(2).
    pub fn of(listener: impl AsFd) -> nix::Result<Self> {
        let raw = listener.as_fd().as_raw_fd();
        Ok(Self { inode: nix::sys::stat::fstat(raw)?.st_ino, address: getsockname(raw)? })
    }

    /// Whether this is the door of `listener`.
    pub fn is_of(&self, listener: impl AsFd) -> bool {
        nix::sys::stat::fstat(listener.as_fd().as_raw_fd()).is_ok_and(|data| data.st_ino == self.inode)
    }

    /// Whether `socket` is a connection that came in here: it has the door's address.
    fn admitted(&self, socket: &OwnedFd) -> bool {
        let Ok(local) = getsockname::<SockaddrStorage>(socket.as_raw_fd()) else {
            // What cannot be told counts as a request.
            return true;
        };
        if local.family() != self.address.family() {
            return false;
        }
        match local.family() {
            Some(AddressFamily::Unix) => {
                local.as_unix_addr().and_then(|a| a.path())
                    == self.address.as_unix_addr().and_then(|a| a.path())
            }
            // A listener on every address gives its connections one address: the port tells.
            Some(AddressFamily::Inet) => {
                local.as_sockaddr_in().map(|a| a.port()) == self.address.as_sockaddr_in().map(|a| a.port())
            }
            Some(AddressFamily::Inet6) => {
                local.as_sockaddr_in6().map(|a| a.port()) == self.address.as_sockaddr_in6().map(|a| a.port())
            }
            _ => false,
        }
    }
}

/// How a generation is made to stand still.
#[derive(Debug)]
pub enum Freezer {
    /// By its cgroup's freezer.
    Cgroup(Cgroup),
    /// By SIGSTOP to each process, where howdah has no cgroup of its own.
    Signals,
}

impl Freezer {
    /// The cgroup of the generation, if it has one.
    pub fn into_cgroup(self) -> Option<Cgroup> {
        match self {
            Self::Cgroup(cgroup) => Some(cgroup),
            Self::Signals => None,
        }
    }

    /// Asks for standstill.
    ///
    /// # Errors
    /// The freezer's.
    pub fn freeze(&self, master: Pid) -> io::Result<()> {
        match self {
            Self::Cgroup(cgroup) => cgroup.set_frozen(true),
            Self::Signals => {
                // The master first, so that it does not answer to what happens to the others;
                // again until nobody new was born meanwhile.
                let mut seen = 0;
                loop {
                    let all = tree(master);
                    if all.len() == seen {
                        return Ok(());
                    }
                    seen = all.len();
                    all.iter().for_each(|pid| {
                        signal_member(*pid, master, Signal::SIGSTOP);
                    });
                }
            }
        }
    }

    /// Whether it has come to a standstill, or does so while it is asked `times`, 200 µs apart.
    ///
    /// # Errors
    /// The freezer's.
    pub fn is_frozen_soon(&self, master: Pid, times: u32) -> io::Result<bool> {
        for _ in 1..times {
            if self.is_frozen(master)? {
                return Ok(true);
            }
            std::thread::sleep(ASK);
        }
        self.is_frozen(master)
    }

    /// Whether it has come to a standstill.
    ///
    /// # Errors
    /// The freezer's.
    fn is_frozen(&self, master: Pid) -> io::Result<bool> {
        match self {
            Self::Cgroup(cgroup) => cgroup.is_frozen(),
            Self::Signals => {
                Ok(tree(master).iter().all(|pid| matches!(state_of(*pid), Some('T' | 't' | 'Z'))))
            }
        }
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// The freezer's.
    pub fn thaw(&self, master: Pid) -> io::Result<()> {
        match self {
            Self::Cgroup(cgroup) => cgroup.set_frozen(false),
            Self::Signals => {
                // The master last: it must not see its workers stopped and think that it traces them.
                tree(master).iter().rev().for_each(|pid| {
                    signal_member(*pid, master, Signal::SIGCONT);
                });
                Ok(())
            }
        }
    }

    /// The cgroup, if there is one.
    pub fn cgroup(&self) -> Option<&Cgroup> {
        match self {
            Self::Cgroup(cgroup) => Some(cgroup),
            Self::Signals => None,
        }
    }
}

/// Signals `pid` if it is of the generation of `master`. Its number was read a
/// moment ago, and may be another's by now: the pid namespace tells whose it is.
fn signal_member(pid: Pid, master: Pid, signal: Signal) {
    let Ok(handle) = sys::pidfd_open(pid) else { return };
    let namespace = |pid| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    if namespace(pid).is_some_and(|of_pid| Some(of_pid) == namespace(master)) {
        let _ = sys::pidfd_send_signal(handle.as_fd(), signal);
    }
}

/// The fields of `/proc/PID/stat` from the third on (proc_pid_stat(5)); the second may contain anything.
fn stat_fields(pid: Pid) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, tail) = text.rsplit_once(')')?;
    Some(tail.split_whitespace().map(str::to_owned).collect())
}

fn state_of(pid: Pid) -> Option<char> {
    stat_fields(pid)?.first()?.chars().next()
}

/// When the process was started, in the kernel's ticks since boot; `None`: it is gone.
pub fn start_time(pid: Pid) -> Option<u64> {
    stat_fields(pid)?.get(19)?.parse().ok()
}

/// The children of a process.
fn children(pid: Pid) -> Vec<Pid> {
    let parse = |text: &str| {
        text.split_whitespace().filter_map(|word| word.parse().ok()).map(Pid::from_raw).collect()
    };
    if let Ok(text) = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")) {
        return parse(&text);
    }
    // A kernel without CONFIG_PROC_CHILDREN.
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).map(Pid::from_raw);
    let parent = pid.to_string();
    pids.filter(|pid| stat_fields(*pid).is_some_and(|fields| fields.get(1) == Some(&parent))).collect()
}

/// `root` and all below it, parents first.
pub fn tree(root: Pid) -> Vec<Pid> {
    let mut all = vec![root];
    let mut next = 0;
    while let Some(pid) = all.get(next).copied() {
        all.extend(children(pid));
        next += 1;
    }
    all
}

/// The workers of php-fpm: the master's children that run the master's program,
/// or a program that cannot be told.
fn workers(master: Pid) -> Vec<Pid> {
    let program = |pid: Pid| fs::read_link(format!("/proc/{pid}/exe")).ok();
    let own = program(master);
    children(master)
        .into_iter()
        .filter(|pid| state_of(*pid).is_some_and(|state| state != 'Z'))
        .filter(|pid| own.is_none() || program(*pid).is_none_or(|it| Some(it) == own))
        .collect()
}

/// What the workers had done when they were last looked at, without stopping
/// anything: how often each has gone to sleep or been put to sleep. An idle
/// worker sleeps in accept(), and nothing but a connection wakes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Activity(BTreeMap<Pid, u64>);

impl Activity {
    /// Reads it.
    pub fn read(master: Pid) -> Self {
        Self(workers(master).into_iter().filter_map(|pid| Some((pid, switches(pid)?))).collect())
    }

    /// Whether a worker ran since `before`. One that is new did; one that is gone did not.
    pub fn since(&self, before: &Self) -> bool {
        self.0.iter().any(|(pid, count)| before.0.get(pid) != Some(count))
    }
}

fn switches(pid: Pid) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let counts = text.lines().filter(|line| line.contains("ctxt_switches"));
    Some(counts.filter_map(|line| line.rsplit_once('\t')?.1.parse::<u64>().ok()).sum())
}

/// Whether any worker holds a connection from one of `doors`. The processes need not stand still.
pub fn holds_connection(master: Pid, doors: &[Door]) -> bool {
    workers(master).into_iter().any(|worker| {
        has_connection(worker, doors).unwrap_or_else(|error| {
            // A worker that died while it was looked at holds nothing: to take it for one that
            // serves would call a start good whose workers die one after the other.
            !matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
        })
    })
}

/// Whether a request is in the generation; all of it must stand still.
///
/// What cannot be read counts as a request.
pub fn is_busy(master: Pid, doors: &[Door]) -> bool {
    workers(master).into_iter().any(|worker| {
        !stands_in_accept(worker, doors).unwrap_or(false) || has_connection(worker, doors).unwrap_or(true)
    })
}

/// Whether the process sleeps in accept() on one of `doors` (`/proc/PID/syscall`, proc_pid_syscall(5)).
fn stands_in_accept(pid: Pid, doors: &[Door]) -> io::Result<bool> {
    let text = fs::read_to_string(format!("/proc/{pid}/syscall"))?;
    let mut words = text.split_whitespace();
    let number = words.next().and_then(|word| word.parse::<i32>().ok());
    let accepts = number.is_some_and(|n| [Sysno::accept.id(), Sysno::accept4.id()].contains(&n));
    let argument = words.next().and_then(|word| i32::from_str_radix(word.trim_start_matches("0x"), 16).ok());
    let (true, Some(argument)) = (accepts, argument) else { return Ok(false) };
    let socket = socket_inode(pid, argument)?;
    Ok(doors.iter().any(|door| Some(door.inode) == socket))
}

/// The inode of a descriptor that is a socket.
fn socket_inode(pid: Pid, descriptor: i32) -> io::Result<Option<u64>> {
    let link = fs::read_link(format!("/proc/{pid}/fd/{descriptor}"))?;
    let text = link.to_str().unwrap_or_default();
    Ok(text
        .strip_prefix("socket:[")
        .and_then(|rest| rest.strip_suffix(']'))
        .and_then(|inode| inode.parse().ok()))
}

fn has_connection(pid: Pid, doors: &[Door]) -> io::Result<bool> {
    let mut handle = None;
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // One that was closed since the directory was read is no connection any more.
        let Ok(Some(inode)) = socket_inode(pid, number) else { continue };
        if doors.iter().any(|door| door.inode == inode) {
            continue;
        }
        let pidfd = match &handle {
            Some(pidfd) => pidfd,
            None => handle.insert(sys::pidfd_open(pid)?),
        };
        match sys::pidfd_getfd(pidfd.as_fd(), number) {
            Ok(socket) => {
                let admitted = doors.iter().any(|door| door.admitted(&socket));
                let_go(socket);
                if admitted {
                    return Ok(true);
                }
            }
            Err(nix::errno::Errno::EBADF) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(false)
}

/// Closes a duplicate. If its owner has closed it meanwhile this is the last one, and with SO_LINGER
/// (socket(7)) close would wait for the peer as long as a tenant has said.
fn let_go(socket: OwnedFd) {
    let lingers =
        getsockopt(&socket, sockopt::Linger).is_ok_and(|told| told.l_onoff != 0 && told.l_linger > 0);
    if lingers {
        let _ = setsockopt(&socket, sockopt::Linger, &libc::linger { l_onoff: 0, l_linger: 0 });
    }
}
