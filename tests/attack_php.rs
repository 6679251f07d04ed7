//! What a tenant's PHP can do to get out, by functions of PHP's own, through the
//! real php-fpm of a pool that `howdah serve` holds. Each attack prints GOT when
//! it succeeds. Each has its control: a pool whose profile leaves out what holds
//! it or, where no profile can, the host's own php outside any sandbox. All of it twice: in pools
//! that were launched cold, and in pools that were bound to a template.
#![allow(missing_docs)]

mod rig;

use std::collections::BTreeSet;
use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rig::templates::{keep, started_by, stocked};
use rig::{OTHER, Rig, TENANT};

/// Where an attack must succeed.
enum Control {
    /// In a pool with this profile.
    Profile(&'static str),
    /// On the host, as root.
    Host,
    /// On the host, as the pool's user.
    HostAsTenant,
}

use Control::{Host, HostAsTenant, Profile};

const NO_FILTER: &str = "seccomp = \"off\"";
const SHARED_NETWORK: &str = "share = [\"network\"]";
const SHARED_IPC: &str = "share = [\"ipc\"]";

/// The attack, its control, and PHP with `{words}` that [`Scene::fill`] knows.
const ATTACKS: [(&str, Control, &str); 29] = [
    ("a file of the host by its path", Host, "$got = file_get_contents('{dir}/secret/file') === 'secret';"),
    ("the accounts' passwords", Host, "$got = (bool) file_get_contents('/etc/shadow');"),
    (
        "a symlink to a file of the host",
        Host,
        "@unlink('/tmp/{name}'); symlink('{dir}/secret/file', '/tmp/{name}'); $got = file_get_contents('/tmp/{name}') === 'secret'; unlink('/tmp/{name}');",
    ),
    (
        "a file of the host by /proc/self/cwd",
        Host,
        "$got = file_get_contents('/proc/self/root{dir}/secret/file') === 'secret';",
    ),
    (
        "open_basedir is left by a program",
        Host,
        "ini_set('open_basedir', '/nowhere'); $got = shell_exec('cat {dir}/secret/file') === 'secret';",
    ),
    ("another's file in /dev/shm", Host, "$got = file_get_contents('/dev/shm/{name}') === 'secret';"),
    ("names of other accounts", Host, "$got = (bool) posix_getpwnam('sync');"),
    ("names of other tenants", Host, "$got = in_array('other.sock', scandir('{dir}'));"),
    (
        "a program written to /tmp",
        Host,
        "file_put_contents('/tmp/{name}.sh', \"#!/bin/sh\\necho yes\\n\"); chmod('/tmp/{name}.sh', 0755); $got = trim((string) shell_exec('/tmp/{name}.sh')) === 'yes'; unlink('/tmp/{name}.sh');",
    ),
    (
        "a library written to /tmp",
        Host,
        "copy('{libm}', '/tmp/{name}.so'); try { $got = FFI::cdef('double cos(double);', '/tmp/{name}.so')->cos(0.0) === 1.0; } finally { unlink('/tmp/{name}.so'); }",
    ),
    ("its own code, for writing", Host, "$got = (bool) fopen('{dir}/{site}/do.php', 'r+');"),
    ("a program of the system, for writing", Host, "$got = (bool) fopen('/usr/share/zoneinfo/UTC', 'r+');"),
    (
        "a set-user-id program",
        HostAsTenant,
        "$got = trim((string) shell_exec('{dir}/setuid/id -u')) === '0';",
    ),
    (
        "a secret in another's environment",
        Host,
        "$got = false; foreach (glob('/proc/[0-9]*/environ') as $file) $got = $got || str_contains((string) @file_get_contents($file), 'PHP_ATTACK_{name}=secret');",
    ),
    ("a process of the host, by a signal", Host, "$got = posix_kill({pid}, 0);"),
    (
        "howdah's program",
        Host,
        "$got = false; foreach (glob('/proc/[0-9]*/exe') as $file) $got = $got || @readlink($file) === '{howdah}';",
    ),
    ("core_pattern, for writing", Host, "$got = (bool) fopen('/proc/sys/kernel/core_pattern', 'r+');"),
    (
        "the kernel's symbols",
        Profile("proc = \"full\"\nmasked_paths = []"),
        "$got = strlen((string) fgets(fopen('/proc/kallsyms', 'r'))) > 0;",
    ),
    (
        "the host's name of its cgroup",
        Profile("share = [\"cgroup\"]"),
        "$got = str_contains(file_get_contents('/proc/self/cgroup'), 'howdah');",
    ),
    (
        "a TCP port of the host",
        Profile(SHARED_NETWORK),
        "$got = (bool) fsockopen('127.0.0.1', {tcp}, $e, $s, 2);",
    ),
    (
        "a UDP port of the host",
        Profile(SHARED_NETWORK),
        "$s = stream_socket_client('udp://127.0.0.1:{udp}'); fwrite($s, 'x'); stream_set_timeout($s, 1); $got = fread($s, 1) === 'x';",
    ),
    ("a unix socket of the host", Host, "$got = (bool) stream_socket_client('unix:///tmp/{name}.sock');"),
    (
        "an abstract socket of the host",
        Profile("share = [\"network\"]\nlandlock = false"),
        "$got = (bool) stream_socket_client(\"unix://\\0{name}\");",
    ),
    (
        "FastCGI to a neighbour's TCP socket",
        Profile(SHARED_NETWORK),
        "$s = fsockopen('127.0.0.1', {neighbour}, $e, $m, 2); fwrite($s, \"\\1\\x9\\0\\0\\0\\0\\0\\0\"); stream_set_timeout($s, 10); $got = fread($s, 2) === \"\\1\\xa\";",
    ),
    (
        "FastCGI to a neighbour's unix socket",
        Host,
        "$s = stream_socket_client('unix://{dir}/other.sock'); fwrite($s, \"\\1\\x9\\0\\0\\0\\0\\0\\0\"); stream_set_timeout($s, 10); $got = fread($s, 2) === \"\\1\\xa\";",
    ),
    (
        "System V shared memory of the host",
        Profile(SHARED_IPC),
        "$m = shmop_open({key}, 'a', 0, 0); $got = shmop_read($m, 0, 6) === 'secret';",
    ),
    ("a System V message queue of the host", Profile(SHARED_IPC), "$got = msg_queue_exists({key});"),
    (
        "a user namespace",
        Profile(NO_FILTER),
        "$got = FFI::cdef('int unshare(int);')->unshare(0x10000000) === 0;",
    ),
    (
        "a userfaultfd",
        Profile(NO_FILTER),
        "$got = FFI::cdef('long syscall(long number, ...);')->syscall({userfaultfd}, 1) >= 0;",
    ),
];

/// What is there to be got.
struct Scene {
    rig: Rig,
    name: String,
    words: Vec<(&'static str, String)>,
    canary: Child,
    _sockets: (UnixListener, UnixListener, TcpListener),
}

/// How many there were.
static SCENES: AtomicU32 = AtomicU32::new(0);

impl Scene {
    fn set() -> Self {
        let rig = Rig::new();
        let dir = rig.path("").display().to_string();
        let number = SCENES.fetch_add(1, Ordering::Relaxed);
        let name = format!("howdah-php-{}-{number}", std::process::id());
        rig.write("secret/file", "secret");
        fs::write(format!("/dev/shm/{name}"), "secret").unwrap();
        rig.shell("mkdir setuid && cp /usr/bin/id setuid/id && chmod 4755 setuid/id");
        let unix = UnixListener::bind(format!("/tmp/{name}.sock")).unwrap();
        let hidden = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = udp.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let mut bytes = [0; 16];
            while let Ok((length, from)) = udp.recv_from(&mut bytes) {
                let _ = udp.send_to(&bytes[..length], from);
            }
        });
        let canary = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "sleep", "600"])
            .env(format!("PHP_ATTACK_{name}"), "secret")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let free = rig::port::free_port("127.0.0.1").port();
        let words = vec![
            ("{dir}", dir.trim_end_matches('/').to_owned()),
            ("{name}", name.clone()),
            ("{libm}", libm()),
            ("{pid}", canary.id().to_string()),
            ("{howdah}", fs::canonicalize(rig::HOWDAH).unwrap().display().to_string()),
            ("{tcp}", tcp.local_addr().unwrap().port().to_string()),
            ("{udp}", port.to_string()),
            ("{neighbour}", free.to_string()),
            ("{userfaultfd}", nix::libc::SYS_userfaultfd.to_string()),
            ("{key}", (0x4000_0000 + number * 0x1000_0000 + std::process::id()).to_string()),
        ];
        let scene = Self { rig, name, words, canary, _sockets: (unix, hidden, tcp) };
        let made = scene.host(
            "$m = shmop_open({key}, 'c', 0666, 100); shmop_write($m, 'secret', 0); msg_get_queue({key}, 0666); $got = true;",
            0,
        );
        assert_eq!(made, "GOT");
        scene
    }

    /// The attack's PHP, which says GOT or why not.
    fn fill(&self, code: &str) -> String {
        let mut filled = code.to_owned();
        for (word, value) in &self.words {
            filled = filled.replace(word, value);
        }
        format!(
            "error_reporting(0); $got = false; try {{ {filled} }} catch (Throwable $e) {{ echo get_class($e), ': '; }} \
             echo $got ? 'GOT' : 'not: ' . (error_get_last()['message'] ?? '');"
        )
    }

    /// By the host's own php.
    fn host(&self, code: &str, uid: u32) -> String {
        let code = &code.replace("{site}", HELD[0]);
        let mut php = Command::new("php");
        php.args(["-d", "ffi.enable=1", "-r", &self.fill(code)]).stdin(Stdio::null());
        let output = php.uid(uid).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = self.canary.kill();
        let _ = self.canary.wait();
        let _ = self
            .host("shmop_delete(shmop_open({key}, 'w', 0, 0)); msg_remove_queue(msg_get_queue({key}));", 0);
        for path in [format!("/dev/shm/{}", self.name), format!("/tmp/{}.sock", self.name)] {
            let _ = fs::remove_file(path);
        }
    }
}

