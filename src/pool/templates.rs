//! php-fpm that was started before anybody knew its pool: templates, made when nobody waits, by
//! class. Each serves one generation; what it cannot serve is launched cold.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

use super::generation::Phases;
use super::prepare::{self, CONF, Places, Prepared};
use crate::config::pool::{Access, Network, Pool};
use crate::config::profile::{MountKind, Namespace, Profile};
use crate::paths;
use crate::sandbox::cgroup::{Base, Cgroup};
use crate::sandbox::landlock::Use;
use crate::sandbox::step::{Step, StepError};
use crate::sandbox::template::Template;
use crate::sandbox::visit::Home;
use crate::sandbox::{Outcome, Plan, SpareNetwork};
use crate::spec::{self, class};
use crate::{image, sys};

/// How long php-fpm may take to load its extensions and ask for its configuration.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How often one that starts is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// How long nobody must have started anything before one is made.
const QUIET: Duration = Duration::from_millis(30);
/// How old one may become: what it holds of the host (its libraries' addresses, files that are
/// deleted by now) is not to be there for weeks.
const OLDEST: Duration = Duration::from_secs(24 * 3600);
/// The nice value of one that starts.
const NICE: i32 = 19;

/// What the templates of one class are made of.
pub struct Model {
    class: String,
    prepared: Rc<Prepared>,
    listeners: usize,
}

/// Ids on the host that belong to one sandbox each, for as long as anything of it lives.
#[derive(Debug)]
pub struct Ids {
    range: std::ops::RangeInclusive<u32>,
    next: u32,
    used: HashSet<u32>,
    file: PathBuf,
}

impl Ids {
    /// Goes on where the last howdah with this state directory ended.
    fn open(range: std::ops::RangeInclusive<u32>, state: &Path) -> Self {
        let file = state.join("template-ids");
        let last = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok());
        let next = last.filter(|next| range.contains(next)).unwrap_or(*range.start());
        Self { range, next, used: HashSet::new(), file }
    }

    /// The next that nobody has; `None` where all are given out.
    fn take(&mut self) -> io::Result<Option<u32>> {
        let count = self.range.end() - self.range.start() + 1;
        for _ in 0..count {
            let id = self.next;
            self.next = if id == *self.range.end() { *self.range.start() } else { id + 1 };
            if self.used.insert(id) {
                // Before it is used: a howdah that dies now leaves it out.
                fs::write(&self.file, format!("{}\n", self.next))?;
                return Ok(Some(id));
            }
        }
        Ok(None)
    }
}

/// What a generation that began as a template has on the host beside its cgroup. Dropped, it is gone.
#[derive(Debug)]
pub struct Lodging {
    /// Its uid and gid on the host.
    pub id: u32,
    directory: PathBuf,
    /// Where the id is given back; `None` of one that an earlier howdah made, whose id is as good as
    /// gone until all others have been given out.
    ids: Option<Rc<RefCell<Ids>>>,
}

impl Drop for Lodging {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
        // The last one takes the directory of all with it.
        let _ = self.directory.parent().map(fs::remove_dir);
        if let Some(ids) = &self.ids {
            ids.borrow_mut().used.remove(&self.id);
        }
    }
}

