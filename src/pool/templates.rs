//! php-fpm that was started before anybody knew its pool: templates, made when nobody waits, by
//! class. Each serves one generation; what it cannot serve is launched cold. docs/templates.md

mod ids;
mod lodging;
mod model;
mod waiting;

use std::cell::RefCell;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use self::ids::{Ids, refuse_taken};
use self::lodging::directory;
pub use self::lodging::{Lodging, find, is_cgroup, tidy};
use self::model::{Model, class_of, descriptors, make_root, step};
pub use self::model::{always_cold, class_name, sources};
pub use self::waiting::Waiting;
use super::prepare::{Places, Prepared};
use crate::config::profile::Profile;
use crate::config::types::IdRange;
use crate::sandbox::cgroup::Base;
use crate::sandbox::landlock::Use;
use crate::sandbox::step::{Step, StepError};
use crate::sandbox::template::Template;
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
/// The nice value of one that starts.
const NICE: i32 = 19;

/// Why there are no templates although they are wanted; one line.
#[derive(Debug, thiserror::Error)]
pub enum NoTemplates {
    /// Nothing can be entered and left again.
    #[error("no templates: howdah may not enter namespaces ({}): run it as root", .0.desc())]
    Rights(Errno),
    /// There is nowhere to be born.
    #[error("no templates: they need a cgroup v2 that howdah may write")]
    Cgroup,
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
    ids: Rc<RefCell<Ids>>,
    number: u64,
    models: Vec<Model>,
    waiting: Vec<Waiting>,
    due: Option<Instant>,
    directory: PathBuf,
}

impl Templates {
    /// Keeps `wanted` of each class, with ids of `range`.
    ///
    /// # Errors
    /// Why there can be none.
    pub fn open(wanted: usize, range: IdRange, places: &Places) -> Result<Self, NoTemplates> {
        refuse_taken(range)?;
        let home = Home::open().map_err(NoTemplates::Rights)?;
        let ids = Rc::new(RefCell::new(Ids::open(range, &places.state)));
        let (models, waiting) = (Vec::new(), Vec::new());
        let directory = directory(places);
        Ok(Self { home, wanted, ids, number: 0, models, waiting, due: None, directory })
    }

    /// One for `prepared` with `listeners` sockets, if there is one; another is made when it is quiet again.
    pub fn take(&mut self, prepared: &Rc<Prepared>, listeners: usize) -> Option<Waiting> {
        let class = self.learn(prepared, listeners);
        loop {
            let at = self.waiting.iter().position(|one| one.is_ready && one.class == class)?;
            let mut one = self.waiting.swap_remove(at);
            // What is on the disk now may be another php than the one that it has loaded.
            if !one.has_ended() && one.made.elapsed() <= OLDEST && one.prepared.is_fresh() {
                return Some(one);
            }
            one.end();
        }
    }

    /// From now on there are templates of the class of `prepared` with `listeners` sockets, which it returns.
    pub fn learn(&mut self, prepared: &Rc<Prepared>, listeners: usize) -> Rc<str> {
        let class = class_of(prepared, listeners);
        if !self.models.iter().any(|model| model.class == class) {
            self.models.push(Model { class: class.clone(), prepared: Rc::clone(prepared), listeners });
        }
        self.due = Some(Instant::now() + QUIET);
        class
    }

    /// When there is something to do.
    pub fn next(&self) -> Option<Instant> {
        self.due
    }

