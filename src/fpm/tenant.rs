//! A tenant's own php-fpm configuration (`[fpm] config`): read without trusting
//! the path, taken apart line by line, and kept but for what is howdah's.
//!
//! The lines that are kept are kept as they stand: php-fpm inside the sandbox
//! judges them. What is read differently here than there can only harm its own
//! tenant, for php-fpm has no right that its workers have not.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use crate::{paths, sys};

/// The longest file that is read.
pub const FILE_LIMIT: u64 = 256 << 10;

/// What howdah decides itself, and why a line that says otherwise is not in force.
const OURS: [(&str, &str); 20] = [
    ("listen", "howdah gives the pool its sockets"),
    ("listen.owner", "the pool file's [socket] owner decides"),
    ("listen.group", "the pool file's [socket] group decides"),
    ("listen.mode", "the pool file's [socket] mode decides"),
    ("listen.backlog", "the pool file's [socket] backlog decides"),
    ("listen.acl_users", "the pool file's [socket] decides"),
    ("listen.acl_groups", "the pool file's [socket] decides"),
    ("listen.setfib", "howdah gives the pool its sockets"),
    ("user", "the pool file's user decides"),
    ("group", "the pool file's user decides"),
    ("chroot", "the sandbox has a root of its own"),
    ("daemonize", "php-fpm is process 1 of its sandbox"),
    ("pid", "php-fpm is process 1 of its sandbox"),
    ("error_log", "the log comes out of howdah"),
    ("log_level", "the log comes out of howdah"),
    ("log_limit", "the log comes out of howdah"),
    ("log_buffering", "the log comes out of howdah"),
    ("syslog.ident", "the log comes out of howdah"),
    ("syslog.facility", "the log comes out of howdah"),
    ("process_control_timeout", "howdah's [serve] drain decides"),
];

/// Why howdah decides the directive `key` (in small letters) itself, if it does.
pub(super) fn ours(key: &str) -> Option<&'static str> {
    OURS.iter().find(|(ours, _)| *ours == key).map(|(_, why)| *why)
}

/// One line of a tenant's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its number, from 1.
    pub line: usize,
    /// What stands before the `=`; a plain directive in small letters.
    pub key: String,
    /// The line as it stands.
    pub text: String,
}

impl Entry {
    /// The name of the PHP setting that the line is about, if it is about one.
    pub fn setting(&self) -> Option<&str> {
        let (array, rest) = self.key.split_once('[')?;
        matches!(array, "php_value" | "php_flag" | "php_admin_value" | "php_admin_flag")
            .then(|| rest.trim_end_matches(']'))
    }
}

/// A tenant's own php-fpm configuration, read and judged.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TenantFile {
    /// The file, to be named in messages.
    pub file: PathBuf,
    /// What is kept of its global part.
    pub global: Vec<Entry>,
    /// What is kept of its pool section.
    pub pool: Vec<Entry>,
    /// What is not in force, one line each.
    pub notices: Vec<String>,
}

/// Why a tenant's file is refused.
#[derive(Debug, thiserror::Error)]
pub enum TenantError {
    /// It cannot be opened or read.
    #[error("read {0}: {1}")]
    Read(PathBuf, #[source] io::Error),
    /// It is a directory, a device, a FIFO.
    #[error("{0} is no regular file: [fpm] config must name one")]
    NotRegular(PathBuf),
    /// It is a symbolic link; another's file could hide behind it.
    #[error("{0} is a symbolic link: [fpm] config must name the file itself")]
    Link(PathBuf),
    /// A directory above it is a symbolic link that is not root's.
    #[error(
        "{0}: a directory above it is a symbolic link that is not root's: [fpm] config must name the file itself"
    )]
    LinkAbove(PathBuf),
    /// The pool's user may not read it.
    #[error("{file} is not readable by the pool's user (uid {uid}): a pool may bring only what it can read")]
    NotReadable {
        /// The file.
        file: PathBuf,
        /// The pool's user.
        uid: u32,
    },
    /// It is longer than [`FILE_LIMIT`].
    #[error("{0} is longer than {limit} KiB: php-fpm needs no such file", limit = FILE_LIMIT >> 10)]
    TooLong(PathBuf),
    /// A line that is refused.
    #[error("{file}:{line}: {reason}")]
    Line {
        /// The file.
        file: PathBuf,
        /// The line's number, from 1.
        line: usize,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// It has no pool section.
    #[error("{0} has no pool section: begin one with a line such as [www]")]
    NoPool(PathBuf),
}

