//! Which parts of an image are mounted where, and which symlinks stand beside them.

use std::fs::{self, DirEntry};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::symlinkat;

use super::{Image, ImageError};
use crate::paths::{self, Kind};

/// A part of the image and where it is mounted, read-only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// The host's path.
    pub source: PathBuf,
    /// The path inside.
    pub target: PathBuf,
    /// Whether programs in it may be executed.
    pub executable: bool,
}

/// The image's parts for one pool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    /// Mounts, outer ones first.
    pub shares: Vec<Share>,
    /// Symlinks of the root: path inside and what it says.
    pub links: Vec<(PathBuf, PathBuf)>,
}

/// What of an image's top level is the sandbox's own or no part of a program.
const NOT_SHARED: [&str; 9] = ["boot", "dev", "etc", "lost+found", "proc", "root", "run", "sys", "tmp"];

/// The most parts of an image, each of which is a mount at every start: an image
/// with a hundred thousand directories in its root must not keep howdah busy.
pub(super) const MOST_PARTS: usize = 256;

/// What of `/etc` programs need and no tenant minds another seeing.
const ETC: [&str; 14] = [
    "ld.so.cache",
    "alternatives",
    "ssl/certs",
    "ssl/cert.pem",
    "ssl/openssl.cnf",
    "pki",
    "localtime",
    "timezone",
    "gai.conf",
    "mime.types",
    "services",
    "protocols",
    "fonts",
    "ImageMagick-6",
];

impl Image {
    /// The parts of the image for a sandbox with mounts on `targets`, where
    /// `configuration` are files and directories of `/etc` that its php reads.
    ///
    /// # Errors
    /// A target that goes through a symlink, or that lies in a read-only part and is not there.
    pub fn layout(&self, targets: &[&Path], configuration: &[PathBuf]) -> Result<Layout, ImageError> {
        let mut layout = Layout::default();
        let unreadable = |path: &Path, error| ImageError::Unreadable { path: path.to_owned(), error };
        let entries = fs::read_dir(&self.root).map_err(|error| unreadable(&self.root, error))?;
        let mut entries: Vec<DirEntry> = entries.flatten().collect();
        entries.sort_by_key(DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name();
            let skip = NOT_SHARED.iter().any(|other| name == *other);
            if !skip && (!self.is_host() || is_of_usr(&entry)) {
                self.share(&Path::new("/").join(&name), targets, &mut layout)?;
            }
        }
        for name in ETC.iter().map(|name| Path::new("/etc").join(name)).chain(configuration.iter().cloned()) {
            let plain =
                name.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
            if plain && name.starts_with("/etc") && paths::look_in_root(&self.root, &name).is_ok() {
                self.share(&name, &[], &mut layout)?;
            }
        }
        // Where programs look for them, unless the pool has something of its own there.
        for (link, says) in [("/var/run", "/run"), ("/var/tmp", "/tmp")] {
            if self.is_host() && !targets.iter().any(|target| target.starts_with(link)) {
                layout.links.push((link.into(), says.into()));
            }
        }
        targets.iter().try_for_each(|target| self.check_target(target, &layout))?;
        layout.leave_out_what_links_reach();
        Ok(layout)
    }

    /// Where the image's `path` is on the host.
    pub fn on_host(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Shares `path`: a symlink as a symlink; a directory whole, or entry by
    /// entry where a target must be made in it, which a read-only mount would not allow.
    fn share(&self, path: &Path, targets: &[&Path], layout: &mut Layout) -> Result<(), ImageError> {
        if layout.shares.len() + layout.links.len() >= MOST_PARTS {
            return Err(ImageError::TooMany { image: self.root.clone() });
        }
        let source = self.on_host(path);
        let unreadable = |error| ImageError::Unreadable { path: source.clone(), error };
        let kind = paths::look_in_root(&self.root, path).map_err(|errno| unreadable(errno.into()))?;
        if let Kind::Link(says) = kind {
            layout.links.push((path.to_owned(), says));
            return Ok(());
        }
        let must_open = kind == Kind::Directory
            && !self.is_host()
            && targets.iter().any(|target| {
                target.starts_with(path) && *target != path && !exists_inside(&self.root, target)
            });
        if !must_open {
            let executable = !path.starts_with("/etc");
            layout.shares.push(Share { source, target: path.to_owned(), executable });
            return Ok(());
        }
        for entry in fs::read_dir(&source).map_err(unreadable)?.flatten() {
            let inside = path.join(entry.file_name());
            // What the target itself will be made as.
            if !targets.contains(&inside.as_path()) {
                self.share(&inside, targets, layout)?;
            }
        }
        Ok(())
    }

    fn check_target(&self, target: &Path, layout: &Layout) -> Result<(), ImageError> {
        if let Some((link, _)) = layout.links.iter().find(|(link, _)| target.starts_with(link)) {
            return Err(ImageError::Symlink { target: target.to_owned(), link: link.clone() });
        }
        let shares = layout.shares.iter().filter(|share| target.starts_with(&share.target));
        let Some(share) = shares.max_by_key(|share| share.target.components().count()) else { return Ok(()) };
        let mut way = share.target.clone();
        for part in target.strip_prefix(&share.target).unwrap_or(Path::new("")).components() {
            way.push(part);
            let inside = way.strip_prefix(&share.target).unwrap_or(&way);
            match fs::symlink_metadata(share.source.join(inside)) {
                Ok(kind) if kind.is_symlink() => {
                    return Err(ImageError::Symlink { target: target.to_owned(), link: way });
                }
                Ok(_) => {}
                Err(_) => {
                    return Err(ImageError::NoTarget {
                        target: target.to_owned(),
                        share: share.target.clone(),
                    });
                }
            }
        }
        Ok(())
    }
}

/// Of the host only `/usr` is shared, and the links (or, before merged-usr, directories) that programs expect beside it.
fn is_of_usr(entry: &DirEntry) -> bool {
    let name = entry.file_name();
    ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"].iter().any(|part| name == *part)
}

/// Whether `path` is there when symlinks are resolved as inside `root`.
pub(super) fn exists_inside(root: &Path, path: &Path) -> bool {
    let Ok(root) = paths::open_trusted(root) else { return false };
    let found = paths::open_in_root(root.as_fd(), path, OFlag::O_PATH);
    !matches!(found, Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP))
}

