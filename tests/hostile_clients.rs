//! Clients, and tenants who are their own clients: what they do to howdah itself.
#![allow(missing_docs)]

mod rig;

use std::fs;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rig::{OTHER, Rig, TENANT, wait_for};

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
    // Taking them is work, and soon done.
    wait_for("a second of which it needs less than a third", Duration::from_secs(15), || {
        let before = ticks(rig.pid());
        std::thread::sleep(Duration::from_secs(1));
        (ticks(rig.pid()) - before < 30).then_some(())
    });
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
    // Nor on the terminal of who asks what happened: a limit's detail may be what the pool's log says, or a path.
    let words = "PHP Fatal error:  Allowed memory size of 1\u{1b}[2J bytes exhausted";
    rig.php("blog", &format!("fwrite(fopen('php://stderr', 'w'), {words:?} . \"\\n\"); echo 'x';"));
    wait_for("the limit", Duration::from_secs(10), || {
        (rig.ps("blog")["limits_hit"][0]["limit"] == "memory_limit").then_some(())
    });
    let file = rig.path("run/pools/blog/state.json");
    let mut record: serde_json::Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    record["limits_hit"][0]["detail"] = "fs.write_file on /srv/\u{1b}[2J\n\u{9b}2J".into();
    record["last_error"] = "/srv/\u{1b}[2J".into();
    fs::write(&file, record.to_string()).unwrap();
    let run = rig.path("run").display().to_string();
    let told = |command: &str| {
        let output = rig.howdah(&[command, "--runtime-dir", &run]);
        let told = String::from_utf8(output.stdout).unwrap();
        assert!(told.chars().all(|c| c == '\n' || !c.is_control()), "{command}: {told:?}");
        told
    };
    assert!(told("events").contains("of 1\\u{1b}[2J bytes"));
    let told = told("ps");
    assert!(told.contains("on /srv/\\u{1b}[2J\\u{a}\\u{9b}2J"), "{told}");
    assert!(told.contains("last error: /srv/\\u{1b}[2J"), "{told}");
}

/// How many connections come and go.
fn crowd() -> usize {
    if std::env::var_os("HOWDAH_TEST_LONG").is_some() { 200_000 } else { 20_000 }
}

/// Connects `count` times and goes away each time, in one of four ways.
fn come_and_go(path: &std::path::Path, count: usize) {
    use std::io::Write;
    for number in 0..count {
        // Full: the queue of a pool that starts. That is an answer too.
        let Ok(mut stream) = UnixStream::connect(path) else { continue };
        let _ = match number % 4 {
            0 => Ok(()),
            1 => stream.write_all(&[1]),
            // The header of a record that promises 65,535 bytes.
            2 => stream.write_all(&[1, 5, 0, 1, 0xff, 0xff, 0, 0, b'x']),
            _ => stream.write_all(&[0xff; 64]),
        };
    }
}

fn memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn connections_that_come_and_go_by_the_thousand_make_no_start_storm_and_no_dead_socket() {
    let mut rig = Rig::new();
    rig.inside("blog", TENANT, "[idle]\nstop = \"300ms\"\n");
    rig.inside("neighbour", OTHER, "");
    rig.serve();
    assert_eq!(rig.php("neighbour", "echo 'here';"), "here");
    let before = memory(rig.pid());
    let begin = std::time::Instant::now();
    let (path, each) = (rig.socket("blog"), crowd() / 4);
    std::thread::scope(|scope| {
        let crowd: Vec<_> = (0..4).map(|_| scope.spawn(|| come_and_go(&path, each))).collect();
        while crowd.iter().any(|one| !one.is_finished()) {
            // A real client among them, and a neighbour's.
            assert_eq!(rig.php("neighbour", "echo 'here';"), "here");
            assert_eq!(rig.php("blog", "echo 'here';"), "here");
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    let took = begin.elapsed();
    assert_eq!(rig.php("blog", "echo 'here';"), "here");
    let starts = rig.ps("blog")["starts"].as_u64().unwrap();
    // Each start needs a time of quiet before it, and a generation that served before that.
    let most = 2 + took.as_millis() as u64 / 300;
    assert!(starts <= most, "{starts} starts in {took:?}");
    let grown = memory(rig.pid()).saturating_sub(before);
    assert!(grown < 16 << 10, "{grown} kB more");
    assert_eq!(rig.end(), 0);
}

#[test]
fn resets_on_tcp_make_no_start_storm_and_no_dead_socket() {
    use std::net::TcpStream;
    use std::os::fd::AsRawFd;
    let address = rig::port::free_port("127.0.0.1");
    let mut rig = Rig::new();
    rig.inside("blog", TENANT, "[idle]\nstop = \"300ms\"\n");
    let text = fs::read_to_string(rig.path("pools/blog.toml")).unwrap();
    let unix = format!("listen = {:?}", rig.socket("blog"));
    let both = format!("listen = [{:?}, \"{address}\"]", rig.socket("blog"));
    rig.write("pools/blog.toml", &text.replace(&unix, &both));
    rig.let_listen_on_tcp("blog");
    rig.serve();
    let begin = std::time::Instant::now();
    for number in 0..crowd() / 10 {
        let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else { continue };
        let linger = libc_linger();
        nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::Linger, &linger).unwrap();
        assert!(stream.as_raw_fd() > 2);
        drop(stream); // RST
        if number % 500 == 0 {
            assert_eq!(rig.php("blog", "echo 'here';"), "here");
        }
    }
    let took = begin.elapsed();
    let starts = rig.ps("blog")["starts"].as_u64().unwrap();
    assert!(starts <= 2 + took.as_millis() as u64 / 300, "{starts} starts in {took:?}");
    assert_eq!(rig.php("blog", "echo 'here';"), "here");
    assert_eq!(rig.end(), 0);
}

fn libc_linger() -> nix::libc::linger {
    nix::libc::linger { l_onoff: 1, l_linger: 0 }
}
