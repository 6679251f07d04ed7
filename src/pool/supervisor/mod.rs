//! The supervisor: one thread, one epoll. The world becomes events for each
//! pool's machine, its actions become deeds. When every pool is cold it sleeps
//! without end.
//!
//! Here is what it holds, its loop, and its clock. `tokens` says what an epoll
//! event is about, `world` makes events of it, `deeds` does what a machine
//! says, `reports` tells of it, `limits` finds out which limit has ended
//! something (by `audit`, too), `chronicle` writes it down, and in `roster`
//! pools come and go.

mod addresses;
mod audit;
mod chronicle;
mod deeds;
mod limits;
mod released;
mod reports;
mod roster;
mod tokens;
mod world;

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use self::addresses::Addresses;
use self::audit::Ear;
use self::released::Released;
pub use self::reports::listening;
use self::roster::close;
use self::tokens::Token;
use super::activation::Listener;
use super::admission::Admission;
use super::events;
use super::graves::Graves;
use super::machine::{Event, State};
use super::prepare::{Places, Workshop};
use super::record::Stock;
use super::refuse::Refused;
use super::slot::Slot;
use super::templates::{self, NoTemplates, Templates};
use crate::config::pool::{ImageRef, Pool};
use crate::config::profile::Profile;
use crate::config::types::IdRange;
use crate::journal::{self, Level, Origin};
use crate::sandbox::SpareNetwork;
use crate::sandbox::cgroup::Base;
use crate::sandbox::landlock::Use;

/// So many directories of pools a template has Landlock rules for, of those first that were started last:
/// each costs some 15 µs of the loop's time.
const MOST_SOURCES: usize = 500;

/// A start that takes as long waits for something else than a processor.
const STUCK: Duration = Duration::from_secs(2);

/// How long after pools came or went it is looked which classes there are.
const REVIEW: Duration = Duration::from_secs(1);

/// How serve is to run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where it keeps its things.
    pub places: Places,
    /// How many pools may be starting at once.
    pub parallel_starts: usize,
    /// How many templates are kept of each class.
    pub templates: usize,
    /// How many bytes all of them may take.
    pub template_memory: u64,
    /// The ids on the host that they have.
    pub template_ids: IdRange,
    /// Whether it ends when no pool runs any more.
    pub exit_when_idle: bool,
}

/// Reads the pool files again: the good pools, and the files and directories
/// that cannot be read, whose pools stay as they are.
pub type Reread = Box<dyn FnMut() -> (Vec<Pool>, Vec<PathBuf>)>;

/// The loop and all it holds.
pub struct Supervisor {
    settings: Settings,
    reread: Reread,
    epoll: Epoll,
    signals: SignalFd,
    slots: Vec<Option<Slot>>,
    /// systemd's sockets of pools that went; a later reload may want them.
    spare: Vec<Listener>,
    clock: BTreeSet<(Instant, usize)>,
    events: VecDeque<(usize, Event)>,
    /// Pools with a connection, which wait for their turn to start.
    queue: VecDeque<usize>,
    /// Pools that are freezing.
    freezing: Vec<usize>,
    /// Pools that say more than is kept, and when their logs are read again.
    hushed: Vec<(Instant, usize)>,
    /// Templates that have become a pool's and are not ready yet.
    released: Vec<Released>,
    graves: Graves,
    refused: Vec<Option<Refused>>,
    /// Pools with connections for which there was no room among the refused.
    crowded: Vec<usize>,
    workshop: Workshop,
    base: Option<Base>,
    /// Where the next generation lives, made while nobody waits.
    network: Option<SpareNetwork>,
    /// `None`: nobody wants them, or there can be none here.
    templates: Option<Templates>,
    /// `None` where the kernel does not tell: rootless, where there is no way out.
    addresses: Option<Addresses>,
    has_run: bool,
    ending: bool,
    /// Whether pools came or went since the roll was written.
    stale_roll: bool,
    /// Why there are none, until it has been told.
    no_templates: Option<NoTemplates>,
    /// What `ps` reads of the templates, as it was written last.
    stock: Stock,
    /// When templates are told which classes there are by now: pools came or went.
    classes_due: Option<Instant>,
    /// What `howdah events` reads.
    chronicle: events::Log,
    /// What audit tells of.
    ear: Ear,
    /// When something about limits is due, and of which pool.
    limit_clock: BTreeSet<(Instant, usize)>,
}

