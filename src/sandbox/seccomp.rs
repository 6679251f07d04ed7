//! A seccomp filter in OCI's words, made a BPF program.
//!
//! The program is made here and not by `seccompiler`, whose types it has and which
//! installs it, for two reasons. A filter of `seccompiler` knows two actions, an
//! OCI filter any number, which would be a stack of filters. And it compares number
//! after number and argument after argument anew; the kernel translates every
//! instruction at installation and tries every number, in the time of a cold start.
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
//! **What is logged.** Nothing but kills, which the kernel always logs, with the
//! call's number. SECCOMP_FILTER_FLAG_LOG would log every refusal, and a tenant
//! makes as many of those as he likes: glibc alone one with each proc_open(),
//! whose clone3 is ENOSYS.
//!
//! This room knows no profile and no php-fpm.

mod diagram;
mod facts;
mod names;

use std::collections::BTreeMap;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall,
};
use seccompiler::{BackendError, BpfProgram};

use diagram::{Diagram, Id, Look, Test};
pub use names::name;
use names::number;

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
    /// More than the kernel's BPF_MAXINSNS.
    #[error(transparent)]
    Length(#[from] BackendError),
    /// A processor for which this room has no number.
    #[error("howdah has no seccomp filters for {}", std::env::consts::ARCH)]
    Machine,
}

/// What a group says about each call that it names: all the conditions, and the action.
#[derive(Clone)]
struct Entry {
    conditions: Vec<LinuxSeccompArg>,
    action: u32,
}

/// The entries of each call, in the order of the file.
type Entries = BTreeMap<u32, Vec<Entry>>;

/// The program that makes `seccomp` true, as a list that [`apply`] takes.
pub fn compile(seccomp: &LinuxSeccomp) -> Result<Vec<BpfProgram>, SeccompError> {
    refuse_unsupported(seccomp)?;
    let default = action(seccomp.default_action(), seccomp.default_errno_ret())?;
    let entries = entries(seccomp.syscalls().as_deref().unwrap_or_default())?;
    let mut diagram = Diagram::default();
    let number = choose(&mut diagram, &segments(&entries, default), &entries, default);
    let kill = diagram.give(libc::SECCOMP_RET_KILL_PROCESS);
    let architecture = Test::Equal(whole(ARCHITECTURE), audit_architecture()?);
    let root = diagram.branch(architecture, number, kill);
    let program = diagram.program(root);
    match program.len() {
        0..=4096 => Ok(vec![program]), // BPF_MAXINSNS
        length => Err(BackendError::FilterTooLarge(length).into()),
    }
}

/// How many system calls of this machine a filter lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Allowed {
    /// For some arguments at least.
    pub calls: usize,
    /// Of these: not for all.
    pub by_arguments: usize,
}

/// What `seccomp` lets through; `None` where it lists what it refuses.
///
/// # Errors
/// Those of [`compile`] about names.
pub fn allowed(seccomp: &LinuxSeccomp) -> Result<Option<Allowed>, SeccompError> {
    let lets_through = |action| matches!(action, libc::SECCOMP_RET_ALLOW | libc::SECCOMP_RET_LOG);
    if lets_through(action(seccomp.default_action(), seccomp.default_errno_ret())?) {
        return Ok(None);
    }
    let entries = entries(seccomp.syscalls().as_deref().unwrap_or_default())?;
    let passing = entries.values().filter(|list| list.iter().any(|entry| lets_through(entry.action)));
    let free = |list: &&Vec<Entry>| list.iter().all(|entry| entry.conditions.is_empty());
    let (calls, free) =
        passing.fold((0, 0), |(calls, all), list| (calls + 1, all + usize::from(free(&list))));
    Ok(Some(Allowed { calls, by_arguments: calls - free }))
}

/// Whether `seccomp` lets `call` through, for some arguments at least.
///
/// # Errors
/// Those of [`compile`] about names.
pub fn lets_through(seccomp: &LinuxSeccomp, call: &str) -> Result<bool, SeccompError> {
    let passes = |action| matches!(action, libc::SECCOMP_RET_ALLOW | libc::SECCOMP_RET_LOG);
    let default = action(seccomp.default_action(), seccomp.default_errno_ret())?;
    let entries = entries(seccomp.syscalls().as_deref().unwrap_or_default())?;
    let list = number(call)?.and_then(|number| entries.get(&number));
    Ok(list.map_or(passes(default), |list| list.iter().any(|entry| passes(entry.action))))
}