impl TenantFile {
    /// Takes apart the text of `file` (which is only named).
    ///
    /// Each line stands for itself, as php-fpm has it (fpm_conf.c,
    /// `fpm_conf_load_ini_file`): no value goes past the end of its line.
    pub fn parse(text: &str, file: &Path) -> Result<Self, TenantError> {
        let mut read = Self { file: file.to_owned(), ..Self::default() };
        let mut pool: Option<String> = None;
        let mut in_pool = false;
        for (number, line) in text.split('\n').enumerate() {
            let parsed = parse_line(line)
                .and_then(|parsed| match parsed {
                    Parsed::Nothing => Ok(()),
                    Parsed::Section(name) if name.eq_ignore_ascii_case("global") => {
                        in_pool = false;
                        Ok(())
                    }
                    Parsed::Section(name) => {
                        in_pool = true;
                        let first = pool.get_or_insert_with(|| name.clone());
                        if first.eq_ignore_ascii_case(&name) {
                            Ok(())
                        } else {
                            Err(second_pool(first, &name))
                        }
                    }
                    Parsed::Entry(key, text) => {
                        read.keep(in_pool, Entry { line: number + 1, key, text });
                        Ok(())
                    }
                })
                .map_err(|reason| TenantError::Line { file: file.to_owned(), line: number + 1, reason });
            parsed?;
        }
        if pool.is_some() { Ok(read) } else { Err(TenantError::NoPool(file.to_owned())) }
    }

    fn keep(&mut self, in_pool: bool, entry: Entry) {
        match ours(&entry.key) {
            Some(why) => self.notices.push(self.notice(&entry, why)),
            None if in_pool => self.pool.push(entry),
            None => self.global.push(entry),
        }
    }

    /// The line that says why `entry` is not in force.
    pub(super) fn notice(&self, entry: &Entry, why: &str) -> String {
        format!("{}:{}: {} is not in force: {why}", self.file.display(), entry.line, entry.key)
    }
}

fn second_pool(first: &str, second: &str) -> String {
    format!("a second pool [{second}] beside [{first}]: give each pool a file of its own")
}

enum Parsed {
    Nothing,
    Section(String),
    Entry(String, String),
}

/// One line, or why it is refused: whatever php-fpm would take for something
/// else than it seems to be (zend_ini_scanner.l).
fn parse_line(line: &str) -> Result<Parsed, String> {
    let line = line.strip_suffix('\r').unwrap_or(line).trim_matches([' ', '\t']);
    if let Some(c) = line.chars().find(|c| matches!(c, '\r' | '\0')) {
        return Err(format!("contains {c:?}: remove it"));
    }
    if line.is_empty() || line.starts_with(';') {
        return Ok(Parsed::Nothing);
    }
    if line.starts_with('#') {
        return Err("php-fpm's comments begin with ';', not with '#'".to_owned());
    }
    if let Some(rest) = line.strip_prefix('[') {
        let (name, after) = rest.split_once(']').ok_or("a section without its ']'")?;
        let after = after.trim_start();
        if !after.is_empty() && !after.starts_with(';') {
            return Err("something stands behind the section's ']': give it a line of its own".to_owned());
        }
        return Ok(Parsed::Section(name.trim().to_owned()));
    }
    let (key, _) = line.split_once('=').ok_or("no '=': write key = value")?;
    let key = key.trim_end();
    if key.eq_ignore_ascii_case("include") {
        return Err("include is not followed: copy the lines of that file to here".to_owned());
    }
    let key = checked_key(key).ok_or_else(|| format!("{key:?} is no name of a directive"))?;
    Ok(Parsed::Entry(key, line.to_owned()))
}

/// `name` in small letters (php-fpm does not tell them apart), or `array[key]`
/// without the quotes and spaces that may stand in the brackets.
fn checked_key(key: &str) -> Option<String> {
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    match key.split_once('[') {
        None => (plain(key) && !key.is_empty()).then(|| key.to_ascii_lowercase()),
        Some((array, inside)) => {
            let name = inside.strip_suffix(']')?.trim_matches([' ', '\t', '"', '\'']);
            (plain(array) && plain(name)).then(|| format!("{array}[{name}]"))
        }
    }
}

