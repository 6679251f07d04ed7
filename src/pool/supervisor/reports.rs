//! What the journal is told of a pool: that it started and how long each step
//! took, why it did not, and what its php-fpm says. It decides nothing.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use serde_json::json;

use super::Supervisor;
use crate::fpm::log::Kind;
use crate::journal::{self, Level, Origin};
use crate::pool::events;
use crate::pool::generation::{Generation, Phases};
use crate::pool::limits::{Effect, Reason, Witness};
use crate::pool::slot::Slot;
use crate::sandbox::uplink::Uplink;

impl Supervisor {
    pub(super) fn report_started(&mut self, index: usize) {
        let Some(slot) = &mut self.slots[index] else { return };
        let Some(generation) = &mut slot.generation else { return };
        let took = generation.began.elapsed();
        generation.serves = true;
        tell_lines(slot, Level::Error);
        let Some(generation) = &mut slot.generation else { return };
        let phases = &mut generation.phases;
        phases.accepted = took.saturating_sub(phases.before_ready() + phases.ready);
        let ms = |duration: Duration| (duration.as_secs_f64() * 1e6).round() / 1e3;
        let by_template = generation.lodging.is_some();
        let steps = steps(phases, by_template);
        slot.record.starts += 1;
        slot.record.last_error = None;
        slot.record.last_start_ms = Some(ms(took));
        slot.record.last_start_monotonic_us = monotonic_us(took);
        slot.record.last_start_steps_ms =
            steps.iter().map(|(name, time)| ((*name).to_owned(), ms(*time))).collect();
        let told: Vec<String> = steps.iter().map(|(name, time)| format!("{name} {}", ms(*time))).collect();
        let by = if by_template { "template" } else { "cold launch" };
        slot.record.last_start_by = by.to_owned();
        let why = slot.cold.take().filter(|_| !by_template && self.templates.is_some());
        slot.record.last_start_not_by_template.clone_from(&why);
        let how = if by_template { " by a template" } else { "" };
        let text = format!("started in {} ms{how} ({})", ms(took), told.join(", "));
        self.tell(index, Level::Info, &text);
        let mut fields = json!({ "ms": ms(took), "started_by": by });
        if let Some(why) = why {
            fields["not_by_template"] = why.into();
        }
        self.note(index, events::Kind::Start, fields);
    }

    pub(super) fn report_timeout(&mut self, index: usize) {
        let Some(slot) = &mut self.slots[index] else { return };
        let limit = slot.pool.start.timeout.as_secs_f64();
        if let Some(question) = &slot.question {
            let (image, binary) = (&slot.pool.image, question.image.binary.display());
            let words = format!("image {image}: {binary} -i did not end within {limit} s: try it by hand");
            return self.tell_failure(index, &words);
        }
        self.count_limits(index);
        let Some(slot) = &mut self.slots[index] else { return };
        let killed = |one: &Generation| one.kills.recent(Instant::now()).map(ToString::to_string);
        let killed = slot.generation.as_ref().and_then(killed);
        let said = slot.generation.as_mut().and_then(|generation| generation.reason());
        // Nobody accepts anything before it is there.
        let uplink = slot.generation.as_ref().and_then(|generation| generation.uplink.as_ref());
        let words = match uplink.is_some_and(Uplink::is_starting) {
            true => format!("nft and pasta made no way out within {limit} s"),
            false => format!("php-fpm did not accept the connection within {limit} s"),
        };
        let reason = Reason::new("start.timeout", Effect::Ended, Witness::Howdah, words.clone());
        // The failure is the line.
        self.hit_silently(index, reason);
        // php-fpm knows that its workers were killed, and not by what.
        let why = match (killed, said) {
            (Some(limit), _) => limit,
            (None, Some(reason)) => format!("it said: {reason}"),
            (None, None) => "it said nothing".to_owned(),
        };
        self.tell_failure(index, &format!("{words}; {why}"));
    }

    /// One line for a failure, kept for `ps`.
    pub(super) fn tell_failure(&mut self, index: usize, reason: &str) {
        let Some(slot) = &mut self.slots[index] else { return };
        let reason = journal::one_line(reason);
        let text = format!("{reason} [{}.{}]", slot.pool.name, slot.record.generation);
        slot.record.last_error = Some(text.clone());
        self.tell(index, Level::Error, &text);
        self.note(index, events::Kind::Failure, json!({ "detail": text }));
        self.write_record(index);
    }

