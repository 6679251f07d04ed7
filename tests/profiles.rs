//! Profiles, with the real php-fpm: what each of the four is seen to be from
//! inside, where each value comes from, and Landlock where it stands alone. Every
//! refusal has its control: the same deed in a pool without that one wall.
#![allow(missing_docs)]

mod rig;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Output;

use rig::{HOWDAH, Rig, TENANT};
use serde_json::Value;

/// The mount options of `target` as a process inside sees them.
fn options(rig: &Rig, pool: &str, target: &str) -> Vec<String> {
    let table = rig.php(pool, "echo file_get_contents('/proc/self/mountinfo');");
    let line = table.lines().rfind(|line| line.split(' ').nth(4) == Some(target));
    let line = line.unwrap_or_else(|| panic!("no {target} in:\n{table}"));
    line.split(' ').nth(5).unwrap().split(',').map(str::to_owned).collect()
}

/// `howdah check` with these words, on the rig's configuration and pools.
fn check(rig: &Rig, words: &[&str]) -> Output {
    let (config, pools) = (rig.path("howdah.toml"), rig.path("pools"));
    let files = [config.to_str().unwrap(), pools.to_str().unwrap()];
    rig.howdah(&[&["check", "--config"], &files[..], words].concat())
}

/// What `check --json` tells of one pool.
fn told(rig: &Rig, pool: &str) -> Value {
    let report: Value = serde_json::from_slice(&check(rig, &["--json"]).stdout).unwrap();
    let pools = report["pools"].as_array().unwrap().clone();
    pools.into_iter().find(|one| one["pool"] == pool).unwrap()
}

/// The settings in force, with their places.
fn settings(told: &Value) -> BTreeMap<String, (String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let list = told["settings"].as_array().unwrap();
    list.iter().map(|one| (text(&one["key"]), (text(&one["value"]), text(&one["from"])))).collect()
}

/// Copies a program into a directory of the pool's; 0 is what it returns when it may run.
const EXECUTE: &str =
    "function run($path) { $p = @proc_open([$path], [], $q); return $p ? proc_close($p) : -1; }";

#[test]
fn every_built_in_profile_runs_php_fpm_and_says_what_it_is() {
    let mut rig = Rig::new();
    let names = ["strict", "hosting", "compat", "ci"];
    for name in names {
        rig.inside(name, TENANT, &format!("profile = {name:?}"));
    }
    rig.serve();
    let newest = howdah::sandbox::landlock::abi_in_force();
    for name in names {
        let code =
            "session_start(); $f = tempnam('/tmp', 'x'); echo file_put_contents($f, 'text'), PHP_SAPI;";
        assert_eq!(rig.php(name, code), "4fpm-fcgi", "{name}");
        rig.wait_state(name, "warm");
        assert_eq!(rig.ps(name)["landlock_abi"], newest, "{name}");
        let told = told(&rig, name);
        assert_eq!(told["errors"], Value::Array(vec![]), "{name}");
        assert_eq!((&told["profile"], &told["network"]), (&name.into(), &"none".into()));
        for list in ["weakened", "stricter"] {
            assert_eq!(rig.ps(name)[list], told[list], "{name}");
        }
    }
    let empty = |name: &str, list: &str| rig.ps(name)[list].as_array().unwrap().is_empty();
    assert!(empty("strict", "weakened") && !empty("strict", "stricter"));
    assert!(empty("hosting", "weakened") && empty("hosting", "stricter"));
    assert!(!empty("compat", "weakened") && empty("compat", "stricter"));
    // What only compat shows: the machine, as old scripts want it.
    let look = "var_dump(@file_get_contents('/proc/meminfo') !== false);";
    for name in names {
        assert_eq!(rig.php(name, look), format!("bool({})\n", name == "compat"), "{name}");
    }
}

