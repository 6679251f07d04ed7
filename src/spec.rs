//! Pool, profile and image, told as an OCI runtime spec: pure, and the middle
//! of the way from a pool file to a running container. What OCI has no word
//! for rides in annotations `howdah.*`.

pub mod class;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
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
use crate::config::types::{Bytes, Listen};
use crate::image::Layout;

/// How many of the mounts depend on image and profile only; they come first.
pub const PREPARED_MOUNTS: &str = "howdah.prepared-mounts";
/// The image's directory on the host: the prepared mounts' sources lie in it, and no symlink in it leads out.
pub const IMAGE: &str = "howdah.image";
/// "on" or "off".
pub const LANDLOCK: &str = "howdah.landlock";
/// "once": after the spec's own program none can be executed. Or "any".
pub const EXECVE: &str = "howdah.execve";
/// Of a template, whose listening sockets come when it is bound to a pool. "late": the process is born
/// with the ids of the spec's user on the host, and its maps are written then. "account": it takes them
/// as in every other launch.
pub const IDENTITY: &str = "howdah.identity";
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
/// The rlimits that the pool file asks for, by OCI's names: one above howdah's
/// own hard limit needs CAP_SYS_RESOURCE; any other is lowered to it.
pub const DEMANDED_RLIMITS: &str = "howdah.demanded-rlimits";
/// The mode of its network: "none", "outbound" or "host".
pub const NETWORK: &str = "howdah.network";
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
    /// The lines of io.max: "254:0 rbps=1048576".
    pub io_max: &'a [String],
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
        (EXECVE.to_owned(), input.profile.execve.as_str().to_owned()),
        (CLOSE_DESCRIPTORS.to_owned(), on_off(input.profile.close_descriptors)),
        (NETWORK.to_owned(), network(pool, input.profile).mode().to_owned()),
        (DEMANDED_LIMITS.to_owned(), demanded(&pool.limits).join(" ")),
        (DEMANDED_RLIMITS.to_owned(), demanded_rlimits(&pool.limits)),
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
    let held = !profile.loopback_tcp || tcp_listener(pool).is_some();
    if *network(pool, profile) == Network::None && held {
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
        _ if profile.tcp_listener_held && holds_tcp_listener(pool, profile) => {
            profile.landlock_abi.max(ABI_OF_PORTS)
        }
        _ => profile.landlock_abi,
    }
}

/// Where the pool listens on TCP, first of all.
pub fn tcp_listener(pool: &Pool) -> Option<&Listen> {
    pool.listen.iter().find(|listen| matches!(listen, Listen::Tcp(_)))
}

