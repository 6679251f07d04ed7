//! What a template has on the host beside its cgroup: a directory of its own, with its root
//! directory and, once it is a pool's, the name of that; and its id.

use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;
use std::rc::Rc;

use super::ids::Ids;
use crate::pool::prepare::Places;

/// What a generation that began as a template has on the host beside its cgroup. Dropped, it is gone.
#[derive(Debug)]
pub struct Lodging {
    /// Its uid and gid on the host.
    pub ids: (u32, u32),
    pub(super) directory: PathBuf,
    /// Where the id is given back; `None` of one that has an account's ids, or that an earlier howdah
    /// made, whose id nobody gets while a process has it.
    pub(super) lender: Option<Rc<RefCell<Ids>>>,
}

impl Lodging {
    /// The name of its cgroup.
    pub(super) fn name(&self) -> String {
        self.directory.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

impl Drop for Lodging {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
        // The last one takes the directory of all with it.
        let _ = self.directory.parent().map(fs::remove_dir);
        if let Some(lender) = &self.lender {
            lender.borrow_mut().give_back(self.ids.0);
        }
    }
}

/// The directory with one directory for each template: its name is its cgroup's.
pub(super) fn directory(places: &Places) -> PathBuf {
    places.runtime.join("templates")
}

/// Whether a cgroup of this name is a template's, or was. No pool's has such a name.
pub fn is_cgroup(name: &str) -> bool {
    name.starts_with("template-") && !name.contains('.')
}

/// Which pool's which generation the template called `name` has become, and what it has on the
/// host; `None` where it became nobody's.
pub fn find(places: &Places, name: &str) -> Option<(String, u64, Lodging)> {
    let directory = directory(places).join(name);
    let text = fs::read_to_string(directory.join("pool")).ok()?;
    let mut words = text.split_whitespace();
    let (pool, number) = (words.next()?, words.next()?.parse().ok()?);
    let ids = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    Some((pool.to_owned(), number, Lodging { ids, directory, lender: None }))
}

/// Removes what templates have left whose names are not among `kept`.
pub fn tidy(places: &Places, kept: &[String]) {
    for entry in fs::read_dir(directory(places)).into_iter().flatten().flatten() {
        if !kept.iter().any(|name| entry.file_name() == name.as_str()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let _ = fs::remove_dir(directory(places));
}
