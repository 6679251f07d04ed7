//! When a start is good, and what a bad one leaves behind: one line, a 503, a
//! socket that stays. With the real php-fpm.
#![allow(missing_docs)]

mod rig;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use howdah::fpm::client::{Response, exchange};
use rig::{Rig, TENANT, wait_for};

const HELLO: &str = "<?php echo 'hello';";

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    let found = response.headers.iter().find(|(one, _)| one.eq_ignore_ascii_case(name));
    found.map_or_else(|| panic!("no {name} in {response:?}"), |(_, value)| value)
}

/// Asks a pool that cannot start, and checks all that its visitors and its
/// operator are owed. `reason` is php-fpm's own, or howdah's.
fn fails_with(rig: &Rig, pool: &str, reason: &str) {
    let answer = rig.get(pool, "/index.php");
    // Who comes while it is in backoff is told at once, and starts nothing: the incident is the same.
    let again = rig.get(pool, "/index.php");
    let record = rig.ps(pool);
    assert_eq!(answer.status, 503, "{answer:?}");
    let incident = format!("{pool}.{}", record["generation"]);
    let body = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(body.ends_with(&format!("Incident: {incident}\n")), "{body}");
    let retry: u64 = header(&answer, "Retry-After").parse().unwrap();
    assert!((1..=60).contains(&retry), "{retry}");

    let wanted = format!("{reason} [{incident}]");
    assert_eq!(record["last_error"], *wanted, "{record}");
    assert_eq!((&record["state"], &record["pid"]), (&"backoff".into(), &serde_json::Value::Null), "{record}");
    let log = rig.log();
    let told: Vec<_> =
        log.lines().filter(|line| line.starts_with(&format!("howdah: pool {pool}: "))).collect();
    let told: Vec<_> = told.iter().filter(|line| line.contains(&format!("[{incident}]"))).collect();
    assert_eq!(told, [&format!("howdah: pool {pool}: {wanted}")], "{log}");
    // It has not taken as long as the backoff, for that is not over yet.
    assert_eq!((again.status, again.body), (503, answer.body));
    assert!(rig.socket(pool).exists());
}

/// The lines of the log that are no part of an orderly start.
fn lines_of(rig: &Rig, pool: &str) -> Vec<String> {
    let start = format!("howdah: pool {pool}: ");
    rig.log().lines().filter_map(|line| line.strip_prefix(&start)).map(str::to_owned).collect()
}

#[test]
fn a_wrong_directive_ends_in_one_line_with_php_fpm_s_own_reason() {
    let mut rig = Rig::new().quiet();
    rig.site("blog", "index.php", HELLO, TENANT);
    let conf = rig.write("fpm.conf", "[www]\npm = static\npm.max_children = 1\npm.max_childrens = 2\n");
    rig.pool("blog", &format!("[fpm]\nconfig = {conf:?}"));
    rig.serve();
    let inside = fs::read_to_string(rig.path("run/pools/blog/rootfs/etc/howdah/php-fpm.conf"));
    assert!(inside.is_err(), "made before anybody came");
    let answer = rig.get("blog", "/index.php");
    assert_eq!(answer.status, 503);
    let inside = fs::read_to_string(rig.path("run/pools/blog/rootfs/etc/howdah/php-fpm.conf")).unwrap();
    let line = 1 + inside.lines().position(|line| line.starts_with("pm.max_childrens")).unwrap();
    let reason =
        format!("[/etc/howdah/php-fpm.conf:{line}] unknown entry 'pm.max_childrens' (exit status 78)");
    assert_eq!(lines_of(&rig, "blog"), [format!("{reason} [blog.1]")], "{}", rig.log());
    wait_for("the next try", Duration::from_secs(10), || (rig.state("blog") == "cold").then_some(()));
    fails_with(&rig, "blog", &reason);
    // Repaired, it serves, and nothing is left of the fault.
    rig.write("fpm.conf", "[www]\npm = static\npm.max_children = 1\n");
    wait_for("the backoff's end", Duration::from_secs(10), || (rig.state("blog") == "cold").then_some(()));
    assert_eq!(rig.text("blog", "/index.php"), "hello");
    // howdah looks for the acceptance a moment after the visitor has his page.
    wait_for("the good start", Duration::from_secs(5), || {
        rig.ps("blog")["last_error"].is_null().then_some(())
    });
}

#[test]
fn a_chdir_that_is_not_there_ends_in_php_fpm_s_own_reason() {
    let mut rig = Rig::new();
    rig.site("blog", "index.php", HELLO, TENANT);
    rig.pool("blog", "[fpm]\nchdir = \"/srv/nowhere\"");
    rig.serve();
    let reason =
        "[pool blog] the chdir path '/srv/nowhere' does not exist or is not a directory (exit status 78)";
    fails_with(&rig, "blog", reason);
}

