//! The programs, run by a small interpreter: what the kernel would answer.

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall};
use seccompiler::sock_filter;

use super::{Allowed, action, allowed, compile, name, number, restriction, waiting};

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const READ: i64 = libc::SYS_read;

fn errno(value: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | value as u32
}

fn filter(json: &str) -> LinuxSeccomp {
    serde_json::from_str(json).unwrap()
}

/// struct seccomp_data, as 32-bit words.
fn data(number: i64, args: &[u64]) -> Vec<u32> {
    let arch = match std::env::consts::ARCH {
        "x86_64" => 0xc000_003e,
        "aarch64" => 0xc000_00b7,
        _ => 0xc000_00f3,
    };
    let mut words = vec![number as u32, arch, 0, 0];
    for index in 0..6 {
        let arg = args.get(index).copied().unwrap_or(0);
        words.extend([arg as u32, (arg >> 32) as u32]);
    }
    words
}

fn run(program: &[sock_filter], data: &[u32]) -> u32 {
    let (mut accumulator, mut at) = (0u32, 0usize);
    loop {
        let step = &program[at];
        let jump = |holds: bool| 1 + usize::from(if holds { step.jt } else { step.jf });
        at += match step.code {
            0x20 => {
                accumulator = data[step.k as usize / 4];
                1
            }
            0x54 => {
                accumulator &= step.k;
                1
            }
            0x05 => 1 + step.k as usize,
            0x15 => jump(accumulator == step.k),
            0x25 => jump(accumulator > step.k),
            0x35 => jump(accumulator >= step.k),
            0x45 => jump(accumulator & step.k != 0),
            0x06 => return step.k,
            other => panic!("instruction {other:#x}"),
        };
    }
}

fn answer(seccomp: &LinuxSeccomp, number: i64, args: &[u64]) -> u32 {
    let programs = compile(seccomp).unwrap();
    assert_eq!(programs.len(), 1);
    run(&programs[0], &data(number, args))
}

fn with_condition(op: &str, value: u64, two: u64) -> LinuxSeccomp {
    filter(&format!(
        r#"{{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "syscalls": [{{"names": ["read"],
        "action": "SCMP_ACT_ALLOW", "args": [{{"index": 1, "value": {value}, "valueTwo": {two}, "op": "{op}"}}]}}]}}"#
    ))
}

#[test]
fn each_operator_compares_all_64_bits() {
    const BIG: u64 = 0x5_0000_0007;
    type Row = (&'static str, u64, u64, &'static [u64], &'static [u64]);
    let rows: [Row; 7] = [
        ("SCMP_CMP_EQ", BIG, 0, &[BIG], &[7, BIG + 1, BIG + (1 << 32), u64::MAX]),
        ("SCMP_CMP_NE", BIG, 0, &[7, BIG + 1, BIG + (1 << 32)], &[BIG]),
        ("SCMP_CMP_LT", BIG, 0, &[0, BIG - 1, 0x4_ffff_ffff], &[BIG, BIG + 1, 0x6_0000_0000]),
        ("SCMP_CMP_LE", BIG, 0, &[0, BIG, 0x4_ffff_ffff], &[BIG + 1, 0x6_0000_0000]),
        ("SCMP_CMP_GE", BIG, 0, &[BIG, BIG + 1, 0x6_0000_0000], &[0, BIG - 1, 0x4_ffff_ffff]),
        ("SCMP_CMP_GT", BIG, 0, &[BIG + 1, 0x6_0000_0000], &[0, BIG, 0x4_ffff_ffff]),
        ("SCMP_CMP_MASKED_EQ", 0xf_0000_000f, BIG, &[BIG, BIG | 0xf0, BIG | 1 << 60], &[7, BIG ^ 1]),
    ];
    for (op, value, two, holds, fails) in rows {
        let filter = with_condition(op, value, two);
        for arg in holds {
            assert_eq!(answer(&filter, READ, &[0, *arg]), ALLOW, "{op} {arg:#x}");
        }
        for arg in fails {
            assert_eq!(answer(&filter, READ, &[0, *arg]), errno(libc::ENOSYS), "{op} {arg:#x}");
        }
    }
}

#[test]
fn conditions_of_one_group_are_all_needed_and_groups_are_alternatives() {
    let filter = filter(
        r#"{"defaultAction": "SCMP_ACT_KILL_PROCESS", "syscalls": [
        {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW", "args": [
            {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 2, "op": "SCMP_CMP_EQ"}]},
        {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 9, "op": "SCMP_CMP_EQ"}]},
        {"names": ["write"], "action": "SCMP_ACT_ALLOW"}]}"#,
    );
    let kill = libc::SECCOMP_RET_KILL_PROCESS;
    assert_eq!(answer(&filter, READ, &[1, 2]), ALLOW);
    assert_eq!(answer(&filter, READ, &[9, 0]), ALLOW);
    assert_eq!(answer(&filter, READ, &[1, 3]), kill);
    assert_eq!(answer(&filter, libc::SYS_write, &[5, 5]), ALLOW, "a group without conditions allows any");
    assert_eq!(answer(&filter, libc::SYS_close, &[]), kill);
}

