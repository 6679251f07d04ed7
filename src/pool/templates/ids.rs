//! Uids on the host that belong to nobody but one sandbox.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::NoTemplates;
use crate::config::types::IdRange;

/// Refuses ids that an account has, or somebody's containers (passwd(5), group(5), subuid(5)).
pub(super) fn refuse_taken(range: IdRange) -> Result<(), NoTemplates> {
    for (file, what) in [("/etc/passwd", "uid"), ("/etc/group", "gid")] {
        let text = fs::read_to_string(file).unwrap_or_default();
        for line in text.lines() {
            let mut fields = line.split(':');
            let (Some(name), Some(Ok(id))) = (fields.next(), fields.nth(1).map(str::parse)) else { continue };
            if range.contains(id) {
                return Err(NoTemplates::Taken { whose: format!("{what} {id} of {name}"), file, range });
            }
        }
    }
    for file in ["/etc/subuid", "/etc/subgid"] {
        let text = fs::read_to_string(file).unwrap_or_default();
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
        for _ in 0..self.range.count() {
            let id = self.next;
            self.next = if id == self.range.last { self.range.first } else { id + 1 };
            if self.used.insert(id) {
                // Before it is used: a howdah that dies now leaves it out.
                fs::write(&self.file, format!("{}\n", self.next))?;
                return Ok(Some(id));
            }
        }
        Ok(None)
    }
}
