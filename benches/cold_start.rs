//! How long the first visitor waits: connect to last byte of a one-line
//! script over a unix socket when nothing runs, for howdah, for the floor
//! (php-fpm without walls) and for the peers, in turn, in one run.
//!
//! `cargo bench --bench cold_start -- --help`; method in docs/benchmarks.md.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a bench prints its table")]

#[allow(dead_code, reason = "each bench uses its own part of the rig")]
mod rig;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use clap::Parser;
use serde_json::json;

use rig::activation::Listener;
use rig::figures::{Samples, Steps, goal, shuffled};
use rig::peers::Peer;
use rig::php::{ANSWER, Extensions, Stage, Workers};
use rig::serve::{self, Serve};
use rig::shared::Shared;
use rig::{During, Outcome, host, processes};

/// Connect to last byte of a one-line PHP script when nothing runs.
#[derive(Parser)]
#[command(name = "cold_start")]
struct Flags {
    /// Rounds that count; each measures every contestant once with each set of extensions
    #[arg(long, default_value_t = 25)]
    rounds: usize,
    /// Only these contestants (bare is always one of them)
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Milliseconds of rest between two measurements, for what the kernel does after a namespace's end
    #[arg(long, value_name = "MS", default_value_t = 150)]
    rest: u64,
    #[command(flatten)]
    shared: Shared,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    flags.shared.run("cold_start", |stage| measure(&flags, stage))
}

/// Who starts php-fpm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Starter {
    Peer(Peer),
    Howdah,
    /// howdah with a template of each class.
    Template,
}

impl Starter {
    fn name(self) -> &'static str {
        match self {
            Self::Peer(peer) => peer.name(),
            Self::Howdah => "howdah",
            Self::Template => "template",
        }
    }
}

/// A starter and a set of extensions, and what was measured of them.
struct Contestant {
    starter: Starter,
    extensions: Extensions,
    ms: Samples,
    /// Where the time of howdah's went, step by step.
    steps: Steps,
}

fn measure(flags: &Flags, stage: Stage) -> Outcome {
    let hall = Hall::open(stage, flags)?;
    println!("cold start: connect to last byte, ms; {} rounds; {}", flags.rounds, host::about(&hall.stage)?);

    let mut contestants = hall.admit(flags);
    for round in 0..flags.rounds {
        for place in shuffled(contestants.len(), round) {
            let contestant = &mut contestants[place];
            sleep(Duration::from_millis(flags.rest));
            let took = hall.once(contestant).during(contestant.starter.name())?;
            contestant.ms.0.push(took.as_secs_f64() * 1e3);
        }
    }
    for extensions in [Extensions::Full, Extensions::Small] {
        let those: Vec<&Contestant> = contestants.iter().filter(|one| one.extensions == extensions).collect();
        print_table(extensions, &those);
    }
    println!("\nload average at the end: {}", host::load()?);
    if let Some(file) = &flags.shared.json {
        write_json(file, &contestants).during(file.display())?;
    }
    Ok(())
}

/// Where the contest takes place.
struct Hall {
    stage: Stage,
    configuration: PathBuf,
    /// `None` where howdah does not serve.
    howdah: Option<Serve>,
    /// The same with templates.
    template: Option<Serve>,
}

impl Hall {
    fn open(stage: Stage, flags: &Flags) -> Outcome<Self> {
        let configuration = stage.configure(Workers::USUAL)?;
        let mut hall = Self { stage, configuration, howdah: None, template: None };
        hall.howdah = hall.serve(flags, Starter::Howdah, 0);
        hall.template = hall.serve(flags, Starter::Template, 1);
        hall.clear()?;
        Ok(hall)
    }

    /// A howdah with a cold pool for each set of extensions; `None` where it is not asked for or cannot be.
    fn serve(&self, flags: &Flags, starter: Starter, templates: usize) -> Option<Serve> {
        let name = starter.name();
        if !flags.only.is_empty() && flags.only.iter().all(|only| only != name) {
            return None;
        }
        let pools = [Extensions::Full, Extensions::Small].map(|extensions| {
            let listen = self.socket(starter, extensions);
            let content = serve::pool_file(&self.stage, &listen, extensions, Workers::USUAL, "50ms");
            (extensions.name().to_owned(), content)
        });
        Serve::start_with(&self.stage, name, pools.into_iter(), templates)
            // Its trials are over then: they would be cleared away with what others have left.
            .and_then(|serve| serve.wait_for_templates(2 * templates).map(|()| serve))
            .inspect_err(|reason| println!("{name} is left out: {reason}"))
            .ok()
    }

    fn socket(&self, starter: Starter, extensions: Extensions) -> PathBuf {
        self.stage.dir.join(format!("{}-{}.sock", starter.name(), extensions.name()))
    }

    /// Everybody who can start the script, each tried once, which also warms
    /// the page cache; says who cannot, and why.
    fn admit(&self, flags: &Flags) -> Vec<Contestant> {
        let mut starters: Vec<Starter> = Peer::ALL.map(Starter::Peer).to_vec();
        starters.extend(self.howdah.as_ref().map(|_| Starter::Howdah));
        starters.extend(self.template.as_ref().map(|_| Starter::Template));
        let asked = |starter: &Starter| {
            let name = starter.name();
            name == Peer::Bare.name() || flags.only.is_empty() || flags.only.iter().any(|only| only == name)
        };
        let mut admitted = Vec::new();
        for starter in starters.into_iter().filter(asked) {
            let both = [Extensions::Full, Extensions::Small].map(|extensions| Contestant {
                starter,
                extensions,
                ms: Samples::default(),
                steps: Steps::default(),
            });
            let mut tried = both
                .into_iter()
                .map(|mut one| self.once(&mut one).map(|_| Contestant { steps: Steps::default(), ..one }));
            match tried.by_ref().collect::<Outcome<Vec<_>>>() {
                Ok(able) => admitted.extend(able),
                Err(reason) => println!("{} is left out: {reason}", starter.name()),
            }
        }
        admitted
    }

