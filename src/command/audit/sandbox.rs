//! A pool's sandbox as serve would launch it, with the probe in php-fpm's place.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use super::super::{Failure, LAUNCH};
use super::canary::{Canaries, SECRET};
use super::card::{Finding, Outcome};
use super::probe::Probe;
use super::running::Running;
use super::visitors::visitors;
use super::watch::Stop;
use crate::cli::Start;
use crate::config::pool::{Access, Pool, Socket};
use crate::config::profile::Profile;
use crate::config::types::{Listen, Mode};
use crate::pool::activation::{self, Listener};
use crate::pool::graves::Graves;
use crate::pool::prepare::{CONF, Places, Prepared, Workshop};
use crate::pool::slot::limits_not_in_force;
use crate::pool::templates::{Templates, always_cold};
use crate::sandbox::SpareNetwork;
use crate::sandbox::cgroup::Base;
use crate::spec;

/// The first listening socket's descriptor, as php-fpm has it.
const FIRST_LISTENER: usize = 3;

/// What every audit of this command needs.
pub(super) struct Bench<'a> {
    pub(super) probe: &'a Probe,
    pub(super) canaries: &'a Canaries,
    pub(super) stop: &'a Stop,
    pub(super) places: Places,
    pub(super) base: Option<Base>,
    pub(super) workshop: Workshop,
    /// For the pools with a way out; `None` without root.
    pub(super) network: Option<SpareNetwork>,
    /// Where they are wanted and can be.
    pub(super) templates: Option<Templates>,
    /// Templates that have been ended.
    pub(super) graves: Graves,
}

/// What came of the attacks on a pool's sandbox.
pub(super) struct Attacked {
    pub(super) profile: Rc<Profile>,
    /// Why serve never starts it by a template; `None`: it does.
    pub(super) always_cold: Option<&'static str>,
    pub(super) found: Vec<Finding>,
    /// Limits by their files in the cgroup; see [`limits_not_in_force`].
    pub(super) limits_not_in_force: Vec<String>,
}

/// Attacks the sandbox of `pool`, which is started in the way of `start`.
pub(super) fn attack(bench: &mut Bench<'_>, pool: &Pool, start: Start) -> Result<Attacked, Failure> {
    let failed =
        |error: &dyn ToString| Failure::new(LAUNCH, format!("pool {}: {}", pool.name, error.to_string()));
    let mut listeners = pool
        .listen
        .iter()
        .enumerate()
        .map(|(index, address)| own(address, bench.canaries.directory(), index, &pool.socket))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| failed(&error))?;
    listeners.iter_mut().for_each(Listener::remember);
    let mut prepared =
        bench.workshop.prepare(pool, listeners.len(), &bench.places).map_err(|error| failed(&error))?;
    let always_cold = always_cold(pool, &prepared);
    if let (Start::Template, Some(why)) = (start, always_cold) {
        return Err(failed(&format!("it always starts cold: {why}")));
    }
    let (neighbour, mut facts) = neighbour(bench, pool, start)?;
    facts.extend(of_pool(pool, &prepared));
    set_program(&mut prepared, bench, start, "attack", &facts, listeners.len());
    let prepared = Rc::new(prepared);
    let visitors = visitors(&listeners);
    let found = {
        let mut running = Running::start(bench, start, pool, &prepared, &listeners)?;
        let lines = running.talk(bench.stop, "howdah-probe\tend").map_err(|failure| of(pool, failure))?;
        drop(running);
        lines.iter().filter_map(|line| Finding::parse(line)).collect()
    };
    drop((neighbour, visitors));
    let found = look_at_listeners(found, &mut listeners, &pool.socket);
    listeners.into_iter().for_each(|listener| drop(listener.close_and_unlink()));
    let limits_not_in_force = limits_not_in_force(&prepared, bench.base.as_ref());
    Ok(Attacked { profile: Rc::clone(&prepared.profile), always_cold, found, limits_not_in_force })
}