impl Layout {
    /// What lies below a link of the image is reached through it. On the way to a
    /// place below it howdah would follow the link too, out of the root.
    fn leave_out_what_links_reach(&mut self) {
        let links: Vec<PathBuf> = self.links.iter().map(|(link, _)| link.clone()).collect();
        let reached = |path: &Path| links.iter().any(|link| path != link && path.starts_with(link));
        self.shares.retain(|share| !reached(&share.target));
        self.links.retain(|(link, _)| !reached(link));
    }

    /// Makes the symlinks in `rootfs`, howdah's own directory; what is there already stays.
    ///
    /// # Errors
    /// An I/O error, with the path that it happened on.
    pub fn make_links(&self, rootfs: &Path) -> Result<(), (PathBuf, std::io::Error)> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |errno: Errno| (path, errno.into())
        };
        let root = paths::open_trusted(rootfs).map_err(failed(rootfs))?;
        for (link, says) in &self.links {
            let path = rootfs.join(link.strip_prefix("/").unwrap_or(link));
            let (Some(parent), Some(name)) = (link.parent(), link.file_name()) else { continue };
            paths::make_point(root.as_fd(), parent, false).map_err(failed(&path))?;
            let parent = paths::open_inside(root.as_fd(), parent).map_err(failed(&path))?;
            match symlinkat(says, Some(parent.as_raw_fd()), name) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(failed(&path)(errno)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn image(build: impl Fn(&Path)) -> (tempfile::TempDir, Image) {
        let root = tempfile::tempdir().unwrap();
        build(root.path());
        let image = Image { root: root.path().to_owned(), binary: "/usr/sbin/php-fpm".into() };
        (root, image)
    }

    #[test]
    fn a_target_through_a_symlink_is_refused_by_the_link_s_name() {
        let (_root, image) = image(|root| {
            fs::create_dir_all(root.join("srv/real")).unwrap();
            symlink("/etc", root.join("srv/out")).unwrap();
        });
        let line = image.layout(&[Path::new("/srv/out/x")], &[]).unwrap_err().to_string();
        assert_eq!(
            line,
            "mount target /srv/out/x goes through the symlink /srv/out: \
             name the real directory, for a symlink can lead out of the root"
        );
        image.layout(&[Path::new("/srv/real")], &[]).unwrap();
    }

    #[test]
    fn a_directory_is_opened_up_where_a_target_must_be_made_in_it() {
        let (_root, image) = image(|root| {
            fs::create_dir_all(root.join("srv/old")).unwrap();
            fs::create_dir_all(root.join("usr/bin")).unwrap();
            fs::create_dir_all(root.join("proc")).unwrap();
            symlink("usr/bin", root.join("bin")).unwrap();
        });
        let layout = image.layout(&[Path::new("/srv/new/deep")], &[]).unwrap();
        let targets: Vec<_> = layout.shares.iter().map(|share| share.target.clone()).collect();
        assert_eq!(targets, [Path::new("/srv/old"), Path::new("/usr")]);
        assert_eq!(layout.links, [(PathBuf::from("/bin"), PathBuf::from("usr/bin"))]);
        let whole = image.layout(&[Path::new("/srv/old")], &[]).unwrap();
        assert!(whole.shares.iter().any(|share| share.target == Path::new("/srv")));
    }

    #[test]
    fn the_host_shares_usr_and_neither_home_nor_the_pools_of_others() {
        let image = Image { root: "/".into(), binary: "/usr/sbin/php-fpm".into() };
        let layout = image.layout(&[], &[]).unwrap();
        let targets: Vec<_> = layout.shares.iter().map(|share| share.target.as_path()).collect();
        assert!(targets.contains(&Path::new("/usr")));
        for hidden in ["/etc", "/home", "/var", "/srv", "/root", "/etc/php", "/opt"] {
            assert!(!targets.contains(&Path::new(hidden)), "{hidden}");
        }
        let line = image.layout(&[Path::new("/usr/no-such-place/x")], &[]).unwrap_err().to_string();
        assert_eq!(
            line,
            "mount target /usr/no-such-place/x does not exist in the image's /usr: create it there, or mount elsewhere"
        );
    }
}
