//! The classes that pools have asked for, and what is known of the php-fpm of each.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::class::{class_of, short_name};
use super::share::{Claim, GUESS};
use crate::pool::prepare::Prepared;

/// So many of a class that come to nothing before they wait are no accident.
const MOST_LOST: u32 = 3;

/// How long none of a class is made after one has come to nothing by an accident: at first, and at most
/// where the next ones do as well.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(64);

/// When another one is made all the same: a machine that is too busy for them now need not stay so.
const AGAIN: Duration = Duration::from_secs(600);

/// Why there is none where there will be one.
const NOT_READY: &str = "none was ready";

/// What the templates of one class are made of.
pub(super) struct Model {
    pub(super) class: Rc<str>,
    pub(super) prepared: Rc<Prepared>,
    pub(super) listeners: usize,
    pub(super) standing: Standing,
    /// When one of its pools last asked for one.
    pub(super) asked: Instant,
    /// What one takes of the memory, bytes; `None`: nobody has looked yet.
    pub(super) each: Option<u64>,
    /// After an accident.
    pause: Option<Pause>,
}

/// Why none of a class is made for a while.
#[derive(Debug, Clone, Copy)]
struct Pause {
    why: &'static str,
    until: Instant,
    long: Duration,
}

impl Model {
    /// Until when none is to be made; `None`: now is as good as later.
    pub(super) fn paused_until(&self, now: Instant) -> Option<Instant> {
        self.pause.map(|pause| pause.until).filter(|until| *until > now)
    }
}

/// What is known of the php-fpm of a class.
pub(super) enum Standing {
    /// Nothing: the first template is for its [`Trial`](super::trial::Trial).
    Untried,
    /// It does what a template must do.
    Good,
    /// It does not: its pools are launched cold, where it may have been an accident after all until a moment.
    Unfit(Rc<str>, Option<Instant>),
}

impl Standing {
    /// Whether it may be better by now.
    fn is_over(&self, now: Instant) -> bool {
        matches!(self, Self::Unfit(_, Some(until)) if *until <= now)
    }

    /// "untried", "good", "unfit"
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Untried => "untried",
            Self::Good => "good",
            Self::Unfit(..) => "unfit",
        }
    }
}

/// All classes.
#[derive(Default)]
pub(super) struct Classes {
    models: Vec<Model>,
    /// How many of a class have come to nothing in a row before they waited; more than the model, which
    /// goes when one is lost.
    lost: HashMap<Rc<str>, u32>,
}

impl Classes {
    pub(super) fn all(&self) -> &[Model] {
        &self.models
    }

    pub(super) fn find(&self, class: &Rc<str>) -> Option<&Model> {
        self.models.iter().find(|model| model.class == *class)
    }

    fn find_mut(&mut self, class: &Rc<str>) -> Option<&mut Model> {
        self.models.iter_mut().find(|model| model.class == *class)
    }

    /// The class of `prepared` with `listeners` sockets; from now on it is known.
    pub(super) fn learn(&mut self, prepared: &Rc<Prepared>, listeners: usize) -> Rc<str> {
        let class = class_of(prepared, listeners);
        if self.find(&class).is_none() {
            self.models.push(Model {
                class: Rc::clone(&class),
                prepared: Rc::clone(prepared),
                listeners,
                standing: Standing::Untried,
                asked: Instant::now(),
                each: None,
                pause: None,
            });
        }
        class
    }

    /// A pool of it wants one.
    pub(super) fn note_asked(&mut self, class: &Rc<str>, prepared: &Rc<Prepared>) {
        let Some(model) = self.find_mut(class) else { return };
        model.asked = Instant::now();
        // The next have the packet filter of the pool that asked last.
        if model.prepared.outbound != prepared.outbound {
            model.prepared = Rc::clone(prepared);
        }
    }

    /// One has come to nothing, which tells nothing of the next: that is made later, and where that goes on
    /// later each time.
    pub(super) fn pause(&mut self, class: &Rc<str>, why: &'static str, now: Instant) {
        let Some(model) = self.find_mut(class) else { return };
        let long = model.pause.map_or(FIRST_PAUSE, |pause| (pause.long * 2).min(LONGEST_PAUSE));
        model.pause = Some(Pause { why, until: now + long, long });
    }

    /// One has been of use, or has waited for long: the accidents before it are over.
    pub(super) fn note_sound(&mut self, class: &Rc<str>) {
        self.find_mut(class).into_iter().for_each(|model| model.pause = None);
    }

    /// One takes so many bytes.
    pub(super) fn note_memory(&mut self, class: &Rc<str>, bytes: Option<u64>) {
        self.find_mut(class).into_iter().for_each(|model| model.each = bytes.max(model.each));
    }

    /// Its php-fpm does what a template must do.
    pub(super) fn trust(&mut self, class: &Rc<str>) {
        self.note_waits(class);
        self.find_mut(class).into_iter().for_each(|model| model.standing = Standing::Good);
    }

