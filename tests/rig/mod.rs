//! A howdah of one test's own: its directories, its `serve`, its end. Nothing
//! of it outlives the test, also when the test panics.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::print_stderr)]

pub mod browser;
pub mod confined;
pub mod fault;
mod guard;
pub mod held;
pub mod image;
pub mod nginx;
pub mod port;
pub mod site;
pub mod templates;
pub mod torture;
pub mod world;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use howdah::fpm::client::{Request, Response, exchange};
use howdah::pool::record::{self, Record};
use serde_json::Value;

/// The binary under test.
pub const HOWDAH: &str = env!("CARGO_BIN_EXE_howdah");

/// Two accounts that every Debian has: user, uid, gid.
pub const TENANT: (&str, u32, u32) = ("www-data", 33, 33);
pub const OTHER: (&str, u32, u32) = ("backup", 34, 34);

/// How many times longer than on an ordinary machine everything is waited for:
/// `HOWDAH_TEST_PATIENCE`, for emulated ones. What must *not* take long is not
/// measured by it.
pub fn patience() -> u32 {
    std::env::var("HOWDAH_TEST_PATIENCE").map_or(1, |times| times.parse().expect("a number of times"))
}

/// A copy of the binary under test, where every account may execute it. Another
/// process writes it: a program that is open for writing cannot be executed
/// (ETXTBSY), and a child of another test's may have inherited what is open here.
pub fn copy_howdah(to: &Path) {
    let status = Command::new("cp").arg(HOWDAH).arg(to).status().unwrap();
    assert!(status.success());
}

