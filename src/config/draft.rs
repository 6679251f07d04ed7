//! A pool file, or `[defaults]`, read and looked up, and still without what it
//! leaves open.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use toml::Spanned;

use super::accounts::Accounts;
use super::amounts::{Idleness, Wait};
use super::error::ConfigError;
use super::explain::Source;
use super::net::NetworkDraft;
use super::php::{fpm, php};
use super::pool::{Access, Engine, Fpm, ImageRef, IoMax, Limits, Mount, OnFailure, Php, ProfileRef};
use super::raw::{RawIdle, RawIoMax, RawLimits, RawMount, RawPool, RawSocket, RawStart};
use super::shapes::{Addresses, Table};
use super::types::{AbsPath, Account, Listen, Mode, Patience};
use super::who::{group_id, owner_id, pool_user};

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
    pub(super) user: Option<Account>,
    pub(super) image: Option<ImageRef>,
    pub(super) profile: Option<ProfileRef>,
    pub(super) engine: Option<Engine>,
    pub(super) owner: Option<u32>,
    pub(super) group: Option<u32>,
    pub(super) mode: Option<Mode>,
    pub(super) backlog: Option<u32>,
    pub(super) mounts: Vec<Mount>,
    pub(super) freeze: Option<Patience>,
    pub(super) stop: Option<Patience>,
    pub(super) limits: Limits,
    pub(super) network: NetworkDraft,
    pub(super) fpm: Fpm,
    pub(super) access_log: Option<bool>,
    pub(super) php: Php,
    pub(super) timeout: Option<Duration>,
    pub(super) on_failure: Option<OnFailure>,
    pub(super) template: Option<bool>,
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
        let RawStart { timeout, on_failure, template } = raw.start.0;
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
            limits: limits(raw.limits.0, source)?,
            network: NetworkDraft::read(raw.network.0, source)?,
            fpm: fpm(raw.fpm, source)?,
            access_log,
            php: php(raw.php.0, source)?,
            timeout: timeout.map(|Wait(span)| span),
            on_failure,
            template,
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

fn limits(raw: RawLimits, source: Source<'_>) -> Result<Limits, ConfigError> {
    Ok(Limits {
        memory: raw.memory.map(|size| size.0),
        memory_high: raw.memory_high.map(|size| size.0),
        oom_group: raw.oom_group,
        swap: raw.swap.map(|size| size.0),
        tasks: raw.tasks.map(|n| n.0),
        cpu: raw.cpu.map(|cores| cores.0),
        cpu_weight: raw.cpu_weight.map(|n| n.0),
        io_weight: raw.io_weight.map(|n| n.0),
        io_max: io_max(raw.io_max, source)?,
        tmp: raw.tmp.map(|size| size.0),
        run: raw.run.map(|size| size.0),
        shm: raw.shm.map(|size| size.0),
        open_files: raw.open_files.map(|n| n.0),
        file_size: raw.file_size.map(|size| size.0),
        cpu_time: raw.cpu_time.map(|span| span.0),
        core: raw.core.map(|size| size.0),
        memlock: raw.memlock.map(|size| size.0),
        msgqueue: raw.msgqueue.map(|size| size.0),
        sigpending: raw.sigpending.map(|n| n.0),
        stack: raw.stack.map(|size| size.0),
    })
}

fn io_max(list: Vec<Table<RawIoMax>>, source: Source<'_>) -> Result<Vec<IoMax>, ConfigError> {
    let mut all: Vec<IoMax> = Vec::with_capacity(list.len());
    for Table(RawIoMax { path, rbps, wbps, riops, wiops }) in list {
        let (place, path) = (path.span(), path.into_inner());
        let one = IoMax {
            path,
            rbps: rbps.map(|size| size.0),
            wbps: wbps.map(|size| size.0),
            riops: riops.map(|n| n.0),
            wiops: wiops.map(|n| n.0),
        };
        if one.is_empty() {
            return Err(
                source.error(&place, "limits.io_max limits nothing: write rbps, wbps, riops or wiops")
            );
        }
        if all.iter().any(|other| other.path == one.path) {
            let what = format!("limits.io_max names {} twice: keep one", one.path);
            return Err(source.error(&place, what));
        }
        all.push(one);
    }
    Ok(all)
}
