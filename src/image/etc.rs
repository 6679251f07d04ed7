//! The made `/etc`: its own passwd and group with the one user there is, the
//! host's resolver, and what else programs look for.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

/// The one user of a sandbox, as its passwd tells.
#[derive(Debug, Clone, Copy)]
pub struct Owner<'a> {
    /// The account's name.
    pub name: &'a str,
    /// Its uid inside.
    pub uid: u32,
    /// Its gid inside.
    pub gid: u32,
    /// The host name inside.
    pub hostname: &'a str,
}

/// Writes `/etc` of a sandbox below `rootfs`: the made files, and `secret`
/// ones (name and text) that only the group `gid` of the host may read.
///
/// # Errors
/// An I/O error, with the path that it happened on.
pub fn write_etc(
    rootfs: &Path,
    owner: &Owner<'_>,
    secret: &[(&str, &str)],
    gid: u32,
) -> Result<(), (PathBuf, io::Error)> {
    let etc = rootfs.join("etc");
    DirBuilder::new().recursive(true).mode(0o755).create(&etc).map_err(|error| (etc.clone(), error))?;
    let Owner { name, uid, gid: inside, hostname } = owner;
    let resolver = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let files = [
        ("passwd", format!("{name}:x:{uid}:{inside}:{name}:/tmp:/usr/sbin/nologin\n")),
        ("group", format!("{name}:x:{inside}:\n")),
        ("hostname", format!("{hostname}\n")),
        ("hosts", format!("127.0.0.1 localhost {hostname}\n::1 localhost ip6-localhost\n")),
        (
            "nsswitch.conf",
            "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n".to_owned(),
        ),
        ("resolv.conf", resolver),
    ];
    for (name, text) in &files {
        write(&etc.join(name), text, 0o644, None)?;
    }
    for (name, text) in secret {
        let path = etc.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|error| (parent.to_owned(), error))?;
        }
        write(&path, text, 0o640, Some(gid))?;
    }
    Ok(())
}

/// Replaces `path` in one step, so that a running sandbox sees the old or the new text.
fn write(path: &Path, text: &str, mode: u32, gid: Option<u32>) -> Result<(), (PathBuf, io::Error)> {
    let fresh = path.with_extension("new");
    let done = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&fresh).and_then(
        |mut file| {
            if let Some(gid) = gid {
                fchown(&file, None, Some(gid))?;
            }
            file.write_all(text.as_bytes())
        },
    );
    done.and_then(|()| fs::rename(&fresh, path)).map_err(|error| (path.to_owned(), error))
}
