//! The supervisor: one thread, one epoll. The world becomes events for each
//! pool's machine, its actions become deeds. When every pool is cold it sleeps
//! without end.

use std::collections::{BTreeSet, VecDeque};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use super::activation::{self, Listener};
use super::admission::{Admission, Adopted, Fate};
use super::generation::Generation;
use super::machine::{Action, After, Event, State};
use super::prepare::{Places, Workshop};
use super::quiesce;
use super::record::{self, Entry, Record, Roll};
use super::refuse::Refused;
use super::slot::Slot;
use crate::config::pool::Pool;
use crate::config::types::Listen;
use crate::fpm::log::Kind;
use crate::journal::{self, Level, Origin};
use crate::sandbox::cgroup::Base;
use crate::sandbox::{Outcome, SpareNetwork};
use crate::sys;

/// How serve is to run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where it keeps its things.
    pub places: Places,
    /// How many pools may be starting at once.
    pub parallel_starts: usize,
    /// Whether it ends when no pool runs any more.
    pub exit_when_idle: bool,
}

/// Reads the pool files again: the good pools, and the files and directories
/// that cannot be read, whose pools stay as they are.
pub type Reread = Box<dyn FnMut() -> (Vec<Pool>, Vec<PathBuf>)>;

/// What an epoll event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Signal,
    Listener(usize),
    Status(usize),
    End(usize),
    Log(usize),
    Refused(usize),
}

impl Token {
    fn pack(self) -> u64 {
        let (kind, index) = match self {
            Self::Signal => (0, 0),
            Self::Listener(index) => (1, index),
            Self::Status(index) => (2, index),
            Self::End(index) => (3, index),
            Self::Log(index) => (4, index),
            Self::Refused(index) => (5, index),
        };
        (kind << 56) | index as u64
    }

    fn unpack(data: u64) -> Self {
        let index = (data & (u64::MAX >> 8)) as usize;
        match data >> 56 {
            1 => Self::Listener(index),
            2 => Self::Status(index),
            3 => Self::End(index),
            4 => Self::Log(index),
            5 => Self::Refused(index),
            _ => Self::Signal,
        }
    }
}

/// Connections on their way to a 503; more wait in the queue.
const MOST_REFUSED: usize = 256;
/// Bytes of lines that are held back while a generation starts.
const MOST_HELD: usize = 1 << 20;
/// How often a generation that is freezing is asked whether it stands still.
const FREEZE_ASK: Duration = Duration::from_micros(200);
/// How many times of that before the loop goes on with something else.
const FREEZE_ASKS: u32 = 10;

/// The loop and all it holds.
pub struct Supervisor {
    settings: Settings,
    reread: Reread,
    epoll: Epoll,
    signals: SignalFd,
    slots: Vec<Option<Slot>>,
    /// systemd's sockets of pools that went; a later reload may want them.
    spare: Vec<Listener>,
    clock: BTreeSet<(Instant, usize)>,
    events: VecDeque<(usize, Event)>,
    /// Pools with a connection, which wait for their turn to start.
    queue: VecDeque<usize>,
    /// Pools that are freezing.
    freezing: Vec<usize>,
    refused: Vec<Option<Refused>>,
    /// Pools with connections for which there was no room among the refused.
    crowded: Vec<usize>,
    workshop: Workshop,
    base: Option<Base>,
    /// Where the next generation lives, made while nobody waits.
    network: Option<SpareNetwork>,
    has_run: bool,
    ending: bool,
    /// Whether pools came or went since the roll was written.
    stale_roll: bool,
}

impl Supervisor {
    /// A supervisor of `pools`, each with its listeners. `base` is where
    /// generations get their cgroups; without one they are frozen by signals.
    ///
    /// # Errors
    /// Those of epoll and signalfd.
    pub fn new(
        settings: Settings,
        pools: Vec<Admission>,
        base: Option<Base>,
        reread: Reread,
    ) -> nix::Result<Self> {
        let mut mask = SigSet::empty();
        [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().for_each(|signal| mask.add(signal));
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&signals, EpollEvent::new(EpollFlags::EPOLLIN, Token::Signal.pack()))?;
        let mut supervisor = Self {
            settings,
            reread,
            epoll,
            signals,
            slots: Vec::with_capacity(pools.len()),
            spare: Vec::new(),
            clock: BTreeSet::new(),
            events: VecDeque::new(),
            queue: VecDeque::new(),
            freezing: Vec::new(),
            refused: Vec::new(),
            crowded: Vec::new(),
            workshop: Workshop::default(),
            base,
            network: SpareNetwork::open(),
            has_run: false,
            ending: false,
            stale_roll: false,
        };
        for admission in pools {
            supervisor.admit(admission)?;
        }
        Ok(supervisor)
    }

