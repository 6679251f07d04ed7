//! Templates: php-fpm that was started before anybody knew its pool, made a pool's from outside.
//! Everything that holds of a pool that is launched cold must hold of one that began so.
#![allow(missing_docs)]

mod rig;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::time::Duration;

use rig::held::Held;
use rig::templates::{keep, keep_as_usual, started_by, stocked, stop, waiting};
use rig::{OTHER, Rig, TENANT, wait_for};

const SOON: Duration = Duration::from_secs(20);
/// A pool that is cold again at once.
const SHORT: &str = "[idle]\nstop = \"100ms\"";
const LONG: &str = "[idle]\nstop = \"1h\"";

/// A rig whose howdah keeps `count` templates of each class.
fn rig_with(count: u32) -> Rig {
    let rig = Rig::new();
    keep(&rig, count);
    rig
}

#[test]
fn a_pool_starts_by_a_template_and_another_is_made() {
    let mut rig = rig_with(1);
    rig.site("blog", "index.php", "<?php echo getmypid(), ' ', posix_getuid(), ' ', php_uname('n');", TENANT);
    rig.pool("blog", SHORT);
    rig.serve();
    for _ in 0..3 {
        let waiting = stocked(&rig, 1);
        let held = Held::begin(&rig, "blog", "/index.php");
        rig.wait_state("blog", "warm");
        assert_eq!(rig.master("blog"), waiting[0], "it was another that waited");
        assert_eq!(held.answer(), "2 33 blog");
        assert_eq!(started_by(&rig, "blog"), "template");
        rig.wait_state("blog", "cold");
    }
    assert_eq!(rig.end(), 0);
    assert!(!rig.cgroup().exists() && !rig.path("run/templates").exists(), "something is left behind");
}

#[test]
fn none_is_made_unless_it_is_asked_for() {
    let mut rig = Rig::new();
    rig.site("blog", "index.php", "<?php echo 'hello';", TENANT);
    rig.pool("blog", SHORT);
    rig.serve();
    rig.text("blog", "/index.php");
    assert_eq!(started_by(&rig, "blog"), "cold launch");
    assert_eq!(waiting(&rig), Vec::<i32>::new());
}

#[test]
fn pools_of_one_class_share_their_templates_and_never_a_uid() {
    let mut rig = rig_with(2);
    let names = ["one", "two", "three", "four"];
    for (name, user) in names.iter().zip([TENANT, OTHER, TENANT, OTHER]) {
        rig.site(name, "index.php", "<?php echo posix_getuid();", user);
        rig.pool_of(name, user.0, LONG);
    }
    rig.serve();
    let mut uids = BTreeSet::new();
    for name in names {
        stocked(&rig, 2);
        let inside = rig.text(name, "/index.php");
        assert_eq!(inside, if name == "one" || name == "three" { "33" } else { "34" });
        assert_eq!(started_by(&rig, name), "template", "{}", rig.log());
        let uid = fs::metadata(format!("/proc/{}", rig.master(name))).unwrap().uid();
        assert!(uid >= 0x7000_0000, "{name} runs as {uid}");
        assert!(uids.insert(uid), "{name} shares uid {uid}");
    }
}

#[test]
fn its_files_are_the_tenants_on_the_disk_and_inside() {
    let mut rig = rig_with(1);
    let secret = rig.site("blog", "secret", "of the tenant", TENANT);
    chown(&secret, Some(TENANT.1), Some(TENANT.2)).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let others = rig.site("blog", "others", "of another account", TENANT);
    chown(&others, Some(OTHER.1), Some(OTHER.2)).unwrap();
    fs::set_permissions(&others, fs::Permissions::from_mode(0o600)).unwrap();
    let uploads = rig.private("uploads", TENANT);
    rig.inside("blog", TENANT, &format!("{LONG}\n[[mount]]\nsource = {uploads:?}\naccess = \"rw\"\n"));
    rig.serve();
    stocked(&rig, 1);
    let site = rig.path("blog");
    assert_eq!(
        rig.php("blog", &format!("echo file_get_contents('{}/secret');", site.display())),
        "of the tenant"
    );
    assert_eq!(started_by(&rig, "blog"), "template", "{}", rig.log());
    let read =
        format!("echo @file_get_contents('{}/others') === false ? 'refused' : 'read';", site.display());
    assert_eq!(rig.php("blog", &read), "refused", "a file of another account with mode 0600");
    assert_eq!(rig.php("blog", &format!("echo fileowner('{}/secret');", site.display())), "33");
    let write = format!("echo file_put_contents('{}/new', 'text'), fileowner('{0}/new');", uploads.display());
    assert_eq!(rig.php("blog", &write), "433");
    let made = fs::metadata(uploads.join("new")).unwrap();
    assert_eq!((made.uid(), made.gid()), (TENANT.1, TENANT.2), "who owns on the disk what it wrote");
    // A session too, which outlives it.
    rig.php("blog", "session_id('abc'); session_start(); $_SESSION['a'] = 1; session_write_close();");
    let session = fs::metadata(rig.path("state/pools/blog/sessions/sess_abc")).unwrap();
    assert_eq!((session.uid(), session.gid()), (TENANT.1, TENANT.2));
}

