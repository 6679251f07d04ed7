//! One system call of a process goes wrong: the kernel's own answer, as on a machine where it fails.
//! By ptrace(2), from outside: the program under test knows nothing of it, and no process that it
//! starts is touched. Whoever traces a child of this process must not wait for it meanwhile.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// A call that is about to be made.
pub struct Call {
    pub number: i64,
    pub arguments: [u64; 6],
    pid: Pid,
}

impl Call {
    /// The string that an argument points to.
    pub fn text(&self, argument: usize) -> String {
        let mut bytes = [0; 512];
        let memory = File::open(format!("/proc/{}/mem", self.pid)).unwrap();
        let length = memory.read_at(&mut bytes, self.arguments[argument]).unwrap_or(0);
        let end = bytes[..length].iter().position(|byte| *byte == 0).unwrap_or(length);
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    }

    /// Whether it opens, to write, a file whose path ends so.
    pub fn writes(&self, end: &str) -> bool {
        let to_write = self.arguments[2] & (libc::O_WRONLY | libc::O_RDWR) as u64 != 0;
        self.number == libc::SYS_openat && to_write && self.text(1).ends_with(end)
    }
}

/// What happens in the place of the call.
#[derive(Debug, Clone, Copy)]
pub enum Instead {
    /// It fails.
    Fails(Errno),
    /// It is not made, until the process is killed.
    Never,
    /// The process is killed before it makes it.
    Killed,
    /// Another is, and the call is made.
    OtherKilled(i32),
    /// Another is stopped, and the call is made.
    OtherStopped(i32),
}

/// A process under observation, until the fault has happened.
pub struct Fault {
    thread: JoinHandle<()>,
    happened: Arc<AtomicBool>,
    give_up: Arc<AtomicBool>,
}

impl Fault {
    /// The first call of `pid` from now on of which `which` is true is replaced.
    pub fn at(pid: i32, instead: Instead, which: impl Fn(&Call) -> bool + Send + 'static) -> Self {
        let (ready, is_ready) = mpsc::channel();
        let (happened, give_up) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (told, over) = (happened.clone(), give_up.clone());
        let thread = std::thread::spawn(move || {
            let pid = Pid::from_raw(pid);
            ptrace::seize(pid, Options::PTRACE_O_TRACESYSGOOD).unwrap();
            ptrace::interrupt(pid).unwrap();
            watch(pid, instead, &which, || _ = ready.send(()), &told, &over);
        });
        is_ready.recv().expect("the process is traced");
        Self { thread, happened, give_up }
    }

    /// Whether the process is gone.
    pub fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    /// Whether it has happened; the process is let alone from now on.
    pub fn has_happened(self) -> bool {
        self.give_up.store(true, Ordering::SeqCst);
        self.thread.join().expect("the tracer");
        self.happened.load(Ordering::SeqCst)
    }
}

fn watch(
    pid: Pid,
    instead: Instead,
    which: &dyn Fn(&Call) -> bool,
    mut ready: impl FnMut(),
    happened: &AtomicBool,
    give_up: &AtomicBool,
) {
    let mut enters = true;
    let mut result = None;
    loop {
        if give_up.load(Ordering::SeqCst)
            && !matches!(instead, Instead::Never if happened.load(Ordering::SeqCst))
        {
            let _ = ptrace::interrupt(pid);
        }
        let status = match waitpid(pid, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)) {
            Ok(WaitStatus::StillAlive) => {
                std::thread::sleep(std::time::Duration::from_micros(100));
                continue;
            }
            Ok(status) => status,
            Err(_) => return,
        };
        let signal = match status {
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => return,
            WaitStatus::PtraceSyscall(_) => {
                let Ok(mut registers) = ptrace::getregs(pid) else { continue };
                if enters && result.is_none() && !happened.load(Ordering::SeqCst) {
                    let r = registers;
                    let arguments = [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9];
                    if which(&Call { number: r.orig_rax as i64, arguments, pid }) {
                        happened.store(true, Ordering::SeqCst);
                        match instead {
                            Instead::Fails(errno) => {
                                registers.orig_rax = u64::MAX;
                                result = Some(-(errno as i64));
                                ptrace::setregs(pid, registers).unwrap();
                            }
                            Instead::Never => continue,
                            Instead::Killed => kill(pid, Signal::SIGKILL).unwrap(),
                            Instead::OtherKilled(other) => {
                                kill(Pid::from_raw(other), Signal::SIGKILL).unwrap();
                            }
                            Instead::OtherStopped(other) => {
                                kill(Pid::from_raw(other), Signal::SIGSTOP).unwrap();
                            }
                        }
                    }
                } else if let Some(value) = result.take_if(|_| !enters) {
                    registers.rax = value as u64;
                    ptrace::setregs(pid, registers).unwrap();
                }
                enters = !enters;
                None
            }
            WaitStatus::PtraceEvent(..) => {
                if give_up.load(Ordering::SeqCst) {
                    let _ = ptrace::detach(pid, None);
                    return;
                }
                ready();
                None
            }
            WaitStatus::Stopped(_, signal) => Some(signal),
            _ => None,
        };
        let _ = ptrace::syscall(pid, signal);
    }
}