    /// Asks each image what php it has, so that no visitor waits for that; then
    /// `ps` may see the pools, for nothing of howdah's own runs any more.
    pub fn warm_up(&mut self) {
        let pools: Vec<Pool> = {
            let mut seen = std::collections::HashSet::new();
            let pools = self.slots.iter().flatten().map(|slot| &slot.pool);
            pools.filter(|pool| seen.insert((pool.image.clone(), pool.fpm.binary.clone()))).cloned().collect()
        };
        for pool in pools {
            if let Err(error) = self.workshop.image(&pool, &self.settings.places) {
                journal::line(
                    Level::Error,
                    Origin { pool: Some(pool.name.as_str()), generation: None },
                    &error.to_string(),
                );
            }
        }
        self.restock();
        self.write_roll();
    }

    /// Makes what the next start can take from the stock. Without it that start makes its own.
    fn restock(&mut self) {
        if let Some(Err(error)) = self.network.as_mut().map(SpareNetwork::refill) {
            journal::line(Level::Debug, Origin::default(), &error.to_string());
        }
    }

    fn admit(&mut self, admission: Admission) -> nix::Result<()> {
        let Admission { pool, listeners, record, adopted } = admission;
        let index = self.slots.len();
        let mut slot = Slot::new(pool, listeners, jitter(index));
        slot.record = record;
        let Some(Adopted { generation, doors, fate }) = adopted else {
            let has_lived = slot.record != Record::default();
            self.slots.push(Some(slot));
            self.watch(index, true);
            if has_lived {
                self.write_record(index);
            }
            return Ok(());
        };
        let pid = generation.process.pid;
        slot.adopt(generation, doors, Instant::now());
        slot.successor = (fate == Fate::Replace).then(|| slot.pool.clone());
        // It was on its way out already, or somebody removed a socket's file: its sockets are made anew.
        slot.shut = slot.listeners.iter().any(|one| !one.is_reachable());
        if slot.shut {
            slot.listeners.iter_mut().for_each(|one| drop(one.stop_accepting_new()));
        }
        self.slots.push(Some(slot));
        self.has_run = true;
        self.listen_to_generation(index)?;
        let what = match fate {
            Fate::Keep => "",
            Fate::Replace => "; its file or its sockets have changed, it drains",
            Fate::End => "; its file is gone, it drains",
        };
        self.tell(index, Level::Notice, &format!("adopted from an earlier howdah (pid {pid}){what}"));
        if fate != Fate::Keep {
            self.drain(index, self.settings.places.drain);
        }
        self.set_clock(index);
        self.write_record(index);
        Ok(())
    }

    /// Serves until it is told to end.
    ///
    /// # Errors
    /// That of epoll_wait(2).
    pub fn run(&mut self) -> nix::Result<()> {
        let mut events = vec![EpollEvent::empty(); 64];
        let began = Instant::now();
        loop {
            self.settle();
            if self.is_over(began) {
                return Ok(());
            }
            if std::mem::take(&mut self.stale_roll) {
                self.write_roll();
            }
            let count = match self.epoll.wait(&mut events, self.timeout(began)) {
                Err(Errno::EINTR) => continue,
                other => other?,
            };
            for event in &events[..count] {
                self.on_ready(Token::unpack(event.data()), event.events());
                self.settle();
            }
            self.on_time();
        }
    }

    fn is_over(&self, began: Instant) -> bool {
        let quiet = self.refused.iter().all(Option::is_none);
        if self.ending {
            return quiet && self.slots.iter().all(Option::is_none);
        }
        self.settings.exit_when_idle
            && quiet
            && (self.has_run || began.elapsed() > Duration::from_secs(10))
            && self
                .slots
                .iter()
                .flatten()
                .all(|slot| *slot.machine.state() == State::Cold && !slot.has_waiting())
    }