/// What can be seen from inside, without what differs between any two sandboxes. What does tell:
/// one more filter (the gate's, Seccomp_filters), the mark of id-mapped mounts, the order in which
/// mounts and the first files of /tmp were made, and the host's number in uid_map.
const LOOK: &str = r#"
    $strip = fn($text) => preg_replace(['/^\d+ \d+ \d+:\d+ /m', '/ (master|shared|propagate_from):\d+/', '/,idmapped/', '/,?(uid|gid)=\d+/', '/(howdah-test-\w+)\/(run\/(pools\/\w+|templates\/[\w-]+)\/rootfs)/'], ['', '', '', '', 'ROOT'], $text);
    // In which order they were made is to be seen in theirs.
    $sort = function ($text) { $lines = explode("\n", $text); sort($lines); return $lines; };
    $told = [];
    foreach (['status', 'limits', 'mountinfo', 'cgroup', 'environ', 'cmdline', 'oom_score_adj', 'setgroups'] as $name) $told["1/$name"] = @file_get_contents("/proc/1/$name");
    $told['status'] = preg_replace('/^(Vm\w+|Rss\w+|Hugetlb\w+|voluntary\w*|nonvoluntary\w*|Cpus_allowed\w*|Mems_allowed\w*|THP_enabled|Pid|Tgid|Ngid|PPid|State|NStgid|NSpid|NSpgid|NSsid|SigQ|FDSize|untag_mask|Seccomp_filters|x86\S*):.*\n/m', '', file_get_contents('/proc/self/status'));
    unset($told['1/status']);
    $told['limits'] = file_get_contents('/proc/self/limits');
    $told['mountinfo'] = $sort($strip(file_get_contents('/proc/self/mountinfo')));
    $told['1/mountinfo'] = $sort($strip($told['1/mountinfo'] ?: ''));
    foreach (scandir('/proc/self/fd') as $fd) if ($fd[0] != '.') $told["fd $fd"] = preg_replace('/\d{3,}|#\d+/', 'N', preg_replace('/ZendSem\.\w+/', 'ZendSem', (string) @readlink("/proc/self/fd/$fd")));
    $told['ini'] = ini_get_all(null, false); $told['extensions'] = get_loaded_extensions();
    $told['env'] = getenv(); $told['uname'] = php_uname('n'); $told['ids'] = [posix_getuid(), posix_getgid(), posix_getgroups(), posix_getpwuid(posix_getuid())];
    $told['nice'] = function_exists('pcntl_getpriority') ? pcntl_getpriority() : explode(' ', file_get_contents('/proc/self/stat'))[18];
    foreach (['/', '/etc', '/etc/howdah', '/dev', '/run', '/tmp', '/var/lib/php'] as $dir) foreach (@scandir($dir) ?: [] as $name) { $s = @lstat("$dir/$name"); $told["file $dir/$name"] = [$s['mode'], $s['uid'], $s['gid']]; }
    foreach (['passwd', 'group', 'hosts', 'hostname', 'resolv.conf', 'nsswitch.conf', 'howdah/php-fpm.conf'] as $name) $told["text $name"] = preg_replace('/pool \w+ \(.*\)/', '', (string) @file_get_contents("/etc/$name"));
    unset($told['file /etc/..'], $told['file /..']);
    echo json_encode($told, JSON_PRETTY_PRINT | JSON_INVALID_UTF8_SUBSTITUTE);
"#;

