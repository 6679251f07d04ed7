//! Socket activation in its smallest form: a listening socket at descriptor 3,
//! and a program that starts when a connection is there. This is the floor
//! that howdah is measured against; howdah itself has its own.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use nix::sys::stat::Mode;
use nix::unistd::{dup2, dup3};

use super::{During, Outcome};

/// Where a contestant finds its socket: the first that systemd would pass, and
/// the only one that `runc --preserve-fds 1` can.
pub(crate) const PASSED: RawFd = 3;

/// howdah's default, so that all queues are equally long.
const BACKLOG: i32 = 511;

/// Points descriptor 3 at nothing. Called before anything else is opened, so
/// that the number never belongs to anybody.
pub(crate) fn reserve_descriptor() -> Outcome {
    let null = open("/dev/null", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    if null != PASSED {
        dup3(null, PASSED, OFlag::O_CLOEXEC)?;
        nix::unistd::close(null)?;
    }
    Ok(())
}

/// A listening unix socket.
pub(crate) struct Listener {
    socket: OwnedFd,
    /// Where clients find it.
    pub(crate) path: PathBuf,
}

impl Listener {
    /// Binds `path`, in place of what is there.
    pub(crate) fn bind(path: &Path) -> Outcome<Self> {
        let _ = std::fs::remove_file(path);
        let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        bind(socket.as_raw_fd(), &UnixAddr::new(path)?).during(format!("bind {}", path.display()))?;
        listen(&socket, Backlog::new(BACKLOG)?)?;
        Ok(Self { socket, path: path.to_owned() })
    }

    /// Puts the socket at descriptor 3, inherited by what is started until the
    /// returned value is dropped.
    pub(crate) fn pass(&self) -> Outcome<Passed> {
        dup2(self.socket.as_raw_fd(), PASSED)?;
        Ok(Passed)
    }

    /// Does `ask` while a thread waits for its connection and starts `program`
    /// then, as systemd would.
    pub(crate) fn activate<T>(
        &self,
        program: &mut Command,
        ask: impl FnOnce(&Path) -> Outcome<T>,
    ) -> Outcome<T> {
        let _passed = self.pass()?;
        let waiting = Barrier::new(2);
        let name = program.get_program().to_owned();
        thread::scope(|scope| {
            let activator = scope.spawn(|| -> Result<Child, String> {
                let mut watched = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
                waiting.wait();
                // Ten seconds, for a client that failed before it connected.
                match poll(&mut watched, PollTimeout::from(10_000_u16)) {
                    Ok(1) => program.spawn().map_err(|error| error.to_string()),
                    other => Err(format!("no connection came: {other:?}")),
                }
            });
            waiting.wait();
            // Past the barrier is not yet asleep in poll(2).
            thread::sleep(Duration::from_millis(2));
            let answer = ask(&self.path);
            match activator.join() {
                Ok(Ok(_child)) => answer,
                Ok(Err(reason)) => Err(format!("start {name:?}: {reason}").into()),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

/// While it lives, descriptor 3 is a contestant's socket.
pub(crate) struct Passed;

impl Drop for Passed {
    fn drop(&mut self) {
        // So that nothing else that is started holds the socket, and the number stays taken.
        let _ = reserve_descriptor();
    }
}
