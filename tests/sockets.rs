//! Sockets of a whole serve: those that systemd passes, as the real
//! systemd-socket-activate(1) does it, and its own; the rules at the socket;
//! and what a tenant does to the copy that it holds.
#![allow(missing_docs)]

mod rig;

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use howdah::fpm::client::{Response, exchange};
use rig::held::Held;
use rig::port::free_port;
use rig::{HOWDAH, Rig, TENANT, wait_for};

const HELLO: &str = "<?php echo 'hello from ', posix_getuid();";
const ANSWER: &str = "hello from 33";
const PATIENCE: Duration = Duration::from_secs(20);
const CONFIGURATION: i32 = 3;

/// Asks the pool `blog` for `uri` over a connected socket.
fn ask_over(rig: &Rig, stream: &impl AsFd, uri: &str) -> Result<Response, String> {
    let request = rig.request("blog", uri, "GET", &[], b"");
    exchange(stream, &request, Duration::from_secs(30)).map_err(|error| error.to_string())
}

#[track_caller]
fn body(rig: &Rig, response: Result<Response, String>) -> String {
    let response = response.unwrap_or_else(|error| panic!("{error}\n{}", rig.log()));
    let body = String::from_utf8_lossy(&response.body).into_owned();
    assert_eq!(response.status, 200, "{body}\n{}", rig.log());
    body
}

#[track_caller]
fn over_unix(rig: &Rig, path: &Path, uri: &str) -> String {
    let stream = UnixStream::connect(path).unwrap_or_else(|error| panic!("{error}\n{}", rig.log()));
    body(rig, ask_over(rig, &stream, uri))
}

#[track_caller]
fn over_tcp(rig: &Rig, address: &str, uri: &str) -> String {
    let stream = TcpStream::connect(address).unwrap_or_else(|error| panic!("{error}\n{}", rig.log()));
    body(rig, ask_over(rig, &stream, uri))
}

/// A pool file `blog.toml` with these addresses (`UNIX` is its socket), and its site.
fn listening_on(addresses: &[&str], more: &str) -> Rig {
    let rig = Rig::new();
    rig.site("blog", "index.php", HELLO, TENANT);
    let socket = rig.socket("blog").display().to_string();
    let addresses: Vec<&str> =
        addresses.iter().map(|address| if *address == "UNIX" { &socket } else { *address }).collect();
    rig.write(
        "pools/blog.toml",
        &format!(
            "listen = {addresses:?}\nuser = \"www-data\"\n[[mount]]\nsource = {:?}\n{more}\n",
            rig.path("blog")
        ),
    );
    rig.let_listen_on_tcp("blog");
    rig
}

/// serve's lines that contain `text`.
fn lines(rig: &Rig, text: &str) -> Vec<String> {
    rig.log().lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
}

/// What the descriptors of a process are.
fn descriptors(pid: i32) -> Vec<(i32, String)> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let mut all: Vec<(i32, String)> = entries
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.parse().ok()?;
            Some((number, fs::read_link(entry.path()).ok()?.display().to_string()))
        })
        .collect();
    all.sort();
    all
}

/// The file status flags (open(2)) of a process's descriptor.
fn flags(pid: u32, number: i32) -> i32 {
    let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).unwrap();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
    i32::from_str_radix(flags.trim(), 8).unwrap()
}

/// The inode by which `/proc/net/unix` and `ss` know the socket bound to `path`.
fn inode_of_unix(path: &Path) -> u64 {
    let table = fs::read_to_string("/proc/net/unix").unwrap();
    // Accepted connections have the path too; only a listener has this flag (SO_ACCEPTCON).
    let is_it = |line: &&str| line.contains(" 00010000 ") && line.ends_with(&format!(" {}", path.display()));
    let line = table.lines().find(is_it).unwrap();
    line.split_whitespace().nth(6).unwrap().parse().unwrap()
}

/// The environment of php-fpm: with `clear_env = false` its workers keep it.
const ENVIRONMENT: &str = "<?php foreach (getenv() as $k => $v) { echo \"$k=$v\\n\"; }";

// ---------------------------------------------------------------- systemd's protocol

