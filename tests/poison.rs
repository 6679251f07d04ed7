//! What a tenant can do to the listening socket that it holds a copy of, and
//! what is left of it afterwards. Each deed has its control: the same socket in
//! a plain set-up, where nobody mends it.
#![allow(missing_docs)]

mod rig;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use howdah::config::pool::Socket;
use howdah::config::types::{Listen, Mode};
use howdah::fpm::client::exchange;
use howdah::pool::activation::{Harm, Listener, bind};
use rig::confined::Confined;
use rig::port::free_port;
use rig::{Rig, TENANT, wait_for};

const PATIENCE: Duration = Duration::from_secs(20);

// ---------------------------------------------------------------- the deeds

/// What the next client sees of a poisoned listener in a plain set-up.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Plain {
    /// connect(2): ECONNREFUSED.
    Refused,
    /// connect(2) waits for ever.
    Silence,
    /// The answer is cut off by a reset.
    Cut,
    /// The server does not get the request, or gets no connection.
    Deaf,
    /// Nothing that a client on the same machine would notice.
    Nothing,
}

/// One deed: a name, Perl that does it to STDIN, what it is called when it is seen, what it does in a plain set-up.
type Deed = (&'static str, &'static str, &'static [&'static str], Plain);

const DROP_ALL: &str = "my $c = pack('SCCL', 6, 0, 0, 0); setsockopt(STDIN, 1, 26, pack('Sx6P', 1, $c))";
const LOCKED: &str = "my $c = pack('SCCL', 6, 0, 0, 0); setsockopt(STDIN, 1, 26, pack('Sx6P', 1, $c)) \
     and setsockopt(STDIN, 1, 44, 1)";

/// For sockets of every family.
const ANY: [Deed; 13] = [
    ("shutdown SHUT_RD", "shutdown(STDIN, 0)", &["shutdown"], Plain::Refused),
    ("shutdown SHUT_RDWR", "shutdown(STDIN, 2)", &["shutdown"], Plain::Refused),
    ("shutdown SHUT_WR", "shutdown(STDIN, 1)", &[], Plain::Nothing),
    ("O_NONBLOCK", "fcntl(STDIN, F_SETFL, O_NONBLOCK)", &["O_NONBLOCK"], Plain::Deaf),
    ("SO_RCVTIMEO", "setsockopt(STDIN, 1, 20, pack('qq', 0, 1))", &["SO_RCVTIMEO"], Plain::Deaf),
    ("SO_LOCK_FILTER", "setsockopt(STDIN, 1, 44, 1)", &["SO_LOCK_FILTER"], Plain::Nothing),
    ("SO_SNDBUF", "setsockopt(STDIN, 1, 7, 1)", &["SO_SNDBUF"], Plain::Nothing),
    ("SO_RCVBUF", "setsockopt(STDIN, 1, 8, 1)", &["SO_RCVBUF"], Plain::Nothing),
    ("SO_PRIORITY", "setsockopt(STDIN, 1, 12, 6)", &["SO_PRIORITY"], Plain::Nothing),
    ("SO_PEEK_OFF", "setsockopt(STDIN, 1, 42, 1)", &["SO_PEEK_OFF"], Plain::Nothing),
    ("SO_TIMESTAMP", "setsockopt(STDIN, 1, 29, 1)", &["SO_TIMESTAMP"], Plain::Nothing),
    // Its signals find only processes of the same user, by a number of the tenant's own pid namespace.
    (
        "F_SETOWN and O_ASYNC",
        "fcntl(STDIN, 8, 0 + $$) and fcntl(STDIN, F_SETFL, 020000)",
        &["O_NONBLOCK"],
        Plain::Nothing,
    ),
    ("flock", "flock(STDIN, 2)", &[], Plain::Nothing),
];

const UNIX: [Deed; 4] = [
    ("listen with a backlog of 0", "listen(STDIN, 0)", &[], Plain::Nothing),
    ("SO_ATTACH_FILTER", DROP_ALL, &["SO_ATTACH_FILTER"], Plain::Nothing),
    ("SO_PASSCRED", "setsockopt(STDIN, 1, 16, 1)", &["SO_PASSCRED"], Plain::Nothing),
    ("a filter, locked", LOCKED, &["SO_LOCK_FILTER", "SO_ATTACH_FILTER"], Plain::Nothing),
];