fn of(pool: &Pool, failure: Failure) -> Failure {
    Failure { line: format!("pool {}: {}", pool.name, failure.line), ..failure }
}

/// A socket of the audit's own in place of one of the pool's: the same family, another address.
fn own(
    address: &Listen,
    directory: &Path,
    index: usize,
    socket: &Socket,
) -> Result<Listener, activation::ActivationError> {
    let address = match address {
        Listen::Unix(_) => unix(&directory.join(format!("pool-{index}.sock"))),
        Listen::Tcp(SocketAddr::V4(_)) => free_port(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        Listen::Tcp(SocketAddr::V6(_)) => free_port(IpAddr::V6(Ipv6Addr::LOCALHOST)),
    };
    activation::bind(&address, socket)
}

/// A port that nobody has, by number: one that the kernel chose would be lost
/// with the listening, which is what one of the attacks does.
fn free_port(loopback: IpAddr) -> Listen {
    let address = SocketAddr::new(loopback, 0);
    let free = TcpListener::bind(address).and_then(|listener| listener.local_addr());
    Listen::Tcp(free.unwrap_or(address))
}

fn unix(path: &Path) -> Listen {
    Listen::Unix(path.display().to_string().parse().expect("a path below an absolute one"))
}

/// A second sandbox of the same profile, the same user and the same way to start: what only ids
/// would keep apart is not (but for templates, which have ids of their own). Also what the probe
/// is told of it.
fn neighbour(bench: &mut Bench<'_>, pool: &Pool, start: Start) -> Result<(Running, Vec<String>), Failure> {
    let failed = |error: &dyn ToString| {
        Failure::new(LAUNCH, format!("pool {}: its neighbour: {}", pool.name, error.to_string()))
    };
    let name = if pool.name.as_str() == "neighbour" { "other" } else { "neighbour" };
    let other =
        Pool { name: name.parse().map_err(|error| failed(&error))?, mounts: Vec::new(), ..pool.clone() };
    let listeners = neighbours_listeners(bench.canaries.directory()).map_err(|error| failed(&error))?;
    let mut prepared =
        bench.workshop.prepare(&other, listeners.len(), &bench.places).map_err(|error| failed(&error))?;
    let mut facts = facts_of(&listeners);
    if let Some(process) = prepared.spec.process_mut() {
        let mut environment = process.env().clone().unwrap_or_default();
        environment.push(SECRET.to_owned());
        process.set_env(Some(environment));
    }
    set_program(&mut prepared, bench, start, "neighbour", &[], listeners.len());
    let mut running = Running::start(bench, start, &other, &Rc::new(prepared), &listeners)?;
    running.talk(bench.stop, "howdah-canary\tready").map_err(|failure| of(&other, failure))?;
    facts.push(format!("neighbour-pid={}", running.pid()));
    Ok((running, facts))
}

/// One of each family, open to everybody: only walls are in between.
pub(super) fn neighbours_listeners(directory: &Path) -> Result<Vec<Listener>, activation::ActivationError> {
    let owner = nix::unistd::geteuid().as_raw();
    let group = nix::unistd::getegid().as_raw();
    let socket = Socket { owner, group, mode: Mode::new(0o666), backlog: 16 };
    let tcp = Listen::Tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0));
    Ok(vec![
        activation::bind(&unix(&directory.join("neighbour.sock")), &socket)?,
        activation::bind(&tcp, &socket)?,
    ])
}

/// Where a neighbour listens, for the probe.
pub(super) fn facts_of(listeners: &[Listener]) -> Vec<String> {
    listeners
        .iter()
        .map(|listener| match listener.address() {
            Listen::Unix(path) => format!("fastcgi-path={path}"),
            Listen::Tcp(address) => format!("fastcgi-tcp={}", address.port()),
        })
        .collect()
}

/// Directories in which names are no tenants'.
const SYSTEM: [&str; 9] =
    ["/", "/etc", "/opt", "/run", "/usr", "/usr/share", "/usr/local", "/var", "/var/lib"];

