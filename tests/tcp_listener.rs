//! A pool that listens on TCP holds a socket of the host's network. Where nothing keeps
//! it from using that, it does not start, and everybody says so; the control is the one
//! key that lets it. What is "nothing" depends on the kernel: Landlock's rules for TCP
//! are there from ABI 4 on (Linux 6.7), so that Debian 12's refuses what others hold.
#![allow(missing_docs)]

mod rig;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use howdah::fpm::client::exchange;
use howdah::sandbox::landlock;
use rig::{Rig, TENANT};
use serde_json::Value;

/// What takes a wall down that holds the listener, and how the refusal says it.
const DOWN: [(&str, &str); 2] = [
    ("landlock = false\n", "Landlock is off"),
    ("seccomp = \"off\"\n", "seccomp is off, which refuses the Fast Open that goes past Landlock"),
];

/// Nothing is taken down, and the kernel has no such wall.
fn old_kernel() -> Option<(&'static str, String)> {
    let abi = landlock::kernel_abi();
    (abi < 4).then(|| ("", format!("this kernel has Landlock ABI {abi} and 4 is needed")))
}

/// A pool `blog` on loopback with a profile that is `hosting` but for `profile`; and its address and file.
fn pool(rig: &Rig, profile: &str) -> (SocketAddr, PathBuf) {
    rig.site("blog", "index.php", "<?php echo 'hello from ', posix_getuid();", TENANT);
    let own = rig.profile("own", profile);
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mount = rig.path("blog");
    let text = format!(
        "user = \"www-data\"\nprofile = {own:?}\nlisten = \"{address}\"\n[[mount]]\nsource = {mount:?}\n"
    );
    (address, rig.write("pools/blog.toml", &text))
}

/// Status and body of an answer.
fn ask(rig: &Rig, address: SocketAddr) -> (u16, String) {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).unwrap();
    let request = rig.request("blog", "/index.php", "GET", &[], b"");
    let answer = exchange(&stream, &request, Duration::from_secs(30) * rig::patience());
    let answer = answer.unwrap_or_else(|error| panic!("{error}\n{}", rig.log()));
    (answer.status, String::from_utf8_lossy(&answer.body).into_owned())
}

