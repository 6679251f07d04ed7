//! The network namespace with a way out, and who owns it: made first, given to an account later. The
//! packet filter's rules can stand there before.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::{NOT_EXECUTED, Programs, become_filter, close_all_but, memory_file};
use crate::sandbox::keeper::Keeper;
use crate::sandbox::step::{At, Step, StepError};
use crate::sandbox::{child, gate, pipe};
use crate::sys;

/// The nice value of a filter's program that nobody waits for.
const NICE: i32 = 19;
/// How long one is given.
const FILTER_LIMIT: Duration = Duration::from_secs(1);

/// The network namespace of one sandbox, and the user namespace that owns it.
#[derive(Debug)]
pub struct Net {
    pub(super) owner: OwnedFd,
    pub(super) net: OwnedFd,
    /// Its root's uid and gid outside.
    pub(super) root: (u32, u32),
    /// The rules that are in force already.
    pub(super) rules: Option<String>,
}

/// The same before anybody's account is its root: a sandbox can live in it, and nothing leads out.
#[derive(Debug)]
pub struct Unclaimed {
    keeper: Keeper,
    net: OwnedFd,
    filter: Option<Filter>,
}

/// The filter's program, at work or done.
#[derive(Debug)]
struct Filter {
    pid: Pid,
    pidfd: OwnedFd,
    begun: Instant,
    rules: String,
}

impl Unclaimed {
    /// Makes both namespaces, with loopback up.
    ///
    /// # Errors
    /// Those of clone3(2), and that of raising loopback.
    pub fn new() -> Result<Self, StepError> {
        let words = "(the network namespace with a way out)";
        let (told, told_by_child) = pipe(OFlag::O_CLOEXEC).at(Step::Clone, words)?;
        let first = || {
            let up = sys::raise_loopback().is_ok();
            let _ = nix::unistd::write(&told_by_child, &[u8::from(up)]);
        };
        let keeper = Keeper::new(libc::CLONE_NEWNET, first).at(Step::Clone, words)?;
        drop(told_by_child);
        let mut up = [0];
        let read = nix::unistd::read(told.as_raw_fd(), &mut up);
        if read.at(Step::RaiseLoopback, "")? != 1 || up != [1] {
            return Err(StepError::new(Step::RaiseLoopback, "(with a way out)", Errno::EIO));
        }
        let net = keeper.namespace("net").at(Step::Clone, words)?;
        Ok(Self { keeper, net, filter: None })
    }

    /// The network namespace.
    pub fn namespace(&self) -> BorrowedFd<'_> {
        self.net.as_fd()
    }

    /// The process that keeps it.
    pub fn pid(&self) -> Pid {
        self.keeper.pid()
    }

    /// Has the filter's program of `programs` put its rules in force, and does not wait for it. Where it
    /// comes to nothing, or where other rules are wanted by then, they are made when they are needed.
    ///
    /// # Errors
    /// Before there is a process.
    pub fn filter_ahead(&mut self, programs: &Programs) -> Result<(), StepError> {
        let words = "(ahead)";
        let rules = memory_file(&programs.rules).at(Step::FilterNetwork, words)?;
        let null = File::options().read(true).write(true).open("/dev/null");
        let null = null.map_err(|_| Errno::ENXIO).at(Step::FilterNetwork, words)?;
        match sys::clone3(0, None).at(Step::FilterNetwork, words)? {
            sys::Cloned::Child => {
                let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
                let closed = close_all_but(&[self.net.as_fd(), rules.as_fd(), null.as_fd()]);
                let _ = closed
                    .and_then(|()| child::reset_signals())
                    .and_then(|()| become_filter(self.net.as_fd(), programs, rules.as_fd(), null.as_fd()));
                sys::exit_now(NOT_EXECUTED)
            }
            sys::Cloned::Parent { pid, pidfd } => {
                let _ = sys::set_nice(pid, NICE);
                let (begun, rules) = (Instant::now(), programs.rules.clone());
                self.filter = Some(Filter { pid, pidfd, begun, rules });
                Ok(())
            }
        }
    }

    /// Whether nothing is at work in it.
    pub fn is_settled(&self) -> bool {
        self.filter.as_ref().is_none_or(|one| one.has_ended() || one.begun.elapsed() > FILTER_LIMIT)
    }

    /// Makes `uid` and `gid` root of the user namespace; there is nobody else in it.
    ///
    /// # Errors
    /// That of writing the id maps.
    pub fn belong_to(self, uid: u32, gid: u32) -> Result<Net, StepError> {
        let words = "(of the network's owner)";
        let owner = self.keeper.namespace("user").at(Step::MapIdentity, words)?;
        self.keeper.map(&format!("0 {uid} 1\n"), &format!("0 {gid} 1\n")).at(Step::MapIdentity, words)?;
        let rules = self.filter.and_then(Filter::end);
        Ok(Net { owner, net: self.net, root: (uid, gid), rules })
    }
}

impl Filter {
    fn has_ended(&self) -> bool {
        gate::is_readable(self.pidfd.as_fd())
    }

    /// The rules, if they are in force. One that is still at work ends, and with it what it was about to
    /// do: rules come in one transaction.
    fn end(mut self) -> Option<String> {
        let done = matches!(waitpid(self.pid, Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::Exited(_, 0)));
        done.then(|| std::mem::take(&mut self.rules))
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        // Where it has been waited for, the descriptor's process is gone.
        if sys::pidfd_send_signal(self.pidfd.as_fd(), Signal::SIGKILL).is_ok() {
            let _ = waitpid(self.pid, None);
        }
    }
}
