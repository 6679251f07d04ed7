//! howdah dies, its pools do not: generations serve on without it, and the next
//! howdah takes over those that it can prove to be its own.
#![allow(missing_docs)]

mod rig;

use std::fs;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rig::held::Held;
use rig::port::free_port;
use rig::templates::{keep, keep_as_usual, stocked};
use rig::torture::{STOP, Torture, half, make_pool, measure, starts_by_template};
use rig::{Rig, TENANT, wait_for};
use serde_json::Value;

/// Tells the process and writes to every log there is.
const SCRIPT: &str =
    "<?php error_log('told by ' . getmypid()); fwrite(fopen('php://stderr', 'w'), \"stderr\\n\");
    usleep(1000 * (int) ($_GET['ms'] ?? 0)); echo 'worker ', getmypid();";

const LONG: &str = "[fpm]\naccess_log = true\npm = \"static\"\nmax_children = 1\n[idle]\nstop = \"1h\"";

fn rig_with(more: &str) -> Rig {
    let rig = Rig::new();
    rig.site("blog", "index.php", SCRIPT, TENANT);
    rig.pool("blog", more);
    rig
}

fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, tail)| !tail.trim_start().starts_with('Z'))
}

fn wait_gone(pid: i32) {
    wait_for("the end of a process", Duration::from_secs(10), || (!is_alive(pid)).then_some(()));
}

#[test]
fn a_pool_serves_on_when_howdah_is_killed_and_nobody_reads_its_log() {
    let mut rig = rig_with(LONG);
    rig.serve();
    let worker = rig.text("blog", "/index.php");
    let master = rig.master("blog");
    rig.crash();
    for _ in 0..50 {
        assert_eq!(rig.text("blog", "/index.php"), worker, "a broken log ended the worker");
    }
    assert!(is_alive(master));
}

#[test]
fn the_next_howdah_takes_over_the_process_its_log_and_its_idle_stop() {
    let mut rig = rig_with(&LONG.replace("1h", "500ms").replace("max_children = 1", "max_children = 2"));
    rig.serve();
    let held = Held::begin(&rig, "blog", "/index.php");
    rig.wait_state("blog", "warm");
    rig.crash();
    let before = rig.record("blog");
    rig.serve();
    let after = rig.record("blog");
    assert_eq!((after.state.as_str(), after.pid), ("warm", before.pid));
    assert!(rig.log().contains("adopted from an earlier howdah"), "{}", rig.log());
    let worker = rig.text("blog", "/index.php");
    rig.wait_log(&format!("told by {}", worker.trim_start_matches("worker ")));
    rig.wait_log("access:");
    assert!(held.answer().starts_with("worker "));
    rig.wait_state("blog", "cold");
    rig.text("blog", "/index.php");
    rig.wait_state("blog", "cold");
    let after = rig.record("blog");
    assert_eq!((after.generation, after.starts, after.stops), (2, 2, 2));
    assert_eq!(rig.end(), 0);
    assert!(!rig.path("run").exists() && !rig.socket("blog").exists() && !rig.cgroup().exists());
}

#[test]
fn a_request_in_progress_outlives_the_change_of_howdahs() {
    let mut rig = rig_with(&LONG.replace("1h", "100ms"));
    rig.serve();
    rig.text("blog", "/index.php");
    std::thread::scope(|scope| {
        let request = rig.request("blog", "/index.php?ms=1500", "GET", &[], b"");
        let stream = std::os::unix::net::UnixStream::connect(rig.socket("blog")).unwrap();
        let answer = scope.spawn(move || {
            howdah::fpm::client::exchange(&stream, &request, Duration::from_secs(20)).unwrap()
        });
        std::thread::sleep(Duration::from_millis(150));
        rig.crash();
        rig.serve();
        assert!(answer.join().unwrap().body.starts_with(b"worker "));
    });
}

#[test]
fn a_generation_that_was_left_frozen_goes_on() {
    let mut rig = rig_with(LONG);
    rig.serve();
    rig.text("blog", "/index.php");
    let cgroup = rig.record("blog").cgroup.unwrap();
    rig.crash();
    fs::write(cgroup.join("cgroup.freeze"), "1").unwrap();
    rig.serve();
    rig.text("blog", "/index.php");
    assert_eq!(rig.record("blog").generation, 1);
}

