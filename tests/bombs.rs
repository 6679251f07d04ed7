//! What can be exhausted, by PHP in a real pool: as far as one pool gets, that a
//! neighbour answers meanwhile, and that the pool is whole again after a stop. The
//! control of each is a pool with more room, or the same thing where it is not
//! bounded. Memory, tasks and processor time as cgroups bound them: `tests/limits.rs`.
#![allow(missing_docs)]

mod rig;

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use rig::{OTHER, Rig, TENANT, wait_for};

const SOON: Duration = Duration::from_secs(20);

/// One at a time: what the kernel counts for an account (pipes' pages, descriptors in flight) it counts
/// for every pool of that account, those of the test beside this one too.
static ACCOUNT: Mutex<()> = Mutex::new(());

/// A pool `bomber` with `held` in its file, `roomy` with `free`, `sibling` of the
/// same account and `neighbour` of another.
fn scene(held: &str, free: &str) -> Rig {
    let mut rig = Rig::new();
    rig.inside("bomber", TENANT, held);
    rig.inside("roomy", TENANT, free);
    rig.inside("sibling", TENANT, "");
    rig.inside("neighbour", OTHER, "");
    rig.serve();
    rig
}

fn number(rig: &Rig, pool: &str, code: &str) -> u64 {
    let said = rig.php(pool, code);
    said.trim().parse().unwrap_or_else(|_| panic!("{pool}: {said}"))
}

fn answers(rig: &Rig, pool: &str) {
    assert_eq!(rig.php(pool, "echo 'here';"), "here");
}

/// Takes the pool's file away and puts it back: its generation ends, as at any
/// orderly end, and the next request starts another.
fn stop(rig: &Rig, pool: &str) {
    let (file, aside) = (rig.path(&format!("pools/{pool}.toml")), rig.path("aside"));
    fs::rename(&file, &aside).unwrap();
    rig.signal(Signal::SIGHUP);
    rig.wait_state(pool, "absent");
    fs::rename(&aside, &file).unwrap();
    rig.signal(Signal::SIGHUP);
    rig.wait_state(pool, "cold");
}

#[test]
fn inodes_of_tmp_run_out_for_the_pool_alone_and_are_back_after_a_stop() {
    let rig = scene("[limits]\ntmp = \"4M\"\n", "[limits]\ntmp = \"8M\"\n");
    // Of howdah's own making: every file system that the pool can write without a quota.
    for place in ["/tmp", "/run", "/dev/shm"] {
        let code = format!("$n = 0; while (@touch('{place}/bomb' . $n)) $n++; echo $n;");
        let held = number(&rig, "bomber", &code);
        assert!((900..1024).contains(&held), "{place}: {held}");
        let free = number(&rig, "roomy", &code);
        assert!((1900..2048).contains(&free), "{place}: {free}");
        assert_eq!(rig.php("neighbour", &format!("echo (int) touch('{place}/mine');")), "1");
    }
    answers(&rig, "bomber");
    stop(&rig, "bomber");
    assert_eq!(rig.php("bomber", "echo (int) touch('/tmp/mine');"), "1");
}

#[test]
fn descriptors_run_out_for_one_process() {
    let rig = scene("", "[limits]\nopen_files = 2048\n");
    let code = "$all = []; while ($one = @fopen('/dev/null', 'r')) $all[] = $one; echo count($all);";
    let held = number(&rig, "bomber", code);
    assert!((900..1024).contains(&held), "{held}");
    let free = number(&rig, "roomy", code);
    assert!((1900..2048).contains(&free), "{free}");
    for pool in ["bomber", "neighbour"] {
        assert_eq!(rig.php(pool, "echo is_resource(fopen('/dev/null', 'r'));"), "1");
    }
}

#[test]
fn inotify_instances_of_root_and_of_all_pools_are_not_a_pool_s_to_take() {
    let mut rig = Rig::new();
    rig.inside("bomber", TENANT, "");
    // The control takes one, and not all 128: this machine's root needs the others.
    rig.inside_without("open", "seccomp = \"compat\"", "");
    rig.serve();
    let code = "echo FFI::cdef('int inotify_init1(int);')->inotify_init1(0) >= 0 ? 'got' : 'refused';";
    assert_eq!(rig.php("bomber", code), "refused");
    assert_eq!(rig.php("open", code), "got");
}

