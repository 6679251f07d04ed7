//! php-fpm that was started before anybody knew its pool: templates, made when nobody waits, by
//! class. Each serves one generation; what it cannot serve is launched cold. docs/templates.md

mod ids;
mod loaded;
mod lodging;
mod model;
mod share;
mod standing;
mod trial;
mod waiting;

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use self::ids::{Ids, refuse_taken};
use self::lodging::directory;
pub use self::lodging::{Lodging, find, is_cgroup, tidy};
use self::model::{Model, descriptors, make_root, short_name, step};
pub use self::model::{always_cold, class_name, class_of, sources};
use self::share::{Claim, share};
use self::standing::Standing;
use self::trial::Trial;
pub use self::waiting::{Waiting, lacks_sockets};
use super::outbound;
use super::prepare::{Places, Prepared};
use super::record;
use crate::config::profile::Profile;
use crate::config::types::IdRange;
use crate::sandbox::cgroup::Base;
use crate::sandbox::landlock::Use;
use crate::sandbox::step::{Step, StepError};
use crate::sandbox::template::{Ahead, Template};
use crate::sandbox::visit::Home;
use crate::sandbox::{Plan, SpareNetwork};
use crate::spec::class;
use crate::{paths, sys};

/// How long php-fpm may take to load its extensions and ask for its configuration.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How often one that starts is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// How long nobody must have started anything before one is made.
const QUIET: Duration = Duration::from_millis(30);
/// How old one may become: what it holds of the host (its libraries' addresses, files that are
/// deleted by now) is not to be there for weeks.
const OLDEST: Duration = Duration::from_secs(24 * 3600);
/// How long none is made after one has died that waited.
const PAUSE: Duration = Duration::from_secs(1);
/// The nice value of one that starts.
const NICE: i32 = 19;

/// Why there are no templates although they are wanted; one line.
#[derive(Debug, thiserror::Error)]
pub enum NoTemplates {
    /// Nobody wants any.
    #[error("no templates: [serve] templates = 0, or serve ends when it is idle")]
    Unwanted,
    /// Nothing can be entered and left again.
    #[error("no templates: howdah may not enter namespaces ({}): run it as root", .0.desc())]
    Rights(Errno),
    /// There is nowhere to be born.
    #[error("no templates: they need a cgroup v2 that howdah may write")]
    Cgroup,
    /// Their ids cannot be kept from other howdahs.
    #[error("no templates: {}: {told}: howdah locks there which of their ids are taken", path.display())]
    Claims {
        /// The file.
        path: PathBuf,
        /// Why it cannot be opened.
        told: String,
    },
    /// Some of their ids are somebody's.
    #[error("no templates: {whose} in {file} lies in [serve] template_ids ({range}): choose another range")]
    Taken {
        /// "uid 1879048200 of blog"
        whose: String,
        /// Where that is said.
        file: &'static str,
        /// The range.
        range: IdRange,
    },
}

/// All templates of a howdah.
pub struct Templates {
    /// The way back from a template's namespaces.
    pub home: Home,
    wanted: usize,
    /// Bytes that all of them may take.
    memory: u64,
    ids: Rc<RefCell<Ids>>,
    number: u64,
    models: Vec<Model>,
    waiting: Vec<Waiting>,
    /// One class at a time is tried.
    trial: Option<Trial>,
    /// How many of a class have come to nothing in a row before they waited.
    lost: HashMap<Rc<str>, u32>,
    due: Option<Instant>,
    /// None is made before.
    pause: Option<Instant>,
    /// Readable when one of them has ended.
    ends: Epoll,
    directory: PathBuf,
}

impl Templates {
    /// Keeps `wanted` of each class, in `memory` bytes, with ids of `range`.
    ///
    /// # Errors
    /// Why there can be none.
    pub fn open(wanted: usize, memory: u64, range: IdRange, places: &Places) -> Result<Self, NoTemplates> {
        refuse_taken(range)?;
        let home = Home::open().map_err(NoTemplates::Rights)?;
        let ends = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(NoTemplates::Rights)?;
        let ids = Rc::new(RefCell::new(Ids::open(range, &places.state)?));
        let (models, waiting) = (Vec::new(), Vec::new());
        let directory = directory(places);
        Ok(Self {
            home,
            wanted,
            memory,
            ids,
            number: 0,
            models,
            waiting,
            trial: None,
            lost: HashMap::new(),
            due: None,
            pause: None,
            ends,
            directory,
        })
    }

