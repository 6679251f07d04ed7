//! Pool files and profiles: from text to typed values.
//!
//! A file goes one way: text, `raw` serde structs, a `draft` with its
//! accounts looked up, and with the defaults below it a [`pool::Pool`]. What
//! is wrong with it is one line with a place ([`ConfigError`]).
//!
//! This room starts nothing and opens nothing but its files; what a pool names
//! on the host is looked at by [`check_host`] alone.

mod accounts;
mod amounts;
pub mod directives;
mod draft;
mod error;
mod explain;
mod host;
mod keys;
mod load;
mod net;
pub mod network;
mod over;
mod php;
pub mod pool;
pub mod profile;
mod raw;
pub mod settings;
mod shapes;
#[cfg(test)]
mod tests;
pub mod types;
mod who;
mod words;

pub use accounts::{Accounts, HostAccounts, ListedAccounts};
pub use draft::Defaults;
pub use error::{ConfigError, Notice};
pub use host::check_host;
pub use load::{HOWDAH_TOML, Loaded, load_pool, load_pools, load_serve, parse_pool, parse_serve};