#[test]
fn mount_flags_are_seen_from_inside_and_decide_what_is_executed() {
    let mut rig = Rig::new();
    let upload = rig.private("upload", TENANT);
    for name in ["strict", "hosting", "compat", "ci"] {
        let mount = format!("profile = {name:?}\n[[mount]]\nsource = {upload:?}\naccess = \"rw\"");
        rig.inside(name, TENANT, &mount);
        fs::copy("/bin/true", rig.path(&format!("{name}/tool"))).unwrap();
    }
    rig.serve();
    for (name, code_runs, tmp_runs) in
        [("strict", false, false), ("hosting", true, false), ("compat", true, true), ("ci", true, false)]
    {
        let site = rig.path(name).display().to_string();
        let code = options(&rig, name, &site);
        let tmp = options(&rig, name, "/tmp");
        let has = |list: &[String], word: &str| list.iter().any(|option| option == word);
        assert!(has(&code, "ro") && has(&code, "nosuid") && has(&code, "nodev"), "{name}: {code:?}");
        assert_eq!(has(&code, "noexec"), !code_runs, "{name}: {code:?}");
        assert!(has(&tmp, "rw") && has(&tmp, "nosuid") && has(&tmp, "nodev"), "{name}: {tmp:?}");
        assert_eq!(has(&tmp, "noexec"), !tmp_runs, "{name}: {tmp:?}");
        for target in [upload.to_str().unwrap(), "/var/lib/php/sessions"] {
            let writable = options(&rig, name, target);
            assert!(has(&writable, "rw") && has(&writable, "noexec"), "{name}: {writable:?}");
        }
        let run = |path: &str| rig.php(name, &format!("{EXECUTE} echo run('{path}');"));
        let copy = |to: &str| rig.php(name, &format!("copy('/bin/true', '{to}'); chmod('{to}', 0755);"));
        assert_eq!(run(&format!("{site}/tool")) == "0", code_runs, "{name}: in code");
        copy("/tmp/tool");
        assert_eq!(run("/tmp/tool") == "0", tmp_runs, "{name}: in tmp");
        let uploaded = upload.join(format!("tool-{name}")).display().to_string();
        copy(&uploaded);
        assert_ne!(run(&uploaded), "0", "{name}: in an upload");
        // strict executes nothing after php-fpm, whatever the mounts say.
        assert_eq!(run("/bin/true") == "0", name != "strict", "{name}: the image's");
    }
}

/// A profile with nothing in the way of the deed but Landlock, and one without that.
fn landlock_alone(rig: &Rig, profile: &str, more: &str) {
    rig.inside_without("held", profile, more);
    rig.inside_without("open", &format!("landlock = false\n{profile}"), more);
}

#[test]
fn landlock_alone_refuses_execution_in_writable_places() {
    let mut rig = Rig::new();
    let upload = rig.private("upload", TENANT);
    let flags = "[mount_flags]\nwritable = [\"nosuid\", \"nodev\"]\ntmp = [\"nosuid\", \"nodev\"]";
    landlock_alone(&rig, flags, &format!("[[mount]]\nsource = {upload:?}\naccess = \"rw\""));
    rig.inside_without("said", &format!("landlock_execute = [\"code\", \"tmp\"]\n{flags}"), "");
    rig.serve();
    let places = ["/tmp", "/dev/shm", "/run", "/var/lib/php/sessions", upload.to_str().unwrap()];
    for place in places {
        let code = format!(
            "{EXECUTE} $f = '{place}/' . uniqid(); copy('/bin/true', $f); chmod($f, 0755); echo run($f);"
        );
        assert_ne!(rig.php("held", &code), "0", "{place}");
        assert_eq!(rig.php("open", &code), "0", "{place}");
        let tmp = !place.starts_with("/var") && *place != *upload.to_str().unwrap();
        if tmp {
            assert_eq!(rig.php("said", &code), "0", "{place}");
        }
    }
    let held = options(&rig, "held", "/tmp");
    assert!(!held.iter().any(|option| option == "noexec"), "{held:?}");
}