/// A tenant of a kernel that lets nobody but root filter TCP gets EPERM for the filters.
const TCP: [Deed; 14] = [
    ("connect to AF_UNSPEC", "connect(STDIN, pack('x16'))", &["shutdown"], Plain::Refused),
    ("listen with a backlog of 0", "listen(STDIN, 0)", &["backlog"], Plain::Nothing),
    ("SO_ATTACH_FILTER", DROP_ALL, &["SO_ATTACH_FILTER"], Plain::Silence),
    ("a filter, locked", LOCKED, &["SO_LOCK_FILTER", "SO_ATTACH_FILTER"], Plain::Silence),
    ("SO_LINGER", "setsockopt(STDIN, 1, 13, pack('ii', 1, 0))", &["SO_LINGER"], Plain::Cut),
    ("SO_RCVLOWAT", "setsockopt(STDIN, 1, 18, 1000000)", &["SO_RCVLOWAT"], Plain::Deaf),
    ("SO_BINDTODEVICE", "setsockopt(STDIN, 1, 62, 99999)", &["SO_BINDTODEVICE"], Plain::Refused),
    ("SO_REUSEPORT", "setsockopt(STDIN, 1, 15, 1)", &["SO_REUSEPORT"], Plain::Nothing),
    ("SO_INCOMING_CPU", "setsockopt(STDIN, 1, 49, 7)", &["SO_INCOMING_CPU"], Plain::Nothing),
    ("TCP_MAXSEG", "setsockopt(STDIN, 6, 2, 88)", &["TCP_MAXSEG"], Plain::Nothing),
    ("TCP_FASTOPEN", "setsockopt(STDIN, 6, 23, 5)", &["TCP_FASTOPEN"], Plain::Nothing),
    ("TCP_WINDOW_CLAMP", "setsockopt(STDIN, 6, 10, 1)", &["TCP_WINDOW_CLAMP"], Plain::Nothing),
    // With bytes after it a connection would come at once: this one's client waits for a greeting.
    ("TCP_DEFER_ACCEPT", "setsockopt(STDIN, 6, 9, 60)", &["TCP_DEFER_ACCEPT"], Plain::Nothing),
    ("SO_DONTROUTE", "setsockopt(STDIN, 1, 5, 1)", &["SO_DONTROUTE"], Plain::Nothing),
];

const V4: [Deed; 4] = [
    ("IP_MINTTL", "setsockopt(STDIN, 0, 21, 255)", &["IP_MINTTL"], Plain::Silence),
    ("IP_TTL", "setsockopt(STDIN, 0, 2, 1)", &["IP_TTL"], Plain::Nothing),
    ("IP_OPTIONS", "setsockopt(STDIN, 0, 4, pack('C4', 1, 1, 1, 0))", &["IP_OPTIONS"], Plain::Nothing),
    (
        "TCP_MD5SIG",
        "setsockopt(STDIN, 6, 14, pack('SSC4x120CCSLa80', 2, 0, 127, 0, 0, 1, 0, 0, 4, 0, 'abcd'))",
        &["TCP_MD5SIG"],
        Plain::Silence,
    ),
];

const V6: [Deed; 4] = [
    ("IPV6_MINHOPCOUNT", "setsockopt(STDIN, 41, 73, 255)", &["IPV6_MINHOPCOUNT"], Plain::Silence),
    ("IPV6_UNICAST_HOPS", "setsockopt(STDIN, 41, 16, 1)", &["IPV6_UNICAST_HOPS"], Plain::Nothing),
    ("IPV6_TCLASS", "setsockopt(STDIN, 41, 67, 8)", &["IPV6_TCLASS"], Plain::Nothing),
    (
        "TCP_MD5SIG",
        "setsockopt(STDIN, 6, 14, pack('SSLx15CLx100CCSLa80', 10, 0, 0, 1, 0, 0, 0, 4, 0, 'abcd'))",
        &["TCP_MD5SIG"],
        Plain::Silence,
    ),
];

/// Does a deed as a process of the tenant's, without a capability; what the kernel said.
fn poison(socket: impl AsFd, deed: &str) -> Result<(), String> {
    let copy: OwnedFd = socket.as_fd().try_clone_to_owned().unwrap();
    let script = format!("use Fcntl; use Socket; (do {{ {deed} }}) ? print 'done' : print 'errno ', 0 + $!");
    let mut command = Command::new("perl");
    command.args(["-e", &script]).stdin(copy).uid(TENANT.1).gid(TENANT.2);
    let output = command.stderr(Stdio::null()).output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    if told == "done" { Ok(()) } else { Err(told) }
}

// ---------------------------------------------------------------- clients and servers

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

fn connect(address: &Listen) -> std::io::Result<Box<dyn Stream>> {
    let limit = Some(Duration::from_secs(4));
    Ok(match address {
        Listen::Unix(path) => {
            let stream = UnixStream::connect(path.as_path())?;
            stream.set_read_timeout(limit)?;
            Box::new(stream)
        }
        Listen::Tcp(address) => {
            let stream = TcpStream::connect_timeout(address, Duration::from_millis(400))?;
            stream.set_read_timeout(limit)?;
            Box::new(stream)
        }
    })
}