    fn timeout(&self, began: Instant) -> EpollTimeout {
        let mut next = self.clock.first().map(|(when, _)| *when);
        let mut sooner = |when: Instant| next = Some(next.map_or(when, |next| next.min(when)));
        self.refused.iter().flatten().for_each(|one| sooner(one.until));
        if !self.freezing.is_empty() {
            sooner(Instant::now() + Duration::from_millis(1));
        }
        if self.settings.exit_when_idle && !self.has_run {
            sooner(began + Duration::from_millis(10_100));
        }
        let Some(next) = next else { return EpollTimeout::NONE };
        // Rounded up: a loop that wakes a little early would spin until it is time.
        let wait = next.saturating_duration_since(Instant::now()).as_micros().div_ceil(1000);
        EpollTimeout::try_from(u32::try_from(wait).unwrap_or(u32::MAX).min(i32::MAX as u32))
            .unwrap_or(EpollTimeout::MAX)
    }

    // ---- from the world to events

    fn on_ready(&mut self, token: Token, flags: EpollFlags) {
        match token {
            Token::Signal => self.on_signal(),
            Token::Listener(index) => self.on_connection(index, flags),
            Token::Status(index) => self.on_status(index),
            Token::Log(index) => self.on_log(index),
            Token::End(index) => self.on_end(index),
            Token::Refused(index) => {
                if self.refused[index].as_mut().is_some_and(|refused| !refused.go_on()) {
                    self.refused[index] = None;
                }
            }
        }
    }

