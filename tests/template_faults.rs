//! A template that fails at any step, or does not do what it should, costs nobody a request: it is
//! destroyed, and its pool is launched cold within the same start.
#![allow(missing_docs)]

mod rig;

use std::fs;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use howdah::fpm::client::exchange;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use rig::fault::{Call, Fault, Instead};
use rig::held::Held;
use rig::templates::{keep, started_by, stocked, stop};
use rig::{Rig, TENANT, patience, wait_for};

const SOON: Duration = Duration::from_secs(20);
const SHORT: &str = "[idle]\nstop = \"100ms\"";
/// setns(2) into the namespaces that a bind visits.
const VISIT: u64 = (libc::CLONE_NEWNS | libc::CLONE_NEWUTS) as u64;
/// SECCOMP_IOCTL_NOTIF_ADDFD of linux/seccomp.h: _IOW('!', 3, struct of 24 bytes).
const ADDFD: u64 = 0x4018_2103;
const NOTIFY_SEND: u64 = 0xc018_2101;
/// Three ids that no other test's howdah has: one that is not given back is missed soon.
fn ids() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = 1_900_000_000 + std::process::id() % 10_000 * 100 + 3 * NEXT.fetch_add(1, Ordering::SeqCst);
    format!("template_ids = \"{first}-{}\"", first + 2)
}

/// A howdah that keeps one template, and a pool that needs all steps of a bind.
fn rig() -> Rig {
    let mut rig = Rig::new();
    keep(&rig, 1);
    let text = fs::read_to_string(rig.path("howdah.toml")).unwrap();
    rig.write("howdah.toml", &text.replace("[serve]\n", &format!("[serve]\n{}\n", ids())));
    rig.site("blog", "index.php", "<?php echo 'hello';", TENANT);
    let uploads = rig.private("uploads", TENANT);
    let mount = format!("[[mount]]\nsource = {uploads:?}\ntarget = \"/srv/uploads\"\naccess = \"rw\"\n");
    rig.pool("blog", &format!("{SHORT}\n[limits]\nopen_files = 300\n{mount}"));
    rig.serve();
    rig
}

/// The directory below `run/templates` of the template whose process is `pid`.
fn lodging(rig: &Rig, pid: i32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap();
    let name = Path::new(path).file_name().unwrap().to_string_lossy().into_owned();
    assert!(rig.path(&format!("run/templates/{name}/rootfs")).is_dir(), "{name}");
    name
}

/// What howdah holds: descriptors, mounts, children.
fn holdings(rig: &Rig) -> (usize, usize, usize) {
    let pid = rig.pid();
    let lines = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let children = lines(&format!("task/{pid}/children")).split_whitespace().count();
    (fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(), lines("mountinfo").lines().count(), children)
}

/// Something goes wrong while the pool is started: the visitor gets the answer, and nothing of the
/// template is left. Returns why it was no template that served, and how long the visitor waited.
fn survives(rig: &Rig, template: i32, name: &str, fault: Option<Fault>) -> (String, Duration) {
    let lodging = lodging(rig, template);
    let before = rig.record("blog").starts;
    let began = Instant::now();
    assert_eq!(rig.text("blog", "/index.php"), "hello", "{name}");
    let took = began.elapsed();
    if let Some(fault) = fault {
        assert!(fault.has_happened(), "{name}: it has not happened:\n{}", rig.log());
    }
    let record = || Some(rig.record("blog")).filter(|record| record.starts == before + 1);
    let why =
        wait_for("the record of the start", SOON, record).last_start_not_by_template.unwrap_or_default();
    assert_eq!(rig.record("blog").last_start_by, "cold launch", "{name}");
    // It ends beside the cold start, which does not wait for it.
    wait_for(&format!("{name}: the end of the template"), SOON, || {
        (kill(Pid::from_raw(template), None) == Err(Errno::ESRCH)).then_some(())
    });
    for left in [rig.path(&format!("run/templates/{lodging}")), rig.cgroup().join(&lodging)] {
        // The kernel may need a moment for the end of the last process.
        let what = format!("{name}: the end of {}", left.display());
        wait_for(&what, SOON, || (!left.exists()).then_some(()));
    }
    let line = format!("not by a template: {why}");
    assert!(rig.log().contains(&line), "{name}: no line {line:?}:\n{}", rig.log());
    assert_eq!(rig.ps("blog")["last_start_not_by_template"], why.as_str());
    let events = fs::read_to_string(rig.path("run/events.jsonl")).unwrap_or_default();
    assert!(events.is_empty() || events.contains("not_by_template"), "{events}");
    rig.wait_state("blog", "cold");
    (why, took)
}

