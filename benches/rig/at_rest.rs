//! What processes cost while nothing happens.

use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Outcome, processes};

/// Bytes in the unit of the tables.
pub(crate) const MB: f64 = 1024.0 * 1024.0;

/// What some processes cost while nothing happens.
#[derive(Debug, Default)]
pub(crate) struct AtRest {
    /// VmRSS, bytes, of all.
    pub(crate) resident: u64,
    /// PSS, bytes, of all.
    pub(crate) proportional: u64,
    /// Pages that nobody else has, bytes, of all.
    pub(crate) unshared: u64,
    /// Of all threads, while the clock ran.
    pub(crate) context_switches: u64,
    /// How often they were given a processor meanwhile: each wake-up is at least one.
    pub(crate) turns: u64,
    /// And how long they had it.
    pub(crate) cpu: Duration,
}

impl AtRest {
    /// Counts over `seconds` what `pids` do; 0: only their memory.
    pub(crate) fn watch(pids: &[u32], seconds: u64) -> Outcome<Self> {
        let switches = || pids.iter().map(|pid| processes::context_switches(*pid)).sum::<Outcome<u64>>();
        let turns = || pids.iter().map(|pid| processes::turns(*pid)).collect::<Outcome<Vec<_>>>();
        let (switches_before, turns_before) = (switches()?, turns()?);
        sleep(Duration::from_secs(seconds));
        let mut seen = Self { context_switches: switches()? - switches_before, ..Self::default() };
        for ((turns, cpu), (turns_before, cpu_before)) in turns()?.into_iter().zip(turns_before) {
            seen.turns += turns - turns_before;
            seen.cpu += cpu - cpu_before;
        }
        // Memory last: reading it makes the kernel walk the process's pages.
        for pid in pids {
            seen.resident += processes::resident(*pid)?;
            let (proportional, unshared) = processes::shares(*pid)?;
            seen.proportional += proportional;
            seen.unshared += unshared;
        }
        Ok(seen)
    }

    /// As two lines of a table about `count` of `what`.
    pub(crate) fn print(&self, count: usize, what: &str, seconds: u64) {
        let (resident, proportional) = (self.resident as f64 / MB, self.proportional as f64 / MB);
        let each = self.proportional as f64 / 1024.0 / count as f64;
        let rate = self.context_switches as f64 / seconds as f64;
        println!(
            "  memory             {proportional:.1} MB (PSS), {each:.1} kB for each {what}; VmRSS {resident:.1} MB"
        );
        println!(
            "  context switches   {} in {seconds} s, {rate:.1} a second; {} turns on a processor, {:.1} ms in all",
            self.context_switches,
            self.turns,
            self.cpu.as_secs_f64() * 1e3
        );
    }

    /// All of it; `count` stands under the name `what`.
    pub(crate) fn json(&self, what: &str, count: usize) -> Value {
        json!({
            what: count,
            "resident_bytes": self.resident,
            "proportional_bytes": self.proportional,
            "unshared_bytes": self.unshared,
            "context_switches": self.context_switches,
            "turns": self.turns,
            "cpu_us": self.cpu.as_micros() as u64,
        })
    }
}
