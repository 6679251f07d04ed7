//! What a howdah that dies leaves of its templates, and what the next one makes of it.
#![allow(missing_docs)]

mod rig;

use std::fs;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use howdah::fpm::client::exchange;
use nix::sys::ptrace;
use nix::unistd::Pid;
use serde_json::Value;

use rig::fault::{Call, Fault, Instead};
use rig::templates::{keep, started_by, stocked};
use rig::{Rig, TENANT, patience, wait_for};

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
