//! Pool, profile and image, told as an OCI runtime spec: pure, and the middle
//! of the way from a pool file to a running container. What OCI has no word
//! for rides in annotations `howdah.*`.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Linux, LinuxBuilder, LinuxCapabilitiesBuilder, LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace,
    LinuxNamespaceBuilder, LinuxNamespaceType, LinuxResourcesBuilder, Mount, MountBuilder, PosixRlimit,
    PosixRlimitBuilder, PosixRlimitType, Process, ProcessBuilder, RootBuilder, Spec, SpecBuilder,
    UserBuilder,
};

use crate::config::network::Ports;
use crate::config::pool::{Access, Limits, Network, Pool};
use crate::config::profile::{MountFlag, MountKind, Namespace, Proc, Profile};
use crate::config::types::Bytes;
use crate::image::Layout;

/// How many of the mounts depend on image and profile only; they come first.
pub const PREPARED_MOUNTS: &str = "howdah.prepared-mounts";
/// The image's directory on the host: the prepared mounts' sources lie in it, and no symlink in it leads out.
pub const IMAGE: &str = "howdah.image";
/// "on" or "off".
pub const LANDLOCK: &str = "howdah.landlock";
/// The least ABI of Landlock: below it there is no launch.
pub const LANDLOCK_ABI: &str = "howdah.landlock.abi";
/// Paths below which Landlock allows execution, as a JSON list. (Reading is allowed everywhere.)
pub const LANDLOCK_EXECUTE: &str = "howdah.landlock.execute";
/// Paths below which Landlock allows writing, as a JSON list.
pub const LANDLOCK_WRITE: &str = "howdah.landlock.write";
/// TCP ports that Landlock allows to bind, as a JSON list; not there: all.
pub const LANDLOCK_TCP_BIND: &str = "howdah.landlock.tcp-bind";
/// TCP ports that Landlock allows to connect to, as a JSON list; not there: all.
pub const LANDLOCK_TCP_CONNECT: &str = "howdah.landlock.tcp-connect";
/// And the key of a pool file or profile: the place that says what is in force.
pub const FROM: &str = "howdah.from.";
/// "off": descriptors that howdah did not place stay open; only to show in a test what closing them is for.
pub const CLOSE_DESCRIPTORS: &str = "howdah.close-descriptors";
/// The limits that the pool file asks for: without their controller the pool does not start.
pub const DEMANDED_LIMITS: &str = "howdah.demanded-limits";
/// Where the pool listens, separated by spaces.
pub const LISTEN: &str = "howdah.listen";

/// What to make a spec of.
#[derive(Debug)]
pub struct Input<'a> {
    /// The pool.
    pub pool: &'a Pool,
    /// Its profile, loaded.
    pub profile: &'a Profile,
    /// Its image's directory on the host.
    pub image: &'a Path,
    /// Its image's parts.
    pub layout: &'a Layout,
    /// The directory that is its root: howdah's, small, read-only inside.
    pub rootfs: &'a Path,
    /// Directories of its own that outlive a generation: the host's path and the path inside.
    pub state: &'a [(PathBuf, PathBuf)],
    /// Directories of services' sockets, at the same path inside.
    pub services: &'a [&'a Path],
    /// The program, its path first.
    pub args: Vec<String>,
    /// Its environment, "KEY=value".
    pub env: Vec<String>,
}

