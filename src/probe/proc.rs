//! What of the kernel stands in /proc. Files that do something when they are
//! written are opened for writing, and closed.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use crate::identity::become_root;
use crate::outcome::{Outcome, held, not_tried, open, told};
use crate::world::World;

pub(crate) fn perform(_: &World, id: &str) -> Option<Outcome> {
    Some(match id {
        "core-pattern" => for_writing("/proc/sys/kernel/core_pattern"),
        "modprobe-path" => for_writing("/proc/sys/kernel/modprobe"),
        "sysrq-trigger" => for_writing("/proc/sysrq-trigger"),
        "kcore" => kcore(),
        "kallsyms" => kallsyms(),
        "kernel-keys" => readable("/proc/key-users"),
        "kernel-modules" => match readable("/proc/version") {
            Outcome::Held(_) => readable("/proc/cmdline"),
            found => found,
        },
        "cgroup-path" => cgroup_path(),
        _ => return None,
    })
}

fn for_writing(path: &str) -> Outcome {
    become_root();
    match OpenOptions::new().write(true).open(path) {
        // /dev/null, where a mask hides a file.
        Ok(file) if file.metadata().is_ok_and(|data| data.file_type().is_char_device()) => held("masked"),
        Ok(_) => open(format!("{path} for writing")),
        Err(error) => refused(&error),
    }
}

/// A file that is missing where the rest of its kind is there is the kernel's word, not a wall's.
fn refused(error: &io::Error) -> Outcome {
    let whole = Path::new("/proc/sys/kernel").exists();
    match error.kind() {
        io::ErrorKind::NotFound if whole => not_tried("the kernel does not have it"),
        _ => held(told(error)),
    }
}

/// A file that has words in it; an empty one is a mask.
fn readable(path: &str) -> Outcome {
    become_root();
    match fs::read_to_string(path) {
        Ok(text) if text.is_empty() => held("masked"),
        Ok(text) => open(text.lines().next().unwrap_or_default().to_owned()),
        Err(error) => held(told(&error)),
    }
}

fn kcore() -> Outcome {
    use std::io::Read;
    become_root();
    let mut magic = [0; 4];
    match File::open("/proc/kcore").and_then(|mut file| file.read(&mut magic)) {
        Ok(4) => open("read its header"),
        Ok(_) => held("masked"),
        Err(error) => refused(&error),
    }
}

/// Addresses of zeros are no addresses (kptr_restrict); their names are there all the same.
fn kallsyms() -> Outcome {
    become_root();
    match fs::read_to_string("/proc/kallsyms") {
        Ok(text) if text.is_empty() => held("masked"),
        Ok(text) => {
            let address = text.split_whitespace().next().unwrap_or_default();
            let zero = address.trim_start_matches('0').is_empty();
            let which = if zero { "without addresses" } else { "with addresses" };
            open(format!("{} symbols, {which}", text.lines().count()))
        }
        Err(error) => refused(&error),
    }
}

fn cgroup_path() -> Outcome {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    if path == "/" { held("it is its own root") } else { open(path) }
}