    /// One cold start. When this returns, nothing of the contestant runs any more.
    fn once(&self, contestant: &mut Contestant) -> Outcome<Duration> {
        match contestant.starter {
            Starter::Peer(peer) => self.peer_once(peer, contestant.extensions),
            Starter::Howdah => self.howdah_once(contestant, self.howdah.as_ref()),
            Starter::Template => {
                // One of each class; the next ones are made in nobody else's time.
                self.template.iter().try_for_each(|serve| serve.wait_for_templates(2))?;
                let took = self.howdah_once(contestant, self.template.as_ref())?;
                self.template.iter().try_for_each(|serve| serve.wait_for_templates(2))?;
                Ok(took)
            }
        }
    }

    fn peer_once(&self, peer: Peer, extensions: Extensions) -> Outcome<Duration> {
        let log = self.stage.dir.join(format!("{}.log", peer.name()));
        let mut command = peer.command(&self.stage, &self.configuration, extensions, &log)?;
        let listener = Listener::bind(&self.stage.dir.join("peer.sock"))?;
        let request = self.stage.request();
        let took = listener.activate(&mut command, |address| request.timed(address, ANSWER));
        self.clear()?;
        peer.clean_up(&self.stage)?;
        took.map_err(|error| format!("{error}{}", serve::last_words(&log)).into())
    }

    fn howdah_once(&self, contestant: &mut Contestant, howdah: Option<&Serve>) -> Outcome<Duration> {
        let howdah = howdah.ok_or("it does not serve")?;
        let pool = contestant.extensions.name();
        howdah.wait_until_cold(pool)?;
        let request = self.stage.request();
        let sent = serve::monotonic_us()?;
        let took = request
            .timed(&self.socket(contestant.starter, contestant.extensions), ANSWER)
            .map_err(|error| format!("{error}{}", howdah.last_words()))?;
        let seen = howdah.wait_until_cold(pool)?;
        let by = if contestant.starter == Starter::Template { "template" } else { "cold launch" };
        if seen["last_start_by"] != by {
            return Err(format!("it was started by {}{}", seen["last_start_by"], howdah.last_words()).into());
        }
        contestant.steps.push(serve::time_line(&seen, sent, took));
        Ok(took)
    }

    /// Ends everything but `howdah serve`.
    fn clear(&self) -> Outcome {
        let kept: Vec<u32> = self.howdah.iter().chain(&self.template).map(|serve| serve.pid).collect();
        processes::end_all_but(&kept)
    }
}

fn print_table(extensions: Extensions, contestants: &[&Contestant]) {
    let what = match extensions {
        Extensions::Full => "full: the distribution's extensions",
        Extensions::Small => "small: no shared extensions",
    };
    let Some(bare) = contestants.iter().find(|one| one.starter == Starter::Peer(Peer::Bare)) else {
        println!("\n{what}: bare php-fpm did not start, so there is nothing to compare");
        return;
    };
    println!("\n{what}");
    println!("  {:<16}{:>9}{:>9}{:>9}{:>12}{:>9}", "", "median", "minimum", "p90", "over bare", "ratio");
    for one in contestants {
        println!(
            "  {:<16}{:>9.2}{:>9.2}{:>9.2}{:>12.2}{:>9.2}",
            one.starter.name(),
            one.ms.median(),
            one.ms.minimum(),
            one.ms.quantile(0.9),
            one.ms.over(&bare.ms).median(),
            one.ms.median() / bare.ms.median(),
        );
    }
    contestants.iter().for_each(|one| one.steps.print(one.starter.name()));
    if let Some(howdah) = contestants.iter().find(|one| one.starter == Starter::Howdah) {
        for line in goals(howdah, bare, contestants) {
            println!("{line}");
        }
    }
    if let Some(template) = contestants.iter().find(|one| one.starter == Starter::Template) {
        let most = if extensions == Extensions::Full { 0.15 } else { 0.25 };
        let share = template.ms.median() / bare.ms.median();
        println!("{}", goal(share <= most, &format!("by a template in at most {most} of bare: {share:.3}")));
    }
}

/// What howdah adds over bare, beside what it may add.
fn goals(howdah: &Contestant, bare: &Contestant, contestants: &[&Contestant]) -> Vec<String> {
    let added = |one: &Contestant| one.ms.over(&bare.ms).median();
    let mine = added(howdah);
    let mut lines = vec![goal(mine <= 1.5, &format!("adds at most 1.5 ms over bare: {mine:.2}"))];
    for (peer, share, words) in [
        (Peer::Bwrap, 1.0, "no more than"),
        (Peer::Runc, 0.2, "a fifth of"),
        (Peer::Nspawn, 0.1, "a tenth of"),
    ] {
        if let Some(other) = contestants.iter().find(|one| one.starter == Starter::Peer(peer)) {
            let its = added(other);
            let words = format!("adds {words} what {} adds ({its:.2}): {mine:.2}", peer.name());
            lines.push(goal(mine <= its * share, &words));
        }
    }
    lines
}

fn write_json(file: &Path, contestants: &[Contestant]) -> Outcome {
    let all: Vec<_> = contestants
        .iter()
        .map(|one| {
            let steps: Vec<_> = one.steps.0.iter().map(|(step, ms)| json!({"step": step, "ms": ms.0})).collect();
            json!({"contestant": one.starter.name(), "extensions": one.extensions.name(), "ms": one.ms.0, "steps": steps})
        })
        .collect();
    fs::write(file, serde_json::to_vec_pretty(&all)?)?;
    Ok(())
}
