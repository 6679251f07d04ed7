//! One line out: to stderr, or to systemd's journal with fields when howdah
//! runs under systemd and stderr is connected to it (systemd-journald(8),
//! `$JOURNAL_STREAM`).
//!
//! It never waits: what stderr or the journal does not take at once is kept, up
//! to a limit, and what goes beyond it is counted and told of later. Whoever
//! reads slowly must not stop the service.
//!
//! Knows nothing of what the lines say.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::sync::{Mutex, OnceLock, PoisonError};

use libsystemd::logging::connected_to_journal;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// How important a line is, by syslog(3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something that was asked for did not happen.
    Error,
    /// Something is wrong and work goes on.
    Warning,
    /// Worth knowing in a normal day.
    Notice,
    /// What happens.
    Info,
    /// For who looks for a fault.
    Debug,
}

/// Whose line it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Origin<'a> {
    /// The pool: `POOL=` in the journal.
    pub pool: Option<&'a str>,
    /// Its generation: `GENERATION=` in the journal.
    pub generation: Option<u64>,
}

/// What is left out, and where the rest goes.
struct Outlet {
    most: Level,
    /// A socket that does not block, if lines go to journald.
    journal: Option<UnixDatagram>,
}

/// What stderr has not taken yet.
struct Backlog {
    bytes: VecDeque<u8>,
    dropped: u64,
}

static BACKLOG: Mutex<Backlog> = Mutex::new(Backlog { bytes: VecDeque::new(), dropped: 0 });

/// Bytes that are kept for a stderr that takes none.
const MOST_KEPT: usize = 256 << 10;
/// A pipe that poll(2) calls writable takes that many at once (pipe(7), PIPE_BUF).
const AT_ONCE: usize = 4096;
/// journald's own socket (systemd's "Native Journal Protocol").
const JOURNAL: &str = "/run/systemd/journal/socket";

static OUTLET: OnceLock<Outlet> = OnceLock::new();

/// Decides once where lines go, and that none below `most` is written.
/// Without this call lines up to [`Level::Info`] go to stderr.
pub fn open(most: Level) {
    let _ = OUTLET.set(Outlet { most, journal: connected_to_journal().then(journal_socket).flatten() });
}

/// Writes one line. A line that cannot be written is lost: there is nobody left to tell.
///
/// It is one line whatever `text` holds: names of files and words of programs
/// are in it that somebody else has chosen.
pub fn line(level: Level, origin: Origin<'_>, text: &str) {
    if !shows(level) {
        return;
    }
    let text = one_line(text);
    match OUTLET.get().and_then(|outlet| outlet.journal.as_ref()) {
        Some(journal) => send(journal, level, origin, &text),
        None => write_stderr(origin, &text),
    }
}

/// Whether a line of this level is written.
pub fn shows(level: Level) -> bool {
    level <= OUTLET.get().map_or(Level::Info, |outlet| outlet.most)
}

/// `text` with what turns a line or moves a cursor written out.
pub fn one_line(text: &str) -> Cow<'_, str> {
    let harmful = |c: char| c.is_control() && c != '\t';
    if !text.contains(harmful) {
        return Cow::Borrowed(text);
    }
    let write_out = |c: char| if harmful(c) { c.escape_unicode().collect() } else { String::from(c) };
    Cow::Owned(text.chars().map(write_out).collect())
}

fn journal_socket() -> Option<UnixDatagram> {
    let socket = UnixDatagram::unbound().ok()?;
    socket.set_nonblocking(true).ok()?;
    Some(socket)
}

/// Gives the line to journald; to stderr, which is journald's too, if it does not take it as a datagram.
fn send(journal: &UnixDatagram, level: Level, origin: Origin<'_>, text: &str) {
    let dropped = std::mem::take(&mut backlog().dropped);
    let about = (dropped > 0).then(|| entry(Level::Warning, Origin::default(), &left_out(dropped)));
    for datagram in about.into_iter().chain([entry(level, origin, text)]) {
        match journal.send_to(&datagram, JOURNAL) {
            Ok(_) => {}
            // Full: journald stands still, and stderr would not be read either.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => backlog().dropped += dropped.max(1),
            Err(_) => write_stderr(origin, text),
        }
    }
}

