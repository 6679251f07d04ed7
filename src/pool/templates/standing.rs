//! What is known of the php-fpm of each class: whether it can be a template, and why not.

use std::rc::Rc;
use std::time::Instant;

use super::model::{Model, short_name};
use super::trial::Verdict;
use super::{PAUSE, Templates};
use crate::pool::prepare::Prepared;

/// So many of a class that come to nothing before they wait are no accident.
const MOST_LOST: u32 = 3;

/// What is known of the php-fpm of a class.
pub(super) enum Standing {
    /// Nothing: the first template is for its [`Trial`](super::trial::Trial).
    Untried,
    /// It does what a template must do.
    Good,
    /// It does not: its pools are launched cold.
    Unfit(Rc<str>),
}

impl Standing {
    /// "untried", "good", "unfit"
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Untried => "untried",
            Self::Good => "good",
            Self::Unfit(_) => "unfit",
        }
    }
}

impl Templates {
    /// Why there is none of `class` now.
    pub(super) fn why_none(&self, class: &Rc<str>) -> String {
        match self.models.iter().find(|model| model.class == *class).map(|model| &model.standing) {
            Some(Standing::Unfit(why)) => why.to_string(),
            Some(Standing::Untried) => "its class has not been tried yet".to_owned(),
            Some(Standing::Good) | None => "none was ready".to_owned(),
        }
    }

    /// The next of `class` are made from `prepared`, if what they were made from is out of date.
    pub(super) fn renew(&mut self, class: &Rc<str>, prepared: &Rc<Prepared>, listeners: usize) {
        let is_old = |model: &Model| model.class == *class && !model.prepared.is_fresh();
        if self.models.iter().any(is_old) {
            self.models.retain(|model| model.class != *class);
            self.learn(prepared, listeners);
        }
    }

    pub(super) fn is_untried(&self, class: &Rc<str>) -> bool {
        let untried = |model: &Model| matches!(model.standing, Standing::Untried);
        self.models.iter().any(|model| model.class == *class && untried(model))
    }

    /// Its php-fpm is another now, which has not been tried.
    pub(super) fn forget_standing(&mut self, class: &Rc<str>) {
        let of_class = self.models.iter_mut().filter(|model| model.class == *class);
        of_class.for_each(|model| model.standing = Standing::Untried);
    }

    /// Looks at the one that is on trial.
    pub(super) fn go_on_trying(&mut self, now: Instant) -> Option<String> {
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
            Verdict::Unfit(why) => self.refuse(&class, &why),
            Verdict::Lost(_) if was_killed => {
                self.pause = Some(now + PAUSE);
                None
            }
            Verdict::Lost(why) => self.lose(&class, &why),
            Verdict::Good | Verdict::Pending => {
                self.lost.remove(&class);
                let of_class = self.models.iter_mut().filter(|model| model.class == class);
                of_class.for_each(|model| model.standing = Standing::Good);
                None
            }
        }
    }

    /// There are to be no templates of `class`, until what it rests on changes.
    pub(super) fn refuse(&mut self, class: &Rc<str>, why: &str) -> Option<String> {
        let model = self.models.iter_mut().find(|model| model.class == *class)?;
        let (major, minor, patch) = model.prepared.version;
        let why = format!("php-fpm {major}.{minor}.{patch} {why}");
        let told = format!("no templates of class {}: {why}: its pools are launched cold", short_name(class));
        model.standing = Standing::Unfit(why.into());
        Some(told)
    }

    /// One of `class` has come to nothing: another is made when one of its pools starts, but not without end.
    pub(super) fn lose(&mut self, class: &Rc<str>, why: &str) -> Option<String> {
        let lost = self.lost.entry(Rc::clone(class)).or_default();
        *lost += 1;
        if *lost >= MOST_LOST {
            return self.refuse(class, why);
        }
        self.models.retain(|model| model.class != *class);
        None
    }
}
