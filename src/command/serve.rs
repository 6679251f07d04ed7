//! `howdah serve`: from what was typed to a running supervisor.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use libsystemd::daemon::{NotifyState, notify};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::host::Host;
use super::{CONFIGURATION, Failure, KERNEL, LAUNCH, become_rootless, is_root, places, runtime_dir};
use crate::cli::Serve;
use crate::config::pool::{Pool, ServeConfig};
use crate::config::{Defaults, HostAccounts, load_pools, load_serve};
use crate::journal::{self, Level, Origin};
use crate::pool::activation::{self, Assigned, Inherited, Listener};
use crate::pool::prepare::Places;
use crate::pool::supervisor::{Settings, Supervisor};
use crate::sandbox::cgroup::Base;
use crate::sys;

pub(super) fn run(arguments: Serve) -> Result<(), Failure> {
    // First of all, before anything else opens a descriptor: what is not systemd's is closed.
    let passed = activation::inherited().map_err(|error| Failure::new(CONFIGURATION, error))?;
    let keep: Vec<_> = passed.iter().map(AsFd::as_fd).collect();
    activation::close_other_descriptors(&keep).map_err(|error| Failure::new(KERNEL, error))?;
    journal::open(if arguments.verbose { Level::Debug } else { Level::Info });

    if let Some(refusal) = Host::look().refusal() {
        return Err(Failure::new(KERNEL, refusal));
    }
    let accounts = HostAccounts::default();
    let (config, defaults) = load_serve(arguments.files.config.as_deref(), &accounts)
        .map_err(|error| Failure::new(CONFIGURATION, error))?;
    let places = places(runtime_dir(&arguments.runtime, Some(&config))?, &config);
    let pools = load(&arguments.files.pools, &defaults, &accounts)?;
    raise_descriptor_limit();
    warn_of_groups();
    become_rootless()?;
    let _lock = take_runtime_dir(&places.runtime)?;
    let ended = serve(arguments, &config, defaults, &places, pools, passed);
    clean(&places);
    ended
}

/// From pools and sockets to the end of serving, in a runtime directory that is ours.
fn serve(
    arguments: Serve,
    config: &ServeConfig,
    defaults: Defaults,
    places: &Places,
    pools: Vec<Pool>,
    passed: Vec<Inherited>,
) -> Result<(), Failure> {
    let pools = give_sockets(pools, passed)?;
    let base = open_cgroup(config, &places.runtime);
    let settings = Settings {
        parallel_starts: config.parallel_starts.map_or_else(default_parallel_starts, |n| n as usize),
        exit_when_idle: arguments.exit_when_idle,
        places: places.clone(),
    };
    let count = pools.len();
    let paths = arguments.files.pools;
    let reread = Box::new(move || reread(&paths, &defaults));
    let mut supervisor = Supervisor::new(settings, pools, base, reread)
        .map_err(|error| Failure::new(LAUNCH, format!("epoll: {error}")))?;
    supervisor.warm_up();
    journal::line(Level::Notice, Origin::default(), &format!("ready: {}", listening(count)));
    let _ = notify(false, &[NotifyState::Ready, NotifyState::Status(listening(count))]);
    supervisor.run().map_err(|error| Failure::new(LAUNCH, format!("epoll_wait: {error}")))
}

/// Reads the pool files. One that is wrong does not keep the others from being served.
fn load(paths: &[PathBuf], defaults: &Defaults, accounts: &HostAccounts) -> Result<Vec<Pool>, Failure> {
    let loaded = load_pools(paths, defaults, accounts);
    for notice in &loaded.notices {
        journal::line(Level::Notice, Origin::default(), &notice.to_string());
    }
    for error in &loaded.errors {
        journal::line(Level::Error, Origin::default(), &error.to_string());
    }
    if loaded.pools.is_empty() && !loaded.errors.is_empty() {
        return Err(Failure::said(CONFIGURATION));
    }
    Ok(loaded.pools)
}

fn reread(paths: &[PathBuf], defaults: &Defaults) -> (Vec<Pool>, Vec<PathBuf>) {
    // Accounts may have changed too: a new look at them.
    let loaded = load_pools(paths, defaults, &HostAccounts::default());
    for error in &loaded.errors {
        journal::line(Level::Error, Origin::default(), &format!("{error} (its pool stays as it was)"));
    }
    let unreadable = loaded.errors.iter().map(|error| error.file().to_owned()).collect();
    (loaded.pools, unreadable)
}