/// A library with a function that needs nothing.
fn libm() -> String {
    let found = fs::read_dir("/usr/lib").unwrap().flatten().map(|entry| entry.path().join("libm.so.6"));
    found.chain([PathBuf::from("/lib64/libm.so.6")]).find(|path| path.exists()).unwrap().display().to_string()
}

/// A pool of the profile with everything that the attacks need mounted: their own code, and the set-user-id program.
fn pool(scene: &Scene, name: &str, profile: &str) {
    let rig = &scene.rig;
    let mount = format!("[[mount]]\nsource = {:?}\n", rig.path("setuid"));
    rig.inside(name, TENANT, &mount);
    let file = rig.path(&format!("pools/{name}.toml"));
    let text = fs::read_to_string(&file).unwrap();
    fs::write(file, format!("profile = {profile:?}\n{text}")).unwrap();
}

/// The profiles in which everything is held.
const HELD: [&str; 3] = ["hosting", "strict", "ci"];

/// What PHP prints in a pool; an error where its connection is cut.
fn ask(scene: &Scene, pool: &str, code: &str) -> Result<String, String> {
    ask_once(&scene.rig, pool, code)
}

fn ask_once(rig: &Rig, pool: &str, code: &str) -> Result<String, String> {
    let response = rig.ask(pool, "/do.php", "POST", &[("Content-Type", "text/plain")], code.as_bytes())?;
    Ok(String::from_utf8_lossy(&response.body).into_owned())
}

