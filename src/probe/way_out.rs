//! The sockets of a pool that listens on TCP, as a way into the network that they
//! belong to, which is the host's: disconnected, they can be connected, bound or made
//! to listen there, in whatever namespace the caller is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::listener::worst;
use crate::numbers as nr;
use crate::outcome::{Outcome, done, held, name, not_tried, open};
use crate::raw::{Answer, at, at_mut, call};
use crate::world::World;

const INET: u32 = 2;
const INET6: u32 = 10;
const EOPNOTSUPP: i32 = 95;

pub(crate) fn perform(world: &World, id: &str) -> Option<Outcome> {
    let passed = || world.listeners().into_iter().filter(|fd| world.descriptors.contains(fd));
    Some(match id {
        "listener-connect" => each(passed(), "was passed", |socket| connect(world, socket)),
        "listener-fast-open" => each(passed(), "was passed", |socket| fast_open(world, socket)),
        "accepted-connect" => accepted(passed(), |socket| connect(world, socket)),
        "accepted-bind" => accepted(passed(), |socket| {
            let here = address(domain(socket), 0);
            done(world, call(nr::BIND, &[socket, at(&here[..]), here.len() as u64]), "it has another port")
        }),
        "accepted-listen" => {
            accepted(passed(), |socket| done(world, call(nr::LISTEN, &[socket, 1]), "it listens"))
        }
        _ => return None,
    })
}

fn each(sockets: impl Iterator<Item = u64>, lack: &str, attack: impl Fn(u64) -> Outcome) -> Outcome {
    let outcomes: Vec<Outcome> = sockets.map(attack).collect();
    if outcomes.is_empty() { not_tried(format!("no listening socket {lack}")) } else { worst(outcomes) }
}

/// Attacks a connection (howdah has made some that wait) that was accepted from each TCP listener, and is disconnected.
fn accepted(listeners: impl Iterator<Item = u64>, attack: impl Fn(u64) -> Outcome) -> Outcome {
    let of_tcp = listeners.filter(|socket| matches!(domain(*socket), INET | INET6));
    each(of_tcp, "of TCP", |listener| match call(nr::ACCEPT, &[listener, 0, 0, 0]) {
        Ok(connection) => match disconnect(connection) {
            Ok(_) => attack(connection),
            Err(errno) => held(name(errno)),
        },
        Err(errno) => open(format!("unclear: nobody connects: {}", name(errno))),
    })
}

fn disconnect(socket: u64) -> Answer {
    call(nr::CONNECT, &[socket, at(&[0_u16; 8]), 16])
}

fn connect(world: &World, socket: u64) -> Outcome {
    let Some(canary) = canary(world, socket) else { return not_tried("the host has no such address") };
    let _ = disconnect(socket);
    connected(world, call(nr::CONNECT, &[socket, at(&canary[..]), canary.len() as u64]))
}

/// sendto(2) with MSG_FASTOPEN connects, too.
fn fast_open(world: &World, socket: u64) -> Outcome {
    const FASTOPEN_NOSIGNAL: u64 = 0x2000_0000 | 0x4000;
    let Some(canary) = canary(world, socket) else { return not_tried("the host has no such address") };
    let _ = disconnect(socket);
    let words = b"?";
    let sent =
        call(nr::SENDTO, &[socket, at(words), 1, FASTOPEN_NOSIGNAL, at(&canary[..]), canary.len() as u64]);
    match under_way(sent) {
        Err(EOPNOTSUPP) if !world.filtered => not_tried("the kernel does not have it"),
        sent => connected(world, sent),
    }
}

/// An attack before this one has made the listening socket non-blocking.
fn connected(world: &World, answer: Answer) -> Outcome {
    const EINPROGRESS: i32 = 115;
    let answer = if answer == Err(EINPROGRESS) { Ok(0) } else { answer };
    done(world, answer, "it is connected to a port of the host's loopback")
}

/// An attack before has made the socket non-blocking: that it connects is what counts.
fn under_way(answer: Answer) -> Answer {
    const EINPROGRESS: i32 = 115;
    if answer == Err(EINPROGRESS) { Ok(0) } else { answer }
}

/// Where the host's canary listens, for a socket of this family.
fn canary(world: &World, socket: u64) -> Option<Vec<u8>> {
    let domain = domain(socket);
    let port = world.number(if domain == INET6 { "tcp6" } else { "tcp" })?;
    Some(address(domain, port as u16))
}

/// socket(7), SO_DOMAIN.
fn domain(socket: u64) -> u32 {
    const SOL_SOCKET: u64 = 1;
    const SO_DOMAIN: u64 = 39;
    let (mut domain, mut length) = (0_u32, 4_u32);
    let _ = call(nr::GETSOCKOPT, &[socket, SOL_SOCKET, SO_DOMAIN, at_mut(&mut domain), at_mut(&mut length)]);
    domain
}

/// A port of loopback as ip(7) and ipv6(7) have it.
fn address(domain: u32, port: u16) -> Vec<u8> {
    let (family, loopback): (u32, IpAddr) = match domain {
        INET6 => (INET6, Ipv6Addr::LOCALHOST.into()),
        _ => (INET, Ipv4Addr::LOCALHOST.into()),
    };
    let mut bytes = (family as u16).to_ne_bytes().to_vec();
    bytes.extend(port.to_be_bytes());
    match loopback {
        IpAddr::V4(v4) => bytes.extend([&v4.octets()[..], &[0; 8]].concat()),
        IpAddr::V6(v6) => bytes.extend([&[0; 4][..], &v6.octets(), &[0; 4]].concat()),
    }
    bytes
}
