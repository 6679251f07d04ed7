//! What a host with many pools has of templates: ten cold pools visited in
//! turn, fifty at once, and what those cost that wait, beside the same without
//! templates and bare php-fpm.
//!
//! `cargo bench --bench templates -- --help`; method in docs/benchmarks.md.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a bench prints its table")]

#[allow(dead_code, reason = "each bench uses its own part of the rig")]
mod rig;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Barrier;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use clap::Parser;
use serde_json::{Value, json};

use rig::activation::Listener;
use rig::at_rest::{AtRest, MB};
use rig::figures::{Samples, Steps, goal, shuffled};
use rig::peers::Peer;
use rig::php::{ANSWER, Extensions, Stage, Workers};
use rig::serve::{self, Serve};
use rig::shared::Shared;
use rig::{During, Outcome, host, processes};

/// Cold pools in turn, many at once, and what templates cost that wait.
#[derive(Parser)]
#[command(name = "templates")]
struct Flags {
    /// Rounds of pools in turn, and of many at once
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Pools that are visited in turn, with one template
    #[arg(long, default_value_t = 10)]
    turns: usize,
    /// Milliseconds from one visit to the next
    #[arg(long, default_value_t = 700)]
    gap: u64,
    /// Pools that are visited at once
    #[arg(long, default_value_t = 50)]
    pools: usize,
    /// Templates that are kept then, and while their rest is watched
    #[arg(long, default_value_t = 4)]
    templates: usize,
    /// Seconds over which context switches of those that wait are counted
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    #[command(flatten)]
    shared: Shared,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    flags.shared.run("templates", |stage| measure(&flags, stage))
}

fn measure(flags: &Flags, stage: Stage) -> Outcome {
    println!("templates: {} rounds; {}", flags.rounds, host::about(&stage)?);
    let turns = in_turn(&stage, flags)?;
    let storm = at_once(&stage, flags)?;
    let rest = [Extensions::Full, Extensions::Small]
        .map(|extensions| at_rest(&stage, flags, extensions))
        .into_iter()
        .collect::<Outcome<Vec<_>>>()?;
    println!("\nload average at the end: {}", host::load()?);
    if let Some(file) = &flags.shared.json {
        let all = json!({"in_turn": turns, "at_once": storm, "at_rest": rest});
        fs::write(file, serde_json::to_vec_pretty(&all)?).during(file.display())?;
    }
    Ok(())
}

/// A howdah with cold pools of one class that stay what they become.
struct House<'a> {
    stage: &'a Stage,
    serve: Serve,
    templates: usize,
    sockets: Vec<PathBuf>,
}

impl<'a> House<'a> {
    /// One with `pools` pools that has its `templates` ready. Each has a name of its own.
    fn open(
        stage: &'a Stage,
        name: &str,
        extensions: Extensions,
        pools: usize,
        templates: usize,
    ) -> Outcome<Self> {
        let directory = stage.dir.join(format!("{name}.sockets"));
        fs::create_dir(&directory)?;
        let sockets: Vec<PathBuf> = (0..pools).map(|number| directory.join(number.to_string())).collect();
        let files = sockets.iter().enumerate().map(|(number, socket)| {
            (format!("pool-{number}"), serve::pool_file(stage, socket, extensions, Workers::USUAL, "never"))
        });
        let serve = Serve::start_with(stage, name, files, templates)?;
        serve.wait_for_templates(templates)?;
        Ok(Self { stage, serve, templates, sockets })
    }

    /// How many of its pools were started by a template; an error where one was not started at all.
    fn by_template(&self) -> Outcome<usize> {
        let mut count = 0;
        for number in 0..self.sockets.len() {
            match self.started(number)?["last_start_by"].as_str() {
                Some("template") => count += 1,
                Some("cold launch") => {}
                other => return Err(format!("pool-{number} was started by {other:?}").into()),
            }
        }
        Ok(count)
    }

    /// What `ps` says of the pool once its start is written down: that is not waited for by the visitor.
    fn started(&self, number: usize) -> Outcome<Value> {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let seen = self.serve.pool(&format!("pool-{number}"))?;
            if seen["starts"] == 1 || Instant::now() > deadline {
                return Ok(seen);
            }
            sleep(Duration::from_millis(5));
        }
    }

    fn ask(&self, socket: &Path) -> Outcome<Duration> {
        let asked = self.stage.request().timed(socket, ANSWER);
        asked.map_err(|error| format!("{error}{}", self.serve.last_words()).into())
    }
}

