//! Tests of the room as a whole.

mod good;
mod host;
mod lines;
mod loading;
mod properties;

use std::path::Path;

use super::types::Account;
use super::{Defaults, ListedAccounts, load, pool::Pool};

/// Accounts as root sees them.
fn accounts() -> ListedAccounts {
    let user = |name: &str, uid, gid| Account { name: name.into(), uid, gid };
    ListedAccounts {
        users: vec![
            user("root", 0, 0),
            user("blog", 1001, 1001),
            user("shop", 1002, 1002),
            user("operator", 11, 0),
            user("www-data", 33, 33),
        ],
        groups: vec![("www-data".into(), 33)],
        caller: None,
    }
}

/// Accounts as `blog` sees them.
fn without_root() -> ListedAccounts {
    let all = accounts();
    ListedAccounts { caller: Some(all.users[1].clone()), ..all }
}

/// The pool in `text` as `/p/blog.toml`, or the line printed.
fn parse(text: &str) -> Result<Pool, String> {
    parse_over(text, &Defaults::default())
}

fn parse_over(text: &str, defaults: &Defaults) -> Result<Pool, String> {
    load::parse_pool(text, Path::new("/p/blog.toml"), defaults, &accounts()).map_err(|e| e.to_string())
}

/// The smallest pool with `more` below it, from line 3 on.
fn parse_more(more: &str) -> Result<Pool, String> {
    parse(&format!("listen = \"/run/blog.sock\"\nuser = \"blog\"\n{more}"))
}
