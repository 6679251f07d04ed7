//! Parts of the kernel that no site needs. Arguments are such that a call that
//! gets through changes nothing: it fails later, or undoes itself with the process.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::AsRawFd;

use crate::numbers as nr;
use crate::outcome::{EINVAL, ENOSYS, ENOTTY, EPERM, Outcome, done, held, name, not_tried, open, reached};
use crate::raw::{at, at_mut, call, text};
#[cfg(target_arch = "x86_64")]
use crate::raw::{exit, fork};
use crate::world::World;

pub(crate) fn perform(world: &World, id: &str) -> Option<Outcome> {
    let try_call = |number, arguments: &[u64]| reached(world, call(number, arguments));
    Some(match id {
        "io-uring" => try_call(nr::IO_URING_SETUP, &[1, at_mut(&mut [0_u64; 15])]),
        "keyring-add" => add_key(world),
        "keyring-request" => {
            try_call(nr::REQUEST_KEY, &[text(c"user"), text(c"howdah-audit-none"), 0, PROCESS_KEYRING])
        }
        "keyring-neighbour" => neighbours_key(world),
        // BPF_MAP_CREATE of an array of one number.
        "bpf" => try_call(nr::BPF, &[0, at(&[2_u32, 4, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0]), 48]),
        "perf-event" => perf_event(world),
        "userfaultfd" => {
            const USER_MODE_ONLY: u64 = 1;
            match reached(world, call(nr::USERFAULTFD, &[0])) {
                Outcome::Held(_) => try_call(nr::USERFAULTFD, &[USER_MODE_ONLY]),
                other => other,
            }
        }
        "fanotify" => {
            const REPORT_FID: u64 = 0x200;
            try_call(nr::FANOTIFY_INIT, &[REPORT_FID, 0])
        }
        "inotify" => done(world, call(nr::INOTIFY_INIT1, &[0]), "an instance"),
        "kexec" => try_call(nr::KEXEC_LOAD, &[0, 0, 0, 0xffff]),
        "module-init" => try_call(nr::INIT_MODULE, &[0, 0, text(c"")]),
        "module-delete" => try_call(nr::DELETE_MODULE, &[text(c"howdah_audit_none"), 0]),
        "open-by-handle" => open_by_handle(world),
        "personality" => done(world, call(nr::PERSONALITY, &[0x0004_0000]), "ADDR_NO_RANDOMIZE"),
        "clock" => try_call(nr::SETTIMEOFDAY, &[0, 0]),
        "reboot" => try_call(nr::REBOOT, &[0, 0, 0, 0]),
        "swapon" => try_call(nr::SWAPON, &[text(c"/howdah-audit-none"), 0]),
        "acct" => try_call(nr::ACCT, &[text(c"/howdah-audit-none")]),
        "kernel-log" => try_call(nr::SYSLOG, &[10, 0, 0]),
        "ports" => of_x86(world, 0),
        "modify-ldt" => of_x86(world, 1),
        "hostname" => hostname(world),
        "int-80" => int_80(),
        "x32" => x32(world),
        "tiocsti" => terminal(0x5412),
        "tiocsti-high-bits" => terminal(0x5412 | 1 << 32),
        "tioclinux" => terminal(0x541c),
        _ => return None,
    })
}

const PROCESS_KEYRING: u64 = -2_i64 as u64;
const USER_KEYRING: u64 = -4_i64 as u64;
const KEYCTL_SETPERM: u64 = 5;
const KEYCTL_SEARCH: u64 = 10;
const KEYCTL_READ: u64 = 11;
const KEYCTL_SET_TIMEOUT: u64 = 15;

fn add_key(world: &World) -> Outcome {
    let secret = c"nothing";
    let arguments = [text(c"user"), text(c"howdah-audit"), text(secret), 7, PROCESS_KEYRING];
    done(world, call(nr::ADD_KEY, &arguments), "a key in its own keyring")
}

/// The canary's name: the same for all audits, for one takes the other's place in the keyring, and
/// keys that are past their time count against the account's quota for minutes (keyrings(7)).
const CANARY: &CStr = c"howdah-audit-canary";

/// Puts a canary into the keyring of this user; it goes by itself.
pub(crate) fn leave_key(seconds: u64) {
    let secret = crate::world::secret();
    let arguments = [text(c"user"), text(CANARY), at(secret.as_bytes()), secret.len() as u64, USER_KEYRING];
    if let Ok(key) = call(nr::ADD_KEY, &arguments) {
        let _ = call(nr::KEYCTL, &[KEYCTL_SETPERM, key, 0x3f3f_0000]);
        let _ = call(nr::KEYCTL, &[KEYCTL_SET_TIMEOUT, key, seconds]);
    }
}

