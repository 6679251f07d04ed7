//! Which socket is whose.

use std::collections::HashMap;
use std::fmt;

use super::bind::bind;
use super::error::ActivationError;
use super::inherited::Inherited;
use super::listener::{Listener, Origin};
use crate::config::pool::Pool;
use crate::config::types::{Listen, PoolName};

/// The sockets of one pool after [`assign`].
#[derive(Debug)]
pub struct Assigned {
    /// Its place in the list of pools.
    pub pool: usize,
    /// What was passed for it.
    pub passed: Vec<Listener>,
    /// What is left for [`bind`].
    pub unbound: Vec<Listen>,
}

/// Something that works, and may not be what was meant. Displays as one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A socket has the pool's name and an address that its file does not say.
    OtherAddress {
        /// The pool.
        pool: PoolName,
        /// Where the passed socket listens.
        passed: Listen,
        /// What its file says.
        file: Vec<Listen>,
    },
    /// `[socket]` of a pool whose sockets were passed.
    SocketIgnored {
        /// The pool.
        pool: PoolName,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherAddress { pool, passed, file } => {
                let file: Vec<String> = file.iter().map(Listen::to_string).collect();
                let file = file.join(", ");
                write!(f, "pool {pool}: systemd passes {passed} by this name, its file says {file}: ")?;
                f.write_str("what systemd passes is used, and nothing else is bound")
            }
            Self::SocketIgnored { pool } => {
                write!(f, "pool {pool}: [socket] is ignored: systemd passes its socket, ")?;
                f.write_str("whose unit says SocketUser=, SocketGroup=, SocketMode= and Backlog=")
            }
        }
    }
}

