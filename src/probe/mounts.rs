//! Mounts, roots and namespaces. Everything that succeeds does so in a mount
//! namespace that ends with the attack: a copy of the sandbox's, or a new one.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;

use crate::numbers as nr;
use crate::outcome::{ENOSYS, Outcome, done, held, name, open, reached, told};
use crate::raw::{AT_FDCWD, Answer, at, call, exit, fork, text};
use crate::run::wait;
use crate::world::World;

const NEWNS: u64 = 0x0002_0000;
const NEWCGROUP: u64 = 0x0200_0000;
const NEWUTS: u64 = 0x0400_0000;
const NEWIPC: u64 = 0x0800_0000;
const NEWUSER: u64 = 0x1000_0000;
const NEWPID: u64 = 0x2000_0000;
const NEWNET: u64 = 0x4000_0000;

pub(crate) fn perform(world: &World, id: &str) -> Option<Outcome> {
    Some(match id {
        "unshare-user" => done(world, call(nr::UNSHARE, &[NEWUSER]), "a user namespace"),
        "clone-user" => cloned(world, fork(NEWUSER)),
        "clone3-user" => clone3_user(world),
        "unshare-others" => unshare_others(world),
        "setns" => setns(world),
        "mount" => privately(world, || mount(c"tmpfs", c"/tmp", c"tmpfs", 0)),
        "remount" => privately(world, || {
            const REMOUNT_BIND: u64 = 32 | 4096;
            mount(c"none", c"/", c"none", REMOUNT_BIND)
        }),
        "umount" => privately(world, || call(nr::UMOUNT2, &[text(c"/proc"), 2])),
        "fsopen" => reached(world, call(nr::FSOPEN, &[text(c"tmpfs"), 1])),
        "open-tree" => {
            const CLONE_CLOEXEC: u64 = 1 | 0o200_0000;
            reached(world, call(nr::OPEN_TREE, &[AT_FDCWD, text(c"/"), CLONE_CLOEXEC]))
        }
        "move-mount" => move_mount(world),
        "mount-setattr" => privately(world, || {
            // Sets what is set already.
            let nosuid = [2_u64, 0, 0, 0];
            call(nr::MOUNT_SETATTR, &[AT_FDCWD, text(c"/tmp"), 0, at(&nosuid), 32])
        }),
        "overlay" => overlay(),
        "pivot-root" => privately(world, || call(nr::PIVOT_ROOT, &[text(c"/"), text(c"/")])),
        "chroot" => done(world, call(nr::CHROOT, &[text(c"/tmp")]), "/tmp is the root"),
        "cgroup-mount" => cgroup_mount(world),
        _ => return None,
    })
}

fn mount(source: &std::ffi::CStr, target: &std::ffi::CStr, kind: &std::ffi::CStr, flags: u64) -> Answer {
    call(nr::MOUNT, &[text(source), text(target), text(kind), flags, 0])
}

/// Whether what is done to mounts now is seen by nobody else: a namespace of the
/// attack's own, or at least the sandbox's.
fn alone(world: &World) -> bool {
    const REC_PRIVATE: u64 = 0x4000 | (1 << 18);
    let own = call(nr::UNSHARE, &[NEWNS]).is_ok();
    if own && mount(c"none", c"/", c"none", REC_PRIVATE).is_ok() {
        return true;
    }
    world.own_mounts
}

fn privately(world: &World, attack: impl FnOnce() -> Answer) -> Outcome {
    if alone(world) { reached(world, attack()) } else { held("no mount namespace to try it in") }
}

fn cloned(world: &World, answer: Answer) -> Outcome {
    match answer {
        Ok(0) => exit(0),
        Ok(pid) => {
            wait(pid);
            open("a user namespace")
        }
        Err(errno) => done(world, Err(errno), ""),
    }
}

fn clone3_user(world: &World) -> Outcome {
    // flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls
    let arguments = [NEWUSER, 0, 0, 0, 17, 0, 0, 0];
    cloned(world, call(nr::CLONE3, &[at(&arguments), 64]))
}

fn unshare_others(world: &World) -> Outcome {
    let all = [NEWNS, NEWNET, NEWIPC, NEWUTS, NEWCGROUP, NEWPID];
    let mut last = Err(ENOSYS);
    for flag in all {
        last = call(nr::UNSHARE, &[flag]);
        if last.is_ok() {
            return open(format!("a namespace of {flag:#x}"));
        }
    }
    done(world, last, "")
}

/// Of its own namespace: who may not enter that may enter none.
fn setns(world: &World) -> Outcome {
    match File::open("/proc/self/ns/uts") {
        Ok(namespace) => done(world, call(nr::SETNS, &[namespace.as_raw_fd() as u64, 0]), "entered"),
        Err(error) => held(told(&error)),
    }
}

/// A new tmpfs, from fsopen to a place below /tmp.
fn move_mount(world: &World) -> Outcome {
    if !alone(world) {
        return held("no mount namespace to try it in");
    }
    let made = call(nr::FSOPEN, &[text(c"tmpfs"), 1]).and_then(|context| {
        call(nr::FSCONFIG, &[context, 6, 0, 0, 0])?;
        call(nr::FSMOUNT, &[context, 1, 0])
    });
    // Without one of its own to move, the call itself is what is left to try.
    let tree = made.unwrap_or(u64::from(u32::MAX));
    const FROM_EMPTY_PATH: u64 = 4;
    reached(world, call(nr::MOVE_MOUNT, &[tree, text(c""), AT_FDCWD, text(c"/tmp"), FROM_EMPTY_PATH]))
}

/// In a user namespace of its own the attacker has every capability over its mounts.
fn overlay() -> Outcome {
    let (uid, gid) = ids();
    if let Err(errno) = call(nr::UNSHARE, &[NEWUSER | NEWNS]) {
        return held(format!("unshare: {}", name(errno)));
    }
    let _ = fs::write("/proc/self/setgroups", "deny");
    let _ = fs::write("/proc/self/uid_map", format!("0 {uid} 1\n"));
    let _ = fs::write("/proc/self/gid_map", format!("0 {gid} 1\n"));
    let base = c"/tmp";
    if let Err(errno) = mount(c"tmpfs", base, c"tmpfs", 0) {
        return held(format!("mount: {}", name(errno)));
    }
    for directory in ["/tmp/upper", "/tmp/work", "/tmp/lower", "/tmp/merged"] {
        if let Err(error) = fs::create_dir(directory) {
            return held(told(&error));
        }
    }
    let data = c"lowerdir=/tmp/lower,upperdir=/tmp/upper,workdir=/tmp/work";
    let mounted = call(nr::MOUNT, &[text(c"overlay"), text(c"/tmp/merged"), text(c"overlay"), 0, text(data)]);
    match mounted {
        Ok(_) => open("mounted"),
        Err(errno) => held(name(errno)),
    }
}

fn ids() -> (u64, u64) {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
    };
    (field("Uid:"), field("Gid:"))
}

fn cgroup_mount(world: &World) -> Outcome {
    if !alone(world) {
        return held("no mount namespace to try it in");
    }
    if let Err(errno) = mount(c"cgroup2", c"/tmp", c"cgroup2", 0) {
        return held(name(errno));
    }
    crate::identity::become_root();
    match OpenOptions::new().write(true).open("/tmp/cgroup.procs") {
        Ok(_) => open("the hierarchy's cgroup.procs for writing"),
        Err(error) => open(format!("mounted; cgroup.procs: {}", told(&error))),
    }
}