/// Reads the file at `path`, which the pool's account `uid`, `gid` must be able
/// to read by its permission bits: howdah is root, and the path may be in the
/// tenant's hands.
pub fn read_tenant_file(path: &Path, uid: u32, gid: u32) -> Result<TenantFile, TenantError> {
    let failed = |source| TenantError::Read(path.to_owned(), source);
    // O_NONBLOCK: opening a FIFO would wait for a writer for ever.
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let (above, name) = (path.parent().unwrap_or(path), path.file_name().unwrap_or_default());
    // The tenant may own directories on the way: none of them is left by a link of the tenant's.
    let above = paths::open_trusted(above).map_err(|errno| match errno {
        Errno::ELOOP => TenantError::LinkAbove(path.to_owned()),
        other => failed(other.into()),
    })?;
    let file =
        openat(Some(above.as_raw_fd()), name, flags, Mode::empty()).map(|raw| File::from(sys::owned(raw)));
    let file = file.map_err(|errno| match errno {
        Errno::ELOOP => TenantError::Link(path.to_owned()),
        other => failed(other.into()),
    })?;
    let facts = file.metadata().map_err(failed)?;
    if !facts.is_file() {
        return Err(TenantError::NotRegular(path.to_owned()));
    }
    if !readable(&facts, uid, gid) {
        return Err(TenantError::NotReadable { file: path.to_owned(), uid });
    }
    TenantFile::parse(&read_text(file, path)?, path)
}

fn read_text(file: File, path: &Path) -> Result<String, TenantError> {
    let mut bytes = Vec::new();
    // One byte more than the limit: the file may grow while it is read.
    file.take(FILE_LIMIT + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| TenantError::Read(path.to_owned(), source))?;
    if bytes.len() as u64 > FILE_LIMIT {
        return Err(TenantError::TooLong(path.to_owned()));
    }
    String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        TenantError::Line { file: path.to_owned(), line, reason: "is not UTF-8: write it so".to_owned() }
    })
}

