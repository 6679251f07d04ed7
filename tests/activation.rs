//! Listening sockets, with the kernel's own and with those that the real
//! systemd-socket-activate(1) passes. What must be its own process is this
//! program again, in a [`role`].

#[path = "rig/port.rs"]
mod port;

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use howdah::config::pool::Socket;
use howdah::config::types::{Listen, Mode};
use howdah::pool::activation::{Health, Listener, Origin, bind, close_other_descriptors, inherited};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{AddressFamily, Backlog, Shutdown, SockFlag, SockType, UnixAddr};
use nix::sys::stat::umask;
use nix::unistd::{Gid, Uid, getegid, geteuid, setgid, setgroups, setuid};
use port::free_port;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);

// ---------------------------------------------------------------- other processes

/// Not a test: what this program does when a test starts it again.
#[test]
#[ignore = "run by the other tests, in a process of its own"]
fn role() {
    let told = match variable("ROLE").as_str() {
        "tell what was passed" => tell_passed(),
        "bind" => tell_bound(),
        "close the others" => close_the_others(),
        "set O_NONBLOCK on 0" => fcntl(0, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap().to_string(),
        "shut 0 down" => format!("{:?}", nix::sys::socket::shutdown(0, Shutdown::Read)),
        // Left to a run of all ignored tests, which gives no role.
        _ => return,
    };
    let mut out = std::io::stdout();
    write!(out, "\n<<{told}>>\n").unwrap();
    out.flush().unwrap();
    std::process::exit(0);
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

fn tell_passed() -> String {
    let sockets = match inherited() {
        Ok(sockets) => sockets,
        Err(error) => return format!("error: {error}"),
    };
    assert!(std::env::vars().all(|(name, _)| !name.starts_with("LISTEN_")), "variables are unset");
    for socket in &sockets {
        let flags = fcntl(socket.as_fd().as_raw_fd(), FcntlArg::F_GETFD).unwrap();
        assert_eq!(flags, libc::FD_CLOEXEC);
    }
    let lines: Vec<String> = sockets.iter().map(|it| it.passed().to_string()).collect();
    lines.join("\n")
}

/// Binds `LISTEN`, with the umask `UMASK`, as the user `AS`, for the user `OWNER`.
fn tell_bound() -> String {
    if let Ok(mask) = u32::from_str_radix(&variable("UMASK"), 8) {
        umask(nix::sys::stat::Mode::from_bits_truncate(mask));
    }
    if let Ok(uid) = variable("AS").parse() {
        setgroups(&[]).unwrap();
        setgid(Gid::from_raw(uid)).unwrap();
        setuid(Uid::from_raw(uid)).unwrap();
    }
    let mut socket = plain();
    socket.owner = variable("OWNER").parse().unwrap_or(socket.owner);
    match bind(&variable("LISTEN").parse().unwrap(), &socket) {
        Ok(_) => "bound".into(),
        Err(error) => format!("error: {error}"),
    }
}

fn close_the_others() -> String {
    let is_open = |number: i32| fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_ok();
    let open_null = || nix::fcntl::open("/dev/null", OFlag::O_RDONLY, nix::sys::stat::Mode::empty()).unwrap();
    let before: Vec<i32> = (0..3).map(|_| open_null()).collect();
    let kept = TcpListener::bind("127.0.0.1:0").unwrap();
    let after: Vec<i32> = (0..3).map(|_| open_null()).collect();
    let leaked = [before, after].concat();
    assert!(leaked.iter().all(|number| is_open(*number)));
    close_other_descriptors(&[kept.as_fd()]).unwrap();
    assert!(leaked.iter().all(|number| !is_open(*number)) && is_open(kept.as_raw_fd()));
    assert!((0..3).all(is_open));
    "closed".into()
}

/// A child that does not outlive its test.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// What its role told.
    fn told(mut self) -> String {
        let end = Instant::now() + PATIENCE;
        while self.0.try_wait().unwrap().is_none() {
            assert!(Instant::now() < end, "the child is still there after {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut text = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        let start = text.find("<<").unwrap_or_else(|| panic!("nothing was told: {text}"));
        text[start + 2..text.rfind(">>").unwrap()].to_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn myself() -> [String; 5] {
    let program = std::env::current_exe().unwrap().to_str().unwrap().to_owned();
    [program, "--ignored".into(), "--exact".into(), "--nocapture".into(), "role".into()]
}

fn in_role(role: &str) -> Command {
    let [program, arguments @ ..] = myself();
    let mut command = Command::new(program);
    command.args(arguments).env("ROLE", role).stdin(Stdio::null());
    command
}

fn binder(listen: &str) -> Command {
    let mut command = in_role("bind");
    command.env("LISTEN", listen);
    command
}

/// What a process of an unprivileged user is told when it binds `listen`.
fn bound_by_nobody(listen: &str) -> String {
    Running::start(binder(listen).env("AS", "65534")).told()
}

/// systemd-socket-activate(1), which starts a role that tells what it got.
fn activate(arguments: &[&str]) -> Running {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "systemd-socket-activate"])
        .args(arguments)
        .arg("--setenv=ROLE=tell what was passed")
        .args(myself());
    Running::start(command.stdin(Stdio::null()))
}

/// A role started by a shell that sets `LISTEN_PID` to the role's own process.
fn passed_by_shell(script: &str, stdin: Stdio) -> String {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("export LISTEN_PID=$$; {script} exec \"$@\"")).arg("sh").args(myself());
    Running::start(command.env("ROLE", "tell what was passed").stdin(stdin)).told()
}

/// Tries until the activator listens.
fn until<T>(mut attempt: impl FnMut() -> std::io::Result<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Ok(done) => return done,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

// ---------------------------------------------------------------- small words

fn plain() -> Socket {
    Socket { owner: geteuid().as_raw(), group: getegid().as_raw(), mode: Mode::new(0o660), backlog: 511 }
}

fn path_in(directory: &TempDir, name: &str) -> String {
    directory.path().join(name).to_str().unwrap().to_owned()
}

fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// The address; of a TCP one any port, also 0, which a pool file may not say.
fn place(address: &str) -> Listen {
    address.parse().map_or_else(|_| address.parse().unwrap(), Listen::Tcp)
}

fn listener(address: &str) -> Listener {
    bind(&place(address), &plain()).unwrap()
}

fn refusal(address: &str) -> String {
    bind(&place(address), &plain()).unwrap_err().to_string()
}

fn tcp_address(listener: &Listener) -> SocketAddr {
    match listener.address() {
        Listen::Tcp(address) => *address,
        Listen::Unix(path) => panic!("{path} is no TCP address"),
    }
}

/// What only a generation does: accepts on its copy. Never for ever.
fn accept_tcp(listener: &Listener) -> TcpStream {
    await_connection(listener);
    let accepted = TcpListener::from(listener.as_fd().try_clone_to_owned().unwrap()).accept().unwrap().0;
    accepted.set_read_timeout(Some(PATIENCE)).unwrap();
    accepted
}

fn accept_unix(listener: &Listener) -> UnixStream {
    await_connection(listener);
    UnixListener::from(listener.as_fd().try_clone_to_owned().unwrap()).accept().unwrap().0
}

fn await_connection(listener: &Listener) {
    until(|| if listener.has_waiting() { Ok(()) } else { Err(std::io::ErrorKind::TimedOut.into()) });
}

fn flags(listener: &Listener, which: FcntlArg) -> i32 {
    fcntl(listener.as_fd().as_raw_fd(), which).unwrap()
}

fn bits(path: impl AsRef<Path>) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

/// Lets a tenant's process, which holds a copy of `listener`, do something to it.
fn tenant(listener: &Listener, role: &str) {
    let copy = listener.as_fd().try_clone_to_owned().unwrap();
    Running::start(in_role(role).stdin(copy)).told();
}

/// The same in Perl, which Debian always has, for calls that no safe function makes.
fn tenant_in_perl(listener: &Listener, program: &str) {
    let copy = listener.as_fd().try_clone_to_owned().unwrap();
    let script = format!("({program}) or die $!; print '<<>>'");
    Running::start(Command::new("perl").args(["-e", &script]).stdin(copy)).told();
}

// ---------------------------------------------------------------- passed sockets

#[test]
fn systemd_passes_named_sockets_of_three_families() {
    let place = directory();
    let path = path_in(&place, "a.sock");
    let v4 = free_port("127.0.0.1").to_string();
    let v6 = free_port("::1").to_string();
    let child = activate(&["-l", &path, "-l", &v4, "-l", &v6, "--fdname=blog:blog:shop"]);
    let _client = until(|| TcpStream::connect(&v6));
    assert_eq!(
        child.told(),
        format!(
            "descriptor 3 (\"blog\", {path})\ndescriptor 4 (\"blog\", {v4})\ndescriptor 5 (\"shop\", {v6})"
        )
    );
}

#[test]
fn systemd_passes_a_socket_without_a_name() {
    let place = directory();
    let path = path_in(&place, "a.sock");
    let child = activate(&["-l", &path]);
    let _client = until(|| UnixStream::connect(&path));
    let told = child.told();
    assert!(told == format!("descriptor 3 ({path})") || told.contains("unknown"), "{told}");
}

#[test]
fn a_passed_datagram_socket_is_refused_by_name() {
    let place = directory();
    let reason = "it is a datagram socket: write ListenStream= instead of ListenDatagram=";
    let path = path_in(&place, "a.sock");
    let child = activate(&["-d", "-l", &path, "--fdname=blog"]);
    until(|| UnixDatagram::unbound().unwrap().send_to(b"x", &path));
    assert_eq!(child.told(), format!("error: passed descriptor 3 (\"blog\", {path}): {reason}"));

    let address =
        format!("127.0.0.1:{}", UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port());
    let child = activate(&["-d", "-l", &address, "--fdname=shop"]);
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.connect(&address).unwrap();
    // A datagram to a closed port is answered by an error of the next one.
    until(|| sender.send(b"x").and_then(|_| sender.send(b"x")));
    assert_eq!(child.told(), format!("error: passed descriptor 3 (\"shop\", {address}): {reason}"));
}

#[test]
fn a_passed_packet_socket_is_refused_by_name() {
    let place = directory();
    let path = path_in(&place, "a.sock");
    let child = activate(&["--seqpacket", "-l", &path, "--fdname=blog"]);
    let client =
        nix::sys::socket::socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)
            .unwrap();
    let address = UnixAddr::new(path.as_str()).unwrap();
    until(|| nix::sys::socket::connect(client.as_raw_fd(), &address).map_err(Into::into));
    assert_eq!(
        child.told(),
        format!(
            "error: passed descriptor 3 (\"blog\", {path}): \
             it is a packet socket: write ListenStream= instead of ListenSequentialPacket="
        )
    );
}

#[test]
fn a_passed_socket_of_multipath_tcp_is_refused() {
    // IPPROTO_MPTCP is 262. A kernel without it has nothing to pass.
    let perl = |protocol: i32| {
        let listen = format!(
            // The first word is the shell's exec.
            "use Socket; $^F = 9; socket(my $s, AF_INET, SOCK_STREAM, {protocol}); bind($s, sockaddr_in(0, INADDR_LOOPBACK)) \
             and listen($s, 5) or die; POSIX::dup2(fileno($s), 3); shift; exec @ARGV"
        );
        passed_by_shell(&format!("export LISTEN_FDS=1; exec perl -MPOSIX -e '{listen}'"), Stdio::null())
    };
    assert!(perl(6).starts_with("descriptor 3 (127.0.0.1:"), "{}", perl(6));
    if std::fs::exists("/proc/sys/net/mptcp").unwrap() {
        let told = perl(262);
        let reason = "its protocol is not TCP, and nothing would hold the pool's use of it: \
                      take SocketProtocol= out of its socket unit";
        assert!(
            told.starts_with("error: passed descriptor 3 (127.0.0.1:") && told.ends_with(reason),
            "{told}"
        );
    }
}

#[test]
fn a_passed_abstract_socket_is_refused_by_name() {
    let name = format!("howdah-test-{}", std::process::id());
    let child = activate(&["-l", &format!("@{name}"), "--fdname=blog"]);
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let _client = until(|| UnixStream::connect_addr(&address));
    assert_eq!(
        child.told(),
        format!(
            "error: passed descriptor 3 (\"blog\", @{name}): it is in the abstract namespace, \
             where no owner and no mode protect it: write a path after ListenStream="
        )
    );
}

#[test]
fn a_passed_connection_is_refused() {
    let place = directory();
    let path = path_in(&place, "a.sock");
    let server = UnixListener::bind(&path).unwrap();
    let _client = UnixStream::connect(&path).unwrap();
    let connection = OwnedFd::from(server.accept().unwrap().0);
    assert_eq!(
        passed_by_shell("export LISTEN_FDS=1; exec 3<&0;", connection.into()),
        format!(
            "error: passed descriptor 3 ({path}): it does not listen: write Accept=no in its socket unit"
        )
    );
}

#[test]
fn a_passed_file_is_refused() {
    assert_eq!(
        passed_by_shell("export LISTEN_FDS=1; exec 3</dev/null;", Stdio::null()),
        "error: passed descriptor 3: it is no socket: remove it from the unit that starts howdah"
    );
}

#[test]
fn garbage_in_the_variables_is_told() {
    let advice = ": start howdah from a socket unit, or unset the variable";
    let count = "no number of descriptors";
    for (script, line) in [
        ("LISTEN_FDS=x", format!("LISTEN_FDS=\"x\": {count}")),
        ("LISTEN_FDS=18446744073709551615", format!("LISTEN_FDS=\"18446744073709551615\": {count}")),
        ("LISTEN_FDS=2 LISTEN_FDNAMES=a", "LISTEN_FDNAMES=\"a\": 1 names for 2 descriptors".into()),
        ("LISTEN_FDS=1 LISTEN_PID=me", "LISTEN_PID=\"me\": no process id".into()),
    ] {
        let told = passed_by_shell(&format!("export {script};"), Stdio::null());
        assert_eq!(told, format!("error: {line}{advice}"));
    }
    let told = passed_by_shell("export LISTEN_FDS=1; exec 3<&-;", Stdio::null());
    assert!(told.starts_with("error: LISTEN_FDS=\"1\": ") && told.contains("EBADF"), "{told}");
}

#[test]
fn variables_for_another_process_are_ignored() {
    for script in [
        "export LISTEN_FDS=1 LISTEN_FDNAMES=a:b LISTEN_PID=1;",
        "export LISTEN_FDS=1; unset LISTEN_PID;",
        "export LISTEN_FDS=0 LISTEN_FDNAMES=;",
    ] {
        assert_eq!(passed_by_shell(script, Stdio::null()), "");
    }
}

#[test]
fn every_other_descriptor_is_closed() {
    assert_eq!(Running::start(&mut in_role("close the others")).told(), "closed");
}

// ---------------------------------------------------------------- unix sockets of our own

#[test]
fn owner_group_and_mode_are_exactly_what_was_asked() {
    let place = directory();
    let path = path_in(&place, "a.sock");
    for mode in [0o600, 0o660, 0o666, 0o777] {
        let mut socket = Socket { mode: Mode::new(mode), ..plain() };
        if geteuid().is_root() {
            (socket.owner, socket.group) = (12345, 23456);
        }
        let listener = bind(&path.parse().unwrap(), &socket).unwrap();
        let found = fs::symlink_metadata(&path).unwrap();
        assert_eq!((bits(&path), found.uid(), found.gid()), (mode, socket.owner, socket.group));
        listener.close_and_unlink().unwrap();
    }
}

#[test]
fn the_umask_changes_neither_the_socket_nor_its_directory() {
    let place = directory();
    let path = path_in(&place, "new/deep/a.sock");
    assert_eq!(Running::start(binder(&path).env("UMASK", "0777")).told(), "bound");
    assert_eq!(bits(&path), 0o660);
    assert_eq!(bits(place.path().join("new/deep")), 0o755);
    assert_eq!(bits(place.path().join("new")), 0o755);
    let path = path_in(&place, "open.sock");
    assert_eq!(Running::start(binder(&path).env("UMASK", "0")).told(), "bound");
    assert_eq!(bits(&path), 0o660);
}

#[test]
fn nobody_ever_sees_the_socket_with_another_mode() {
    let place = directory();
    let path = path_in(&place, "a.sock");
    let socket = Socket { mode: Mode::new(0o640), ..plain() };
    let done = AtomicBool::new(false);
    let watch = || {
        let mut seen = Vec::new();
        while !done.load(Ordering::Relaxed) {
            seen.extend(fs::symlink_metadata(&path).map(|found| found.mode() & 0o777));
        }
        seen.sort_unstable();
        seen.dedup();
        seen
    };
    std::thread::scope(|scope| {
        let watcher = scope.spawn(watch);
        for _ in 0..300 {
            bind(&path.parse().unwrap(), &socket).unwrap().close_and_unlink().unwrap();
        }
        done.store(true, Ordering::Relaxed);
        let seen = watcher.join().unwrap();
        assert!(seen.iter().all(|mode| [0, 0o640].contains(mode)), "{seen:?}");
    });
}

#[test]
fn an_existing_directory_keeps_its_mode() {
    let place = directory();
    fs::set_permissions(place.path(), Permissions::from_mode(0o711)).unwrap();
    let _listener = listener(&path_in(&place, "a.sock"));
    assert_eq!(bits(place.path()), 0o711);
}

#[test]
fn a_stale_socket_is_replaced() {
    let place = directory();
    let path = path_in(&place, "a.sock");
    drop(UnixListener::bind(&path).unwrap());
    let listener = listener(&path);
    let _client = UnixStream::connect(&path).unwrap();
    accept_unix(&listener);
}

#[test]
fn a_live_socket_is_refused_and_untouched() {
    let place = directory();
    let path = path_in(&place, "a.sock");
    let live = UnixListener::bind(&path).unwrap();
    let line = format!(
        "bind {path}: Address already in use (EADDRINUSE): \
         a live server listens there: stop it or choose another path"
    );
    assert_eq!(refusal(&path), line);
    // Also with a full queue: the second probe fills it, the third sees that.
    nix::sys::socket::listen(&live, Backlog::new(0).unwrap()).unwrap();
    assert_eq!(refusal(&path), line);
    assert_eq!(refusal(&path), line);
    live.accept().unwrap();
    drop(live);
    // Also one of another kind.
    fs::remove_file(&path).unwrap();
    let _datagram = UnixDatagram::bind(&path).unwrap();
    assert_eq!(refusal(&path), line);
    assert!(bind(&path.parse().unwrap(), &plain()).unwrap_err().is_retryable());
}

#[test]
fn what_is_no_socket_is_refused_and_untouched() {
    let place = directory();
    let (file, link, below) = (path_in(&place, "f"), path_in(&place, "l"), path_in(&place, "d"));
    fs::write(&file, "precious").unwrap();
    symlink(&file, &link).unwrap();
    fs::create_dir(&below).unwrap();
    for (path, kind) in [(&file, "a regular file"), (&link, "a symbolic link"), (&below, "a directory")] {
        assert_eq!(
            refusal(path),
            format!(
                "bind {path}: Address already in use (EADDRINUSE): \
                 {kind} is there: move it away or choose another path"
            )
        );
    }
    assert_eq!(fs::read_to_string(&link).unwrap(), "precious");
    let under = format!("{file}/a.sock");
    assert_eq!(
        refusal(&under),
        format!(
            "bind {under}: Not a directory (ENOTDIR): \
             a part of the path is no directory: choose another path"
        )
    );
}

#[test]
fn a_path_is_unlinked_only_while_it_is_ours() {
    let place = directory();
    let path = path_in(&place, "a.sock");
    listener(&path).close_and_unlink().unwrap();
    assert!(!fs::exists(&path).unwrap());

    let ours = listener(&path);
    fs::remove_file(&path).unwrap();
    let theirs = UnixListener::bind(&path).unwrap();
    ours.close_and_unlink().unwrap();
    let _client = UnixStream::connect(&path).unwrap();
    theirs.accept().unwrap();

    fs::remove_file(&path).unwrap();
    drop(listener(&path));
    assert!(fs::exists(&path).unwrap(), "dropping leaves the path");
}

#[test]
fn missing_rights_on_a_path_are_one_line_with_a_hint() {
    if !geteuid().is_root() {
        return;
    }
    let place = directory();
    fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
    let above = place.path().display().to_string();
    let denied = "Permission denied (EACCES)";
    let hint = format!("needs write permission on {above}: run as root or choose another path");

    let path = path_in(&place, "a.sock");
    assert_eq!(bound_by_nobody(&path), format!("error: bind {path}: {denied}: {hint}"));

    let deep = path_in(&place, "new/a.sock");
    assert_eq!(
        bound_by_nobody(&deep),
        format!("error: make directory {above}/new for {deep}: {denied}: {hint}")
    );

    drop(listener(&path));
    assert_eq!(
        bound_by_nobody(&path),
        format!(
            "error: connect to {path}: {denied}: \
             cannot tell whether a server listens there: remove the file or choose another path"
        )
    );
    fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
    assert_eq!(bound_by_nobody(&path), format!("error: unlink {path}: {denied}: {hint}"));

    fs::set_permissions(place.path(), Permissions::from_mode(0o1777)).unwrap();
    assert_eq!(
        bound_by_nobody(&path),
        format!(
            "error: unlink {path}: Operation not permitted (EPERM): \
             only its owner may remove it: run as root or choose another path"
        )
    );
}

#[test]
fn a_privileged_port_is_refused_with_a_hint() {
    let start = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    if !geteuid().is_root() || start.trim().parse::<u16>().unwrap() <= 81 {
        return;
    }
    assert_eq!(
        bound_by_nobody("127.0.0.1:81"),
        "error: bind 127.0.0.1:81: Permission denied (EACCES): \
         port 81 needs CAP_NET_BIND_SERVICE: run as root or choose a port from 1024"
    );
}

#[test]
fn a_socket_that_cannot_be_given_away_leaves_nothing_behind() {
    if !geteuid().is_root() {
        return;
    }
    let place = directory();
    fs::set_permissions(place.path(), Permissions::from_mode(0o777)).unwrap();
    let path = path_in(&place, "a.sock");
    assert_eq!(
        Running::start(binder(&path).env("AS", "65534").env("OWNER", "12345")).told(),
        format!(
            "error: chown {path} to 12345:65534: Operation not permitted (EPERM): \
             only root can give a socket away: run as root, or choose owner and group of this user"
        )
    );
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}

#[test]
fn ten_thousand_sockets_are_bound_and_go_without_a_trace() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let count = most.min(12_000).saturating_sub(2_000);
    let place = tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| directory());
    let socket = plain();
    // How long it takes is for `cargo bench --bench idle` to say.
    let listeners: Vec<Listener> = (0..count)
        .map(|index| bind(&path_in(&place, &format!("{index}.sock")).parse().unwrap(), &socket).unwrap())
        .collect();
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), count as usize);
    listeners.into_iter().for_each(|listener| listener.close_and_unlink().unwrap());
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}

