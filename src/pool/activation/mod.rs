//! The listening sockets of the pools: those that systemd passes
//! (sd_listen_fds(3), systemd.socket(5)) and those that howdah binds itself.
//!
//! The kernel's listen queue is the only buffer, so a socket here is never
//! accepted on, and outlives every generation that is given a copy of it. What
//! a generation does to its copy it does to ours (one open file description):
//! hence [`Listener::make_blocking`] before each start and [`Listener::mend`]
//! after each end.
//!
//! In the order of a start of `serve`: [`inherited()`], before anything else
//! opens a descriptor; [`close_other_descriptors`], with those kept;
//! [`assign()`]; then [`bind()`] for every address that nobody passed.
//!
//! This room knows nothing of containers, php-fpm or what state a pool is in.

mod assign;
mod bind;
mod diag;
mod error;
mod inherited;
mod listener;
mod mend;
mod options;

pub use assign::{Assigned, Notice, assign, complete};
pub use bind::bind;
pub use error::{ActivationError, Passed};
pub use inherited::{Inherited, close_other_descriptors, inherited};
pub use listener::{Health, Identity, Listener, Origin};
pub use mend::{Harm, Mended};
