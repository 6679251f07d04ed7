//! How much a pool may say: a token bucket for lines and one for bytes, so that a
//! tenant who writes without pause fills neither the journal nor anybody's time.
//! Pure: the time is told.

use std::time::{Duration, Instant};

/// Lines that a pool may write in each second, for ever.
const LINES: f64 = 200.0;
/// And at once, when it has been quiet.
const LINES_AT_ONCE: f64 = 2000.0;
/// Bytes in each second.
const BYTES: f64 = 64.0 * 1024.0;
/// And at once: as much as the reasons of a failed start may be.
const BYTES_AT_ONCE: f64 = 1024.0 * 1024.0;
/// How long it must have been quiet until it is told what was left out.
const QUIET: Duration = Duration::from_secs(1);
/// How often that is told of one that is never quiet.
const LOUD: Duration = Duration::from_secs(10);

/// What a pool may still say.
#[derive(Debug, Clone)]
pub struct Budget {
    lines: f64,
    bytes: f64,
    filled: Instant,
    /// Lines left out that nobody has been told of, the first and the last of them.
    left_out: Option<(u64, Instant, Instant)>,
}

impl Budget {
    /// All of it.
    pub fn new(now: Instant) -> Self {
        Self { lines: LINES_AT_ONCE, bytes: BYTES_AT_ONCE, filled: now, left_out: None }
    }

    /// Whether a line of `length` bytes may be told; if not, it is counted.
    pub fn allows(&mut self, length: usize, now: Instant) -> bool {
        let seconds = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = self.filled.max(now);
        self.lines = (self.lines + seconds * LINES).min(LINES_AT_ONCE);
        self.bytes = (self.bytes + seconds * BYTES).min(BYTES_AT_ONCE);
        let length = length as f64;
        if self.lines >= 1.0 && self.bytes >= length {
            self.lines -= 1.0;
            self.bytes -= length;
            return true;
        }
        let (count, first, _) = self.left_out.unwrap_or((0, now, now));
        self.left_out = Some((count + 1, first, now));
        false
    }

    /// Whether lines were left out that nobody has been told of.
    pub fn is_behind(&self) -> bool {
        self.left_out.is_some()
    }

    /// How many lines were left out, when it is time to tell; `ended`: nothing more will come.
    pub fn confess(&mut self, ended: bool, now: Instant) -> Option<u64> {
        let (count, first, last) = self.left_out?;
        let due = ended
            || now.saturating_duration_since(last) >= QUIET
            || now.saturating_duration_since(first) >= LOUD;
        due.then(|| {
            self.left_out = None;
            count
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_goes_through_and_what_follows_at_the_rate() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        assert_eq!((0..5000).filter(|_| budget.allows(10, start)).count(), 2000);
        let later = start + Duration::from_secs(2);
        assert_eq!((0..5000).filter(|_| budget.allows(10, later)).count(), 400);
        assert_eq!(budget.confess(false, later), None, "not while it goes on");
        assert_eq!(budget.confess(false, later + QUIET), Some(3000 + 4600));
        assert_eq!(budget.confess(true, later + QUIET), None, "told once");
    }

    #[test]
    fn long_lines_cost_more() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        assert_eq!((0..5000).filter(|_| budget.allows(8192, start)).count(), 128);
        assert!(budget.allows(0, start) && budget.is_behind());
    }

    #[test]
    fn one_that_is_never_quiet_is_told_of_now_and_then() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let mut told = 0;
        for tenth in 0..300 {
            let now = start + Duration::from_millis(100) * tenth;
            let _ = (0..1000).filter(|_| budget.allows(10, now)).count();
            told += u32::from(budget.confess(false, now).is_some());
        }
        assert_eq!(told, 2);
    }
}