/// The spec of one generation.
///
/// # Errors
/// The builder's, for a value that the runtime spec does not allow.
pub fn build(input: &Input<'_>) -> Result<Spec, OciSpecError> {
    let (mounts, prepared) = mounts(input)?;
    let pool = input.pool;
    let mut annotations = HashMap::from([
        (PREPARED_MOUNTS.to_owned(), prepared.to_string()),
        (IMAGE.to_owned(), input.image.display().to_string()),
        (CLOSE_DESCRIPTORS.to_owned(), on_off(input.profile.close_descriptors)),
        (DEMANDED_LIMITS.to_owned(), demanded(&pool.limits).join(" ")),
        (LISTEN.to_owned(), pool.listen.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")),
    ]);
    annotations.extend(landlock(input).into_iter().map(|(key, value)| (key.to_owned(), value)));
    SpecBuilder::default()
        .version("1.0.2")
        .root(RootBuilder::default().path(input.rootfs).readonly(true).build()?)
        .mounts(mounts)
        .process(process(input)?)
        .hostname(pool.name.as_str())
        .linux(linux(input)?)
        .annotations(annotations)
        .build()
}

fn on_off(on: bool) -> String {
    if on { "on" } else { "off" }.to_owned()
}

/// What Landlock allows: everything that is mounted for what it is there for,
/// whatever the flags of its mount say.
fn landlock(input: &Input<'_>) -> Vec<(&'static str, String)> {
    let (pool, profile) = (input.pool, input.profile);
    if !profile.landlock {
        return vec![(LANDLOCK, on_off(false))];
    }
    let list = |paths: &[String]| serde_json::to_string(paths).unwrap_or_default();
    let image = input.layout.shares.iter().filter(|share| share.executable).map(|share| &*share.target);
    let mut execute: Vec<String> = image.map(|path| path.display().to_string()).collect();
    let mut write = Vec::new();
    for kind in MountKind::ALL {
        let paths: Vec<String> = match kind {
            MountKind::Tmp => TMP.iter().map(|(path, _)| (*path).to_owned()).collect(),
            MountKind::Code => targets(pool, Access::ReadOnly).collect(),
            MountKind::Writable => {
                let state = input.state.iter().map(|(_, target)| target.display().to_string());
                state.chain(targets(pool, Access::ReadWrite)).collect()
            }
        };
        execute.extend(paths.iter().filter(|_| profile.landlock_execute.contains(&kind)).cloned());
        write.extend(paths.into_iter().filter(|_| kind != MountKind::Code));
    }
    let mut rules = vec![
        (LANDLOCK, on_off(true)),
        (LANDLOCK_ABI, least_abi(pool, profile).to_string()),
        (LANDLOCK_EXECUTE, list(&execute)),
        (LANDLOCK_WRITE, list(&write)),
    ];
    let mut ports = network(pool, profile).ports();
    if *network(pool, profile) == Network::None && !profile.loopback_tcp {
        ports = Ports { connect: Some(Vec::new()), bind: Some(Vec::new()) };
    }
    for (key, ports) in [(LANDLOCK_TCP_BIND, ports.bind), (LANDLOCK_TCP_CONNECT, ports.connect)] {
        rules.extend(ports.map(|ports| (key, serde_json::to_string(&ports).unwrap_or_default())));
    }
    rules
}

/// The targets of the pool's mounts of one kind.
fn targets(pool: &Pool, access: Access) -> impl Iterator<Item = String> + '_ {
    let mounts = pool.mounts.iter().filter(move |mount| mount.access == access);
    mounts.map(|mount| mount.target.to_string())
}

/// The least ABI of Landlock: the profile's, and what the pool's ports need.
pub fn least_abi(pool: &Pool, profile: &Profile) -> u32 {
    match network(pool, profile) {
        Network::Host(ports) if *ports != Ports::default() => profile.landlock_abi.max(ABI_OF_PORTS),
        _ => profile.landlock_abi,
    }
}

/// Landlock knows of TCP ports from here on.
pub const ABI_OF_PORTS: u32 = 4;

/// The network of a pool: its file's word, or its profile's.
pub fn network<'a>(pool: &'a Pool, profile: &'a Profile) -> &'a Network {
    pool.network.as_ref().unwrap_or(&profile.network)
}

/// The tmpfs of every sandbox, and their modes.
const TMP: [(&str, &str); 3] = [("/tmp", "mode=1777"), ("/run", "mode=755"), ("/dev/shm", "mode=1777")];

/// mount(8) options out of a profile's flags.
fn flags(of: &BTreeSet<MountFlag>) -> Vec<&'static str> {
    let access = if of.contains(&MountFlag::ReadOnly) { "ro" } else { "rw" };
    let others = of.iter().filter(|flag| **flag != MountFlag::ReadOnly);
    [access].into_iter().chain(others.map(|flag| flag.as_str())).collect()
}

