//! The trial of a class: its first template is made nobody's pool, to the end. Whether a php-fpm
//! can be a template is not told by its version but by what it does: it asks for its configuration
//! when it has loaded everything, makes the one call at which it gets its sockets, and then answers
//! on what it got. Nothing of a tenant is in it, and nobody's start waits for it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::birth::step;
use super::waiting::{RUNS, Waiting};
use crate::fpm::client::{Request, response};
use crate::fpm::log::{Kind, Line, Lines, classify, reason};
use crate::pool::prepare::{self, Prepared};
use crate::sandbox::step::{Step, StepError};
use crate::sandbox::visit::Home;
use crate::spec::class;

/// How long it may take from its configuration to its answer: a hundred times what it takes on a quiet
/// machine, for it runs with the lowest priority.
const LIMIT: Duration = Duration::from_secs(10);
/// What it is asked (php-fpm.conf, `ping.path`), and what it answers.
const PING: &str = "/howdah-trial";
const PONG: &[u8] = b"pong";
/// The longest answer to that.
const ANSWER_LIMIT: usize = 16 << 10;
/// How often it is looked at to see in what it waits; some never do.
const MOST_LOOKS: u32 = 10;
/// As many lines of its log are kept.
const MOST_LINES: usize = 256;

/// A template that is being tried.
pub(super) struct Trial {
    pub(super) waiting: Waiting,
    client: UnixStream,
    answer: Vec<u8>,
    lines: Lines,
    said: Vec<Line>,
    until: Instant,
    looks_when_ready: u32,
}

/// What came out.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing yet.
    Pending,
    /// It can be a template.
    Good,
    /// It cannot: why, to follow "php-fpm".
    Unfit(String),
    /// It has come to nothing, which may have been an accident.
    Lost(String),
}

impl Trial {
    /// Binds `waiting` to a socket of the trial's own, asks something on it and lets it go on.
    ///
    /// # Errors
    /// The failing step; the template is gone then.
    pub(super) fn begin(mut waiting: Waiting, home: &Home) -> Result<Self, StepError> {
        match bind(&mut waiting, home) {
            Ok(client) => Ok(Self {
                waiting,
                client,
                answer: Vec::new(),
                lines: Lines::default(),
                said: Vec::new(),
                until: Instant::now() + LIMIT,
                looks_when_ready: 0,
            }),
            Err(error) => {
                waiting.end();
                Err(error)
            }
        }
    }

    /// How far it has come; does not wait.
    pub(super) fn look(&mut self, now: Instant) -> Verdict {
        let served = self.waiting.template.process.serve();
        let mut bytes = [0; 4 << 10];
        while let Ok(length @ 1..) = nix::unistd::read(self.waiting.log.as_raw_fd(), &mut bytes) {
            let said = self.lines.feed(&bytes[..length]);
            let room = MOST_LINES.saturating_sub(self.said.len());
            self.said.extend(said.iter().map(|line| classify(line)).take(room));
        }
        if self.waiting.template.process.has_ended() {
            let why = reason(&self.said).unwrap_or_else(|| self.waiting.doing());
            return Verdict::Lost(format!("did not live through its trial: {why}"));
        }
        match served {
            Err(error) if error.errno == Errno::EPERM => {
                return Verdict::Unfit(format!("does not take its sockets as a template must: {error}"));
            }
            Err(error) => return Verdict::Lost(format!("did not take its sockets: {error}")),
            Ok(()) => {}
        }
        let got_sockets = self.waiting.template.process.gate.is_none();
        if !got_sockets && self.said.iter().any(|line| line.kind == Kind::Ready) {
            let doing = self.waiting.doing();
            // It has just said so, and is about to wait for something.
            self.looks_when_ready += 1;
            if doing == RUNS && self.looks_when_ready < MOST_LOOKS {
                return Verdict::Pending;
            }
            return Verdict::Unfit(format!("is ready and has not called epoll_create: {doing}"));
        }
        match self.hear() {
            Ok(Verdict::Good) if !got_sockets => Verdict::Unfit("answers without its sockets".to_owned()),
            Ok(Verdict::Pending) if now >= self.until => {
                let what = if got_sockets { "answer" } else { "call epoll_create" };
                let doing = self.waiting.doing();
                Verdict::Lost(format!("did not {what} within {LIMIT:?} on its trial: {doing}"))
            }
            Ok(verdict) => verdict,
            // Its worker may have been killed, by the kernel for its memory perhaps: that says nothing about the next.
            Err(error) => {
                let why = reason(&self.said).map(|why| format!(" ({why})")).unwrap_or_default();
                Verdict::Lost(format!("did not answer on its trial: {error}{why}"))
            }
        }
    }

