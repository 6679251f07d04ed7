//! System calls of the child that wait for howdah's word: seccomp's user
//! notification (seccomp_unotify(2)).
//!
//! seccomp cannot count. So that a call can be made once and never again, a filter
//! of its own, below the spec's, has it wait for whoever holds the *listener*:
//! howdah lets the one through that it expects and closes the listener. From then
//! on the kernel answers every such call with ENOSYS, for nobody listens. If howdah
//! dies before, it answers the first one so: nothing gets weaker by it.
//!
//! Two filters and not one, because the child must still send the listener (the
//! other filter may forbid that), and because of two filters the stricter answer
//! counts: what the spec's filter refuses stays refused.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
    socketpair,
};
use nix::unistd::Pid;
use seccompiler::BpfProgram;

use super::seccomp::{self, SeccompError};
use super::step::{At, Step, StepError};
use crate::sys;

/// What waits at the gate of a plan, and what of it is let through.
pub(super) struct Waiting {
    /// The filter that has the calls wait.
    program: BpfProgram,
    /// Let through in this order, each once.
    expected: &'static [i64],
}

impl Waiting {
    /// With `once`, execve(2) waits, and execveat(2): one execve is let through, the program's own.
    /// With `late`, epoll_create(2) waits: when the program makes that one call, it gets the
    /// descriptors that nobody had for it when it was executed. `None`: nothing waits.
    pub(super) fn new(once: bool, late: bool) -> Option<Result<Self, SeccompError>> {
        let (calls, expected): (&[&str], &'static [i64]) = match (once, late) {
            (false, false) => return None,
            (true, false) => (&["execve", "execveat"], &[libc::SYS_execve]),
            (false, true) => (&["epoll_create"], &[libc::SYS_epoll_create]),
            (true, true) => {
                (&["execve", "execveat", "epoll_create"], &[libc::SYS_execve, libc::SYS_epoll_create])
            }
        };
        // What is made once must not be made by another ABI. For the one call that brings descriptors
        // that is no matter, and a pool whose profile has no filter may run what it likes.
        Some(seccomp::waiting(calls, once).map(|program| Self { program, expected }))
    }
}

/// How far the calls of a child have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// Some are still to come.
    Open,
    /// All that were expected have gone through; every other one is refused from now on.
    Closed,
}

/// howdah's side: readable when the child has something for it.
#[derive(Debug)]
pub struct Gate {
    /// Holds `channel`, then `listener`: one descriptor for whoever waits.
    ready: Epoll,
    /// Where the listener comes from, until it has come.
    channel: Option<OwnedFd>,
    listener: Option<OwnedFd>,
    expected: VecDeque<i64>,
    gift: Option<Gift>,
    /// Whether the child does not get it yet.
    withholds: bool,
}

/// Descriptors that the child gets at its epoll_create(2), and the number of the first.
#[derive(Debug)]
struct Gift {
    first: u32,
    descriptors: Vec<OwnedFd>,
}

impl AsFd for Gate {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.0.as_fd()
    }
}

impl Gate {
    /// A gate for `waiting`, and the child's end of its channel.
    pub(super) fn new(waiting: &Waiting) -> nix::Result<(Self, OwnedFd)> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        let ready = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        ready.add(&ours, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        let expected = waiting.expected.iter().copied().collect();
        Ok((
            Self { ready, channel: Some(ours), listener: None, expected, gift: None, withholds: false },
            theirs,
        ))
    }

    /// What the child gets when it asks: these at `first` and on, in place of what it has there.
    pub(super) fn give(&mut self, first: u32, descriptors: Vec<OwnedFd>) {
        self.gift = Some(Gift { first, descriptors });
    }

    /// Has the child wait with its call for [`Gate::hand_over`].
    pub(super) fn withhold(&mut self) -> nix::Result<()> {
        // Readable for as long as the child waits, it would keep awake whoever watches the gate.
        self.listener.iter().try_for_each(|listener| self.ready.delete(listener))?;
        self.withholds = true;
        Ok(())
    }