#[test]
fn a_document_root_that_is_not_there_is_named() {
    let mut rig = Rig::new();
    rig.site("blog", "index.php", HELLO, TENANT);
    rig.pool("blog", "");
    rig.serve();
    fs::rename(rig.path("blog"), rig.path("elsewhere")).unwrap();
    let site = rig.path("blog");
    fails_with(
        &rig,
        "blog",
        &format!(
            "open {0}: No such file or directory (ENOENT): create it, or take the mount out of the pool file",
            site.display()
        ),
    );
    fs::rename(rig.path("elsewhere"), &site).unwrap();
    wait_for("the backoff's end", Duration::from_secs(10), || (rig.state("blog") == "cold").then_some(()));
    assert_eq!(rig.text("blog", "/index.php"), "hello");
}

/// Workers that may not enter their directory die before they accept, and are
/// forked again for as long as a connection waits.
fn pool_whose_workers_die(rig: &Rig, more: &str) -> PathBuf {
    rig.site("blog", "index.php", HELLO, TENANT);
    let closed = rig.path("blog/closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    rig.pool("blog", &format!("[fpm]\nchdir = {closed:?}\n{more}[start]\ntimeout = \"2s\""));
    closed
}

#[test]
fn workers_that_die_at_once_are_no_good_start() {
    for pm in ["", "pm = \"static\"\nmax_children = 2\n"] {
        let mut rig = Rig::new().quiet();
        let closed = pool_whose_workers_die(&rig, pm);
        rig.serve();
        let began = Instant::now();
        assert_eq!(rig.get("blog", "/index.php").status, 503);
        assert!(began.elapsed() >= Duration::from_secs(2), "before its time");
        let reason = format!(
            "php-fpm did not accept the connection within 2 s; \
             it said: [pool blog] failed to chdir({}): Permission denied (13) [blog.1]",
            closed.display()
        );
        assert_eq!(rig.ps("blog")["last_error"], reason);
        assert_eq!(lines_of(&rig, "blog"), [reason], "one line, not one for each worker");
        // Nothing of it burns on.
        let left = || fs::read_dir(rig.cgroup()).unwrap().flatten().filter(|entry| entry.path().is_dir());
        wait_for("the end of its cgroup", Duration::from_secs(10), || (left().count() == 0).then_some(()));
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o755)).unwrap();
        wait_for("the backoff's end", Duration::from_secs(10), || {
            (rig.state("blog") == "cold").then_some(())
        });
        assert_eq!(rig.text("blog", "/index.php"), "hello");
    }
}

fn pool_of_image(rig: &Rig, first: &str) {
    let image = rig::image::around_php_fpm(rig, first);
    rig.site("blog", "index.php", HELLO, TENANT);
    rig.pool("blog", &format!("image = {image:?}\n[start]\ntimeout = \"2s\""));
}

#[test]
fn a_php_fpm_of_an_image_directory_serves() {
    let mut rig = Rig::new();
    pool_of_image(&rig, ":");
    rig.serve();
    assert_eq!(rig.text("blog", "/index.php"), "hello");
}

#[test]
fn a_deaf_php_fpm_that_says_ready_is_no_good_start() {
    let mut rig = Rig::new();
    // What it takes for its socket is none.
    pool_of_image(&rig, "exec 3</dev/null");
    rig.serve();
    let began = Instant::now();
    let answer = rig.get("blog", "/index.php");
    let took = began.elapsed();
    assert_eq!(answer.status, 503);
    assert!(took >= Duration::from_secs(2), "given up after {took:?}");
    assert!(rig.log().contains("php-fpm: ready to handle connections"), "{}", rig.log());
    let error = rig.ps("blog")["last_error"].as_str().unwrap().to_owned();
    assert!(error.starts_with("php-fpm did not accept the connection within 2 s; it said: "), "{error}");
    assert_eq!(rig.state("blog"), "backoff");
}

#[test]
fn a_php_fpm_that_says_nothing_is_ended_when_its_time_is_over() {
    let mut rig = Rig::new();
    pool_of_image(&rig, "exec sleep 1000");
    rig.serve();
    let began = Instant::now();
    fails_with(&rig, "blog", "php-fpm did not accept the connection within 2 s; it said nothing");
    let took = began.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_secs(10)).contains(&took), "{took:?}");
}

#[test]
fn a_program_that_is_no_php_fpm_is_told_before_it_runs() {
    let mut rig = Rig::new();
    rig.site("blog", "index.php", HELLO, TENANT);
    rig.pool("blog", "[fpm]\nbinary = \"/bin/true\"");
    rig.serve();
    fails_with(
        &rig,
        "blog",
        "image host: /bin/true -i: no output: does it run on this machine? try it by hand",
    );
}

#[test]
fn a_setting_that_php_does_not_know_is_told_and_does_no_harm() {
    let mut rig = Rig::new();
    rig.site("blog", "index.php", HELLO, TENANT);
    rig.pool("blog", "[php.admin_value]\nmemory_limits = \"1M\"");
    rig.serve();
    assert_eq!(rig.text("blog", "/index.php"), "hello");
    rig.wait_log("Unable to set php_admin_value 'memory_limits'");
}

