//! `howdah ps`: the pools of a running serve.

use std::path::Path;

use serde_json::{Value, json};

use super::{Failure, runtime_dir};
use crate::cli::Ps;
use crate::journal::one_line;
use crate::pool::quiesce;
use crate::pool::record::{self, Entry, Record, Roll, Stock};
use crate::sandbox::cgroup::Cgroup;
use crate::sys;

pub(super) fn run(arguments: &Ps) -> Result<(), Failure> {
    let runtime = runtime_dir(&arguments.runtime, None)?;
    let roll = read_roll(&runtime)?;
    if arguments.templates {
        return templates(&runtime, arguments.json);
    }
    let rows = roll
        .pools
        .into_iter()
        .map(|entry| {
            let file = record::record_file(&runtime, &entry.pool);
            let record = match record::read(&file) {
                // Never started: it has no record, and needs none.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    Ok(Record { state: "cold".to_owned(), ..Record::default() })
                }
                other => other,
            };
            let told =
                |error| Failure::new(1, format!("{}: {}: ask as root", file.display(), sys::told(&error)));
            record.map(|record| (entry, record)).map_err(told)
        })
        .collect::<Result<Vec<(Entry, Record)>, Failure>>()?;
    if arguments.json {
        let all: Vec<Value> = rows.iter().map(|(entry, record)| to_json(entry, record)).collect();
        println!("{}", serde_json::to_string_pretty(&all).unwrap_or_default());
    } else {
        print(&rows);
    }
    Ok(())
}

/// The roll of the serve that runs at `runtime`.
pub(super) fn read_roll(runtime: &Path) -> Result<Roll, Failure> {
    let file = record::roll_file(runtime);
    let roll: Roll = record::read(&file).map_err(|error| {
        let hint = "is `howdah serve` running there? (--runtime-dir DIR names another)";
        Failure::new(1, format!("{}: {}: {hint}", file.display(), sys::told(&error)))
    })?;
    if nix::sys::signal::kill(nix::unistd::Pid::from_raw(roll.pid), None) == Err(nix::errno::Errno::ESRCH) {
        let line =
            format!("{}: the serve that wrote it (pid {}) is gone: start it again", file.display(), roll.pid);
        return Err(Failure::new(1, line));
    }
    Ok(roll)
}

/// Which templates wait, and why others do not.
fn templates(runtime: &Path, json: bool) -> Result<(), Failure> {
    let file = record::stock_file(runtime);
    let stock: Stock = record::read(&file).map_err(|error| {
        Failure::new(1, format!("{}: {}: ask as root", file.display(), sys::told(&error)))
    })?;
    if json {
        println!("{}", serde_json::to_string_pretty(&stock).unwrap_or_default());
        return Ok(());
    }
    if let Some(why) = &stock.why_none {
        println!("{why}");
        return Ok(());
    }
    println!("{:8}  {:10}  {:>10}  {:>8}  {:>9}", "CLASS", "PHP", "UID", "WAITING", "MEMORY");
    for class in &stock.classes {
        let waiting = format!("{} of {}", class.waiting.len(), stock.wanted);
        let memory = class.memory_bytes.map_or_else(|| "-".to_owned(), megabytes);
        let uid = class.uid.map_or_else(|| "own".to_owned(), |uid| uid.to_string());
        println!("{:8}  {:10}  {uid:>10}  {waiting:>8}  {memory:>9}", class.class, class.php);
        if let Some(why) = &class.why_none {
            println!("{:8}  {}", "", one_line(why));
        }
    }
    println!("all of them may take {} ([serve] template_memory)", megabytes(stock.memory_limit));
    Ok(())
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1}M", bytes as f64 / f64::from(1 << 20))
}

/// Memory in use, bytes: the cgroup's, or without the controller what its processes have for themselves (PSS).
fn memory(record: &Record) -> Option<u64> {
    let cgroup = record.cgroup.as_deref().and_then(|path| Cgroup::open(path).ok());
    if let Some(bytes) = cgroup.as_ref().and_then(Cgroup::memory_bytes) {
        return Some(bytes);
    }
    let pids = match cgroup {
        Some(cgroup) => cgroup.processes().ok()?,
        None => quiesce::tree(nix::unistd::Pid::from_raw(record.pid?)),
    };
    Some(pids.into_iter().filter_map(sys::pss).sum())
}

fn cpu(record: &Record) -> Option<u64> {
    Cgroup::open(record.cgroup.as_deref()?).ok()?.cpu_usec()
}

fn to_json(entry: &Entry, record: &Record) -> Value {
    json!({
        "pool": entry.pool,
        "state": record.state,
        "listen": entry.listen,
        "generation": record.generation,
        "pid": record.pid,
        "cgroup": record.cgroup,
        "memory_bytes": memory(record),
        "cpu_usec": cpu(record),
        "starts": record.starts,
        "last_start_ms": record.last_start_ms,
        "last_start_monotonic_us": record.last_start_monotonic_us,
        "last_start_by": record.last_start_by,
        "last_start_not_by_template": record.last_start_not_by_template,
        "last_start_steps_ms": record.last_start_steps_ms,
        "last_error": record.last_error,
        "network": record.network,
        "weakened": record.weakened,
        "stricter": record.stricter,
        "landlock_abi": record.landlock_abi,
        "limits_hit": record.limits_hit,
        "limits_not_in_force": record.limits_not_in_force,
    })
}

/// Words of tenants are in some of it: their programs, their paths, their php-fpm.
fn print(rows: &[(Entry, Record)]) {
    let dash = || "-".to_owned();
    let width = rows.iter().map(|(entry, _)| entry.pool.len()).max().unwrap_or(0).max(4);
    println!(
        "{:width$}  {:8}  {:>6}  {:>9}  {:>6}  {:>9}  {:8}  {:>8}  LISTEN",
        "POOL", "STATE", "PID", "MEMORY", "STARTS", "START", "BY", "LANDLOCK"
    );
    for (entry, record) in rows {
        let pid = record.pid.map_or_else(dash, |pid| pid.to_string());
        let memory = record.pid.and_then(|_| memory(record));
        let memory = memory.map_or_else(dash, megabytes);
        let start = record.last_start_ms.map_or_else(dash, |ms| format!("{ms:.1}ms"));
        // "cold launch": the first word says it.
        let by = record.last_start_by.split(' ').next().filter(|by| !by.is_empty()).unwrap_or("-");
        let landlock = match record.landlock_abi {
            None => dash(),
            Some(0) => "off".to_owned(),
            Some(abi) => format!("ABI {abi}"),
        };
        println!(
            "{:width$}  {:8}  {pid:>6}  {memory:>9}  {:>6}  {start:>9}  {by:8}  {landlock:>8}  {}",
            entry.pool,
            record.state,
            record.starts,
            entry.listen.join(" ")
        );
        if !record.weakened.is_empty() {
            println!("{:width$}  weakened: {}", "", record.weakened.join("; "));
        }
        if !record.stricter.is_empty() {
            println!("{:width$}  stricter: {}", "", record.stricter.join("; "));
        }
        for hit in &record.limits_hit {
            let (limit, effect) = (&hit.limit, hit.effect);
            println!(
                "{:width$}  limit {limit}: {effect} {} times, last {}: {}",
                "",
                hit.count,
                hit.last,
                one_line(&hit.detail)
            );
        }
        if let Some(error) = &record.last_error {
            println!("{:width$}  last error: {}", "", one_line(error));
        }
    }
}
