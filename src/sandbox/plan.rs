//! The plan of one launch: everything that can be refused, refused before
//! clone3(2). Paths are opened, filters compiled, strings made.
//!
//! A plan has three parts, for a launch has: **prepare** depends on image and
//! profile only, **bind** on what the sandbox is for, **release** executes.
//! A cold launch does the three in a row. The first mounts of the spec, as many
//! as the annotation [`PREPARED_MOUNTS`](crate::spec::PREPARED_MOUNTS) says, belong to prepare.

use std::collections::HashSet;
use std::ffi::{CString, NulError};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType, PosixRlimitType, Process, Spec};
use seccompiler::BpfProgram;

use super::gate::Waiting;
use super::landlock::{Rules, Use};
use super::mounts::{self, Sources, Tree};
use super::step::{At, Step, StepError};
use super::sysctl::{self, Sysctls};
use crate::spec::{
    CLOSE_DESCRIPTORS, DEMANDED_RLIMITS, EXECVE, IDENTITY, IMAGE, LANDLOCK, LANDLOCK_ABI, LANDLOCK_EXECUTE,
    LANDLOCK_TCP_BIND, LANDLOCK_TCP_CONNECT, LANDLOCK_WRITE, annotation, mounts_of,
};
use crate::{paths, sys};

/// Depends on image and profile.
pub(super) struct Prepare {
    /// `CLONE_NEW*` bits, without CLONE_NEWCGROUP, which comes after birth.
    pub(super) namespaces: u64,
    /// Whether the child makes its own cgroup namespace.
    pub(super) cgroup_namespace: bool,
    /// The root, a detached tree.
    pub(super) root: OwnedFd,
    /// Image, devices, private file systems.
    pub(super) trees: Vec<Tree>,
    /// Hidden: a directory under an empty one, a file under /dev/null.
    pub(super) masked: Vec<PathBuf>,
    /// Read-only although their mount is not.
    pub(super) readonly: Vec<PathBuf>,
    /// Whether it must be born in the network namespace that it is given, and makes none.
    pub(super) given_network: bool,
    /// Settings of the kernel for its own namespaces.
    pub(super) sysctls: Sysctls,
    /// `None`: the profile switched Landlock off.
    pub(super) landlock: Option<Rules>,
    /// Empty: the profile switched seccomp off.
    pub(super) seccomp: Rc<[BpfProgram]>,
    /// Calls that may be made once.
    pub(super) waiting: Option<Waiting>,
    /// Whether no_new_privs is set.
    pub(super) no_new_privs: bool,
    /// Capabilities that stay; none but in a profile that weakens.
    pub(super) capabilities: HashSet<caps::Capability>,
}

/// Depends on what the sandbox is for.
pub(super) struct Bind {
    /// Its own mounts.
    pub(super) trees: Vec<Tree>,
    /// Its host name.
    pub(super) hostname: String,
    /// Its limits.
    pub(super) rlimits: Vec<Rlimit>,
    /// The least oom_score_adj (proc_pid_oom_score_adj(5)): howdah's own may be lower, to protect it.
    pub(super) oom_score_adj: Option<i32>,
    /// Who it is.
    pub(super) identity: Identity,
}

/// A limit of getrlimit(2).
#[derive(Debug, Clone, Copy)]
pub(super) struct Rlimit {
    /// Which, by OCI's name.
    pub(super) name: PosixRlimitType,
    /// Which, by the kernel's.
    pub(super) resource: Resource,
    /// How much.
    pub(super) soft: u64,
    /// How far a process may raise that.
    pub(super) hard: u64,
    /// Whether it is above howdah's own hard limit: then the parent sets it.
    pub(super) raises: bool,
}

impl Rlimit {
    /// "RLIMIT_NOFILE to 1024"
    pub(super) fn words(&self) -> String {
        format!("{} to {}", self.name, self.hard)
    }
}

/// The one user and group of the sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    /// The uid inside.
    pub(super) uid: u32,
    /// The gid inside.
    pub(super) gid: u32,
    /// What uid_map and gid_map are to say.
    pub(super) maps: Maps,
    /// Whether setgroups(2) is allowed; it is not below an unprivileged user namespace (user_namespaces(7)).
    pub(super) may_set_groups: bool,
}

/// The id maps of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Maps {
    /// There is no user namespace.
    None,
    /// "INSIDE HOST 1" for uid_map and gid_map.
    Now(String, String),
    /// The process is born with the host's ids, and the maps are written when it is bound.
    Late,
}

