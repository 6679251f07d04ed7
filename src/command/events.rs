//! `howdah events`: what happened to the pools of a serve.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use super::{Failure, runtime_dir};
use crate::cli::Events;
use crate::journal::one_line;
use crate::pool::events::{self, Entry};
use crate::sys;

/// How often the file is looked at for more.
const LOOK: Duration = Duration::from_millis(100);

pub(super) fn run(arguments: &Events) -> Result<(), Failure> {
    let runtime = runtime_dir(&arguments.runtime, None)?;
    let (old, current) = (events::older_file(&runtime), events::file(&runtime));
    let mut latest = open(&current)?;
    if latest.is_none() && !arguments.follow {
        // Nothing has happened yet; or there is nobody to whom it could.
        return super::ps::read_roll(&runtime).map(drop);
    }
    if let Some(mut older) = open(&old)? {
        print_rest(&mut older, arguments);
    }
    loop {
        if let Some(file) = &mut latest {
            print_rest(file, arguments);
        }
        if !arguments.follow {
            return Ok(());
        }
        std::thread::sleep(LOOK);
        if latest.as_ref().is_none_or(|file| is_replaced(file, &current)) {
            // What was written to it before it became the old one.
            latest.iter_mut().for_each(|file| print_rest(file, arguments));
            latest = open(&current)?;
        }
    }
}

/// Opens a file that may not be there yet.
fn open(path: &Path) -> Result<Option<BufReader<File>>, Failure> {
    match File::open(path) {
        Ok(file) => Ok(Some(BufReader::new(file))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::new(1, format!("{}: {}: ask as root", path.display(), sys::told(&error)))),
    }
}

fn is_replaced(file: &BufReader<File>, path: &Path) -> bool {
    let inode = |data: std::io::Result<std::fs::Metadata>| data.map(|data| data.ino()).ok();
    inode(file.get_ref().metadata()) != inode(std::fs::metadata(path))
}

/// Prints the lines that have come since the last time.
fn print_rest(file: &mut BufReader<File>, arguments: &Events) {
    let mut line = String::new();
    while file.read_line(&mut line).is_ok_and(|length| length > 0) {
        if let Ok(entry) = serde_json::from_str::<Entry>(&line) {
            if arguments.pool.is_none() || entry.pool == arguments.pool {
                print(&entry, &line, arguments.json);
            }
        }
        line.clear();
    }
    let _ = std::io::stdout().flush();
}

fn print(entry: &Entry, line: &str, json: bool) {
    if json {
        print!("{line}");
        return;
    }
    let who = match (&entry.pool, entry.generation) {
        (Some(pool), Some(generation)) => format!("{pool}.{generation}"),
        (Some(pool), None) => pool.clone(),
        (None, _) => "-".to_owned(),
    };
    let kind = serde_json::to_value(entry.kind).unwrap_or_default();
    let mut words = Vec::new();
    for (key, value) in &entry.fields {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        words.push(format!("{key}={}", one_line(&text)));
    }
    println!("{}  {who}  {}  {}", entry.time, kind.as_str().unwrap_or_default(), words.join("  "));
}
