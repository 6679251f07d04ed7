//! What a howdah that died left behind: its generations serve on, and the next
//! howdah takes over each one that it can prove to be its own.
//!
//! The proof of a generation: its process is alive; its cgroup is `POOL.NUMBER`
//! below our base, where only howdah and root can put a process, and our runtime
//! directory has the pool; it is process 1 of its pid namespace, with the pid
//! and start time of the record, if that was still written; it runs a php-fpm;
//! and it listens. Without a cgroup the record alone must tell pid and start
//! time. What cannot be proven is left alone and told.

use std::collections::HashMap;
use std::fs;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::activation::{Identity, Listener};
use super::generation::Generation;
use super::prepare::Places;
use super::quiesce::{self, Freezer};
use super::record::{self, Record, Roll};
use super::templates::{self, Lodging};
use crate::sandbox::cgroup::{Base, Cgroup};
use crate::sandbox::uplink::Uplink;
use crate::sys;

/// All that was left behind.
#[derive(Default)]
pub struct Estate {
    /// The generations that live, by their pool's name.
    pub found: HashMap<String, Found>,
    /// The last record of every pool that has one.
    pub records: HashMap<String, Record>,
    /// One line for each generation that is left alone.
    pub left_alone: Vec<String>,
}

/// A generation that is ours.
pub struct Found {
    /// It, thawed.
    pub generation: Generation,
    /// The sockets it listens on, each a duplicate of its descriptor.
    pub listeners: Vec<Listener>,
    /// Whether its network had a way out and has none any more.
    pub uplink_lost: bool,
}

impl Found {
    /// The account that its php-fpm runs as; `None` where it is gone from the host.
    pub fn account(&self) -> Option<String> {
        let owner = fs::metadata(format!("/proc/{}", self.generation.process.pid)).ok()?.uid();
        nix::unistd::User::from_uid(owner.into()).ok()?.map(|user| user.name)
    }
}

/// What may be a generation.
struct Candidate {
    pool: String,
    number: u64,
    pid: Pid,
    freezer: Freezer,
    /// What it has on the host beside its cgroup, where it began as a template.
    lodging: Option<Lodging>,
}

/// How long what is not php-fpm may take to become that: a wrapper, and howdah's own child, which
/// sets up its walls, on a busy machine.
const EXEC_LIMIT: Duration = Duration::from_millis(500);
const LAUNCH_LIMIT: Duration = Duration::from_secs(5);
/// Of a generation that cannot be asked anything.
const NOWHERE: &str = "it listens nowhere";
/// How long what was killed may take to be gone.
const END_LIMIT: Duration = Duration::from_millis(500);

/// Looks for what the last howdah with this runtime directory left, and tidies
/// away what is dead of it. The directory's lock must be held.
pub fn look(places: &Places, base: Option<&Base>) -> Estate {
    let pools = places.runtime.join("pools");
    let mut estate = Estate { records: read_records(&pools), ..Estate::default() };
    let files = socket_files(&places.runtime);
    let mut candidates = base.map(|base| in_cgroups(base, &pools, &estate.records)).unwrap_or_default();
    candidates.extend(base.into_iter().flat_map(|base| bound_templates(base, places)));
    candidates.extend(by_record_alone(&estate.records));
    let mut kept = Vec::new();
    // The newest of a pool comes last, and takes the place of an older one.
    candidates.sort_by_key(|candidate| candidate.number);
    for mut candidate in candidates {
        let (pool, number, pid) = (candidate.pool.clone(), candidate.number, candidate.pid);
        kept.push(pool.clone());
        let place = candidate.freezer.cgroup().map(|cgroup| cgroup.directory().to_owned());
        let mut lodging = candidate.lodging.take().map(ManuallyDrop::new);
        let record = estate.records.entry(pool.clone()).or_default();
        let taken = take(candidate, record, files.get(&pool).map_or(&[], Vec::as_slice));
        record.generation = record.generation.max(number);
        let reason = match taken {
            Ok(mut found) => {
                found.generation.lodging = lodging.take();
                let older = estate.found.insert(pool.clone(), found);
                older.map(|older| (older.generation.number, "a newer one runs".to_owned()))
            }
            // Its howdah died before it had its sockets: it has served nobody. Or it has just ended.
            Err(reason) => match place.filter(|_| {
                lodging.is_some() && reason == NOWHERE && templates::lacks_sockets(pid) || is_ending(pid)
            }) {
                Some(directory) => {
                    lodging.take().map(ManuallyDrop::into_inner);
                    let _ = Cgroup::open(&directory).map(|cgroup| end(&cgroup));
                    None
                }
                None => Some((number, reason)),
            },
        };
        estate.left_alone.extend(reason.map(|(number, reason)| {
            format!(
                "pool {pool}: generation {number} (pid {pid}) of an earlier howdah is left alone: {reason}"
            )
        }));
    }
    for directory in directories(&pools).filter(|path| !kept.contains(&name_of(path))) {
        let _ = fs::remove_dir_all(directory);
    }
    for record in estate.records.values_mut() {
        (record.pid, record.start_time, record.cgroup) = (None, None, None);
        record.uplink = None;
    }
    estate
}