    /// One for `prepared` with `listeners` sockets; another is made when it is quiet again.
    ///
    /// # Errors
    /// Why there is none.
    pub fn take(&mut self, prepared: &Rc<Prepared>, listeners: usize) -> Result<Waiting, String> {
        let class = self.learn(prepared, listeners);
        let asked = self.models.iter_mut().filter(|model| model.class == class);
        asked.for_each(|model| {
            model.asked = Instant::now();
            // The next have the packet filter of the pool that asked last.
            if model.prepared.outbound != prepared.outbound {
                model.prepared = Rc::clone(prepared);
            }
        });
        let mut why = None;
        loop {
            let of_class = |one: &Waiting| one.is_ready && one.class == class;
            let Some(at) = self.waiting.iter().position(of_class) else {
                let why = why.unwrap_or_else(|| self.why_none(&class));
                self.renew(&class, prepared, listeners);
                return Err(why);
            };
            let mut one = self.waiting.swap_remove(at);
            let _ = self.ends.delete(&one.template.process.pidfd);
            // What is on the disk now may be another php than the one that it has loaded.
            why = Some(if !one.is_current() {
                self.forget_standing(&class);
                "what it has loaded has changed on the disk".to_owned()
            } else if one.has_ended() {
                "it had ended".to_owned()
            } else if one.made.elapsed() >= OLDEST {
                "it was too old".to_owned()
            } else {
                return Ok(one);
            });
            one.end();
        }
    }

    /// From now on there are templates of the class of `prepared` with `listeners` sockets, which it returns.
    pub fn learn(&mut self, prepared: &Rc<Prepared>, listeners: usize) -> Rc<str> {
        let class = class_of(prepared, listeners);
        if !self.models.iter().any(|model| model.class == class) {
            let (class, prepared, standing) = (class.clone(), Rc::clone(prepared), Standing::Untried);
            let (asked, each) = (Instant::now(), None);
            self.models.push(Model { class, prepared, listeners, standing, asked, each });
        }
        self.due = Some(Instant::now() + QUIET);
        class
    }

    /// The same for a program that need not be tried.
    pub fn trust(&mut self, prepared: &Rc<Prepared>, listeners: usize) {
        let class = self.learn(prepared, listeners);
        let of_class = self.models.iter_mut().filter(|model| model.class == class);
        of_class.for_each(|model| model.standing = Standing::Good);
    }

