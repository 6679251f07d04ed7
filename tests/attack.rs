//! The attacks of `howdah audit`, and that each of them is one: with nothing in
//! its way it succeeds, and each wall that the table names holds it alone.
//!
//! - `naked` is a profile with every wall down that a profile can take down.
//! - Where no profile can (mounts, processes, the socket's repair), the control
//!   is the host itself, outside any sandbox. Every attack is harmless there.
//! - For every wall there is `naked` with that one wall up.
#![allow(missing_docs)]

mod rig;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Output;

use howdah::attack::{ATTACKS, Control, Wall};
use howdah::sandbox::landlock;
use rig::Rig;
use serde_json::Value;

/// What a kernel may lack; what an image may.
const NOT_TRIED: [&str; 4] = [
    "the kernel does not have it",
    "the kernel has no 32-bit entry",
    "only x86 has it",
    "the image has no such program",
];

/// Each attack's outcome and detail.
type Outcomes = BTreeMap<String, (String, String)>;

fn outcomes(card: &Value) -> Outcomes {
    let one = |finding: &Value| {
        let word = |key: &str| finding[key].as_str().unwrap().to_owned();
        (word("attack"), (word("outcome"), word("detail")))
    };
    card["attacks"].as_array().unwrap().iter().map(one).collect()
}

fn cards(output: &Output) -> Vec<Value> {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(0 | 1)), "{:?}: {errors}", output.status);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {errors}"))
}

fn audit(rig: &Rig, words: &[&str]) -> Outcomes {
    let output = rig.howdah(&[&["audit", "--json"], words].concat());
    let cards = cards(&output);
    assert_eq!(cards.len(), 1);
    let outcomes = outcomes(&cards[0]);
    let open = outcomes.values().filter(|(outcome, _)| outcome == "open").count();
    assert_eq!(output.status.code(), Some(i32::from(open > 0)), "{open} open");
    outcomes
}

/// A pool with a socket of each family, code, a writable mount, and programs that give privileges.
fn pool(rig: &Rig) -> PathBuf {
    rig.site("blog", "index.php", "<?php", rig::TENANT);
    rig.shell(
        "mkdir blog/uploads && chmod 777 blog/uploads && cp /usr/bin/env blog/capable && cp /usr/bin/env blog/setuid \
         && setcap cap_block_suspend+ep blog/capable && chmod 4755 blog/setuid",
    );
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let text = format!(
        "listen = [{:?}, \"127.0.0.1:{port}\"]\nuser = \"www-data\"\n\
         [[mount]]\nsource = {:?}\n[[mount]]\nsource = {:?}\naccess = \"rw\"\n",
        rig.socket("blog"),
        rig.path("blog"),
        rig.path("blog/uploads"),
    );
    rig.write("pools/blog.toml", &text)
}

/// Every switch of a profile, and what takes its wall down.
const SWITCHES: [(&str, &str, &str); 12] = [
    // The wall, its key, and the value that takes it down.
    ("seccomp", "seccomp", "\"off\""),
    ("Landlock", "landlock", "false"),
    ("no_new_privs", "no_new_privs", "false"),
    ("no capabilities", "capabilities", ""),
    ("closed descriptors", "close_descriptors", "false"),
    ("/proc of processes only", "proc", "\"full\""),
    ("masked paths of /proc", "masked_paths", "[]\nreadonly_paths = []"),
    ("user namespace", "user", ""),
    ("network namespace", "network", ""),
    ("ipc namespace", "ipc", ""),
    ("uts namespace", "uts", ""),
    ("cgroup namespace", "cgroup", ""),
];

