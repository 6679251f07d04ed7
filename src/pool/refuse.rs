//! Answers connections of a pool in backoff with a FastCGI 503: an accepted
//! connection each, read to the end of its request, answered, closed.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{MsgFlags, SockFlag, accept4, send};

use crate::fpm::refusal::{Progress, Refusal};
use crate::sys;

/// How long a client may take to send its request.
const PATIENCE: Duration = Duration::from_secs(5);

/// One connection on its way to a 503.
pub struct Refused {
    stream: OwnedFd,
    refusal: Refusal,
    /// When it is closed whatever it says.
    pub until: Instant,
}

impl Refused {
    /// Accepts what waits on `listener`, at most `most`. No generation of the pool may be running.
    pub fn accept_all(
        listener: BorrowedFd<'_>,
        most: usize,
        retry_after: Duration,
        incident: &str,
        now: Instant,
    ) -> Vec<Self> {
        let raw = listener.as_raw_fd();
        let flags = |bits| fcntl(raw, FcntlArg::F_SETFL(bits));
        // A connection that was there a moment ago may be gone, and accept would wait. Nobody shares the
        // listener now, and it is made blocking again before a generation gets it.
        if flags(OFlag::O_NONBLOCK).is_err() {
            return Vec::new();
        }
        let mut accepted = Vec::new();
        while accepted.len() < most {
            match accept4(raw, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK).map(sys::owned) {
                Ok(stream) => accepted.push(Self {
                    stream,
                    refusal: Refusal::new(retry_after, incident),
                    until: now + PATIENCE,
                }),
                Err(Errno::EINTR | Errno::ECONNABORTED) => {}
                Err(_) => break,
            }
        }
        let _ = flags(OFlag::empty());
        accepted
    }

    /// Goes on with it; false when it is over and to be dropped.
    pub fn go_on(&mut self) -> bool {
        let mut bytes = [0; 16 << 10];
        loop {
            match nix::unistd::read(self.stream.as_raw_fd(), &mut bytes) {
                Ok(length) => match self.refusal.feed(&bytes[..length]) {
                    Progress::More if length == 0 => return false,
                    Progress::More => {}
                    Progress::Answer(answer) => {
                        // A few hundred bytes into an empty buffer: whole, or the client is beyond help.
                        let _ = send(self.stream.as_raw_fd(), &answer, MsgFlags::MSG_NOSIGNAL);
                        return false;
                    }
                    Progress::Close => return false,
                },
                Err(Errno::EAGAIN) => return true,
                Err(Errno::EINTR) => {}
                Err(_) => return false,
            }
        }
    }
}

impl AsFd for Refused {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