#[test]
fn what_a_group_refuses_is_answered_by_its_own_action() {
    let filter = filter(
        r#"{"defaultAction": "SCMP_ACT_KILL_PROCESS", "syscalls": [
        {"names": ["mount"], "action": "SCMP_ACT_ERRNO"},
        {"names": ["read"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
        {"names": ["write"], "action": "SCMP_ACT_LOG"},
        {"names": ["reboot"], "action": "SCMP_ACT_TRAP"},
        {"names": ["acct"], "action": "SCMP_ACT_TRACE", "errnoRet": 7},
        {"names": ["sync"], "action": "SCMP_ACT_KILL"},
        {"names": ["setns", "unshare"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13},
        {"names": ["unshare"], "action": "SCMP_ACT_ERRNO", "errnoRet": 22}]}"#,
    );
    assert_eq!(answer(&filter, libc::SYS_mount, &[]), errno(libc::EPERM));
    assert_eq!(answer(&filter, libc::SYS_bpf, &[]), errno(libc::EPERM));
    assert_eq!(answer(&filter, READ, &[]), ALLOW);
    assert_eq!(answer(&filter, libc::SYS_write, &[]), libc::SECCOMP_RET_LOG, "although the default kills");
    assert_eq!(answer(&filter, libc::SYS_reboot, &[]), libc::SECCOMP_RET_TRAP);
    assert_eq!(answer(&filter, libc::SYS_acct, &[]), libc::SECCOMP_RET_TRACE | 7);
    assert_eq!(answer(&filter, libc::SYS_sync, &[]), libc::SECCOMP_RET_KILL_THREAD);
    assert_eq!(answer(&filter, libc::SYS_setns, &[]), errno(libc::EACCES));
    assert_eq!(answer(&filter, libc::SYS_unshare, &[]), errno(libc::EINVAL), "the later group");
    assert_eq!(answer(&filter, libc::SYS_close, &[]), libc::SECCOMP_RET_KILL_PROCESS);
}

#[test]
fn other_architectures_are_killed_and_x32_is_refused() {
    let deny = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_ERRNO"}]}"#;
    let allow = r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_ALLOW"}]}"#;
    for json in [deny, allow] {
        let filter = filter(json);
        let mut data = data(libc::SYS_mount, &[]);
        data[1] = 0x4000_0003; // i386
        let answers: Vec<u32> = compile(&filter).unwrap().iter().map(|program| run(program, &data)).collect();
        assert!(answers.contains(&libc::SECCOMP_RET_KILL_PROCESS), "{json}");
        if cfg!(target_arch = "x86_64") {
            assert_eq!(answer(&filter, libc::SYS_mount | 0x4000_0000, &[]), errno(libc::ENOSYS), "{json}");
        }
    }
}

#[test]
fn what_cannot_be_had_is_refused_by_name() {
    let group = |group: &str| format!(r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{group}]}}"#);
    let arg = r#"{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}"#;
    let rows = [
        (group(r#"{"names": ["raed"], "action": "SCMP_ACT_ALLOW"}"#), "unknown system call \"raed\""),
        (group(r#"{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}"#), "SCMP_ACT_NOTIFY is not supported"),
        (
            group(r#"{"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 4096}"#),
            "4096 is no errno: at most 4095",
        ),
        (
            group(&format!(r#"{{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{arg}, {arg}]}}"#)),
            "read: argument 0 is compared twice in one group: write two groups",
        ),
        (
            group(&format!(
                r#"{{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{}]}}"#,
                arg.replace('0', "6")
            )),
            "read: there is no argument 6: the last is 5",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "flags": ["SECCOMP_FILTER_FLAG_LOG"]}"#.into(),
            "flags is not supported",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "listenerPath": "/run/x"}"#.into(),
            "listenerPath is not supported",
        ),
    ];
    for (json, expected) in rows {
        assert_eq!(compile(&filter(&json)).unwrap_err().to_string(), expected);
    }
    let foreign = filter(r#"{"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_M68K"]}"#);
    let expected =
        format!("the filter is not for {}: its architectures are SCMP_ARCH_M68K", std::env::consts::ARCH);
    assert_eq!(compile(&foreign).unwrap_err().to_string(), expected);
}

#[test]
fn names_of_other_machines_are_skipped() {
    let filter = filter(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        {"names": ["s390_runtime_instr", "_llseek", "arm_fadvise64_64", "read"], "action": "SCMP_ACT_ALLOW"}]}"#,
    );
    assert_eq!(answer(&filter, READ, &[]), ALLOW);
}

#[test]
fn hosting_answers() {
    let hosting = filter(include_str!("../../../profiles/seccomp/hosting.json"));
    let no = errno(libc::EPERM);
    let high = 1 << 32;
    let sol = libc::SOL_SOCKET as u64;
    let rows: &[(i64, &[u64], u32)] = &[
        (libc::SYS_shutdown, &[3, 0], no),
        (libc::SYS_shutdown, &[3, 1], ALLOW),
        (libc::SYS_shutdown, &[3, 2], no),
        (libc::SYS_shutdown, &[3, high], no),
        (libc::SYS_shutdown, &[3, high | 1], errno(libc::ENOSYS)),
        (libc::SYS_clone, &[libc::SIGCHLD as u64], ALLOW),
        (libc::SYS_clone, &[(libc::CLONE_NEWUSER | libc::SIGCHLD) as u64], no),
        (libc::SYS_clone, &[(libc::CLONE_NEWNS | libc::CLONE_VM) as u64], no),
        (libc::SYS_clone3, &[], errno(libc::ENOSYS)),
        (libc::SYS_socket, &[1, 2, 0], ALLOW),
        (libc::SYS_socket, &[2, libc::SOCK_STREAM as u64 | libc::SOCK_CLOEXEC as u64, 6], ALLOW),
        (libc::SYS_socket, &[2, libc::SOCK_RAW as u64, 1], errno(libc::ENOSYS)),
        (libc::SYS_socket, &[2, libc::SOCK_STREAM as u64, 132], errno(libc::ENOSYS)),
        (libc::SYS_socket, &[16, 3, 0], errno(libc::EAFNOSUPPORT)),
        (libc::SYS_socket, &[high | 16, 3, 0], errno(libc::EAFNOSUPPORT)),
        (libc::SYS_socketpair, &[1], ALLOW),
        (libc::SYS_socketpair, &[2], errno(libc::ENOSYS)),
        (libc::SYS_setsockopt, &[3, sol, 2], ALLOW),
        (libc::SYS_setsockopt, &[3, sol, 25], errno(libc::ENOSYS)),
        (libc::SYS_setsockopt, &[3, sol, 26], no),
        (libc::SYS_setsockopt, &[3, sol | high, 26 | high], no),
        (libc::SYS_setsockopt, &[3, 0, 21], errno(libc::ENOSYS)),
        (libc::SYS_setsockopt, &[3, 6, 1], ALLOW),
        (libc::SYS_ioctl, &[0, libc::TCGETS], ALLOW),
        (libc::SYS_ioctl, &[0, libc::TIOCSTI], no),
        (libc::SYS_ioctl, &[0, libc::TIOCSTI | 0xdead_0000_0000], no),
        (libc::SYS_ioctl, &[0, libc::TIOCLINUX], no),
        (libc::SYS_prctl, &[libc::PR_SET_DUMPABLE as u64], ALLOW),
        (libc::SYS_prctl, &[libc::PR_SET_PDEATHSIG as u64], errno(libc::ENOSYS)),
        (libc::SYS_personality, &[0xffff_ffff], ALLOW),
        (libc::SYS_personality, &[0x004_0000], errno(libc::ENOSYS)),
        (libc::SYS_mknodat, &[0, 0, 0o010_600], ALLOW),
        (libc::SYS_mknodat, &[0, 0, 0o020_600], no),
        (libc::SYS_mount, &[], no),
        (libc::SYS_io_uring_setup, &[], no),
        (libc::SYS_ptrace, &[], no),
        (libc::SYS_seccomp, &[], errno(libc::ENOSYS)),
        (libc::SYS_memfd_create, &[], errno(libc::ENOSYS)),
        (libc::SYS_execve, &[], ALLOW),
        (libc::SYS_mmap, &[0, 0, 7], ALLOW),
        (libc::SYS_mprotect, &[0, 0, 7], ALLOW),
    ];
    assert_answers(&hosting, rows);
    let length = compile(&hosting).unwrap()[0].len();
    assert!(length < 320, "{length}: installing it is a part of every cold start");
}

fn assert_answers(filter: &LinuxSeccomp, rows: &[(i64, &[u64], u32)]) {
    for (number, args, expected) in rows {
        let name = syscalls::Sysno::new(*number as usize).unwrap();
        assert_eq!(answer(filter, *number, args), *expected, "{name} {args:x?}");
    }
}

#[test]
fn strict_answers() {
    let strict = filter(include_str!("../../../profiles/seccomp/strict.json"));
    let (no, high) = (errno(libc::EACCES), 1 << 32);
    let rows: &[(i64, &[u64], u32)] = &[
        (libc::SYS_mmap, &[0, 0, 1], ALLOW),
        (libc::SYS_mmap, &[0, 0, 3], ALLOW),
        (libc::SYS_mmap, &[0, 0, 5], ALLOW),
        (libc::SYS_mmap, &[0, 0, 7], no),
        (libc::SYS_mmap, &[0, 0, 6 | high], no),
        (libc::SYS_mprotect, &[0, 0, 1], ALLOW),
        (libc::SYS_mprotect, &[0, 0, 5], no),
        (libc::SYS_mprotect, &[0, 0, 4 | high], no),
        (libc::SYS_pkey_mprotect, &[0, 0, 5], errno(libc::ENOSYS)),
        (libc::SYS_remap_file_pages, &[], errno(libc::ENOSYS)),
        (libc::SYS_shmat, &[], errno(libc::ENOSYS)),
        (libc::SYS_memfd_create, &[], errno(libc::ENOSYS)),
        (libc::SYS_personality, &[0x0040_0000], errno(libc::ENOSYS)),
        (libc::SYS_listen, &[], errno(libc::ENOSYS)),
        (libc::SYS_bind, &[], errno(libc::ENOSYS)),
        (libc::SYS_symlink, &[], errno(libc::ENOSYS)),
        (libc::SYS_vfork, &[], errno(libc::ENOSYS)),
        (libc::SYS_execveat, &[], errno(libc::ENOSYS)),
        (libc::SYS_splice, &[], errno(libc::ENOSYS)),
        (libc::SYS_accept, &[], ALLOW),
        (libc::SYS_execve, &[], ALLOW),
    ];
    assert_answers(&strict, rows);
}

/// Nothing that strict allows does hosting refuse, nor what hosting allows compat.
#[test]
fn each_profile_allows_less_than_the_next() {
    let strict = filter(include_str!("../../../profiles/seccomp/strict.json"));
    let hosting = filter(include_str!("../../../profiles/seccomp/hosting.json"));
    let compat = filter(include_str!("../../../profiles/seccomp/compat.json"));
    for (less, more) in [(&strict, &hosting), (&hosting, &compat)] {
        let (of_less, of_more) = (compile(less).unwrap(), compile(more).unwrap());
        for call in 0..500 {
            let [a, b, c, ..] = interesting(less, call);
            for (x, y, z) in a.iter().flat_map(|x| b.iter().flat_map(|y| c.iter().map(|z| (*x, *y, *z)))) {
                let data = data(i64::from(call), &[x, y, z]);
                let allowed = run(&of_less[0], &data) == ALLOW;
                assert!(!allowed || run(&of_more[0], &data) == ALLOW, "{call} {x:x} {y:x} {z:x}");
            }
        }
    }
}

fn holds(condition: &LinuxSeccompArg, args: &[u64; 6]) -> bool {
    use LinuxSeccompOperator as Oci;
    let (arg, value) = (args[condition.index()], condition.value());
    match condition.op() {
        Oci::ScmpCmpNe => arg != value,
        Oci::ScmpCmpLt => arg < value,
        Oci::ScmpCmpLe => arg <= value,
        Oci::ScmpCmpEq => arg == value,
        Oci::ScmpCmpGe => arg >= value,
        Oci::ScmpCmpGt => arg > value,
        Oci::ScmpCmpMaskedEq => arg & value == condition.value_two().unwrap_or(0),
    }
}

/// The groups that name a call, the last first.
fn groups_of(seccomp: &LinuxSeccomp, call: u32) -> Vec<&LinuxSyscall> {
    let groups = seccomp.syscalls().as_deref().unwrap().iter().rev();
    groups.filter(|group| group.names().iter().any(|name| number(name).unwrap() == Some(call))).collect()
}

/// What the file says about a call, found without any program; `groups` are those that name it.
fn meant(seccomp: &LinuxSeccomp, groups: &[&LinuxSyscall], args: &[u64; 6]) -> u32 {
    let matching = groups.iter().filter(|group| {
        group.args().as_deref().unwrap_or_default().iter().all(|condition| holds(condition, args))
    });
    let actions = matching.map(|group| action(group.action(), group.errno_ret()).unwrap());
    let default = action(seccomp.default_action(), seccomp.default_errno_ret()).unwrap();
    actions.min_by_key(|action| restriction(*action)).unwrap_or(default)
}

/// Arguments at and beside every value that the file compares for this call.
fn interesting(seccomp: &LinuxSeccomp, call: u32) -> [Vec<u64>; 6] {
    let mut values: [Vec<u64>; 6] = std::array::from_fn(|_| vec![0]);
    for group in seccomp.syscalls().as_deref().unwrap() {
        if group.names().iter().any(|name| number(name).unwrap() == Some(call)) {
            for condition in group.args().as_deref().unwrap_or_default() {
                let list = &mut values[condition.index()];
                for value in [Some(condition.value()), condition.value_two()].into_iter().flatten() {
                    list.extend([value, value.wrapping_add(1), value.wrapping_sub(1), value | 1 << 40]);
                }
            }
        }
    }
    values.each_mut().into_iter().for_each(|list| {
        list.sort_unstable();
        list.dedup();
    });
    values
}

/// Every number, and of conditional calls every mixture of interesting arguments.
fn assert_means_what_it_says(seccomp: &LinuxSeccomp) {
    let program = &compile(seccomp).unwrap()[0];
    let far = [0x3fff_ffff, 0x7fff_ffff, u32::MAX];
    for call in (0..500).chain(far).filter(|call| *call < 0x4000_0000 || lists_only(seccomp)) {
        let [a, b, c, d, e, f] = interesting(seccomp, call);
        assert!(e.len() * f.len() == 1, "conditions on the first four arguments only");
        let groups = groups_of(seccomp, call);
        let pairs = |one: &[u64], other: &[u64]| -> Vec<(u64, u64)> {
            one.iter().flat_map(|x| other.iter().map(|y| (*x, *y))).collect()
        };
        let all = pairs(&a, &b)
            .into_iter()
            .flat_map(|first| pairs(&c, &d).into_iter().map(move |second| (first, second)));
        for ((x, y), (z, w)) in all {
            let args = [x, y, z, w, 0, 0];
            let found = run(program, &data(i64::from(call), &args));
            assert_eq!(found, meant(seccomp, &groups, &args), "{call} {args:x?}");
        }
    }
}

fn lists_only(seccomp: &LinuxSeccomp) -> bool {
    !matches!(seccomp.default_action().to_string().as_str(), "SCMP_ACT_ALLOW" | "SCMP_ACT_LOG")
}

#[test]
fn the_filters_compiled_are_the_filters_as_written() {
    for text in [
        include_str!("../../../profiles/seccomp/strict.json"),
        include_str!("../../../profiles/seccomp/hosting.json"),
        include_str!("../../../profiles/seccomp/compat.json"),
    ] {
        assert_means_what_it_says(&filter(text));
    }
}

/// The program that has calls wait says nothing of other calls.
#[test]
fn waiting_calls_wait_and_no_others() {
    let program = waiting(&["execve", "execveat"], true).unwrap();
    for call in 0..500 {
        let waits = [libc::SYS_execve, libc::SYS_execveat].contains(&call);
        let expected = if waits { libc::SECCOMP_RET_USER_NOTIF } else { ALLOW };
        assert_eq!(run(&program, &data(call, &[])), expected, "{call}");
    }
    let mut foreign = data(libc::SYS_read, &[]);
    foreign[1] = 0x4000_0003; // i386, where 11 is execve
    assert_eq!(run(&program, &foreign), libc::SECCOMP_RET_KILL_PROCESS);
}

/// One call in many groups, in every order of actions; first and last numbers; neighbours.
#[test]
fn overlapping_groups_compiled_are_as_written() {
    let actions = ["ALLOW", "ERRNO", "LOG", "TRAP", "KILL_PROCESS", "KILL_THREAD", "TRACE"];
    for default in actions {
        for first in actions {
            for second in actions {
                assert_means_what_it_says(&filter(&format!(
                    r#"{{"defaultAction": "SCMP_ACT_{default}", "defaultErrnoRet": 38, "syscalls": [
                    {{"names": ["read", "write"], "action": "SCMP_ACT_{first}", "errnoRet": 7,
                      "args": [{{"index": 0, "value": 5, "op": "SCMP_CMP_LT"}}]}},
                    {{"names": ["close", "read", "openat"], "action": "SCMP_ACT_{second}", "errnoRet": 8,
                      "args": [{{"index": 0, "value": 3, "op": "SCMP_CMP_GT"}}]}},
                    {{"names": ["write", "file_setattr"], "action": "SCMP_ACT_{second}", "errnoRet": 9}}]}}"#
                )));
            }
        }
    }
}