/// Whether the permission bits let `uid` and `gid` read (inode(7); access lists
/// and further groups do not count).
fn readable(facts: &Metadata, uid: u32, gid: u32) -> bool {
    let bit = match (facts.uid() == uid, facts.gid() == gid) {
        (true, _) => 0o400,
        (false, true) => 0o040,
        (false, false) => 0o004,
    };
    uid == 0 || facts.mode() & bit != 0
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use nix::unistd::{getegid, geteuid};
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<TenantFile, String> {
        TenantFile::parse(text, Path::new("/srv/fpm.conf")).map_err(|error| error.to_string())
    }

    fn texts(entries: &[Entry]) -> Vec<&str> {
        entries.iter().map(|entry| &*entry.text).collect()
    }

    #[test]
    fn what_is_not_ours_is_kept_as_it_stands() {
        let file = parse(
            "; mine\r\nerror_log = /x\nemergency_restart_threshold=3\n[www]\n Listen = 9000\n\
             pm = dynamic ; busy\nphp_admin_value[memory_limit] = \"64M\"\nenv[A] = $B\n[GLOBAL]\n\
             rlimit_files = 9\n[WWW]\nslowlog=/srv/slow.log\n",
        )
        .unwrap();
        assert_eq!(texts(&file.global), ["emergency_restart_threshold=3", "rlimit_files = 9"]);
        assert_eq!(
            texts(&file.pool),
            [
                "pm = dynamic ; busy",
                "php_admin_value[memory_limit] = \"64M\"",
                "env[A] = $B",
                "slowlog=/srv/slow.log"
            ]
        );
        assert_eq!(file.pool[1].setting(), Some("memory_limit"));
        assert_eq!(file.pool[2].setting(), None);
        assert_eq!(
            file.notices,
            [
                "/srv/fpm.conf:2: error_log is not in force: the log comes out of howdah",
                "/srv/fpm.conf:5: listen is not in force: howdah gives the pool its sockets",
            ]
        );
    }

    #[test]
    fn each_refused_line_is_named() {
        for (text, error) in [
            (
                "[a]\ninclude=/etc/*.conf",
                "/srv/fpm.conf:2: include is not followed: copy the lines of that file to here",
            ),
            ("[a]\n\n[b]", "/srv/fpm.conf:3: a second pool [b] beside [a]: give each pool a file of its own"),
            ("[a]\n# x = y", "/srv/fpm.conf:2: php-fpm's comments begin with ';', not with '#'"),
            (
                "[a] listen = 1",
                "/srv/fpm.conf:1: something stands behind the section's ']': give it a line of its own",
            ),
            ("[a]\npm = static\rlisten = 1", "/srv/fpm.conf:2: contains '\\r': remove it"),
            ("[a]\npm", "/srv/fpm.conf:2: no '=': write key = value"),
            ("[a]\n\"listen\" = 1", "/srv/fpm.conf:2: \"\\\"listen\\\"\" is no name of a directive"),
            ("[a", "/srv/fpm.conf:1: a section without its ']'"),
            ("[global]\n", "/srv/fpm.conf has no pool section: begin one with a line such as [www]"),
        ] {
            assert_eq!(parse(text), Err(error.to_owned()), "{text:?}");
        }
    }

    fn read(path: &Path) -> Result<TenantFile, TenantError> {
        read_tenant_file(path, geteuid().as_raw(), getegid().as_raw())
    }

    #[test]
    fn a_path_is_not_trusted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fpm.conf");
        std::fs::write(&path, "[www]\npm = static\n").unwrap();
        assert_eq!(texts(&read(&path).unwrap().pool), ["pm = static"]);

        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(read(&link), Err(TenantError::Link(_))));
        assert!(matches!(read(directory.path()), Err(TenantError::NotRegular(_))));
        let way = directory.path().join("way");
        std::os::unix::fs::symlink(".", &way).unwrap();
        assert!(read(&way.join("fpm.conf")).is_ok(), "a link of our own");
        if geteuid().is_root() {
            std::os::unix::fs::lchown(&way, Some(33), Some(33)).unwrap();
            assert!(matches!(read(&way.join("fpm.conf")), Err(TenantError::LinkAbove(_))));
            assert!(File::open(way.join("fpm.conf")).is_ok(), "whoever does not ask is led on");
        }
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(matches!(read(&fifo), Err(TenantError::NotRegular(_))));
        assert!(matches!(read(&directory.path().join("none")), Err(TenantError::Read(..))));

        std::fs::write(&path, "[www]\n".repeat(50_000)).unwrap();
        assert!(matches!(read(&path), Err(TenantError::TooLong(_))));
        std::fs::write(&path, b"[www]\n; caf\xe9\n").unwrap();
        assert!(matches!(read(&path), Err(TenantError::Line { line: 2, .. })));
    }

    #[test]
    fn a_file_the_user_cannot_read_is_not_read_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fpm.conf");
        std::fs::write(&path, "[www]\n").unwrap();
        let (uid, gid) = (getuid(&path) + 1, getgid(&path) + 1);
        for (mode, uid, gid, may) in [
            (0o604, uid, gid, true),
            (0o660, uid, gid, false),
            (0o640, uid, gid - 1, true),
            (0o604, uid, gid - 1, false),
            (0o044, uid - 1, gid - 1, uid == 1),
        ] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let facts = std::fs::metadata(&path).unwrap();
            assert_eq!(readable(&facts, uid, gid), may, "{mode:o} for {uid}:{gid}");
        }
    }

    fn getuid(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().uid()
    }

    fn getgid(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().gid()
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "(\\PC|[\\[\\]=;\\r\\n]){0,80}") {
            let _ = parse(&text);
        }

        #[test]
        fn no_line_that_is_kept_holds_a_line_break_or_a_key_of_ours(
            lines in proptest::collection::vec("(listen|pm|LISTEN.mode|include|a\\[b\\])? ?=?[ -~\\r]{0,9}", 0..9)) {
            if let Ok(file) = parse(&format!("[www]\n{}", lines.join("\n"))) {
                for entry in file.pool {
                    prop_assert!(!entry.text.contains(['\n', '\r']));
                    prop_assert!(ours(&entry.key).is_none() && entry.key != "include");
                }
            }
        }
    }
}