/// A journal entry as journald reads it: `FIELD=value` lines. No value has a line break in it.
fn entry(level: Level, origin: Origin<'_>, text: &str) -> Vec<u8> {
    // syslog(3): LOG_ERR is 3, LOG_DEBUG 7.
    let mut entry = format!("PRIORITY={}\nSYSLOG_IDENTIFIER=howdah\n", level as u8 + 3);
    if let Some(generation) = origin.generation {
        entry.push_str(&format!("GENERATION={generation}\n"));
    }
    match origin.pool {
        Some(pool) => entry.push_str(&format!("POOL={pool}\nMESSAGE=pool {pool}: {text}\n")),
        None => entry.push_str(&format!("MESSAGE={text}\n")),
    }
    entry.into_bytes()
}

fn backlog() -> std::sync::MutexGuard<'static, Backlog> {
    BACKLOG.lock().unwrap_or_else(PoisonError::into_inner)
}

fn left_out(lines: u64) -> String {
    format!("{lines} lines left out: nobody read them fast enough")
}

/// `howdah: pool blog: text`
fn write_stderr(origin: Origin<'_>, text: &str) {
    let pool = origin.pool.map_or_else(String::new, |pool| format!("pool {pool}: "));
    let line = format!("howdah: {pool}{text}\n");
    let mut backlog = backlog();
    push_out(&mut backlog);
    if backlog.bytes.len() + line.len() > MOST_KEPT {
        backlog.dropped += 1;
        return;
    }
    if backlog.dropped > 0 {
        let told = format!("howdah: {}\n", left_out(std::mem::take(&mut backlog.dropped)));
        backlog.bytes.extend(told.bytes());
    }
    backlog.bytes.extend(line.bytes());
    push_out(&mut backlog);
}

/// Whether lines wait for stderr to take them: [`flush`] is to be called.
pub fn is_behind() -> bool {
    !backlog().bytes.is_empty()
}

/// Tries again to write what stderr has not taken yet.
pub fn flush() {
    push_out(&mut backlog());
}

/// Writes what stderr takes without waiting. O_NONBLOCK is not for that: it belongs
/// to the open file, which is a terminal or pipe that others write to as well.
fn push_out(backlog: &mut Backlog) {
    let stderr = io::stderr();
    while !backlog.bytes.is_empty() {
        let mut one = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
        let writable = poll(&mut one, PollTimeout::ZERO).is_ok()
            && one[0].revents().is_some_and(|events| events.contains(PollFlags::POLLOUT));
        let gone = one[0]
            .revents()
            .is_some_and(|events| events.intersects(PollFlags::POLLERR | PollFlags::POLLNVAL));
        if !writable && !gone {
            return;
        }
        let (next, _) = backlog.bytes.as_slices();
        let next = &next[..next.len().min(AT_ONCE)];
        match nix::unistd::write(stderr.as_fd(), next) {
            Ok(written) => drop(backlog.bytes.drain(..written)),
            Err(nix::errno::Errno::EINTR) => {}
            Err(nix::errno::Errno::EAGAIN) => return,
            // There is nobody left to tell.
            Err(_) => backlog.bytes.clear(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_lines_of_fields() {
        let origin = Origin { pool: Some("blog"), generation: Some(7) };
        assert_eq!(
            String::from_utf8(entry(Level::Warning, origin, "a = b")).unwrap(),
            "PRIORITY=4\nSYSLOG_IDENTIFIER=howdah\nGENERATION=7\nPOOL=blog\nMESSAGE=pool blog: a = b\n"
        );
    }

    #[test]
    fn whatever_is_said_is_one_line() {
        assert_eq!(one_line("plain\tand é"), "plain\tand é");
        assert_eq!(
            one_line("a\nhowdah: pool b: \x1b[2Jc\u{85}"),
            "a\\u{a}howdah: pool b: \\u{1b}[2Jc\\u{85}"
        );
    }
}
