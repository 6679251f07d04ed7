//! Listening sockets: those that systemd passes, those that howdah binds, and
//! which pool each belongs to.
//!
//! The rules at the socket: the listener stays blocking and is never accepted
//! on while a generation runs; owner, mode and backlog are howdah's to set,
//! for php-fpm does not touch an inherited socket.

mod bind;
mod inherited;
mod listener;

use std::path::PathBuf;

use nix::errno::Errno;

pub use bind::bind;
pub use inherited::{Inherited, close_other_descriptors, inherited};
pub use listener::{Health, Listener, Origin};

use crate::config::pool::Pool;
use crate::config::types::Listen;

/// Why there is no such listening socket; one line each.
#[derive(Debug, thiserror::Error)]
pub enum ActivationError {
    /// A system call on an address refused.
    #[error("{step} {address}: {} ({errno:?}){hint}", errno.desc())]
    Refused {
        /// "bind", "listen", "chown" …
        step: &'static str,
        /// The address.
        address: String,
        /// The kernel's reason.
        errno: Errno,
        /// What to do, with its colon, where we know it.
        hint: &'static str,
    },
    /// A file that is no socket is in the place of one.
    #[error("bind {}: a file that is no socket is there: remove it or choose another path", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// systemd's environment cannot be read.
    #[error("LISTEN_FDS: {0}: it is systemd's to set (sd_listen_fds(3))")]
    Protocol(String),
    /// A passed descriptor is not what a pool can listen on.
    #[error("socket {name:?} (descriptor {number}, {address}) {why}")]
    Unfit {
        /// Its FDNAME.
        name: String,
        /// Its number.
        number: i32,
        /// Its address as far as it has one.
        address: String,
        /// What is wrong and what to do.
        why: &'static str,
    },
    /// No pool wants a passed socket.
    #[error(
        "socket {name:?} (descriptor {number}, {address}) belongs to no pool: set FileDescriptorName= to a \
         pool's name, or listen = {address:?} in a pool file"
    )]
    Unwanted {
        /// Its FDNAME.
        name: String,
        /// Its number.
        number: i32,
        /// Its address.
        address: String,
    },
}

/// The sockets of each pool, in the order of the pools.
#[derive(Debug, Default)]
pub struct Assigned {
    /// For each pool its listeners.
    pub listeners: Vec<Vec<Listener>>,
    /// What is not as the files say, and does not matter.
    pub notices: Vec<String>,
    /// What could not be had.
    pub errors: Vec<ActivationError>,
}

/// Gives each passed socket to the pool that its FDNAME names, else to the pool
/// with its address, and binds what is missing.
pub fn assign(pools: &[Pool], passed: Vec<Inherited>) -> Assigned {
    let mut assigned =
        Assigned { listeners: pools.iter().map(|_| Vec::new()).collect(), ..Assigned::default() };
    for socket in passed {
        let by_name = pools.iter().position(|pool| pool.name.as_str() == socket.name);
        let owner = by_name.or_else(|| pools.iter().position(|pool| pool.listen.contains(&socket.address)));
        let Some(index) = owner else {
            let Inherited { name, number, address, .. } = socket;
            assigned.errors.push(ActivationError::Unwanted { name, number, address: address.to_string() });
            continue;
        };
        let pool = &pools[index];
        if !pool.listen.contains(&socket.address) {
            assigned.notices.push(format!(
                "pool {}: systemd passes {} under its name; it listens there although its file does not say so",
                pool.name, socket.address
            ));
        }
        assigned.listeners[index].push(socket.into_listener());
    }
    for (pool, listeners) in pools.iter().zip(&mut assigned.listeners) {
        if let Err(error) = complete(pool, listeners) {
            assigned.errors.push(error);
        }
    }
    assigned
}

/// Binds the addresses of `pool` that `listeners` lacks. Where systemd passes
/// sockets under the pool's name, they are all it has: systemd's unit is the word then.
///
/// # Errors
/// The first address that cannot be bound.
pub fn complete(pool: &Pool, listeners: &mut Vec<Listener>) -> Result<(), ActivationError> {
    let renamed = listeners.iter().any(|one| one.is_passed() && !pool.listen.contains(one.address()));
    for address in pool.listen.iter().filter(|_| !renamed) {
        if !listeners.iter().any(|listener| listener.address() == address) {
            listeners.push(bind(address, &pool.socket)?);
        }
    }
    Ok(())
}

/// The error of a system call on `address`, with the fix where it is known.
fn refused(step: &'static str, address: &Listen, errno: Errno) -> ActivationError {
    let hint = match (errno, address) {
        (Errno::EADDRINUSE, Listen::Unix(_)) => {
            ": a live server listens there: stop it or choose another path"
        }
        (Errno::EADDRINUSE, Listen::Tcp(_)) => ": another program has the port: `ss -ltnp` tells which",
        (Errno::EACCES, Listen::Unix(_)) => {
            ": howdah may not write there: run it as root or choose another path"
        }
        (Errno::EACCES, Listen::Tcp(_)) => ": ports below 1024 need root (CAP_NET_BIND_SERVICE)",
        (Errno::EPERM, _) => ": run howdah as root, or take [socket] owner and group out of the pool file",
        (Errno::EADDRNOTAVAIL, _) => ": no interface of this host has the address",
        _ => "",
    };
    ActivationError::Refused { step, address: address.to_string(), errno, hint }
}
