//! What every bench can be told.

use std::path::PathBuf;

/// Beside what a bench has of its own.
#[derive(clap::Args)]
pub(crate) struct Shared {
    /// The account that php-fpm runs as, and whatever stands before it
    #[arg(long, default_value = "www-data")]
    pub(crate) user: String,
    /// The php-fpm to run; default: the newest in /usr/sbin
    #[arg(long, value_name = "FILE")]
    pub(crate) php_fpm: Option<PathBuf>,
    /// Write all that was measured to FILE
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// What cargo bench adds; without it (cargo test) nothing is measured
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
}
