//! What a pool's root is made of: the host's own php-fpm and `/usr`, or a
//! directory with a root file system. Either way the root itself is a small
//! directory of howdah's, on which the image's parts are mounted read-only.
//!
//! Knows nothing of pools; makes no mounts.

mod etc;
mod layout;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

pub use etc::{Owner, write_etc, write_secret};
pub use layout::{Layout, Share};

use crate::config::pool::ImageRef;
use crate::config::types::AbsPath;
use crate::{paths, sys};

/// Why an image cannot be used. One line each.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// No php-fpm where distributions put it.
    #[error(
        "image {image}: no php-fpm in /usr/sbin, /usr/local/sbin, /usr/bin or /usr/local/bin: \
         install it (Debian: apt-get install php-fpm) or name it with [fpm] binary"
    )]
    NoPhpFpm {
        /// "host" or the directory.
        image: String,
    },
    /// `[fpm] binary` names nothing.
    #[error("image {image}: [fpm] binary {} is not there: name an executable inside the image", binary.display())]
    NoBinary {
        /// "host" or the directory.
        image: String,
        /// As the file has it.
        binary: PathBuf,
    },
    /// A file or directory of the image cannot be read.
    #[error("image: {}: {}", path.display(), sys::told(.error))]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The way to the image goes through somebody's symlink.
    #[error(
        "image {}: the way to it goes through a symlink that does not belong to root: name the real directory",
        image.display()
    )]
    ForeignLink {
        /// The directory.
        image: PathBuf,
    },
    /// More parts than howdah mounts one by one.
    #[error("image {}: its root has more than {} entries to mount: put them into a directory", image.display(), layout::MOST_PARTS)]
    TooMany {
        /// The directory.
        image: PathBuf,
    },
    /// A mount's target goes through a symlink.
    #[error(
        "mount target {} goes through the symlink {}: name the real directory, for a symlink can lead out of the root",
        target.display(), link.display()
    )]
    Symlink {
        /// The target.
        target: PathBuf,
        /// The first symlink on the way.
        link: PathBuf,
    },
    /// A mount's target lies in a read-only part of the image and is not there.
    #[error("mount target {} does not exist in the image's {}: create it there, or mount elsewhere", target.display(), share.display())]
    NoTarget {
        /// The target.
        target: PathBuf,
        /// The shared directory that would have to hold it.
        share: PathBuf,
    },
}

/// An image on this host.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Image {
    /// Where its files are on the host: `/` for the image `host`.
    pub root: PathBuf,
    /// php-fpm, by its path inside.
    pub binary: PathBuf,
}

/// Where distributions and the official container images put php-fpm.
const PLACES: [&str; 4] = ["usr/sbin", "usr/local/sbin", "usr/bin", "usr/local/bin"];

impl Image {
    /// Finds the image and its php-fpm: `binary` if given, else the newest by its name (`php-fpm8.4`).
    ///
    /// # Errors
    /// The image cannot be read or has no php-fpm.
    pub fn locate(reference: &ImageRef, binary: Option<&AbsPath>) -> Result<Self, ImageError> {
        let root = match reference {
            ImageRef::Host => PathBuf::from("/"),
            ImageRef::Directory(path) => path.as_path().to_owned(),
        };
        paths::open_trusted(&root).map_err(|errno| match errno {
            Errno::ELOOP => ImageError::ForeignLink { image: root.clone() },
            other => ImageError::Unreadable { path: root.clone(), error: other.into() },
        })?;
        fs::read_dir(&root).map_err(|error| ImageError::Unreadable { path: root.clone(), error })?;
        if let Some(binary) = binary {
            let binary = binary.as_path().to_owned();
            return match layout::exists_inside(&root, &binary) {
                true => Ok(Self { root, binary }),
                false => Err(ImageError::NoBinary { image: reference.to_string(), binary }),
            };
        }
        let candidates = PLACES.iter().flat_map(|place| {
            let entries = fs::read_dir(root.join(place)).into_iter().flatten().flatten();
            entries.filter_map(move |entry| {
                Some((version_of(&entry.file_name())?, Path::new("/").join(place).join(entry.file_name())))
            })
        });
        match candidates.max() {
            Some((_, binary)) => Ok(Self { root, binary }),
            None => Err(ImageError::NoPhpFpm { image: reference.to_string() }),
        }
    }

    /// Whether the image is the host itself.
    pub fn is_host(&self) -> bool {
        self.root == Path::new("/")
    }
}

/// The version in a name such as `php-fpm8.4`; a bare `php-fpm` counts as none, the oldest.
fn version_of(name: &OsString) -> Option<Vec<u32>> {
    let version = name.to_str()?.strip_prefix("php-fpm")?;
    if version.is_empty() {
        return Some(Vec::new());
    }
    version.trim_start_matches('-').split('.').map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_php_fpm_is_taken_by_number_not_by_letter() {
        let root = tempfile::tempdir().unwrap();
        let sbin = root.path().join("usr/sbin");
        fs::create_dir_all(&sbin).unwrap();
        for name in ["php-fpm", "php-fpm7.4", "php-fpm8.2", "php-fpm8.10", "php-fpm.conf", "php-fpmx"] {
            fs::write(sbin.join(name), "").unwrap();
        }
        let reference = ImageRef::Directory(root.path().to_str().unwrap().parse().unwrap());
        assert_eq!(Image::locate(&reference, None).unwrap().binary, Path::new("/usr/sbin/php-fpm8.10"));
    }

    #[test]
    fn an_image_without_php_fpm_says_so_in_one_line() {
        let root = tempfile::tempdir().unwrap();
        let reference = ImageRef::Directory(root.path().to_str().unwrap().parse().unwrap());
        let line = Image::locate(&reference, None).unwrap_err().to_string();
        assert_eq!(
            line,
            format!(
                "image {}: no php-fpm in /usr/sbin, /usr/local/sbin, /usr/bin or /usr/local/bin: \
                 install it (Debian: apt-get install php-fpm) or name it with [fpm] binary",
                root.path().display()
            )
        );
        let missing: AbsPath = "/usr/sbin/php-fpm9".parse().unwrap();
        let line = Image::locate(&reference, Some(&missing)).unwrap_err().to_string();
        assert!(line.contains("[fpm] binary /usr/sbin/php-fpm9 is not there"), "{line}");
    }
}
