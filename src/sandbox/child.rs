//! The child, from its birth to execve(2): one function, numbered steps, top to
//! bottom. The order is the security property; each step says what breaks if it moves.
//!
//! The child is a copy of a program with one thread, so it may allocate. It
//! only applies the plan. It never returns: [`run`] writes the error and ends.

use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use caps::CapSet;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal};
use nix::unistd::{Gid, Uid};

use super::mounts::{self, Tree};
use super::plan::{Identity, Maps, Plan, Rlimit};
use super::step::{At, Step, StepError};
use super::{gate, landlock, seccomp, sysctl};
use crate::{paths, sys};

/// Exit status of a child that could not become its program; the reason is on the status pipe.
const NOT_EXECUTED: i32 = 70;

/// Becomes the plan's program, or writes the error to `status` and ends. `made`
/// are the namespaces that were made with this process; the others it was given.
pub(super) fn run(plan: &Plan, made: u64, status: OwnedFd, go: OwnedFd, gate: Option<OwnedFd>) -> ! {
    let Err(error) = become_program(plan, made, status.as_fd(), &go, gate);
    // The arranging of descriptors may have moved over ours; `status` was moved out of its way first.
    let _ = nix::unistd::write(status, &error.to_bytes());
    sys::exit_now(NOT_EXECUTED)
}

