//! The main job, end to end, with the real php-fpm.
#![allow(missing_docs)]

mod rig;

use std::time::Duration;

use rig::{Rig, TENANT};

const HELLO: &str = "<?php echo 'hello from ', posix_getuid();";

#[test]
fn a_connection_starts_a_pool_and_idleness_stops_it_again_and_again() {
    let mut rig = Rig::new();
    rig.site("blog", "index.php", HELLO, TENANT);
    rig.pool("blog", "[idle]\nstop = \"200ms\"");
    rig.serve();
    for life in 1..=3 {
        assert_eq!(rig.state("blog"), "cold");
        assert_eq!(rig.text("blog", "/index.php"), "hello from 33");
        assert_eq!(rig.ps("blog")["generation"], life);
        rig.wait_state("blog", "cold");
    }
    assert_eq!(rig.end(), 0);
    assert!(!rig.path("run").exists(), "the runtime directory is left behind");
    assert!(!rig.socket("blog").exists(), "the socket is left behind");
    assert!(!rig.cgroup().exists(), "the cgroup is left behind");
}

#[test]
fn an_idle_pool_costs_no_process_and_no_wake_up() {
    let mut rig = Rig::new();
    rig.site("blog", "index.php", HELLO, TENANT);
    rig.pool("blog", "[idle]\nstop = \"100ms\"");
    rig.serve();
    rig.text("blog", "/index.php");
    rig.wait_state("blog", "cold");
    std::thread::sleep(Duration::from_millis(300));
    let switches = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", rig.pid())).unwrap();
        status.lines().filter(|line| line.contains("ctxt_switches")).map(str::to_owned).collect::<Vec<_>>()
    };
    let before = switches();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(before, switches(), "a cold pool woke howdah");
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", rig.pid())).unwrap();
    assert_eq!(children, "");
}