/// The next start is by a template again.
fn recovers(rig: &Rig) {
    let waiting = stocked(rig, 1)[0];
    let held = Held::begin(rig, "blog", "/index.php");
    rig.wait_state("blog", "warm");
    assert_eq!(rig.master("blog"), waiting);
    let record = rig.record("blog");
    assert_eq!((record.last_start_by.as_str(), record.last_start_not_by_template), ("template", None));
    assert_eq!(held.answer(), "hello");
    rig.wait_state("blog", "cold");
}

/// The same of the template's own php-fpm, which sleeps in open(2) again when this returns.
fn inside(own: i32, instead: Instead, which: impl Fn(&Call) -> bool + Send + 'static) -> Fault {
    let fault = Fault::at(own, instead, which);
    wait_for("php-fpm in open(2)", SOON, || {
        let read = |file: &str| fs::read_to_string(format!("/proc/{own}/{file}")).unwrap_or_default();
        let sleeps = read("status").contains("State:\tS");
        (sleeps && read("syscall").starts_with(&format!("{} ", libc::SYS_openat))).then_some(())
    });
    fault
}

type Which = Box<dyn Fn(&Call) -> bool + Send>;

/// Every step of a bind fails once; `own` is the process of the template.
fn steps(own: i32) -> Vec<(&'static str, Errno, Which, &'static str)> {
    let number = |wanted: i64| -> Which { Box::new(move |call| call.number == wanted) };
    let argument = |wanted: i64, at: usize, value: u64| -> Which {
        Box::new(move |call| call.number == wanted && call.arguments[at] == value)
    };
    let writes = |end: String| -> Which { Box::new(move |call| call.writes(&end)) };
    vec![
        ("its etc", Errno::EDQUOT, writes("/etc/passwd".into()), "attach the root"),
        ("its mark", Errno::ENOSPC, writes("/pool".into()), "attach the root (its mark)"),
        ("the owners of its mounts", Errno::EPERM, writes("/uid_map".into()), "map the uid and gid (of its"),
        ("a copy of a mount", Errno::EMFILE, number(libc::SYS_open_tree), "open "),
        ("an id map of a mount", Errno::ENOMEM, number(libc::SYS_mount_setattr), "map the owners of "),
        ("a mount point", Errno::EROFS, number(libc::SYS_mkdirat), "mount "),
        ("its namespaces", Errno::EPERM, argument(libc::SYS_setns, 1, VISIT), "mount (its mount namespace"),
        ("a mount", Errno::ENOSPC, number(libc::SYS_move_mount), "mount "),
        ("its host name", Errno::EPERM, number(libc::SYS_sethostname), "set the host name blog"),
        ("its uid", Errno::EPERM, writes(format!("{own}/uid_map")), "map the uid and gid (uid_map"),
        ("its gid", Errno::EPERM, writes(format!("{own}/gid_map")), "map the uid and gid (gid_map"),
        ("its limits", Errno::EPERM, argument(libc::SYS_prlimit64, 0, own as u64), "set "),
        (
            "its priority",
            Errno::EACCES,
            argument(libc::SYS_setpriority, 1, own as u64),
            "raise the nice value",
        ),
        ("its configuration", Errno::ENXIO, writes("howdah/php-fpm.conf".into()), "execute (its config"),
        ("a file in its place", Errno::EDQUOT, writes("php-fpm.new".into()), "attach the root"),
        ("its sockets", Errno::EBADF, argument(libc::SYS_ioctl, 1, ADDFD), "let a waiting system call"),
        (
            "its one call",
            Errno::ENOENT,
            argument(libc::SYS_ioctl, 1, NOTIFY_SEND),
            "let a waiting system call",
        ),
    ]
}

