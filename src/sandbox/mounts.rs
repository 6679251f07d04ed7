//! The file systems of a sandbox: detached trees made before the clone, and
//! the attaching of them, which a child does in its own mount namespace.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use oci_spec::runtime::Mount;

use super::step::{At, Step, StepError};
use crate::{paths, sys};

/// One mount, ready to be attached: everything that could be refused has been.
pub(super) struct Tree {
    /// "/srv/blog on /app", for errors.
    pub(super) words: String,
    /// Where, relative to the root.
    pub(super) target: PathBuf,
    /// Whether it is a new tmpfs, empty and ours to make directories in.
    pub(super) fresh: bool,
    /// The detached mount, or procfs, which only a process of the new pid namespace can make.
    pub(super) source: Source,
}

/// What a [`Tree`] is made of.
pub(super) enum Source {
    /// A detached mount.
    Detached(OwnedFd),
    /// procfs of the child's pid namespace, with these options.
    Proc {
        /// fsconfig(2) options such as `subset=pid`.
        options: Vec<CString>,
        /// `MOUNT_ATTR_*`
        attributes: u64,
    },
}

/// The devices that every sandbox has (OCI runtime spec, config-linux, "Default
/// Devices"), less the terminals, which php-fpm has no use for.
pub(super) const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];

/// Mount options of the OCI spec as the kernel's words.
struct Options {
    attributes: u64,
    recursive: bool,
    data: Vec<CString>,
}

/// Reads mount(8) options; what is no flag is the file system's own.
fn options_of(mount: &Mount) -> Result<Options, StepError> {
    let mut options = Options { attributes: 0, recursive: false, data: Vec::new() };
    for word in mount.options().iter().flatten() {
        match word.as_str() {
            "ro" => options.attributes |= sys::attr::RDONLY,
            "nosuid" => options.attributes |= sys::attr::NOSUID,
            "nodev" => options.attributes |= sys::attr::NODEV,
            "noexec" => options.attributes |= sys::attr::NOEXEC,
            "rbind" => options.recursive = true,
            "bind" | "rw" | "suid" | "dev" | "exec" | "private" | "rprivate" => {}
            data => options
                .data
                .push(CString::new(data).map_err(|_| refused(Step::AttachMount, mount, Errno::EINVAL))?),
        }
    }
    Ok(options)
}

/// "SOURCE on TARGET"
fn words(mount: &Mount) -> String {
    let source = mount.source().as_deref().unwrap_or(Path::new("none"));
    format!("{} on {}", source.display(), mount.destination().display())
}

fn refused(step: Step, mount: &Mount, errno: Errno) -> StepError {
    StepError::new(step, words(mount), errno)
}

/// A detached, private copy of what `source` is open on, with `attributes`; its files
/// belong to whom the user namespace `users` maps their owners to.
pub(super) fn bind(
    source: BorrowedFd<'_>,
    attributes: u64,
    recursive: bool,
    users: Option<BorrowedFd<'_>>,
    what: &str,
) -> Result<OwnedFd, StepError> {
    let tree = sys::open_tree_clone(source, c"", recursive).at(Step::OpenSource, what)?;
    match users {
        None => sys::restrict_tree(tree.as_fd(), attributes, recursive).at(Step::OpenSource, what)?,
        Some(users) => {
            sys::map_tree(tree.as_fd(), attributes, recursive, users).at(Step::MapOwners, what)?;
        }
    }
    Ok(tree)
}

/// Where the sources of mounts are looked up.
#[derive(Clone, Copy)]
pub(super) enum Sources<'a> {
    /// On the host, by way of symlinks of root only.
    Host,
    /// In the image whose directory has this path and is open as this: no symlink of it leads out.
    Image(&'a Path, BorrowedFd<'a>),
}

impl Sources<'_> {
    pub(super) fn open(self, path: &Path) -> nix::Result<OwnedFd> {
        match self {
            Self::Host => paths::open_trusted(path),
            Self::Image(root, directory) => {
                let inside = path.strip_prefix(root).map_err(|_| Errno::EXDEV)?;
                paths::open_in_root(directory, inside, OFlag::O_PATH)
            }
        }
    }
}

