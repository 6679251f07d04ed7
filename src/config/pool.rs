//! A pool as the rest of the program knows it: every value typed, every default
//! filled in, every account looked up.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

pub use super::network::Network;
use super::network::Service;
use super::types::{AbsPath, Account, Bytes, IdRange, Listen, Mode, Patience, PoolName};

/// One pool file, read.
#[derive(Debug, Clone, PartialEq)]
pub struct Pool {
    /// The stem of its file.
    pub name: PoolName,
    /// The file it was read from.
    pub file: PathBuf,
    /// Where it listens; never empty, no address twice.
    pub listen: Vec<Listen>,
    /// Who php-fpm runs as.
    pub user: Account,
    /// What its root is.
    pub image: ImageRef,
    /// The name of its profile, or a profile file of one's own.
    pub profile: ProfileRef,
    /// The program that builds its container.
    pub engine: Engine,
    /// Owner, mode and queue of a socket that howdah binds.
    pub socket: Socket,
    /// What it sees of the host beside its image, in the order of the file.
    pub mounts: Vec<Mount>,
    /// When it is stopped.
    pub idle: Idle,
    /// cgroup v2 limits and rlimits.
    pub limits: Limits,
    /// Its network; `None`: what its profile says.
    pub network: Option<Network>,
    /// `[network] sockets`: services of the host whose unix sockets it sees where they are there; default: the databases.
    pub sockets: Vec<Service>,
    /// `[fpm]`.
    pub fpm: Fpm,
    /// `[php]`, `[php.value]` and their kin.
    pub php: Php,
    /// `[start]`.
    pub start: Start,
}

impl Pool {
    /// Where its scripts are, by their paths inside: `[fpm] chdir`, else its first mount.
    pub fn document_root(&self) -> Option<PathBuf> {
        let chdir = self.fpm.directives.get("chdir").map(PathBuf::from);
        chdir.or_else(|| self.mounts.first().map(|mount| mount.target.as_path().to_owned()))
    }
}

/// `image`: what a pool's root is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ImageRef {
    /// `"host"`: the host's own php-fpm and `/usr`.
    Host,
    /// A directory with a root file system.
    Directory(AbsPath),
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Directory(path) => path.fmt(f),
        }
    }
}

/// `profile`: a named isolation profile, or a file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ProfileRef {
    /// A name: built in, or a file of `/etc/howdah/profiles`.
    Named(Box<str>),
    /// A file of one's own.
    File(AbsPath),
}

/// `engine`: who runs the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// howdah itself.
    Native,
}

/// `[socket]`: for a unix socket howdah binds itself. Owner and group are of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// `owner`: a user id; default: the pool's user.
    pub owner: u32,
    /// `group`: a group id; default: the pool's group.
    pub group: u32,
    /// `mode`, default 0660.
    pub mode: Mode,
    /// `backlog`: connections that may wait, default 511 (listen(2)).
    pub backlog: u32,
}

/// `[[mount]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The host's path.
    pub source: AbsPath,
    /// The path inside; default: the same.
    pub target: AbsPath,
    /// `access`
    pub access: Access,
}

/// `access = "ro"` (the default) or `"rw"`; rw is never executable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// `"ro"`
    ReadOnly,
    /// `"rw"`
    ReadWrite,
}

/// `[idle]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Idle {
    /// `freeze`, default `"30s"`. Read and checked; nothing freezes an idle pool yet.
    pub freeze: Patience,
    /// `stop`, default `"10m"`.
    pub stop: Patience,
}

