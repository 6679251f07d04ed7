//! Numbers of system calls: those of x86-64, and those that all newer machines share.

macro_rules! numbers {
    ($($name:ident = $x86_64:literal, $generic:literal;)*) => {
        $(
            #[cfg(target_arch = "x86_64")]
            pub(crate) const $name: i64 = $x86_64;
            #[cfg(not(target_arch = "x86_64"))]
            pub(crate) const $name: i64 = $generic;
        )*

        /// The name of a call that the probe makes.
        pub(crate) fn name(number: i64) -> Option<String> {
            [$(($name, stringify!($name))),*]
                .iter()
                .find(|(known, _)| *known == number)
                .map(|(_, name)| name.to_lowercase())
        }
    };
}

numbers! {
    ACCEPT = 43, 202;
    ACCEPT4 = 288, 242;
    ACCT = 163, 89;
    ADD_KEY = 248, 217;
    BIND = 49, 200;
    BPF = 321, 280;
    CAPGET = 125, 90;
    CAPSET = 126, 91;
    CHROOT = 161, 51;
    CLOSE = 3, 57;
    CLONE = 56, 220;
    CLONE3 = 435, 435;
    CONNECT = 42, 203;
    DELETE_MODULE = 176, 106;
    DUP3 = 292, 24;
    // Newer machines have only epoll_create1(2).
    EPOLL_CREATE = 213, 20;
    EXECVE = 59, 221;
    EXECVEAT = 322, 281;
    EXIT_GROUP = 231, 94;
    FANOTIFY_INIT = 300, 262;
    FCNTL = 72, 25;
    FSCONFIG = 431, 431;
    FSMOUNT = 432, 432;
    FSOPEN = 430, 430;
    GETPID = 39, 172;
    GETSOCKOPT = 55, 209;
    GETXATTR = 191, 8;
    INOTIFY_INIT1 = 294, 26;
    INIT_MODULE = 175, 105;
    IOCTL = 16, 29;
    IOPRIO_SET = 251, 30;
    IO_URING_SETUP = 425, 425;
    KCMP = 312, 272;
    KEXEC_LOAD = 246, 104;
    KEYCTL = 250, 219;
    KILL = 62, 129;
    LISTEN = 50, 201;
    MEMFD_CREATE = 319, 279;
    MKNODAT = 259, 33;
    MMAP = 9, 222;
    MOUNT = 165, 40;
    MOUNT_SETATTR = 442, 442;
    MOVE_MOUNT = 429, 429;
    MQ_OPEN = 240, 180;
    MQ_UNLINK = 241, 181;
    MSGCTL = 71, 187;
    MSGGET = 68, 186;
    OPENAT = 257, 56;
    OPEN_BY_HANDLE_AT = 304, 265;
    OPEN_TREE = 428, 428;
    PERF_EVENT_OPEN = 298, 241;
    PERSONALITY = 135, 92;
    PIDFD_GETFD = 438, 438;
    PIDFD_OPEN = 434, 434;
    PIPE2 = 293, 59;
    PIVOT_ROOT = 155, 41;
    PPOLL = 271, 73;
    PRCTL = 157, 167;
    PRLIMIT64 = 302, 261;
    PROCESS_VM_READV = 310, 270;
    PTRACE = 101, 117;
    READ = 0, 63;
    REBOOT = 169, 142;
    REQUEST_KEY = 249, 218;
    SCHED_SETAFFINITY = 203, 122;
    SEMCTL = 66, 191;
    SEMGET = 64, 190;
    SENDTO = 44, 206;
    SETHOSTNAME = 170, 161;
    SETNS = 308, 268;
    SETPRIORITY = 141, 140;
    SETRESGID = 119, 149;
    SETRESUID = 117, 147;
    SETSOCKOPT = 54, 208;
    SETTIMEOFDAY = 164, 170;
    SETSID = 112, 157;
    SETUID = 105, 146;
    SETXATTR = 188, 5;
    SHMAT = 30, 196;
    SHMCTL = 31, 195;
    SHMGET = 29, 194;
    SHUTDOWN = 48, 210;
    SOCKET = 41, 198;
    SWAPON = 167, 224;
    SYSLOG = 103, 116;
    UMOUNT2 = 166, 39;
    UNAME = 63, 160;
    UNSHARE = 272, 97;
    USERFAULTFD = 323, 282;
    WAIT4 = 61, 260;
    WRITE = 1, 64;
}

/// iopl(2) and modify_ldt(2) are of x86 only.
#[cfg(target_arch = "x86_64")]
pub(crate) const IOPL: i64 = 172;
#[cfg(target_arch = "x86_64")]
pub(crate) const MODIFY_LDT: i64 = 154;