/// Starts serve by systemd-socket-activate with these options, and waits until it listens.
fn activate(rig: &mut Rig, options: &[&str]) {
    let before: Vec<&str> = ["systemd-socket-activate"].iter().chain(options).copied().collect();
    rig.start(&before, &[]);
    let sockets = options.iter().filter(|option| **option == "-l").count();
    let last = format!("as {}.", 2 + sockets);
    rig.wait_log(&last);
}

#[test]
fn systemd_s_sockets_of_three_families_are_one_pool_s_by_their_addresses() {
    let v4 = free_port("127.0.0.1").to_string();
    let v6 = free_port("::1").to_string();
    let mut rig = listening_on(&["UNIX", &v4, &v6], "");
    let path = rig.socket("blog").display().to_string();
    activate(&mut rig, &["-l", &path, "-l", &v4, "-l", &v6]);
    assert_eq!(over_tcp(&rig, &v6, "/index.php"), ANSWER);
    assert_eq!(over_tcp(&rig, &v4, "/index.php"), ANSWER);
    assert_eq!(over_unix(&rig, Path::new(&path), "/index.php"), ANSWER);
    assert_eq!(rig.ps("blog")["listen"], serde_json::json!([path, v4, v6]));
    rig.wait_state("blog", "warm");
    assert_eq!(rig.ps("blog")["starts"], 1, "one generation has all three");
    assert_eq!(rig.end(), 0);
    assert!(Path::new(&path).exists(), "systemd's socket is systemd's to remove");
}

#[test]
fn a_name_goes_before_an_address_and_nothing_else_is_bound() {
    let mut rig = Rig::new();
    rig.site("blog", "index.php", HELLO, TENANT);
    rig.pool("blog", "[socket]\nmode = \"0600\"");
    let passed = rig.path("passed.sock").display().to_string();
    activate(&mut rig, &["-l", &passed, "--fdname=blog"]);
    assert_eq!(over_unix(&rig, Path::new(&passed), "/index.php"), ANSWER);
    assert!(!rig.socket("blog").exists(), "its own address was bound as well");
    assert_eq!(rig.ps("blog")["listen"], serde_json::json!([passed]));
    assert_eq!(
        lines(&rig, "systemd passes"),
        [
            format!(
                "howdah: pool blog: systemd passes {passed} by this name, its file says {}: \
                 what systemd passes is used, and nothing else is bound",
                rig.socket("blog").display()
            ),
            "howdah: pool blog: [socket] is ignored: systemd passes its socket, \
             whose unit says SocketUser=, SocketGroup=, SocketMode= and Backlog="
                .to_owned()
        ]
    );
    assert_eq!(rig.end(), 0);
}

#[test]
fn each_pool_gets_the_sockets_of_its_name() {
    let mut rig = Rig::new();
    for name in ["blog", "shop"] {
        rig.site(name, "index.php", &format!("<?php echo '{name}';"), TENANT);
        rig.pool(name, "");
    }
    rig.let_listen_on_tcp("blog");
    let (blog, shop) = (rig.socket("blog"), rig.socket("shop"));
    // In the other order than the files; the third is matched by its address.
    let v4 = free_port("127.0.0.1").to_string();
    activate(
        &mut rig,
        &["-l", shop.to_str().unwrap(), "-l", blog.to_str().unwrap(), "-l", &v4, "--fdname=shop:blog:blog"],
    );
    assert_eq!(rig_text(&rig, "shop"), "shop");
    assert_eq!(rig_text(&rig, "blog"), "blog");
    assert_eq!(over_tcp(&rig, &v4, "/index.php"), "blog");
    assert_eq!(rig.end(), 0);
}

fn rig_text(rig: &Rig, pool: &str) -> String {
    rig.text(pool, "/index.php")
}

/// serve ends by itself with this line and status.
#[track_caller]
fn refuses(rig: &mut Rig, line: &str) {
    assert_eq!(rig.wait_end(PATIENCE), CONFIGURATION, "{}", rig.log());
    assert_eq!(lines(rig, "howdah: "), [format!("howdah: {line}")]);
}

