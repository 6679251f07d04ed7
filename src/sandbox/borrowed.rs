//! Something done as somebody else: a child born, limits set.
//!
//! The uid of a process is the kernel's number for it, and only the process itself can change
//! that. A sandbox that is to be bound to a pool later has a uid of its own from its birth, and
//! no map yet: what the number is called inside is written when it is known for whom it is.

use nix::errno::Errno;
use nix::unistd::{Gid, Uid, getgroups, getresgid, getresuid, setgroups, setresgid, setresuid};

use crate::sys::{self, Cloned};

/// SECBIT_NO_SETUID_FIXUP (capabilities(7)): a change of uid takes no capability away.
const NO_SETUID_FIXUP: i32 = 1 << 2;

/// Clones while this process has `uid`, `gid` and no other group, with all its capabilities.
/// The child stays so; this process is itself again when the call returns.
///
/// # Errors
/// Those of `clone`; EPERM without CAP_SETUID, CAP_SETGID and CAP_SETPCAP.
pub(super) fn clone_as(
    uid: u32,
    gid: u32,
    clone: impl FnOnce() -> nix::Result<Cloned>,
) -> nix::Result<Cloned> {
    let own = Own::remember()?;
    let cloned = own.become_other(uid, gid).and_then(|()| clone());
    if !matches!(cloned, Ok(Cloned::Child)) {
        own.restore();
    }
    cloned
}

/// Does `deed` with the uid `uid` and the gid `gid`: what a process may do to one of its own
/// (prlimit(2)) needs no capability over that one's user namespace then.
///
/// # Errors
/// As those of [`clone_as`]; the deed's.
pub(super) fn act_as<T, E: From<Errno>>(
    uid: u32,
    gid: u32,
    deed: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    let own = Own::remember()?;
    let done = own.become_other(uid, gid).map_err(E::from).and_then(|()| deed());
    own.restore();
    done
}

/// Who this process is.
struct Own {
    bits: i32,
    groups: Vec<Gid>,
    gids: nix::unistd::ResGid,
    uids: nix::unistd::ResUid,
    dumpable: bool,
}

impl Own {
    fn remember() -> nix::Result<Self> {
        Ok(Self {
            bits: sys::secure_bits()?,
            groups: getgroups()?,
            gids: getresgid()?,
            uids: getresuid()?,
            dumpable: nix::sys::prctl::get_dumpable()?,
        })
    }

    fn become_other(&self, uid: u32, gid: u32) -> nix::Result<()> {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        sys::set_secure_bits(self.bits | NO_SETUID_FIXUP)?;
        setgroups(&[])?;
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)
    }

    fn restore(&self) {
        if self.try_restore().is_err() {
            // A howdah that is not itself any more must not do anything as somebody else.
            std::process::abort();
        }
    }

    fn try_restore(&self) -> nix::Result<()> {
        setresuid(self.uids.real, self.uids.effective, self.uids.saved)?;
        setresgid(self.gids.real, self.gids.effective, self.gids.saved)?;
        setgroups(&self.groups)?;
        // The kernel takes it with every change of uid (prctl(2)).
        if self.dumpable {
            nix::sys::prctl::set_dumpable(true)?;
        }
        sys::set_secure_bits(self.bits)
    }
}
