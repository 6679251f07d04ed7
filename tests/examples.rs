//! Every example is one that works: pool files pass `howdah check`, systemd's
//! units pass `systemd-analyze verify` and their commands serve, the pages of the
//! site answer, nginx's configuration passes `nginx -t` (`tests/nginx.rs` runs it,
//! and `tests/sites.rs` the server blocks of WordPress and MediaWiki).
//!
//! The examples name paths of a server (`/srv/blog`, `/run/howdah`). Each test
//! copies what it needs to a temporary directory and moves those paths below it,
//! so that nothing of the machine is touched.

mod rig;

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rig::held::Held;
use rig::{Rig, wait_for};

use tempfile::TempDir;

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
const HOWDAH: &str = env!("CARGO_BIN_EXE_howdah");

#[test]
fn every_pool_file_passes_howdah_check() {
    let dir = workplace();
    let pools = below(Path::new(EXAMPLES), "toml");
    assert!(pools.len() >= 6, "{pools:?}");
    for pool in pools {
        let copy = moved_copy(&pool, dir.path());
        let output = check(&copy);
        assert!(output.status.success(), "howdah check {}: {}", pool.display(), told(&output));
        // The same file with a key that does not exist: so it was read at all.
        fs::write(&copy, format!("no_such_key = 1\n{}", fs::read_to_string(&copy).expect("the copy")))
            .expect("the copy");
        assert!(!check(&copy).status.success(), "howdah check {} does not read it", pool.display());
    }
}

fn check(pool: &Path) -> Output {
    Command::new(HOWDAH).arg("check").arg(pool).output().expect("howdah")
}

#[test]
fn units_pass_systemd_analyze_verify() {
    for set in ["systemd/one-howdah", "systemd/unit-per-pool"] {
        let dir = workplace();
        let mut units = Vec::new();
        for extension in ["service", "socket"] {
            for unit in below(&Path::new(EXAMPLES).join(set), extension) {
                let text = fs::read_to_string(&unit).expect("a unit");
                assert!(extension == "socket" || text.contains("ExecStart=/usr/local/bin/howdah "));
                // A template is verified as an instance of it.
                let name = unit.file_name().expect("a name").to_string_lossy().replace("@.", "@blog.");
                let copy = dir.path().join(name);
                fs::write(&copy, text.replace("/usr/local/bin/howdah", HOWDAH)).expect("a copy");
                units.push(copy);
            }
        }
        assert!(units.len() >= 2, "{set}: {units:?}");
        // Units that the machine itself has are none of ours to judge.
        let output = Command::new("systemd-analyze")
            .args(["verify", "--man=no", "--recursive-errors=no"])
            .args(&units)
            .output()
            .expect("systemd-analyze, of Debian's package systemd");
        let said = told(&output);
        assert!(output.status.success() && !said.contains("howdah"), "systemd-analyze verify {set}: {said}");
    }
}

#[test]
fn nginx_accepts_the_configuration_of_two_tenants() {
    let dir = workplace();
    let copy = moved_copy(&Path::new(EXAMPLES).join("two-tenants/nginx.conf"), dir.path());
    let output = Command::new("nginx")
        .args(["-t", "-q", "-p"])
        .arg(dir.path())
        .arg("-c")
        .arg(&copy)
        .output()
        .expect("nginx, of Debian's package nginx");
    assert!(output.status.success(), "nginx -t: {}", told(&output));
}

/// The smallest pool with the pages of `site/`; the site is where the rig expects it.
fn smallest(more: &str) -> Rig {
    let rig = Rig::new();
    let site = Path::new(EXAMPLES).join("site");
    for page in below(&site, "php") {
        let name = page.file_name().expect("a name").to_string_lossy().into_owned();
        rig.write(&format!("smallest/{name}"), &fs::read_to_string(&page).expect("a page"));
    }
    let text =
        fs::read_to_string(Path::new(EXAMPLES).join("pools/smallest.toml")).expect("the smallest pool");
    let text = text
        .replace("/srv/site", &rig.path("smallest").display().to_string())
        .replace("/run/howdah/smallest.sock", &rig.socket("smallest").display().to_string());
    rig.write("pools/smallest.toml", &format!("{text}\n{more}"));
    rig
}