// ---------------------------------------------------------------- TCP sockets of our own

#[test]
fn both_families_may_have_one_port() {
    let v4 = listener("127.0.0.1:0");
    let port = tcp_address(&v4).port();
    assert_ne!(port, 0);
    let v6 = listener("[::1]:0");
    let _client = TcpStream::connect(tcp_address(&v6)).unwrap();
    accept_tcp(&v6);
    assert!(nix::sys::socket::getsockopt(&v6.as_fd(), nix::sys::socket::sockopt::Ipv6V6Only).unwrap());
    assert_eq!(*v4.origin(), Origin::Own);
}

#[test]
fn a_port_in_use_is_one_line() {
    let taken = listener("127.0.0.1:0");
    let address = tcp_address(&taken);
    let line = format!(
        "{address}: Address already in use (EADDRINUSE): \
         another program listens there: stop it or choose another port"
    );
    assert_eq!(refusal(&address.to_string()), format!("bind {line}"));
}

#[test]
fn an_address_of_another_machine_is_one_line() {
    assert_eq!(
        refusal("192.0.2.1:9000"),
        "bind 192.0.2.1:9000: Cannot assign requested address (EADDRNOTAVAIL): \
         no interface of this machine has the address"
    );
}

#[test]
fn a_port_can_be_bound_again_at_once() {
    let first = listener("127.0.0.1:0");
    let address = tcp_address(&first);
    let client = TcpStream::connect(address).unwrap();
    // The server closes first, so that the port's side waits in TIME_WAIT.
    drop(accept_tcp(&first));
    drop(client);
    drop(first);
    listener(&address.to_string());
}

