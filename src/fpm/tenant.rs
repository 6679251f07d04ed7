//! A tenant's own php-fpm configuration.
use std::path::Path;

/// A tenant's own php-fpm configuration, read and judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantFile {}

/// Why a tenant's file is refused.
#[derive(Debug, thiserror::Error)]
pub enum TenantError {}

impl TenantFile {
    /// Reads the text of `file` (named in errors only).
    pub fn parse(_text: &str, _file: &Path) -> Result<Self, TenantError> {
        todo!()
    }
}

/// Reads the tenant's file at `path`, which the account `uid`, `gid` must be able to read.
pub fn read_tenant_file(_path: &Path, _uid: u32, _gid: u32) -> Result<TenantFile, TenantError> {
    todo!()
}
