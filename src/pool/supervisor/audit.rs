//! Whose records of audit are: the kernel names a process and a user, or a
//! Landlock domain, and never a pool.

use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::epoll::{EpollEvent, EpollFlags};

use super::Supervisor;
use super::tokens::Token;
use crate::pool::limits::{Effect, Reason, Witness};
use crate::pool::quiesce;
use crate::pool::slot::Slot;
use crate::sandbox::audit::{Audit, Record};

/// Audit records that are looked at before there is a pause.
const MOST_RECORDS: usize = 128;
/// How long the pause is.
const PAUSE: Duration = Duration::from_secs(1);
/// Records that are kept because it cannot be told yet whose they are, and for how long.
const MOST_STRAY: usize = 32;
const STRAY_LIMIT: Duration = Duration::from_secs(5);
/// Landlock domains that are known.
const MOST_DOMAINS: usize = 1024;

/// The socket and what came out of it.
#[derive(Default)]
pub(super) struct Ear {
    /// `None` until the first generation runs, or where audit cannot be read.
    audit: Option<Audit>,
    tried: bool,
    /// Whether the socket is in the epoll.
    listens: bool,
    /// Until when it is left alone.
    pub(super) paused: Option<Instant>,
    /// Records of processes that were gone, and of domains that nobody has named yet.
    stray: VecDeque<(Instant, Record)>,
    /// Landlock domains, and the process 1 that made each.
    domains: VecDeque<(u64, i32)>,
}

impl Ear {
    /// Whether audit can be read here.
    pub(super) fn is_open(&self) -> bool {
        self.audit.is_some()
    }

    /// A record of a death by SIGSYS, of a process of this user, that could not be put down to a pool.
    pub(super) fn take_stray(&mut self, user: u32) -> Option<Record> {
        let its =
            |record: &Record| matches!(record, Record::Seccomp { uid, ended: true, .. } if *uid == user);
        let at = self.stray.iter().position(|(_, record)| its(record))?;
        self.stray.remove(at).map(|(_, record)| record)
    }
}

impl Supervisor {
    /// Listens to audit while any generation runs. The socket is opened once, for
    /// audit itself records who listens. What comes while nothing runs wakes nobody,
    /// and is forgotten when the first generation starts again.
    pub(super) fn listen_to_audit(&mut self) {
        if !std::mem::replace(&mut self.ear.tried, true) {
            self.ear.audit = Audit::open();
        }
        if self.ear.listens || self.ear.paused.is_some() {
            return;
        }
        if let Some(audit) = &self.ear.audit {
            if self.slots.iter().flatten().filter(|slot| slot.generation.is_some()).count() == 1 {
                audit.skip();
            }
            let event = EpollEvent::new(EpollFlags::EPOLLIN, Token::Audit.pack());
            self.ear.listens = self.epoll.add(audit, event).is_ok();
        }
    }

    fn stop_listening_to_audit(&mut self) {
        if let Some(audit) = self.ear.audit.as_ref().filter(|_| self.ear.listens) {
            let _ = self.epoll.delete(audit);
            self.ear.listens = false;
        }
    }

    /// Reads on after a pause.
    pub(super) fn resume_audit(&mut self, now: Instant) {
        if self.ear.paused.is_some_and(|until| until <= now) {
            self.ear.paused = None;
            self.listen_to_audit();
            self.on_audit();
        }
    }

    /// Leaves it alone when no generation runs any more.
    pub(super) fn leave_audit(&mut self) {
        if self.slots.iter().flatten().all(|slot| slot.generation.is_none()) {
            self.stop_listening_to_audit();
            self.ear.paused = None;
            self.ear.stray.clear();
            self.ear.domains.clear();
        }
    }

    /// Reads what audit has to say.
    pub(super) fn on_audit(&mut self) {
        for _ in 0..MOST_RECORDS {
            let Some(record) = self.ear.audit.as_ref().and_then(Audit::next) else { return };
            self.on_record(record);
        }
        // A tenant has its calls refused as fast as it can: the rest is for later, or lost.
        self.stop_listening_to_audit();
        self.ear.paused = Some(Instant::now() + PAUSE);
    }

    fn on_record(&mut self, record: Record) {
        let index = match &record {
            Record::Seccomp { pid, uid, .. } => self.owner(*pid, *uid),
            Record::Landlock { domain, .. } => {
                match self.ear.domains.iter().find(|(known, _)| known == domain) {
                    Some((_, pid)) => self.slot_of(*pid),
                    None => Owner::Unknown,
                }
            }
            Record::Domain { domain, pid } => return self.on_domain(*domain, *pid),
        };
        match index {
            Owner::Slot(index) => self.charge(index, &record),
            Owner::Nobody => {}
            Owner::Unknown => self.keep_stray(record),
        }
    }

    fn keep_stray(&mut self, record: Record) {
        let now = Instant::now();
        self.ear.stray.retain(|(since, _)| now.duration_since(*since) < STRAY_LIMIT);
        if self.ear.stray.len() == MOST_STRAY {
            self.ear.stray.pop_front();
        }
        self.ear.stray.push_back((now, record));
    }

