//! The filter in a real kernel: what `hosting` refuses is refused, each time
//! beside a run without it in which the same thing succeeds; and an ordinary PHP
//! site does not notice.
//!
//! A filter cannot be taken off again, so everything happens in this binary run
//! a second time: the ignored tests below are what it does there.

#![allow(clippy::print_stderr)] // how the second process tells the first

#[path = "rig/confined.rs"]
mod confined;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use confined::Confined;
use nix::errno::Errno;
use nix::unistd::{Gid, Uid};
use oci_spec::runtime::LinuxSeccomp;

const HOSTING: &str = include_str!("../profiles/seccomp/hosting.json");
const TIES: &str = r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "syscalls": [
    {"names": ["mount"], "action": "SCMP_ACT_ALLOW"},
    {"names": ["mount"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13},
    {"names": ["mount"], "action": "SCMP_ACT_ERRNO", "errnoRet": 22},
    {"names": ["write", "exit_group", "munmap", "futex", "sigaltstack", "exit", "madvise", "rt_sigprocmask",
        "close", "brk", "mmap", "sched_yield", "mprotect"], "action": "SCMP_ACT_ALLOW"}]}"#;
const NOBODY: u32 = 65534;

/// Runs the ignored test `name` of this binary, below `filter` if there is one.
fn again(name: &str, filter: Option<&str>) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", name, "--nocapture", "--test-threads=1"]);
    command.env_remove("SECCOMP_FILTER");
    if let Some(filter) = filter {
        command.env("SECCOMP_FILTER", filter);
    }
    command
}

/// Puts the calling thread below the filter it was given.
fn enter_filter() {
    if let Ok(json) = std::env::var("SECCOMP_FILTER") {
        let filter: LinuxSeccomp = serde_json::from_str(&json).unwrap();
        let programs = howdah::sandbox::seccomp::compile(&filter).unwrap();
        howdah::sandbox::seccomp::apply(&programs).unwrap();
    }
}

/// A system call by number; a new process that comes of it ends at once.
#[allow(unsafe_code)]
fn call(number: i64, args: [u64; 5]) -> Result<i64, Errno> {
    // SAFETY: every pointer that the rows of `tried` pass is null or points to a
    // value that outlives the call; a child made by clone without CLONE_VM has a
    // copy of this memory and calls only _exit.
    unsafe {
        let result = libc::syscall(number, args[0], args[1], args[2], args[3], args[4]);
        if result == 0 && (number == libc::SYS_clone || number == libc::SYS_clone3) {
            libc::_exit(0);
        }
        Errno::result(result)
    }
}

