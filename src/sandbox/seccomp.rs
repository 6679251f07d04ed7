//! A seccomp filter in OCI's words, made a BPF program.
//!
//! `seccompiler` compiles the conditions of a group, checks the architecture and
//! installs. The way from a call's number to its groups is made here, for two
//! reasons. A filter of `seccompiler` knows two actions, an OCI filter any number,
//! which would be a stack of filters. And its filters compare number after number;
//! the kernel translates every instruction at installation and tries every number,
//! in the time of a cold start: a stack of three for `hosting` took 1.1 ms to
//! install where this one program takes 0.2.
//!
//! **Which group answers** when several match: the most restrictive action, as the
//! kernel has it among stacked filters (seccomp(2)); of several ERRNO, the later
//! in the file.
//!
//! **Cost of a call.** Since Linux 5.11 the kernel knows from installation which
//! calls are allowed whatever their arguments, and does not run the program for
//! them; for the others (socket, ioctl, clone …) it finds the number in some ten
//! comparisons.
//!
//! **Other ABIs.** The program kills on an architecture that is not the machine's
//! (`int 0x80`). x32 calls have the machine's architecture and bit 30 set in their
//! number: no list can name them, so they get the default action, or ENOSYS where
//! that would let them through.
//!
//! This room knows no profile and no php-fpm.

use std::collections::BTreeMap;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall,
};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};
use syscalls::Sysno;

