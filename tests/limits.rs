//! Limits, and that the operator reads which one ended something: in the log, in
//! `ps` and as an event. Each script does its worst below a limit, and again, as
//! the control, where the limit is larger; a neighbour answers all the while.
//!
//! What needs a controller of cgroup v2 is skipped, by a line on stderr, where
//! there is none.
#![allow(missing_docs, clippy::print_stderr)]

mod rig;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use rig::{OTHER, Rig, TENANT, wait_for};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);

/// What `howdah events --json` says.
fn events(rig: &Rig, words: &[&str]) -> Vec<Value> {
    let run = rig.path("run");
    let output = rig.howdah(&[&["events", "--json", "--runtime-dir", run.to_str().unwrap()], words].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn kinds(rig: &Rig, words: &[&str]) -> Vec<String> {
    events(rig, words).iter().map(|event| event["kind"].as_str().unwrap().to_owned()).collect()
}

/// The entry of `limits_hit` in `ps` for a limit of a pool and what it did.
fn hit(rig: &Rig, pool: &str, limit: &str, effect: &str) -> Option<Value> {
    let its = |hit: &&Value| hit["limit"] == limit && hit["effect"] == effect;
    rig.ps(pool)["limits_hit"].as_array()?.iter().find(its).cloned()
}

/// The limit has done nothing to the pool.
fn untouched(rig: &Rig, pool: &str, limit: &str) {
    let all = rig.ps(pool)["limits_hit"].clone();
    assert!(all.as_array().unwrap().iter().all(|hit| hit["limit"] != limit), "{all}");
}

/// The limit was hit, and the log, `ps` and an event say so; the pool and its neighbour answer.
fn told(rig: &mut Rig, pool: &str, limit: &str, effect: &str, words: &str) -> Value {
    let hit = wait_for(&format!("{limit} in ps: {}", rig.log()), SOON, || hit(rig, pool, limit, effect));
    assert_eq!((&hit["effect"], hit["count"].as_u64() > Some(0)), (&Value::from(effect), true), "{hit}");
    assert!(hit["detail"].as_str().unwrap().contains(words), "{words:?}: {hit}");
    rig.wait_log(&format!("pool {pool}: limit {limit}: "));
    let its =
        |event: &Value| event["kind"] == "limit" && event["limit"] == limit && event["effect"] == effect;
    let event =
        wait_for(&format!("an event of {limit}"), SOON, || events(rig, &[pool]).into_iter().find(its));
    assert_eq!((&event["pool"], &event["effect"]), (&Value::from(pool), &Value::from(effect)), "{event}");
    let run = rig.path("run");
    let people = rig.howdah(&["ps", "--runtime-dir", run.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&people.stdout).contains(&format!("limit {limit}: {effect} ")));
    assert_eq!(rig.php(pool, "echo 'again';"), "again");
    assert_eq!(rig.php("neighbour", "echo 'here';"), "here");
    hit
}

/// A rig whose pools may start slowly: where the controllers are, the machine may be
/// emulated. For the same reason they load no extension that no test here needs.
fn patient() -> Rig {
    let rig = Rig::new();
    let state = rig.path("state");
    rig.write(
        "howdah.toml",
        &format!(
            "[serve]\nstate_dir = {state:?}\ndrain = \"5s\"\n[defaults.start]\ntimeout = \"1m\"\n\
             [defaults.php]\nextensions = [\"ffi\", \"posix\"]\n"
        ),
    );
    rig
}

/// A rig with the pool `held`, another with more room, `free`, and a neighbour of another user.
fn rig(held: &str, free: &str) -> Rig {
    let mut rig = patient();
    rig.inside("held", TENANT, held);
    rig.inside("free", TENANT, free);
    rig.inside("neighbour", OTHER, "");
    rig.serve();
    rig
}

/// Whether `controller` can be used here; says so if not.
fn has(controller: &str) -> bool {
    let mount = howdah::sandbox::cgroup::mount_point().unwrap();
    let all = fs::read_to_string(mount.join("cgroup.controllers")).unwrap();
    let found = all.split_whitespace().any(|word| word == controller);
    if !found {
        eprintln!("skipped: no {controller} controller in {}", mount.display());
    }
    found
}

/// A directory of the tenant's whose files are cache, and not memory as they are in a
/// tmpfs, which the rig's own directory may be in (Debian 13's /tmp is one).
fn on_disk() -> Option<tempfile::TempDir> {
    let data = tempfile::tempdir_in("/var/tmp").unwrap();
    std::os::unix::fs::chown(data.path(), Some(TENANT.1), Some(TENANT.2)).unwrap();
    let is_tmpfs = statfs(data.path()).unwrap().filesystem_type() == TMPFS_MAGIC;
    if is_tmpfs {
        eprintln!("skipped: /var/tmp is a tmpfs");
    }
    (!is_tmpfs).then_some(data)
}

/// Whether this process may do what needs a capability in the first user namespace.
fn may(capability: caps::Capability) -> bool {
    caps::has_cap(None, caps::CapSet::Effective, capability).unwrap()
}

/// What PHP code does; a worker that dies in it answers nothing.
fn attempt(rig: &Rig, pool: &str, code: &str) -> String {
    let answer = rig.ask(pool, "/do.php", "POST", &[("Content-Type", "text/plain")], code.as_bytes());
    answer.map_or_else(|error| error, |response| String::from_utf8_lossy(&response.body).into_owned())
}

// ---- one process

#[test]
fn what_nobody_asks_for_is_a_safe_default_and_not_howdahs_own() {
    let limits = "echo file_get_contents('/proc/self/limits');";
    let mut rig = patient();
    rig.inside("plain", TENANT, "");
    rig.inside("own", TENANT, "[limits]\nmemlock = \"16K\"\nsigpending = 7\nstack = \"2M\"\nfile_size = \"1M\"\ncpu_time = \"1m\"\n");
    rig.inside_without(
        "none",
        "[limits]\nmemlock = \"none\"\nmsgqueue = \"none\"\nsigpending = \"none\"\ncore = \"none\"",
        "",
    );
    rig.serve_under(&["prlimit", "--memlock=1048576", "--msgqueue=8192", "--sigpending=5000"], &[]);
    let value = |pool: &str, name: &str| {
        let text = rig.php(pool, limits);
        let line =
            text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {text}"));
        let words: Vec<&str> = line.split_whitespace().take(2).collect();
        words.join(" ")
    };
    for (name, plain, own, none) in [
        ("Max locked memory", "65536 65536", "16384 16384", "1048576 1048576"),
        ("Max msgqueue size", "0 0", "0 0", "8192 8192"),
        ("Max pending signals", "1024 1024", "7 7", "5000 5000"),
        ("Max stack size", "8388608 8388608", "2097152 2097152", "8388608 8388608"),
        ("Max core file size", "1 1", "1 1", "1 1"),
        ("Max nice priority", "0 0", "0 0", "0 0"),
        ("Max realtime priority", "0 0", "0 0", "0 0"),
        ("Max open files", "1024 1024", "1024 1024", "1024 1024"),
        ("Max processes", "129 129", "129 129", "129 129"),
        ("Max file size", "unlimited unlimited", "1048576 1048576", "unlimited unlimited"),
        ("Max cpu time", "unlimited unlimited", "60 62", "unlimited unlimited"),
    ] {
        assert_eq!(
            [value("plain", name), value("own", name), value("none", name)],
            [plain, own, none],
            "{name}"
        );
    }
}

#[test]
fn a_limit_above_howdahs_own_is_raised_where_howdah_may_and_else_one_clear_line() {
    let mut rig = patient();
    rig.inside("more", TENANT, "[limits]\nopen_files = 5000\n");
    // What nobody asks for in the pool file is lowered instead.
    rig.inside("default", TENANT, "");
    rig.serve_under(&["prlimit", "--nofile=500:500"], &[]);
    let files = "echo preg_match('/Max open files +(\\d+) +(\\d+)/', file_get_contents('/proc/self/limits'), $m), \" $m[1] $m[2]\";";
    assert_eq!(rig.php("default", files), "1 500 500");
    if may(caps::Capability::CAP_SYS_RESOURCE) {
        assert_eq!(rig.php("more", files), "1 5000 5000");
        return;
    }
    assert_eq!(rig.try_get("more", "/do.php").unwrap().status, 503);
    let line = rig.wait_log("[more.1]");
    let words = "howdah: pool more: raise RLIMIT_NOFILE to 5000: Operation not permitted (EPERM): it is above \
                 howdah's own hard limit: lower it in [limits], raise howdah's (LimitNOFILE= and its kin in its \
                 unit), or give howdah CAP_SYS_RESOURCE [more.1]";
    assert_eq!(line, words);
}

#[test]
fn what_spares_howdah_from_the_oom_killer_does_not_spare_its_tenants() {
    let mut rig = patient();
    rig.inside("blog", TENANT, "");
    let (score, own) = if may(caps::Capability::CAP_SYS_RESOURCE) {
        ("-500", "0")
    } else {
        // Only a higher one can be given here, and that a tenant keeps.
        ("300", "300")
    };
    rig.serve_under(&["choom", "-n", score, "--"], &[]);
    let of = |pid: u32| fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim().to_owned();
    assert_eq!(of(rig.pid()), score);
    assert_eq!(rig.php("blog", "echo trim(file_get_contents('/proc/self/oom_score_adj'));"), own);
    assert_eq!(of(rig.master("blog") as u32), own);
}

#[test]
fn a_file_that_is_too_long_names_file_size() {
    let mut rig = rig("[limits]\nfile_size = \"1M\"\n", "[limits]\nfile_size = \"8M\"\n");
    let write = "echo file_put_contents('/tmp/long', str_repeat('x', 4 << 20));";
    assert_eq!(rig.php("free", write), (4 << 20).to_string());
    assert_ne!(attempt(&rig, "held", write), (4 << 20).to_string());
    // PHP leaves SIGXFSZ as it is; a program that ignores it sees EFBIG.
    told(&mut rig, "held", "file_size", "ended", "file_size");
    untouched(&rig, "free", "file_size");
}

#[test]
fn a_worker_that_uses_up_its_processor_time_names_cpu_time() {
    // Process 1 has the limit as well, and where everything is slow it takes a part of it to start.
    let limit = rig::patience().div_ceil(2);
    let mut rig = rig(&format!("[limits]\ncpu_time = \"{limit}s\"\n"), "[limits]\ncpu_time = \"10m\"\n");
    // The kernel counts ticks for the limit and the clock for getrusage(2); an
    // emulated machine that is short of time loses ticks: held spins until it is ended.
    let spin = |seconds: u32| {
        format!(
            "$used = function () {{ $r = getrusage(); return $r['ru_utime.tv_sec'] + $r['ru_stime.tv_sec'] + \
             ($r['ru_utime.tv_usec'] + $r['ru_stime.tv_usec']) / 1e6; }}; \
             for ($b = $used(); $used() < $b + {seconds};) for ($i = 0; $i < 100000; $i++); echo 'done';"
        )
    };
    assert_eq!(rig.php("free", &spin(limit + 1)), "done");
    assert_ne!(attempt(&rig, "held", &spin(20 * limit)), "done");
    told(&mut rig, "held", "cpu_time", "ended", "processor time");
    untouched(&rig, "free", "cpu_time");
}

#[test]
fn too_many_open_files_name_open_files() {
    let mut rig = rig("[limits]\nopen_files = 64\n", "[limits]\nopen_files = 1024\n");
    let open = "for ($i = 0; $i < 200 && ($f[] = fopen('/tmp/x', 'c')); $i++); echo $i;";
    assert_eq!(rig.php("free", open), "200");
    assert!(!rig.php("held", open).ends_with("200"));
    told(&mut rig, "held", "open_files", "refused", "Too many open files");
    untouched(&rig, "free", "open_files");
}

/// Without a pids controller RLIMIT_NPROC holds, and only PHP tells of it.
#[test]
fn a_fork_bomb_names_tasks() {
    let mut rig = patient();
    // In the profile, for in the pool file it would be refused without the controller.
    rig.inside_without("held", "[limits]\ntasks = 12", "");
    rig.inside_without("free", "[limits]\ntasks = 100", "");
    rig.inside("neighbour", OTHER, "");
    rig.serve();
    let bomb =
        "for ($i = 0; $i < 30 && ($p[] = proc_open(['/usr/bin/sleep', '600'], [], $q)); $i++); echo $i;";
    assert_eq!(attempt(&rig, "free", bomb), "30");
    let made: i32 = attempt(&rig, "held", bomb).rsplit(' ').next().unwrap().parse().unwrap_or(-1);
    assert!(made < 12, "{made}");
    // The processes stay with the pool: they end when it does.
    let hit = wait_for("tasks in ps", SOON, || hit(&rig, "held", "tasks", "refused"));
    assert!(hit["count"].as_u64() > Some(0));
    rig.wait_log("pool held: limit tasks: ");
    assert_eq!(rig.php("neighbour", "echo 'here';"), "here");
}

// ---- walls, timeouts, space

/// A filter that allows everything and kills who calls personality(2).
const KILLS: &str = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
    "syscalls": [{"names": ["personality"], "action": "SCMP_ACT_KILL_PROCESS"}]}"#;

#[test]
fn a_call_that_kills_is_named() {
    if !may(caps::Capability::CAP_AUDIT_READ) {
        eprintln!("skipped: no CAP_AUDIT_READ: nobody can read which call it was");
        return;
    }
    let mut rig = patient();
    let filter = rig.write("kills.json", KILLS);
    rig.inside_without("held", &format!("seccomp = {filter:?}"), "");
    // An account that no other test's pools have: a process that is gone is known by its user.
    let file = fs::read_to_string(rig.path("pools/held.toml")).unwrap();
    rig.write("pools/held.toml", &file.replace("\"www-data\"", "\"irc\""));
    rig.inside_without("free", "seccomp = \"off\"", "");
    rig.inside("neighbour", OTHER, "");
    rig.serve();
    let call = "echo FFI::cdef('int personality(unsigned long);')->personality(0xffffffff);";
    assert_ne!(attempt(&rig, "held", call), "0");
    let hit = told(&mut rig, "held", "seccomp", "ended", "the system call personality is not allowed");
    assert_eq!((&hit["subject"], &hit["witness"]), (&"personality".into(), &"kernel".into()), "{hit}");
    // Of a program that a script starts php-fpm says nothing; audit does.
    let program = "exec('/usr/bin/setarch -R /usr/bin/true', $o, $s); echo $s;";
    assert_ne!(attempt(&rig, "held", program), "0");
    wait_for("the second one", SOON, || {
        rig.ps("held")["limits_hit"][0]["count"].as_u64().filter(|n| *n == 2)
    });
    // One death is one hit: php-fpm's line about it is not another, nor when it has waited for the record.
    std::thread::sleep(Duration::from_millis(1500));
    let all = rig.ps("held")["limits_hit"].clone();
    assert_eq!((all.as_array().unwrap().len(), all[0]["count"].as_u64()), (1, Some(2)), "{all}");
    // The control comes last: while two pools of one user run, a process that is gone could be of either.
    assert_eq!(rig.php("free", call), "0");
    assert_eq!(rig.php("free", program), "0");
    assert_eq!(rig.ps("free")["limits_hit"], Value::from(Vec::<Value>::new()));
}

/// Landlock speaks to audit only where that is on, which a test must not do to a machine.
#[test]
fn a_path_that_landlock_refuses_is_named() {
    if std::env::var_os("HOWDAH_TEST_AUDIT").is_none() || howdah::sandbox::landlock::kernel_abi() < 7 {
        eprintln!("skipped: needs Linux 6.15, audit switched on (auditctl -e 1), and HOWDAH_TEST_AUDIT=1");
        return;
    }
    let mut rig = patient();
    let data = rig.private("data", TENANT);
    // The filter would refuse it first.
    for (pool, profile) in [("held", "seccomp = \"off\""), ("free", "seccomp = \"off\"\nlandlock = false")] {
        rig.inside_without(pool, profile, &format!("[[mount]]\nsource = {data:?}\naccess = \"rw\"\n"));
    }
    rig.inside("neighbour", OTHER, "");
    rig.serve();
    let path = data.join("device");
    let run = format!("var_dump(posix_mknod('{}', POSIX_S_IFCHR | 0600, 1, 3));", path.display());
    assert_eq!(rig.php("held", &run), "bool(false)\n");
    let words = format!("fs.make_char on {} is not allowed", data.display());
    told(&mut rig, "held", "landlock", "refused", &words);
    rig.php("free", &run);
    untouched(&rig, "free", "landlock");
}

#[test]
fn a_script_that_takes_too_long_names_the_timeout() {
    // What held answers afterwards is to be quicker than that on a slow machine, too.
    let limit = 1 + rig::patience();
    let of = |seconds: u32| format!("[fpm]\nrequest_terminate_timeout = \"{seconds}s\"\n");
    let mut rig = rig(&of(limit), &of(20 * limit));
    let sleep = |seconds: u32| {
        format!("for ($i = 0; $i < {seconds}; $i++) for ($j = 0; $j < 10; $j++) usleep(100000); echo 'done';")
    };
    assert_eq!(rig.php("free", &sleep(limit + 1)), "done");
    assert_ne!(attempt(&rig, "held", &sleep(10 * limit)), "done");
    told(&mut rig, "held", "request_terminate_timeout", "ended", "execution timed out");
    untouched(&rig, "free", "request_terminate_timeout");
}

#[test]
fn a_full_tmpfs_is_named_by_what_the_kernel_says_of_it() {
    let held = "[limits]\ntmp = \"1M\"\nrun = \"4M\"\nshm = \"4M\"\n";
    let mut rig = rig(held, "[limits]\ntmp = \"4M\"\n");
    let fill = "echo strlen(file_get_contents('/tmp/a', false, null, 0, @file_put_contents('/tmp/a', str_repeat('x', 2 << 20)) ?: 1));";
    assert_eq!(rig.php("free", fill), (2 << 20).to_string());
    attempt(
        &rig,
        "held",
        "file_put_contents('/tmp/a', str_repeat('x', 2 << 20)); fopen('/tmp/b', 'w') && error_log('No space left on device');",
    );
    let hit = told(&mut rig, "held", "tmp", "refused", "/tmp is full");
    assert_eq!(hit["witness"], "kernel");
    // The words alone are nothing.
    attempt(&rig, "free", "error_log('No space left on device');");
    assert_eq!(rig.php("free", "unlink('/tmp/a'); echo 'ok';"), "ok");
    assert_eq!(rig.ps("free")["limits_hit"], Value::from(Vec::<Value>::new()));
}

#[test]
fn a_start_that_takes_too_long_names_the_timeout() {
    let mut rig = patient();
    // Its workers may not enter their directory, and never accept: howdah itself may be slow.
    let closed = rig.path("slow/closed");
    fs::create_dir_all(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    rig.inside("slow", TENANT, &format!("[fpm]\nchdir = {closed:?}\n[start]\ntimeout = \"1s\"\n"));
    rig.inside("neighbour", OTHER, "");
    rig.serve();
    assert_eq!(rig.try_get("slow", "/do.php").unwrap().status, 503);
    let found = wait_for("the hit", SOON, || hit(&rig, "slow", "start.timeout", "ended"));
    assert_eq!((&found["effect"], &found["witness"]), (&"ended".into(), &"howdah".into()));
    assert_eq!(rig.log().matches("did not accept the connection within").count(), 1);
    assert!(kinds(&rig, &["slow"]).iter().any(|kind| kind == "failure"));
    assert_eq!(rig.php("neighbour", "echo 'here';"), "here");
}

// ---- events

#[test]
fn events_tell_the_life_of_a_pool_and_of_no_other_if_one_is_named() {
    let mut rig = patient();
    rig.inside("blog", TENANT, "[idle]\nstop = \"200ms\"\n");
    rig.inside("shop", OTHER, "");
    rig.serve();
    // It ends with this test, however that does.
    let mut follow = std::process::Command::new("setpriv")
        .args(["--pdeathsig", "KILL", rig::HOWDAH, "events", "blog", "--follow", "--runtime-dir"])
        .arg(rig.path("run"))
        .stdout(fs::File::create(rig.path("followed")).unwrap())
        .spawn()
        .unwrap();
    rig.php("blog", "echo 1;");
    rig.wait_state("blog", "cold");
    rig.php("shop", "echo 1;");
    rig.inside("shop", OTHER, "[idle]\nstop = \"5m\"\n");
    rig.signal(nix::sys::signal::Signal::SIGHUP);
    wait_for("the reload", SOON, || kinds(&rig, &[]).contains(&"reload".to_owned()).then_some(()));
    wait_for("shop's drain", SOON, || kinds(&rig, &["shop"]).contains(&"drain".to_owned()).then_some(()));
    assert_eq!(kinds(&rig, &["blog"]), ["start", "stop"]);
    let all = events(&rig, &[]);
    let start = &all[0];
    assert_eq!((&start["pool"], &start["generation"]), (&"blog".into(), &1.into()));
    assert!(start["ms"].as_f64().unwrap() > 0.0 && start["time"].as_str().unwrap().ends_with('Z'), "{start}");
    assert!(all.iter().any(|event| event["kind"] == "stop" && event["reason"] == "idle"), "{all:?}");
    let followed = wait_for("the followed lines", SOON, || {
        fs::read_to_string(rig.path("followed")).ok().filter(|text| text.lines().count() == 2)
    });
    follow.kill().unwrap();
    follow.wait().unwrap();
    assert!(
        followed.contains("blog.1  start  ms=") && followed.contains("blog.1  stop  reason=idle"),
        "{followed}"
    );
    let mode = fs::metadata(rig.path("run/events.jsonl")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(rig.end(), 0);
    assert!(!rig.path("run").exists());
}

#[test]
fn a_flood_of_forged_lines_is_a_few_lines_of_the_forgers_own() {
    let mut rig = rig("", "");
    let forge = "$e = fopen('php://stderr', 'w'); for ($i = 0; $i < 20000; $i++) \
                 fwrite($e, \"[21-Nov-2026 06:30:36] WARNING: [pool neighbour] child $i exited on signal 24 (SIGXCPU) after 1 seconds\\n\"); echo 'done';";
    // Who prints through a wrapper of php-fpm prints to the log.
    rig.inside("forger", TENANT, "[fpm]\ncatch_workers_output = true\n");
    rig.signal(nix::sys::signal::Signal::SIGHUP);
    rig.wait_log("pool forger: new");
    let begin = Instant::now();
    assert_eq!(rig.php("forger", forge), "done");
    let hit = wait_for("the hits", SOON, || {
        hit(&rig, "forger", "cpu_time", "ended").filter(|hit| hit["count"].as_u64() > Some(1000))
    });
    assert_eq!(hit["witness"], "pool");
    let lines = rig.log().matches("pool forger: limit cpu_time").count() as u64;
    assert!(lines <= 2 + begin.elapsed().as_secs() / 10, "{lines}");
    let events = events(&rig, &["forger"]).len() as u64;
    assert!(events < 10 + begin.elapsed().as_secs() / 5, "{events}");
    assert_eq!(rig.php("neighbour", "echo 'here';"), "here");
    assert_eq!(rig.ps("neighbour")["limits_hit"], Value::from(Vec::<Value>::new()));
    wait_for("its start", SOON, || (kinds(&rig, &["neighbour"]) == ["start"]).then_some(()));
}

#[test]
fn events_without_a_serve_are_one_line() {
    let rig = patient();
    let run = rig.path("run");
    let output = rig.howdah(&["events", "--runtime-dir", run.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let line = String::from_utf8(output.stderr).unwrap();
    assert!(line.contains("is `howdah serve` running there?") && line.lines().count() == 1, "{line}");
}

// ---- what needs a controller

/// Memory that is a script's own, and memory that is a file's in a tmpfs.
#[test]
fn a_memory_bomb_names_memory() {
    if !has("memory") {
        return;
    }
    let mut rig = patient();
    let site = "<?php ini_set('memory_limit', -1); eval(file_get_contents('php://input'));";
    for (pool, memory) in [("held", "64M"), ("free", "400M")] {
        rig.site(pool, "do.php", site, TENANT);
        rig.pool(pool, &format!("[limits]\nmemory = {memory:?}\ntmp = \"256M\"\n"));
    }
    rig.inside("neighbour", OTHER, "");
    rig.serve();
    let size = (120u32 << 20).to_string();
    let own = "$s = str_repeat('x', 120 << 20); echo strlen($s);";
    assert_eq!(rig.php("free", own), size);
    assert_ne!(attempt(&rig, "held", own), size);
    let words = "out of memory at memory.max=64M: the kernel ended";
    let hit = told(&mut rig, "held", "memory", "ended", words);
    assert_eq!(hit["witness"], "kernel");

    let file = "$f = fopen('/tmp/bomb', 'w'); for ($i = 0; $i < 120; $i++) fwrite($f, str_repeat('x', 1 << 20)); \
                echo filesize('/tmp/bomb');";
    assert_eq!(rig.php("free", file), size);
    let before = hit["count"].as_u64();
    assert_ne!(attempt(&rig, "held", file), size);
    let more = || self::hit(&rig, "held", "memory", "ended").filter(|hit| hit["count"].as_u64() > before);
    wait_for("more of it", SOON, more);
    // The file may stay until process 1 itself is out of memory; a visitor may see a 503 until then.
    let again = || (attempt(&rig, "held", "@unlink('/tmp/bomb'); echo 'again';") == "again").then_some(());
    wait_for("held to answer again", SOON, again);
    assert_eq!(rig.php("neighbour", "echo 'here';"), "here");
    assert_eq!(self::hit(&rig, "free", "memory", "ended"), None);
}

/// howdah's own cgroup has a limit, as that of a unit with `MemoryMax=`.
#[test]
fn memory_that_runs_out_above_the_pool_is_not_called_the_pools_limit() {
    if !has("memory") {
        return;
    }
    let mut rig = patient();
    let site = "<?php ini_set('memory_limit', -1); eval(file_get_contents('php://input'));";
    rig.site("held", "do.php", site, TENANT);
    rig.pool("held", "[limits]\nmemory = \"400M\"\n");
    rig.inside("neighbour", OTHER, "");
    rig.serve();
    let bomb = "$s = str_repeat('x', 200 << 20); echo 'done';";
    assert_eq!(rig.php("held", bomb), "done");
    // Not there in a kernel without swap.
    let _ = fs::write(rig.cgroup().join("memory.swap.max"), "0");
    fs::write(rig.cgroup().join("memory.max"), "128M").unwrap();
    assert_ne!(attempt(&rig, "held", bomb), "done");
    told(
        &mut rig,
        "held",
        "memory",
        "ended",
        "a cgroup above the pool's, is out of memory: the kernel ended",
    );
}

#[test]
fn the_file_cache_of_a_pool_is_held_at_its_limit_and_ends_nobody() {
    if !has("memory") {
        return;
    }
    let Some(data) = on_disk() else { return };
    let (data, mut rig) = (data.path(), patient());
    for (pool, memory) in [("held", "48M"), ("free", "400M")] {
        let mount = format!("[[mount]]\nsource = {data:?}\naccess = \"rw\"\n");
        rig.inside(pool, TENANT, &format!("{mount}[limits]\nmemory = {memory:?}\n"));
    }
    rig.inside("neighbour", OTHER, "");
    rig.serve();
    let write = format!(
        "$p = '{}/big' . uniqid(); $f = fopen($p, 'w'); \
         for ($i = 0; $i < 80; $i++) fwrite($f, str_repeat('x', 1 << 20)); fclose($f); \
         $n = 0; $f = fopen($p, 'r'); while (!feof($f)) $n += strlen(fread($f, 1 << 20)); unlink($p); echo $n;",
        data.display()
    );
    assert_eq!(rig.php("held", &write), (80 << 20).to_string());
    told(&mut rig, "held", "memory", "held", "memory.max=48M is reached");
    assert_eq!(rig.php("free", &write), (80 << 20).to_string());
    untouched(&rig, "free", "memory");
}

#[test]
fn oom_group_ends_the_generation_and_is_its_last_error() {
    if !has("memory") {
        return;
    }
    let mut rig = patient();
    let site = "<?php ini_set('memory_limit', -1); eval(file_get_contents('php://input'));";
    for (pool, group) in [("held", true), ("free", false)] {
        rig.site(pool, "do.php", site, TENANT);
        rig.pool(pool, &format!("[limits]\nmemory = \"64M\"\noom_group = {group}\n"));
    }
    rig.inside("neighbour", OTHER, "");
    rig.serve();
    let master = |rig: &Rig, pool: &str| {
        assert_eq!(rig.php(pool, "echo 1;"), "1");
        rig.master(pool)
    };
    let (held, free) = (master(&rig, "held"), master(&rig, "free"));
    let bomb = "$s = str_repeat('x', 120 << 20); echo 'done';";
    assert_ne!(attempt(&rig, "held", bomb), "done");
    assert_ne!(attempt(&rig, "free", bomb), "done");
    let error = wait_for("last_error", SOON, || rig.ps("held")["last_error"].as_str().map(str::to_owned));
    assert!(error.starts_with("limit memory: out of memory at memory.max=64M"), "{error}");
    let again = || (attempt(&rig, "held", "echo 'again';") == "again").then_some(());
    wait_for("held to answer again", SOON, again);
    // The control: without it a worker ends, and process 1 lives.
    assert_ne!(master(&rig, "held"), held);
    assert_eq!(master(&rig, "free"), free);
    assert_eq!(rig.php("neighbour", "echo 'here';"), "here");
}

#[test]
fn above_memory_high_a_pool_is_slowed_down() {
    if !has("memory") {
        return;
    }
    let Some(data) = on_disk() else { return };
    let (data, mut rig) = (data.path(), patient());
    for (pool, high) in [("held", "48M"), ("free", "380M")] {
        let mount = format!("[[mount]]\nsource = {data:?}\naccess = \"rw\"\n");
        rig.inside(pool, TENANT, &format!("{mount}[limits]\nmemory = \"400M\"\nmemory_high = {high:?}\n"));
    }
    rig.inside("neighbour", OTHER, "");
    rig.serve();
    let write = format!(
        "$f = fopen('{}/high' . uniqid(), 'w'); \
         for ($i = 0; $i < 100; $i++) fwrite($f, str_repeat('x', 1 << 20)); echo 'done';",
        data.display()
    );
    assert_eq!(rig.php("held", &write), "done");
    told(&mut rig, "held", "memory_high", "held", "above memory.high=48M");
    assert_eq!(rig.php("free", &write), "done");
    untouched(&rig, "free", "memory_high");
}

#[test]
fn the_pids_controller_counts_a_fork_bomb() {
    if !has("pids") {
        return;
    }
    let mut rig = rig("[limits]\ntasks = 12\n", "[limits]\ntasks = 100\n");
    let bomb = "for ($i = 0; $i < 30 && ($p[$i] = @proc_open(['/usr/bin/sleep', '600'], [], $q)); $i++); \
                foreach (array_filter($p) as $one) proc_terminate($one, 9); echo $i;";
    assert_eq!(attempt(&rig, "free", bomb), "30");
    assert_ne!(attempt(&rig, "held", bomb), "30");
    let hit = told(&mut rig, "held", "tasks", "refused", "pids.max=12 is reached");
    assert_eq!(hit["witness"], "kernel", "{hit}");
    untouched(&rig, "free", "tasks");
}

#[test]
fn a_pool_that_spins_waits_for_its_share_and_is_told_of_at_the_next_look() {
    if !has("cpu") {
        return;
    }
    let limits = |cores: &str| format!("[limits]\ncpu = {cores}\n[idle]\nstop = \"8s\"\n");
    let mut rig = rig(&limits("0.5"), &limits("64"));
    let spin = "$e = microtime(true) + 1.5; while (microtime(true) < $e); echo 'done';";
    assert_eq!(rig.php("free", spin), "done");
    // Where others want the processor too, it may have had less than its share.
    let throttled = |rig: &Rig| {
        assert_eq!(rig.php("held", spin), "done");
        let cgroup = rig.ps("held")["cgroup"].as_str()?.to_owned();
        let stat = fs::read_to_string(format!("{cgroup}/cpu.stat")).ok()?;
        (!stat.contains("nr_throttled 0\n")).then_some(())
    };
    wait_for("held to have to wait", SOON, || throttled(&rig));
    assert_eq!(rig.php("neighbour", "echo 'here';"), "here");
    told(&mut rig, "held", "cpu", "held", "at cpu.max=50000 100000: the pool had to wait for");
    untouched(&rig, "free", "cpu");
}

#[test]
fn io_max_is_set_on_the_disk_of_a_path_and_slows_it() {
    if !has("io") {
        return;
    }
    let Some(data) = on_disk() else { return };
    // Each pool writes a file of its own: what is written to a file counts for whose
    // cgroup has written to it first.
    let (data, mut rig) = (data.path(), patient());
    let Ok(disk) = howdah::sandbox::block::device_of(data) else {
        eprintln!("skipped: {} is on no disk", data.display());
        return;
    };
    let mount = format!("[[mount]]\nsource = {data:?}\naccess = \"rw\"\n");
    rig.inside("held", TENANT, &format!("{mount}[[limits.io_max]]\npath = {data:?}\nwbps = \"1M\"\n"));
    rig.inside("free", TENANT, &mount);
    rig.serve();
    let write = format!(
        "$f = fopen('{}/' . uniqid(), 'w'); $b = microtime(true); fwrite($f, str_repeat('x', 12 << 20)); \
         fsync($f); echo microtime(true) - $b;",
        data.display()
    );
    let seconds = |pool: &str| rig.php(pool, &write).parse::<f64>().unwrap();
    let held = seconds("held");
    assert!(held > 5.0, "{held} s with 1M a second");
    // Others may want the disk at the same moment.
    wait_for("free to be quicker than half of that", SOON, || (seconds("free") < held / 2.0).then_some(()));
    let cgroup = rig.ps("held")["cgroup"].as_str().unwrap().to_owned();
    let io = fs::read_to_string(format!("{cgroup}/io.max")).unwrap();
    assert!(io.starts_with(&format!("{disk} ")) && io.contains("wbps=1048576"), "{io}");
}

#[test]
fn io_max_where_there_is_no_disk_is_one_clear_line() {
    let mut rig = patient();
    rig.inside("held", TENANT, "[[limits.io_max]]\npath = \"/proc\"\nwbps = \"1M\"\n");
    rig.serve();
    assert_eq!(rig.try_get("held", "/do.php").unwrap().status, 503);
    let line = rig.wait_log("[held.1]");
    let words = "howdah: pool held: limits.io_max /proc: it lies on proc, which has no block device to limit: \
                 name the device (/dev/…) or a path on a disk [held.1]";
    assert_eq!(line, words);
}

/// `check` and `ps` tell which limits are in force.
#[test]
fn check_and_ps_tell_what_is_in_force_and_what_is_not() {
    let mut rig = patient();
    rig.inside("blog", TENANT, "");
    rig.serve();
    rig.php("blog", "echo 1;");
    let files = ["memory.max", "memory.oom.group", "memory.swap.max", "pids.max"];
    let missing = files.iter().filter(|file| !has(file.split('.').next().unwrap()));
    let missing: Vec<Value> = missing.map(|file| Value::from(*file)).collect();
    assert_eq!(rig.ps("blog")["limits_not_in_force"], Value::from(missing.clone()));
    let (pools, config) = (rig.path("pools"), rig.path("howdah.toml"));
    let words = ["check", "--json", "--config", config.to_str().unwrap(), pools.to_str().unwrap()];
    let report: Value = serde_json::from_slice(&rig.howdah(&words).stdout).unwrap();
    assert_eq!(report["pools"][0]["limits_not_in_force"], Value::from(missing), "{report}");
    assert_eq!(report["pools"][0]["limits"].as_array().unwrap().len(), files.len(), "{report}");
}
