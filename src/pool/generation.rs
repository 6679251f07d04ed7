//! One generation: a running container of a pool, from its launch to the end
//! of its last line.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, fchown};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use super::limits::{Counters, End, Kills, Reason};
use super::outbound::{self, OutboundError};
use super::prepare::{PrepareError, Prepared};
use super::quiesce::{Activity, Freezer};
use super::templates::{Lodging, Waiting};
use crate::config::pool::{Network, Pool};
use crate::fpm::log::{Line, Lines, classify, reason};
use crate::sandbox::cgroup::{Base, Cgroup, CgroupError};
use crate::sandbox::step::{Step, StepError};
use crate::sandbox::uplink::{Programs, Unclaimed, Uplink};
use crate::sandbox::visit::Home;
use crate::sandbox::{self, Launched, Plan, SpareNetwork};
use crate::spec;

/// Why a generation was not launched.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// A step of the sandbox.
    #[error(transparent)]
    Step(#[from] StepError),
    /// Its cgroup.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// Its way out.
    #[error(transparent)]
    Outbound(#[from] OutboundError),
    /// Its root directory.
    #[error(transparent)]
    Root(#[from] PrepareError),
    /// Limits were asked for and there is no cgroup to set them on.
    #[error(
        "limits {keys} need a cgroup v2 that howdah may write: run it as root, delegate a cgroup to it, \
         or take them out of the pool file"
    )]
    NoCgroup {
        /// Which: "memory.max pids.max".
        keys: String,
    },
}

impl LaunchError {
    /// Whether a file system cannot show its files as another's (mount_setattr(2): EINVAL), and never will.
    pub fn is_of_file_system(&self) -> bool {
        matches!(self, Self::Step(StepError { step: Step::MapOwners, errno: Errno::EINVAL, .. }))
    }
}

/// How long each part of a start took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Phases {
    /// Looking whether what it rests on is as it was, and where it is not, making that anew;
    /// also a template that failed.
    pub check: Duration,
    /// Making the cgroup.
    pub cgroup: Duration,
    /// Preparing mounts, before the clone.
    pub plan: Duration,
    /// Making the network with a way out; `None` where there is none.
    pub network: Option<Duration>,
    /// clone3(2) and the id map.
    pub clone: Duration,
    /// The child's steps, until execve(2).
    pub walls: Duration,
    /// Of a template: php-fpm reads its configuration and asks for its sockets, until it has them.
    pub sockets: Duration,
    /// php-fpm's own start, or what is left of it, until it is ready.
    pub ready: Duration,
    /// Until the connection was accepted.
    pub accepted: Duration,
}

impl Phases {
    /// All until php-fpm had what it starts with.
    pub fn before_ready(&self) -> Duration {
        self.check + self.cgroup + self.plan + self.clone + self.walls + self.sockets
    }
}

/// A running container.
pub struct Generation {
    /// Counted from 1 in the life of the runtime directory.
    pub number: u64,
    /// Process 1 and its handles.
    pub process: Launched,
    /// What carries its packets, where its network has a way out.
    pub uplink: Option<Uplink>,
    /// How it is made to stand still.
    pub freezer: Freezer,
    /// What its workers had done at the last look.
    pub activity: Activity,
    /// When it was asked for.
    pub began: Instant,
    /// Where the time went.
    pub phases: Phases,
    /// Whether its start was good.
    pub serves: bool,
    /// Its cgroup's files that tell that a limit was hit.
    pub limit_files: Vec<File>,
    /// What the cgroup had counted at the last look.
    pub counters: Counters,
    /// What the kernel has ended of it.
    pub kills: Kills,
    /// What it has said while it started; told when it is known how the start went.
    pub held: Vec<Line>,
    /// What it has on the host beside its cgroup, where it began as a template. It rests on that: forgotten
    /// without having been ended, as by a howdah that ends first, it keeps it.
    pub lodging: Option<ManuallyDrop<Lodging>>,
    log: OwnedFd,
    lines: Lines,
    last: VecDeque<Line>,
}

/// Lines kept for the reason of a failure.
const KEPT_LINES: usize = 32;