/// What the attacker tries, and what came of it.
fn tried(listener: &UnixListener) -> Vec<(&'static str, Result<i64, Errno>)> {
    let fd = listener.as_raw_fd() as u64;
    // struct clone_args of Linux 5.3 and struct sock_fprog with "drop everything".
    let clone_args: [u64; 8] = [0, 0, 0, 0, libc::SIGCHLD as u64, 0, 0, 0];
    let drop_all: [u64; 1] = [0x06];
    let program: [u64; 2] = [1, drop_all.as_ptr() as u64];
    let mut ring = [0u64; 15];
    let sigchld = libc::SIGCHLD as u64;
    vec![
        ("getpid", call(libc::SYS_getpid, [0; 5])),
        ("fork", call(libc::SYS_clone, [sigchld, 0, 0, 0, 0])),
        ("user namespace", call(libc::SYS_clone, [libc::CLONE_NEWUSER as u64 | sigchld, 0, 0, 0, 0])),
        ("clone3", call(libc::SYS_clone3, [clone_args.as_ptr() as u64, 64, 0, 0, 0])),
        ("unshare", call(libc::SYS_unshare, [libc::CLONE_NEWUTS as u64, 0, 0, 0, 0])),
        ("netlink", call(libc::SYS_socket, [16, 3, 0, 0, 0])),
        ("unix", call(libc::SYS_socket, [1, 1, 0, 0, 0])),
        ("tcp", call(libc::SYS_socket, [2, 1, 6, 0, 0])),
        ("mptcp or sctp", call(libc::SYS_socket, [2, 1, 99, 0, 0])),
        ("io_uring", call(libc::SYS_io_uring_setup, [1, ring.as_mut_ptr() as u64, 0, 0, 0])),
        ("memfd", call(libc::SYS_memfd_create, [c"x".as_ptr() as u64, 0, 0, 0, 0])),
        ("filter", call(libc::SYS_setsockopt, [fd, 1, 26, program.as_ptr() as u64, 16])),
        (
            "filter, high bits",
            call(libc::SYS_setsockopt, [fd, 1 | 1 << 32, 26 | 1 << 40, program.as_ptr() as u64, 16]),
        ),
        ("typing into a terminal", call(libc::SYS_ioctl, [fd, libc::TIOCSTI, 0, 0, 0])),
        ("typing, high bits", call(libc::SYS_ioctl, [fd, libc::TIOCSTI | 1 << 40, 0, 0, 0])),
        ("netlink, high bits", call(libc::SYS_socket, [16 | 1 << 32, 3, 0, 0, 0])),
        ("raw, high bits", call(libc::SYS_socket, [2 | 1 << 32, 3 | 1 << 40, 1 | 1 << 36, 0, 0])),
        ("personality", call(libc::SYS_personality, [0xffff_ffff, 0, 0, 0, 0])),
        ("shutdown of writing", call(libc::SYS_shutdown, [fd, 1, 0, 0, 0])),
        ("shutdown of reading", call(libc::SYS_shutdown, [fd, 0, 0, 0, 0])),
        ("shutdown, high bits", call(libc::SYS_shutdown, [fd, 2 | 1 << 32, 0, 0, 0])),
    ]
}

#[test]
#[ignore = "run by the tests below, as another process"]
fn attacker() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    enter_filter();
    let rows = tried(&listener);
    for (name, result) in rows {
        let text = result.map_or_else(|errno| format!("{errno:?}"), |_| "done".to_owned());
        eprintln!("row {name}={text}");
    }
    let alive = if UnixStream::connect(&path).is_ok() { "done" } else { "dead" };
    eprintln!("row connect={alive}");
}

fn rows(output: &Output) -> BTreeMap<String, String> {
    let text = String::from_utf8_lossy(&output.stderr);
    let rows = text.lines().filter_map(|line| line.strip_prefix("row ")?.split_once('='));
    rows.map(|(name, result)| (name.to_owned(), result.to_owned())).collect()
}

#[test]
fn hosting_refuses_what_succeeds_without_it() {
    let free = rows(&again("attacker", None).output().unwrap());
    let held = rows(&again("attacker", Some(HOSTING)).output().unwrap());
    let both = |name: &str| (free[name].as_str(), held[name].as_str());

    for name in ["getpid", "fork", "unix", "tcp", "personality", "shutdown of writing"] {
        assert_eq!(both(name), ("done", "done"), "{name}");
    }
    for name in ["filter", "filter, high bits", "shutdown of reading", "shutdown, high bits"] {
        assert_eq!(both(name), ("done", "EPERM"), "{name}");
    }
    assert_eq!(both("clone3"), ("done", "ENOSYS"));
    // No terminal here; without the filter the kernel looks for one, high bits or not.
    for name in ["typing into a terminal", "typing, high bits"] {
        assert_eq!(both(name), ("ENOTTY", "EPERM"), "{name}");
    }
    assert_eq!(both("netlink, high bits"), ("done", "EAFNOSUPPORT"));
    assert_ne!(held["raw, high bits"], "done", "without: {}", free["raw, high bits"]);
    assert_eq!(both("memfd"), ("done", "ENOSYS"));
    assert_eq!(both("netlink"), ("done", "EAFNOSUPPORT"));
    assert_eq!(both("connect"), ("dead", "done"), "the listener lives only with the filter");
    // Whether these succeed without it depends on the machine.
    for name in ["user namespace", "unshare", "io_uring"] {
        assert_eq!(held[name], "EPERM", "{name}, without: {}", free[name]);
    }
    assert_eq!(held["mptcp or sctp"], "ENOSYS");
}