/// `[limits]`. A value is `Some` when the file asks for it: only then is a
/// missing cgroup controller an error. Defaults stand beside (see each method
/// of the profile that fills them).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Limits {
    /// memory.max, bytes.
    pub memory: Option<Bytes>,
    /// memory.high, bytes: above it the pool is slowed down and its memory reclaimed.
    pub memory_high: Option<Bytes>,
    /// memory.oom.group: whether one process out of memory ends the generation.
    /// Default false: php-fpm replaces a worker, and the requests of the others go on.
    pub oom_group: Option<bool>,
    /// memory.swap.max, bytes.
    pub swap: Option<Bytes>,
    /// pids.max; and, one above it, RLIMIT_NPROC in the pool's user namespace.
    pub tasks: Option<u64>,
    /// cpu.max, in cores: 0.5 is half of one.
    pub cpu: Option<f64>,
    /// cpu.weight, 1 to 10000.
    pub cpu_weight: Option<u64>,
    /// io.weight, 1 to 10000.
    pub io_weight: Option<u64>,
    /// io.max, one for each device; empty: not asked for.
    pub io_max: Vec<IoMax>,
    /// The size of the tmpfs on `/tmp`, bytes; also of the next two where they are left open.
    pub tmp: Option<Bytes>,
    /// The size of the tmpfs on `/run`, bytes.
    pub run: Option<Bytes>,
    /// The size of the tmpfs on `/dev/shm`, bytes.
    pub shm: Option<Bytes>,
    /// RLIMIT_NOFILE, for each process.
    pub open_files: Option<u64>,
    /// RLIMIT_FSIZE, bytes: the longest file that a process can make.
    pub file_size: Option<Bytes>,
    /// RLIMIT_CPU: processor time of one process in all its life, to the second.
    pub cpu_time: Option<Duration>,
    /// RLIMIT_CORE, bytes; 0 is set as 1, with which a crash starts no program of the host's either.
    pub core: Option<Bytes>,
    /// RLIMIT_MEMLOCK, bytes.
    pub memlock: Option<Bytes>,
    /// RLIMIT_MSGQUEUE, bytes of POSIX message queues.
    pub msgqueue: Option<Bytes>,
    /// RLIMIT_SIGPENDING: signals and timers that may be queued.
    pub sigpending: Option<u64>,
    /// RLIMIT_STACK, bytes.
    pub stack: Option<Bytes>,
}

impl Limits {
    /// These, and where they leave something open what `under` says.
    #[must_use]
    pub fn over(self, under: &Self) -> Self {
        Self {
            memory: self.memory.or(under.memory),
            memory_high: self.memory_high.or(under.memory_high),
            oom_group: self.oom_group.or(under.oom_group),
            swap: self.swap.or(under.swap),
            tasks: self.tasks.or(under.tasks),
            cpu: self.cpu.or(under.cpu),
            cpu_weight: self.cpu_weight.or(under.cpu_weight),
            io_weight: self.io_weight.or(under.io_weight),
            io_max: if self.io_max.is_empty() { under.io_max.clone() } else { self.io_max },
            tmp: self.tmp.or(under.tmp),
            run: self.run.or(under.run),
            shm: self.shm.or(under.shm),
            open_files: self.open_files.or(under.open_files),
            file_size: self.file_size.or(under.file_size),
            cpu_time: self.cpu_time.or(under.cpu_time),
            core: self.core.or(under.core),
            memlock: self.memlock.or(under.memlock),
            msgqueue: self.msgqueue.or(under.msgqueue),
            sigpending: self.sigpending.or(under.sigpending),
            stack: self.stack.or(under.stack),
        }
    }
}

/// `[[limits.io_max]]`: what the pool may do to one block device each second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IoMax {
    /// A device (`/dev/vda`), or any path on the file system that is meant.
    pub path: AbsPath,
    /// Bytes read.
    pub rbps: Option<Bytes>,
    /// Bytes written.
    pub wbps: Option<Bytes>,
    /// Reads.
    pub riops: Option<u64>,
    /// Writes.
    pub wiops: Option<u64>,
}

impl IoMax {
    /// Whether it limits nothing.
    pub fn is_empty(&self) -> bool {
        self.rbps.is_none() && self.wbps.is_none() && self.riops.is_none() && self.wiops.is_none()
    }

