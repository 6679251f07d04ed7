//! What php-fpm is started with: the text of its configuration, its arguments
//! and its environment.

use std::os::fd::RawFd;
use std::path::Path;
use std::time::Duration;

use super::tenant::TenantFile;
use crate::config::pool::Pool;

/// Why no configuration can be written for a pool.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfError {}

/// A php-fpm configuration, and what goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration {
    /// The text of php-fpm.conf.
    pub text: String,
    /// For each listening socket, in order, its key in FPM_SOCKETS: goes into [`environment`].
    pub keys: Vec<String>,
    /// What of the tenant's own file is not in force, one line each.
    pub notices: Vec<String>,
}

/// The configuration of `pool` for `listeners` inherited sockets, which drains for `drain` at SIGQUIT.
pub fn configuration(
    _pool: &Pool,
    _listeners: usize,
    _drain: Duration,
    _tenant: Option<&TenantFile>,
) -> Result<Configuration, ConfError> {
    todo!()
}

/// The key of the `index`th listening socket (from 0): a path that exists in no file system.
pub fn key(_index: usize) -> String {
    todo!()
}

/// php-fpm's arguments, its own name first.
pub fn command(_binary: &Path, _conf_path: &Path) -> Vec<String> {
    todo!()
}

/// php-fpm's environment: FPM_SOCKETS, PATH, and PHP_INI_SCAN_DIR when extensions are limited.
pub fn environment(_listeners: &[(String, RawFd)], _scan_dir: Option<&Path>) -> Vec<(String, String)> {
    todo!()
}
