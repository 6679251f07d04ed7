//! What `howdah ps` reads: the state that `serve` keeps in its runtime
//! directory. One file lists the pools; one file for each pool that has ever
//! been started tells the rest, so that a thousand cold pools cost one file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::limits::Hit;

/// `serve.json`: who serves what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roll {
    /// The process id of serve.
    pub pid: i32,
    /// Every pool.
    pub pools: Vec<Entry>,
}

/// A pool of the roll.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name.
    pub pool: String,
    /// Where it listens.
    pub listen: Vec<String>,
    /// For each of these, device and inode of the file of a socket that howdah bound.
    #[serde(default)]
    pub files: Vec<Option<(u64, u64)>>,
    /// Where its scripts are, by their paths inside: `[fpm] chdir`, else its first mount.
    pub document_root: Option<PathBuf>,
}

/// `pools/NAME/state.json`: one pool's life so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The word of its state.
    pub state: String,
    /// The number of its generation, 0 before the first.
    pub generation: u64,
    /// Process 1 of the generation, by the host's numbers.
    pub pid: Option<i32>,
    /// When that process was started, by the kernel's clock (field 22 of proc_pid_stat(5)).
    #[serde(default)]
    pub start_time: Option<u64>,
    /// What carries its packets (pasta), where its network has a way out: pid and start time.
    #[serde(default)]
    pub uplink: Option<(i32, u64)>,
    /// Its network, in words.
    #[serde(default)]
    pub network: String,
    /// What the pool's file said when the generation was launched, as a hash: the
    /// next howdah sees by it whether the generation is still what the file asks for.
    #[serde(default)]
    pub configuration: Option<u64>,
    /// Its cgroup's directory.
    pub cgroup: Option<PathBuf>,
    /// Good starts so far.
    pub starts: u64,
    /// Stops so far: nobody was in it, and it was killed.
    #[serde(default)]
    pub stops: u64,
    /// How often it stood still to be looked at, and somebody was in it.
    #[serde(default)]
    pub busy_looks: u64,
    /// How long the last good start took, from the connection to its acceptance, milliseconds.
    pub last_start_ms: Option<f64>,
    /// When it began, by CLOCK_MONOTONIC, microseconds: systemd's `…TimestampMonotonic`.
    #[serde(default)]
    pub last_start_monotonic_us: Option<u64>,
    /// What the last good start was by: "template" or "cold launch".
    #[serde(default)]
    pub last_start_by: String,
    /// Why it was not by a template, where templates are switched on.
    #[serde(default)]
    pub last_start_not_by_template: Option<String>,
    /// Where the time of the last good start went: each part and its milliseconds.
    pub last_start_steps_ms: Vec<(String, f64)>,
    /// Why the last start failed or the last generation ended.
    pub last_error: Option<String>,
    /// What the pool's profile leaves open that `hosting` closes.
    pub weakened: Vec<String>,
    /// And what it closes that `hosting` leaves open.
    #[serde(default)]
    pub stricter: Vec<String>,
    /// The ABI of Landlock that is in force; 0: the profile switched it off; `None` before the first start.
    #[serde(default)]
    pub landlock_abi: Option<u32>,
    /// Limits that ended, refused or held something.
    #[serde(default)]
    pub limits_hit: Vec<Hit>,
    /// Limits that are not in force because their controller is missing.
    pub limits_not_in_force: Vec<String>,
}

/// `templates.json`: what waits to become a pool's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stock {
    /// `[serve] templates`: how many of each class there are to be.
    pub wanted: usize,
    /// `[serve] template_memory`, bytes.
    pub memory_limit: u64,
    /// Why there are none at all.
    pub why_none: Option<String>,
    /// Every class that a pool has asked for.
    pub classes: Vec<Class>,
}

/// A class of the stock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Class {
    /// Its short name, as `howdah check` tells it.
    pub class: String,
    /// Its php-fpm's version.
    pub php: String,
    /// The uid on the host that its templates are born with, where a database may ask for that; `None`:
    /// each has one of its own.
    pub uid: Option<u32>,
    /// The processes that wait, by the host's numbers.
    pub waiting: Vec<i32>,
    /// What one takes of the memory, bytes (PSS); `None`: none has waited yet.
    pub memory_bytes: Option<u64>,
    /// "untried", "good" or "unfit".
    pub standing: String,
    /// Why it has none.
    pub why_none: Option<String>,
}

/// Where the stock is.
pub fn stock_file(runtime: &Path) -> PathBuf {
    runtime.join("templates.json")
}

/// Where the roll is.
pub fn roll_file(runtime: &Path) -> PathBuf {
    runtime.join("serve.json")
}

/// Where a pool's record is.
pub fn record_file(runtime: &Path, pool: &str) -> PathBuf {
    runtime.join("pools").join(pool).join("state.json")
}

/// Writes `value` so that a reader sees the old or the new text, whole.
///
/// # Errors
/// That of writing.
pub fn write(path: &Path, value: &impl Serialize) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let fresh = path.with_extension("new");
    // In one call: the file is not buffered, and the serializer writes each token by itself.
    let mut text = serde_json::to_vec(value)?;
    text.push(b'\n');
    fs::write(&fresh, text)?;
    fs::rename(&fresh, path)
}

/// Reads what [`write()`] wrote.
///
/// # Errors
/// That of reading, or text that is no such value.
pub fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> io::Result<T> {
    Ok(serde_json::from_str(&fs::read_to_string(path)?)?)
}
