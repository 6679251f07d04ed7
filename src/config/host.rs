//! What a pool file names on this host, looked at now. Apart from loading:
//! `serve` must not touch the disk for ten thousand pools that sleep.

use std::fs;
use std::ops::Range;
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, told};
use super::explain::Source;
use super::keys::Kind;
use super::pool::{ImageRef, Pool, ProfileRef};
use super::types::AbsPath;

/// What a named path has to be.
#[derive(Clone, Copy, PartialEq)]
enum Wanted {
    Anything,
    Directory,
    File,
}

/// Everything that `pool` names and this host does not have, or does not let
/// howdah read: mounts, image, php-fpm configuration, profile file.
pub fn check_host(pool: &Pool) -> Vec<ConfigError> {
    let mut errors = Vec::new();
    let mut look = |path: &AbsPath, key: &str, wanted: Wanted| {
        if let Err(reason) = usable(path.as_path(), wanted) {
            let what = format!("{key} {path} {reason}");
            errors.push(ConfigError::new(&pool.file, line_of(&pool.file, key, path), what));
        }
    };
    if let ImageRef::Directory(path) = &pool.image {
        look(path, "image", Wanted::Directory);
    }
    if let ProfileRef::File(path) = &pool.profile {
        look(path, "profile", Wanted::File);
    }
    for mount in &pool.mounts {
        look(&mount.source, "mount.source", Wanted::Anything);
    }
    if let Some(path) = &pool.fpm.config {
        look(path, "fpm.config", Wanted::File);
    }
    errors
}

fn usable(path: &Path, wanted: Wanted) -> Result<(), String> {
    let failed = |errno: Errno| match errno {
        Errno::ENOENT => "does not exist: create it, or correct the path".to_owned(),
        Errno::EACCES => format!("cannot be read: {}: let howdah's user read it", told(errno)),
        _ => format!("cannot be read: {}", told(errno)),
    };
    let found =
        fs::metadata(path).map_err(|error| failed(Errno::from_raw(error.raw_os_error().unwrap_or(0))))?;
    match wanted {
        Wanted::Directory if !found.is_dir() => return Err("is no directory".into()),
        Wanted::File if !found.is_file() => return Err("is no file".into()),
        _ => {}
    }
    access(path, AccessFlags::R_OK).map_err(failed)
}

/// The line on which the pool's file says `path` for `key`. Looked for only
/// now, so that ten thousand good pools need not remember; `None` when it
/// comes from `[defaults]`.
fn line_of(file: &Path, key: &str, path: &AbsPath) -> Option<u32> {
    let text = fs::read_to_string(file).ok()?;
    let document = DeTable::parse(&text).ok()?;
    let span = find(document.get_ref(), key, path)?;
    Some(Source { file, text: &text, kind: Kind::Pool }.line(&span))
}

fn find(table: &DeTable<'_>, key: &str, path: &AbsPath) -> Option<Range<usize>> {
    let (first, rest) = key.split_once('.').unwrap_or((key, ""));
    let (_, value) = table.iter().find(|(name, _)| name.get_ref() == first)?;
    match value.get_ref() {
        DeValue::String(text) => (text.parse().as_ref() == Ok(path)).then(|| value.span()),
        DeValue::Table(inner) => find(inner, rest, path),
        DeValue::Array(list) => list.iter().find_map(|item| find(item.get_ref().as_table()?, rest, path)),
        _ => None,
    }
}
