//! Opening and making paths of which somebody else may own a part: a tenant's
//! site, an image that anybody has made, a root that such an image is mounted on.
//! howdah is root, and a symlink is all it takes to send it elsewhere.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, mkdirat};

use crate::sys;

/// As many symlinks as the kernel follows (path_resolution(7)).
const MOST_LINKS: u32 = 40;
/// The longest file that is read out of an image.
const FILE_LIMIT: u64 = 256 << 10;

fn flags() -> OFlag {
    OFlag::O_PATH | OFlag::O_CLOEXEC
}

/// Opens the absolute `path` with O_PATH. As root it follows the symlinks of
/// root only: one that a tenant has put in the place of a directory it owns
/// could lead to another tenant's, past the permissions on the way to it.
///
/// # Errors
/// ELOOP for a symlink of somebody else; those of path resolution.
pub fn open_trusted(path: &Path) -> nix::Result<OwnedFd> {
    let how = OpenHow::new().flags(flags()).resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
    match openat2(libc::AT_FDCWD, path, how).map(sys::owned) {
        // Nearly always there is none, and one call is all.
        Err(Errno::ELOOP) => walk(path),
        other => other,
    }
}

/// Goes `path` part by part.
fn walk(path: &Path) -> nix::Result<OwnedFd> {
    let root = || nix::fcntl::open("/", flags() | OFlag::O_DIRECTORY, Mode::empty()).map(sys::owned);
    let mut here = root()?;
    let mut links = 0;
    let mut ahead: Vec<OsString> = parts_reversed(path);
    while let Some(part) = ahead.pop() {
        let next =
            openat(Some(here.as_raw_fd()), part.as_os_str(), flags() | OFlag::O_NOFOLLOW, Mode::empty())
                .map(sys::owned)?;
        let data = fstat(next.as_raw_fd())?;
        if !is(&data, SFlag::S_IFLNK) {
            here = next;
            continue;
        }
        links += 1;
        // Without root howdah can open nothing that the owner of its pools could not.
        if links > MOST_LINKS || (data.st_uid != 0 && nix::unistd::geteuid().is_root()) {
            return Err(Errno::ELOOP);
        }
        let says = PathBuf::from(readlinkat(Some(next.as_raw_fd()), "")?);
        if says.is_absolute() {
            here = root()?;
        }
        ahead.extend(parts_reversed(&says));
    }
    Ok(here)
}

/// Who besides root could lead root elsewhere on the way to a name in `directory`: the first directory or
/// symlink above it that somebody else can exchange for another, and its owner. `directory` itself may be
/// anybody's: its owner can change what is in it, and not where it is.
///
/// # Errors
/// Those of path resolution; what is missing at the end is no error, and what is above it must be root's.
pub fn who_could_divert(directory: &Path) -> nix::Result<Option<(PathBuf, u32)>> {
    let root = || nix::fcntl::open("/", flags() | OFlag::O_DIRECTORY, Mode::empty()).map(sys::owned);
    let (mut here, mut at) = (root()?, PathBuf::from("/"));
    let mut links = 0;
    let mut ahead: Vec<OsString> = parts_reversed(directory);
    while let Some(part) = ahead.pop() {
        let above = fstat(here.as_raw_fd())?;
        // In a sticky directory only the owner of an entry can exchange it.
        let sticky = above.st_mode & libc::S_ISVTX != 0;
        if above.st_uid != 0 || (above.st_mode & 0o022 != 0 && !sticky) {
            return Ok(Some((at, above.st_uid)));
        }
        let found =
            openat(Some(here.as_raw_fd()), part.as_os_str(), flags() | OFlag::O_NOFOLLOW, Mode::empty());
        let next = match found.map(sys::owned) {
            Err(Errno::ENOENT) => return Ok(None),
            next => next?,
        };
        let data = fstat(next.as_raw_fd())?;
        let in_shared = above.st_mode & 0o022 != 0;
        if data.st_uid != 0 && (in_shared || is(&data, SFlag::S_IFLNK)) {
            return Ok(Some((at.join(part), data.st_uid)));
        }
        if !is(&data, SFlag::S_IFLNK) {
            at.push(part);
            here = next;
            continue;
        }
        links += 1;
        if links > MOST_LINKS {
            return Err(Errno::ELOOP);
        }
        let says = PathBuf::from(readlinkat(Some(next.as_raw_fd()), "")?);
        if says.is_absolute() {
            (here, at) = (root()?, PathBuf::from("/"));
        }
        ahead.extend(parts_reversed(&says));
    }
    Ok(None)
}

/// What there is to go, the first last.
fn parts_reversed(path: &Path) -> Vec<OsString> {
    path.components()
        .rev()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir))
        .map(|part| part.as_os_str().to_owned())
        .collect()
}

