//! What walls cost once a pool is warm: requests per second and p99 through
//! nginx, php-fpm in howdah beside bare php-fpm, in turn. A second bare pool
//! runs as a control: what the two bare pools differ by is noise.
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
use rig::{During, Outcome, fence, host, processes};

/// Requests per second and p99 through nginx: howdah beside bare php-fpm.
#[derive(Parser)]
#[command(name = "warm")]
struct Flags {
    /// Rounds; each loads every contestant once
    #[arg(long, default_value_t = 6)]
    rounds: usize,
    /// Seconds of load for a contestant in a round
    #[arg(long, default_value_t = 5)]
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

fn main() -> ExitCode {
    let flags = Flags::parse();
    if !flags.shared.bench {
        println!("warm: nothing measured: run it by `cargo bench --bench warm`");
        return ExitCode::SUCCESS;
    }
    fence::run(|scratch| measure(&flags, scratch))
}

/// A warm pool, and what was measured of it.
struct Contestant {
    name: &'static str,
    socket: PathBuf,
    per_second: Samples,
    p99_ms: Samples,
}

fn measure(flags: &Flags, scratch: &Path) -> Outcome {
    let stage = Stage::set(scratch, flags.shared.php_fpm.clone(), &flags.shared.user)?;
    let workers = Workers { pm: "static", max_children: flags.workers };
    let _bare = start_bare(&stage, workers, "bare")?;
    let _control = start_bare(&stage, workers, "control")?;
    let howdah =
        start_howdah(&stage, workers).inspect_err(|reason| println!("howdah is left out: {reason}")).ok();

    let mut names = vec!["bare", "control"];
    names.extend(howdah.as_ref().map(|_| "howdah"));
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

/// A howdah whose one pool has answered once.
fn start_howdah(stage: &Stage, workers: Workers) -> Outcome<Serve> {
    let socket = socket(stage, "howdah");
    let pool = serve::pool_file(stage, &socket, Extensions::Full, workers, "never");
    let howdah = Serve::start(stage, "howdah", [("warm".to_owned(), pool)].into_iter())?;
    match stage.request().timed(&socket, ANSWER) {
        Ok(_) => Ok(howdah),
        Err(error) => Err(format!("{error}{}", howdah.last_words()).into()),
    }
}

fn print_table(contestants: &[Contestant]) {
    let Some(bare) = contestants.first() else { return };
    println!("\n  {:<10}{:>12}{:>9}{:>12}{:>9}", "", "requests/s", "ratio", "p99, ms", "ratio");
    let mut ratios = (f64::NAN, f64::NAN);
    for one in contestants {
        // Both ratios: more than 1 is better than bare.
        ratios =
            (one.per_second.median() / bare.per_second.median(), bare.p99_ms.median() / one.p99_ms.median());
        println!(
            "  {:<10}{:>12.0}{:>9.3}{:>12.2}{:>9.3}",
            one.name,
            one.per_second.median(),
            ratios.0,
            one.p99_ms.median(),
            ratios.1
        );
    }
    if contestants.last().is_some_and(|one| one.name == "howdah") {
        println!("{}", goal(ratios.0 >= 0.98, &format!("requests/s at least 0.98 of bare: {:.3}", ratios.0)));
        println!("{}", goal(ratios.1 >= 0.98, &format!("p99 at least 0.98 of bare: {:.3}", ratios.1)));
    }
}