#[test]
fn each_step_of_a_bind_may_fail() {
    let mut rig = rig();
    recovers(&rig);
    stocked(&rig, 1);
    let before = holdings(&rig);
    for step in 0..steps(0).len() {
        let template = stocked(&rig, 1)[0];
        let (name, errno, which, words) = steps(template).remove(step);
        let fault = Fault::at(rig.pid() as i32, Instead::Fails(errno), which);
        let (why, _) = survives(&rig, template, name, Some(fault));
        assert!(why.starts_with(words) && why.contains(&format!("({errno:?})")), "{name}: {why}");
    }
    recovers(&rig);
    stocked(&rig, 1);
    // What was killed last may be on its way still.
    let what = format!("descriptors, mounts and children as before, {before:?}");
    wait_for(&what, SOON, || (holdings(&rig) == before).then_some(()));
    assert_eq!(rig.end(), 0);
    assert!(!rig.cgroup().exists() && !rig.path("run/templates").exists(), "something is left behind");
}

#[test]
fn where_nothing_fails_it_is_bound_also_under_observation() {
    let rig = rig();
    let waiting = stocked(&rig, 1)[0];
    let fault = Fault::at(rig.pid() as i32, Instead::Fails(Errno::EPERM), |call| call.number == -2);
    let held = Held::begin(&rig, "blog", "/index.php");
    rig.wait_state("blog", "warm");
    assert_eq!(rig.master("blog"), waiting);
    assert_eq!(held.answer(), "hello");
    assert!(!fault.has_happened());
    assert_eq!(started_by(&rig, "blog"), "template", "{}", rig.log());
}

#[test]
fn it_may_die_at_any_moment_of_its_start() {
    let mut rig = rig();
    let number = |wanted: i64| move |call: &Call| call.number == wanted;
    let writes_configuration =
        |call: &Call| call.number == libc::SYS_write && call.text(1).starts_with("[global]");
    type Begin = fn(i32, i32) -> Fault;
    let killed: [(&str, Begin); 7] = [
        ("before its mounts", |howdah, own| {
            Fault::at(howdah, Instead::OtherKilled(own), |call| call.number == libc::SYS_open_tree)
        }),
        ("before it is entered", |howdah, own| {
            Fault::at(howdah, Instead::OtherKilled(own), |call| call.arguments[1] == VISIT)
        }),
        ("before its limits", |howdah, own| {
            Fault::at(howdah, Instead::OtherKilled(own), |call| call.number == libc::SYS_prlimit64)
        }),
        ("when it has its configuration", |_, own| {
            inside(own, Instead::Killed, |call| call.number == libc::SYS_read)
        }),
        ("when it asks for its sockets", |_, own| {
            inside(own, Instead::Killed, |call| call.number == libc::SYS_epoll_create)
        }),
        ("while it gets them", |howdah, own| {
            Fault::at(howdah, Instead::OtherKilled(own), |call| call.arguments[1] == ADDFD)
        }),
        ("when it has them", |_, own| {
            inside(own, Instead::Killed, |call| call.number == libc::SYS_epoll_ctl)
        }),
    ];
    for (name, begin) in killed {
        let own = stocked(&rig, 1)[0];
        survives(&rig, own, name, Some(begin(rig.pid() as i32, own)));
    }
    // It lives, and fails by itself.
    let own = stocked(&rig, 1)[0];
    let fault = inside(own, Instead::Fails(Errno::EIO), number(libc::SYS_read));
    let (why, _) = survives(&rig, own, "it cannot read its configuration", Some(fault));
    // Seen when it has ended, or before that by whichever step has more to do with it.
    let steps = steps(own).into_iter().map(|(.., words)| words);
    assert!(steps.chain(["php-fpm ended: "]).any(|words| why.starts_with(words)), "{why}");
    let own = stocked(&rig, 1)[0];
    let fault = inside(own, Instead::Fails(Errno::EMFILE), number(libc::SYS_epoll_create));
    survives(&rig, own, "it gets no epoll", Some(fault));
    let own = stocked(&rig, 1)[0];
    let fault = Fault::at(rig.pid() as i32, Instead::OtherKilled(own), writes_configuration);
    survives(&rig, own, "while it gets its configuration", Some(fault));
    recovers(&rig);
    assert_eq!(rig.end(), 0);
    assert!(!rig.cgroup().exists() && !rig.path("run/templates").exists(), "something is left behind");
}

/// What takes hold of a template that waits, before it is wanted.
type Hold = fn(&Rig, i32) -> Option<Fault>;

