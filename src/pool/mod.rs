//! The life of pools: their sockets, their states, the supervisor's loop.

pub mod machine;
