//! What this room says when a file is wrong: one line, with its place.

use std::fmt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

/// A file that cannot be used. Displays as one line,
/// `FILE:LINE: what, why: what to do`. Permanent until somebody edits the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    file: PathBuf,
    line: Option<u32>,
    what: Box<str>,
}

impl ConfigError {
    pub(super) fn new(file: &Path, line: Option<u32>, what: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line, what: what.into().into_boxed_str() }
    }

    /// The file could not be read; the hint is for the few errors with a known cure.
    pub(super) fn unreadable(file: &Path, error: &std::io::Error) -> Self {
        let Some(code) = error.raw_os_error() else {
            return Self::new(file, None, error.to_string());
        };
        let errno = Errno::from_raw(code);
        let hint = match errno {
            Errno::EACCES => ": let howdah's user read it",
            Errno::ENOENT => ": create it, or name another",
            _ => "",
        };
        Self::new(file, None, format!("{}{hint}", told(errno)))
    }

    /// The file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The line, counted from 1, where there is one to name.
    pub fn line(&self) -> Option<u32> {
        self.line
    }

    /// What is wrong and what to do, without the place.
    pub fn reason(&self) -> &str {
        &self.what
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_line(f, &self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        f.write_str(": ")?;
        write_line(f, &self.what)
    }
}

impl std::error::Error for ConfigError {}

/// Something a person may want to know that stops nothing: `PATH: what`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    path: PathBuf,
    what: &'static str,
}

impl Notice {
    pub(super) fn new(path: &Path, what: &'static str) -> Self {
        Self { path: path.to_owned(), what }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_line(f, &self.path.display())?;
        write!(f, ": {}", self.what)
    }
}

/// `Permission denied (EACCES)`
pub(super) fn told(errno: Errno) -> String {
    format!("{} ({errno:?})", errno.desc())
}

/// Writes `part` with its control characters escaped: a key or a file's name
/// may hold a newline, and one failure is one line.
fn write_line(f: &mut fmt::Formatter<'_>, part: &dyn fmt::Display) -> fmt::Result {
    for c in part.to_string().chars() {
        if c.is_control() {
            write!(f, "{}", c.escape_default())?;
        } else {
            fmt::Write::write_char(f, c)?;
        }
    }
    Ok(())
}