/// The program.
pub(super) struct Release {
    pub(super) argv: Vec<CString>,
    pub(super) envp: Vec<CString>,
    pub(super) cwd: PathBuf,
    /// Descriptors 0, 1, 2 and on, in order.
    pub(super) descriptors: Vec<OwnedFd>,
    /// Whether all others close on exec.
    pub(super) close_others: bool,
    /// Whether the program is executed only when the parent says that the network is there.
    pub(super) awaits_network: bool,
}

/// One launch, ready.
pub struct Plan {
    pub(super) prepare: Prepare,
    pub(super) bind: Bind,
    pub(super) release: Release,
}

impl Plan {
    /// Makes the plan of `spec`. `descriptors` become 0, 1, 2 and on in the
    /// sandbox; `seccomp` is the spec's filter, compiled.
    ///
    /// # Errors
    /// The step that could not be done and on what, as the child would report it.
    pub fn new(spec: &Spec, seccomp: Rc<[BpfProgram]>, descriptors: Vec<OwnedFd>) -> Result<Self, StepError> {
        let missing =
            |what: &str| StepError::new(Step::Clone, format!("(the spec has no {what})"), Errno::EINVAL);
        let linux = spec.linux().as_ref().ok_or_else(|| missing("linux"))?;
        let process = spec.process().as_ref().ok_or_else(|| missing("process"))?;
        let root = spec.root().as_ref().ok_or_else(|| missing("root"))?;
        let mounts = spec.mounts().as_deref().unwrap_or_default();
        let (image, own) = mounts_of(spec);
        let namespaces = namespaces(linux);
        refuse_shared(namespaces)?;
        let of_image = Path::new(annotation(spec, IMAGE).unwrap_or("/"));
        let directory = paths::open_trusted(of_image)
            .at(Step::OpenSource, format!("the image {}", of_image.display()))?;
        let sources = Sources::Image(of_image, directory.as_fd());
        let mut trees =
            image.iter().map(|mount| mounts::prepare(mount, sources, None)).collect::<Result<Vec<_>, _>>()?;
        mounts::make_points_in_tmpfs(&trees, mounts)?;
        trees.extend(devices()?);
        let prepare = Prepare {
            namespaces: namespaces & !(libc::CLONE_NEWCGROUP as u64),
            cgroup_namespace: namespaces & libc::CLONE_NEWCGROUP as u64 != 0,
            root: bind_root(root.path())?,
            trees,
            masked: paths(linux.masked_paths().as_deref()),
            readonly: paths(linux.readonly_paths().as_deref()),
            given_network: false,
            sysctls: sysctl::plan(linux, namespaces)?,
            landlock: (annotation(spec, LANDLOCK) != Some("off")).then(|| rules(spec)).transpose()?,
            seccomp,
            waiting: waiting(spec)?,
            no_new_privs: process.no_new_privileges().unwrap_or(false),
            capabilities: kept_capabilities(process)?,
        };
        let bind = Bind {
            trees: own
                .iter()
                .map(|mount| mounts::prepare(mount, Sources::Host, None))
                .collect::<Result<_, _>>()?,
            hostname: spec.hostname().clone().unwrap_or_default(),
            rlimits: rlimits(spec, process)?,
            oom_score_adj: process.oom_score_adj(),
            identity: identity(spec, process, linux, namespaces),
        };
        Ok(Self { prepare, bind, release: release(spec, process, descriptors)? })
    }

    /// Landlock allows `purpose` below the directory that `source` is open on, wherever it is attached.
    pub fn allow(&mut self, source: OwnedFd, purpose: Use) {
        if let Some(rules) = &mut self.prepare.landlock {
            rules.sources.push((source.into(), purpose));
        }
    }

    /// It lives in the network namespace that it is given at its launch, or is not launched.
    pub(super) fn live_in_given_network(&mut self) {
        self.prepare.given_network = true;
    }

    /// The same, and the program is executed only after
    /// [`Launched::network_is_up`](super::Launched::network_is_up).
    pub fn await_network(&mut self) {
        self.live_in_given_network();
        self.release.awaits_network = true;
    }
}

fn bind_root(path: &Path) -> Result<OwnedFd, StepError> {
    let words = format!("{} on /", path.display());
    let source = Sources::Host.open(path).at(Step::OpenSource, &words)?;
    mounts::bind(
        source.as_fd(),
        sys::attr::RDONLY | sys::attr::NOSUID | sys::attr::NODEV,
        false,
        None,
        &words,
    )
}

