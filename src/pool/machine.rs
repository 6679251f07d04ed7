//! The life of a pool, as one pure table: (state, event, now) in, actions out.
//! No process, no socket, no clock: the supervisor turns the world into events
//! and these actions into deeds.
//!
//! ```text
//! Cold ──connection──> Starting ──accepted──> Warm ──quiet──> Freezing ──nobody in it──> Stopping ──ended──> Cold
//!                          │                   ^                 │ busy                      │
//!                          └─failed─> Stopping─┼─────────────────┘                           └─> Backoff ──time──> Cold
//! ```
//!
//! A drain (shutdown, removal, new configuration) goes the same way, only sooner:
//! it asks again and again whether anybody is in the generation, and ends in `Ended`.

use std::time::{Duration, Instant};

/// What a pool's life is measured by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// From launch to the first accepted connection.
    pub start_timeout: Duration,
    /// Idle time before a stop; `None`: never.
    pub stop: Option<Duration>,
    /// How often a warm pool is looked at; see [`Timing::new`].
    pub look: Duration,
}

impl Timing {
    /// Timing of a pool that stops after `stop` and whose idle workers php-fpm
    /// ends after `worker_idle`: looks are close enough that no request falls
    /// between two of them unseen, and that a stop is less than a quarter of `stop` late.
    pub fn new(start_timeout: Duration, stop: Option<Duration>, worker_idle: Duration) -> Self {
        let look = stop.map_or(Duration::from_secs(3600), |stop| (stop / 8).min(worker_idle / 2));
        Self { start_timeout, stop, look: look.max(Duration::from_millis(1)) }
    }
}

/// Where a pool is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Listening; nothing runs.
    Cold,
    /// Launched; not yet proven to serve.
    Starting {
        /// When it was launched.
        since: Instant,
        /// Whether php-fpm has said that it is ready.
        ready: bool,
        /// How long until it is asked again whether it has accepted.
        pause: Duration,
    },
    /// Serving.
    Warm {
        /// The last moment at which somebody may have been served.
        quiet_since: Instant,
        /// When the generation began to serve.
        since: Instant,
    },
    /// Told to stand still, to be looked at.
    Freezing {
        /// When that was.
        since: Instant,
        /// As in [`State::Warm`].
        warm_since: Instant,
    },
    /// Killed; the end is not reported yet.
    Stopping {
        /// What comes after.
        then: After,
    },
    /// It failed; connections get the 503, and nothing is tried until then.
    Backoff {
        /// When it ends.
        until: Instant,
    },
    /// Drained: the pool is to be forgotten.
    Ended,
}

impl State {
    /// The word that `howdah ps` shows.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Starting { .. } => "starting",
            Self::Warm { .. } | Self::Freezing { .. } => "warm",
            Self::Stopping { .. } => "stopping",
            Self::Backoff { .. } => "backoff",
            Self::Ended => "ended",
        }
    }
}

/// What follows a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// The pool waits for the next connection.
    Cold,
    /// The start failed.
    Backoff,
    /// The pool is forgotten.
    Ended,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A watched socket has a connection waiting.
    Connection,
    /// The launch failed before php-fpm was executed.
    LaunchFailed,
    /// What was launched has come to nothing before it served anybody, and another is launched in its place.
    Relaunched,
    /// php-fpm said that it is ready.
    Ready,
    /// The answer to [`Action::AskAccepted`].
    Accepted(bool),
    /// The answer to [`Action::Look`]: whether a worker ran since the last look.
    Looked {
        /// Whether one did.
        active: bool,
    },
    /// All of the generation stands still and was looked at.
    Inspected {
        /// Whether a request is in it.
        busy: bool,
    },
    /// It could not be frozen.
    FreezeFailed,
    /// Process 1 of the generation has ended.
    Exited {
        /// Whether a connection waits that only this howdah can serve.
        waiting: bool,
    },
    /// The deadline that [`Machine::deadline`] told has come.
    Deadline,
    /// End, without cutting a request before `until`.
    Drain {
        /// The last moment.
        until: Instant,
        /// As in [`Event::Exited`].
        waiting: bool,
    },
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Watch the sockets for connections.
    Watch,
    /// Watch them no longer.
    Unwatch,
    /// Create the next generation.
    Launch,
    /// Answer with [`Event::Accepted`]: has the waiting connection been accepted?
    AskAccepted,
    /// Tell that the start is good.
    ReportStarted,
    /// Tell that the start took too long; php-fpm's last lines are the reason.
    ReportTimeout,
    /// Tell that the generation ended by itself, and how.
    ReportExit,
    /// Answer with [`Event::Looked`].
    Look,
    /// Freeze; answered by [`Event::Inspected`] or [`Event::FreezeFailed`].
    Freeze,
    /// Let it go on.
    Thaw,
    /// Kill all of it.
    Kill,
    /// Tell that requests were cut because the drain time is over.
    ReportCut,
    /// SIGQUIT to php-fpm: finish what is running, accept nothing more.
    Quit,
    /// Answer the waiting connections with a 503.
    Refuse,
    /// No new connection may come in; those that wait still count.
    StopListening,
}

