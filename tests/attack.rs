//! The attacks of `howdah audit`, and that each of them is one: with nothing in
//! its way it succeeds, and each wall that the table names holds it alone.
//!
//! - `naked` is a profile with every wall down that a profile can take down.
//! - Where no profile can (mounts, processes, the socket's repair), the control
//!   is the host itself, outside any sandbox. Every attack is harmless there.
//! - For every wall there is `naked` with that one wall up.
//! - What is bound to a template is attacked as well, and nothing may come of an attack there that
//!   does not come of it in a cold launch.
#![allow(missing_docs)]

mod rig;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use howdah::attack::{ATTACKS, Control, Wall};
use howdah::sandbox::landlock;
use rig::Rig;
use rig::templates::keep;
use rig::world::World;
use serde_json::Value;

/// What a kernel may lack; what an image may.
const NOT_TRIED: [&str; 6] = [
    "the kernel does not have it",
    "the kernel has no 32-bit entry",
    "only x86 has it",
    "the image has no such program",
    // A machine without a network; a pool without a TCP listener.
    "the host has no way there",
    "no listening socket of TCP",
];

/// Attacks of which another thing may come in a sandbox that was bound to a template than in one
/// that was launched cold, and why.
const MAY_DIFFER: [(&str, &str); 0] = [];

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

/// One audit at a time, so that what it leaves can be seen.
static ALONE: Mutex<()> = Mutex::new(());

/// Of one sandbox; of a pool's, launched cold.
fn audit(rig: &Rig, words: &[&str]) -> Outcomes {
    let is_of_pool = !words.iter().any(|word| ["--outside", "--in"].contains(word));
    let (outcomes, start) = audit_one(rig, &[if is_of_pool { COLD } else { &[] }, words].concat());
    assert_eq!(start.as_deref(), is_of_pool.then_some("cold launch"));
    outcomes
}

const COLD: &[&str] = &["--start", "cold"];

/// Of a pool's sandbox that was bound to a template.
fn audit_template(rig: &Rig, words: &[&str]) -> Outcomes {
    let (outcomes, start) = audit_one(rig, &[&["--start", "template"], words].concat());
    assert_eq!(start.as_deref(), Some("template"));
    outcomes
}

/// Where the spec has no filter the gate's is one all the same, and the probe cannot tell who says
/// that a call is not there.
fn is_lacking((outcome, detail): &(String, String)) -> bool {
    let lacks = outcome == "not-tried" && detail == "the kernel does not have it";
    lacks || outcome == "held" && ["ENOSYS", "EAFNOSUPPORT", "EOPNOTSUPP"].contains(&detail.as_str())
}

/// What differs between the ways to start, but for what may.
fn different(cold: &Outcomes, template: &Outcomes, run: &str) -> Vec<String> {
    assert!(cold.keys().eq(template.keys()) && cold.len() == ATTACKS.len());
    let differ = cold.iter().zip(template.values()).filter(|((id, cold), template)| {
        cold.0 != template.0
            && !(is_lacking(cold) && is_lacking(template))
            && MAY_DIFFER.iter().all(|(known, _)| known != id)
    });
    differ
        .map(|((id, cold), template)| format!("{run}: {id}: cold {cold:?}, by template {template:?}"))
        .collect()
}

fn audit_one(rig: &Rig, words: &[&str]) -> (Outcomes, Option<String>) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let before = traces(rig);
    let output = command(rig, &[&["--json"], words].concat()).output().unwrap();
    assert_clean(rig, &before, &words.join(" "));
    let cards = cards(&output);
    assert_eq!(cards.len(), 1);
    let outcomes = outcomes(&cards[0]);
    let open = outcomes.values().filter(|(outcome, _)| outcome == "open").count();
    assert_eq!(output.status.code(), Some(i32::from(open > 0)), "{open} open");
    (outcomes, cards[0]["start"].as_str().map(str::to_owned))
}

