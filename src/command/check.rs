//! `howdah check`: the host, and every pool file with what would be in force.

mod text;

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::host::Host;
use super::{CONFIGURATION, Failure, KERNEL, Scratch, become_rootless, is_root, places};
use crate::cli::Check;
use crate::config::network::{Network, Ports};
use crate::config::pool::Pool;
use crate::config::profile::Profile;
use crate::config::settings::{Setting, settings};
use crate::config::{HostAccounts, check_host, load_pools, load_serve};
use crate::journal::{self, Level, Origin};
use crate::pool::outbound::{self, OutboundError};
use crate::pool::prepare::{Blueprint, Places, PrepareError, Prepared, Workshop};
use crate::pool::tcp_listener;
use crate::pool::templates;
use crate::sandbox::landlock;
use crate::sandbox::seccomp::{self, Allowed};
use crate::spec;

/// One pool file that can be read.
#[derive(Debug, Default, Serialize)]
struct Told {
    pool: String,
    file: PathBuf,
    listen: Vec<String>,
    user: String,
    image: String,
    php: Option<String>,
    profile: String,
    /// What the profile leaves open that `hosting` closes.
    weakened: Vec<String>,
    /// And what it closes that `hosting` leaves open.
    stricter: Vec<String>,
    /// "none" or "host".
    network: String,
    /// The ABI of Landlock that will be in force; 0: the profile switches it off.
    landlock_abi: u32,
    /// The ABI below which the pool does not start; 0: the profile switches Landlock off.
    landlock_abi_demanded: u32,
    /// Pools of one class can begin as one template (docs/templates.md); empty: this one never does.
    class: String,
    /// Why not.
    always_cold: Option<&'static str>,
    /// Every key with its value, and the line that says so.
    settings: Vec<Setting>,
    /// What the seccomp filter lets through; `null`: no filter, or one that lists what it refuses.
    system_calls: Option<Allowed>,
    /// "once": after php-fpm no program is executed.
    execve: String,
    /// cgroup v2 files and values, the profile's defaults among them.
    limits: Vec<(String, String)>,
    /// Those of them whose controller this host does not have.
    limits_not_in_force: Vec<String>,
    notices: Vec<String>,
    errors: Vec<String>,
    /// Whether it is the kernel that lacks something.
    #[serde(skip)]
    kernel: bool,
}

/// Everything, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Report {
    host: Host,
    /// How many of each class howdah keeps ready.
    templates: usize,
    /// Why it keeps none: every start is a cold launch.
    no_templates: Option<String>,
    pools: Vec<Told>,
    errors: Vec<String>,
    notices: Vec<String>,
}

pub(super) fn run(arguments: &Check) -> Result<(), Failure> {
    let host = Host::look();
    let accounts = HostAccounts::default();
    let (config, defaults) = load_serve(arguments.files.config.as_deref(), &accounts)
        .map_err(|error| Failure::new(CONFIGURATION, error))?;
    let loaded = load_pools(&arguments.files.pools, &defaults, &accounts);
    // A runtime directory of this check's own: nothing of a running serve is touched.
    let scratch = Scratch::new()?;
    let places = places(scratch.path().to_owned(), &config);
    let mut workshop = Workshop::default();
    let wanted = config.templates.unwrap_or(1) as usize;
    let no_templates = templates::possible(wanted, config.template_ids, host.cgroup.is_some()).err();
    let can_run = host.refusal().is_none();
    if can_run {
        become_rootless()?;
    }
    let howdah = arguments.files.config.as_deref();
    let one = |pool: &Pool| {
        let (blueprint, told) = tell(pool, &host, &mut workshop, &places, can_run);
        explained(pool, blueprint.as_ref(), howdah, told)
    };
    let pools = loaded.pools.iter().map(one).collect();
    drop(scratch);
    let report = Report {
        host,
        templates: wanted,
        no_templates: no_templates.map(|why| why.to_string()),
        pools,
        errors: loaded.errors.iter().map(ToString::to_string).collect(),
        notices: loaded.notices.iter().map(ToString::to_string).collect(),
    };
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report).unwrap_or_default());
    } else {
        text::print(&report, arguments.explain);
    }
    verdict(&report, arguments.json)
}

/// Says what is wrong, each failure on its line; in JSON it stands already.
fn verdict(report: &Report, json: bool) -> Result<(), Failure> {
    let errors: Vec<_> = report.pools.iter().flat_map(|pool| &pool.errors).chain(&report.errors).collect();
    if !json {
        errors.iter().for_each(|error| journal::line(Level::Error, Origin::default(), error));
    }
    match report.host.refusal() {
        Some(refusal) => Err(Failure::new(KERNEL, refusal)),
        None if errors.is_empty() => Ok(()),
        None => {
            let wrong = |pool: &Told| !pool.errors.is_empty() && !pool.kernel;
            let file = !report.errors.is_empty() || report.pools.iter().any(wrong);
            Err(Failure::said(if file { CONFIGURATION } else { KERNEL }))
        }
    }
}

