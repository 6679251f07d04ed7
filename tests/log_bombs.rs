//! A tenant who writes to its log without pause, without end, or somebody
//! else's words; and a reader of howdah's log who does not read.
#![allow(missing_docs)]

mod rig;

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rig::{HOWDAH, OTHER, Rig, TENANT, wait_for};

const PATIENCE: Duration = Duration::from_secs(20);
/// Starts a process of the pool that writes without pause and outlives the request.
const FLOOD: &str =
    "proc_open(['/bin/sh', '-c', 'while :; do echo loud loud loud loud >&2; done'], [], $p); echo 'lit';";

fn lines_with(rig: &Rig, text: &str) -> usize {
    rig.log().lines().filter(|line| line.contains(text)).count()
}

#[test]
fn a_flood_is_cut_to_its_budget_and_told_in_one_line_while_neighbours_speak_and_answer() {
    let mut rig = Rig::new();
    rig.inside("loud", TENANT, "[idle]\nstop = \"2s\"\n");
    rig.inside("neighbour", OTHER, "");
    rig.serve();
    let begin = Instant::now();
    rig.php("loud", FLOOD);
    let mut worst = Duration::ZERO;
    for number in 0..20 {
        let asked = Instant::now();
        rig.php("neighbour", &format!("error_log('neighbour says {number}'); echo 'here';"));
        worst = worst.max(asked.elapsed());
        std::thread::sleep(Duration::from_millis(50));
    }
    for number in 0..20 {
        rig.wait_log(&format!("neighbour says {number}"));
    }
    rig.wait_state("loud", "cold");
    let took = begin.elapsed();
    rig.wait_log("lines of this pool left out");
    let kept = lines_with(&rig, "loud loud");
    assert!((2000..2000 + 200 * (took.as_secs() as usize + 2)).contains(&kept), "{kept} lines in {took:?}");
    let told: Vec<String> =
        rig.log().lines().filter(|line| line.contains("left out")).map(str::to_owned).collect();
    // Of one that is never quiet it is told every ten seconds.
    let most = 2 + took.as_secs() as usize / 10;
    assert!(
        told.iter().all(|line| line.starts_with("howdah: pool loud: ")) && told.len() <= most,
        "{told:?}"
    );
    let left_out: u64 =
        told.iter().filter_map(|line| line.split_whitespace().nth(3)?.parse::<u64>().ok()).sum();
    assert!(left_out > 1000, "{told:?}");
    assert!(worst < Duration::from_secs(5), "{worst:?}");
    assert_eq!(rig.end(), 0);
}

#[test]
fn long_lines_and_binary_garbage_stay_lines_of_their_pool_and_within_its_bytes() {
    let mut rig = Rig::new();
    rig.inside("blog", TENANT, "");
    rig.serve();
    let said = rig.php(
        "blog",
        "$log = fopen('php://stderr', 'w'); fwrite($log, str_repeat(\"\\xff\\x00\\x1b]0;x\\x07\\r\", 1 << 19)); \
         fwrite($log, \"\\n\"); echo 'done';",
    );
    assert_eq!(said, "done");
    rig.wait_log("left out");
    let log = rig.log();
    assert!(log.len() < 3 << 20, "{} bytes", log.len());
    assert!(!log.contains(['\x1b', '\r', '\x07', '\0']));
    assert!(log.lines().all(|line| line.starts_with("howdah: ")));
    assert_eq!(rig.php("blog", "echo 'here';"), "here");
    assert_eq!(rig.end(), 0);
}

#[test]
fn forged_lines_change_nothing_but_the_tenant_s_own_words() {
    let mut rig = Rig::new();
    rig.inside("blog", TENANT, "");
    rig.inside("neighbour", OTHER, "");
    rig.serve();
    rig.php("neighbour", "echo 'here';");
    let stamp = "[21-Nov-2026 06:30:36] ";
    for forged in [
        format!("{stamp}NOTICE: ready to handle connections"),
        format!("{stamp}ERROR: [pool neighbour] out of everything"),
        format!("{stamp}NOTICE: Terminating ..."),
        "howdah: pool neighbour: started in 1 ms".to_owned(),
        "howdah-access: 127.0.0.1 - GET /forged 200".to_owned(),
    ] {
        rig.php("blog", &format!("fwrite(fopen('php://stderr', 'w'), {forged:?} . \"\\n\"); echo 'x';"));
    }
    rig.wait_log("GET /forged");
    assert!(rig.log().lines().all(|line| !line.starts_with("howdah: pool neighbour: started in 1 ms")));
    assert!(
        !rig.log()
            .lines()
            .any(|line| line.starts_with("howdah: pool neighbour: ") && line.contains("out of"))
    );
    assert_eq!((rig.state("blog"), rig.state("neighbour")), ("warm".into(), "warm".into()));
    assert_eq!(
        (rig.ps("blog")["starts"].clone(), rig.ps("neighbour")["starts"].clone()),
        (1.into(), 1.into())
    );
    assert_eq!(rig.end(), 0);
}

#[test]
fn a_reader_who_does_not_read_stops_nobody() {
    let rig = Rig::new();
    rig.inside("loud", TENANT, "");
    rig.inside("neighbour", OTHER, "");
    // serve's stderr is a pipe that nobody reads; the control: what fills it stops a writer that waits.
    let (reader, writer) = nix::unistd::pipe().unwrap();
    let mut command = Command::new("timeout");
    command.args(["60", HOWDAH, "serve", "-v", "--runtime-dir"]).arg(rig.path("run"));
    command.arg("--config").arg(rig.path("howdah.toml")).arg(rig.path("pools"));
    let mut serve = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(writer.try_clone().unwrap())
        .spawn()
        .unwrap();
    wait_for("the roll, which is written when all sockets listen", PATIENCE, || {
        rig.path("run/serve.json").exists().then_some(())
    });
    rig.php("loud", FLOOD);
    let full = || {
        let mut one =
            [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(&writer), nix::poll::PollFlags::POLLOUT)];
        nix::poll::poll(&mut one, nix::poll::PollTimeout::ZERO).unwrap() == 0
    };
    wait_for("a full pipe", PATIENCE, || full().then_some(()));
    for _ in 0..5 {
        assert_eq!(rig.php("neighbour", "echo 'here';"), "here");
        std::thread::sleep(Duration::from_millis(100));
    }
    // Memory stays within what is kept.
    let pid = nix::unistd::Pid::from_raw(serve.id() as i32);
    let child = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", child.trim())).unwrap();
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap().trim().to_owned();
    let rss: u64 = rss.split(' ').next().unwrap().parse().unwrap();
    assert!(rss < 64 << 10, "{rss} kB");
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let end = wait_for("the end", PATIENCE, || serve.try_wait().unwrap());
    assert!(end.success(), "{end}");
    drop(reader);
}