#[test]
fn a_passed_socket_that_no_pool_wants_is_the_end_and_named() {
    let mut rig = Rig::new();
    rig.pool("blog", "");
    let other = rig.path("other.sock").display().to_string();
    activate(&mut rig, &["-l", &other, "--fdname=wiki"]);
    let _client = UnixStream::connect(&other).unwrap();
    refuses(
        &mut rig,
        &format!(
            "passed descriptor 3 (\"wiki\", {other}): no pool wants it: write FileDescriptorName= with a \
             pool's name in its socket unit, write its address in a pool's listen, or stop its socket unit"
        ),
    );
    assert!(!rig.path("run").exists() && !rig.socket("blog").exists(), "something is left behind");
}

#[test]
fn a_passed_datagram_socket_is_the_end_and_named() {
    let mut rig = Rig::new();
    rig.pool("blog", "");
    let path = rig.socket("blog").display().to_string();
    activate(&mut rig, &["-d", "-l", &path, "--fdname=blog"]);
    UnixDatagram::unbound().unwrap().send_to(b"x", &path).unwrap();
    refuses(
        &mut rig,
        &format!(
            "passed descriptor 3 (\"blog\", {path}): \
             it is a datagram socket: write ListenStream= instead of ListenDatagram="
        ),
    );
}

/// A shell that says by LISTEN_* that its standard input is the one socket passed.
const SHELL: &str = "exec 3<&0 0</dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; ";

/// Starts serve with `socket` as the one that systemd passes; `more` is of the shell's.
fn pass(rig: &mut Rig, socket: &impl AsFd, more: &str) {
    let script = format!("{SHELL}{more} exec \"$@\"");
    let copy: OwnedFd = socket.as_fd().try_clone_to_owned().unwrap();
    rig.start_with(copy.into(), &["sh", "-c", &script, "sh"], &[]);
}

#[test]
fn a_passed_socket_that_does_not_listen_is_the_end_and_named() {
    let mut rig = Rig::new();
    rig.pool("blog", "");
    let server = UnixListener::bind(rig.path("other.sock")).unwrap();
    let _client = UnixStream::connect(rig.path("other.sock")).unwrap();
    let connection = server.accept().unwrap().0;
    pass(&mut rig, &connection, "export LISTEN_FDNAMES=blog;");
    let line = format!(
        "passed descriptor 3 (\"blog\", {}): it does not listen: write Accept=no in its socket unit",
        rig.path("other.sock").display()
    );
    refuses(&mut rig, &line);
}

#[test]
fn garbage_in_systemd_s_variables_is_the_end_and_named() {
    for (more, line) in [
        ("export LISTEN_FDS=x;", "LISTEN_FDS=\"x\": no number of descriptors"),
        ("export LISTEN_FDS=99999999999999;", "LISTEN_FDS=\"99999999999999\": no number of descriptors"),
        ("export LISTEN_PID=me;", "LISTEN_PID=\"me\": no process id"),
        ("export LISTEN_FDNAMES=a:b;", "LISTEN_FDNAMES=\"a:b\": 2 names for 1 descriptors"),
    ] {
        let mut rig = Rig::new();
        rig.pool("blog", "");
        let socket = UnixListener::bind(rig.path("other.sock")).unwrap();
        pass(&mut rig, &socket, more);
        refuses(&mut rig, &format!("{line}: start howdah from a socket unit, or unset the variable"));
    }
}

#[test]
fn variables_for_another_process_are_not_acted_on() {
    let mut rig = Rig::new();
    rig.site("blog", "index.php", HELLO, TENANT);
    rig.pool("blog", "");
    let socket = UnixListener::bind(rig.path("other.sock")).unwrap();
    pass(&mut rig, &socket, "export LISTEN_PID=1;");
    rig.wait_log("howdah: ready:");
    assert_eq!(rig.text("blog", "/index.php"), ANSWER);
    // What was passed to another is closed here like everything else.
    drop(socket);
    assert!(UnixStream::connect(rig.path("other.sock")).is_err(), "serve keeps it");
    assert_eq!(rig.end(), 0);
}