#[test]
fn landlock_alone_refuses_to_write_truncate_and_rename_in_code() {
    let mut rig = Rig::new();
    // Not below /tmp inside: what may be done there may be done in all that is mounted in it.
    let mount = |pool: &str| format!("[[mount]]\nsource = {:?}\ntarget = \"/srv/site\"", rig.path(pool));
    let flags = "[mount_flags]\ncode = [\"nosuid\", \"nodev\"]";
    rig.inside_without("held", flags, &mount("held"));
    rig.inside_without("open", &format!("landlock = false\n{flags}"), &mount("open"));
    for pool in ["held", "open"] {
        let file = rig.write(&format!("{pool}/page.php"), "<?php // a page");
        chown(&file, Some(TENANT.1), Some(TENANT.2)).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    }
    rig.serve();
    // Each leaves the file as it was, so that the next has something to do.
    let deeds = [
        ("write", "$f = @fopen('page.php', 'r+'); echo $f ? 'done' : 'refused';"),
        ("create", "echo @touch('new') && unlink('new') ? 'done' : 'refused';"),
        ("link", "echo @link('page.php', 'other') && unlink('other') ? 'done' : 'refused';"),
        ("rename", "echo @rename('page.php', 'x') && rename('x', 'page.php') ? 'done' : 'refused';"),
        ("remove", "echo @unlink('page.php') ? 'done' : 'refused';"),
    ];
    let truncate = "echo FFI::cdef('int truncate(const char *, long);')->truncate(getcwd() . '/page.php', 3) ? 'refused' : 'done';";
    let modern = howdah::sandbox::landlock::kernel_abi() >= 3;
    for (what, code) in [("truncate", truncate)].into_iter().filter(|_| modern).chain(deeds) {
        let code = format!("chdir('/srv/site'); {code}");
        assert_eq!(rig.php("held", &code), "refused", "{what}");
        assert_eq!(rig.php("open", &code), "done", "{what}");
    }
    assert_eq!(fs::read_to_string(rig.path("held/page.php")).unwrap(), "<?php // a page");
    assert!(!rig.path("open/page.php").exists());
}

#[test]
fn landlock_alone_refuses_ioctl_of_a_device_and_tcp_on_loopback() {
    if howdah::sandbox::landlock::kernel_abi() < 5 {
        return;
    }
    let mut rig = Rig::new();
    let profile = "seccomp = \"off\"\nloopback_tcp = false\n[mount_flags]\ncode = [\"ro\", \"nosuid\"]";
    // A node of its own: a rule is about a file, and the pool's /dev/random is one of the five.
    rig.shell("mknod random c 1 8; chmod 666 random");
    let mount = format!("[[mount]]\nsource = {:?}\ntarget = \"/srv/random\"", rig.path("random"));
    landlock_alone(&rig, profile, &mount);
    // RNDGETENTCNT: random(4) lets everybody ask.
    let ask = |path: &str| {
        format!(
            "$c = FFI::cdef('int open(const char *, int); int ioctl(int, unsigned long, int *);'); \
             $n = FFI::new('int'); echo $c->ioctl($c->open('{path}', 0), 0x80045200, FFI::addr($n));"
        )
    };
    rig.serve();
    assert_eq!(rig.php("held", &ask("/srv/random")), "-1");
    assert_eq!(rig.php("open", &ask("/srv/random")), "0");
    assert_eq!(rig.php("held", &ask("/dev/random")), "0", "one of the five");

    let serve = "echo @stream_socket_server('tcp://127.0.0.1:0') ? 'bound' : 'refused';";
    assert_eq!(rig.php("held", serve), "refused");
    assert_eq!(rig.php("open", serve), "bound");
    // Port 9 has no listener: whoever gets as far as that is told so by the network.
    let connect = "@fsockopen('127.0.0.1', 9, $errno); echo $errno;";
    assert_eq!(rig.php("held", connect), nix::libc::EACCES.to_string());
    assert_eq!(rig.php("open", connect), nix::libc::ECONNREFUSED.to_string());
}