#[test]
fn the_smallest_pool_answers_with_every_page_of_the_site() {
    let mut rig = smallest("");
    rig.serve();
    let index = rig.text("smallest", "/index.php");
    assert!(index.starts_with("Hello from /index.php\nPHP ") && index.contains("uid 33"), "{index}");
    let inside = rig.text("smallest", "/inside.php");
    let line = |name: &str| inside.lines().find(|line| line.starts_with(name)).expect("the line").to_owned();
    assert!(!line("can write:").contains("/etc") && line("can write:").contains("/tmp"), "{inside}");
    assert!(line("accounts:").contains("www-data") && !line("accounts:").contains("root"), "{inside}");
    assert!(line("status:").contains("CapEff: 0000000000000000, NoNewPrivs: 1, Seccomp: 2"), "{inside}");
    assert!(rig.text("smallest", "/slow.php?seconds=0.2").starts_with("worked for 0.2 seconds"));
    // As the README says it, on the command line.
    let run = rig.path("run");
    let output =
        rig.howdah(&["request", "--runtime-dir", run.to_str().expect("UTF-8"), "smallest", "/index.php"]);
    assert!(output.status.success() && told(&output).contains("Hello from /index.php"), "{}", told(&output));
    assert_eq!(rig.end(), 0);
}

#[test]
fn a_login_outlives_an_idle_stop_and_slow_work_is_not_cut_by_one() {
    let mut rig = smallest("[idle]\nstop = \"150ms\"");
    rig.serve();
    let held = Held::begin(&rig, "smallest", "/index.php");
    assert_eq!(rig.text("smallest", "/login.php"), "not logged in\n");
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    let login = rig.ask("smallest", "/login.php", "POST", &form, b"user=ann").expect("an answer");
    assert_eq!(String::from_utf8_lossy(&login.body), "logged in as ann\n");
    // The id changes at login: the last cookie counts.
    let cookie = login.headers.iter().rev().find(|(name, _)| name == "Set-Cookie").expect("a session");
    let cookie = cookie.1.split(';').next().expect("a value").to_owned();
    held.answer();
    rig.wait_state("smallest", "cold");
    let again = rig.ask("smallest", "/login.php", "GET", &[("Cookie", &cookie)], b"").expect("an answer");
    assert_eq!(String::from_utf8_lossy(&again.body), "logged in as ann\n");
    assert_eq!(rig.record("smallest").generation, 2);
    assert!(rig.text("smallest", "/slow.php?seconds=1").starts_with("worked for 1.0 seconds"));
    rig.wait_state("smallest", "cold");
    assert_eq!(rig.end(), 0);
}

/// The command of a unit's ExecStart, with the server's paths below the rig, this build and this instance.
fn exec_start(rig: &Rig, unit: &str) -> Vec<String> {
    let text = fs::read_to_string(Path::new(EXAMPLES).join("systemd").join(unit)).expect("a unit");
    let line = text.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("ExecStart");
    let path = |name: &str| rig.path(name).display().to_string();
    let line = line
        .replace("/usr/local/bin/howdah", HOWDAH)
        .replace("%t/howdah-%i", &path("run"))
        .replace("/etc/howdah/pools", &path("pools"))
        .replace("%i", "blog");
    let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    // Where the machine's own configuration and state would be taken.
    words.extend(["--config".to_owned(), path("howdah.toml")]);
    if !words.contains(&"--runtime-dir".to_owned()) {
        words.extend(["--runtime-dir".to_owned(), path("run")]);
    }
    words
}

/// The pool of the unit sets in a rig, and its socket.
fn systemd_pool(rig: &Rig, stop: &str) -> PathBuf {
    let site = "<?php echo 'hello from ', posix_getuid();";
    rig.site("blog", "index.php", site, ("games", 5, 60));
    let socket = rig.path("passed.sock");
    let text = fs::read_to_string(Path::new(EXAMPLES).join("systemd/pools/blog.toml")).expect("the pool");
    let text = text
        .replace("/srv/blog", &rig.path("blog").display().to_string())
        .replace("/run/howdah/blog.sock", &socket.display().to_string())
        .replace("stop = \"5m\"", &format!("stop = {stop:?}"));
    rig.write("pools/blog.toml", &text);
    socket
}

/// A command under systemd-socket-activate, which becomes it at the first connection. Ended with the test.
struct Activated(Child);

impl Activated {
    fn start(rig: &Rig, socket: &Path, notify: &Path, command: &[String]) -> Self {
        // systemd-socket-activate replaces a socket file that is there; what is waited for must be its own.
        let _ = fs::remove_file(socket);
        let child = Command::new("systemd-socket-activate")
            .arg("-l")
            .arg(socket)
            .args(["--fdname=blog", "-E"])
            .arg(format!("NOTIFY_SOCKET={}", notify.display()))
            .args(command)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(rig.path("log")).expect("a log"))
            .spawn()
            .expect("systemd-socket-activate, of Debian's package systemd");
        let is_there = || fs::metadata(socket).is_ok_and(|data| data.file_type().is_socket()).then_some(());
        wait_for("the socket", Duration::from_secs(10), is_there);
        Self(child)
    }

    /// The program that the process is now.
    fn program(&self) -> PathBuf {
        fs::read_link(format!("/proc/{}/exe", self.0.id())).expect("a process")
    }

    fn wait_end(&mut self) -> i32 {
        let ended = wait_for("its end", Duration::from_secs(20), || self.0.try_wait().expect("a child"));
        ended.code().unwrap_or(-1)
    }

    fn terminate(&self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).expect("a pid"));
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
    }
}

