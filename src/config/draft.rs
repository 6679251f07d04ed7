//! A pool file, or `[defaults]`, read and looked up, and still without what it
//! leaves open. One draft stands over another, and what is left open then
//! takes the program's default.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::time::Duration;

use super::accounts::Accounts;
use super::error::{ConfigError, told};
use super::explain::Source;
use super::php::{fpm, php};
use super::pool::{
    Access, Engine, Fpm, Idle, ImageRef, Limits, Mount, Network, OnFailure, Php, Pool, ProfileRef, Socket,
    Start,
};
use super::raw::{RawIdle, RawLimits, RawMount, RawNetwork, RawPool, RawSocket, RawStart};
use super::types::{AbsPath, Account, Listen, Mode, Patience, PoolName};
use super::words::{Addresses, Idleness, Table, Wait};
use toml::Spanned;

/// What `[defaults]` of howdah.toml say for every pool: below each pool's own
/// keys, table by table. Its mounts come before the pool's own; any other list
/// is replaced as a whole.
#[derive(Debug, Clone, Default)]
pub struct Defaults(pub(super) Draft);

/// What a file says.
#[derive(Debug, Clone, Default)]
pub(super) struct Draft {
    pub(super) listen: Vec<Listen>,
    /// The line of each address.
    pub(super) listen_lines: Vec<u32>,
    user: Option<Account>,
    image: Option<ImageRef>,
    profile: Option<ProfileRef>,
    engine: Option<Engine>,
    owner: Option<u32>,
    group: Option<u32>,
    mode: Option<Mode>,
    backlog: Option<u32>,
    mounts: Vec<Mount>,
    freeze: Option<Patience>,
    stop: Option<Patience>,
    limits: Limits,
    network: Option<Network>,
    fpm: Fpm,
    access_log: Option<bool>,
    php: Php,
    timeout: Option<Duration>,
    on_failure: Option<OnFailure>,
}

impl Draft {
    /// What a file of this shape says, with everything that can be wrong in
    /// the file alone refused.
    pub(super) fn read(
        raw: RawPool,
        source: Source<'_>,
        accounts: &dyn Accounts,
    ) -> Result<Self, ConfigError> {
        let RawSocket { owner, group, mode, backlog } = raw.socket.0;
        let RawIdle { freeze, stop } = raw.idle.0;
        let RawNetwork { mode: network } = raw.network.0;
        let RawStart { timeout, on_failure } = raw.start.0;
        let (listen, listen_lines) = addresses(raw.listen, source)?;
        let access_log = raw.fpm.access_log;
        Ok(Self {
            listen,
            listen_lines,
            user: raw.user.map(|name| pool_user(&name, source, accounts)).transpose()?,
            image: raw.image,
            profile: raw.profile,
            engine: raw.engine,
            owner: owner.map(|name| owner_id(&name, source, accounts)).transpose()?,
            group: group.map(|name| group_id(&name, source, accounts)).transpose()?,
            mode,
            backlog: backlog.map(|n| n.0 as u32),
            mounts: mounts(raw.mount, source)?,
            freeze: freeze.map(|Idleness(patience)| patience),
            stop: stop.map(|Idleness(patience)| patience),
            limits: limits(&raw.limits.0),
            network,
            fpm: fpm(raw.fpm, source)?,
            access_log,
            php: php(raw.php.0, source)?,
            timeout: timeout.map(|Wait(span)| span),
            on_failure,
        })
    }

