//! The hosts that howdah runs on: rootless, other layouts of cgroup v2; and
//! that nothing is left of it anywhere.
#![allow(missing_docs, clippy::print_stderr)]

mod rig;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rig::held::Held;
use rig::{OTHER, Rig, TENANT};

/// Words that start serve as [`TENANT`], without any right of root's.
const ROOTLESS: [&str; 8] = [
    "setpriv",
    "--reuid=33",
    "--regid=33",
    "--clear-groups",
    "--inh-caps=-all",
    "--bounding-set=-all",
    "env",
    "--",
];

/// A rig whose directory belongs to [`TENANT`], with its sites and pools.
fn rootless() -> Rig {
    let rig = Rig::new();
    chown(rig.path(""), Some(33), Some(33)).unwrap();
    rig
}

fn serve_rootless(rig: &mut Rig) {
    serve_rootless_in(rig, "--clear-groups");
}

fn serve_rootless_in(rig: &mut Rig, groups: &str) {
    let runtime = rig.path("").display().to_string();
    // The build's directory may be closed to others.
    let copy = rig.path("howdah");
    if !copy.exists() {
        rig::copy_howdah(&copy);
    }
    let exchange = format!("shift; exec {} \"$@\"", copy.display());
    let words: Vec<&str> = ROOTLESS[..6]
        .iter()
        .copied()
        .map(|word| if word == "--clear-groups" { groups } else { word })
        .chain(["sh", "-c", &exchange, "sh"])
        .collect();
    rig.serve_under(&words, &[("XDG_RUNTIME_DIR", &runtime), ("HOME", &runtime)]);
}

/// Whether an account without rights may make user namespaces here; says so if not.
fn is_rootless_possible() -> bool {
    let words: Vec<&str> = ROOTLESS[1..6].iter().copied().chain(["unshare", "-U", "true"]).collect();
    let made = Command::new(ROOTLESS[0]).args(words).stderr(Stdio::null()).status();
    let possible = made.is_ok_and(|status| status.success());
    if !possible {
        eprintln!("skipped: this host gives unprivileged users no user namespaces");
    }
    possible
}

fn field(status: &str, key: &str) -> String {
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {key} in:\n{status}")).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn without_root_the_walls_are_the_same() {
    if !is_rootless_possible() {
        return;
    }
    let mut rig = rootless();
    rig.inside("blog", TENANT, "[idle]\nstop = \"200ms\"");
    serve_rootless(&mut rig);
    let status = fs::read_to_string(format!("/proc/{}/status", rig.pid())).unwrap();
    assert_eq!(field(&status, "Uid"), "33 33 33 33");
    for life in 1..=2 {
        let held = Held::begin(&rig, "blog", "/do.php");
        assert_eq!(rig.php("blog", "echo posix_getuid(), ' ', gethostname();"), "33 blog");
        assert_eq!(rig.ps("blog")["generation"], life);
        let map = rig.php(
            "blog",
            "echo file_get_contents('/proc/self/uid_map'), file_get_contents('/proc/self/gid_map');",
        );
        assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["33", "33", "1", "33", "33", "1"]);
        let status = rig.php("blog", "echo file_get_contents('/proc/self/status');");
        for (key, wanted) in [
            ("CapEff", "0000000000000000"),
            ("CapBnd", "0000000000000000"),
            ("NoNewPrivs", "1"),
            ("Seccomp", "2"),
        ] {
            assert_eq!(field(&status, key), wanted, "{key}");
        }
        let namespaces = rig.php("blog", "foreach (['user', 'mnt', 'pid', 'net', 'ipc', 'uts', 'cgroup'] as $n) echo $n, ' ', readlink(\"/proc/self/ns/$n\"), \"\\n\";");
        for (kind, inside) in namespaces.lines().filter_map(|line| line.split_once(' ')) {
            for other in ["self".to_owned(), rig.pid().to_string()] {
                let theirs = fs::read_link(format!("/proc/{other}/ns/{kind}")).unwrap();
                assert_ne!(Path::new(inside), theirs, "{kind} of {other}");
            }
        }
        assert_eq!(rig.php("blog", "echo @file_put_contents('/usr/x', 'x') ? 'y' : 'n', file_exists('/home') ? 'y' : 'n', count(scandir('/dev'));"), "nn8");
        assert_eq!(rig.php("blog", "echo @file_put_contents('/proc/self/comm', 'x') ? 'y' : 'n';"), "n");
        assert_eq!(rig.php("blog", "echo file_get_contents('/etc/group');"), "www-data:x:33:\n");
        held.answer();
        rig.wait_state("blog", "cold");
    }
    assert_eq!(rig.end(), 0);
    assert!(!rig.path("run").exists() && !rig.socket("blog").exists());
}

