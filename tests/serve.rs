//! The main job, end to end, with the real php-fpm.
#![allow(missing_docs)]

mod rig;

use std::thread;
use std::time::{Duration, Instant};

use howdah::fpm::client::Response;
use nix::sys::signal::Signal;
use rig::held::Held;
use rig::{Rig, TENANT, wait_for};

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
    let switches = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", rig.pid())).unwrap();
        status.lines().filter(|line| line.contains("ctxt_switches")).map(str::to_owned).collect::<Vec<_>>()
    };
    // What the stop left to do may still be done in the first of these; a clock would be seen in all.
    wait_for("two seconds without a wake-up of a howdah whose pool is cold", Duration::from_secs(20), || {
        let before = switches();
        thread::sleep(Duration::from_secs(2));
        (before == switches()).then_some(())
    });
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", rig.pid())).unwrap();
    assert_eq!(children, "");
}

/// A script that works for `seconds` and minds no signal (sleep() would end early at SIGQUIT).
fn works_for(seconds: u32) -> String {
    format!(
        "<?php touch($_GET['mark']); $end = microtime(true) + {seconds};
         while (microtime(true) < $end) usleep(1000); echo 'done';"
    )
}

/// A rig whose pool `blog` has the script `work.php` and tells by a file that it has begun.
fn rig_at_work(seconds: u32, drain: &str, more: &str) -> Rig {
    let rig = Rig::new();
    let marks = rig.path("marks");
    std::fs::create_dir(&marks).unwrap();
    std::os::unix::fs::chown(&marks, Some(TENANT.1), Some(TENANT.2)).unwrap();
    rig.site("blog", "work.php", &works_for(seconds), TENANT);
    rig.site("blog", "index.php", HELLO, TENANT);
    rig.pool("blog", &format!("{more}[[mount]]\nsource = {marks:?}\naccess = \"rw\""));
    rig.configure(drain);
    rig
}

fn work(rig: &Rig) -> Result<Response, String> {
    rig.try_get("blog", &format!("/work.php?mark={}", rig.path("marks/begun").display()))
}

fn wait_begun(rig: &Rig) {
    let mark = rig.path("marks/begun");
    wait_for("the request's begin", Duration::from_secs(20), || mark.exists().then_some(()));
}

/// Nothing of howdah is left but the rig's own files.
fn assert_gone(rig: &Rig) {
    assert!(!rig.path("run").exists(), "the runtime directory is left behind");
    assert!(!rig.socket("blog").exists(), "the socket is left behind");
    assert!(!rig.cgroup().exists(), "the cgroup is left behind");
}

#[test]
fn at_sigterm_a_request_in_progress_is_answered_and_then_serve_ends() {
    let mut rig = rig_at_work(1, "20s", "");
    rig.serve();
    let began = Instant::now();
    thread::scope(|scope| {
        let request = scope.spawn(|| work(&rig));
        wait_begun(&rig);
        rig.signal(Signal::SIGTERM);
        assert_eq!(request.join().unwrap().unwrap().body, b"done");
    });
    assert_eq!(rig.wait_end(Duration::from_secs(10)), 0);
    assert!(began.elapsed() < Duration::from_secs(10), "it waited for the whole drain time");
    assert!(!rig.log().contains("cut"), "{}", rig.log());
    assert_gone(&rig);
}

#[test]
fn the_drain_time_bounds_the_wait_and_what_is_cut_is_told() {
    let mut rig = rig_at_work(20, "1s", "");
    rig.serve();
    let began = thread::scope(|scope| {
        let request = scope.spawn(|| work(&rig));
        wait_begun(&rig);
        let began = Instant::now();
        rig.signal(Signal::SIGTERM);
        assert!(request.join().unwrap().is_err(), "it cannot have been answered");
        began
    });
    assert_eq!(rig.wait_end(Duration::from_secs(10)), 0);
    assert!((Duration::from_secs(1)..Duration::from_secs(10)).contains(&began.elapsed()));
    let line = "howdah: pool blog: the drain time is over: requests in progress are cut\n";
    assert_eq!(rig.log().matches(line).count(), 1, "{}", rig.log());
    assert_gone(&rig);
}

#[test]
fn a_second_sigterm_ends_at_once() {
    let mut rig = rig_at_work(20, "1m", "");
    rig.serve();
    thread::scope(|scope| {
        let request = scope.spawn(|| work(&rig));
        wait_begun(&rig);
        rig.signal(Signal::SIGTERM);
        thread::sleep(Duration::from_millis(500));
        assert!(!request.is_finished(), "the first one cut it");
        rig.signal(Signal::SIGTERM);
        assert!(request.join().unwrap().is_err());
    });
    assert_eq!(rig.wait_end(Duration::from_secs(10)), 0);
    assert_gone(&rig);
}

