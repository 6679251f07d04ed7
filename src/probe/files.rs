//! Descriptors, and files of the host that should not be there.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::numbers as nr;
use crate::outcome::{NO_PROC, Outcome, first_open, held, name, not_tried, open, reached, told, tried};
use crate::raw::{AT_FDCWD, at_mut, c_string, call, text};
use crate::world::{World, secret};

pub(crate) fn perform(world: &World, id: &str) -> Option<Outcome> {
    Some(match id {
        "leaked-descriptor" => leaked_descriptor(world),
        "leaked-directory" => leaked_directory(world),
        "wrong-descriptor" => wrong_descriptor(world),
        "working-directory" => working_directory(),
        "host-file" => read_secret(&format!("{}/secret", world.get("dir"))),
        "other-tenant-file" => read_secret(&format!("{}/other/file", world.get("dir"))),
        "shadow" => tried(File::open("/etc/shadow"), |_| "opened".to_owned()),
        "account-names" => account_names(world),
        "tenant-names" => tenant_names(world),
        "write-code" => write_code(world),
        "device-open" => device_open(),
        "sys-visible" => tried(fs::metadata("/sys/kernel"), |_| "/sys/kernel is there".to_owned()),
        "shm-file" => read_secret(&format!("/dev/shm/{}", world.get("name"))),
        "release-agent" => release_agent(),
        "mknod" => mknod(world),
        _ => return None,
    })
}

/// Reads a file that a canary has written: only its words count.
pub(crate) fn read_secret(path: &str) -> Outcome {
    let mut text = String::new();
    match File::open(path).and_then(|file| file.take(4096).read_to_string(&mut text)) {
        Ok(_) if text.contains(&secret()) => open(format!("read {path}")),
        Ok(_) => held("another file is there"),
        Err(error) => held(told(&error)),
    }
}

/// Descriptors beyond 0, 1, 2 and the listening sockets.
fn extra(world: &World) -> Vec<u64> {
    let listeners = world.listeners();
    let meant = |fd: &u64| *fd <= 2 || listeners.contains(fd);
    world.descriptors.iter().copied().filter(|fd| !meant(fd)).collect()
}

fn leaked_descriptor(world: &World) -> Outcome {
    let all: Vec<String> = extra(world)
        .into_iter()
        .map(|fd| {
            let what = fs::read_link(format!("/proc/self/fd/{fd}"));
            format!("{fd} is {}", what.map_or_else(|_| "open".to_owned(), |path| path.display().to_string()))
        })
        .collect();
    if all.is_empty() { held("0, 1, 2 and the listening sockets only") } else { open(all.join(", ")) }
}

fn leaked_directory(world: &World) -> Outcome {
    first_open(extra(world).into_iter().map(read_below), "no such descriptor")
}

/// As [`read_secret`], of a file below an open directory: by openat(2), which needs no /proc.
fn read_below(directory: u64) -> Outcome {
    let mut bytes = [0_u8; 256];
    let read = call(nr::OPENAT, &[directory, text(c"secret"), 0])
        .and_then(|file| call(nr::READ, &[file, at_mut(&mut bytes), bytes.len() as u64]));
    match read {
        Ok(_) if String::from_utf8_lossy(&bytes).contains(&secret()) => {
            open(format!("read a file below descriptor {directory}"))
        }
        Ok(_) => held("another file is there"),
        Err(errno) => held(name(errno)),
    }
}

fn wrong_descriptor(world: &World) -> Outcome {
    if !Path::new("/proc/self/fd").exists() {
        return not_tried(NO_PROC);
    }
    let kind = |fd: u64| fs::metadata(format!("/proc/self/fd/{fd}")).map(|data| data.file_type());
    if kind(0).is_ok_and(|kind| kind.is_dir() || kind.is_block_device()) {
        return open("0 is a directory or a disk");
    }
    for fd in [1, 2] {
        if kind(fd).is_ok_and(|kind| kind.is_dir() || kind.is_block_device()) {
            return open(format!("{fd} is a directory or a disk"));
        }
    }
    let other = world.listeners().into_iter().find(|fd| !kind(*fd).is_ok_and(|kind| kind.is_socket()));
    match other {
        Some(fd) => open(format!("{fd} is no socket")),
        None => held("each is what belongs there"),
    }
}

fn working_directory() -> Outcome {
    first_open([read_secret("secret"), read_secret("/proc/self/cwd/secret")], "")
}