#[test]
fn inherited_descriptors_are_closed_before_anything_runs() {
    let mut rig = Rig::new();
    rig.site("blog", "index.php", "<?php echo implode(' ', array_map(fn($f) => @readlink(\"/proc/self/fd/$f\"), scandir('/proc/self/fd')));", TENANT);
    rig.pool("blog", "");
    let secret = rig.write("secret", "x");
    let script = format!("exec 5<{0} 9<{0} 200<{0}; exec \"$@\"", secret.display());
    rig.start(&["bash", "-c", &script, "bash"], &[]);
    rig.wait_log("howdah: ready:");
    let inside = rig.text("blog", "/index.php");
    assert!(!inside.contains("secret"), "{inside}");
    let open = descriptors(rig.pid() as i32);
    assert!(open.iter().all(|(_, what)| !what.contains("secret")), "{open:?}");
    let master = descriptors(rig.master("blog"));
    assert!(master.iter().all(|(_, what)| !what.contains("secret")), "{master:?}");
    assert_eq!(rig.end(), 0);
}

#[test]
fn systemd_s_variables_do_not_reach_php_fpm() {
    let mut rig = Rig::new();
    rig.site("blog", "index.php", HELLO, TENANT);
    rig.site("blog", "environment.php", ENVIRONMENT, TENANT);
    rig.pool("blog", "[fpm]\nclear_env = false");
    let path = rig.socket("blog").display().to_string();
    activate(
        &mut rig,
        &["-l", &path, "--fdname=blog", "--setenv=NOTIFY_SOCKET=/run/nowhere", "--setenv=SECRET=x"],
    );
    assert_eq!(rig.text("blog", "/index.php"), ANSWER);
    let environment = rig.text("blog", "/environment.php");
    for name in ["LISTEN_", "SECRET", "NOTIFY_SOCKET", "INVOCATION_ID"] {
        assert!(!environment.lines().any(|one| one.starts_with(name)), "{environment}");
    }
    assert!(environment.contains("PATH="), "php-fpm's own are to be seen: {environment}");
    assert_eq!(rig.end(), 0);
}

#[test]
fn a_serve_for_one_pool_ends_when_idle_and_is_activated_again() {
    let mut rig = Rig::new().with(&["--exit-when-idle"]);
    rig.site("blog", "index.php", HELLO, TENANT);
    rig.pool("blog", "[idle]\nstop = \"200ms\"");
    // systemd's own sockets do not block.
    let socket = UnixListener::bind(rig.socket("blog")).unwrap();
    socket.set_nonblocking(true).unwrap();
    fs::set_permissions(rig.socket("blog"), fs::Permissions::from_mode(0o666)).unwrap();
    let before = fs::metadata(rig.socket("blog")).unwrap().ino();
    for _ in 1..=2 {
        // The connection comes first: that is what starts the unit.
        let client = UnixStream::connect(rig.socket("blog")).unwrap();
        pass(&mut rig, &socket, "export LISTEN_FDNAMES=blog;");
        assert_eq!(body(&rig, ask_over(&rig, &client, "/index.php")), ANSWER);
        drop(client);
        assert_eq!(rig.wait_end(PATIENCE), 0, "{}", rig.log());
        rig.assert_nothing_is_left();
        assert!(!rig.path("run").exists());
        assert_eq!(fs::metadata(rig.socket("blog")).unwrap().ino(), before, "the socket stays");
    }
}

#[test]
fn systemd_socket_activate_starts_a_serve_that_ends_when_idle() {
    let mut rig = Rig::new().with(&["--exit-when-idle"]);
    rig.site("blog", "index.php", HELLO, TENANT);
    rig.pool("blog", "[idle]\nstop = \"200ms\"");
    let path = rig.socket("blog").display().to_string();
    activate(&mut rig, &["-l", &path, "--fdname=blog"]);
    assert_eq!(rig.text("blog", "/index.php"), ANSWER);
    assert_eq!(rig.wait_end(PATIENCE), 0, "{}", rig.log());
}

// ---------------------------------------------------------------- sockets of our own

