//! Classes of templates: which have theirs when the memory is not enough for all, and what is left of
//! one that no pool has any more.
#![allow(missing_docs)]

mod rig;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use howdah::pool::record::{self, Class, Stock};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use rig::templates::{keep, stocked};
use rig::{Rig, TENANT, wait_for};

const SHORT: &str = "[idle]\nstop = \"100ms\"";
const SOON: Duration = Duration::from_secs(60);
/// What one counts for until it has been looked at.
const GUESS: u64 = 24 << 20;
const NO_ROOM: &str = "[serve] template_memory is for classes that were asked for later";

/// Writes a pool; those whose `/tmp` differs in size differ in class.
fn pool(rig: &Rig, name: &str, tmp: &str) {
    rig.site(name, "index.php", "<?php echo 'hello';", TENANT);
    rig.pool(name, &format!("{SHORT}\n[limits]\ntmp = {tmp:?}\n"));
}

/// What `howdah ps --templates --json` tells, without a process for each look.
fn stock(rig: &Rig) -> Stock {
    record::read(&record::stock_file(&rig.path("run"))).unwrap_or_default()
}

/// The class of each pool, as `howdah check` tells it.
fn classes(rig: &Rig) -> BTreeMap<String, String> {
    let (pools, config) = (rig.path("pools"), rig.path("howdah.toml"));
    let words = ["check", "--json", "--config", config.to_str().unwrap(), pools.to_str().unwrap()];
    let told: serde_json::Value = serde_json::from_slice(&rig.howdah(&words).stdout).unwrap();
    let word = |one: &serde_json::Value, key: &str| one[key].as_str().unwrap().to_owned();
    told["pools"].as_array().unwrap().iter().map(|one| (word(one, "pool"), word(one, "class"))).collect()
}

/// Starts the pool once: by what, and why not by a template.
fn start(rig: &Rig, pool: &str) -> (String, String) {
    let before = rig.record(pool).starts;
    assert_eq!(rig.text(pool, "/index.php"), "hello");
    let record = || Some(rig.record(pool)).filter(|record| record.starts == before + 1);
    let record = wait_for("the record of the start", SOON, record);
    rig.wait_state(pool, "cold");
    (record.last_start_by, record.last_start_not_by_template.unwrap_or_default())
}

/// The classes of which one waits, when all is done that can be done: of as many as there is room for,
/// the latest asked for first. At no time they take more than they may.
fn settled(rig: &Rig, asked: &[&String]) -> BTreeSet<String> {
    wait_for("templates of those that were asked for most recently", SOON, || {
        let stock = stock(rig);
        let each = |one: &Class| one.memory_bytes.unwrap_or(GUESS);
        let taken: u64 = stock.classes.iter().map(|one| each(one) * one.waiting.len() as u64).sum();
        assert!(taken <= stock.memory_limit, "{stock:#?}");
        let asked_at = |one: &&Class| asked.iter().position(|class| **class == one.class);
        let mut order: Vec<&Class> = stock.classes.iter().collect();
        // Behind those that were asked for, those that were learned ahead, the last one first.
        order.reverse();
        order.sort_by_key(|one| asked_at(one).unwrap_or(usize::MAX));
        let mut left = stock.memory_limit;
        let mut given = BTreeSet::new();
        for one in order {
            if let Some(rest) = left.checked_sub(each(one)) {
                left = rest;
                given.insert(one.class.clone());
            }
        }
        let is_as_it_should = |one: &Class| match given.contains(&one.class) {
            true => one.waiting.len() == 1 && one.why_none.is_none(),
            false => one.waiting.is_empty() && one.why_none.as_deref() == Some(NO_ROOM),
        };
        stock.classes.iter().all(is_as_it_should).then_some(given)
    })
}

#[test]
fn where_the_memory_is_not_for_all_it_is_for_those_that_were_asked_for_most_recently() {
    let mut rig = Rig::new();
    keep(&rig, 1);
    // With Debian's extensions one takes from 10M to 38M, the less the more of php-fpm there is on the
    // machine: enough for two, and not for nine.
    let text = fs::read_to_string(rig.path("howdah.toml")).unwrap();
    rig.write("howdah.toml", &text.replace("[serve]\n", "[serve]\ntemplate_memory = \"80M\"\n"));
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
    names.iter().enumerate().for_each(|(n, name)| pool(&rig, name, &format!("{}M", 10 + n)));
    let class = classes(&rig);
    assert_eq!(class.values().collect::<BTreeSet<_>>().len(), names.len(), "{class:?}");
    rig.serve();
    let mut asked: Vec<&String> = Vec::new();
    for name in names {
        start(&rig, name);
        asked.insert(0, &class[name]);
    }
    // Those that were asked for longest ago.
    for _ in 0..2 {
        let waiting = settled(&rig, &asked);
        assert!(waiting.len() < names.len() && waiting.contains(asked[0]), "{:#?}", stock(&rig));
        let last = asked.pop().unwrap();
        let name = names.iter().find(|name| class[**name] == *last).unwrap();
        let why = if waiting.contains(last) { ("template", "") } else { ("cold launch", NO_ROOM) };
        assert_eq!(start(&rig, name), (why.0.to_owned(), why.1.to_owned()), "{name}");
        asked.insert(0, last);
        assert!(settled(&rig, &asked).contains(last), "it has moved there");
        assert_eq!(start(&rig, name), ("template".to_owned(), String::new()), "{name}");
    }
    settled(&rig, &asked);
    let (told, run) = (stock(&rig), rig.path("run"));
    let words = ["ps", "--templates", "--json", "--runtime-dir", run.to_str().unwrap()];
    assert_eq!(serde_json::from_slice::<Stock>(&rig.howdah(&words).stdout).unwrap(), told);
}

