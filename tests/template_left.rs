//! What a howdah that dies leaves of its templates, and what the next one makes of it.
#![allow(missing_docs)]

mod rig;

use std::fs;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use howdah::fpm::client::exchange;
use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::Value;

use rig::fault::{Call, Fault, Instead};
use rig::templates::{keep, started_by, stocked, waiting};
use rig::{OTHER, Rig, TENANT, patience, wait_for};

const SOON: Duration = Duration::from_secs(20);
const LONG: &str = "[idle]\nstop = \"1h\"";
const PAGE: &str = "<?php echo getmypid();";

fn rig() -> Rig {
    let mut rig = Rig::new();
    keep(&rig, 1);
    rig.site("blog", "index.php", PAGE, TENANT);
    rig.site("shop", "index.php", PAGE, TENANT);
    rig.pool("shop", LONG);
    rig.pool("blog", LONG);
    rig.serve();
    rig
}

#[test]
fn what_was_launched_in_a_templates_place_is_known_before_it_serves() {
    let mut rig = rig();
    let own = stocked(&rig, 1)[0];
    let mounts = |call: &Call| call.number == libc::SYS_move_mount;
    let fault = Fault::at(rig.pid() as i32, Instead::OtherStopped(own), mounts);
    let request = rig.request("blog", "/index.php", "GET", &[], b"");
    let stream = UnixStream::connect(rig.socket("blog")).unwrap();
    let visitor = std::thread::spawn(move || exchange(&stream, &request, SOON * patience()));
    wait_for("the fault", SOON, || {
        rig.log().contains("not by a template: its php-fpm did not ask").then_some(())
    });
    // It becomes php-fpm, and takes a while then until it serves.
    assert!(fault.has_happened());
    let processes = rig.cgroup().join("blog.1/cgroup.procs");
    let cold = wait_for("the cold launch", SOON, || {
        let pid: i32 = fs::read_to_string(&processes).ok()?.lines().next()?.parse().ok()?;
        let program = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
        program.to_string_lossy().contains("php").then_some(pid)
    });
    rig.crash();
    rig.serve();
    assert_eq!(visitor.join().unwrap().unwrap().status, 200);
    assert!(!rig.log().contains("left alone"), "{}", rig.log());
    assert_eq!(rig.master("blog"), cold);
}

#[test]
fn what_is_left_alone_keeps_its_files() {
    let mut rig = rig();
    let waiting = stocked(&rig, 1)[0];
    rig.text("blog", "/index.php");
    assert_eq!((started_by(&rig, "blog").as_str(), rig.master("blog")), ("template", waiting));
    rig.crash();
    let file = rig.path("run/pools/blog/state.json");
    let mut record: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    record["start_time"] = 1.into();
    fs::write(&file, record.to_string()).unwrap();
    let stream = UnixStream::connect(rig.socket("blog")).unwrap();
    rig.serve();
    rig.wait_log("is left alone: its record names another process");
    let answer = exchange(&stream, &rig.request("blog", "/index.php", "GET", &[], b""), SOON).unwrap();
    assert_eq!((answer.status, String::from_utf8_lossy(&answer.body).as_ref()), (200, "2"));
}

/// A segment of shared memory of the host's (shmget(2)), gone with the test.
struct Segment(u32);

impl Drop for Segment {
    fn drop(&mut self) {
        let _ = Command::new("ipcrm").args(["-M", &self.0.to_string()]).stderr(Stdio::null()).status();
    }
}

#[test]
fn what_outlives_a_sandbox_is_not_found_by_the_next_that_gets_its_uid() {
    let mut rig = Rig::new();
    keep(&rig, 1);
    // So few that they are given out again soon.
    let first = 1_900_000_000 + std::process::id() % 10_000 * 100;
    let text = fs::read_to_string(rig.path("howdah.toml")).unwrap();
    let ids = format!("[serve]\ntemplate_ids = \"{first}-{}\"\n", first + 1);
    rig.write("howdah.toml", &text.replace("[serve]\n", &ids));
    let segment = Segment(0x4000_0000 + std::process::id());
    let shared = rig.profile("shared", "share = [\"ipc\"]\n");
    for (name, user) in [("blog", TENANT), ("shop", OTHER)] {
        rig.inside(name, user, &format!("profile = {shared:?}\n[idle]\nstop = \"100ms\"\n"));
    }
    rig.serve();
    let start = |pool: &str, code: &str| {
        // By a template, if it can have one.
        let end = Instant::now() + Duration::from_secs(2) * patience();
        while waiting(&rig).is_empty() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        let said = rig.php(pool, code);
        rig.wait_state(pool, "cold");
        said
    };
    start("blog", "");
    let made = format!("var_dump(is_object(shmop_open({}, 'c', 0600, 10)));", segment.0);
    assert_eq!(start("blog", &made), "bool(true)\n");
    let found = format!("var_dump(is_object(@shmop_open({}, 'a', 0, 0)));", segment.0);
    for _ in 0..4 {
        assert_eq!(start("shop", &found), "bool(false)\n", "another tenant's:\n{}", rig.log());
    }
    assert_eq!(start("blog", &found), "bool(true)\n", "the control: its own");
}