    /// Forgets all classes but those of `prepared`, with their templates: no pool has them any more.
    pub fn keep_only<'a>(&mut self, prepared: impl Iterator<Item = (&'a Rc<Prepared>, usize)>) {
        let classes: HashSet<Rc<str>> =
            prepared.map(|(prepared, listeners)| class_of(prepared, listeners)).collect();
        self.models.retain(|model| classes.contains(&model.class));
        self.lost.retain(|class, _| classes.contains(class));
        self.due = Some(Instant::now() + QUIET);
    }

    /// What there is, for who asks.
    pub fn stock(&self) -> record::Stock {
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
                why_none: waiting.is_empty().then(|| self.why_none(&model.class)),
                waiting,
            }
        };
        let classes = self.models.iter().map(class).collect();
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
        (places, base, network): (&Places, Option<&Base>, Option<&mut SpareNetwork>),
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
        self.discard_stale();
        if self.trial.is_some() || self.waiting.iter().any(|one| !one.is_ready) {
            self.due = Some(now + LOOK);
            return told;
        }
        let Some(base) = base else { return told };
        if let Some(until) = self.pause.filter(|until| *until > now) {
            self.due = Some(until);
            return told;
        }
        let Some(lacking) = self.balance() else { return told };
        if !is_quiet {
            self.due = Some(now + QUIET);
            return told;
        }
        self.due = Some(now + LOOK);
        let Model { class, prepared, .. } = &self.models[lacking];
        let sources = sources(class, &prepared.profile);
        match self.make(lacking, places, base, network, sources) {
            Ok(one) => {
                // Unwatched, its end would be seen when it is wanted.
                let event = EpollEvent::new(EpollFlags::EPOLLIN, 0);
                let _ = self.ends.add(&one.template.process.pidfd, event);
                self.waiting.push(one);
            }
            Err(error) => {
                self.models.swap_remove(lacking);
                return Some(format!("a template was not made: {error}"));
            }
        }
        told
    }

    /// The next class of which there are to be more; ends those that take the memory of others.
    fn balance(&mut self) -> Option<usize> {
        let wanted = |model: &Model| match model.standing {
            Standing::Untried => 1,
            Standing::Good => self.wanted,
            Standing::Unfit(_) => 0,
        };
        let claim = |model: &Model| Claim { asked: model.asked, wanted: wanted(model), each: model.each };
        let claims: Vec<Claim> = self.models.iter().map(claim).collect();
        let mut lacking = share(&claims, self.memory);
        for one in std::mem::take(&mut self.waiting) {
            let model = self.models.iter().position(|model| model.class == one.class);
            match model.map(|index| &mut lacking[index]) {
                Some(left) if *left > 0 => {
                    *left -= 1;
                    self.waiting.push(one);
                }
                _ => one.end(),
            }
        }
        let lacks = |(index, left): (usize, usize)| (left > 0).then_some(index);
        lacking.into_iter().enumerate().filter_map(lacks).max_by_key(|&index| self.models[index].asked)
    }

    /// Those whose php, ini files or libraries have changed since, and those that are too old.
    fn discard_stale(&mut self) {
        let (fresh, stale): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.models).into_iter().partition(|model| model.prepared.is_fresh());
        self.models = fresh;
        let is_stale = |one: &Waiting| {
            one.made.elapsed() >= OLDEST
                || !one.is_current()
                || stale.iter().any(|model| model.class == one.class)
        };
        let (gone, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.waiting).into_iter().partition(is_stale);
        self.waiting = kept;
        gone.iter().filter(|one| !one.is_current()).for_each(|one| self.forget_standing(&one.class));
        gone.into_iter().for_each(Waiting::end);
    }

    /// Looks at one that waits or is being made, and keeps it if it is worth it; a line to tell, if any.
    fn keep(&mut self, mut one: Waiting, now: Instant, is_quiet: bool) -> Option<String> {
        let class = Rc::clone(&one.class);
        let late = !one.is_ready && now > one.made + START_LIMIT;
        if one.has_ended() || late {
            let (spared, doing) = (one.is_ready || one.was_killed(), one.doing());
            one.end();
            if spared {
                // Not to make it worse.
                self.pause = Some(now + PAUSE);
                return None;
            }
            return self.lose(&class, &format!("did not ask for its configuration: {doing}"));
        }
        if one.is_ready || !one.asks() {
            self.waiting.push(one);
            return None;
        }
        let untried = self.is_untried(&class);
        if untried && (self.trial.is_some() || !is_quiet) {
            self.waiting.push(one);
            return None;
        }
        if !one.note_loaded() {
            one.end();
            self.due = Some(now + QUIET);
            return None;
        }
        let of_class = self.models.iter_mut().filter(|model| model.class == class);
        of_class.for_each(|model| model.each = one.memory().max(model.each));
        if !untried {
            self.lost.remove(&class);
            one.is_ready = true;
            self.waiting.push(one);
            return None;
        }
        match Trial::begin(one, &self.home) {
            Ok(trial) => self.trial = Some(trial),
            Err(error) => {
                return self.lose(&class, &format!("could not be bound on its trial: {error}"));
            }
        }
        None
    }

    fn make(
        &mut self,
        model: usize,
        places: &Places,
        base: &Base,
        network: Option<&mut SpareNetwork>,
        sources: Vec<(PathBuf, Use)>,
    ) -> Result<Waiting, StepError> {
        let Model { class, prepared, listeners, .. } = &self.models[model];
        let refuse = |error: io::Error| step(Step::AttachRoot, "(of a template)", &error);
        let none_left = || StepError::new(Step::MapIdentity, "(all template_ids are used)", Errno::EAGAIN);
        let (ids, lender) = match prepared.own_ids {
            Some(ids) => (ids, None),
            None => {
                let id = self.ids.borrow_mut().take().map_err(refuse)?.ok_or_else(none_left)?;
                ((id, id), Some(Rc::clone(&self.ids)))
            }
        };
        self.number += 1;
        let name = format!("template-{}-{}", nix::unistd::getpid(), self.number);
        let directory = directory(places).join(&name);
        let lodging = Lodging { ids, directory, lender };
        let rootfs = lodging.directory.join("rootfs");
        let spec = class::template(&prepared.spec, ids.0, ids.1, &rootfs);
        make_root(&rootfs, prepared, &spec, ids.1)?;
        let (log, descriptors) = descriptors(ids, *listeners).map_err(refuse)?;
        let plan = Plan::new(&spec, prepared.seccomp.clone(), descriptors)?;
        let open = |(path, of): (PathBuf, Use)| paths::open_trusted(&path).ok().map(|fd| (path, fd, of));
        let sources = sources.into_iter().filter_map(open).collect();
        let cgroup = base
            .create(&name, std::iter::empty(), |_| false)
            .map_err(|error| StepError::new(Step::Clone, format!("({error})"), Errno::EIO))?;
        let shows_others_files = lodging.lender.is_some();
        // What is missing is told when a pool starts.
        let programs = prepared.outbound.as_ref().and_then(|outbound| outbound::programs(outbound).ok());
        let ahead = Ahead { sources, maps: shows_others_files, programs: programs.as_ref() };
        match Template::launch(&spec, plan, &rootfs, ahead, cgroup.as_fd(), network) {
            Ok(template) => {
                let _ = sys::set_nice(template.process.pid, NICE);
                let (class, prepared, made) = (class.clone(), Rc::clone(prepared), Instant::now());
                Ok(Waiting {
                    template,
                    log,
                    cgroup,
                    lodging,
                    class,
                    prepared,
                    made,
                    is_ready: false,
                    loaded: None,
                })
            }
            Err(error) => {
                let _ = cgroup.remove();
                Err(error)
            }
        }
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
        // Generations that are still there keep theirs.
        let _ = fs::remove_dir(&self.directory);
    }
}
