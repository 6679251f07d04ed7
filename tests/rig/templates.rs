//! Templates of a rig's howdah: switched on, waited for, told from other starts.

use std::fs;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Rig, wait_for};

const SOON: Duration = Duration::from_secs(60);

/// Has the next howdah of `rig` keep `count` templates of each class, and start every pool by one
/// that can be, also where a database is installed.
pub fn keep(rig: &Rig, count: u32) {
    keep_as_usual(rig, count);
    let text = fs::read_to_string(rig.path("howdah.toml")).unwrap();
    let start = "[defaults.start]\n";
    rig.write("howdah.toml", &text.replace(start, &format!("{start}template = true\n")));
}

/// The same, and which pools start by one is left to howdah.
pub fn keep_as_usual(rig: &Rig, count: u32) {
    rig.configure("5s");
    let text = fs::read_to_string(rig.path("howdah.toml")).unwrap();
    let (before, behind) = text.split_once("templates = ").unwrap();
    let (_, behind) = behind.split_once('\n').unwrap();
    rig.write("howdah.toml", &format!("{before}templates = {count}\n{behind}"));
}

/// Those that wait, as howdah knows them.
pub fn waiting(rig: &Rig) -> Vec<i32> {
    let text = fs::read_to_string(rig.path("run/templates.json")).unwrap_or_default();
    let stock: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let classes = stock["classes"].as_array().cloned().unwrap_or_default();
    let pids =
        |class: &serde_json::Value| -> Vec<i32> { serde_json::from_value(class["waiting"].clone()).unwrap() };
    classes.iter().flat_map(pids).collect()
}

/// Waits until `count` wait.
pub fn stocked(rig: &Rig, count: usize) -> Vec<i32> {
    wait_for("templates", SOON, || {
        // One that has just been taken may be told of a moment longer.
        let is_nobodys = |pid: &i32| {
            let call = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
            call.split(' ').next() == Some(&libc::SYS_openat.to_string())
        };
        Some(waiting(rig)).filter(|found| found.len() == count && found.iter().all(is_nobodys))
    })
}

/// What the last good start of `pool` was by.
pub fn started_by(rig: &Rig, pool: &str) -> String {
    wait_for("the record of a start", SOON, || {
        Some(rig.record(pool).last_start_by).filter(|by| !by.is_empty())
    })
}

/// Stops `pid`, and waits until it stands: one that is only told to may still be where it waits.
pub fn stop(pid: i32) {
    assert!(stop_or_gone(pid), "{pid} is gone");
}

/// Stops `pid`, and tells whether nobody's connections are its own: one that has a pool's socket goes on.
pub fn stop_before_it_serves(rig: &Rig, pid: i32) -> bool {
    if !stop_or_gone(pid) {
        return false;
    }
    // Nobody is given anything while it stands.
    let serves = holds_a_listener(rig, pid);
    if serves {
        let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
    }
    !serves
}

fn stop_or_gone(pid: i32) -> bool {
    if kill(Pid::from_raw(pid), Signal::SIGSTOP).is_err() {
        return false;
    }
    wait_for("a stopped process", SOON, || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        match stat.rsplit_once(')').map_or("", |(_, tail)| tail.trim_start()).chars().next() {
            Some('T') => Some(true),
            None | Some('Z' | 'X') => Some(false),
            Some(_) => None,
        }
    })
}

/// Whether one of its descriptors is a unix socket of `rig`, by its number in unix(7)'s list.
fn holds_a_listener(rig: &Rig, pid: i32) -> bool {
    let sockets = fs::read_to_string("/proc/net/unix").unwrap();
    let directory = rig.path("").display().to_string();
    let inodes: Vec<_> = sockets
        .lines()
        .filter_map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
            [.., inode, path] if path.starts_with(&directory) => Some(format!("socket:[{inode}]")),
            _ => None,
        })
        .collect();
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    descriptors
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .any(|target| inodes.iter().any(|inode| target.as_os_str() == inode.as_str()))
}
