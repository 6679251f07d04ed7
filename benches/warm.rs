//! What walls cost once a pool is warm: requests per second and p99 through
//! nginx, php-fpm in howdah (launched cold, and begun as a template) beside bare
//! php-fpm, in turn. A second bare pool runs as a control: what the two bare
//! pools differ by is noise.
//!
//! `cargo bench --bench warm -- --help`; method in docs/benchmarks.md.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a bench prints its table")]

#[allow(dead_code, reason = "each bench uses its own part of the rig")]
mod rig;

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use clap::Parser;
use serde_json::json;

use rig::activation::Listener;
use rig::figures::{Samples, goal, shuffled};
use rig::php::{ANSWER, Extensions, Stage, Workers};
use rig::serve::{self, Serve};
use rig::shared::Shared;
use rig::web::{Nginx, wrk};
use rig::{During, Outcome, host, processes};

/// Requests per second and p99 through nginx: howdah beside bare php-fpm.
#[derive(Parser)]
#[command(name = "warm")]
struct Flags {
    /// Rounds; each loads every contestant once
    #[arg(long, default_value_t = 24)]
    rounds: usize,
    /// Seconds of load for a contestant in a round
    #[arg(long, default_value_t = 2)]
    seconds: u32,
    /// Connections of the client
    #[arg(long, default_value_t = 8)]
    connections: u32,
    /// php-fpm's workers (pm = static)
    #[arg(long, default_value_t = 4)]
    workers: u32,
    #[command(flatten)]
    shared: Shared,
}

/// The pool of each howdah.
const POOL: &str = "warm";
const TEMPLATE: &str = "template";
/// Who serves it, and with how many templates.
const HOWDAHS: [(&str, usize); 2] = [("howdah", 0), (TEMPLATE, 1)];

fn main() -> ExitCode {
    let flags = Flags::parse();
    flags.shared.run("warm", |stage| measure(&flags, stage))
}

/// A warm pool, and what was measured of it.
struct Contestant {
    name: &'static str,
    socket: PathBuf,
    per_second: Samples,
    p99_ms: Samples,
}

fn measure(flags: &Flags, stage: Stage) -> Outcome {
    let workers = Workers { pm: "static", max_children: flags.workers };
    let _bare = start_bare(&stage, workers, "bare")?;
    let _control = start_bare(&stage, workers, "control")?;
    let howdahs: Vec<(&str, Serve)> = HOWDAHS
        .into_iter()
        .filter_map(|(name, templates)| {
            let started = start_howdah(&stage, workers, name, templates);
            let started = started.inspect_err(|reason| println!("{name} is left out: {reason}"));
            started.ok().map(|serve| (name, serve))
        })
        .collect();

    let mut names = vec!["bare", "control"];
    names.extend(howdahs.iter().map(|(name, _)| *name));
    let mut contestants: Vec<Contestant> = names
        .into_iter()
        .map(|name| Contestant {
            name,
            socket: socket(&stage, name),
            per_second: Samples::default(),
            p99_ms: Samples::default(),
        })
        .collect();
    let sockets: Vec<&Path> = contestants.iter().map(|one| one.socket.as_path()).collect();
    let nginx = Nginx::start(&stage, &sockets)?;

    println!(
        "warm: {} rounds of {} s, {} connections, {} workers; {}",
        flags.rounds,
        flags.seconds,
        flags.connections,
        flags.workers,
        host::about(&stage)?
    );
    for (one, port) in contestants.iter().zip(&nginx.ports) {
        wrk(*port, flags.connections, 1).during(format!("warm {} up", one.name))?;
    }
    for round in 0..flags.rounds {
        for place in shuffled(contestants.len(), round) {
            let one = &mut contestants[place];
            let load = wrk(nginx.ports[place], flags.connections, flags.seconds).during(one.name)?;
            one.per_second.0.push(load.per_second);
            one.p99_ms.0.push(load.p99_ms);
        }
    }
    for (name, serve) in &howdahs {
        // One that was ended and started anew meanwhile is not the one that was asked for.
        check_start(serve, name)?;
    }
    print_table(&contestants);
    println!("\nload average at the end: {}", host::load()?);
    if let Some(file) = &flags.shared.json {
        let all: Vec<_> = contestants
            .iter()
            .map(
                |one| json!({"contestant": one.name, "per_second": one.per_second.0, "p99_ms": one.p99_ms.0}),
            )
            .collect();
        fs::write(file, serde_json::to_vec_pretty(&all)?).during(file.display())?;
    }
    Ok(())
}

