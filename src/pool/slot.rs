//! One pool in the supervisor's hands: its file, its sockets, its machine and
//! the generation that runs, if any.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::activation::{ActivationError, Listener};
use super::budget::Budget;
use super::generation::{Generation, LaunchError};
use super::limits::{Bucket, Tally};
use super::machine::{Machine, Timing};
use super::outbound;
use super::prepare::{Places, PrepareError, Prepared, Question, Workshop};

use super::quiesce::{self, Activity, Door};
use super::record::Record;
use super::tcp_listener;
use super::templates::{self, Templates};
use crate::config::pool::{OnFailure, Pool};
use crate::config::profile::Execve;
use crate::config::types::Patience;
use crate::sandbox::SpareNetwork;
use crate::sandbox::cgroup::Base;
use crate::sandbox::landlock;
use crate::spec;

/// One pool.
pub struct Slot {
    /// Its file, read.
    pub pool: Pool,
    /// Where it is in its life.
    pub machine: Machine,
    /// Its sockets.
    pub listeners: Vec<Listener>,
    /// What `ps` reads.
    pub record: Record,
    /// The generation that runs.
    pub generation: Option<Generation>,
    /// What its image is asked before the next generation can be launched.
    pub question: Option<Question>,
    /// The pool as its file says now; it takes the place of `pool` when the generation has ended.
    pub successor: Option<Pool>,
    /// The deadline that the supervisor's clock knows of.
    pub clock: Option<Instant>,
    /// What the sockets are watched for.
    pub watched: Watch,
    /// The last generation that shut one of them down.
    pub shut_by: Option<u64>,
    /// Why the pool cannot be reached, for as long as it cannot.
    pub unreachable: Option<String>,
    /// How much its generations may still say.
    pub budget: Budget,
    /// Whether its own sockets let nobody new in any more.
    pub shut: bool,
    /// What limits do to it, and what is still to be told of that.
    pub vigil: Vigil,
    /// Why the launch in progress makes its sandbox itself, where there are templates.
    pub cold: Option<String>,
    /// When the start in progress, or the last one, was asked for.
    asked: Instant,
    /// Why no template can ever be bound to what is prepared.
    unfit: Option<String>,
    prepared: Option<Rc<Prepared>>,
    doors: Vec<Door>,
}

/// What a pool's sockets are watched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watch {
    /// They are not.
    Nothing,
    /// That nobody shuts them down: connections are the generation's, and do not wake howdah.
    Hangups,
    /// And for connections.
    Connections,
}

/// What limits do to one pool, and what is still to be told of that.
#[derive(Debug, Default)]
pub struct Vigil {
    /// When to speak of which limit.
    pub tally: Tally,
    /// How many more events the pool may cause now.
    pub bucket: Option<Bucket>,
    /// When its cgroup's files are to be watched again.
    pub rearm: Option<Instant>,
    /// When workers that died by SIGSYS are told of although no audit record says by which call.
    pub unexplained: Option<Instant>,
    /// How many they are.
    pub unexplained_count: u64,
    /// Audit records of such deaths whose line in the log is still to come.
    pub explained: u64,
    /// The tmpfs that were full at the last look.
    pub full: Vec<&'static str>,
    /// The moment that the supervisor's clock of limits knows of.
    pub clock: Option<Instant>,
}

impl Vigil {
    /// When something of it is due.
    pub fn next(&self) -> Option<Instant> {
        [self.tally.next(), self.rearm, self.unexplained].into_iter().flatten().min()
    }
}