/// Why a filter cannot be had exactly as it is written.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// A name that no architecture knows.
    #[error("unknown system call {0:?}")]
    UnknownSyscall(String),
    /// The file is for other machines.
    #[error("the filter is not for {machine}: its architectures are {list}", machine = std::env::consts::ARCH)]
    Architecture {
        /// What it is for.
        list: String,
    },
    /// SCMP_ACT_NOTIFY.
    #[error("{0} is not supported")]
    Action(LinuxSeccompAction),
    /// `flags`, `listenerPath` or `listenerMetadata`.
    #[error("{0} is not supported")]
    Member(&'static str),
    /// Above the kernel's MAX_ERRNO.
    #[error("{0} is no errno: at most 4095")]
    Errno(u32),
    /// System calls have arguments 0 to 5.
    #[error("{syscall}: there is no argument {index}: the last is 5")]
    ArgumentIndex {
        /// The first name of its group.
        syscall: String,
        /// What the file says.
        index: usize,
    },
    /// runc reads this as "or", the specification as "and".
    #[error("{syscall}: argument {index} is compared twice in one group: write two groups")]
    ArgumentTwice {
        /// The first name of its group.
        syscall: String,
        /// The argument.
        index: usize,
    },
    /// What seccompiler says.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

/// What a group says about each call that it names; no rule: whatever the arguments.
struct Entry {
    rule: Option<SeccompRule>,
    action: SeccompAction,
}

/// The entries of each call, in the order of the file.
type Entries = BTreeMap<u32, Vec<Entry>>;

/// The program that makes `seccomp` true, as a list that [`apply`] takes.
pub fn compile(seccomp: &LinuxSeccomp) -> Result<Vec<BpfProgram>, SeccompError> {
    refuse_unsupported(seccomp)?;
    let default = action(seccomp.default_action(), seccomp.default_errno_ret())?;
    let mut program = check_architecture()?;
    program.push(statement(LOAD, 0)); // seccomp_data.nr
    let answers = entries(seccomp.syscalls().as_deref().unwrap_or_default())?
        .into_iter()
        .map(|(number, entries)| (number, answer(entries, &default)))
        .collect();
    program.extend(choose(&segments(answers, &default)));
    match program.len() {
        0..=4096 => Ok(vec![program]), // BPF_MAXINSNS
        length => Err(BackendError::FilterTooLarge(length).into()),
    }
}

/// Installs `programs` on the calling thread for good, and with them no_new_privs.
pub fn apply(programs: &[BpfProgram]) -> Result<(), seccompiler::Error> {
    programs.iter().try_for_each(|program| seccompiler::apply_filter(program))
}

fn refuse_unsupported(seccomp: &LinuxSeccomp) -> Result<(), SeccompError> {
    if seccomp.flags().as_ref().is_some_and(|flags| !flags.is_empty()) {
        return Err(SeccompError::Member("flags"));
    }
    if seccomp.listener_path().is_some() {
        return Err(SeccompError::Member("listenerPath"));
    }
    if seccomp.listener_metadata().is_some() {
        return Err(SeccompError::Member("listenerMetadata"));
    }
    let native = match std::env::consts::ARCH {
        "x86_64" => Arch::ScmpArchX86_64,
        "aarch64" => Arch::ScmpArchAarch64,
        _ => Arch::ScmpArchRiscv64,
    };
    match seccomp.architectures().as_deref() {
        None | Some([]) => Ok(()),
        Some(list) if list.contains(&native) || list.contains(&Arch::ScmpArchNative) => Ok(()),
        Some(list) => Err(SeccompError::Architecture {
            list: list.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        }),
    }
}

fn entries(groups: &[LinuxSyscall]) -> Result<Entries, SeccompError> {
    let mut entries = Entries::new();
    for group in groups {
        let action = action(group.action(), group.errno_ret())?;
        let rule = rule(group)?;
        for name in group.names() {
            if let Some(number) = number(name)? {
                let entry = Entry { rule: rule.clone(), action: action.clone() };
                entries.entry(number).or_default().push(entry);
            }
        }
    }
    Ok(entries)
}

/// Calls that came after the tables of syscalls 0.6 (its later versions need a
/// newer Rust than howdah does). Every architecture of those tables has the same
/// numbers for them.
const NEWER: &[(&str, u32)] = &[
    ("mseal", 462),
    ("setxattrat", 463),
    ("getxattrat", 464),
    ("listxattrat", 465),
    ("removexattrat", 466),
    ("open_tree_attr", 467),
    ("file_getattr", 468),
    ("file_setattr", 469),
];

/// The number of `name` here; `None` where only other architectures have it
/// (an allow-list of several machines names them all).
fn number(name: &str) -> Result<Option<u32>, SeccompError> {
    if let Ok(call) = name.parse::<Sysno>() {
        return Ok(Some(call.id() as u32));
    }
    if let Some((_, number)) = NEWER.iter().find(|(newer, _)| *newer == name) {
        return Ok(Some(*number));
    }
    let elsewhere = name.parse::<syscalls::x86_64::Sysno>().is_ok()
        || name.parse::<syscalls::aarch64::Sysno>().is_ok()
        || name.parse::<syscalls::riscv64::Sysno>().is_ok()
        || name.parse::<syscalls::x86::Sysno>().is_ok()
        || name.parse::<syscalls::arm::Sysno>().is_ok()
        || name.parse::<syscalls::powerpc64::Sysno>().is_ok()
        || name.parse::<syscalls::s390x::Sysno>().is_ok();
    if elsewhere { Ok(None) } else { Err(SeccompError::UnknownSyscall(name.into())) }
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<SeccompAction, SeccompError> {
    use LinuxSeccompAction as Oci;
    Ok(match action {
        Oci::ScmpActKill | Oci::ScmpActKillThread => SeccompAction::KillThread,
        Oci::ScmpActKillProcess => SeccompAction::KillProcess,
        Oci::ScmpActTrap => SeccompAction::Trap,
        Oci::ScmpActErrno => match errno.unwrap_or(libc::EPERM as u32) {
            errno @ 0..=4095 => SeccompAction::Errno(errno),
            errno => return Err(SeccompError::Errno(errno)),
        },
        Oci::ScmpActTrace => SeccompAction::Trace(errno.unwrap_or(libc::EPERM as u32)),
        Oci::ScmpActLog => SeccompAction::Log,
        Oci::ScmpActAllow => SeccompAction::Allow,
        Oci::ScmpActNotify => return Err(SeccompError::Action(action)),
    })
}

/// The conditions of `group`, all of which must hold; `None`: any arguments.
fn rule(group: &LinuxSyscall) -> Result<Option<SeccompRule>, SeccompError> {
    let args = group.args().as_deref().unwrap_or_default();
    let syscall = || group.names().first().cloned().unwrap_or_default();
    for (position, arg) in args.iter().enumerate() {
        let index = arg.index();
        if index > 5 {
            return Err(SeccompError::ArgumentIndex { syscall: syscall(), index });
        }
        if args[..position].iter().any(|earlier| earlier.index() == index) {
            return Err(SeccompError::ArgumentTwice { syscall: syscall(), index });
        }
    }
    if args.is_empty() {
        return Ok(None);
    }
    let conditions = args.iter().map(condition).collect::<Result<_, _>>()?;
    Ok(Some(SeccompRule::new(conditions)?))
}

/// All 64 bits are compared, as libseccomp does it; a kernel that reads an int
/// ignores the upper half, so a group that *refuses* a value must mask it off.
fn condition(arg: &LinuxSeccompArg) -> Result<SeccompCondition, BackendError> {
    use LinuxSeccompOperator as Oci;
    let (op, value) = match arg.op() {
        Oci::ScmpCmpNe => (SeccompCmpOp::Ne, arg.value()),
        Oci::ScmpCmpLt => (SeccompCmpOp::Lt, arg.value()),
        Oci::ScmpCmpLe => (SeccompCmpOp::Le, arg.value()),
        Oci::ScmpCmpEq => (SeccompCmpOp::Eq, arg.value()),
        Oci::ScmpCmpGe => (SeccompCmpOp::Ge, arg.value()),
        Oci::ScmpCmpGt => (SeccompCmpOp::Gt, arg.value()),
        // OCI: `value` is the mask, `valueTwo` what remains.
        Oci::ScmpCmpMaskedEq => (SeccompCmpOp::MaskedEq(arg.value()), arg.value_two().unwrap_or(0)),
    };
    SeccompCondition::new(arg.index() as u8, SeccompCmpArgLen::Qword, op, value)
}

/// What to do with one call, once its number is known.
fn answer(mut entries: Vec<Entry>, default: &SeccompAction) -> BpfProgram {
    // A stable sort of the reversed list: of equals, the later comes first.
    entries.reverse();
    entries.sort_by_key(|entry| restriction(&entry.action));
    let mut program = BpfProgram::new();
    for Entry { rule, action } in entries {
        let give = statement(RETURN, u32::from(action));
        match rule {
            Some(rule) => {
                program.extend(without_leading_jumps(rule.into()));
                program.push(give); // where the rule's last condition falls through; it jumps past it
            }
            None => {
                program.push(give);
                return program;
            }
        }
    }
    program.push(statement(RETURN, u32::from(default.clone())));
    program
}

/// The kernel's order of precedence: it compares the actions as signed numbers,
/// so that SECCOMP_RET_KILL_PROCESS (0x8000_0000) comes first.
fn restriction(action: &SeccompAction) -> i32 {
    (u32::from(action.clone()) & libc::SECCOMP_RET_ACTION_FULL) as i32
}

/// `seccompiler`'s rules begin with jumps for its own way of finding the number.
/// BPF only jumps forward, so nothing can come back to what an unconditional jump
/// at the start leaves out.
fn without_leading_jumps(mut rule: BpfProgram) -> BpfProgram {
    while let Some(sock_filter { code: JUMP, k, .. }) = rule.first() {
        rule.drain(..=*k as usize);
    }
    rule
}

/// The answers as ranges of numbers, each from its number to the next one's,
/// the first from 0; neighbours with one answer are one range.
fn segments(answers: BTreeMap<u32, BpfProgram>, default: &SeccompAction) -> Vec<(u32, BpfProgram)> {
    const X32_BIT: u32 = 0x4000_0000;
    let otherwise = vec![statement(RETURN, u32::from(default.clone()))];
    let mut segments = vec![(0, otherwise.clone())];
    for (number, program) in answers {
        segments.push((number, program));
        segments.push((number + 1, otherwise.clone()));
    }
    if cfg!(target_arch = "x86_64") && matches!(default, SeccompAction::Allow | SeccompAction::Log) {
        let refusal = SeccompAction::Errno(libc::ENOSYS as u32);
        segments.push((X32_BIT, vec![statement(RETURN, u32::from(refusal))]));
    }
    // Of two that start at one number, the former is empty.
    segments.reverse();
    segments.dedup_by_key(|(start, _)| *start);
    segments.reverse();
    segments.dedup_by(|next, before| next.1 == before.1);
    segments
}

/// A binary search for the segment in which the loaded number lies.
fn choose(segments: &[(u32, BpfProgram)]) -> BpfProgram {
    if let [(_, program)] = segments {
        return program.clone();
    }
    let (below, above) = segments.split_at(segments.len() / 2);
    let (start, below, above) = (above[0].0, choose(below), choose(above));
    // A conditional jump reaches 255 instructions, JUMP any number.
    let mut program = match u8::try_from(below.len()) {
        Ok(length) => vec![sock_filter { code: JUMP_GE, jt: length, jf: 0, k: start }],
        Err(_) => {
            vec![sock_filter { code: JUMP_GE, jt: 0, jf: 1, k: start }, statement(JUMP, below.len() as u32)]
        }
    };
    program.extend(below);
    program.extend(above);
    program
}

/// The instructions that kill on a foreign architecture and else go on.
fn check_architecture() -> Result<BpfProgram, BackendError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let nothing = SeccompFilter::new(BTreeMap::new(), SeccompAction::Allow, SeccompAction::Trap, arch)?;
    let mut program = BpfProgram::try_from(nothing)?;
    program.pop(); // RET ALLOW
    Ok(program)
}

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const JUMP_GE: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

fn statement(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

#[cfg(test)]
mod tests;