/// A server as php-fpm's worker is one: it blocks in accept and reads, answers
/// and closes. "deaf" if it gets no connection or no request.
fn serve_once(listener: &Listener) -> &'static str {
    use std::os::fd::AsRawFd;
    let accepted = match nix::sys::socket::accept(listener.as_fd().as_raw_fd()) {
        Ok(raw) => howdah::sys::owned(raw),
        Err(_) => return "deaf",
    };
    let mut stream = fs::File::from(accepted);
    let mut request = [0; 4];
    let answered = stream.read_exact(&mut request).and_then(|()| stream.write_all(&[b'y'; 300_000]));
    if answered.is_ok() { "answered" } else { "deaf" }
}

/// What a client sees that connects now, asks and reads its answer slowly.
fn visit(listener: &Listener) -> Plain {
    let address = listener.address().clone();
    std::thread::scope(|scope| {
        let client = match connect(&address) {
            Ok(client) => client,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => return Plain::Refused,
            Err(_) => return Plain::Silence,
        };
        let client = scope.spawn(move || {
            let mut client = client;
            // After a moment, as over a network: accept has to wait for nobody, but read has.
            std::thread::sleep(Duration::from_millis(20));
            let _ = client.write_all(b"ask!");
            std::thread::sleep(Duration::from_millis(100));
            let mut answer = Vec::new();
            let read = client.read_to_end(&mut answer);
            (read.is_ok(), answer.len())
        });
        let served = serve_once(listener);
        match client.join().unwrap() {
            (true, 300_000) => Plain::Nothing,
            (_, 0) => Plain::Deaf,
            _ if served == "deaf" => Plain::Deaf,
            _ => Plain::Cut,
        }
    })
}

/// Whether an idle worker's accept comes back with nothing to do, which makes php-fpm fork another without end.
fn idle_accept_returns(listener: &Listener) -> bool {
    use nix::sys::socket::{getsockopt, sockopt};
    use std::os::fd::AsRawFd;
    let flags = nix::fcntl::fcntl(listener.as_fd().as_raw_fd(), nix::fcntl::FcntlArg::F_GETFL).unwrap();
    let timeout = getsockopt(listener, sockopt::ReceiveTimeout).unwrap();
    // Tried, where it returns.
    let returns = flags & libc::O_NONBLOCK != 0 || timeout.tv_sec() != 0 || timeout.tv_usec() != 0;
    returns && nix::sys::socket::accept(listener.as_fd().as_raw_fd()) == Err(nix::errno::Errno::EAGAIN)
}

fn socket() -> Socket {
    Socket { owner: TENANT.1, group: TENANT.2, mode: Mode::new(0o666), backlog: 511 }
}

/// Every deed that is for this family.
fn deeds(family: &str) -> Vec<Deed> {
    let tcp: &[Deed] = if family == "unix" { &UNIX } else { &TCP };
    let own: &[Deed] = match family {
        "v4" => &V4,
        "v6" => &V6,
        _ => &[],
    };
    [&ANY[..], tcp, own].concat()
}

fn address_of(family: &str, place: &std::path::Path) -> Listen {
    let text = match family {
        "unix" => place.join("a.sock").display().to_string(),
        "v4" => free_port("127.0.0.1").to_string(),
        _ => free_port("::1").to_string(),
    };
    text.parse().unwrap()
}

fn each_deed(family: &str) {
    let place = tempfile::tempdir().unwrap();
    for (name, deed, seen, plain) in deeds(family) {
        let mut listener = bind(&address_of(family, place.path()), &socket()).unwrap();
        listener.remember();
        assert_eq!(listener.harms(), [], "{family}: of a listener that nobody has touched");
        match poison(&listener, deed) {
            Ok(()) => {}
            // Newer kernels keep filters on TCP for CAP_NET_ADMIN; others lack an option.
            Err(told) if deed.contains("1, 26") || name == "TCP_MD5SIG" => {
                assert!(told == "errno 1" || told == "errno 92", "{family} {name}: {told}");
                continue;
            }
            Err(told) => panic!("{family} {name}: {told}"),
        }
        // The control: what the next client of a plain set-up sees.
        if plain == Plain::Deaf && name != "SO_RCVLOWAT" {
            assert!(idle_accept_returns(&listener), "{family} {name}");
        } else {
            assert_eq!(visit(&listener), plain, "{family} {name}: without howdah");
        }
        let names: Vec<String> = listener.harms().iter().map(Harm::to_string).collect();
        assert!(seen.iter().all(|one| names.iter().any(|name| name == one)), "{family} {name}: {names:?}");
        assert_eq!(names.is_empty(), seen.is_empty(), "{family} {name}: {names:?}");
        let mended = listener.mend(&socket());
        mended.result.unwrap_or_else(|error| panic!("{family} {name}: {error}"));
        assert_eq!(listener.harms(), [], "{family} {name}: after it was mended");
        assert_eq!(visit(&listener), Plain::Nothing, "{family} {name}: after it was mended");
        assert!(!idle_accept_returns(&listener), "{family} {name}");
        listener.close_and_unlink().unwrap();
    }
}