#[test]
fn without_root_groups_cannot_be_dropped_and_howdah_says_so() {
    if !is_rootless_possible() {
        return;
    }
    let mut rig = rootless();
    rig.inside("blog", TENANT, "");
    serve_rootless_in(&mut rig, "--groups=4,33");
    let line = rig.wait_log("other groups");
    let wanted = "howdah: pools keep this user's other groups (gid 4), which cannot be dropped without root: \
         run howdah as a user that has none";
    assert_eq!(line, wanted);
    rig.php("blog", "echo 'x';");
    let status = fs::read_to_string(format!("/proc/{}/status", rig.master("blog"))).unwrap();
    assert_eq!(field(&status, "Groups"), "4 33");
    rig.end();
    serve_rootless(&mut rig);
    assert!(!rig.log().contains("other groups"), "{}", rig.log());
}

#[test]
fn without_root_nothing_is_lost_across_stops_by_sigstop() {
    if !is_rootless_possible() {
        return;
    }
    let mut rig = rootless();
    rig.inside("blog", TENANT, "[idle]\nstop = \"50ms\"\n[fpm]\nmax_children = 3");
    serve_rootless(&mut rig);
    assert_eq!(rig.php("blog", "echo 'first';"), "first");
    assert!(rig.log().contains("frozen by SIGSTOP"), "{}", rig.log());
    assert_eq!(rig.ps("blog")["cgroup"], serde_json::Value::Null);
    let end = Instant::now() + Duration::from_secs(4);
    let rig = &rig;
    let answered: u32 = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..3u64)
            .map(|client| {
                scope.spawn(move || {
                    let mut answered = 0;
                    while Instant::now() < end {
                        let wanted = format!("{client} {answered}");
                        // Some sleep on their way, as a database's answer lets them.
                        let sleep = if answered % 7 == 0 { 60_000 } else { 0 };
                        assert_eq!(rig.php("blog", &format!("usleep({sleep}); echo '{wanted}';")), wanted);
                        answered += 1;
                        // And all three together leave the pool alone now and then.
                        std::thread::sleep(Duration::from_millis(if answered % 5 == 0 {
                            120
                        } else {
                            client
                        }));
                    }
                    answered
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    let lives = rig.ps("blog")["generation"].as_u64().unwrap();
    assert!(answered > 60 && lives >= 2, "{answered} requests, {lives} generations");
}

#[test]
fn without_root_a_limit_that_is_asked_for_and_cannot_be_had_is_an_error() {
    if !is_rootless_possible() {
        return;
    }
    let mut rig = rootless();
    rig.inside("asks", TENANT, "[limits]\nmemory = \"64M\"\ntasks = 20");
    rig.inside("asks-not", TENANT, "");
    serve_rootless(&mut rig);
    assert_eq!(rig.try_get("asks", "/do.php").unwrap().status, 503);
    let wanted = "howdah: pool asks: limits memory.max pids.max need a cgroup v2 that howdah may write: \
         run it as root, delegate a cgroup to it, or take them out of the pool file [asks.1]";
    assert_eq!(rig.wait_log("[asks.1]"), wanted);
    assert_eq!(rig.php("asks-not", "echo 'here';"), "here");
    let missing = rig.ps("asks-not")["limits_not_in_force"].to_string();
    assert!(missing.contains("memory.max") && missing.contains("pids.max"), "{missing}");
}

#[test]
fn a_limit_whose_controller_is_missing_is_an_error_only_where_it_is_asked_for() {
    let mut rig = Rig::new();
    rig.inside("asks", TENANT, "[limits]\ntasks = 20");
    rig.inside("asks-not", TENANT, "");
    rig.serve();
    let controllers = fs::read_to_string(rig.cgroup().join("cgroup.controllers")).unwrap();
    let answer = rig.ask("asks", "/do.php", "POST", &[], b"echo 'here';").unwrap();
    assert_eq!(rig.php("asks-not", "echo 'here';"), "here");
    let told = rig.ps("asks-not")["limits_not_in_force"].to_string();
    let has_pids = controllers.split_whitespace().any(|name| name == "pids");
    assert_eq!(told.contains("pids.max"), !has_pids, "{told}");
    if has_pids {
        assert_eq!(answer.body, b"here");
        return;
    }
    assert_eq!(answer.status, 503);
    let wanted = format!(
        "howdah: pool asks: limit pids.max needs the cgroup v2 controller \"pids\", which {} does not have: \
         delegate it (Delegate=yes in the unit) or take the limit out of the pool file [asks.1]",
        rig.cgroup().display()
    );
    assert_eq!(rig.wait_log("[asks.1]"), wanted);
    assert!(!rig.cgroup().join("asks.1").exists());
}

#[test]
fn it_works_the_same_with_cgroup_v2_alone_at_sys_fs_cgroup() {
    let mut rig = Rig::new();
    rig.inside("blog", TENANT, "[idle]\nstop = \"100ms\"");
    let script = "mount -t cgroup2 none /sys/fs/cgroup && exec \"$@\"";
    rig.serve_under(&["unshare", "--mount", "sh", "-c", script, "sh"], &[]);
    for life in 1..=2 {
        let held = Held::begin(&rig, "blog", "/do.php");
        assert_eq!(rig.php("blog", "echo 'here';"), "here");
        let cgroup = rig.ps("blog")["cgroup"].as_str().unwrap().to_owned();
        assert!(
            cgroup.starts_with("/sys/fs/cgroup/howdah/") && cgroup.ends_with(&format!("/blog.{life}")),
            "{cgroup}"
        );
        let own = fs::read_to_string(format!("/proc/{}/cgroup", rig.master("blog"))).unwrap();
        assert!(
            own.lines()
                .any(|line| line.starts_with("0::/howdah/") && line.ends_with(&format!("/blog.{life}"))),
            "{own}"
        );
        held.answer();
        rig.wait_state("blog", "cold");
    }
    assert_eq!(rig.end(), 0);
    assert!(!rig.cgroup().exists());
}

/// Everything below `path` but for what the test itself has made.
fn left(path: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = fs::read_dir(path).unwrap().flatten().map(|entry| entry.path()).collect();
    all.sort();
    all
}

/// Processes of the system whose /proc/PID/`file` contains `text`.
fn processes_with(file: &str, text: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let own = std::process::id().to_string();
    pids.filter(|pid| pid.bytes().all(|byte| byte.is_ascii_digit()) && *pid != own)
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/{file}"))
                .is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(text))
        })
        .collect()
}