fn neighbours_key(world: &World) -> Outcome {
    match call(nr::KEYCTL, &[KEYCTL_SEARCH, USER_KEYRING, text(c"user"), text(CANARY), 0]) {
        Ok(key) => {
            let mut bytes = [0_u8; 64];
            let read = call(nr::KEYCTL, &[KEYCTL_READ, key, at_mut(&mut bytes), 64]);
            open(if read.is_ok() { "read" } else { "found" })
        }
        Err(errno) => done(world, Err(errno), ""),
    }
}

fn perf_event(world: &World) -> Outcome {
    let mut attributes = [0_u64; 14];
    attributes[0] = 1 | 112 << 32; // PERF_TYPE_SOFTWARE, and the structure's size
    let everybody = -1_i64 as u64;
    reached(world, call(nr::PERF_EVENT_OPEN, &[at(&attributes), 0, everybody, everybody, 0]))
}

/// A handle that names no file: who may ask is told ESTALE.
fn open_by_handle(world: &World) -> Outcome {
    let Ok(root) = File::open("/usr").or_else(|_| File::open("/")) else { return held("no directory opens") };
    // handle_bytes, handle_type (of an inode and a generation), the handle
    let handle = [8_u32, 1, 0x7fff_fff0, 0x7fff_fff0];
    reached(world, call(nr::OPEN_BY_HANDLE_AT, &[root.as_raw_fd() as u64, at(&handle), 0]))
}

fn of_x86(world: &World, which: usize) -> Outcome {
    #[cfg(target_arch = "x86_64")]
    return match which {
        0 => reached(world, call(nr::IOPL, &[3])),
        _ => reached(world, call(nr::MODIFY_LDT, &[0, at_mut(&mut [0_u8; 64]), 64])),
    };
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (world, which);
        not_tried("only x86 has it")
    }
}

/// Sets the name that is there already. One's own name is nobody else's business.
fn hostname(world: &World) -> Outcome {
    let mut names = [[0_u8; 65]; 6];
    let _ = call(nr::UNAME, &[at_mut(&mut names)]);
    let length = names[1].iter().position(|byte| *byte == 0).unwrap_or(0);
    let answer = call(nr::SETHOSTNAME, &[at(&names[1]), length as u64]);
    let own = std::fs::read_link("/proc/self/ns/uts").unwrap_or_default();
    match answer {
        Ok(_) if own.to_string_lossy() == world.get("uts") => open("the host's own"),
        Ok(_) => held("it is the sandbox's own name"),
        Err(errno) => reached(world, Err(errno)),
    }
}

#[cfg(target_arch = "x86_64")]
fn int_80() -> Outcome {
    const SIGSEGV: i32 = 11;
    let pid = match fork(0) {
        Ok(0) => exit(if crate::raw::getpid_by_int_80() > 0 { 1 } else { 0 }),
        Ok(pid) => pid,
        Err(errno) => return held(name(errno)),
    };
    let status = crate::run::wait(pid);
    match (status & 0x7f, status >> 8) {
        (0, 1) => open("getpid answered"),
        (0, _) => held("refused"),
        (SIGSEGV, _) => not_tried("the kernel has no 32-bit entry"),
        (31, _) => held("killed by SIGSYS"),
        (signal, _) => held(format!("ended by signal {signal}")),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn int_80() -> Outcome {
    not_tried("only x86 has it")
}

fn x32(world: &World) -> Outcome {
    if !cfg!(target_arch = "x86_64") {
        return not_tried("only x86 has it");
    }
    const X32_BIT: i64 = 0x4000_0000;
    match call(nr::GETPID | X32_BIT, &[]) {
        Ok(_) => open("getpid answered"),
        Err(ENOSYS) if !world.filtered => not_tried("the kernel does not have it"),
        Err(errno) => held(name(errno)),
    }
}

/// On a descriptor that is no terminal: a kernel that is reached says so.
fn terminal(request: u64) -> Outcome {
    match call(nr::IOCTL, &[0, request, at(&[b'x', 0])]) {
        Err(EPERM) => held("EPERM"),
        Err(ENOSYS) => held("ENOSYS"),
        Err(ENOTTY | EINVAL) => open("the kernel was reached: no terminal"),
        Err(errno) => held(name(errno)),
        Ok(_) => open("pushed"),
    }
}