#[test]
fn below_the_demanded_abi_a_pool_does_not_start_and_check_says_what_lacks() {
    let mut rig = Rig::new();
    rig.inside_without("new", "landlock_abi = 99", "");
    rig.inside_without("off", "landlock = false\nlandlock_abi = 99", "");
    let kernel = howdah::sandbox::landlock::abi_in_force();
    let reason = format!("the profile demands Landlock ABI 99 and this kernel has {kernel}: use ");
    let output = check(&rig, &[]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(4), "{error}");
    let file = rig.path("pools/new.toml");
    assert!(error.starts_with(&format!("howdah: {}: {reason}", file.display())), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    // A file that is wrong goes before a kernel that lacks something.
    rig.write("pools/wrong.toml", "listen = 5");
    assert_eq!(check(&rig, &[]).status.code(), Some(3));
    fs::remove_file(rig.path("pools/wrong.toml")).unwrap();

    rig.serve();
    assert_eq!(rig.try_get("new", "/do.php").unwrap().status, 503);
    rig.wait_log(&format!("howdah: pool new: {reason}"));
    assert!(rig.ps("new")["last_error"].as_str().unwrap().starts_with(&reason));
    assert_eq!(rig.php("off", "echo 'here';"), "here");
    rig.wait_state("off", "warm");
    assert_eq!(rig.ps("off")["landlock_abi"], 0);
}

#[test]
fn a_landlock_that_is_switched_off_or_missing_stops_every_pool_that_wants_it() {
    use seccompiler::{SeccompAction, SeccompFilter, apply_filter};
    let rig = Rig::new();
    rig.inside("blog", TENANT, "");
    // The kernel's own answers, by a filter in front of howdah: what it would say without
    // landlock in lsm=, and without Landlock at all.
    for (errno, words) in [
        (nix::libc::EOPNOTSUPP, "Landlock is switched off in this kernel: add landlock to lsm="),
        (nix::libc::ENOSYS, "this kernel has no Landlock: use one with CONFIG_SECURITY_LANDLOCK=y"),
    ] {
        let rules = [(nix::libc::SYS_landlock_create_ruleset, vec![])].into();
        let machine = std::env::consts::ARCH.try_into().unwrap();
        let filter =
            SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno as u32), machine);
        let program: seccompiler::BpfProgram = filter.unwrap().try_into().unwrap();
        let (config, pools) = (rig.path("howdah.toml"), rig.path("pools"));
        // The filter is of the thread that takes it, and of what that thread starts.
        let run = move || {
            apply_filter(&program).unwrap();
            std::process::Command::new(HOWDAH).args(["check", "--config"]).arg(config).arg(pools).output()
        };
        let output = std::thread::spawn(run).join().unwrap().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(4), "{error}");
        assert!(error.contains(words) && error.lines().count() == 1, "{error}");
        let host = String::from_utf8(output.stdout).unwrap();
        assert!(host.contains(&format!("  Landlock          NO: {words}")), "{host}");
    }
    assert_eq!(check(&rig, &[]).status.code(), Some(0));
}

#[test]
fn a_file_in_the_profile_directory_is_put_on_top_of_the_built_in() {
    let mut rig = Rig::new();
    let directory = rig.path("profiles.d");
    let howdah = format!("[serve]\nstate_dir = {:?}\nprofile_dir = {directory:?}\n", rig.path("state"));
    rig.write("howdah.toml", &howdah);
    rig.write("profiles.d/strict.toml", "[limits]\nopen_files = 77\n");
    rig.write("profiles.d/mine.toml", "base = \"strict\"\n[limits]\nsigpending = 333\n");
    let short = "[idle]\nstop = \"200ms\"";
    rig.inside("one", TENANT, &format!("profile = \"strict\"\n{short}"));
    rig.inside("two", TENANT, &format!("profile = \"mine\"\n{short}"));
    rig.serve();
    let limit = |pool: &str, name: &str| {
        let all = rig.php(pool, "echo file_get_contents('/proc/self/limits');");
        let line = all.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
        line.split_whitespace().next().unwrap().to_owned()
    };
    assert_eq!(
        (limit("one", "Max open files"), limit("one", "Max pending signals")),
        ("77".into(), "1024".into())
    );
    assert_eq!(
        (limit("two", "Max open files"), limit("two", "Max pending signals")),
        ("77".into(), "333".into())
    );

    // Edited: the next start is as it says, with no word to howdah.
    rig.write("profiles.d/strict.toml", "[limits]\nopen_files = 66\n");
    rig.write("profiles.d/hosting.toml", "[limits]\nsigpending = 555\n");
    for pool in ["one", "two"] {
        rig.wait_state(pool, "cold");
        assert_eq!(limit(pool, "Max open files"), "66");
    }
    assert_eq!(limit("two", "Max pending signals"), "333");

    rig.write("profiles.d/a.toml", "base = \"b\"");
    let closing = rig.write("profiles.d/b.toml", "\nbase = \"a\"");
    rig.inside("loop", TENANT, "profile = \"a\"");
    let output = check(&rig, &[]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3));
    let words = format!("{}:2: base: {}/a.toml is its own base\n", closing.display(), directory.display());
    assert!(error.ends_with(&words) && error.lines().count() == 1, "{error}");
}