/// `howdah audit`, whose scratch directories are below the rig's.
fn command(rig: &Rig, words: &[&str]) -> Command {
    fs::create_dir_all(rig.path("tmp")).unwrap();
    let mut command = Command::new(rig::HOWDAH);
    // howdah.toml has the time that a php-fpm may take here, which is more under emulation.
    command
        .arg("audit")
        .arg("--config")
        .arg(rig.path("howdah.toml"))
        .args(words)
        .env("TMPDIR", rig.path("tmp"))
        .stdin(Stdio::null());
    command
}

/// Files, System V objects and processes that look like an audit's.
fn traces(rig: &Rig) -> Vec<String> {
    let scratch = rig.path("tmp");
    fs::create_dir_all(&scratch).unwrap();
    let names = ["/tmp", "/run", "/dev/shm"].iter().flat_map(|place| fs::read_dir(place).unwrap().flatten());
    let is_canary = |path: &String| {
        let word = path.split("/howdah-").nth(1).unwrap_or_default();
        let number = word.split(['.', '-']).next().unwrap_or_default();
        number.len() == 8 && number.chars().all(|c| c.is_ascii_hexdigit())
    };
    let mut found: Vec<String> =
        names.map(|entry| entry.path().display().to_string()).filter(is_canary).collect();
    let own = fs::read_dir(scratch).unwrap().flatten();
    found.extend(own.map(|entry| entry.path().display().to_string()));
    for table in ["shm", "sem", "msg"] {
        let text = fs::read_to_string(format!("/proc/sysvipc/{table}")).unwrap_or_default();
        found.extend(text.lines().skip(1).map(|line| format!("{table}: {line}")));
    }
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let programs =
        processes.filter_map(|entry| Some((entry.path(), fs::read_link(entry.path().join("exe")).ok()?)));
    let probes = programs.filter(|(_, program)| program.display().to_string().contains("howdah-probe"));
    found.extend(probes.map(|(process, _)| process.display().to_string()));
    found.sort();
    found
}

/// Nothing is left that was not there before. What goes by itself is another audit's
/// on this machine.
fn assert_clean(rig: &Rig, before: &[String], when: &str) {
    let mut left = traces(rig);
    left.retain(|trace| !before.contains(trace));
    let end = Instant::now() + Duration::from_secs(30) * rig::patience();
    while !left.is_empty() {
        assert!(Instant::now() < end, "{when}: an audit leaves something behind: {left:?}");
        std::thread::sleep(Duration::from_millis(50));
        let now = traces(rig);
        left.retain(|trace| now.contains(trace));
    }
}

/// A pool with a socket of each family, code, a writable mount, and programs that give privileges.
/// Below ABI 4 every profile but compat refuses TCP.
fn pool(rig: &Rig) -> PathBuf {
    pool_with(rig, landlock::kernel_abi() >= 4)
}

