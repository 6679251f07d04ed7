//! Which limit ended, refused or held something: what the kernel has counted
//! and audited and what php-fpm says is put down to a pool, told in one line,
//! kept for `ps` and written down as an event.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::sys::statfs::{Statfs, TMPFS_MAGIC, fstatfs};
use serde_json::{Value, json};

use super::Supervisor;
use super::tokens::Token;
use crate::fpm::log::Line;
use crate::journal::Level;
use crate::pool::events::{self, Kind};
use crate::pool::limits::{self, Effect, End, Reason, Witness};
use crate::sandbox::cgroup::acknowledge;
use crate::{paths, sys};

/// Once, and then not until it is watched again: a tenant at a limit would keep the loop awake.
pub(super) const LIMIT_FLAGS: EpollFlags = EpollFlags::EPOLLPRI.union(EpollFlags::EPOLLONESHOT);
/// How long a counter is left alone after it has changed.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a record of audit may come after php-fpm's line about the same death.
const RECORD_LATE: Duration = Duration::from_secs(1);
/// How long a death by SIGSYS of php-fpm itself waits for the record.
const RECORD_WAITS: u32 = 10;
/// What is told of such a death when the record does not come.
const NAMELESS: &str = "a system call that the filter does not allow; audit did not tell which";

impl Supervisor {
    /// A counter of the generation's cgroup has changed.
    pub(super) fn on_limit(&mut self, index: usize) {
        self.count_limits(index);
        let Some(slot) = &mut self.slots[index] else { return };
        slot.vigil.rearm = Some(Instant::now() + PAUSE);
        self.set_limit_clock(index);
    }

    /// Reads the counters of the generation's cgroup, and tells what has grown.
    pub(super) fn count_limits(&mut self, index: usize) -> Vec<Reason> {
        let Some(slot) = &mut self.slots[index] else { return Vec::new() };
        let reasons = slot.generation.as_mut().map(|one| one.count_limits()).unwrap_or_default();
        for reason in &reasons {
            self.hit(index, reason.clone());
        }
        reasons
    }

    /// What nothing tells of by itself: processor time, and space in the private file systems.
    pub(super) fn look_at_limits(&mut self, index: usize) {
        self.count_limits(index);
        self.look_at_tmpfs(index);
    }

    fn look_at_tmpfs(&mut self, index: usize) {
        let Some(slot) = &mut self.slots[index] else { return };
        let Some(generation) = &slot.generation else { return };
        let root = format!("/proc/{}/root", generation.process.pid);
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let Ok(root) = nix::fcntl::open(root.as_str(), flags, Mode::empty()).map(sys::owned) else { return };
        let full: Vec<&'static str> = [("tmp", "/tmp"), ("run", "/run"), ("shm", "/dev/shm")]
            .into_iter()
            .filter(|(_, path)| tmpfs(root.as_fd(), path).is_some_and(|data| is_full(&data)))
            .map(|(key, _)| key)
            .collect();
        let fresh: Vec<_> = full.iter().filter(|key| !slot.vigil.full.contains(key)).copied().collect();
        slot.vigil.full = full;
        for limit in fresh {
            let path = if limit == "shm" { "/dev/shm".to_owned() } else { format!("/{limit}") };
            let detail = format!("{path} is full: writes to it fail");
            self.hit(index, Reason::new(limit, Effect::Refused, Witness::Kernel, detail));
        }
    }

    /// What a pool's log says of limits.
    pub(super) fn hear_limits(&mut self, index: usize, lines: &[Line]) {
        if lines.iter().any(limits::says_full) {
            self.look_at_tmpfs(index);
        }
        let once = self.slots[index].as_ref().is_some_and(|slot| slot.executes_once());
        let said: Vec<Reason> = lines.iter().filter_map(|line| limits::said(line, once)).collect();
        if said.iter().any(Reason::is_counted) {
            // The kernel first: whether the line tells of anything else can be known only then.
            self.count_limits(index);
        }
        for reason in said {
            match (reason.limit, reason.effect) {
                ("seccomp", Effect::Ended) => self.on_sigsys(index, reason),
                _ => self.hit(index, reason),
            }
        }
    }

    /// php-fpm says that a worker died by SIGSYS: audit says by which call, before or soon after.
    fn on_sigsys(&mut self, index: usize, reason: Reason) {
        if !self.ear.is_open() {
            return self.hit(index, reason);
        }
        self.on_audit();
        let Some(slot) = &mut self.slots[index] else { return };
        if slot.vigil.explained > 0 {
            slot.vigil.explained -= 1;
            return;
        }
        let user = slot.generation.as_ref().map_or(slot.pool.user.uid, |one| one.uid(&slot.pool));
        slot.vigil.unexplained_count += 1;
        slot.vigil.unexplained.get_or_insert(Instant::now() + RECORD_LATE);
        if let Some(record) = self.ear.take_stray(user) {
            self.charge(index, &record);
        }
        self.set_limit_clock(index);
    }

