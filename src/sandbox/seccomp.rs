//! A seccomp filter in OCI's words, made BPF programs.
//!
//! A filter of `seccompiler` knows two actions, an OCI filter any number; so it
//! becomes a stack of programs, and the kernel takes the most restrictive answer
//! of them all (seccomp(2)). From bottom to top:
//!
//! 1. a program for each run of neighbouring groups that refuse with the same
//!    action: what they name gets it, the rest is allowed;
//! 2. the list: everything that the file names, allowed or not, is allowed; the
//!    rest gets the default action.
//!
//! Two programs that answer ERRNO with different values tie in precedence. The
//! kernel then takes the one installed last, so between groups that both match,
//! the later in the file wins, as a reader expects.
//!
//! The list stands on top because installing a program takes prctl(2) and
//! seccomp(2) itself: below the others it would have to leave both to the tenant.
//!
//! **Cost.** The programs are linear, some hundred comparisons for a call late in
//! the list. They are not run for most calls: since Linux 5.11 the kernel works
//! out at installation which calls are allowed whatever their arguments, and
//! answers those from a bitmap. Calls with conditions (socket, ioctl, clone …)
//! always run the programs: about a microsecond.
//!
//! **Other ABIs.** Each program kills on an architecture that is not the
//! machine's (`int 0x80`). x32 calls have the machine's architecture and bit 30
//! set in their number: an allow-list does not contain them; a deny-list gets a
//! program of its own for them.
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
    /// Refusing these before the last program is installed would refuse that program.
    #[error("prctl and seccomp are refused in two ways: name them in one group, or in none")]
    Installer,
    /// What seccompiler says.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

/// The rules of one program: no rule means any arguments.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Neighbouring groups with one action.
struct Run {
    action: SeccompAction,
    rules: Rules,
}

impl Run {
    /// Whether it has a say in installing the next program.
    fn names_installer(&self) -> bool {
        [Sysno::prctl, Sysno::seccomp].iter().any(|call| self.rules.contains_key(&i64::from(call.id())))
    }
}

/// The programs that make `seccomp` true, in the order of installation.
pub fn compile(seccomp: &LinuxSeccomp) -> Result<Vec<BpfProgram>, SeccompError> {
    refuse_unsupported(seccomp)?;
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let default = action(seccomp.default_action(), seccomp.default_errno_ret())?;
    let runs = runs(seccomp.syscalls().as_deref().unwrap_or_default())?;

    let mut listed = Rules::new();
    for (number, rules) in runs.iter().flat_map(|run| &run.rules) {
        add_rules(&mut listed, *number, rules);
    }
    let (late, early): (Vec<Run>, Vec<Run>) =
        runs.into_iter().filter(|run| run.action != SeccompAction::Allow).partition(Run::names_installer);
    if late.len() > 1 {
        return Err(SeccompError::Installer);
    }

    let mut filters = Vec::new();
    for run in early {
        filters.push(SeccompFilter::new(run.rules, SeccompAction::Allow, run.action, arch)?);
    }
    if default != SeccompAction::Allow {
        filters.push(SeccompFilter::new(listed, default.clone(), SeccompAction::Allow, arch)?);
    }
    for run in late {
        filters.push(SeccompFilter::new(run.rules, SeccompAction::Allow, run.action, arch)?);
    }
    let programs = filters.into_iter().map(|filter| Ok(filter.try_into()?));
    let guard = lets_through(&default).then(refuse_x32).into_iter().flatten();
    guard.map(Ok).chain(programs).collect()
}

/// Installs `programs` on the calling thread for good, and with them no_new_privs.
pub fn apply(programs: &[BpfProgram]) -> Result<(), seccompiler::Error> {
    programs.iter().try_for_each(|program| seccompiler::apply_filter(program))
}

/// Whether `name` is a system call of some architecture.
pub fn is_known(name: &str) -> bool {
    number(name).is_ok()
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

fn runs(groups: &[LinuxSyscall]) -> Result<Vec<Run>, SeccompError> {
    let mut runs: Vec<Run> = Vec::new();
    for group in groups {
        let action = action(group.action(), group.errno_ret())?;
        let rule = rule(group)?;
        if runs.last().is_none_or(|run| run.action != action) {
            runs.push(Run { action, rules: Rules::new() });
        }
        let run = runs.last_mut().expect("pushed above");
        for name in group.names() {
            if let Some(number) = number(name)? {
                add_rules(&mut run.rules, number, rule.as_slice());
            }
        }
    }
    Ok(runs)
}

/// Adds `rules` for `number`; "any arguments", which is no rule, swallows the others.
fn add_rules(all: &mut Rules, number: i64, rules: &[SeccompRule]) {
    match all.get_mut(&number) {
        None => drop(all.insert(number, rules.to_vec())),
        Some(known) if known.is_empty() || rules.is_empty() => known.clear(),
        Some(known) => known.extend_from_slice(rules),
    }
}

/// The number of `name` here; `None` where only other architectures have it
/// (an allow-list of several machines names them all).
fn number(name: &str) -> Result<Option<i64>, SeccompError> {
    if let Ok(call) = name.parse::<Sysno>() {
        return Ok(Some(i64::from(call.id())));
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

/// Whether a call that no group names is executed.
fn lets_through(default: &SeccompAction) -> bool {
    matches!(default, SeccompAction::Allow | SeccompAction::Log)
}

/// ENOSYS for every x32 call: seccompiler compares numbers for equality only, and
/// a deny-list would miss the same call under its x32 number.
fn refuse_x32() -> Option<BpfProgram> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_GE: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    const X32_BIT: u32 = 0x4000_0000;
    let instruction = |code, jt, k| sock_filter { code, jt, jf: 0, k };
    cfg!(target_arch = "x86_64").then(|| {
        vec![
            instruction(LOAD, 0, 0), // seccomp_data.nr
            instruction(JUMP_GE, 1, X32_BIT),
            instruction(RETURN, 0, libc::SECCOMP_RET_ALLOW),
            instruction(RETURN, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
        ]
    })
}
