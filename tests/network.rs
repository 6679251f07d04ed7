//! `[network]`: what each mode reaches and what it does not. The control of every
//! attack is the same attack from a pool without that wall, in the same world.
#![allow(missing_docs)]

mod rig;

use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rig::held::Held;
use rig::templates::{keep, started_by, stocked};
use rig::world::{World, processes_named, wait_gone};
use rig::{Rig, TENANT, wait_for};

/// What a pool starts by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    Cold,
    Template,
}

impl Start {
    /// A rig whose pools start so.
    fn rig(self) -> Rig {
        let rig = Rig::new();
        keep(&rig, u32::from(self == Self::Template));
        rig
    }

    /// Waits until there is a template of each of `classes` classes, where pools start by one.
    fn prepare(self, rig: &Rig, classes: usize) {
        if self == Self::Template {
            stocked(rig, classes);
        }
    }

    /// Serves in `world`, and waits for the templates.
    fn serve(self, rig: &mut Rig, world: &World, classes: usize) {
        world.serve(rig);
        self.prepare(rig, classes);
    }

    /// That is what `pool` has started by.
    fn assert(self, rig: &Rig, pool: &str) {
        let by = if self == Self::Template { "template" } else { "cold launch" };
        assert_eq!(started_by(rig, pool), by, "{pool}: {}", rig.log());
    }
}

