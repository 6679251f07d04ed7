//! The network namespace with a way out, and who owns it: made first, given to an account later.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::Pid;

use crate::sandbox::keeper::Keeper;
use crate::sandbox::pipe;
use crate::sandbox::step::{At, Step, StepError};
use crate::sys;

/// The network namespace of one sandbox, and the user namespace that owns it.
#[derive(Debug)]
pub struct Net {
    pub(super) owner: OwnedFd,
    pub(super) net: OwnedFd,
    /// Its root's uid and gid outside.
    pub(super) root: (u32, u32),
}

/// The same before anybody's account is its root: a sandbox can live in it, and nothing leads out.
#[derive(Debug)]
pub struct Unclaimed {
    keeper: Keeper,
    net: OwnedFd,
}

impl Unclaimed {
    /// Makes both namespaces, with loopback up.
    ///
    /// # Errors
    /// Those of clone3(2), and that of raising loopback.
    pub fn new() -> Result<Self, StepError> {
        let words = "(the network namespace with a way out)";
        let (told, told_by_child) = pipe(OFlag::O_CLOEXEC).at(Step::Clone, words)?;
        let first = || {
            let up = sys::raise_loopback().is_ok();
            let _ = nix::unistd::write(&told_by_child, &[u8::from(up)]);
        };
        let keeper = Keeper::new(libc::CLONE_NEWNET, first).at(Step::Clone, words)?;
        drop(told_by_child);
        let mut up = [0];
        let read = nix::unistd::read(told.as_raw_fd(), &mut up);
        if read.at(Step::RaiseLoopback, "")? != 1 || up != [1] {
            return Err(StepError::new(Step::RaiseLoopback, "(with a way out)", Errno::EIO));
        }
        let net = keeper.namespace("net").at(Step::Clone, words)?;
        Ok(Self { keeper, net })
    }

    /// The network namespace.
    pub fn namespace(&self) -> BorrowedFd<'_> {
        self.net.as_fd()
    }

    /// The process that keeps it.
    pub fn pid(&self) -> Pid {
        self.keeper.pid()
    }

    /// Makes `uid` and `gid` root of the user namespace; there is nobody else in it.
    ///
    /// # Errors
    /// That of writing the id maps.
    pub fn belong_to(self, uid: u32, gid: u32) -> Result<Net, StepError> {
        let words = "(of the network's owner)";
        let owner = self.keeper.namespace("user").at(Step::MapIdentity, words)?;
        self.keeper.map(&format!("0 {uid} 1\n"), &format!("0 {gid} 1\n")).at(Step::MapIdentity, words)?;
        Ok(Net { owner, net: self.net, root: (uid, gid) })
    }
}