    fn on_signal(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            if signal.ssi_signo == Signal::SIGHUP as u32 {
                self.reload();
            } else {
                self.begin_end();
            }
        }
    }

    /// All pools drain; the second time, at once.
    fn begin_end(&mut self) {
        let wait = if self.ending { Duration::ZERO } else { self.settings.places.drain };
        if !self.ending {
            let _ = libsystemd::daemon::notify(false, &[libsystemd::daemon::NotifyState::Stopping]);
            journal::line(Level::Notice, Origin::default(), "ending: pools drain");
        }
        self.ending = true;
        for index in 0..self.slots.len() {
            self.drain(index, wait);
        }
    }

    fn drain(&mut self, index: usize, wait: Duration) {
        let Some(slot) = &mut self.slots[index] else { return };
        slot.successor = slot.successor.take().filter(|_| !self.ending);
        if slot.successor.is_none() && !slot.shut {
            slot.shut = true;
            for listener in &mut slot.listeners {
                if let Err(error) = listener.stop_accepting_new() {
                    let origin = Origin { pool: Some(slot.pool.name.as_str()), generation: None };
                    journal::line(Level::Warning, origin, &error.to_string());
                }
            }
        }
        let event = Event::Drain { until: Instant::now() + wait, waiting: slot.has_own_waiting() };
        self.events.push_back((index, event));
    }

    fn on_connection(&mut self, index: usize, flags: EpollFlags) {
        if flags.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLERR) {
            return self.repair(index);
        }
        let Some(slot) = &self.slots[index] else { return };
        let is_start = *slot.machine.state() == State::Cold;
        let starting = self
            .slots
            .iter()
            .flatten()
            .filter(|s| matches!(s.machine.state(), State::Starting { .. }))
            .count();
        if is_start && starting >= self.settings.parallel_starts {
            self.watch(index, false);
            if !self.queue.contains(&index) {
                self.queue.push_back(index);
            }
            return;
        }
        self.events.push_back((index, Event::Connection));
    }

    /// Sockets that refuse every connection: repaired, or told who can. A generation that runs
    /// and holds what is dead for good is drained; the next one gets what took its place.
    fn repair(&mut self, index: usize) {
        let Some(slot) = &self.slots[index] else { return };
        let watched = slot.watched;
        self.watch(index, false);
        let Some(slot) = &mut self.slots[index] else { return };
        let Slot { pool, listeners, .. } = slot;
        let origin = Origin { pool: Some(pool.name.as_str()), generation: None };
        let mut lost = false;
        for listener in listeners.iter_mut().filter(|listener| !listener.accepts()) {
            let address = listener.address().clone();
            lost |= matches!(address, Listen::Unix(_));
            match listener.repair(&pool.socket) {
                Ok(()) => {
                    let text = format!("{address} was shut down from inside the pool, and repaired");
                    journal::line(Level::Warning, origin, &text);
                }
                Err(error) => {
                    let text = Some(error.to_string());
                    if slot.record.last_error != text {
                        journal::line(Level::Error, origin, &error.to_string());
                        slot.record.last_error = text;
                    }
                }
            }
        }
        let healthy = slot.listeners.iter().all(Listener::accepts);
        if lost && slot.generation.is_some() && !slot.machine.is_draining() {
            slot.successor.get_or_insert_with(|| slot.pool.clone());
            self.drain(index, self.settings.places.drain);
        }
        if watched && healthy {
            self.watch(index, true);
        }
        self.write_record(index);
        self.stale_roll = true;
    }

    fn on_status(&mut self, index: usize) {
        let Some(slot) = &mut self.slots[index] else { return };
        let Some(generation) = &mut slot.generation else { return };
        let outcome = generation.process.outcome();
        if outcome == Outcome::Pending {
            return;
        }
        let _ = self.epoll.delete(&generation.process.status);
        let before = generation.phases.cgroup + generation.phases.plan + generation.phases.clone;
        generation.phases.walls = generation.began.elapsed().saturating_sub(before);
        if let Outcome::Failed(error) = outcome {
            self.start_failed(index, &error.to_string());
        }
    }

    /// A launch that came to nothing; what there was of it is dead or dying.
    fn start_failed(&mut self, index: usize, reason: &str) {
        self.tell_failure(index, reason);
        self.forget_generation(index);
        self.events.push_back((index, Event::LaunchFailed));
    }

    fn on_log(&mut self, index: usize) {
        let Some(slot) = &mut self.slots[index] else { return };
        let Some(generation) = &mut slot.generation else { return };
        let mut said = Vec::new();
        let open = generation.read_log(|line| said.push(line));
        if !open {
            let _ = self.epoll.delete(generation.log());
        }
        let starting = matches!(slot.machine.state(), State::Starting { .. });
        let ready = said.iter().any(|line| line.kind == Kind::Ready);
        generation.held.extend(said);
        // A failure is to be one line, not a worker's last words a hundred times.
        if generation.serves
            || generation.held.iter().map(|line| line.text.len() + 64).sum::<usize>() > MOST_HELD
        {
            tell_lines(&slot.pool, generation, Level::Error);
        }
        if ready && starting {
            let phases = &mut generation.phases;
            let before = phases.cgroup + phases.plan + phases.clone + phases.walls;
            phases.ready = generation.began.elapsed().saturating_sub(before);
            self.events.push_back((index, Event::Ready));
        }
    }

    fn on_end(&mut self, index: usize) {
        self.on_log(index);
        let Some(slot) = &mut self.slots[index] else { return };
        let Some(generation) = &mut slot.generation else { return };
        let Some(how) = generation.reap() else { return };
        if let Outcome::Failed(error) = generation.process.outcome() {
            return self.start_failed(index, &error.to_string());
        }
        if let State::Stopping { then } = slot.machine.state() {
            slot.record.stops += u64::from(*then == After::Cold);
        } else {
            let reason = generation.reason().unwrap_or_default();
            let reason =
                if reason.is_empty() { format!("php-fpm ended: {how}") } else { format!("{reason} ({how})") };
            slot.record.last_error = Some(reason);
        }
        self.forget_generation(index);
        let waiting = self.slots[index].as_ref().is_some_and(Slot::has_own_waiting);
        self.events.push_back((index, Event::Exited { waiting }));
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        while let Some((when, index)) = self.clock.first().copied().filter(|(when, _)| *when <= now) {
            self.clock.remove(&(when, index));
            if let Some(slot) = &mut self.slots[index] {
                slot.clock = None;
                self.events.push_back((index, Event::Deadline));
            }
            self.settle();
        }
        for index in std::mem::take(&mut self.freezing) {
            self.ask_frozen(index, 1);
        }
        self.refused
            .iter_mut()
            .filter(|one| one.as_ref().is_some_and(|one| one.until <= now))
            .for_each(|one| *one = None);
        self.make_room();
    }

    // ---- from events to actions

    /// Gives every event to its machine and does what it says, until there is none.
    fn settle(&mut self) {
        while let Some((index, event)) = self.events.pop_front() {
            let Some(slot) = &mut self.slots[index] else { continue };
            let before = slot.machine.state().word();
            let actions = slot.machine.on(event, Instant::now());
            for action in actions {
                self.act(index, action);
            }
            self.set_clock(index);
            let Some(slot) = &self.slots[index] else { continue };
            let after = *slot.machine.state();
            if after.word() != before {
                self.write_record(index);
            }
            if !matches!(after, State::Starting { .. }) && before == "starting" {
                self.start_next();
            }
            if after == State::Ended {
                self.remove(index);
            }
        }
    }

    fn set_clock(&mut self, index: usize) {
        let Some(slot) = &mut self.slots[index] else { return };
        let wanted = slot.machine.deadline();
        if slot.clock != wanted {
            if let Some(old) = slot.clock.take() {
                self.clock.remove(&(old, index));
            }
            if let Some(when) = wanted {
                self.clock.insert((when, index));
            }
            slot.clock = wanted;
        }
    }

    fn act(&mut self, index: usize, action: Action) {
        match action {
            Action::Watch => self.watch(index, true),
            Action::Unwatch => self.watch(index, false),
            Action::Launch => self.launch(index),
            Action::AskAccepted => {
                let accepted = self.slots[index].as_ref().is_some_and(Slot::has_accepted);
                self.events.push_back((index, Event::Accepted(accepted)));
            }
            Action::ReportStarted => {
                self.report_started(index);
                self.restock();
            }
            Action::ReportTimeout => self.report_timeout(index),
            Action::ReportExit => {
                let reason = self.slots[index].as_ref().and_then(|slot| slot.record.last_error.clone());
                self.tell_failure(index, &reason.unwrap_or_default());
            }
            Action::Look => {
                let Some(slot) = &mut self.slots[index] else { return };
                let (active, dead) = (slot.look(), !slot.listeners.iter().all(Listener::accepts));
                self.events.push_back((index, Event::Looked { active }));
                if dead {
                    self.repair(index);
                }
            }
            Action::Freeze => self.freeze(index),
            Action::Thaw => self.thaw(index),
            Action::Kill => self.signal(index, Signal::SIGKILL),
            Action::Quit => self.signal(index, Signal::SIGQUIT),
            Action::ReportCut => {
                self.tell(index, Level::Warning, "the drain time is over: requests in progress are cut")
            }
            Action::Refuse => self.refuse(index),
            // Done by `drain`, before it asked whether anybody waits.
            Action::StopListening => {}
        }
    }

    fn watch(&mut self, index: usize, on: bool) {
        let Some(slot) = &mut self.slots[index] else { return };
        if slot.watched == on {
            return;
        }
        slot.watched = on;
        for listener in &slot.listeners {
            let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP;
            let event = EpollEvent::new(flags, Token::Listener(index).pack());
            let _ = if on { self.epoll.add(listener, event) } else { self.epoll.delete(listener) };
        }
    }

    fn launch(&mut self, index: usize) {
        self.has_run = true;
        let Some(slot) = &mut self.slots[index] else { return };
        match slot.launch(
            &mut self.workshop,
            &self.settings.places,
            self.base.as_ref(),
            self.network.as_mut(),
        ) {
            Ok(notices) => {
                notices.iter().for_each(|notice| self.tell(index, Level::Notice, notice));
                if let Err(errno) = self.listen_to_generation(index) {
                    self.start_failed(index, &format!("epoll: {errno}"));
                }
            }
            Err(error) => {
                self.tell_failure(index, &error.to_string());
                self.events.push_back((index, Event::LaunchFailed));
            }
        }
    }

    fn listen_to_generation(&self, index: usize) -> nix::Result<()> {
        let Some(generation) = self.slots[index].as_ref().and_then(|slot| slot.generation.as_ref()) else {
            return Ok(());
        };
        let add = |fd: BorrowedFd<'_>, token: Token| {
            self.epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token.pack()))
        };
        add(generation.process.status.as_fd(), Token::Status(index))?;
        add(generation.process.pidfd.as_fd(), Token::End(index))?;
        add(generation.log(), Token::Log(index))
    }

    /// Lets go of a generation that has ended, and of what is left of it on the host.
    fn forget_generation(&mut self, index: usize) {
        let Some(slot) = &mut self.slots[index] else { return };
        let Some(mut generation) = slot.generation.take() else { return };
        // What is still held is of a start that failed: its reason has been told.
        tell_lines(&slot.pool, &mut generation, Level::Debug);
        generation.process.kill();
        for fd in [generation.process.status.as_fd(), generation.process.pidfd.as_fd(), generation.log()] {
            let _ = self.epoll.delete(fd);
        }
        // It may be on its way still, if the launch failed.
        let _ = nix::sys::wait::waitpid(generation.process.pid, None);
        if let Some(cgroup) = generation.freezer.cgroup() {
            // Its last processes are reaped by process 1's end; the kernel may need a moment more.
            for _ in 0..20 {
                match cgroup.remove() {
                    Err(error) if error.raw_os_error() == Some(libc::EBUSY) => std::thread::sleep(FREEZE_ASK),
                    _ => break,
                }
            }
        }
    }

    fn report_started(&mut self, index: usize) {
        let Some(slot) = &mut self.slots[index] else { return };
        let Some(generation) = &mut slot.generation else { return };
        let took = generation.began.elapsed();
        generation.serves = true;
        tell_lines(&slot.pool, generation, Level::Error);
        let phases = &mut generation.phases;
        let before = phases.cgroup + phases.plan + phases.clone + phases.walls + phases.ready;
        phases.accepted = took.saturating_sub(before);
        let ms = |duration: Duration| (duration.as_secs_f64() * 1e6).round() / 1e3;
        let steps = [
            ("cgroup", phases.cgroup),
            ("mounts prepared", phases.plan),
            ("clone", phases.clone),
            ("walls and exec", phases.walls),
            ("php-fpm", phases.ready),
            ("accepted", phases.accepted),
        ];
        slot.record.starts += 1;
        slot.record.last_error = None;
        slot.record.last_start_ms = Some(ms(took));
        slot.record.last_start_steps_ms =
            steps.iter().map(|(name, time)| ((*name).to_owned(), ms(*time))).collect();
        let told: Vec<String> = steps.iter().map(|(name, time)| format!("{name} {}", ms(*time))).collect();
        let text = format!("started in {} ms ({})", ms(took), told.join(", "));
        self.tell(index, Level::Info, &text);
    }

    fn report_timeout(&mut self, index: usize) {
        let Some(slot) = &mut self.slots[index] else { return };
        let limit = slot.pool.start.timeout.as_secs_f64();
        let said = slot.generation.as_mut().and_then(|generation| generation.reason());
        let said = said.map_or_else(|| "it said nothing".to_owned(), |reason| format!("it said: {reason}"));
        self.tell_failure(index, &format!("php-fpm did not accept the connection within {limit} s; {said}"));
    }

    /// One line for a failure, kept for `ps`.
    fn tell_failure(&mut self, index: usize, reason: &str) {
        let Some(slot) = &mut self.slots[index] else { return };
        let reason = journal::one_line(reason);
        let text = format!("{reason} [{}.{}]", slot.pool.name, slot.record.generation);
        slot.record.last_error = Some(text.clone());
        self.tell(index, Level::Error, &text);
        self.write_record(index);
    }

    fn tell(&self, index: usize, level: Level, text: &str) {
        let Some(slot) = &self.slots[index] else { return };
        let generation = slot.generation.as_ref().map(|generation| generation.number);
        journal::line(level, Origin { pool: Some(slot.pool.name.as_str()), generation }, text);
    }

    fn freeze(&mut self, index: usize) {
        let Some(slot) = &self.slots[index] else { return };
        // What has ended may have left its number to another; its end is about to be told.
        let Some(generation) = slot.generation.as_ref().filter(|one| !one.has_ended()) else { return };
        if generation.freezer.freeze(generation.process.pid).is_err() {
            self.events.push_back((index, Event::FreezeFailed));
            return;
        }
        self.ask_frozen(index, FREEZE_ASKS);
    }

    /// Asks up to `times` whether it stands still; looks into it then.
    fn ask_frozen(&mut self, index: usize, times: u32) {
        for round in 0..times {
            let Some(slot) = &mut self.slots[index] else { return };
            let (State::Freezing { .. }, Some(generation)) = (slot.machine.state(), &slot.generation) else {
                return;
            };
            match generation.freezer.is_frozen(generation.process.pid) {
                Ok(true) => {
                    // Who waits for a howdah that ends has nobody else.
                    let waits = slot.machine.is_draining() && slot.has_own_waiting();
                    let busy = slot.is_busy() || waits;
                    slot.record.busy_looks += u64::from(busy);
                    self.events.push_back((index, Event::Inspected { busy }));
                    return;
                }
                Ok(false) if round + 1 < times => std::thread::sleep(FREEZE_ASK),
                Ok(false) => {}
                Err(_) => {
                    self.events.push_back((index, Event::FreezeFailed));
                    return;
                }
            }
        }
        self.freezing.push(index);
    }

    fn thaw(&mut self, index: usize) {
        let Some(slot) = &self.slots[index] else { return };
        let Some(generation) = slot.generation.as_ref().filter(|one| !one.has_ended()) else { return };
        if let Err(error) = generation.freezer.thaw(generation.process.pid) {
            let text = format!("cannot be thawed, and is ended: {}", sys::told(&error));
            self.signal(index, Signal::SIGKILL);
            self.tell(index, Level::Error, &text);
        }
    }

    fn signal(&self, index: usize, signal: Signal) {
        let Some(generation) = self.slots[index].as_ref().and_then(|slot| slot.generation.as_ref()) else {
            return;
        };
        let _ = sys::pidfd_send_signal(generation.process.pidfd.as_fd(), signal);
    }

    fn refuse(&mut self, index: usize) {
        let Some(slot) = &self.slots[index] else { return };
        // A successor, or the next howdah at systemd's socket, will serve them.
        let ended = *slot.machine.state() == State::Ended;
        if ended && slot.leaves_its_queue() {
            return;
        }
        let now = Instant::now();
        let retry = slot
            .machine
            .deadline()
            .map_or(Duration::from_secs(1), |until| until.saturating_duration_since(now));
        let incident = format!("{}.{}", slot.pool.name, slot.record.generation);
        let mut room = MOST_REFUSED.saturating_sub(self.refused.iter().flatten().count());
        let mut fresh = Vec::new();
        for listener in slot.listeners.iter().filter(|one| !(ended && one.is_passed())) {
            let accepted = Refused::accept_all(listener.as_fd(), room, retry, &incident, now);
            room -= accepted.len();
            fresh.extend(accepted);
        }
        for mut refused in fresh {
            if !refused.go_on() {
                continue;
            }
            let free = self.refused.iter().position(Option::is_none).unwrap_or(self.refused.len());
            let event = EpollEvent::new(EpollFlags::EPOLLIN, Token::Refused(free).pack());
            if self.epoll.add(&refused, event).is_ok() {
                if free == self.refused.len() {
                    self.refused.push(None);
                }
                self.refused[free] = Some(refused);
            }
        }
        // Its sockets stay readable: watched, they would keep the loop awake until there is room.
        if room == 0 && !ended {
            self.watch(index, false);
            self.crowded.push(index);
        }
    }

    /// Watches the pools again that found no room, if there is some now.
    fn make_room(&mut self) {
        if self.crowded.is_empty() || self.refused.iter().flatten().count() >= MOST_REFUSED {
            return;
        }
        for index in std::mem::take(&mut self.crowded) {
            let state = self.slots[index].as_ref().map(|slot| *slot.machine.state());
            if matches!(state, Some(State::Cold | State::Backoff { .. })) {
                self.watch(index, true);
            }
        }
    }

    /// Lets the next pool start that waits for its turn. One whose client has
    /// gone, or that was started another way, does not take another's turn.
    fn start_next(&mut self) {
        while let Some(index) = self.queue.pop_front() {
            let Some(slot) = &self.slots[index] else { continue };
            if *slot.machine.state() != State::Cold {
                continue;
            }
            let starts = slot.has_waiting();
            self.watch(index, true);
            if starts {
                return;
            }
        }
    }

    // ---- pools come and go

    fn reload(&mut self) {
        let systemd = [libsystemd::daemon::NotifyState::Reloading];
        let _ = libsystemd::daemon::notify(false, &systemd);
        let (mut pools, unreadable) = (self.reread)();
        for index in 0..self.slots.len() {
            let Some(slot) = &mut self.slots[index] else { continue };
            if unreadable.iter().any(|path| slot.pool.file.starts_with(path)) {
                continue;
            }
            match pools.iter().position(|pool| pool.name == slot.pool.name) {
                Some(at) => {
                    let pool = pools.swap_remove(at);
                    // One that drains, for an older file or for none, becomes what the file says last.
                    if pool != slot.pool || slot.machine.is_draining() {
                        slot.successor = Some(pool);
                        self.drain(index, self.settings.places.drain);
                    }
                }
                None => {
                    slot.successor = None;
                    self.drain(index, self.settings.places.drain);
                }
            }
        }
        self.settle();
        pools.sort_by(|a, b| a.name.cmp(&b.name));
        for pool in pools {
            let (mut listeners, spare) = std::mem::take(&mut self.spare)
                .into_iter()
                .partition(|one| pool.listen.contains(one.address()));
            self.spare = spare;
            match activation::complete(&pool, &mut listeners) {
                Ok(()) => {
                    // Only a generation could be refused, and there is none.
                    let _ = self.admit(Admission::new(pool, listeners));
                    self.tell(self.slots.len() - 1, Level::Notice, "new: listening");
                }
                Err(error) => journal::line(
                    Level::Error,
                    Origin { pool: Some(pool.name.as_str()), generation: None },
                    &error.to_string(),
                ),
            }
        }
        self.stale_roll = true;
        let _ = libsystemd::daemon::notify(false, &[libsystemd::daemon::NotifyState::Ready]);
    }

    /// A drained pool goes, or becomes what its file says now.
    fn remove(&mut self, index: usize) {
        self.watch(index, false);
        let Some(mut slot) = self.slots[index].take() else { return };
        self.stale_roll = true;
        self.queue.retain(|queued| *queued != index);
        if let Some(pool) = slot.successor.take() {
            let keeps =
                |one: &Listener| !slot.shut && pool.listen.contains(one.address()) && one.is_reachable();
            let (mut listeners, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut slot.listeners)
                .into_iter()
                .partition(|one| one.is_passed() || keeps(one));
            close(gone);
            let completed = activation::complete(&pool, &mut listeners);
            slot.listeners = listeners;
            let changed = pool != slot.pool;
            slot.succeed(pool, jitter(index));
            self.slots[index] = Some(slot);
            if let Err(error) = completed {
                self.tell(index, Level::Error, &error.to_string());
            }
            if changed {
                let text = "its file has changed: the next connection starts it as the file says now";
                self.tell(index, Level::Notice, text);
            }
            self.watch(index, true);
            self.write_record(index);
            return;
        }
        let _ = std::fs::remove_dir_all(self.settings.places.of_pool(&slot.pool));
        let (passed, own): (Vec<_>, Vec<_>) = slot.listeners.drain(..).partition(Listener::is_passed);
        self.spare.extend(passed);
        close(own);
    }

    // ---- what others read

    fn write_roll(&self) {
        let entry = |slot: &Slot| Entry {
            pool: slot.pool.name.to_string(),
            listen: slot.listeners.iter().map(|one| one.address().to_string()).collect(),
            files: slot.listeners.iter().map(Listener::file).collect(),
            document_root: slot.pool.document_root(),
        };
        let roll = Roll {
            pid: nix::unistd::getpid().as_raw(),
            pools: self.slots.iter().flatten().map(entry).collect(),
        };
        self.warn_unwritten(record::write(&record::roll_file(&self.settings.places.runtime), &roll));
    }

    fn write_record(&mut self, index: usize) {
        let Some(slot) = &mut self.slots[index] else { return };
        slot.record.state = slot.machine.state().word().to_owned();
        let generation = slot.generation.as_ref();
        let pid = generation.map(|generation| generation.process.pid);
        slot.record.pid = pid.map(Pid::as_raw);
        slot.record.start_time = pid.and_then(quiesce::start_time);
        slot.record.cgroup = generation
            .and_then(|generation| generation.freezer.cgroup())
            .map(|cgroup| cgroup.directory().to_owned());
        let file = record::record_file(&self.settings.places.runtime, slot.pool.name.as_str());
        let written = record::write(&file, &slot.record);
        self.warn_unwritten(written);
    }

    fn warn_unwritten(&self, written: std::io::Result<()>) {
        if let Err(error) = written {
            let runtime = self.settings.places.runtime.display();
            journal::line(
                Level::Warning,
                Origin::default(),
                &format!("{runtime}: state not written: {}", sys::told(&error)),
            );
        }
    }
}