#[test]
fn at_sigterm_connections_that_wait_for_a_worker_are_answered() {
    let mut rig = rig_at_work(3, "20s", "[fpm]\npm = \"static\"\nmax_children = 1\n");
    rig.serve();
    thread::scope(|scope| {
        let first = scope.spawn(|| work(&rig));
        wait_begun(&rig);
        let waiting: Vec<_> = (0..3).map(|_| scope.spawn(|| rig.try_get("blog", "/index.php"))).collect();
        thread::sleep(Duration::from_millis(300));
        assert!(!first.is_finished() && !waiting.iter().any(|one| one.is_finished()));
        rig.signal(Signal::SIGTERM);
        assert_eq!(first.join().unwrap().unwrap().body, b"done");
        for one in waiting {
            assert_eq!(one.join().unwrap().unwrap().status, 200);
        }
    });
    assert_eq!(rig.wait_end(Duration::from_secs(10)), 0);
    assert_gone(&rig);
}

#[test]
fn at_sigterm_a_connection_that_no_pool_was_started_for_yet_is_answered() {
    for signal_first in [false, true] {
        let mut rig = rig_at_work(1, "20s", "");
        rig.serve();
        // Stopped, howdah finds the connection and the signal at the same moment.
        rig.signal(Signal::SIGSTOP);
        if signal_first {
            rig.signal(Signal::SIGTERM);
        }
        thread::scope(|scope| {
            let request = scope.spawn(|| rig.try_get("blog", "/index.php"));
            thread::sleep(Duration::from_millis(300));
            rig.signal(Signal::SIGTERM);
            rig.signal(Signal::SIGCONT);
            assert_eq!(request.join().unwrap().unwrap().body, b"hello from 33");
        });
        assert_eq!(rig.wait_end(Duration::from_secs(10)), 0);
        assert_gone(&rig);
    }
}

#[test]
fn connections_that_wait_when_half_of_the_drain_time_is_over_are_answered_by_one_more_generation() {
    let mut rig = rig_at_work(6, "8s", "[fpm]\npm = \"static\"\nmax_children = 1\n");
    rig.serve();
    thread::scope(|scope| {
        let first = scope.spawn(|| work(&rig));
        wait_begun(&rig);
        let waiting: Vec<_> = (0..3).map(|_| scope.spawn(|| rig.try_get("blog", "/index.php"))).collect();
        thread::sleep(Duration::from_millis(100));
        // After four seconds php-fpm gets its SIGQUIT, which lets the request end and takes no other.
        rig.signal(Signal::SIGTERM);
        assert_eq!(first.join().unwrap().unwrap().body, b"done");
        for one in waiting {
            assert_eq!(one.join().unwrap().unwrap().status, 200);
        }
    });
    assert_eq!(rig.wait_end(Duration::from_secs(20)), 0);
    assert_eq!(rig.log().matches("howdah: pool blog: started in ").count(), 2, "{}", rig.log());
    assert_gone(&rig);
}

#[test]
fn at_sigterm_a_pool_that_is_starting_serves_first_what_made_it_start() {
    let mut rig = rig_at_work(1, "20s", "");
    rig.serve();
    for _ in 0..5 {
        thread::scope(|scope| {
            let request = scope.spawn(|| rig.try_get("blog", "/index.php"));
            wait_for("the start", Duration::from_secs(10), || {
                (rig.record("blog").generation > 0).then_some(())
            });
            rig.signal(Signal::SIGTERM);
            assert_eq!(request.join().unwrap().unwrap().body, b"hello from 33");
        });
        assert_eq!(rig.wait_end(Duration::from_secs(10)), 0);
        assert_gone(&rig);
        rig.serve();
    }
}

#[test]
fn at_sigterm_work_after_the_answer_is_done() {
    let mut rig = rig_at_work(1, "20s", "");
    let mark = rig.path("marks/late");
    let script = format!(
        "<?php echo 'ok'; fastcgi_finish_request(); $end = microtime(true) + 1;
         while (microtime(true) < $end) usleep(1000); touch({mark:?});"
    );
    rig.site("blog", "late.php", &script, TENANT);
    rig.serve();
    assert_eq!(rig.text("blog", "/late.php"), "ok");
    assert!(!mark.exists());
    assert_eq!(rig.end(), 0);
    assert!(mark.exists(), "it was cut:\n{}", rig.log());
}

#[test]
fn sigterm_without_a_generation_ends_at_once() {
    let mut rig = rig_at_work(1, "1m", "");
    rig.serve();
    assert_eq!(rig.end(), 0);
    assert_gone(&rig);
}

#[test]
fn each_generation_has_a_network_of_its_own_whether_from_the_stock_or_not() {
    let mut rig = Rig::new();
    let script = "<?php echo readlink('/proc/self/ns/net');";
    for name in ["one", "two"] {
        rig.site(name, "index.php", script, TENANT);
        rig.pool(name, "[idle]\nstop = \"100ms\"");
    }
    rig.serve();
    let own = std::fs::read_link("/proc/self/ns/net").unwrap().display().to_string();
    // At once, so that one takes the namespace in stock and the other makes its own; then again.
    for _ in 0..3 {
        let both = ["one", "two"].map(|name| Held::send(&rig, name, "/index.php"));
        // What one had is nobody's any more when it has stopped.
        ["one", "two"].iter().for_each(|name| rig.wait_state(name, "warm"));
        let both = both.map(Held::answer);
        assert_ne!(both[0], both[1]);
        for text in both {
            assert_ne!(text, own, "the host's");
        }
        for name in ["one", "two"] {
            rig.wait_state(name, "cold");
        }
    }
    assert_eq!(rig.end(), 0);
}