/// PHP: a new pipe's size; from 64 KiB down to a page when the account has many.
const PIPE: &str = "$c = FFI::cdef('int pipe(int *ends); int fcntl(int fd, int what, int size);');
    function fresh($c) { $p = $c->new('int[2]'); $c->pipe($p); return $p; }";

#[test]
fn pages_of_pipes_are_an_account_s_and_not_its_neighbour_s() {
    let _alone = ACCOUNT.lock().unwrap_or_else(PoisonError::into_inner);
    let rig = scene("", "");
    let size = format!("{PIPE} echo $c->fcntl(fresh($c)[0], 1032, 0);");
    assert_eq!(number(&rig, "sibling", &size), 65536);
    // F_SETPIPE_SZ to a MiB, until fs.pipe-user-pages-soft is reached.
    let bomb = format!(
        "{PIPE} $n = 0; while ($n < 400 && $c->fcntl(fresh($c)[0], 1031, 1 << 20) > 0) $n++; echo $n;"
    );
    let pages = fs::read_to_string("/proc/sys/fs/pipe-user-pages-soft").unwrap();
    let bound = (pages.trim().parse::<u64>().unwrap() * 4096) >> 20;
    let got = number(&rig, "bomber", &bomb);
    assert!(got > 0 && got <= bound, "{got} of {bound} MiB");
    // Fill up to the last page: what is left is less than a pipe of the ordinary size.
    rig.php("bomber", &format!("{PIPE} for ($n = 0; $n < 100; $n++) fresh($c); echo 'x';"));
    // Of the same account the pipes get smaller, and work; another account's are as ever.
    assert!(number(&rig, "sibling", &size) <= 8192);
    assert_eq!(rig.php("sibling", "echo shell_exec('echo said');"), "said\n");
    assert_eq!(number(&rig, "neighbour", &size), 65536);
    stop(&rig, "bomber");
    assert_eq!(number(&rig, "sibling", &size), 65536);
}

#[test]
fn descriptors_in_flight_are_an_account_s_and_not_its_neighbour_s() {
    let _alone = ACCOUNT.lock().unwrap_or_else(PoisonError::into_inner);
    let rig = scene("", "");
    let send = |most: u64| {
        format!(
            "socket_create_pair(AF_UNIX, SOCK_STREAM, 0, $p); $m = ['iov' => ['x'], 'control' => [['level' => SOL_SOCKET, \
             'type' => SCM_RIGHTS, 'data' => array_fill(0, 200, $p[0])]]]; $n = 0; \
             while ($n < {most} && @socket_sendmsg($p[0], $m, 0)) $n++; $GLOBALS['keep'] = $p; echo $n;"
        )
    };
    // They stay in flight as long as the worker has the sockets: it is kept in its request.
    let held = std::thread::scope(|scope| {
        let bomb = scope.spawn(|| {
            let wait = "for ($w = 0; $w < 2000 && !file_exists('/tmp/over'); $w++) { usleep(10000); clearstatcache(); }";
            rig.php("bomber", &format!("{} file_put_contents('/tmp/done', $n); {wait}", send(100)))
        });
        wait_for("the bomb", SOON, || {
            (rig.php("bomber", "echo (int) file_exists('/tmp/done');") == "1").then_some(())
        });
        assert_eq!(number(&rig, "sibling", &send(1)), 0);
        assert_eq!(number(&rig, "neighbour", &send(1)), 1);
        answers(&rig, "sibling");
        rig.php("bomber", "touch('/tmp/over');");
        bomb.join().unwrap()
    });
    let held: u64 = held.parse().unwrap();
    assert!((3..=7).contains(&held), "{held} messages with 200 descriptors each");
    wait_for("what the sibling may send again", SOON, || {
        (number(&rig, "sibling", &send(1)) == 1).then_some(())
    });
}