    /// The child may have its descriptors, if they were withheld.
    pub(super) fn hand_over(&mut self) -> nix::Result<()> {
        if std::mem::take(&mut self.withholds) {
            let event = || EpollEvent::new(EpollFlags::EPOLLIN, 0);
            self.listener.iter().try_for_each(|listener| self.ready.add(listener, event()))?;
        }
        Ok(())
    }

    /// Whether the child is to wait although all is there that it asks for.
    pub fn withholds(&self) -> bool {
        self.withholds
    }

    /// Whether only the call is to come at which the child gets its descriptors.
    pub(super) fn awaits_gift(&self) -> bool {
        self.expected.iter().eq(&[libc::SYS_epoll_create]) && self.listener.is_some()
    }

    /// Does what there is to do for the child `pid`; does not wait.
    ///
    /// # Errors
    /// The child is gone, or has made another call than the expected one: it must
    /// not go on then.
    pub fn serve(&mut self, pid: Pid) -> Result<Passage, StepError> {
        if let Some(channel) = &self.channel {
            let Some(listener) = receive(channel.as_fd()).at(Step::AwaitCalls, "(no seccomp listener)")?
            else {
                return Ok(Passage::Open);
            };
            self.ready.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, 0)).at(Step::AwaitCalls, "")?;
            // Older kernels wake another processor for it.
            let _ = sys::wait_in_turns(listener.as_fd());
            self.listener = Some(listener);
            // Closed, and by that out of the epoll.
            self.channel = None;
        }
        let asks = |listener: &&OwnedFd| !self.withholds && is_readable(listener.as_fd());
        while let Some(listener) = self.listener.as_ref().filter(asks) {
            let call = sys::notification(listener.as_fd()).at(Step::AwaitCalls, "")?;
            let words = || seccomp::name(call.number as u32).unwrap_or("an unknown call");
            if call.pid != pid || Some(&i64::from(call.number)) != self.expected.front() {
                let object = format!("({} of process {})", words(), call.pid);
                return Err(StepError::new(Step::AwaitCalls, object, Errno::EPERM));
            }
            if i64::from(call.number) == libc::SYS_epoll_create {
                let Some(gift) = self.gift.take() else {
                    let object = "(epoll_create, before there was anything to listen on)";
                    return Err(StepError::new(Step::AwaitCalls, object, Errno::EPERM));
                };
                for (at, descriptor) in (gift.first..).zip(&gift.descriptors) {
                    sys::put_descriptor(listener.as_fd(), call.id, descriptor.as_fd(), at)
                        .at(Step::AwaitCalls, words())?;
                }
            }
            sys::let_through(listener.as_fd(), call.id).at(Step::AwaitCalls, words())?;
            self.expected.pop_front();
            if self.expected.is_empty() {
                self.listener = None;
            }
        }
        Ok(if self.expected.is_empty() { Passage::Closed } else { Passage::Open })
    }
}

/// In the child: has the calls wait from now on and hands howdah the listener.
/// Nothing of it is left here.
pub(super) fn close_behind(waiting: &Waiting, channel: &OwnedFd) -> nix::Result<()> {
    let listener = sys::filter_with_listener(&waiting.program)?;
    let descriptors = [listener.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&descriptors)];
    sendmsg::<()>(channel.as_raw_fd(), &[IoSlice::new(b"!")], &rights, MsgFlags::MSG_NOSIGNAL, None).map(drop)
}

/// The descriptor that the child has sent; `None`: not yet.
fn receive(channel: BorrowedFd<'_>) -> nix::Result<Option<OwnedFd>> {
    let mut byte = [0];
    let mut slices = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([i32; 1]);
    let message =
        recvmsg::<()>(channel.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC);
    let message = match message {
        Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
        other => other?,
    };
    let mut received = message.cmsgs()?.filter_map(|message| match message {
        ControlMessageOwned::ScmRights(descriptors) => descriptors.first().copied(),
        _ => None,
    });
    // A child that ends before it has a listener closes the channel without a word.
    received.next().map(sys::owned).map(Some).ok_or(Errno::EPIPE)
}

pub(super) fn is_readable(fd: BorrowedFd<'_>) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut one = [PollFd::new(fd, PollFlags::POLLIN)];
    poll(&mut one, PollTimeout::ZERO).is_ok()
        && one[0].revents().is_some_and(|events| events.contains(PollFlags::POLLIN))
}