#[test]
#[ignore = "run by the test below, as another process"]
fn mounter() {
    enter_filter();
    let result = call(libc::SYS_mount, [0; 5]);
    eprintln!("row mount={:?}", result.unwrap_err());
}

/// One group allows it, two refuse it, with EACCES and then EINVAL.
#[test]
fn of_two_groups_that_match_the_later_answers() {
    let held = rows(&again("mounter", Some(TIES)).output().unwrap());
    assert_eq!(held["mount"], "EINVAL");
}

#[test]
#[ignore = "run by the test below, as another process"]
fn other_abi() {
    enter_filter();
    #[cfg(target_arch = "x86_64")]
    {
        let x32 = call(0x4000_0000 | libc::SYS_getpid, [0; 5]);
        eprintln!("row x32={x32:?}");
        let number: i32 = 20; // getpid of i386
        let result: i32;
        // SAFETY: the instruction enters the kernel like syscall(2); getpid takes
        // no argument; the kernel zeroes r8 to r11, which are named.
        #[allow(unsafe_code)]
        unsafe {
            std::arch::asm!("int 0x80", inlateout("eax") number => result,
                out("r8") _, out("r9") _, out("r10") _, out("r11") _);
        }
        eprintln!("row i386={result}");
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn other_abis_of_the_machine_are_refused() {
    let deny = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["bpf"], "action": "SCMP_ACT_ERRNO"}]}"#;
    // The control: without a filter the instruction itself comes back, where the kernel has i386.
    let free = again("other_abi", None).output().unwrap();
    assert!(
        rows(&free).contains_key("i386") || free.status.signal() == Some(libc::SIGSEGV),
        "{:?}",
        free.status.signal()
    );
    for filter in [HOSTING, deny] {
        let output = again("other_abi", Some(filter)).output().unwrap();
        let held = rows(&output);
        assert_eq!(held["x32"], "Err(ENOSYS)");
        assert!(!held.contains_key("i386"), "int 0x80 came back");
        let signal = output.status.signal();
        assert!(
            matches!(signal, Some(libc::SIGSYS | libc::SIGSEGV)),
            "{signal:?}: SIGSEGV where the kernel has no i386"
        );
    }
}

/// Becomes what `SECCOMP_EXEC` says, as nobody and below the filter.
#[test]
#[ignore = "run by the tests below, as another process"]
fn executor() {
    if Uid::effective().is_root() {
        nix::unistd::setgroups(&[]).unwrap();
        nix::unistd::setgid(Gid::from_raw(NOBODY)).unwrap();
        nix::unistd::setuid(Uid::from_raw(NOBODY)).unwrap();
        // Who changes its user has lost it.
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::SIGKILL).unwrap();
    }
    let line = std::env::var("SECCOMP_EXEC").unwrap();
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().unwrap());
    command.args(words).env_remove("SECCOMP_FILTER").env_remove("SECCOMP_EXEC");
    enter_filter();
    panic!("{}", command.exec());
}

/// The newest php-fpm of the machine.
fn php_fpm() -> PathBuf {
    let programs = std::fs::read_dir("/usr/sbin").unwrap().map(|entry| entry.unwrap().path());
    let found = programs.filter(|path| path.to_string_lossy().starts_with("/usr/sbin/php-fpm")).max();
    found.expect("this test needs php-fpm: apt-get install php-fpm")
}

/// A php-fpm, ended with this value.
struct Site {
    scratch: tempfile::TempDir,
    process: Confined,
}

