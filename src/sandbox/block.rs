//! Which block device a path lies on, as io.max wants it: the whole disk's
//! numbers, for the kernel limits no partition (cgroup-v2.rst, "io.max").

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::sys;

/// A path without a block device.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// It cannot be looked at.
    #[error("limits.io_max {}: {}", path.display(), sys::told(.error))]
    Path {
        /// The path.
        path: PathBuf,
        /// The kernel's reason.
        error: io::Error,
    },
    /// Its file system lies on none.
    #[error(
        "limits.io_max {}: it lies on {kind}, which has no block device to limit: \
         name the device (/dev/…) or a path on a disk", path.display()
    )]
    NoDevice {
        /// The path.
        path: PathBuf,
        /// The file system ("overlay").
        kind: String,
    },
}

/// The numbers "MAJOR:MINOR" of the disk that `path` is, or lies on.
///
/// # Errors
/// A path that is not there, or whose file system has no block device.
pub fn device_of(path: &Path) -> Result<String, BlockError> {
    let refuse = |error| BlockError::Path { path: path.to_owned(), error };
    let data = fs::metadata(path).map_err(refuse)?;
    let number = if data.file_type().is_block_device() { data.rdev() } else { data.dev() };
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(refuse)?;
    let kind = match disk(number) {
        Some(disk) => return Ok(disk),
        // btrfs and its like: a number of the file system's own, and the device is the mount's source.
        None => match mounted(&mounts, number) {
            Some((kind, source)) => match fs::metadata(source).map(|data| disk(data.rdev())) {
                Ok(Some(disk)) => return Ok(disk),
                _ => kind,
            },
            None => "a file system that is not mounted here",
        },
    };
    Err(BlockError::NoDevice { path: path.to_owned(), kind: kind.to_owned() })
}

/// The disk of a block device's number; `None` if there is no such device.
fn disk(number: u64) -> Option<String> {
    let entry = PathBuf::from(format!("/sys/dev/block/{}", words(number)));
    if entry.join("partition").exists() {
        return Some(fs::read_to_string(entry.join("../dev")).ok()?.trim().to_owned());
    }
    entry.exists().then(|| words(number))
}

fn words(number: u64) -> String {
    format!("{}:{}", nix::sys::stat::major(number), nix::sys::stat::minor(number))
}

/// The type and the source of the file system with this number, from the text of mountinfo (proc_pid_mountinfo(5)).
fn mounted(mounts: &str, number: u64) -> Option<(&str, &str)> {
    let wanted = words(number);
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some(&wanted))?;
    let mut tail = line.split_once(" - ")?.1.split(' ');
    Some((tail.next()?, tail.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_without_a_disk_is_named() {
        let error = device_of(Path::new("/proc/self")).unwrap_err().to_string();
        let wanted = "limits.io_max /proc/self: it lies on proc, which has no block device to limit: \
                      name the device (/dev/…) or a path on a disk";
        assert_eq!(error, wanted);
        let error = device_of(Path::new("/nowhere")).unwrap_err().to_string();
        assert_eq!(error, "limits.io_max /nowhere: No such file or directory (ENOENT)");
    }

    #[test]
    fn every_disk_and_partition_of_this_machine_has_a_disk() {
        for entry in fs::read_dir("/sys/dev/block").into_iter().flatten().flatten() {
            let name = entry.file_name().into_string().unwrap();
            let (major, minor) = name.split_once(':').unwrap();
            let number = nix::sys::stat::makedev(major.parse().unwrap(), minor.parse().unwrap());
            let disk = disk(number).unwrap();
            assert!(!Path::new("/sys/dev/block").join(disk).join("partition").exists(), "{name}");
        }
    }

    #[test]
    fn the_source_of_a_mount_is_found_by_its_number() {
        let mounts = "27 1 0:31 / / rw,relatime shared:1 - btrfs /dev/vda rw,ssd\n\
                      28 27 0:32 / /proc rw - proc proc rw\n";
        let number = nix::sys::stat::makedev(0, 31);
        assert_eq!(mounted(mounts, number), Some(("btrfs", "/dev/vda")));
        assert_eq!(mounted(mounts, nix::sys::stat::makedev(0, 33)), None);
    }
}