fn is(data: &FileStat, kind: SFlag) -> bool {
    data.st_mode & SFlag::S_IFMT.bits() == kind.bits()
}

/// Opens `path` as a process whose root is `root` would: no symlink leads out of it (openat2(2), RESOLVE_IN_ROOT).
///
/// # Errors
/// Those of path resolution.
pub fn open_in_root(root: BorrowedFd<'_>, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(root.as_raw_fd(), or_itself(path), how).map(sys::owned)
}

/// Opens `path` below `root` with O_PATH, through no symlink and never outside.
///
/// # Errors
/// ELOOP for a symlink; those of path resolution.
pub fn open_inside(root: BorrowedFd<'_>, path: &Path) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags())
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS);
    openat2(root.as_raw_fd(), or_itself(path), how).map(sys::owned)
}

fn or_itself(path: &Path) -> &Path {
    let path = path.strip_prefix("/").unwrap_or(path);
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

/// What is at a path of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A symlink and what it says.
    Link(PathBuf),
    /// Anything else.
    Other,
}

/// What is at `path` inside `root`; a symlink at its end is not followed.
///
/// # Errors
/// Those of path resolution.
pub fn look_in_root(root: &Path, path: &Path) -> nix::Result<Kind> {
    let root = open_trusted(root)?;
    let found = open_in_root(root.as_fd(), path, OFlag::O_PATH | OFlag::O_NOFOLLOW)?;
    let data = fstat(found.as_raw_fd())?;
    if is(&data, SFlag::S_IFLNK) {
        return readlinkat(Some(found.as_raw_fd()), "").map(|says| Kind::Link(says.into()));
    }
    Ok(if is(&data, SFlag::S_IFDIR) { Kind::Directory } else { Kind::Other })
}

