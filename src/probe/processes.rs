//! Other processes: those of the sandbox, as any tracer would, and those outside it.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::files::untold;
use crate::numbers as nr;
use crate::outcome::{Outcome, first_open, held, name, open, reached};
use crate::raw::{at, at_mut, call, exit, fork};
use crate::run::wait;
use crate::world::{SECRET_VARIABLE, World, secret};

pub(crate) fn perform(world: &World, id: &str) -> Option<Outcome> {
    Some(match id {
        "ptrace" => to_child(|pid| reached(world, seize(pid))),
        "process-vm-readv" => to_child(|pid| reached(world, read_memory(pid))),
        "pidfd-getfd" => to_child(|pid| {
            let taken =
                call(nr::PIDFD_OPEN, &[pid, 0]).and_then(|pidfd| call(nr::PIDFD_GETFD, &[pidfd, 0, 0]));
            reached(world, taken)
        }),
        "kcmp" => to_child(|pid| {
            const KCMP_VM: u64 = 1;
            reached(world, call(nr::KCMP, &[own_pid(), pid, KCMP_VM, 0, 0]))
        }),
        "launcher-binary" => launcher_binary(world),
        "host-processes" => host_processes(world),
        "host-environ" => secrets(world, "environ", "canary-pid"),
        "host-cmdline" => secrets(world, "cmdline", "canary-pid"),
        "host-ptrace" => to_pid(world, "canary-pid", seize),
        "host-signal" => to_pid(world, "canary-pid", |pid| call(nr::KILL, &[pid, 0])),
        "host-priority" => to_pid(world, "canary-pid", change_scheduling),
        "neighbour-environ" => secrets(world, "environ", "neighbour-pid"),
        "neighbour-signal" => to_pid(world, "neighbour-pid", |pid| call(nr::KILL, &[pid, 0])),
        "neighbour-root" => neighbour_root(world),
        _ => return None,
    })
}

fn own_pid() -> u64 {
    u64::from(std::process::id())
}

/// The numbers of the processes that /proc shows.
pub(crate) fn visible() -> Vec<u64> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Of a child of the attack's own, which yama lets it trace.
fn to_child(attack: impl FnOnce(u64) -> Outcome) -> Outcome {
    match fork(0) {
        Ok(0) => loop {
            std::thread::sleep(std::time::Duration::from_secs(1));
            if std::os::unix::process::parent_id() == 1 {
                exit(0);
            }
        },
        Ok(pid) => {
            let outcome = attack(pid);
            let _ = call(nr::KILL, &[pid, 9]);
            wait(pid);
            outcome
        }
        Err(errno) => held(name(errno)),
    }
}

/// PTRACE_SEIZE stops nobody; the tracer's end is its end.
fn seize(pid: u64) -> crate::raw::Answer {
    call(nr::PTRACE, &[0x4206, pid, 0, 0])
}

fn read_memory(pid: u64) -> crate::raw::Answer {
    // A copy has everything at the same address.
    let theirs = [7_u64; 1];
    let mut ours = [0_u64; 1];
    let local = [at_mut(&mut ours), 8];
    let remote = [at(&theirs), 8];
    call(nr::PROCESS_VM_READV, &[pid, at(&local), 1, at(&remote), 1, 0])
}

/// Sets what is set already; gives the first that works.
fn change_scheduling(pid: u64) -> crate::raw::Answer {
    const NICE_OF_PROCESS: u64 = 0;
    const IOPRIO_OF_PROCESS: u64 = 1;
    const NOFILE: u64 = 7;
    let mut limit = [0_u64; 2];
    call(nr::SETPRIORITY, &[NICE_OF_PROCESS, pid, 0])
        .or_else(|_| call(nr::IOPRIO_SET, &[IOPRIO_OF_PROCESS, pid, 0]))
        .or_else(|_| call(nr::PRLIMIT64, &[pid, NOFILE, 0, at_mut(&mut limit)]))
        .or_else(|first| call(nr::SCHED_SETAFFINITY, &[pid, 8, at(&[u64::MAX])]).map_err(|_| first))
}

fn to_pid(world: &World, key: &str, attack: impl Fn(u64) -> crate::raw::Answer) -> Outcome {
    let Some(pid) = world.number(key) else { return untold(key) };
    // Its number by the host is nobody's here, or somebody's of our own.
    if is_own(pid) {
        return held("that number is a process of its own");
    }
    match attack(pid) {
        Ok(_) => open(format!("process {pid}")),
        Err(errno) => held(name(errno)),
    }
}

/// Whether a number belongs to the probe or its copies.
fn is_own(pid: u64) -> bool {
    crate::files::identity(&format!("/proc/{pid}/exe"))
        .is_some_and(|it| Some(it) == crate::files::identity("/proc/self/exe"))
        && !fs::read(format!("/proc/{pid}/environ"))
            .is_ok_and(|bytes| contains(&bytes, SECRET_VARIABLE.as_bytes()))
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// Every program of a process that can be seen: whether one of them is howdah's.
fn launcher_binary(world: &World) -> Outcome {
    let Some((device, inode)) = world.get("launcher").split_once(':') else { return untold("launcher") };
    let wanted = (device.parse().unwrap_or(0), inode.parse().unwrap_or(0_u64));
    for pid in visible() {
        let path = format!("/proc/{pid}/exe");
        let Ok(file) = fs::File::open(&path) else { continue };
        if file.metadata().is_ok_and(|data| (data.dev(), data.ino()) == wanted) {
            return open(format!("{path} is howdah"));
        }
    }
    held("no process shows it")
}

fn host_processes(world: &World) -> Outcome {
    let Some(pid) = world.number("canary-pid") else { return untold("canary-pid") };
    if visible().contains(&pid) && !is_own(pid) {
        return open(format!("process {pid}"));
    }
    let handle = call(nr::PIDFD_OPEN, &[pid, 0]);
    match handle {
        Ok(_) if !is_own(pid) => open(format!("a pidfd of process {pid}")),
        _ => held(format!("{} processes, none of the host", visible().len())),
    }
}

/// Looks for a canary's secret in `file` of every process that can be seen.
fn secrets(world: &World, file: &str, key: &str) -> Outcome {
    let Some(wanted) = world.number(key) else { return untold(key) };
    let marks = [SECRET_VARIABLE.to_owned(), secret()];
    for pid in visible() {
        let Ok(bytes) = fs::read(format!("/proc/{pid}/{file}")) else { continue };
        let found = marks.iter().any(|mark| contains(&bytes, mark.as_bytes()));
        if found && pid == wanted {
            return open(format!("/proc/{pid}/{file}"));
        }
    }
    held("no process shows one")
}

fn neighbour_root(world: &World) -> Outcome {
    let Some(pid) = world.number("neighbour-pid") else { return untold("neighbour-pid") };
    let all = visible().into_iter().filter(|seen| *seen == pid);
    let path = |pid| format!("/proc/{pid}/root/tmp/{}-secret", world.get("name"));
    first_open(all.map(|pid| crate::files::read_secret(&path(pid))), "no such process")
}
