//! The walls around a pool, seen from inside and from outside, with the real
//! php-fpm. Each has its control: the same look or the same attack in a pool
//! whose profile leaves that one wall out.
#![allow(missing_docs)]

mod rig;

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rig::{OTHER, Rig, TENANT};

/// A line of a `status` file in /proc.
fn field<'a>(status: &'a str, key: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {key} in:\n{status}")).trim()
}

/// The namespaces of a process, by the host's eyes: "net" and its inode.
fn namespaces_of(pid: &str) -> BTreeMap<String, PathBuf> {
    let entries = fs::read_dir(format!("/proc/{pid}/ns")).unwrap().flatten();
    entries
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read_link(entry.path()).unwrap()))
        .collect()
}

/// Descriptors of a process and what they are, by the host's eyes.
fn descriptors_of(pid: i32) -> BTreeMap<i32, PathBuf> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    entries
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.parse().ok()?;
            Some((number, fs::read_link(entry.path()).ok()?))
        })
        .collect()
}

const NAMESPACES: &str =
    "foreach (glob('/proc/self/ns/*') as $f) echo basename($f), ' ', readlink($f), \"\\n\";";

#[test]
fn every_namespace_is_the_pools_own_and_only_the_shared_one_is_the_hosts() {
    let mut rig = Rig::new();
    rig.inside("none", TENANT, "");
    for (share, _) in
        [("user", "user"), ("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("cgroup", "cgroup")]
    {
        rig.inside_without(share, &format!("share = [{share:?}]"), "");
    }
    rig.serve();
    let host = namespaces_of("self");
    let all = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"];
    for (pool, shared) in [
        ("none", ""),
        ("user", "user"),
        ("network", "net"),
        ("ipc", "ipc"),
        ("uts", "uts"),
        ("cgroup", "cgroup"),
    ] {
        let told = rig.php(pool, NAMESPACES);
        let inside: BTreeMap<&str, &str> = told.lines().filter_map(|line| line.split_once(' ')).collect();
        let outside = namespaces_of(&rig.master(pool).to_string());
        for kind in all {
            assert_eq!(Path::new(inside[kind]), outside[kind], "{pool}: {kind}");
            assert_eq!(host[kind] == outside[kind], kind == shared, "{pool}: {kind}");
        }
    }
    // And two pools share none with each other.
    let (one, other) =
        (namespaces_of(&rig.master("none").to_string()), namespaces_of(&rig.master("uts").to_string()));
    assert!(all.iter().all(|kind| one[*kind] != other[*kind]));
}

#[test]
fn namespaces_that_no_pool_can_do_without_are_refused_by_one_line() {
    let mut rig = Rig::new();
    rig.inside("good", TENANT, "");
    rig.inside_without("bad", "share = [\"mount\"]", "");
    rig.serve();
    assert_eq!(rig.try_get("bad", "/do.php").unwrap().status, 503);
    let file = rig.path("profiles/bad.toml");
    let line = rig.wait_log("[bad.1]");
    let words = "the mount namespace cannot be shared: take it out of the list";
    assert_eq!(line, format!("howdah: pool bad: {}:1: {words} [bad.1]", file.display()));
}

#[test]
fn one_uid_and_one_gid_exist_and_all_that_belongs_to_others_is_nobodys() {
    let mut rig = Rig::new();
    rig.inside("held", OTHER, "");
    rig.inside_without("open", "share = [\"user\"]", "");
    rig.serve();
    let look = "echo file_get_contents('/proc/self/uid_map'), file_get_contents('/proc/self/gid_map'), fileowner('/usr');";
    let words: Vec<String> = rig.php("held", look).split_whitespace().map(str::to_owned).collect();
    assert_eq!(words, ["34", "34", "1", "34", "34", "1", "65534"]);
    let open = rig.php("open", look);
    assert!(open.contains("4294967295") && open.ends_with('0'), "{open}");
    let master = fs::read_to_string(format!("/proc/{}/status", rig.master("held"))).unwrap();
    for (key, wanted) in [("Uid", "34\t34\t34\t34"), ("Gid", "34\t34\t34\t34"), ("Groups", "")] {
        assert_eq!(field(&master, key), wanted);
    }
    // Who is alone in the world can become nobody else.
    let change = "var_dump(posix_setuid(0), posix_setgid(0), posix_setuid(33), posix_geteuid());";
    assert_eq!(rig.php("held", change), "bool(false)\nbool(false)\nbool(false)\nint(34)\n");
}

#[test]
fn php_fpm_is_process_1_and_sees_no_process_but_its_own() {
    let mut rig = Rig::new();
    rig.inside("blog", TENANT, "");
    rig.inside("shop", TENANT, "");
    rig.serve();
    rig.php("shop", "proc_open(['/usr/bin/sleep', '600'], [], $p); echo 'ok';");
    let comm = rig.php("blog", "echo trim(file_get_contents('/proc/1/comm'));");
    assert!(comm.starts_with("php-fpm"), "{comm}");
    let numbers = "echo implode(' ', array_filter(scandir('/proc'), 'is_numeric'));";
    let seen: Vec<String> = rig.php("blog", numbers).split(' ').map(str::to_owned).collect();
    assert!(seen.len() <= 3, "{seen:?}");
    // From outside: howdah's child, and its number there is none inside.
    let master = rig.master("blog");
    let status = fs::read_to_string(format!("/proc/{master}/status")).unwrap();
    assert_eq!(field(&status, "NSpid").split_whitespace().last(), Some("1"));
    assert_eq!(field(&status, "PPid"), rig.pid().to_string());
    let signal = |pid: i32| rig.php("blog", &format!("var_dump(posix_kill({pid}, 0));"));
    assert_eq!(signal(rig.master("shop")), "bool(false)\n");
    assert_eq!(signal(1), "bool(true)\n");
    // The control: the host sees the process of the other pool that blog does not.
    let sleeps = fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
        fs::read(entry.path().join("cmdline")).is_ok_and(|line| line == b"/usr/bin/sleep\x00600\x00")
    });
    assert!(sleeps.count() >= 1);
}

