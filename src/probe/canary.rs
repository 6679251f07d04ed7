//! What the attacks look for: on the host, or in a neighbouring sandbox. Made
//! here and not in howdah, so that it goes away however howdah ends: a canary
//! lives as long as its standard input, a neighbour as long as its log has a reader.

use std::fs::{self, Permissions};
use std::io;
use std::net::{Ipv6Addr, TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{SocketAddr, UnixListener};

use crate::network::{GET_VALUES, GET_VALUES_RESULT, towards_metadata};
use crate::numbers as nr;
use crate::raw::{at, at_mut, c_string, call, text};
use crate::run::{apart, print};
use crate::world::{World, secret};
use crate::{ipc, kernel};

/// A neighbour's key is gone by then, whatever happens.
const KEY_SECONDS: u64 = 60;

/// Makes everything, says what it is, and holds it until the end.
pub(crate) fn hold(world: &World, is_neighbour: bool) {
    // Ctrl-C is for howdah, whose end is ours.
    let _ = call(nr::SETSID, &[]);
    let held = if is_neighbour { neighbour(world) } else { host(world) };
    print("howdah-canary\tready\n");
    serve(world, &held, is_neighbour);
    if !is_neighbour {
        remove(world);
    }
}

/// Sockets that are there to be connected to.
#[derive(Default)]
struct Held {
    unix: Vec<UnixListener>,
    tcp: Vec<TcpListener>,
    udp: Option<UdpSocket>,
}

impl Held {
    fn listen(&mut self, path: &str) {
        // Who cannot write there has nobody to find it there.
        if let Ok(listener) = UnixListener::bind(path) {
            let _ = fs::set_permissions(path, Permissions::from_mode(0o666));
            self.unix.push(listener);
        }
    }

    fn listen_abstract(&mut self, name: &str) {
        let address = SocketAddr::from_abstract_name(name);
        self.unix.extend(address.and_then(|address| UnixListener::bind_addr(&address)).ok());
    }
}

fn neighbour(world: &World) -> Held {
    let name = world.get("name");
    let mut held = Held::default();
    held.listen_abstract(&format!("{name}-neighbour"));
    held.listen(&neighbours_path(name));
    let _ = fs::write(neighbours_secret(name), secret());
    // A filter may kill for it: what cannot be left is not there to be found.
    apart(|| ipc::leave(key(world) + 1, &format!("{name}-neighbour")));
    apart(|| kernel::leave_key(KEY_SECONDS));
    held
}

fn host(world: &World) -> Held {
    let (name, directory) = (world.get("name"), world.get("dir"));
    let mut held = Held::default();
    held.listen_abstract(&format!("{name}-host"));
    for path in paths(name) {
        held.listen(&path);
    }
    let shared = format!("/dev/shm/{name}");
    let other = format!("{directory}/other");
    let _ = fs::create_dir(&other);
    for file in [shared, format!("{directory}/secret"), format!("{other}/file")] {
        if fs::write(&file, secret()).is_ok() {
            let _ = fs::set_permissions(&file, Permissions::from_mode(0o644));
        }
    }
    if let Some(uid) = world.number("other") {
        let _ = chown(format!("{other}/file"), Some(uid as u32), Some(uid as u32));
    }
    leave_capable_program(&format!("{directory}/capable"));
    ipc::leave(key(world), &format!("{name}-host"));
    let tcp = TcpListener::bind(("127.0.0.1", 0)).ok();
    let tcp6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).ok();
    held.udp = UdpSocket::bind(("127.0.0.1", 0)).ok();
    let udp = held.udp.as_ref().and_then(|socket| socket.local_addr().ok());
    let port = |socket: &Option<TcpListener>| socket.as_ref().and_then(|socket| socket.local_addr().ok());
    for (what, address) in [("tcp", port(&tcp)), ("tcp6", port(&tcp6)), ("udp", udp)] {
        if let Some(address) = address {
            print(&format!("howdah-canary\t{what}={}\n", address.port()));
        }
    }
    held.tcp.extend(tcp.into_iter().chain(tcp6).chain(outward()));
    held
}