#[test]
fn one_pool_answers_at_all_its_addresses() {
    let v4 = free_port("127.0.0.1").to_string();
    let v6 = free_port("::1").to_string();
    let mut rig = listening_on(&["UNIX", &v4, &v6], "[idle]\nstop = \"200ms\"");
    rig.serve();
    for _ in 0..2 {
        assert_eq!(over_tcp(&rig, &v4, "/index.php"), ANSWER);
        assert_eq!(rig.text("blog", "/index.php"), ANSWER);
        assert_eq!(over_tcp(&rig, &v6, "/index.php"), ANSWER);
        // Each of them starts it.
        rig.wait_state("blog", "cold");
        assert_eq!(over_tcp(&rig, &v6, "/index.php"), ANSWER);
        rig.wait_state("blog", "cold");
    }
    assert_eq!(rig.end(), 0);
    assert!(TcpStream::connect(&v4).is_err() && TcpStream::connect(&v6).is_err());
}

#[test]
fn a_pool_on_tcp_is_stopped_when_idle_and_started_again() {
    let address = free_port("127.0.0.1").to_string();
    let mut rig = listening_on(&[&address], "[idle]\nstop = \"200ms\"");
    rig.serve();
    for generation in 1..=3 {
        assert_eq!(rig.state("blog"), "cold");
        assert_eq!(over_tcp(&rig, &address, "/index.php"), ANSWER);
        assert_eq!(rig.ps("blog")["generation"], generation);
        rig.wait_state("blog", "cold");
    }
    assert_eq!(rig.end(), 0);
}

#[test]
fn owner_group_mode_and_backlog_are_as_the_file_says() {
    let v4 = free_port("127.0.0.1").to_string();
    let mut rig = Rig::new();
    let path = rig.path("deep/down/blog.sock");
    rig.write(
        "pools/blog.toml",
        &format!(
            "listen = [{path:?}, {v4:?}]\nuser = \"www-data\"\n\
             [socket]\nowner = \"backup\"\ngroup = \"www-data\"\nmode = \"0620\"\nbacklog = 7\n"
        ),
    );
    rig.serve();
    let found = fs::symlink_metadata(&path).unwrap();
    assert_eq!((found.mode() & 0o7777, found.uid(), found.gid()), (0o620, 34, 33));
    for directory in ["deep", "deep/down"] {
        assert_eq!(fs::metadata(rig.path(directory)).unwrap().mode() & 0o7777, 0o755);
    }
    // ss: of a listener Send-Q is the most that may wait.
    let queue = |arguments: &[&str], address: &str| {
        let output = Command::new("ss").args(["-H", "-l", "-n"]).args(arguments).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let line = text.lines().find(|line| line.split_whitespace().any(|word| word == address));
        let line = line.unwrap_or_else(|| panic!("no {address} in {text}"));
        let numbers: Vec<u32> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        numbers[1]
    };
    assert_eq!(queue(&["-x"], path.to_str().unwrap()), 7);
    assert_eq!(queue(&["-t"], &v4), 7);
    assert_eq!(rig.end(), 0);
    assert!(!path.exists());
}

#[test]
fn a_stale_socket_is_replaced_and_another_s_is_not_removed() {
    let mut rig = Rig::new();
    rig.site("blog", "index.php", HELLO, TENANT);
    rig.pool("blog", "");
    drop(UnixListener::bind(rig.socket("blog")).unwrap());
    rig.serve();
    assert_eq!(rig.text("blog", "/index.php"), ANSWER);
    // Somebody puts a socket of its own in the place.
    fs::remove_file(rig.socket("blog")).unwrap();
    let _theirs = UnixListener::bind(rig.socket("blog")).unwrap();
    assert_eq!(rig.end(), 0);
    assert!(rig.socket("blog").exists(), "a socket that is not ours was removed");
}

// ---------------------------------------------------------------- the rules at the socket