impl Generation {
    /// Launches `pool` with `listeners` as its sockets.
    ///
    /// # Errors
    /// The step that failed; nothing is left of it then.
    pub fn launch(
        pool: &Pool,
        prepared: &Prepared,
        listeners: &[BorrowedFd<'_>],
        number: u64,
        base: Option<&Base>,
        network: Option<&mut SpareNetwork>,
    ) -> Result<Self, LaunchError> {
        let began = Instant::now();
        prepared.make_root(pool)?;
        let mut phases = Phases { check: began.elapsed(), ..Phases::default() };
        let freezer = make_freezer(pool, prepared, number, base)?;
        phases.cgroup = began.elapsed() - phases.check;
        let cgroup = freezer.cgroup();
        let launched = match connect(pool, prepared, network, cgroup.map(AsFd::as_fd)) {
            Ok((uplink, mut own)) => {
                let launched = launch(pool, prepared, listeners, &freezer, own.get(), &mut phases);
                match launched {
                    Ok(launched) => Ok((launched, uplink)),
                    Err(error) => {
                        uplink.iter().for_each(Uplink::end);
                        Err(error)
                    }
                }
            }
            Err(error) => Err(error),
        };
        let ((process, log), uplink) =
            launched.inspect_err(|_| drop(freezer.cgroup().map(|cgroup| cgroup.remove())))?;
        Ok(Self { uplink, phases, ..Self::new(number, began, (process, log), freezer) })
    }

    /// Makes `waiting` the generation of `pool`, with `listeners` as its sockets and `programs` as what
    /// makes its way out, if it is to have one.
    ///
    /// # Errors
    /// The step that failed, of a template that is gone then: `pool` can be launched cold.
    pub fn from_template(
        (pool, number): (&Pool, u64),
        prepared: &Prepared,
        listeners: &[BorrowedFd<'_>],
        programs: Option<&Programs>,
        base: Option<&Base>,
        mut waiting: Waiting,
        home: &Home,
    ) -> Result<Self, LaunchError> {
        let began = Instant::now();
        let mut phases = Phases::default();
        let mut uplink = None;
        let mut bind = || {
            // First of all: it takes longer than the rest, and is made meanwhile.
            uplink = programs.map(|programs| waiting.connect(pool, programs)).transpose()?;
            if let Some(base) = base {
                let demanded = spec::demanded(&pool.limits);
                let limits = spec::limits_of(&prepared.spec);
                let limits = limits.iter().map(|(key, value)| (key.as_str(), value.as_str()));
                base.limit(&waiting.cgroup, limits, |key| demanded.contains(&key))?;
            }
            phases.cgroup = began.elapsed();
            let copies = listeners.iter().map(|one| one.try_clone_to_owned()).collect::<Result<_, _>>();
            let copies =
                copies.map_err(|_| StepError::new(Step::ArrangeDescriptors, "(sockets)", Errno::EMFILE))?;
            waiting.bind((pool, number), prepared, copies, home, &mut phases)?;
            Ok(())
        };
        if let Err(error) = bind() {
            uplink.iter().for_each(Uplink::end);
            waiting.end();
            return Err(error);
        }
        let Waiting { template, log, cgroup, lodging, .. } = waiting;
        let freezer = Freezer::Cgroup(cgroup);
        let made = Self::new(number, began, (template.into_process(), log), freezer);
        Ok(Self { uplink, phases, lodging: Some(ManuallyDrop::new(lodging)), ..made })
    }

    /// One that serves nobody yet.
    fn new(number: u64, began: Instant, (process, log): (Launched, OwnedFd), freezer: Freezer) -> Self {
        Self {
            number,
            process,
            uplink: None,
            counters: freezer.cgroup().map(count).unwrap_or_default(),
            freezer,
            activity: Activity::default(),
            began,
            phases: Phases::default(),
            serves: false,
            limit_files: Vec::new(),
            kills: Kills::default(),
            held: Vec::new(),
            lodging: None,
            log,
            lines: Lines::default(),
            last: VecDeque::new(),
        }
    }

    /// A generation that an earlier howdah launched: `pid` is its process 1, `pidfd` that process's.
    ///
    /// # Errors
    /// That of making a pipe.
    pub fn adopt(
        number: u64,
        (pid, pidfd): (Pid, OwnedFd),
        freezer: Freezer,
        uplink: Option<Uplink>,
    ) -> io::Result<Self> {
        // Nobody writes to it any more: the launch is over, and where the log is no pipe, so is that.
        let (status, _) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let log = match open_log(pid) {
            Some(log) => log,
            None => status.try_clone()?,
        };
        let process = Launched { pid, pidfd, status, gate: None, network: None };
        let made = Self::new(number, Instant::now(), (process, log), freezer);
        Ok(Self { uplink, activity: Activity::read(pid), serves: true, ..made })
    }

    /// The same, asked for at `when`: what came before the launch is a part of the start.
    #[must_use]
    pub fn asked_for(mut self, when: Instant) -> Self {
        self.phases.check += self.began.saturating_duration_since(when);
        self.began = when;
        self
    }

    /// The uid of its processes on the host: `pool`'s, or the one that it had before it was a pool's.
    pub fn uid(&self, pool: &Pool) -> u32 {
        self.lodging.as_ref().map_or(pool.user.uid, |lodging| lodging.ids.0)
    }

    /// The pipe of its descriptors 1 and 2.
    pub fn log(&self) -> BorrowedFd<'_> {
        self.log.as_fd()
    }

    /// Reads what it has written since the last time; false at the end of it.
    pub fn read_log(&mut self, mut each: impl FnMut(Line)) -> bool {
        let mut bytes = [0; 16 << 10];
        // Bounded: a tenant who writes without pause must not keep howdah here.
        for _ in 0..16 {
            let text = match nix::unistd::read(self.log.as_raw_fd(), &mut bytes) {
                Ok(0) => {
                    let rest = self.lines.finish();
                    rest.into_iter().for_each(|line| self.keep(&line, &mut each));
                    return false;
                }
                Ok(length) => self.lines.feed(&bytes[..length]),
                Err(Errno::EAGAIN | Errno::EINTR) => return true,
                Err(_) => return false,
            };
            text.iter().for_each(|line| self.keep(line, &mut each));
        }
        true
    }

    /// Counts anew: what limits have done since the last time.
    pub fn count_limits(&mut self) -> Vec<Reason> {
        let Some(cgroup) = self.freezer.cgroup() else { return Vec::new() };
        let now = count(cgroup);
        let before = std::mem::replace(&mut self.counters, now);
        if now == before {
            return Vec::new();
        }
        // Read from the kernel: the pool's file may have changed since, and an adopted generation is of an older one.
        let limits = ["memory.max", "memory.high", "pids.max", "cpu.max"];
        let limits = limits.map(|key| (key.to_owned(), cgroup.text(key).trim().to_owned()));
        let limits = limits.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        let reasons = now.since(&before, &limits);
        reasons.iter().for_each(|reason| self.kills.note(reason, Instant::now()));
        if now.oom_group_kill > 0 {
            self.kills.note_whole();
        }
        reasons
    }

    fn keep(&mut self, line: &str, each: &mut impl FnMut(Line)) {
        let line = classify(line);
        if self.last.len() == KEPT_LINES {
            self.last.pop_front();
        }
        self.last.push_back(line.clone());
        each(line);
    }

    /// php-fpm's own reason among its last lines.
    pub fn reason(&mut self) -> Option<String> {
        reason(self.last.make_contiguous())
    }

    /// Whether process 1 is dead, reaped or not.
    pub fn has_ended(&self) -> bool {
        self.process.has_ended()
    }

    /// How it ended, if it has; reaps it.
    pub fn reap(&self) -> Option<End> {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
        match waitid(Id::PIDFd(self.process.pidfd.as_fd()), flags) {
            Ok(WaitStatus::Exited(_, status)) => Some(End::Exited(status)),
            Ok(WaitStatus::Signaled(_, signal, _)) => Some(End::Killed(signal)),
            Ok(_) => None,
            // No child of ours but of a howdah that died: whoever inherited it knows how.
            Err(_) => self.has_ended().then_some(End::Unknown),
        }
    }
}

fn count(cgroup: &Cgroup) -> Counters {
    Counters::parse(&cgroup.text("memory.events"), &cgroup.text("pids.events"), &cgroup.text("cpu.stat"))
}

/// The reading end of the pipe that is descriptor 2 of `pid`, opened anew (fifo(7), proc_pid_fd(5)).
fn open_log(pid: Pid) -> Option<OwnedFd> {
    let path = format!("/proc/{pid}/fd/2");
    // Nothing else is opened: to open a device may be to do something.
    if !std::fs::metadata(&path).ok()?.file_type().is_fifo() {
        return None;
    }
    let log = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&path).ok()?;
    log.metadata().ok()?.file_type().is_fifo().then(|| log.into())
}