fn become_program(
    plan: &Plan,
    made: u64,
    status: BorrowedFd<'_>,
    go: &OwnedFd,
    gate: Option<OwnedFd>,
) -> Result<Infallible, StepError> {
    let (prepare, bind, release) = (&plan.prepare, &plan.bind, &plan.release);

    // 1. Signals first: howdah blocks those it reads by signalfd, and Rust
    //    ignores SIGPIPE; both are inherited through execve and would make
    //    php-fpm deaf to SIGQUIT.
    reset_signals()?;
    // 2. A session of its own: no terminal of the operator's to push bytes into. And a session
    //    keyring: whoever possesses howdah's own could read the keys in it, in any user namespace.
    //    While we are root, so that it counts against no quota that a tenant can use up.
    nix::unistd::setsid().at(Step::StartSession, "")?;
    sys::join_session_keyring().at(Step::JoinKeyring, "")?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    // 3. Only now the cgroup namespace: at clone its root would be howdah's own
    //    cgroup, for CLONE_NEWCGROUP looks at the parent's (cgroup_namespaces(7)).
    if prepare.cgroup_namespace {
        nix::sched::unshare(CloneFlags::CLONE_NEWCGROUP).at(Step::UnshareCgroup, "")?;
    }
    // 4. Before anything is attached: pivot_root refuses shared mounts, and what
    //    we attach must not appear on the host.
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).at(Step::CutPropagation, "")?;
    //    Settings of the new namespaces now: while the host's /proc is in sight, for where none is the
    //    kernel gives a user namespace none that shows as much; and before the uid goes.
    sysctl::apply(&prepare.sysctls)?;
    // 5. The new root over the old one; then the mounts of prepare, then those
    //    of bind, each through the new root only.
    let root = prepare.root.as_fd();
    attach_root(root)?;
    attach_all(&prepare.trees, root)?;
    attach_all(&bind.trees, root)?;
    // 6. After the mounts, for it hides parts of them.
    mask_paths(&prepare.masked, &prepare.readonly, root)?;
    // 7. The old root goes for good. After this no path leads to the host.
    pivot_into(root)?;
    // 8. The rest that needs capabilities over the new namespaces.
    if prepare.namespaces & libc::CLONE_NEWUTS as u64 != 0 {
        nix::unistd::sethostname(&bind.hostname).at(Step::SetHostname, &bind.hostname)?;
    }
    //    A network namespace from the stock has its loopback up already.
    if made & libc::CLONE_NEWNET as u64 != 0 {
        sys::raise_loopback().at(Step::RaiseLoopback, "")?;
    }
    // 9. Limits. Here they can only be lowered: in a user namespace nobody has a right
    //    over howdah's own hard limits. The parent raises those above them.
    let is_of_files = |limit: &&Rlimit| matches!(limit.resource, Resource::RLIMIT_NOFILE);
    let mut lowered = bind.rlimits.iter().filter(|limit| !limit.raises);
    lowered.clone().filter(|limit| !is_of_files(limit)).try_for_each(set_limit)?;
    // 10. The id map and the raised limits are the parent's to set. As late as
    //     this, for the parent does it while we work. No file may be made before
    //     it: the kernel has no owner to give it (EOVERFLOW).
    await_parent(go)?;
    // 11. Groups, then gid, then uid: after the uid is gone the others cannot change.
    //     One that is bound later has them from its birth.
    if bind.identity.maps != Maps::Late {
        take_identity(&bind.identity)?;
    }
    // 12. The bounding set before the others: dropping from it needs CAP_SETPCAP.
    drop_bounding_set(&prepare.capabilities)?;
    drop_capabilities(&prepare.capabilities)?;
    // 13. Before Landlock and seccomp, which the kernel gives to the unprivileged only with it.
    if prepare.no_new_privs {
        nix::sys::prctl::set_no_new_privs().at(Step::SetNoNewPrivs, "")?;
    }
    // 14. After every mount: Landlock forbids changing them. Before seccomp, which forbids its calls.
    if let Some(rules) = &prepare.landlock {
        landlock::apply(rules, prepare.no_new_privs)?;
    }
    // 15. Whoever has a way out goes no further before it is there: php-fpm takes the first
    //     request as soon as it can. As late as this, for all of the above is done meanwhile.
    await_network(plan, go)?;
    // 16. What must hold by now is read back, while its calls are still allowed.
    verify(plan)?;
    nix::unistd::chdir(&release.cwd).at(Step::Execute, format!("in {}", release.cwd.display()))?;
    // 17. Descriptors last but one: 0 to 2 and the sockets, all else closes on exec.
    arrange_descriptors(&release.descriptors, status, release.close_others)?;
    // 18. What may be done once from here on: execve, of step 20. Before the filter, which may
    //     forbid sending the listener; after the descriptors, none of which it may become.
    if let (Some(waiting), Some(gate)) = (&prepare.waiting, gate) {
        gate::close_behind(waiting, &gate).at(Step::AwaitCalls, "")?;
    }
    //     And the limit of their number only now: what howdah has open is open here too until
    //     execve, and the listener was one more.
    lowered.find(is_of_files).map_or(Ok(()), set_limit)?;
    // 19. The filter last: it forbids most of the above.
    if !prepare.seccomp.is_empty() {
        seccomp::apply(&prepare.seccomp)
            .map_err(|error| StepError::new(Step::FilterSyscalls, error.to_string(), Errno::last()))?;
    }
    // 20.
    let path = release.argv[0].as_c_str();
    nix::unistd::execve(path, &release.argv, &release.envp).at(Step::Execute, path.to_string_lossy())
}

fn set_limit(limit: &Rlimit) -> Result<(), StepError> {
    setrlimit(limit.resource, limit.soft, limit.hard).at(Step::SetLimit, limit.words())
}

pub(super) fn reset_signals() -> Result<(), StepError> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in Signal::iterator().filter(|signal| !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP)) {
        sys::set_signal_action(signal, &default).at(Step::ResetSignals, signal.as_str())?;
    }
    SigSet::empty().thread_set_mask().at(Step::ResetSignals, "")
}

fn attach_root(root: BorrowedFd<'_>) -> Result<(), StepError> {
    let old = nix::fcntl::open(
        "/",
        nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    )
    .map(sys::owned)
    .at(Step::AttachRoot, "")?;
    sys::attach(root, old.as_fd()).at(Step::AttachRoot, "")
}

pub(super) fn attach_all(trees: &[Tree], root: BorrowedFd<'_>) -> Result<(), StepError> {
    trees.iter().try_for_each(|tree| mounts::attach(tree, root))
}

