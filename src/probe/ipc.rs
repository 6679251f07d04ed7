//! System V objects and POSIX message queues, which have their own names.

use crate::numbers as nr;
use crate::outcome::{Outcome, done, held, name, open};
use crate::raw::{attached, c_string, call, text, write_attached};
use crate::world::{World, secret};

const CREATE: u64 = 0o1000 | 0o666;

pub(crate) fn perform(world: &World, id: &str) -> Option<Outcome> {
    let key = world.number("key").unwrap_or(0);
    Some(match id {
        "host-sysv-shm" => shared_memory(key),
        "host-sysv-sem" => done(world, call(nr::SEMGET, &[key, 1, 0]), "found"),
        "host-sysv-msg" => done(world, call(nr::MSGGET, &[key, 0]), "found"),
        "host-mqueue" => {
            let queue = c_string(&format!("{}-host", world.get("name")));
            done(world, call(nr::MQ_OPEN, &[text(&queue), 0, 0, 0]), "opened")
        }
        "neighbour-sysv-shm" => shared_memory(key + 1),
        _ => return None,
    })
}

fn shared_memory(key: u64) -> Outcome {
    let read_only = 0o10000;
    let address =
        call(nr::SHMGET, &[key, 0, 0]).and_then(|segment| call(nr::SHMAT, &[segment, 0, read_only]));
    match address {
        Ok(address) if attached(address, secret().len()) == secret().as_bytes() => open("read"),
        Ok(_) => held("another's"),
        Err(errno) => held(name(errno)),
    }
}

/// What the attacks look for, under this key and name. What cannot be made is not there to be found.
pub(crate) fn leave(key: u64, queue: &str) {
    let segment = call(nr::SHMGET, &[key, 4096, CREATE]);
    if let Ok(address) = segment.and_then(|segment| call(nr::SHMAT, &[segment, 0, 0])) {
        write_attached(address, secret().as_bytes());
    }
    let _ = call(nr::SEMGET, &[key, 1, CREATE]);
    let _ = call(nr::MSGGET, &[key, CREATE]);
    const O_CREAT: u64 = 0o100;
    let _ = call(nr::MQ_OPEN, &[text(&c_string(queue)), O_CREAT, 0o644, 0]);
}

/// Takes it away again.
pub(crate) fn remove(key: u64, queue: &str) {
    const IPC_RMID: u64 = 0;
    if let Ok(segment) = call(nr::SHMGET, &[key, 0, 0]) {
        let _ = call(nr::SHMCTL, &[segment, IPC_RMID, 0]);
    }
    if let Ok(set) = call(nr::SEMGET, &[key, 0, 0]) {
        let _ = call(nr::SEMCTL, &[set, 0, IPC_RMID, 0]);
    }
    if let Ok(messages) = call(nr::MSGGET, &[key, 0]) {
        let _ = call(nr::MSGCTL, &[messages, IPC_RMID, 0]);
    }
    let _ = call(nr::MQ_UNLINK, &[text(&c_string(queue))]);
}