/// The mounts, and how many of them belong to image and profile.
fn mounts(input: &Input<'_>) -> Result<(Vec<Mount>, usize), OciSpecError> {
    let pool = input.pool;
    let tmp = pool.limits.tmp.or(input.profile.limits.tmp).unwrap_or(Bytes::new(64 << 20)).get();
    let mut mounts = Vec::new();
    for share in &input.layout.shares {
        let mut options = vec!["rbind", "ro", "nosuid", "nodev"];
        options.extend((!share.executable).then_some("noexec"));
        mounts.push(mount("bind", &share.source, &share.target, &options)?);
    }
    let of_profile = &input.profile.mount_flags;
    let size = format!("size={tmp}");
    // An empty file is no byte of it, and half a KiB of the kernel's memory: one inode for each page.
    let inodes = format!("nr_inodes={}", (tmp / 4096).max(1024));
    for (target, mode) in TMP {
        let (uid, gid) = (format!("uid={}", pool.user.uid), format!("gid={}", pool.user.gid));
        let options = [&flags(&of_profile.tmp)[..], &[mode, &size, &inodes, &uid, &gid]].concat();
        mounts.push(mount("tmpfs", Path::new("tmpfs"), Path::new(target), &options)?);
    }
    let mut proc = vec!["nosuid", "nodev", "noexec"];
    proc.extend((input.profile.proc == Proc::Pid).then_some("subset=pid"));
    mounts.push(mount("proc", Path::new("proc"), Path::new("/proc"), &proc)?);
    let prepared = mounts.len();
    let bound = |flags: Vec<&'static str>| [vec!["rbind"], flags].concat();
    for (source, target) in input.state {
        mounts.push(mount("bind", source, target, &bound(flags(&of_profile.writable)))?);
    }
    for directory in input.services {
        mounts.push(mount("bind", directory, directory, &["rbind", "ro", "nosuid", "nodev", "noexec"])?);
    }
    for asked in &pool.mounts {
        let options = bound(flags(match asked.access {
            Access::ReadOnly => &of_profile.code,
            Access::ReadWrite => &of_profile.writable,
        }));
        mounts.push(mount("bind", asked.source.as_path(), asked.target.as_path(), &options)?);
    }
    Ok((mounts, prepared))
}

fn mount(kind: &str, source: &Path, target: &Path, options: &[&str]) -> Result<Mount, OciSpecError> {
    let options: Vec<String> = options.iter().map(|word| (*word).to_owned()).collect();
    MountBuilder::default().typ(kind).source(source).destination(target).options(options).build()
}

fn process(input: &Input<'_>) -> Result<Process, OciSpecError> {
    let account = &input.pool.user;
    let kept: HashSet<_> = input
        .profile
        .capabilities
        .iter()
        .filter_map(|capability| capability.to_string().trim_start_matches("CAP_").parse().ok())
        .collect();
    let sets = LinuxCapabilitiesBuilder::default()
        .bounding(kept.clone())
        .effective(kept.clone())
        .permitted(kept.clone())
        .inheritable(kept.clone())
        .ambient(kept)
        .build()?;
    ProcessBuilder::default()
        .terminal(false)
        .user(UserBuilder::default().uid(account.uid).gid(account.gid).build()?)
        .args(input.args.clone())
        .env(input.env.clone())
        .cwd("/")
        .capabilities(sets)
        .rlimits(rlimits(&input.pool.limits, &input.profile.limits)?)
        .no_new_privileges(input.profile.no_new_privs)
        .build()
}

/// Limits that need no controller. `tasks` is here as well as in pids.max: in a
/// user namespace RLIMIT_NPROC counts the pool's processes only (Linux 5.14), so
/// that it holds where there is no pids controller.
fn rlimits(asked: &Limits, defaults: &Limits) -> Result<Vec<PosixRlimit>, OciSpecError> {
    let one = |typ, value: u64| PosixRlimitBuilder::default().typ(typ).hard(value).soft(value).build();
    let mut all = vec![one(PosixRlimitType::RlimitCore, 0)?];
    if let Some(files) = asked.open_files.or(defaults.open_files) {
        all.push(one(PosixRlimitType::RlimitNofile, files)?);
    }
    if let Some(tasks) = asked.tasks.or(defaults.tasks) {
        all.push(one(PosixRlimitType::RlimitNproc, tasks)?);
    }
    Ok(all)
}