    /// A domain's maker is told after the first refusal in it.
    fn on_domain(&mut self, domain: u64, pid: i32) {
        if matches!(self.slot_of(pid), Owner::Nobody) {
            return;
        }
        if self.ear.domains.len() == MOST_DOMAINS {
            self.ear.domains.pop_front();
        }
        self.ear.domains.push_back((domain, pid));
        let its = |record: &Record| matches!(record, Record::Landlock { domain: of, .. } if *of == domain);
        let (own, others) =
            std::mem::take(&mut self.ear.stray).into_iter().partition(|(_, record)| its(record));
        self.ear.stray = others;
        VecDeque::into_iter(own).for_each(|(_, record)| self.on_record(record));
    }

    /// Puts a record down to a pool.
    pub(super) fn charge(&mut self, index: usize, record: &Record) {
        let reason = match record {
            Record::Seccomp { pid, syscall, ended: true, .. } => {
                if let Some(slot) = &mut self.slots[index] {
                    match slot.vigil.unexplained_count.checked_sub(1) {
                        Some(left) => slot.vigil.unexplained_count = left,
                        None => slot.vigil.explained += u64::from(!slot.is_first_process(*pid)),
                    }
                }
                let detail = format!("the system call {syscall} is not allowed: process {pid} was ended");
                let reason =
                    Reason::new("seccomp", Effect::Ended, Witness::Kernel, detail).of(syscall.clone());
                if let Some(slot) = self.slots[index].as_mut().filter(|slot| slot.is_first_process(*pid)) {
                    slot.generation.iter_mut().for_each(|one| one.kills.note(&reason, Instant::now()));
                }
                reason
            }
            Record::Seccomp { syscall, ended: false, .. } => {
                let detail = format!("the system call {syscall} is not allowed, and failed");
                Reason::new("seccomp", Effect::Refused, Witness::Kernel, detail).of(syscall.clone())
            }
            Record::Landlock { blockers, path, .. } => {
                let on = if path.is_empty() { String::new() } else { format!(" on {path}") };
                let detail = format!("{blockers}{on} is not allowed, and failed");
                Reason::new("landlock", Effect::Refused, Witness::Kernel, detail)
                    .of(format!("{blockers}{on}"))
            }
            Record::Domain { .. } => return,
        };
        self.hit(index, reason);
    }

    /// The pool whose process 1 this is.
    fn slot_of(&self, pid: i32) -> Owner {
        let its = |slot: &Option<Slot>| slot.as_ref().is_some_and(|slot| slot.is_first_process(pid));
        self.slots.iter().position(its).map_or(Owner::Nobody, Owner::Slot)
    }

    /// The pool in whose generation a process is, or was: by its cgroup while it is
    /// there, and after that by its user, if only one running pool has that.
    fn owner(&self, pid: i32, uid: u32) -> Owner {
        let its = |slot: &Slot| slot.generation.as_ref().is_some_and(|one| one.uid(&slot.pool) == uid);
        let of_user: Vec<usize> =
            (0..self.slots.len()).filter(|index| self.slots[*index].as_ref().is_some_and(its)).collect();
        if of_user.is_empty() {
            return Owner::Nobody;
        }
        if let Owner::Slot(index) = self.slot_of(pid) {
            return Owner::Slot(index);
        }
        match fs::read_to_string(format!("/proc/{pid}/cgroup")) {
            Ok(text) => {
                let holds =
                    |index: &usize| self.slots[*index].as_ref().is_some_and(|slot| slot.holds(pid, &text));
                of_user.into_iter().find(holds).map_or(Owner::Nobody, Owner::Slot)
            }
            Err(_) if of_user.len() == 1 => Owner::Slot(of_user[0]),
            Err(_) => Owner::Unknown,
        }
    }
}

/// Whose a record is.
enum Owner {
    Slot(usize),
    Nobody,
    /// It cannot be told, or not yet.
    Unknown,
}

impl Slot {
    fn is_first_process(&self, pid: i32) -> bool {
        self.generation.as_ref().is_some_and(|generation| generation.process.pid.as_raw() == pid)
    }

    /// Whether a process is in the generation, by the text of its `/proc/PID/cgroup`.
    fn holds(&self, pid: i32, text: &str) -> bool {
        let Some(generation) = &self.generation else { return false };
        match generation.freezer.cgroup() {
            Some(cgroup) => {
                let line = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default();
                let path = Path::new(line.trim_end_matches(" (deleted)"));
                // The last two names: howdah may see another root of the hierarchy than it is mounted with.
                let mut names = cgroup.directory().components().rev();
                let mut its = path.components().rev();
                (0..2).all(|_| names.next() == its.next())
            }
            None => quiesce::tree(generation.process.pid).iter().any(|one| one.as_raw() == pid),
        }
    }
}
