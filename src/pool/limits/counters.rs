//! The kernel's counters of one cgroup, and what it means that they have grown
//! (cgroup-v2.rst: memory.events, pids.events, cpu.stat).

use std::collections::BTreeMap;

use super::{Effect, Reason, Witness};
use crate::config::types::Bytes;

/// What has been counted since the cgroup was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Times it was out of memory at its own memory.max.
    pub oom: u64,
    /// Processes that the kernel ended because it was out of memory, there or above.
    pub oom_kill: u64,
    /// Times it ended all of them (memory.oom.group; Linux 5.17).
    pub oom_group_kill: u64,
    /// Times the use was about to pass memory.max.
    pub memory_max: u64,
    /// Times it was above memory.high.
    pub memory_high: u64,
    /// Forks that pids.max refused.
    pub pids_max: u64,
    /// Periods in which cpu.max stopped it.
    pub throttled: u64,
    /// For how long in all, microseconds.
    pub throttled_usec: u64,
}

impl Counters {
    /// From the text of memory.events, pids.events and cpu.stat; empty where the file is not there.
    pub fn parse(memory: &str, pids: &str, cpu: &str) -> Self {
        let value = |text: &str, key: &str| -> u64 {
            let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
            line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
        };
        Self {
            oom: value(memory, "oom"),
            oom_kill: value(memory, "oom_kill"),
            oom_group_kill: value(memory, "oom_group_kill"),
            memory_max: value(memory, "max"),
            memory_high: value(memory, "high"),
            pids_max: value(pids, "max"),
            throttled: value(cpu, "nr_throttled"),
            throttled_usec: value(cpu, "throttled_usec"),
        }
    }

