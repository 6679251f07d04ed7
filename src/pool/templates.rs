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
mod trial;
mod waiting;

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use self::birth::Births;
use self::class::short_name;
pub use self::class::{always_cold, class_name, class_of, sources};
use self::classes::{Classes, Model};
pub use self::error::NoTemplates;
use self::ids::refuse_taken;
pub use self::lodging::{Lodging, find, is_cgroup, tidy};
use self::share::share;
use self::trial::{Trial, Verdict};
pub use self::waiting::{Waiting, lacks_sockets};
use super::graves::Graves;
use super::prepare::{Places, Prepared};
use super::record;
use crate::config::profile::Profile;
use crate::config::types::IdRange;
use crate::sandbox::SpareNetwork;
use crate::sandbox::cgroup::Base;
use crate::sandbox::landlock::Use;
use crate::sandbox::visit::Home;

/// How long php-fpm may take to load its extensions and ask for its configuration: a thousand times what it
/// takes on a quiet machine, for it has the lowest priority on one that may be busy or emulated.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How often one that starts is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// How long nobody must have started anything before one is made.
const QUIET: Duration = Duration::from_millis(30);
/// How old one may become: what it holds of the host (its libraries' addresses, files that are
/// deleted by now) is not to be there for weeks.
const OLDEST: Duration = Duration::from_secs(24 * 3600);
/// How long one must have waited for its end to be a new accident.
const SOUND: Duration = Duration::from_secs(60);
/// What may come to any of them, and tells nothing of the next.
const KILLED: &str = "the last one was killed";
const ENDED: &str = "the last one ended while it waited";
const CHANGED: &str = "what the last one had loaded was changed meanwhile";
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

    /// When there is something to do.
    pub fn next(&self) -> Option<Instant> {
        let old = self.waiting.iter().filter(|one| one.is_ready).map(|one| one.made + OLDEST);
        self.due.into_iter().chain(old).min()
    }

    /// Looks at those that are being made, and begins with the next if `is_quiet`; a line to tell, if any.
    pub fn go_on(
        &mut self,
        now: Instant,
        is_quiet: bool,
        (base, network): (Option<&Base>, Option<&mut SpareNetwork>),
        sources: impl Fn(&Rc<str>, &Profile) -> Vec<(PathBuf, Use)>,
    ) -> Option<String> {
        if self.next().is_none_or(|due| due > now) {
            return None;
        }
        self.due = None;
        let mut told = self.go_on_trying(now);
        for one in std::mem::take(&mut self.waiting) {
            told = self.keep(one, now, is_quiet).or(told);
        }
        if self.trial.is_some() || self.waiting.iter().any(|one| !one.is_ready) {
            self.due = Some(now + LOOK);
            return told;
        }
        self.discard_stale();
        let Some(base) = base else { return told };
        let Some(lacking) = self.balance(now) else { return told };
        if !is_quiet {
            self.due = Some(now + QUIET);
            return told;
        }
        self.due = Some(now + LOOK);
        let model = &self.classes.all()[lacking];
        let sources = sources(&model.class, &model.prepared.profile);
        match self.births.make(model, base, network, sources) {
            Ok(one) => {
                // Unwatched, its end would be seen when it is wanted.
                let event = EpollEvent::new(EpollFlags::EPOLLIN, 0);
                let _ = self.ends.add(&one.template.process.pidfd, event);
                self.waiting.push(one);
            }
            Err(error) => {
                let class = Rc::clone(&model.class);
                self.classes.forget(&class);
                return Some(format!("a template was not made: {error}"));
            }
        }
        told
    }

    /// The next class of which there are to be more; ends those that take the memory of others. Where there
    /// is to be one later only, it looks again then.
    fn balance(&mut self, now: Instant) -> Option<usize> {
        let mut lacking = self.shares();
        for one in std::mem::take(&mut self.waiting) {
            let model = self.classes.all().iter().position(|model| model.class == one.class);
            match model.map(|index| &mut lacking[index]) {
                Some(left) if *left > 0 => {
                    *left -= 1;
                    self.waiting.push(one);
                }
                _ => self.let_go(one),
            }
        }
        let lacks = |(index, left): (usize, usize)| (left > 0).then_some(index);
        let all = self.classes.all();
        let lacking: Vec<usize> = lacking.into_iter().enumerate().filter_map(lacks).collect();
        let paused = |index: &usize| all[*index].paused_until(now);
        let next = lacking.iter().copied().filter(|index| paused(index).is_none());
        let next = next.max_by_key(|&index| all[index].asked);
        if next.is_none() {
            self.due = lacking.iter().filter_map(paused).min();
        }
        next
    }

    /// Ends one. It is not watched any more: dead, it would keep the loop awake until it has been waited for.
    fn let_go(&self, one: Waiting) {
        let _ = self.ends.delete(&one.template.process.pidfd);
        one.end();
    }

    /// Those whose php, ini files or libraries have changed since, and those that are too old.
    fn discard_stale(&mut self) {
        let stale = self.classes.forget_stale();
        let is_stale = |one: &Waiting| {
            one.made.elapsed() >= OLDEST || !one.is_current(None) || stale.contains(&one.class)
        };
        let (gone, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.waiting).into_iter().partition(is_stale);
        self.waiting = kept;
        gone.iter().filter(|one| !one.is_current(None)).for_each(|one| self.classes.distrust(&one.class));
        gone.into_iter().for_each(|one| self.let_go(one));
    }

    /// Looks at the one that is on trial; a line to tell, if any.
    fn go_on_trying(&mut self, now: Instant) -> Option<String> {
        let mut trial = self.trial.take()?;
        let verdict = trial.look(now);
        if verdict == Verdict::Pending {
            self.trial = Some(trial);
            return None;
        }
        let class = Rc::clone(&trial.waiting.class);
        let was_killed = trial.waiting.was_killed();
        trial.waiting.end();
        match verdict {
            Verdict::Unfit(why) => return self.classes.refuse(&class, &why),
            Verdict::Lost(_) if was_killed => self.classes.pause(&class, KILLED, now),
            Verdict::Lost(why) => return self.classes.lose(&class, &why),
            Verdict::Good | Verdict::Pending => self.classes.trust(&class),
        }
        None
    }

    /// Looks at one that waits or is being made, and keeps it if it is worth it; a line to tell, if any.
    fn keep(&mut self, mut one: Waiting, now: Instant, is_quiet: bool) -> Option<String> {
        let class = Rc::clone(&one.class);
        // One that has come as far may have to wait for its trial, for as long as it is not quiet.
        let late = !one.is_ready && now > one.made + START_LIMIT && !one.asks();
        if one.has_ended() || late {
            if one.is_ready && one.made.elapsed() >= SOUND {
                self.classes.note_sound(&class);
            }
            let why = one.was_killed().then_some(KILLED).or_else(|| one.is_ready.then_some(ENDED));
            let doing = one.doing();
            self.let_go(one);
            if let Some(why) = why {
                // Not to make it worse.
                self.classes.pause(&class, why, now);
                return None;
            }
            return self.classes.lose(&class, &format!("did not ask for its configuration: {doing}"));
        }
        if one.is_ready || !one.asks() {
            self.waiting.push(one);
            return None;
        }
        let untried = self.classes.is_untried(&class);
        if untried && (self.trial.is_some() || !is_quiet) {
            self.waiting.push(one);
            return None;
        }
        if !one.note_loaded() {
            self.let_go(one);
            self.classes.pause(&class, CHANGED, now);
            return None;
        }
        self.classes.note_memory(&class, one.memory());
        if !untried {
            self.classes.note_waits(&class);
            one.is_ready = true;
            self.waiting.push(one);
            return None;
        }
        // Its trial looks at it all the time.
        let _ = self.ends.delete(&one.template.process.pidfd);
        match Trial::begin(one, &self.home) {
            Ok(trial) => self.trial = Some(trial),
            Err(error) => {
                return self.classes.lose(&class, &format!("could not be bound on its trial: {error}"));
            }
        }
        None
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
