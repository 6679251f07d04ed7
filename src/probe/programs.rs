//! Programs: written ones, those in memory, and those of the image that give privileges.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::identity::drop_capabilities;
use crate::numbers as nr;
use crate::outcome::{NO_PROC, Outcome, first_open, held, name, not_tried, open, told};
use crate::raw::{at, c_string, call, exit, fork, text};
use crate::run::{HELLO, wait};
use crate::world::World;

pub(crate) fn perform(world: &World, id: &str) -> Option<Outcome> {
    Some(match id {
        "execute-written" => in_writable_places(world, execute_written),
        "map-written" => in_writable_places(world, map_written),
        "memfd-execute" => memfd_execute(world),
        "setuid-program" => privileged_program(world, "Uid:"),
        "file-capability" => privileged_program(world, "CapEff:"),
        _ => return None,
    })
}

fn in_writable_places(world: &World, attack: fn(File, &str) -> Outcome) -> Outcome {
    let fixed = ["/tmp", "/run", "/dev/shm", "/var/tmp"];
    let places = fixed.into_iter().chain(world.all("writable"));
    let tried = places.map(|place| match file_in(place) {
        Ok(file) => attack(file, place),
        Err(error) => held(format!("{place}: {}", told(&error))),
    });
    first_open(tried, "no place to write in")
}

/// A file of the file system of `place` that has no name there: nothing of it
/// stays, and nobody else sees it (open(2), O_TMPFILE).
fn file_in(place: &str) -> std::io::Result<File> {
    const O_DIRECTORY: i32 = if cfg!(target_arch = "aarch64") { 0o4_0000 } else { 0o20_0000 };
    const O_TMPFILE: i32 = 0o2000_0000 | O_DIRECTORY;
    OpenOptions::new().read(true).write(true).custom_flags(O_TMPFILE).mode(0o755).open(place)
}

/// Not to be executed while it is open for writing (ETXTBSY): opened anew, for reading.
fn reopened(file: &File) -> std::io::Result<File> {
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// This program; where there is no /proc, by the name that it was started by.
fn own_program() -> std::io::Result<Vec<u8>> {
    fs::read("/proc/self/exe").or_else(|_| fs::read(std::env::args_os().next().unwrap_or_default()))
}

fn execute_written(file: File, place: &str) -> Outcome {
    let written = own_program().and_then(|program| (&file).write_all(&program));
    if let Err(error) = written {
        return held(format!("{place}: {}", told(&error)));
    }
    match reopened(&file) {
        Ok(program) => {
            drop(file);
            execute_path(&format!("/proc/self/fd/{}", program.as_raw_fd()), place)
        }
        Err(_) if !has_proc() => execute_named(place),
        Err(error) => held(format!("{place}: {}", told(&error))),
    }
}

/// The same of a file with a name, which is taken away again: without /proc
/// the other one cannot be opened anew.
fn execute_named(place: &str) -> Outcome {
    let path = format!("{place}/howdah-audit-{}", std::process::id());
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o755);
    let written =
        own_program().and_then(|program| options.open(&path).and_then(|mut file| file.write_all(&program)));
    let outcome = match written {
        Ok(()) => execute_path(&path, place),
        Err(error) => held(format!("{place}: {}", told(&error))),
    };
    let _ = fs::remove_file(path);
    outcome
}

fn execute_path(path: &str, place: &str) -> Outcome {
    let arguments = |program: &CString, argv, envp| vec![text(program), argv, envp];
    executes(nr::EXECVE, arguments, path, &format!("a program in {place}"))
}

fn map_written(file: File, place: &str) -> Outcome {
    const PROT_READ_EXEC: u64 = 1 | 4;
    const MAP_PRIVATE: u64 = 2;
    if let Err(error) = (&file).write_all(&[0; 4096]) {
        return held(format!("{place}: {}", told(&error)));
    }
    match call(nr::MMAP, &[0, 4096, PROT_READ_EXEC, MAP_PRIVATE, file.as_raw_fd() as u64, 0]) {
        Ok(_) => open(format!("mapped a file of {place}")),
        Err(errno) => held(name(errno)),
    }
}

fn memfd_execute(world: &World) -> Outcome {
    const AT_EMPTY_PATH: u64 = 0x1000;
    let made = match call(nr::MEMFD_CREATE, &[text(c"howdah-audit"), 0]) {
        Ok(fd) => fd,
        Err(errno) => return crate::outcome::done(world, Err(errno), ""),
    };
    let Ok(program) = own_program() else { return not_tried("its own program is not to be read") };
    if let Err(errno) = write_all(made, &program) {
        return held(name(errno));
    }
    let path = format!("/proc/self/fd/{made}");
    let arguments = |_: &CString, argv, envp| vec![made, text(c""), argv, envp, AT_EMPTY_PATH];
    executes(nr::EXECVEAT, arguments, &path, "a program in memory")
}

fn write_all(fd: u64, mut bytes: &[u8]) -> Result<(), i32> {
    while !bytes.is_empty() {
        let length = call(nr::WRITE, &[fd, at(bytes), bytes.len() as u64])?;
        bytes = &bytes[length as usize..];
    }
    Ok(())
}

