//! howdah: a container-oriented, on-demand launcher of PHP sandboxes.
//!
//! The rooms, from the bottom up; a room imports only rooms above it in this
//! list (`tests/rooms.rs` holds the order):
//!
//! - [`sys`]: system calls that no library wraps; the only `unsafe`.
//! - [`paths`]: opening paths of which somebody else may own a part.
//! - [`attack`]: what `audit` tries from inside a sandbox.
//! - [`journal`]: one line out: to stderr or to systemd's journal.
//! - [`config`]: pool files and profiles, from text to typed values.
//! - [`fpm`]: php-fpm: its configuration, its log, the FastCGI protocol.
//! - [`image`]: what a pool's root is.
//! - [`spec`]: pool, profile and image, told as an OCI runtime spec.
//! - [`sandbox`]: an OCI runtime spec, made real by the kernel.
//! - [`pool`]: the life of pools: sockets, states, the supervisor's loop.
//! - [`cli`]: what a person types.
//! - [`command`]: what it does.

pub mod attack;
pub mod cli;
pub mod command;
pub mod config;
pub mod fpm;
pub mod image;
pub mod journal;
pub mod paths;
pub mod pool;
pub mod sandbox;
pub mod spec;
pub mod sys;
