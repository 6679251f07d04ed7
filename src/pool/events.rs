//! What `howdah events` reads: what happened to pools, a JSON object a line, in
//! a file of the runtime directory that is bounded: at a certain size it becomes
//! the old one, and a new one begins.
//!
//! Only howdah writes it. How often a pool can make it write is bounded by a
//! bucket of tokens of each pool ([`super::limits::Bucket`]).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// At this size a file is full, bytes. There are two.
pub const MOST: u64 = 1 << 20;
/// The longest text of a field, bytes: tenants' words are in some.
const LONGEST: usize = 1024;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A generation serves.
    Start,
    /// A generation was ended because nobody was in it.
    Stop,
    /// A start failed, or a generation ended by itself.
    Failure,
    /// A limit or a wall ended, refused or held something.
    Limit,
    /// A listening socket was repaired, or could not be.
    Repair,
    /// The pool files were read again.
    Reload,
    /// A pool is on its way out.
    Drain,
    /// A generation of an earlier howdah was taken over.
    Adopt,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When, RFC 3339, UTC, to the millisecond.
    pub time: String,
    /// Which pool; `None`: all of howdah.
    pub pool: Option<String>,
    /// Which generation, if one runs.
    pub generation: Option<u64>,
    /// What.
    pub kind: Kind,
    /// The rest, by kind.
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}

/// The file, as serve writes it.
pub struct Log {
    directory: PathBuf,
    file: Option<File>,
    size: u64,
}

/// Where the events are.
pub fn file(runtime: &Path) -> PathBuf {
    runtime.join("events.jsonl")
}

/// Where the older ones are.
pub fn older_file(runtime: &Path) -> PathBuf {
    runtime.join("events.1.jsonl")
}

impl Log {
    /// A log in the runtime directory; it goes on where an earlier howdah has ended.
    pub fn new(runtime: &Path) -> Self {
        let size = fs::metadata(file(runtime)).map_or(0, |data| data.len());
        Self { directory: runtime.to_owned(), file: None, size }
    }

    /// Writes one line.
    ///
    /// # Errors
    /// That of the file system.
    pub fn write(&mut self, mut entry: Entry) -> io::Result<()> {
        for value in entry.fields.values_mut() {
            if let Value::String(text) = value {
                shorten(text);
            }
        }
        let mut line = serde_json::to_vec(&entry)?;
        line.push(b'\n');
        if self.size + line.len() as u64 > MOST {
            fs::rename(file(&self.directory), older_file(&self.directory))?;
            (self.file, self.size) = (None, 0);
        }
        if self.file.is_none() {
            let mut options = OpenOptions::new();
            // What tenants printed is in it: for nobody else's eyes.
            options.append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
            self.file = Some(options.open(file(&self.directory))?);
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        self.size += line.len() as u64;
        // One write(2), so that a reader sees whole lines.
        file.write_all(&line)
    }
}

fn shorten(text: &mut String) {
    if text.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
}

/// Now, as [`Entry::time`] has it.
pub fn now() -> String {
    rfc3339(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// A time since 1970 in UTC as "2026-11-21T06:30:36.123Z".
fn rfc3339(since: Duration) -> String {
    let seconds = since.as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days are counted from the first of March of the year 0, so that the day that some years have is the last.
    let day = days + 719_468;
    let era = day / 146_097;
    let of_era = day % 146_097;
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let date = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let ms = since.subsec_millis();
    format!("{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(detail: &str) -> Entry {
        let fields = Map::from_iter([("detail".to_owned(), Value::from(detail))]);
        Entry { time: now(), pool: Some("blog".to_owned()), generation: Some(3), kind: Kind::Limit, fields }
    }

    #[test]
    fn times_are_those_of_date() {
        for (seconds, wanted) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_795_264_191, "2026-11-21T12:29:51.000Z"),
            (4_107_542_399, "2100-02-28T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(rfc3339(Duration::from_secs(seconds)), wanted);
        }
        assert!(rfc3339(Duration::from_millis(7)).ends_with(".007Z"));
    }

    #[test]
    fn lines_are_whole_and_two_files_are_the_most() {
        let runtime = tempfile::tempdir().unwrap();
        let mut log = Log::new(runtime.path());
        for number in 0..5000 {
            log.write(entry(&format!("{number} {}", "é\n".repeat(600)))).unwrap();
        }
        let mut seen = Vec::new();
        for path in [older_file(runtime.path()), file(runtime.path())] {
            let text = fs::read_to_string(path).unwrap();
            assert!(text.len() as u64 <= MOST, "{}", text.len());
            seen.extend(text.lines().map(|line| serde_json::from_str::<Entry>(line).unwrap()));
        }
        let detail = seen.last().unwrap().fields["detail"].as_str().unwrap();
        assert!(detail.starts_with("4999 é") && detail.ends_with('…') && detail.len() <= LONGEST + 3);
        assert_eq!(
            (seen[0].pool.as_deref(), seen[0].generation, seen[0].kind),
            (Some("blog"), Some(3), Kind::Limit)
        );
        // Another howdah goes on in the same file.
        let before = fs::metadata(file(runtime.path())).unwrap().len();
        let mut log = Log::new(runtime.path());
        log.write(entry("more")).unwrap();
        assert!(fs::metadata(file(runtime.path())).unwrap().len() > before);
    }
}
