//! `howdah serve`: from what was typed to a running supervisor.

use std::fs::{self, DirBuilder, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use libsystemd::daemon::{NotifyState, notify};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::host::Host;
use super::{CONFIGURATION, Failure, KERNEL, LAUNCH, become_rootless, is_root, places, runtime_dir};
use crate::cli::Serve;
use crate::config::pool::{Pool, ServeConfig};
use crate::config::{Defaults, HostAccounts, load_pools, load_serve, parse_pool};
use crate::journal::{self, Level, Origin};
use crate::pool::activation::{self, Assigned, Inherited};
use crate::pool::admission::{Admission, Fate};
use crate::pool::adoption::{self, Estate, Found};
use crate::pool::prepare::Places;
use crate::pool::supervisor::{Settings, Supervisor, listening};
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
    let (pools, unusable) = load(&arguments.files.pools, &defaults, &accounts)?;
    raise_descriptor_limit();
    warn_of_groups();
    become_rootless()?;
    let _lock = take_runtime_dir(&places.runtime)?;
    let base = open_cgroup(&config, &places.runtime);
    let mut estate = adoption::look(&places, base.as_ref());
    let inherits = !estate.found.is_empty();
    let orphans = take_orphans(&mut estate, &pools, &unusable, &defaults);
    estate.left_alone.iter().for_each(|line| journal::line(Level::Warning, Origin::default(), line));
    let ended = match give_sockets(pools, passed, &mut estate) {
        Ok(pools) => serve(arguments, &config, defaults, &places, base, pools, orphans),
        Err(failure) => {
            base.iter().for_each(Base::remove);
            Err(failure)
        }
    };
    // What still runs rests on what is in the runtime directory.
    if estate.left_alone.is_empty() && (ended.is_ok() || !inherits) {
        clean(&places);
    }
    ended
}

/// From pools with their sockets to the end of serving, in a runtime directory that is ours.
fn serve(
    arguments: Serve,
    config: &ServeConfig,
    defaults: Defaults,
    places: &Places,
    base: Option<Base>,
    mut pools: Vec<Admission>,
    orphans: Vec<Admission>,
) -> Result<(), Failure> {
    let settings = Settings {
        parallel_starts: config.parallel_starts.map_or_else(default_parallel_starts, |n| n as usize),
        templates: config.templates.unwrap_or(u32::from(!arguments.exit_when_idle)) as usize,
        template_memory: config.template_memory.get(),
        template_ids: config.template_ids,
        exit_when_idle: arguments.exit_when_idle,
        places: places.clone(),
    };
    let count = pools.len();
    pools.extend(orphans);
    let paths = arguments.files.pools;
    let reread = Box::new(move || reread(&paths, &defaults));
    end_at_once_on_panic();
    let mut supervisor = Supervisor::new(settings, pools, base, reread)
        .map_err(|error| Failure::new(LAUNCH, format!("epoll: {error}")))?;
    supervisor.warm_up();
    journal::line(Level::Notice, Origin::default(), &format!("ready: {}", listening(count)));
    let _ = notify(false, &[NotifyState::Ready, NotifyState::Status(listening(count))]);
    supervisor.run().map_err(|error| Failure::new(LAUNCH, format!("epoll_wait: {error}")))
}

/// A fault of howdah's own ends it as a kill would: what it holds stays for the next one, sockets and
/// generations, while unwinding would close and remove them; in a child, too, where they are the parent's.
fn end_at_once_on_panic() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        std::process::abort();
    }));
}

/// Reads the pool files; also those that are wrong, which do not keep the others from being served.
fn load(
    paths: &[PathBuf],
    defaults: &Defaults,
    accounts: &HostAccounts,
) -> Result<(Vec<Pool>, Vec<PathBuf>), Failure> {
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
    Ok((loaded.pools, loaded.errors.iter().map(|error| error.file().to_owned()).collect()))
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
    // Configurations with tenants' secrets, and records with what tenants printed: for nobody else's eyes.
    let pools = runtime.join("pools");
    DirBuilder::new().recursive(true).mode(0o700).create(&pools).map_err(refuse)?;
    fs::set_permissions(&pools, fs::Permissions::from_mode(0o700)).map_err(refuse)?;
    let mut file = File::create(runtime.join("lock")).map_err(refuse)?;
    let until = Instant::now() + LOCK_LIMIT;
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((file, Errno::EAGAIN)) if Instant::now() < until => file,
            Err((_, errno)) => {
                let line = match errno {
                    Errno::EAGAIN => {
                        "another serve has it: stop that one or give --runtime-dir DIR".to_owned()
                    }
                    _ => format!("lock: {} ({errno:?})", errno.desc()),
                };
                return Err(Failure::new(LAUNCH, format!("{}: {line}", runtime.display())));
            }
        };
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A serve that was killed while it launched something leaves a child that holds
/// the lock with it until it executes its program.
const LOCK_LIMIT: Duration = Duration::from_millis(300);

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