#[test]
fn nothing_is_left_after_an_orderly_end_whatever_ran() {
    let mut rig = Rig::new();
    rig.inside("idle", TENANT, "");
    rig.inside("warm", TENANT, "");
    rig.inside("busy", OTHER, "");
    rig.inside_without("broken", "limits = 3", "");
    let before = left(&rig.path(""));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    rig.serve();
    assert_eq!(rig.php("warm", "proc_open(['/usr/bin/sleep', '600'], [], $p); echo 'here';"), "here");
    // One that outlives its request, and everything that could be told to end.
    let daemon = "trap '' HUP TERM INT; setsid sleep 600 & setsid sh -c 'trap \"\" TERM; sleep 600' & wait";
    rig.php(
        "busy",
        &format!("proc_open(['/bin/sh', '-c', '{}'], [], $p); echo 'x';", daemon.replace('\'', "\\'")),
    );
    assert_eq!(rig.try_get("broken", "/do.php").unwrap().status, 503);
    let masters = [rig.master("warm"), rig.master("busy")];
    let runtime = rig.path("run").display().to_string();
    assert!(rig.cgroup().exists());
    assert_eq!(rig.end(), 0);

    assert!(!rig.cgroup().exists());
    let after: Vec<_> = left(&rig.path("")).into_iter().filter(|path| !before.contains(path)).collect();
    // The log is this test's; sessions outlive howdah by intention.
    assert_eq!(after, [rig.path("log"), rig.path("log.before"), rig.path("state")]);
    assert!(!after.iter().any(|path| path.metadata().unwrap().file_type().is_socket()));
    for master in masters {
        assert!(!Path::new(&format!("/proc/{master}")).exists());
    }
    assert_eq!(processes_with("mountinfo", &format!("{runtime}/pools")), [""; 0]);
    assert_eq!(processes_with("cmdline", &runtime), [""; 0]);
    let of_rig = |text: &str| text.lines().filter(|line| line.contains(&runtime)).count();
    assert_eq!(of_rig(&fs::read_to_string("/proc/self/mountinfo").unwrap()), of_rig(&mounts));
    let sockets = fs::read_to_string("/proc/net/unix").unwrap();
    assert!(!sockets.contains(rig.path("").to_str().unwrap()), "{sockets}");
}