/// A drain in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Drain {
    since: Instant,
    until: Instant,
    quit_sent: bool,
}

/// The first wait after READY until it is asked whether the connection was accepted; doubled each time.
const FIRST_ASK: Duration = Duration::from_millis(1);
const LAST_ASK: Duration = Duration::from_millis(64);
/// How long a generation may take to stand still before it is let go on.
const FREEZE_LIMIT: Duration = Duration::from_millis(500);
/// How often a draining pool is looked into.
const DRAIN_LOOK: Duration = Duration::from_millis(10);
/// A generation that lived this long has shown that it can: its end is no failure.
const PROVEN: Duration = Duration::from_secs(60);
/// The longest backoff.
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

/// One pool's life.
#[derive(Debug, Clone)]
pub struct Machine {
    state: State,
    timing: Timing,
    failures: u32,
    drain: Option<Drain>,
    next_look: Option<Instant>,
    answers_503: bool,
    /// 0 to 1: shortens each backoff by up to a quarter, so that pools that failed together do not come back together.
    jitter: f64,
}

impl Machine {
    /// A cold pool. `answers_503`: what a connection gets in backoff (else it waits).
    pub fn new(timing: Timing, answers_503: bool, jitter: f64) -> Self {
        let state = State::Cold;
        Self { state, timing, failures: 0, drain: None, next_look: None, answers_503, jitter }
    }

    /// A pool whose generation an earlier howdah has started, and which serves.
    #[must_use]
    pub fn adopting(mut self, now: Instant) -> Self {
        // It had shown that it can before: its end is no failed start.
        let since = now.checked_sub(PROVEN).unwrap_or(now);
        self.state = State::Warm { quiet_since: now, since };
        self.next_look = Some(now + self.look_pause());
        self
    }

    /// Where it is.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether it is on its way out.
    pub fn is_draining(&self) -> bool {
        self.drain.is_some()
    }

    /// When it wants [`Event::Deadline`]; `None`: it sleeps until something happens.
    pub fn deadline(&self) -> Option<Instant> {
        let own = match self.state {
            State::Cold | State::Ended | State::Stopping { .. } => None,
            State::Starting { since, ready: false, .. } => Some(since + self.timing.start_timeout),
            State::Warm { .. } if self.timing.stop.is_none() && self.drain.is_none() => None,
            State::Starting { .. } | State::Warm { .. } => self.next_look,
            State::Freezing { since, .. } => Some(since + FREEZE_LIMIT),
            State::Backoff { until } => Some(until),
        };
        match (own, self.drain) {
            (Some(own), Some(drain)) => Some(own.min(drain.until)),
            (own, _) => own,
        }
    }