/// Each pool with its sockets, and with its generation of an earlier howdah if
/// one lives. A pool whose socket cannot be had is left out and the others are
/// served; a passed socket that nobody wants would never answer, and is the end.
fn give_sockets(
    pools: Vec<Pool>,
    passed: Vec<Inherited>,
    estate: &mut Estate,
) -> Result<Vec<Admission>, Failure> {
    let tell = |level, text: &dyn ToString| journal::line(level, Origin::default(), &text.to_string());
    let (assigned, notices) = activation::assign(&pools, passed).map_err(|errors| {
        let (last, others) = errors.split_last().expect("a failure has a reason");
        others.iter().for_each(|error| tell(Level::Error, error));
        Failure::new(CONFIGURATION, last)
    })?;
    notices.iter().for_each(|notice| tell(Level::Notice, notice));
    let any = !pools.is_empty();
    let mut with = Vec::with_capacity(pools.len());
    for (pool, Assigned { passed: sockets, unbound, .. }) in pools.into_iter().zip(assigned) {
        let mut admission = Admission::new(pool, sockets);
        admission.record = estate.records.remove(admission.pool.name.as_str()).unwrap_or_default();
        if let Some(found) = estate.found.remove(admission.pool.name.as_str()) {
            admission.adopt(found, &unbound).map_err(|errno| Failure::new(LAUNCH, errno))?;
        }
        let Admission { pool, listeners, adopted, .. } = &mut admission;
        // What a generation that is to be replaced still has is bound when it has gone.
        let bound = match adopted {
            None if !unbound.is_empty() => activation::complete(pool, listeners),
            _ => Ok(()),
        };
        match bound {
            Ok(()) => with.push(admission),
            Err(error) => {
                tell(Level::Error, &error);
                admission.listeners.into_iter().for_each(|socket| drop(socket.close_and_unlink()));
            }
        }
    }
    if with.is_empty() && any {
        return Err(Failure::said(LAUNCH));
    }
    Ok(with)
}

/// The generations whose pools have no file any more, as pools that drain. They
/// let go of their addresses at once, for other pools may have them now.
fn take_orphans(
    estate: &mut Estate,
    pools: &[Pool],
    unusable: &[PathBuf],
    defaults: &Defaults,
) -> Vec<Admission> {
    let mut names: Vec<String> = estate.found.keys().cloned().collect();
    names.retain(|name| pools.iter().all(|pool| pool.name.as_str() != name));
    names.sort();
    let mut orphans = Vec::new();
    for name in names {
        let Some(found) = estate.found.remove(&name) else { continue };
        let broken = unusable.iter().find(|file| file.is_dir() || file.file_stem() == Some(name.as_ref()));
        let admission = match broken {
            Some(file) => Err(format!("{} cannot be used", file.display())),
            None => orphan(&name, found, estate, defaults),
        };
        match admission {
            Ok(admission) => orphans.push(admission),
            Err(reason) => {
                let line = "its generation of an earlier howdah is left alone";
                estate.left_alone.push(format!("pool {name}: {line}: {reason}"));
            }
        }
    }
    orphans
}

fn orphan(
    name: &str,
    mut found: Found,
    estate: &mut Estate,
    defaults: &Defaults,
) -> Result<Admission, String> {
    let listen: Vec<String> = found.listeners.iter().map(|one| one.address().to_string()).collect();
    let user = found.account().ok_or("its account is gone from this host")?;
    let text = format!("listen = {listen:?}\nuser = {user:?}\n");
    let file = PathBuf::from(format!("{name}.toml"));
    let pool = parse_pool(&text, &file, defaults, &HostAccounts::default()).map_err(|e| e.to_string())?;
    for listener in &mut found.listeners {
        listener.stop_accepting_new().map_err(|error| error.to_string())?;
    }
    let addresses = pool.listen.clone();
    let mut admission = Admission::new(pool, Vec::new());
    admission.record = estate.records.remove(name).unwrap_or_default();
    admission.adopt(found, &addresses).map_err(|errno| errno.to_string())?;
    admission.adopted.iter_mut().for_each(|adopted| adopted.fate = Fate::End);
    Ok(admission)
}

fn default_parallel_starts() -> usize {
    2 * std::thread::available_parallelism().map_or(1, usize::from)
}

/// What serve made in its runtime directory goes; state directories stay.
fn clean(places: &Places) {
    let _ = fs::remove_dir_all(places.runtime.join("pools"));
    for name in ["serve.json", "templates.json", "lock", "events.jsonl", "events.1.jsonl"] {
        let _ = fs::remove_file(places.runtime.join(name));
    }
    let _ = fs::remove_dir(&places.runtime);
}
