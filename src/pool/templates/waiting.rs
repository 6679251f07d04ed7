//! One template: php-fpm that loads what it loads and then waits, and how it becomes a pool's.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Instant, SystemTime};

use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use super::birth::step;
use super::loaded::loaded;
use super::lodging::Lodging;
use crate::config::pool::Pool;
use crate::pool::generation::Phases;
use crate::pool::graves::{Ending, Graves};
use crate::pool::prepare::{self, CONF, Prepared, Stamp};
use crate::sandbox::Outcome;
use crate::sandbox::cgroup::Cgroup;
use crate::sandbox::landlock::Use;
use crate::sandbox::seccomp;
use crate::sandbox::step::{Step, StepError};
use crate::sandbox::template::Template;
use crate::sandbox::uplink::{Programs, Uplink};
use crate::sandbox::visit::Home;
use crate::spec;
use crate::{image, sys};

/// What one does that does not sleep.
pub(super) const RUNS: &str = "it runs";

/// One that has been made, or is being.
pub struct Waiting {
    /// The sandbox.
    pub template: Template,
    /// The pipe of its descriptors 1 and 2.
    pub log: OwnedFd,
    /// Its cgroup.
    pub cgroup: Cgroup,
    /// Its root directory and ids.
    pub lodging: Lodging,
    pub(super) class: Rc<str>,
    pub(super) prepared: Rc<Prepared>,
    /// What of its pools it has rules for.
    pub(super) sources: HashSet<(PathBuf, Use)>,
    pub(super) made: Instant,
    pub(super) is_ready: bool,
    /// Where it goes when it has been killed.
    pub(super) graves: Graves,
    /// What it has loaded, once it waits.
    pub(super) loaded: Option<Stamp>,
}

/// Whether a php-fpm sleeps in open(2), as it does until it has its configuration.
fn asks(pid: Pid) -> bool {
    call(pid).is_some_and(|number| number == libc::SYS_openat || number == libc::SYS_open)
}

/// Whether it is a template that has not got its sockets: something harmless is still in their place.
pub fn lacks_sockets(pid: Pid) -> bool {
    let first = format!("/proc/{pid}/fd/{}", prepare::FIRST_LISTENER);
    asks(pid) || fs::read_link(first).is_ok_and(|file| file.as_path() == Path::new("/dev/null"))
}

/// The number of the system call in which a process sleeps (proc_pid_syscall(5)).
fn call(pid: Pid) -> Option<i64> {
    let text = fs::read_to_string(format!("/proc/{pid}/syscall")).ok()?;
    text.split(' ').next()?.parse().ok()
}

impl Waiting {
    /// Writes its configuration, behind which it waits until what is returned is dropped: php-fpm
    /// reads a byte at a time, which it may do while howdah does the rest.
    ///
    /// # Errors
    /// ENXIO where nobody waits for it; EAGAIN where it is longer than a pipe is deep (pipe(7)).
    pub(super) fn tell(&self, configuration: &str) -> Result<File, StepError> {
        let path = self.template.rootfs().join("etc").join(CONF);
        let mut write = OpenOptions::new();
        let open = write.write(true).custom_flags(libc::O_NONBLOCK).open(&path);
        let text = spare(configuration);
        let told = open.and_then(|mut fifo| fifo.write_all(text.as_bytes()).map(|()| fifo));
        told.map_err(|error| step(Step::Execute, "(its configuration)", &error))
    }

    /// Tells the next howdah whose it is, before it can have accepted anything.
    ///
    /// # Errors
    /// That of writing.
    pub fn mark(&self, pool: &str, generation: u64) -> io::Result<()> {
        let Lodging { ids: (uid, gid), directory, .. } = &self.lodging;
        fs::write(directory.join("pool"), format!("{pool} {generation} {uid} {gid}\n"))
    }

    /// Whether its php-fpm has loaded what it loads and waits for its configuration: it sleeps in
    /// open(2), and nothing but a FIFO lets a program sleep there (fifo(7)).
    pub(super) fn asks(&self) -> bool {
        self.template.awaits_gift() && self.template.is_settled() && asks(self.template.process.pid)
    }

    fn end_of(&self) -> Option<WaitStatus> {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        waitid(Id::PIDFd(self.template.process.pidfd.as_fd()), flags).ok()
    }

    /// Whether somebody has killed it, the kernel for its memory perhaps: that says nothing about the next.
    pub(super) fn was_killed(&self) -> bool {
        matches!(self.end_of(), Some(WaitStatus::Signaled(_, Signal::SIGKILL, _)))
    }

    /// What it is doing: "it sleeps in poll", "it was killed by SIGKILL".
    pub(super) fn doing(&self) -> String {
        match self.end_of() {
            Some(WaitStatus::Exited(_, status)) => format!("it ended with status {status}"),
            Some(WaitStatus::Signaled(_, signal, _)) => format!("it was killed by {signal}"),
            _ => {
                let name =
                    call(self.template.process.pid).and_then(|number| seccomp::name(number.try_into().ok()?));
                name.map_or_else(|| RUNS.to_owned(), |name| format!("it sleeps in {name}"))
            }
        }
    }

    /// What it takes of the memory, bytes: what its processes have for themselves and their part of
    /// what they share (PSS; proc_pid_smaps(5)).
    pub(super) fn memory(&self) -> Option<u64> {
        self.template.processes().map(sys::pss).sum()
    }