/// What the host reaches beside its loopback: where clouds tell their secrets, and the host itself
/// by the address that it has towards there.
fn outward() -> Option<TcpListener> {
    let socket = towards_metadata().ok()?;
    print("howdah-canary\tmetadata=1\n");
    let own = socket.local_addr().ok()?.ip();
    let listener = TcpListener::bind((own, 0)).ok().filter(|_| !own.is_loopback())?;
    print(&format!("howdah-canary\taddress={}\n", listener.local_addr().ok()?));
    Some(listener)
}

fn key(world: &World) -> u64 {
    world.number("key").unwrap_or(0)
}

fn paths(name: &str) -> [String; 2] {
    [format!("/tmp/{name}.sock"), format!("/run/{name}.sock")]
}

/// In a neighbour's own /tmp; in the host's, if it has no sandbox.
fn neighbours_path(name: &str) -> String {
    format!("/tmp/{name}-neighbour.sock")
}

fn neighbours_secret(name: &str) -> String {
    format!("/tmp/{name}-secret")
}

/// A program that gets CAP_BLOCK_SUSPEND, with which nobody can do anything
/// (capabilities(7), "File capabilities": revision 2, effective).
fn leave_capable_program(path: &str) {
    const BLOCK_SUSPEND: u32 = 1 << (36 - 32);
    let attribute = [0x0200_0001_u32, 0, 0, BLOCK_SUSPEND, 0].map(u32::to_le);
    if fs::copy("/proc/self/exe", path).is_ok() {
        let _ = fs::set_permissions(path, Permissions::from_mode(0o755));
        let name = text(c"security.capability");
        let _ = call(nr::SETXATTR, &[text(&c_string(path)), name, at(&attribute), 20, 0]);
    }
}

/// What is not files of the audit's own directory: here's, and what a neighbour
/// that shared the host's namespaces has left.
fn remove(world: &World) {
    let name = world.get("name");
    for path in paths(name) {
        let _ = fs::remove_file(path);
    }
    for path in [format!("/dev/shm/{name}"), neighbours_path(name), neighbours_secret(name)] {
        let _ = fs::remove_file(path);
    }
    ipc::remove(key(world), &format!("{name}-host"));
    ipc::remove(key(world) + 1, &format!("{name}-neighbour"));
}

/// Answers whoever comes, until nobody needs it.
fn serve(world: &World, held: &Held, is_neighbour: bool) {
    const POLLIN: u64 = 1;
    let end = if is_neighbour { 1 } else { 0 };
    // struct pollfd: the descriptor in the lower half, what is waited for above it.
    let entry = |fd: u64, events: u64| fd | events << 32;
    let passed = world.listeners();
    loop {
        let mut waiting = vec![entry(end, if is_neighbour { 0 } else { POLLIN })];
        waiting.extend(passed.iter().map(|fd| entry(*fd, POLLIN)));
        waiting.extend(held.udp.iter().map(|socket| entry(socket.as_raw_fd() as u64, POLLIN)));
        let ready = call(nr::PPOLL, &[at_mut(&mut waiting[..]), waiting.len() as u64, 0, 0, 8]);
        if ready.is_err() || waiting[0] >> 48 != 0 {
            return;
        }
        for (fd, state) in passed.iter().zip(&waiting[1..]) {
            if state >> 48 & POLLIN != 0 {
                answer_fastcgi(*fd);
            }
        }
        if let Some(socket) = held.udp.as_ref().filter(|_| waiting.last().is_some_and(|last| last >> 48 != 0))
        {
            let _ = answer_udp(socket);
        }
    }
}

/// As php-fpm would, to the one question that needs no request.
fn answer_fastcgi(listener: u64) {
    let Ok(connection) = call(nr::ACCEPT4, &[listener, 0, 0, 0]) else { return };
    let mut question = [0_u8; 8];
    let read = call(nr::READ, &[connection, at_mut(&mut question), 8]);
    if read.is_ok() && question[..2] == GET_VALUES[..2] {
        let _ = call(nr::WRITE, &[connection, at(&GET_VALUES_RESULT), 8]);
    }
    let _ = call(nr::CLOSE, &[connection]);
}

fn answer_udp(socket: &UdpSocket) -> io::Result<()> {
    let mut bytes = [0; 16];
    let (length, from) = socket.recv_from(&mut bytes)?;
    socket.send_to(&bytes[..length], from).map(drop)
}
