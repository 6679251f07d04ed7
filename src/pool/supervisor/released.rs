//! Generations that began as templates and have been let go on: each must be ready soon, or its pool
//! is launched cold after all. It decides how long that is.

use std::time::{Duration, Instant};

use super::Supervisor;
use crate::pool::machine::State;
use crate::pool::slot::Slot;
use crate::sandbox::gate::Gate;

/// The part of `start.timeout` that a template has from its configuration until it is ready: 2 s of
/// the default 10. It takes a few milliseconds where a cold launch takes thirty, and whoever gives a
/// slow machine more time gives it to this as well. What is launched in its place has all of
/// `start.timeout` again.
const PART: u32 = 5;
/// How many times one is asked whether it stands still.
const FREEZE_ASKS: u32 = 20;

/// A generation that was let go on, and until when it must be ready.
#[derive(Debug, Clone, Copy)]
pub(super) struct Released {
    until: Instant,
    index: usize,
    generation: u64,
}

fn limit(slot: &Slot) -> Duration {
    slot.pool.start.timeout / PART
}

impl Supervisor {
    /// Expects a pool's generation to be ready soon, if it was a template. One that does not get its
    /// sockets before its way out is there is expected from then on.
    pub(super) fn expect_soon(&mut self, index: usize) {
        let Some(slot) = &self.slots[index] else { return };
        let Some(generation) = slot.generation.as_ref().filter(|one| one.lodging.is_some()) else { return };
        if generation.process.gate.as_ref().is_some_and(Gate::withholds) {
            return;
        }
        let until = Instant::now() + limit(slot);
        self.released.push(Released { until, index, generation: generation.number });
    }

    /// It is ready, or gone.
    pub(super) fn expect_no_more(&mut self, index: usize) {
        self.released.retain(|one| one.index != index);
    }

    /// When the first of them must be ready.
    pub(super) fn next_expected(&self) -> Option<Instant> {
        self.released.iter().map(|one| one.until).min()
    }

    /// Launches cold what should be ready by now.
    pub(super) fn give_up_late(&mut self, now: Instant) {
        if self.released.is_empty() {
            return;
        }
        let (late, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.released).into_iter().partition(|one| one.until <= now);
        self.released = rest;
        for Released { index, generation: number, .. } in late {
            let Some(slot) = &self.slots[index] else { continue };
            let Some(generation) = slot.generation.as_ref().filter(|one| one.number == number) else {
                continue;
            };
            let State::Starting { ready: false, .. } = slot.machine.state() else { continue };
            let what = match &generation.process.gate {
                Some(_) => "ask for its sockets",
                None => "become ready",
            };
            let reason = format!("its php-fpm did not {what} within {:?}", limit(slot));
            if serves_nobody(slot) {
                self.fall_back(index, &reason);
            }
        }
    }
}

/// Whether nobody can lose anything by its end. With its sockets it may have workers already that have
/// accepted a connection, although it has not said that it is ready: it has to stand still for the
/// look, and where somebody is in it `start.timeout` counts, as for any other.
fn serves_nobody(slot: &Slot) -> bool {
    let Some(generation) = &slot.generation else { return false };
    if generation.process.gate.is_some() {
        return true;
    }
    let (freezer, pid) = (&generation.freezer, generation.process.pid);
    let frozen = freezer.freeze(pid).is_ok() && freezer.is_frozen_soon(pid, FREEZE_ASKS).unwrap_or(false);
    if frozen && !slot.is_busy() {
        return true;
    }
    let _ = freezer.thaw(pid);
    false
}
