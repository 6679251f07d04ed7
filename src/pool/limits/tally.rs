//! How often each limit was hit, and when to speak of it: at once the first
//! time, then seldom. A tenant can hit a limit a million times a second.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Effect, Reason, Witness};

/// How soon the same limit is told of again.
const AGAIN: Duration = Duration::from_secs(10);
/// The same for what is common ([`Reason::is_common`]).
const AGAIN_COMMON: Duration = Duration::from_secs(300);
/// For how long after the kernel's word what php-fpm says of the same limit is its echo.
const ECHO: Duration = Duration::from_secs(10);
/// Kinds of hits that are kept apart for one pool; more are counted with the last.
const MOST: usize = 32;
/// Subjects that are kept apart; the rest of [`MOST`] is for limits that have none.
const MOST_SUBJECTS: usize = 10;
/// The subject of what is beyond that.
const OTHERS: &str = "others";

/// A limit that was hit, as `howdah ps` tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hit {
    /// The limit by its key in the pool file, or the wall.
    pub limit: String,
    /// What it did.
    pub effect: Effect,
    /// A system call, a path; may be empty.
    #[serde(default)]
    pub subject: String,
    /// How many times since the pool was first started.
    pub count: u64,
    /// When it was last, RFC 3339.
    pub last: String,
    /// What happened then, in words.
    pub detail: String,
    /// Who tells of it.
    pub witness: Witness,
}

/// When each kind of hit is to be told of again.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    told: Vec<Told>,
}

#[derive(Debug, Clone)]
struct Told {
    reason: Reason,
    /// Not told yet.
    pending: u64,
    next: Instant,
    /// When the kernel last told of it.
    counted: Option<Instant>,
}

impl Tally {
    /// Counts `reason` in `hits`; returns it if it is to be told now, with all that was not told before.
    /// The kernel's word stands: what the pool says of the same a moment later is no other hit.
    pub fn count(&mut self, reason: Reason, hits: &mut Vec<Hit>, now: Instant, time: &str) -> Option<Reason> {
        if self.is_echo(&reason, now) {
            return None;
        }
        record(&reason, hits, time);
        let same = |told: &Told| key(&told.reason) == key(&reason);
        let at = match self.told.iter().position(same) {
            Some(at) => at,
            None if self.told.len() < MOST => {
                self.told.push(Told { reason: reason.clone(), pending: 0, next: now, counted: None });
                self.told.len() - 1
            }
            None => MOST - 1,
        };
        let told = &mut self.told[at];
        told.pending += reason.count;
        if reason.witness == Witness::Kernel {
            told.counted = Some(now);
        }
        told.reason = reason;
        told.speak(now)
    }

    fn is_echo(&self, reason: &Reason, now: Instant) -> bool {
        let same = |told: &&Told| key(&told.reason) == key(reason);
        let counted = self.told.iter().find(same).and_then(|told| told.counted);
        let recently = counted.is_some_and(|when| now.saturating_duration_since(when) < ECHO);
        reason.witness == Witness::Pool && recently
    }

    /// What has waited long enough to be told.
    pub fn due(&mut self, now: Instant) -> Vec<Reason> {
        self.told.iter_mut().filter(|told| told.pending > 0).filter_map(|told| told.speak(now)).collect()
    }

    /// When [`Self::due`] has something next.
    pub fn next(&self) -> Option<Instant> {
        self.told.iter().filter(|told| told.pending > 0).map(|told| told.next).min()
    }
}

impl Told {
    fn speak(&mut self, now: Instant) -> Option<Reason> {
        if now < self.next {
            return None;
        }
        self.next = now + if self.reason.is_common() { AGAIN_COMMON } else { AGAIN };
        Some(self.reason.clone().times(std::mem::take(&mut self.pending)))
    }
}