#[test]
fn check_and_spec_tell_of_every_value_which_line_says_so() {
    let rig = Rig::new();
    let site = rig.site("blog", "index.php", "<?php", TENANT);
    let profile = rig.profile("own", "base = \"strict\"\n[limits]\ntasks = 33\nmemory = \"100M\"\n");
    let state = rig.path("state");
    let defaults = "[defaults.limits]\nopen_files = 444\n[defaults.idle]\nstop = \"1m\"\n";
    let howdah = rig.write("howdah.toml", &format!("[serve]\nstate_dir = {state:?}\n{defaults}"));
    let pool =
        rig.pool("blog", &format!("profile = {profile:?}\n[limits]\ntmp = \"48M\"\n[fpm]\nmax_children = 3"));
    let found = settings(&told(&rig, "blog"));
    let line = |file: &Path, text: &str| {
        let all = fs::read_to_string(file).unwrap();
        let at =
            all.lines().position(|line| line.starts_with(text)).unwrap_or_else(|| panic!("{text} in {all}"));
        format!("{}:{}", file.display(), at + 1)
    };
    let built_in = |name: &str, text: &str| {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("profiles/{name}.toml"));
        line(&file, text).replace(&file.display().to_string(), &format!("(built in)/{name}.toml"))
    };
    let site = site.parent().unwrap();
    let rows = [
        ("limits.tmp".to_owned(), "\"48M\"", line(&pool, "tmp")),
        ("limits.open_files".to_owned(), "444", format!("{} [defaults]", line(&howdah, "open_files"))),
        ("idle.stop".to_owned(), "\"1m\"", format!("{} [defaults]", line(&howdah, "stop"))),
        ("limits.memory".to_owned(), "\"100M\"", line(&profile, "memory")),
        ("limits.tasks".to_owned(), "33", line(&profile, "tasks")),
        ("loopback_tcp".to_owned(), "false", built_in("strict", "loopback_tcp")),
        ("limits.swap".to_owned(), "\"0\"", built_in("hosting", "swap")),
        ("landlock_abi".to_owned(), "2", built_in("strict", "landlock_abi")),
        ("no_new_privs".to_owned(), "true", built_in("hosting", "no_new_privs")),
        ("network.mode".to_owned(), "\"none\"", built_in("hosting", "mode")),
        ("fpm.max_children".to_owned(), "3", line(&pool, "max_children")),
        ("start.timeout".to_owned(), "\"10s\"", "howdah's default".to_owned()),
        ("image".to_owned(), "\"host\"", "howdah's default".to_owned()),
        (format!("mount {site:?}"), &format!("{site:?} ro"), line(&pool, "source")),
    ];
    for (key, value, from) in &rows {
        assert_eq!(found.get(key), Some(&((*value).to_owned(), from.clone())), "{key}");
    }
    assert!(!found.contains_key("base"));

    // The same in spec, which stays a spec.
    let words = ["spec", "--config", howdah.to_str().unwrap(), pool.to_str().unwrap()];
    let spec = rig.howdah(&words);
    let spec: oci_spec::runtime::Spec = serde_json::from_slice(&spec.stdout).unwrap();
    let annotations = spec.annotations().as_ref().unwrap();
    for (key, _, from) in &rows {
        assert_eq!(annotations.get(&format!("howdah.from.{key}")), Some(from), "{key}");
    }
    assert_eq!(annotations["howdah.landlock.abi"], "2");
    // What is told is what is in force: the values in the spec's own words.
    let text = serde_json::to_value(&spec).unwrap();
    let unified = &text["linux"]["resources"]["unified"];
    assert_eq!((&unified["pids.max"], &unified["memory.max"]), (&"33".into(), &"104857600".into()));

    // And for people: short, unless asked.
    let short = String::from_utf8(check(&rig, &[]).stdout).unwrap();
    assert!(!short.contains("settings") && short.contains("(demanded: 2)"), "{short}");
    let long = String::from_utf8(check(&rig, &["--explain"]).stdout).unwrap();
    for (key, value, from) in &rows {
        let start = format!("    {key} = ");
        let row =
            long.lines().find(|line| line.starts_with(&start)).unwrap_or_else(|| panic!("{key}: {long}"));
        let value_shown = row.contains(value) || row.contains("...");
        assert!(value_shown && row.ends_with(&format!("  {from}")), "{row}");
    }
}

