//! What every bench can be told.

use std::path::PathBuf;
use std::process::ExitCode;

use super::php::Stage;
use super::{Outcome, fence};

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

impl Shared {
    /// Runs `measure`, the bench called `name`, inside the fence.
    pub(crate) fn run(&self, name: &str, measure: impl FnOnce(Stage) -> Outcome) -> ExitCode {
        if !self.bench {
            println!("{name}: nothing measured: run it by `cargo bench --bench {name}`");
            return ExitCode::SUCCESS;
        }
        fence::run(|scratch| measure(Stage::set(scratch, self.php_fpm.clone(), &self.user)?))
    }
}
