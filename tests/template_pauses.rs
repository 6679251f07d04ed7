//! A template that comes to nothing by accident, again and again: howdah tries less and less often, says
//! why there is none, and other classes have theirs meanwhile.
#![allow(missing_docs)]

mod rig;

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use rig::templates::{keep, stocked, waiting};
use rig::{OTHER, Rig, TENANT, patience, wait_for};

const SOON: Duration = Duration::from_secs(20);

/// The highest number of a template that has been made.
fn made(rig: &Rig) -> u32 {
    let all = fs::read_dir(rig.path("run/templates")).into_iter().flatten().flatten();
    let number = |name: String| name.rsplit_once('-')?.1.parse().ok();
    all.filter_map(|entry| number(entry.file_name().into_string().ok()?)).max().unwrap_or(0)
}

/// Does `deed` all the time, for a while; how many were made until then.
fn meanwhile(rig: &Rig, mut deed: impl FnMut()) -> u32 {
    let end = Instant::now() + Duration::from_secs(4) * patience();
    let mut most = 0;
    while Instant::now() < end {
        deed();
        most = most.max(made(rig));
        std::thread::sleep(Duration::from_millis(2));
    }
    most
}

/// Why there are none of the class that has none.
fn why_none(rig: &Rig) -> String {
    let text = fs::read_to_string(rig.path("run/templates.json")).unwrap();
    let stock: serde_json::Value = serde_json::from_str(&text).unwrap();
    let classes = stock["classes"].as_array().unwrap();
    classes.iter().find_map(|class| class["why_none"].as_str()).unwrap_or_default().to_owned()
}

#[test]
fn one_whose_files_change_all_the_time_is_not_made_all_the_time() {
    let mut rig = Rig::new();
    keep(&rig, 1);
    let image = rig::image::around_php_fpm(&rig, ":");
    // Whatever is made in a directory of its libraries may be another php.
    rig.shell("find image -name libc.so.6 > libc");
    let libc = fs::read_to_string(rig.path("libc")).unwrap();
    let busy = rig.path(libc.lines().next().unwrap()).parent().unwrap().join("busy");
    rig.site("blog", "index.php", "<?php echo 'hello';", TENANT);
    rig.pool("blog", &format!("image = {image:?}\n[idle]\nstop = \"100ms\"\n"));
    rig.serve();
    assert_eq!(rig.text("blog", "/index.php"), "hello");
    let busy: &Path = &busy;
    let made = meanwhile(&rig, || {
        fs::write(busy, "").unwrap();
        fs::remove_file(busy).unwrap();
    });
    assert!((1..=5).contains(&made), "{made} were made:\n{}", rig.log());
    assert_eq!(why_none(&rig), "what the last one had loaded was changed meanwhile");
}

#[test]
fn one_that_is_always_killed_keeps_no_other_class_from_its_own() {
    let mut rig = Rig::new();
    keep(&rig, 1);
    for (name, user, more) in [("blog", TENANT, ""), ("shop", OTHER, "[php]\nextensions = []\n")] {
        rig.site(name, "index.php", "<?php echo 'hello';", user);
        rig.pool_of(name, user.0, &format!("[idle]\nstop = \"1h\"\n{more}"));
    }
    rig.serve();
    // Of those with extensions of their own none lives; its class is the one that was asked for last.
    let made = meanwhile(&rig, || {
        for entry in fs::read_dir(rig.path("run/templates")).into_iter().flatten().flatten() {
            let cgroup = rig.cgroup().join(entry.file_name());
            let processes = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
            let is_php = |pid: &str| {
                fs::read_link(format!("/proc/{pid}/exe"))
                    .is_ok_and(|exe| exe.to_string_lossy().contains("php"))
            };
            if entry.path().join("rootfs/etc/howdah/php.d").exists() && processes.lines().any(is_php) {
                let _ = fs::write(cgroup.join("cgroup.kill"), "1");
            }
        }
    });
    assert_eq!(waiting(&rig).len(), 1, "{}", rig.log());
    assert!((2..=6).contains(&made), "{made} were made:\n{}", rig.log());
    assert_eq!(why_none(&rig), "the last one was killed");
    // In peace it has one, too.
    stocked(&rig, 2);
}

#[test]
fn a_pool_that_hangs_while_it_starts_keeps_no_other_from_its_template() {
    let mut rig = Rig::new();
    keep(&rig, 1);
    let image = rig::image::around_php_fpm(&rig, "sleep 100");
    rig.site("blog", "index.php", "<?php echo 'hello';", TENANT);
    rig.pool("blog", "[idle]\nstop = \"1h\"\n");
    rig.pool_of(
        "hung",
        OTHER.0,
        &format!("image = {image:?}\n[start]\ntemplate = false\ntimeout = \"100s\"\n"),
    );
    rig.serve();
    stocked(&rig, 1);
    let _waits = UnixStream::connect(rig.socket("hung")).unwrap();
    rig.wait_state("hung", "starting");
    assert_eq!(rig.text("blog", "/index.php"), "hello");
    stocked(&rig, 1);
    assert_eq!(rig.state("hung"), "starting");
}

/// The processor time that howdah has used (proc_pid_stat(5)), in hundredths of a second.
fn used(rig: &Rig) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", rig.pid())).unwrap();
    let times = stat.rsplit_once(')').unwrap().1.split_whitespace().skip(11).take(2);
    times.map(|time| time.parse::<u64>().unwrap()).sum()
}

#[test]
fn one_that_is_dead_and_cannot_be_waited_for_keeps_nobody_awake() {
    let mut rig = Rig::new();
    keep(&rig, 1);
    rig.site("blog", "index.php", "<?php echo 'hello';", TENANT);
    rig.pool("blog", "[idle]\nstop = \"1h\"\n");
    rig.serve();
    let own = Pid::from_raw(stocked(&rig, 1)[0]);
    // Whoever traces it, a debugger perhaps, is told of its end before its parent is (ptrace(2)).
    ptrace::seize(own, ptrace::Options::empty()).unwrap();
    kill(own, Signal::SIGKILL).unwrap();
    wait_for("its end to be seen", SOON, || waiting(&rig).is_empty().then_some(()));
    let before = used(&rig);
    std::thread::sleep(Duration::from_millis(900));
    let took = used(&rig) - before;
    waitpid(own, Some(WaitPidFlag::__WALL)).unwrap();
    assert!(took < 20, "{took}0 ms of 900 ms");
    stocked(&rig, 1);
}