/// Has `hold` happen to a template: what `is_told` is told of it, and the visitor has waited at least
/// `limits.0`; in one of a few attempts less than `limits.1`, for other work only ever makes it later.
fn holds_up(rig: &Rig, name: &str, limits: (Duration, Duration), hold: Hold, is_told: impl Fn(&str) -> bool) {
    let mut waits = Vec::new();
    while waits.last().is_none_or(|took| *took >= limits.1) {
        assert!(waits.len() < 4, "{name}: {waits:?}");
        let own = stocked(rig, 1)[0];
        let (why, took) = survives(rig, own, name, hold(rig, own));
        assert!(is_told(&why) && took >= limits.0, "{name}: {why} {took:?}");
        waits.push(took);
    }
}

#[test]
fn one_that_stands_still_holds_nobody_up_for_long() {
    let mut rig = rig();
    let limit = Duration::from_secs(2) * patience();
    let late: [(&str, &str, Hold); 3] = [
        ("it never asks", "ask for its sockets", |_, own| {
            Some(inside(own, Instead::Never, |call| call.number == libc::SYS_epoll_create))
        }),
        ("it never is ready", "become ready", |_, own| {
            Some(inside(own, Instead::Never, |call| call.number == libc::SYS_epoll_ctl))
        }),
        ("it is stopped when it has its configuration", "ask for its sockets", |rig, own| {
            Some(Fault::at(rig.pid() as i32, Instead::OtherStopped(own), |call| {
                call.number == libc::SYS_write && call.text(1).starts_with("[global]")
            }))
        }),
    ];
    for (name, words, hold) in late {
        let told = format!("its php-fpm did not {words} within {limit:?}");
        holds_up(&rig, name, (limit, limit * 5 / 2), hold, |why| why == told);
    }
    // Before the bind, nobody reads its configuration.
    let still: [(&str, Hold); 2] = [
        ("it was stopped", |_, own| {
            stop(own);
            None
        }),
        ("it was frozen", |rig, own| {
            let cgroup = rig.cgroup().join(lodging(rig, own));
            fs::write(cgroup.join("cgroup.freeze"), "1").unwrap();
            wait_for("a frozen template", SOON, || {
                fs::read_to_string(cgroup.join("cgroup.events")).unwrap().contains("frozen 1").then_some(())
            });
            None
        }),
    ];
    for (name, hold) in still {
        let told = |why: &str| why.starts_with("execute (its configuration): ");
        holds_up(&rig, name, (Duration::ZERO, limit), hold, told);
    }
    recovers(&rig);
    assert_eq!(rig.end(), 0);
    assert!(!rig.cgroup().exists() && !rig.path("run/templates").exists(), "something is left behind");
}

#[test]
fn howdah_may_die_at_any_moment_of_a_bind() {
    let directory = tempfile::Builder::new().prefix("howdah-test-").tempdir_in("/tmp").unwrap();
    let path = directory.path().join("blog.sock");
    // As systemd would, somebody else holds it: who waits waits for the next howdah.
    let mut rig = Rig::new().passing(UnixListener::bind(&path).unwrap(), "blog");
    keep(&rig, 1);
    rig.site("blog", "index.php", "<?php echo 'hello';", TENANT);
    rig.pool("blog", SHORT);
    rig.serve();
    let argument = |at: usize, value: u64| -> Which { Box::new(move |call| call.arguments[at] == value) };
    let number = |wanted: i64| -> Which { Box::new(move |call| call.number == wanted) };
    let moments: [(&str, Which); 8] = [
        ("before its mark", Box::new(|call| call.writes("/pool"))),
        ("before its mounts", number(libc::SYS_open_tree)),
        ("before it is entered", argument(1, VISIT)),
        ("inside", number(libc::SYS_sethostname)),
        ("before its configuration", Box::new(|call| call.writes("howdah/php-fpm.conf"))),
        ("after it", Box::new(|call| call.writes("php-fpm.new"))),
        ("before its sockets", argument(1, ADDFD)),
        ("before it goes on", argument(1, NOTIFY_SEND)),
    ];
    for (name, which) in moments {
        let own = stocked(&rig, 1)[0];
        let lodging = lodging(&rig, own);
        let fault = Fault::at(rig.pid() as i32, Instead::Killed, which);
        let request = rig.request("blog", "/index.php", "GET", &[], b"");
        let stream = UnixStream::connect(&path).unwrap();
        let visitor = std::thread::spawn(move || exchange(&stream, &request, SOON * patience()));
        wait_for("the end of howdah", SOON, || fault.is_over().then_some(()));
        assert!(fault.has_happened(), "{name}");
        rig.crash();
        rig.serve();
        let answer = visitor.join().unwrap().unwrap_or_else(|error| panic!("{name}: {error}\n{}", rig.log()));
        assert_eq!((answer.status, answer.body.as_slice()), (200, b"hello".as_slice()), "{name}");
        rig.wait_state("blog", "cold");
        wait_for("the end of what was half bound", SOON, || {
            let is_there = |path: &Path| path.exists();
            let left = rig.path(&format!("run/templates/{lodging}"));
            (!is_there(&left) && !is_there(&rig.cgroup().join(&lodging))).then_some(())
        });
        assert!(!rig.log().contains("left alone"), "{name}: {}", rig.log());
    }
    assert_eq!(rig.end(), 0);
    assert!(!rig.cgroup().exists() && !rig.path("run/templates").exists(), "something is left behind");
}

