//! A profile with `execve = "once"`: php-fpm is executed and nothing after it, and
//! the same things succeed with `execve = "any"`.
#![allow(missing_docs)]

mod rig;

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rig::{Rig, TENANT, wait_for};

const LIMIT: Duration = Duration::from_secs(10);

/// Every way of PHP's own to start a program, each with what came of it.
const WAYS: &str = r#"
    $dir = sys_get_temp_dir();
    $ways = ['exec' => @exec('echo ran'), 'shell_exec' => @shell_exec('echo ran'), 'backtick' => @`echo ran`];
    $pipe = @popen('echo ran', 'r');
    $ways['popen'] = $pipe ? fgets($pipe) : null;
    foreach (['shell' => 'echo ran', 'list' => ['/bin/echo', 'ran']] as $name => $command) {
        $child = @proc_open($command, [1 => ['pipe', 'w']], $pipes);
        $ways["proc_open $name"] = $child ? stream_get_contents($pipes[1]) : null;
    }
    @mail('a@b', 'c', 'd');
    $ways['mail'] = @file_get_contents("$dir/mail") ? 'ran' : '';
    $ways['ffi execve'] = (function () {
        $c = FFI::cdef('int execve(char *, char **, char **); int fork(void); int waitpid(int, int *, int); void _exit(int);');
        $status = FFI::new('int');
        if (($child = $c->fork()) === 0) {
            $list = FFI::new('char *[2]');
            $text = FFI::new('char[10]');
            FFI::memcpy($text, "/bin/true\0", 10);
            $list[0] = FFI::cast('char *', $text);
            $c->execve(FFI::cast('char *', $text), $list, FFI::cast('char **', FFI::addr($list[1])));
            $c->_exit(9);
        }
        $c->waitpid($child, FFI::addr($status), 0);
        return $status->cdata === 0 ? 'ran' : 'exit ' . ($status->cdata >> 8);
    })();
    $ways['ffi execveat'] = (function () {
        $c = FFI::cdef('long syscall(long, long, long, long, long, long); extern int errno;');
        return $c->syscall(322, -100, 0, 0, 0, 0) . ' ' . $c->errno;
    })();
    echo json_encode(array_map(fn ($told) => trim((string) $told), $ways));
"#;

fn ways(rig: &Rig, pool: &str) -> serde_json::Map<String, serde_json::Value> {
    let told = rig.php(pool, WAYS);
    serde_json::from_str(&told).unwrap_or_else(|_| panic!("{told}"))
}

/// A pool whose profile is hosting but for how often a program may be executed.
fn pool(rig: &Rig, name: &str, execve: &str) {
    rig.inside_without(name, &format!("execve = \"{execve}\"\n"), "");
    let file = rig.path(&format!("pools/{name}.toml"));
    let mail = "\"sendmail_path\" = \"/usr/bin/tee /tmp/mail\"\n";
    fs::write(&file, fs::read_to_string(&file).unwrap() + mail).unwrap();
}

#[test]
fn a_howdah_with_more_descriptors_than_a_pool_may_have_starts_it_all_the_same() {
    let mut rig = Rig::new();
    let profile = rig.profile("few", "base = \"strict\"\n[limits]\nopen_files = 64\n");
    rig.inside("few", TENANT, &format!("profile = {profile:?}"));
    for number in 0..100 {
        rig.pool(&format!("other-{number}"), "");
    }
    rig.serve();
    let open = fs::read_dir(format!("/proc/{}/fd", rig.pid())).unwrap().count();
    assert!(open > 100, "only {open}");
    assert_eq!(rig.php("few", "echo posix_getrlimit()['hard openfiles'];"), "64");
}

#[test]
fn after_php_fpm_nothing_is_executed() {
    let mut rig = Rig::new();
    pool(&rig, "once", "once");
    pool(&rig, "any", "any");
    rig.serve();
    let (held, free) = (ways(&rig, "once"), ways(&rig, "any"));
    let native = ["ffi execve", "ffi execveat"];
    for (way, told) in free.iter().filter(|(way, _)| !native.contains(&way.as_str())) {
        assert_eq!(told, "ran", "the control: {way}");
        assert_ne!(held[way], "ran", "{way}");
    }
    assert_eq!((&free["ffi execve"], &held["ffi execve"]), (&"ran".into(), &"exit 9".into()));
    // ENOSYS, as from a kernel without it; hosting does not allow it either.
    assert_eq!(held["ffi execveat"], "-1 38");
    // A request after all that: nothing waits for an answer that nobody gives.
    assert_eq!(rig.php("once", "echo 6 * 7;"), "42");
}

