//! What a php-fpm says of itself.
use std::path::{Path, PathBuf};

/// What `php-fpm -i` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// Its version.
    pub version: (u32, u32, u32),
    /// "Configuration File (php.ini) Path".
    pub ini_dir: PathBuf,
    /// "Loaded Configuration File".
    pub loaded_ini: Option<PathBuf>,
    /// "Scan this dir for additional .ini files".
    pub scan_dir: Option<PathBuf>,
    /// "Additional .ini files parsed", in order.
    pub scanned: Vec<PathBuf>,
    /// "extension_dir".
    pub extension_dir: PathBuf,
    /// Every module that is loaded, in small letters.
    pub modules: Vec<String>,
}

/// Why a php-fpm cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {}

impl Info {
    /// Reads the output of `binary -i`.
    pub fn parse(_text: &str, _binary: &Path) -> Result<Self, ProbeError> {
        todo!()
    }
}

/// The ini files to load for `wanted` and what they need, in their order.
pub fn select_extensions(_info: &Info, _wanted: &[String]) -> Result<Vec<PathBuf>, ProbeError> {
    todo!()
}