/// A profile with every wall down but `up`.
fn naked_but(rig: &Rig, up: Option<&str>) -> PathBuf {
    let mut text = String::new();
    let mut shared = Vec::new();
    for (wall, key, down) in SWITCHES {
        if up == Some(wall) || (up == Some("seccomp") && key == "no_new_privs") {
            // The kernel takes a filter from nobody who may still gain privileges.
            continue;
        }
        match key {
            "user" | "network" | "ipc" | "uts" | "cgroup" => shared.push(key),
            "capabilities" => text.push_str(&format!("capabilities = {:?}\n", capabilities())),
            _ => text.push_str(&format!("{key} = {down}\n")),
        }
    }
    text.push_str(&format!("share = {shared:?}\n"));
    let name = up.map_or("naked".to_owned(), |wall| wall.replace([' ', '/'], "-"));
    rig.profile(&name, &text)
}

/// All that this machine's root has, which in a container is not all there is.
fn capabilities() -> Vec<String> {
    let held = caps::read(None, caps::CapSet::Permitted).unwrap();
    held.into_iter().map(|capability| capability.to_string()).collect()
}

/// What must be, and is not; each told with what was seen.
fn unmet(
    seen: &Outcomes,
    ids: impl IntoIterator<Item = &'static str>,
    wanted: &str,
    run: &str,
) -> Vec<String> {
    let one = |id: &'static str| {
        let (outcome, detail) = &seen[id];
        let lacking = outcome == "not-tried" && NOT_TRIED.contains(&detail.as_str());
        (outcome != wanted && !lacking)
            .then(|| format!("{run}: {id} is {outcome} and not {wanted}: {detail}"))
    };
    ids.into_iter().filter_map(one).collect()
}

fn by_control(control: Control) -> impl Iterator<Item = &'static str> {
    ATTACKS.iter().filter(move |attack| attack.control == control).map(|attack| attack.id)
}

#[test]
fn every_attack_succeeds_where_nothing_is_in_its_way_and_every_wall_holds_its_attacks_alone() {
    let rig = Rig::new();
    let pool = pool(&rig);
    let pool = pool.to_str().unwrap();
    let mut wrong = unmet(&audit(&rig, &["--outside"]), by_control(Control::Outside), "open", "outside");
    let run = |profile: &Path| audit(&rig, &["--profile", profile.to_str().unwrap(), pool]);
    let naked = run(&naked_but(&rig, None));
    wrong.extend(unmet(&naked, by_control(Control::Naked), "open", "naked"));
    for (wall, _, _) in SWITCHES {
        let named = |other: &Wall| match other {
            Wall::Landlock(abi) => wall == "Landlock" && *abi <= landlock::kernel_abi(),
            other => other.name() == wall,
        };
        let of_wall = ATTACKS.iter().filter(|attack| attack.walls.iter().any(named));
        let seen = run(&naked_but(&rig, Some(wall)));
        wrong.extend(unmet(&seen, of_wall.map(|attack| attack.id), "held", wall));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_attack_is_held_by_hosting() {
    let rig = Rig::new();
    let pool = pool(&rig);
    let seen = audit(&rig, &[pool.to_str().unwrap()]);
    let all = ATTACKS.iter().map(|attack| attack.id);
    let wrong = unmet(&seen, all, "held", "hosting");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Nothing of an audit stays.
    let left: Vec<_> = ["/tmp", "/run", "/dev/shm"]
        .iter()
        .flat_map(|place| std::fs::read_dir(place).unwrap().flatten())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("howdah-") && name.len() == "howdah-12345678".len())
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn the_table_is_well_made() {
    for (place, attack) in ATTACKS.iter().enumerate() {
        assert!(!attack.walls.is_empty(), "{} has no wall", attack.id);
        assert!(!ATTACKS[..place].iter().any(|other| other.id == attack.id), "{} is there twice", attack.id);
        let removable = attack.walls.iter().all(|wall| wall.setting().is_some());
        assert!(removable || attack.control == Control::Outside, "{}: no profile opens it", attack.id);
    }
    // Every wall that a profile can take down holds something.
    for (wall, _, _) in SWITCHES {
        assert!(ATTACKS.iter().any(|attack| attack.walls.iter().any(|other| other.name() == wall)), "{wall}");
    }
}