/// A program that has `calls` wait for a listener (SECCOMP_RET_USER_NOTIF) and lets everything else
/// through: for a filter beside that of the spec, which says what is allowed at all. Of another ABI
/// of the machine the numbers mean other calls: with `closed` they end the process, so that no call
/// is made by another name.
pub fn waiting(calls: &[&str], closed: bool) -> Result<BpfProgram, SeccompError> {
    let mut diagram = Diagram::default();
    let wait = diagram.give(libc::SECCOMP_RET_USER_NOTIF);
    let allow = diagram.give(libc::SECCOMP_RET_ALLOW);
    let mut root = allow;
    for call in calls {
        if let Some(number) = number(call)? {
            root = diagram.branch(Test::Equal(whole(NUMBER), number), wait, root);
        }
    }
    let other = if closed { diagram.give(libc::SECCOMP_RET_KILL_PROCESS) } else { allow };
    root = diagram.branch(Test::Equal(whole(ARCHITECTURE), audit_architecture()?), root, other);
    Ok(diagram.program(root))
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
        let entry = Entry { conditions: conditions(group)?, action };
        for name in group.names() {
            if let Some(number) = number(name)? {
                entries.entry(number).or_default().push(entry.clone());
            }
        }
    }
    Ok(entries)
}

/// The value that seccomp(2) knows the action by.
fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32, SeccompError> {
    use LinuxSeccompAction as Oci;
    let data = errno.unwrap_or(libc::EPERM as u32);
    if data > 4095 && matches!(action, Oci::ScmpActErrno) {
        return Err(SeccompError::Errno(data));
    }
    Ok(match action {
        Oci::ScmpActKill | Oci::ScmpActKillThread => libc::SECCOMP_RET_KILL_THREAD,
        Oci::ScmpActKillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        Oci::ScmpActTrap => libc::SECCOMP_RET_TRAP,
        Oci::ScmpActErrno => libc::SECCOMP_RET_ERRNO | data,
        Oci::ScmpActTrace => libc::SECCOMP_RET_TRACE | data & libc::SECCOMP_RET_DATA,
        Oci::ScmpActLog => libc::SECCOMP_RET_LOG,
        Oci::ScmpActAllow => libc::SECCOMP_RET_ALLOW,
        Oci::ScmpActNotify => return Err(SeccompError::Action(action)),
    })
}

/// The conditions of `group`, all of which must hold; none: any arguments.
fn conditions(group: &LinuxSyscall) -> Result<Vec<LinuxSeccompArg>, SeccompError> {
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
    Ok(args.to_vec())
}

/// The kernel's order of precedence: it compares the actions as signed numbers,
/// so that SECCOMP_RET_KILL_PROCESS (0x8000_0000) comes first.
fn restriction(action: u32) -> i32 {
    (action & libc::SECCOMP_RET_ACTION_FULL) as i32
}

/// What to do with one call, once its number is known.
fn answer(diagram: &mut Diagram, entries: &[Entry], default: u32) -> Id {
    // A stable sort of the reversed list: of equals, the later comes first.
    let mut entries: Vec<&Entry> = entries.iter().rev().collect();
    entries.sort_by_key(|entry| restriction(entry.action));
    let otherwise = diagram.give(default);
    let first = entries.into_iter().rev().fold(otherwise, |rest, entry| {
        let holds = diagram.give(entry.action);
        entry.conditions.iter().rev().fold(holds, |yes, arg| condition(diagram, arg, yes, rest))
    });
    diagram.simplify(first)
}

/// `yes` where the condition holds, else `no`.
///
/// All 64 bits are compared, as libseccomp does it; a kernel that reads an int
/// ignores the upper half, so a group that *refuses* a value must mask it off.
fn condition(diagram: &mut Diagram, arg: &LinuxSeccompArg, yes: Id, no: Id) -> Id {
    use LinuxSeccompOperator as Oci;
    let (high, low) = words_of(arg.index());
    let value = arg.value();
    match arg.op() {
        Oci::ScmpCmpEq => equal(diagram, (high, low), u64::MAX, value, [yes, no]),
        Oci::ScmpCmpNe => equal(diagram, (high, low), u64::MAX, value, [no, yes]),
        // OCI: `value` is the mask, `valueTwo` what remains.
        Oci::ScmpCmpMaskedEq => equal(diagram, (high, low), value, arg.value_two().unwrap_or(0), [yes, no]),
        Oci::ScmpCmpGe => at_least(diagram, (high, low), value, [yes, no]),
        Oci::ScmpCmpLt => at_least(diagram, (high, low), value, [no, yes]),
        Oci::ScmpCmpGt => {
            value.checked_add(1).map_or(no, |next| at_least(diagram, (high, low), next, [yes, no]))
        }
        Oci::ScmpCmpLe => {
            value.checked_add(1).map_or(yes, |next| at_least(diagram, (high, low), next, [no, yes]))
        }
    }
}

