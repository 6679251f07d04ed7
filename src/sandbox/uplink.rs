//! A network namespace with a way out: made, filtered, and served by a program
//! that stands outside and carries what comes through a tap device (pasta(1)).
//!
//! Namespace and program belong to a user namespace of their own, in which one
//! uid is root and is, outside, an account without rights. The sandbox's user
//! namespace is another one: nobody in it has a capability over this network, and
//! neither has the account on the host, for the owner is howdah's root
//! (user_namespaces(7)).

mod net;

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::fchown;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::memfd::{MemFdCreateFlag, memfd_create};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Gid, Pid, Uid};

pub use self::net::{Net, Unclaimed};
use super::step::{At, Step, StepError};
use super::{child, pipe};
use crate::sys;

/// Exit status of a child that became neither of the programs; the reason is in its messages.
const NOT_EXECUTED: i32 = 70;

/// What makes a way out of a [`Net`].
#[derive(Debug, Clone)]
pub struct Programs {
    /// The packet filter's program and its arguments; it reads `rules` from its standard input,
    /// inside the network namespace, before there is any way out.
    pub filter: Vec<CString>,
    /// The rules.
    pub rules: String,
    /// The program that carries, and its arguments. Its descriptor 0 is the network
    /// namespace; it writes a line to descriptor 1 when it is ready, and its errors to 2.
    pub carrier: Vec<CString>,
}

/// The running carrier of one sandbox.
#[derive(Debug)]
pub struct Uplink {
    /// The carrier's pid, by the caller's pid namespace.
    pub pid: Pid,
    /// Readable when it has ended.
    pub pidfd: OwnedFd,
    /// Readable when it is ready or has ended; `None`: it is ready.
    ready: Option<OwnedFd>,
    messages: Option<OwnedFd>,
}

/// How an [`Uplink`] is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Not ready yet.
    Starting,
    /// It carries.
    Up,
    /// It has ended; its last line, or how.
    Ended(String),
}

impl Net {
    /// Starts what makes the way out, in `cgroup`: first the filter, and when it has
    /// taken the rules, the carrier. Does not wait for either.
    ///
    /// # Errors
    /// Before there is a process; what goes wrong in it is the uplink's [`Condition`].
    pub fn serve(&self, programs: &Programs, cgroup: Option<BorrowedFd<'_>>) -> Result<Uplink, StepError> {
        let words = "(the way out)";
        let in_force = self.rules.as_ref() == Some(&programs.rules);
        let rules = (!in_force).then(|| memory_file(&programs.rules)).transpose();
        let rules = rules.at(Step::FilterNetwork, words)?;
        let (ready, ready_of_child) = pipe(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).at(Step::Clone, words)?;
        // Neither end waits: a carrier that talks while nobody listens must not stand still.
        let (messages, messages_of_child) =
            pipe(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).at(Step::Clone, words)?;
        // The carrier opens it anew by /proc/self/fd/1, as the account.
        fchown(&ready_of_child, Some(self.root.0), Some(self.root.1))
            .map_err(|error| errno_of(&error))
            .at(Step::Clone, words)?;
        match sys::clone3(0, cgroup).at(Step::Clone, words)? {
            sys::Cloned::Child => {
                drop((ready, messages));
                let ends = [self.net.as_fd(), ready_of_child.as_fd(), messages_of_child.as_fd()];
                let rules = rules.as_ref().map(AsFd::as_fd);
                let Err(error) = become_carrier(self, programs, rules, ends);
                let _ = nix::unistd::write(&messages_of_child, format!("{error}\n").as_bytes());
                sys::exit_now(NOT_EXECUTED)
            }
            sys::Cloned::Parent { pid, pidfd } => {
                Ok(Uplink { pid, pidfd, ready: Some(ready), messages: Some(messages) })
            }
        }
    }
}