fn directories(parent: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir())
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn read_records(pools: &Path) -> HashMap<String, Record> {
    let read = |path: PathBuf| Some((name_of(&path), record::read(&path.join("state.json")).ok()?));
    directories(pools).filter_map(read).collect()
}

/// For each pool of the last roll, the addresses and the files of the sockets that howdah bound.
fn socket_files(runtime: &Path) -> HashMap<String, Vec<(String, Option<Identity>)>> {
    let Ok(roll) = record::read::<Roll>(&record::roll_file(runtime)) else { return HashMap::new() };
    let pools = roll.pools.into_iter();
    pools.map(|entry| (entry.pool, entry.listen.into_iter().zip(entry.files).collect())).collect()
}

/// The living cgroups `POOL.NUMBER` below `base`; dead ones are removed.
fn in_cgroups(base: &Base, pools: &Path, records: &HashMap<String, Record>) -> Vec<Candidate> {
    let mut candidates = Vec::new();
    for directory in directories(base.directory()) {
        let name = name_of(&directory);
        let Some((pool, number)) = name.rsplit_once('.') else { continue };
        let Ok(number) = number.parse() else { continue };
        let known = records.contains_key(pool) || pools.join(pool).is_dir();
        let (true, Ok(cgroup)) = (known, Cgroup::open(&directory)) else { continue };
        match first_process(&cgroup) {
            Some(pid) => {
                let freezer = Freezer::Cgroup(cgroup);
                candidates.push(Candidate { pool: pool.to_owned(), number, pid, freezer, lodging: None });
            }
            None => end(&cgroup),
        }
    }
    candidates
}

/// Templates of an earlier howdah that became a pool's; the others, which served nobody, are ended.
fn bound_templates(base: &Base, places: &Places) -> Vec<Candidate> {
    let mut candidates = Vec::new();
    let mut kept = Vec::new();
    for directory in directories(base.directory()) {
        let name = name_of(&directory);
        let (true, Ok(cgroup)) = (templates::is_cgroup(&name), Cgroup::open(&directory)) else { continue };
        let found = templates::find(places, &name);
        match found.and_then(|found| Some((found, first_process(&cgroup)?))) {
            Some(((pool, number, lodging), pid)) => {
                kept.push(name);
                let (freezer, lodging) = (Freezer::Cgroup(cgroup), Some(lodging));
                candidates.push(Candidate { pool, number, pid, freezer, lodging });
            }
            None => end(&cgroup),
        }
    }
    templates::tidy(places, &kept);
    candidates
}

/// The process of the cgroup that is process 1 of its pid namespace (NSpid of proc_pid_status(5)).
fn first_process(cgroup: &Cgroup) -> Option<Pid> {
    let is_first = |pid: &Pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        field("NSpid:").is_some_and(|pids| pids.split_whitespace().nth(1) == Some("1"))
            && field("State:").is_some_and(|state| !state.trim().starts_with(['Z', 'X']))
    };
    cgroup.processes().ok()?.into_iter().find(is_first)
}

/// Whether a process is on its way out: it has no program any more (proc_pid_exe(5)).
fn is_ending(pid: Pid) -> bool {
    let gone = |error: std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
    fs::read_link(format!("/proc/{pid}/exe")).is_err_and(gone)
}

