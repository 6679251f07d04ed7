//! The words of a pool file as types. Each is built only by parsing, so that
//! whoever holds one need not check it again.
//!
//! This room knows nothing of files, TOML or pools as a whole.

use std::fmt;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// A word that is not what its place asks for; displays as the reason alone
/// ("must be an absolute path"), for the caller knows file, line and key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(String);

impl Invalid {
    /// An error whose display is `reason`.
    pub fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

/// A pool's name: `[a-z0-9][a-z0-9_-]{0,62}`, the stem of its file. Safe as a
/// file name, a cgroup's name and a host name's label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolName(Box<str>);

impl PoolName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PoolName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let bytes = text.as_bytes();
        let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let starts_well = bytes.first().is_some_and(plain);
        if starts_well && bytes.len() <= 63 && bytes.iter().all(|b| plain(b) || matches!(b, b'_' | b'-')) {
            Ok(Self(text.into()))
        } else {
            Err(Invalid(format!(
                "{text:?} is no pool name: 1 to 63 of a-z, 0-9, '_' and '-', starting with a letter or digit"
            )))
        }
    }
}

impl fmt::Display for PoolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An absolute path without `.`, `..`, doubled or trailing slashes, and
/// without a byte that a configuration file of php-fpm or a C string could not
/// carry (NUL, newline, quotes).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AbsPath(Box<Path>);

impl AbsPath {
    /// The path.
    pub fn as_path(&self) -> &Path {
        &self.0
    }

    /// The path without its leading slash: what it is below a root directory.
    pub fn below_root(&self) -> &Path {
        self.0.strip_prefix("/").unwrap_or(&self.0)
    }
}

impl AsRef<Path> for AbsPath {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl FromStr for AbsPath {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let path = Path::new(text);
        if !path.is_absolute() {
            return Err(Invalid(format!("{text:?} is relative: write an absolute path")));
        }
        if path.components().any(|part| matches!(part, Component::ParentDir)) {
            return Err(Invalid(format!("{text:?} contains '..': write the path itself")));
        }
        if let Some(byte) = text.bytes().find(|b| b.is_ascii_control() || matches!(b, b'"' | b'\'' | b'\\')) {
            return Err(Invalid(format!("{text:?} contains {:?}, which php-fpm cannot carry", byte as char)));
        }
        Ok(Self(path.components().collect::<PathBuf>().into()))
    }
}

impl fmt::Display for AbsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

/// A number of bytes: `4096`, `"64K"`, `"256M"`, `"2G"`, `"1T"` (powers of 1024).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(u64);

impl Bytes {
    /// `count` bytes.
    pub const fn new(count: u64) -> Self {
        Self(count)
    }

    /// The number of bytes.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl FromStr for Bytes {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let refuse = || {
            Invalid(format!(
                "{text:?} is no size: write bytes, or a number with K, M, G or T, such as \"256M\""
            ))
        };
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let shift = match text[digits.len()..].trim_start() {
            "" | "B" => 0,
            "K" | "KB" | "KiB" | "k" => 10,
            "M" | "MB" | "MiB" | "m" => 20,
            "G" | "GB" | "GiB" | "g" => 30,
            "T" | "TB" | "TiB" | "t" => 40,
            _ => return Err(refuse()),
        };
        let count: u64 = digits.parse().map_err(|_| refuse())?;
        count.checked_mul(1 << shift).filter(|n| *n <= i64::MAX as u64).map(Self).ok_or_else(refuse)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(40, "T"), (30, "G"), (20, "M"), (10, "K")] {
            if self.0 != 0 && self.0 % (1 << shift) == 0 {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

/// A span of time as systemd writes it: `"50ms"`, `"30s"`, `"10m"`, `"2h"`,
/// `"1d"`; also `"1m 30s"`.
pub fn parse_duration(text: &str) -> Result<Duration, Invalid> {
    let refuse = || {
        Invalid(format!("{text:?} is no time span: write a number with ms, s, m, h or d, such as \"30s\""))
    };
    let mut total = Duration::ZERO;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(refuse());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(refuse)?;
        let count: u64 = rest[..digits].parse().map_err(|_| refuse())?;
        rest = rest[digits..].trim_start();
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let unit_ms: u64 = match &rest[..letters] {
            "ms" => 1,
            "s" | "sec" => 1_000,
            "m" | "min" => 60_000,
            "h" | "hr" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(refuse()),
        };
        rest = rest[letters..].trim_start();
        let part = count.checked_mul(unit_ms).filter(|ms| *ms <= 3_650 * 86_400_000).ok_or_else(refuse)?;
        total += Duration::from_millis(part);
    }
    Ok(total)
}

/// A span of time as [`parse_duration`] reads it: `"1m 30s"`, to the millisecond.
pub fn duration_text(span: Duration) -> String {
    let mut rest = span.as_millis();
    let mut parts = Vec::new();
    for (unit_ms, unit) in [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")] {
        if rest >= unit_ms {
            parts.push(format!("{}{unit}", rest / unit_ms));
            rest %= unit_ms;
        }
    }
    if parts.is_empty() { "0s".into() } else { parts.join(" ") }
}

/// A span of time, or `"never"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// After this much idle time.
    After(Duration),
    /// `"never"`.
    Never,
}

