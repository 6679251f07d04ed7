//! The commands, each in its file. What a person reads is printed here and nowhere else.
#![allow(clippy::print_stdout)]

mod audit;
mod check;
mod events;
mod host;
mod ps;
mod request;
mod serve;
mod spec;

use std::io;
use std::path::{Path, PathBuf};

use clap::CommandFactory;

use crate::cli::{Cli, Command, Runtime};
use crate::config::pool::ServeConfig;
use crate::config::types::AbsPath;
use crate::pool::prepare::Places;
use crate::sys;

/// Why a command ended: the line to print, and the exit status.
#[derive(Debug)]
pub struct Failure {
    /// One line, without the program's name; empty if all has been said.
    pub line: String,
    /// 1 for a plain no, 3 configuration, 4 the kernel lacks a feature, 5 launch failed.
    pub status: u8,
}

/// Exit status: a file is wrong.
pub const CONFIGURATION: u8 = 3;
/// Exit status: the kernel lacks what was asked for.
pub const KERNEL: u8 = 4;
/// Exit status: something could not be started.
pub const LAUNCH: u8 = 5;

impl Failure {
    fn new(status: u8, line: impl ToString) -> Self {
        Self { line: line.to_string(), status }
    }

    /// Everything has been said already, each failure on its line.
    fn said(status: u8) -> Self {
        Self::new(status, "")
    }

    /// What the kernel refused to do to a file: `PATH: Permission denied (EACCES)`.
    fn file(status: u8, path: &Path, error: &io::Error) -> Self {
        Self::new(status, format!("{}: {}", path.display(), sys::told(error)))
    }
}

/// A directory for the time of one command, of a name that nobody can know beforehand
/// and open to nobody else: a root who writes to a known name in /tmp writes where others want.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, Failure> {
        let template = std::env::temp_dir().join("howdah-XXXXXX");
        nix::unistd::mkdtemp(&template).map(Self).map_err(|errno| {
            let line = format!("make {}: {} ({errno:?})", template.display(), errno.desc());
            Failure::new(LAUNCH, format!("{line}: point $TMPDIR to a directory that can be written"))
        })
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Does what was typed.
///
/// # Errors
/// The command's failure, to be printed by `main`.
pub fn run(cli: Cli) -> Result<(), Failure> {
    if !matches!(cli.command, Command::Serve(_)) {
        end_with_the_reader();
    }
    match cli.command {
        Command::Serve(arguments) => serve::run(arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Ps(arguments) => ps::run(&arguments),
        Command::Events(arguments) => events::run(&arguments),
        Command::Request(arguments) => request::run(&arguments),
        Command::Audit(arguments) => audit::run(&arguments),
        Command::Spec(arguments) => spec::run(&arguments),
        Command::Completions(arguments) => {
            clap_complete::generate(arguments.shell, &mut Cli::command(), "howdah", &mut io::stdout());
            Ok(())
        }
    }
}

/// Ends quietly, as other programs do, when who reads our output has read enough (`howdah ps | head -1`).
fn end_with_the_reader() {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal};
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // Without it the only loss is a message about a broken pipe.
    let _ = sys::set_signal_action(Signal::SIGPIPE, &default);
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Without root, howdah gives itself a user namespace with its own uid in it, and
/// a mount namespace: there it may do to mounts what root may.
fn become_rootless() -> Result<(), Failure> {
    if is_root() {
        return Ok(());
    }
    sys::enter_user_namespace().map_err(|(what, errno)| {
        let line = format!("user namespace: {what}: {} ({errno:?}): see `howdah check`", errno.desc());
        Failure::new(KERNEL, line)
    })
}

/// An absolute path from an environment variable.
fn from_environment(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
}

/// The runtime directory: as typed, as configured, or the default.
fn runtime_dir(typed: &Runtime, config: Option<&ServeConfig>) -> Result<PathBuf, Failure> {
    let configured =
        config.and_then(|config| config.runtime_dir.as_ref()).map(|path| path.as_path().to_owned());
    let chosen = typed.runtime_dir.clone().or(configured);
    if let Some(path) = chosen {
        return std::path::absolute(&path).map_err(|error| Failure::file(2, &path, &error));
    }
    if is_root() {
        return Ok(PathBuf::from("/run/howdah"));
    }
    let base = from_environment("XDG_RUNTIME_DIR");
    base.map(|base| base.join("howdah")).ok_or_else(|| {
        Failure::new(2, "no runtime directory: set $XDG_RUNTIME_DIR or give --runtime-dir DIR")
    })
}

/// Where things are kept, as `config` says or by default.
fn places(runtime: PathBuf, config: &ServeConfig) -> Places {
    let configured = config.state_dir.as_ref().map(|path| path.as_path().to_owned());
    let by_user = || {
        let base = from_environment("XDG_STATE_HOME");
        let home = || from_environment("HOME").map(|home| home.join(".local/state"));
        base.or_else(home).unwrap_or_else(|| runtime.clone()).join("howdah")
    };
    let state = configured.unwrap_or_else(|| if is_root() { "/var/lib/howdah".into() } else { by_user() });
    let profiles = config.profile_dir.as_ref().map_or(Path::new("/etc/howdah/profiles"), AbsPath::as_path);
    Places { state, profiles: profiles.to_owned(), drain: config.drain, runtime }
}
