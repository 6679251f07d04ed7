//! php-fpm that was started before anybody knew its pool: templates, made when nobody waits, by
//! class. Each serves one generation; what it cannot serve is launched cold. docs/templates.md

mod birth;
mod class;
mod classes;
mod error;
mod ids;
mod loaded;
mod lodging;
mod share;
mod supply;
mod trial;
mod waiting;

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags};

use self::birth::Births;
use self::class::short_name;
pub use self::class::{always_cold, class_name, class_of, sources};
use self::classes::{Classes, Model};
pub use self::error::NoTemplates;
use self::ids::refuse_taken;
pub use self::lodging::{Lodging, find, is_cgroup, tidy};
use self::share::share;
use self::trial::Trial;
pub use self::waiting::{Waiting, lacks_sockets};
use super::graves::Graves;
use super::prepare::{Places, Prepared};
use super::record;
use crate::config::profile::Profile;
use crate::config::types::IdRange;
use crate::sandbox::landlock::Use;
use crate::sandbox::visit::Home;

/// How long nobody must have started anything before one is made.
const QUIET: Duration = Duration::from_millis(30);
/// How old one may become: what it holds of the host (its libraries' addresses, files that are
/// deleted by now) is not to be there for weeks.
const OLDEST: Duration = Duration::from_secs(24 * 3600);
/// All templates of a howdah.
pub struct Templates {
    /// The way back from a template's namespaces.
    pub home: Home,
    wanted: usize,
    /// Bytes that all of them may take.
    memory: u64,
    births: Births,
    classes: Classes,
    waiting: Vec<Waiting>,
    /// One class at a time is tried.
    trial: Option<Trial>,
    due: Option<Instant>,
    /// Readable when one of them has ended.
    ends: Epoll,
}

/// Whether there can be `wanted` templates of each class, with ids of `range`, on this host; the way
/// back from their namespaces.
///
/// # Errors
/// Why there can be none.
pub fn possible(wanted: usize, range: IdRange, has_cgroups: bool) -> Result<Home, NoTemplates> {
    if wanted == 0 {
        return Err(NoTemplates::Unwanted);
    }
    if !has_cgroups {
        return Err(NoTemplates::Cgroup);
    }
    refuse_taken(range)?;
    Home::open().map_err(NoTemplates::Rights)
}

impl Templates {
    /// Keeps `wanted` of each class, in `memory` bytes, with ids of `range`; those that end go to `graves`.
    ///
    /// # Errors
    /// Why there can be none.
    pub fn open(
        (wanted, memory, range): (usize, u64, IdRange),
        has_cgroups: bool,
        places: &Places,
        graves: &Graves,
    ) -> Result<Self, NoTemplates> {
        let home = possible(wanted, range, has_cgroups)?;
        let births = Births::open(range, places, graves)?;
        let ends = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(NoTemplates::Rights)?;
        let (classes, waiting) = (Classes::default(), Vec::new());
        Ok(Self { home, wanted, memory, births, classes, waiting, trial: None, due: None, ends })
    }

    /// One for `prepared` with `listeners` sockets; another is made when it is quiet again.
    ///
    /// # Errors
    /// Why there is none.
    pub fn take(&mut self, prepared: &Rc<Prepared>, listeners: usize) -> Result<Waiting, String> {
        let class = self.learn(prepared, listeners);
        let taken = self.take_of(&class, prepared);
        self.classes.note_asked(&class, prepared);
        if taken.is_err() {
            self.classes.renew(&class, prepared, listeners);
        }
        taken
    }