#[test]
fn check_tells_the_class_and_why_there_is_none() {
    let rig = rig_with(0);
    let shared = rig.profile("shared", "share = [\"uts\"]\n");
    for (name, user, more) in [
        ("one", TENANT, "[limits]\nopen_files = 300\n"),
        ("two", OTHER, ""),
        ("other", TENANT, "[php]\nextensions = []\n"),
        ("out", TENANT, &format!("profile = {shared:?}\n")),
    ] {
        rig.site(name, "index.php", "<?php", user);
        // On a machine with a database each account has classes of its own.
        rig.pool_of(name, user.0, &format!("{more}[start]\ntemplate = true\n"));
    }
    let pools = rig.path("pools");
    let told = rig.howdah(&["check", "--json", pools.to_str().unwrap()]);
    let told: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
    let of = |name: &str| {
        told["pools"].as_array().unwrap().iter().find(|one| one["pool"] == name).unwrap().clone()
    };
    assert_eq!(of("one")["class"], of("two")["class"], "account, site and limits are bound later");
    assert_ne!(of("one")["class"], of("other")["class"], "other extensions");
    assert_eq!((of("out")["class"].as_str(), of("out")["always_cold"].is_string()), (Some(""), true));
    let text = String::from_utf8(rig.howdah(&["check", pools.to_str().unwrap()]).stdout).unwrap();
    assert!(text.contains("always starts cold: its profile leaves out a namespace"), "{text}");
}

#[test]
fn nothing_of_the_gate_is_left_for_the_tenant() {
    let mut rig = rig_with(1);
    rig.inside("blog", TENANT, LONG);
    rig.serve();
    stocked(&rig, 1);
    let call = "$c = FFI::cdef('long syscall(long n, ...); int *__errno_location(void);'); ";
    // As a cold launch would have it, but for the one call that php-fpm has made: nobody answers it.
    let told = rig.php("blog", &format!("{call} echo $c->syscall(213, 1), ' ', $c->__errno_location()[0];"));
    assert_eq!(told, "-1 38", "epoll_create");
    assert_eq!(started_by(&rig, "blog"), "template", "{}", rig.log());
    let told = rig
        .php("blog", &format!("{call} echo $c->syscall(291, 0) >= 0 ? 'made' : $c->__errno_location()[0];"));
    assert_eq!(told, "made", "epoll_create1");
    // howdah holds no listener of it any more, only the one of the template that waits now.
    stocked(&rig, 1);
    let links = fs::read_dir(format!("/proc/{}/fd", rig.pid())).unwrap().flatten();
    let links: Vec<_> = links.filter_map(|fd| fs::read_link(fd.path()).ok()).collect();
    let count = links.iter().filter(|link| link.to_string_lossy().contains("seccomp notify")).count();
    assert_eq!(count, 1, "{links:?}");
}

#[test]
fn from_inside_it_cannot_be_told_from_one_that_was_launched_cold() {
    let mut rig = rig_with(0);
    let uploads = rig.private("uploads", TENANT);
    let more =
        format!("{SHORT}\n[[mount]]\nsource = {uploads:?}\naccess = \"rw\"\n[limits]\nopen_files = 300\n");
    rig.inside("blog", TENANT, &more);
    // A file that is younger than two seconds is in no cache of opcache's, and open while it runs.
    rig.shell("touch -d '1 hour ago' blog/do.php");
    rig.serve();
    let cold = rig.php("blog", LOOK);
    assert_eq!(started_by(&rig, "blog"), "cold launch");
    assert_eq!(rig.end(), 0);
    keep(&rig, 1);
    rig.serve();
    stocked(&rig, 1);
    let warm = rig.php("blog", LOOK);
    assert_eq!(started_by(&rig, "blog"), "template", "{}", rig.log());
    assert!(cold.contains("\"uname\": \"blog\"") && cold.len() > 10_000, "{cold}");
    let differ: Vec<_> = cold.lines().zip(warm.lines()).filter(|(cold, warm)| cold != warm).collect();
    assert!(differ.is_empty() && cold.lines().count() == warm.lines().count(), "{differ:#?}");
}