/// The directory with one directory for each template: its name is its cgroup's.
fn directory(places: &Places) -> PathBuf {
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
    let (pool, number, id) = (words.next()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    Some((pool.to_owned(), number, Lodging { id, directory, ids: None }))
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
    class: String,
    prepared: Rc<Prepared>,
    made: Instant,
    is_ready: bool,
}

impl Waiting {
    /// Writes its configuration: php-fpm goes on.
    ///
    /// # Errors
    /// ENXIO where nobody waits for it.
    pub fn release(&self, configuration: &str) -> Result<(), StepError> {
        let path = self.template.rootfs().join("etc").join(CONF);
        let written = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&path)
            .and_then(|mut fifo| fifo.write_all(configuration.as_bytes()));
        written.map_err(|error| step(Step::Execute, "(its configuration)", &error))
    }

    /// Tells the next howdah whose it is, before it can have accepted anything.
    ///
    /// # Errors
    /// That of writing.
    pub fn mark(&self, pool: &str, generation: u64) -> io::Result<()> {
        let Lodging { id, directory, .. } = &self.lodging;
        fs::write(directory.join("pool"), format!("{pool} {generation} {id}\n"))
    }

    /// Whether its php-fpm has loaded what it loads and waits for its configuration: it sleeps in
    /// open(2), and nothing but a FIFO lets a program sleep there (fifo(7)).
    fn asks(&self) -> bool {
        if !self.template.awaits_gift() {
            return false;
        }
        let pid = self.template.process.pid;
        let call = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
        let number: i64 = call.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(-1);
        number == libc::SYS_openat || number == libc::SYS_open
    }

    fn has_ended(&mut self) -> bool {
        let failed = self.template.process.serve().is_err();
        failed
            || matches!(self.template.process.outcome(), Outcome::Failed(_))
            || !is_alive(self.template.process.pid)
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
        let rootfs = self.template.rootfs();
        let network = spec::network(pool, &prepared.profile);
        image::write_etc(rootfs, &prepare::owner(pool, network), &[], self.lodging.id)
            .map_err(|(path, error)| step(Step::AttachRoot, &path.display().to_string(), &error))?;
        self.mark(pool.name.as_str(), generation)
            .map_err(|error| step(Step::AttachRoot, "(its mark)", &error))?;
        phases.plan = begin.elapsed();
        let begin = Instant::now();
        self.template.bind(&prepared.spec, home, prepare::FIRST_LISTENER as u32, listeners)?;
        let _ = sys::set_nice(self.template.process.pid, 0);
        phases.walls = begin.elapsed();
        let begin = Instant::now();
        let configuration = prepared.files.iter().find(|(name, _)| name == CONF);
        let text = configuration.map_or("", |(_, text)| text.as_str());
        self.release(text)?;
        // Where it read that, it finds a file, as in every other sandbox.
        let path = self.template.rootfs().join("etc").join(CONF);
        image::write_secret(&path, text, self.lodging.id)
            .map_err(|(path, error)| step(Step::AttachRoot, &path.display().to_string(), &error))?;
        phases.clone = begin.elapsed();
        Ok(())
    }

    /// Ends it.
    pub fn end(self) {
        self.template.process.kill();
        let _ = nix::sys::wait::waitpid(self.template.process.pid, None);
        self.cgroup.kill();
        for _ in 0..50 {
            match self.cgroup.remove() {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                    std::thread::sleep(Duration::from_micros(200));
                }
                _ => break,
            }
        }
    }
}