#[test]
fn each_deed_on_a_unix_socket_is_seen_and_mended() {
    each_deed("unix");
}

#[test]
fn each_deed_on_an_ipv4_socket_is_seen_and_mended() {
    each_deed("v4");
}

#[test]
fn each_deed_on_an_ipv6_socket_is_seen_and_mended() {
    each_deed("v6");
}

// ---------------------------------------------------------------- in a whole serve

const ANSWER: &str = "hello from 33";

/// A site whose `poison.php` runs what it is told in Perl.
fn site(rig: &Rig) {
    rig.site("blog", "index.php", "<?php echo 'hello from ', posix_getuid();", TENANT);
    let script = "<?php file_put_contents('/tmp/deed.pl', file_get_contents('php://input'));\n\
        echo shell_exec('perl /tmp/deed.pl 2>&1');";
    rig.site("blog", "poison.php", script, TENANT);
}

/// A pool `blog` at `address` with a profile that is `hosting` but for `profile`.
fn pool_at(rig: &Rig, address: &Listen, profile: &str, idle: &str) {
    site(rig);
    // What is tried here is what becomes of a socket; what refuses it at the start is another test's.
    let on_tcp = if matches!(address, Listen::Tcp(_)) { "tcp_listener_held = false\n" } else { "" };
    let profile = rig.profile("own", &format!("{on_tcp}{profile}"));
    let listen = address.to_string();
    let mount = rig.path("blog");
    rig.write(
        "pools/blog.toml",
        &format!(
            "listen = {listen:?}\nuser = \"www-data\"\nprofile = {profile:?}\n\
             [[mount]]\nsource = {mount:?}\n[socket]\nmode = \"0666\"\n[idle]\nstop = {idle:?}\n"
        ),
    );
}

/// What the site answers over this address.
fn ask(rig: &Rig, address: &Listen, uri: &str, body: &[u8]) -> Result<String, String> {
    let request = rig.request("blog", uri, "POST", &[("Content-Type", "text/plain")], body);
    let told = |error: &dyn std::fmt::Display| error.to_string();
    let limit = Duration::from_secs(10);
    let response = match address {
        Listen::Unix(path) => {
            let stream = UnixStream::connect(path.as_path()).map_err(|error| told(&error))?;
            exchange(&stream, &request, limit)
        }
        Listen::Tcp(address) => {
            let stream = TcpStream::connect_timeout(address, Duration::from_secs(1));
            exchange(&stream.map_err(|error| told(&error))?, &request, limit)
        }
    };
    let response = response.map_err(|error| told(&error))?;
    Ok(String::from_utf8_lossy(&response.body).into_owned())
}

/// Perl that finds the listener among what it holds, takes it for STDIN, does each deed to it and tells "name: done" or "name: errno N".
fn program(deeds: &[Deed]) -> String {
    let each = deeds.iter().map(|(name, deed, ..)| {
        format!("print '{name}: ', (do {{ {deed} }}) ? 'done' : 'errno ' . (0 + $!), \"\\n\";\n")
    });
    let find = "for my $n (3..40) { open(my $s, '+<&=', $n) or next; \
        my $listens = getsockopt($s, 1, 30) or next; \
        if (unpack('i', $listens)) { open(STDIN, '+<&', $n) or die $!; last } }\n";
    format!("use Fcntl; use Socket; $| = 1;\n{find}{}", each.collect::<String>())
}

/// Does one deed inside, waits for the generation's end, and asks again.
fn poison_inside(rig: &Rig, address: &Listen, deed: Deed) -> String {
    rig.wait_state("blog", "cold");
    let generation = rig.record("blog").generation;
    // A deed may cost its own request the answer.
    let told = ask(rig, address, "/poison.php", program(&[deed]).as_bytes());
    wait_for("the generation's end", PATIENCE, || {
        let now = rig.record("blog");
        (now.state == "cold" && now.generation > generation).then_some(())
    });
    let answer = wait_for(deed.0, PATIENCE, || ask(rig, address, "/index.php", b"").ok());
    assert_eq!(answer, ANSWER, "after {}:\n{}", deed.0, rig.log());
    told.unwrap_or_default()
}

fn named(family: &str, names: &[&str]) -> Vec<Deed> {
    names.iter().map(|name| *deeds(family).iter().find(|deed| deed.0 == *name).expect(name)).collect()
}