#[test]
fn where_it_does_not_fit_the_pool_is_launched_cold_and_nobody_waits_in_vain() {
    let mut rig = rig_with(1);
    let uploads = rig.private("uploads", TENANT);
    rig.site("blog", "index.php", "<?php echo 'hello';", TENANT);
    // Not below /tmp, where all that is attached may be written to.
    let mount = format!("[[mount]]\nsource = {uploads:?}\ntarget = \"/srv/uploads\"\naccess = \"rw\"\n");
    rig.pool("blog", &format!("{SHORT}\n{mount}"));
    rig.serve();
    stocked(&rig, 1);
    // Another directory of the same name: the template's Landlock knows the one that was there.
    fs::rename(&uploads, rig.path("old")).unwrap();
    rig.private("uploads", TENANT);
    assert_eq!(rig.text("blog", "/index.php"), "hello");
    assert_eq!(started_by(&rig, "blog"), "cold launch");
    rig.wait_log("not by a template: ");
    rig.wait_state("blog", "cold");
    // The next knows this one.
    stocked(&rig, 1);
    rig.text("blog", "/index.php");
    wait_for("a start by a template", SOON, || {
        (rig.record("blog").last_start_by == "template").then_some(())
    });
}

#[test]
fn what_another_pool_may_write_is_not_written_through_a_template() {
    let mut rig = rig_with(1);
    // Another tenant may write in a directory that lies in what this one only reads.
    rig.site("blog", "index.php", "<?php echo 'hello';", TENANT);
    rig.private("blog/inner", TENANT);
    rig.pool("blog", SHORT);
    rig.site("shop", "index.php", "<?php echo 'hello';", TENANT);
    // It has another name on its way there, by a symlink of root's.
    std::os::unix::fs::symlink("blog", rig.path("sites")).unwrap();
    let inner = rig.path("sites/inner");
    let mount = format!("[[mount]]\nsource = {inner:?}\ntarget = \"/srv/inner\"\naccess = \"rw\"\n");
    rig.pool("shop", &format!("{SHORT}\n{mount}"));
    rig.serve();
    stocked(&rig, 1);
    assert_eq!(rig.text("blog", "/index.php"), "hello");
    assert_eq!(started_by(&rig, "blog"), "cold launch");
    rig.wait_log("blog/inner in ");
    stocked(&rig, 1);
    rig.text("shop", "/index.php");
    assert_eq!(started_by(&rig, "shop"), "template", "{}", rig.log());
}

#[test]
fn one_that_dies_while_it_waits_or_when_it_is_bound_costs_nobody_a_request() {
    let mut rig = rig_with(1);
    rig.site("blog", "index.php", "<?php echo 'hello';", TENANT);
    rig.pool("blog", SHORT);
    rig.serve();
    let pid = nix::unistd::Pid::from_raw(stocked(&rig, 1)[0]);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    assert_eq!(rig.text("blog", "/index.php"), "hello");
    rig.wait_state("blog", "cold");
    // It does not take its configuration: all that was bound to it goes with it.
    let pid = nix::unistd::Pid::from_raw(stocked(&rig, 1)[0]);
    stop(pid.as_raw());
    assert_eq!(rig.text("blog", "/index.php"), "hello");
    rig.wait_log("not by a template: execute (its configuration)");
    wait_for("its end", SOON, || {
        (nix::sys::signal::kill(pid, None) == Err(nix::errno::Errno::ESRCH)).then_some(())
    });
    wait_for("a cold start", SOON, || (rig.record("blog").last_start_by == "cold launch").then_some(()));
    assert_eq!(rig.end(), 0);
    assert!(!rig.cgroup().exists() && !rig.path("run/templates").exists(), "something is left behind");
}

#[test]
fn the_next_howdah_takes_over_what_was_bound_and_ends_what_waits() {
    let mut rig = rig_with(1);
    rig.site("blog", "index.php", "<?php echo getmypid(), ' ', $_SERVER['REQUEST_TIME'] > 0;", TENANT);
    rig.pool("blog", "[fpm]\npm = \"static\"\nmax_children = 1\n[idle]\nstop = \"1h\"");
    rig.serve();
    stocked(&rig, 1);
    rig.text("blog", "/index.php");
    assert_eq!(started_by(&rig, "blog"), "template");
    rig.wait_state("blog", "warm");
    let master = rig.master("blog");
    let left = stocked(&rig, 1)[0];
    rig.crash();
    rig.text("blog", "/index.php");
    rig.serve();
    assert_eq!(rig.master("blog"), master);
    assert!(rig.log().contains("adopted from an earlier howdah"), "{}", rig.log());
    wait_for("the end of what waited", SOON, || {
        let stat = fs::read_to_string(format!("/proc/{left}/stat")).unwrap_or_default();
        (!stat.contains("php-fpm")).then_some(())
    });
    assert_eq!(rig.end(), 0);
    assert!(!rig.cgroup().exists() && !rig.path("run/templates").exists(), "something is left behind");
}

