//! Pool files from disk: each one read, all of them held against each other.
//! One bad file hides no other.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::accounts::Accounts;
use super::draft::{Defaults, Draft};
use super::error::{ConfigError, Notice};
use super::explain::Source;
use super::keys::Kind;
use super::pool::{Pool, ServeConfig};
use super::raw::{RawHowdah, RawPool};
use super::types::{Bytes, IdRange, Listen, PoolName};

/// Where `[serve]` and `[defaults]` stand unless another file is named.
pub const HOWDAH_TOML: &str = "/etc/howdah/howdah.toml";

/// What all templates together may take of the memory unless `template_memory` says otherwise: ten
/// classes with all of Debian's extensions.
const TEMPLATE_MEMORY: Bytes = Bytes::new(256 << 20);

/// No file of ours is longer; a device or a log named by mistake is.
const LONGEST: u64 = 1 << 20;

/// What the files say, good and bad.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The good pools, in the order of the files; no two of one name or address.
    pub pools: Vec<Pool>,
    /// What is wrong with the others: at most one error for each file.
    pub errors: Vec<ConfigError>,
    /// What a person may want to know.
    pub notices: Vec<Notice>,
}

/// A pool and the line of each of its addresses.
type Placed = (Pool, Vec<u32>);

/// Reads every pool of `paths`; a directory stands for its `*.toml`, sorted,
/// without dotfiles.
pub fn load_pools(paths: &[PathBuf], defaults: &Defaults, accounts: &dyn Accounts) -> Loaded {
    let mut loaded = Loaded::default();
    let mut known = Known::default();
    for path in paths {
        for file in files(path, &mut loaded) {
            let read = load_placed(&file, defaults, accounts);
            match read.and_then(|placed| known.admit(&loaded.pools, placed)) {
                Ok(pool) => loaded.pools.push(pool),
                Err(error) => loaded.errors.push(error),
            }
        }
    }
    loaded
}

/// Reads one pool file.
pub fn load_pool(path: &Path, defaults: &Defaults, accounts: &dyn Accounts) -> Result<Pool, ConfigError> {
    load_placed(path, defaults, accounts).map(|(pool, _)| pool)
}

/// A pool from its file's text. `file` gives the name and the place for
/// errors; the disk is not touched.
pub fn parse_pool(
    text: &str,
    file: &Path,
    defaults: &Defaults,
    accounts: &dyn Accounts,
) -> Result<Pool, ConfigError> {
    parse_placed(text, file, defaults, accounts).map(|(pool, _)| pool)
}

/// Reads howdah.toml. `None` is [`HOWDAH_TOML`], which need not be there.
pub fn load_serve(
    path: Option<&Path>,
    accounts: &dyn Accounts,
) -> Result<(ServeConfig, Defaults), ConfigError> {
    let file = path.unwrap_or(Path::new(HOWDAH_TOML));
    match read(file) {
        Ok(bytes) => parse_serve(text(file, &bytes)?, file, accounts),
        Err(error) if path.is_none() && error.kind() == io::ErrorKind::NotFound => {
            parse_serve("", file, accounts)
        }
        Err(error) => Err(ConfigError::unreadable(file, &error)),
    }
}

/// howdah.toml from its text.
pub fn parse_serve(
    text: &str,
    file: &Path,
    accounts: &dyn Accounts,
) -> Result<(ServeConfig, Defaults), ConfigError> {
    let source = Source { file, text, kind: Kind::Howdah };
    let RawHowdah { serve, defaults } = source.parse()?;
    if let Some(listen) = &defaults.0.listen {
        let what = "defaults.listen: an address belongs to one pool: write listen in the pool's file";
        return Err(source.error(&listen.span(), what));
    }
    let config = ServeConfig {
        runtime_dir: serve.0.runtime_dir,
        state_dir: serve.0.state_dir,
        profile_dir: serve.0.profile_dir,
        drain: serve.0.drain.map_or(Duration::from_secs(30), |wait| wait.0),
        parallel_starts: serve.0.parallel_starts.map(|n| n.0 as u32),
        templates: serve.0.templates.map(|n| n.0 as u32),
        template_memory: serve.0.template_memory.map_or(TEMPLATE_MEMORY, |size| size.0),
        template_ids: serve.0.template_ids.unwrap_or(IdRange::OF_TEMPLATES),
        cgroup: serve.0.cgroup,
    };
    Ok((config, Defaults(Draft::read(defaults.0, source, accounts)?)))
}