/// Gives each passed socket to its pool: the one whose name is the socket's
/// FDNAME (systemd.socket(5), `FileDescriptorName=`), else the one whose file
/// says its address. One answer for each pool, in their order.
///
/// A name goes before an address: a pool that gets a socket by name whose
/// address its file does not say listens on what is passed, and on nothing
/// else, with a notice. A name of one pool with the address of another is an
/// error, and so is a socket that no pool wants.
pub fn assign(
    pools: &[Pool],
    inherited: Vec<Inherited>,
) -> Result<(Vec<Assigned>, Vec<Notice>), Vec<ActivationError>> {
    let names: HashMap<&str, usize> =
        pools.iter().enumerate().map(|(index, pool)| (pool.name.as_str(), index)).collect();
    let addresses: HashMap<&Listen, usize> = pools
        .iter()
        .enumerate()
        .flat_map(|(index, pool)| pool.listen.iter().map(move |listen| (listen, index)))
        .collect();
    let mut passed: Vec<Vec<Listener>> = pools.iter().map(|_| Vec::new()).collect();
    let mut errors = Vec::new();
    for socket in inherited {
        let by_name = socket.passed.name.as_deref().and_then(|name| names.get(name)).copied();
        let by_address = addresses.get(&socket.address).copied();
        match (by_name, by_address) {
            (Some(named), Some(other)) if named != other => {
                let reason = format!(
                    "its name is pool {}'s and its address pool {}'s: change one of them",
                    pools[named].name, pools[other].name
                );
                errors.push(ActivationError::Passed { passed: socket.passed, reason });
            }
            (Some(index), _) | (None, Some(index)) => {
                let origin = Origin::Systemd { name: socket.passed.name };
                passed[index].push(Listener::new(socket.address, origin, None, socket.fd));
            }
            (None, None) => {
                errors.push(ActivationError::Passed { passed: socket.passed, reason: UNWANTED.into() });
            }
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let mut notices = Vec::new();
    let sockets = pools.iter().zip(passed).enumerate();
    let assigned = sockets.map(|(index, (pool, passed))| settle(index, pool, passed, &mut notices)).collect();
    Ok((assigned, notices))
}

const UNWANTED: &str = "no pool wants it: write FileDescriptorName= with a pool's name in its socket unit, \
    write its address in a pool's listen, or stop its socket unit";

/// What is left to bind for `pool`, and what is worth a notice.
fn settle(index: usize, pool: &Pool, passed: Vec<Listener>, notices: &mut Vec<Notice>) -> Assigned {
    let foreign = passed.iter().find(|listener| !pool.listen.contains(listener.address()));
    if let Some(listener) = foreign {
        notices.push(Notice::OtherAddress {
            pool: pool.name.clone(),
            passed: listener.address().clone(),
            file: pool.listen.clone(),
        });
    }
    if !passed.is_empty() && says_socket(pool) {
        notices.push(Notice::SocketIgnored { pool: pool.name.clone() });
    }
    let is_passed = |listen: &Listen| passed.iter().any(|listener| listener.address() == listen);
    let unbound = match foreign {
        Some(_) => Vec::new(),
        None => pool.listen.iter().filter(|listen| !is_passed(listen)).cloned().collect(),
    };
    Assigned { pool: index, passed, unbound }
}

/// Whether the pool's file says something in `[socket]`, as far as that can be
/// told from values that differ from the defaults.
fn says_socket(pool: &Pool) -> bool {
    let socket = &pool.socket;
    socket.owner != pool.user.uid
        || socket.group != pool.user.gid
        || socket.mode.bits() != 0o660
        || socket.backlog != 511
}

/// Binds the addresses of `pool` that none of `listeners` has.
///
/// # Errors
/// The first that cannot be bound; what was bound before it stays in `listeners`.
pub fn complete(pool: &Pool, listeners: &mut Vec<Listener>) -> Result<(), ActivationError> {
    for address in &pool.listen {
        if !listeners.iter().any(|listener| listener.address() == address) {
            listeners.push(bind(address, &pool.socket).map_err(|error| error.of(&pool.name))?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::path::PathBuf;
    use std::time::Duration;

    use super::super::error::Passed;
    use super::*;
    use crate::config::pool::{
        Engine, Fpm, Idle, ImageRef, Limits, OnFailure, Php, ProfileRef, Socket, Start,
    };
    use crate::config::types::{Account, Mode, Patience};

    fn pool(name: &str, listen: &[&str]) -> Pool {
        Pool {
            name: name.parse().unwrap(),
            file: PathBuf::from(format!("/etc/howdah/pools/{name}.toml")),
            listen: listen.iter().map(|text| text.parse().unwrap()).collect(),
            user: Account { name: "blog".into(), uid: 1000, gid: 1000 },
            image: ImageRef::Host,
            profile: ProfileRef::Named("hosting".into()),
            engine: Engine::Native,
            socket: Socket { owner: 1000, group: 1000, mode: Mode::new(0o660), backlog: 511 },
            mounts: Vec::new(),
            idle: Idle { freeze: Patience::Never, stop: Patience::Never },
            limits: Limits::default(),
            network: None,
            sockets: Vec::new(),
            fpm: Fpm::default(),
            php: Php::default(),
            start: Start {
                timeout: Duration::from_secs(10),
                on_failure: OnFailure::Answer503,
                template: None,
            },
        }
    }

    fn socket(number: i32, name: Option<&str>, address: &str) -> Inherited {
        let passed = Passed { number, name: name.map(String::from), address: Some(address.into()) };
        Inherited { passed, address: address.parse().unwrap(), fd: File::open("/dev/null").unwrap().into() }
    }

    /// Each pool's sockets as text: what was passed, then what is to be bound.
    fn told(pools: &[Pool], sockets: Vec<Inherited>) -> (Vec<(String, String)>, Vec<String>) {
        let (assigned, notices) = assign(pools, sockets).unwrap();
        let told = assigned.iter().enumerate().map(|(index, it)| {
            assert_eq!(it.pool, index);
            let passed: Vec<String> = it.passed.iter().map(|it| it.address().to_string()).collect();
            let unbound: Vec<String> = it.unbound.iter().map(Listen::to_string).collect();
            (passed.join(" "), unbound.join(" "))
        });
        (told.collect(), notices.iter().map(Notice::to_string).collect())
    }

    fn refused(pools: &[Pool], sockets: Vec<Inherited>) -> Vec<String> {
        assign(pools, sockets).unwrap_err().iter().map(ActivationError::to_string).collect()
    }

    #[test]
    fn an_address_finds_its_pool_and_the_rest_is_left_to_bind() {
        let pools = [pool("blog", &["/run/b.sock", "[::]:9000"]), pool("shop", &["127.0.0.1:9001"])];
        let (told, notices) = told(&pools, vec![socket(3, None, "[::]:9000")]);
        assert_eq!(
            told,
            [("[::]:9000".into(), "/run/b.sock".into()), (String::new(), "127.0.0.1:9001".into())]
        );
        assert_eq!(notices, [] as [&str; 0]);
    }

    #[test]
    fn several_sockets_share_a_name() {
        let pools = [pool("blog", &["/run/b.sock", "[::1]:9000", "127.0.0.1:1"])];
        let sockets = vec![socket(3, Some("blog"), "/run/b.sock"), socket(4, Some("blog"), "[::1]:9000")];
        let (told, notices) = told(&pools, sockets);
        assert_eq!(told, [("/run/b.sock [::1]:9000".into(), "127.0.0.1:1".into())]);
        assert_eq!(notices, [] as [&str; 0]);
    }

    #[test]
    fn a_name_goes_before_the_address_of_the_file() {
        let pools = [pool("blog", &["/run/b.sock"])];
        let (told, notices) = told(&pools, vec![socket(3, Some("blog"), "127.0.0.1:9000")]);
        assert_eq!(told, [("127.0.0.1:9000".into(), String::new())]);
        assert_eq!(
            notices,
            ["pool blog: systemd passes 127.0.0.1:9000 by this name, its file says /run/b.sock: \
              what systemd passes is used, and nothing else is bound"]
        );
    }

    #[test]
    fn a_name_that_is_no_pool_leaves_it_to_the_address() {
        let pools = [pool("blog", &["/run/b.sock"])];
        let (told, _) = told(&pools, vec![socket(3, Some("blog.socket"), "/run/b.sock")]);
        assert_eq!(told, [("/run/b.sock".into(), String::new())]);
    }

    #[test]
    fn socket_keys_are_ignored_with_a_notice() {
        let mut blog = pool("blog", &["/run/b.sock"]);
        blog.socket.mode = Mode::new(0o666);
        let (_, notices) = told(&[blog], vec![socket(3, None, "/run/b.sock")]);
        assert_eq!(
            notices,
            ["pool blog: [socket] is ignored: systemd passes its socket, \
              whose unit says SocketUser=, SocketGroup=, SocketMode= and Backlog="]
        );
    }

    #[test]
    fn every_socket_that_no_pool_wants_is_named() {
        let pools = [pool("blog", &["/run/b.sock"])];
        let sockets = vec![socket(3, Some("blgo"), "127.0.0.1:9000"), socket(4, None, "/run/c.sock")];
        assert_eq!(
            refused(&pools, sockets),
            [
                format!("passed descriptor 3 (\"blgo\", 127.0.0.1:9000): {UNWANTED}"),
                format!("passed descriptor 4 (/run/c.sock): {UNWANTED}"),
            ]
        );
    }

    #[test]
    fn a_name_and_an_address_of_different_pools_contradict() {
        let pools = [pool("blog", &["/run/b.sock"]), pool("shop", &["/run/s.sock"])];
        assert_eq!(
            refused(&pools, vec![socket(3, Some("blog"), "/run/s.sock")]),
            ["passed descriptor 3 (\"blog\", /run/s.sock): its name is pool blog's and its address \
              pool shop's: change one of them"]
        );
    }

    #[test]
    fn an_address_that_cannot_be_bound_is_named_with_its_pool() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(at("file"), "").unwrap();
        let mut shop = pool("shop", &[&at("good"), &at("file")]);
        shop.socket.owner = nix::unistd::geteuid().as_raw();
        shop.socket.group = nix::unistd::getegid().as_raw();
        let mut listeners = Vec::new();
        let line = format!(
            "pool shop: bind {}: Address already in use (EADDRINUSE): \
             a regular file is there: move it away or choose another path",
            at("file")
        );
        assert_eq!(complete(&shop, &mut listeners).unwrap_err().to_string(), line);
        assert_eq!(listeners.len(), 1);
        assert!(listeners.into_iter().all(|listener| listener.close_and_unlink().is_ok()));
        assert!(!std::fs::exists(at("good")).unwrap());
    }
}
