//! One draft stands over another, and what both leave open takes the
//! program's default: a pool.

use std::collections::BTreeMap;
use std::time::Duration;

use super::accounts::Accounts;
use super::draft::Draft;
use super::error::ConfigError;
use super::explain::Source;
use super::pool::{Engine, Fpm, Idle, ImageRef, Mount, OnFailure, Php, Pool, ProfileRef, Socket, Start};
use super::types::{Mode, Patience, PoolName};

impl Draft {
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
            limits: self.limits.over(&under.limits),
            sockets: self.network.sockets_over(&under.network),
            network: self.network.finish(&under.network, source)?,
            fpm: fpm_over(self.fpm, &under.fpm, self.access_log.or(under.access_log)),
            php: php_over(self.php, &under.php),
            start: Start {
                timeout: self.timeout.or(under.timeout).unwrap_or(Duration::from_secs(10)),
                on_failure: self.on_failure.or(under.on_failure).unwrap_or(OnFailure::Answer503),
                template: self.template.or(under.template),
            },
        })
    }
}

fn mounts_over(own: Vec<Mount>, under: &[Mount]) -> Vec<Mount> {
    let free = |mount: &&Mount| own.iter().all(|other| other.target != mount.target);
    let mut all: Vec<Mount> = under.iter().filter(free).cloned().collect();
    all.extend(own);
    all.shrink_to_fit();
    all
}

fn fpm_over(own: Fpm, under: &Fpm, access_log: Option<bool>) -> Fpm {
    Fpm {
        binary: own.binary.or_else(|| under.binary.clone()),
        config: own.config.or_else(|| under.config.clone()),
        directives: map_over(own.directives, &under.directives),
        access_log: access_log.unwrap_or(false),
        env: map_over(own.env, &under.env),
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