    /// One of `class`, or why there is none.
    fn take_of(&mut self, class: &Rc<str>, prepared: &Rc<Prepared>) -> Result<Waiting, String> {
        let mut why = None;
        loop {
            let of_class = |one: &Waiting| one.is_ready && one.class == *class;
            let Some(at) = self.waiting.iter().position(of_class) else {
                return Err(why.unwrap_or_else(|| self.classes.why_none(class, &self.shares(), self.memory)));
            };
            let mut one = self.waiting.swap_remove(at);
            let _ = self.ends.delete(&one.template.process.pidfd);
            // What is on the disk now may be another php than the one that it has loaded.
            why = Some(if !one.is_current(Some(prepared)) {
                self.classes.distrust(class);
                "what it has loaded has changed on the disk".to_owned()
            } else if one.has_ended() {
                "it had ended".to_owned()
            } else if one.made.elapsed() >= OLDEST {
                "it was too old".to_owned()
            } else {
                self.classes.note_sound(class);
                return Ok(one);
            });
            one.end();
        }
    }

    /// How many each class is to have.
    fn shares(&self) -> Vec<usize> {
        share(&self.classes.claims(self.wanted), self.memory)
    }

    /// From now on there are templates of the class of `prepared` with `listeners` sockets, which it returns.
    pub fn learn(&mut self, prepared: &Rc<Prepared>, listeners: usize) -> Rc<str> {
        self.due = Some(Instant::now() + QUIET);
        self.classes.learn(prepared, listeners)
    }

    /// As [`Templates::learn`], for a program that need not be tried.
    pub fn trust(&mut self, prepared: &Rc<Prepared>, listeners: usize) {
        let class = self.learn(prepared, listeners);
        self.classes.trust(&class);
    }

    /// Whether there is room for one of a class that is not known yet.
    pub fn has_room(&self) -> bool {
        self.classes.memory() < self.memory
    }

    /// Forgets all classes but those of `prepared`, with their templates: no pool has them any more.
    pub fn keep_only<'a>(&mut self, prepared: impl Iterator<Item = (&'a Rc<Prepared>, usize)>) {
        let kept = prepared.map(|(prepared, listeners)| class_of(prepared, listeners)).collect();
        self.classes.keep_only(&kept);
        self.due = Some(Instant::now() + QUIET);
    }

    /// Ends those that wait and have no rules for all that `sources` has of their class now: pools have
    /// come for which they would be spent in vain.
    pub fn keep_knowing(&mut self, sources: impl Fn(&Rc<str>, &Profile) -> Vec<(PathBuf, Use)>) {
        let knows = |one: &Waiting| {
            let now = sources(&one.class, &one.prepared.profile);
            now.iter().all(|source| one.sources.contains(source))
        };
        let (kept, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiting).into_iter().partition(knows);
        self.waiting = kept;
        gone.into_iter().for_each(Waiting::end);
    }

    /// What there is, for who asks.
    pub fn stock(&self) -> record::Stock {
        let shares = self.shares();
        let class = |model: &Model| {
            let of_class = |one: &&Waiting| one.is_ready && one.class == model.class;
            let waiting: Vec<i32> =
                self.waiting.iter().filter(of_class).map(|one| one.template.process.pid.as_raw()).collect();
            let (major, minor, patch) = model.prepared.version;
            record::Class {
                class: short_name(&model.class),
                php: format!("{major}.{minor}.{patch}"),
                uid: model.prepared.own_ids.map(|(uid, _)| uid),
                memory_bytes: model.each,
                standing: model.standing.word().to_owned(),
                why_none: waiting
                    .is_empty()
                    .then(|| self.classes.why_none(&model.class, &shares, self.memory)),
                waiting,
            }
        };
        let classes = self.classes.all().iter().map(class).collect();
        record::Stock { wanted: self.wanted, memory_limit: self.memory, why_none: None, classes }
    }

    /// One of them may have ended: they are looked at.
    pub fn look(&mut self) {
        self.due = Some(Instant::now());
    }
}

impl AsFd for Templates {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ends.0.as_fd()
    }
}

impl Drop for Templates {
    fn drop(&mut self) {
        self.trial.take().into_iter().for_each(|trial| trial.waiting.end());
        self.waiting.drain(..).for_each(Waiting::end);
    }
}