/// libseccomp, which runc and crun use, lets a rule without conditions swallow those with.
#[test]
fn the_filters_read_the_same_in_libseccomp() {
    for text in [
        include_str!("../../../profiles/seccomp/strict.json"),
        include_str!("../../../profiles/seccomp/hosting.json"),
        include_str!("../../../profiles/seccomp/compat.json"),
    ] {
        let filter = filter(text);
        let groups = filter.syscalls().as_deref().unwrap();
        for group in groups.iter().filter(|group| group.args().is_none()) {
            for name in group.names() {
                let times = groups.iter().filter(|other| other.names().contains(name)).count();
                assert_eq!(times, 1, "{name}");
            }
        }
    }
}

/// The kernel's log has numbers.
#[test]
fn every_call_has_a_name() {
    for (text, known) in [("read", true), ("file_setattr", true), ("_llseek", false)] {
        assert_eq!(number(text).unwrap().and_then(name), known.then_some(text));
    }
    assert_eq!(name(0x4000_0000), None);
}

/// docs/seccomp.md has these numbers, beside those of others.
#[test]
#[cfg(target_arch = "x86_64")]
fn the_filters_allow_as_many_calls_as_is_published() {
    let published = include_str!("../../../docs/seccomp.md");
    for (name, text) in [
        ("strict", include_str!("../../../profiles/seccomp/strict.json")),
        ("hosting", include_str!("../../../profiles/seccomp/hosting.json")),
        ("compat", include_str!("../../../profiles/seccomp/compat.json")),
    ] {
        let Allowed { calls, by_arguments } = allowed(&filter(text)).unwrap().unwrap();
        let row = format!("| howdah `{name}` | {calls} | {by_arguments} |");
        assert!(published.contains(&row), "{row} is not in docs/seccomp.md");
    }
    let deny = filter(r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}"#);
    assert_eq!(allowed(&deny).unwrap(), None);
}