#[test]
fn sysctls_are_the_pools_own_and_the_hosts_stay() {
    let mut rig = Rig::new();
    let full = "proc = \"full\"";
    rig.inside_without("without", full, "");
    let sysctl = "[sysctl]\n\"kernel.shmmax\" = 123456\n\"kernel.sem\" = \"111 222 33 44\"\n\
                  \"fs.mqueue.msg_max\" = 7\n\"net.ipv4.ip_local_port_range\" = \"40000 40100\"";
    rig.inside_without("with", &format!("{full}\n{sysctl}"), "");
    let names = ["kernel/shmmax", "kernel/sem", "fs/mqueue/msg_max", "net/ipv4/ip_local_port_range"];
    let host = names.map(|name| fs::read_to_string(format!("/proc/sys/{name}")).unwrap());
    rig.serve();
    let read = |pool: &str| {
        names.map(|name| {
            let text = rig.php(pool, &format!("echo file_get_contents('/proc/sys/{name}');"));
            text.split_whitespace().collect::<Vec<_>>().join(" ")
        })
    };
    assert_eq!(read("with"), ["123456", "111 222 33 44", "7", "40000 40100"]);
    assert_ne!(read("without")[0], "123456");
    assert_ne!(read("without")[3], "40000 40100");
    assert_eq!(names.map(|name| fs::read_to_string(format!("/proc/sys/{name}")).unwrap()), host);
    // And the setting does something: a segment above it is refused.
    let segment = "var_dump(@shm_attach(5, 200000) !== false);";
    assert_eq!(rig.php("with", segment), "bool(false)\n");
    assert_eq!(rig.php("without", segment), "bool(true)\n");
    assert_eq!(settings(&told(&rig, "with"))["sysctl.\"kernel.shmmax\""].0, "123456");
}

#[test]
fn a_sysctl_that_is_or_would_be_the_hosts_is_refused_by_name() {
    let mut rig = Rig::new();
    let net = "[sysctl]\n\"net.ipv4.ip_local_port_range\" = \"40000 40100\"";
    rig.inside_without("machine", "[sysctl]\n\"vm.swappiness\" = 1", "");
    rig.inside_without("host", net, "[network]\nmode = \"host\"");
    rig.inside_without("shared", &format!("share = [\"network\"]\n{net}"), "");
    rig.inside_without("absent", "[sysctl]\n\"net.ipv4.no_such_thing\" = 1", "");
    let host = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    rig.serve();
    let line = |rig: &mut Rig, pool: &str| {
        assert_eq!(rig.try_get(pool, "/do.php").unwrap().status, 503, "{pool}");
        rig.wait_log(&format!("[{pool}.1]"))
    };
    assert!(line(&mut rig, "machine").contains("sysctl \"vm.swappiness\": is the whole machine's"));
    assert!(
        line(&mut rig, "shared")
            .contains("the network namespace is shared, and the setting would be the host's")
    );
    let words = "sysctl \"net.ipv4.ip_local_port_range\" would be the host's, whose network the pool has";
    assert!(line(&mut rig, "host").contains(words));
    let words = "set the sysctl net.ipv4.no_such_thing to 1: No such file or directory (ENOENT): a pool's namespaces have no such setting";
    assert!(line(&mut rig, "absent").contains(words));
    assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap(), host);
}

#[test]
fn the_profiles_network_counts_where_the_file_says_none() {
    let mut rig = Rig::new();
    let open = "[network]\nmode = \"host\"";
    rig.inside_without("profile", open, "");
    rig.inside_without("pool", open, "[network]\nmode = \"none\"");
    rig.serve();
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    let look = "echo readlink('/proc/self/ns/net');";
    assert_eq!(Path::new(&rig.php("profile", look)), own);
    assert_ne!(Path::new(&rig.php("pool", look)), own);
    assert_eq!(told(&rig, "profile")["network"], "host");
    assert_eq!(told(&rig, "pool")["network"], "none");
}

