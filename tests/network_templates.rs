//! Pools with a way out that start by a template: when the way is made, what waits for it, and what
//! happens when it is not made. What such a pool reaches is in `tests/network.rs`, for both ways of start.
#![allow(missing_docs)]

mod rig;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rig::fault::{Call, Fault, Instead};
use rig::held::Held;
use rig::templates::{keep, started_by, stocked, waiting};
use rig::world::{World, processes_named, wait_gone};
use rig::{Rig, TENANT, patience, wait_for};

const SOON: Duration = Duration::from_secs(20);
const OUTBOUND: &str = "[network]\nmode = \"outbound\"\n";
const SHORT: &str = "[idle]\nstop = \"100ms\"\n";
/// A web server of the world.
const WORLD: &str = "203.0.113.1:80";
const SEEN: std::sync::atomic::Ordering = std::sync::atomic::Ordering::SeqCst;
/// Longer than a template that was let go on may take until it is ready: a fifth of `start.timeout`.
const LONG: Duration = Duration::from_millis(2500);

/// PHP: what the web server at an address says, at the first attempt.
fn get(address: &str) -> String {
    format!(
        "$s = @stream_socket_client('tcp://{address}', $code, $text, 3);
         if (!$s) {{ echo \"refused: $text\"; return; }}
         fwrite($s, \"GET / HTTP/1.0\\r\\n\\r\\n\"); echo explode(\"\\r\\n\\r\\n\", stream_get_contents($s))[1];"
    )
}

/// A rig with `templates` of each class, and its world.
fn rig(templates: u32) -> (Rig, World) {
    let rig = Rig::new();
    keep(&rig, templates);
    let world = World::new(&rig);
    (rig, world)
}

/// In the place of nft or pasta in `world` from now on: `script`, for which `$real` is the program itself.
fn replace(rig: &Rig, world: &World, program: &str, script: &str) {
    let directory = rig.path("real");
    rig.shell("mkdir -p real");
    // pasta looks beside itself for the build of itself that fits the processor.
    let copy = format!(
        "file=$(readlink -f $(command -v {program})); cp -a $file* real; [ -e real/{program} ] || ln -s ${{file##*/}} real/{program}"
    );
    rig.shell(&copy);
    let wrapper = rig.write(
        &format!("wrapper-{program}"),
        &format!("#!/bin/sh\nreal={}/{program}\n{script}\n", directory.display()),
    );
    rig.shell(&format!("chmod 755 {}", wrapper.display()));
    world.run(&format!("mount --bind {} \"$(readlink -f $(command -v {program}))\"", wrapper.display()));
}

/// A wrapper that waits until the file `go` is there.
fn held_back(rig: &Rig) -> String {
    format!("while [ ! -e {} ]; do sleep 0.02; done; exec \"$real\" \"$@\"", rig.path("go").display())
}

/// A wrapper that fails once for each file `marks/broken`.
fn fails(rig: &Rig) -> String {
    // pasta runs as the pool's account.
    let mark = rig.private("marks", TENANT).join("broken");
    format!(
        "[ ! -e {0} ] || {{ rm {0}; echo it has failed >&2; exit 1; }}; exec \"$real\" \"$@\"",
        mark.display()
    )
}

fn interfaces(pid: i32) -> String {
    let pid = pid.to_string();
    let told = Command::new("nsenter").args(["-t", &pid, "-n", "ip", "-br", "link"]).output().unwrap();
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    String::from_utf8(told.stdout).unwrap()
}

/// The number of the system call in which a process sleeps.
fn call(pid: i32) -> i64 {
    let text = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    text.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(-1)
}

/// Clock ticks that a process has used.
fn ticks(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = text.rsplit_once(") ").unwrap();
    let field = |at: usize| rest.split(' ').nth(at).unwrap().parse::<u64>().unwrap();
    field(11) + field(12)
}

/// What howdah holds: descriptors and children, dead ones among them.
fn holdings(rig: &Rig) -> (usize, usize) {
    let pid = rig.pid();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    (fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(), children.split_whitespace().count())
}

/// Waits until a template's rules are in force: on a busy machine it waits for a pool before that.
fn wait_filtered(rig: &Rig, template: i32) {
    let template = template.to_string();
    wait_for("rules that were made ahead", SOON, || {
        let words = ["-t", &template, "-n", "nft", "list", "table", "inet", "howdah"];
        let there = Command::new("nsenter").args(words).output().unwrap().status.success();
        let howdah = rig.pid();
        let children = fs::read_to_string(format!("/proc/{howdah}/task/{howdah}/children")).unwrap();
        let is_nft = |pid: &str| {
            fs::read_to_string(format!("/proc/{pid}/stat"))
                .is_ok_and(|stat| stat.contains("(nft)") && !stat.contains(") Z "))
        };
        (there && !children.split_whitespace().any(is_nft)).then_some(())
    });
}

/// The directory of the cgroup of a process.
fn cgroup_of(rig: &Rig, pid: i32) -> std::path::PathBuf {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap();
    rig.cgroup().join(Path::new(path).file_name().unwrap())
}

/// The pools `about` and `blog` of one class: the first template has the rules of the first.
fn two_with_rules(rig: &Rig) {
    rig.inside("about", TENANT, OUTBOUND);
    rig.inside("blog", TENANT, &format!("{SHORT}{OUTBOUND}dns = false\n"));
}

/// The pool `blog`, whose first request waits for what holds back `program`: what `look` sees
/// meanwhile of the template that it is to be, and what the request's script said.
fn while_held_back(program: &str, look: impl FnOnce(&Rig, i32)) {
    let (mut rig, world) = rig(1);
    rig.inside("blog", TENANT, OUTBOUND);
    replace(&rig, &world, program, &held_back(&rig));
    world.serve(&mut rig);
    let template = stocked(&rig, 1)[0];
    std::thread::scope(|scope| {
        let first = scope.spawn(|| rig.php("blog", &get(WORLD)));
        wait_for("epoll_create", SOON, || (call(template) == libc::SYS_epoll_create).then_some(()));
        let before = ticks(rig.pid());
        let began = Instant::now();
        look(&rig, template);
        std::thread::sleep((LONG * patience()).saturating_sub(began.elapsed()));
        assert!(!first.is_finished(), "it was answered before there was a way out");
        assert_eq!(call(template), libc::SYS_epoll_create, "{}", rig.log());
        let spent = ticks(rig.pid()) - before;
        assert!(spent < 20, "howdah worked {spent} ticks while there was nothing to do");
        rig.write("go", "");
        assert_eq!(first.join().unwrap(), "world", "{}", rig.log());
    });
    assert_eq!(started_by(&rig, "blog"), "template", "{}", rig.log());
    assert_eq!(rig.master("blog"), template);
    assert!(interfaces(template).contains("out0"), "{}", interfaces(template));
    assert_eq!(rig.end(), 0);
}

#[test]
fn php_fpm_gets_its_sockets_when_there_is_a_way_out_and_the_first_script_finds_it() {
    while_held_back("pasta", |rig, template| {
        // What would be there if it had them: workers, and the listener in the place of /dev/null.
        let children = fs::read_to_string(format!("/proc/{template}/task/{template}/children")).unwrap();
        assert_eq!(children, "", "it has workers already");
        let third = fs::read_link(format!("/proc/{template}/fd/3")).unwrap();
        assert_eq!(third, Path::new("/dev/null"), "it has its socket already");
        wait_for("its record", SOON, || (rig.record("blog").state == "starting").then_some(()));
    });
}

#[test]
fn the_rules_are_there_before_anything_leads_out() {
    while_held_back("nft", |rig, template| {
        let pastas = processes_named(&cgroup_of(rig, template), "passt");
        assert!(pastas.is_empty(), "pasta runs before the rules: {pastas:?}");
        let there = interfaces(template);
        assert!(there.starts_with("lo ") && there.lines().count() == 1, "{there}");
    });
}

#[test]
fn a_way_out_that_takes_too_long_is_told_by_its_name() {
    for templates in [0, 1] {
        let (mut rig, world) = rig(templates);
        rig.inside("blog", TENANT, &format!("{OUTBOUND}[start]\ntimeout = \"1s\"\n"));
        replace(&rig, &world, "pasta", &held_back(&rig));
        world.serve(&mut rig);
        stocked(&rig, templates as usize);
        assert_eq!(rig.try_get("blog", "/do.php").unwrap().status, 503);
        let line = rig.wait_log("[blog.1]");
        assert!(line.contains("nft and pasta made no way out within 1 s"), "{line}");
        assert_eq!(rig.end(), 0);
        assert!(!rig.cgroup().exists(), "something is left behind");
    }
}

#[test]
fn one_that_waits_is_nobody_s_and_leads_nowhere() {
    let (mut rig, world) = rig(1);
    rig.inside("blog", TENANT, OUTBOUND);
    world.serve(&mut rig);
    let template = stocked(&rig, 1)[0];
    let there = interfaces(template);
    assert!(there.starts_with("lo ") && there.lines().count() == 1, "{there}");
    assert!(processes_named(&cgroup_of(&rig, template), "passt").is_empty());
    // The control: the same one as the pool's.
    assert_eq!(rig.php("blog", &get(WORLD)), "world");
    assert_eq!(rig.master("blog"), template);
    assert!(interfaces(template).contains("out0"));
    assert_eq!(processes_named(&cgroup_of(&rig, template), "passt").len(), 1);
}

#[test]
fn rules_that_are_there_already_are_not_made_again_and_others_are() {
    let (mut rig, world) = rig(1);
    two_with_rules(&rig);
    rig.inside("open", TENANT, "[network]\nmode = \"host\"\n[start]\ntemplate = false\n");
    replace(&rig, &world, "nft", &fails(&rig));
    world.serve(&mut rig);
    let resolves = "echo gethostbyname('www.example.org');";
    // Whoever calls it from now on is sorry.
    let template = stocked(&rig, 1)[0];
    wait_filtered(&rig, template);
    rig.write("marks/broken", "");
    assert_eq!(rig.php("about", &get(WORLD)), "world");
    assert_eq!((started_by(&rig, "about").as_str(), rig.master("about")), ("template", template));
    assert_eq!(rig.php("about", resolves), "203.0.113.1");
    assert!(rig.php("about", &get("169.254.169.254:80")).starts_with("refused: "));
    assert_eq!(rig.php("open", &get("169.254.169.254:80")), "world");
    // That of the next did not come into being: it has none, and serves with its own.
    let template = stocked(&rig, 1)[0];
    let broken = rig.path("marks/broken");
    wait_for("nft to be called ahead", SOON, || (!broken.exists()).then_some(()));
    let held = Held::begin(&rig, "blog", "/do.php");
    assert_eq!(rig.php("blog", &get(WORLD)), "world");
    assert_eq!((started_by(&rig, "blog").as_str(), rig.master("blog")), ("template", template));
    assert_eq!(rig.php("blog", resolves), "www.example.org");
    held.answer();
    rig.wait_state("blog", "cold");
    // The next has the rules of this one, but for an address that the host got since.
    let template = stocked(&rig, 1)[0];
    world.run("ip addr add 192.0.2.99/32 dev lo");
    assert_eq!(rig.php("open", &get("192.0.2.99:81")), "host");
    let held = Held::begin(&rig, "blog", "/do.php");
    assert!(rig.php("blog", &get("192.0.2.99:81")).starts_with("refused: "));
    assert_eq!(rig.php("blog", &get(WORLD)), "world");
    assert_eq!(rig.master("blog"), template);
    held.answer();
}

#[test]
fn a_way_out_that_fails_costs_the_template_and_not_the_request() {
    for program in ["nft", "pasta"] {
        let (mut rig, world) = rig(1);
        two_with_rules(&rig);
        replace(&rig, &world, program, &fails(&rig));
        world.serve(&mut rig);
        let template = stocked(&rig, 1)[0];
        let cgroup = cgroup_of(&rig, template);
        rig.write("marks/broken", "");
        assert_eq!(rig.php("blog", &get(WORLD)), "world", "{program}: {}", rig.log());
        assert_eq!(started_by(&rig, "blog"), "cold launch", "{program}");
        let record = rig.record("blog");
        let why = record.last_start_not_by_template.unwrap_or_default();
        assert_eq!(why, "no network: pasta: it has failed", "{program}");
        assert_eq!(record.generation, 1, "{program}: it took a second start");
        assert!(rig.log().contains(&format!("not by a template: {why}")), "{program}: {}", rig.log());
        wait_for_the_end_of(template, &cgroup);
        rig.wait_state("blog", "cold");
        // And the next is one again.
        let template = stocked(&rig, 1)[0];
        assert_eq!(rig.php("blog", &get(WORLD)), "world", "{program}");
        wait_for("a start by a template", SOON, || {
            (rig.record("blog").last_start_by == "template").then_some(())
        });
        rig.wait_state("blog", "cold");
        wait_gone(template);
        assert_eq!(rig.end(), 0);
    }
}

/// Waits until nothing is there of the template whose process and cgroup these are.
fn wait_for_the_end_of(template: i32, cgroup: &Path) {
    wait_for("the template's end", SOON, || {
        (!cgroup.exists() && !Path::new(&format!("/proc/{template}")).exists()).then_some(())
    });
}

type Which = Box<dyn Fn(&Call) -> bool + Send>;

/// What can be seen of a network from inside: interfaces, addresses, routes, what may be written. Left out
/// are the interface's own address by chance, and who owns the files of /proc/sys/net: in a cold launch
/// the account (and nobody may write them), here nobody.
const LOOK: &str = r#"
    $told = [];
    // Their order is that of a hash with a secret of its own in each namespace; of an IPv6 route it is counted who uses it.
    foreach (['route', 'ipv6_route', 'if_inet6', 'igmp', 'fib_trie'] as $name) {
        $told[$name] = explode("\n", preg_replace('/^fe80.*\n|0x?[0-9A-F]+:[0-9A-F]{8}|(?<= )[0-9a-f]{8}(?= )/m', '', file_get_contents("/proc/net/$name")));
        if ($name != 'fib_trie') sort($told[$name]);
    }
    foreach (net_get_interfaces() as $name => $one)
        $told["interface $name"] = [$one['up'], array_values(preg_grep('/^fe80/', array_map(fn($u) => $u['address'] ?? '', $one['unicast']), PREG_GREP_INVERT))];
    foreach (['/proc/net/route', '/proc/sys/net/ipv4/ip_forward', '/proc/sys/net/ipv4/ping_group_range', '/proc/sys/net/ipv4/conf/out0/forwarding'] as $path)
        $told["file $path"] = [fileperms($path), is_writable($path), @file_put_contents($path, ''), str_contains($path, 'sys') ? file_get_contents($path) : ''];
    $told['resolv.conf'] = file_get_contents('/etc/resolv.conf');
    $told['port 53'] = @stream_socket_server('udp://0.0.0.0:53', $code, $text, STREAM_SERVER_BIND) ? 'bound' : $text;
    echo json_encode($told, JSON_PRETTY_PRINT | JSON_UNESCAPED_SLASHES);
"#;

#[test]
fn from_inside_its_network_is_that_of_a_cold_launch() {
    let (mut rig, world) = rig(1);
    // What nobody sees behind the usual walls.
    rig.inside_without("blog", "proc = \"full\"\nseccomp = \"off\"\n", &format!("{SHORT}{OUTBOUND}"));
    world.serve(&mut rig);
    stocked(&rig, 1);
    let template = rig.php("blog", LOOK);
    assert_eq!(started_by(&rig, "blog"), "template", "{}", rig.log());
    assert!(template.contains("out0") && template.contains("192.0.0.2"), "{template}");
    rig.wait_state("blog", "cold");
    assert_eq!(rig.end(), 0);
    keep(&rig, 0);
    world.serve(&mut rig);
    let cold = rig.php("blog", LOOK);
    assert_eq!(started_by(&rig, "blog"), "cold launch");
    let differ: Vec<_> = template.lines().zip(cold.lines()).filter(|(one, other)| one != other).collect();
    assert!(differ.is_empty() && template.len() == cold.len(), "{differ:#?}\n{template}\n{cold}");
}

#[test]
fn each_step_of_making_the_way_out_may_fail() {
    let (mut rig, world) = rig(1);
    two_with_rules(&rig);
    world.serve(&mut rig);
    let number = |wanted: i64| -> Which { Box::new(move |call| call.number == wanted) };
    let epoll = |what: i32| -> Which {
        // The first takes it out of those whose end is watched.
        let count = std::sync::atomic::AtomicUsize::new(0);
        let is_it = move |call: &Call| call.number == libc::SYS_epoll_ctl && call.arguments[1] == what as u64;
        Box::new(move |call| is_it(call) && count.fetch_add(1, SEEN) == 1)
    };
    let steps: [(&str, Errno, Which, &str); 7] = [
        ("the rules", Errno::EMFILE, number(libc::SYS_memfd_create), "filter the network"),
        (
            "to withhold its sockets",
            Errno::ENOENT,
            epoll(libc::EPOLL_CTL_DEL),
            "wait for the network (of a template)",
        ),
        (
            "its owner",
            Errno::EPERM,
            Box::new(|call| call.writes("/uid_map")),
            "map the uid and gid (of the network's",
        ),
        (
            "its owner's group",
            Errno::EPERM,
            Box::new(|call| call.writes("/gid_map")),
            "map the uid and gid (of the network's",
        ),
        (
            "the sign that it is there",
            Errno::EMFILE,
            number(libc::SYS_pipe2),
            "create namespaces (the way out)",
        ),
        ("a process for it", Errno::EAGAIN, number(libc::SYS_clone3), "create namespaces (the way out)"),
        ("what is bound meanwhile", Errno::ENOSPC, number(libc::SYS_move_mount), "mount "),
    ];
    let mut before = (0, 0);
    for (name, errno, which, words) in steps {
        let template = stocked(&rig, 1)[0];
        let cgroup = cgroup_of(&rig, template);
        let starts = rig.record("blog").starts;
        // What comes before is the same for every pool.
        let begun = std::sync::atomic::AtomicBool::new(false);
        let fault = Fault::at(rig.pid() as i32, Instead::Fails(errno), move |call| {
            begun.fetch_or(call.number == libc::SYS_openat && call.text(1) == "/proc/net/route", SEEN);
            begun.load(SEEN) && which(call)
        });
        assert_eq!(rig.php("blog", &get(WORLD)), "world", "{name}: {}", rig.log());
        assert!(fault.has_happened(), "{name}");
        let record = wait_for("the record of the start", SOON, || {
            Some(rig.record("blog")).filter(|record| record.starts == starts + 1)
        });
        assert_eq!(record.last_start_by, "cold launch", "{name}");
        let why = record.last_start_not_by_template.unwrap_or_default();
        assert!(why.starts_with(words) && why.contains(&format!("({errno:?})")), "{name}: {why}");
        wait_for_the_end_of(template, &cgroup);
        rig.wait_state("blog", "cold");
        if before == (0, 0) {
            stocked(&rig, 1);
            before = holdings(&rig);
        }
    }
    let template = stocked(&rig, 1)[0];
    // What was killed last may be on its way still.
    let what = format!("descriptors and children as before, {before:?}");
    wait_for(&what, SOON, || (holdings(&rig) == before).then_some(()));
    let held = Held::begin(&rig, "blog", "/do.php");
    assert_eq!(rig.php("blog", &get(WORLD)), "world");
    assert_eq!(rig.master("blog"), template, "the control: nothing fails");
    held.answer();
    assert_eq!(rig.end(), 0);
    rig.assert_nothing_is_left();
}

#[test]
fn howdah_may_die_while_the_way_out_is_made() {
    for program in ["nft", "pasta"] {
        let (mut rig, world) = rig(1);
        rig.inside("blog", TENANT, OUTBOUND);
        replace(&rig, &world, program, &held_back(&rig));
        world.serve(&mut rig);
        let template = stocked(&rig, 1)[0];
        let cgroup = cgroup_of(&rig, template);
        std::thread::scope(|scope| {
            scope.spawn(|| rig.try_get("blog", "/do.php"));
            wait_for("epoll_create", SOON, || (call(template) == libc::SYS_epoll_create).then_some(()));
            // It cannot end by itself before the next one looks at it.
            kill(Pid::from_raw(template), Signal::SIGSTOP).unwrap();
            kill(Pid::from_raw(rig.pid() as i32), Signal::SIGKILL).unwrap();
        });
        rig.crash();
        world.serve(&mut rig);
        wait_for_the_end_of(template, &cgroup);
        rig.write("go", "");
        assert_eq!(rig.php("blog", &get(WORLD)), "world", "{program}: {}", rig.log());
        assert_eq!(rig.end(), 0);
        assert!(!rig.cgroup().exists(), "{program}: something is left behind");
    }
}

#[test]
fn what_no_start_could_do_without_costs_no_template() {
    let (mut rig, world) = rig(1);
    rig.inside("blog", TENANT, OUTBOUND);
    world.run("mount --bind /dev/null \"$(readlink -f /usr/bin/pasta)\"");
    world.serve(&mut rig);
    let template = stocked(&rig, 1);
    assert_eq!(rig.try_get("blog", "/do.php").unwrap().status, 503);
    let line = rig.wait_log("[blog.1]");
    assert!(line.contains("needs pasta, which is not in"), "{line}");
    assert_eq!(waiting(&rig), template);
    // The control: installed, it is that one which serves.
    world.run("umount \"$(readlink -f /usr/bin/pasta)\"");
    wait_for("an answer", SOON, || {
        (rig.try_get("blog", "/do.php").is_ok_and(|said| said.status < 500)).then_some(())
    });
    assert_eq!(rig.master("blog"), template[0]);
}

#[test]
fn the_class_has_a_way_out_and_no_rules() {
    let (rig, world) = rig(0);
    for (name, network) in [
        ("one", OUTBOUND.to_owned()),
        ("two", format!("{OUTBOUND}allow = [\"10.1.1.1\"]\ndns = false\n")),
        ("none", String::new()),
        ("host", "[network]\nmode = \"host\"\n".to_owned()),
        // Landlock holds the ports.
        ("ports", format!("{OUTBOUND}allow = [\"*:80\"]\n")),
        ("same", format!("{OUTBOUND}allow = [\"10.0.0.0/8:80\"]\n")),
    ] {
        rig.inside(name, TENANT, &network);
    }
    let pools = rig.path("pools");
    let words = [&world.words()[..], &[rig::HOWDAH, "check", "--json", pools.to_str().unwrap()]].concat();
    let told = Command::new(words[0]).args(&words[1..]).output().unwrap();
    let told: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
    let class = |name: &str| {
        let pool = told["pools"].as_array().unwrap().iter().find(|pool| pool["pool"] == name).unwrap();
        assert!(pool["always_cold"].is_null(), "{pool}");
        pool["class"].as_str().unwrap().to_owned()
    };
    assert_eq!(class("one"), class("two"));
    assert_eq!(class("ports"), class("same"));
    let different = ["one", "none", "host", "ports"].map(class);
    let all: std::collections::BTreeSet<_> = different.iter().collect();
    assert_eq!(all.len(), 4, "{different:?}");
}

#[test]
fn audit_attacks_it_by_a_template() {
    let (rig, world) = rig(0);
    rig.inside("blog", TENANT, OUTBOUND);
    rig.inside("open", TENANT, "[network]\nmode = \"host\"\n");
    let outcomes = |start: &str, pool: &str| {
        let file = rig.path(&format!("pools/{pool}.toml"));
        let words = ["audit", "--json", "--start", start, file.to_str().unwrap()];
        let words = [&world.words()[..], &[rig::HOWDAH], &words].concat();
        let told = Command::new(words[0]).args(&words[1..]).output().unwrap();
        let said = String::from_utf8_lossy(&told.stderr).into_owned();
        assert_eq!(told.status.code(), Some(i32::from(pool == "open")), "{start}: {said}");
        let cards: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
        assert_eq!(cards[0]["start"], if start == "cold" { "cold launch" } else { start });
        let attacks = cards[0]["attacks"].as_array().unwrap().clone();
        let text = |one: &serde_json::Value, key: &str| one[key].as_str().unwrap().to_owned();
        attacks.iter().map(|one| (text(one, "attack"), text(one, "outcome"))).collect::<Vec<_>>()
    };
    let (template, cold) = (outcomes("template", "blog"), outcomes("cold", "blog"));
    assert_eq!(template, cold);
    let of = |outcomes: &[(String, String)], name: &str| {
        outcomes.iter().find(|(attack, _)| attack == name).unwrap().1.clone()
    };
    let control = outcomes("template", "open");
    for name in ["host-tcp", "host-udp", "host-address"] {
        assert_eq!(
            (of(&template, name), of(&control, name)),
            ("held".to_owned(), "open".to_owned()),
            "{name}"
        );
    }
}