fn without_the_filter(family: &str, names: &[&str]) {
    let mut rig = Rig::new();
    let address = address_of(family, &rig.path(""));
    pool_at(&rig, &address, "seccomp = \"off\"\n", "100ms");
    rig.serve();
    for deed in named(family, names) {
        let before = rig.log().matches("from inside the pool, and repaired").count();
        let told = poison_inside(&rig, &address, deed);
        // Newer kernels keep filters on TCP for CAP_NET_ADMIN.
        if told.contains("errno 1\n") && deed.1.contains("1, 26") && family != "unix" {
            continue;
        }
        assert!(!told.contains("errno"), "{told}");
        let log = wait_for("the line", PATIENCE, || {
            (rig.log().matches("from inside the pool, and repaired").count() > before).then(|| rig.log())
        });
        let line = log.lines().rfind(|line| line.contains("from inside the pool, and repaired")).unwrap();
        let word = if deed.2 == ["shutdown"] { "was shut down" } else { deed.2[0] };
        assert!(line.contains(word) && line.contains(&address.to_string()), "{}: {line}", deed.0);
    }
    assert_eq!(rig.end(), 0);
}

#[test]
fn without_the_filter_a_unix_socket_is_repaired_after_each_deed() {
    without_the_filter(
        "unix",
        &[
            "shutdown SHUT_RD",
            "shutdown SHUT_RDWR",
            "SO_RCVTIMEO",
            "SO_ATTACH_FILTER",
            "a filter, locked",
            "O_NONBLOCK",
        ],
    );
}

#[test]
fn without_the_filter_an_ipv4_socket_is_repaired_after_each_deed() {
    without_the_filter(
        "v4",
        &[
            "shutdown SHUT_RD",
            "connect to AF_UNSPEC",
            "SO_RCVTIMEO",
            "SO_LINGER",
            "SO_RCVLOWAT",
            "SO_BINDTODEVICE",
            "IP_MINTTL",
            "TCP_MD5SIG",
            "SO_LOCK_FILTER",
            "listen with a backlog of 0",
        ],
    );
}

#[test]
fn without_the_filter_an_ipv6_socket_is_repaired_after_each_deed() {
    without_the_filter(
        "v6",
        &["shutdown SHUT_RDWR", "connect to AF_UNSPEC", "SO_ATTACH_FILTER", "IPV6_MINHOPCOUNT", "TCP_MD5SIG"],
    );
}

/// What the filter refuses; the rest is allowed, because ordinary programs need it on other sockets.
const REFUSED: [&str; 16] = [
    "shutdown SHUT_RD",
    "shutdown SHUT_RDWR",
    "SO_LOCK_FILTER",
    "SO_ATTACH_FILTER",
    "a filter, locked",
    "SO_PEEK_OFF",
    "SO_TIMESTAMP",
    "SO_BINDTODEVICE",
    "SO_INCOMING_CPU",
    "TCP_FASTOPEN",
    "TCP_WINDOW_CLAMP",
    "TCP_DEFER_ACCEPT",
    "IP_MINTTL",
    "IP_OPTIONS",
    "IPV6_MINHOPCOUNT",
    "TCP_MD5SIG",
];

fn with_the_filter(family: &str) {
    let mut rig = Rig::new();
    let address = address_of(family, &rig.path(""));
    pool_at(&rig, &address, "", "100ms");
    rig.serve();
    // What kills it at once comes last.
    let mut all = deeds(family);
    all.sort_by_key(|deed| deed.0 == "connect to AF_UNSPEC");
    // Two requests: O_NONBLOCK and the like cost the worker its answers.
    let told = all.iter().map(|deed| {
        let told = wait_for(deed.0, PATIENCE, || {
            ask(&rig, &address, "/poison.php", program(&[*deed]).as_bytes())
                .ok()
                .filter(|told| !told.is_empty())
                .or_else(|| matches!(deed.3, Plain::Deaf | Plain::Cut | Plain::Refused).then(String::new))
        });
        (deed.0, told)
    });
    for (name, told) in told.collect::<Vec<_>>() {
        let refused = told.contains("errno ");
        // Nothing of a pool that listens on TCP may listen: its sockets are the host's.
        let expected = REFUSED.contains(&name) || (family != "unix" && name == "listen with a backlog of 0");
        assert!(expected == refused || told.is_empty(), "{family}: {told}");
    }
    rig.wait_state("blog", "cold");
    let answer = wait_for("an answer", PATIENCE, || ask(&rig, &address, "/index.php", b"").ok());
    assert_eq!(answer, ANSWER, "{}", rig.log());
    let shut: Vec<String> =
        rig.log().lines().filter(|line| line.contains("was shut down")).map(str::to_owned).collect();
    assert_eq!(shut.is_empty(), family == "unix", "{shut:?}");
    assert_eq!(rig.end(), 0);
}

#[test]
fn the_filter_refuses_what_would_kill_a_unix_socket() {
    with_the_filter("unix");
}

