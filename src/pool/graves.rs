//! What has been killed and is not gone yet: generations, and templates that became nobody's. A
//! process needs a processor to end, and one that came last in the queue for it, or that waits for a
//! disk, may take long: nobody's start waits with it.

use std::cell::RefCell;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

use super::templates::Lodging;
use crate::sandbox::cgroup::Cgroup;

/// How long a stop waits for the one that it has killed: nearly all are gone within that.
const MOMENT: Duration = Duration::from_millis(8);
const MOMENT_LOOK: Duration = Duration::from_micros(200);
/// When they are looked at again, at first and at last; each pause is twice the one before.
const FIRST_LOOK: Duration = Duration::from_millis(2);
const LAST_LOOK: Duration = Duration::from_secs(1);
/// How long howdah waits for them when it ends itself.
const PATIENCE: Duration = Duration::from_secs(2);

/// Those that have been killed and are not gone yet; clones are of the same.
#[derive(Clone, Default)]
pub struct Graves(Rc<RefCell<Ground>>);

#[derive(Default)]
struct Ground {
    endings: Vec<Ending>,
    /// When they are looked at; `None` where there are none.
    next: Option<Instant>,
    pause: Duration,
}

/// What is left of one.
pub struct Ending {
    /// Process 1 of its pid namespace; `None` when it is gone.
    pidfd: Option<OwnedFd>,
    cgroup: Option<Cgroup>,
    /// Its id is given back, and its directory removed, when nothing runs there any more.
    _lodging: Option<Lodging>,
}

impl Graves {
    /// Takes what is left of one that has been killed.
    pub fn add(&self, ending: Ending) {
        let mut ground = self.0.borrow_mut();
        ground.endings.push(ending);
        ground.pause = FIRST_LOOK;
        ground.next = Some(Instant::now() + FIRST_LOOK);
    }

    /// The same, if it is not gone within a moment.
    pub fn add_late(&self, mut ending: Ending) {
        let end = Instant::now() + MOMENT;
        while !ending.is_over() {
            if Instant::now() >= end {
                return self.add(ending);
            }
            sleep(MOMENT_LOOK);
        }
    }

    /// When they are to be looked at.
    pub fn next(&self) -> Option<Instant> {
        self.0.borrow().next
    }

    /// Lets go of those that are gone, if it is time to look. Does not wait.
    pub fn tend(&self, now: Instant) {
        let mut ground = self.0.borrow_mut();
        if ground.next.is_none_or(|next| next > now) {
            return;
        }
        ground.endings.retain_mut(|ending| !ending.is_over());
        ground.pause = (ground.pause * 2).min(LAST_LOOK);
        ground.next = (!ground.endings.is_empty()).then(|| now + ground.pause);
    }

    /// Waits until all are gone, for a while: what is there then keeps its cgroup.
    pub fn wait(&self) {
        let end = Instant::now() + PATIENCE;
        loop {
            let mut ground = self.0.borrow_mut();
            ground.endings.retain_mut(|ending| !ending.is_over());
            // Not in pauses that grow: nothing else is to be done, and the last of them would be cut off.
            if ground.endings.is_empty() || Instant::now() >= end {
                return;
            }
            drop(ground);
            sleep(FIRST_LOOK);
        }
    }
}

impl Ending {
    /// Of the process of `pidfd`, which has been killed; kills what else is in its cgroup.
    pub fn new(pidfd: OwnedFd, cgroup: Option<Cgroup>, lodging: Option<Lodging>) -> Self {
        // What is not of process 1's pid namespace does not end with it.
        cgroup.iter().for_each(Cgroup::kill);
        Self { pidfd: Some(pidfd), cgroup, _lodging: lodging }
    }

    fn is_over(&mut self) -> bool {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
        // That of an earlier howdah is not our child; its cgroup tells.
        let lives =
            |pidfd: &OwnedFd| matches!(waitid(Id::PIDFd(pidfd.as_fd()), flags), Ok(WaitStatus::StillAlive));
        if self.pidfd.as_ref().is_some_and(lives) {
            return false;
        }
        self.pidfd = None;
        // The last processes of its pid namespace may be on their way still.
        let is_busy = |error: std::io::Error| error.raw_os_error() == Some(libc::EBUSY);
        !self.cgroup.as_ref().is_some_and(|cgroup| cgroup.remove().is_err_and(is_busy))
    }
}
