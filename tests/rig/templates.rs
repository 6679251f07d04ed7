//! Templates of a rig's howdah: switched on, waited for, told from other starts.

use std::fs;
use std::time::Duration;

use super::{Rig, patience, wait_for};

const SOON: Duration = Duration::from_secs(20);

/// Has the next howdah of `rig` keep `count` templates of each class.
pub fn keep(rig: &Rig, count: u32) {
    rig.configure("5s");
    let text = fs::read_to_string(rig.path("howdah.toml")).unwrap();
    let (before, behind) = text.split_once("templates = ").unwrap();
    let (_, behind) = behind.split_once('\n').unwrap();
    rig.write("howdah.toml", &format!("{before}templates = {count}\n{behind}"));
}

/// Those that wait: php-fpm's that sleep in open(2) of their configuration.
pub fn waiting(rig: &Rig) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in fs::read_dir(rig.cgroup()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("template-") || rig.path(&format!("run/templates/{name}/pool")).exists() {
            continue;
        }
        let text = fs::read_to_string(entry.path().join("cgroup.procs")).unwrap_or_default();
        for pid in text.lines() {
            let call = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
            if call.split(' ').next() == Some(&libc::SYS_openat.to_string()) {
                found.push(pid.parse().unwrap());
            }
        }
    }
    found
}

/// Waits until `count` wait, and howdah has seen it.
pub fn stocked(rig: &Rig, count: usize) -> Vec<i32> {
    wait_for("templates", SOON, || {
        let found = Some(waiting(rig)).filter(|found| found.len() == count)?;
        // howdah looks every few milliseconds; the first of a class is tried and does not stay.
        std::thread::sleep(Duration::from_millis(200) * patience());
        Some(found).filter(|found| *found == waiting(rig))
    })
}

/// What the last good start of `pool` was by.
pub fn started_by(rig: &Rig, pool: &str) -> String {
    wait_for("the record of a start", SOON, || {
        Some(rig.record(pool).last_start_by).filter(|by| !by.is_empty())
    })
}