    /// Whether a limit ended process 1 of the generation, and with it all: the words for `last_error`.
    pub(super) fn ended_by_limit(&mut self, index: usize, end: End) -> Option<String> {
        self.count_limits(index);
        let by_call = end == End::Killed(Signal::SIGSYS);
        for _ in 0..if by_call { RECORD_WAITS } else { 0 } {
            self.on_audit();
            if self.explained(index, end).is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let nameless = || by_call.then(|| format!("limit seccomp: {NAMELESS}"));
        self.explained(index, end).or_else(nameless)
    }

    fn explained(&self, index: usize, end: End) -> Option<String> {
        let generation = self.slots[index].as_ref()?.generation.as_ref()?;
        generation.kills.explain(end, Instant::now()).map(ToString::to_string)
    }

    /// Counts, and tells if it is time to.
    pub(super) fn hit(&mut self, index: usize, reason: Reason) {
        self.hit_and(index, reason, true);
    }

    /// The same without a line in the journal.
    pub(super) fn hit_silently(&mut self, index: usize, reason: Reason) {
        self.hit_and(index, reason, false);
    }

    fn hit_and(&mut self, index: usize, reason: Reason, aloud: bool) {
        let Some(slot) = &mut self.slots[index] else { return };
        let (now, time) = (Instant::now(), events::now());
        let reason = limits::within_bounds(reason, &slot.record.limits_hit);
        let told = slot.vigil.tally.count(reason, &mut slot.record.limits_hit, now, &time);
        if let Some(reason) = told {
            self.tell_limit(index, &reason, aloud);
        }
        self.set_limit_clock(index);
    }

    fn tell_limit(&mut self, index: usize, reason: &Reason, aloud: bool) {
        let level = if reason.is_common() { Level::Notice } else { Level::Warning };
        if aloud {
            let times = if reason.count > 1 { format!(" ({} times)", reason.count) } else { String::new() };
            self.tell(index, level, &format!("{reason}{times}"));
        }
        let mut fields = json!({
            "limit": reason.limit,
            "effect": reason.effect,
            "count": reason.count,
            "detail": reason.detail,
            "witness": reason.witness,
        });
        if !reason.subject.is_empty() {
            fields["subject"] = Value::from(reason.subject.clone());
        }
        self.note(index, Kind::Limit, fields);
        self.write_record(index);
    }

    /// What is due by now: counters to watch again, hits to tell of, audit to read again.
    pub(super) fn on_limit_time(&mut self, now: Instant) {
        self.resume_audit(now);
        while let Some((when, index)) = self.limit_clock.first().copied().filter(|(when, _)| *when <= now) {
            self.limit_clock.remove(&(when, index));
            let Some(slot) = &mut self.slots[index] else { continue };
            slot.vigil.clock = None;
            if slot.vigil.unexplained.is_some_and(|until| until <= now) {
                slot.vigil.unexplained = None;
                let count = std::mem::take(&mut slot.vigil.unexplained_count);
                let detail = format!("a worker was ended: {NAMELESS}");
                let reason = Reason::new("seccomp", Effect::Ended, Witness::Pool, detail);
                if count > 0 {
                    self.hit(index, reason.times(count));
                }
            }
            self.rearm(index, now);
            let due = self.slots[index].as_mut().map(|slot| slot.vigil.tally.due(now)).unwrap_or_default();
            due.iter().for_each(|reason| self.tell_limit(index, reason, true));
            self.set_limit_clock(index);
        }
    }

    fn rearm(&mut self, index: usize, now: Instant) {
        let Some(slot) = &mut self.slots[index] else { return };
        if slot.vigil.rearm.is_none_or(|until| until > now) {
            return;
        }
        slot.vigil.rearm = None;
        for file in slot.generation.iter().flat_map(|generation| &generation.limit_files) {
            // Acknowledged before the counters are read: what comes between is told twice to us, not never.
            let _ = acknowledge(file);
            let mut event = EpollEvent::new(LIMIT_FLAGS, Token::Limit(index).pack());
            let _ = self.epoll.modify(file, &mut event);
        }
        self.count_limits(index);
    }

    fn set_limit_clock(&mut self, index: usize) {
        let Some(slot) = &mut self.slots[index] else { return };
        let wanted = slot.vigil.next();
        if slot.vigil.clock != wanted {
            if let Some(old) = slot.vigil.clock.take() {
                self.limit_clock.remove(&(old, index));
            }
            self.limit_clock.extend(wanted.map(|when| (when, index)));
            slot.vigil.clock = wanted;
        }
    }

    /// The pool goes: what was counted and not told is told.
    pub(super) fn forget_limits(&mut self, index: usize) {
        let Some(slot) = &mut self.slots[index] else { return };
        if let Some(old) = slot.vigil.clock.take() {
            self.limit_clock.remove(&(old, index));
        }
    }
}

/// The tmpfs at `path` below `root`, if one is there. Through no symlink: whoever owns an image can
/// take away what a file system is mounted on, and put a link in its place.
fn tmpfs(root: BorrowedFd<'_>, path: &str) -> Option<Statfs> {
    let data = fstatfs(paths::open_inside(root, Path::new(path)).ok()?).ok()?;
    (data.filesystem_type() == TMPFS_MAGIC).then_some(data)
}

/// Whether there is no room, or no inode, left.
fn is_full(data: &Statfs) -> bool {
    data.blocks_available() == 0 || data.files_free() == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_in_the_place_of_a_tmpfs_is_not_followed() {
        let image = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/shm", image.path().join("tmp")).unwrap();
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let open = |path: &Path| sys::owned(nix::fcntl::open(path, flags, Mode::empty()).unwrap());
        assert!(tmpfs(open(image.path()).as_fd(), "/tmp").is_none());
        // The control: by its own path it is a tmpfs, and by the link for who follows it.
        assert!(tmpfs(open(Path::new("/")).as_fd(), "/dev/shm").is_some());
        let followed = nix::sys::statfs::statfs(&image.path().join("tmp")).unwrap();
        assert_eq!(followed.filesystem_type(), TMPFS_MAGIC);
    }
}
