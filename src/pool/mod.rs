//! The life of pools: their sockets, their states, the supervisor's loop.

pub mod activation;
pub mod admission;
pub mod adoption;
pub mod budget;
pub mod events;
pub mod generation;
pub mod graves;
pub mod limits;
pub mod machine;
pub mod outbound;
pub mod prepare;
pub mod quiesce;
pub mod record;
pub mod refuse;
pub mod slot;
pub mod supervisor;
pub mod tcp_listener;
pub mod templates;