    /// The pool that this draft over `under` is.
    pub(super) fn finish(
        self,
        under: &Self,
        name: PoolName,
        source: Source<'_>,
        accounts: &dyn Accounts,
    ) -> Result<Pool, ConfigError> {
        let user = match self.user.or_else(|| under.user.clone()).or_else(|| accounts.caller()) {
            Some(user) => user,
            None => {
                return Err(source.missing("user is missing: name the host account that its php-fpm runs as"));
            }
        };
        Ok(Pool {
            name,
            file: source.file.to_owned(),
            listen: self.listen,
            image: self.image.or_else(|| under.image.clone()).unwrap_or(ImageRef::Host),
            profile: self
                .profile
                .or_else(|| under.profile.clone())
                .unwrap_or_else(|| ProfileRef::Named("hosting".into())),
            engine: self.engine.or(under.engine).unwrap_or(Engine::Native),
            socket: Socket {
                owner: self.owner.or(under.owner).unwrap_or(user.uid),
                group: self.group.or(under.group).unwrap_or(user.gid),
                mode: self.mode.or(under.mode).unwrap_or(Mode::new(0o660)),
                backlog: self.backlog.or(under.backlog).unwrap_or(511),
            },
            user,
            mounts: mounts_over(self.mounts, &under.mounts),
            idle: Idle {
                freeze: self.freeze.or(under.freeze).unwrap_or(Patience::After(Duration::from_secs(30))),
                stop: self.stop.or(under.stop).unwrap_or(Patience::After(Duration::from_secs(600))),
            },
            limits: limits_over(self.limits, &under.limits),
            network: self.network.or(under.network).unwrap_or(Network::None),
            fpm: fpm_over(self.fpm, &under.fpm, self.access_log.or(under.access_log)),
            php: php_over(self.php, &under.php),
            start: Start {
                timeout: self.timeout.or(under.timeout).unwrap_or(Duration::from_secs(10)),
                on_failure: self.on_failure.or(under.on_failure).unwrap_or(OnFailure::Answer503),
            },
        })
    }
}

/// The addresses and the line of each.
fn addresses(
    listen: Option<Spanned<Addresses>>,
    source: Source<'_>,
) -> Result<(Vec<Listen>, Vec<u32>), ConfigError> {
    let Some(listen) = listen else { return Ok(Default::default()) };
    if listen.get_ref().0.is_empty() {
        return Err(source.error(&listen.span(), "listen is an empty list: name a socket"));
    }
    let mut seen = HashSet::new();
    for address in &listen.get_ref().0 {
        if !seen.insert(address.get_ref()) {
            let what = format!("listen names {} twice: keep one", address.get_ref());
            return Err(source.error(&address.span(), what));
        }
    }
    let lines = listen.get_ref().0.iter().map(|address| source.line(&address.span())).collect();
    Ok((listen.into_inner().0.into_iter().map(Spanned::into_inner).collect(), lines))
}

/// `user`: an account that php-fpm may run as.
fn pool_user(
    name: &Spanned<String>,
    source: Source<'_>,
    accounts: &dyn Accounts,
) -> Result<Account, ConfigError> {
    let refuse = |what: String| source.error(&name.span(), what);
    let user = user(name, "user", source, accounts)?;
    match accounts.caller() {
        Some(caller) if caller.uid != user.uid => Err(refuse(format!(
            "user {:?}: without root howdah starts pools of {:?} alone: run it as root, or leave user out",
            name.get_ref(),
            caller.name
        ))),
        None if user.uid == 0 => {
            Err(refuse(format!("user {:?} is root: name an unprivileged account", name.get_ref())))
        }
        None if user.gid == 0 => Err(refuse(format!(
            "user {:?} has root's group (gid 0): name an account with a group of its own",
            name.get_ref()
        ))),
        _ => Ok(user),
    }
}

fn owner_id(name: &Spanned<String>, source: Source<'_>, accounts: &dyn Accounts) -> Result<u32, ConfigError> {
    user(name, "socket.owner", source, accounts).map(|user| user.uid)
}

fn user(
    name: &Spanned<String>,
    key: &str,
    source: Source<'_>,
    accounts: &dyn Accounts,
) -> Result<Account, ConfigError> {
    let refuse = |what: String| source.error(&name.span(), what);
    let found = accounts.user(name.get_ref()).map_err(|errno| {
        refuse(format!("{key} {:?} cannot be looked up: {}", name.get_ref(), told(errno)))
    })?;
    found.ok_or_else(|| {
        refuse(format!("{key} {:?} does not exist on this host: create it or name another", name.get_ref()))
    })
}

fn group_id(name: &Spanned<String>, source: Source<'_>, accounts: &dyn Accounts) -> Result<u32, ConfigError> {
    let refuse = |what: String| source.error(&name.span(), what);
    let found = accounts.group(name.get_ref()).map_err(|errno| {
        refuse(format!("socket.group {:?} cannot be looked up: {}", name.get_ref(), told(errno)))
    })?;
    found.ok_or_else(|| {
        refuse(format!(
            "socket.group {:?} does not exist on this host: create it or name another",
            name.get_ref()
        ))
    })
}

