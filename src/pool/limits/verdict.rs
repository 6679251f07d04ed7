//! Whether a limit ended process 1 of a generation, and with it all. The kernel's
//! counter and the death are told in any order and not at the same moment, and
//! php-fpm may have said in between that a worker was killed: what the kernel
//! counted is kept until the end.

use std::fmt;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use self::End::{Exited, Killed, Unknown};
use super::{Effect, Reason, Witness};

/// How long before its end a process that the kernel ended may have been process 1:
/// it was told to die then, and may have had to wait for a disk.
const SAME_DEATH: Duration = Duration::from_secs(10);

/// How process 1 ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By itself, with this status.
    Exited(i32),
    /// By a signal.
    Killed(Signal),
    /// An earlier howdah started it, and whoever inherited it knows.
    Unknown,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "exit status {status}"),
            Self::Killed(signal) => write!(f, "killed by {signal}"),
            Self::Unknown => f.write_str("it was started by an earlier howdah"),
        }
    }
}

/// What the kernel has ended of one generation.
#[derive(Debug, Default)]
pub struct Kills {
    last: Option<(Instant, Reason)>,
    whole: bool,
}

impl Kills {
    /// Keeps what the kernel tells of a death; of others it is no witness.
    pub fn note(&mut self, reason: &Reason, now: Instant) {
        if reason.effect == Effect::Ended && reason.witness == Witness::Kernel {
            self.last = Some((now, reason.clone()));
        }
    }

    /// The kernel ends all of the generation: however long the last of it takes, it is that.
    pub fn note_whole(&mut self) {
        self.whole = true;
    }

    /// The limit that explains this end of process 1, if one does.
    pub fn explain(&self, end: End, now: Instant) -> Option<&Reason> {
        let (since, reason) = self.last.as_ref()?;
        let fits = match end {
            Exited(_) => false,
            Killed(Signal::SIGKILL) => reason.limit == "memory",
            Killed(Signal::SIGSYS) => reason.limit == "seccomp",
            Killed(_) => false,
            Unknown => true,
        };
        let whole = self.whole && reason.limit == "memory";
        (fits && (whole || now.saturating_duration_since(*since) <= SAME_DEATH)).then_some(reason)
    }

    /// The last death by a limit within a moment: for what went wrong at the same time.
    pub fn recent(&self, now: Instant) -> Option<&Reason> {
        self.explain(Unknown, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> Reason {
        Reason::new("memory", Effect::Ended, Witness::Kernel, "out of memory")
    }

    fn explained(kills: &Kills, end: End, now: Instant) -> Option<&'static str> {
        kills.explain(end, now).map(|reason| reason.limit)
    }

    /// memory.events woke howdah first, and the counter has been read when the death is told.
    #[test]
    fn what_was_counted_before_the_end_is_told_still_explains_it() {
        let (mut kills, now) = (Kills::default(), Instant::now());
        assert_eq!(explained(&kills, Killed(Signal::SIGKILL), now), None);
        kills.note(&memory(), now);
        let soon = now + Duration::from_secs(2);
        assert_eq!(explained(&kills, Killed(Signal::SIGKILL), soon), Some("memory"));
        assert_eq!(explained(&kills, Unknown, soon), Some("memory"));
        assert_eq!(kills.recent(soon), Some(&memory()));
    }

    #[test]
    fn a_worker_that_ended_long_ago_explains_nothing_but_the_whole_generation_does() {
        let (mut kills, now) = (Kills::default(), Instant::now());
        kills.note(&memory(), now);
        let late = now + Duration::from_secs(11);
        assert_eq!(explained(&kills, Killed(Signal::SIGKILL), late), None);
        kills.note_whole();
        assert_eq!(explained(&kills, Killed(Signal::SIGKILL), late), Some("memory"));
    }

    #[test]
    fn another_end_is_not_the_limits() {
        let (mut kills, now) = (Kills::default(), Instant::now());
        kills.note(&memory(), now);
        kills.note_whole();
        for end in [Exited(0), Exited(78), Killed(Signal::SIGSYS), Killed(Signal::SIGSEGV)] {
            assert_eq!(explained(&kills, end, now), None, "{end}");
        }
        kills.note(&Reason::new("seccomp", Effect::Ended, Witness::Kernel, "bpf"), now);
        assert_eq!(explained(&kills, Killed(Signal::SIGSYS), now), Some("seccomp"));
        assert_eq!(explained(&kills, Killed(Signal::SIGKILL), now), None);
    }

    /// What a tenant can write into the log, and what goes on, is no death.
    #[test]
    fn only_the_kernel_is_heard_and_only_of_deaths() {
        let (mut kills, now) = (Kills::default(), Instant::now());
        kills.note(&Reason::new("seccomp", Effect::Ended, Witness::Pool, "forged"), now);
        kills.note(&Reason::new("memory", Effect::Held, Witness::Kernel, "held"), now);
        assert_eq!(explained(&kills, Unknown, now), None);
    }
}
