//! How templates come to be there and go again: one is made at a time, when nobody waits for a start.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::epoll::{EpollEvent, EpollFlags};

use super::trial::{Trial, Verdict};
use super::waiting::Waiting;
use super::{OLDEST, QUIET, Templates};
use crate::config::profile::Profile;
use crate::sandbox::SpareNetwork;
use crate::sandbox::cgroup::Base;
use crate::sandbox::landlock::Use;

/// How long php-fpm may take to load its extensions and ask for its configuration: a thousand times what it
/// takes on a quiet machine, for it has the lowest priority on one that may be busy or emulated.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How often one that starts is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// How long one must have waited for its end to be a new accident.
const SOUND: Duration = Duration::from_secs(60);
/// What may come to any of them, and tells nothing of the next.
const KILLED: &str = "the last one was killed";
const ENDED: &str = "the last one ended while it waited";
const CHANGED: &str = "what the last one had loaded was changed meanwhile";

impl Templates {
    /// When there is something to do.
    pub fn next(&self) -> Option<Instant> {
        // While one is made none is looked at for its age.
        let is_busy = self.trial.is_some() || self.waiting.iter().any(|one| !one.is_ready);
        let old = self.waiting.iter().filter(|_| !is_busy).map(|one| one.made + OLDEST);
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