/// Status and standard error of a command on the rig's pool.
fn told(rig: &Rig, command: &str) -> (i32, String) {
    let (config, file) = (rig.path("howdah.toml"), rig.path("pools/blog.toml"));
    let output = rig.howdah(&[command, "--config", config.to_str().unwrap(), file.to_str().unwrap()]);
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// Every way that leads to a start says the same line, with this reason.
fn is_refused(profile: &str, why: &str, of_kernel: bool) {
    let mut rig = Rig::new();
    let (address, file) = pool(&rig, profile);
    let line =
        format!("{}:3: listening on TCP ({address}) would be a way into the host's network", file.display());
    for (command, status) in
        [("check", if of_kernel { 4 } else { 3 }), ("spec", if of_kernel { 4 } else { 5 })]
    {
        let (seen, errors) = told(&rig, command);
        assert_eq!(seen, status, "{command}: {errors}");
        assert!(errors.contains(&line) && errors.contains(why), "{command}: {errors}");
        assert!(
            errors.contains("listen on a unix socket, or write tcp_listener_held = false in "),
            "{errors}"
        );
        assert_eq!(errors.lines().count(), 1, "{command}: {errors}");
    }
    rig.serve();
    // Before anybody has asked; and who asks gets an answer that is not the site's.
    assert!(rig.wait_log(why).contains(&line), "{}", rig.log());
    assert_eq!(ask(&rig, address).0, 503);
    assert_eq!(rig.ps("blog")["pid"], Value::Null);
    assert!(rig.ps("blog")["last_error"].as_str().unwrap().contains(why), "{}", rig.ps("blog"));
    assert_eq!(rig.end(), 0);
}

/// The control: with the key it starts, serves, and is shown as weakened.
fn is_let_through(profile: &str, why: &str) {
    let mut rig = Rig::new();
    let (address, _) = pool(&rig, &format!("tcp_listener_held = false\n{profile}"));
    let (status, errors) = told(&rig, "check");
    assert_eq!((status, errors.as_str()), (0, ""));
    rig.serve();
    assert_eq!(ask(&rig, address), (200, "hello from 33".to_owned()));
    let weakened = rig.ps("blog")["weakened"].to_string();
    assert!(weakened.contains("a TCP listener that nothing holds is let through"), "{weakened}");
    assert!(weakened.contains("a TCP listener is a way into the host's network"), "{weakened}");
    assert!(weakened.contains(why), "{weakened}");
    assert_eq!(rig.end(), 0);
}

#[test]
fn what_nothing_holds_does_not_start_but_where_the_profile_says_so() {
    for (profile, why) in DOWN {
        // An older kernel is told first, for no profile can cure it.
        let why =
            if landlock::kernel_abi() < 4 && !profile.contains("landlock") { "this kernel" } else { why };
        is_refused(profile, why, why == "this kernel");
        is_let_through(profile, why);
    }
    if let Some((profile, why)) = old_kernel() {
        is_refused(profile, &why, true);
        is_let_through(profile, &why);
    }
}

#[test]
fn where_it_is_held_it_serves_without_a_word() {
    let mut rig = Rig::new();
    // On an older kernel that is a unix socket only.
    if old_kernel().is_some() {
        rig.inside("blog", TENANT, "");
        rig.serve();
        assert_eq!(rig.php("blog", "echo 'here';"), "here");
    } else {
        let (address, _) = pool(&rig, "");
        rig.serve();
        assert_eq!(ask(&rig, address), (200, "hello from 33".to_owned()));
    }
    assert_eq!(rig.ps("blog")["weakened"], serde_json::json!([]));
    assert_eq!(rig.end(), 0);
}

/// A unit's socket is the pool's by its name, whatever the pool's file says.
#[test]
fn a_tcp_socket_of_systemd_s_counts_though_the_file_says_a_unix_socket() {
    let serve = |profile: &str| {
        let rig = Rig::new();
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        rig.inside_without("blog", profile, "");
        rig.site("blog", "index.php", "<?php echo 'hello from ', posix_getuid();", TENANT);
        let mut rig = rig.passing(socket, "blog");
        rig.serve();
        (rig, address)
    };
    let (mut rig, address) = serve("landlock = false\n");
    assert!(
        rig.wait_log("Landlock is off").contains(&format!("listening on TCP ({address})")),
        "{}",
        rig.log()
    );
    assert_eq!(ask(&rig, address).0, 503);
    assert_eq!(rig.end(), 0);
    let (mut rig, address) = serve("landlock = false\ntcp_listener_held = false\n");
    assert_eq!(ask(&rig, address), (200, "hello from 33".to_owned()));
    assert!(rig.ps("blog")["weakened"].to_string().contains("Landlock is off"), "{}", rig.ps("blog"));
    assert_eq!(rig.end(), 0);
    // With every wall: held, so that the pool has no TCP at all.
    if old_kernel().is_none() {
        let (mut rig, address) = serve("");
        let connect = "echo @stream_socket_client('tcp://127.0.0.1:9', $code) ? '' : $code;";
        let request = rig.request("blog", "/do.php", "POST", &[], connect.as_bytes());
        let answer =
            exchange(&TcpStream::connect(address).unwrap(), &request, Duration::from_secs(30)).unwrap();
        assert_eq!(String::from_utf8_lossy(&answer.body), nix::libc::EACCES.to_string(), "{}", rig.log());
        assert_eq!(rig.end(), 0);
    }
}

/// What the key lets through is worth a refusal: without Landlock the attacks succeed.
#[test]
fn what_is_let_through_is_a_way_into_the_host_s_network() {
    let rig = Rig::new();
    let walls = if old_kernel().is_some() { "" } else { "landlock = false\n" };
    let (_, file) = pool(&rig, &format!("tcp_listener_held = false\n{walls}"));
    std::fs::create_dir(rig.path("tmp")).unwrap();
    let mut audit = std::process::Command::new(rig::HOWDAH);
    audit.args(["audit", "--json", "--config"]).arg(rig.path("howdah.toml")).arg(file);
    let output = audit.env("TMPDIR", rig.path("tmp")).output().unwrap();
    let cards: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    for attack in ["accepted-connect", "accepted-bind", "listener-connect"] {
        let findings = cards[0]["attacks"].as_array().unwrap();
        let found = findings.iter().find(|one| one["attack"] == attack).unwrap();
        assert_eq!(found["outcome"], "open", "{found}");
    }
}