/// Waits until `gap` has passed since `last`.
fn keep_distance(last: Instant, gap: Duration) {
    sleep(gap.saturating_sub(last.elapsed()));
}

/// Different pools in turn, each cold: by howdah with one template, without, and by bare php-fpm.
fn in_turn(stage: &Stage, flags: &Flags) -> Outcome<Value> {
    let names = ["bare", "howdah", "template"];
    let mut ms = names.map(|_| Samples::default());
    let mut steps = names.map(|_| Steps::default());
    let (mut by_template, mut longest_gap) = (0, Duration::ZERO);
    for round in 0..flags.rounds {
        for place in shuffled(names.len(), round) {
            let (mut last, gap) = (Instant::now(), Duration::from_millis(flags.gap));
            let mut sample = |ask: &mut dyn FnMut() -> Outcome<Duration>| {
                keep_distance(last, gap);
                let now = Instant::now();
                let since = now - std::mem::replace(&mut last, now);
                longest_gap = longest_gap.max(since);
                ask().inspect(|took| ms[place].0.push(took.as_secs_f64() * 1e3))
            };
            if names[place] == "bare" {
                let bare = Bare::set(stage)?;
                (0..flags.turns).try_for_each(|_| sample(&mut || bare.once()).map(drop))?;
            } else {
                let templates = usize::from(names[place] == "template");
                let name = format!("turn-{round}-{}", names[place]);
                let house = House::open(stage, &name, Extensions::Full, flags.turns, templates)?;
                for (number, socket) in house.sockets.iter().enumerate() {
                    let mut sent = 0.0;
                    let took = sample(&mut || {
                        sent = serve::monotonic_us()?;
                        house.ask(socket)
                    })?;
                    steps[place].push(serve::time_line(&house.started(number)?, sent, took));
                }
                by_template += house.by_template()?;
            }
            processes::end_all_but(&[])?;
        }
    }
    let asked = flags.rounds * flags.turns;
    println!("\nin turn: {} cold pools one after the other, every {} ms; full", flags.turns, flags.gap);
    println!("  {:<10}{:>9}{:>9}{:>9}{:>9}", "", "median", "minimum", "p90", "ratio");
    for (name, samples) in names.iter().zip(&ms) {
        println!(
            "  {name:<10}{:>9.2}{:>9.2}{:>9.2}{:>9.2}",
            samples.median(),
            samples.minimum(),
            samples.quantile(0.9),
            samples.median() / ms[0].median()
        );
    }
    names.iter().zip(&steps).for_each(|(name, steps)| steps.print(name));
    println!("  the longest time from one visit to the next: {} ms", longest_gap.as_millis());
    let words = format!("all by template, one being kept: {by_template} of {asked}");
    println!("{}", goal(by_template == asked && longest_gap < Duration::from_secs(1), &words));
    Ok(json!({"names": names, "ms": ms.map(|samples| samples.0), "by_template": by_template, "of": asked}))
}

/// php-fpm without walls, started by the first connection.
struct Bare<'a> {
    stage: &'a Stage,
    configuration: PathBuf,
}

impl<'a> Bare<'a> {
    fn set(stage: &'a Stage) -> Outcome<Self> {
        Ok(Self { stage, configuration: stage.configure(Workers::USUAL)? })
    }

    fn once(&self) -> Outcome<Duration> {
        let log = self.stage.dir.join("bare.log");
        let mut command = Peer::Bare.command(self.stage, &self.configuration, Extensions::Full, &log)?;
        let listener = Listener::bind(&self.stage.dir.join("bare.sock"))?;
        let request = self.stage.request();
        let took = listener.activate(&mut command, |address| request.timed(address, ANSWER));
        processes::end_all_but(&[])?;
        took.map_err(|error| format!("{error}{}", serve::last_words(&log)).into())
    }
}