#[test]
fn system_v_objects_end_with_the_generation() {
    let rig = scene("", "");
    let key = 0x5157;
    let make = format!(
        "$m = shmop_open({key}, 'c', 0600, 16 << 20); shmop_write($m, str_repeat('x', 16 << 20), 0);
         $n = 0; while ($n < 200 && ($q = @msg_get_queue($n + 1)) && @msg_send($q, 1, str_repeat('x', 8000), false, false)) $n++; echo $n;"
    );
    assert_eq!(number(&rig, "bomber", &make), 200);
    let look = format!("echo (int) (bool) @shmop_open({key}, 'a', 0, 0), (int) msg_queue_exists(1);");
    assert_eq!(rig.php("bomber", &look), "11");
    assert_eq!(rig.php("sibling", &look), "00");
    stop(&rig, "bomber");
    assert_eq!(rig.php("bomber", &look), "00");
}

#[test]
fn there_is_no_terminal_to_be_had() {
    let rig = scene("", "");
    let code = "echo @fopen('/dev/ptmx', 'r+') ? 'got' : 'refused';";
    assert_eq!(rig.php("bomber", code), "refused");
    let host = Command::new("php").args(["-r", code]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&host.stdout), "got");
}

/// How many processes of the machine have `word` in their command line.
fn processes_with(word: &str) -> usize {
    let all = fs::read_dir("/proc").unwrap().flatten();
    all.filter(|entry| {
        fs::read(entry.path().join("cmdline")).is_ok_and(|line| String::from_utf8_lossy(&line).contains(word))
    })
    .count()
}

/// PHP that starts a shell's script and does not wait for it.
fn launch(script: &str) -> String {
    format!(
        "$null = fopen('/dev/null', 'r+'); $GLOBALS['p'] = proc_open(['/bin/sh', '-c', {script:?}], [$null, $null, $null], $x); echo 'lit';"
    )
}

#[test]
fn daemons_that_ignore_every_signal_end_with_a_stop() {
    let rig = scene("", "");
    let word = format!("howdah-daemon-{}", std::process::id());
    let daemon = format!(
        "trap '' TERM HUP INT QUIT; for n in 1 2 3; do (setsid sh -c 'trap \"\" TERM HUP INT QUIT; while :; do sleep 1; done' {word} &) ; done"
    );
    assert_eq!(rig.php("bomber", &launch(&daemon)), "lit");
    wait_for("the daemons", SOON, || (processes_with(&word) >= 3).then_some(()));
    stop(&rig, "bomber");
    assert_eq!(processes_with(&word), 0);
    answers(&rig, "neighbour");
    answers(&rig, "bomber");
}

#[test]
fn processes_that_breed_while_they_are_stopped_end_with_a_stop() {
    let rig = scene("", "");
    let word = format!("howdah-breed-{}", std::process::id());
    // Each makes another and ends: there is never a list of them that is complete.
    let script = rig.write("bomber/breed", "trap '' TERM HUP INT QUIT\n(setsid sh \"$0\" \"$1\" &)\n");
    let code = launch(&format!("for n in 1 2 3 4 5 6 7 8; do sh {} {word} & done", script.display()));
    assert_eq!(rig.php("bomber", &code), "lit");
    wait_for("the breed", SOON, || (processes_with(&word) > 0).then_some(()));
    std::thread::sleep(Duration::from_millis(300));
    assert!((0..50).any(|_| processes_with(&word) > 0), "it has died out by itself");
    answers(&rig, "neighbour");
    stop(&rig, "bomber");
    for _ in 0..20 {
        assert_eq!(processes_with(&word), 0);
        std::thread::sleep(Duration::from_millis(10));
    }
    answers(&rig, "bomber");
}

#[test]
fn a_neighbour_answers_while_every_processor_is_spent() {
    let rig = scene("", "");
    let word = format!("howdah-spin-{}", std::process::id());
    let spin =
        format!("for n in 1 2 3 4 5 6 7 8 9 10 11 12; do sh -c 'while :; do :; done' {word} & done; wait");
    assert_eq!(rig.php("bomber", &launch(&spin)), "lit");
    wait_for("the load", SOON, || (processes_with(&word) >= 12).then_some(()));
    // A cold start among it, and answers of the warm pool.
    for _ in 0..10 {
        answers(&rig, "neighbour");
    }
    stop(&rig, "bomber");
    assert_eq!(processes_with(&word), 0);
}

