//! Uids on the host that belong to nobody but one sandbox.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use super::NoTemplates;
use crate::config::types::IdRange;
use crate::sys;

/// Refuses ids that an account has, or somebody's containers (passwd(5), group(5), subuid(5)).
pub(super) fn refuse_taken(range: IdRange) -> Result<(), NoTemplates> {
    refuse_taken_by(range, |file| fs::read_to_string(file).unwrap_or_default())
}

fn refuse_taken_by(range: IdRange, read: impl Fn(&str) -> String) -> Result<(), NoTemplates> {
    // Of passwd(5) the third field and the fourth, which no line of group(5) need say.
    for (file, what, field) in
        [("/etc/passwd", "uid", 2), ("/etc/passwd", "gid", 3), ("/etc/group", "gid", 2)]
    {
        let text = read(file);
        for line in text.lines() {
            let fields: Vec<&str> = line.split(':').collect();
            let Some(Ok(id)) = fields.get(field).map(|id| id.parse()) else { continue };
            if range.contains(id) {
                let whose = format!("{what} {id} of {}", fields[0]);
                return Err(NoTemplates::Taken { whose, file, range });
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

/// What all howdahs of a host lock their ids in: a byte for each.
const CLAIMS: &str = "/run/howdah.template-ids";

/// Ids on the host that belong to one sandbox each, for as long as anything of it lives.
#[derive(Debug)]
pub(super) struct Ids {
    range: IdRange,
    next: u32,
    used: HashSet<u32>,
    file: PathBuf,
    claims: File,
}

impl Ids {
    /// Goes on where the last howdah with this state directory ended.
    ///
    /// # Errors
    /// There is nothing to lock them in.
    pub(super) fn open(range: IdRange, state: &Path) -> Result<Self, NoTemplates> {
        Self::open_with(range, state, Path::new(CLAIMS))
    }

    fn open_with(range: IdRange, state: &Path, claims: &Path) -> Result<Self, NoTemplates> {
        let file = state.join("template-ids");
        let last = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok());
        let next = last.filter(|next| range.contains(*next)).unwrap_or(range.first);
        let mut create = OpenOptions::new();
        create.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let opened = create.open(claims);
        let claims = opened
            .map_err(|error| NoTemplates::Claims { path: claims.to_owned(), told: sys::told(&error) })?;
        Ok(Self { range, next, used: HashSet::new(), file, claims })
    }

    /// The next that nobody has; `None` where all are given out.
    pub(super) fn take(&mut self) -> io::Result<Option<u32>> {
        // The kernel knows of more than the howdahs of today: generations of an earlier one, and
        // whatever else may have run as one of these.
        self.take_unless(sys::has_processes)
    }

    fn take_unless(&mut self, is_alive: impl Fn(u32) -> bool) -> io::Result<Option<u32>> {
        for _ in 0..self.range.count() {
            let id = self.next;
            self.next = if id == self.range.last { self.range.first } else { id + 1 };
            if self.used.contains(&id) || !self.claim(id)? {
                continue;
            }
            // Asked behind the lock: before it, another howdah may be about to start something.
            if is_alive(id) {
                self.release(id);
                continue;
            }
            // Before it is used: a howdah that dies now leaves it out.
            if let Err(error) = fs::write(&self.file, format!("{}\n", self.next)) {
                self.release(id);
                return Err(error);
            }
            self.used.insert(id);
            return Ok(Some(id));
        }
        Ok(None)
    }

    /// Nothing of what had `id` is left.
    pub(super) fn give_back(&mut self, id: u32) {
        if self.used.remove(&id) {
            self.release(id);
        }
    }

    /// Whether no other howdah of the host has it. With this one's end the lock is gone, and whoever
    /// runs as `id` is what keeps it from others.
    fn claim(&self, id: u32) -> io::Result<bool> {
        match self.lock(id, libc::F_WRLCK) {
            Ok(()) => Ok(true),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    fn release(&self, id: u32) {
        let _ = self.lock(id, libc::F_UNLCK);
    }

    /// F_OFD_SETLK (fcntl_locking(2)): of the open file, for a process's own locks would go with any
    /// descriptor of the file that it closes.
    fn lock(&self, id: u32, kind: i32) -> nix::Result<()> {
        let lock = libc::flock {
            l_type: kind as i16,
            l_whence: libc::SEEK_SET as i16,
            l_start: id.into(),
            l_len: 1,
            l_pid: 0,
        };
        fcntl(self.claims.as_raw_fd(), FcntlArg::F_OFD_SETLK(&lock)).map(drop)
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
        let primary = "blog:x:5:100000::/:\n";
        assert_eq!(told("/etc/passwd", primary), line("gid 100000 of blog", "/etc/passwd"));
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
        let claims = state.path().join("claims");
        let open = |state: &Path| Ids::open_with(range, state, &claims).unwrap();
        let mut ids = open(state.path());
        assert_eq!(ids.take_unless(nobody).unwrap(), Some(100_000));
        assert_eq!(ids.take_unless(nobody).unwrap(), Some(100_001));
        ids.give_back(100_000);
        assert_eq!(ids.take_unless(nobody).unwrap(), Some(100_002), "not the one that was just given back");
        assert_eq!(ids.take_unless(nobody).unwrap(), Some(100_000));
        assert_eq!(ids.take_unless(nobody).unwrap(), None);
        // Another howdah gets none of them meanwhile.
        let elsewhere = tempfile::tempdir().unwrap();
        let mut other = open(elsewhere.path());
        assert_eq!(other.take_unless(nobody).unwrap(), None);
        ids.give_back(100_002);
        assert_eq!(other.take_unless(nobody).unwrap(), Some(100_002));
        assert_eq!(ids.take_unless(nobody).unwrap(), None);
        drop((ids, other));
        // The next howdah goes on where this one ended.
        let mut next = open(state.path());
        assert_eq!(next.take_unless(nobody).unwrap(), Some(100_001));
        // One that could not be written down is nobody's.
        fs::remove_file(&next.file).unwrap();
        fs::create_dir(&next.file).unwrap();
        next.take_unless(nobody).unwrap_err();
        fs::remove_dir(&next.file).unwrap();
        assert_eq!(next.take_unless(nobody).unwrap(), Some(100_000));
        assert_eq!(next.take_unless(nobody).unwrap(), Some(100_002));
        next.give_back(100_000);
        next.give_back(100_002);
        // And leaves out what still runs, of which it has no list.
        assert_eq!(next.take_unless(|id| id == 100_002).unwrap(), Some(100_000));
        assert_eq!(next.take_unless(|id| id == 100_002).unwrap(), None);
    }
}