/// Where a launch takes its network namespace from.
enum Stock<'a> {
    /// The supervisor's, if it has one.
    Shared(Option<&'a mut SpareNetwork>),
    /// One that holds the namespace with a way out.
    Own(SpareNetwork),
}

impl Stock<'_> {
    fn get(&mut self) -> Option<&mut SpareNetwork> {
        match self {
            Self::Shared(stock) => stock.as_deref_mut(),
            Self::Own(stock) => Some(stock),
        }
    }
}

/// Begins to make the way out of a pool that is to have one. It is made while the
/// walls are, and php-fpm waits for both.
fn connect<'a>(
    pool: &Pool,
    prepared: &Prepared,
    stock: Option<&'a mut SpareNetwork>,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<(Option<Uplink>, Stock<'a>), LaunchError> {
    let Network::Outbound(outbound) = spec::network(pool, &prepared.profile) else {
        return Ok((None, Stock::Shared(stock)));
    };
    let stock = stock.ok_or(OutboundError::NotRoot)?;
    let programs = outbound::programs(outbound)?;
    let net = Unclaimed::new()?;
    let own = stock.of(net.namespace());
    let own = own.map_err(|errno| StepError::new(Step::Clone, "(the network with a way out)", errno))?;
    let net = net.belong_to(pool.user.uid, pool.user.gid)?;
    Ok((Some(net.serve(&programs, cgroup)?), Stock::Own(own)))
}

