//! A program of a test's own, as process 1 of a pid namespace: it ends with the thread
//! that started it, and with it ends whatever it has started, whether the test returns,
//! panics or is killed.
#![allow(dead_code, missing_docs, unreachable_pub)]

use std::fs;
use std::process::{Child, Command};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// It runs until this value is dropped.
pub struct Confined(Child);

impl Confined {
    /// Starts the program of `command` with its arguments and environment; `set` adds the rest.
    /// A program that changes its user must ask for its parent's death signal anew (prctl(2)).
    pub fn start(command: &Command, set: impl FnOnce(&mut Command)) -> Self {
        let mut words = vec!["--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child=KILL"];
        if !nix::unistd::geteuid().is_root() {
            words.extend(["--user", "--map-current-user"]);
        }
        let mut outer = Command::new("setpriv");
        outer.args(words).arg("--").arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => outer.env(name, value),
                None => outer.env_remove(name),
            };
        }
        set(&mut outer);
        Self(outer.spawn().expect("setpriv and unshare, of Debian's package util-linux"))
    }

    /// Process 1, by the host's numbers; `None` before it is there.
    pub fn inner(&self) -> Option<Pid> {
        let outer = self.0.id();
        let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).ok()?;
        children.trim().parse().ok().map(Pid::from_raw)
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.inner().expect("it runs"), signal).unwrap();
    }

    /// Whether it has ended within this time.
    pub fn ends_within(&mut self, limit: Duration) -> bool {
        let end = std::time::Instant::now() + limit;
        while std::time::Instant::now() < end {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }
}

impl Drop for Confined {
    fn drop(&mut self) {
        // unshare's death kills process 1, whose death kills the rest.
        let inner = self.inner();
        let _ = self.0.kill();
        let _ = self.0.wait();
        // It is not ours to be waited for.
        let there = || inner.is_some_and(|pid| kill(pid, None).is_ok());
        let end = std::time::Instant::now() + Duration::from_secs(10);
        while there() && std::time::Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