/// Directories inside that are the sandbox's own to make.
const OWN: [&str; 3] = ["/proc", "/sys", "/dev"];

fn mounts(list: Vec<Table<RawMount>>, source: Source<'_>) -> Result<Vec<Mount>, ConfigError> {
    let mut mounts: Vec<Mount> = Vec::with_capacity(list.len());
    for Table(RawMount { source: from, target, access }) in list {
        let target = target.unwrap_or_else(|| from.clone());
        let refuse = |what: String| Err(source.error(&target.span(), what));
        let path: &AbsPath = target.get_ref();
        if path.as_path() == Path::new("/") {
            return refuse("mount.target is \"/\": write image to say what the root is".into());
        }
        if OWN.iter().any(|own| path.as_path().starts_with(own)) {
            return refuse(format!("mount.target {path} is the sandbox's own: name another"));
        }
        if mounts.iter().any(|mount| mount.target == *path) {
            return refuse(format!("mount.target {path} is taken by a mount above: keep one"));
        }
        mounts.push(Mount {
            source: from.into_inner(),
            target: target.into_inner(),
            access: access.unwrap_or(Access::ReadOnly),
        });
    }
    Ok(mounts)
}

fn mounts_over(own: Vec<Mount>, under: &[Mount]) -> Vec<Mount> {
    let free = |mount: &&Mount| own.iter().all(|other| other.target != mount.target);
    let mut all: Vec<Mount> = under.iter().filter(free).cloned().collect();
    all.extend(own);
    all.shrink_to_fit();
    all
}

fn limits(raw: &RawLimits) -> Limits {
    Limits {
        memory: raw.memory.map(|size| size.0),
        swap: raw.swap.map(|size| size.0),
        tasks: raw.tasks.map(|n| n.0),
        cpu: raw.cpu.map(|cores| cores.0),
        cpu_weight: raw.cpu_weight.map(|n| n.0),
        io_weight: raw.io_weight.map(|n| n.0),
        open_files: raw.open_files.map(|n| n.0),
        tmp: raw.tmp.map(|size| size.0),
    }
}

fn limits_over(own: Limits, under: &Limits) -> Limits {
    Limits {
        memory: own.memory.or(under.memory),
        swap: own.swap.or(under.swap),
        tasks: own.tasks.or(under.tasks),
        cpu: own.cpu.or(under.cpu),
        cpu_weight: own.cpu_weight.or(under.cpu_weight),
        io_weight: own.io_weight.or(under.io_weight),
        open_files: own.open_files.or(under.open_files),
        tmp: own.tmp.or(under.tmp),
    }
}

/// A pool that brings a whole php-fpm configuration takes nothing of what it
/// would replace from the defaults.
fn fpm_over(own: Fpm, under: &Fpm, access_log: Option<bool>) -> Fpm {
    let whole = own.config.is_some();
    let or_own = |map: BTreeMap<String, String>, below: &BTreeMap<String, String>| {
        if whole { map } else { map_over(map, below) }
    };
    let sets_its_own = !own.directives.is_empty() || !own.env.is_empty();
    Fpm {
        binary: own.binary.or_else(|| under.binary.clone()),
        config: own.config.or_else(|| under.config.clone().filter(|_| !sets_its_own)),
        directives: or_own(own.directives, &under.directives),
        access_log: access_log.unwrap_or(false),
        env: or_own(own.env, &under.env),
    }
}

fn php_over(own: Php, under: &Php) -> Php {
    Php {
        extensions: own.extensions.or_else(|| under.extensions.clone()),
        value: map_over(own.value, &under.value),
        flag: map_over(own.flag, &under.flag),
        admin_value: map_over(own.admin_value, &under.admin_value),
        admin_flag: map_over(own.admin_flag, &under.admin_flag),
    }
}

fn map_over<V: Clone>(mut own: BTreeMap<String, V>, under: &BTreeMap<String, V>) -> BTreeMap<String, V> {
    for (key, value) in under {
        if !own.contains_key(key) {
            own.insert(key.clone(), value.clone());
        }
    }
    own
}
