//! What is in force for a pool, key by key, and which line of which file says so.
//!
//! A value is said by the pool's file, by `[defaults]` of howdah.toml, by the
//! profile or one of its bases, or by nobody, and the first of these counts: the
//! rule by which `over` and the profile's layers make a pool and a profile. Looked
//! for only when a person asks, so that ten thousand pools need not remember; the
//! files are read again, with the parser that read them before.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::directives;
use super::error::ConfigError;
use super::explain::Source;
use super::keys::Kind;
use super::load::{self, HOWDAH_TOML};
use super::pool::{OnFailure, Pool, ProfileRef};
use super::profile::Profile;

/// One key of a pool file or of a profile, and what is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// The key with its tables, as TOML writes it: `limits.memory`, `sysctl."kernel.shmmax"`;
    /// a mount's is `mount` and its target.
    pub key: String,
    /// Its value, as TOML writes it.
    pub value: String,
    /// Who says so.
    pub from: Place,
}

/// Where a value is said. Displays as `FILE:LINE`, and what kind of file it is where
/// that is not plain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The pool's file, or a profile's; of a built-in profile "(built in)/NAME.toml".
    File(PathBuf, u32),
    /// `[defaults]` of howdah.toml.
    Defaults(PathBuf, u32),
    /// Nobody says anything.
    Unsaid,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file, line) => write!(f, "{}:{line}", file.display()),
            Self::Defaults(file, line) => write!(f, "{}:{line} [defaults]", file.display()),
            Self::Unsaid => f.write_str("howdah's default"),
        }
    }
}