fn pool_with(rig: &Rig, tcp: bool) -> PathBuf {
    rig.site("blog", "index.php", "<?php", rig::TENANT);
    rig.shell(
        "mkdir blog/uploads && chmod 777 blog/uploads && cp /usr/bin/env blog/capable && cp /usr/bin/env blog/setuid \
         && setcap cap_block_suspend+ep blog/capable && chmod 4755 blog/setuid",
    );
    let port = rig::port::free_port("127.0.0.1").port();
    let tcp = if tcp { format!(", \"127.0.0.1:{port}\"") } else { String::new() };
    let text = format!(
        "listen = [{:?}{tcp}]\nuser = \"www-data\"\n\
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
    let name = up.map_or("naked".to_owned(), |wall| wall.replace([' ', '/'], "-"));
    naked_with(rig, &name, up.as_slice())
}

fn naked_with(rig: &Rig, name: &str, up: &[&str]) -> PathBuf {
    let mut text = String::new();
    let mut shared = Vec::new();
    for (wall, key, down) in SWITCHES {
        if up.contains(&wall) || (up.contains(&"seccomp") && key == "no_new_privs") {
            // The kernel takes a filter from nobody who may still gain privileges.
            continue;
        }
        match key {
            "user" | "network" | "ipc" | "uts" | "cgroup" => shared.push(key),
            "capabilities" => text.push_str(&format!("capabilities = {:?}\n", capabilities())),
            _ => text.push_str(&format!("{key} = {down}\n")),
        }
    }
    text.push_str(&format!("share = {shared:?}\ntcp_listener_held = false\n"));
    rig.profile(name, &text)
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
    let pool = pool_with(&rig, true);
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
fn every_attack_is_held_by_every_profile_but_for_what_compat_says_it_opens() {
    let rig = Rig::new();
    let pool = pool(&rig);
    // Its files say so: programs in /tmp, what the machine is, a slowlog, old interpreters, and watchers.
    let compat = [
        "execute-written",
        "map-written",
        "kernel-modules",
        "ptrace",
        "process-vm-readv",
        "personality",
        "inotify",
    ];
    for (profile, opened) in [("strict", &[][..]), ("hosting", &[]), ("ci", &[]), ("compat", &compat)] {
        let words = ["--profile", profile, pool.to_str().unwrap()];
        let seen = audit(&rig, &words);
        let all = ATTACKS.iter().map(|attack| attack.id);
        let held = all.filter(|id| !opened.contains(id));
        let mut wrong = unmet(&seen, held, "held", profile);
        wrong.extend(unmet(&seen, opened.iter().copied(), "open", profile));
        wrong.extend(different(&seen, &audit_template(&rig, &words), profile));
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

#[test]
fn in_a_template_too_an_attack_succeeds_where_nothing_is_in_its_way() {
    let rig = Rig::new();
    let pool = pool_with(&rig, true);
    // The walls that a template cannot do without, beside those that no profile can take down.
    let up = ["user namespace", "uts namespace", "ipc namespace"];
    let profile = naked_with(&rig, "naked-template", &up);
    let words = ["--profile", profile.to_str().unwrap(), pool.to_str().unwrap()];
    let (cold, template) = (audit(&rig, &words), audit_template(&rig, &words));
    let wrong = different(&cold, &template, "naked-template");
    // Some that need a wall down that is up here, or more than a user namespace's root, are held in both.
    let open = template.values().filter(|(outcome, _)| outcome == "open").count();
    assert!(open > 55, "only {open} are open");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_pool_is_attacked_by_each_way_in_which_it_can_start() {
    let rig = Rig::new();
    let pool = pool(&rig);
    let pool = pool.to_str().unwrap();
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let starts = |words: &[&str]| {
        let cards = cards(&command(&rig, &[&["--json"], words].concat()).output().unwrap());
        cards.iter().map(|card| card["start"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    keep(&rig, 0);
    assert_eq!(starts(&[pool]), ["cold launch"]);
    keep(&rig, 1);
    assert_eq!(starts(&[pool]), ["cold launch", "template"]);
    let shared = rig.profile("shared", "share = [\"uts\"]");
    let words = ["--profile", shared.to_str().unwrap(), pool];
    assert_eq!(starts(&words), ["cold launch"], "serve always starts it cold");
    let refused = command(&rig, &[&["--start", "template"], &words[..]].concat()).output().unwrap();
    let line = String::from_utf8(refused.stderr).unwrap();
    let told = "howdah: pool blog: it always starts cold: its profile leaves out a namespace that a template needs\n";
    assert_eq!((refused.status.code(), line.as_str()), (Some(5), told));
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

#[test]
fn the_card_tells_the_total_and_of_each_open_attack_what_to_change() {
    let rig = Rig::new();
    let pool = pool(&rig);
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let cold = |words: &[&str]| command(&rig, &[COLD, words].concat());
    let whole = cold(&[pool.to_str().unwrap()]).output().unwrap();
    let text = String::from_utf8(whole.stdout).unwrap();
    assert_eq!(whole.status.code(), Some(0), "{text}");
    let last = text.lines().last().unwrap();
    let words: Vec<&str> = last.split([' ', ',']).collect();
    assert!(words[0] == words[2] && words[3] == "held" && words[0].parse::<usize>().unwrap() > 100, "{last}");
    assert!(!text.contains('\x1b') && text.contains("closed descriptors"), "{text}");
    let leaky = rig.profile("leaky", "close_descriptors = false");
    let open = cold(&["--profile", leaky.to_str().unwrap(), pool.to_str().unwrap()]).output().unwrap();
    let text = String::from_utf8(open.stdout).unwrap();
    assert_eq!(open.status.code(), Some(1), "{text}");
    let at = text.lines().position(|line| line.contains("OPEN  leaked-descriptor: ")).expect(&text);
    let hint = text.lines().nth(at + 1).unwrap();
    assert_eq!(
        hint.trim(),
        format!("hint: {}:1 says close_descriptors = false: write close_descriptors = true", leaky.display())
    );
    assert_eq!(text.matches("OPEN").count(), 1, "{text}");
    // A built-in profile is named as well; and a pool's own file.
    let compat = cold(&["--profile", "compat", pool.to_str().unwrap()]).output().unwrap();
    let text = String::from_utf8(compat.stdout).unwrap();
    let hint = "hint: (built in)/compat.toml:14 says proc = \"full\": write proc = \"pid\"";
    assert!(text.contains(hint), "{text}");
    let own = fs::read_to_string(&pool).unwrap() + "[network]\nmode = \"host\"\n";
    fs::write(&pool, own).unwrap();
    let host = cold(&[pool.to_str().unwrap()]).output().unwrap();
    let text = String::from_utf8(host.stdout).unwrap();
    let line = fs::read_to_string(&pool).unwrap().lines().count();
    let hint = format!("hint: {}:{line} says network.mode = \"host\": take the line out", pool.display());
    assert!(text.contains(&hint), "{text}");
}

#[test]
fn another_launcher_is_attacked_by_the_same_probe() {
    let rig = Rig::new();
    let bare = audit(&rig, &["--in", "env"]);
    let walled = audit(
        &rig,
        &[
            "--in",
            "bwrap",
            "--ro-bind",
            "/",
            "/",
            "--proc",
            "/proc",
            "--dev",
            "/dev",
            "--unshare-all",
            "--die-with-parent",
        ],
    );
    for (attack, inside) in
        [("host-processes", "held"), ("host-tcp", "held"), ("unshare-user", "open"), ("shadow", "open")]
    {
        assert_eq!(bare[attack].0, "open", "{attack} bare: {}", bare[attack].1);
        assert_eq!(walled[attack].0, inside, "{attack} in bwrap: {}", walled[attack].1);
    }
    // A launcher in which the probe is not: no card, and why.
    let output = command(&rig, &["--in", "true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(5));
    let line = String::from_utf8(output.stderr).unwrap();
    assert!(line.starts_with("howdah: the probe did not come to its end inside the command"), "{line}");
    assert_eq!(line.lines().count(), 1);
}

#[test]
fn it_goes_away_when_it_is_interrupted() {
    let rig = Rig::new();
    let pool = pool(&rig);
    let pool = pool.to_str().unwrap();
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let before = traces(&rig);
    let template: &[&str] = &["--start", "template"];
    for (wait, way) in [(50, COLD), (150, COLD), (400, COLD), (700, COLD), (300, template), (600, template)] {
        let mut audit = command(&rig, &[way, &[pool]].concat())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(wait));
        let pid = nix::unistd::Pid::from_raw(audit.id() as i32);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT);
        let status = audit.wait().unwrap();
        // It may be over before; a signal before anything is made kills as usual.
        assert!(matches!(status.code(), None | Some(0 | 130)), "after {wait} ms: {status:?}");
        assert_clean(&rig, &before, &format!("after {wait} ms"));
    }
    // Killed: what is outside its sandboxes goes all the same, as soon as nobody holds it.
    let mut audit = command(&rig, &[pool]).stdout(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(400));
    audit.kill().unwrap();
    audit.wait().unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    let scratch = rig.path("tmp").display().to_string();
    // Its scratch directory nobody was left to remove.
    while traces(&rig).iter().any(|trace| !before.contains(trace) && !trace.starts_with(&scratch)) {
        assert!(Instant::now() < end, "{:?}", traces(&rig));
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn without_root_it_works_the_same() {
    let rig = Rig::new().rootless();
    let pool = pool(&rig);
    rig.shell("mkdir home tmp && chown www-data home tmp");
    // What this one makes would be the others' to complain about.
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut audit = Command::new(rig.path("howdah"));
    audit
        .arg("audit")
        .arg("--config")
        .arg(rig.path("howdah.toml"))
        .arg("--json")
        .arg(pool)
        .stdin(Stdio::null());
    audit.env("HOME", rig.path("home")).env("TMPDIR", rig.path("tmp")).uid(rig::TENANT.1).gid(rig::TENANT.2);
    let seen = outcomes(&cards(&audit.output().unwrap())[0]);
    let wrong = unmet(&seen, ATTACKS.iter().map(|attack| attack.id), "held", "rootless");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_pool_with_a_way_out_is_held_as_well() {
    let rig = Rig::new();
    let world = World::new(&rig);
    let file = pool(&rig);
    // A way out and a socket of the host's network do not go together.
    let text = fs::read_to_string(&file).unwrap() + "[network]\nmode = \"outbound\"\n";
    let (_, rest) = text.split_once('\n').unwrap();
    let text = format!("listen = {:?}\n{rest}", rig.socket("blog"));
    fs::write(&file, text).unwrap();
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut audit = Command::new("nsenter");
    audit.args(&world.words()[1..]).arg(rig::HOWDAH).args(["audit", "--json", "--config"]);
    audit.arg(rig.path("howdah.toml")).arg(file);
    audit.env("TMPDIR", rig.path("")).stdin(Stdio::null());
    let seen = outcomes(&cards(&audit.output().unwrap())[0]);
    let wrong = unmet(&seen, ATTACKS.iter().map(|attack| attack.id), "held", "outbound");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_example_is_held() {
    let rig = Rig::new();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut pools: Vec<PathBuf> = Vec::new();
    let mut places = vec![examples];
    while let Some(place) = places.pop() {
        for entry in fs::read_dir(place).unwrap().flatten() {
            match entry.path() {
                path if path.is_dir() => places.push(path),
                path if path.parent().unwrap().ends_with("pools") => pools.push(path),
                _ => {}
            }
        }
    }
    assert!(pools.len() >= 4, "{pools:?}");
    for example in pools {
        // Its paths are a server's: below a directory of the test's own, where each is made.
        let text = fs::read_to_string(&example).unwrap();
        let below = rig.path("host").display().to_string();
        let moved = ["/srv", "/run", "/var"]
            .iter()
            .fold(text, |text, place| text.replace(&format!("\"{place}"), &format!("\"{below}{place}")));
        let file = rig.write(&format!("pools/{}", example.file_name().unwrap().to_string_lossy()), &moved);
        // Where one is mounted into another, its place must be there too.
        for path in moved.lines().filter_map(|line| line.split('"').nth(1)) {
            let is_directory = path.starts_with(&below) && !path.ends_with(".sock");
            if is_directory {
                rig.shell(&format!("mkdir -p {path} && chmod 755 {path}"));
            }
        }
        let name = example.display().to_string();
        let seen = audit(&rig, &[file.to_str().unwrap()]);
        let mut wrong = unmet(&seen, ATTACKS.iter().map(|attack| attack.id), "held", &name);
        let outbound = moved.contains("mode = \"outbound\"");
        if !outbound {
            wrong.extend(different(&seen, &audit_template(&rig, &[file.to_str().unwrap()]), &name));
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}