/// Many cold pools at the same moment, with templates and without, in turn.
fn at_once(stage: &Stage, flags: &Flags) -> Outcome<Value> {
    let counts = [0, flags.templates];
    let mut total = counts.map(|_| Samples::default());
    let mut each = counts.map(|_| Samples::default());
    let mut by_template = Vec::new();
    for round in 0..flags.rounds {
        for place in shuffled(counts.len(), round) {
            let name = format!("storm-{round}-{}", counts[place]);
            let house = House::open(stage, &name, Extensions::Full, flags.pools, counts[place])?;
            let (took, waits) = storm(&house)?;
            total[place].0.push(took.as_secs_f64() * 1e3);
            each[place].0.extend(waits.iter().map(|wait| wait.as_secs_f64() * 1e3));
            if house.templates > 0 {
                by_template.push(house.by_template()?);
            }
            drop(house);
            processes::end_all_but(&[])?;
        }
    }
    println!("\nat once: {} cold pools at the same moment, ms; full", flags.pools);
    println!("  {:<14}{:>14}{:>9}{:>15}{:>9}", "", "all answered", "minimum", "first answer", "median");
    for ((count, total), each) in counts.iter().zip(&total).zip(&each) {
        println!(
            "  {:<14}{:>14.0}{:>9.0}{:>15.1}{:>9.0}",
            format!("{count} templates"),
            total.median(),
            total.minimum(),
            each.minimum(),
            each.median()
        );
    }
    println!("  by a template, round by round: {by_template:?} of {}", flags.pools);
    let ratio = total[1].median() / total[0].median();
    println!("{}", goal(ratio <= 1.0, &format!("no longer than without templates: {ratio:.3}")));
    Ok(json!({
        "templates": counts, "total_ms": total.map(|samples| samples.0), "each_ms": each.map(|samples| samples.0),
        "by_template": by_template,
    }))
}

/// Visits all pools of `house` at once: how long until the last had its answer, and how long each took.
fn storm(house: &House<'_>) -> Outcome<(Duration, Vec<Duration>)> {
    let gun = Barrier::new(house.sockets.len() + 1);
    thread::scope(|scope| {
        let ask = |socket: &Path| {
            gun.wait();
            house.ask(socket).map_err(|error| error.to_string())
        };
        let clients: Vec<_> = house.sockets.iter().map(|socket| scope.spawn(move || ask(socket))).collect();
        gun.wait();
        let began = Instant::now();
        let mut waits = Vec::new();
        for client in clients {
            waits.push(client.join().map_err(|_| "a client panicked")??);
        }
        Ok((began.elapsed(), waits))
    })
}

/// What templates cost that wait, with these extensions.
fn at_rest(stage: &Stage, flags: &Flags, extensions: Extensions) -> Outcome<Value> {
    let name = |count| format!("rest-{}-{count}", extensions.name());
    let open = |count: usize| House::open(stage, &name(count), extensions, 1, count);
    let alone = open(1)?;
    let one = AtRest::watch(&alone.serve.templates(), 0)?;
    drop(alone);
    processes::end_all_but(&[])?;

    let count = flags.templates;
    let house = open(count)?;
    // Whatever it does after the last is ready belongs to the making.
    sleep(Duration::from_secs(2));
    let fpms = house.serve.templates();
    let others: Vec<u32> = processes::children(house.serve.pid)
        .into_iter()
        .filter(|pid| !fpms.contains(pid))
        .chain([house.serve.pid])
        .collect();
    let both = [fpms, others].concat();
    let all = AtRest::watch(&both, flags.seconds)?;
    let fpms = AtRest::watch(&both[..count], 0)?;

    println!("\nat rest: {count} templates that wait, and their howdah; {}", extensions.name());
    all.print(count, "template", flags.seconds);
    let mb = |bytes: u64| bytes as f64 / MB;
    println!(
        "  php-fpm of one     {:.1} MB (PSS), {:.1} unshared, where it is the only one; VmRSS {:.1} MB",
        mb(one.proportional),
        mb(one.unshared),
        mb(one.resident)
    );
    let each = |bytes: u64| mb(bytes) / count as f64;
    println!(
        "  and of {count}           {:.1} MB (PSS), {:.1} unshared each",
        each(fpms.proportional),
        each(fpms.unshared)
    );
    let words = format!("no context switch in {} s: {}", flags.seconds, all.context_switches);
    println!("{}", goal(all.context_switches == 0 && all.turns == 0, &words));
    Ok(json!({
        "extensions": extensions.name(), "all": all.json("templates", count),
        "php_fpm": fpms.json("templates", count), "one": one.json("templates", 1),
    }))
}