#[test]
fn what_was_taken_over_keeps_its_files_where_its_class_is_learned() {
    let mut rig = rig_with(LONG);
    rig.serve();
    let worker = rig.text("blog", "/index.php");
    rig.crash();
    // The next one prepares the pool, for a template of its class.
    keep_as_usual(&rig, 1);
    rig.serve();
    stocked(&rig, 1);
    assert_eq!(rig.text("blog", "/index.php"), worker);
    assert_eq!((rig.record("blog").generation, rig.state("blog").as_str()), (1, "warm"));
    let root = PathBuf::from(format!("/proc/{}/root", rig.master("blog")));
    for path in [rig.path("blog/index.php"), "/etc/passwd".into(), "/usr".into(), "/tmp".into()] {
        let inside = root.join(path.strip_prefix("/").unwrap());
        assert!(inside.exists(), "{} is gone", path.display());
    }
}

#[test]
fn tcp_is_taken_over_too() {
    let mut rig = Rig::new();
    let address = free_port("127.0.0.1");
    let root = rig.site("blog", "index.php", SCRIPT, TENANT);
    let file = rig.pool("blog", LONG);
    let text = fs::read_to_string(&file).unwrap();
    let unix = format!("{:?}", rig.socket("blog"));
    fs::write(&file, text.replace(&unix, &format!("\"{address}\""))).unwrap();
    rig.let_listen_on_tcp("blog");
    rig.serve();
    let ask = |rig: &Rig| {
        let stream = std::net::TcpStream::connect(address).unwrap();
        let request = rig.request("blog", "/index.php", "GET", &[], b"");
        let answer = howdah::fpm::client::exchange(&stream, &request, Duration::from_secs(20)).unwrap();
        String::from_utf8(answer.body).unwrap()
    };
    let worker = ask(&rig);
    assert!(root.exists() && worker.starts_with("worker"));
    for _ in 0..2 {
        rig.crash();
        rig.serve();
        assert_eq!((ask(&rig), rig.state("blog").as_str()), (worker.clone(), "warm"));
    }
    assert_eq!(rig.end(), 0);
}

#[test]
fn a_file_that_changed_meanwhile_replaces_what_was_taken_over() {
    let mut rig = rig_with(LONG);
    rig.serve();
    rig.text("blog", "/index.php");
    let master = rig.master("blog");
    rig.crash();
    rig.pool("blog", &LONG.replace("max_children = 1", "max_children = 2"));
    rig.serve();
    wait_gone(master);
    rig.wait_log("its file or its sockets have changed, it drains");
    rig.text("blog", "/index.php");
    assert_eq!(rig.record("blog").generation, 2);
    assert_eq!(rig.end(), 0);
}

#[test]
fn a_pool_whose_file_is_gone_is_taken_over_and_drained() {
    let mut rig = rig_with(LONG);
    rig.site("shop", "index.php", SCRIPT, TENANT);
    let file = rig.pool("shop", LONG);
    rig.serve();
    rig.text("blog", "/index.php");
    rig.text("shop", "/index.php");
    let (kept, gone) = (rig.master("blog"), rig.master("shop"));
    rig.crash();
    fs::remove_file(file).unwrap();
    rig.serve();
    wait_gone(gone);
    let shop = rig.socket("shop");
    wait_for("the end of its socket", Duration::from_secs(10), || (!shop.exists()).then_some(()));
    assert!(is_alive(kept));
    rig.wait_state("shop", "absent");
    assert_eq!(rig.end(), 0);
    assert!(!rig.cgroup().exists(), "the cgroup is left behind");
}

#[test]
fn a_socket_file_that_was_removed_meanwhile_is_made_anew() {
    let mut rig = rig_with(LONG);
    rig.serve();
    rig.text("blog", "/index.php");
    rig.crash();
    fs::remove_file(rig.socket("blog")).unwrap();
    rig.serve();
    // Not by its path alone, which bind(2) makes a moment before listen(2) is called.
    let socket = rig.socket("blog");
    wait_for("the socket", Duration::from_secs(10), || UnixStream::connect(&socket).ok());
    rig.text("blog", "/index.php");
    assert_eq!(rig.record("blog").generation, 2);
    assert_eq!(rig.end(), 0);
}

#[test]
fn what_cannot_be_proven_to_be_ours_is_left_alone_and_told() {
    let mut rig = rig_with(LONG);
    rig.site("shop", "index.php", SCRIPT, TENANT);
    rig.pool("shop", LONG);
    rig.serve();
    let worker = rig.text("blog", "/index.php");
    let master = rig.master("blog");
    rig.crash();
    let file = rig.path("run/pools/blog/state.json");
    let mut record: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    record["start_time"] = 1.into();
    fs::write(&file, record.to_string()).unwrap();
    rig.serve();
    let line = rig.wait_log("left alone");
    let told = format!(
        "howdah: pool blog: generation 1 (pid {master}) of an earlier howdah is left alone: \
         its record names another process, {master}"
    );
    assert_eq!(line, told);
    assert_eq!((rig.text("blog", "/index.php"), is_alive(master)), (worker, true));
    rig.text("shop", "/index.php");
    assert_eq!(rig.end(), 0);
    assert!(is_alive(master), "it was ended with serve");
}