    /// One row of the table.
    pub fn on(&mut self, event: Event, now: Instant) -> Vec<Action> {
        use State::{Backoff, Cold, Ended, Freezing, Starting, Stopping, Warm};
        if let Event::Drain { until, waiting } = event {
            return self.begin_drain(now, until, waiting);
        }
        match (self.state, event) {
            (Cold, Event::Connection) => self.start(now),

            (Starting { since, pause, .. }, Event::Ready) => {
                self.state = Starting { since, ready: true, pause };
                self.next_look = Some(since + self.timing.start_timeout);
                vec![Action::AskAccepted]
            }
            (Starting { .. }, Event::Accepted(true)) => {
                self.state = Warm { quiet_since: now, since: now };
                self.next_look = Some(now + self.look_pause());
                vec![Action::ReportStarted]
            }
            (Starting { since, ready, pause }, Event::Accepted(false)) => {
                self.next_look = Some((now + pause).min(since + self.timing.start_timeout));
                self.state = Starting { since, ready, pause: (pause * 2).min(LAST_ASK) };
                vec![]
            }
            // It has all the time that it would have had without what was before it.
            (Starting { .. }, Event::Relaunched) => {
                self.state = Starting { since: now, ready: false, pause: FIRST_ASK };
                vec![]
            }
            (Starting { since, .. }, Event::Deadline) => {
                if now >= since + self.timing.start_timeout {
                    self.state = Stopping { then: self.after_failure() };
                    vec![Action::ReportTimeout, Action::Kill]
                } else if self.drain.is_some_and(|drain| now >= drain.until) {
                    self.state = Stopping { then: After::Ended };
                    vec![Action::ReportCut, Action::Kill]
                } else {
                    vec![Action::AskAccepted]
                }
            }
            (Starting { .. }, Event::Exited { .. }) => self.fail(now, vec![Action::ReportExit]),
            (Starting { .. }, Event::LaunchFailed) => self.fail(now, vec![]),

            (Warm { .. }, Event::Deadline) => self.on_warm_deadline(now),
            (Warm { quiet_since, since }, Event::Looked { active }) => {
                let quiet_since = if active { now } else { quiet_since };
                self.state = Warm { quiet_since, since };
                match self.timing.stop {
                    Some(stop) if now >= quiet_since + stop => self.freeze(now),
                    _ => {
                        self.next_look = Some(now + self.look_pause());
                        vec![]
                    }
                }
            }
            (Warm { since, .. } | Freezing { warm_since: since, .. }, Event::Exited { waiting }) => {
                self.end_of_serving(since, waiting, now)
            }

            (Freezing { .. }, Event::Inspected { busy: false }) => {
                self.state = Stopping { then: After::Cold };
                vec![Action::Kill]
            }
            (Freezing { .. }, Event::Inspected { busy: true } | Event::FreezeFailed) => self.go_on(now),
            (Freezing { .. }, Event::Deadline) => {
                let actions = self.go_on(now);
                // What cannot stand still must at least get on with its work.
                self.next_look = Some(now + self.look_pause().max(FREEZE_LIMIT));
                actions
            }

            (Stopping { then }, Event::Exited { waiting }) => self.after_stop(then, waiting, now),

            (Backoff { .. }, Event::Connection) => {
                vec![if self.answers_503 { Action::Refuse } else { Action::Unwatch }]
            }
            (Backoff { .. }, Event::Deadline) => {
                self.state = Cold;
                vec![Action::Watch]
            }

            // Late news of what is over, and answers to questions that no longer matter.
            (
                Cold | Backoff { .. } | Ended,
                Event::LaunchFailed
                | Event::Relaunched
                | Event::Ready
                | Event::Accepted(_)
                | Event::Looked { .. }
                | Event::Inspected { .. }
                | Event::FreezeFailed
                | Event::Exited { .. },
            )
            | (Cold | Ended | Stopping { .. }, Event::Deadline)
            | (
                Starting { .. } | Warm { .. } | Freezing { .. } | Stopping { .. } | Ended,
                Event::Connection,
            )
            | (Starting { .. }, Event::Looked { .. } | Event::Inspected { .. } | Event::FreezeFailed)
            | (
                Warm { .. },
                Event::LaunchFailed
                | Event::Relaunched
                | Event::Ready
                | Event::Accepted(_)
                | Event::Inspected { .. }
                | Event::FreezeFailed,
            )
            | (
                Freezing { .. },
                Event::LaunchFailed
                | Event::Relaunched
                | Event::Ready
                | Event::Accepted(_)
                | Event::Looked { .. },
            )
            | (
                Stopping { .. },
                Event::LaunchFailed
                | Event::Relaunched
                | Event::Ready
                | Event::Accepted(_)
                | Event::Looked { .. }
                | Event::Inspected { .. }
                | Event::FreezeFailed,
            )
            | (_, Event::Drain { .. }) => vec![],
        }
    }

    fn start(&mut self, now: Instant) -> Vec<Action> {
        if let Some(drain) = &mut self.drain {
            // The one that got it is gone.
            drain.quit_sent = false;
        }
        self.state = State::Starting { since: now, ready: false, pause: FIRST_ASK };
        vec![Action::Unwatch, Action::Launch]
    }

    fn look_pause(&self) -> Duration {
        if self.drain.is_some() { DRAIN_LOOK } else { self.timing.look }
    }

    fn freeze(&mut self, now: Instant) -> Vec<Action> {
        let warm_since = match self.state {
            State::Warm { since, .. } => since,
            _ => now,
        };
        self.state = State::Freezing { since: now, warm_since };
        vec![Action::Freeze]
    }

