//! Sockets: kinds that no site needs, and those of the host and of a neighbour.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::Duration;

use crate::files::untold;
use crate::numbers as nr;
use crate::outcome::{Outcome, done, first_open, held, not_tried, open, reached, told, tried};
use crate::processes::visible;
use crate::raw::{at, call, text};
use crate::world::World;

/// FCGI_GET_VALUES without a name in it, and the beginning of an answer.
pub(crate) const GET_VALUES: [u8; 8] = [1, 9, 0, 0, 0, 0, 0, 0];
pub(crate) const GET_VALUES_RESULT: [u8; 8] = [1, 10, 0, 0, 0, 0, 0, 0];

const STREAM: u64 = 1;
const DATAGRAM: u64 = 2;
const RAW: u64 = 3;
const SEQPACKET: u64 = 5;

pub(crate) fn perform(world: &World, id: &str) -> Option<Outcome> {
    let name = world.get("name");
    Some(match id {
        "raw-socket" => socket(world, 2, RAW, 1),
        "packet-socket" => socket(world, 17, RAW, 0),
        "netlink-socket" => socket(world, 16, RAW, 0),
        "vsock-socket" => socket(world, 40, STREAM, 0),
        "alg-socket" => socket(world, 38, SEQPACKET, 0),
        "host-tcp" => match world.number("tcp") {
            Some(port) => tried(TcpStream::connect(("127.0.0.1", port as u16)), |_| format!("port {port}")),
            None => untold("tcp"),
        },
        "host-udp" => match world.number("udp") {
            Some(port) => tried(ask_by_udp(port as u16), |()| format!("port {port} answered")),
            None => untold("udp"),
        },
        "host-address" => match world.get("address").parse() {
            Ok(address) => {
                let second = Duration::from_secs(1);
                tried(TcpStream::connect_timeout(&address, second), |_| address.to_string())
            }
            Err(_) => not_tried(NO_WAY),
        },
        "metadata" => metadata(world),
        "routes" => routes(world),
        "host-abstract" => abstract_socket(&format!("{name}-host")),
        "neighbour-abstract" => abstract_socket(&format!("{name}-neighbour")),
        "host-socket-tmp" => unix_socket(&format!("/tmp/{name}.sock")),
        "host-socket-run" => unix_socket(&format!("/run/{name}.sock")),
        "neighbour-socket" => {
            let below = visible().into_iter().map(|pid| format!("/proc/{pid}/root"));
            let all = [String::new()].into_iter().chain(below);
            first_open(all.map(|root| unix_socket(&format!("{root}/tmp/{name}-neighbour.sock"))), "")
        }
        "neighbour-fastcgi" => fastcgi(UnixStream::connect(world.get("fastcgi-path"))),
        "neighbour-fastcgi-tcp" => match world.number("fastcgi-tcp") {
            Some(port) => fastcgi(TcpStream::connect(("127.0.0.1", port as u16))),
            None => untold("fastcgi-tcp"),
        },
        _ => return None,
    })
}

fn socket(world: &World, family: u64, kind: u64, protocol: u64) -> Outcome {
    let answer = call(nr::SOCKET, &[family, kind, protocol]);
    // vsock is a module that may not be there.
    match (answer, call(nr::SOCKET, &[family, DATAGRAM, protocol])) {
        (Ok(_), _) | (_, Ok(_)) => open("opened"),
        (Err(97), _) if !world.filtered => not_tried("the kernel does not have it"),
        (Err(errno), _) => done(world, Err(errno), ""),
    }
}

/// What the host itself cannot reach says nothing of a sandbox.
const NO_WAY: &str = "the host has no way there";

/// A socket for the address at which clouds tell their machines' secrets, if a route leads
/// there (connect(2) of UDP sends nothing), and a port at which nobody answers.
pub(crate) fn towards_metadata() -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    socket.connect(("169.254.169.254", 9))?;
    Ok(socket)
}

/// Behind a packet filter a route is no way yet; elsewhere nothing is sent.
fn metadata(world: &World) -> Outcome {
    match (world.get("metadata"), towards_metadata()) {
        ("", _) => not_tried(NO_WAY),
        (_, Ok(socket)) if world.get("network") == "outbound" => {
            tried(socket.send(b"?"), |_| "a packet left".to_owned())
        }
        (_, route) => tried(route, |_| "a route leads there".to_owned()),
    }
}

/// Takes a route away that is not there, of an interface that is not there: the kernel first asks
/// after the right to change routes (struct rtentry of net/route.h).
fn routes(world: &World) -> Outcome {
    const SIOCDELRT: u64 = 0x890c;
    let device = c"howdah0";
    let mut request = [0_u64; 15];
    request[1] = u64::from(2_u16.to_le());
    request[11] = text(device);
    match call(nr::SOCKET, &[2, DATAGRAM, 0]) {
        Ok(socket) => reached(world, call(nr::IOCTL, &[socket, SIOCDELRT, at(&request)])),
        Err(errno) => done(world, Err(errno), ""),
    }
}

fn ask_by_udp(port: u16) -> std::io::Result<()> {
    let socket = UdpSocket::bind(("127.0.0.1", 0))?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    socket.send_to(b"?", ("127.0.0.1", port))?;
    socket.recv_from(&mut [0; 16]).map(drop)
}

fn abstract_socket(name: &str) -> Outcome {
    let address = SocketAddr::from_abstract_name(name);
    tried(address.and_then(|address| UnixStream::connect_addr(&address)), |_| format!("@{name}"))
}

fn unix_socket(path: &str) -> Outcome {
    tried(UnixStream::connect(path), |_| path.to_owned())
}

/// Asks for no values: every FastCGI application answers that.
fn fastcgi<S: Read + Write>(stream: std::io::Result<S>) -> Outcome {
    let mut answer = [0; 2];
    let asked = stream.and_then(|mut stream| {
        stream.write_all(&GET_VALUES)?;
        stream.read_exact(&mut answer)
    });
    match asked {
        Ok(()) if answer == GET_VALUES_RESULT[..2] => open("it answered"),
        Ok(()) => held("something else answers there"),
        Err(error) => held(told(&error)),
    }
}