impl Drop for Activated {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            self.terminate();
            std::thread::sleep(Duration::from_millis(200));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Asks at `socket` by a connection that waits until somebody is started for it.
fn ask_at(rig: &Rig, socket: &Path) -> String {
    // systemd-socket-activate binds before it listens.
    let connect = || UnixStream::connect(socket).ok();
    let stream = wait_for("a connection", Duration::from_secs(10), connect);
    let request = rig.request("blog", "/index.php", "GET", &[], b"");
    let answer = howdah::fpm::client::exchange(&stream, &request, Duration::from_secs(30));
    let answer = answer.unwrap_or_else(|error| panic!("{error}\n{}", rig.log()));
    String::from_utf8_lossy(&answer.body).into_owned()
}

#[test]
fn a_unit_per_pool_runs_from_the_first_connection_until_the_pool_is_idle() {
    let rig = Rig::new();
    let socket = systemd_pool(&rig, "200ms");
    let manager = UnixDatagram::bind(rig.path("notify")).expect("a datagram socket");
    manager.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    let command = exec_start(&rig, "unit-per-pool/howdah@.service");
    for _life in 1..=2 {
        let mut unit = Activated::start(&rig, &socket, &rig.path("notify"), &command);
        assert!(unit.program().ends_with("systemd-socket-activate"), "something runs before anybody asks");
        assert_eq!(ask_at(&rig, &socket), "hello from 5", "{}", rig.log());
        assert_eq!(unit.program(), fs::canonicalize(HOWDAH).expect("howdah"));
        let mut said = [0; 4096];
        let length = manager.recv(&mut said).expect("Type=notify: READY=1");
        assert!(String::from_utf8_lossy(&said[..length]).contains("READY=1"));
        assert_eq!(unit.wait_end(), 0, "{}", rig.log());
        let left =
            std::process::Command::new("find").arg(rig.path("run")).arg(rig.cgroup()).output().unwrap();
        assert!(
            !rig.path("run").exists() && !rig.cgroup().exists(),
            "something is left:\n{}\n{}",
            String::from_utf8_lossy(&left.stdout),
            rig.log()
        );
        assert!(socket.exists(), "systemd's socket was removed");
    }
}

#[test]
fn one_howdah_per_box_serves_the_sockets_that_systemd_holds() {
    let rig = Rig::new();
    let socket = systemd_pool(&rig, "200ms");
    let command = exec_start(&rig, "one-howdah/howdah.service");
    let mut unit = Activated::start(&rig, &socket, &rig.path("notify"), &command);
    for _life in 1..=2 {
        assert_eq!(ask_at(&rig, &socket), "hello from 5", "{}", rig.log());
        rig.wait_state("blog", "cold");
    }
    unit.terminate();
    assert_eq!(unit.wait_end(), 0, "{}", rig.log());
    assert!(socket.exists() && !rig.cgroup().exists());
}

/// A directory that stands for the server: `srv/` has a site for each example.
fn workplace() -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("mode 0755");
    for site in ["site", "shop", "blog/etc", "blog/uploads"] {
        fs::create_dir_all(dir.path().join("srv").join(site)).expect("a site");
    }
    for part in ["etc", "images", "cache", "data"] {
        fs::create_dir_all(dir.path().join("srv/wiki").join(part)).expect("a site");
    }
    fs::create_dir(dir.path().join("mysqld")).expect("a directory");
    dir
}

/// Copies `file` into `dir`, with the server's paths below `dir`.
fn moved_copy(file: &Path, dir: &Path) -> PathBuf {
    let text = fs::read_to_string(file).expect("an example");
    let here = dir.display();
    let moved = text
        .replace("/srv/", &format!("{here}/srv/"))
        .replace("/run/howdah/", &format!("{here}/run/howdah/"))
        .replace(
            "source = \"/run/mysqld\"",
            &format!("source = \"{here}/mysqld\"\ntarget = \"/run/mysqld\""),
        );
    let copy = dir.join(file.file_name().expect("a name"));
    fs::write(&copy, moved).expect("a copy");
    copy
}

/// The files below `dir` with this extension.
fn below(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory of examples") {
        let path = entry.expect("a directory entry").path();
        if path.is_dir() {
            files.extend(below(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), output.stderr.as_slice()].concat()).into_owned()
}