/// The text of the regular file at `path` inside `root`.
///
/// # Errors
/// Those of opening and reading; one that is no regular file, or too long, or no UTF-8.
pub fn read_in_root(root: &Path, path: &Path) -> io::Result<String> {
    let root = open_trusted(root)?;
    // O_NONBLOCK: opening a FIFO would wait for a writer for ever.
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = File::from(open_in_root(root.as_fd(), path, flags)?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut text = String::new();
    file.take(FILE_LIMIT + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_LIMIT {
        return Err(io::Error::other(format!("it is longer than {} KiB", FILE_LIMIT >> 10)));
    }
    Ok(text)
}

/// Makes `path` below `root`: its directories (0755), and at the end one more, or
/// an empty file if `is_file`. What is there stays; a symlink is not gone through.
///
/// # Errors
/// ELOOP or ENOTDIR for a symlink on the way; those of mkdirat(2) and openat(2).
pub fn make_point(root: BorrowedFd<'_>, path: &Path, is_file: bool) -> nix::Result<()> {
    let parts: Vec<_> = path
        .components()
        .filter(|part| matches!(part, Component::Normal(_)))
        .map(Component::as_os_str)
        .collect();
    let Some((last, above)) = parts.split_last() else { return Ok(()) };
    let mut here = open_inside(root, Path::new(""))?;
    for part in above {
        allow_existing(mkdirat(Some(here.as_raw_fd()), *part, Mode::from_bits_truncate(0o755)))?;
        here = open_inside(here.as_fd(), Path::new(part))?;
    }
    if is_file {
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let made = openat(Some(here.as_raw_fd()), *last, flags, Mode::from_bits_truncate(0o644));
        allow_existing(made.map(sys::owned).map(drop))
    } else {
        allow_existing(mkdirat(Some(here.as_raw_fd()), *last, Mode::from_bits_truncate(0o755)))
    }
}

fn allow_existing(made: nix::Result<()>) -> nix::Result<()> {
    match made {
        Err(Errno::EEXIST) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{lchown, symlink};

    use super::*;

    fn is_root() -> bool {
        nix::unistd::geteuid().is_root()
    }

    #[test]
    fn who_owns_a_directory_above_could_divert_and_who_owns_the_last_could_not() {
        if !is_root() {
            return;
        }
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        fs::create_dir_all(at("tenant/run/deep")).unwrap();
        assert_eq!(who_could_divert(&at("tenant/run/deep")).unwrap(), None);
        lchown(at("tenant"), Some(33), Some(33)).unwrap();
        assert_eq!(who_could_divert(&at("tenant")).unwrap(), None);
        assert_eq!(who_could_divert(&at("tenant/run")).unwrap(), Some((at("tenant"), 33)));
        assert_eq!(who_could_divert(&at("tenant/missing/one")).unwrap(), Some((at("tenant"), 33)));
        assert_eq!(who_could_divert(&at("missing/one")).unwrap(), None);
        // A link of root's leads on, one of a tenant's does not.
        symlink("tenant", at("link")).unwrap();
        assert_eq!(who_could_divert(&at("link/run")).unwrap(), Some((at("tenant"), 33)));
        lchown(at("link"), Some(33), Some(33)).unwrap();
        assert_eq!(who_could_divert(&at("link")).unwrap(), Some((at("link"), 33)));
        // What a tenant has made in a directory like /tmp is the tenant's to exchange.
        fs::create_dir(at("shared")).unwrap();
        fs::set_permissions(at("shared"), std::os::unix::fs::PermissionsExt::from_mode(0o1777)).unwrap();
        fs::create_dir_all(at("shared/own")).unwrap();
        assert_eq!(who_could_divert(&at("shared/own")).unwrap(), None);
        lchown(at("shared/own"), Some(33), Some(33)).unwrap();
        assert_eq!(who_could_divert(&at("shared/own")).unwrap(), Some((at("shared/own"), 33)));
        fs::set_permissions(at("shared"), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        assert_eq!(who_could_divert(&at("shared/own")).unwrap(), Some((at("shared"), 0)));
    }

    #[test]
    fn a_symlink_of_root_is_followed_and_one_of_a_tenant_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir(at("real")).unwrap();
        fs::write(at("real/file"), "").unwrap();
        for (link, says) in [("absolute", at("real")), ("relative", "real/../real".into())] {
            symlink(says, at(link)).unwrap();
            let found = open_trusted(&at(link).join("file")).unwrap();
            let wanted = fs::metadata(at("real/file")).unwrap();
            assert_eq!(
                fstat(found.as_raw_fd()).unwrap().st_ino,
                std::os::unix::fs::MetadataExt::ino(&wanted)
            );
            if is_root() {
                lchown(at(link), Some(33), Some(33)).unwrap();
                assert_eq!(open_trusted(&at(link).join("file")).unwrap_err(), Errno::ELOOP);
                assert_eq!(open_trusted(&at(link)).unwrap_err(), Errno::ELOOP);
            }
        }
        symlink("loop", at("loop")).unwrap();
        assert_eq!(open_trusted(&at("loop")).unwrap_err(), Errno::ELOOP);
        assert_eq!(open_trusted(&at("none")).unwrap_err(), Errno::ENOENT);
    }

    #[test]
    fn a_file_of_an_image_is_never_one_of_the_host() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::create_dir(at("etc")).unwrap();
        fs::write(at("etc/passwd"), "of the image").unwrap();
        symlink("/etc/passwd", at("absolute")).unwrap();
        symlink("../../../../../../../../etc/passwd", at("relative")).unwrap();
        for name in ["/absolute", "relative", "/../../../etc/passwd", "etc/passwd"] {
            assert_eq!(read_in_root(root.path(), Path::new(name)).unwrap(), "of the image", "{name}");
        }
        nix::unistd::mkfifo(&at("fifo"), Mode::S_IRUSR).unwrap();
        fs::write(at("long"), vec![b'x'; FILE_LIMIT as usize + 1]).unwrap();
        for name in ["fifo", "etc", "long"] {
            read_in_root(root.path(), Path::new(name)).unwrap_err();
        }
        let link = look_in_root(root.path(), Path::new("/absolute")).unwrap();
        assert_eq!(link, Kind::Link("/etc/passwd".into()));
        assert_eq!(look_in_root(root.path(), Path::new("/etc")).unwrap(), Kind::Directory);
        assert_eq!(look_in_root(root.path(), Path::new("/etc/passwd")).unwrap(), Kind::Other);
    }

    #[test]
    fn nothing_is_made_behind_a_symlink() {
        let (root, host) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        symlink(host.path(), root.path().join("out")).unwrap();
        symlink(host.path().join("new"), root.path().join("dangling")).unwrap();
        let fd = open_trusted(root.path()).unwrap();
        for (path, is_file) in [("out/a", true), ("out/a", false), ("out/a/b", false), ("dangling/x", true)] {
            make_point(fd.as_fd(), Path::new(path), is_file).unwrap_err();
        }
        make_point(fd.as_fd(), Path::new("dangling"), true).unwrap();
        assert_eq!(fs::read_dir(host.path()).unwrap().count(), 0);
        make_point(fd.as_fd(), Path::new("/a/b/c"), true).unwrap();
        make_point(fd.as_fd(), Path::new("/a/b/d"), false).unwrap();
        assert!(root.path().join("a/b/c").is_file() && root.path().join("a/b/d").is_dir());
    }
}