fn linux(input: &Input<'_>) -> Result<Linux, OciSpecError> {
    let (pool, profile) = (input.pool, input.profile);
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces(pool, profile)?)
        .resources(LinuxResourcesBuilder::default().unified(unified(&pool.limits, &profile.limits)).build()?)
        .cgroups_path(Path::new("/howdah").join(pool.name.as_str()))
        .rootfs_propagation("private");
    if profile.namespaces.contains(&Namespace::User) {
        linux =
            linux.uid_mappings(vec![identity(pool.user.uid)?]).gid_mappings(vec![identity(pool.user.gid)?]);
    }
    if !profile.sysctl.is_empty() {
        linux = linux.sysctl(profile.sysctl.clone().into_iter().collect::<HashMap<_, _>>());
    }
    if let Some(filter) = &profile.seccomp {
        linux = linux.seccomp(filter.clone());
    }
    if profile.proc == Proc::Full {
        let list = |paths: &[crate::config::types::AbsPath]| {
            paths.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        linux = linux.masked_paths(list(&profile.masked_paths)).readonly_paths(list(&profile.readonly_paths));
    } else {
        linux = linux.masked_paths(Vec::<String>::new()).readonly_paths(Vec::<String>::new());
    }
    linux.build()
}

/// One id, the same inside as outside.
fn identity(id: u32) -> Result<LinuxIdMapping, OciSpecError> {
    LinuxIdMappingBuilder::default().host_id(id).container_id(id).size(1u32).build()
}

fn namespaces(pool: &Pool, profile: &Profile) -> Result<Vec<LinuxNamespace>, OciSpecError> {
    let shared = matches!(network(pool, profile), Network::Host(_));
    let wanted = profile.namespaces.iter().filter(|kind| !(shared && **kind == Namespace::Network));
    wanted
        .map(|kind| {
            let typ = match kind {
                Namespace::User => LinuxNamespaceType::User,
                Namespace::Mount => LinuxNamespaceType::Mount,
                Namespace::Pid => LinuxNamespaceType::Pid,
                Namespace::Network => LinuxNamespaceType::Network,
                Namespace::Ipc => LinuxNamespaceType::Ipc,
                Namespace::Uts => LinuxNamespaceType::Uts,
                Namespace::Cgroup => LinuxNamespaceType::Cgroup,
            };
            LinuxNamespaceBuilder::default().typ(typ).build()
        })
        .collect()
}

/// The limits as cgroup v2 files and values, asked for or by default.
pub fn unified(asked: &Limits, defaults: &Limits) -> HashMap<String, String> {
    let bytes = |one: Option<Bytes>, other: Option<Bytes>| one.or(other).map(|bytes| bytes.get().to_string());
    let number = |one: Option<u64>, other: Option<u64>| one.or(other).map(|number| number.to_string());
    let cores = |cores: f64| format!("{} 100000", (cores * 100_000.0).round().max(1_000.0) as u64);
    let mut files = HashMap::new();
    let mut put = |key: &str, value: Option<String>| value.map(|value| files.insert(key.to_owned(), value));
    let memory = bytes(asked.memory, defaults.memory);
    // All of a pool ends when one of it does: half a php-fpm serves nobody.
    put("memory.oom.group", memory.as_ref().map(|_| "1".to_owned()));
    put("memory.max", memory);
    put("memory.swap.max", bytes(asked.swap, defaults.swap));
    put("pids.max", number(asked.tasks, defaults.tasks));
    put("cpu.max", asked.cpu.or(defaults.cpu).map(cores));
    put("cpu.weight", number(asked.cpu_weight, defaults.cpu_weight));
    put("io.weight", number(asked.io_weight, defaults.io_weight));
    files
}

/// The cgroup v2 files of the limits that the pool file asks for.
pub fn demanded(asked: &Limits) -> Vec<&'static str> {
    [
        ("memory.max", asked.memory.is_some()),
        ("memory.swap.max", asked.swap.is_some()),
        ("pids.max", asked.tasks.is_some()),
        ("cpu.max", asked.cpu.is_some()),
        ("cpu.weight", asked.cpu_weight.is_some()),
        ("io.weight", asked.io_weight.is_some()),
    ]
    .into_iter()
    .filter_map(|(key, asked)| asked.then_some(key))
    .collect()
}
