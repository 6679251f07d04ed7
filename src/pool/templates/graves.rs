//! Templates that have been killed. A process needs a processor to end, and one that came last in
//! the queue for it may wait long: nobody's start waits with it.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::lodging::Lodging;
use crate::sandbox::cgroup::Cgroup;

/// How long howdah waits for them when it ends itself.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often it looks then.
const LOOK: Duration = Duration::from_millis(1);

/// Those that have been killed and are not gone yet; clones are of the same.
#[derive(Clone, Default)]
pub(super) struct Graves(Rc<RefCell<Vec<Ending>>>);

struct Ending {
    pid: Option<Pid>,
    cgroup: Cgroup,
    /// Its id is given back, and its directory removed, when nothing runs there any more.
    _lodging: Lodging,
}

impl Graves {
    /// Takes what is left of one whose process `pid` has been killed.
    pub(super) fn add(&self, pid: Pid, cgroup: Cgroup, lodging: Lodging) {
        cgroup.kill();
        self.0.borrow_mut().push(Ending { pid: Some(pid), cgroup, _lodging: lodging });
    }

    /// Lets go of those that are gone; true if none is left. Does not wait.
    pub(super) fn tend(&self) -> bool {
        let mut graves = self.0.borrow_mut();
        graves.retain_mut(|ending| !ending.is_over());
        graves.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// Waits until all are gone, for a while.
    pub(super) fn wait(&self) {
        let looks = PATIENCE.as_millis() / LOOK.as_millis();
        for _ in 0..looks {
            if self.tend() {
                return;
            }
            std::thread::sleep(LOOK);
        }
    }
}

impl Ending {
    fn is_over(&mut self) -> bool {
        let ends = |pid| matches!(waitpid(pid, Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive));
        if self.pid.is_some_and(ends) {
            return false;
        }
        self.pid = None;
        // The last processes of its pid namespace may be on their way still.
        self.cgroup.remove().map_or_else(|error| error.raw_os_error() != Some(libc::EBUSY), |()| true)
    }
}