// ---------------------------------------------------------------- what a tenant does to its copy

/// One of each family.
fn both(place: &TempDir) -> [Listener; 2] {
    [listener(&path_in(place, "a.sock")), listener("127.0.0.1:0")]
}

#[test]
fn a_new_listener_is_blocking_and_close_on_exec() {
    for listener in both(&directory()) {
        assert!(!OFlag::from_bits_retain(flags(&listener, FcntlArg::F_GETFL)).contains(OFlag::O_NONBLOCK));
        assert_eq!(flags(&listener, FcntlArg::F_GETFD), libc::FD_CLOEXEC);
        assert_eq!(listener.health(), Health::Accepting);
        assert!(!listener.has_waiting());
    }
}

#[test]
fn o_nonblock_set_by_a_tenant_is_cleared() {
    for listener in both(&directory()) {
        tenant(&listener, "set O_NONBLOCK on 0");
        let is_set =
            || OFlag::from_bits_retain(flags(&listener, FcntlArg::F_GETFL)).contains(OFlag::O_NONBLOCK);
        assert!(is_set(), "the flag is shared");
        listener.make_blocking().unwrap();
        assert!(!is_set());
    }
}

#[test]
fn a_waiting_connection_is_seen_and_not_taken() {
    let place = directory();
    let [unix, tcp] = both(&place);
    let _client = UnixStream::connect(path_in(&place, "a.sock")).unwrap();
    assert!(unix.has_waiting() && unix.has_waiting());
    accept_unix(&unix);
    assert!(!unix.has_waiting());
    let _client = TcpStream::connect(tcp_address(&tcp)).unwrap();
    assert!(tcp.has_waiting());
    accept_tcp(&tcp);
    assert!(!tcp.has_waiting());
}