/// `reason`, of whose subject no more is told than that it is one of many, where the pool has hit as
/// many as are kept apart. Tenants choose subjects (paths, system calls): without this one that names
/// enough of them would have what comes after, a kill by memory.max too, counted as something else.
pub fn within_bounds(reason: Reason, hits: &[Hit]) -> Reason {
    let known = hits.iter().any(|hit| (hit.limit.as_str(), hit.effect, hit.subject.as_str()) == key(&reason));
    let subjects = hits.iter().filter(|hit| !hit.subject.is_empty()).count();
    match reason.subject.is_empty() || known || subjects < MOST_SUBJECTS {
        true => reason,
        false => reason.of(OTHERS),
    }
}

fn key(reason: &Reason) -> (&str, Effect, &str) {
    (reason.limit, reason.effect, &reason.subject)
}

fn record(reason: &Reason, hits: &mut Vec<Hit>, time: &str) {
    let same = |hit: &Hit| (hit.limit.as_str(), hit.effect, hit.subject.as_str()) == key(reason);
    match hits.iter().position(same) {
        Some(at) => {
            let hit = &mut hits[at];
            hit.count += reason.count;
            time.clone_into(&mut hit.last);
            hit.detail.clone_from(&reason.detail);
            hit.witness = reason.witness;
        }
        None if hits.len() < MOST => hits.push(Hit {
            limit: reason.limit.to_owned(),
            effect: reason.effect,
            subject: reason.subject.clone(),
            count: reason.count,
            last: time.to_owned(),
            detail: reason.detail.clone(),
            witness: reason.witness,
        }),
        None => hits[MOST - 1].count += reason.count,
    }
}

/// A token bucket: so many at once, and then one each second.
#[derive(Debug, Clone)]
pub struct Bucket {
    tokens: u32,
    filled: Instant,
    dropped: u64,
}

impl Bucket {
    const SIZE: u32 = 60;

    /// A full one.
    pub fn new(now: Instant) -> Self {
        Self { tokens: Self::SIZE, filled: now, dropped: 0 }
    }