fn socket(stage: &Stage, name: &str) -> PathBuf {
    stage.dir.join(format!("{name}.sock"))
}

/// Ends its php-fpm, workers and all, when dropped.
struct BarePool(u32);

impl Drop for BarePool {
    fn drop(&mut self) {
        processes::end(self.0, Duration::from_secs(2));
    }
}

/// A php-fpm without walls that has answered once.
fn start_bare(stage: &Stage, workers: Workers, name: &str) -> Outcome<BarePool> {
    let listener = Listener::bind(&socket(stage, name))?;
    // For nginx, which is not root.
    fs::set_permissions(&listener.path, Permissions::from_mode(0o666))?;
    let log = stage.dir.join(format!("{name}.log"));
    let mut command = stage.bare(&stage.configure(workers)?, Extensions::Full);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?);
    let pool = {
        let _passed = listener.pass()?;
        BarePool(command.spawn().during("start php-fpm")?.id())
    };
    match stage.request().timed(&listener.path, ANSWER) {
        Ok(_) => Ok(pool),
        Err(error) => Err(format!("{name}: {error}{}", serve::last_words(&log)).into()),
    }
}

/// A howdah whose one pool has answered once, as `name` has it started.
fn start_howdah(stage: &Stage, workers: Workers, name: &str, templates: usize) -> Outcome<Serve> {
    let socket = socket(stage, name);
    let pool = serve::pool_file(stage, &socket, Extensions::Full, workers, "never");
    let howdah = Serve::start_with(stage, name, [(POOL.to_owned(), pool)].into_iter(), templates)?;
    howdah.wait_for_templates(templates)?;
    let answered = stage.request().timed(&socket, ANSWER);
    answered.map_err(|error| format!("{error}{}", howdah.last_words()))?;
    howdah.wait_until(POOL, "warm")?;
    check_start(&howdah, name)?;
    Ok(howdah)
}

/// That the pool of the howdah `name` runs since its first start, and what that was by.
fn check_start(howdah: &Serve, name: &str) -> Outcome {
    let seen = howdah.pool(POOL)?;
    let by = if name == TEMPLATE { "template" } else { "cold launch" };
    if (&seen["last_start_by"], &seen["starts"], &seen["state"]) != (&by.into(), &1.into(), &"warm".into()) {
        return Err(format!("{name}: its pool is not the {by} it was to be: {seen}").into());
    }
    Ok(())
}

fn print_table(contestants: &[Contestant]) {
    let Some(bare) = contestants.first() else { return };
    println!("\n  {:<10}{:>12}{:>9}{:>12}{:>9}", "", "requests/s", "ratio", "p99, ms", "ratio");
    let mut goals = Vec::new();
    for one in contestants {
        // Both ratios: more than 1 is better than bare.
        let throughput = one.per_second.of(&bare.per_second).median();
        let p99 = bare.p99_ms.of(&one.p99_ms).median();
        println!(
            "  {:<10}{:>12.0}{throughput:>9.3}{:>12.2}{p99:>9.3}",
            one.name,
            one.per_second.median(),
            one.p99_ms.median(),
        );
        if HOWDAHS.iter().any(|(name, _)| *name == one.name) {
            let name = one.name;
            let words = format!("{name}: requests/s at least 0.98 of bare: {throughput:.3}");
            goals.push(goal(throughput >= 0.98, &words));
            goals.push(goal(p99 >= 0.98, &format!("{name}: p99 at least 0.98 of bare: {p99:.3}")));
        }
    }
    goals.iter().for_each(|line| println!("{line}"));
}