impl FromStr for Patience {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text == "never" { Ok(Self::Never) } else { parse_duration(text).map(Self::After) }
    }
}

impl fmt::Display for Patience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::After(span) => f.write_str(&duration_text(*span)),
            Self::Never => f.write_str("never"),
        }
    }
}

/// A listening address.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Listen {
    /// A path, at most 107 bytes long (unix(7): `sun_path` holds 108 with its NUL).
    Unix(AbsPath),
    /// `127.0.0.1:9001` or `[::1]:9001`.
    Tcp(SocketAddr),
}

impl FromStr for Listen {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.starts_with('/') {
            let path: AbsPath = text.parse()?;
            let length = path.as_path().as_os_str().as_bytes().len();
            if length > 107 {
                return Err(Invalid(format!(
                    "socket path {text} is {length} bytes long: the kernel takes at most 107 (unix(7)): \
                     shorten it"
                )));
            }
            if path.as_path().file_name().is_none() {
                return Err(Invalid(format!("{text:?} names no socket: write a path below a directory")));
            }
            return Ok(Self::Unix(path));
        }
        let address: SocketAddr = text.parse().map_err(|_| {
            Invalid(format!(
                "{text:?} is no address: write an absolute path, \"127.0.0.1:9001\" or \"[::1]:9001\""
            ))
        })?;
        if address.port() == 0 {
            return Err(Invalid(format!("{text:?} has port 0, another one at each start: write a port")));
        }
        Ok(Self::Tcp(address))
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => path.fmt(f),
            Self::Tcp(address) => address.fmt(f),
        }
    }
}

/// A file mode, written as in chmod(1): `"0660"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode(u32);

impl Mode {
    /// The permission bits.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// The permission bits `bits`, as a constant of the program.
    pub const fn new(bits: u32) -> Self {
        Self(bits & 0o777)
    }
}

impl FromStr for Mode {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        u32::from_str_radix(text, 8)
            .ok()
            .filter(|bits| *bits <= 0o777 && !text.starts_with('+'))
            .map(Self)
            .ok_or_else(|| Invalid(format!("{text:?} is no mode: write it in octal, such as \"0660\"")))
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

/// A range of uids, which are gids as well, all above those of ordinary accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// The first.
    pub first: u32,
    /// The last.
    pub last: u32,
}

impl IdRange {
    /// Where templates get theirs if nobody says otherwise: above the ids of containers, below the
    /// sign bit, where nobody else has any (systemd, "Users, Groups, UIDs and GIDs on systemd Systems").
    pub const OF_TEMPLATES: Self = Self { first: 0x7000_0000, last: 0x7000_FFFF };

    /// How many it has.
    pub const fn count(self) -> u32 {
        self.last - self.first + 1
    }

    /// Whether `id` is one of them.
    pub const fn contains(self, id: u32) -> bool {
        self.first <= id && id <= self.last
    }
}

impl FromStr for IdRange {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        // Accounts, and what overflows, are below; the last number is none of anybody's.
        let number = |text: &str| text.parse().ok().filter(|id| (65_536..u32::MAX).contains(id));
        text.split_once('-')
            .and_then(|(first, last)| Some(Self { first: number(first)?, last: number(last)? }))
            .filter(|range| range.first < range.last)
            .ok_or_else(|| {
                Invalid(format!(
                    "{text:?} is no range of ids: write the first and the last, each at least 65536, \
                     such as \"{}\"",
                    Self::OF_TEMPLATES
                ))
            })
    }
}

impl fmt::Display for IdRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// An account of the host, looked up when the file is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its name in passwd(5).
    pub name: Box<str>,
    /// Its user id on the host.
    pub uid: u32,
    /// Its group id on the host.
    pub gid: u32,
}