/// What waits at the gate; a word that is not ours to know refuses the launch.
fn waiting(spec: &Spec) -> Result<Option<Waiting>, StepError> {
    let refuse =
        |why: &dyn std::fmt::Display| StepError::new(Step::AwaitCalls, format!("({why})"), Errno::EINVAL);
    let once = match annotation(spec, EXECVE) {
        None | Some("any") => false,
        Some("once") => true,
        Some(other) => return Err(refuse(&format!("{EXECVE} is {other}"))),
    };
    let late = annotation(spec, IDENTITY).is_some();
    Waiting::new(once, late).transpose().map_err(|error| refuse(&error))
}

fn paths(list: Option<&[String]>) -> Vec<PathBuf> {
    list.unwrap_or_default().iter().map(PathBuf::from).collect()
}

/// The `CLONE_NEW*` bits of the spec's namespaces.
fn namespaces(linux: &Linux) -> u64 {
    let bits = |kind| match kind {
        LinuxNamespaceType::Mount => libc::CLONE_NEWNS,
        LinuxNamespaceType::Cgroup => libc::CLONE_NEWCGROUP,
        LinuxNamespaceType::Uts => libc::CLONE_NEWUTS,
        LinuxNamespaceType::Ipc => libc::CLONE_NEWIPC,
        LinuxNamespaceType::User => libc::CLONE_NEWUSER,
        LinuxNamespaceType::Pid => libc::CLONE_NEWPID,
        LinuxNamespaceType::Network => libc::CLONE_NEWNET,
        LinuxNamespaceType::Time => 0,
    };
    linux.namespaces().iter().flatten().fold(0, |all, namespace| all | bits(namespace.typ()) as u64)
}

/// Without a mount namespace of its own the child would pivot the host's root;
/// without a pid namespace what it started would outlive it.
fn refuse_shared(namespaces: u64) -> Result<(), StepError> {
    for (bit, name) in [(libc::CLONE_NEWNS, "mount"), (libc::CLONE_NEWPID, "pid")] {
        if namespaces & bit as u64 == 0 {
            return Err(StepError::new(
                Step::Clone,
                format!("(the spec has no {name} namespace)"),
                Errno::EINVAL,
            ));
        }
    }
    Ok(())
}

/// The host's harmless devices, each bound on its name: a user namespace may not make device nodes.
fn devices() -> Result<Vec<Tree>, StepError> {
    let one = |name: &&str| {
        let path = Path::new("/dev").join(name);
        let words = format!("{} on {0}", path.display());
        let source = Sources::Host.open(&path).at(Step::OpenSource, &words)?;
        let tree = mounts::bind(source.as_fd(), sys::attr::NOSUID | sys::attr::NOEXEC, false, None, &words)?;
        let target = Path::new("dev").join(name);
        Ok(Tree { words, target, fresh: false, source: mounts::Source::Detached(tree) })
    };
    mounts::DEVICES.iter().map(one).collect()
}

/// What Landlock allows, by the spec's annotations; what they do not say is not allowed.
fn rules(spec: &Spec) -> Result<Rules, StepError> {
    fn list<T: serde::de::DeserializeOwned>(spec: &Spec, key: &str) -> Result<Option<Vec<T>>, StepError> {
        let parse = |text: &str| serde_json::from_str(text);
        let refuse = |_| StepError::new(Step::RestrictFiles, format!("({key} is no list)"), Errno::EINVAL);
        annotation(spec, key).map(parse).transpose().map_err(refuse)
    }
    let paths = |key, purpose| {
        let paths: Vec<PathBuf> = list(spec, key)?.unwrap_or_default();
        Ok::<_, StepError>(paths.into_iter().map(move |path| (path, purpose)))
    };
    let mut files = vec![(PathBuf::from("/"), Use::Read)];
    files.extend(paths(LANDLOCK_EXECUTE, Use::Execute)?);
    files.extend(paths(LANDLOCK_WRITE, Use::Write)?);
    files.extend(mounts::DEVICES.iter().map(|name| (Path::new("/dev").join(name), Use::Device)));
    Ok(Rules {
        files,
        sources: Vec::new(),
        tcp_bind: list(spec, LANDLOCK_TCP_BIND)?,
        tcp_connect: list(spec, LANDLOCK_TCP_CONNECT)?,
        least: annotation(spec, LANDLOCK_ABI).and_then(|abi| abi.parse().ok()).unwrap_or(1),
    })
}