    /// Reads what has come of the answer.
    ///
    /// # Errors
    /// There will be none.
    fn hear(&mut self) -> io::Result<Verdict> {
        let mut bytes = [0; 4 << 10];
        loop {
            match self.client.read(&mut bytes) {
                Ok(0) => return Err(io::Error::other("it closed the connection")),
                Ok(length) => self.answer.extend(&bytes[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Verdict::Pending),
                Err(error) => return Err(error),
            }
            let unfit = |what: &str| Ok(Verdict::Unfit(format!("answers its trial wrong: {what}")));
            if self.answer.len() > ANSWER_LIMIT {
                return unfit("without end");
            }
            match response(&self.answer) {
                Ok(Some(answer)) if answer.status == 200 && answer.body == PONG => return Ok(Verdict::Good),
                Ok(Some(answer)) => return unfit(&format!("status {}", answer.status)),
                Ok(None) => {}
                Err(error) => return unfit(&error.to_string()),
            }
        }
    }
}

/// Does with it what would be done for a pool; the end at which it is asked.
fn bind(waiting: &mut Waiting, home: &Home) -> Result<UnixStream, StepError> {
    let refuse = |error: io::Error| step(Step::ArrangeDescriptors, "(the socket of a trial)", &error);
    // Its directory is closed to all but root; its path may be longer than a socket's (unix(7)).
    let directory = File::open(&waiting.lodging.directory).map_err(refuse)?;
    let path = format!("/proc/self/fd/{}/trial", directory.as_raw_fd());
    let listener = UnixListener::bind(&path).map_err(refuse)?;
    let mut client = UnixStream::connect(&path).map_err(refuse)?;
    client.set_nonblocking(true).map_err(refuse)?;
    client.write_all(&ping()).map_err(refuse)?;
    let (uid, gid) = waiting.lodging.ids;
    let spec = class::template(&waiting.prepared.spec, uid, gid, waiting.template.rootfs());
    let text = configuration(&waiting.prepared)
        .ok_or_else(|| StepError::new(Step::Execute, "(FPM_SOCKETS names no socket)", Errno::EINVAL))?;
    waiting.take_priority()?;
    waiting.template.bind(&spec, home)?;
    waiting.template.give(prepare::FIRST_LISTENER as u32, vec![listener.into()])?;
    // Nobody waits: last, so that what it does with that is seen by the trial.
    drop(waiting.tell(&text)?);
    Ok(client)
}

/// Workers that are there from the beginning: php-fpm refuses `ondemand` where it waits otherwise than by
/// epoll (fpm_conf.c), and that is to be told by what it does. One pool that answers the ping, on the first of the sockets: what php-fpm does with the others is the same.
fn configuration(prepared: &Prepared) -> Option<String> {
    let process = prepared.spec.process().as_ref()?;
    let sockets = process.env().iter().flatten().find_map(|one| one.strip_prefix("FPM_SOCKETS="))?;
    let (key, _) = sockets.split(',').next()?.rsplit_once('=')?;
    Some(format!(
        "[global]\nerror_log = /dev/null\nlog_level = notice\ndaemonize = no\n[trial]\nlisten = {key}\n\
         pm = static\npm.max_children = 1\nping.path = {PING}\n"
    ))
}

fn ping() -> Vec<u8> {
    let request = Request {
        script: Path::new(PING).to_owned(),
        document_root: Path::new("/").to_owned(),
        uri: PING.to_owned(),
        method: "GET".to_owned(),
        headers: Vec::new(),
        body: Vec::new(),
    };
    request.encode()
}