#[test]
fn state_directories_are_their_pools_users_alone() {
    let mut rig = Rig::new();
    rig.inside("one", TENANT, "");
    rig.inside("two", OTHER, "");
    rig.serve();
    rig.php("one", "session_id('abc'); session_start(); $_SESSION['secret'] = 1; echo 'ok';");
    rig.php("two", "echo 'ok';");
    for (pool, uid) in [("one", 33), ("two", 34)] {
        for name in ["sessions", "uploads"] {
            let data = rig.path(&format!("state/pools/{pool}/{name}")).metadata().unwrap();
            assert_eq!((data.uid(), data.mode() & 0o777), (uid, 0o700), "{pool} {name}");
        }
    }
    assert!(rig.path("state/pools/one/sessions/sess_abc").exists());
    assert_eq!(
        rig.php("two", "echo @file_get_contents('/var/lib/php/sessions/sess_abc') ?: 'none';"),
        "none"
    );
    // Somebody else's directory in its place is not used.
    rig.end();
    let sessions = rig.path("state/pools/one/sessions");
    chown(&sessions, Some(34), Some(34)).unwrap();
    rig.serve();
    assert_eq!(rig.try_get("one", "/do.php").unwrap().status, 503);
    let line = rig.wait_log("[one.1]");
    assert!(line.contains("belongs to uid 34, not to the pool's user www-data"), "{line}");
}

#[test]
fn the_runtime_directory_tells_other_users_nothing_of_a_pool() {
    let mut rig = Rig::new();
    rig.inside("blog", TENANT, "[fpm.env]\nPASSWORD = \"secret\"");
    rig.serve();
    rig.php("blog", "echo 'ok';");
    assert_eq!(rig.path("run/pools").metadata().unwrap().mode() & 0o777, 0o700);
    let file = rig.path("run/pools/blog/rootfs/etc/howdah/php-fpm.conf");
    assert!(fs::read_to_string(&file).unwrap().contains("secret"), "what is to be hidden is not there");
    let run = rig.path("run");
    let outside = |words: &[&str]| {
        let ids = ["--reuid", "34", "--regid", "33", "--clear-groups"];
        std::process::Command::new("setpriv").args(ids).args(words).output().unwrap()
    };
    assert!(!outside(&["cat", file.to_str().unwrap()]).status.success(), "read by another of its group");
    let asked = outside(&[rig::HOWDAH, "ps", "--runtime-dir", run.to_str().unwrap()]);
    let line = String::from_utf8(asked.stderr).unwrap();
    assert!(line.ends_with("Permission denied (EACCES): ask as root\n"), "{line}");
}