    /// Takes a token: how many have found none since the last that did; `None` if there is none.
    pub fn take(&mut self, now: Instant) -> Option<u64> {
        let seconds = now.saturating_duration_since(self.filled).as_secs();
        self.filled += Duration::from_secs(seconds);
        self.tokens = self.tokens.saturating_add(u32::try_from(seconds).unwrap_or(u32::MAX)).min(Self::SIZE);
        if self.tokens == 0 {
            self.dropped += 1;
            return None;
        }
        self.tokens -= 1;
        Some(std::mem::take(&mut self.dropped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hit(limit: &'static str, effect: Effect) -> Reason {
        Reason::new(limit, effect, Witness::Kernel, "words")
    }

    #[test]
    fn the_first_is_told_at_once_and_the_others_with_their_number() {
        let (mut tally, mut hits, now) = (Tally::default(), Vec::new(), Instant::now());
        let mut count = |after: u64, reason: Reason| {
            let told = tally.count(reason, &mut hits, now + Duration::from_secs(after), "t");
            (told.map(|reason| reason.count), tally.next().map(|next| (next - now).as_secs()))
        };
        assert_eq!(count(0, hit("tasks", Effect::Refused)), (Some(1), None));
        assert_eq!(count(1, hit("tasks", Effect::Refused).times(5)), (None, Some(10)));
        assert_eq!(count(2, hit("tasks", Effect::Refused)), (None, Some(10)));
        assert_eq!(count(2, hit("memory", Effect::Held)), (Some(1), Some(10)));
        assert_eq!(count(11, hit("tasks", Effect::Refused)), (Some(7), None));
        assert_eq!(count(12, hit("memory", Effect::Held)), (None, Some(302)));
        assert_eq!(count(12, hit("memory", Effect::Ended)), (Some(1), Some(302)));
        assert_eq!(count(12, hit("seccomp", Effect::Ended).of("ptrace")), (Some(1), Some(302)));
        assert_eq!(count(12, hit("seccomp", Effect::Ended).of("bpf")), (Some(1), Some(302)));
        let counts: Vec<_> = hits.iter().map(|hit| hit.count).collect();
        assert_eq!(counts, [8, 2, 1, 1, 1]);
    }

    #[test]
    fn what_nobody_followed_is_told_when_it_is_time() {
        let (mut tally, mut hits, now) = (Tally::default(), Vec::new(), Instant::now());
        tally.count(hit("tasks", Effect::Refused), &mut hits, now, "t");
        tally.count(hit("tasks", Effect::Refused).times(3), &mut hits, now, "t");
        assert_eq!(tally.due(now + Duration::from_secs(9)), []);
        assert_eq!(tally.due(now + Duration::from_secs(10)), [hit("tasks", Effect::Refused).times(3)]);
        assert_eq!(tally.due(now + Duration::from_secs(60)), []);
    }

    #[test]
    fn what_the_pool_says_of_what_the_kernel_has_told_is_no_other_hit() {
        let (mut tally, mut hits, now) = (Tally::default(), Vec::new(), Instant::now());
        let pool = || Reason::new("tasks", Effect::Refused, Witness::Pool, "fork() failed");
        let mut count = |after: u64, reason: Reason| {
            let told = tally.count(reason, &mut hits, now + Duration::from_secs(after), "t");
            (told.is_some(), hits[0].count, hits[0].witness, hits[0].detail.clone())
        };
        // Where no controller counts, the pool is all there is.
        assert_eq!(count(0, pool()), (true, 1, Witness::Pool, "fork() failed".into()));
        assert_eq!(
            count(10, hit("tasks", Effect::Refused).times(4)),
            (true, 5, Witness::Kernel, "words".into())
        );
        assert_eq!(count(19, pool()), (false, 5, Witness::Kernel, "words".into()));
        assert_eq!(count(30, pool()), (true, 6, Witness::Pool, "fork() failed".into()));
    }

    #[test]
    fn a_million_subjects_are_a_bounded_list() {
        let (mut tally, mut hits, now) = (Tally::default(), Vec::new(), Instant::now());
        let told = (0..1000).filter_map(|n| {
            tally.count(hit("landlock", Effect::Refused).of(n.to_string()), &mut hits, now, "t")
        });
        assert_eq!(told.count(), MOST);
        assert_eq!(hits.len(), MOST);
        assert_eq!(hits.iter().map(|hit| hit.count).sum::<u64>(), 1000);
    }

    #[test]
    fn a_tenant_cannot_crowd_out_the_limits_that_it_does_not_name() {
        let limits = ["memory", "tasks", "cpu", "tmp", "run", "shm", "open_files", "file_size", "cpu_time"];
        let crowd: Vec<Reason> =
            (0..1000).map(|n| hit("landlock", Effect::Refused).of(n.to_string())).collect();
        let after: Vec<Reason> = limits
            .iter()
            .flat_map(|limit| [Effect::Ended, Effect::Refused].map(|effect| hit(limit, effect)))
            .collect();
        let run = |bounded: bool| {
            let (mut tally, mut hits, now) = (Tally::default(), Vec::new(), Instant::now());
            for reason in crowd.iter().chain(&after).cloned() {
                let reason = if bounded { within_bounds(reason, &hits) } else { reason };
                tally.count(reason, &mut hits, now, "t");
            }
            hits
        };
        let hits = run(true);
        for reason in &after {
            let its =
                hits.iter().find(|hit| (hit.limit.as_str(), hit.effect) == (reason.limit, reason.effect));
            assert_eq!(its.map(|hit| hit.count), Some(1), "{reason:?}");
        }
        let others = hits.iter().find(|hit| hit.subject == OTHERS).unwrap();
        assert_eq!((hits.len(), others.count), (11 + after.len(), 990));
        // The control: whoever comes last is counted as a path.
        assert!(run(false).iter().all(|hit| hit.limit == "landlock"));
    }

    #[test]
    fn a_bucket_gives_as_much_as_it_holds_and_then_one_a_second() {
        let now = Instant::now();
        let mut bucket = Bucket::new(now);
        let taken = (0..1000).filter(|_| bucket.take(now) == Some(0)).count();
        assert_eq!(taken, 60);
        let later = now + Duration::from_millis(1500);
        assert_eq!((bucket.take(later), bucket.take(later)), (Some(940), None));
        assert_eq!(bucket.take(now + Duration::from_millis(2000)), Some(1));
        assert_eq!(bucket.take(now), None, "a clock that goes back gives nothing");
    }
}