    /// What has happened since `before`; `limits` are the cgroup's files and values.
    pub fn since(&self, before: &Self, limits: &BTreeMap<String, String>) -> Vec<Reason> {
        let grown = |now: u64, then: u64| now.saturating_sub(then);
        let told = |key: &str| told(key, limits);
        let reason = |limit, effect, count: u64, detail: String| {
            (count > 0).then(|| Reason::new(limit, effect, Witness::Kernel, detail).times(count))
        };
        let killed = grown(self.oom_kill, before.oom_kill);
        // The cgroup is one generation's, which does not outlive it: what is counted after it is of it.
        let all = self.oom_group_kill > 0;
        let who = match (all, killed) {
            (true, _) => "the whole generation".to_owned(),
            (false, 1) => "a process".to_owned(),
            (false, many) => format!("{many} processes"),
        };
        // Counted before anybody is ended; without it the limit was another's.
        let out = match self.oom > 0 {
            true => format!("out of memory at {}", told("memory.max")),
            false => "the machine, or a cgroup above the pool's, is out of memory".to_owned(),
        };
        // To be at the limit is how it comes to be out of memory: told once.
        let at_max = if killed > 0 { 0 } else { grown(self.memory_max, before.memory_max) };
        let refused = grown(self.pids_max, before.pids_max);
        let throttled = grown(self.throttled, before.throttled);
        let ms = grown(self.throttled_usec, before.throttled_usec) / 1000;
        [
            reason("memory", Effect::Ended, killed, format!("{out}: the kernel ended {who}")),
            reason(
                "memory",
                Effect::Held,
                at_max,
                format!("{} is reached: the kernel reclaims what it can", told("memory.max")),
            ),
            reason(
                "memory_high",
                Effect::Held,
                grown(self.memory_high, before.memory_high),
                format!("above {}: the pool is slowed down", told("memory.high")),
            ),
            reason(
                "tasks",
                Effect::Refused,
                refused,
                format!("{} is reached: no new process or thread", told("pids.max")),
            ),
            reason(
                "cpu",
                Effect::Held,
                throttled,
                format!("at {}: the pool had to wait for {ms} ms", told("cpu.max")),
            ),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// "memory.max=64M"
fn told(key: &str, limits: &BTreeMap<String, String>) -> String {
    let Some(value) = limits.get(key) else { return key.to_owned() };
    match value.parse() {
        Ok(bytes) if key.starts_with("memory.") => format!("{key}={}", Bytes::new(bytes)),
        _ => format!("{key}={value}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: &str = "low 0\nhigh 7\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\nsock_throttled 0\n";

    fn lines(now: Counters, before: Counters) -> Vec<String> {
        let limits = [("memory.max", "67108864"), ("pids.max", "64"), ("cpu.max", "50000 100000")];
        let limits = limits.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let reasons = now.since(&before, &limits);
        reasons
            .iter()
            .map(|reason| format!("{} {} {}: {}", reason.limit, reason.effect, reason.count, reason.detail))
            .collect()
    }

    #[test]
    fn the_kernels_files_are_read_as_they_are() {
        let cpu = "usage_usec 5\nuser_usec 3\nnr_periods 9\nnr_throttled 4\nthrottled_usec 250000\n";
        let counters = Counters::parse(MEMORY, "max 5\n", cpu);
        let wanted = Counters {
            oom: 3,
            oom_kill: 2,
            oom_group_kill: 0,
            memory_max: 12,
            memory_high: 7,
            pids_max: 5,
            throttled: 4,
            throttled_usec: 250_000,
        };
        assert_eq!(counters, wanted);
        // Linux 5.10 has no oom_group_kill; without a controller there is no file.
        assert_eq!(Counters::parse("oom_kill 1\nmax\nhigh x\n", "", "").oom_kill, 1);
        assert_eq!(Counters::parse("", "", ""), Counters::default());
    }

    #[test]
    fn what_has_grown_is_a_reason_and_what_has_not_is_none() {
        let none = Counters::default();
        assert_eq!(lines(none, none), Vec::<String>::new());
        let one = Counters { oom: 1, oom_kill: 1, memory_max: 40, ..none };
        assert_eq!(
            lines(one, none),
            ["memory ended 1: out of memory at memory.max=64M: the kernel ended a process"]
        );
        assert_eq!(lines(one, one), Vec::<String>::new());
        let many = Counters { oom_kill: 4, ..one };
        assert_eq!(
            lines(many, one),
            ["memory ended 3: out of memory at memory.max=64M: the kernel ended 3 processes"]
        );
        let group = Counters { oom_kill: 4, oom_group_kill: 1, ..one };
        assert_eq!(
            lines(group, one),
            ["memory ended 3: out of memory at memory.max=64M: the kernel ended the whole generation"]
        );
        let held = Counters { memory_max: 45, memory_high: 2, ..one };
        assert_eq!(
            lines(held, one),
            [
                "memory held 5: memory.max=64M is reached: the kernel reclaims what it can",
                "memory_high held 2: above memory.high: the pool is slowed down"
            ]
        );
        let forks = Counters { pids_max: 9, throttled: 3, throttled_usec: 123_456, ..none };
        assert_eq!(
            lines(forks, none),
            [
                "tasks refused 9: pids.max=64 is reached: no new process or thread",
                "cpu held 3: at cpu.max=50000 100000: the pool had to wait for 123 ms"
            ]
        );
    }

    /// Who raises the pool's limit then has raised the wrong one.
    #[test]
    fn memory_that_ran_out_above_the_pool_is_not_the_pools_limit() {
        let none = Counters::default();
        assert_eq!(
            lines(Counters { oom_kill: 1, ..none }, none),
            [
                "memory ended 1: the machine, or a cgroup above the pool's, is out of memory: the kernel ended a process"
            ]
        );
    }

    /// A counter that went back is of another cgroup: nothing is told, and nothing overflows.
    #[test]
    fn a_counter_that_went_back_is_no_reason() {
        let before = Counters::parse(MEMORY, "max 5\n", "");
        assert_eq!(lines(Counters::default(), before), Vec::<String>::new());
    }
}
