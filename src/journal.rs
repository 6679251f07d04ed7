//! One line out: to stderr, or to systemd's journal with fields when howdah
//! runs under systemd and stderr is connected to it (systemd-journald(8),
//! `$JOURNAL_STREAM`).
//!
//! Knows nothing of what the lines say.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::OnceLock;

use libsystemd::logging::{Priority, connected_to_journal, journal_send};

/// How important a line is, by syslog(3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something that was asked for did not happen.
    Error,
    /// Something is wrong and work goes on.
    Warning,
    /// Worth knowing in a normal day.
    Notice,
    /// What happens.
    Info,
    /// For who looks for a fault.
    Debug,
}

/// Whose line it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Origin<'a> {
    /// The pool: `POOL=` in the journal.
    pub pool: Option<&'a str>,
    /// Its generation: `GENERATION=` in the journal.
    pub generation: Option<u64>,
}

/// What is left out, and where the rest goes.
struct Outlet {
    most: Level,
    journal: bool,
}

static OUTLET: OnceLock<Outlet> = OnceLock::new();

/// Decides once where lines go, and that none below `most` is written.
/// Without this call lines up to [`Level::Info`] go to stderr.
pub fn open(most: Level) {
    let _ = OUTLET.set(Outlet { most, journal: connected_to_journal() });
}

/// Writes one line. A line that cannot be written is lost: there is nobody left to tell.
///
/// It is one line whatever `text` holds: names of files and words of programs
/// are in it that somebody else has chosen.
pub fn line(level: Level, origin: Origin<'_>, text: &str) {
    let fallback = Outlet { most: Level::Info, journal: false };
    let outlet = OUTLET.get().unwrap_or(&fallback);
    if level > outlet.most {
        return;
    }
    let text = one_line(text);
    if !(outlet.journal && send(level, origin, &text)) {
        write_stderr(origin, &text);
    }
}

/// `text` with what turns a line or moves a cursor written out.
pub fn one_line(text: &str) -> Cow<'_, str> {
    let harmful = |c: char| c.is_control() && c != '\t';
    if !text.contains(harmful) {
        return Cow::Borrowed(text);
    }
    let write_out = |c: char| if harmful(c) { c.escape_unicode().collect() } else { String::from(c) };
    Cow::Owned(text.chars().map(write_out).collect())
}

/// Gives the line to journald; false if that failed.
fn send(level: Level, origin: Origin<'_>, text: &str) -> bool {
    let priority = match level {
        Level::Error => Priority::Error,
        Level::Warning => Priority::Warning,
        Level::Notice => Priority::Notice,
        Level::Info => Priority::Info,
        Level::Debug => Priority::Debug,
    };
    let mut fields = BTreeMap::from([("SYSLOG_IDENTIFIER", "howdah".to_owned())]);
    if let Some(pool) = origin.pool {
        fields.insert("POOL", pool.to_owned());
    }
    if let Some(generation) = origin.generation {
        fields.insert("GENERATION", generation.to_string());
    }
    let message = origin.pool.map_or_else(|| text.to_owned(), |pool| format!("pool {pool}: {text}"));
    journal_send(priority, &message, fields.iter()).is_ok()
}

/// `howdah: pool blog: text`
fn write_stderr(origin: Origin<'_>, text: &str) {
    let mut line = String::from("howdah: ");
    if let Some(pool) = origin.pool {
        line.extend(["pool ", pool, ": "]);
    }
    line.push_str(text);
    line.push('\n');
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_said_is_one_line() {
        assert_eq!(one_line("plain\tand é"), "plain\tand é");
        assert_eq!(
            one_line("a\nhowdah: pool b: \x1b[2Jc\u{85}"),
            "a\\u{a}howdah: pool b: \\u{1b}[2Jc\\u{85}"
        );
    }
}