#[test]
fn the_table_in_the_documents_is_what_the_profiles_say() {
    let rig = Rig::new();
    let names = ["strict", "hosting", "compat", "ci"];
    for name in names {
        rig.pool(name, &format!("profile = {name:?}"));
    }
    let report: Value = serde_json::from_slice(&check(&rig, &["--json"]).stdout).unwrap();
    let in_force: BTreeMap<&str, _> = report["pools"]
        .as_array()
        .unwrap()
        .iter()
        .map(|told| (told["pool"].as_str().unwrap(), settings(told)))
        .collect();
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/profiles.md")).unwrap();
    let mut listed = Vec::new();
    for line in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> =
            line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        for (name, cell) in names.iter().zip(&cells[1..]) {
            assert_eq!(in_force[name][cells[0]].0, *cell, "{} of {name}", cells[0]);
        }
        listed.push(cells[0].to_owned());
    }
    // And nothing that a profile says is left out of it.
    let said = in_force["hosting"].iter().filter(|(_, (_, from))| from.starts_with("(built in)"));
    let paths = ["masked_paths", "readonly_paths"];
    for key in said.map(|(key, _)| key).filter(|key| !paths.contains(&key.as_str())) {
        assert!(listed.contains(key), "{key} is not in the table");
    }
}

/// What docs/profiles.md says that a site loses under strict, in the words that the site sees.
#[test]
fn what_a_site_loses_under_strict_is_what_the_documents_say() {
    let mut rig = Rig::new();
    for name in ["strict", "hosting"] {
        rig.inside(name, TENANT, &format!("profile = {name:?}"));
        let file = rig.path(&format!("pools/{name}.toml"));
        let mail = "\"sendmail_path\" = \"/bin/true\"\n";
        fs::write(&file, fs::read_to_string(&file).unwrap() + mail).unwrap();
        rig.shell(&format!(
            "cp $(ls /usr/lib/*/libm.so.6 /lib64/libm.so.6 2>/dev/null | head -n 1) {name}/lib.so"
        ));
    }
    rig.serve();
    let last = "if ($got) { echo 'GOT'; } else { echo error_get_last()['message'] ?? posix_strerror(posix_get_last_error()); }";
    for (what, code, seen) in [
        ("exec", "$got = @exec('echo x') === 'x';", "Unable to fork"),
        ("shell_exec", "$got = @shell_exec('echo x');", "Unable to execute"),
        ("popen", "$got = @popen('true', 'r');", "popen(true,r): "),
        ("proc_open", "$p = @proc_open(['/bin/true'], [], $q); $got = $p && proc_close($p) === 0;", ""),
        ("mail", "$got = @mail('a@b', 'c', 'd');", "Could not execute mail delivery program"),
        ("symlink", "$got = @symlink('/etc', '/tmp/s');", "Function not implemented"),
        ("link", "touch('/tmp/f'); $got = @link('/tmp/f', '/tmp/l');", "Function not implemented"),
        ("chown", "touch('/tmp/f'); $got = @chown('/tmp/f', posix_getuid());", "Function not implemented"),
        ("fifo", "$got = posix_mkfifo('/tmp/p', 0600);", "Operation not permitted"),
        ("server", "$got = @stream_socket_server('unix:///tmp/u');", ""),
        ("loopback", "$got = @stream_socket_server('tcp://127.0.0.1:0');", ""),
        ("System V", "$got = @shm_attach(1);", ""),
        (
            "library",
            "try { $got = FFI::cdef('double cos(double);', __DIR__ . '/lib.so'); } \
          catch (Error $e) { $got = false; @trigger_error($e->getMessage()); }",
            "Failed loading",
        ),
        ("jit", "$got = ini_get('pcre.jit') === '1';", ""),
    ] {
        assert_eq!(rig.php("hosting", &format!("{code} {last}")), "GOT", "the control: {what}");
        let told = rig.php("strict", &format!("{code} {last}"));
        assert!(told != "GOT" && told.contains(seen), "{what}: {told}");
    }
    // And what a site goes on having.
    for code in [
        "$got = preg_match('/^(a|b)+$/', str_repeat('ab', 500));",
        "$got = rename(tempnam('/tmp', 'x'), '/tmp/y') && chmod('/tmp/y', 0600) && touch('/tmp/y', 5);",
        "session_start(); $got = session_regenerate_id();",
    ] {
        assert_eq!(rig.php("strict", &format!("{code} {last}")), "GOT", "{code}");
    }
}
