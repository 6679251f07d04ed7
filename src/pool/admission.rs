//! A pool as the supervisor gets it: cold, or with a generation that an earlier
//! howdah has started, and what is to become of that.

use super::activation::Listener;
use super::adoption::Found;
use super::generation::Generation;
use super::quiesce::Door;
use super::record::Record;
use super::slot;
use crate::config::pool::Pool;
use crate::config::types::Listen;

/// A pool as serve hands it over.
pub struct Admission {
    /// Its file, read.
    pub pool: Pool,
    /// Its sockets.
    pub listeners: Vec<Listener>,
    /// What is known of its life before this howdah.
    pub record: Record,
    /// Its generation of an earlier howdah.
    pub adopted: Option<Adopted>,
}

impl Admission {
    /// A cold pool that is new.
    pub fn new(pool: Pool, listeners: Vec<Listener>) -> Self {
        Self { pool, listeners, record: Record::default(), adopted: None }
    }

    /// Takes over what an earlier howdah left of the pool: its generation, and of
    /// the addresses that nobody has passed the sockets.
    ///
    /// # Errors
    /// Those of looking at a socket.
    pub fn adopt(&mut self, found: Found, unbound: &[Listen]) -> nix::Result<()> {
        let Found { generation, listeners, uplink_lost } = found;
        let doors = listeners.iter().map(Door::of).collect::<nix::Result<Vec<_>>>()?;
        self.listeners.extend(listeners.into_iter().filter(|one| unbound.contains(one.address())));
        let same = self.record.configuration == Some(slot::fingerprint(&self.pool))
            && !uplink_lost
            && self.listeners.len() == doors.len()
            && self
                .listeners
                .iter()
                .all(|one| one.is_reachable() && doors.iter().any(|door| door.is_of(one)))
            && unbound.iter().all(|address| self.listeners.iter().any(|one| one.address() == address));
        let fate = if same { Fate::Keep } else { Fate::Replace };
        self.adopted = Some(Adopted { generation, doors, fate });
        Ok(())
    }
}

/// A generation as the supervisor takes it over.
pub struct Adopted {
    /// It.
    pub generation: Generation,
    /// What its sockets look like from outside.
    pub doors: Vec<Door>,
    /// What is to become of it.
    pub fate: Fate,
}

/// What becomes of a generation that was taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is what the pool's file asks for.
    Keep,
    /// It drains, and the pool becomes what its file asks for.
    Replace,
    /// It drains, and the pool is forgotten.
    End,
}
