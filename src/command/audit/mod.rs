//! `howdah audit`: a pool's sandbox, attacked from inside.
//!
//! Everything is built as serve builds it, by the same code; what is executed is
//! a probe, by a real execve(2), so that its descriptors, walls and limits are
//! those that php-fpm would have. On the host there are canaries and a neighbour,
//! so that "not reachable" is said of something that is there.

mod advice;
mod canary;
mod card;
mod launcher;
mod probe;
mod running;
mod sandbox;
mod visitors;
mod watch;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::host::Host;
use super::{CONFIGURATION, Failure, KERNEL, LAUNCH, Scratch, become_rootless, places};
use crate::cli::{Audit, Start};
use crate::config::pool::{Pool, ProfileRef, ServeConfig};
use crate::config::profile;
use crate::config::settings::settings;
use crate::config::{HostAccounts, load_pools, load_serve};
use crate::journal::{self, Level, Origin};
use crate::pool::graves::Graves;
use crate::pool::prepare::{Places, Workshop};
use crate::pool::templates::Templates;
use crate::sandbox::SpareNetwork;
use crate::sandbox::cgroup::Base;
use canary::Canaries;
use card::Card;
use probe::Probe;
use sandbox::{Attacked, Bench};
use watch::Stop;

/// Where a pool's name is looked up.
const POOLS: &str = "/etc/howdah/pools";

pub(super) fn run(arguments: &Audit) -> Result<(), Failure> {
    let accounts = HostAccounts::default();
    let (config, defaults) = load_serve(arguments.config.as_deref(), &accounts)
        .map_err(|error| Failure::new(CONFIGURATION, error))?;
    let files: Vec<PathBuf> = arguments.pools.iter().map(|word| file_of(word)).collect();
    let loaded = load_pools(&files, &defaults, &accounts);
    let (last, others) = match loaded.errors.split_last() {
        Some((last, others)) => (Some(last), others),
        None => (None, &[][..]),
    };
    others.iter().for_each(|error| journal::line(Level::Error, Origin::default(), &error.to_string()));
    if let Some(error) = last {
        return Err(Failure::new(CONFIGURATION, error));
    }
    let profile = arguments.profile.as_deref().map(profile_of).transpose()?;
    // The files are read again for the advice, when the working directory is another.
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let howdah = arguments.config.as_deref().map(absolute);
    let told = |pool: Pool| Pool {
        file: absolute(&pool.file),
        profile: profile.clone().unwrap_or(pool.profile),
        ..pool
    };
    let pools: Vec<Pool> = loaded.pools.into_iter().map(told).collect();
    let stop = Stop::new()?;
    if let Some(refusal) = Host::look().refusal() {
        return Err(Failure::new(KERNEL, refusal));
    }
    become_rootless()?;
    let scratch = Scratch::new()?;
    // Not a mode but a wall is to keep the attacks from the canaries in it.
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755))
        .map_err(|error| Failure::file(LAUNCH, scratch.path(), &error))?;
    let probe = Probe::new()?;
    let canaries = Canaries::make(&probe, &scratch.path().join("canary"), &stop)?;
    let cards = if arguments.outside || !arguments.inside.is_empty() {
        let file = arguments.probe.as_ref();
        let found = launcher::attack(&probe, &canaries, &stop, &arguments.inside, file)?;
        let words: Vec<_> = arguments.inside.iter().map(|word| word.to_string_lossy()).collect();
        let name = if words.is_empty() { "no sandbox".to_owned() } else { words.join(" ") };
        vec![Card::new(name, found)]
    } else {
        let base = config.cgroup.as_ref().map(|path| path.as_path());
        let instance = scratch.path().display().to_string().trim_matches('/').replace('/', "-");
        let base = Base::open(base, &instance).ok();
        let places = sandbox::places(scratch.path(), places(scratch.path().to_owned(), &config).profiles);
        let graves = Graves::default();
        let mut bench = Bench {
            probe: &probe,
            canaries: &canaries,
            stop: &stop,
            templates: templates(arguments.start, &config, base.is_some(), &places, &graves)?,
            graves,
            places,
            base,
            workshop: Workshop::default(),
            network: SpareNetwork::open(),
        };
        let cards = audit_pools(&mut bench, &pools, arguments.start, howdah.as_deref());
        bench.templates = None;
        bench.graves.wait();
        bench.base.iter().for_each(Base::remove);
        cards?
    };
    tell(&cards, arguments)
}

