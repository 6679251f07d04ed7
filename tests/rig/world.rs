//! A host and the world around it, each a network namespace of the test's own:
//!
//! ```text
//! world: 203.0.113.1 .2, 2001:db8:2::1, 10.1.1.1, 169.254.169.254
//!   |    198.51.100.1, 2001:db8:1::1
//!   |    198.51.100.2, 2001:db8:1::2
//! host:  127.0.0.1, 192.0.2.77, default routes to the world
//! ```
//! howdah's serve runs in the host; nothing of the machine's own network is touched.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

use super::{Rig, wait_for};

/// Both, alive until it is dropped.
pub struct World {
    host: Child,
    world: Child,
    pid: String,
}

impl World {
    /// Makes it, with a resolver on the host at 127.0.0.53 that says 203.0.113.1 to every
    /// question, and web servers that say where they stand.
    pub fn new(rig: &Rig) -> Self {
        let resolv = rig.write("host/resolv.conf", "nameserver 127.0.0.53\noptions timeout:2 attempts:1\n");
        let script = "ip link set lo up; mount -t tmpfs tmpfs /dev/net; mknod -m 666 /dev/net/tun c 10 200; \
             mount --bind \"$0\" /etc/resolv.conf; mount -t tmpfs -o mode=755 tmpfs /run; echo up; exec sleep 600";
        let host = held(&[
            "unshare",
            "-n",
            "-m",
            "--propagation",
            "private",
            "sh",
            "-ec",
            script,
            resolv.to_str().unwrap(),
        ]);
        let world = held(&["unshare", "-n", "sh", "-ec", "ip link set lo up; echo up; exec sleep 600"]);
        let pid = host.id().to_string();
        let all = Self { host, world, pid };
        let other = all.world.id().to_string();
        all.run(&format!(
            "ip link add eth0 type veth peer name eth0 netns {other}
             ip addr add 198.51.100.2/24 dev eth0; ip addr add 2001:db8:1::2/64 dev eth0 nodad
             ip addr add 192.0.2.77/32 dev lo; ip link set eth0 up"
        ));
        let addresses: String =
            ["203.0.113.1/32", "203.0.113.2/32", "10.1.1.1/32", "169.254.169.254/32", "2001:db8:2::1/128"]
                .iter()
                .map(|address| format!("ip addr add {address} dev lo\n"))
                .collect();
        shell(
            &["nsenter", "-t", &other, "-n"],
            &format!(
                "ip addr add 198.51.100.1/24 dev eth0; ip addr add 2001:db8:1::1/64 dev eth0 nodad; ip link set eth0 up\n{addresses}"
            ),
        );
        all.run("ip route add default via 198.51.100.1; ip -6 route add default via 2001:db8:1::1");
        // The kernel gives it when it has seen that the link is up, and rules name the host's addresses.
        wait_for("the host's link-local address", Duration::from_secs(20), || {
            let words = ["ip", "-6", "-o", "address", "show", "dev", "eth0", "scope", "link"];
            let told = Command::new("nsenter").args(&all.words()[1..]).args(words).output().unwrap();
            (!told.stdout.is_empty()).then_some(())
        });
        for (place, address, says) in [
            (&all.world, "[::]:80", "world"),
            (&all.world, "[::]:8443", "world, 8443"),
            (&all.host, "[::]:81", "host"),
            (&all.host, "127.0.0.1:8080", "loopback"),
        ] {
            web(inside(place.id(), move || TcpListener::bind(address).unwrap()), says);
        }
        resolver(inside(all.host.id(), || UdpSocket::bind("127.0.0.53:53").unwrap()));
        all
    }

    /// The words before a command that is to run on the host.
    pub fn words(&self) -> [&str; 6] {
        ["nsenter", "-t", &self.pid, "-n", "-m", "--"]
    }

    /// Runs a script of the shell on the host.
    pub fn run(&self, script: &str) {
        shell(&self.words(), script);
    }

    /// Starts a program in the world, in `directory`.
    pub fn start_outside_in(&self, directory: &Path, words: &[&str], log: &Path) -> Child {
        let log = File::create(log).unwrap();
        Command::new("nsenter")
            .args(["-t", &self.world.id().to_string(), "-n", "--"])
            .args(words)
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    /// Starts serve of `rig` on the host.
    pub fn serve(&self, rig: &mut Rig) {
        rig.serve_under(&self.words(), &[]);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for child in [&mut self.host, &mut self.world] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts a program and waits until it has said a line.
fn held(words: &[&str]) -> Child {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).args(words);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = [0; 3];
    child.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    child
}

fn shell(before: &[&str], script: &str) {
    let status = Command::new(before[0]).args(&before[1..]).args(["sh", "-ec", script]).status().unwrap();
    assert!(status.success(), "{script}");
}

/// What `make` gives in the network of the process `pid`: a socket stays where it was made.
pub fn inside<T: Send + 'static>(pid: u32, make: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(move || {
        let net = File::open(format!("/proc/{pid}/ns/net")).unwrap();
        setns(net, CloneFlags::CLONE_NEWNET).unwrap();
        make()
    });
    thread.join().unwrap()
}

/// Answers every request on `listener` with `says`, for as long as the test runs.
fn web(listener: TcpListener, says: &'static str) {
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut stream = stream;
                let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
                let _ = stream.read(&mut [0; 1024]);
                let _ = stream.write_all(format!("HTTP/1.0 200 OK\r\n\r\n{says}").as_bytes());
            });
        }
    });
}

/// Answers every question with 203.0.113.1 (RFC 1035).
fn resolver(socket: UdpSocket) {
    std::thread::spawn(move || {
        let mut bytes = [0; 1500];
        while let Ok((length, who)) = socket.recv_from(&mut bytes) {
            let question = &bytes[12..length];
            let Some(end) = question.iter().position(|byte| *byte == 0).map(|zero| zero + 5) else {
                continue;
            };
            let is_a = question[end - 4..end - 2] == [0, 1];
            let mut answer = bytes[..2].to_vec();
            answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
            answer.extend(&question[..end]);
            if is_a {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 203, 0, 113, 1]);
            }
            let _ = socket.send_to(&answer, who);
        }
    });
}

/// The pids of the processes in a cgroup whose program's name is `name`.
pub fn processes_named(cgroup: &Path, name: &str) -> Vec<i32> {
    let text = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let pids = text.lines().filter_map(|line| line.parse().ok());
    pids.filter(|pid: &i32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim().starts_with(name))
    })
    .collect()
}

/// Waits until a process is gone.
pub fn wait_gone(pid: i32) {
    wait_for("the end of a process", Duration::from_secs(20), || {
        (!Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    });
}