/// Why a pool did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Before anything was launched.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// While it was.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// A socket.
    #[error("listening socket: {0}")]
    Door(#[from] nix::errno::Errno),
    /// A socket's flags.
    #[error(transparent)]
    Socket(#[from] ActivationError),
}

/// php-fpm's own default of `pm.process_idle_timeout`.
const WORKER_IDLE: Duration = Duration::from_secs(10);

/// The machine of a pool as its file asks.
pub fn machine_of(pool: &Pool, jitter: f64) -> Machine {
    let stop = match pool.idle.stop {
        Patience::After(stop) => Some(stop),
        Patience::Never => None,
    };
    let idle = pool.fpm.directives.get("pm.process_idle_timeout").and_then(|text| seconds(text));
    let timing = Timing::new(pool.start.timeout, stop, idle.unwrap_or(WORKER_IDLE));
    Machine::new(timing, pool.start.on_failure == OnFailure::Answer503, jitter)
}

/// A time span as php-fpm writes it: "10", "10s", "2m".
fn seconds(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    Some(Duration::from_secs(digits.parse::<u64>().ok()? * unit))
}

impl Slot {
    /// A cold pool.
    pub fn new(pool: Pool, listeners: Vec<Listener>, jitter: f64) -> Self {
        let machine = machine_of(&pool, jitter);
        Self {
            pool,
            machine,
            listeners,
            record: Record::default(),
            generation: None,
            question: None,
            successor: None,
            clock: None,
            watched: Watch::Nothing,
            shut_by: None,
            unreachable: None,
            budget: Budget::new(Instant::now()),
            shut: false,
            vigil: Vigil::default(),
            cold: None,
            unfit: None,
            asked: Instant::now(),
            prepared: None,
            doors: Vec::new(),
        }
    }

    /// Takes over a generation of an earlier howdah.
    pub fn adopt(&mut self, generation: Generation, doors: Vec<Door>, now: Instant) {
        self.record.generation = generation.number;
        self.generation = Some(generation);
        self.doors = doors;
        self.machine = self.machine.clone().adopting(now);
    }

    /// Becomes the pool that its file says now; the sockets must already be right.
    pub fn succeed(&mut self, pool: Pool, jitter: f64) {
        self.machine = machine_of(&pool, jitter);
        self.pool = pool;
        self.shut = false;
        self.prepared = None;
    }

    /// The pool with the sockets that it has, which may be systemd's and not those of its
    /// file: what is true of a listener on TCP is true of that one.
    pub fn as_it_listens(&self) -> Cow<'_, Pool> {
        let listen = self.listeners.iter().map(Listener::address);
        if listen.clone().eq(&self.pool.listen) {
            return Cow::Borrowed(&self.pool);
        }
        Cow::Owned(Pool { listen: listen.cloned().collect(), ..self.pool.clone() })
    }

    /// Begins the next generation by asking its image what it is; false if that is known.
    ///
    /// # Errors
    /// No image, no php-fpm, or no sandbox to ask it in.
    pub fn ask(
        &mut self,
        workshop: &mut Workshop,
        places: &Places,
        base: Option<&Base>,
    ) -> Result<bool, PrepareError> {
        self.asked = Instant::now();
        self.cold = None;
        // Counted before anything can fail, so that each failure has a number of its own.
        self.record.generation += 1;
        if !self.prepared.as_ref().is_some_and(|prepared| prepared.is_fresh()) {
            self.question = workshop.question(&self.as_it_listens(), places, base)?;
        }
        Ok(self.question.is_some())
    }

    /// Launches the generation that [`Slot::ask`] began.
    ///
    /// # Errors
    /// The first thing that is not as the pool asks.
    pub fn launch(
        &mut self,
        workshop: &mut Workshop,
        places: &Places,
        base: Option<&Base>,
        network: Option<&mut SpareNetwork>,
        templates: Option<&mut Templates>,
    ) -> Result<Vec<String>, StartError> {
        let mut notices = self.prepare(workshop, places, base)?;
        let Some(prepared) = &self.prepared else { return Ok(notices) };
        self.doors = self.listeners.iter().map(Door::of).collect::<Result<_, _>>()?;
        self.listeners.iter().try_for_each(Listener::make_blocking)?;
        self.listeners.iter_mut().for_each(Listener::remember);
        self.record.configuration = Some(fingerprint(&self.pool));
        self.record.network = spec::network(&self.pool, &prepared.profile).to_string();
        let sockets: Vec<_> = self.listeners.iter().map(AsFd::as_fd).collect();
        let number = self.record.generation;
        if self.cold.is_none() {
            let always = templates::always_cold(&self.pool, prepared).map(str::to_owned);
            self.cold = always.or_else(|| self.unfit.clone());
        }
        // One that has failed this start is not followed by another: who waits has waited.
        if let (Some(templates), None) = (templates, &self.cold) {
            // What a way out lacks on this host, a cold launch lacks as well: no template is spent on that.
            let programs = prepared.outbound.as_ref().map(outbound::programs).transpose();
            let programs = programs.map_err(LaunchError::from)?;
            match templates.take(prepared, sockets.len()) {
                Ok(waiting) => {
                    let home = &templates.home;
                    let bound = Generation::from_template(
                        (&self.pool, number),
                        prepared,
                        &sockets,
                        programs.as_ref(),
                        base,
                        waiting,
                        home,
                    );
                    match bound {
                        Ok(generation) => {
                            self.generation = Some(generation.asked_for(self.asked));
                            return Ok(notices);
                        }
                        Err(error) => {
                            notices.push(format!("not by a template: {error}"));
                            self.cold = Some(error.to_string());
                            // Not a template at each start for nothing.
                            self.unfit = self.cold.clone().filter(|_| error.is_of_file_system());
                        }
                    }
                }
                Err(why) => self.cold = Some(why),
            }
        }
        let launched = Generation::launch(&self.pool, prepared, &sockets, number, base, network)?;
        self.generation = Some(launched.asked_for(self.asked));
        Ok(notices)
    }

    /// Makes what a launch needs, if it is not there or rests on something that has changed.
    ///
    /// # Errors
    /// The first thing that is not as the pool asks.
    pub fn prepare(
        &mut self,
        workshop: &mut Workshop,
        places: &Places,
        base: Option<&Base>,
    ) -> Result<Vec<String>, PrepareError> {
        let mut notices = Vec::new();
        if !self.prepared.as_ref().is_some_and(|prepared| prepared.is_fresh()) {
            self.prepared = None;
            let pool = self.as_it_listens();
            let prepared = workshop.prepare(&pool, self.listeners.len(), places)?;
            let weakened = tcp_listener::weakened(&pool, &prepared.profile);
            self.record.weakened = weakened;
            self.record.stricter = prepared.profile.stricter();
            self.record.landlock_abi = Some(match prepared.profile.landlock {
                true => landlock::abi_in_force(),
                false => 0,
            });
            self.record.limits_not_in_force = limits_not_in_force(&prepared, base);
            notices.extend(prepared.notices.iter().cloned());
            self.unfit = None;
            self.prepared = Some(Rc::new(prepared));
        }
        Ok(notices)
    }

    /// What [`Slot::prepare`] made.
    pub fn prepared(&self) -> Option<&Rc<Prepared>> {
        self.prepared.as_ref()
    }

    /// Whether nothing can be executed in its generation after php-fpm; false of one that an
    /// earlier howdah has started.
    pub fn executes_once(&self) -> bool {
        self.prepared.as_ref().is_some_and(|prepared| prepared.profile.execve == Execve::Once)
    }

    /// Whether a connection waits on any of the sockets.
    pub fn has_waiting(&self) -> bool {
        self.listeners.iter().any(Listener::has_waiting)
    }

    /// Whether a connection waits that neither a successor nor another howdah will ever serve.
    pub fn has_own_waiting(&self) -> bool {
        !self.leaves_its_queue() && self.listeners.iter().any(|one| !one.is_passed() && one.has_waiting())
    }

    /// Whether a successor gets the sockets with all that waits on them.
    pub fn leaves_its_queue(&self) -> bool {
        self.successor.is_some() && !self.shut
    }

    /// Whether the connection that made the pool start has been accepted: nothing
    /// waits, or a worker holds one.
    pub fn has_accepted(&self) -> bool {
        !self.has_waiting()
            || self
                .generation
                .as_ref()
                .is_some_and(|generation| quiesce::holds_connection(generation.process.pid, &self.doors))
    }

    /// Whether a worker ran since the last look.
    pub fn look(&mut self) -> bool {
        let Some(generation) = &mut self.generation else { return false };
        let now = Activity::read(generation.process.pid);
        let active = now.since(&generation.activity);
        generation.activity = now;
        active
    }

    /// Whether a request is in the generation, which stands still.
    pub fn is_busy(&self) -> bool {
        self.generation.as_ref().is_some_and(|one| quiesce::is_busy(one.process.pid, &self.doors))
    }
}

/// What a pool's file says, as a number that another howdah of this build finds as well.
pub fn fingerprint(pool: &Pool) -> u64 {
    let mut hasher = DefaultHasher::new();
    format!("{pool:?}").hash(&mut hasher);
    hasher.finish()
}

/// Limits of the profile that nothing enforces here; those the file asks for would have been an error.
pub fn limits_not_in_force(prepared: &Prepared, base: Option<&Base>) -> Vec<String> {
    let all = spec::limits_of(&prepared.spec).into_keys();
    all.filter(|key| {
        let controller = key.split('.').next().unwrap_or(key);
        !base.is_some_and(|base| base.controllers().contains(controller))
    })
    .collect()
}
