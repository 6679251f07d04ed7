//! Uids on the host that belong to nobody but one sandbox.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::NoTemplates;
use crate::config::types::IdRange;
use crate::sys;

/// Refuses ids that an account has, or somebody's containers (passwd(5), group(5), subuid(5)).
pub(super) fn refuse_taken(range: IdRange) -> Result<(), NoTemplates> {
    refuse_taken_by(range, |file| fs::read_to_string(file).unwrap_or_default())
}

fn refuse_taken_by(range: IdRange, read: impl Fn(&str) -> String) -> Result<(), NoTemplates> {
    for (file, what) in [("/etc/passwd", "uid"), ("/etc/group", "gid")] {
        let text = read(file);
        for line in text.lines() {
            let mut fields = line.split(':');
            let (Some(name), Some(Ok(id))) = (fields.next(), fields.nth(1).map(str::parse)) else { continue };
            if range.contains(id) {
                return Err(NoTemplates::Taken { whose: format!("{what} {id} of {name}"), file, range });
            }
        }
    }
    for file in ["/etc/subuid", "/etc/subgid"] {
        let text = read(file);
        for line in text.lines() {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, first, count] = fields[..] else { continue };
            let (Ok(first), Ok(count)) = (first.parse::<u64>(), count.parse::<u64>()) else { continue };
            if first <= range.last.into() && first.saturating_add(count) > range.first.into() {
                let whose = format!("the range {first}+{count} of {name}");
                return Err(NoTemplates::Taken { whose, file, range });
            }
        }
    }
    Ok(())
}

/// Ids on the host that belong to one sandbox each, for as long as anything of it lives.
#[derive(Debug)]
pub(super) struct Ids {
    range: IdRange,
    next: u32,
    pub(super) used: HashSet<u32>,
    file: PathBuf,
}

impl Ids {
    /// Goes on where the last howdah with this state directory ended.
    pub(super) fn open(range: IdRange, state: &Path) -> Self {
        let file = state.join("template-ids");
        let last = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok());
        let next = last.filter(|next| range.contains(*next)).unwrap_or(range.first);
        Self { range, next, used: HashSet::new(), file }
    }

    /// The next that nobody has; `None` where all are given out.
    pub(super) fn take(&mut self) -> io::Result<Option<u32>> {
        // The kernel knows of more than this howdah: generations of an earlier one, another
        // howdah's, and whatever else may have run as one of these.
        self.take_unless(sys::has_processes)
    }

    fn take_unless(&mut self, is_alive: impl Fn(u32) -> bool) -> io::Result<Option<u32>> {
        for _ in 0..self.range.count() {
            let id = self.next;
            self.next = if id == self.range.last { self.range.first } else { id + 1 };
            if !is_alive(id) && self.used.insert(id) {
                // Before it is used: a howdah that dies now leaves it out.
                fs::write(&self.file, format!("{}\n", self.next))?;
                return Ok(Some(id));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_somebody_are_refused_by_name() {
        let range = IdRange { first: 100_000, last: 100_009 };
        let told = |file: &'static str, text: &'static str| {
            let read = move |asked: &str| if asked == file { text.to_owned() } else { String::new() };
            refuse_taken_by(range, read).err().map(|error| error.to_string())
        };
        let line = |whose: &str, file: &str| {
            let text = "lies in [serve] template_ids (100000-100009): choose another range";
            Some(format!("no templates: {whose} in {file} {text}"))
        };
        let blog = "root:x:0:0::/:\nblog:x:100009:5::/:\n";
        assert_eq!(told("/etc/passwd", blog), line("uid 100009 of blog", "/etc/passwd"));
        assert_eq!(told("/etc/group", "web:x:100000:\n"), line("gid 100000 of web", "/etc/group"));
        let subuid = "a:90000:10001\n";
        assert_eq!(told("/etc/subuid", subuid), line("the range 90000+10001 of a", "/etc/subuid"));
        assert_eq!(told("/etc/subgid", "a:100009:1\n"), line("the range 100009+1 of a", "/etc/subgid"));
        assert_eq!(told("/etc/subuid", "a:90000:10000\nb:100010:65536\nodd\n"), None);
        assert_eq!(told("/etc/passwd", "a:x:99999:0::/:\nb:x:100010:0::/:\n"), None);
    }

    #[test]
    fn an_id_is_given_out_once_and_not_again_while_it_is_used() {
        let state = tempfile::tempdir().unwrap();
        let range = IdRange { first: 100_000, last: 100_002 };
        let nobody = |_| false;
        let mut ids = Ids::open(range, state.path());
        assert_eq!(ids.take_unless(nobody).unwrap(), Some(100_000));
        assert_eq!(ids.take_unless(nobody).unwrap(), Some(100_001));
        ids.used.remove(&100_000);
        assert_eq!(ids.take_unless(nobody).unwrap(), Some(100_002), "not the one that was just given back");
        assert_eq!(ids.take_unless(nobody).unwrap(), Some(100_000));
        assert_eq!(ids.take_unless(nobody).unwrap(), None);
        // The next howdah goes on where this one ended.
        let mut next = Ids::open(range, state.path());
        assert_eq!(next.take_unless(nobody).unwrap(), Some(100_001));
        // And leaves out what still runs, of which it has no list.
        assert_eq!(next.take_unless(|id| id == 100_002).unwrap(), Some(100_000));
        assert_eq!(next.take_unless(|id| id == 100_002).unwrap(), None);
    }
}