#[test]
fn php_fpm_s_listen_and_key_are_a_path_that_exists_nowhere() {
    let mut rig = Rig::new();
    rig.site("blog", "index.php", HELLO, TENANT);
    rig.site("blog", "environment.php", ENVIRONMENT, TENANT);
    rig.pool("blog", "[idle]\nstop = \"200ms\"\n[fpm]\nclear_env = false");
    rig.serve();
    let held = Held::begin(&rig, "blog", "/index.php");
    let environment = rig.text("blog", "/environment.php");
    let master = rig.master("blog");
    let root = PathBuf::from(format!("/proc/{master}/root"));
    let conf = fs::read_to_string(root.join("etc/howdah/php-fpm.conf")).unwrap();
    let listen = conf.lines().find_map(|line| line.strip_prefix("listen = ")).unwrap();
    let listen = listen.trim_matches(|c| c == '\'' || c == '"');
    assert!(listen.starts_with('/'), "{conf}");
    assert!(!root.join(listen.trim_start_matches('/')).exists() && !Path::new(listen).exists());
    assert!(environment.contains(&format!("FPM_SOCKETS={listen}=3\n")), "{environment}");
    // So that its end removes nothing: the socket is the same after three lives.
    let before = fs::metadata(rig.socket("blog")).unwrap().ino();
    assert_eq!(held.answer(), ANSWER);
    for _ in 0..2 {
        rig.wait_state("blog", "cold");
        rig.text("blog", "/index.php");
    }
    assert_eq!(fs::metadata(rig.socket("blog")).unwrap().ino(), before);
    assert_eq!(rig.end(), 0);
}

#[test]
fn a_generation_has_its_listener_and_0_to_2_and_nothing_else_of_serve_s() {
    let mut rig = Rig::new();
    rig.site("blog", "index.php", HELLO, TENANT);
    rig.pool("blog", "");
    rig.serve();
    rig.text("blog", "/index.php");
    let listener = format!("socket:[{}]", inode_of_unix(&rig.socket("blog")));
    let theirs = descriptors(rig.master("blog"));
    assert_eq!(theirs.iter().find(|(number, _)| *number == 3).unwrap().1, listener);
    let ours = descriptors(rig.pid() as i32);
    let shared: Vec<_> = theirs
        .iter()
        .filter(|(_, what)| what.starts_with("socket:") && ours.iter().any(|(_, other)| other == what))
        .collect();
    assert_eq!(shared.len(), 1, "{theirs:?} {ours:?}");
    assert_eq!(rig.end(), 0);
}

#[test]
fn howdah_accepts_nothing_while_a_generation_runs() {
    let mut rig = Rig::new();
    rig.site("blog", "index.php", HELLO, TENANT);
    rig.site("blog", "slow.php", "<?php usleep(1500000); echo 'slow';", TENANT);
    rig.pool("blog", "[fpm]\npm = \"static\"\nmax_children = 1");
    rig.serve();
    rig.text("blog", "/index.php");
    let sockets = |rig: &Rig| {
        let open = descriptors(rig.pid() as i32);
        open.into_iter().filter(|(_, what)| what.starts_with("socket:")).collect::<Vec<_>>()
    };
    let before = sockets(&rig);
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| rig.text("blog", "/slow.php"));
        std::thread::sleep(Duration::from_millis(300));
        // The only worker is busy: these wait in the kernel's queue.
        let waiting: Vec<_> = (0..5).map(|_| UnixStream::connect(rig.socket("blog")).unwrap()).collect();
        std::thread::sleep(Duration::from_millis(300));
        // One with which it asks the kernel comes and goes.
        let taken: Vec<_> = sockets(&rig).into_iter().filter(|one| !before.contains(one)).collect();
        assert!(taken.is_empty(), "serve has taken a connection: {taken:?}");
        assert_eq!(slow.join().unwrap(), "slow");
        for stream in waiting {
            assert_eq!(body(&rig, ask_over(&rig, &stream, "/index.php")), ANSWER);
        }
    });
    assert_eq!(rig.end(), 0);
}

/// A script that runs a program which does something to every listening socket it holds.
fn tenant_script(deed: &str) -> String {
    let program = format!("for $n (3..20) {{ open($s, \"+<&=\", $n) or next; {deed} }}");
    let program = format!("use Fcntl; use Socket; {program} print \"done\";");
    format!("<?php echo shell_exec({});", php_string(&format!("perl -e '{program}' 2>&1")))
}