/// Polls until `done` gives something, at most `limit` (times [`patience`]).
pub fn wait_for<T>(what: &str, limit: Duration, mut done: impl FnMut() -> Option<T>) -> T {
    let limit = limit * patience();
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(Instant::now() < end, "waited {limit:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A directory with pools, sites and a state directory, and at most one serve.
pub struct Rig {
    directory: tempfile::TempDir,
    serve: Option<Child>,
    arguments: Vec<String>,
    rootless: bool,
    passed: Option<(OwnedFd, String)>,
    guard: guard::Guard,
}

impl Rig {
    /// An empty one. Needs root, as all tests of the sandbox do.
    pub fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root: run ./test");
        let directory = tempfile::Builder::new().prefix("howdah-test-").tempdir_in("/tmp").unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let arguments = vec!["-v".to_owned()];
        let base = howdah::sandbox::cgroup::mount_point().unwrap_or_default().join("howdah");
        let guard = guard::Guard::new(directory.path(), &base, &in_one_word(directory.path()));
        let rig = Self { directory, serve: None, arguments, rootless: false, passed: None, guard };
        fs::create_dir(rig.path("pools")).unwrap();
        rig.configure("5s");
        rig
    }

    /// Writes howdah.toml: the rig's state directory, and how long a stop waits for requests.
    pub fn configure(&self, drain: &str) {
        let (state, start) = (self.path("state"), 10 * patience());
        // None unless a test asks for them, or whoever runs the tests wants all of them by templates.
        let templates = std::env::var("HOWDAH_TEST_TEMPLATES").unwrap_or_else(|_| "0".into());
        let text = format!(
            "[serve]\ntemplates = {templates}\nstate_dir = {state:?}\ndrain = {drain:?}\n[defaults.start]\ntimeout = \"{start}s\"\n"
        );
        self.write("howdah.toml", &text);
    }

    /// A path below the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file below the directory, with its directories, readable by all.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// Runs a command of the shell in the directory.
    pub fn shell(&self, script: &str) {
        let status = Command::new("sh").args(["-ec", script]).current_dir(self.directory.path()).status();
        assert!(status.unwrap().success(), "{script}");
    }

    /// Makes the site `NAME/SCRIPT`, and a directory `NAME/` that belongs to `owner`.
    pub fn site(&self, name: &str, script: &str, text: &str, owner: (&str, u32, u32)) -> PathBuf {
        let path = self.write(&format!("{name}/{script}"), text);
        chown(self.path(name), Some(owner.1), Some(owner.2)).unwrap();
        path
    }

    /// Makes the directory `NAME/` that belongs to `owner` and that nobody else may enter.
    pub fn private(&self, name: &str, owner: (&str, u32, u32)) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap();
        chown(&path, Some(owner.1), Some(owner.2)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        path
    }

    /// Writes the pool file `NAME.toml`: listens on `NAME.sock`, runs as [`TENANT`],
    /// has the site `NAME/` (if it is there) as its document root; `more` is added.
    pub fn pool(&self, name: &str, more: &str) -> PathBuf {
        self.pool_of(name, TENANT.0, more)
    }

    /// The same for another user.
    pub fn pool_of(&self, name: &str, user: &str, more: &str) -> PathBuf {
        let site = self.path(name);
        let mount = if site.is_dir() { format!("[[mount]]\nsource = {site:?}\n") } else { String::new() };
        // What stands before the first table must stand before the mount too.
        let tables = if more.starts_with('[') { 0 } else { more.find("\n[").map_or(more.len(), |at| at + 1) };
        let (top, tables) = more.split_at(tables);
        let text = format!("listen = {:?}\nuser = {user:?}\n{top}\n{mount}{tables}\n", self.socket(name));
        self.write(&format!("pools/{name}.toml"), &text)
    }

    /// The socket of a pool.
    pub fn socket(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}.sock"))
    }

    /// A profile file: `hosting` but for `text`; its path is what a pool's `profile` names.
    pub fn profile(&self, name: &str, text: &str) -> PathBuf {
        self.write(&format!("profiles/{name}.toml"), text)
    }

    /// Lets a pool listen on TCP where this kernel cannot hold that, too: for what is about something else.
    pub fn let_listen_on_tcp(&self, name: &str) {
        let profile = self.profile("on-tcp", "tcp_listener_held = false\n");
        let file = self.path(&format!("pools/{name}.toml"));
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, format!("profile = {profile:?}\n{text}")).unwrap();
    }

    /// serve runs as [`TENANT`], who may do nothing on this machine but make user namespaces.
    pub fn rootless(mut self) -> Self {
        self.rootless = true;
        chown(self.directory.path(), Some(TENANT.1), Some(TENANT.2)).unwrap();
        // The build's own directory may be closed to others.
        copy_howdah(&self.path("howdah"));
        self
    }

    /// serve gets the listening socket `socket` as systemd would pass it, under the name of a pool.
    pub fn passing(mut self, socket: impl Into<OwnedFd>, name: &str) -> Self {
        self.passed = Some((socket.into(), name.to_owned()));
        self
    }

    /// Without the `-v` that serve is given otherwise: its log is what an operator sees.
    pub fn quiet(mut self) -> Self {
        self.arguments.retain(|word| word != "-v");
        self
    }

    /// Adds arguments of serve.
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|word| (*word).to_owned()));
        self
    }

    /// Starts serve on `pools/` and waits until it is ready.
    pub fn serve(&mut self) -> &mut Self {
        self.serve_under(&[], &[])
    }

    /// The same by the words `before`, to which serve's own command line is appended, in this environment.
    pub fn serve_under(&mut self, before: &[&str], environment: &[(&str, &str)]) -> &mut Self {
        self.start(before, environment);
        self.wait_log("howdah: ready:");
        self
    }

    /// Starts serve and does not wait: through the program `before` (which must
    /// execute its arguments as itself), with more in its environment.
    pub fn start(&mut self, before: &[&str], environment: &[(&str, &str)]) {
        self.start_with(Stdio::null(), before, environment);
    }

    /// The same, with something as its standard input.
    pub fn start_with(&mut self, stdin: Stdio, before: &[&str], environment: &[(&str, &str)]) {
        // What an earlier serve of this rig said stands in `log.before`.
        let earlier = File::options().append(true).create(true).open(self.path("log.before"));
        earlier.unwrap().write_all(self.log().as_bytes()).unwrap();
        let log = File::create(self.path("log")).unwrap();
        let program = if self.rootless { self.path("howdah") } else { HOWDAH.into() };
        let mut words: Vec<OsString> = before.iter().map(OsString::from).collect();
        let mut input = stdin;
        if let Some((socket, name)) = &self.passed {
            // The shell becomes howdah: its pid is howdah's.
            let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=$0 exec \"$@\"";
            words.extend(["sh", "-c", script, name].map(OsString::from));
            input = socket.try_clone().unwrap().into();
        }
        words.push(program.into());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(["serve", "--runtime-dir"]).arg(self.path("run"));
        command.arg("--config").arg(self.path("howdah.toml")).args(&self.arguments).arg(self.path("pools"));
        command.envs(environment.iter().copied()).stdin(input);
        if self.rootless {
            command.uid(TENANT.1).gid(TENANT.2);
        }
        self.serve = Some(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
    }

    /// The process id of serve.
    pub fn pid(&self) -> u32 {
        self.serve.as_ref().unwrap().id()
    }

    /// All that serve has printed.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Waits for a line of the log that contains `text`, and returns it.
    pub fn wait_log(&mut self, text: &str) -> String {
        let end = Instant::now() + Duration::from_secs(20) * patience();
        loop {
            if let Some(line) = self.log().lines().find(|line| line.contains(text)) {
                return line.to_owned();
            }
            let ended = self.serve.as_mut().and_then(|serve| serve.try_wait().unwrap());
            assert!(ended.is_none(), "serve ended with {ended:?} before {text:?}:\n{}", self.log());
            assert!(Instant::now() < end, "no line with {text:?} in:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Runs howdah with these words, to its end.
    pub fn howdah(&self, words: &[&str]) -> Output {
        Command::new(HOWDAH).args(words).stdin(Stdio::null()).output().unwrap()
    }

    /// `howdah ps --json`: the entry of one pool.
    pub fn ps(&self, pool: &str) -> Value {
        let run = self.path("run");
        let output = self.howdah(&["ps", "--json", "--runtime-dir", run.to_str().unwrap()]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let all: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        all.into_iter().find(|entry| entry["pool"] == pool).unwrap_or(Value::Null)
    }

    /// What `ps` reads of a pool, without a process for it; the default before its first start.
    pub fn record(&self, pool: &str) -> Record {
        record::read(&record::record_file(&self.path("run"), pool)).unwrap_or_default()
    }

    /// The state of a pool, as `ps` tells it.
    pub fn state(&self, pool: &str) -> String {
        self.ps(pool)["state"].as_str().unwrap_or("absent").to_owned()
    }

    /// Waits until a pool is in `state`.
    pub fn wait_state(&self, pool: &str, state: &str) {
        let end = Instant::now() + Duration::from_secs(20) * patience();
        while self.state(pool) != state {
            assert!(Instant::now() < end, "{pool} is {} and not {state}:\n{}", self.state(pool), self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Process 1 of the pool's generation, by the host's numbers.
    pub fn master(&self, pool: &str) -> i32 {
        i32::try_from(self.ps(pool)["pid"].as_i64().expect("a generation runs")).unwrap()
    }

    /// A page of a pool: GET `uri` (its path is the script's below the document root).
    pub fn get(&self, pool: &str, uri: &str) -> Response {
        self.try_get(pool, uri).unwrap_or_else(|error| panic!("{uri} of {pool}: {error}\n{}", self.log()))
    }

    /// The same, where failing is an answer too.
    pub fn try_get(&self, pool: &str, uri: &str) -> Result<Response, String> {
        self.ask(pool, uri, "GET", &[], b"")
    }

    /// A request with everything.
    pub fn ask(
        &self,
        pool: &str,
        uri: &str,
        method: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Response, String> {
        let stream = UnixStream::connect(self.socket(pool)).map_err(|error| format!("connect: {error}"))?;
        exchange(
            &stream,
            &self.request(pool, uri, method, headers, body),
            Duration::from_secs(30) * patience(),
        )
        .map_err(|error| error.to_string())
    }

    /// The request that [`Rig::ask`] sends.
    pub fn request(
        &self,
        pool: &str,
        uri: &str,
        method: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Request {
        let root = self.path(pool);
        let path = uri.split('?').next().unwrap().trim_start_matches('/');
        Request {
            script: root.join(path),
            document_root: root,
            uri: uri.to_owned(),
            method: method.to_owned(),
            headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            body: body.to_vec(),
        }
    }

    /// The body of a page, as text; the status must be 200.
    pub fn text(&self, pool: &str, uri: &str) -> String {
        let response = self.get(pool, uri);
        let body = String::from_utf8_lossy(&response.body).into_owned();
        assert_eq!(response.status, 200, "{uri} of {pool}: {body}\n{}", self.log());
        body
    }

    /// What PHP `code` prints inside the pool, whose site is made by [`Rig::inside`].
    pub fn php(&self, pool: &str, code: &str) -> String {
        let response = self
            .ask(pool, "/do.php", "POST", &[("Content-Type", "text/plain")], code.as_bytes())
            .unwrap_or_else(|error| panic!("{code} in {pool}: {error}\n{}", self.log()));
        let body = String::from_utf8_lossy(&response.body).into_owned();
        assert_eq!(response.status, 200, "{code} in {pool}: {body}\n{}", self.log());
        body
    }

    /// Writes a pool whose site does what [`Rig::php`] tells it.
    pub fn inside(&self, name: &str, user: (&str, u32, u32), more: &str) {
        self.site(name, "do.php", "<?php eval(file_get_contents('php://input'));", user);
        // FFI calls any function of the C library: what PHP itself has no word for.
        self.pool_of(name, user.0, &format!("{more}\n[php.admin_value]\n\"ffi.enable\" = \"true\"\n"));
    }

    /// The same with a profile that is `hosting` but for `profile`.
    pub fn inside_without(&self, name: &str, profile: &str, more: &str) {
        let file = self.profile(name, profile);
        self.inside(name, TENANT, &format!("{more}\n"));
        let text = fs::read_to_string(self.path(&format!("pools/{name}.toml"))).unwrap();
        self.write(&format!("pools/{name}.toml"), &format!("profile = {file:?}\n{text}"));
    }

    /// Sends a signal to serve.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.pid() as i32);
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// Waits for serve's end; its exit status.
    pub fn wait_end(&mut self, limit: Duration) -> i32 {
        let mut serve = self.serve.take().unwrap();
        let limit = limit * patience();
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = serve.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            if Instant::now() >= end {
                let log = self.log();
                self.serve = Some(serve);
                panic!("serve did not end within {limit:?}:\n{log}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills serve as a crash would, in the middle of whatever it does.
    pub fn crash(&mut self) {
        let mut serve = self.serve.take().unwrap();
        // Somebody may have done it already.
        let _ = serve.kill();
        let _ = serve.wait();
    }

    /// Ends serve by SIGTERM; its exit status.
    pub fn end(&mut self) -> i32 {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        self.wait_end(Duration::from_secs(15))
    }

    /// That howdah, which has ended, has left no cgroup and nothing of a template.
    pub fn assert_nothing_is_left(&self) {
        let mut left = Vec::new();
        let mut places = vec![self.cgroup(), self.path("run/templates")];
        while let Some(place) = places.pop() {
            if place.is_dir() {
                places.extend(fs::read_dir(&place).into_iter().flatten().flatten().map(|entry| entry.path()));
                let processes = fs::read_to_string(place.join("cgroup.procs")).unwrap_or_default();
                left.push((place, processes));
            }
        }
        assert!(left.is_empty(), "left behind, with the processes in it: {left:?}");
    }

    /// The cgroup below which this rig's generations are born.
    pub fn cgroup(&self) -> PathBuf {
        let mount = howdah::sandbox::cgroup::mount_point().unwrap();
        mount.join("howdah").join(in_one_word(&self.path("run")))
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(mut serve) = self.serve.take() {
            // Twice: the second one does not wait for requests.
            for _ in 0..2 {
                let pid = nix::unistd::Pid::from_raw(serve.id() as i32);
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
                std::thread::sleep(Duration::from_millis(20));
            }
            let end = Instant::now() + Duration::from_secs(5) * patience();
            while Instant::now() < end && matches!(serve.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(5));
            }
            let _ = serve.kill();
            let _ = serve.wait();
        }
        // Without a cgroup only the records tell what serve left.
        for pool in fs::read_dir(self.path("run/pools")).into_iter().flatten().flatten() {
            let pid = self.record(&pool.file_name().to_string_lossy()).pid.filter(|_| self.rootless);
            pid.map(|pid| {
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
            });
        }
        kill_cgroup(&self.cgroup());
        // And those of other commands that had a directory in this one, and were killed.
        let place = in_one_word(&self.path("")) + "-";
        let all = self.cgroup().parent().and_then(|parent| fs::read_dir(parent).ok());
        for entry in all.into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&place) {
                kill_cgroup(&entry.path());
            }
        }
        if std::thread::panicking() {
            let before = fs::read_to_string(self.path("log.before")).unwrap_or_default();
            let lines: Vec<String> = (before + &self.log()).lines().map(str::to_owned).collect();
            eprintln!("log of serve:\n{}", lines[lines.len().saturating_sub(300)..].join("\n"));
        } else {
            self.guard.release();
        }
    }
}

/// A path as howdah names its cgroups after it.
fn in_one_word(path: &Path) -> String {
    path.display().to_string().trim_matches('/').replace('/', "-")
}

/// Kills what is left below a cgroup, and removes it. Nothing is, after an orderly end.
fn kill_cgroup(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            kill_cgroup(&entry.path());
        }
    }
    if directory.exists() {
        let killed = File::options()
            .write(true)
            .open(directory.join("cgroup.kill"))
            .and_then(|mut file| file.write_all(b"1"));
        let end = Instant::now() + Duration::from_secs(5) * patience();
        while killed.is_ok() && fs::remove_dir(directory).is_err() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