fn load_placed(file: &Path, defaults: &Defaults, accounts: &dyn Accounts) -> Result<Placed, ConfigError> {
    let bytes = read(file).map_err(|error| ConfigError::unreadable(file, &error))?;
    parse_placed(text(file, &bytes)?, file, defaults, accounts)
}

fn parse_placed(
    text: &str,
    file: &Path,
    defaults: &Defaults,
    accounts: &dyn Accounts,
) -> Result<Placed, ConfigError> {
    let source = Source { file, text, kind: Kind::Pool };
    let name = name_of(source)?;
    let raw: RawPool = source.parse()?;
    if raw.listen.is_none() {
        return Err(source.missing(format!(
            "listen is missing: name a socket, such as listen = \"/run/howdah/{name}.sock\""
        )));
    }
    let mut draft = Draft::read(raw, source, accounts)?;
    let lines = std::mem::take(&mut draft.listen_lines);
    Ok((draft.finish(&defaults.0, name, source, accounts)?, lines))
}

/// The pool's name: the file's stem.
fn name_of(source: Source<'_>) -> Result<PoolName, ConfigError> {
    let stem = source.file.file_stem().unwrap_or_default().to_string_lossy();
    stem.parse().map_err(|reason| source.missing(format!("{reason}: rename the file")))
}

/// The pool files that `path` stands for.
fn files(path: &Path, loaded: &mut Loaded) -> Vec<PathBuf> {
    if !path.is_dir() {
        return vec![path.to_owned()];
    }
    let is_pool = |file: &PathBuf| {
        file.extension().is_some_and(|extension| extension == "toml")
            && !file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
    };
    let entries = fs::read_dir(path)
        .and_then(|entries| entries.map(|entry| entry.map(|e| e.path())).collect::<io::Result<Vec<_>>>());
    match entries {
        Ok(entries) => {
            let mut files: Vec<PathBuf> = entries.into_iter().filter(is_pool).collect();
            files.sort_unstable();
            if files.is_empty() {
                loaded.notices.push(Notice::new(path, "no pool files (*.toml) here yet"));
            }
            files
        }
        Err(error) => {
            loaded.errors.push(ConfigError::unreadable(path, &error));
            Vec::new()
        }
    }
}

/// A file's bytes. Without O_NONBLOCK a FIFO of this name would hold howdah
/// for ever.
fn read(file: &Path) -> io::Result<Vec<u8>> {
    let opened = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(file)?;
    let about = opened.metadata()?;
    if !about.is_file() {
        return Err(io::Error::other("not a file: name a pool file or a directory of them"));
    }
    if about.len() > LONGEST {
        return Err(io::Error::other("longer than 1 MiB: this is no configuration of howdah's"));
    }
    let mut bytes = Vec::with_capacity(about.len() as usize);
    opened.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A file of ours, as text.
pub(super) fn text_of(file: &Path) -> Result<String, ConfigError> {
    let bytes = read(file).map_err(|error| ConfigError::unreadable(file, &error))?;
    text(file, &bytes).map(str::to_owned)
}

fn text<'a>(file: &Path, bytes: &'a [u8]) -> Result<&'a str, ConfigError> {
    std::str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count() as u32;
        ConfigError::new(file, Some(line), "not UTF-8: save the file as UTF-8")
    })
}

/// The names and addresses that are taken, by the pool's place in the list.
#[derive(Default)]
struct Known {
    names: HashMap<PoolName, usize>,
    addresses: HashMap<Listen, usize>,
}

impl Known {
    /// The pool, if no pool before it has its name or one of its addresses.
    fn admit(&mut self, before: &[Pool], (pool, lines): Placed) -> Result<Pool, ConfigError> {
        let file_of = |place: &usize| before[*place].file.display();
        if let Some(other) = self.names.get(&pool.name) {
            let what = if before[*other].file == pool.file {
                "is named twice: name it once".to_owned()
            } else {
                format!("pool {} is also defined by {}: rename one", pool.name, file_of(other))
            };
            return Err(ConfigError::new(&pool.file, None, what));
        }
        for (address, line) in pool.listen.iter().zip(lines) {
            if let Some(other) = self.addresses.get(address) {
                let what = format!("listen {address} is taken by {}: give each pool its own", file_of(other));
                return Err(ConfigError::new(&pool.file, Some(line), what));
            }
        }
        let place = before.len();
        self.names.insert(pool.name.clone(), place);
        self.addresses.extend(pool.listen.iter().map(|address| (address.clone(), place)));
        Ok(pool)
    }
}
