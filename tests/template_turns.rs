//! Templates one after another, many at once, and none at all: what a host with many pools sees
//! of them. How long that takes is for `benches/templates.rs`.
#![allow(missing_docs)]

mod rig;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use howdah::pool::quiesce;
use nix::unistd::Pid;
use rig::templates::{keep, started_by, stocked, waiting};
use rig::{OTHER, Rig, TENANT, wait_for};

/// Nothing of a pool comes and goes. A worker that needs a second to end is killed by its master
/// and then forked anew, for ever, which an emulated machine with many of them never gets out of.
const LONG: &str = "[idle]\nstop = \"1h\"\n[fpm]\nprocess_idle_timeout = \"1h\"";
/// The script says whose it is: by its own text, by the host name and by its account.
const SCRIPT: &str = "<?php echo 'NAME ', php_uname('n'), ' ', posix_getuid();";

/// Pools of one class, with sites of their own, of two accounts in turn.
fn pools(rig: &Rig, count: usize) -> Vec<String> {
    let names: Vec<String> = (0..count).map(|number| format!("pool-{number}")).collect();
    for (number, name) in names.iter().enumerate() {
        let user = account(number);
        rig.site(name, "index.php", &SCRIPT.replace("NAME", name), user);
        rig.pool_of(name, user.0, LONG);
    }
    names
}

fn account(number: usize) -> (&'static str, u32, u32) {
    if number % 2 == 0 { TENANT } else { OTHER }
}

/// What the pool `name`, the `number`th, has to answer.
fn answer(number: usize, name: &str) -> String {
    format!("{name} {name} {}", account(number).1)
}

/// Who runs the pool's php-fpm, by the host's numbers.
fn uid(rig: &Rig, pool: &str) -> u32 {
    fs::metadata(format!("/proc/{}", rig.master(pool))).unwrap().uid()
}

/// All that is left when howdah has ended: nothing.
fn end(mut rig: Rig) {
    assert_eq!(rig.end(), 0, "{}", rig.log());
    assert!(!rig.cgroup().exists() && !rig.path("run/templates").exists(), "something is left behind");
}

#[test]
fn ten_pools_in_turn_are_all_started_by_a_template_although_only_one_is_kept() {
    let mut rig = Rig::new();
    keep(&rig, 1);
    let names = pools(&rig, 10);
    rig.serve();
    let (mut masters, mut uids) = (Vec::new(), BTreeSet::new());
    for (number, name) in names.iter().enumerate() {
        let next = stocked(&rig, 1)[0];
        assert_eq!(rig.text(name, "/index.php"), answer(number, name));
        assert_eq!(started_by(&rig, name), "template", "{}", rig.log());
        assert_eq!(rig.master(name), next, "it was another that waited");
        assert!(uids.insert(uid(&rig, name)), "{name} shares its uid");
        let own = rig.path("run/pools").join(name).join("rootfs");
        assert!(!own.exists(), "{name} waited until the root of a sandbox was made that it does not have");
        masters.push(next);
    }
    // Each is its pool's for good: the next one's bind has changed nothing of it.
    for (number, (name, master)) in names.iter().zip(masters).enumerate() {
        assert_eq!(rig.text(name, "/index.php"), answer(number, name));
        assert_eq!(rig.master(name), master);
    }
    end(rig);
}

#[test]
fn many_pools_at_once_are_all_answered_the_first_by_templates_and_the_rest_cold() {
    let mut rig = Rig::new();
    keep(&rig, 4);
    // Starts that are cold take as long there as an impatient client waits.
    let names = pools(&rig, if rig::patience() > 1 { 10 } else { 24 });
    rig.serve();
    stocked(&rig, 4);
    let gun = Barrier::new(names.len());
    thread::scope(|scope| {
        let ask = |number: usize, name: &str| {
            gun.wait();
            assert_eq!(rig.text(name, "/index.php"), answer(number, name));
        };
        for (number, name) in names.iter().enumerate() {
            scope.spawn(move || ask(number, name));
        }
    });
    let mut uids = BTreeSet::new();
    for (number, name) in names.iter().enumerate() {
        match started_by(&rig, name).as_str() {
            "template" => assert!(uids.insert(uid(&rig, name)), "{name} shares its uid"),
            "cold launch" => assert_eq!(uid(&rig, name), account(number).1),
            other => panic!("{name} was started by {other:?}"),
        }
    }
    assert!((4..names.len()).contains(&uids.len()), "{uids:?} by a template\n{}", rig.log());
    // When it is quiet again there are as many as before.
    stocked(&rig, 4);
    end(rig);
}

/// Voluntary and involuntary context switches of all threads of `pid`.
fn switches(pid: i32) -> u64 {
    let count = |line: &str| line.split_once("ctxt_switches:")?.1.trim().parse::<u64>().ok();
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let status = threads.map(|thread| fs::read_to_string(thread.path().join("status")).unwrap_or_default());
    status.map(|text| text.lines().filter_map(count).sum::<u64>()).sum()
}

#[test]
fn one_that_waits_does_nothing_at_all_while_a_php_fpm_that_serves_wakes_up() {
    const WHILE: Duration = Duration::from_secs(5);
    let mut rig = Rig::new();
    keep(&rig, 2);
    let names = pools(&rig, 1);
    rig.serve();
    stocked(&rig, 2);
    // howdah itself, the templates, and whatever else it has made for them.
    let howdah = i32::try_from(rig.pid()).unwrap();
    let count = |pids: &[i32]| pids.iter().map(|pid| (*pid, switches(*pid))).collect::<Vec<_>>();
    // howdah looks whether there is more to make, and that is over when nothing has happened for a while.
    let (all, before) = wait_for("a howdah that has come to rest", Duration::from_secs(20), || {
        let all: Vec<i32> = quiesce::tree(Pid::from_raw(howdah)).into_iter().map(Pid::as_raw).collect();
        let before = count(&all);
        thread::sleep(Duration::from_millis(500) * rig::patience());
        (count(&all) == before).then_some((all, before))
    });
    assert!(waiting(&rig).iter().all(|one| all.contains(one)), "{all:?}");
    thread::sleep(WHILE);
    assert_eq!(count(&all), before, "context switches of howdah ({howdah}) and its templates");
    // The same count of one that has become a pool's.
    assert_eq!(rig.text(&names[0], "/index.php"), answer(0, &names[0]));
    assert_eq!(started_by(&rig, &names[0]), "template", "{}", rig.log());
    let master = rig.master(&names[0]);
    assert!(all.contains(&master));
    let before = switches(master);
    thread::sleep(WHILE);
    assert!(switches(master) > before, "php-fpm's master slept for {WHILE:?}: nothing is counted");
}
