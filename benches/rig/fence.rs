//! The fence: a bench runs as process 1 of a pid namespace of its own, with
//! its own mounts and its own subtree of cgroup v2. However it ends, by
//! return, panic or signal, the kernel kills everything inside it, its mounts
//! are gone with its last process, and the guard outside removes the scratch
//! directory and the cgroups.
//!
//! The bench is one program twice: the guard, and itself again inside.

use std::env;
use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread::sleep;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::geteuid;

use super::{During, Outcome, activation};

/// Tells the bench that it is inside, and where its scratch directory is.
const SCRATCH: &str = "HOWDAH_BENCH_SCRATCH";
/// The cgroup that the bench shall join.
const CGROUP: &str = "HOWDAH_BENCH_CGROUP";

/// Runs `bench` inside the fence, with a scratch directory that other users may read.
pub(crate) fn run(bench: impl FnOnce(&Path) -> Outcome) -> ExitCode {
    let outcome = match env::var_os(SCRATCH) {
        None => guard(),
        Some(scratch) => enter().and_then(|()| bench(Path::new(&scratch))).map(|()| ExitCode::SUCCESS),
    };
    outcome.unwrap_or_else(|failure| {
        eprintln!("bench: {failure}");
        ExitCode::FAILURE
    })
}

/// Starts the bench inside, waits for its end, and takes everything away.
fn guard() -> Outcome<ExitCode> {
    if !geteuid().is_root() {
        return Err("needs root: namespaces, cgroups and another user's php-fpm".into());
    }
    let mut awaited = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        awaited.add(signal);
    }
    awaited.thread_block().during("block signals")?;
    let scratch = tempfile::Builder::new()
        .prefix("howdah-bench-")
        .permissions(Permissions::from_mode(0o755))
        .tempdir_in("/var/tmp")
        .during("make a scratch directory in /var/tmp")?;
    let cgroup = Cgroup::create()?;

    unshare(CloneFlags::CLONE_NEWPID).during("unshare the pid namespace")?;
    let mut bench = Command::new(env::current_exe()?)
        .args(env::args_os().skip(1))
        .env(SCRATCH, scratch.path())
        .env(CGROUP, &cgroup.0)
        .spawn()
        .during("start the bench inside the fence")?;
    loop {
        if awaited.wait().during("wait for a signal")? != Signal::SIGCHLD {
            bench.kill()?;
            bench.wait()?;
            return Err("interrupted".into());
        }
        if let Some(status) = bench.try_wait()? {
            return match status.signal() {
                Some(signal) => Err(format!("ended by signal {signal}").into()),
                None => Ok(ExitCode::from(status.code().unwrap_or(1) as u8)),
            };
        }
    }
}

/// Inside: takes leave of the host's mounts and cgroups.
fn enter() -> Outcome {
    set_pdeathsig(Signal::SIGKILL).during("ask to die with the guard")?;
    activation::reserve_descriptor()?;
    let cgroup = PathBuf::from(env::var_os(CGROUP).ok_or("no cgroup was given")?);
    fs::write(cgroup.join("cgroup.procs"), "0").during(format!("join {}", cgroup.display()))?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWCGROUP).during("unshare mounts and cgroups")?;

    let nothing = None::<&str>;
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)
        .during("make mounts private")?;
    mount(Some("proc"), "/proc", Some("proc"), quiet, nothing).during("mount /proc")?;
    // A pure v2 hierarchy, also where the host has the hybrid layout, which
    // runc does not take; its root is the cgroup that was just joined.
    let cgroups = Path::new("/sys/fs/cgroup");
    mount(Some("cgroup2"), cgroups, Some("cgroup2"), quiet, nothing).during("mount cgroup2")?;
    // Contestants that keep notes in /run (nspawn) shall not keep the host's.
    mount(Some("tmpfs"), "/run", Some("tmpfs"), quiet, Some("mode=755")).during("mount /run")?;
    // A cgroup with processes in it cannot hand controllers down (cgroups(7)).
    fs::create_dir(cgroups.join("bench")).during("make a cgroup")?;
    fs::write(cgroups.join("bench/cgroup.procs"), "0").during("join a cgroup")
}

/// A cgroup of the host, made for one run; its end is the end of all in it.
struct Cgroup(PathBuf);

impl Cgroup {
    fn create() -> Outcome<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let root = mounts
            .lines()
            .filter(|line| line.contains(" - cgroup2 "))
            .find_map(|line| line.split(' ').nth(4))
            .ok_or("no cgroup v2 hierarchy is mounted")?;
        let path = Path::new(root).join(format!("howdah-bench-{}", std::process::id()));
        fs::create_dir(&path).during(format!("make cgroup {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
        // A cgroup can be removed once its last process is reaped, which takes a moment.
        for _ in 0..200 {
            match remove_cgroups(&self.0) {
                Err(error) if error.kind() != ErrorKind::NotFound => sleep(Duration::from_millis(10)),
                _ => return,
            }
        }
        eprintln!("bench: {} could not be removed", self.0.display());
    }
}

/// Removes a cgroup and those below it. Their files cannot be removed and need not be.
fn remove_cgroups(cgroup: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_cgroups(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}