/// Makes the detached tree of one mount of the spec.
pub(super) fn prepare(
    mount: &Mount,
    sources: Sources<'_>,
    users: Option<BorrowedFd<'_>>,
) -> Result<Tree, StepError> {
    let options = options_of(mount)?;
    let source = match mount.typ().as_deref() {
        Some("proc") => Source::Proc { options: options.data, attributes: options.attributes },
        Some("tmpfs") => Source::Detached(
            sys::new_mount(c"tmpfs", &options.data, options.attributes)
                .map_err(|errno| refused(Step::AttachMount, mount, errno))?,
        ),
        Some("bind") | None => {
            let path =
                mount.source().as_deref().ok_or_else(|| refused(Step::AttachMount, mount, Errno::EINVAL))?;
            let source = sources.open(path).at(Step::OpenSource, path.display().to_string())?;
            let words = words(mount);
            Source::Detached(bind(source.as_fd(), options.attributes, options.recursive, users, &words)?)
        }
        Some(_) => return Err(refused(Step::AttachMount, mount, Errno::ENODEV)),
    };
    let target = mount.destination().strip_prefix("/").unwrap_or(mount.destination()).to_owned();
    let fresh = mount.typ().as_deref() == Some("tmpfs");
    Ok(Tree { words: words(mount), target, fresh, source })
}

/// Attaches `tree` below `root`. No symlink is followed on the way: the root
/// may hold a file system that somebody hostile has written (openat2(2)).
pub(super) fn attach(tree: &Tree, root: BorrowedFd<'_>) -> Result<(), StepError> {
    let target = paths::open_inside(root, &tree.target).at(Step::AttachMount, &tree.words)?;
    match &tree.source {
        Source::Detached(mount) => {
            sys::attach(mount.as_fd(), target.as_fd()).at(Step::AttachMount, &tree.words)
        }
        Source::Proc { options, attributes } => {
            let proc = sys::new_mount(c"proc", options, *attributes).at(Step::MountProc, &tree.words)?;
            sys::attach(proc.as_fd(), target.as_fd()).at(Step::MountProc, &tree.words)
        }
    }
}

/// Makes the directories and files that later mounts of the spec need in the
/// fresh tmpfs among `trees`: nobody else has seen these yet, so plain paths will do.
pub(super) fn make_points_in_tmpfs(trees: &[Tree], mounts: &[Mount]) -> Result<(), StepError> {
    for mount in mounts {
        let target = mount.destination().strip_prefix("/").unwrap_or(mount.destination());
        let above = trees.iter().filter(|tree| target.starts_with(&tree.target) && target != tree.target);
        let Some(Tree { source: Source::Detached(tree), target: base, fresh: true, .. }) =
            above.max_by_key(|tree| tree.target.components().count())
        else {
            continue;
        };
        let inside = target.strip_prefix(base).unwrap_or(target);
        if paths::open_inside(tree.as_fd(), inside).is_err() {
            paths::make_point(tree.as_fd(), inside, is_file(mount))
                .map_err(|errno| refused(Step::AttachMount, mount, errno))?;
        }
    }
    Ok(())
}

/// Whether a mount is of a file rather than a directory.
fn is_file(mount: &Mount) -> bool {
    mount.typ().as_deref().is_none_or(|kind| kind == "bind")
        && mount.source().as_deref().is_some_and(|source| !source.is_dir())
}

/// Makes in the root directory `rootfs` what the mounts of the spec are to be
/// attached on: directories, or empty files for files. What lies below another
/// mount must be there already.
///
/// `rootfs` is howdah's own, but the symlinks in it say what the image's say.
///
/// # Errors
/// An I/O error, with the path that it happened on.
pub fn make_mount_points(rootfs: &Path, mounts: &[Mount]) -> Result<(), (PathBuf, std::io::Error)> {
    make_own_mount_points(rootfs, &[], mounts)?;
    let root = paths::open_trusted(rootfs).map_err(|errno| (rootfs.to_owned(), errno.into()))?;
    DEVICES.iter().try_for_each(|device| {
        let made = paths::make_point(root.as_fd(), &Path::new("dev").join(device), true);
        made.map_err(|errno| (rootfs.join("dev").join(device), errno.into()))
    })
}

/// The same for the mounts `own` alone, where those of `above` are there already.
pub(super) fn make_own_mount_points(
    rootfs: &Path,
    above: &[Mount],
    own: &[Mount],
) -> Result<(), (PathBuf, std::io::Error)> {
    let root = paths::open_trusted(rootfs).map_err(|errno| (rootfs.to_owned(), errno.into()))?;
    let make = |target: &Path, is_file| {
        let made = paths::make_point(root.as_fd(), target, is_file);
        made.map_err(|errno| (rootfs.join(target.strip_prefix("/").unwrap_or(target)), errno.into()))
    };
    let mut covered: Vec<&Path> = above.iter().map(|mount| mount.destination().as_path()).collect();
    for mount in own {
        let target = mount.destination();
        if !covered.iter().any(|above| target.starts_with(above)) {
            make(target, is_file(mount))?;
        }
        covered.push(target);
    }
    Ok(())
}