/// What the probe must know of the pool: who it is, where it may write, and where its code is.
fn of_pool(pool: &Pool, prepared: &Prepared) -> Vec<String> {
    let mode = spec::network(pool, &prepared.profile).mode();
    let mut facts = vec![format!("uid={}", pool.user.uid), format!("network={mode}")];
    let mounts = prepared.spec.mounts().iter().flatten();
    for mount in mounts.filter(|mount| mount.typ().as_deref() == Some("bind")) {
        let writable = !mount.options().iter().flatten().any(|option| option == "ro");
        facts.push(format!(
            "{}={}",
            if writable { "writable" } else { "readonly" },
            mount.destination().display()
        ));
    }
    for mount in &pool.mounts {
        let parent = mount.target.as_path().parent().unwrap_or(Path::new("/"));
        let is_of_system = SYSTEM.iter().any(|name| parent == Path::new(name));
        if mount.access == Access::ReadOnly && !is_of_system {
            facts.push(format!("parent={}", parent.display()));
        }
    }
    facts
}

/// Puts the probe in php-fpm's place. In a template it is told what it is where php-fpm would
/// find its configuration.
fn set_program(
    prepared: &mut Prepared,
    bench: &Bench<'_>,
    start: Start,
    mode: &str,
    facts: &[String],
    listeners: usize,
) {
    let mut words = vec![mode.to_owned()];
    words.extend(bench.canaries.facts().iter().chain(facts).cloned());
    words.extend((FIRST_LISTENER..FIRST_LISTENER + listeners).map(|number| format!("listener={number}")));
    if start == Start::Template {
        prepared.files.retain(|(name, _)| name != CONF);
        prepared.files.push((CONF.to_owned(), words.join("\0")));
        words = vec!["template".to_owned(), Path::new("/etc").join(CONF).display().to_string()];
    }
    words.insert(0, bench.probe.path());
    if let Some(process) = prepared.spec.process_mut() {
        process.set_args(Some(words));
    }
}

/// Does to the sockets what howdah does after each generation, and looks whether
/// a client could connect now.
fn look_at_listeners(mut found: Vec<Finding>, listeners: &mut [Listener], socket: &Socket) -> Vec<Finding> {
    let mended: Result<Vec<Option<String>>, String> = listeners
        .iter_mut()
        .map(|listener| {
            let mended = listener.mend(socket);
            let harmed = (!mended.harms.is_empty()).then(|| mended.told());
            mended.result.map_err(|error| error.to_string())?;
            if is_reached(listener) { Ok(harmed) } else { Err("nobody can connect any more".to_owned()) }
        })
        .collect();
    for finding in found.iter_mut().filter(|finding| finding.outcome == Outcome::Poisoned) {
        match &mended {
            Ok(harmed) => {
                let told: Vec<&str> = harmed.iter().flatten().map(String::as_str).collect();
                finding.outcome = Outcome::Held;
                finding.detail = match told.as_slice() {
                    [] => "it accepts".to_owned(),
                    some => format!("howdah put right what {}", some.join(" and what ")),
                };
            }
            Err(why) => {
                finding.outcome = Outcome::Open;
                finding.detail.clone_from(why);
            }
        }
    }
    found
}

fn is_reached(listener: &Listener) -> bool {
    let second = Duration::from_secs(1);
    let connected = match listener.address() {
        Listen::Unix(path) => UnixStream::connect(path.as_path()).map(drop),
        Listen::Tcp(address) => TcpStream::connect_timeout(address, second).map(drop),
    };
    connected.is_ok() && listener.has_waiting()
}

/// The places of an audit: all below `directory`, and the host's profiles.
pub(super) fn places(directory: &Path, profiles: PathBuf) -> Places {
    Places {
        runtime: directory.join("run"),
        state: directory.join("state"),
        profiles,
        drain: Duration::from_secs(1),
    }
}