#[test]
fn a_unix_listener_shut_down_by_a_tenant_is_seen_and_replaced() {
    let place = directory();
    let path = path_in(&place, "a.sock");
    let mut listener = listener(&path);
    tenant(&listener, "shut 0 down");
    assert_eq!(listener.health(), Health::ShutDown);
    assert!(!listener.accepts() && !listener.has_waiting());
    assert!(UnixStream::connect(&path).is_err());

    listener.mend(&plain()).result.unwrap();
    assert!(listener.accepts());
    assert_eq!(bits(&path), 0o660);
    let _client = UnixStream::connect(&path).unwrap();
    accept_unix(&listener);
    listener.close_and_unlink().unwrap();
    assert!(!fs::exists(&path).unwrap());
}

#[test]
fn a_tcp_listener_shut_down_by_a_tenant_is_seen_and_listens_again() {
    // A port that the kernel chose would be given back at the shutdown.
    for address in ["127.0.0.1", "::1"].map(free_port) {
        let mut listener = listener(&address.to_string());
        let address = tcp_address(&listener);
        tenant(&listener, "shut 0 down");
        assert_eq!(listener.health(), Health::NotListening);
        assert!(!listener.accepts() && !listener.has_waiting());
        assert!(TcpStream::connect(address).is_err());

        listener.mend(&plain()).result.unwrap();
        assert!(listener.accepts());
        let _client = TcpStream::connect(address).unwrap();
        accept_tcp(&listener);
    }
}