impl Supervisor {
    /// A supervisor of `pools`, each with its listeners. `base` is where
    /// generations get their cgroups; without one they are frozen by signals.
    ///
    /// # Errors
    /// Those of epoll and signalfd.
    pub fn new(
        settings: Settings,
        pools: Vec<Admission>,
        base: Option<Base>,
        reread: Reread,
    ) -> nix::Result<Self> {
        let mut mask = SigSet::empty();
        [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().for_each(|signal| mask.add(signal));
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&signals, EpollEvent::new(EpollFlags::EPOLLIN, Token::Signal.pack()))?;
        let chronicle = events::Log::new(&settings.places.runtime);
        let Settings { templates, template_memory, template_ids, .. } = settings;
        let wanted = (templates, template_memory, template_ids);
        let graves = Graves::default();
        let opened = Templates::open(wanted, base.is_some(), &settings.places, &graves);
        let (templates, no_templates) = match opened {
            Ok(templates) => (Some(templates), None),
            Err(why) => (None, Some(why)),
        };
        let mut supervisor = Self {
            settings,
            reread,
            epoll,
            signals,
            slots: Vec::with_capacity(pools.len()),
            spare: Vec::new(),
            clock: BTreeSet::new(),
            events: VecDeque::new(),
            queue: VecDeque::new(),
            freezing: Vec::new(),
            hushed: Vec::new(),
            released: Vec::new(),
            graves,
            refused: Vec::new(),
            crowded: Vec::new(),
            workshop: Workshop::default(),
            base,
            network: SpareNetwork::open(),
            templates,
            addresses: Addresses::watch().ok(),
            has_run: false,
            ending: false,
            stale_roll: false,
            no_templates,
            stock: Stock::default(),
            classes_due: None,
            chronicle,
            ear: Ear::default(),
            limit_clock: BTreeSet::new(),
        };
        if let Some(templates) = &supervisor.templates {
            supervisor.epoll.add(templates, EpollEvent::new(EpollFlags::EPOLLIN, Token::Templates.pack()))?;
        }
        if let Some(addresses) = &supervisor.addresses {
            supervisor.epoll.add(addresses, EpollEvent::new(EpollFlags::EPOLLIN, Token::Addresses.pack()))?;
        }
        for admission in pools {
            supervisor.admit(admission)?;
        }
        // They may have changed while there was no howdah.
        supervisor.renew_rules();
        Ok(supervisor)
    }

    /// Tells which pools may not listen where they do, and which images have no php-fpm, and asks the host's own what it is, so
    /// that no visitor waits for that. A directory may hold anything that calls
    /// itself php-fpm, and is asked when its pool starts. Then `ps` may see the
    /// pools, for nothing of howdah's own runs any more.
    pub fn warm_up(&mut self) {
        let mut seen = std::collections::HashSet::new();
        for slot in self.slots.iter().flatten() {
            let (pool, places) = (&slot.pool, &self.settings.places);
            let looked = self.workshop.look_at_listeners(&slot.as_it_listens(), places).and_then(|()| {
                let first = seen.insert((pool.image.clone(), pool.fpm.binary.clone()));
                if first { self.workshop.look_at(pool, places) } else { Ok(()) }
            });
            if let Err(error) = looked {
                let origin = Origin { pool: Some(pool.name.as_str()), generation: None };
                journal::line(Level::Error, origin, &error.to_string());
            }
        }
        self.restock();
        self.learn_classes();
        if let Some(why) = self.no_templates.take() {
            if !matches!(why, NoTemplates::Unwanted) {
                journal::line(Level::Notice, Origin::default(), &why.to_string());
            }
            self.write_stock(Stock { why_none: Some(why.to_string()), ..Stock::default() });
        }
        self.write_roll();
    }

    /// Has templates told soon which classes there are by now: once for many pools that change together.
    fn review_classes(&mut self) {
        self.classes_due.get_or_insert_with(|| Instant::now() + REVIEW);
    }