/// Hides `masked` and makes `readonly` so; a path that is not there needs neither.
fn mask_paths(masked: &[PathBuf], readonly: &[PathBuf], root: BorrowedFd<'_>) -> Result<(), StepError> {
    for path in masked.iter().chain(readonly) {
        let words = path.display().to_string();
        let inside = path.strip_prefix("/").unwrap_or(path);
        let target = match paths::open_inside(root, inside) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => continue,
            other => other.at(Step::MaskPath, &words)?,
        };
        let cover = if readonly.contains(path) {
            let tree = sys::open_tree_clone(target.as_fd(), c"", true).at(Step::MaskPath, &words)?;
            sys::restrict_tree(tree.as_fd(), sys::attr::RDONLY, true).at(Step::MaskPath, &words)?;
            tree
        } else if is_directory(target.as_fd()).at(Step::MaskPath, &words)? {
            let options = [c"size=0".to_owned(), c"nr_inodes=1".to_owned()];
            let attributes = sys::attr::RDONLY | sys::attr::NOSUID | sys::attr::NODEV | sys::attr::NOEXEC;
            sys::new_mount(c"tmpfs", &options, attributes).at(Step::MaskPath, &words)?
        } else {
            let null = paths::open_inside(root, Path::new("dev/null")).at(Step::MaskPath, &words)?;
            sys::open_tree_clone(null.as_fd(), c"", false).at(Step::MaskPath, &words)?
        };
        sys::attach(cover.as_fd(), target.as_fd()).at(Step::MaskPath, &words)?;
    }
    Ok(())
}

fn is_directory(path: BorrowedFd<'_>) -> nix::Result<bool> {
    let mode = nix::sys::stat::fstat(path.as_raw_fd())?.st_mode;
    Ok(mode & libc::S_IFMT == libc::S_IFDIR)
}

/// pivot_root(2) with both paths ".", as its man page shows: the old root ends up
/// on top of the new one, and is then detached.
fn pivot_into(root: BorrowedFd<'_>) -> Result<(), StepError> {
    nix::unistd::fchdir(root.as_raw_fd()).at(Step::PivotRoot, "")?;
    nix::unistd::pivot_root(".", ".").at(Step::PivotRoot, "")?;
    nix::mount::umount2(".", MntFlags::MNT_DETACH).at(Step::DetachOldRoot, "")?;
    nix::unistd::chdir("/").at(Step::DetachOldRoot, "")
}

/// Waits until the parent has done its part; it closes the pipe without a word if it could not.
fn await_parent(go: &OwnedFd) -> Result<(), StepError> {
    let mut word = [0];
    match nix::unistd::read(go.as_raw_fd(), &mut word).at(Step::AwaitIdentity, "")? {
        1 => Ok(()),
        _ => Err(StepError::new(Step::AwaitIdentity, "(howdah is gone)", Errno::EPIPE)),
    }
}

/// Waits until the parent says that the network is there; it closes the pipe without a word if there is none.
fn await_network(plan: &Plan, go: &OwnedFd) -> Result<(), StepError> {
    if !plan.release.awaits_network {
        return Ok(());
    }
    match nix::unistd::read(go.as_raw_fd(), &mut [0]).at(Step::AwaitNetwork, "")? {
        1 => Ok(()),
        _ => Err(StepError::new(Step::AwaitNetwork, "(howdah is gone)", Errno::EPIPE)),
    }
}

fn take_identity(identity: &Identity) -> Result<(), StepError> {
    let words = || format!("uid {} gid {}", identity.uid, identity.gid);
    if identity.may_set_groups {
        nix::unistd::setgroups(&[]).at(Step::TakeIdentity, words())?;
    }
    let gid = Gid::from_raw(identity.gid);
    nix::unistd::setresgid(gid, gid, gid).at(Step::TakeIdentity, words())?;
    // A process that leaves uid 0 loses its capabilities; keep them for the steps that drop them by hand,
    // for where 0 is not mapped the kernel would not have taken them anyway.
    nix::sys::prctl::set_keepcaps(true).at(Step::TakeIdentity, words())?;
    let uid = Uid::from_raw(identity.uid);
    nix::unistd::setresuid(uid, uid, uid).at(Step::TakeIdentity, words())?;
    nix::sys::prctl::set_keepcaps(false).at(Step::TakeIdentity, words())
}