fn equal(diagram: &mut Diagram, words: (u32, u32), mask: u64, value: u64, [yes, no]: [Id; 2]) -> Id {
    if value & !mask != 0 {
        return no;
    }
    let mut word = |offset, mask: u32, value: u32, yes| match mask {
        0 => yes,
        mask => diagram.branch(Test::Equal(Look { offset, mask }, value), yes, no),
    };
    let low = word(words.1, mask as u32, value as u32, yes);
    word(words.0, (mask >> 32) as u32, (value >> 32) as u32, low)
}

fn at_least(diagram: &mut Diagram, (high, low): (u32, u32), bound: u64, [yes, no]: [Id; 2]) -> Id {
    let (above, below) = ((bound >> 32) as u32, bound as u32);
    let same = if below == 0 { yes } else { diagram.branch(Test::AtLeast(low, below), yes, no) };
    let not_above = diagram.branch(Test::Equal(whole(high), above), same, no);
    // Above 0xffff_ffff is nothing.
    above.checked_add(1).map_or(not_above, |more| diagram.branch(Test::AtLeast(high, more), yes, not_above))
}

/// Where the halves of an argument are in `struct seccomp_data`: the upper and the lower.
fn words_of(index: usize) -> (u32, u32) {
    let at = 16 + 8 * index as u32;
    if cfg!(target_endian = "big") { (at, at + 4) } else { (at + 4, at) }
}

fn whole(offset: u32) -> Look {
    Look { offset, mask: u32::MAX }
}

/// `nr` and `arch` in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

/// The machine in the words of linux/audit.h.
fn audit_architecture() -> Result<u32, SeccompError> {
    match std::env::consts::ARCH {
        "x86_64" => Ok(0xc000_003e),
        "aarch64" => Ok(0xc000_00b7),
        "riscv64" => Ok(0xc000_00f3),
        _ => Err(SeccompError::Machine),
    }
}

/// What holds from a number on, up to the next segment's.
#[derive(Clone, Copy, PartialEq)]
enum Meaning {
    /// The entries of this call.
    Call(u32),
    /// The same for all, whatever their arguments.
    Always(u32),
}

/// All numbers as ranges, the first from 0; neighbours with one meaning are one range.
fn segments(entries: &Entries, default: u32) -> Vec<(u32, Meaning)> {
    const X32_BIT: u32 = 0x4000_0000;
    let mut segments = vec![(0, Meaning::Always(default))];
    for (number, entries) in entries {
        let meaning = match entries.as_slice() {
            [Entry { conditions, action }] if conditions.is_empty() => Meaning::Always(*action),
            _ => Meaning::Call(*number),
        };
        segments.push((*number, meaning));
        segments.push((number + 1, Meaning::Always(default)));
    }
    if cfg!(target_arch = "x86_64") && matches!(default, libc::SECCOMP_RET_ALLOW | libc::SECCOMP_RET_LOG) {
        segments.push((X32_BIT, Meaning::Always(libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32)));
    }
    // Of two that start at one number, the former is empty.
    segments.reverse();
    segments.dedup_by_key(|(start, _)| *start);
    segments.reverse();
    segments.dedup_by_key(|(_, meaning)| *meaning);
    segments
}

/// A binary search for the segment in which the number lies.
fn choose(diagram: &mut Diagram, segments: &[(u32, Meaning)], entries: &Entries, default: u32) -> Id {
    let give = |diagram: &mut Diagram, meaning| match meaning {
        Meaning::Always(action) => diagram.give(action),
        Meaning::Call(number) => answer(diagram, &entries[&number], default),
    };
    match segments {
        [(_, meaning)] => give(diagram, *meaning),
        // One number that means something else than those on both sides.
        [(_, around), (number, meaning), (next, after)] if around == after && *next == number + 1 => {
            let around = give(diagram, *around);
            let meaning = give(diagram, *meaning);
            diagram.branch(Test::Equal(whole(NUMBER), *number), meaning, around)
        }
        _ => {
            let (below, above) = segments.split_at(segments.len() / 2);
            let start = above[0].0;
            let above = choose(diagram, above, entries, default);
            let below = choose(diagram, below, entries, default);
            diagram.branch(Test::AtLeast(NUMBER, start), above, below)
        }
    }
}

#[cfg(test)]
mod tests;