impl Serialize for Place {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// What is in force for `pool`, whose profile is `profile`, sorted by key. `howdah` is
/// the howdah.toml that was named; `None` is [`HOWDAH_TOML`], which need not be there.
///
/// # Errors
/// A file that can no longer be read.
pub fn settings(pool: &Pool, profile: &Profile, howdah: Option<&Path>) -> Result<Vec<Setting>, ConfigError> {
    let mut said = BTreeMap::new();
    of_pool(&mut said, pool)?;
    let file = howdah.unwrap_or(Path::new(HOWDAH_TOML));
    if howdah.is_some() || file.exists() {
        let text = load::text_of(file)?;
        collect(&mut said, file, &text, Kind::Howdah, |line| Place::Defaults(file.to_owned(), line))?;
    }
    of_profile(&mut said, profile)?;
    // A profile's own word, not one about the pool.
    said.remove("base");
    for (key, value) in unsaid(pool) {
        said.entry(key.to_owned()).or_insert((value, Place::Unsaid));
    }
    Ok(said.into_iter().map(|(key, (value, from))| Setting { key, value, from }).collect())
}

/// Which line of the pool's file, or of its profile, says `key`; `None`: none, or the
/// file is not there any more.
pub fn place_of(pool: &Pool, profile: &Profile, key: &str) -> Option<Place> {
    let mut said = BTreeMap::new();
    of_pool(&mut said, pool).and_then(|()| of_profile(&mut said, profile)).ok()?;
    said.remove(key).map(|(_, place)| place)
}

fn of_pool(said: &mut Said, pool: &Pool) -> Result<(), ConfigError> {
    let text = load::text_of(&pool.file)?;
    collect(said, &pool.file, &text, Kind::Pool, |line| Place::File(pool.file.clone(), line))
}

fn of_profile(said: &mut Said, profile: &Profile) -> Result<(), ConfigError> {
    let mut files = profile.files.iter();
    files.try_for_each(|(file, text)| {
        collect(said, file, text, Kind::Pool, |line| Place::File(file.clone(), line))
    })
}

/// What is in force so far, by key.
type Said = BTreeMap<String, (String, Place)>;

/// Adds what one file says of keys of which nobody has said anything.
fn collect(
    said: &mut Said,
    file: &Path,
    text: &str,
    kind: Kind,
    place: impl Fn(u32) -> Place,
) -> Result<(), ConfigError> {
    let source = Source { file, text, kind };
    let document = source.document()?;
    let mut found = Vec::new();
    let table = match kind {
        Kind::Pool => Some(document.get_ref()),
        Kind::Howdah => document.get_ref().get("defaults").and_then(|value| value.get_ref().as_table()),
    };
    walk(table, &mut Vec::new(), &mut found);
    for (key, value, span) in found {
        said.entry(key).or_insert_with(|| (value, place(source.line(&span))));
    }
    Ok(())
}

/// Every value of a table and of those in it.
fn walk(
    table: Option<&DeTable<'_>>,
    above: &mut Vec<String>,
    found: &mut Vec<(String, String, Range<usize>)>,
) {
    for (key, value) in table.into_iter().flatten() {
        above.push(word(key.get_ref()));
        match value.get_ref() {
            DeValue::Table(inner) => walk(Some(inner), above, found),
            DeValue::Array(list) if above.as_slice() == ["mount"] => {
                found.extend(list.iter().filter_map(|item| mount(item.get_ref().as_table()?)));
            }
            other => found.push((canonical(above), written(other), value.span())),
        }
        above.pop();
    }
}

/// A mount: its target, which decides whose counts, and the rest of it.
fn mount(table: &DeTable<'_>) -> Option<(String, String, Range<usize>)> {
    let text = |key: &str| table.get(key).and_then(|value| value.get_ref().as_str());
    let source = text("source")?;
    let span = table.get("source")?.span();
    let access = text("access").unwrap_or("ro");
    Some((format!("mount {:?}", text("target").unwrap_or(source)), format!("{source:?} {access}"), span))
}

/// The key with its tables; php-fpm's directives have a second name each.
fn canonical(path: &[String]) -> String {
    let directive = match path {
        [table, key] if table == "fpm" => directives::find(key).ok(),
        _ => None,
    };
    directive.map_or_else(|| path.join("."), |directive| format!("fpm.{}", directive.key))
}

/// A key as TOML writes it.
fn word(key: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if !key.is_empty() && key.bytes().all(bare) { key.to_owned() } else { format!("{key:?}") }
}

/// A value as TOML writes it, on one line.
fn written(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.as_str().to_owned(),
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Boolean(on) => on.to_string(),
        DeValue::Datetime(date) => date.to_string(),
        DeValue::Array(list) => {
            let items: Vec<_> = list.iter().map(|item| written(item.get_ref())).collect();
            format!("[{}]", items.join(", "))
        }
        DeValue::Table(table) => {
            let pair = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
                let key: &std::borrow::Cow<'_, str> = key.get_ref();
                format!("{} = {}", word(key), written(value.get_ref()))
            };
            format!("{{ {} }}", table.iter().map(pair).collect::<Vec<_>>().join(", "))
        }
    }
}

/// What a pool has where nobody says anything.
fn unsaid(pool: &Pool) -> Vec<(&'static str, String)> {
    let quoted = |value: &dyn fmt::Display| format!("{:?}", value.to_string());
    let profile = match &pool.profile {
        ProfileRef::Named(name) => quoted(name),
        ProfileRef::File(path) => quoted(path),
    };
    let on_failure = match pool.start.on_failure {
        OnFailure::Answer503 => "503",
        OnFailure::Hold => "hold",
    };
    vec![
        ("user", quoted(&pool.user.name)),
        ("image", quoted(&pool.image)),
        ("profile", profile),
        ("engine", quoted(&"native")),
        ("socket.owner", pool.socket.owner.to_string()),
        ("socket.group", pool.socket.group.to_string()),
        ("socket.mode", quoted(&pool.socket.mode)),
        ("socket.backlog", pool.socket.backlog.to_string()),
        ("idle.freeze", quoted(&pool.idle.freeze)),
        ("idle.stop", quoted(&pool.idle.stop)),
        ("fpm.access_log", pool.fpm.access_log.to_string()),
        ("start.timeout", quoted(&super::types::duration_text(pool.start.timeout))),
        ("start.on_failure", quoted(&on_failure)),
    ]
}