#[test]
fn a_tcp_listener_disconnected_by_a_tenant_is_seen_and_listens_again() {
    let mut listener = listener(&free_port("127.0.0.1").to_string());
    let af_unspec = "connect(STDIN, pack('x16'))";
    tenant_in_perl(&listener, af_unspec);
    assert_eq!(listener.health(), Health::NotListening);
    listener.mend(&plain()).result.unwrap();
    let _client = TcpStream::connect(tcp_address(&listener)).unwrap();
    accept_tcp(&listener);
}

// ---------------------------------------------------------------- drain

#[test]
fn a_drained_unix_listener_answers_who_waits_and_nobody_else() {
    let place = directory();
    let path = path_in(&place, "a.sock");
    let mut listener = listener(&path);
    let mut waiting = UnixStream::connect(&path).unwrap();
    listener.stop_accepting_new().unwrap();
    assert!(UnixStream::connect(&path).is_err());
    accept_unix(&listener).write_all(b"answer").unwrap();
    let mut answer = String::new();
    waiting.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "answer");

    // The next howdah's socket is not ours.
    let _next = UnixListener::bind(&path).unwrap();
    listener.close_and_unlink().unwrap();
    assert!(fs::exists(&path).unwrap());
}

#[test]
fn a_drained_tcp_listener_answers_who_waits_and_nobody_else() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let mut listener = listener(address);
        let address = tcp_address(&listener);
        let mut waiting = TcpStream::connect(address).unwrap();
        listener.stop_accepting_new().unwrap();
        let refused = TcpStream::connect_timeout(&address, Duration::from_millis(300)).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::TimedOut);

        let mut accepted = accept_tcp(&listener);
        waiting.write_all(b"question").unwrap();
        waiting.shutdown(std::net::Shutdown::Write).unwrap();
        let mut question = String::new();
        accepted.read_to_string(&mut question).unwrap();
        accepted.write_all(question.as_bytes()).unwrap();
        drop(accepted);
        let mut answer = String::new();
        waiting.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "question");
    }
}