#[test]
fn the_filter_refuses_what_would_kill_an_ipv4_socket_but_for_af_unspec_which_is_repaired() {
    with_the_filter("v4");
}

#[test]
fn the_filter_refuses_what_would_kill_an_ipv6_socket_but_for_af_unspec_which_is_repaired() {
    with_the_filter("v6");
}

// ---------------------------------------------------------------- sockets that systemd passed

/// A serve that gets the socket at `address` as systemd would pass it, and the messages it sends to the manager.
fn passed(rig: Rig, address: &Listen, seccomp: &str) -> (Rig, UnixDatagram) {
    let socket: OwnedFd = match address {
        Listen::Unix(path) => {
            let socket = UnixListener::bind(path.as_path()).unwrap();
            fs::set_permissions(path.as_path(), fs::Permissions::from_mode(0o666)).unwrap();
            socket.into()
        }
        Listen::Tcp(address) => TcpListener::bind(address).unwrap().into(),
    };
    pool_at(&rig, address, seccomp, "100ms");
    let manager = UnixDatagram::bind(rig.path("notify")).unwrap();
    manager.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut rig = rig.passing(socket, "blog");
    let place = rig.path("notify");
    rig.serve_under(&[], &[("NOTIFY_SOCKET", place.to_str().unwrap())]);
    (rig, manager)
}

/// The last STATUS= that the manager was told.
fn status(manager: &UnixDatagram) -> String {
    let mut last = String::new();
    let mut bytes = [0; 4096];
    while let Ok(length) = manager.recv(&mut bytes) {
        let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
        last = text.lines().find_map(|line| line.strip_prefix("STATUS=")).map_or(last, str::to_owned);
    }
    last
}

#[test]
fn systemd_s_socket_is_put_right_where_that_can_be_done() {
    for (family, names) in [
        ("unix", &["SO_RCVTIMEO", "SO_ATTACH_FILTER", "SO_SNDBUF", "O_NONBLOCK"][..]),
        (
            "v4",
            &["shutdown SHUT_RDWR", "connect to AF_UNSPEC", "SO_LINGER", "IP_MINTTL", "SO_BINDTODEVICE"][..],
        ),
    ] {
        let rig = Rig::new();
        let address = address_of(family, &rig.path(""));
        let (mut rig, manager) = passed(rig, &address, "seccomp = \"off\"\n");
        for deed in named(family, names) {
            let told = poison_inside(&rig, &address, deed);
            assert!(!told.contains("errno"), "{told}");
        }
        let repaired = rig.log().matches("and repaired").count();
        assert!(repaired >= names.len(), "{}", rig.log());
        assert_eq!(status(&manager), "1 pool listens");
        assert_eq!(rig.end(), 0);
    }
}

#[test]
fn systemd_s_socket_that_cannot_be_put_right_is_told_with_what_to_do_and_in_the_status() {
    for (family, name, word) in [
        ("unix", "shutdown SHUT_RD", "shut it down for good"),
        ("unix", "SO_LOCK_FILTER", "changed it for good (SO_LOCK_FILTER)"),
        ("v4", "TCP_MD5SIG", "changed it for good (TCP_MD5SIG)"),
    ] {
        let rig = Rig::new();
        let address = address_of(family, &rig.path(""));
        let (mut rig, manager) = passed(rig, &address, "seccomp = \"off\"\n");
        let _ = ask(&rig, &address, "/poison.php", program(&named(family, &[name])).as_bytes());
        let line = rig.wait_log("for good");
        assert!(line.contains(word) && line.contains("systemctl restart blog.socket"), "{line}");
        let told =
            wait_for("the status", PATIENCE, || Some(status(&manager)).filter(|told| !told.is_empty()));
        assert!(told.starts_with("pool blog: ") && told.contains("systemctl restart blog.socket"), "{told}");
        // Told once, whatever comes after.
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(rig.log().matches("for good").count(), 1, "{}", rig.log());
        let error = rig.ps("blog")["last_error"].as_str().unwrap_or_default().to_owned();
        assert!(error.contains("for good"), "{error}");
        assert_eq!(rig.end(), 0);
    }
}

// ---------------------------------------------------------------- the set-up that everybody copies

