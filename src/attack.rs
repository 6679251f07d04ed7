//! What `howdah audit` tries from inside a sandbox: one table, which howdah and
//! its probe share (`src/probe` includes this file).
//!
//! An attack is of use only if it can succeed. Each names its **control**, the
//! run in which it must: a sandbox of howdah's with every wall down that a profile
//! can take down, or the host without any sandbox, for the walls that no profile
//! takes down. `tests/attack.rs` runs both, and each wall alone.

/// Something that keeps an attack from succeeding, by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wall {
    /// The filter of system calls.
    Seccomp,
    /// Landlock, from this ABI on.
    Landlock(i32),
    /// no_new_privs.
    NoNewPrivs,
    /// No capability is kept.
    Capabilities,
    /// The user namespace: capabilities, if any, are over the sandbox only.
    User,
    /// The network namespace.
    Network,
    /// The ipc namespace.
    Ipc,
    /// The uts namespace.
    Uts,
    /// The cgroup namespace.
    Cgroup,
    /// `/proc` shows processes only.
    ProcPid,
    /// Masked and read-only paths of `/proc`.
    ProcMasks,
    /// Inherited descriptors are closed.
    Descriptors,
    /// The root of its own: what is not mounted is not there.
    Root,
    /// The pid namespace.
    Pid,
    /// Mounts are read-only, or nosuid, nodev and noexec.
    MountFlags,
    /// howdah looks at the socket after each generation and binds it anew.
    Repair,
}

impl Wall {
    /// Its name on the card.
    pub fn name(self) -> &'static str {
        match self {
            Self::Seccomp => "seccomp",
            Self::Landlock(_) => "Landlock",
            Self::NoNewPrivs => "no_new_privs",
            Self::Capabilities => "no capabilities",
            Self::User => "user namespace",
            Self::Network => "network namespace",
            Self::Ipc => "ipc namespace",
            Self::Uts => "uts namespace",
            Self::Cgroup => "cgroup namespace",
            Self::ProcPid => "/proc of processes only",
            Self::ProcMasks => "masked paths of /proc",
            Self::Descriptors => "closed descriptors",
            Self::Root => "root of its own",
            Self::Pid => "pid namespace",
            Self::MountFlags => "mount flags",
            Self::Repair => "repair of the socket",
        }
    }

    /// The keys of profile and pool file that can take it down.
    pub fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Seccomp => &["seccomp"],
            Self::Landlock(_) => &["landlock", "landlock_execute"],
            Self::NoNewPrivs => &["no_new_privs"],
            Self::Capabilities => &["capabilities"],
            Self::User | Self::Ipc | Self::Uts | Self::Cgroup => &["share"],
            Self::Network => &["share", "network.mode"],
            Self::ProcPid => &["proc"],
            Self::ProcMasks => &["masked_paths", "readonly_paths"],
            Self::Descriptors => &["close_descriptors"],
            Self::MountFlags => &["mount_flags.code", "mount_flags.writable", "mount_flags.tmp"],
            Self::Root | Self::Pid | Self::Repair => &[],
        }
    }

    /// What a profile says to put it up; `None`: no profile can take it down.
    pub fn setting(self) -> Option<&'static str> {
        match self {
            Self::Seccomp => Some("seccomp = \"hosting\""),
            Self::Landlock(_) => Some("landlock = true"),
            Self::NoNewPrivs => Some("no_new_privs = true"),
            Self::Capabilities => Some("capabilities = []"),
            Self::User => Some("no \"user\" in share"),
            Self::Network => Some("no \"network\" in share, and no [network] mode = \"host\" in the pool"),
            Self::Ipc => Some("no \"ipc\" in share"),
            Self::Uts => Some("no \"uts\" in share"),
            Self::Cgroup => Some("no \"cgroup\" in share"),
            Self::ProcPid => Some("proc = \"pid\""),
            Self::ProcMasks => Some("masked_paths and readonly_paths as in hosting"),
            Self::Descriptors => Some("close_descriptors = true"),
            Self::Root | Self::Pid | Self::MountFlags | Self::Repair => None,
        }
    }
}

/// The run in which an attack must succeed, or it proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// A sandbox with every wall down that a profile can take down.
    Naked,
    /// The host, without a sandbox.
    Outside,
}