/// PHP that hands the pool's listening socket (SO_ACCEPTCONN says which it is) to whoever listens at `{shared}`.
const GIVE: &str = "$c = FFI::cdef('struct iovec { void *base; size_t length; };
    struct msghdr { void *name; unsigned name_length; struct iovec *iov; size_t iov_length; void *control; size_t control_length; int flags; };
    long sendmsg(int fd, const struct msghdr *message, int flags); int socket(int, int, int); int connect(int, const char *, unsigned);
    int getsockopt(int fd, int level, int name, int *value, unsigned *length);');
    $value = $c->new('int'); $length = $c->new('unsigned'); $length->cdata = 4;
    for ($listener = 0; $listener < 64; $listener++)
        if ($c->getsockopt($listener, 1, 30, FFI::addr($value), FFI::addr($length)) === 0 && $value->cdata === 1) break;
    $address = pack('S', 1) . '{shared}' . \"\\0\"; $s = $c->socket(1, 1, 0);
    if ($c->connect($s, $address, strlen($address))) die('no connection');
    $byte = $c->new('char[1]'); $words = $c->new('long[3]'); $words[0] = 20; $words[1] = (1 << 32) | 1; $words[2] = $listener;
    $iov = $c->new('struct iovec'); $iov->base = FFI::addr($byte); $iov->length = 1;
    $m = $c->new('struct msghdr'); $m->iov = FFI::addr($iov); $m->iov_length = 1; $m->control = FFI::addr($words); $m->control_length = 24;
    echo $c->sendmsg($s, FFI::addr($m), 0);";

/// PHP that takes it there and accepts one of the other pool's visitors. Its socket gets its name when it listens.
const TAKE: &str = "$l = socket_create(AF_UNIX, SOCK_STREAM, 0); socket_bind($l, '{shared}.new'); chmod('{shared}.new', 0777);
    socket_listen($l); rename('{shared}.new', '{shared}'); $s = socket_accept($l);
    $m = ['name' => [], 'buffer_size' => 1, 'controllen' => socket_cmsg_space(SOL_SOCKET, SCM_RIGHTS, 1)];
    socket_recvmsg($s, $m, 0); $taken = $m['control'][0]['data'][0]; touch('{shared}.taken');
    $visitor = socket_accept($taken); echo socket_read($visitor, 64) === 'to the giver' ? 'robbed' : 'nothing';";

#[test]
fn two_pools_with_a_shared_directory_can_hand_a_listener_over_and_the_giver_still_serves_afterwards() {
    let _alone = ACCOUNT.lock().unwrap_or_else(PoisonError::into_inner);
    let mut rig = Rig::new();
    rig.shell("mkdir shared && chmod 777 shared");
    let mount = format!("[[mount]]\nsource = {:?}\naccess = \"rw\"\n", rig.path("shared"));
    rig.inside("giver", TENANT, &format!("[idle]\nstop = \"1s\"\n{mount}"));
    rig.inside("taker", OTHER, &mount);
    rig.inside("apart", TENANT, "");
    rig.serve();
    let shared = rig.path("shared/socket").display().to_string();
    let fill = |code: &str| code.replace("{shared}", &shared);
    std::thread::scope(|scope| {
        let taker = scope.spawn(|| rig.php("taker", &fill(TAKE)));
        wait_for("the meeting point", SOON, || rig.path("shared/socket").exists().then_some(()));
        assert_eq!(rig.php("giver", &fill(GIVE)), "1");
        wait_for("the hand-over", SOON, || rig.path("shared/socket.taken").exists().then_some(()));
        // The giver's generation is gone, and its listener is still in the other pool.
        rig.wait_state("giver", "cold");
        // A visitor starts it again, and now both accept: whoever is faster.
        let _visitors = wait_for("a visitor in the wrong pool", SOON, || {
            let mut visitor = UnixStream::connect(rig.socket("giver")).unwrap();
            visitor.write_all(b"to the giver").unwrap();
            std::thread::sleep(Duration::from_millis(100));
            taker.is_finished().then_some(visitor)
        });
        assert_eq!(taker.join().unwrap(), "robbed");
    });
    wait_for("an answer of the giver", SOON, || {
        let answer = rig.ask("giver", "/do.php", "POST", &[("Content-Type", "text/plain")], b"echo 'here';");
        answer.ok().filter(|answer| answer.body == b"here")
    });
    // The control: a pool without that mount has nowhere to meet.
    assert_eq!(rig.php("apart", &fill(GIVE)), "no connection");
}
