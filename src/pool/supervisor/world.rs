//! From the world to events: what is readable, has ended or is due becomes an
//! event of a pool's machine. What follows from an event is the machine's to say.

use std::time::{Duration, Instant};

use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::sys::signal::Signal;
use serde_json::json;

use super::Supervisor;
use super::reports::{confess, tell_lines};
use super::tokens::Token;
use crate::fpm::log::Kind;
use crate::journal::{self, Level, Origin};
use crate::pool::activation::{Harm, Listener};
use crate::pool::events;
use crate::pool::machine::{After, Event, State};
use crate::pool::slot::{Slot, Watch};
use crate::pool::templates::Templates;
use crate::sandbox::Outcome;
use crate::sandbox::uplink::Condition;

/// How long a log that says too much is not read.
const HUSH: Duration = Duration::from_millis(50);
/// Bytes of lines that are held back while a generation starts.
const MOST_HELD: usize = 1 << 20;

impl Supervisor {
    pub(super) fn on_ready(&mut self, token: Token, flags: EpollFlags) {
        match token {
            Token::Signal => self.on_signal(),
            Token::Listener(index) => self.on_connection(index, flags),
            Token::Answer(index) => self.on_answer(index),
            Token::Gate(index) => self.on_gate(index),
            Token::Status(index) => self.on_status(index),
            Token::Log(index) => self.on_log(index),
            Token::End(index) => self.on_end(index),
            Token::Uplink(index) => self.on_uplink(index),
            Token::Addresses => self.on_addresses(),
            Token::Templates => {
                self.templates.iter_mut().for_each(Templates::look);
                // One that was killed keeps the loop awake until it is let go of.
                self.graves.look();
            }
            Token::Limit(index) => self.on_limit(index),
            Token::Audit => self.on_audit(),
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

    fn on_connection(&mut self, index: usize, flags: EpollFlags) {
        let gone =
            EpollFlags::EPOLLHUP | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLERR | EpollFlags::EPOLLOUT;
        if flags.intersects(gone) {
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
            self.watch(index, Watch::Hangups);
            if !self.queue.contains(&index) {
                self.queue.push_back(index);
            }
            return;
        }
        self.events.push_back((index, Event::Connection));
    }

    /// Looks at a pool's sockets and mends what a generation did to them, or tells who can. A generation
    /// that runs and holds what is dead for good is drained, and so is one that does it again; the next
    /// gets what is there then.
    pub(super) fn repair(&mut self, index: usize) {
        let Some(slot) = &self.slots[index] else { return };
        let before = slot.watched;
        // Before one of them is closed: a generation's copy would keep it among those that are watched.
        self.watch(index, Watch::Nothing);
        let Some(slot) = &mut self.slots[index] else { return };
        if slot.shut {
            return; // Its sockets go with it.
        }
        let Slot { pool, listeners, .. } = slot;
        let origin = Origin { pool: Some(pool.name.as_str()), generation: None };
        let (mut harmed, mut renewed, mut dead, mut failure) = (false, false, false, None);
        let mut told = Vec::new();
        for listener in listeners.iter_mut() {
            let address = listener.address().clone();
            let mended = listener.mend(&pool.socket);
            if mended.harms.is_empty() {
                continue;
            }
            harmed = true;
            dead |= mended.harms.contains(&Harm::ShutDown);
            renewed |= mended.renewed;
            match &mended.result {
                Ok(()) => {
                    let text = format!("{address} {} from inside the pool, and repaired", mended.told());
                    journal::line(Level::Warning, origin, &text);
                    told.push((text, true));
                }
                Err(error) => {
                    told.push((error.to_string(), false));
                    failure = Some(error.to_string());
                }
            }
        }
        // What stays as it is has been told.
        let news = failure.is_none() || self.slots[index].as_ref().is_some_and(|s| s.unreachable != failure);
        for (text, repaired) in told.into_iter().filter(|_| news) {
            self.note(index, events::Kind::Repair, json!({ "detail": text, "repaired": repaired }));
        }
        self.report_unreachable(index, failure);
        let Some(slot) = &mut self.slots[index] else { return };
        let number = slot.generation.as_ref().map(|generation| generation.number);
        let again = dead && number.is_some() && slot.shut_by.replace(slot.record.generation) == number;
        if (renewed || again) && number.is_some() && !slot.machine.is_draining() {
            slot.successor.get_or_insert_with(|| slot.pool.clone());
            self.drain(index, self.settings.places.drain);
        }
        let Some(slot) = &self.slots[index] else { return };
        // What is dead would keep the loop awake.
        if slot.listeners.iter().all(Listener::accepts) && !(again && number.is_some()) {
            self.watch(index, before);
        }
        if harmed {
            self.write_record(index);
            self.stale_roll = true;
        }
    }

    /// A generation's program may be executed, once; served, its gate closes and leaves the epoll.
    fn on_gate(&mut self, index: usize) {
        let Some(slot) = &mut self.slots[index] else { return };
        let Some(generation) = &mut slot.generation else { return };
        if let Err(error) = generation.process.serve() {
            return self.start_failed(index, &error.to_string());
        }
        if generation.lodging.is_some() && generation.process.gate.is_none() {
            let phases = &mut generation.phases;
            phases.sockets = generation.began.elapsed().saturating_sub(phases.before_ready());
        }
    }

    fn on_status(&mut self, index: usize) {
        let Some(slot) = &mut self.slots[index] else { return };
        let Some(generation) = &mut slot.generation else { return };
        let outcome = generation.process.outcome();
        if outcome == Outcome::Pending {
            return;
        }
        let _ = self.epoll.delete(&generation.process.status);
        if generation.lodging.is_none() {
            let before = generation.phases.before_ready();
            generation.phases.walls = generation.began.elapsed().saturating_sub(before);
        }
        if let Outcome::Failed(error) = outcome {
            self.start_failed(index, &error.to_string());
        }
    }

    /// The way out is there, or there is none any more.
    fn on_uplink(&mut self, index: usize) {
        let Some(slot) = &mut self.slots[index] else { return };
        let Some(generation) = &mut slot.generation else { return };
        let Some(uplink) = &mut generation.uplink else { return };
        match uplink.condition() {
            Condition::Starting => {}
            Condition::Up => {
                for fd in uplink.signs().skip(1) {
                    let _ = self.epoll.delete(fd);
                }
                uplink.is_up();
                generation.phases.network = Some(generation.began.elapsed());
                // Where it has ended, its end says more than this; and one that does not get its sockets
                // by it is given up.
                let _ = generation.process.network_is_up();
                self.expect_soon(index);
            }
            Condition::Ended(reason) => {
                let Some(uplink) = generation.uplink.take() else { return };
                for fd in uplink.signs() {
                    let _ = self.epoll.delete(fd);
                }
                uplink.end();
                self.lose_uplink(index, &format!("pasta: {reason}"));
            }
        }
    }

    /// A pool without its way out starts anew; one that is ending anyway just ends.
    pub(super) fn lose_uplink(&mut self, index: usize, reason: &str) {
        let Some(slot) = &mut self.slots[index] else { return };
        match slot.machine.state() {
            State::Starting { .. } => self.start_failed(index, &format!("no network: {reason}")),
            State::Stopping { .. } => {}
            _ if slot.machine.is_draining() => {}
            _ => {
                slot.successor.get_or_insert_with(|| slot.pool.clone());
                let text =
                    format!("its network is lost: {reason}; it drains, and the next connection starts it");
                slot.record.last_error = Some(text.clone());
                self.tell(index, Level::Error, &text);
                self.drain(index, self.settings.places.drain);
            }
        }
    }

    /// A launch that came to nothing; what there was of it is dead or dying.
    pub(super) fn start_failed(&mut self, index: usize, reason: &str) {
        if self.fall_back(index, reason) {
            return;
        }
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
        generation.held.extend(said.iter().cloned());
        // A failure is to be one line, not a worker's last words a hundred times.
        if generation.serves
            || generation.held.iter().map(|line| line.text.len() + 64).sum::<usize>() > MOST_HELD
        {
            tell_lines(slot, Level::Error);
        }
        if slot.budget.is_behind() {
            self.hush(index);
        }
        let unbound = self.slots[index]
            .as_ref()
            .and_then(|slot| slot.generation.as_ref())
            .is_some_and(|generation| generation.lodging.is_some() && generation.process.gate.is_some());
        if ready && starting && unbound {
            self.fall_back(index, "its php-fpm was ready without its sockets");
            return;
        }
        if ready && starting {
            if let Some(generation) = self.slots[index].as_mut().and_then(|slot| slot.generation.as_mut()) {
                let phases = &mut generation.phases;
                phases.ready = generation.began.elapsed().saturating_sub(phases.before_ready());
            }
            self.expect_no_more(index);
            self.events.push_back((index, Event::Ready));
        }
        self.hear_limits(index, &said);
    }

    /// Does not read the log of a pool for a moment that says more than is kept: its writers wait for the
    /// pipe meanwhile, and howdah has time for others.
    fn hush(&mut self, index: usize) {
        let Some(generation) = self.slots[index].as_ref().and_then(|slot| slot.generation.as_ref()) else {
            return;
        };
        let _ = self.epoll.delete(generation.log());
        if !self.hushed.iter().any(|(_, hushed)| *hushed == index) {
            self.hushed.push((Instant::now() + HUSH, index));
        }
    }

    /// Reads the logs again whose moment is over, and tells of what was left out.
    fn hear_hushed(&mut self, now: Instant) {
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.hushed).into_iter().partition(|(when, _)| *when <= now);
        self.hushed = later;
        for (_, index) in due {
            let Some(slot) = &mut self.slots[index] else { continue };
            if let Some(generation) = &slot.generation {
                let event = EpollEvent::new(EpollFlags::EPOLLIN, Token::Log(index).pack());
                let _ = self.epoll.add(generation.log(), event);
            }
            confess(slot, false);
            if slot.budget.is_behind() {
                self.hushed.push((now + HUSH, index));
            }
        }
    }

    fn on_end(&mut self, index: usize) {
        self.on_log(index);
        let Some(how) = self.slots[index].as_ref().and_then(|slot| slot.generation.as_ref()?.reap()) else {
            return;
        };
        if self.fall_back(index, &format!("php-fpm ended: {how}")) {
            return;
        }
        let culprit = self.ended_by_limit(index, how);
        let Some(slot) = &mut self.slots[index] else { return };
        let Some(generation) = &mut slot.generation else { return };
        if let Outcome::Failed(error) = generation.process.outcome() {
            return self.start_failed(index, &error.to_string());
        }
        if let State::Stopping { then } = slot.machine.state() {
            let then = *then;
            slot.record.stops += u64::from(then == After::Cold);
            self.note_stop(index, then);
        } else {
            let reason = culprit.or_else(|| generation.reason()).unwrap_or_default();
            let reason =
                if reason.is_empty() { format!("php-fpm ended: {how}") } else { format!("{reason} ({how})") };
            slot.record.last_error = Some(reason);
        }
        self.forget_generation(index);
        self.repair(index);
        let waiting = self.slots[index].as_ref().is_some_and(Slot::has_own_waiting);
        self.events.push_back((index, Event::Exited { waiting }));
    }

    pub(super) fn on_time(&mut self) {
        let now = Instant::now();
        while let Some((when, index)) = self.clock.first().copied().filter(|(when, _)| *when <= now) {
            self.clock.remove(&(when, index));
            if let Some(slot) = &mut self.slots[index] {
                slot.clock = None;
                self.events.push_back((index, Event::Deadline));
            }
            self.settle();
        }
        self.on_limit_time(now);
        self.give_up_late(now);
        self.make_templates(now);
        self.hear_hushed(now);
        self.graves.tend(now);
        journal::flush();
        for index in std::mem::take(&mut self.freezing) {
            self.ask_frozen(index, 1);
        }
        self.refused
            .iter_mut()
            .filter(|one| one.as_ref().is_some_and(|one| one.until <= now))
            .for_each(|one| *one = None);
        self.make_room();
    }
}