/// A database by its socket: tells each client by which uid it knows it.
fn database(rig: &Rig) {
    use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
    use std::io::Write;
    let directory = rig.path("mysqld");
    fs::create_dir(&directory).unwrap();
    let socket = directory.join("mysqld.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let uid = getsockopt(&client, PeerCredentials).unwrap().uid();
            let _ = write!(client, "{uid}");
        }
    });
}

#[test]
fn a_database_knows_a_pool_by_its_account_unless_its_file_says_otherwise() {
    let mut rig = Rig::new();
    database(&rig);
    keep_as_usual(&rig, 1);
    let ask = "<?php $from = fsockopen('unix:///run/mysqld/mysqld.sock'); echo stream_get_contents($from), ' ', posix_getuid();";
    let mount = format!("[[mount]]\nsource = {:?}\ntarget = \"/run/mysqld\"\n{SHORT}", rig.path("mysqld"));
    let pools = [("blog", TENANT, ""), ("shop", OTHER, ""), ("wiki", TENANT, "[start]\ntemplate = true\n")];
    for (name, user, more) in pools {
        rig.site(name, "index.php", ask, user);
        rig.pool_of(name, user.0, &format!("{mount}\n{more}"));
    }
    rig.site("never", "index.php", "<?php echo 1;", TENANT);
    rig.pool("never", &format!("{SHORT}\n[start]\ntemplate = false\n"));
    rig.serve();
    // Of each account one, and one of nobody's.
    stocked(&rig, 3);
    for (name, user, _) in &pools[..2] {
        assert_eq!(rig.text(name, "/index.php"), format!("{} {}", user.1, user.1), "it knows the account");
        assert_eq!(started_by(&rig, name), "template", "{}", rig.log());
    }
    let text = rig.text("wiki", "/index.php");
    assert_eq!(started_by(&rig, "wiki"), "template");
    let (known, inside) = text.split_once(' ').unwrap();
    assert!(known.parse::<u32>().unwrap() >= 0x7000_0000, "it knows the sandbox: {known}");
    assert_eq!(inside, TENANT.1.to_string());
    assert_eq!(rig.text("never", "/index.php"), "1");
    assert_eq!(started_by(&rig, "never"), "cold launch");
    let why = rig.record("never").last_start_not_by_template.unwrap();
    assert_eq!(why, "its file says [start] template = false");
}

#[test]
fn what_a_pools_own_file_does_not_get_is_told_once_although_its_class_was_learned_ahead() {
    let mut rig = rig_with(1);
    let text = "[www]\nuser = nobody\npm = static\npm.max_children = 2\n";
    let file = rig.write("blog/fpm.conf", text);
    rig.site("blog", "index.php", "<?php echo 'hello';", TENANT);
    rig.pool("blog", &format!("{SHORT}\n[fpm]\nconfig = {file:?}\n"));
    rig.serve();
    stocked(&rig, 1);
    for _ in 0..2 {
        assert_eq!(rig.text("blog", "/index.php"), "hello");
        rig.wait_state("blog", "cold");
    }
    let log = rig.log();
    let told: Vec<&str> = log.lines().filter(|line| line.contains("fpm.conf:2: ")).collect();
    assert!(told.len() == 1 && told[0].contains("blog") && told[0].contains("user"), "{log}");
}

#[test]
fn a_howdah_that_ends_when_idle_leaves_nothing_of_those_that_waited() {
    let mut rig = rig_with(1).with(&["--exit-when-idle"]);
    rig.site("blog", "index.php", "<?php echo 'hello';", TENANT);
    rig.pool("blog", LONG);
    rig.serve();
    assert_eq!(rig.text("blog", "/index.php"), "hello");
    let next = stocked(&rig, 1)[0];
    // With another file the pool is cold again.
    rig.pool("blog", SHORT);
    rig.signal(nix::sys::signal::Signal::SIGHUP);
    assert_eq!(rig.wait_end(SOON), 0, "{}", rig.log());
    assert!(!rig.cgroup().exists() && !rig.path("run").exists(), "something is left behind");
    let pid = nix::unistd::Pid::from_raw(next);
    assert_eq!(nix::sys::signal::kill(pid, None), Err(nix::errno::Errno::ESRCH));
}