/// Executes the probe at `path` in a child: whether it says hello.
fn executes(
    number: i64,
    arguments: impl Fn(&CString, u64, u64) -> Vec<u64>,
    path: &str,
    what: &str,
) -> Outcome {
    let program = c_string(path);
    let argv = [text(&program), text(c"hello"), 0];
    let envp = [0_u64];
    match fork(0) {
        Ok(0) => {
            let refused = call(number, &arguments(&program, at(&argv), at(&envp)));
            exit(refused.err().unwrap_or(0) as u64)
        }
        Ok(pid) => match wait(pid) {
            status if status == (HELLO as i32) << 8 => open(format!("executed {what}")),
            status if status & 0x7f == 31 => held("killed by SIGSYS"),
            status if status & 0x7f != 0 => held(format!("ended by signal {}", status & 0x7f)),
            status => held(name(status >> 8)),
        },
        Err(errno) => held(name(errno)),
    }
}

/// Executes a program that the file system says is set-user-id root, or has
/// capabilities, and looks in /proc at what it became. It is stopped by a full
/// pipe at the first word that it says.
fn privileged_program(world: &World, field: &str) -> Outcome {
    if !has_proc() {
        return not_tried(NO_PROC);
    }
    let candidates = candidates(world, field);
    if candidates.is_empty() {
        return not_tried("the image has no such program");
    }
    first_open(candidates.iter().map(|program| becomes(world, program, field)), "")
}

/// Whether what a program became can be looked up.
fn has_proc() -> bool {
    fs::metadata("/proc/self").is_ok()
}

/// Programs of the image, of what is mounted beside it, and the canary of the host's.
fn candidates(world: &World, field: &str) -> Vec<String> {
    let mut found = Vec::new();
    let usual = ["/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/local/bin", "/usr/lib/openssh"];
    for directory in world.all("dir").chain(world.all("readonly")).chain(usual) {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(data) = entry.metadata() else { continue };
            let path = entry.path().display().to_string();
            // Who owns it cannot be read where uid 0 does not exist; the bit can.
            let has = match field {
                "Uid:" => data.is_file() && data.mode() & 0o4001 == 0o4001,
                _ => data.is_file() && data.mode() & 0o001 != 0 && has_capabilities(&path),
            };
            if has {
                found.push(path);
            }
        }
    }
    // Of what is there by two names, one will do; and a few of many.
    found.dedup_by_key(|path| crate::files::identity(path));
    found.truncate(8);
    found
}

fn has_capabilities(path: &str) -> bool {
    call(nr::GETXATTR, &[text(&c_string(path)), text(c"security.capability"), 0, 0])
        .is_ok_and(|length| length > 0)
}

fn becomes(world: &World, program: &str, field: &str) -> Outcome {
    let Ok((ours, theirs)) = UnixStream::pair() else { return held("no socketpair") };
    let full = |stream: &UnixStream| {
        let _ = stream.set_nonblocking(true);
        while (&*stream).write(&[0; 4096]).is_ok() {}
        let _ = stream.set_nonblocking(false);
    };
    full(&theirs);
    let path = c_string(program);
    let argv = [text(&path), text(c"--help"), 0];
    let envp = [0_u64];
    match fork(0) {
        Ok(0) => {
            // On the host the probe is root, who has nothing to gain: as the pool's user it has.
            if let Some(uid) = world.number("uid").filter(|_| effective_uid() == 0) {
                let _ = call(nr::SETRESUID, &[uid, uid, uid]);
            }
            // What the program has afterwards, it was given.
            drop_capabilities();
            for fd in [1, 2] {
                let _ = call(nr::DUP3, &[theirs.as_raw_fd() as u64, fd, 0]);
            }
            let _ = call(nr::EXECVE, &[text(&path), at(&argv), at(&envp)]);
            exit(126)
        }
        Ok(pid) => {
            drop(theirs);
            let outcome = watch(world, pid, program, field);
            let _ = call(nr::KILL, &[pid, 9]);
            drop(ours);
            wait(pid);
            outcome
        }
        Err(errno) => held(name(errno)),
    }
}

/// What /proc/PID/status says once the program runs.
fn watch(world: &World, pid: u64, program: &str, field: &str) -> Outcome {
    let until = Instant::now() + Duration::from_millis(500);
    let base = program.rsplit('/').next().unwrap_or_default();
    while Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
        // The program has taken our copy's place when its name is there (15 bytes of it).
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if comm.trim_end().is_empty() || !base.starts_with(comm.trim_end()) {
            continue;
        }
        // The name is set before the credentials are.
        std::thread::sleep(Duration::from_millis(10));
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
        let what = format!("{program} has {field} {}", line.trim().replace('\t', " "));
        let privileged = match field {
            "Uid:" => line.split_whitespace().nth(1) == Some("0"),
            // Where a filter keeps us from dropping ours, those are no gain.
            _ => bits(line) & !if world.filtered { bits(&own_status("CapEff:")) } else { 0 } != 0,
        };
        return if privileged { open(what) } else { held(what) };
    }
    held(format!("{program} was not executed"))
}

fn bits(field: &str) -> u64 {
    u64::from_str_radix(field.trim(), 16).unwrap_or(0)
}

/// A field of this process's own /proc/self/status.
fn own_status(field: &str) -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default().to_owned()
}

pub(crate) fn effective_uid() -> u64 {
    own_status("Uid:").split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or(u64::MAX)
}