#[test]
fn a_generation_is_born_in_its_cgroup_and_takes_it_for_the_root() {
    let mut rig = Rig::new();
    rig.inside("held", TENANT, "");
    rig.inside_without("open", "share = [\"cgroup\"]", "");
    rig.serve();
    let look = "echo file_get_contents('/proc/self/cgroup');";
    let own = |text: &str| text.lines().find_map(|line| line.strip_prefix("0::").map(str::to_owned)).unwrap();
    assert_eq!(own(&rig.php("held", look)), "/");
    assert!(own(&rig.php("open", look)).ends_with("/open.1"));
    let master = rig.master("held");
    let of_master = own(&fs::read_to_string(format!("/proc/{master}/cgroup")).unwrap());
    let directory = rig.cgroup().join("held.1");
    assert!(directory.ends_with(of_master.trim_start_matches('/')), "{of_master}");
    let members = fs::read_to_string(directory.join("cgroup.procs")).unwrap();
    assert!(
        members.lines().count() >= 2 && members.lines().any(|pid| pid == master.to_string()),
        "{members}"
    );
    // There is no cgroup file system inside to write to.
    assert_eq!(rig.php("held", "var_dump(file_exists('/sys/fs/cgroup'), preg_match('/cgroup/', file_get_contents('/proc/self/mountinfo')));"), "bool(false)\nint(0)\n");
}

#[test]
fn the_host_name_is_the_pools_and_loopback_is_all_the_network() {
    let mut rig = Rig::new();
    rig.inside("held", TENANT, "");
    rig.inside_without("uts", "share = [\"uts\"]", "");
    rig.inside_without("net", "share = [\"network\"]", "");
    rig.serve();
    assert_eq!(rig.php("held", "echo gethostname();"), "held");
    let host = nix::unistd::gethostname().unwrap();
    assert_eq!(rig.php("uts", "echo gethostname();"), host.to_str().unwrap());

    let interfaces = "preg_match_all('/^ *(\\S+):/m', file_get_contents('/proc/self/net/dev'), $m); echo implode(' ', $m[1]);";
    assert_eq!(rig.php("held", interfaces), "lo");
    let own_server = "$s = stream_socket_server('tcp://127.0.0.1:0'); $c = stream_socket_client('tcp://' . stream_socket_get_name($s, false)); var_dump(is_resource(stream_socket_accept($s, 5)));";
    assert_eq!(rig.php("held", own_server), "bool(true)\n");
    // The attack: a service of the host that listens on loopback.
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let connect =
        format!("var_dump(@fsockopen('127.0.0.1', {}) !== false);", service.local_addr().unwrap().port());
    assert_eq!(rig.php("held", &connect), "bool(false)\n");
    assert_eq!(rig.php("net", &connect), "bool(true)\n");
}