    fn on_warm_deadline(&mut self, now: Instant) -> Vec<Action> {
        let Some(drain) = &mut self.drain else {
            // Never stopped: nothing to look for.
            return if self.timing.stop.is_some() { vec![Action::Look] } else { self.sleep_on(now) };
        };
        if now >= drain.until {
            self.state = State::Stopping { then: After::Ended };
            return vec![Action::ReportCut, Action::Kill];
        }
        // Half of the time for the gentle way. SIGQUIT ends a busy pool too, but wakes scripts that sleep.
        if !drain.quit_sent && now >= drain.since + (drain.until - drain.since) / 2 {
            drain.quit_sent = true;
            self.next_look = Some(now + DRAIN_LOOK);
            return vec![Action::Quit];
        }
        self.freeze(now)
    }

    fn sleep_on(&mut self, now: Instant) -> Vec<Action> {
        self.next_look = Some(now + self.timing.look);
        vec![]
    }

    /// Somebody is in it, or it could not be told: it goes on, and counts as used just now.
    fn go_on(&mut self, now: Instant) -> Vec<Action> {
        let since = match self.state {
            State::Freezing { warm_since, .. } => warm_since,
            _ => now,
        };
        self.state = State::Warm { quiet_since: now, since };
        self.next_look = Some(now + self.look_pause());
        vec![Action::Thaw]
    }

    fn after_failure(&self) -> After {
        if self.drain.is_some() { After::Ended } else { After::Backoff }
    }

    /// php-fpm ended although nobody told it to, or as SIGQUIT told it to.
    fn end_of_serving(&mut self, since: Instant, waiting: bool, now: Instant) -> Vec<Action> {
        if self.drain.is_some_and(|drain| drain.quit_sent) {
            return self.after_stop(After::Cold, waiting, now);
        }
        let failed = now < since + PROVEN;
        // Who waits is served by the next one, which is started at once; only if that is no better is it
        // the pool's fault.
        let again = !failed || self.failures == 0;
        let then = if again { After::Cold } else { self.after_failure() };
        let mut actions = vec![Action::ReportExit];
        actions.extend(self.after_stop(then, waiting, now));
        if again {
            self.failures = u32::from(failed);
        }
        actions
    }

    fn fail(&mut self, now: Instant, mut actions: Vec<Action>) -> Vec<Action> {
        let then = self.after_failure();
        actions.extend(self.after_stop(then, false, now));
        actions
    }

    fn after_stop(&mut self, then: After, waiting: bool, now: Instant) -> Vec<Action> {
        match (then, self.drain) {
            (After::Cold, None) => {
                self.failures = 0;
                self.state = State::Cold;
                vec![Action::Watch]
            }
            // Somebody came in before the door was shut: one more generation for them.
            (After::Cold, Some(drain)) if waiting && now < drain.until => {
                self.state = State::Cold;
                self.start(now)
            }
            (After::Backoff, None) => {
                self.failures += 1;
                self.state = State::Backoff { until: now + self.backoff() };
                // With "hold" the connection waits in the queue, and nobody need look at it.
                if self.answers_503 { vec![Action::Watch] } else { vec![] }
            }
            (After::Ended, _) | (After::Cold | After::Backoff, Some(_)) => self.end(),
        }
    }

    /// The pool is over; who waits still gets an answer.
    fn end(&mut self) -> Vec<Action> {
        self.state = State::Ended;
        if self.answers_503 { vec![Action::Refuse] } else { vec![] }
    }

    /// 1 s, 2 s, 4 s … 60 s, each less up to a quarter.
    fn backoff(&self) -> Duration {
        let whole = Duration::from_secs(1) * 2u32.saturating_pow(self.failures.saturating_sub(1).min(6));
        whole.min(LONGEST_BACKOFF).mul_f64(1.0 - 0.25 * self.jitter.clamp(0.0, 1.0))
    }

    fn begin_drain(&mut self, now: Instant, until: Instant, waiting: bool) -> Vec<Action> {
        let first = Drain { since: now, until, quit_sent: false };
        let drain = self.drain.get_or_insert(first);
        // Told again, it may hurry, and never dawdle.
        drain.until = drain.until.min(until);
        let mut actions = vec![Action::StopListening];
        actions.extend(match self.state {
            State::Cold if waiting && now < until => self.start(now),
            State::Cold | State::Backoff { .. } => {
                let mut actions = vec![Action::Unwatch];
                actions.extend(self.end());
                actions
            }
            State::Warm { .. } => self.freeze(now),
            // It must serve first what made it start; `Warm` drains it then.
            State::Starting { .. } | State::Freezing { .. } | State::Stopping { .. } | State::Ended => vec![],
        });
        actions
    }
}

#[cfg(test)]
mod tests;