/// Closes sockets for good, and removes the paths of own ones.
fn close(listeners: Vec<Listener>) {
    for listener in listeners {
        if let Err(error) = listener.close_and_unlink() {
            journal::line(Level::Warning, Origin::default(), &error.to_string());
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        for slot in self.slots.iter_mut().flatten() {
            close(std::mem::take(&mut slot.listeners));
        }
        if let Some(base) = &self.base {
            base.remove();
        }
    }
}

/// A number from 0 to 1 that differs between pools.
fn jitter(index: usize) -> f64 {
    (index as f64 * 0.618_033_988_75).fract()
}

/// Tells what a generation has said; each line is at most as important as `most`.
fn tell_lines(pool: &Pool, generation: &mut Generation, most: Level) {
    let origin = Origin { pool: Some(pool.name.as_str()), generation: Some(generation.number) };
    for line in std::mem::take(&mut generation.held) {
        let (level, who) = match line.kind {
            Kind::Ready | Kind::Notice => (Level::Debug, "php-fpm"),
            Kind::Warning => (Level::Warning, "php-fpm"),
            Kind::Error | Kind::Alert => (Level::Error, "php-fpm"),
            Kind::Worker => (Level::Notice, "worker"),
            Kind::Access => (Level::Info, "access"),
            Kind::Slow => (Level::Notice, "slow"),
        };
        journal::line(level.max(most), origin, &format!("{who}: {}", line.text));
    }
}
