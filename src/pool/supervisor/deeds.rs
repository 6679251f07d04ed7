//! From actions to deeds: does to sockets, processes and cgroups what a pool's
//! machine says. When and why is the machine's to know.

use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::sys::signal::Signal;

use super::Supervisor;
use super::limits::LIMIT_FLAGS;
use super::reports::{confess, tell_lines};
use super::tokens::Token;
use crate::journal::Level;
use crate::pool::generation::Generation;
use crate::pool::graves::Ending;
use crate::pool::machine::{Action, Event, State};
use crate::pool::prepare::Question;
use crate::pool::refuse::Refused;
use crate::pool::slot::{Slot, Watch};
use crate::sandbox::cgroup::Cgroup;
use crate::sandbox::uplink::Uplink;
use crate::sys;

/// Connections on their way to a 503; more wait in the queue.
const MOST_REFUSED: usize = 256;
/// How many times a generation is asked whether it stands still before the loop goes on with something else.
const FREEZE_ASKS: u32 = 10;

impl Supervisor {
    pub(super) fn act(&mut self, index: usize, action: Action) {
        match action {
            Action::Watch => self.watch(index, Watch::Connections),
            Action::Unwatch => self.watch(index, Watch::Hangups),
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
                self.look_at_limits(index);
                let Some(slot) = &mut self.slots[index] else { return };
                // Workers that a tenant has made see EAGAIN end and are forked again without end:
                // a pool that works hard for nobody, and is never idle.
                let harmed = slot.listeners.iter().any(|listener| !listener.harms().is_empty());
                let active = slot.look();
                self.events.push_back((index, Event::Looked { active }));
                if harmed {
                    self.repair(index);
                }
            }
            Action::Freeze => self.freeze(index),
            Action::Thaw => self.thaw(index),
            Action::Kill => self.kill(index),
            Action::Quit => self.signal(index, Signal::SIGQUIT),
            Action::ReportCut => {
                self.tell(index, Level::Warning, "the drain time is over: requests in progress are cut")
            }
            Action::Refuse => self.refuse(index),
            // Done by `drain`, before it asked whether anybody waits.
            Action::StopListening => {}
        }
    }

    pub(super) fn watch(&mut self, index: usize, what: Watch) {
        let Some(slot) = &mut self.slots[index] else { return };
        let before = std::mem::replace(&mut slot.watched, what);
        // A listener is never writable, and a TCP one that was connected to somewhere is.
        let gone = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLOUT;
        let flags = match what {
            Watch::Nothing => None,
            Watch::Hangups => Some(gone),
            Watch::Connections => Some(EpollFlags::EPOLLIN | gone),
        };
        for listener in slot.listeners.iter().filter(|_| what != before) {
            let event = |flags| EpollEvent::new(flags, Token::Listener(index).pack());
            let _ = match flags {
                None => self.epoll.delete(listener),
                Some(flags) if before == Watch::Nothing => self.epoll.add(listener, event(flags)),
                Some(flags) => self.epoll.modify(listener, &mut event(flags)),
            };
        }
    }

    fn launch(&mut self, index: usize) {
        self.has_run = true;
        self.repair(index);
        let Some(slot) = &mut self.slots[index] else { return };
        match slot.ask(&mut self.workshop, &self.settings.places, self.base.as_ref()) {
            Ok(false) => self.launch_known(index),
            Ok(true) => {
                let event = EpollEvent::new(EpollFlags::EPOLLIN, Token::Answer(index).pack());
                let added = slot.question.as_ref().map(|question| self.epoll.add(question.ready(), event));
                if let Some(Err(errno)) = added {
                    slot.question = None;
                    self.launch_failed(index, &format!("epoll: {errno}"));
                }
            }
            Err(error) => self.launch_failed(index, &error.to_string()),
        }
    }

    /// Goes on with a launch when the image's php-fpm has told what it is.
    pub(super) fn on_answer(&mut self, index: usize) {
        let Some(slot) = &mut self.slots[index] else { return };
        if !slot.question.as_mut().is_some_and(Question::read) {
            return;
        }
        let Some(question) = slot.question.take() else { return };
        let _ = self.epoll.delete(question.ready());
        match self.workshop.learn(question, &slot.pool) {
            Ok(()) => {
                self.launch_known(index);
                self.write_record(index);
            }
            Err(error) => self.launch_failed(index, &error.to_string()),
        }
    }

    fn launch_failed(&mut self, index: usize, reason: &str) {
        self.tell_failure(index, reason);
        self.events.push_back((index, Event::LaunchFailed));
    }

    fn kill(&mut self, index: usize) {
        let Some(slot) = &mut self.slots[index] else { return };
        let Some(question) = slot.question.take() else { return self.signal(index, Signal::SIGKILL) };
        let _ = self.epoll.delete(question.ready());
        drop(question);
        let waiting = slot.has_own_waiting();
        self.events.push_back((index, Event::Exited { waiting }));
    }

    fn launch_known(&mut self, index: usize) {
        let Some(slot) = &mut self.slots[index] else { return };
        match slot.launch(
            &mut self.workshop,
            &self.settings.places,
            self.base.as_ref(),
            self.network.as_mut(),
            self.templates.as_mut(),
        ) {
            Ok(notices) => {
                notices.iter().for_each(|notice| self.tell(index, Level::Notice, notice));
                self.expect_soon(index);
                if let Err(errno) = self.listen_to_generation(index) {
                    self.start_failed(index, &format!("epoll: {errno}"));
                }
                self.listen_to_limits(index);
            }
            Err(error) => self.launch_failed(index, &error.to_string()),
        }
    }

    pub(super) fn listen_to_generation(&self, index: usize) -> nix::Result<()> {
        let Some(generation) = self.slots[index].as_ref().and_then(|slot| slot.generation.as_ref()) else {
            return Ok(());
        };
        let add = |fd: BorrowedFd<'_>, token: Token| {
            self.epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token.pack()))
        };
        if let Some(gate) = &generation.process.gate {
            add(gate.as_fd(), Token::Gate(index))?;
        }
        add(generation.process.status.as_fd(), Token::Status(index))?;
        add(generation.process.pidfd.as_fd(), Token::End(index))?;
        generation.uplink.iter().flat_map(Uplink::signs).try_for_each(|fd| add(fd, Token::Uplink(index)))?;
        add(generation.log(), Token::Log(index))
    }

    /// The same for what tells of limits, without which a generation can do.
    pub(super) fn listen_to_limits(&mut self, index: usize) {
        self.listen_to_audit();
        let Some(generation) = self.slots[index].as_mut().and_then(|slot| slot.generation.as_mut()) else {
            return;
        };
        generation.limit_files = generation.freezer.cgroup().map(Cgroup::event_files).unwrap_or_default();
        for file in &generation.limit_files {
            let _ = self.epoll.add(file, EpollEvent::new(LIMIT_FLAGS, Token::Limit(index).pack()));
        }
    }

    /// Lets go of a generation that has ended, and of what is left of it on the host.
    pub(super) fn forget_generation(&mut self, index: usize) {
        self.count_limits(index);
        self.expect_no_more(index);
        let Some(slot) = &mut self.slots[index] else { return };
        slot.vigil.rearm = None;
        // What is still held is of a start that failed: its reason has been told.
        tell_lines(slot, Level::Debug);
        confess(slot, true);
        let Some(mut generation) = slot.generation.take() else { return };
        generation.process.kill();
        for fd in [generation.process.status.as_fd(), generation.process.pidfd.as_fd(), generation.log()] {
            let _ = self.epoll.delete(fd);
        }
        for file in &generation.limit_files {
            let _ = self.epoll.delete(file);
        }
        if let Some(uplink) = generation.uplink.take() {
            for fd in uplink.signs() {
                let _ = self.epoll.delete(fd);
            }
            uplink.end();
        }
        let Generation { process, freezer, lodging, .. } = generation;
        // It may be on its way still, if the launch failed; or wait for a disk, for as long as that takes.
        let lodging = lodging.map(ManuallyDrop::into_inner);
        self.graves.add_late(Ending::new(process.pidfd, freezer.into_cgroup(), lodging));
        self.leave_audit();
    }

    /// Launches a pool cold whose template has failed it before anybody was served; false where it was none.
    pub(super) fn fall_back(&mut self, index: usize, reason: &str) -> bool {
        let Some(slot) = &mut self.slots[index] else { return false };
        let is_template = slot
            .generation
            .as_ref()
            .is_some_and(|generation| generation.lodging.is_some() && !generation.serves);
        if !is_template || !matches!(slot.machine.state(), State::Starting { .. }) {
            return false;
        }
        slot.cold = Some(reason.to_owned());
        self.tell(index, Level::Warning, &format!("not by a template: {reason}"));
        self.forget_generation(index);
        // What comes has the same number: named by what is gone, it would be a stranger to the next howdah.
        self.write_record(index);
        self.events.push_back((index, Event::Relaunched));
        self.launch_known(index);
        self.write_record(index);
        true
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
    pub(super) fn ask_frozen(&mut self, index: usize, times: u32) {
        let Some(slot) = &mut self.slots[index] else { return };
        let (State::Freezing { .. }, Some(generation)) = (slot.machine.state(), &slot.generation) else {
            return;
        };
        match generation.freezer.is_frozen_soon(generation.process.pid, times) {
            Ok(true) => {
                // Who waits for a howdah that ends has nobody else.
                let waits = slot.machine.is_draining() && slot.has_own_waiting();
                let busy = slot.is_busy() || waits;
                slot.record.busy_looks += u64::from(busy);
                self.events.push_back((index, Event::Inspected { busy }));
            }
            Ok(false) => self.freezing.push(index),
            Err(_) => self.events.push_back((index, Event::FreezeFailed)),
        }
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
            self.watch(index, Watch::Hangups);
            self.crowded.push(index);
        }
    }

    /// Watches the pools again that found no room, if there is some now.
    pub(super) fn make_room(&mut self) {
        if self.crowded.is_empty() || self.refused.iter().flatten().count() >= MOST_REFUSED {
            return;
        }
        for index in std::mem::take(&mut self.crowded) {
            let state = self.slots[index].as_ref().map(|slot| *slot.machine.state());
            if matches!(state, Some(State::Cold | State::Backoff { .. })) {
                self.watch(index, Watch::Connections);
            }
        }
    }

    /// Lets the next pool start that waits for its turn. One whose client has
    /// gone, or that was started another way, does not take another's turn.
    pub(super) fn start_next(&mut self) {
        while let Some(index) = self.queue.pop_front() {
            let Some(slot) = &self.slots[index] else { continue };
            if *slot.machine.state() != State::Cold {
                continue;
            }
            let starts = slot.has_waiting();
            self.watch(index, Watch::Connections);
            if starts {
                return;
            }
        }
    }
}