fn kept_capabilities(process: &Process) -> Result<HashSet<caps::Capability>, StepError> {
    let Some(sets) = process.capabilities() else { return Ok(HashSet::new()) };
    let parse = |name: &oci_spec::runtime::Capability| {
        let name = format!("CAP_{name}");
        name.parse().map_err(|_| StepError::new(Step::DropCapabilities, name, Errno::EINVAL))
    };
    sets.bounding().iter().flatten().map(parse).collect()
}

fn identity(spec: &Spec, process: &Process, linux: &Linux, namespaces: u64) -> Identity {
    let line = |maps: &Option<Vec<LinuxIdMapping>>| {
        let maps = maps.iter().flatten();
        maps.map(|map| format!("{} {} {}\n", map.container_id(), map.host_id(), map.size()))
            .collect::<String>()
    };
    let user = namespaces & libc::CLONE_NEWUSER as u64 != 0;
    let denied = std::fs::read_to_string("/proc/self/setgroups").is_ok_and(|text| text.trim() == "deny");
    let maps = match annotation(spec, IDENTITY) {
        _ if !user => Maps::None,
        Some("late") => Maps::Late,
        _ => Maps::Now(line(linux.uid_mappings()), line(linux.gid_mappings())),
    };
    Identity { uid: process.user().uid(), gid: process.user().gid(), maps, may_set_groups: !denied }
}

/// The limits. One that nobody has asked for is lowered to howdah's own hard
/// limit: a tighter default is no reason not to start.
pub(super) fn rlimits(spec: &Spec, process: &Process) -> Result<Vec<Rlimit>, StepError> {
    let demanded = annotation(spec, DEMANDED_RLIMITS).unwrap_or_default();
    let one = |limit: &oci_spec::runtime::PosixRlimit| {
        let name = limit.typ();
        let refuse = |errno| StepError::new(Step::SetLimit, name.to_string(), errno);
        let resource = resource(name).ok_or_else(|| refuse(Errno::EINVAL))?;
        let (_, most) = getrlimit(resource).map_err(refuse)?;
        let raises = limit.hard() > most && demanded.split(' ').any(|word| word == name.to_string());
        let hard = if raises { limit.hard() } else { limit.hard().min(most) };
        Ok(Rlimit { name, resource, soft: limit.soft().min(hard), hard, raises })
    };
    process.rlimits().iter().flatten().map(one).collect()
}

fn resource(name: PosixRlimitType) -> Option<Resource> {
    match name {
        PosixRlimitType::RlimitCpu => Some(Resource::RLIMIT_CPU),
        PosixRlimitType::RlimitFsize => Some(Resource::RLIMIT_FSIZE),
        PosixRlimitType::RlimitStack => Some(Resource::RLIMIT_STACK),
        PosixRlimitType::RlimitCore => Some(Resource::RLIMIT_CORE),
        PosixRlimitType::RlimitNproc => Some(Resource::RLIMIT_NPROC),
        PosixRlimitType::RlimitNofile => Some(Resource::RLIMIT_NOFILE),
        PosixRlimitType::RlimitMemlock => Some(Resource::RLIMIT_MEMLOCK),
        PosixRlimitType::RlimitMsgqueue => Some(Resource::RLIMIT_MSGQUEUE),
        PosixRlimitType::RlimitSigpending => Some(Resource::RLIMIT_SIGPENDING),
        PosixRlimitType::RlimitNice => Some(Resource::RLIMIT_NICE),
        PosixRlimitType::RlimitRtprio => Some(Resource::RLIMIT_RTPRIO),
        _ => None,
    }
}

fn release(spec: &Spec, process: &Process, descriptors: Vec<OwnedFd>) -> Result<Release, StepError> {
    let strings = |list: &Option<Vec<String>>| {
        list.iter().flatten().map(|word| CString::new(word.as_str())).collect::<Result<Vec<_>, NulError>>()
    };
    let refuse = |_| StepError::new(Step::Execute, "(an argument contains a NUL)", Errno::EINVAL);
    let argv = strings(process.args()).map_err(refuse)?;
    if argv.is_empty() {
        return Err(StepError::new(Step::Execute, "(the spec has no args)", Errno::EINVAL));
    }
    let envp = strings(process.env()).map_err(refuse)?;
    let close_others = annotation(spec, CLOSE_DESCRIPTORS) != Some("off");
    Ok(Release { argv, envp, cwd: process.cwd().clone(), descriptors, close_others, awaits_network: false })
}