/// Adds what is in force, with the places that say so.
fn explained(pool: &Pool, prepared: Option<&Prepared>, howdah: Option<&Path>, mut told: Told) -> Told {
    let Some(prepared) = prepared else { return told };
    let profile = &prepared.profile;
    told.profile = profile.name.to_string();
    told.weakened = tcp_listener::weakened(pool, profile);
    told.stricter = profile.stricter();
    told.network = spec::network(pool, profile).to_string();
    told.always_cold = templates::always_cold(pool, prepared);
    if told.always_cold.is_none() {
        told.class = templates::class_name(prepared, pool.listen.len());
    }
    told.notices.extend(network_notices(spec::network(pool, profile), profile.landlock));
    told.notices.extend(tcp_listener::price(pool, profile).map(str::to_owned));
    told.notices.extend(slowlog_notice(pool, profile));
    if let Network::Outbound(outbound) = spec::network(pool, profile) {
        let programs =
            if is_root() { outbound::programs(outbound).map(drop) } else { Err(OutboundError::NotRoot) };
        told.errors.extend(programs.err().map(|error| format!("{}: {error}", pool.file.display())));
    }
    if profile.landlock {
        told.landlock_abi = landlock::abi_in_force();
        told.landlock_abi_demanded = spec::least_abi(pool, profile);
    }
    match settings(pool, profile, howdah) {
        Ok(settings) => told.settings = settings,
        Err(error) => told.errors.push(error.to_string()),
    }
    told
}

/// What the mode leaves open that its reader may not expect.
fn network_notices(network: &Network, landlock: bool) -> Vec<String> {
    let Network::Host(ports) = network else { return Vec::new() };
    let mut notices = Vec::new();
    if !landlock || landlock::abi_in_force() < ABI_OF_SCOPES {
        notices.push(
            "the host's abstract unix sockets are within reach: Landlock holds them from ABI 6 (Linux 6.12) on"
                .to_owned(),
        );
    }
    if *ports != Ports::default() {
        notices.push("network.connect and network.bind hold TCP: UDP is not held".to_owned());
    }
    notices
}

/// What php-fpm's slow log will lack: its master looks into a slow worker by ptrace(2).
fn slowlog_notice(pool: &Pool, profile: &Profile) -> Option<String> {
    let wanted =
        pool.fpm.directives.get("request_slowlog_timeout").is_some_and(|value| !value.starts_with('0'));
    let traces = |filter| seccomp::lets_through(&filter, "ptrace").unwrap_or(true);
    (wanted && !profile.filter().is_none_or(traces)).then(|| {
        format!(
            "fpm.request_slowlog_timeout: the log tells that a script was slow and not where, for the profile {} does \
             not let php-fpm trace its workers (ptrace): profile = \"compat\" does",
            profile.name
        )
    })
}

/// Landlock's scope of abstract sockets (landlock(7)).
const ABI_OF_SCOPES: u32 = 6;

fn tell(
    pool: &Pool,
    host: &Host,
    workshop: &mut Workshop,
    places: &Places,
    can_run: bool,
) -> (Option<Prepared>, Told) {
    let mut kernel = false;
    let mut errors: Vec<String> = check_host(pool).iter().map(ToString::to_string).collect();
    let rootfs = places.of_pool(pool).join("rootfs");
    let planned = can_run.then(|| workshop.plan(pool, pool.listen.len(), places, &rootfs));
    let blueprint = match planned {
        Some(Ok(blueprint)) => Some(blueprint.prepared),
        Some(Err(error)) if errors.is_empty() => {
            kernel = error.is_of_kernel();
            errors.push(error.in_file_of(pool));
            None
        }
        Some(Err(_)) | None => None,
    };
    let limits: Vec<(String, String)> = blueprint
        .as_ref()
        .map(|prepared| spec::limits_of(&prepared.spec).into_iter().collect())
        .unwrap_or_default();
    let controlled = |key: &str| {
        let controller = key.split('.').next().unwrap_or(key);
        host.root && host.cgroup_controllers.iter().any(|known| known == controller)
    };
    let missing: Vec<String> =
        limits.iter().map(|(key, _)| key.clone()).filter(|key| !controlled(key)).collect();
    for key in spec::demanded(&pool.limits).into_iter().filter(|key| !controlled(key)) {
        kernel = false;
        errors.push(format!(
            "{}: limit {key} needs a cgroup v2 controller that this host does not have: \
             enable it or take the limit out",
            pool.file.display()
        ));
    }
    let version = |(major, minor, patch): (u32, u32, u32)| format!("{major}.{minor}.{patch}");
    let told = Told {
        pool: pool.name.to_string(),
        file: pool.file.clone(),
        listen: pool.listen.iter().map(ToString::to_string).collect(),
        user: pool.user.name.to_string(),
        image: pool.image.to_string(),
        php: blueprint.as_ref().map(|prepared| version(prepared.version)),
        system_calls: blueprint.as_ref().and_then(|one| system_calls(&one.profile)),
        execve: blueprint.as_ref().map(|one| one.profile.execve.as_str().to_owned()).unwrap_or_default(),
        limits,
        limits_not_in_force: missing,
        notices: blueprint.as_ref().map(|prepared| prepared.notices.clone()).unwrap_or_default(),
        errors,
        kernel,
        ..Told::default()
    };
    (blueprint, told)
}

/// What the profile's filter lets through, where it lists that.
fn system_calls(profile: &Profile) -> Option<Allowed> {
    profile.filter().and_then(|filter| seccomp::allowed(&filter).ok().flatten())
}

/// Used by `spec` too: the container of one pool file on paper, or why there is none.
pub(super) fn plan_one(pool: &Pool, places: &Places, rootfs: &Path) -> Result<Blueprint, PrepareError> {
    Workshop::default().plan(pool, pool.listen.len(), places, rootfs)
}
