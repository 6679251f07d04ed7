//! `php-fpm -i`, asked of an image that howdah has not seen before, or that has
//! changed. The image may be anybody's: what answers is in a sandbox like the
//! pool's own, with the profile's limits, and nobody but its own pool waits for it.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::stat::Mode;
use oci_spec::runtime::Spec;
use seccompiler::BpfProgram;

use super::{Places, PrepareError, make_root};
use crate::config::pool::{Limits, Network, Pool};
use crate::config::profile::Profile;
use crate::image::Image;
use crate::sandbox::cgroup::{Base, Cgroup};
use crate::sandbox::step::{Step, StepError};
use crate::sandbox::{self, Launched, Outcome, Plan};
use crate::{spec, sys};

/// The most that `php-fpm -i` says: ten times what it says with every extension.
const ANSWER_LIMIT: usize = 1 << 20;

/// A php-fpm that is telling what it is. Dropped, it and its sandbox are gone.
pub struct Question {
    /// The image that is asked.
    pub image: Image,
    process: Launched,
    cgroup: Option<Cgroup>,
    scratch: PathBuf,
    answer: OwnedFd,
    /// Holds what it says and the gate at which its execve waits, if it does.
    ready: Epoll,
    text: Vec<u8>,
    failed: Option<StepError>,
}

impl Question {
    /// Launches it, with `pool`'s user and profile, in a cgroup below `base` if there is one.
    ///
    /// # Errors
    /// The image or a step of the sandbox; nothing is left then.
    pub fn begin(
        image: Image,
        pool: &Pool,
        (profile, seccomp): (&Profile, Rc<[BpfProgram]>),
        places: &Places,
        base: Option<&Base>,
    ) -> Result<Self, PrepareError> {
        let scratch = places.runtime.join(format!("probe-{}", pool.name));
        let spec = make_sandbox(&image, pool, profile, &scratch)?;
        let cgroup = match base {
            Some(base) => Some(make_cgroup(base, pool, &spec)?),
            None => None,
        };
        match launch(&spec, seccomp, cgroup.as_ref()) {
            Ok((process, answer, ready)) => {
                let (text, failed) = (Vec::new(), None);
                Ok(Self { image, process, cgroup, scratch, answer, ready, text, failed })
            }
            Err(error) => {
                cgroup.map(|cgroup| cgroup.remove());
                let _ = fs::remove_dir_all(&scratch);
                Err(error.into())
            }
        }
    }

    /// Readable when there is something to [read](Question::read).
    pub fn ready(&self) -> BorrowedFd<'_> {
        self.ready.0.as_fd()
    }

    /// Reads what it has said since; true when that is all, or more than anybody has to say.
    pub fn read(&mut self) -> bool {
        if let Err(error) = self.process.serve() {
            self.failed = Some(error);
            return true;
        }
        let mut bytes = [0; 16 << 10];
        while self.text.len() < ANSWER_LIMIT {
            match nix::unistd::read(self.answer.as_raw_fd(), &mut bytes) {
                Ok(0) => return true,
                Ok(length) => self.text.extend(&bytes[..length]),
                Err(Errno::EAGAIN) => return false,
                Err(Errno::EINTR) => {}
                Err(_) => return true,
            }
        }
        true
    }

    /// Waits until it has said all, at most `limit`.
    pub fn wait(&mut self, limit: Duration) {
        let until = Instant::now() + limit;
        while !self.read() {
            let left = PollTimeout::try_from(until.saturating_duration_since(Instant::now()));
            let mut ends = [PollFd::new(self.ready(), PollFlags::POLLIN)];
            if !matches!(poll(&mut ends, left.unwrap_or(PollTimeout::ZERO)), Ok(1)) {
                return;
            }
        }
    }

    /// What it said, and the image that said it.
    ///
    /// # Errors
    /// The step of the sandbox that failed, or that it said nothing.
    pub fn finish(mut self, pool: &Pool) -> Result<(Image, String), PrepareError> {
        if let Some(error) = self.failed.take() {
            return Err(error.into());
        }
        if let Outcome::Failed(error) = self.process.outcome() {
            return Err(error.into());
        }
        let text = String::from_utf8_lossy(&std::mem::take(&mut self.text)).into_owned();
        if text.is_empty() {
            let reason = "no output: does it run on this machine? try it by hand".to_owned();
            let binary = self.image.binary.clone();
            return Err(PrepareError::Silent { image: pool.image.clone(), binary, reason });
        }
        Ok((self.image.clone(), text))
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        self.process.kill();
        let _ = nix::sys::wait::waitpid(self.process.pid, None);
        if let Some(cgroup) = &self.cgroup {
            cgroup.remove_soon(50);
        }
        let _ = fs::remove_dir_all(&self.scratch);
    }
}