    /// Makes templates for the pools that have the host's own php-fpm before the first of them starts.
    fn learn_classes(&mut self) {
        let Some(templates) = &mut self.templates else { return };
        let mut seen = std::collections::HashSet::new();
        let mut told = Vec::new();
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let Some(slot) = slot else { continue };
            if slot.pool.image != ImageRef::Host || !seen.insert(likeness(slot)) {
                continue;
            }
            // Not the work of preparing pools for classes that cannot have one.
            if !templates.has_room() {
                break;
            }
            // What is wrong with it will be told when it starts.
            let made = slot.prepare(&mut self.workshop, &self.settings.places, self.base.as_ref());
            if let (Ok(notices), Some(prepared)) = (made, slot.prepared()) {
                told.extend(notices.into_iter().map(|notice| (index, notice)));
                if templates::always_cold(&slot.pool, prepared).is_none() {
                    templates.learn(prepared, slot.listeners.len());
                }
            }
        }
        told.iter().for_each(|(index, notice)| self.tell(*index, Level::Notice, notice));
    }

    /// Makes what the next start can take from the stock. Without it that start makes its own.
    fn restock(&mut self) {
        if let Some(Err(error)) = self.network.as_mut().map(SpareNetwork::refill) {
            journal::line(Level::Debug, Origin::default(), &error.to_string());
        }
    }

    /// Goes on with the making of templates, while nobody waits for a start.
    fn make_templates(&mut self, now: Instant) {
        if self.ending {
            self.templates = None;
        }
        if self.classes_due.is_some_and(|due| due <= now) {
            self.classes_due = None;
            self.learn_classes();
            let slots = self.slots.iter().flatten();
            let prepared = slots.filter_map(|slot| {
                let prepared = slot.prepared()?;
                let can_have_one = templates::always_cold(&slot.pool, prepared).is_none();
                can_have_one.then_some((prepared, slot.listeners.len()))
            });
            if let Some(templates) = &mut self.templates {
                templates.keep_only(prepared);
                templates.keep_knowing(|class, profile| sources_of(&self.slots, class, profile));
            }
        }
        if self.templates.as_ref().and_then(Templates::next).is_none_or(|due| due > now) {
            return;
        }
        let Some(mut templates) = self.templates.take() else { return };
        let is_quiet = self.is_quiet(now);
        let sources = |class: &Rc<str>, profile: &Profile| sources_of(&self.slots, class, profile);
        let ground = (self.base.as_ref(), self.network.as_mut());
        if let Some(told) = templates.go_on(now, is_quiet, ground, sources) {
            journal::line(Level::Warning, Origin::default(), &told);
        }
        self.write_stock(templates.stock());
        self.templates = Some(templates);
    }

    /// Whether nobody waits for a processor: no pool has just begun to start, and none is about to. One
    /// that takes long waits for something else, and would keep all others from their templates.
    fn is_quiet(&self, now: Instant) -> bool {
        let mut starts = self.slots.iter().flatten().filter_map(|slot| match slot.machine.state() {
            State::Starting { since, .. } => Some(now.saturating_duration_since(*since)),
            _ => None,
        });
        match starts.next() {
            None => self.queue.is_empty(),
            Some(first) => first >= STUCK && starts.all(|since| since >= STUCK),
        }
    }

    /// Serves until it is told to end.
    ///
    /// # Errors
    /// That of epoll_wait(2).
    pub fn run(&mut self) -> nix::Result<()> {
        let mut events = vec![EpollEvent::empty(); 64];
        let began = Instant::now();
        loop {
            self.settle();
            if self.is_over(began) {
                return Ok(());
            }
            if std::mem::take(&mut self.stale_roll) {
                self.write_roll();
            }
            let count = match self.epoll.wait(&mut events, self.timeout(began)) {
                Err(Errno::EINTR) => continue,
                other => other?,
            };
            for event in &events[..count] {
                self.on_ready(Token::unpack(event.data()), event.events());
                self.settle();
            }
            self.on_time();
        }
    }

    fn is_over(&self, began: Instant) -> bool {
        let quiet = self.refused.iter().all(Option::is_none);
        if self.ending {
            return quiet && self.slots.iter().all(Option::is_none);
        }
        self.settings.exit_when_idle
            && quiet
            && (self.has_run || began.elapsed() > Duration::from_secs(10))
            && self
                .slots
                .iter()
                .flatten()
                .all(|slot| *slot.machine.state() == State::Cold && !slot.has_waiting())
    }

    fn timeout(&self, began: Instant) -> EpollTimeout {
        let mut next = self.clock.first().map(|(when, _)| *when);
        let mut sooner = |when: Instant| next = Some(next.map_or(when, |next| next.min(when)));
        self.refused.iter().flatten().for_each(|one| sooner(one.until));
        self.hushed.iter().for_each(|(when, _)| sooner(*when));
        if journal::is_behind() {
            sooner(Instant::now() + Duration::from_millis(20));
        }
        self.templates.iter().filter_map(Templates::next).for_each(&mut sooner);
        self.classes_due.into_iter().chain(self.graves.next()).for_each(&mut sooner);
        self.next_expected().into_iter().for_each(&mut sooner);
        self.ear.paused.into_iter().for_each(&mut sooner);
        self.limit_clock.first().into_iter().for_each(|(when, _)| sooner(*when));
        if !self.freezing.is_empty() {
            sooner(Instant::now() + Duration::from_millis(1));
        }
        if self.settings.exit_when_idle && !self.has_run {
            sooner(began + Duration::from_millis(10_100));
        }
        let Some(next) = next else { return EpollTimeout::NONE };
        // Rounded up: a loop that wakes a little early would spin until it is time.
        let wait = next.saturating_duration_since(Instant::now()).as_micros().div_ceil(1000);
        EpollTimeout::try_from(u32::try_from(wait).unwrap_or(u32::MAX).min(i32::MAX as u32))
            .unwrap_or(EpollTimeout::MAX)
    }

    /// Gives every event to its machine and does what it says, until there is none.
    fn settle(&mut self) {
        while let Some((index, event)) = self.events.pop_front() {
            let Some(slot) = &mut self.slots[index] else { continue };
            let before = slot.machine.state().word();
            let actions = slot.machine.on(event, Instant::now());
            for action in actions {
                self.act(index, action);
            }
            self.set_clock(index);
            let Some(slot) = &self.slots[index] else { continue };
            let after = *slot.machine.state();
            if after.word() != before {
                self.write_record(index);
            }
            if !matches!(after, State::Starting { .. }) && before == "starting" {
                self.start_next();
            }
            if after == State::Ended {
                self.remove(index);
            }
        }
    }

    fn set_clock(&mut self, index: usize) {
        let Some(slot) = &mut self.slots[index] else { return };
        let wanted = slot.machine.deadline();
        if slot.clock != wanted {
            if let Some(old) = slot.clock.take() {
                self.clock.remove(&(old, index));
            }
            if let Some(when) = wanted {
                self.clock.insert((when, index));
            }
            slot.clock = wanted;
        }
    }
}

