//! An OCI runtime spec, made real by the kernel. Knows nothing of php-fpm or pools.
//!
//! [`Plan::new`] refuses what can be refused, [`launch`] clones, the child
//! (`child.rs`) applies the plan and executes the program.

pub mod audit;
pub mod block;
mod borrowed;
pub mod cgroup;
mod child;
pub mod gate;
mod keeper;
pub mod landlock;
pub mod mounts;
pub mod network;
mod plan;
pub mod seccomp;
pub mod step;
mod sysctl;
pub mod template;
pub mod uplink;
mod users;
pub mod visit;

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use gate::{Gate, Passage};
pub use network::SpareNetwork;
use plan::Maps;
pub use plan::Plan;
use step::{At, Step, StepError};

use crate::sys;

/// Descriptors that the plan places in the child are below this number.
const LOWEST_OWN: i32 = 64;

/// A child on its way to execve(2).
#[derive(Debug)]
pub struct Launched {
    /// Its pid, by the caller's pid namespace.
    pub pid: Pid,
    /// Its pidfd: readable when it has ended.
    pub pidfd: OwnedFd,
    /// Readable when it has become its program or failed: see [`Launched::outcome`].
    pub status: OwnedFd,
    /// Where calls of it wait, while some do: to be [served](Launched::serve) whenever it is readable.
    pub gate: Option<Gate>,
    /// Where it waits for its network, if the plan says so.
    pub network: Option<OwnedFd>,
}

/// How far a launch has come.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Still between clone3(2) and execve(2).
    Pending,
    /// The program runs.
    Executed,
    /// A step failed; the child ends.
    Failed(StepError),
}

/// Creates the process of `plan`, born in `cgroup`, and returns while it sets
/// up its walls. A plan that asks for a network namespace gets the one in
/// `stock`, if there is one.
///
/// # Errors
/// The failing step. The child, if there was one, is dead then.
pub fn launch(
    plan: &Plan,
    cgroup: Option<BorrowedFd<'_>>,
    mut stock: Option<&mut SpareNetwork>,
) -> Result<Launched, StepError> {
    const NETWORK: u64 = libc::CLONE_NEWNET as u64;
    let (status, status_of_child) = pipe(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).at(Step::Clone, "")?;
    let (go_of_child, go) = pipe(OFlag::O_CLOEXEC).at(Step::Clone, "")?;
    let (gate, gate_of_child) = match plan.prepare.waiting.as_ref().map(Gate::new).transpose() {
        Ok(gate) => gate.map(|(gate, of_child)| (gate, lift(of_child))).unzip(),
        Err(errno) => return Err(StepError::new(Step::AwaitCalls, "", errno)),
    };
    let gate_of_child = gate_of_child.transpose().at(Step::AwaitCalls, "")?;
    let wanted = plan.prepare.namespaces;
    // Over the one in stock, which is of howdah's user namespace, the child has no right to set anything.
    let any = wanted & NETWORK != 0 && !plan.prepare.sysctls.of_network;
    let entered = any && stock.as_mut().is_some_and(|stock| stock.enter());
    if plan.prepare.given_network && !entered {
        let object = "(the network with a way out cannot be entered)";
        return Err(StepError::new(Step::Clone, object, Errno::EPERM));
    }
    let made = if entered { wanted & !NETWORK } else { wanted };
    let identity = &plan.bind.identity;
    let cloned = match identity.maps {
        Maps::Late => borrowed::clone_as(identity.uid, identity.gid, || sys::clone3(made, cgroup)),
        Maps::None | Maps::Now(..) => sys::clone3(made, cgroup),
    };
    if let Ok(sys::Cloned::Child) = cloned {
        drop((status, go, gate));
        child::run(plan, made, status_of_child, go_of_child, gate_of_child)
    }
    if let Some(stock) = stock.filter(|_| entered) {
        stock.go_home();
    }
    match cloned.at(Step::Clone, "")? {
        sys::Cloned::Child => unreachable!("the child has gone its way"),
        sys::Cloned::Parent { pid, pidfd } => {
            drop((status_of_child, go_of_child, gate_of_child));
            let mapped = map_identity(plan, pid).and_then(|()| raise_limits(plan, pid, &go));
            let mut launched = Launched { pid, pidfd, status, gate, network: None };
            if let Err(error) = mapped {
                // While `go` is open: closed, it would make the child say that howdah is gone. Nobody else
                // waits for it, and as long as it is there its cgroup is.
                launched.kill();
                let _ = nix::sys::wait::waitpid(pid, None);
                // What the child says happened first, and is nearer to the cause.
                return Err(match launched.outcome() {
                    Outcome::Failed(first) => first,
                    Outcome::Pending | Outcome::Executed => error,
                });
            }
            launched.network = plan.release.awaits_network.then_some(go);
            Ok(launched)
        }
    }
}