#[test]
fn one_that_needs_a_second_to_end_is_waited_for_and_leaves_nothing() {
    let mut rig = rig();
    let waiting = stocked(&rig, 1)[0];
    // Who traces a process is told of its end first: until then it is not gone.
    let (ready, is_ready) = std::sync::mpsc::channel();
    let tracer = std::thread::spawn(move || {
        ptrace::seize(Pid::from_raw(waiting), ptrace::Options::empty()).unwrap();
        ready.send(()).unwrap();
        wait_for("its end", SOON, || {
            let stat = fs::read_to_string(format!("/proc/{waiting}/stat")).unwrap();
            stat.contains(") Z ").then_some(())
        });
        std::thread::sleep(Duration::from_millis(1200));
        // With this thread it is let go.
    });
    is_ready.recv().unwrap();
    assert_eq!(rig.end(), 0);
    rig.assert_nothing_is_left();
    assert!(!rig.path("run").exists());
    tracer.join().unwrap();
}

#[test]
fn a_cgroup_of_what_took_long_to_end_goes_with_howdah_and_that_of_what_lives_stays() {
    let mut rig = rig();
    stocked(&rig, 1);
    let (dead, alive) = (rig.cgroup().join("template-1-1"), rig.cgroup().join("template-1-2"));
    [&dead, &alive].into_iter().for_each(|cgroup| fs::create_dir(cgroup).unwrap());
    let mut sleep = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    fs::write(alive.join("cgroup.procs"), sleep.id().to_string()).unwrap();
    assert_eq!(rig.end(), 0);
    assert!(!dead.exists() && alive.exists());
    sleep.kill().unwrap();
    sleep.wait().unwrap();
}

#[test]
fn a_launch_that_fails_at_its_last_step_leaves_no_process_and_no_cgroup() {
    let mut rig = Rig::new();
    rig.site("blog", "index.php", PAGE, TENANT);
    rig.pool("blog", LONG);
    rig.serve();
    let pid = rig.pid() as i32;
    let fault = Fault::at(pid, Instead::Fails(Errno::EPERM), |call| call.writes("/uid_map"));
    assert_eq!(rig.get("blog", "/index.php").status, 503);
    assert!(fault.has_happened());
    // A child that has not been waited for is among them, dead or not (proc_pid_task(5)).
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    assert_eq!(children, "");
    assert!(!rig.cgroup().join("blog.1").exists());
}

#[test]
fn a_howdah_that_panics_takes_no_more_with_it_than_one_that_is_killed() {
    let mut rig = rig();
    rig.site("short", "index.php", PAGE, TENANT);
    rig.pool("short", "[fpm]\npm = \"static\"\nmax_children = 30\n[idle]\nstop = \"100ms\"");
    rig.signal(Signal::SIGHUP);
    wait_for("the new pool", SOON, || rig.socket("short").exists().then_some(()));
    rig.text("blog", "/index.php");
    let master = rig.master("blog");
    // Rust's sleep() takes any other answer than EINTR for a fault of the program.
    let sleeps = |call: &Call| [libc::SYS_nanosleep, libc::SYS_clock_nanosleep].contains(&call.number);
    let fault = Fault::at(rig.pid() as i32, Instead::Fails(Errno::EPERM), sleeps);
    while !fault.is_over() {
        // The stop of a pool waits a moment for what it has killed.
        let _ = rig.try_get("short", "/index.php");
        std::thread::sleep(Duration::from_millis(300));
    }
    assert!(fault.has_happened());
    assert!(rig.log().contains("panicked"), "{}", rig.log());
    rig.crash();
    assert!(rig.socket("short").exists(), "a socket's file is gone");
    rig.serve();
    assert_eq!(rig.master("blog"), master);
    rig.text("blog", "/index.php");
}

#[test]
fn a_pool_whose_file_cannot_be_read_keeps_its_files() {
    let mut rig = rig();
    stocked(&rig, 1);
    rig.text("blog", "/index.php");
    assert_eq!(started_by(&rig, "blog"), "template");
    let master = rig.master("blog");
    rig.crash();
    rig.pool("blog", "no_such_key = 1");
    rig.serve();
    rig.wait_log("blog.toml cannot be used");
    assert_eq!(rig.text("blog", "/index.php"), "2");
    // Once it can be read again, the next howdah takes over what has served all the time.
    rig.crash();
    rig.pool("blog", LONG);
    rig.serve();
    assert!(rig.log().contains(&format!("adopted from an earlier howdah (pid {master})")), "{}", rig.log());
    rig.text("blog", "/index.php");
}

#[test]
fn a_long_runtime_directory_keeps_nobody_from_templates() {
    let rig = Rig::new();
    keep(&rig, 1);
    rig.site("blog", "index.php", PAGE, TENANT);
    rig.pool("blog", LONG);
    let run = rig.path(&"long".repeat(20));
    let mut howdah = Command::new(rig::HOWDAH);
    howdah.args(["serve", "--runtime-dir"]).arg(&run).arg("--config").arg(rig.path("howdah.toml"));
    let mut howdah = howdah.arg(rig.path("pools")).stderr(Stdio::piped()).spawn().unwrap();
    let end = Instant::now() + SOON * patience();
    let waits = || {
        let text = fs::read_to_string(run.join("templates.json")).unwrap_or_default();
        let stock: Value = serde_json::from_str(&text).unwrap_or_default();
        stock["classes"][0]["waiting"].as_array().is_some_and(|all| all.len() == 1)
    };
    while !waits() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
    let made = waits();
    nix::sys::signal::kill(Pid::from_raw(howdah.id() as i32), Signal::SIGTERM).unwrap();
    assert!(howdah.wait().unwrap().success());
    let mut said = String::new();
    std::io::Read::read_to_string(&mut howdah.stderr.take().unwrap(), &mut said).unwrap();
    assert!(made, "{said}");
}