#[test]
fn with_hold_a_connection_waits_until_the_fault_is_repaired() {
    let mut rig = Rig::new();
    rig.site("blog", "index.php", HELLO, TENANT);
    let work = rig.path("blog/work");
    rig.pool("blog", &format!("[fpm]\nchdir = {work:?}\n[start]\non_failure = \"hold\""));
    rig.serve();
    let began = Instant::now();
    let rig = &rig;
    let (answer, late) = thread::scope(|scope| {
        let early = scope.spawn(|| rig.get("blog", "/index.php"));
        wait_for("a failure", Duration::from_secs(10), || (rig.state("blog") == "backoff").then_some(()));
        let late = scope.spawn(|| rig.get("blog", "/index.php"));
        thread::sleep(Duration::from_millis(300));
        assert!(!early.is_finished() && !late.is_finished(), "answered in backoff");
        fs::create_dir(&work).unwrap();
        (early.join().unwrap(), late.join().unwrap())
    });
    assert!(began.elapsed() >= Duration::from_millis(700), "the backoff was cut short");
    assert_eq!((answer.status, answer.body), (200, b"hello".to_vec()));
    assert_eq!((late.status, late.body), (200, b"hello".to_vec()));
    assert!(rig.ps("blog")["generation"].as_i64().unwrap() >= 2);
    assert_eq!(rig.ps("blog")["last_error"], serde_json::Value::Null);
}

#[test]
fn each_failure_waits_longer_than_the_one_before() {
    let mut rig = Rig::new();
    rig.pool("blog", "[fpm]\nchdir = \"/srv/nowhere\"");
    rig.serve();
    let mut waits = Vec::new();
    for life in 1..=3 {
        let answer = rig.get("blog", "/index.php");
        let began = Instant::now();
        assert_eq!((answer.status, rig.ps("blog")["generation"].as_i64()), (503, Some(life)));
        waits.push(header(&answer, "Retry-After").parse::<u64>().unwrap());
        wait_for("the backoff's end", Duration::from_secs(20), || {
            (rig.state("blog") == "cold").then_some(())
        });
        // Retry-After is rounded up; who comes back then finds it cold.
        let late = began.elapsed().saturating_sub(Duration::from_secs(waits[waits.len() - 1]));
        assert!(late < Duration::from_secs(2), "{late:?} after Retry-After");
    }
    assert_eq!(waits, [1, 2, 4]);
}

#[test]
fn a_php_fpm_that_is_killed_is_told_and_who_waits_gets_the_next_one_at_once() {
    let mut rig = Rig::new();
    rig.site("blog", "index.php", HELLO, TENANT);
    rig.site("blog", "sleep.php", "<?php touch('/tmp/in'); sleep(60);", TENANT);
    rig.pool("blog", "[fpm]\npm = \"static\"\nmax_children = 1");
    rig.serve();
    rig.text("blog", "/index.php");
    let kill_master = |rig: &Rig| {
        let pid = nix::unistd::Pid::from_raw(rig.master("blog"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    };
    thread::scope(|scope| {
        let cut = scope.spawn(|| rig.try_get("blog", "/sleep.php"));
        let root = format!("/proc/{}/root/tmp/in", rig.master("blog"));
        wait_for("a busy worker", Duration::from_secs(20), || fs::exists(&root).unwrap().then_some(()));
        // The kernel has accepted them, and nobody has taken them.
        let queue = [(); 3].map(|()| UnixStream::connect(rig.socket("blog")).unwrap());
        kill_master(&rig);
        assert!(cut.join().unwrap().is_err(), "what it had taken ends with it");
        let request = rig.request("blog", "/index.php", "GET", &[], b"");
        for stream in queue {
            let answer = exchange(&stream, &request, Duration::from_secs(20)).unwrap();
            assert_eq!((answer.status, answer.body), (200, b"hello".to_vec()));
        }
    });
    rig.wait_log("howdah: pool blog: php-fpm ended: killed by SIGKILL [blog.1]");
    assert_eq!(rig.ps("blog")["generation"], 2);
    // That was no better.
    kill_master(&rig);
    rig.wait_state("blog", "backoff");
    rig.wait_log("howdah: pool blog: php-fpm ended: killed by SIGKILL [blog.2]");
    assert_eq!(rig.get("blog", "/index.php").status, 503);
    rig.wait_state("blog", "cold");
    assert_eq!(rig.text("blog", "/index.php"), "hello");
}

#[test]
fn a_worker_that_is_killed_ends_its_request_and_not_its_pool() {
    let mut rig = Rig::new();
    rig.site("blog", "index.php", HELLO, TENANT);
    rig.site("blog", "die.php", "<?php posix_kill(getmypid(), 9);", TENANT);
    rig.pool("blog", "");
    rig.serve();
    rig.text("blog", "/index.php");
    let stream = UnixStream::connect(rig.socket("blog")).unwrap();
    let request = rig.request("blog", "/die.php", "GET", &[], b"");
    let error = exchange(&stream, &request, Duration::from_secs(10)).unwrap_err();
    assert!(error.to_string().contains("the worker died"), "{error}");
    assert_eq!(rig.text("blog", "/index.php"), "hello");
    assert_eq!(rig.ps("blog")["generation"], 1);
}