#[test]
fn where_there_is_no_room_for_one_it_is_told_how_much_it_may_take() {
    let mut rig = Rig::new();
    keep(&rig, 1);
    let text = fs::read_to_string(rig.path("howdah.toml")).unwrap();
    rig.write("howdah.toml", &text.replace("[serve]\n", "[serve]\ntemplate_memory = \"23M\"\n"));
    pool(&rig, "blog", "10M");
    rig.serve();
    let told = "one may take 24M, more than [serve] template_memory";
    for _ in 0..2 {
        assert_eq!(start(&rig, "blog"), ("cold launch".to_owned(), told.to_owned()));
    }
    assert_eq!(stock(&rig).classes[0].why_none.as_deref(), Some(told));
    assert!(!rig.path("run/templates").exists());
}

/// All cgroups and directories of templates.
fn left(rig: &Rig) -> usize {
    let entries = |path: PathBuf| fs::read_dir(path).into_iter().flatten().flatten();
    let is_cgroup = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with("template-");
    entries(rig.path("run/templates")).count() + entries(rig.cgroup()).filter(is_cgroup).count()
}

#[test]
fn after_a_reload_there_are_templates_of_the_classes_that_pools_have_now() {
    let mut rig = Rig::new();
    keep(&rig, 1);
    pool(&rig, "blog", "10M");
    pool(&rig, "shop", "11M");
    let class = classes(&rig);
    rig.serve();
    let old = stocked(&rig, 2);
    let of = |pool: &str| stock(&rig).classes.into_iter().find(|one| one.class == class[pool]);
    let (kept, gone) = (of("blog").unwrap().waiting, of("shop").unwrap().waiting);
    assert_eq!((kept.len(), gone.len()), (1, 1), "{old:?}");
    // Nothing is left of those of the trials.
    wait_for("two of each", SOON, || (left(&rig) == 4).then_some(()));
    // Removed: nobody has its class any more.
    fs::remove_file(rig.path("pools/shop.toml")).unwrap();
    rig.signal(Signal::SIGHUP);
    wait_for("the end of a class", SOON, || of("shop").is_none().then_some(()));
    wait_for("the end of its template", SOON, || {
        (kill(Pid::from_raw(gone[0]), None) == Err(Errno::ESRCH) && left(&rig) == 2).then_some(())
    });
    assert_eq!(of("blog").unwrap().waiting, kept, "the other class keeps what it has");
    // New, and of a class that no pool had: one is made before anybody asks.
    pool(&rig, "wiki", "12M");
    let class = classes(&rig);
    rig.signal(Signal::SIGHUP);
    let of = |pool: &str| stock(&rig).classes.into_iter().find(|one| one.class == class[pool]);
    wait_for("a template of the new class", SOON, || of("wiki").filter(|one| one.waiting.len() == 1));
    assert_eq!(start(&rig, "wiki"), ("template".to_owned(), String::new()));
    // Changed: it takes its class with it.
    stocked(&rig, 2);
    pool(&rig, "blog", "12M");
    rig.signal(Signal::SIGHUP);
    wait_for("the end of the class that it had", SOON, || {
        (of("blog").is_none() && left(&rig) == 2).then_some(())
    });
    assert_eq!(kill(Pid::from_raw(kept[0]), None), Err(Errno::ESRCH));
    // One that was made before it came has no rules for its directory, and is not spent on it.
    stocked(&rig, 1);
    assert_eq!(start(&rig, "blog"), ("template".to_owned(), String::new()));
}

/// A pool that mounts `count` directories, its document root among them.
fn pool_of_directories(rig: &Rig, name: &str, count: usize) {
    pool(rig, name, "10M");
    let file = rig.path(&format!("pools/{name}.toml"));
    let mut text = fs::read_to_string(&file).unwrap();
    for number in 1..count {
        let directory = rig.path(&format!("directories/{number}"));
        fs::create_dir_all(&directory).unwrap();
        text += &format!("[[mount]]\nsource = {directory:?}\ntarget = \"/srv/{number}\"\n");
    }
    fs::write(file, text).unwrap();
}

#[test]
fn the_directories_of_more_pools_than_a_template_knows_are_those_that_were_started_last() {
    let mut rig = Rig::new();
    keep(&rig, 1);
    pool_of_directories(&rig, "all", 499);
    pool(&rig, "last", "10M");
    rig.serve();
    stocked(&rig, 1);
    assert_eq!(start(&rig, "last"), ("template".to_owned(), String::new()), "the 500th directory is its");
    assert_eq!(rig.end(), 0);
    pool_of_directories(&rig, "all", 500);
    for pool in ["all", "last"] {
        // Nobody is to remember which was started last.
        let _ = fs::remove_dir_all(rig.path(&format!("run/pools/{pool}")));
    }
    rig.serve();
    stocked(&rig, 1);
    let (by, why) = start(&rig, "last");
    assert!(by == "cold launch" && why.contains("the template has other rules"), "{by}: {why}");
    stocked(&rig, 1);
    assert_eq!(start(&rig, "last"), ("template".to_owned(), String::new()), "it was started last");
}