    /// Looks at those that are being made, and begins with the next if `is_quiet`.
    pub fn go_on(
        &mut self,
        now: Instant,
        is_quiet: bool,
        (places, base, network): (&Places, Option<&Base>, Option<&mut SpareNetwork>),
        sources: impl Fn(&Profile) -> Vec<(PathBuf, Use)>,
    ) -> Option<StepError> {
        if self.due.is_none_or(|due| due > now) {
            return None;
        }
        self.due = None;
        for one in std::mem::take(&mut self.waiting) {
            self.keep(one, now);
        }
        self.discard_stale();
        if self.waiting.iter().any(|one| !one.is_ready) {
            self.due = Some(now + LOOK);
            return None;
        }
        let base = base?;
        let lacking = self.models.iter().position(|model| {
            self.waiting.iter().filter(|one| one.class == model.class).count() < self.wanted
        })?;
        if !is_quiet {
            self.due = Some(now + QUIET);
            return None;
        }
        self.due = Some(now + LOOK);
        let profile = Rc::clone(&self.models[lacking].prepared.profile);
        match self.make(lacking, places, base, network, sources(&profile)) {
            Ok(one) => self.waiting.push(one),
            Err(error) => {
                self.models.swap_remove(lacking);
                return Some(error);
            }
        }
        None
    }

    /// Those whose php, ini files or libraries have changed since, and those that are too old.
    fn discard_stale(&mut self) {
        let (fresh, stale): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.models).into_iter().partition(|model| model.prepared.is_fresh());
        self.models = fresh;
        let is_stale =
            |one: &Waiting| one.made.elapsed() > OLDEST || stale.iter().any(|model| model.class == one.class);
        let (gone, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.waiting).into_iter().partition(is_stale);
        self.waiting = kept;
        gone.into_iter().for_each(Waiting::end);
    }

    fn keep(&mut self, mut one: Waiting, now: Instant) {
        if one.has_ended() || (!one.is_ready && now > one.made + START_LIMIT) {
            // Its class is not tried again until one of its pools starts.
            let class = one.class.clone();
            self.models.retain(|model| model.class != class);
            return one.end();
        }
        one.is_ready |= one.asks();
        self.waiting.push(one);
    }

    fn make(
        &mut self,
        model: usize,
        places: &Places,
        base: &Base,
        network: Option<&mut SpareNetwork>,
        sources: Vec<(PathBuf, Use)>,
    ) -> Result<Waiting, StepError> {
        let Model { class, prepared, listeners } = &self.models[model];
        let refuse = |error: io::Error| step(Step::AttachRoot, "(of a template)", &error);
        let id = self.ids.borrow_mut().take().map_err(refuse)?;
        let id = id
            .ok_or_else(|| StepError::new(Step::MapIdentity, "(all template_ids are used)", Errno::EAGAIN))?;
        self.number += 1;
        let name = format!("template-{}-{}", nix::unistd::getpid(), self.number);
        let directory = directory(places).join(&name);
        let lodging = Lodging { id, directory, ids: Some(Rc::clone(&self.ids)) };
        let rootfs = lodging.directory.join("rootfs");
        let spec = class::template(&prepared.spec, id, id, &rootfs);
        make_root(&rootfs, prepared, &spec, id)?;
        let (log, descriptors) = descriptors(id, *listeners).map_err(refuse)?;
        let plan = Plan::new(&spec, prepared.seccomp.clone(), descriptors)?;
        let open = |(path, of): (PathBuf, Use)| paths::open_trusted(&path).ok().map(|fd| (path, fd, of));
        let sources = sources.into_iter().filter_map(open).collect();
        let cgroup = base
            .create(&name, std::iter::empty(), |_| false)
            .map_err(|error| StepError::new(Step::Clone, format!("({error})"), Errno::EIO))?;
        match Template::launch(&spec, plan, &rootfs, sources, cgroup.as_fd(), network) {
            Ok(template) => {
                let _ = sys::set_nice(template.process.pid, NICE);
                let (class, prepared, made) = (class.clone(), Rc::clone(prepared), Instant::now());
                Ok(Waiting { template, log, cgroup, lodging, class, prepared, made, is_ready: false })
            }
            Err(error) => {
                let _ = cgroup.remove();
                Err(error)
            }
        }
    }
}

impl Drop for Templates {
    fn drop(&mut self) {
        self.waiting.drain(..).for_each(Waiting::end);
        // Generations that are still there keep theirs.
        let _ = fs::remove_dir(&self.directory);
    }
}