/// Removes a cgroup in which nothing can be but processes whose process 1 was killed.
fn end(cgroup: &Cgroup) {
    cgroup.kill();
    let end = Instant::now() + END_LIMIT;
    while cgroup.remove().is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY))
        && Instant::now() < end
    {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Generations that were launched without a cgroup.
fn by_record_alone(records: &HashMap<String, Record>) -> Vec<Candidate> {
    let without = records.iter().filter(|(_, record)| record.cgroup.is_none());
    without
        .filter_map(|(pool, record)| {
            let pid = Pid::from_raw(record.pid?);
            let same = record.start_time.is_some() && quiesce::start_time(pid) == record.start_time;
            let (pool, number) = (pool.clone(), record.generation);
            same.then_some(Candidate { pool, number, pid, freezer: Freezer::Signals, lodging: None })
        })
        .collect()
}

/// Takes a generation over, or says why not.
fn take(
    candidate: Candidate,
    record: &Record,
    files: &[(String, Option<Identity>)],
) -> Result<Found, String> {
    let Candidate { number, pid, freezer, .. } = candidate;
    let because = |what: &'static str| move |errno: nix::errno::Errno| format!("{what}: {}", errno.desc());
    let pidfd = sys::pidfd_open(pid).map_err(because("pidfd_open"))?;
    // From here on the number cannot come to mean another process unseen: that the
    // pidfd's lives is asked when all is read.
    if let Some(cgroup) = freezer.cgroup() {
        if !cgroup.processes().is_ok_and(|all| all.contains(&pid)) {
            return Err("it has left its cgroup".to_owned());
        }
    }
    let recorded = record.generation == number && record.pid.is_some();
    if recorded && (record.pid, record.start_time) != (Some(pid.as_raw()), quiesce::start_time(pid)) {
        return Err(format!("its record names another process, {}", record.pid.unwrap_or_default()));
    }
    // A howdah that died while it looked into it left it standing still.
    freezer.thaw(pid).map_err(|error| format!("it cannot be thawed: {}", sys::told(&error)))?;
    await_php_fpm(pid)?;
    let listeners = listeners_of(pid, &pidfd, files)?;
    let uplink = record.uplink.filter(|_| recorded).and_then(|uplink| take_uplink(uplink, &freezer));
    let generation =
        Generation::adopt(number, (pid, pidfd), freezer, uplink).map_err(|error| sys::told(&error))?;
    if generation.has_ended() {
        return Err("it has just ended".to_owned());
    }
    let uplink_lost = record.uplink.is_some() && generation.uplink.is_none();
    Ok(Found { generation, listeners, uplink_lost })
}

/// What carries the packets of a generation: the process of the record, in the generation's cgroup.
fn take_uplink((pid, start): (i32, u64), freezer: &Freezer) -> Option<Uplink> {
    let pid = Pid::from_raw(pid);
    let pidfd = sys::pidfd_open(pid).ok()?;
    // Asked with the pidfd open: from here on the number means this process.
    let same = quiesce::start_time(pid) == Some(start);
    let inside = freezer.cgroup().is_none_or(|cgroup| cgroup.processes().is_ok_and(|all| all.contains(&pid)));
    (same && inside).then(|| Uplink::adopt(pid, pidfd))
}

/// Without root a howdah has no rights over what another's user namespace holds.
fn not_looked_into(error: &std::io::Error) -> String {
    format!("it cannot be looked into: {}", sys::told(error))
}

/// Waits until the process has become php-fpm: its howdah may have died while it was setting up its walls.
fn await_php_fpm(pid: Pid) -> Result<(), String> {
    let began = Instant::now();
    let own = std::env::current_exe().unwrap_or_default();
    loop {
        let program = fs::read_link(format!("/proc/{pid}/exe")).map_err(|error| not_looked_into(&error))?;
        if name_of(&program).starts_with("php") {
            return Ok(());
        }
        let is_child = name_of(&program).starts_with(&name_of(&own));
        if began.elapsed() >= if is_child { LAUNCH_LIMIT } else { EXEC_LIMIT } {
            return Err(format!("{} is no php-fpm", program.display()));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Duplicates of the descriptors that are listening sockets.
fn listeners_of(
    pid: Pid,
    pidfd: &OwnedFd,
    files: &[(String, Option<Identity>)],
) -> Result<Vec<Listener>, String> {
    let mut numbers: Vec<i32> = fs::read_dir(format!("/proc/{pid}/fd"))
        .map_err(|error| not_looked_into(&error))?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    numbers.sort_unstable();
    let mut listeners: Vec<Listener> = Vec::new();
    for number in numbers {
        let Ok(fd) = sys::pidfd_getfd(pidfd.as_fd(), number) else { continue };
        if let Some(listener) = Listener::adopt(fd, files) {
            if !listeners.iter().any(|other| other.address() == listener.address()) {
                listeners.push(listener);
            }
        }
    }
    if listeners.is_empty() { Err(NOWHERE.to_owned()) } else { Ok(listeners) }
}
