//! Waiting for what the probe says, and for the person who has had enough of it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::super::{Failure, LAUNCH};

/// All the attacks together take a second or two; each at most five.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// SIGINT, SIGTERM and SIGHUP, to be seen where we wait: what was made for the
/// audit is taken away on every way out.
pub(super) struct Stop(SignalFd);

impl Stop {
    pub(super) fn new() -> Result<Self, Failure> {
        let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
        let made = signals
            .thread_block()
            .and_then(|()| SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK));
        made.map(Self)
            .map_err(|errno| Failure::new(LAUNCH, format!("signalfd: {} ({errno:?})", errno.desc())))
    }

    /// Waits for `time` or a little longer.
    ///
    /// # Errors
    /// A signal came first.
    pub(super) fn pause(&self, time: Duration) -> Result<(), Failure> {
        let mut signal = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        // Whole milliseconds: less would be too soon.
        let time = PollTimeout::try_from(time + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut signal, time) {
            Ok(1) => Err(Failure::new(130, "stopped")),
            _ => Ok(()),
        }
    }

    /// Waits until one of `descriptors` can be read.
    ///
    /// # Errors
    /// A signal came first, or `until`.
    pub(super) fn wait(&self, descriptors: &[BorrowedFd<'_>], until: Instant) -> Result<(), Failure> {
        loop {
            let left = PollTimeout::try_from(until.saturating_duration_since(Instant::now()));
            let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
            let mut all = vec![readable(self.0.as_fd())];
            all.extend(descriptors.iter().copied().map(readable));
            match poll(&mut all, left.unwrap_or(PollTimeout::MAX)) {
                Ok(0) => return Err(Failure::new(LAUNCH, "the probe did not come to its end")),
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(errno) => {
                    return Err(Failure::new(LAUNCH, format!("poll: {} ({errno:?})", errno.desc())));
                }
            }
            if all[0].any() == Some(true) {
                return Err(Failure::new(130, "stopped"));
            }
            return Ok(());
        }
    }
}

/// The facts that a holder of canaries tells, until it says `last`.
pub(super) fn lines_until(
    output: &mut (impl AsFd + AsRawFd),
    last: &str,
    stop: &Stop,
) -> Result<Vec<String>, Failure> {
    let until = Instant::now() + Duration::from_secs(10);
    let mut text = Vec::new();
    let mut facts = Vec::new();
    loop {
        stop.wait(&[output.as_fd()], until)?;
        let mut bytes = [0; 4096];
        match nix::unistd::read(output.as_raw_fd(), &mut bytes) {
            Ok(0) | Err(_) => return Err(Failure::new(LAUNCH, "the canaries: their process ended at once")),
            Ok(length) => text.extend(&bytes[..length]),
        }
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            match line.trim_end().strip_prefix("howdah-canary\t") {
                Some(word) if word == last => return Ok(facts),
                Some(fact) => facts.push(fact.to_owned()),
                None => {}
            }
        }
    }
}