#[test]
fn a_program_that_is_not_started_is_told_as_what_it_is_and_not_as_too_many_tasks() {
    let mut rig = Rig::new();
    pool(&rig, "once", "once");
    rig.serve();
    for call in ["exec('true')", "shell_exec('true')", "proc_open(['/bin/true'], [], $pipes)"] {
        rig.php("once", &format!("{call};"));
    }
    let told = rig.wait_log("limit seccomp: execve = \"once\" in the profile lets no program be started: ");
    assert!(told.contains("exec(): Unable to fork [true]"), "{told}");
    // The rest are counted, and told of together later.
    assert!(!rig.log().contains("limit tasks"), "{}", rig.log());
    let hits = rig.ps("once")["limits_hit"].clone();
    assert_eq!(hits.as_array().unwrap().len(), 1, "{hits}");
    let hit = &hits[0];
    assert_eq!((&hit["limit"], &hit["effect"]), (&"seccomp".into(), &"refused".into()), "{hit}");
}

#[test]
fn nothing_of_the_listener_is_left() {
    let mut rig = Rig::new();
    pool(&rig, "once", "once");
    rig.serve();
    assert_eq!(rig.php("once", "echo 6 * 7;"), "42");
    let master = rig.master("once");
    let children = fs::read_to_string(format!("/proc/{master}/task/{master}/children")).unwrap();
    let inside: Vec<i32> =
        children.split_whitespace().map(|pid| pid.parse().unwrap()).chain([master]).collect();
    assert!(inside.len() > 1, "no worker: {children:?}");
    for pid in inside.into_iter().chain([rig.pid() as i32]) {
        for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
            let link = fs::read_link(entry.path()).map(|link| link.display().to_string()).unwrap_or_default();
            assert!(!link.contains("seccomp"), "process {pid} holds {link}");
        }
    }
    let status = fs::read_to_string(format!("/proc/{master}/status")).unwrap();
    assert!(status.contains("Seccomp_filters:\t2"), "{status}");
}

/// The child of serve that is not php-fpm yet.
fn child_of(serve: u32) -> Option<i32> {
    let children = fs::read_to_string(format!("/proc/{serve}/task/{serve}/children")).ok()?;
    children.split_whitespace().last()?.parse().ok()
}

/// Whether `pid` is in execve, and waits there for somebody's word.
fn waits_in_execve(pid: i32) -> bool {
    let call = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    call.split(' ').next() == Some(&libc::SYS_execve.to_string())
}

#[test]
fn a_howdah_that_dies_before_it_has_answered_leaves_nothing_that_runs() {
    let mut rig = Rig::new();
    pool(&rig, "once", "once");
    for attempt in 0.. {
        assert!(attempt < 20, "howdah was never caught before its answer");
        rig.serve();
        let socket = rig.socket("once");
        let _visitor = UnixStream::connect(socket).unwrap();
        let child = wait_for("the child", LIMIT, || child_of(rig.pid()));
        // The child goes on alone, as far as it can.
        rig.signal(Signal::SIGSTOP);
        let end = Instant::now() + Duration::from_millis(200);
        while !waits_in_execve(child) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        let caught = waits_in_execve(child);
        rig.crash();
        if caught {
            wait_for("the child's end", LIMIT, || {
                (!Path::new(&format!("/proc/{child}")).exists()).then_some(())
            });
            // It was process 1 of its pid namespace: with it ends whatever there may have been.
            return;
        }
        // Too early or too late: once more, without what is left of this one.
        let _ = kill(Pid::from_raw(child), Signal::SIGKILL);
        wait_for("its end", LIMIT, || (!Path::new(&format!("/proc/{child}")).exists()).then_some(()));
    }
}