fn drop_bounding_set(kept: &caps::CapsHashSet) -> Result<(), StepError> {
    // Without a user namespace setresuid cleared the effective set, keepcaps or not.
    let permitted =
        caps::read(None, CapSet::Permitted).map_err(|e| capability_error(Step::DropBoundingSet, &e))?;
    caps::set(None, CapSet::Effective, &permitted)
        .map_err(|e| capability_error(Step::DropBoundingSet, &e))?;
    for capability in caps::runtime::thread_all_supported().difference(kept) {
        caps::drop(None, CapSet::Bounding, *capability)
            .map_err(|error| capability_error(Step::DropBoundingSet, &error))?;
    }
    Ok(())
}

fn drop_capabilities(kept: &caps::CapsHashSet) -> Result<(), StepError> {
    let refuse = |error: caps::errors::CapsError| capability_error(Step::DropCapabilities, &error);
    caps::clear(None, CapSet::Ambient).map_err(refuse)?;
    caps::set(None, CapSet::Effective, kept).map_err(refuse)?;
    caps::set(None, CapSet::Permitted, kept).map_err(refuse)?;
    caps::set(None, CapSet::Inheritable, kept).map_err(refuse)?;
    for capability in kept {
        caps::raise(None, CapSet::Ambient, *capability).map_err(refuse)?;
    }
    Ok(())
}

fn capability_error(step: Step, error: &caps::errors::CapsError) -> StepError {
    StepError::new(step, format!("({error})"), Errno::last())
}

/// Reads back what must hold: a wall that was asked for and is not there ends the launch.
fn verify(plan: &Plan) -> Result<(), StepError> {
    let fail = |what: &str| Err(StepError::new(Step::VerifyWalls, what, Errno::EPERM));
    let identity = &plan.bind.identity;
    // Without a map the number cannot be seen from inside: who binds it later looks.
    let uid = nix::unistd::getresuid().at(Step::VerifyWalls, "uid")?.saved.as_raw();
    if identity.maps != Maps::Late && uid != identity.uid {
        return fail("uid");
    }
    for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable, CapSet::Bounding, CapSet::Ambient]
    {
        let held = caps::read(None, set).map_err(|error| capability_error(Step::VerifyWalls, &error))?;
        if !held.is_subset(&plan.prepare.capabilities) {
            return fail("capabilities");
        }
    }
    if plan.prepare.no_new_privs
        && !nix::sys::prctl::get_no_new_privs().at(Step::VerifyWalls, "no_new_privs")?
    {
        return fail("no_new_privs");
    }
    if nix::unistd::getpid().as_raw() != 1 {
        return fail("pid namespace");
    }
    Ok(())
}

/// Puts the plan's descriptors at 0, 1, 2 and on; everything above closes on exec.
fn arrange_descriptors(
    descriptors: &[OwnedFd],
    status: BorrowedFd<'_>,
    close_others: bool,
) -> Result<(), StepError> {
    let step = Step::ArrangeDescriptors;
    // First above all targets, then down: a descriptor may sit where another must go.
    let above = descriptors.len() as i32;
    let lifted: Vec<_> = descriptors
        .iter()
        .map(|fd| fcntl(fd.as_raw_fd(), FcntlArg::F_DUPFD_CLOEXEC(above)).at(step, ""))
        .collect::<Result<_, _>>()?;
    if status.as_raw_fd() < above {
        return Err(StepError::new(step, "(the status pipe is in the way)", Errno::EBUSY));
    }
    for (target, lifted) in lifted.into_iter().enumerate() {
        nix::unistd::dup2(lifted, target as i32).at(step, target.to_string())?;
    }
    if close_others { sys::close_range(above as u32, u32::MAX, true).at(step, "") } else { Ok(()) }
}