#[test]
fn a_plain_socket_activated_php_fpm_loses_its_socket_for_ever() {
    let binary = fs::read_dir("/usr/sbin").unwrap().flatten().map(|entry| entry.path());
    let binary = binary.filter(|path| path.to_string_lossy().contains("/php-fpm")).min().unwrap();
    for (family, name) in
        [("unix", "shutdown SHUT_RD"), ("v4", "connect to AF_UNSPEC"), ("v6", "shutdown SHUT_RDWR")]
    {
        let rig = Rig::new();
        let address = address_of(family, &rig.path(""));
        site(&rig);
        let socket: OwnedFd = match &address {
            Listen::Unix(path) => UnixListener::bind(path.as_path()).unwrap().into(),
            Listen::Tcp(address) => TcpListener::bind(address).unwrap().into(),
        };
        let key = rig.path("none.sock").display().to_string();
        let conf = rig.write(
            "fpm.conf",
            &format!(
                "[global]\nerror_log = /dev/null\n[www]\nlisten = {key}\nuser = www-data\ngroup = www-data\n\
                      pm = static\npm.max_children = 1\n"
            ),
        );
        let mut command = Command::new("sh");
        command.args(["-c", "exec 3<&0 </dev/null; exec \"$@\"", "sh"]);
        command.arg(&binary).arg("-F").arg("-y").arg(conf).env("FPM_SOCKETS", format!("{key}=3"));
        let mut fpm = Confined::start(&command, |command| {
            command.stdin(socket.try_clone().unwrap()).stdout(Stdio::null()).stderr(Stdio::null());
        });
        let answer = wait_for("php-fpm", PATIENCE, || ask(&rig, &address, "/index.php", b"").ok());
        let _ = ask(&rig, &address, "/poison.php", program(&named(family, &[name])).as_bytes());
        fpm.signal(nix::sys::signal::Signal::SIGTERM);
        assert!(fpm.ends_within(PATIENCE), "php-fpm minds no SIGTERM");
        assert_eq!(answer, ANSWER);
        // The socket's keeper still has its copy, and nobody can connect.
        let after = connect(&address).err().map(|error| error.kind());
        assert_eq!(after, Some(std::io::ErrorKind::ConnectionRefused), "{family} {name}");
        drop(socket);
    }
}

// ---------------------------------------------------------------- what a TCP listener is besides

/// A TCP socket belongs to the network namespace in which it was made, whoever holds it:
/// disconnected, it can be used for anything there. One way of doing so: a name, and Perl
/// that does it to STDIN, where `$unspec` and `$there` are addresses.
type Way = (&'static str, &'static str);

const CONNECT: Way =
    ("connect", "connect(STDIN, $unspec) and connect(STDIN, $there) and syswrite(STDIN, 'from inside')");
/// MSG_FASTOPEN: a connect in sendto(2), at which no security module looks.
const FAST_OPEN: Way =
    ("fast open", "connect(STDIN, $unspec) and send(STDIN, 'from inside', 0x20000000, $there)");
/// An accepted connection has no port of its own any more, and may take another.
const BIND: Way = (
    "bind",
    "connect(STDIN, $unspec) and setsockopt(STDIN, 1, 2, 1) and bind(STDIN, $there) and listen(STDIN, 5) and sleep(1)",
);

/// Without a port: the kernel chooses one, and no security module looks.
const LISTEN: Way = ("listen", "connect(STDIN, $unspec) and listen(STDIN, 5) and sleep(1)");

/// Perl that does it with the listener, or with the connection that it was asked by.
fn way_out(family: &str, way: Way, accepted: bool, port: u16) -> String {
    let there = match family {
        "v4" => format!("sockaddr_in({port}, inet_aton('127.0.0.1'))"),
        _ => format!("Socket::pack_sockaddr_in6({port}, Socket::inet_pton(AF_INET6, '::1'))"),
    };
    // Of the listener howdah may be the faster one: it listens again at once.
    let tries = if accepted { 1 } else { 50 };
    let deed = format!(
        "my $unspec = pack('x16'); my $there = {there}; my $done; for (1..{tries}) {{ ($done = ({})) and last }} $done",
        way.1
    );
    let deed = program(&[(way.0, deed.leak(), &[], Plain::Nothing)]);
    if !accepted {
        return deed;
    }
    let find = "use Socket; for my $n (3..40) { open(my $s, '+<&=', $n) or next; \
        my $peer = getpeername($s) or next; \
        if (unpack('S', $peer) != 1) { open(STDIN, '+<&', $n) or die $!; last } }\n";
    let (_, deed) = deed.split_once("last } }\n").unwrap();
    format!("{find}$| = 1;\n{deed}")
}

