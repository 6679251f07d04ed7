//! Canaries: what the attacks look for. They are held by a process of the probe's
//! own program, which takes them away when its standard input ends, however that comes.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::Mode;

use super::super::{Failure, LAUNCH};
use super::probe::{ABOVE_ALL, Probe};
use super::watch::{Stop, lines_until};
use crate::sys;

/// In the environment of whoever holds secrets; the probe looks for its name.
pub(super) const SECRET: &str = "HOWDAH_AUDIT_CANARY=howdah-audit-secret";

/// What is on the host to be found, and how the probe is told of it.
pub(super) struct Canaries {
    _holder: Holder,
    /// `key=value`, for the probe's command line.
    facts: Vec<String>,
    directory: PathBuf,
    /// Open on the directory, and not closed on exec.
    _leak: OwnedFd,
}

impl Canaries {
    /// Makes them, in the new directory `directory`, which becomes this process's own working directory.
    pub(super) fn make(probe: &Probe, directory: &Path, stop: &Stop) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| Failure::file(LAUNCH, directory, &error);
        fs::create_dir(directory).map_err(failed)?;
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).map_err(failed)?;
        let mut number = [0; 4];
        File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut number)).map_err(failed)?;
        // A key of System V objects; 0 would be private, and the neighbour's is the next.
        let key = (u32::from_ne_bytes(number) & 0x3fff_ffff) | 0x4000_0000;
        let mut facts = vec![
            format!("name=howdah-{key:x}"),
            format!("key={key}"),
            format!("dir={}", directory.display()),
        ];
        let mut command = Command::new(probe.path());
        command.arg("canary").args(&facts).arg("other=65533").arg(SECRET);
        let mut holder = Holder(holder(command, Stdio::piped())?);
        facts.extend(holder.wait_ready(stop)?);
        facts.push(format!("canary-pid={}", holder.0.id()));
        facts.extend(of_this_process());
        std::env::set_current_dir(directory).map_err(failed)?;
        let leak = leak(directory)?;
        Ok(Self { _holder: holder, facts, directory: directory.to_owned(), _leak: leak })
    }

    pub(super) fn facts(&self) -> &[String] {
        &self.facts
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Canaries {
    fn drop(&mut self) {
        // Nobody's working directory is removed under it.
        let _ = std::env::set_current_dir("/");
    }
}

/// The process of the canaries: told to take them away, and waited for, when this value goes.
struct Holder(Child);

impl Holder {
    fn wait_ready(&mut self, stop: &Stop) -> Result<Vec<String>, Failure> {
        // It stays open: who cannot be heard ends.
        match &mut self.0.stdout {
            Some(said) => lines_until(said, "ready", stop),
            None => Ok(Vec::new()),
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Starts a process of the probe that holds canaries, with a secret in its environment.
pub(super) fn holder(mut command: Command, stdin: Stdio) -> Result<Child, Failure> {
    let (name, value) = SECRET.split_once('=').expect("a variable");
    command.env_clear().env(name, value).stdin(stdin).stdout(Stdio::piped());
    command.spawn().map_err(|error| Failure::new(LAUNCH, format!("the probe: {}", sys::told(&error))))
}

/// howdah's own program and namespaces, by which the probe knows them again.
fn of_this_process() -> Vec<String> {
    let mut facts = Vec::new();
    if let Ok(own) = fs::metadata("/proc/self/exe") {
        facts.push(format!("launcher={}:{}", own.dev(), own.ino()));
    }
    for kind in ["mnt", "uts"] {
        if let Ok(namespace) = fs::read_link(format!("/proc/self/ns/{kind}")) {
            facts.push(format!("{kind}={}", namespace.display()));
        }
    }
    facts
}

/// A descriptor as a careless program leaves it.
fn leak(directory: &Path) -> Result<OwnedFd, Failure> {
    let failed = |errno: nix::Error| Failure::file(LAUNCH, directory, &errno.into());
    let opened =
        nix::fcntl::open(directory, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
            .map(sys::owned)
            .map_err(failed)?;
    // High enough that no sandbox puts one of its own in its place.
    fcntl(opened.as_raw_fd(), FcntlArg::F_DUPFD(ABOVE_ALL)).map(sys::owned).map_err(failed)
}
