//! Pools come and go: admitted, read again, drained, removed; and the files in
//! which others read which there are and how each of them is.

use std::time::{Duration, Instant};

use nix::unistd::Pid;
use serde_json::json;

use super::Supervisor;
use crate::journal::{self, Level, Origin};
use crate::pool::activation::{self, Listener};
use crate::pool::admission::{Admission, Adopted, Fate};
use crate::pool::events::Kind;
use crate::pool::machine::Event;
use crate::pool::quiesce;
use crate::pool::record::{self, Entry, Record, Roll, Stock};
use crate::pool::slot::{Slot, Watch};
use crate::sys;

impl Supervisor {
    pub(super) fn admit(&mut self, admission: Admission) -> nix::Result<()> {
        let Admission { pool, listeners, record, adopted } = admission;
        let index = self.slots.len();
        let mut slot = Slot::new(pool, listeners, jitter(index));
        slot.record = record;
        let Some(Adopted { generation, doors, fate }) = adopted else {
            let has_lived = slot.record != Record::default();
            self.slots.push(Some(slot));
            self.watch(index, Watch::Connections);
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
        self.watch(index, Watch::Hangups);
        self.listen_to_limits(index);
        let what = match fate {
            Fate::Keep => "",
            Fate::Replace => "; its file or its sockets have changed, it drains",
            Fate::End => "; its file is gone, it drains",
        };
        self.tell(index, Level::Notice, &format!("adopted from an earlier howdah (pid {pid}){what}"));
        self.note(index, Kind::Adopt, json!({ "pid": pid.as_raw() }));
        if fate != Fate::Keep {
            self.drain(index, self.settings.places.drain);
        }
        self.set_clock(index);
        self.write_record(index);
        Ok(())
    }

    pub(super) fn reload(&mut self) {
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
        if !pools.is_empty() {
            self.review_classes();
        }
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
        self.note_all(Kind::Reload, json!({ "pools": self.slots.iter().flatten().count() }));
        let _ = libsystemd::daemon::notify(false, &[libsystemd::daemon::NotifyState::Ready]);
    }

    pub(super) fn drain(&mut self, index: usize, wait: Duration) {
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
        let again = slot.machine.is_draining();
        let reason = match (self.ending, &slot.successor) {
            (true, _) => "howdah ends",
            (false, Some(_)) => "replaced",
            (false, None) => "removed",
        };
        let event = Event::Drain { until: Instant::now() + wait, waiting: slot.has_own_waiting() };
        self.events.push_back((index, event));
        if !again {
            self.note(index, Kind::Drain, json!({ "reason": reason, "drain_ms": wait.as_millis() as u64 }));
        }
    }

    /// A drained pool goes, or becomes what its file says now.
    pub(super) fn remove(&mut self, index: usize) {
        self.watch(index, Watch::Nothing);
        self.forget_limits(index);
        let Some(mut slot) = self.slots[index].take() else { return };
        self.stale_roll = true;
        self.review_classes();
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
            self.watch(index, Watch::Connections);
            // Before it is told: who reads the line finds it so.
            self.write_record(index);
            if let Err(error) = completed {
                self.tell(index, Level::Error, &error.to_string());
            }
            if changed {
                let text = "its file has changed: the next connection starts it as the file says now";
                self.tell(index, Level::Notice, text);
            }
            return;
        }
        let _ = std::fs::remove_dir_all(self.settings.places.of_pool(&slot.pool));
        let (passed, own): (Vec<_>, Vec<_>) = slot.listeners.drain(..).partition(Listener::is_passed);
        self.spare.extend(passed);
        close(own);
    }

    pub(super) fn write_roll(&self) {
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

    /// Tells who asks which templates there are, where that is news.
    pub(super) fn write_stock(&mut self, stock: Stock) {
        if stock != self.stock {
            self.warn_unwritten(record::write(&record::stock_file(&self.settings.places.runtime), &stock));
            self.stock = stock;
        }
    }

    pub(super) fn write_record(&mut self, index: usize) {
        let Some(slot) = &mut self.slots[index] else { return };
        slot.record.state = slot.machine.state().word().to_owned();
        let generation = slot.generation.as_ref();
        let pid = generation.map(|generation| generation.process.pid);
        slot.record.pid = pid.map(Pid::as_raw);
        slot.record.start_time = pid.and_then(quiesce::start_time);
        slot.record.uplink = generation
            .and_then(|generation| generation.uplink.as_ref())
            .and_then(|uplink| Some((uplink.pid.as_raw(), quiesce::start_time(uplink.pid)?)));
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
pub(super) fn close(listeners: Vec<Listener>) {
    for listener in listeners {
        if let Err(error) = listener.close_and_unlink() {
            journal::line(Level::Warning, Origin::default(), &error.to_string());
        }
    }
}

/// A number from 0 to 1 that differs between pools.
fn jitter(index: usize) -> f64 {
    (index as f64 * 0.618_033_988_75).fract()
}