    /// Looks what it has loaded; false where that has changed meanwhile.
    pub(super) fn note_loaded(&mut self) -> bool {
        let made = SystemTime::now() - self.made.elapsed();
        self.loaded = loaded(&self.prepared, self.template.process.pid, made);
        self.loaded.is_some()
    }

    /// Whether a php-fpm that is started now would be the same; what rests on the same as `fresh`, which
    /// has just been looked at, is not looked at again.
    pub(super) fn is_current(&self, fresh: Option<&Rc<Prepared>>) -> bool {
        (fresh.is_some_and(|fresh| Rc::ptr_eq(fresh, &self.prepared)) || self.prepared.is_fresh())
            && self.loaded.as_ref().is_none_or(Stamp::holds)
    }

    pub(super) fn has_ended(&mut self) -> bool {
        let failed = self.template.process.serve().is_err();
        failed
            || matches!(self.template.process.outcome(), Outcome::Failed(_))
            || self.template.process.has_ended()
    }

    /// Begins to make the way out of `pool`.
    ///
    /// # Errors
    /// The failing step: it must be [ended](Waiting::end) then.
    pub fn connect(&mut self, pool: &Pool, programs: &Programs) -> Result<Uplink, StepError> {
        self.template.connect((pool.user.uid, pool.user.gid), programs, self.cgroup.as_fd())
    }

    /// Makes it `pool`'s, with `listeners` as its sockets, and lets it go on.
    ///
    /// # Errors
    /// The failing step: it must be [ended](Waiting::end) then.
    pub fn bind(
        &mut self,
        (pool, generation): (&Pool, u64),
        prepared: &Prepared,
        listeners: Vec<OwnedFd>,
        home: &Home,
        phases: &mut Phases,
    ) -> Result<(), StepError> {
        let begin = Instant::now();
        let configuration = prepared.files.iter().find(|(name, _)| name == CONF);
        let text = configuration.map_or("", |(_, text)| text.as_str());
        self.take_priority()?;
        let fifo = self.tell(text)?;
        let rootfs = self.template.rootfs();
        let file =
            |(path, error): (PathBuf, io::Error)| step(Step::AttachRoot, &path.display().to_string(), &error);
        let network = spec::network(pool, &prepared.profile);
        image::write_etc(rootfs, &prepare::owner(pool, network), &[], self.lodging.ids.1).map_err(file)?;
        phases.plan = begin.elapsed();
        let begin = Instant::now();
        self.template.bind(&prepared.spec, home)?;
        phases.walls = begin.elapsed();
        let begin = Instant::now();
        // It goes on; what it does until it asks for its sockets needs nothing of what follows here.
        drop(fifo);
        self.mark(pool.name.as_str(), generation)
            .map_err(|error| step(Step::AttachRoot, "(its mark)", &error))?;
        // Where it read that, it finds a file, as in every other sandbox.
        let path = self.template.rootfs().join("etc").join(CONF);
        image::write_secret(&path, text, self.lodging.ids.1).map_err(file)?;
        self.template.give(prepare::FIRST_LISTENER as u32, listeners)?;
        phases.clone = begin.elapsed();
        Ok(())
    }

    /// Gives it the priority that its generation would have if it had been launched cold.
    ///
    /// # Errors
    /// EACCES without CAP_SYS_NICE: the pool would be the last to get a processor for as long as it runs.
    pub(super) fn take_priority(&self) -> Result<(), StepError> {
        let nice = sys::own_nice();
        let refused = |errno| StepError::new(Step::RaiseLimit, format!("the nice value to {nice}"), errno);
        sys::set_nice(self.template.process.pid, nice).map_err(refused)
    }

    /// Ends it; does not wait for that.
    pub fn end(self) {
        let Self { template, cgroup, lodging, graves, .. } = self;
        // It is to have a processor to end on.
        let _ = sys::set_nice(template.process.pid, sys::own_nice());
        template.process.kill();
        graves.add(Ending::new(template.into_process().pidfd, Some(cgroup), Some(lodging)));
    }
}

/// The same configuration in fewer bytes, without comments and blanks around '=': each byte is a system
/// call of php-fpm's, for which somebody waits.
fn spare(configuration: &str) -> Cow<'_, str> {
    // What else is told to a program in its place is left as it is.
    let Some((_, configuration)) = configuration.split_once('\n').filter(|(first, _)| first.starts_with(';'))
    else {
        return Cow::Borrowed(configuration);
    };
    // A value is never longer than its line (fpm::ini), and the first '=' is never part of one.
    let lines = configuration.lines().filter(|line| !line.starts_with(';') && !line.is_empty());
    let text =
        lines.fold(String::with_capacity(configuration.len()), |text, line| match line.split_once('=') {
            Some((key, value)) => text + key.trim_end() + "=" + value.trim_start() + "\n",
            None => text + line + "\n",
        });
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_the_same_without_comments_and_blanks() {
        let text =
            "; By howdah.\n[global]\nlog_limit = 8192\n\n[blog]\nenv[A] = \"b = c\"\nphp_value[x]='y = z'\n";
        assert_eq!(spare(text), "[global]\nlog_limit=8192\n[blog]\nenv[A]=\"b = c\"\nphp_value[x]='y = z'\n");
        assert_eq!(spare("attack\0listener = 3"), "attack\0listener = 3");
    }
}