fn is_alive(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// All templates of a howdah.
pub struct Templates {
    /// The way back from a template's namespaces.
    pub home: Home,
    wanted: usize,
    ids: Rc<RefCell<Ids>>,
    number: u64,
    models: Vec<Model>,
    waiting: Vec<Waiting>,
    due: Option<Instant>,
    directory: PathBuf,
}

impl Templates {
    /// Keeps `wanted` of each class, with ids of `range`.
    ///
    /// # Errors
    /// That of looking where howdah itself is: without root there are none.
    pub fn open(wanted: usize, range: std::ops::RangeInclusive<u32>, places: &Places) -> nix::Result<Self> {
        let home = Home::open()?;
        let ids = Rc::new(RefCell::new(Ids::open(range, &places.state)));
        let (models, waiting) = (Vec::new(), Vec::new());
        let directory = directory(places);
        Ok(Self { home, wanted, ids, number: 0, models, waiting, due: None, directory })
    }

    /// One for `prepared` with `listeners` sockets, if there is one; another is made when it is quiet again.
    pub fn take(&mut self, prepared: &Rc<Prepared>, listeners: usize) -> Option<Waiting> {
        let class = self.learn(prepared, listeners);
        loop {
            let at = self.waiting.iter().position(|one| one.is_ready && one.class == class)?;
            let mut one = self.waiting.swap_remove(at);
            // What is on the disk now may be another php than the one that it has loaded.
            if !one.has_ended() && one.made.elapsed() <= OLDEST && one.prepared.is_fresh() {
                return Some(one);
            }
            one.end();
        }
    }

    /// From now on there are templates of the class of `prepared` with `listeners` sockets, which it returns.
    pub fn learn(&mut self, prepared: &Rc<Prepared>, listeners: usize) -> String {
        let class = class_of(prepared, listeners);
        if !self.models.iter().any(|model| model.class == class) {
            self.models.push(Model { class: class.clone(), prepared: Rc::clone(prepared), listeners });
        }
        self.due = Some(Instant::now() + QUIET);
        class
    }

    /// When there is something to do.
    pub fn next(&self) -> Option<Instant> {
        self.due
    }

    /// Looks at those that are being made, and begins with the next if `is_quiet`.
    pub fn go_on(
        &mut self,
        now: Instant,
        is_quiet: bool,
        (places, base, network): (&Places, Option<&Base>, Option<&mut SpareNetwork>),
        sources: impl Fn(&Profile) -> Vec<(PathBuf, Use)>,
    ) -> Option<StepError> {
        if self.due.is_none_or(|due| due > now) {
            return None;
        }
        self.due = None;
        for one in std::mem::take(&mut self.waiting) {
            self.keep(one, now);
        }
        self.discard_stale();
        if self.waiting.iter().any(|one| !one.is_ready) {
            self.due = Some(now + LOOK);
            return None;
        }
        let base = base?;
        let lacking = self.models.iter().position(|model| {
            self.waiting.iter().filter(|one| one.class == model.class).count() < self.wanted
        })?;
        if !is_quiet {
            self.due = Some(now + QUIET);
            return None;
        }
        self.due = Some(now + LOOK);
        let profile = Rc::clone(&self.models[lacking].prepared.profile);
        match self.make(lacking, places, base, network, sources(&profile)) {
            Ok(one) => self.waiting.push(one),
            Err(error) => {
                self.models.swap_remove(lacking);
                return Some(error);
            }
        }
        None
    }

    /// Those whose php, ini files or libraries have changed since, and those that are too old.
    fn discard_stale(&mut self) {
        let (fresh, stale): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.models).into_iter().partition(|model| model.prepared.is_fresh());
        self.models = fresh;
        let is_stale =
            |one: &Waiting| one.made.elapsed() > OLDEST || stale.iter().any(|model| model.class == one.class);
        let (gone, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.waiting).into_iter().partition(is_stale);
        self.waiting = kept;
        gone.into_iter().for_each(Waiting::end);
    }

    fn keep(&mut self, mut one: Waiting, now: Instant) {
        if one.has_ended() || (!one.is_ready && now > one.made + START_LIMIT) {
            // Its class is not tried again until one of its pools starts.
            let class = one.class.clone();
            self.models.retain(|model| model.class != class);
            return one.end();
        }
        one.is_ready |= one.asks();
        self.waiting.push(one);
    }

    fn make(
        &mut self,
        model: usize,
        places: &Places,
        base: &Base,
        network: Option<&mut SpareNetwork>,
        sources: Vec<(PathBuf, Use)>,
    ) -> Result<Waiting, StepError> {
        let Model { class, prepared, listeners } = &self.models[model];
        let refuse = |error: io::Error| step(Step::AttachRoot, "(of a template)", &error);
        let id = self.ids.borrow_mut().take().map_err(refuse)?;
        let id = id
            .ok_or_else(|| StepError::new(Step::MapIdentity, "(all template_ids are used)", Errno::EAGAIN))?;
        self.number += 1;
        let name = format!("template-{}-{}", nix::unistd::getpid(), self.number);
        let directory = directory(places).join(&name);
        let lodging = Lodging { id, directory, ids: Some(Rc::clone(&self.ids)) };
        let rootfs = lodging.directory.join("rootfs");
        let spec = class::template(&prepared.spec, id, id, &rootfs);
        make_root(&rootfs, prepared, &spec, id)?;
        let (log, descriptors) = descriptors(id, *listeners).map_err(refuse)?;
        let plan = Plan::new(&spec, prepared.seccomp.clone(), descriptors)?;
        let opened = sources.iter().filter_map(|(path, of)| Some((paths::open_trusted(path).ok()?, *of)));
        let sources = opened.collect();
        let cgroup = base
            .create(&name, std::iter::empty(), |_| false)
            .map_err(|error| StepError::new(Step::Clone, format!("({error})"), Errno::EIO))?;
        match Template::launch(&spec, plan, &rootfs, sources, cgroup.as_fd(), network) {
            Ok(template) => {
                let _ = sys::set_nice(template.process.pid, NICE);
                let (class, prepared, made) = (class.clone(), Rc::clone(prepared), Instant::now());
                Ok(Waiting { template, log, cgroup, lodging, class, prepared, made, is_ready: false })
            }
            Err(error) => {
                let _ = cgroup.remove();
                Err(error)
            }
        }
    }
}