fn php_string(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[test]
fn o_nonblock_set_by_a_tenant_is_cleared_before_the_next_start() {
    let mut rig = Rig::new();
    rig.site("blog", "index.php", HELLO, TENANT);
    rig.site(
        "blog",
        "poison.php",
        &tenant_script(
            "fcntl($s, F_SETFL, O_NONBLOCK) and fcntl($s, F_GETFL, 0) & O_NONBLOCK and print \"set \";",
        ),
        TENANT,
    );
    rig.pool("blog", "[idle]\nstop = \"200ms\"\n[fpm]\npm = \"static\"\nmax_children = 2");
    rig.serve();
    let listener = format!("socket:[{}]", inode_of_unix(&rig.socket("blog")));
    let open = descriptors(rig.pid() as i32);
    let number = open.iter().find(|(_, what)| *what == listener).unwrap().0;
    let blocks = |rig: &Rig| flags(rig.pid(), number) & nix::libc::O_NONBLOCK == 0;
    assert!(blocks(&rig), "the listener is blocking from the beginning");
    let told = rig.text("blog", "/poison.php");
    assert!(told.starts_with("set "), "this is what a tenant can do: {told}");
    // Its idle workers see EAGAIN, end and are forked again, until howdah looks.
    wait_for("a blocking socket", PATIENCE, || blocks(&rig).then_some(()));
    rig.wait_state("blog", "cold");
    let held = Held::begin(&rig, "blog", "/index.php");
    assert_eq!(rig.text("blog", "/index.php"), ANSWER);
    assert!(blocks(&rig));
    // Its workers do not die of it: the same two are there.
    let workers = |rig: &Rig| {
        let master = rig.master("blog");
        fs::read_to_string(format!("/proc/{master}/task/{master}/children")).unwrap()
    };
    let before = workers(&rig);
    assert_eq!(rig.text("blog", "/index.php"), ANSWER);
    assert_eq!(workers(&rig), before);
    assert_eq!(held.answer(), ANSWER);
    assert_eq!(rig.end(), 0);
}

/// A pool without a seccomp filter, whose script shuts its listener down.
fn open_to_poison(rig: &Rig, listen: &str) {
    let profile = rig.profile("open", "seccomp = \"off\"\ntcp_listener_held = false\n");
    rig.site("blog", "index.php", HELLO, TENANT);
    rig.site("blog", "poison.php", &tenant_script("shutdown($s, 0);"), TENANT);
    rig.write(
        "pools/blog.toml",
        &format!(
            "listen = {listen:?}\nuser = \"www-data\"\nprofile = {profile:?}\n\
             [[mount]]\nsource = {:?}\n[idle]\nstop = \"200ms\"\n",
            rig.path("blog")
        ),
    );
}

#[test]
fn the_filter_keeps_a_tenant_from_shutting_the_listener_down() {
    let mut rig = Rig::new();
    rig.site("blog", "index.php", HELLO, TENANT);
    rig.site("blog", "poison.php", &tenant_script("shutdown($s, 0);"), TENANT);
    rig.pool("blog", "");
    rig.serve();
    assert_eq!(rig.text("blog", "/poison.php"), "done");
    assert_eq!(rig.text("blog", "/index.php"), ANSWER);
    assert_eq!(lines(&rig, "shut down"), Vec::<String>::new());
    assert_eq!(rig.end(), 0);
}

#[test]
fn a_unix_socket_that_a_tenant_shut_down_is_bound_anew() {
    let mut rig = Rig::new();
    open_to_poison(&rig, rig.socket("blog").to_str().unwrap());
    rig.serve();
    for _ in 0..2 {
        let _ = rig.try_get("blog", "/poison.php");
        let answer = wait_for("an answer", PATIENCE, || rig.try_get("blog", "/index.php").ok());
        assert_eq!(answer.status, 200, "{}", rig.log());
    }
    assert_eq!(
        lines(&rig, "shut down"),
        vec![
            format!(
                "howdah: pool blog: {} was shut down from inside the pool, and repaired",
                rig.socket("blog").display()
            );
            2
        ]
    );
    assert_eq!(rig.end(), 0);
    assert!(!rig.socket("blog").exists());
}

#[test]
fn a_tcp_socket_that_a_tenant_shut_down_listens_again() {
    let mut rig = Rig::new();
    let address = free_port("127.0.0.1").to_string();
    open_to_poison(&rig, &address);
    rig.serve();
    for _ in 0..2 {
        let _ = ask_over(&rig, &TcpStream::connect(&address).unwrap(), "/poison.php");
        let answer = wait_for("an answer", PATIENCE, || {
            ask_over(&rig, &TcpStream::connect(&address).ok()?, "/index.php").ok()
        });
        assert_eq!(answer.status, 200, "{}", rig.log());
    }
    assert_eq!(
        lines(&rig, "shut down"),
        vec![format!("howdah: pool blog: {address} was shut down from inside the pool, and repaired"); 2]
    );
    assert_eq!(rig.end(), 0);
}

#[test]
fn systemd_s_socket_that_a_tenant_shut_down_is_told_with_what_to_do() {
    let mut rig = Rig::new();
    open_to_poison(&rig, rig.socket("blog").to_str().unwrap());
    let path = rig.socket("blog").display().to_string();
    activate(&mut rig, &["-l", &path, "--fdname=blog"]);
    let _ = rig.try_get("blog", "/poison.php");
    rig.wait_log("for good");
    assert_eq!(
        lines(&rig, "for good"),
        [format!(
            "howdah: pool blog: listen again on {path}: Cannot send after transport endpoint shutdown \
             (ESHUTDOWN): a process shut it down for good: restart its socket unit, and howdah with it \
             (systemctl restart blog.socket howdah.service)"
        )]
    );
    // And it is told once: a dead socket does not keep serve awake.
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(lines(&rig, "for good").len(), 1);
    assert!(rig.ps("blog")["last_error"].as_str().unwrap().contains("restart its socket unit"));
    assert_eq!(rig.end(), 0);
}

// ---------------------------------------------------------------- the end

#[test]
fn at_the_end_a_tcp_pool_answers_who_waits_and_lets_nobody_new_in() {
    let address = free_port("127.0.0.1").to_string();
    let mut rig = listening_on(&[&address], "[fpm]\npm = \"static\"\nmax_children = 1");
    rig.site("blog", "slow.php", "<?php usleep(3000000); echo 'slow';", TENANT);
    rig.serve();
    assert_eq!(over_tcp(&rig, &address, "/index.php"), ANSWER);
    let target: SocketAddr = address.parse().unwrap();
    std::thread::scope(|scope| {
        let rig = &rig;
        let slow = scope.spawn(|| over_tcp(rig, &address, "/slow.php"));
        std::thread::sleep(Duration::from_millis(300));
        let waits = scope.spawn(|| over_tcp(rig, &address, "/index.php"));
        std::thread::sleep(Duration::from_millis(200));
        rig.signal(nix::sys::signal::Signal::SIGTERM);
        wait_for("the drain", PATIENCE, || (!lines(rig, "ending").is_empty()).then_some(()));
        let new = TcpStream::connect_timeout(&target, Duration::from_millis(200));
        assert_eq!(new.unwrap_err().kind(), std::io::ErrorKind::TimedOut, "a new connection was let in");
        assert_eq!(slow.join().unwrap(), "slow");
        assert_eq!(waits.join().unwrap(), ANSWER);
    });
    assert_eq!(rig.wait_end(PATIENCE), 0);
    assert!(TcpStream::connect(target).is_err());
}

#[test]
fn a_thousand_pools_are_bound_and_unbound_in_no_time() {
    let rig = Rig::new();
    for index in 0..1000 {
        rig.pool(&format!("p{index}"), "");
    }
    let begin = Instant::now();
    let mut command = Command::new("timeout");
    command.args(["30", HOWDAH, "serve", "--runtime-dir"]).arg(rig.path("run"));
    command.arg("--config").arg(rig.path("howdah.toml")).arg(rig.path("pools"));
    let mut serve = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("the roll", PATIENCE, || rig.path("run/serve.json").exists().then_some(()));
    let took = begin.elapsed();
    let serving = nix::unistd::Pid::from_raw(serve.id() as i32);
    nix::sys::signal::kill(serving, nix::sys::signal::Signal::SIGTERM).unwrap();
    let end = wait_for("the end", PATIENCE, || serve.try_wait().unwrap());
    assert!(end.success(), "{end}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!((0..1000).all(|index| !rig.socket(&format!("p{index}")).exists()));
}