/// The directories of the pools of `class`, for which a template has Landlock rules.
fn sources_of(slots: &[Option<Slot>], class: &Rc<str>, profile: &Profile) -> Vec<(PathBuf, Use)> {
    // One that has never been prepared may be of any.
    let is_of_class = |slot: &&Slot| {
        let prepared = slot.prepared();
        prepared.is_none_or(|prepared| templates::class_of(prepared, slot.listeners.len()) == *class)
    };
    let mut same: Vec<&Slot> = slots.iter().flatten().filter(is_of_class).collect();
    same.sort_by_key(|slot| std::cmp::Reverse(slot.record.last_start_monotonic_us));
    let all = same.iter().flat_map(|slot| templates::sources(&slot.pool, profile));
    all.take(MOST_SOURCES).collect()
}

/// Most of what makes a class, and of what keeps a pool from having one, without the work of preparing
/// ten thousand pools.
fn likeness(slot: &Slot) -> String {
    let Pool { fpm, profile, php, limits, network, sockets, start, user, .. } = &slot.pool;
    let sizes = (limits.tmp, limits.run, limits.shm);
    // Of its rules only what Landlock holds.
    let network = network.as_ref().map(|network| (network.mode(), network.ports()));
    // A class may be an account's where a database could be asked who that is.
    let account = start.template.is_none().then_some((user.uid, sockets));
    let more = (network, start.template, account, slot.listeners.len());
    format!("{:?}", (&fpm.binary, profile, &php.extensions, sizes, more))
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // Before the cgroup that theirs are in: a howdah that ends when idle still has some.
        self.templates = None;
        self.graves.wait();
        for slot in self.slots.iter_mut().flatten() {
            close(std::mem::take(&mut slot.listeners));
        }
        if let Some(base) = &self.base {
            base.remove();
        }
    }
}