/// Tests of pools that are launched cold and of the same that start by a template.
macro_rules! by_both_ways {
    ($($name:ident)*) => {
        mod cold {
            $(#[test] fn $name() { super::$name(super::Start::Cold) })*
        }
        mod template {
            $(#[test] fn $name() { super::$name(super::Start::Template) })*
        }
    };
}

by_both_ways! {
    outbound_reaches_the_world_from_the_first_request_on
    outbound_reaches_nothing_of_the_host_nor_what_is_not_the_internet
    an_address_that_the_host_gets_later_is_out_of_reach_too
    nobody_comes_in_to_a_pool_with_outbound
    a_list_allows_what_it_names_and_nothing_else
    the_filter_and_the_routes_are_out_of_the_tenant_s_hands
    pasta_lives_and_dies_with_its_generation
    a_pool_whose_pasta_dies_says_so_and_starts_anew
    a_reload_gives_the_next_generation_its_own_rules
    the_next_howdah_finds_pasta_and_replaces_a_generation_that_has_lost_it
    without_what_it_needs_outbound_does_not_start
}

/// PHP: what a web server at an address and port says, or why it was not reached.
const GET: &str = "function get($address, $timeout = 3) {
    $s = @stream_socket_client(\"tcp://$address\", $code, $text, $timeout);
    if (!$s) return \"refused: $text\";
    stream_set_timeout($s, 3);
    fwrite($s, \"GET / HTTP/1.0\\r\\n\\r\\n\");
    $all = explode(\"\\r\\n\\r\\n\", stream_get_contents($s), 2);
    return $all[1] ?? 'connected';
}
";

fn get(rig: &Rig, pool: &str, address: &str) -> String {
    rig.php(pool, &format!("{GET} echo get('{address}');"))
}

fn assert_refused(rig: &Rig, pool: &str, address: &str) {
    let said = get(rig, pool, address);
    assert!(said.starts_with("refused: "), "{pool} reached {address}: {said}");
}

const OUTBOUND: &str = "[network]\nmode = \"outbound\"";
const HOST: &str = "[network]\nmode = \"host\"";

fn cgroup_of(rig: &Rig, pool: &str) -> PathBuf {
    PathBuf::from(rig.ps(pool)["cgroup"].as_str().expect("a generation runs in a cgroup"))
}

/// A pool `blog` with a way out, which has been there.
fn online(start: Start) -> (Rig, World) {
    let mut rig = start.rig();
    let world = World::new(&rig);
    rig.inside("blog", TENANT, OUTBOUND);
    start.serve(&mut rig, &world, 1);
    assert_eq!(get(&rig, "blog", "203.0.113.1:80"), "world");
    start.assert(&rig, "blog");
    (rig, world)
}

fn outbound_reaches_the_world_from_the_first_request_on(start: Start) {
    // The very first thing that the pool does.
    let (rig, _world) = online(start);
    assert_eq!(get(&rig, "blog", "[2001:db8:2::1]:80"), "world");
    let names = "echo gethostbyname('www.example.org'), ' ', dns_get_record('www.example.org', DNS_A)[0]['ip'] ?? 'none';";
    assert_eq!(rig.php("blog", names), "203.0.113.1 203.0.113.1");
    let resolver = rig.php("blog", "echo file_get_contents('/etc/resolv.conf');");
    assert_eq!(resolver, "nameserver 192.0.0.3\noptions timeout:2 attempts:1\n");
    assert_eq!(rig.php("blog", &format!("{GET} echo get('www.example.org:80');")), "world");
    let ps = rig.ps("blog");
    assert_eq!(ps["network"], "outbound: the Internet; DNS");
    let steps = ps["last_start_steps_ms"].to_string();
    let beside =
        if start == Start::Template { "network, beside the bind" } else { "network, beside the walls" };
    assert!(steps.contains(beside), "{steps}");
}

fn outbound_reaches_nothing_of_the_host_nor_what_is_not_the_internet(start: Start) {
    let mut rig = start.rig();
    let world = World::new(&rig);
    rig.inside("blog", TENANT, OUTBOUND);
    rig.inside("control", TENANT, HOST);
    rig.inside("neighbour", TENANT, "");
    let file = std::fs::read_to_string(rig.path("pools/neighbour.toml")).unwrap();
    let (_, rest) = file.split_once('\n').unwrap();
    let socket = rig.socket("neighbour");
    rig.write(
        "pools/neighbour.toml",
        &format!("listen = [{socket:?}, \"198.51.100.2:9001\", \"127.0.0.1:9002\"]\n{rest}"),
    );
    rig.let_listen_on_tcp("neighbour");
    start.serve(&mut rig, &world, 3);
    assert_eq!(get(&rig, "blog", "203.0.113.1:80"), "world");
    start.assert(&rig, "blog");
    for (address, says) in [
        ("127.0.0.1:8080", "loopback"),
        ("198.51.100.2:81", "host"),
        ("192.0.2.77:81", "host"),
        ("[2001:db8:1::2]:81", "host"),
        ("[::1]:81", "host"),
        ("169.254.169.254:80", "world"),
        ("10.1.1.1:80", "world"),
        ("198.51.100.2:9001", "connected"),
        ("127.0.0.1:9002", "connected"),
    ] {
        assert_eq!(get(&rig, "control", address), says, "the control does not reach {address}");
        assert_refused(&rig, "blog", address);
    }
    // What pasta itself answers at, and ways around an IPv4 rule.
    for address in [
        "192.0.0.1:81",
        "192.0.0.1:8080",
        "192.0.0.3:8080",
        "[fd68:6f77:6461:6800::1]:81",
        "[::ffff:198.51.100.2]:81",
        "0.0.0.0:8080",
    ] {
        assert_refused(&rig, "blog", address);
    }
    // UDP: the host's resolver is reached at its forwarded address and nowhere else.
    let ask = |pool: &str, server: &str| {
        let code = format!(
            "$s = stream_socket_client('udp://{server}:53'); stream_set_timeout($s, 3);
             @fwrite($s, \"\\x12\\x34\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\3www\\4test\\0\\0\\1\\0\\1\"); echo strlen(fread($s, 500));"
        );
        rig.php(pool, &code)
    };
    assert_eq!((ask("control", "127.0.0.53"), ask("blog", "192.0.0.3")), ("42".to_owned(), "42".to_owned()));
    assert_eq!((ask("blog", "127.0.0.53"), ask("blog", "192.0.0.1")), ("0".to_owned(), "0".to_owned()));
}

fn an_address_that_the_host_gets_later_is_out_of_reach_too(start: Start) {
    let mut rig = start.rig();
    let world = World::new(&rig);
    rig.inside("blog", TENANT, OUTBOUND);
    rig.inside("control", TENANT, HOST);
    start.serve(&mut rig, &world, 2);
    assert_eq!(get(&rig, "blog", "203.0.113.1:80"), "world");
    start.assert(&rig, "blog");
    world.run("ip addr add 192.0.2.99/32 dev lo");
    rig.wait_log("rules name the host's addresses anew");
    assert_eq!(get(&rig, "control", "192.0.2.99:81"), "host");
    assert_refused(&rig, "blog", "192.0.2.99:81");
    assert_eq!(get(&rig, "blog", "203.0.113.1:80"), "world");
    // And while there is no howdah.
    rig.crash();
    world.run("ip addr add 192.0.2.100/32 dev lo");
    assert_eq!(get(&rig, "blog", "192.0.2.100:81"), "host", "the control: rules that nobody renews");
    world.serve(&mut rig);
    rig.wait_log("rules name the host's addresses anew");
    assert_refused(&rig, "blog", "192.0.2.100:81");
    assert_eq!(rig.ps("blog")["generation"], 1);
}

fn nobody_comes_in_to_a_pool_with_outbound(start: Start) {
    let mut rig = start.rig();
    let world = World::new(&rig);
    for (pool, network) in [("blog", OUTBOUND), ("control", HOST)] {
        rig.inside(pool, TENANT, network);
    }
    start.serve(&mut rig, &world, 2);
    for (pool, port, wanted) in [("blog", 7001, false), ("control", 7002, true)] {
        let listen = format!(
            "$s = stream_socket_server('tcp://0.0.0.0:{port}'); echo $s ? 'y' : 'n'; flush(); fastcgi_finish_request(); sleep(12);"
        );
        assert_eq!(rig.php(pool, &listen), "y");
        start.assert(&rig, pool);
        let came = format!(
            "timeout 5 bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}' || timeout 5 bash -c 'exec 3<>/dev/tcp/198.51.100.2/{port}'"
        );
        let status = std::process::Command::new("nsenter")
            .args(&world.words()[1..])
            .args(["sh", "-c", &came])
            .stderr(std::process::Stdio::null())
            .status()
            .unwrap();
        assert_eq!(status.success(), wanted, "{pool}");
    }
}

fn a_list_allows_what_it_names_and_nothing_else(start: Start) {
    let mut rig = start.rig();
    let world = World::new(&rig);
    rig.inside("list", TENANT, "[network]\nmode = \"outbound\"\nallow = [\"203.0.113.1:80\", \"10.1.1.1\", \"[2001:db8:2::]/48:80\"]\ndns = false");
    rig.inside("port", TENANT, "[network]\nmode = \"outbound\"\nallow = [\"*:80\"]");
    rig.inside("control", TENANT, OUTBOUND);
    // "port" and "control" differ in what Landlock holds, "list" and "control" in the packet filter only.
    start.serve(&mut rig, &world, 2);
    for (address, list, port, control) in [
        ("203.0.113.1:80", true, true, true),
        ("203.0.113.1:8443", false, false, true),
        ("203.0.113.2:80", false, true, true),
        ("10.1.1.1:80", true, false, false),
        ("[2001:db8:2::1]:80", true, true, true),
        ("[2001:db8:2::1]:8443", false, false, true),
    ] {
        for (pool, wanted) in [("list", list), ("port", port), ("control", control)] {
            let said = get(&rig, pool, address);
            assert_eq!(said.starts_with("world"), wanted, "{pool} {address}: {said}");
            start.assert(&rig, pool);
            start.prepare(&rig, 2);
        }
    }
    let name = "echo gethostbyname('www.example.org');";
    assert_eq!(rig.php("port", name), "203.0.113.1");
    assert_eq!(rig.php("list", name), "www.example.org");
    assert_eq!(rig.ps("list")["network"], "outbound: 203.0.113.1:80, 10.1.1.1, [2001:db8:2::]/48:80; no DNS");
}

fn the_filter_and_the_routes_are_out_of_the_tenant_s_hands(start: Start) {
    let mut rig = start.rig();
    let world = World::new(&rig);
    // Without seccomp and with both capabilities: what is left is who owns the network.
    rig.inside_without("blog", "seccomp = \"off\"\nno_new_privs = false\ncapabilities = [\"CAP_NET_ADMIN\", \"CAP_NET_RAW\", \"CAP_SYS_ADMIN\"]", OUTBOUND);
    start.serve(&mut rig, &world, 1);
    assert_eq!(get(&rig, "blog", "203.0.113.1:80"), "world");
    start.assert(&rig, "blog");
    assert_refused(&rig, "blog", "169.254.169.254:80");
    for script in [
        "ip route add 169.254.169.254 via 192.0.0.1",
        "nft flush ruleset",
        "nft delete table inet howdah",
        "ip link set out0 down",
        "ip addr add 198.51.100.9/24 dev out0",
    ] {
        let said = rig.php(
            "blog",
            &format!("exec('{script} 2>&1', $out, $code); echo $code, ' ', implode(' ', $out);"),
        );
        assert!(!said.starts_with("0 ") && said.contains("not permitted"), "{script}: {said}");
    }
    let raw = "$c = FFI::cdef('int socket(int, int, int);'); echo $c->socket(2, 3, 1) < 0 ? 'no' : 'yes', $c->socket(17, 3, 768) < 0 ? 'no' : 'yes';";
    assert_eq!(rig.php("blog", raw), "nono");
    assert_refused(&rig, "blog", "169.254.169.254:80");
    // The control: who does own it does all of that, with the same programs.
    let net = rig.master("blog").to_string();
    let words = ["nsenter", "-t", &net, "-n", "sh", "-ec"];
    let control = "nft delete table inet howdah; ip route add 169.254.169.254 via 192.0.0.1";
    let status = std::process::Command::new(words[0]).args(&words[1..]).arg(control).status().unwrap();
    assert!(status.success());
    assert_eq!(get(&rig, "blog", "169.254.169.254:80"), "world");
}

fn pasta_lives_and_dies_with_its_generation(start: Start) {
    let mut rig = start.rig();
    let world = World::new(&rig);
    rig.inside("blog", TENANT, &format!("{OUTBOUND}\n[idle]\nstop = \"400ms\""));
    world.serve(&mut rig);
    for _ in 0..2 {
        start.prepare(&rig, 1);
        let held = Held::begin(&rig, "blog", "/do.php");
        assert_eq!(get(&rig, "blog", "203.0.113.1:80"), "world");
        start.assert(&rig, "blog");
        let cgroup = cgroup_of(&rig, "blog");
        let pastas = processes_named(&cgroup, "passt");
        assert_eq!(pastas.len(), 1, "{pastas:?}");
        let status = std::fs::read_to_string(format!("/proc/{}/status", pastas[0])).unwrap();
        assert!(status.contains("Uid:\t33\t33\t33\t33") && status.contains("Seccomp:\t2"), "{status}");
        held.answer();
        rig.wait_state("blog", "cold");
        wait_gone(pastas[0]);
        wait_for("the cgroup's end", Duration::from_secs(20), || (!cgroup.exists()).then_some(()));
    }
    assert_eq!(rig.end(), 0);
}

fn a_pool_whose_pasta_dies_says_so_and_starts_anew(start: Start) {
    let (mut rig, _world) = online(start);
    let pasta = processes_named(&cgroup_of(&rig, "blog"), "passt")[0];
    kill(Pid::from_raw(pasta), Signal::SIGKILL).unwrap();
    rig.wait_log("its network is lost: pasta:");
    wait_for("another generation", Duration::from_secs(20), || {
        (get(&rig, "blog", "203.0.113.1:80") == "world").then_some(())
    });
    assert_eq!(rig.ps("blog")["generation"], 2);
}

fn a_reload_gives_the_next_generation_its_own_rules(start: Start) {
    let (rig, _world) = online(start);
    assert_eq!(get(&rig, "blog", "203.0.113.2:80"), "world");
    let file = rig.path("pools/blog.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let listed = text.replace(OUTBOUND, &format!("{OUTBOUND}\nallow = [\"203.0.113.1\"]"));
    assert_ne!(text, listed);
    std::fs::write(&file, listed).unwrap();
    // The generation that runs has what it had until the next one comes.
    start.prepare(&rig, 1);
    rig.signal(Signal::SIGHUP);
    wait_for("the next generation", Duration::from_secs(20), || {
        (get(&rig, "blog", "203.0.113.2:80") != "world").then_some(())
    });
    assert_eq!(get(&rig, "blog", "203.0.113.1:80"), "world");
    assert_eq!(rig.ps("blog")["generation"], 2);
    start.assert(&rig, "blog");
}

fn the_next_howdah_finds_pasta_and_replaces_a_generation_that_has_lost_it(start: Start) {
    let (mut rig, world) = online(start);
    let pasta = processes_named(&cgroup_of(&rig, "blog"), "passt")[0];
    rig.crash();
    assert_eq!(get(&rig, "blog", "203.0.113.1:80"), "world");
    world.serve(&mut rig);
    rig.wait_log("adopted from an earlier howdah");
    assert_eq!(get(&rig, "blog", "203.0.113.1:80"), "world");
    assert_eq!(rig.ps("blog")["generation"], 1);
    assert_eq!(processes_named(&cgroup_of(&rig, "blog"), "passt"), [pasta]);
    rig.crash();
    kill(Pid::from_raw(pasta), Signal::SIGKILL).unwrap();
    world.serve(&mut rig);
    rig.wait_log("it drains");
    wait_for("another generation", Duration::from_secs(20), || {
        (get(&rig, "blog", "203.0.113.1:80") == "world").then_some(())
    });
    assert_eq!(rig.ps("blog")["generation"], 2);
    assert_eq!(rig.end(), 0);
}

fn without_what_it_needs_outbound_does_not_start(start: Start) {
    for (breaking, wanted) in [
        ("ip route del default; ip -6 route del default", "needs a default route, and this host has none"),
        ("mount --bind /dev/null \"$(readlink -f /usr/sbin/nft)\"", "needs nft, which is not in"),
        ("mount --bind /dev/null \"$(readlink -f /usr/bin/pasta)\"", "needs pasta, which is not in"),
        ("mount --bind \"$(readlink -f /bin/false)\" \"$(readlink -f /usr/sbin/nft)\"", "no network: "),
        ("mount --bind \"$(readlink -f /bin/false)\" \"$(readlink -f /usr/bin/pasta)\"", "no network: "),
        ("chmod 600 /dev/net/tun", "/dev/net/tun, which not every account may open: chmod 666 /dev/net/tun"),
    ] {
        let mut rig = start.rig();
        let world = World::new(&rig);
        rig.inside("blog", TENANT, OUTBOUND);
        world.run(breaking);
        start.serve(&mut rig, &world, 1);
        assert_eq!(rig.try_get("blog", "/do.php").unwrap().status, 503, "{breaking}");
        let line = rig.wait_log("[blog.1]");
        assert!(line.contains(wanted), "{breaking}: {line}");
        // What can be known beforehand, check knows.
        if wanted != "no network: " {
            let file = rig.path("pools/blog.toml");
            let words = [&world.words()[..], &[rig::HOWDAH, "check", file.to_str().unwrap()]].concat();
            let said = std::process::Command::new(words[0]).args(&words[1..]).output().unwrap();
            let errors = String::from_utf8_lossy(&said.stderr).into_owned();
            assert!(said.status.code() == Some(3) && errors.contains(wanted), "{breaking}: {errors}");
        }
    }
}

#[test]
fn a_profile_that_contradicts_the_mode_is_refused_in_one_line() {
    let mut rig = Rig::new();
    for (name, profile, network) in [
        ("sysctl", "[sysctl]\n\"net.ipv4.ip_unprivileged_port_start\" = \"80\"", OUTBOUND),
        ("shared", "share = [\"network\"]", OUTBOUND),
        ("ports", "landlock = false", "[network]\nmode = \"host\"\nconnect = [80]"),
    ] {
        rig.inside_without(name, profile, network);
    }
    rig.serve();
    for (name, wanted) in [
        ("sysctl", "the profile sysctl sets net.ipv4.ip_unprivileged_port_start in the pool's network"),
        ("shared", "the profile shared shares the host's"),
        ("ports", "held by Landlock, which the profile ports switches off"),
    ] {
        assert_eq!(rig.try_get(name, "/do.php").unwrap().status, 503, "{name}");
        let line = rig.wait_log(&format!("[{name}.1]"));
        assert!(line.contains(wanted), "{line}");
    }
}

#[test]
fn ports_of_the_host_s_network_are_held_by_landlock() {
    let mut rig = Rig::new();
    let world = World::new(&rig);
    rig.inside("blog", TENANT, "[network]\nmode = \"host\"\nconnect = [80]\nbind = []");
    rig.inside("control", TENANT, HOST);
    world.serve(&mut rig);
    assert_eq!(get(&rig, "blog", "203.0.113.1:80"), "world");
    assert_eq!(get(&rig, "control", "127.0.0.1:8080"), "loopback");
    assert_eq!(get(&rig, "blog", "127.0.0.1:8080"), "refused: Permission denied");
    let bind = "echo @stream_socket_server('tcp://127.0.0.1:0') ? 'y' : 'n';";
    assert_eq!((rig.php("blog", bind), rig.php("control", bind)), ("n".to_owned(), "y".to_owned()));
    // A resolver on the host's loopback is no TCP.
    assert_eq!(rig.php("blog", "echo gethostbyname('www.example.org');"), "203.0.113.1");
    assert_eq!(rig.ps("blog")["network"], "host; TCP connect 80; TCP bind nowhere");
}

#[test]
fn names_certificates_and_time_zones_work_without_a_mount() {
    let mut rig = Rig::new();
    let world = World::new(&rig);
    // A certificate authority of the test's own, among the host's.
    rig.shell(
        "mkdir certs tls; cd tls
         openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj '/CN=Test CA' 2>/dev/null
         openssl req -newkey rsa:2048 -nodes -keyout key.pem -out request.pem -subj '/CN=www.example.org' 2>/dev/null
         echo subjectAltName=DNS:www.example.org > names
         openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -extfile names -days 2 -out cert.pem 2>/dev/null
         cp ca.pem ../certs; openssl rehash ../certs; echo over TLS > page",
    );
    world.run(&format!("mount --bind {} /etc/ssl/certs", rig.path("certs").display()));
    rig.inside("blog", TENANT, OUTBOUND);
    rig.inside("offline", TENANT, "");
    let (key, cert) = (rig.path("tls/key.pem"), rig.path("tls/cert.pem"));
    let server = [
        "openssl",
        "s_server",
        "-accept",
        "443",
        "-WWW",
        "-quiet",
        "-key",
        key.to_str().unwrap(),
        "-cert",
        cert.to_str().unwrap(),
    ];
    let mut server = world.start_outside_in(&rig.path("tls"), &server, &rig.path("tls.log"));
    world.serve(&mut rig);
    let page = "echo @file_get_contents('https://www.example.org/page') ?: error_get_last()['message'];";
    let page = wait_for("the TLS server", Duration::from_secs(30), || {
        let said = rig.php("blog", page);
        (!said.contains("Connection refused")).then_some(said)
    });
    // Its certificate is the test's: without the authority among the host's it would not be believed.
    assert_eq!(page, "over TLS\n");
    let other = "echo @file_get_contents('https://203.0.113.1/page') ?: 'not believed';";
    assert_eq!(rig.php("blog", other), "not believed");
    let _ = server.kill();
    let _ = server.wait();
    for pool in ["blog", "offline"] {
        let zones = "$z = new DateTimeZone('Europe/Berlin'); echo (new DateTime('2024-07-01 12:00', $z))->getOffset(), ' ', \
             date_default_timezone_get(), ' ', trim(shell_exec('TZ=Asia/Tokyo date -d @0 +%H')), ' ', \
             getservbyname('https', 'tcp'), ' ', getprotobyname('tcp'), ' ', gethostbyname('localhost'), ' ', gethostbyname(gethostname());";
        assert_eq!(rig.php(pool, zones), "7200 UTC 09 443 6 127.0.0.1 127.0.0.1");
    }
    assert_eq!(rig.php("offline", "echo gethostbyname('www.example.org');"), "www.example.org");
}

#[test]
fn a_database_s_socket_is_there_unless_the_file_says_no() {
    let mut rig = Rig::new();
    let world = World::new(&rig);
    rig.inside("blog", TENANT, "");
    rig.inside("closed", TENANT, "[network]\nsockets = []");
    rig.shell("mkdir data && chown mysql data 2>/dev/null || chown backup data");
    let data = rig.path("data");
    let account = if nix::unistd::User::from_name("mysql").unwrap().is_some() { "mysql" } else { "backup" };
    world.run(&format!(
        "mkdir /run/mysqld; chown {account} /run/mysqld
         mariadb-install-db --no-defaults --user={account} --datadir={0} --auth-root-authentication-method=normal --skip-test-db >{0}.log 2>&1",
        data.display()
    ));
    world.serve(&mut rig);
    let database = || {
        let mut command = std::process::Command::new("nsenter");
        command
            .args(&world.words()[1..])
            .arg("mariadbd")
            .arg("--no-defaults")
            .arg(format!("--user={account}"));
        command
            .arg(format!("--datadir={}", data.display()))
            .args(["--socket=/run/mysqld/mysqld.sock", "--skip-networking"]);
        let log = std::fs::File::create(rig.path("mariadb.log")).unwrap();
        Database(command.stderr(log).stdin(std::process::Stdio::null()).spawn().unwrap())
    };
    let first = database();
    let ask = "try { $d = new PDO('mysql:host=localhost', 'root', ''); echo $d->query('select 6 * 7')->fetchColumn(); } catch (PDOException $e) { echo $e->getMessage(); }";
    let answered = |rig: &Rig| {
        wait_for("the database", Duration::from_secs(30), || (rig.php("blog", ask) == "42").then_some(()));
    };
    answered(&rig);
    assert!(rig.php("closed", ask).contains("No such file or directory"));
    // The socket is another one after a restart, in the same directory.
    drop(first);
    assert!(rig.php("blog", ask).contains("2002"));
    let _second = database();
    answered(&rig);
    assert_eq!(rig.ps("blog")["generation"], 1);
    // It is there to be spoken to, and not to be replaced.
    assert_eq!(
        rig.php(
            "blog",
            "echo @unlink('/run/mysqld/mysqld.sock') ? 'y' : 'n', @touch('/run/mysqld/x') ? 'y' : 'n';"
        ),
        "nn"
    );
}

/// A database that ends with the test.
struct Database(std::process::Child);

impl Drop for Database {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0.id() as i32), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}
