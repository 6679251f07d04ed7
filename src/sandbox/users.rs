//! A user namespace that exists only to be named by an id-mapped mount
//! (mount_setattr(2), "ID-mapped mounts"): who owns what on the disk, as it is to be seen.

use std::os::fd::OwnedFd;

use nix::unistd::Pid;

use super::keeper::Keeper;

/// A user namespace whose maps are written when it is known whose files are to be whose.
#[derive(Debug)]
pub(super) struct Users(Keeper);

impl Users {
    /// Makes one ahead of its use.
    ///
    /// # Errors
    /// Those of clone3(2).
    pub(super) fn new() -> nix::Result<Self> {
        Keeper::new(0, || ()).map(Self)
    }

    /// The process that keeps it.
    pub(super) fn pid(&self) -> Pid {
        self.0.pid()
    }

    /// Writes maps in which `(uid, gid)` and `other` change places and everybody else is as on the
    /// disk: what belongs to the one shows as the other's, and what the other makes belongs to the
    /// one. Files of third parties keep their owners.
    ///
    /// # Errors
    /// That of writing the maps: EPERM where this process's own user namespace does not have all ids.
    pub(super) fn exchange(&self, one: (u32, u32), other: (u32, u32)) -> nix::Result<OwnedFd> {
        self.0.map(&exchanging(one.0, other.0), &exchanging(one.1, other.1))?;
        self.0.namespace("user")
    }
}

/// A map of all ids to themselves, but for two that change places (user_namespaces(7); five
/// lines at most, which every kernel takes).
fn exchanging(one: u32, other: u32) -> String {
    let (low, high) = (u64::from(one.min(other)), u64::from(one.max(other)));
    // The last number is none of anybody's.
    let end = u64::from(u32::MAX);
    let all = [(0, 0, low), (low, high, 1), (low + 1, low + 1, high.saturating_sub(low + 1)), (high, low, 1)];
    let mut lines: Vec<_> = if low == high { vec![(0, 0, end)] } else { all.to_vec() };
    if low != high {
        lines.push((high + 1, high + 1, end - (high + 1)));
    }
    let lines = lines.iter().filter(|(_, _, count)| *count > 0);
    lines.map(|(inside, outside, count)| format!("{inside} {outside} {count}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_ids_change_places_and_all_others_stay() {
        assert_eq!(exchanging(1000, 5), "0 0 5\n5 1000 1\n6 6 994\n1000 5 1\n1001 1001 4294966294\n");
        assert_eq!(exchanging(0, 1), "0 1 1\n1 0 1\n2 2 4294967293\n");
        assert_eq!(exchanging(7, 7), "0 0 4294967295\n");
    }
}