/// Without root the kernel lets nobody drop a group in a user namespace (user_namespaces(7),
/// "deny" in setgroups): what howdah's groups may, its pools may.
fn warn_of_groups() {
    let own = nix::unistd::getegid();
    let others: Vec<String> = nix::unistd::getgroups()
        .unwrap_or_default()
        .into_iter()
        .filter(|group| *group != own)
        .map(|group| group.to_string())
        .collect();
    if !is_root() && !others.is_empty() {
        let line = format!(
            "pools keep this user's other groups (gid {}), which cannot be dropped without root: \
             run howdah as a user that has none",
            others.join(", ")
        );
        journal::line(Level::Warning, Origin::default(), &line);
    }
}

/// Ten thousand pools are ten thousand listening sockets.
fn raise_descriptor_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        if soft < hard {
            let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
        }
    }
}

/// Makes the runtime directory, and sees to it that no other serve has it.
fn take_runtime_dir(runtime: &Path) -> Result<Flock<File>, Failure> {
    let refuse = |error: std::io::Error| {
        let hint = if error.kind() == std::io::ErrorKind::PermissionDenied {
            ": run howdah as root or give --runtime-dir DIR"
        } else {
            ""
        };
        Failure::new(LAUNCH, format!("make {}: {}{hint}", runtime.display(), sys::told(&error)))
    };
    fs::create_dir_all(runtime).map_err(refuse)?;
    let file = File::create(runtime.join("lock")).map_err(refuse)?;
    let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        let line = match errno {
            Errno::EAGAIN => "another serve has it: stop that one or give --runtime-dir DIR".to_owned(),
            _ => format!("lock: {} ({errno:?})", errno.desc()),
        };
        Failure::new(LAUNCH, format!("{}: {line}", runtime.display()))
    })?;
    let pools = runtime.join("pools");
    if pools.exists() {
        fs::remove_dir_all(&pools).map_err(refuse)?;
    }
    Ok(lock)
}

/// Where generations get their cgroups; `None` where there is none to be had.
fn open_cgroup(config: &ServeConfig, runtime: &Path) -> Option<Base> {
    let instance = runtime.display().to_string().trim_matches('/').replace('/', "-");
    let configured = config.cgroup.as_ref().map(|path| path.as_path());
    match Base::open(configured, &instance) {
        Ok(base) => Some(base),
        Err(error) => {
            let line = format!("{error}: pools are frozen by SIGSTOP, and no limit of a cgroup can be set");
            let level = if is_root() { Level::Warning } else { Level::Info };
            journal::line(level, Origin::default(), &line);
            None
        }
    }
}

/// Each pool with its sockets. A pool whose socket cannot be had is left out and
/// the others are served; a passed socket that nobody wants would never answer,
/// and is the end.
fn give_sockets(pools: Vec<Pool>, passed: Vec<Inherited>) -> Result<Vec<(Pool, Vec<Listener>)>, Failure> {
    let tell = |level, text: &dyn ToString| journal::line(level, Origin::default(), &text.to_string());
    let (assigned, notices) = activation::assign(&pools, passed).map_err(|errors| {
        let (last, others) = errors.split_last().expect("a failure has a reason");
        others.iter().for_each(|error| tell(Level::Error, error));
        Failure::new(CONFIGURATION, last)
    })?;
    notices.iter().for_each(|notice| tell(Level::Notice, notice));
    let any = !pools.is_empty();
    let mut with = Vec::with_capacity(pools.len());
    for (pool, Assigned { passed: mut sockets, unbound, .. }) in pools.into_iter().zip(assigned) {
        let bound = if unbound.is_empty() { Ok(()) } else { activation::complete(&pool, &mut sockets) };
        match bound {
            Ok(()) => with.push((pool, sockets)),
            Err(error) => {
                tell(Level::Error, &error);
                sockets.into_iter().for_each(|socket| drop(socket.close_and_unlink()));
            }
        }
    }
    if with.is_empty() && any {
        return Err(Failure::said(LAUNCH));
    }
    Ok(with)
}

fn listening(pools: usize) -> String {
    if pools == 1 { "1 pool listens".to_owned() } else { format!("{pools} pools listen") }
}

fn default_parallel_starts() -> usize {
    2 * std::thread::available_parallelism().map_or(1, usize::from)
}

/// What serve made in its runtime directory goes; state directories stay.
fn clean(places: &Places) {
    let _ = fs::remove_dir_all(places.runtime.join("pools"));
    for name in ["serve.json", "lock"] {
        let _ = fs::remove_file(places.runtime.join(name));
    }
    let _ = fs::remove_dir(&places.runtime);
}
