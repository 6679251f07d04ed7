//! What the kernel tells about processes, and their end.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::{During, Outcome};

/// Every process of the bench's own pid namespace but the bench.
fn others() -> Outcome<Vec<Pid>> {
    if std::process::id() != 1 {
        return Err("outside of the fence every process of the machine is in /proc".into());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        if let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) {
            found.push(pid);
        }
    }
    Ok(found.into_iter().filter(|pid| *pid != 1).map(Pid::from_raw).collect())
}

/// The children of `pid`.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// Kills and reaps everything inside the fence but `kept` and their children; good only when
/// nothing else is left.
pub(crate) fn end_all_but(kept: &[u32]) -> Outcome {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let mut left = others()?;
        let kept: Vec<u32> = kept.iter().flat_map(|pid| [vec![*pid], children(*pid)].concat()).collect();
        left.retain(|pid| !kept.contains(&(pid.as_raw() as u32)));
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("processes that outlive SIGKILL: {left:?}").into());
        }
        for pid in left {
            // Both fail for one that is gone or has a parent beside us: the next look tells.
            let _ = kill(pid, Signal::SIGKILL);
            let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
        }
        sleep(Duration::from_millis(1));
    }
}

/// Whether `pid` sleeps in open(2): what a template does that waits.
pub(crate) fn sleeps_in_open(pid: u32) -> bool {
    let call = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    call.split(' ').next() == Some(nix::libc::SYS_openat.to_string().as_str())
}

/// Ends one child: SIGTERM, then after `grace` SIGKILL; reaped when this returns.
pub(crate) fn end(pid: u32, grace: Duration) {
    let pid = Pid::from_raw(pid as i32);
    let deadline = Instant::now() + grace;
    let _ = kill(pid, Signal::SIGTERM);
    while Instant::now() < deadline {
        match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(status) if status.pid().is_none() => sleep(Duration::from_millis(5)),
            Err(Errno::EINTR) => {}
            _ => return,
        }
    }
    let _ = kill(pid, Signal::SIGKILL);
    let _ = waitpid(pid, None);
}

/// Voluntary and involuntary context switches of all threads of `pid` until now.
pub(crate) fn context_switches(pid: u32) -> Outcome<u64> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(thread?.path().join("status"))?;
        sum += field(&status, "voluntary_ctxt_switches")? + field(&status, "nonvoluntary_ctxt_switches")?;
    }
    Ok(sum)
}

/// Resident memory of `pid` (VmRSS), bytes.
pub(crate) fn resident(pid: u32) -> Outcome<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).during(format!("status of {pid}"))?;
    Ok(field(&status, "VmRSS")? * 1024)
}

/// Memory of `pid`, bytes: first with a page that n processes share as an nth (PSS), then only
/// the pages that nobody shares.
pub(crate) fn shares(pid: u32) -> Outcome<(u64, u64)> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).during(format!("smaps of {pid}"))?;
    let unshared = field(&rollup, "Private_Clean")? + field(&rollup, "Private_Dirty")?;
    Ok((field(&rollup, "Pss")? * 1024, unshared * 1024))
}

/// How often the threads of `pid` have been given a processor until now, and how long they had it
/// (/proc/PID/task/TID/schedstat, sched-stats.rst of the kernel's documents).
pub(crate) fn turns(pid: u32) -> Outcome<(u64, Duration)> {
    let (mut turns, mut cpu) = (0, 0);
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(thread?.path().join("schedstat")).during("schedstat")?;
        let words: Vec<u64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [on_cpu, _waiting, count] = words[..] else { return Err(format!("schedstat: {text}").into()) };
        turns += count;
        cpu += on_cpu;
    }
    Ok((turns, Duration::from_nanos(cpu)))
}

/// The number that stands after `name:` at the start of a line.
fn field(text: &str, name: &str) -> Outcome<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.split_whitespace().next()?.parse().ok())
        .ok_or_else(|| format!("the kernel does not tell {name}").into())
}

/// How many unix sockets listen at paths below `dir`, by the kernel's list:
/// to ask by connecting would start the pools.
pub(crate) fn listening_below(dir: &Path) -> Outcome<usize> {
    let sockets = fs::read_to_string("/proc/net/unix")?;
    // Num RefCount Protocol Flags Type St Inode Path; flag 0x10000 is __SO_ACCEPTCON.
    let listens = |line: &str| {
        let mut words = line.split_whitespace();
        words.nth(3) == Some("00010000") && words.nth(3).is_some_and(|path| Path::new(path).starts_with(dir))
    };
    Ok(sockets.lines().filter(|line| listens(line)).count())
}
