//! A sandbox of the audit's while it runs: what the supervisor does for a
//! generation between its launch and its end, as far as a probe needs it.

use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::super::{Failure, LAUNCH};
use super::sandbox::Bench;
use super::watch::{PATIENCE, Stop};
use crate::cli::Start;
use crate::config::pool::Pool;
use crate::config::profile::Profile;
use crate::pool::activation::Listener;
use crate::pool::generation::Generation;
use crate::pool::outbound;
use crate::pool::prepare::Prepared;
use crate::pool::templates::{Waiting, sources};
use crate::sandbox::uplink::{Condition, Uplink};
use crate::sandbox::{self, step::StepError};

/// A generation that ends with this value, and its cgroup with it.
pub(super) struct Running(Generation);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.process.kill();
        self.0.uplink.iter().for_each(Uplink::end);
        let _ = nix::sys::wait::waitpid(self.0.process.pid, None);
        let until = Instant::now() + Duration::from_secs(2);
        // The last of its processes may need a moment more than process 1.
        while self.0.freezer.cgroup().is_some_and(|cgroup| {
            cgroup.remove().is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY))
        }) && Instant::now() < until
        {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// How long a template's probe may take until it waits.
const TEMPLATE_LIMIT: Duration = Duration::from_secs(20);

/// A template for `pool`, which serve makes ahead, and the audit waits for.
fn template(
    bench: &mut Bench<'_>,
    pool: &Pool,
    prepared: &Rc<Prepared>,
    listeners: usize,
) -> Result<Waiting, Failure> {
    let failed = |why: &dyn ToString| {
        Failure::new(LAUNCH, format!("pool {}: its template: {}", pool.name, why.to_string()))
    };
    let Bench { templates, graves, base, network, stop, .. } = bench;
    let templates = templates.as_mut().ok_or_else(|| failed(&"there are none"))?;
    // It is not php-fpm, and does what it does.
    templates.trust(prepared, listeners);
    // One that is being made when nobody looks after it any more would keep what howdah has open.
    templates.keep_only(std::iter::once((prepared, listeners)));
    let until = Instant::now() + TEMPLATE_LIMIT;
    while Instant::now() < until {
        let due = templates.next().unwrap_or(until);
        stop.pause(due.saturating_duration_since(Instant::now()))?;
        graves.tend(Instant::now());
        let around = (base.as_ref(), network.as_mut());
        let sources = |_: &Rc<str>, profile: &Profile| sources(pool, profile);
        if let Some(error) = templates.go_on(Instant::now(), true, around, sources) {
            return Err(failed(&error));
        }
        if let Ok(waiting) = templates.take(prepared, listeners) {
            return Ok(waiting);
        }
    }
    Err(failed(&"it does not come to wait"))
}

impl Running {
    /// Starts the sandbox of `pool` in the way of `start`.
    pub(super) fn start(
        bench: &mut Bench<'_>,
        start: Start,
        pool: &Pool,
        prepared: &Rc<Prepared>,
        listeners: &[Listener],
    ) -> Result<Self, Failure> {
        let failed =
            |error: &dyn ToString| Failure::new(LAUNCH, format!("pool {}: {}", pool.name, error.to_string()));
        let sockets: Vec<_> = listeners.iter().map(AsFd::as_fd).collect();
        let made = match start {
            Start::Cold => {
                let (base, network) = (bench.base.as_ref(), bench.network.as_mut());
                Generation::launch(pool, prepared, &sockets, 1, base, network)
            }
            Start::Template => {
                let waiting = template(bench, pool, prepared, sockets.len())?;
                let home = bench.templates.as_ref().map(|templates| &templates.home);
                let home = home.ok_or_else(|| failed(&"no templates"))?;
                let programs = prepared
                    .outbound
                    .as_ref()
                    .map(outbound::programs)
                    .transpose()
                    .map_err(|error| failed(&error))?;
                let (base, programs) = (bench.base.as_ref(), programs.as_ref());
                Generation::from_template((pool, 1), prepared, &sockets, programs, base, waiting, home)
            }
        };
        made.map(Self).map_err(|error| failed(&error))
    }

    pub(super) fn pid(&self) -> Pid {
        self.0.process.pid
    }

    /// Everything that the probe says, until `last`. What its start waits for is done meanwhile.
    pub(super) fn talk(&mut self, stop: &Stop, last: &str) -> Result<Vec<String>, Failure> {
        let until = Instant::now() + PATIENCE;
        let mut lines: Vec<String> = Vec::new();
        loop {
            let generation = &self.0;
            let gate = generation.process.gate.iter().map(AsFd::as_fd);
            let signs = generation.uplink.iter().flat_map(Uplink::signs);
            let all: Vec<_> = gate.chain(signs).chain([generation.log()]).collect();
            stop.wait(&all, until)?;
            self.further()?;
            let goes_on = self.0.read_log(|line| lines.push(line.text));
            if lines.iter().any(|line| line == last) {
                return Ok(lines);
            }
            if !goes_on {
                return Err(Failure::new(LAUNCH, self.end_of(&lines)));
            }
        }
    }

    /// Lets the probe's own execve(2) through where that waits for our word
    /// (`execve = "once"`), and the child go on once its way out is there.
    fn further(&mut self) -> Result<(), Failure> {
        let generation = &mut self.0;
        generation.process.serve().map_err(|error| Failure::new(LAUNCH, error))?;
        match generation.uplink.as_mut().map(|uplink| (uplink.condition(), uplink)) {
            Some((Condition::Up, uplink)) => {
                uplink.is_up();
                let _ = generation.process.network_is_up();
                Ok(())
            }
            Some((Condition::Ended(reason), _)) => Err(Failure::new(LAUNCH, format!("pasta: {reason}"))),
            Some((Condition::Starting, _)) | None => Ok(()),
        }
    }

    /// Why the probe fell silent before its end.
    fn end_of(&self, lines: &[String]) -> String {
        match self.0.process.outcome() {
            sandbox::Outcome::Failed(error) => StepError::to_string(&error),
            _ => {
                let _ = nix::poll::poll(
                    &mut [nix::poll::PollFd::new(self.0.process.pidfd.as_fd(), nix::poll::PollFlags::POLLIN)],
                    nix::poll::PollTimeout::from(1000_u16),
                );
                let how =
                    self.0.reap().map_or_else(|| "it closed its output".to_owned(), |end| end.to_string());
                let said = lines.last().map(|line| format!(": {line}")).unwrap_or_default();
                format!("the probe ended before its last attack: {how}{said}")
            }
        }
    }
}