#[test]
fn a_client_that_was_dropped_reaches_the_next_listener() {
    let mut old = listener("127.0.0.1:0");
    let address = tcp_address(&old);
    old.stop_accepting_new().unwrap();
    std::thread::scope(|scope| {
        // Its first SYN is dropped; the kernel sends another after one second.
        let client = scope.spawn(move || TcpStream::connect_timeout(&address, PATIENCE));
        std::thread::sleep(Duration::from_millis(300));
        old.close_and_unlink().unwrap();
        let next = listener(&address.to_string());
        accept_tcp(&next);
        client.join().unwrap().unwrap();
    });
}

#[test]
fn a_handshake_that_a_drain_interrupts_is_finished_and_answered() {
    let mut listener = listener("127.0.0.1:0");
    // The connection is made by the client's first data and not before, so
    // that it surely comes after the filter and inherits it.
    let defer_accept = "setsockopt(STDIN, 6, 9, pack('i', 30))";
    tenant_in_perl(&listener, defer_accept);
    let mut client = TcpStream::connect(tcp_address(&listener)).unwrap();
    listener.stop_accepting_new().unwrap();
    assert!(!listener.has_waiting());
    client.write_all(b"question").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut question = String::new();
    accept_tcp(&listener).read_to_string(&mut question).unwrap();
    assert_eq!(question, "question");
}

