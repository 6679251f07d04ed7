//! That nothing of a test is left when it is killed: what `rig::guard` is there for.
#![allow(missing_docs, clippy::print_stdout)]

mod rig;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rig::nginx::Nginx;
use rig::{Rig, TENANT, wait_for};

const SOON: Duration = Duration::from_secs(20);

#[test]
#[ignore = "run by the tests below, as another process, and killed"]
#[allow(clippy::zombie_processes)]
fn victim() {
    let mut rig = Rig::new();
    rig.inside("blog", TENANT, "");
    rig.serve();
    assert_eq!(rig.php("blog", "echo 1;"), "1");
    let master = rig.master("blog");
    let address = rig::port::free_port("127.0.0.1");
    let conf = Nginx::conf(
        address,
        &rig.path("blog"),
        &format!("server unix:{};", rig.socket("blog").display()),
        "",
    );
    let conf = rig.write("nginx.conf", &conf);
    let _nginx = Nginx::start(&rig.path("nginx"), &conf, address);
    println!("<<{} {} {master}>>", rig.path("").display(), rig.pid());
    if std::env::var("VICTIM").is_ok_and(|how| how == "panic") {
        // What is not known to the rig, and waited for by nobody, goes as well.
        let _tail =
            Command::new("tail").arg("-f").arg(rig.path("log")).stdout(Stdio::null()).spawn().unwrap();
        panic!("as it was told to");
    }
    std::thread::sleep(Duration::from_secs(600));
}

/// Processes that have the directory in their command line, or the cgroups of its howdahs.
fn left_of(directory: &str) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(directory)
    });
    let mut left: Vec<String> = processes.map(|entry| entry.path().display().to_string()).collect();
    let base = howdah::sandbox::cgroup::mount_point().unwrap().join("howdah");
    let name = directory.trim_matches('/').replace('/', "-");
    let cgroups = fs::read_dir(base).into_iter().flatten().flatten().map(|entry| entry.path());
    left.extend(cgroups.map(|path| path.display().to_string()).filter(|path| path.contains(&name)));
    left
}

fn nothing_is_left_of_one_that(how: &str) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "victim", "--nocapture", "--test-threads=1"]).env("VICTIM", how);
    let mut victim =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let told = lines.by_ref().find_map(|line| {
        let line = line.unwrap();
        Some(line.split_once("<<")?.1.trim_end_matches(">>").to_owned())
    });
    let told = told.expect("it has come so far");
    let words: Vec<&str> = told.split(' ').collect();
    let directory = words[0].trim_end_matches('/');
    if how != "panic" {
        // The control: all of it is there.
        assert!(left_of(directory).len() >= 4, "{:?}", left_of(directory));
        assert!(words[1..].iter().all(|pid| Path::new("/proc").join(pid).exists()), "{words:?}");
        let signal = if how == "killed" { Signal::SIGKILL } else { Signal::SIGINT };
        kill(Pid::from_raw(victim.id() as i32), signal).unwrap();
    }
    victim.wait().unwrap();
    wait_for("everybody's end", SOON, || left_of(directory).is_empty().then_some(()));
    wait_for("the end of its directory", SOON, || (!Path::new(directory).exists()).then_some(()));
    for pid in &words[1..] {
        wait_for("its end", SOON, || (!Path::new("/proc").join(pid).exists()).then_some(()));
    }
}

#[test]
fn nothing_is_left_of_a_test_that_is_killed() {
    nothing_is_left_of_one_that("killed");
}

#[test]
fn nothing_is_left_of_a_test_that_is_interrupted() {
    nothing_is_left_of_one_that("interrupted");
}

#[test]
fn nothing_is_left_of_a_test_that_panics() {
    nothing_is_left_of_one_that("panic");
}
