//! The accounts that a pool file names, looked up.

use nix::errno::Errno;
use toml::Spanned;

use super::accounts::Accounts;
use super::error::{ConfigError, told};
use super::explain::Source;
use super::types::Account;

/// `user`: an account that php-fpm may run as.
pub(super) fn pool_user(
    name: &Spanned<String>,
    source: Source<'_>,
    accounts: &dyn Accounts,
) -> Result<Account, ConfigError> {
    let user = there(accounts.user(name.get_ref()), "user", name, source)?;
    let name_is = format!("user {:?}", name.get_ref());
    let what = match accounts.caller() {
        Some(caller) if caller.uid != user.uid => format!(
            "{name_is}: without root howdah starts pools of {:?} alone: run it as root, or leave user out",
            caller.name
        ),
        None if user.uid == 0 => format!("{name_is} is root: name an unprivileged account"),
        None if user.gid == 0 => {
            format!("{name_is} has root's group (gid 0): name an account with a group of its own")
        }
        _ => return Ok(user),
    };
    Err(source.error(&name.span(), what))
}

/// `socket.owner`
pub(super) fn owner_id(
    name: &Spanned<String>,
    source: Source<'_>,
    accounts: &dyn Accounts,
) -> Result<u32, ConfigError> {
    there(accounts.user(name.get_ref()), "socket.owner", name, source).map(|user| user.uid)
}

/// `socket.group`
pub(super) fn group_id(
    name: &Spanned<String>,
    source: Source<'_>,
    accounts: &dyn Accounts,
) -> Result<u32, ConfigError> {
    there(accounts.group(name.get_ref()), "socket.group", name, source)
}

/// What was found under `name`, or the error that says why nothing was.
fn there<T>(
    answer: Result<Option<T>, Errno>,
    key: &str,
    name: &Spanned<String>,
    source: Source<'_>,
) -> Result<T, ConfigError> {
    let why = match answer {
        Ok(Some(found)) => return Ok(found),
        Ok(None) => "does not exist on this host: create it or name another".to_owned(),
        Err(errno) => format!("cannot be looked up: {}", told(errno)),
    };
    Err(source.error(&name.span(), format!("{key} {:?} {why}", name.get_ref())))
}