#[test]
fn system_v_objects_of_a_neighbour_are_out_of_reach() {
    let mut rig = Rig::new();
    rig.inside("one", TENANT, "");
    rig.inside("two", TENANT, "");
    rig.inside_without("open", "share = [\"ipc\"]", "");
    rig.inside_without("also", "share = [\"ipc\"]", "");
    rig.serve();
    let key = 0x6868_0000 + std::process::id() % 0xffff;
    let send = format!("var_dump(msg_send(msg_get_queue({key}, 0600), 1, 'secret', false));");
    let receive = format!(
        "$q = msg_queue_exists({key}) ? msg_get_queue({key}) : exit('none'); msg_receive($q, 1, $t, 99, $m, false, MSG_IPC_NOWAIT); msg_remove_queue($q); echo $m;"
    );
    assert_eq!(rig.php("one", &send), "bool(true)\n");
    assert_eq!(rig.php("two", &receive), "none");
    assert_eq!(rig.php("open", &send), "bool(true)\n");
    assert_eq!(rig.php("also", &receive), "secret");
}

#[test]
fn no_capability_is_left_in_any_set() {
    let mut rig = Rig::new();
    rig.inside("held", TENANT, "");
    // Without the filter, which forbids chroot to all, so that the capability alone decides.
    rig.inside_without("bare", "seccomp = \"off\"", "");
    rig.inside_without("open", "seccomp = \"off\"\ncapabilities = [\"CAP_SYS_CHROOT\"]", "");
    rig.serve();
    let status = "echo file_get_contents('/proc/self/status');";
    let inside = rig.php("held", status);
    let master = fs::read_to_string(format!("/proc/{}/status", rig.master("held"))).unwrap();
    for key in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(&inside, key), "0000000000000000", "{key} of a worker");
        assert_eq!(field(&master, key), "0000000000000000", "{key} of the master");
    }
    let open = rig.php("open", status);
    assert_eq!(field(&open, "CapBnd"), "0000000000040000");
    assert_eq!(field(&open, "CapEff"), "0000000000040000");
    let attack = "echo FFI::cdef('int chroot(const char *);')->chroot('/tmp');";
    assert_eq!(rig.php("bare", attack), "-1");
    assert_eq!(rig.php("open", attack), "0");
}

#[test]
fn no_new_privs_and_the_filter_are_in_force() {
    let mut rig = Rig::new();
    rig.inside("held", TENANT, "");
    rig.inside_without("open", "seccomp = \"off\"", "");
    // Landlock too asks for no_new_privs.
    rig.inside_without("privs", "seccomp = \"off\"\nlandlock = false\nno_new_privs = false", "");
    rig.serve();
    let status = "echo file_get_contents('/proc/self/status');";
    let held = rig.php("held", status);
    assert_eq!((field(&held, "NoNewPrivs"), field(&held, "Seccomp")), ("1", "2"));
    let master = fs::read_to_string(format!("/proc/{}/status", rig.master("held"))).unwrap();
    assert_eq!((field(&master, "NoNewPrivs"), field(&master, "Seccomp")), ("1", "2"));
    let open = rig.php("open", status);
    assert_eq!((field(&open, "NoNewPrivs"), field(&open, "Seccomp")), ("1", "0"));
    assert_eq!(field(&rig.php("privs", status), "NoNewPrivs"), "0");
    // The attack: a user namespace of its own, and with it every capability over it.
    let attack = "echo FFI::cdef('int unshare(int);')->unshare(0x10000000);";
    assert_eq!(rig.php("held", attack), "-1");
    assert_eq!(rig.php("open", attack), "0");
    // And a second one, which leaves by another call: keys of the session.
    let attack =
        "echo FFI::cdef('long syscall(long, ...);')->syscall(250, 0, -3, 1) >= 0 ? 'joined' : 'refused';";
    if cfg!(target_arch = "x86_64") {
        assert_eq!(rig.php("held", attack), "refused");
        assert_eq!(rig.php("open", attack), "joined");
    }
}

