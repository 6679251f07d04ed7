//! What a php-fpm has loaded from the disk: a template in which something is loaded that is another
//! by now, as after the upgrade of a package, must not become anybody's.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::fcntl::OFlag;
use nix::unistd::Pid;

use crate::paths;
use crate::pool::prepare::{Prepared, Stamp};
use crate::spec::{IMAGE, annotation};

/// The ini files that `prepared` has read, and the directories of the binary and of all libraries that
/// are mapped into `pid`: package managers put a new file in the place of the old one, and that
/// changes the directory. `None`: something of it has changed since `made`.
pub(super) fn loaded(prepared: &Prepared, pid: Pid, made: SystemTime) -> Option<Stamp> {
    let image = PathBuf::from(annotation(&prepared.spec, IMAGE)?);
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    let directories: BTreeSet<&Path> = maps.lines().filter_map(code).filter_map(Path::parent).collect();
    let below = |path: &Path| image.join(path.strip_prefix("/").unwrap_or(path));
    let ini = prepared.ini_files.iter().filter_map(|path| inside(&image, path));
    let stamp = Stamp::of(directories.into_iter().map(below).chain(ini));
    (!stamp.is_newer_than(made)).then_some(stamp)
}

/// The file behind a mapping that is executed (proc_pid_maps(5)).
fn code(line: &str) -> Option<&Path> {
    let mut words = line.split_ascii_whitespace();
    let executable = words.nth(1)?.contains('x');
    let at = line.find('/').filter(|_| executable)?;
    Some(Path::new(&line[at..]))
}

/// Where `path` of the image is on the host, its symlinks resolved as they are inside.
fn inside(image: &Path, path: &Path) -> Option<PathBuf> {
    let root = paths::open_trusted(image).ok()?;
    let path = path.strip_prefix("/").unwrap_or(path);
    let file = paths::open_in_root(root.as_fd(), path, OFlag::O_PATH).ok()?;
    fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_executed_counts() {
        let line = |rights: &str, path: &str| format!("7f0-7f1 {rights} 0001 08:01 42 {path}");
        let told = |rights, path| code(&line(rights, path)).map(|path| path.display().to_string());
        assert_eq!(told("r-xp", "    /usr/lib/x y.so").as_deref(), Some("/usr/lib/x y.so"));
        assert_eq!(told("r--p", "    /usr/lib/locale/C"), None);
        assert_eq!(told("rwxp", ""), None);
        assert_eq!(told("r-xp", "[vdso]"), None);
    }
}
