//! Becoming somebody else.

use crate::numbers as nr;
use crate::outcome::{Outcome, done, held, name, open};
use crate::programs::effective_uid;
use crate::raw::{at, at_mut, call};
use crate::world::World;

pub(crate) fn perform(world: &World, id: &str) -> Option<Outcome> {
    Some(match id {
        "setuid" => {
            let answer = call(nr::SETUID, &[0]);
            done(world, answer, "it is root")
        }
        "capset" => capset(),
        _ => return None,
    })
}

/// Root where that can be had; attacks on files of root's begin with it.
pub(crate) fn become_root() {
    if effective_uid() != 0 {
        let _ = call(nr::SETRESGID, &[0, 0, 0]);
        let _ = call(nr::SETRESUID, &[0, 0, 0]);
    }
}

/// Those that can be: the effective, permitted and inheritable ones, and with them the ambient ones.
pub(crate) fn drop_capabilities() {
    let _ = call(nr::CAPSET, &[at(&[VERSION_3, 0]), at(&[0_u32; 6])]);
}

const VERSION_3: u32 = 0x2008_0522;

/// Everything, then at least CAP_SYS_ADMIN.
fn capset() -> Outcome {
    const SYS_ADMIN: u32 = 1 << 21;
    let header = [VERSION_3, 0];
    // Effective, permitted, inheritable; twice, for 64 bits.
    let mut held_now = [0_u32; 6];
    let read = call(nr::CAPGET, &[at(&header), at_mut(&mut held_now)]);
    let mut wanted = held_now;
    wanted[0] |= SYS_ADMIN;
    wanted[1] |= SYS_ADMIN;
    match call(nr::CAPSET, &[at(&header), at(&wanted)]) {
        Ok(_) if read.is_ok() => open("CAP_SYS_ADMIN is effective"),
        Ok(_) => open("succeeded"),
        Err(errno) => held(name(errno)),
    }
}