fn account_names(world: &World) -> Outcome {
    let text = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let own = world.get("uid");
    let others: Vec<&str> = text
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let (name, uid) = (fields.next()?, fields.nth(1)?);
            (uid != "0" && uid != "65534" && uid != own).then_some(name)
        })
        .collect();
    match others.as_slice() {
        [] => held("none but its own, root and nobody"),
        some => open(format!("{} other accounts, such as {}", some.len(), some[0])),
    }
}

/// Where hosts keep what belongs to tenants. The pool's own mounts are no names of others.
fn tenant_names(world: &World) -> Outcome {
    let own: Vec<&str> = world.all("writable").chain(world.all("readonly")).collect();
    let mut found = Vec::new();
    for place in ["/home", "/srv", "/var/www", "/var/lib/howdah", "/run/howdah", world.get("parent")] {
        if place.is_empty() {
            continue;
        }
        for entry in fs::read_dir(place).into_iter().flatten().flatten() {
            let path = entry.path().display().to_string();
            let is_own =
                own.iter().any(|own| Path::new(own).starts_with(&path) || Path::new(&path).starts_with(own));
            if !is_own {
                found.push(path);
            }
        }
    }
    match found.first() {
        None => held("none but its own"),
        Some(first) => open(format!("{} names, such as {first}", found.len())),
    }
}

/// Opens files for writing that are there; nothing is written.
fn write_code(world: &World) -> Outcome {
    let fixed = ["/usr/bin/env", "/usr/bin/php", "/etc/passwd", "/usr/share/zoneinfo/UTC"];
    let mut paths: Vec<String> = fixed.iter().map(|path| (*path).to_owned()).collect();
    for directory in world.all("readonly") {
        let files = fs::read_dir(directory).into_iter().flatten().flatten();
        paths.extend(files.take(16).map(|entry| entry.path().display().to_string()));
        paths.push(directory.to_owned());
    }
    let outcomes = paths
        .into_iter()
        .filter(|path| fs::metadata(path).is_ok_and(|data| data.is_file()))
        .map(|path| tried(OpenOptions::new().write(true).open(&path), |_| format!("{path} for writing")));
    first_open(outcomes, "there is nothing to open")
}

/// Opened and closed only. None of those on the list does anything at that.
fn device_open() -> Outcome {
    let names = [
        "mem",
        "port",
        "kmsg",
        "kvm",
        "fuse",
        "net/tun",
        "vhost-net",
        "vhost-vsock",
        "loop-control",
        "loop0",
        "sda",
        "vda",
        "nvme0n1",
        "dm-0",
        "userfaultfd",
        "dri/renderD128",
        "snd/timer",
        "rfkill",
        "uinput",
        "vsock",
        "btrfs-control",
        "cpu_dma_latency",
    ];
    let open_one = |name: &&str| {
        let path = format!("/dev/{name}");
        // Without waiting, without becoming somebody's terminal.
        const O_NONBLOCK_NOCTTY: i32 = 0o4000 | 0o400;
        tried(OpenOptions::new().read(true).custom_flags(O_NONBLOCK_NOCTTY).open(&path), |_| path.clone())
    };
    first_open(names.iter().map(open_one), "")
}

/// Of every hierarchy of cgroups that can be seen; nothing is written.
fn release_agent() -> Outcome {
    let mut places = vec!["/sys/fs/cgroup".to_owned()];
    let below = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    places.extend(below.map(|entry| entry.path().display().to_string()));
    let files = places
        .iter()
        .flat_map(|place| ["release_agent", "cgroup.procs"].map(|file| format!("{place}/{file}")));
    let outcomes = files.map(|file| tried(OpenOptions::new().write(true).open(&file), |_| file.clone()));
    first_open(outcomes, "")
}

/// The node of /dev/null, which does nobody any harm.
fn mknod(world: &World) -> Outcome {
    const CHARACTER_DEVICE: u64 = 0o02_0600;
    const NULL: u64 = 1 << 8 | 3;
    let path = c_string(&format!("/tmp/{}-node", world.get("name")));
    let answer = call(nr::MKNODAT, &[AT_FDCWD, text(&path), CHARACTER_DEVICE, NULL]);
    let _ = fs::remove_file(&*path.to_string_lossy());
    reached(world, answer)
}

/// Device and inode of a file.
pub(crate) fn identity(path: &str) -> Option<(u64, u64)> {
    let data = fs::metadata(path).ok()?;
    Some((data.dev(), data.ino()))
}

/// As a reason for what cannot be tried.
pub(crate) fn untold(what: &str) -> Outcome {
    not_tried(format!("{what} was not told"))
}