    /// Tells once that a pool's socket is dead and who can help, and the service manager for as long as it is so.
    pub(super) fn report_unreachable(&mut self, index: usize, reason: Option<String>) {
        let Some(slot) = &mut self.slots[index] else { return };
        if slot.unreachable == reason {
            return;
        }
        slot.unreachable = reason;
        if let Some(reason) = slot.unreachable.clone() {
            slot.record.last_error = Some(reason.clone());
            self.tell(index, Level::Error, &reason);
        }
        self.notify_status();
    }

    /// `STATUS=` of sd_notify(3): what `systemctl status` shows.
    pub(super) fn notify_status(&self) {
        let pools = self.slots.iter().flatten();
        let dead = pools.clone().find_map(|slot| Some((slot.pool.name.as_str(), slot.unreachable.as_ref()?)));
        let status = match dead {
            Some((name, reason)) => format!("pool {name}: {reason}"),
            None => listening(pools.count()),
        };
        let _ = libsystemd::daemon::notify(false, &[libsystemd::daemon::NotifyState::Status(status)]);
    }

    pub(super) fn tell(&self, index: usize, level: Level, text: &str) {
        let Some(slot) = &self.slots[index] else { return };
        let generation = slot.generation.as_ref().map(|generation| generation.number);
        journal::line(level, Origin { pool: Some(slot.pool.name.as_str()), generation }, text);
    }
}

/// The steps of a start in their order, by the names that `ps --json` has for them.
fn steps(phases: &Phases, by_template: bool) -> Vec<(&'static str, Duration)> {
    let last = [("php-fpm", phases.ready), ("accepted", phases.accepted)];
    let mut steps = vec![("check", phases.check)];
    match by_template {
        false => steps.extend([
            ("cgroup", phases.cgroup),
            ("mounts prepared", phases.plan),
            ("clone", phases.clone),
            ("walls and exec", phases.walls),
        ]),
        true => steps.extend([
            ("limits", phases.cgroup),
            ("files", phases.plan),
            ("bind", phases.walls),
            ("configuration", phases.clone),
            ("sockets", phases.sockets),
        ]),
    }
    steps.extend(last);
    // Made beside the three steps before php-fpm, which waited for it at the end of the third; of a
    // template it is part of "sockets", which it waited for.
    let name = if by_template { "network, beside the bind" } else { "network, beside the walls" };
    steps.extend(phases.network.map(|network| (name, network)));
    steps
}

/// What CLOCK_MONOTONIC showed `ago`, microseconds: other programs of this host read the same clock.
fn monotonic_us(ago: Duration) -> Option<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).ok()?;
    u64::try_from((Duration::from(now).saturating_sub(ago)).as_micros()).ok()
}

/// "2 pools listen".
pub fn listening(pools: usize) -> String {
    if pools == 1 { "1 pool listens".to_owned() } else { format!("{pools} pools listen") }
}

/// Tells what a generation has said, as far as the pool's budget goes; each line is at most as important as `most`.
pub(super) fn tell_lines(slot: &mut Slot, most: Level) {
    let Some(generation) = &mut slot.generation else { return };
    if !journal::shows(most) {
        // None of them would be seen: they cost nothing, and are not missed.
        return generation.held.clear();
    }
    let (pool, now) = (slot.pool.name.as_str(), Instant::now());
    let origin = Origin { pool: Some(pool), generation: Some(generation.number) };
    for line in std::mem::take(&mut generation.held) {
        if !slot.budget.allows(line.text.len(), now) {
            continue;
        }
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
    confess(slot, false);
}

/// Tells how many lines were left out, when it is time to.
pub(super) fn confess(slot: &mut Slot, ended: bool) {
    let origin = Origin { pool: Some(slot.pool.name.as_str()), generation: None };
    if let Some(count) = slot.budget.confess(ended, Instant::now()) {
        let text = format!("{count} lines of this pool left out: it writes faster than they are kept");
        journal::line(Level::Warning, origin, &text);
    }
}