// ---------------------------------------------------------------- a directory of a tenant's

#[test]
fn root_binds_nothing_below_a_directory_that_a_tenant_can_exchange() {
    let place = directory();
    for name in ["tenant", "tenant/run", "elsewhere"] {
        fs::create_dir(place.path().join(name)).unwrap();
    }
    std::os::unix::fs::lchown(place.path().join("tenant"), Some(33), Some(33)).unwrap();
    let path = path_in(&place, "tenant/run/a.sock");
    let said = refusal(&path);
    let words = format!("{} is uid 33's or open to others", place.path().join("tenant").display());
    assert!(said.starts_with(&format!("bind {path}: ")) && said.contains(&words), "{said}");
    // The control: a server that asks nothing is led elsewhere by who owns the directory.
    fs::remove_dir(place.path().join("tenant/run")).unwrap();
    symlink("../elsewhere", place.path().join("tenant/run")).unwrap();
    assert!(refusal(&path).contains("could lead root elsewhere"));
    assert!(!place.path().join("elsewhere/a.sock").exists());
    let _led = UnixListener::bind(&path).unwrap();
    assert!(place.path().join("elsewhere/a.sock").exists());
    // A socket in the tenant's own directory is nobody's way elsewhere.
    bind(&path_in(&place, "tenant/a.sock").parse().unwrap(), &plain()).unwrap();
}
