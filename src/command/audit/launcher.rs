//! The same attacks from outside howdah: without any sandbox, or inside another launcher.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Instant;

use nix::fcntl::{FcntlArg, fcntl};

use super::super::{Failure, LAUNCH};
use super::canary::{Canaries, holder};
use super::card::{Finding, Outcome};
use super::probe::{ABOVE_ALL, Probe};
use super::sandbox::{facts_of, neighbours_listeners};
use super::visitors::visitors;
use super::watch::{PATIENCE, Stop, lines_until};
use crate::pool::activation::Listener;
use crate::sys;

/// A process that ends with this value.
struct Process(Child, Option<ChildStdout>);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Attacks from inside `command`, or from no sandbox at all if that is empty.
pub(super) fn attack(
    probe: &Probe,
    canaries: &Canaries,
    stop: &Stop,
    command: &[OsString],
    file: Option<&PathBuf>,
) -> Result<Vec<Finding>, Failure> {
    let failed = |error: &dyn ToString| Failure::new(LAUNCH, error.to_string());
    let listeners = neighbours_listeners(canaries.directory()).map_err(|error| failed(&error))?;
    let neighbour = neighbour(probe, canaries, stop, &listeners)?;
    // A pool's listening socket, as a launcher that knows of sockets would pass it.
    let own_directory = canaries.directory().join("pool");
    fs::create_dir(&own_directory).map_err(|error| Failure::file(LAUNCH, &own_directory, &error))?;
    let own = neighbours_listeners(&own_directory).map_err(|error| failed(&error))?;
    let passed = own.iter().map(inheritable).collect::<Result<Vec<_>, _>>()?;
    let mut facts = facts_of(&listeners);
    facts.extend([format!("neighbour-pid={}", neighbour.0.id()), "uid=65534".to_owned()]);
    facts.extend(passed.iter().map(|socket| format!("listener={}", socket.as_raw_fd())));
    let _visitors = visitors(&own);
    let program = Program::new(probe, canaries, command, file)?;
    let mut started = program.command(canaries, &facts)?;
    let mut process = start(&mut started)?;
    let text = read_to_end(&mut process, stop)?;
    let mut found: Vec<Finding> = text.lines().filter_map(Finding::parse).collect();
    if !text.contains("howdah-probe\tend") {
        let status = process.0.wait().map(|status| status.to_string()).unwrap_or_default();
        let line = format!(
            "the probe did not come to its end inside the command ({status}): does its sandbox have the probe's file? see --probe"
        );
        return Err(Failure::new(LAUNCH, line));
    }
    // Nobody repairs anything here: as it is now it stays.
    let alive = own.iter().all(Listener::accepts);
    for finding in found.iter_mut().filter(|finding| finding.of.id == "listener-alive" && alive) {
        finding.outcome = Outcome::Held;
        finding.detail = "it accepts".to_owned();
    }
    Ok(found)
}

/// The probe by a path that the launcher can execute.
struct Program<'a> {
    command: &'a [OsString],
    path: PathBuf,
    written: bool,
}

impl<'a> Program<'a> {
    fn new(
        probe: &Probe,
        canaries: &Canaries,
        command: &'a [OsString],
        file: Option<&PathBuf>,
    ) -> Result<Self, Failure> {
        if command.is_empty() {
            return Ok(Self { command, path: probe.path().into(), written: false });
        }
        let path = file.cloned().unwrap_or_else(|| canaries.directory().join("probe"));
        Probe::write(&path)?;
        Ok(Self { command, path, written: true })
    }

    fn command(&self, canaries: &Canaries, facts: &[String]) -> Result<Command, Failure> {
        let mut command = match self.command.split_first() {
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(&self.path).stdin(Stdio::null());
                command
            }
            None => {
                let mut command = Command::new(&self.path);
                let directory = canaries.directory();
                let wrong =
                    File::open(directory).map_err(|error| Failure::file(LAUNCH, directory, &error))?;
                // A control for descriptors that are not what belongs at their number.
                command.stdin(wrong);
                command
            }
        };
        command.arg("attack").args(canaries.facts()).args(facts).stdout(Stdio::piped());
        Ok(command)
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        if self.written {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn start(command: &mut Command) -> Result<Process, Failure> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child =
        command.spawn().map_err(|error| Failure::new(LAUNCH, format!("{name}: {}", sys::told(&error))))?;
    let output = child.stdout.take();
    Ok(Process(child, output))
}

/// A neighbour without walls around it.
fn neighbour(
    probe: &Probe,
    canaries: &Canaries,
    stop: &Stop,
    listeners: &[Listener],
) -> Result<Process, Failure> {
    let passed = listeners.iter().map(inheritable).collect::<Result<Vec<_>, _>>()?;
    let mut command = Command::new(probe.path());
    command.arg("neighbour").args(canaries.facts());
    command.args(passed.iter().map(|socket| format!("listener={}", socket.as_raw_fd())));
    let mut child = holder(command, Stdio::null())?;
    let mut output = child.stdout.take().expect("piped");
    let ready = lines_until(&mut output, "ready", stop);
    let process = Process(child, Some(output));
    ready.map(|_| process)
}

/// A descriptor of the same socket that is not closed on exec, as long as it is held.
fn inheritable(listener: &Listener) -> Result<OwnedFd, Failure> {
    fcntl(listener.as_fd().as_raw_fd(), FcntlArg::F_DUPFD(ABOVE_ALL))
        .map(sys::owned)
        .map_err(|errno| Failure::new(LAUNCH, format!("fcntl: {} ({errno:?})", errno.desc())))
}

/// All that it prints.
fn read_to_end(process: &mut Process, stop: &Stop) -> Result<String, Failure> {
    let until = Instant::now() + PATIENCE;
    let mut text = Vec::new();
    let Some(output) = &mut process.1 else { return Ok(String::new()) };
    loop {
        stop.wait(&[output.as_fd()], until)?;
        let mut bytes = [0; 16 << 10];
        match output.read(&mut bytes) {
            Ok(0) | Err(_) => return Ok(String::from_utf8_lossy(&text).into_owned()),
            Ok(length) => text.extend(&bytes[..length]),
        }
        // What an attack has left running may hold the pipe.
        if text.ends_with(b"howdah-probe\tend\n") {
            return Ok(String::from_utf8_lossy(&text).into_owned());
        }
    }
}
