//! What pools cost that nobody visits: memory, context switches and the time
//! to start of one `howdah serve` with many cold pools, beside php-fpm masters
//! that wait for visitors (`pm = ondemand`).
//!
//! `cargo bench --bench idle -- --help`; method in docs/benchmarks.md.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a bench prints its table")]

#[allow(dead_code, reason = "each bench uses its own part of the rig")]
mod rig;

use std::fs::{self, File};
use std::process::{ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Parser;
use serde_json::json;

use rig::activation::Listener;
use rig::at_rest::{AtRest, MB};
use rig::figures::{Samples, goal};
use rig::php::{Extensions, Stage, Workers};
use rig::serve::{self, Serve};
use rig::shared::Shared;
use rig::{During, Outcome, host, processes};

/// Memory, context switches and start of a howdah whose pools are all cold.
#[derive(Parser)]
#[command(name = "idle")]
struct Flags {
    /// Cold pools while memory and context switches are measured
    #[arg(long, default_value_t = 1_000)]
    pools: usize,
    /// Seconds over which context switches are counted
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Cold pools while the time to start is measured
    #[arg(long, default_value_t = 10_000)]
    many: usize,
    /// How often the time to start is measured
    #[arg(long, default_value_t = 5)]
    starts: usize,
    /// php-fpm masters to compare with
    #[arg(long, default_value_t = 100)]
    masters: usize,
    #[command(flatten)]
    shared: Shared,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    flags.shared.run("idle", |stage| measure(&flags, stage))
}

fn measure(flags: &Flags, stage: Stage) -> Outcome {
    println!("idle: {} s; {}", flags.seconds, host::about(&stage)?);
    let masters = masters_at_rest(&stage, flags)?;
    println!("\nphp-fpm, {} masters with pm = ondemand", flags.masters);
    masters.print(flags.masters, "pool", flags.seconds);

    let mut result = json!({"seconds": flags.seconds, "masters": masters.json("pools", flags.masters)});
    match howdah_at_rest(&stage, flags) {
        Ok(howdah) => {
            println!("\nhowdah serve, {} cold pools", flags.pools);
            howdah.print(flags.pools, "pool", flags.seconds);
            // The goals are set for this many pools and this long.
            if (flags.pools, flags.seconds) == (1_000, 60) {
                let resident = howdah.resident as f64 / MB;
                println!("{}", goal(resident <= 12.0, &format!("at most 12 MB resident: {resident:.1}")));
                let switches = howdah.context_switches;
                println!("{}", goal(switches == 0, &format!("no context switch in 60 s: {switches}")));
            }
            result["howdah"] = howdah.json("pools", flags.pools);

            let starts = howdah_starts(&stage, flags)?;
            let (median, longest) = (starts.median(), starts.quantile(1.0));
            println!("\nhowdah serve, {} pools, from its start until all sockets listen", flags.many);
            println!("  median {median:.2} s, longest {longest:.2} s, of {}", flags.starts);
            if flags.many == 10_000 {
                println!("{}", goal(median < 3.0, &format!("starts in under 3 s: {median:.2}")));
            }
            result["starts"] = json!({"pools": flags.many, "seconds": starts.0});
        }
        Err(reason) => println!("\nhowdah is left out: {reason}"),
    }
    if let Some(file) = &flags.shared.json {
        fs::write(file, serde_json::to_vec_pretty(&result)?).during(file.display())?;
    }
    Ok(())
}

/// One php-fpm for each pool, each with a socket that nobody connects to.
fn masters_at_rest(stage: &Stage, flags: &Flags) -> Outcome<AtRest> {
    let configuration = stage.configure(Workers::USUAL)?;
    let log = stage.dir.join("masters.log");
    let log_file = File::options().create(true).append(true).open(&log)?;
    let mut pids = Vec::new();
    for number in 0..flags.masters {
        let listener = Listener::bind(&stage.dir.join(format!("master-{number}.sock")))?;
        let _passed = listener.pass()?;
        let mut command = stage.bare(&configuration, Extensions::Full);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log_file.try_clone()?);
        pids.push(command.spawn().during("start php-fpm")?.id());
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    while fs::read_to_string(&log)?.matches("ready to handle connections").count() < flags.masters {
        if Instant::now() > deadline {
            return Err(format!("not all masters got ready in a minute{}", serve::last_words(&log)).into());
        }
        sleep(Duration::from_millis(50));
    }
    sleep(Duration::from_secs(1));
    let seen = AtRest::watch(&pids, flags.seconds)?;
    processes::end_all_but(&[])?;
    Ok(seen)
}

/// One howdah with `flags.pools` pools that nobody connects to.
fn howdah_at_rest(stage: &Stage, flags: &Flags) -> Outcome<AtRest> {
    let howdah = start_howdah(stage, "rest", flags.pools)?;
    // Whatever it does after READY=1 belongs to the start.
    sleep(Duration::from_secs(2));
    AtRest::watch(&[howdah.pid], flags.seconds)
}

/// How long `flags.many` pools take to be there, seconds.
fn howdah_starts(stage: &Stage, flags: &Flags) -> Outcome<Samples> {
    let mut seconds = Samples::default();
    for start in 0..flags.starts {
        let howdah = start_howdah(stage, &format!("start-{start}"), flags.many)?;
        seconds.0.push(howdah.took.as_secs_f64());
    }
    Ok(seconds)
}

/// A howdah with `count` pools, and the proof that each socket listens.
fn start_howdah(stage: &Stage, name: &str, count: usize) -> Outcome<Serve> {
    let sockets = stage.dir.join(format!("{name}.sockets"));
    fs::create_dir(&sockets)?;
    let pools = (0..count).map(|number| {
        let listen = sockets.join(number.to_string());
        (format!("pool-{number}"), serve::pool_file(stage, &listen, Extensions::Full, Workers::USUAL, "10m"))
    });
    let howdah = Serve::start(stage, name, pools)?;
    let listening = processes::listening_below(&sockets)?;
    if listening == count {
        Ok(howdah)
    } else {
        Err(format!("READY=1 while {listening} of {count} sockets listen{}", howdah.last_words()).into())
    }
}