    /// Its php-fpm is another now, which has not been tried.
    pub(super) fn distrust(&mut self, class: &Rc<str>) {
        self.find_mut(class).into_iter().for_each(|model| model.standing = Standing::Untried);
    }

    pub(super) fn is_untried(&self, class: &Rc<str>) -> bool {
        self.find(class).is_some_and(|model| matches!(model.standing, Standing::Untried))
    }

    /// One of it has come as far as to wait.
    pub(super) fn note_waits(&mut self, class: &Rc<str>) {
        self.lost.remove(class);
    }

    /// Forgets all but `kept`.
    pub(super) fn keep_only(&mut self, kept: &HashSet<Rc<str>>) {
        self.models.retain(|model| kept.contains(&model.class));
        self.lost.retain(|class, _| kept.contains(class));
    }

    /// Forgets one, until a pool asks for it again.
    pub(super) fn forget(&mut self, class: &Rc<str>) {
        self.models.retain(|model| model.class != *class);
    }

    /// Forgets those that rest on what has changed since; returns them.
    pub(super) fn forget_stale(&mut self) -> Vec<Rc<str>> {
        let is_fresh = |model: &Model| model.prepared.is_fresh();
        let (fresh, stale): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.models).into_iter().partition(is_fresh);
        self.models = fresh;
        stale.into_iter().map(|model| model.class).collect()
    }

    /// The next of `class` are made from `prepared`, if what they were made from is out of date, or it is
    /// time to try them again.
    pub(super) fn renew(&mut self, class: &Rc<str>, prepared: &Rc<Prepared>, listeners: usize) {
        let now = Instant::now();
        if self.find(class).is_some_and(|model| model.standing.is_over(now) || !model.prepared.is_fresh()) {
            self.forget(class);
            self.learn(prepared, listeners);
        }
    }

    /// Why there is none of `class` now, where each of [`Classes::all`] is to have `shares` of `most` bytes.
    pub(super) fn why_none(&self, class: &Rc<str>, shares: &[usize], most: u64) -> String {
        let index = self.models.iter().position(|model| model.class == *class);
        let Some((model, share)) = index.map(|index| (&self.models[index], shares[index])) else {
            return NOT_READY.to_owned();
        };
        let each = model.each.unwrap_or(GUESS);
        match (&model.standing, model.pause) {
            (Standing::Unfit(why, _), _) => why.to_string(),
            _ if share == 0 && each > most => {
                format!("one may take {}M, more than [serve] template_memory", each >> 20)
            }
            _ if share == 0 => "[serve] template_memory is for classes that were asked for later".to_owned(),
            (_, Some(pause)) => pause.why.to_owned(),
            (Standing::Untried, None) => "its class has not been tried yet".to_owned(),
            (Standing::Good, None) => NOT_READY.to_owned(),
        }
    }

    /// There are to be no templates of `class`, until what it rests on changes; a line to tell.
    pub(super) fn refuse(&mut self, class: &Rc<str>, why: &str) -> Option<String> {
        self.refuse_until(class, why, None)
    }

    fn refuse_until(&mut self, class: &Rc<str>, why: &str, until: Option<Instant>) -> Option<String> {
        let model = self.find_mut(class)?;
        let (major, minor, patch) = model.prepared.version;
        let why = format!("php-fpm {major}.{minor}.{patch} {why}");
        let told = format!("no templates of class {}: {why}: its pools are launched cold", short_name(class));
        model.standing = Standing::Unfit(why.into(), until);
        Some(told)
    }

    /// One of `class` has come to nothing: another is made when one of its pools starts, but not
    /// without end; a line to tell, if any.
    pub(super) fn lose(&mut self, class: &Rc<str>, why: &str) -> Option<String> {
        let lost = self.lost.entry(Rc::clone(class)).or_default();
        *lost += 1;
        if *lost >= MOST_LOST {
            return self.refuse_until(class, why, Some(Instant::now() + AGAIN));
        }
        self.forget(class);
        None
    }

    /// What one of each would take of the memory, bytes.
    pub(super) fn memory(&self) -> u64 {
        self.models.iter().map(|model| model.each.unwrap_or(GUESS)).sum()
    }

    /// What each of [`Classes::all`] is to have of the memory, where `wanted` are wanted of each.
    pub(super) fn claims(&self, wanted: usize) -> Vec<Claim> {
        let wanted = |model: &Model| match model.standing {
            Standing::Untried => 1,
            Standing::Good => wanted,
            Standing::Unfit(..) => 0,
        };
        let claim = |model: &Model| Claim { asked: model.asked, wanted: wanted(model), each: model.each };
        self.models.iter().map(claim).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_have_been_unlucky_is_tried_again_and_who_is_unfit_is_not() {
        let now = Instant::now();
        let unfit = |until| Standing::Unfit("".into(), until);
        assert!(unfit(Some(now)).is_over(now));
        assert!(!unfit(Some(now + AGAIN)).is_over(now));
        assert!(!unfit(None).is_over(now + AGAIN));
        assert!(!Standing::Untried.is_over(now) && !Standing::Good.is_over(now));
    }
}
