//! Clients, and tenants who are their own clients: what they do to howdah itself.
#![allow(missing_docs)]

mod rig;

use std::fs;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rig::{OTHER, Rig, TENANT};

/// Processor time of a process so far, in ticks of 10 ms (proc_pid_stat(5), utime and stime).
fn ticks(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn silent_connections_to_a_pool_that_fails_do_not_keep_howdah_busy() {
    let mut rig = Rig::new();
    rig.inside_without("broken", "limits = 3", "");
    rig.inside("neighbour", OTHER, "");
    rig.serve();
    assert_eq!(rig.try_get("broken", "/do.php").unwrap().status, 503);
    // More than howdah takes at once, and none says a word.
    let silent: Vec<_> = (0..300).map(|_| UnixStream::connect(rig.socket("broken")).unwrap()).collect();
    assert_eq!(rig.php("neighbour", "echo 'here';"), "here");
    std::thread::sleep(Duration::from_millis(300));
    let before = ticks(rig.pid());
    std::thread::sleep(Duration::from_secs(1));
    let used = ticks(rig.pid()) - before;
    assert!(used < 30, "{used} of 100 ticks");
    assert_eq!(rig.php("neighbour", "echo 'here';"), "here");
    drop(silent);
    // And who speaks is answered again.
    assert_eq!(rig.try_get("broken", "/do.php").unwrap().status, 503);
}

#[test]
fn a_tenant_who_floods_its_log_does_not_keep_howdah_from_others() {
    let mut rig = Rig::new();
    rig.inside("loud", TENANT, "");
    rig.inside("neighbour", OTHER, "");
    rig.serve();
    assert_eq!(rig.php("neighbour", "echo 'here';"), "here");
    rig.php("loud", "proc_open(['/bin/sh', '-c', 'while :; do echo loud >&2; done'], [], $p); echo 'lit';");
    for _ in 0..20 {
        assert_eq!(rig.php("neighbour", "echo 'here';"), "here");
        assert_eq!(rig.state("neighbour"), "warm");
    }
    // A pool that is cold starts as well.
    rig.inside("late", TENANT, "");
    rig.signal(nix::sys::signal::Signal::SIGHUP);
    rig.wait_state("late", "cold");
    assert_eq!(rig.php("late", "echo 'here';"), "here");
}

#[test]
fn a_line_of_a_tenant_is_one_line_of_its_own_pool() {
    let mut rig = Rig::new();
    rig.inside("blog", TENANT, "");
    rig.serve();
    let forged = "howdah: pool shop: started in 1 ms";
    rig.php("blog", &format!("fwrite(fopen('php://stderr', 'w'), \"\\x1b[2J\\r\\x0b{forged}\\n\"); error_log(\"a\\n{forged}\"); echo 'x';"));
    rig.wait_log("\\u{1b}[2J");
    std::thread::sleep(Duration::from_millis(100));
    let log = rig.log();
    assert!(!log.contains('\x1b') && !log.contains('\r'), "{log}");
    assert!(!log.lines().any(|line| line.starts_with("howdah: pool shop")), "{log}");
}