/// Sends a tenant by one of its sockets to a server of the host's, or makes one there; whether it arrived.
fn gets_out(rig: &Rig, family: &str, address: &Listen, way: Way, accepted: bool) -> bool {
    let host = if family == "v4" { "127.0.0.1" } else { "::1" };
    let secret = TcpListener::bind((host, 0)).unwrap();
    secret.set_nonblocking(true).unwrap();
    let port = if way == BIND { free_port(host).port() } else { secret.local_addr().unwrap().port() };
    (0..5).any(|_| {
        let script = way_out(family, way, accepted, port);
        let asked = std::thread::scope(|scope| {
            let asked = scope.spawn(|| ask(rig, address, "/poison.php", script.as_bytes()));
            while !asked.is_finished() {
                let there = if way == LISTEN {
                    tenant_listens(family)
                } else if way == BIND {
                    TcpStream::connect((host, port)).is_ok()
                } else {
                    secret.accept().is_ok()
                };
                if there {
                    return true;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            let told = asked.join().unwrap();
            // Whatever became of it, it was tried.
            let tried = told.as_ref().is_ok_and(|told| told.contains(way.0));
            assert!(accepted || told.is_err() || tried, "{}: {told:?}", way.0);
            false
        });
        asked || secret.accept().is_ok()
    })
}

/// Whether a socket of the tenant's listens in the host's network (proc_net(5): state 0A, its uid).
fn tenant_listens(family: &str) -> bool {
    let table = fs::read_to_string(if family == "v4" { "/proc/net/tcp" } else { "/proc/net/tcp6" }).unwrap();
    let uid = TENANT.1.to_string();
    table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .any(|field| field.get(3) == Some(&"0A") && field.get(7) == Some(&uid.as_str()))
}

/// The sockets that a tenant of a TCP pool holds, and what can be done with each.
const WAYS: [(Way, bool); 6] =
    [(CONNECT, false), (FAST_OPEN, false), (CONNECT, true), (FAST_OPEN, true), (BIND, true), (LISTEN, true)];

/// A pool at an address of its own, that has answered.
fn tcp_pool(family: &str, profile: &str) -> (Rig, Listen) {
    let mut rig = Rig::new();
    let address = address_of(family, &rig.path(""));
    pool_at(&rig, &address, profile, "never");
    rig.serve();
    wait_for("an answer", PATIENCE, || ask(&rig, &address, "/index.php", b"").ok());
    (rig, address)
}

/// Whoever looks for a socket that listens holds it until nothing of what it started is left.
static LISTENING: Mutex<()> = Mutex::new(());

/// Which ways are open to a pool with this profile.
fn open_ways(family: &str, profile: &str) -> Vec<(&'static str, bool)> {
    let open = WAYS.iter().filter(|(way, accepted)| {
        // Any socket of the tenant's that listens is one: no other test may have him make one now.
        let listens = [BIND, LISTEN].contains(way);
        let _alone = listens.then(|| LISTENING.lock().unwrap_or_else(PoisonError::into_inner));
        // Each time another, for a generation that does such things twice is sent away.
        let (mut rig, address) = tcp_pool(family, profile);
        let open = gets_out(&rig, family, &address, *way, *accepted);
        assert_eq!(rig.end(), 0);
        open
    });
    open.map(|(way, accepted)| (way.0, *accepted)).collect()
}

#[test]
fn a_listener_that_was_connected_to_somewhere_listens_again() {
    let (mut rig, address) = tcp_pool("v4", "landlock = false\n");
    assert!(gets_out(&rig, "v4", &address, CONNECT, false), "this is what a tenant could do");
    let answer =
        wait_for("an answer", Duration::from_secs(60), || ask(&rig, &address, "/index.php", b"").ok());
    assert_eq!(answer, ANSWER);
    assert_eq!(rig.end(), 0);
}

fn no_way_in(family: &str) {
    // The controls: nothing in the way, and one wall of the two.
    let every: Vec<_> = WAYS.iter().map(|(way, accepted)| (way.0, *accepted)).collect();
    assert_eq!(open_ways(family, "landlock = false\nseccomp = \"off\"\n"), every);
    let without_landlock = open_ways(family, "landlock = false\n");
    assert_eq!(without_landlock, [("connect", false), ("connect", true)]);
    if howdah::sandbox::landlock::kernel_abi() < 4 {
        return;
    }
    let without_seccomp = open_ways(family, "seccomp = \"off\"\n");
    assert!(without_seccomp.contains(&("listen", true)), "{without_seccomp:?}");
    // Newer kernels may ask Landlock about Fast Open.
    assert!(
        without_seccomp.iter().all(|(way, _)| ["fast open", "listen"].contains(way)),
        "{without_seccomp:?}"
    );
    assert_eq!(open_ways(family, ""), []);
    assert_eq!(open_ways(family, "base = \"compat\"\n"), []);
}

#[test]
fn a_tcp_listener_is_no_way_into_the_host_s_network() {
    no_way_in("v4");
}

#[test]
fn an_ipv6_listener_is_no_way_into_the_host_s_network() {
    no_way_in("v6");
}

/// Landlock does not see these; who brings a filter of his own need not think of them.
#[test]
fn a_filter_of_one_s_own_that_lets_everything_through_is_no_way_in_either() {
    if howdah::sandbox::landlock::kernel_abi() < 4 {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let filter = place.path().join("all.json");
    fs::write(&filter, "{\"defaultAction\": \"SCMP_ACT_ALLOW\"}").unwrap();
    assert_eq!(open_ways("v4", &format!("seccomp = {filter:?}\n")), []);
}
