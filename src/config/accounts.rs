//! Accounts of the host by name, behind a trait: reading a pool file needs no
//! host then, in tests and in the fuzzer.

use std::cell::RefCell;
use std::collections::HashMap;

use nix::errno::Errno;
use nix::unistd::{Group, Uid, User, getegid, geteuid};

use super::types::Account;

/// Where users and groups are looked up.
pub trait Accounts {
    /// The account of this name; `None`: there is none.
    fn user(&self, name: &str) -> Result<Option<Account>, Errno>;

    /// The group id of this name; `None`: there is none.
    fn group(&self, name: &str) -> Result<Option<u32>, Errno>;

    /// Without root: the account howdah runs as, and the only one its pools can have.
    fn caller(&self) -> Option<Account>;
}

/// This host's accounts (passwd(5), and whatever nsswitch.conf(5) adds). Asks
/// once for each name: make a new one for each load.
#[derive(Debug, Default)]
pub struct HostAccounts {
    users: RefCell<HashMap<Box<str>, Option<Account>>>,
    groups: RefCell<HashMap<Box<str>, Option<u32>>>,
    caller: RefCell<Option<Option<Account>>>,
}

impl Accounts for HostAccounts {
    fn user(&self, name: &str) -> Result<Option<Account>, Errno> {
        if let Some(known) = self.users.borrow().get(name) {
            return Ok(known.clone());
        }
        let found = found(User::from_name(name))?.map(|user| account(&user));
        self.users.borrow_mut().insert(name.into(), found.clone());
        Ok(found)
    }

    fn group(&self, name: &str) -> Result<Option<u32>, Errno> {
        if let Some(known) = self.groups.borrow().get(name) {
            return Ok(*known);
        }
        let found = found(Group::from_name(name))?.map(|group| group.gid.as_raw());
        self.groups.borrow_mut().insert(name.into(), found);
        Ok(found)
    }

    fn caller(&self) -> Option<Account> {
        self.caller.borrow_mut().get_or_insert_with(current).clone()
    }
}

/// The account of an unprivileged howdah; one without a passwd entry is told
/// by its number.
fn current() -> Option<Account> {
    let uid = geteuid();
    if uid.is_root() {
        return None;
    }
    let name = name_of(uid).unwrap_or_else(|| uid.to_string().into());
    Some(Account { name, uid: uid.as_raw(), gid: getegid().as_raw() })
}

fn name_of(uid: Uid) -> Option<Box<str>> {
    User::from_uid(uid).ok().flatten().map(|user| user.name.into())
}

fn account(user: &User) -> Account {
    Account { name: user.name.as_str().into(), uid: user.uid.as_raw(), gid: user.gid.as_raw() }
}

/// Some name services say "no such name" by one of these errors (getpwnam(3)).
fn found<T>(answer: Result<Option<T>, Errno>) -> Result<Option<T>, Errno> {
    match answer {
        Err(Errno::ENOENT | Errno::ESRCH | Errno::EBADF | Errno::EPERM) => Ok(None),
        other => other,
    }
}

/// Accounts that are written down, for tests and the fuzzer.
#[derive(Debug, Clone, Default)]
pub struct ListedAccounts {
    /// The users there are.
    pub users: Vec<Account>,
    /// The groups there are, name and id.
    pub groups: Vec<(Box<str>, u32)>,
    /// The account of an unprivileged howdah.
    pub caller: Option<Account>,
}

impl Accounts for ListedAccounts {
    fn user(&self, name: &str) -> Result<Option<Account>, Errno> {
        Ok(self.users.iter().find(|user| &*user.name == name).cloned())
    }

    fn group(&self, name: &str) -> Result<Option<u32>, Errno> {
        Ok(self.groups.iter().find(|(group, _)| &**group == name).map(|(_, gid)| *gid))
    }

    fn caller(&self) -> Option<Account> {
        self.caller.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_asked_once_for_each_name() {
        let host = HostAccounts::default();
        for _ in 0..2 {
            assert_eq!(host.user("root").unwrap().map(|root| (root.uid, root.gid)), Some((0, 0)));
            assert_eq!(host.user("no-such-user-here"), Ok(None));
            assert_eq!(host.group("root"), Ok(Some(0)));
            assert_eq!(host.group("no-such-group-here"), Ok(None));
        }
        assert_eq!((host.users.borrow().len(), host.groups.borrow().len()), (2, 2));
        let caller = host.caller().map(|caller| caller.uid);
        assert_eq!(caller, Some(geteuid().as_raw()).filter(|uid| *uid != 0));
    }
}