/// One attack.
#[derive(Debug, Clone, Copy)]
pub struct Attack {
    /// Its name.
    pub id: &'static str,
    /// What is tried.
    pub tries: &'static str,
    /// Where it must succeed.
    pub control: Control,
    /// The walls of which each alone holds it. The first one is the card's heading.
    pub walls: &'static [Wall],
}

const fn naked(id: &'static str, walls: &'static [Wall], tries: &'static str) -> Attack {
    Attack { id, tries, control: Control::Naked, walls }
}

const fn outside(id: &'static str, walls: &'static [Wall], tries: &'static str) -> Attack {
    Attack { id, tries, control: Control::Outside, walls }
}

use Wall::{
    Capabilities, Cgroup, Descriptors, Ipc, Landlock, MountFlags, Network, NoNewPrivs, Pid, ProcMasks,
    ProcPid, Repair, Root, Seccomp, User, Uts,
};

/// Every attack, in the order in which they are tried: what harms the listening socket comes last.
pub const ATTACKS: &[Attack] = &[
    // Descriptors and what a launcher leaves behind.
    naked("leaked-descriptor", &[Descriptors], "finds a descriptor that nobody meant to pass"),
    naked("leaked-directory", &[Descriptors, Landlock(1)], "opens a file of the host by a leaked descriptor"),
    outside("wrong-descriptor", &[Descriptors], "finds something else than what belongs at its number"),
    outside("working-directory", &[Root], "reads a file of the host from the directory it was started in"),
    outside("launcher-binary", &[Pid], "opens howdah's program by /proc/PID/exe"),
    // The host's files.
    outside("host-file", &[Root], "reads a file of the host by its path"),
    outside("other-tenant-file", &[Root], "reads another tenant's file that all may read"),
    outside("shadow", &[Root], "reads /etc/shadow"),
    outside("account-names", &[Root], "reads the names of other accounts in /etc/passwd"),
    outside("tenant-names", &[Root], "reads the names of tenants in /home, /srv, /var/www, /var/lib/howdah"),
    outside("write-code", &[MountFlags, Landlock(1)], "opens a file of /usr or of the code for writing"),
    outside(
        "execute-written",
        &[MountFlags, Landlock(1)],
        "writes a program to a writable place and executes it",
    ),
    outside("map-written", &[MountFlags], "maps a file of a writable place as executable memory"),
    naked("memfd-execute", &[Seccomp], "executes a program that is in memory only"),
    outside("device-open", &[Root], "opens a device beyond null, zero, full, random and urandom"),
    outside("sys-visible", &[Root], "reads the machine's /sys"),
    outside("shm-file", &[Root], "opens another's file in /dev/shm"),
    naked("mknod", &[Seccomp, Capabilities, User, Landlock(1)], "makes a device node"),
    outside(
        "setuid-program",
        &[NoNewPrivs, User, MountFlags],
        "becomes root by a set-user-id program of the image",
    ),
    outside(
        "file-capability",
        &[NoNewPrivs, User, MountFlags],
        "gets a capability by a program of the image",
    ),
    // /proc and what of the kernel is in it.
    naked(
        "core-pattern",
        &[ProcPid, ProcMasks, User, Landlock(1)],
        "opens /proc/sys/kernel/core_pattern to write",
    ),
    naked(
        "modprobe-path",
        &[ProcPid, ProcMasks, User, Landlock(1)],
        "opens /proc/sys/kernel/modprobe to write",
    ),
    naked("sysrq-trigger", &[ProcPid, ProcMasks, User, Landlock(1)], "opens /proc/sysrq-trigger to write"),
    naked("kcore", &[ProcPid, ProcMasks, User, Capabilities], "opens /proc/kcore, the kernel's memory"),
    naked("kallsyms", &[ProcPid, ProcMasks], "reads addresses of the kernel in /proc/kallsyms"),
    naked("kernel-keys", &[ProcPid, ProcMasks], "reads /proc/key-users, the host's keys"),
    naked("kernel-modules", &[ProcPid], "reads what the machine is in /proc/version and /proc/cmdline"),
    naked("cgroup-path", &[Cgroup], "reads the host's name of its cgroup in /proc/self/cgroup"),
    // Namespaces.
    naked("unshare-user", &[Seccomp], "makes a user namespace by unshare"),
    naked("clone-user", &[Seccomp], "makes a user namespace by clone"),
    naked("clone3-user", &[Seccomp], "makes a user namespace by clone3"),
    naked("unshare-others", &[Seccomp, Capabilities], "makes mount, network, ipc, uts and pid namespaces"),
    naked("setns", &[Seccomp, Capabilities, User], "enters a namespace by setns"),
    // Mounts.
    naked("mount", &[Seccomp, Capabilities, Landlock(1)], "mounts a tmpfs"),
    naked("remount", &[Seccomp, Capabilities, Landlock(1)], "makes a read-only mount writable"),
    naked("umount", &[Seccomp, Capabilities, Landlock(1)], "takes a mount away to see what is below"),
    naked("fsopen", &[Seccomp, Capabilities], "makes a file system by fsopen"),
    naked("open-tree", &[Seccomp, Capabilities], "copies a mount by open_tree"),
    naked("move-mount", &[Seccomp, Capabilities, Landlock(1)], "attaches a mount by move_mount"),
    naked("mount-setattr", &[Seccomp, Capabilities], "changes a mount by mount_setattr"),
    naked("overlay", &[Seccomp, Landlock(1)], "mounts an overlay in a user namespace of its own"),
    naked("pivot-root", &[Seccomp, Capabilities, Landlock(1)], "changes the root by pivot_root"),
    naked("chroot", &[Seccomp, Capabilities], "changes the root by chroot"),
    naked(
        "cgroup-mount",
        &[Seccomp, Capabilities, User, Landlock(1)],
        "mounts cgroup2 and opens its own cgroup to write",
    ),
    outside("release-agent", &[Root], "opens a cgroup's release_agent to write"),
    // Identity.
    naked("setuid", &[Seccomp, Capabilities, User], "becomes root by setuid"),
    naked("capset", &[Seccomp, Capabilities], "takes a capability by capset"),
    // Parts of the kernel.
    naked("io-uring", &[Seccomp], "sets up an io_uring"),
    naked("keyring-add", &[Seccomp], "puts a key into a keyring"),
    naked("keyring-request", &[Seccomp], "asks for a key by request_key"),
    naked("keyring-neighbour", &[Seccomp, User], "reads a neighbour's key"),
    naked("bpf", &[Seccomp], "makes a BPF map"),
    naked("perf-event", &[Seccomp], "opens a perf event"),
    naked("userfaultfd", &[Seccomp], "opens a userfaultfd"),
    naked("fanotify", &[Seccomp], "opens a fanotify group"),
    naked("inotify", &[Seccomp], "takes one of the inotify instances of all pools and of root (128 in all)"),
    naked("kexec", &[Seccomp, Capabilities, User], "reaches kexec_load"),
    naked("module-init", &[Seccomp, Capabilities, User], "reaches init_module"),
    naked("module-delete", &[Seccomp, Capabilities, User], "reaches delete_module"),
    naked("open-by-handle", &[Seccomp, Capabilities, User], "opens a file by its handle, past every path"),
    naked("personality", &[Seccomp], "switches address randomisation off"),
    naked("clock", &[Seccomp, Capabilities, User], "reaches the setting of the clock"),
    naked("reboot", &[Seccomp, Capabilities], "reaches reboot, with a wrong magic number"),
    naked("swapon", &[Seccomp, Capabilities, User], "reaches swapon"),
    naked("acct", &[Seccomp, Capabilities, User], "reaches process accounting"),
    naked("kernel-log", &[Seccomp], "reads the kernel's log by syslog"),
    naked("ports", &[Seccomp, Capabilities, User], "gets the right to the machine's ports by iopl"),
    naked("modify-ldt", &[Seccomp], "changes its segment descriptors"),
    naked("hostname", &[Seccomp, Capabilities, User, Uts], "sets the host's name"),
    naked("int-80", &[Seccomp], "calls the kernel by int 0x80, as a program of 32 bits"),
    naked("x32", &[Seccomp], "calls the kernel by x32's numbers"),
    naked("tiocsti", &[Seccomp], "pushes bytes into a terminal"),
    naked("tiocsti-high-bits", &[Seccomp], "the same with high bits that the kernel does not read"),
    naked("tioclinux", &[Seccomp], "pastes into a console by TIOCLINUX"),
    // Processes.
    naked("ptrace", &[Seccomp], "traces a process of its own sandbox"),
    naked("process-vm-readv", &[Seccomp], "reads another process's memory by process_vm_readv"),
    naked("pidfd-getfd", &[Seccomp], "takes another process's descriptor by pidfd_getfd"),
    naked("kcmp", &[Seccomp], "compares kernel objects by kcmp"),
    outside("host-processes", &[Pid], "sees a process of the host"),
    outside("host-environ", &[Pid], "reads a secret in the environment of a process of the host"),
    outside("host-cmdline", &[Pid], "reads a secret in the command line of a process of the host"),
    outside("host-ptrace", &[Pid], "traces a process of the host"),
    outside("host-signal", &[Pid], "signals a process of the host"),
    outside("host-priority", &[Pid], "changes priority, limits or CPUs of a process of the host"),
    outside("neighbour-environ", &[Pid], "reads a secret in a neighbour's environment"),
    outside("neighbour-signal", &[Pid], "signals a neighbour's process"),
    outside("neighbour-root", &[Pid], "reads a neighbour's files by /proc/PID/root"),
    // Sockets.
    naked("raw-socket", &[Seccomp, Capabilities, User], "opens a raw socket"),
    naked("packet-socket", &[Seccomp, Capabilities, User], "opens a packet socket"),
    naked("netlink-socket", &[Seccomp], "opens a netlink socket"),
    naked("vsock-socket", &[Seccomp], "opens a vsock socket, to the hypervisor"),
    naked("alg-socket", &[Seccomp], "opens a socket to the kernel's cryptography"),
    naked("host-tcp", &[Network], "connects to a TCP port of the host's loopback"),
    naked("host-udp", &[Network], "gets an answer from a UDP port of the host's loopback"),
    naked(
        "host-address",
        &[Network],
        "connects to a TCP port of the host by an address that is not loopback",
    ),
    naked("metadata", &[Network], "finds a way to 169.254.169.254, a cloud's metadata"),
    naked("routes", &[Capabilities, User], "reaches the changing of routes"),
    naked("host-abstract", &[Network, Landlock(6)], "connects to an abstract socket of the host"),
    naked("neighbour-abstract", &[Network, Landlock(6)], "connects to a neighbour's abstract socket"),
    outside("host-socket-tmp", &[Root], "connects to a unix socket of the host in /tmp"),
    outside("host-socket-run", &[Root], "connects to a unix socket of the host in /run"),
    outside("neighbour-socket", &[Root], "connects to a unix socket in a neighbour's /tmp"),
    naked("neighbour-fastcgi-tcp", &[Network], "speaks FastCGI to a neighbour's TCP socket"),
    outside("neighbour-fastcgi", &[Root], "speaks FastCGI to a neighbour's unix socket"),
    // IPC objects.
    naked("host-sysv-shm", &[Ipc], "reads System V shared memory of the host"),
    naked("host-sysv-sem", &[Ipc], "finds a System V semaphore of the host"),
    naked("host-sysv-msg", &[Ipc], "finds a System V message queue of the host"),
    naked("host-mqueue", &[Ipc, Seccomp], "opens a POSIX message queue of the host"),
    naked("neighbour-sysv-shm", &[Ipc], "reads a neighbour's System V shared memory"),
    // The connections of a pool that listens on TCP: sockets of the host's network.
    naked("accepted-connect", &[Landlock(4)], "connects an accepted TCP connection to the host's loopback"),
    naked("accepted-bind", &[Landlock(4)], "binds an accepted TCP connection to a port of the host"),
    naked("accepted-listen", &[Seccomp], "listens in the host's network by an accepted TCP connection"),
    // The listening socket.
    outside("listener-nonblock", &[Repair], "makes the listening socket non-blocking"),
    outside("listener-option", &[Repair], "makes the listening socket reset each connection (SO_LINGER)"),
    outside("listener-backlog", &[Repair], "listens with another backlog on the listening socket"),
    naked("listener-filter", &[Seccomp], "attaches a filter to the listening socket"),
    naked("listener-lock", &[Seccomp], "locks the listening socket's filter"),
    outside("listener-disconnect", &[Repair], "un-listens the socket by connect to AF_UNSPEC (TCP)"),
    naked("listener-connect", &[Landlock(4)], "connects the listening socket to the host's loopback (TCP)"),
    naked("listener-fast-open", &[Seccomp], "the same by sendto with MSG_FASTOPEN"),
    naked("listener-shutdown-high-bits", &[Seccomp], "shuts the listening socket down, with high bits set"),
    naked("listener-shutdown", &[Seccomp], "shuts the listening socket down for ever"),
    outside("listener-alive", &[Repair], "leaves a listening socket that accepts nobody"),
];