impl Launched {
    /// How far it has come; does not wait.
    pub fn outcome(&self) -> Outcome {
        let mut bytes = [0; libc::PIPE_BUF];
        match nix::unistd::read(self.status.as_raw_fd(), &mut bytes) {
            Ok(0) => Outcome::Executed,
            Ok(length) => Outcome::Failed(
                StepError::from_bytes(&bytes[..length])
                    .unwrap_or_else(|| StepError::new(Step::Execute, "(unreadable status)", Errno::EBADMSG)),
            ),
            Err(Errno::EAGAIN | Errno::EINTR) => Outcome::Pending,
            Err(errno) => Outcome::Failed(StepError::new(Step::Execute, "(status pipe)", errno)),
        }
    }

    /// Lets the calls through that wait at the gate and are expected; does not wait.
    ///
    /// # Errors
    /// A call that is not expected. The child is dead then.
    pub fn serve(&mut self) -> Result<(), StepError> {
        let Some(gate) = &mut self.gate else { return Ok(()) };
        match gate.serve(self.pid) {
            Ok(Passage::Open) => {}
            Ok(Passage::Closed) => self.gate = None,
            Err(error) => {
                self.gate = None;
                self.kill();
                // What the child says happened first, and is nearer to the cause.
                return match self.outcome() {
                    Outcome::Failed(first) => Err(first),
                    Outcome::Pending | Outcome::Executed => Err(error),
                };
            }
        }
        Ok(())
    }

    /// Lets a program that waits for its network go on: to execve(2), or past its gate.
    ///
    /// # Errors
    /// EPIPE: it has ended. That of epoll_ctl(2).
    pub fn network_is_up(&mut self) -> nix::Result<()> {
        self.gate.as_mut().map_or(Ok(()), Gate::hand_over)?;
        self.network.take().map_or(Ok(()), |gate| nix::unistd::write(gate, b"!").map(drop))
    }

    /// Whether it is dead, reaped or not (pidfd_open(2): its descriptor is readable then).
    pub fn has_ended(&self) -> bool {
        gate::is_readable(self.pidfd.as_fd())
    }

    /// Kills it and, as it is process 1 of its pid namespace, all that it started (pid_namespaces(7)).
    pub fn kill(&self) {
        let _ = sys::pidfd_send_signal(self.pidfd.as_fd(), Signal::SIGKILL);
    }
}

/// Writes the id maps.
fn map_identity(plan: &Plan, pid: Pid) -> Result<(), StepError> {
    let Maps::Now(uids, gids) = &plan.bind.identity.maps else { return Ok(()) };
    write_maps(pid, uids, gids)
}

fn write_maps(pid: Pid, uids: &str, gids: &str) -> Result<(), StepError> {
    for (file, text) in [("uid_map", uids), ("gid_map", gids)] {
        let path = format!("/proc/{pid}/{file}");
        fs::write(&path, text).map_err(|error| {
            let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
            StepError::new(Step::MapIdentity, format!("({file}: {})", text.trim()), errno)
        })?;
    }
    Ok(())
}

/// Sets the limits that are above our own hard ones, which the child may not
/// (setrlimit(2): CAP_SYS_RESOURCE in the first user namespace), and lets it go on.
fn raise_limits(plan: &Plan, pid: Pid, go: &OwnedFd) -> Result<(), StepError> {
    give_up_protection(plan.bind.oom_score_adj, pid)?;
    for limit in plan.bind.rlimits.iter().filter(|limit| limit.raises) {
        sys::set_limit_of(pid, limit.resource, limit.soft, limit.hard).at(Step::RaiseLimit, limit.words())?;
    }
    nix::unistd::write(go, b"!").at(Step::MapIdentity, "").map(drop)
}

/// Takes from `pid` what spares howdah itself when the machine is out of memory.
fn give_up_protection(score: Option<i32>, pid: Pid) -> Result<(), StepError> {
    let own = fs::read_to_string("/proc/self/oom_score_adj").ok().and_then(|text| text.trim().parse().ok());
    let Some(score) = score.filter(|score| own.is_some_and(|own: i32| own < *score)) else { return Ok(()) };
    fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string()).map_err(|error| {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
        StepError::new(Step::RaiseLimit, format!("oom_score_adj to {score}"), errno)
    })
}

/// A pipe whose ends lie above the numbers that the plan gives out.
fn pipe(flags: OFlag) -> nix::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = nix::unistd::pipe2(flags)?;
    Ok((lift(reader)?, lift(writer)?))
}

/// The same open file at a number that the plan does not give out.
fn lift(fd: OwnedFd) -> nix::Result<OwnedFd> {
    use nix::fcntl::{FcntlArg, fcntl};
    fcntl(fd.as_raw_fd(), FcntlArg::F_DUPFD_CLOEXEC(LOWEST_OWN)).map(sys::owned)
}