impl Drop for Templates {
    fn drop(&mut self) {
        self.waiting.drain(..).for_each(Waiting::end);
        // Generations that are still there keep theirs.
        let _ = fs::remove_dir(&self.directory);
    }
}

fn class_of(prepared: &Prepared, listeners: usize) -> String {
    let files: Vec<_> = prepared.files.iter().filter(|(name, _)| name != CONF).collect();
    format!("{} {:?} {:?}", class::class(&prepared.spec, listeners), prepared.layout.links, files)
}

/// Why `pool` is always launched cold; `None`: it need not be.
pub fn always_cold(pool: &Pool, profile: &Profile) -> Option<&'static str> {
    if matches!(spec::network(pool, profile), Network::Outbound(_)) {
        return Some("its network has a way out, which is made with it");
    }
    let needed = [Namespace::User, Namespace::Mount, Namespace::Pid, Namespace::Uts];
    if needed.iter().any(|kind| !profile.namespaces.contains(kind)) {
        return Some("its profile leaves out a namespace that a template needs");
    }
    None
}

/// What Landlock has to allow of the mounts of `pool`, beside reading them.
pub fn sources(pool: &Pool, profile: &Profile) -> Vec<(PathBuf, Use)> {
    let mut all = Vec::new();
    for mount in &pool.mounts {
        let kind = match mount.access {
            Access::ReadOnly => MountKind::Code,
            Access::ReadWrite => MountKind::Writable,
        };
        let path = mount.source.as_path().to_owned();
        if profile.landlock_execute.contains(&kind) {
            all.push((path.clone(), Use::Execute));
        }
        if mount.access == Access::ReadWrite {
            all.push((path, Use::Write));
        }
    }
    all
}

/// The root directory of a template: the class's part of `/etc`, the points where mounts go, and
/// in place of the configuration a FIFO at which php-fpm waits.
fn make_root(
    rootfs: &Path,
    prepared: &Prepared,
    spec: &oci_spec::runtime::Spec,
    id: u32,
) -> Result<(), StepError> {
    let make = || -> io::Result<()> {
        // Others must get through to what their sandboxes have as root.
        DirBuilder::new().recursive(true).mode(0o755).create(rootfs)?;
        let etc = rootfs.join("etc/howdah");
        fs::create_dir_all(&etc)?;
        for (name, text) in prepared.files.iter().filter(|(name, _)| name != CONF) {
            image::write_secret(&rootfs.join("etc").join(name), text, id).map_err(|(_, error)| error)?;
        }
        let fifo = rootfs.join("etc").join(CONF);
        mkfifo(&fifo, Mode::from_bits_truncate(0o640))?;
        chown(&fifo, None, Some(id))?;
        prepared.layout.make_links(rootfs).map_err(|(_, error)| error)?;
        fs::create_dir_all(rootfs.join(class::STATE.trim_start_matches('/')))
    };
    make().map_err(|error| step(Step::AttachRoot, &rootfs.display().to_string(), &error))?;
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    crate::sandbox::mounts::make_mount_points(rootfs, mounts)
        .map_err(|(path, error)| step(Step::AttachMount, &path.display().to_string(), &error))
}

fn step(step: Step, object: &str, error: &io::Error) -> StepError {
    StepError::new(step, object, Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
}

/// The reading end of its log; its descriptors: standard input, the log twice, and in the place of
/// each listening socket something harmless.
fn descriptors(id: u32, listeners: usize) -> io::Result<(OwnedFd, Vec<OwnedFd>)> {
    let (log, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    nix::fcntl::fcntl(
        std::os::fd::AsRawFd::as_raw_fd(&log),
        nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK),
    )?;
    std::os::unix::fs::fchown(&writer, Some(id), Some(id))?;
    let null: OwnedFd = File::open("/dev/null")?.into();
    let mut all = vec![null.try_clone()?, writer.try_clone()?, writer];
    for _ in 0..listeners {
        all.push(null.try_clone()?);
    }
    Ok((log, all))
}