impl Site {
    fn start(filter: Option<&str>, options: &str) -> Self {
        let scratch =
            tempfile::Builder::new().permissions(PermissionsExt::from_mode(0o755)).tempdir().unwrap();
        let dir = scratch.path();
        std::fs::copy("tests/php/everything.php", dir.join("everything.php")).unwrap();
        let data = dir.join("data");
        std::fs::create_dir(&data).unwrap();
        if Uid::effective().is_root() {
            chown(&data, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let data = data.display();
        std::fs::write(
            dir.join("fpm.conf"),
            format!(
                "[global]\nerror_log = /dev/null\ndaemonize = no\n[www]\nlisten = {data}/socket\npm = static\n\
                 pm.max_children = 2\nprocess.dumpable = yes\ncatch_workers_output = yes\n\
                 php_admin_value[sendmail_path] = \"/usr/bin/tee {data}/mail\"\n\
                 php_admin_value[upload_tmp_dir] = {data}\n"
            ),
        )
        .unwrap();
        let line = format!("{} -F -O -y {}{options}", php_fpm().display(), dir.join("fpm.conf").display());
        let log = std::fs::File::create(dir.join("log")).unwrap();
        let mut command = again("executor", filter);
        command.env("SECCOMP_EXEC", line);
        let process = Confined::start(&command, |command| {
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        });
        let site = Self { scratch, process };
        site.wait_for("php-fpm's socket", |data| UnixStream::connect(data.join("socket")).is_ok());
        site
    }

    fn wait_for(&self, what: &str, came: impl Fn(&Path) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !came(&self.data()) {
            assert!(Instant::now() < deadline, "{what} did not come: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn data(&self) -> PathBuf {
        self.scratch.path().join("data")
    }

    /// `2` below a filter, proc_pid_status(5).
    fn seccomp_mode(&self) -> String {
        let pid = self.process.inner().expect("it runs");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("Seccomp:"));
        line.unwrap().trim().to_owned()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.scratch.path().join("log")).unwrap()
    }

    /// What the script prints, without what differs from run to run.
    fn everything(&self) -> String {
        let body = "--B\r\nContent-Disposition: form-data; name=\"f\"; filename=\"x\"\r\n\r\nhi\r\n--B--\r\n";
        let mut client = Command::new("cgi-fcgi");
        client.args(["-bind", "-connect"]).arg(self.data().join("socket")).env_clear();
        client.env("SCRATCH", self.data()).env("SCRIPT_FILENAME", self.scratch.path().join("everything.php"));
        client.env("REQUEST_METHOD", "POST").env("CONTENT_LENGTH", body.len().to_string());
        client.env("CONTENT_TYPE", "multipart/form-data; boundary=B");
        let mut client =
            client.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("apt-get install libfcgi-bin");
        client.stdin.take().unwrap().write_all(body.as_bytes()).unwrap();
        let mut answer = String::new();
        client.stdout.take().unwrap().read_to_string(&mut answer).unwrap();
        client.wait().unwrap();
        without(&answer, self.scratch.path())
    }
}

fn without(text: &str, scratch: &Path) -> String {
    text.replace(&scratch.display().to_string(), "SCRATCH")
}

/// Both runs of the script, beside each other; and what must have worked in both.
fn compare(options: &str, must: &[&str]) {
    let free = Site::start(None, options);
    let held = Site::start(Some(HOSTING), options);
    assert_eq!((free.seccomp_mode(), held.seccomp_mode()), ("0".into(), "2".into()));
    let (expected, found) = (free.everything(), held.everything());
    assert_eq!(expected.lines().collect::<Vec<_>>(), found.lines().collect::<Vec<_>>(), "{}", held.log());
    for line in must {
        assert!(found.contains(line), "{line:?} is not in {found}");
    }
    for site in [&free, &held] {
        site.wait_for("the work after the answer", |data| data.join("after").exists());
    }
    let refused = ["not permitted", "not implemented", "not supported"];
    let log = without(&held.log(), held.scratch.path());
    let complaints: Vec<_> =
        log.lines().filter(|line| refused.iter().any(|word| line.contains(word))).collect();
    assert!(complaints.is_empty(), "{complaints:?}");
}

#[test]
fn a_site_with_all_extensions_does_not_notice() {
    let must = [
        "session: [true,true,true,1,true]",
        "sqlite: 3",
        "curl: [\"hi\",200,0]",
        "mail: true",
        "mailed: true",
    ];
    compare(" -d opcache.jit_buffer_size=16M -d opcache.jit=tracing", &must);
}

#[test]
fn a_site_without_extensions_does_not_notice() {
    compare(" -n", &["proc_open: [\"in\",\"err\",3]", "mail: true", "upload: [0,true]"]);
}
