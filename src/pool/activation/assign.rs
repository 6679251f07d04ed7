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
