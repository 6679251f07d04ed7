//! The listening socket, which every process of a pool holds: what is done to it
//! outlives the sandbox. It is audit's own here; howdah looks at it afterwards.

use crate::numbers as nr;
use crate::outcome::{Outcome, done, held, name, not_tried};
use crate::raw::{Answer, at, call};
use crate::world::World;

pub(crate) fn perform(world: &World, id: &str) -> Option<Outcome> {
    if !id.starts_with("listener-") {
        return None;
    }
    let sockets: Vec<u64> =
        world.listeners().into_iter().filter(|fd| world.descriptors.contains(fd)).collect();
    if sockets.is_empty() {
        return Some(not_tried("no listening socket was passed"));
    }
    let outcomes: Vec<Outcome> = sockets.into_iter().map(|socket| attack(world, id, socket)).collect();
    Some(worst(outcomes))
}

fn attack(world: &World, id: &str, socket: u64) -> Outcome {
    match id {
        "listener-nonblock" => poisoned(set_nonblocking(socket), "it is non-blocking"),
        "listener-option" => poisoned(set_option(socket, LINGER, &[1_u32, 0]), "it resets each connection"),
        "listener-backlog" => poisoned(call(nr::LISTEN, &[socket, 1]), "its queue is another"),
        "listener-filter" => done(world, attach_filter(socket), "attached"),
        "listener-lock" => done(world, set_option(socket, LOCK_FILTER, &0_u32), "done"),
        "listener-disconnect" => {
            let unspecified = [0_u16; 8];
            poisoned(call(nr::CONNECT, &[socket, at(&unspecified), 16]), "it listens no more")
        }
        "listener-shutdown-high-bits" => done(world, call(nr::SHUTDOWN, &[socket, 1 << 32]), "shut down"),
        "listener-shutdown" => done(world, call(nr::SHUTDOWN, &[socket, 0]), "shut down"),
        _ => Outcome::Poisoned("nobody has looked".to_owned()),
    }
}

/// Of several sockets, what was worst.
pub(crate) fn worst(outcomes: Vec<Outcome>) -> Outcome {
    let rank = |outcome: &Outcome| match outcome {
        Outcome::Open(_) => 3,
        Outcome::Poisoned(_) => 2,
        Outcome::Held(_) => 1,
        Outcome::NotTried(_) => 0,
    };
    outcomes.into_iter().max_by_key(rank).unwrap_or_else(|| held("no socket"))
}

const SOL_SOCKET: u64 = 1;
const LINGER: u64 = 13;
const ATTACH_FILTER: u64 = 26;
const LOCK_FILTER: u64 = 44;

fn poisoned(answer: Answer, what: &str) -> Outcome {
    match answer {
        Ok(_) => Outcome::Poisoned(what.to_owned()),
        Err(errno) => held(name(errno)),
    }
}

fn set_nonblocking(socket: u64) -> Answer {
    const F_GETFL: u64 = 3;
    const F_SETFL: u64 = 4;
    const O_NONBLOCK: u64 = 0o4000;
    let flags = call(nr::FCNTL, &[socket, F_GETFL])?;
    call(nr::FCNTL, &[socket, F_SETFL, flags | O_NONBLOCK])
}

/// A filter that lets everything pass.
fn attach_filter(socket: u64) -> Answer {
    const RETURN_ALL: u64 = 0x0006 | 0xffff_ffff << 32;
    let program = [RETURN_ALL];
    // The number of instructions, and where they are.
    let described = [1_u64, at(&program)];
    set_option(socket, ATTACH_FILTER, &described)
}

fn set_option<T>(socket: u64, option: u64, value: &T) -> Answer {
    call(nr::SETSOCKOPT, &[socket, SOL_SOCKET, option, at(value), size_of::<T>() as u64])
}