/// The child of [`Net::serve`], from its birth to execve(2).
fn become_carrier(
    net: &Net,
    programs: &Programs,
    rules: Option<BorrowedFd<'_>>,
    [namespace, ready, messages]: [BorrowedFd<'_>; 3],
) -> Result<Infallible, StepError> {
    // 1. Signals first: pasta takes a SIGPIPE that is ignored already for an error.
    child::reset_signals()?;
    nix::unistd::setsid().at(Step::StartSession, "")?;
    sys::join_session_keyring().at(Step::JoinKeyring, "")?;
    // 2. What is howdah's goes now, not at execve: the filter's program may take its time, and a
    //    howdah that dies meanwhile must not have its sockets and its lock live on here.
    let kept: Vec<_> = [net.owner.as_fd(), namespace, ready, messages].into_iter().chain(rules).collect();
    close_all_but(&kept)?;
    // 3. The rules before the way: there must be no moment with the one and without the other.
    //    Those that are in force already are these to the letter.
    rules.map_or(Ok(()), |rules| filter(namespace, programs, rules, messages))?;
    // 4. Groups while we are root; then the account, with capabilities over its own
    //    user namespace and the network in it, and over nothing else.
    nix::unistd::setgroups(&[]).at(Step::TakeIdentity, "(groups)")?;
    setns(net.owner.as_fd(), CloneFlags::CLONE_NEWUSER).at(Step::TakeIdentity, "(the network's owner)")?;
    let (gid, uid) = (Gid::from_raw(0), Uid::from_raw(0));
    nix::unistd::setresgid(gid, gid, gid).at(Step::TakeIdentity, "(the network's owner)")?;
    nix::unistd::setresuid(uid, uid, uid).at(Step::TakeIdentity, "(the network's owner)")?;
    // 5. Descriptors last: newer pastas close all above 2, so that the namespace must be one of these.
    execute(&programs.carrier, [namespace, ready, messages])
}

/// Closes every descriptor but these.
fn close_all_but(kept: &[BorrowedFd<'_>]) -> Result<(), StepError> {
    let mut numbers: Vec<u32> = kept.iter().map(|fd| fd.as_raw_fd().unsigned_abs()).collect();
    numbers.sort_unstable();
    let mut from = 0;
    for number in numbers {
        if number > from {
            sys::close_range(from, number - 1, false).at(Step::ArrangeDescriptors, "(of the way out)")?;
        }
        from = number + 1;
    }
    sys::close_range(from, u32::MAX, false).at(Step::ArrangeDescriptors, "(of the way out)")
}

/// Runs the filter's program inside the network namespace, to its end.
fn filter(
    net: BorrowedFd<'_>,
    programs: &Programs,
    rules: BorrowedFd<'_>,
    messages: BorrowedFd<'_>,
) -> Result<(), StepError> {
    let name = || programs.filter.first().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
    match sys::clone3(0, None).at(Step::FilterNetwork, name())? {
        sys::Cloned::Child => {
            let Err(error) = become_filter(net, programs, rules, messages);
            let _ = nix::unistd::write(messages, format!("{error}\n").as_bytes());
            sys::exit_now(NOT_EXECUTED)
        }
        sys::Cloned::Parent { pid, .. } => match waitpid(pid, None).at(Step::FilterNetwork, name())? {
            WaitStatus::Exited(_, 0) => Ok(()),
            // It has said why.
            _ => sys::exit_now(NOT_EXECUTED),
        },
    }
}

/// As howdah's root: the filter's program needs no identity of its own, for the rules are howdah's.
fn become_filter(
    net: BorrowedFd<'_>,
    programs: &Programs,
    rules: BorrowedFd<'_>,
    messages: BorrowedFd<'_>,
) -> Result<Infallible, StepError> {
    setns(net, CloneFlags::CLONE_NEWNET).at(Step::FilterNetwork, "")?;
    execute(&programs.filter, [rules, messages, messages])
}

/// execve(2) with these as descriptors 0, 1 and 2, and nothing above them.
fn execute(argv: &[CString], ends: [BorrowedFd<'_>; 3]) -> Result<Infallible, StepError> {
    let words = || argv.first().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
    let refuse = Step::ArrangeDescriptors;
    // Above their places first: one may sit where another must go.
    let mut lifted = [0; 3];
    for (slot, end) in lifted.iter_mut().zip(ends) {
        *slot = fcntl(end.as_raw_fd(), FcntlArg::F_DUPFD_CLOEXEC(3)).at(refuse, words())?;
    }
    for (target, lifted) in lifted.into_iter().enumerate() {
        nix::unistd::dup2(lifted, target as i32).at(refuse, words())?;
    }
    sys::close_range(3, u32::MAX, true).at(refuse, words())?;
    nix::unistd::chdir("/").at(Step::Execute, words())?;
    let path = argv.first().ok_or_else(|| StepError::new(Step::Execute, "(no program)", Errno::EINVAL))?;
    let environment = [c"PATH=/usr/sbin:/usr/bin:/sbin:/bin"];
    nix::unistd::execve(path, argv, &environment).at(Step::Execute, words())
}

/// Replaces the rules of a network namespace that is in use; waits for the program's end.
///
/// # Errors
/// What the program said, or the step that failed.
pub fn replace_rules(namespace: BorrowedFd<'_>, programs: &Programs) -> Result<(), String> {
    let told = |errno: Errno| format!("{} ({errno:?})", errno.desc());
    let rules = memory_file(&programs.rules).map_err(told)?;
    let (said, said_of_child) = pipe(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).map_err(told)?;
    let pid = match sys::clone3(0, None).map_err(told)? {
        sys::Cloned::Child => {
            let Err(error) = become_filter(namespace, programs, rules.as_fd(), said_of_child.as_fd());
            let _ = nix::unistd::write(&said_of_child, error.to_string().as_bytes());
            sys::exit_now(NOT_EXECUTED)
        }
        sys::Cloned::Parent { pid, .. } => pid,
    };
    drop(said_of_child);
    match waitpid(pid, None).map_err(told)? {
        WaitStatus::Exited(_, 0) => Ok(()),
        status => Err(last_line(&said).unwrap_or_else(|| format!("{status:?}"))),
    }
}

impl Uplink {
    /// A carrier that an earlier howdah started.
    pub fn adopt(pid: Pid, pidfd: OwnedFd) -> Self {
        Self { pid, pidfd, ready: None, messages: None }
    }

    /// The descriptors that become readable when its [`Condition`] changes.
    pub fn signs(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        std::iter::once(self.pidfd.as_fd()).chain(self.ready.as_ref().map(AsFd::as_fd))
    }

    /// How it is; does not wait.
    pub fn condition(&mut self) -> Condition {
        let mut one = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        if poll(&mut one, PollTimeout::ZERO).is_ok_and(|ready| ready > 0) {
            let said = self.messages.as_ref().and_then(last_line);
            return Condition::Ended(said.unwrap_or_else(|| "it ended without a word".to_owned()));
        }
        let Some(ready) = &self.ready else { return Condition::Up };
        match nix::unistd::read(ready.as_raw_fd(), &mut [0; 32]) {
            Ok(1..) => Condition::Up,
            // The end of the file: it is about to end.
            _ => Condition::Starting,
        }
    }

    /// Whether it is not ready yet.
    pub fn is_starting(&self) -> bool {
        self.ready.is_some()
    }

    /// It is ready, and nothing more is expected on that descriptor.
    pub fn is_up(&mut self) {
        self.ready = None;
    }

    /// Kills it and, if it is a child of ours, waits for its end.
    pub fn end(&self) {
        let _ = sys::pidfd_send_signal(self.pidfd.as_fd(), Signal::SIGKILL);
        let _ = waitpid(self.pid, None);
    }
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

/// A file in memory that holds `text`, open at its beginning.
fn memory_file(text: &str) -> nix::Result<OwnedFd> {
    let mut file = File::from(memfd_create(c"rules", MemFdCreateFlag::MFD_CLOEXEC)?);
    file.write_all(text.as_bytes()).and_then(|()| file.rewind()).map_err(|error| errno_of(&error))?;
    Ok(file.into())
}

/// The last line that says something, of what is in the pipe.
fn last_line(messages: &OwnedFd) -> Option<String> {
    let mut bytes = [0; 8 << 10];
    let length = nix::unistd::read(messages.as_raw_fd(), &mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes[..length]);
    text.lines().map(str::trim).rfind(|line| !line.is_empty()).map(str::to_owned)
}