#[test]
fn a_file_system_that_cannot_be_mapped_costs_one_template_and_no_request() {
    let mut rig = Rig::new();
    keep(&rig, 1);
    // ramfs: its files cannot be shown as another's (FS_ALLOW_IDMAP), tmpfs's can.
    for (name, kind) in [("blog", "ramfs"), ("shop", "tmpfs")] {
        rig.site(name, "index.php", "<?php echo 'hello';", TENANT);
        let data = rig.private(&format!("{name}-{kind}"), TENANT);
        rig.pool(
            name,
            &format!("{SHORT}\n[[mount]]\nsource = {data:?}\ntarget = \"/srv/data\"\naccess = \"rw\"\n"),
        );
    }
    let (ramfs, tmpfs) = (rig.path("blog-ramfs"), rig.path("shop-tmpfs"));
    let mounts = format!(
        "mount -t ramfs none {0}; mount -t tmpfs none {1}; chown www-data {0} {1}; exec \"$@\"",
        ramfs.display(),
        tmpfs.display()
    );
    rig.serve_under(&["unshare", "-m", "--propagation", "private", "sh", "-ec", &mounts, "sh"], &[]);
    let own = stocked(&rig, 1)[0];
    let (why, _) = survives(&rig, own, "it cannot be mapped", None);
    assert!(
        why.starts_with("map the owners of ") && why.contains("ramfs") && why.contains("(EINVAL)"),
        "{why}"
    );
    // The next start knows, and spends none.
    let own = stocked(&rig, 1)[0];
    let starts = rig.record("blog").starts;
    assert_eq!(rig.text("blog", "/index.php"), "hello");
    let record = || Some(rig.record("blog")).filter(|record| record.starts > starts);
    let record = wait_for("the record of the start", SOON, record);
    assert_eq!(record.last_start_not_by_template.as_deref(), Some(why.as_str()));
    assert_eq!(stocked(&rig, 1), [own], "it was spent");
    // The control: the same on a file system that can.
    rig.text("shop", "/index.php");
    assert_eq!(started_by(&rig, "shop"), "template", "{}", rig.log());
}

#[test]
fn one_that_serves_already_is_not_given_up_though_it_has_not_said_that_it_is_ready() {
    let mut rig = Rig::new();
    keep(&rig, 1);
    let sleep = 3 * patience();
    rig.site("blog", "index.php", &format!("<?php sleep({sleep}); echo 'hello';"), TENANT);
    rig.pool("blog", "[idle]\nstop = \"1h\"\n[fpm]\npm = \"static\"\nmax_children = 1");
    rig.serve();
    let own = stocked(&rig, 1)[0];
    // Its worker is there before it says so, and has the request.
    let fault = inside(own, Instead::Never, |call| call.number == libc::SYS_epoll_ctl);
    let began = Instant::now();
    assert_eq!(rig.text("blog", "/index.php"), "hello");
    assert!(began.elapsed() >= Duration::from_secs(u64::from(sleep)));
    assert!(!rig.log().contains("not by a template"), "{}", rig.log());
    kill(Pid::from_raw(own), Signal::SIGKILL).unwrap();
    assert!(fault.has_happened());
}