/// The cgroup of the generation with its limits, or signals where there is none.
fn make_freezer(
    pool: &Pool,
    prepared: &Prepared,
    number: u64,
    base: Option<&Base>,
) -> Result<Freezer, LaunchError> {
    let demanded = spec::demanded(&pool.limits);
    let Some(base) = base else {
        return match demanded.is_empty() {
            true => Ok(Freezer::Signals),
            false => Err(LaunchError::NoCgroup { keys: demanded.join(" ") }),
        };
    };
    let limits = spec::limits_of(&prepared.spec);
    let limits = limits.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let name = format!("{}.{number}", pool.name);
    Ok(Freezer::Cgroup(base.create(&name, limits, |key| demanded.contains(&key))?))
}

fn launch(
    pool: &Pool,
    prepared: &Prepared,
    listeners: &[BorrowedFd<'_>],
    freezer: &Freezer,
    network: Option<&mut SpareNetwork>,
    phases: &mut Phases,
) -> Result<(Launched, OwnedFd), LaunchError> {
    let refuse = |errno| StepError::new(Step::ArrangeDescriptors, "(before the clone)", errno);
    let from_io = |error: io::Error| refuse(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)));
    let begin = Instant::now();
    let (log, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(refuse)?;
    // Ours does not wait; theirs does, for php-fpm takes a full pipe for an error.
    nix::fcntl::fcntl(log.as_raw_fd(), nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(refuse)?;
    // php-fpm opens it anew by /proc/self/fd/2 for its access and slow logs, as the pool's user.
    fchown(&writer, Some(pool.user.uid), Some(pool.user.gid)).map_err(from_io)?;
    let null = File::open("/dev/null").map_err(from_io)?;
    let mut descriptors = vec![null.into(), writer.try_clone().map_err(from_io)?, writer];
    for listener in listeners {
        descriptors.push(listener.try_clone_to_owned().map_err(from_io)?);
    }
    let mut plan = Plan::new(&prepared.spec, prepared.seccomp.clone(), descriptors)?;
    if matches!(spec::network(pool, &prepared.profile), Network::Outbound(_)) {
        plan.await_network();
    }
    phases.plan = begin.elapsed();
    let begin = Instant::now();
    let process = sandbox::launch(&plan, freezer.cgroup().map(AsFd::as_fd), network)?;
    phases.clone = begin.elapsed();
    Ok((process, log))
}