/// Root directory and spec of the sandbox: the pool's, without what is its own.
fn make_sandbox(image: &Image, pool: &Pool, profile: &Profile, scratch: &Path) -> Result<Spec, PrepareError> {
    let bare = Pool {
        mounts: Vec::new(),
        network: Some(Network::None),
        sockets: Vec::new(),
        limits: Limits::default(),
        ..pool.clone()
    };
    let rootfs = scratch.join("rootfs");
    let layout = image.layout(&[], &[PathBuf::from("/etc/php")])?;
    let spec = spec::build(&spec::Input {
        pool: &bare,
        profile,
        image: &image.root,
        layout: &layout,
        rootfs: &rootfs,
        state: &[],
        services: &[],
        io_max: &[],
        args: vec![image.binary.display().to_string(), "-i".to_owned()],
        env: vec!["PATH=/usr/sbin:/usr/bin".to_owned()],
    })?;
    make_root(pool, &Network::None, &rootfs, &layout, &spec, &[])?;
    Ok(spec)
}

/// The cgroup `POOL.ask`, with those of the limits whose controller is there.
/// A howdah that was killed may have left one with somebody in it.
fn make_cgroup(base: &Base, pool: &Pool, spec: &Spec) -> Result<Cgroup, PrepareError> {
    let name = format!("{}.ask", pool.name);
    if let Ok(old) = Cgroup::open(&base.directory().join(&name)) {
        let _ = fs::write(old.directory().join("cgroup.kill"), "1");
        old.remove_soon(50);
    }
    let limits = spec::limits_of(spec);
    let limits = limits.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    Ok(base.create(&name, limits, |_| false)?)
}

fn launch(
    spec: &Spec,
    seccomp: Rc<[BpfProgram]>,
    cgroup: Option<&Cgroup>,
) -> Result<(Launched, OwnedFd, Epoll), StepError> {
    let refuse = |errno: Errno| StepError::new(Step::ArrangeDescriptors, "(for php-fpm -i)", errno);
    let (answer, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(refuse)?;
    nix::fcntl::fcntl(answer.as_raw_fd(), nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
        .map_err(refuse)?;
    let null = nix::fcntl::open("/dev/null", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
        .map(sys::owned)
        .map_err(refuse)?;
    let copy = writer.try_clone().map_err(|_| refuse(Errno::EMFILE))?;
    // The plan holds our ends of the pipe for writing, and goes with them.
    let plan = Plan::new(spec, seccomp, vec![null, copy, writer])?;
    let process = sandbox::launch(&plan, cgroup.map(AsFd::as_fd), None)?;
    let ready = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).and_then(|ready| {
        ready.add(&answer, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        process.gate.iter().try_for_each(|gate| ready.add(gate, EpollEvent::new(EpollFlags::EPOLLIN, 0)))?;
        Ok(ready)
    });
    match ready {
        Ok(ready) => Ok((process, answer, ready)),
        Err(errno) => {
            process.kill();
            let _ = nix::sys::wait::waitpid(process.pid, None);
            Err(refuse(errno))
        }
    }
}