/// Whether the pool has a socket of the host's network and is to have no way into that.
pub fn holds_tcp_listener(pool: &Pool, profile: &Profile) -> bool {
    tcp_listener(pool).is_some() && !matches!(network(pool, profile), Network::Host(_))
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
    let limits = pool.limits.clone().over(&input.profile.limits);
    let tmp = limits.tmp.unwrap_or(Bytes::new(64 << 20));
    let mut mounts = Vec::new();
    for share in &input.layout.shares {
        let mut options = vec!["rbind", "ro", "nosuid", "nodev"];
        options.extend((!share.executable).then_some("noexec"));
        mounts.push(mount("bind", &share.source, &share.target, &options)?);
    }
    let of_profile = &input.profile.mount_flags;
    let sizes = [tmp, limits.run.unwrap_or(tmp), limits.shm.unwrap_or(tmp)];
    for ((target, mode), bytes) in TMP.into_iter().zip(sizes) {
        let size = format!("size={}", bytes.get());
        // An empty file is no byte of it, and half a KiB of the kernel's memory: one inode for each page.
        let inodes = format!("nr_inodes={}", (bytes.get() / 4096).max(1024));
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
        .rlimits(rlimits(&input.pool.limits.clone().over(&input.profile.limits))?)
        .no_new_privileges(input.profile.no_new_privs)
        // An OOMScoreAdjust= of howdah's own is not for its tenants.
        .oom_score_adj(0)
        .build()
}

/// Seconds of processor time that a process has to end after SIGXCPU.
const CPU_GRACE: u64 = 2;

/// Limits that need no controller, each but one with the same soft as hard value.
/// `tasks` is here as well as in pids.max: in a user namespace RLIMIT_NPROC
/// counts the pool's processes only (Linux 5.14), so that it holds where there
/// is no pids controller. It is one more, so that pids.max, which tells that it
/// was hit, is hit first.
fn rlimits(limits: &Limits) -> Result<Vec<PosixRlimit>, OciSpecError> {
    use PosixRlimitType::{
        RlimitCore, RlimitCpu, RlimitFsize, RlimitMemlock, RlimitMsgqueue, RlimitNice, RlimitNofile,
        RlimitNproc, RlimitRtprio, RlimitSigpending, RlimitStack,
    };
    let bytes = |size: Option<Bytes>| size.map(Bytes::get);
    let all = [
        // Never less than 1. At 0 no file is written, but where kernel.core_pattern is a pipe
        // a crash still starts its program, as root and outside (core(5)); 1 is the kernel's
        // own sign for "not that either", and too little for a file.
        (RlimitCore, bytes(limits.core).or(Some(0)).map(|size| size.max(1))),
        (RlimitNofile, limits.open_files),
        (RlimitNproc, limits.tasks.map(|tasks| tasks + 1)),
        (RlimitFsize, bytes(limits.file_size)),
        (RlimitCpu, limits.cpu_time.map(|span| span.as_secs())),
        (RlimitMemlock, bytes(limits.memlock)),
        (RlimitMsgqueue, bytes(limits.msgqueue)),
        (RlimitSigpending, limits.sigpending),
        (RlimitStack, bytes(limits.stack)),
        // Nobody gets to be more urgent than the neighbours.
        (RlimitNice, Some(0)),
        (RlimitRtprio, Some(0)),
    ];
    let set = all.into_iter().filter_map(|(typ, value)| value.map(|value| (typ, value)));
    // At the hard limit of RLIMIT_CPU the kernel sends SIGKILL, which says nothing; at the soft one SIGXCPU.
    let hard = |typ, value: u64| if typ == RlimitCpu { value + CPU_GRACE } else { value };
    let one =
        |(typ, value)| PosixRlimitBuilder::default().typ(typ).hard(hard(typ, value)).soft(value).build();
    set.map(one).collect()
}

/// OCI's names of the rlimits that the pool file asks for, separated by spaces.
fn demanded_rlimits(asked: &Limits) -> String {
    let all = [
        ("RLIMIT_NOFILE", asked.open_files.is_some()),
        ("RLIMIT_NPROC", asked.tasks.is_some()),
        ("RLIMIT_FSIZE", asked.file_size.is_some()),
        ("RLIMIT_CPU", asked.cpu_time.is_some()),
        ("RLIMIT_CORE", asked.core.is_some()),
        ("RLIMIT_MEMLOCK", asked.memlock.is_some()),
        ("RLIMIT_MSGQUEUE", asked.msgqueue.is_some()),
        ("RLIMIT_SIGPENDING", asked.sigpending.is_some()),
        ("RLIMIT_STACK", asked.stack.is_some()),
    ];
    all.iter().filter(|(_, asked)| *asked).map(|(name, _)| *name).collect::<Vec<_>>().join(" ")
}

fn linux(input: &Input<'_>) -> Result<Linux, OciSpecError> {
    let (pool, profile) = (input.pool, input.profile);
    let limits = pool.limits.clone().over(&profile.limits);
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces(pool, profile)?)
        .resources(LinuxResourcesBuilder::default().unified(unified(&limits, input.io_max)).build()?)
        .cgroups_path(Path::new("/howdah").join(pool.name.as_str()))
        .rootfs_propagation("private");
    if profile.namespaces.contains(&Namespace::User) {
        linux =
            linux.uid_mappings(vec![identity(pool.user.uid)?]).gid_mappings(vec![identity(pool.user.gid)?]);
    }
    if !profile.sysctl.is_empty() {
        linux = linux.sysctl(profile.sysctl.clone().into_iter().collect::<HashMap<_, _>>());
    }
    if let Some(filter) = profile.filter() {
        linux = linux.seccomp(filter);
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

/// The limits as cgroup v2 files and values. `io_max` are the lines of io.max,
/// for which somebody has found the devices.
fn unified(limits: &Limits, io_max: &[String]) -> HashMap<String, String> {
    let bytes = |size: Option<Bytes>| size.map(|bytes| bytes.get().to_string());
    let number = |number: Option<u64>| number.map(|number| number.to_string());
    let cores = |cores: f64| format!("{} 100000", (cores * 100_000.0).round().max(1_000.0) as u64);
    // php-fpm replaces a worker that is out of memory, and the requests of the others go on.
    let group = limits.memory.map(|_| u8::from(limits.oom_group.unwrap_or(false)).to_string());
    [
        ("memory.max", bytes(limits.memory)),
        ("memory.high", bytes(limits.memory_high)),
        ("memory.oom.group", group),
        ("memory.swap.max", bytes(limits.swap)),
        ("pids.max", number(limits.tasks)),
        ("cpu.max", limits.cpu.map(cores)),
        ("cpu.weight", number(limits.cpu_weight)),
        ("io.weight", number(limits.io_weight)),
        ("io.max", (!io_max.is_empty()).then(|| io_max.join("\n"))),
    ]
    .into_iter()
    .filter_map(|(key, value)| value.map(|value| (key.to_owned(), value)))
    .collect()
}

/// What the annotation `key` of a spec says.
pub fn annotation<'a>(spec: &'a Spec, key: &str) -> Option<&'a str> {
    spec.annotations().as_ref()?.get(key).map(String::as_str)
}

/// The mounts of a spec that belong to image and profile, and those that are the pool's own.
pub fn mounts_of(spec: &Spec) -> (&[Mount], &[Mount]) {
    let all = spec.mounts().as_deref().unwrap_or_default();
    let prepared = annotation(spec, PREPARED_MOUNTS).and_then(|count| count.parse().ok()).unwrap_or(0);
    all.split_at(all.len().min(prepared))
}

/// The cgroup v2 files and values of a spec, sorted by file.
pub fn limits_of(spec: &Spec) -> BTreeMap<String, String> {
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let unified = resources.and_then(|resources| resources.unified().as_ref());
    unified.into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// The cgroup v2 files of the limits that the pool file asks for.
pub fn demanded(asked: &Limits) -> Vec<&'static str> {
    [
        ("memory.max", asked.memory.is_some()),
        ("memory.high", asked.memory_high.is_some()),
        ("memory.oom.group", asked.oom_group == Some(true)),
        ("memory.swap.max", asked.swap.is_some()),
        ("pids.max", asked.tasks.is_some()),
        ("cpu.max", asked.cpu.is_some()),
        ("cpu.weight", asked.cpu_weight.is_some()),
        ("io.weight", asked.io_weight.is_some()),
        ("io.max", !asked.io_max.is_empty()),
    ]
    .into_iter()
    .filter_map(|(key, asked)| asked.then_some(key))
    .collect()
}