#[test]
fn a_pool_whose_file_cannot_be_read_is_left_alone() {
    let mut rig = rig_with(LONG);
    rig.site("shop", "index.php", SCRIPT, TENANT);
    rig.pool("shop", LONG);
    rig.serve();
    let worker = rig.text("blog", "/index.php");
    rig.crash();
    rig.pool("blog", "no_such_key = 1");
    rig.serve();
    rig.wait_log("blog.toml cannot be used");
    assert_eq!(rig.text("blog", "/index.php"), worker);
}

#[test]
fn without_root_a_generation_is_left_alone_and_serves_on() {
    let mut rig = rig_with(LONG).rootless();
    rig.serve();
    let worker = rig.text("blog", "/index.php");
    rig.crash();
    rig.start(&[], &[]);
    assert_ne!(rig.wait_end(Duration::from_secs(10)), 0, "there is no socket to listen on");
    assert!(rig.log().contains("is left alone: it cannot be looked into:"), "{}", rig.log());
    assert_eq!(rig.text("blog", "/index.php"), worker);
}

#[test]
fn nothing_is_lost_when_howdah_is_killed_again_and_again_and_systemd_holds_the_socket() {
    for templates in [0, 2] {
        killed_again_and_again(templates);
    }
}

fn killed_again_and_again(templates: u32) {
    let directory = tempfile::Builder::new().prefix("howdah-test-").tempdir_in("/tmp").unwrap();
    let path: PathBuf = directory.path().join("blog.sock");
    let socket = UnixListener::bind(&path).unwrap();
    let mut rig = Rig::new().passing(socket, "blog");
    keep(&rig, templates);
    let mut target = make_pool(&rig, "blog", None, STOP, "max_children = 3");
    target.listen_at(path);
    rig.serve();
    let (mut last, mut deaths, mut used) = (Instant::now(), 0, 0);
    let wanted = half(measure(6, 60));
    let torture = Torture::new(vec![target], half(measure(600, 6_000)), half(measure(8, 100)));
    torture.until_by_template(templates.min(1) as usize).run(&mut rig, |rig| {
        // Not in step with the stops; late enough for a template, when there are to be some, also where
        // it takes long to make one.
        let pause = Duration::from_millis(300 + 97 * (deaths % 9) + 300 * u64::from(templates));
        let by_template = starts_by_template(rig).0;
        let is_used = templates == 0 || by_template > used || last.elapsed() > Duration::from_secs(3);
        if last.elapsed() > pause && is_used {
            rig.crash();
            rig.serve();
            (last, deaths, used) = (Instant::now(), deaths + 1, by_template);
        }
    });
    assert!(deaths >= wanted / 2, "howdah died only {deaths} times");
    let (by_template, starts) = starts_by_template(&rig);
    assert!((by_template > 0) == (templates > 0), "{by_template} of {starts} starts were by a template");
    assert_eq!(rig.end(), 0);
    assert!(!rig.cgroup().exists() && !rig.path("run/templates").exists(), "something is left behind");
}

#[test]
fn nothing_is_lost_when_howdah_is_killed_again_and_again_while_its_own_pools_are_warm() {
    let mut rig = Rig::new();
    let address = free_port("127.0.0.1");
    let warm = Duration::from_secs(3);
    let unix = make_pool(&rig, "blog", None, warm, "max_children = 3");
    let tcp = make_pool(&rig, "shop", Some(address), warm, "max_children = 3");
    rig.serve();
    let torture = Torture::new(vec![unix, tcp], measure(800, 8_000), 0);
    torture.first_requests();
    let (mut last, mut deaths) = (Instant::now(), 0);
    torture.run(&mut rig, |rig| {
        if last.elapsed() > Duration::from_millis(400) {
            rig.crash();
            std::thread::sleep(Duration::from_millis(13 * (deaths % 11)));
            rig.serve();
            (last, deaths) = (Instant::now(), deaths + 1);
        }
    });
    assert!(deaths >= 2, "howdah died only {deaths} times");
    assert_eq!(rig.end(), 0);
}