#[test]
fn landlock_refuses_what_no_other_wall_does() {
    let mut rig = Rig::new();
    // The network is shared so that an abstract socket of the host can be named at all.
    rig.inside_without("held", "share = [\"network\"]", "");
    rig.inside_without("open", "share = [\"network\"]\nlandlock = false", "");
    rig.serve();
    // Its own /proc/self is the pool's to write by owner, mode and mount.
    let write = "var_dump(@file_put_contents('/proc/self/comm', 'renamed'));";
    assert_eq!(rig.php("held", write), "bool(false)\n");
    assert_eq!(rig.php("open", write), "int(7)\n");
    assert!(howdah::sandbox::landlock::kernel_abi() >= 1);
    if howdah::sandbox::landlock::kernel_abi() >= 6 {
        let name = format!("howdah-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let _listener = UnixListener::bind_addr(&address).unwrap();
        let connect = format!("var_dump(@stream_socket_client(\"unix://\\0{name}\") !== false);");
        assert_eq!(rig.php("held", &connect), "bool(false)\n");
        assert_eq!(rig.php("open", &connect), "bool(true)\n");
    }
}

#[test]
fn limits_hold_without_any_controller() {
    let mut rig = Rig::new();
    rig.inside_without("held", "[limits]\ntasks = 12\nopen_files = 50", "");
    rig.inside("open", TENANT, "");
    rig.serve();
    let limits = rig.php("open", "echo file_get_contents('/proc/self/limits');");
    let of = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(of("Max core file size"), ["1", "1"]);
    assert_eq!(of("Max open files"), ["1024", "1024"]);
    assert_eq!(of("Max processes"), ["129", "129"]);
    let files = "for ($n = 0; $n < 200 && ($f[] = @fopen('/dev/null', 'r')); $n++); echo $n;";
    let opened: u32 = rig.php("held", files).parse().unwrap();
    assert!((20..50).contains(&opened), "{opened}");
    assert_eq!(rig.php("open", files), "200");
    let processes = "for ($n = 0; $n < 40 && ($p[] = @proc_open(['/usr/bin/sleep', '60'], [], $q)); $n++); foreach ($p as $one) $one && proc_terminate($one, 9); echo $n;";
    let started: u32 = rig.php("held", processes).parse().unwrap();
    assert!((4..12).contains(&started), "{started}");
    assert_eq!(rig.php("open", processes), "40");
}

#[test]
fn a_fork_bomb_is_bounded_a_neighbour_answers_and_the_pool_ends_with_it() {
    let mut rig = Rig::new();
    rig.inside_without("bomb", "[limits]\ntasks = 30", "[idle]\nstop = \"2s\"");
    rig.inside("neighbour", OTHER, "");
    rig.serve();
    // Started before it is measured what a bomb does to it.
    rig.php("neighbour", "");
    // As the bomb of old, but not in the way of other tests: each waits a while.
    rig.php(
        "bomb",
        "proc_open(['/bin/sh', '-c', 'b() { b & sleep 0.02; b & wait; }; b'], [], $p); echo 'lit';",
    );
    let (mut most, begin) = (0, Instant::now());
    while begin.elapsed() < Duration::from_millis(300)
        || (most < 20 && begin.elapsed() < Duration::from_secs(2) * rig::patience())
    {
        let members = fs::read_to_string(rig.cgroup().join("bomb.1/cgroup.procs")).unwrap_or_default();
        most = most.max(members.lines().count());
        assert_eq!(rig.php("neighbour", "echo 'here';"), "here");
    }
    // RLIMIT_NPROC is one above pids.max, and alone where there is no controller.
    assert!((10..=31).contains(&most), "{most} processes");
    rig.wait_state("bomb", "cold");
    assert!(!rig.cgroup().join("bomb.1").exists());
}

#[test]
fn nothing_of_howdahs_own_environment_is_inside() {
    let secrets = ["SECRET_OF_HOWDAH", "NOTIFY_SOCKET", "LISTEN_FDNAMES"];
    let mut rig = Rig::new();
    // What the master was given comes through to its workers then.
    rig.inside("blog", TENANT, "[fpm]\nclear_env = false");
    rig.serve_under(&[], &secrets.map(|name| (name, "/secret")));
    let names = rig.php("blog", "echo implode(' ', array_keys(getenv()));");
    assert!(names.contains("FPM_SOCKETS"), "{names}");
    let of_master = rig.php("blog", "echo file_get_contents('/proc/1/environ');");
    let own = fs::read(format!("/proc/{}/environ", rig.pid())).unwrap();
    for secret in secrets {
        assert!(String::from_utf8_lossy(&own).contains(secret));
        assert!(!names.contains(secret) && !of_master.contains(secret), "{names}");
    }
}

#[test]
fn what_whoever_started_howdah_left_open_reaches_nobody() {
    let mut rig = Rig::new();
    let secret = rig.write("secret", "of the operator");
    let open = format!("exec 9<{}; exec \"$@\"", secret.display());
    // The control: so is the descriptor seen by any program that closes nothing.
    let list = "foreach (glob('/proc/self/fd/*') as $f) echo @readlink($f), \"\\n\";";
    let control =
        std::process::Command::new("sh").args(["-c", &open, "sh", "php", "-r", list]).output().unwrap();
    assert!(String::from_utf8_lossy(&control.stdout).contains(secret.to_str().unwrap()));

    rig.inside("blog", TENANT, "");
    rig.serve_under(&["sh", "-c", &open, "sh"], &[]);
    rig.php("blog", list);
    for pid in [rig.pid() as i32, rig.master("blog")] {
        let descriptors = descriptors_of(pid);
        assert!(!descriptors.values().any(|what| *what == secret), "{pid}: {descriptors:?}");
    }
}

/// Makes a process run `dup(number)`, as a bug of its own might: the copy is not close-on-exec.
#[cfg(target_arch = "x86_64")]
fn make_it_leak(pid: i32, number: i32) -> i32 {
    use nix::sys::ptrace;
    use nix::sys::wait::waitpid;
    let pid = nix::unistd::Pid::from_raw(pid);
    ptrace::attach(pid).unwrap();
    waitpid(pid, None).unwrap();
    // It sleeps in epoll_wait: right behind a `syscall` instruction, which is two bytes long.
    let before = ptrace::getregs(pid).unwrap();
    let mut call = before;
    (call.rax, call.orig_rax, call.rdi, call.rip) = (32, u64::MAX, number as u64, before.rip - 2);
    ptrace::setregs(pid, call).unwrap();
    ptrace::step(pid, None).unwrap();
    waitpid(pid, None).unwrap();
    let copy = ptrace::getregs(pid).unwrap().rax as i32;
    // epoll_wait says that it was interrupted, and is called again.
    let mut after = before;
    (after.rax, after.orig_rax) = (-i64::from(nix::libc::EINTR) as u64, u64::MAX);
    ptrace::setregs(pid, after).unwrap();
    ptrace::detach(pid, None).unwrap();
    copy
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_descriptor_that_howdah_forgets_to_close_does_not_reach_php_fpm() {
    let mut rig = Rig::new();
    rig.inside("held", TENANT, "");
    rig.inside_without("open", "close_descriptors = false", "");
    rig.serve();
    let howdah = rig.pid() as i32;
    let lock = rig.path("run/lock");
    let number = *descriptors_of(howdah).iter().find(|(_, what)| **what == lock).unwrap().0;
    assert!(make_it_leak(howdah, number) > number);
    rig.php("held", "");
    rig.php("open", "");
    let held = descriptors_of(rig.master("held"));
    assert!(!held.values().any(|what| *what == lock), "{held:?}");
    assert!(descriptors_of(rig.master("open")).values().any(|what| *what == lock));
}

#[test]
fn the_master_has_its_three_its_socket_and_what_it_made_itself() {
    let mut rig = Rig::new();
    rig.inside("one", TENANT, "");
    rig.inside("two", OTHER, "");
    rig.serve();
    rig.php("one", "");
    rig.php("two", "");
    let (one, two) = (descriptors_of(rig.master("one")), descriptors_of(rig.master("two")));
    assert_eq!(one[&0], Path::new("/dev/null"));
    assert!(one[&2].to_str().unwrap().starts_with("pipe:"));
    let howdah = descriptors_of(rig.pid() as i32);
    let shared: Vec<_> = one
        .iter()
        .filter(|(_, what)| what.to_str().unwrap().starts_with("socket:"))
        .map(|(_, what)| what)
        .collect();
    // Of howdah's sockets it has its own pool's and no other; anonymous inodes all have one name.
    let ours: Vec<_> = shared.iter().filter(|what| howdah.values().any(|own| own == **what)).collect();
    assert_eq!(ours.len(), 1, "{one:?}");
    assert_eq!(**ours[0], one[&3]);
    assert!(!two.values().any(|what| *what == one[&3]));
    // By number and kind: nothing above what php-fpm makes (a socket pair and an epoll; a pipe for each worker).
    assert!(one.len() <= 12, "{one:?}");
    let file = |what: &PathBuf| what.is_absolute() && what != Path::new("/dev/null");
    // opcache's lock, in the pool's own /tmp; a newer PHP's never has a name.
    let own_lock = |what: &PathBuf| {
        let name = what.to_str().unwrap();
        name.starts_with("/tmp/.ZendSem.") || name.starts_with("/tmp/#") && name.ends_with(" (deleted)")
    };
    assert!(!one.values().any(|what| file(what) && !own_lock(what)), "{one:?}");
}