    /// The words of io.max behind the device's numbers: "rbps=1048576 wiops=100".
    pub fn words(&self) -> String {
        let bytes = |size: Option<Bytes>| size.map(Bytes::get);
        let all = [
            ("rbps", bytes(self.rbps)),
            ("wbps", bytes(self.wbps)),
            ("riops", self.riops),
            ("wiops", self.wiops),
        ];
        let words = all.iter().filter_map(|(key, value)| value.map(|value| format!("{key}={value}")));
        words.collect::<Vec<_>>().join(" ")
    }
}

/// `[fpm]`: php-fpm's own directives by their own names ('.' written '_',
/// `pm.` left out where nothing else has the name).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Fpm {
    /// `binary`: the php-fpm to run, a path inside the image; default: the newest found.
    pub binary: Option<AbsPath>,
    /// `config`: the tenant's own php-fpm configuration, a path of the host.
    pub config: Option<AbsPath>,
    /// php-fpm's directives of the pool section, by php-fpm's name
    /// (`pm.max_children`), values in php-fpm's words (`yes`, `30s`), one line
    /// each, unquoted. Checked against the table of known ones in
    /// [`super::directives`].
    pub directives: BTreeMap<String, String>,
    /// `access_log = true`: one line for each request comes out with howdah's log.
    pub access_log: bool,
    /// `[fpm.env]`: environment variables for the workers; values of one line, unquoted.
    pub env: BTreeMap<String, String>,
}

/// `[php]`. Values are text of one line, unquoted.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Php {
    /// `extensions`: load only these; `None`: all that the image enables.
    pub extensions: Option<Vec<String>>,
    /// `[php.value]`
    pub value: BTreeMap<String, String>,
    /// `[php.flag]`
    pub flag: BTreeMap<String, bool>,
    /// `[php.admin_value]`
    pub admin_value: BTreeMap<String, String>,
    /// `[php.admin_flag]`
    pub admin_flag: BTreeMap<String, bool>,
}

/// `[start]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// `timeout`: from launch to the first accepted connection, default 10 s.
    pub timeout: Duration,
    /// `on_failure`, default `"503"`.
    pub on_failure: OnFailure,
    /// `template`: whether it may begin as a sandbox with a uid of its own on the host; `None`:
    /// where no database that it reaches can tell the difference.
    pub template: Option<bool>,
}

/// What a connection gets while its pool is in backoff.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// A FastCGI answer 503 with Retry-After, at once.
    Answer503,
    /// It waits in the listen queue.
    Hold,
}

/// `/etc/howdah/howdah.toml`: what belongs to the whole of howdah.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServeConfig {
    /// `[serve] runtime_dir`; `None`: `/run/howdah` or `$XDG_RUNTIME_DIR/howdah`.
    pub runtime_dir: Option<AbsPath>,
    /// `[serve] state_dir`; `None`: `/var/lib/howdah` or `$XDG_STATE_HOME/howdah`.
    pub state_dir: Option<AbsPath>,
    /// `[serve] profile_dir`: profiles of one's own; `None`: `/etc/howdah/profiles`.
    pub profile_dir: Option<AbsPath>,
    /// `[serve] drain`: how long a stop may wait for requests in progress, default 30 s.
    pub drain: Duration,
    /// `[serve] parallel_starts`: how many pools may be starting at once; default: twice the cores.
    pub parallel_starts: Option<u32>,
    /// `[serve] templates`: sandboxes of each class that are started before anybody asks for them;
    /// default: one, or none for a serve that ends when it is idle.
    pub templates: Option<u32>,
    /// `[serve] template_memory`: how much all of them may take together, default 256 MiB.
    pub template_memory: Bytes,
    /// `[serve] template_ids`: their uids and gids on the host, which no account may have.
    pub template_ids: IdRange,
    /// `[serve] cgroup`: the directory below which generations get theirs, relative to the cgroup v2 mount.
    pub cgroup: Option<AbsPath>,
}