/// The file that a word means: a path, or a pool's name.
fn file_of(word: &Path) -> PathBuf {
    let is_name = word.components().count() == 1 && word.extension().is_none() && !word.exists();
    if is_name { Path::new(POOLS).join(word).with_extension("toml") } else { word.to_owned() }
}

/// The profile that a word means: a name, or a file.
fn profile_of(word: &str) -> Result<ProfileRef, Failure> {
    if !word.contains('/') {
        return Ok(ProfileRef::Named(word.into()));
    }
    let path = std::path::absolute(word).map_err(|error| Failure::file(2, Path::new(word), &error))?;
    let path = path.display().to_string().parse().map_err(|error| Failure::new(2, error))?;
    Ok(ProfileRef::File(path))
}

/// Templates, where they are wanted and can be. Where `start` asks for them they must be.
fn templates(
    start: Option<Start>,
    config: &ServeConfig,
    has_cgroups: bool,
    places: &Places,
    graves: &Graves,
) -> Result<Option<Templates>, Failure> {
    let is_wanted = match start {
        Some(start) => start == Start::Template,
        None => config.templates != Some(0),
    };
    if !is_wanted {
        return Ok(None);
    }
    let wanted = (1, config.template_memory.get(), config.template_ids);
    match Templates::open(wanted, has_cgroups, places, graves) {
        Ok(templates) => Ok(Some(templates)),
        Err(why) if start.is_some() => Err(Failure::new(LAUNCH, why)),
        // So does serve, and starts everything cold.
        Err(why) => {
            journal::line(Level::Warning, Origin::default(), &why.to_string());
            Ok(None)
        }
    }
}

fn audit_pools(
    bench: &mut Bench<'_>,
    pools: &[Pool],
    start: Option<Start>,
    howdah: Option<&Path>,
) -> Result<Vec<Card>, Failure> {
    let mut not_in_force = Vec::new();
    let mut cards = Vec::new();
    for pool in pools {
        let mut next = Some(start.unwrap_or(Start::Cold));
        while let Some(way) = next.take() {
            let attacked = sandbox::attack(bench, pool, way)?;
            let is_bound_too = || bench.templates.is_some() && attacked.always_cold.is_none();
            if start.is_none() && way == Start::Cold && is_bound_too() {
                next = Some(Start::Template);
            }
            not_in_force.extend(attacked.limits_not_in_force.iter().cloned());
            cards.push(card(pool, way, attacked, howdah)?);
        }
    }
    not_in_force.sort();
    not_in_force.dedup();
    if !not_in_force.is_empty() {
        let keys = not_in_force.join(" ");
        let line = format!(
            "limits {keys} are not in force here, for want of a controller of cgroup v2: bombs are bounded by rlimits and sizes of tmpfs alone"
        );
        journal::line(Level::Warning, Origin::default(), &line);
    }
    Ok(cards)
}

fn card(
    pool: &Pool,
    start: Start,
    Attacked { profile, found, .. }: Attacked,
    howdah: Option<&Path>,
) -> Result<Card, Failure> {
    let mut card = Card::new(format!("pool {}", pool.name), found);
    let said = settings(pool, &profile, howdah).map_err(|error| Failure::new(CONFIGURATION, error))?;
    advice::advise(&mut card, &said, &profile::hosting());
    card.file = Some(pool.file.display().to_string());
    card.profile = Some(profile.name.to_string());
    card.start = Some(match start {
        Start::Cold => "cold launch",
        Start::Template => "template",
    });
    Ok(card)
}

fn tell(cards: &[Card], arguments: &Audit) -> Result<(), Failure> {
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(cards).unwrap_or_default());
    } else {
        cards.iter().for_each(|card| card.print(arguments.verbose));
    }
    if cards.iter().all(Card::is_whole) { Ok(()) } else { Err(Failure::said(1)) }
}