/// How many classes the pools of the rig are of.
fn classes(rig: &Rig) -> usize {
    let pools = rig.path("pools");
    let told = rig.howdah(&["check", "--json", pools.to_str().unwrap()]);
    let told: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
    let classes = told["pools"].as_array().unwrap().iter().map(|pool| pool["class"].to_string());
    let known: BTreeSet<String> = classes.filter(|class| class != "\"\"").collect();
    known.len()
}

/// Has the pool start, by a template where there are any of its class.
fn start(rig: &Rig, pool: &str, templates: usize) {
    if rig.record(pool).last_start_by.is_empty() {
        if templates > 0 {
            stocked(rig, templates);
        }
        assert_eq!(ask_once(rig, pool, "echo 'here';").as_deref(), Ok("here"));
        let way = if templates > 0 { "template" } else { "cold launch" };
        assert_eq!(started_by(rig, pool), way, "{}", rig.log());
    }
}

#[test]
fn what_php_itself_can_try_is_held_and_each_attack_succeeds_without_its_wall() {
    attack(false);
}

#[test]
fn the_same_is_held_in_a_pool_that_a_template_has_become() {
    attack(true);
}

fn attack(by_template: bool) {
    let mut scene = Scene::set();
    for profile in HELD {
        pool(&scene, profile, profile);
    }
    for (number, (_, control, _)) in ATTACKS.iter().enumerate() {
        if let Profile(text) = control {
            // The same profile has the same name: templates are shared by it.
            let same = |attack: &(&str, Control, &str)| matches!(attack.1, Profile(other) if other == *text);
            let first = ATTACKS.iter().position(same).unwrap();
            let file = scene.rig.profile(&format!("open{first}"), text);
            pool(&scene, &format!("open{number}"), file.to_str().unwrap());
        }
    }
    scene.rig.site("other", "do.php", "<?php", OTHER);
    let neighbour = scene.words.iter().find(|(word, _)| *word == "{neighbour}").unwrap().1.clone();
    let file = scene.rig.pool_of("other", OTHER.0, "");
    let text = fs::read_to_string(&file).unwrap();
    let (listen, rest) = text.split_once('\n').unwrap();
    let path = listen.trim_start_matches("listen = ");
    fs::write(&file, format!("listen = [{path}, \"127.0.0.1:{neighbour}\"]\n{rest}")).unwrap();
    scene.rig.let_listen_on_tcp("other");
    let mut templates = 0;
    if by_template {
        keep(&scene.rig, 1);
        templates = classes(&scene.rig);
        assert!(templates > HELD.len(), "{templates} classes");
    }
    scene.rig.serve();
    HELD.iter().for_each(|profile| start(&scene.rig, profile, templates));
    // What is made in the host's IPC namespace outlives a sandbox: no template may have that.
    let templates_for = |profile: &str| if profile == SHARED_IPC { 0 } else { templates };
    let (mut wrong, mut killed) = (Vec::new(), Vec::new());
    for (number, (what, control, code)) in ATTACKS.iter().enumerate() {
        let open = match control {
            Profile(text) => {
                let pool = format!("open{number}");
                start(&scene.rig, &pool, templates_for(text));
                scene.rig.php(&pool, &scene.fill(code))
            }
            Host => scene.host(code, 0),
            HostAsTenant => scene.host(code, TENANT.1),
        };
        if open != "GOT" {
            wrong.push(format!("control of {what}: {open}"));
        }
        for profile in HELD {
            let told = match ask(&scene, profile, &scene.fill(code).replace("{site}", profile)) {
                Ok(told) => told,
                // A call that is dangerous ends the worker; the next one answers.
                Err(_) if profile != "hosting" => {
                    killed.push((profile, *what));
                    assert_eq!(ask(&scene, profile, "echo 'here';").as_deref(), Ok("here"), "after {what}");
                    continue;
                }
                Err(error) => error,
            };
            if told.contains("GOT") || !told.contains("not: ") {
                wrong.push(format!("{what}, {profile}: {told}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(killed, [("strict", "a userfaultfd"), ("ci", "a userfaultfd")]);
}
