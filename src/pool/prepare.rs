//! From a pool's file to what a launch needs: image found and asked for its
//! php, root directory made, spec built, filter compiled. Done at a pool's
//! first start and again when something it rests on has changed.

mod question;

use std::cell::{Cell, OnceCell};
use std::collections::HashMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use oci_spec::OciSpecError;
use oci_spec::runtime::{Mount, Spec};
use seccompiler::BpfProgram;

pub use self::question::Question;
use super::outbound::OutboundError;
use super::tcp_listener::{self, TcpListenerError};
use crate::config::network::{Outbound, Ports, Service};
use crate::config::pool::{ImageRef, Network, Pool, ProfileRef};
use crate::config::profile::{self, Namespace, Profile, ProfileError};
use crate::config::types::AbsPath;
use crate::fpm::conf::{self, ConfError};
use crate::fpm::probe::{self, Info, ProbeError};
use crate::fpm::tenant::{TenantError, read_tenant_file};
use crate::image::{Image, ImageError, Layout, Owner, write_etc};
use crate::sandbox::block::{self, BlockError};
use crate::sandbox::cgroup::{Base, CgroupError};
use crate::sandbox::landlock::{self, LandlockError};
use crate::sandbox::mounts;
use crate::sandbox::seccomp::{self, SeccompError};
use crate::sandbox::step::StepError;
use crate::{paths, spec, sys};

/// Why a pool cannot be started; one line each.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The profile.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// What the profile demands of this kernel's Landlock.
    #[error(transparent)]
    Landlock(#[from] LandlockError),
    /// A setting of the profile that would be the host's.
    #[error(
        "profile {profile}: sysctl {key:?} would be the host's, whose network the pool has: \
         take it out of the profile, or give the pool a network of its own"
    )]
    Sysctl {
        /// The profile.
        profile: Box<str>,
        /// The setting.
        key: String,
    },
    /// The seccomp filter of the profile.
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    /// The php-fpm configuration.
    #[error(transparent)]
    Conf(#[from] ConfError),
    /// The tenant's own php-fpm configuration.
    #[error(transparent)]
    Tenant(#[from] TenantError),
    /// The extensions that the pool file asks for.
    #[error(transparent)]
    Extensions(#[from] ProbeError),
    /// What the image's php-fpm says of itself.
    #[error("image {image}: {error}")]
    Unfit {
        /// "host" or the directory.
        image: ImageRef,
        /// What is wrong with it.
        error: ProbeError,
    },
    /// Its way out.
    #[error(transparent)]
    Outbound(#[from] OutboundError),
    /// Its socket would be a way into the host's network.
    #[error(transparent)]
    TcpListener(#[from] TcpListenerError),
    /// Ports are to be held, by a wall that is down.
    #[error(
        "network.connect and network.bind are held by Landlock, which the profile {profile} switches off: \
         take them out, or take another profile"
    )]
    PortsWithoutLandlock {
        /// Its name.
        profile: Box<str>,
    },
    /// Ports are to be held, and the kernel does not know how.
    #[error(
        "network.connect and network.bind need Landlock ABI {}, and this kernel has {kernel}: \
         use Linux 6.7 or later, or take them out",
        spec::ABI_OF_PORTS
    )]
    PortsNeedKernel {
        /// Its ABI.
        kernel: i32,
    },
    /// A value that an OCI spec does not allow.
    #[error("OCI spec: {0}")]
    Spec(#[from] OciSpecError),
    /// `[[limits.io_max]]`.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// A step of the sandbox.
    #[error(transparent)]
    Step(#[from] StepError),
    /// The cgroup in which an image's php-fpm is asked.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A file of howdah's own.
    #[error("{}: {}", path.display(), sys::told(.error))]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// php-fpm did not even tell its version.
    #[error("image {image}: {} -i: {reason}", binary.display())]
    Silent {
        /// "host" or the directory.
        image: ImageRef,
        /// php-fpm.
        binary: PathBuf,
        /// How it failed.
        reason: String,
    },
}

impl PrepareError {
    /// Whether it is the kernel that lacks something, and not a file that is wrong.
    pub fn is_of_kernel(&self) -> bool {
        match self {
            Self::Landlock(_) => true,
            Self::TcpListener(TcpListenerError::Unheld(unheld)) => unheld.of_kernel,
            _ => false,
        }
    }

    /// The line to print of `pool`: with its file before it, where it does not begin with that.
    pub fn in_file_of(&self, pool: &Pool) -> String {
        match self {
            Self::TcpListener(TcpListenerError::Unheld(_)) => self.to_string(),
            _ => format!("{}: {self}", pool.file.display()),
        }
    }
}

impl From<(PathBuf, io::Error)> for PrepareError {
    fn from((path, error): (PathBuf, io::Error)) -> Self {
        Self::File { path, error }
    }
}

/// Where howdah keeps its things.
#[derive(Debug, Clone)]
pub struct Places {
    /// Gone after a reboot: `/run/howdah`.
    pub runtime: PathBuf,
    /// What outlives generations: `/var/lib/howdah`.
    pub state: PathBuf,
    /// Profiles of the host's own: `/etc/howdah/profiles`.
    pub profiles: PathBuf,
    /// How long a stop may wait for requests in progress.
    pub drain: Duration,
}

impl Places {
    /// The runtime directory of one pool.
    pub fn of_pool(&self, pool: &Pool) -> PathBuf {
        self.runtime.join("pools").join(pool.name.as_str())
    }
}

/// An image that has been asked: where it is, what its php-fpm says of itself, and what that rests on.
type Known = (Image, Info, Stamp);

/// What is the same for many pools, made once.
#[derive(Default)]
pub struct Workshop {
    images: HashMap<(ImageRef, Option<AbsPath>), Rc<Known>>,
    /// Profiles as their files say, and these.
    profiles: HashMap<ProfileRef, (Stamp, Profile)>,
    filters: Vec<(Rc<Profile>, Rc<[BpfProgram]>)>,
}

/// A pool, ready to be launched any number of times.
pub struct Prepared {
    /// Its container.
    pub spec: Spec,
    /// The spec's filter, compiled.
    pub seccomp: Rc<[BpfProgram]>,
    /// Its profile.
    pub profile: Rc<Profile>,
    /// Its way out, if it is to have one.
    pub outbound: Option<Outbound>,
    /// Its php-fpm's version.
    pub version: (u32, u32, u32),
    /// What the tenant's own file asked for and does not get.
    pub notices: Vec<String>,
    /// Its image's parts.
    pub layout: Layout,
    /// Files of its `/etc` that are not for others: name and text; php-fpm's configuration is [`CONF`].
    pub files: Vec<(String, String)>,
    /// The ini files that php reads, by their paths inside.
    pub(super) ini_files: Vec<PathBuf>,
    /// Its class, when it has been asked for: templates::class_of.
    pub(super) class: OnceCell<Rc<str>>,
    /// The ids on the host with which a template for it must be born; `None`: any will do.
    pub(super) own_ids: Option<(u32, u32)>,
    /// Whether its root directory has been made.
    has_root: Cell<bool>,
    stamp: Stamp,
}

impl Prepared {
    /// Whether nothing that it rests on has changed since.
    pub fn is_fresh(&self) -> bool {
        self.stamp.holds()
    }

    /// Makes the root directory of `pool`'s own sandbox, if that is not there yet. A pool that a
    /// template becomes has the template's, and need not wait for this.
    ///
    /// # Errors
    /// The file that could not be made.
    pub fn make_root(&self, pool: &Pool) -> Result<(), PrepareError> {
        if let (false, Some(root)) = (self.has_root.get(), self.spec.root()) {
            let network = spec::network(pool, &self.profile);
            make_root(pool, network, root.path(), &self.layout, &self.spec, &self.files)?;
            self.has_root.set(true);
        }
        Ok(())
    }
}

/// Files and directories by their change times: what a prepared pool rests on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stamp(Vec<(PathBuf, Option<Mark>)>);

/// A change time (seconds and nanoseconds) and an inode.
type Mark = (i64, i64, u64);

impl Stamp {
    /// That of `paths`, now.
    pub(super) fn of(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        Self(
            paths
                .into_iter()
                .map(|path| (Self::read(&path), path))
                .map(|(mark, path)| (path, mark))
                .collect(),
        )
    }

    fn read(path: &Path) -> Option<Mark> {
        let data = fs::metadata(path).ok()?;
        Some((data.ctime(), data.ctime_nsec(), data.ino()))
    }

    /// Whether all is as it was.
    pub(super) fn holds(&self) -> bool {
        self.0.iter().all(|(path, mark)| Self::read(path) == *mark)
    }

    /// Whether something of it has changed after `moment`, or is gone.
    pub(super) fn is_newer_than(&self, moment: SystemTime) -> bool {
        self.has_changed_since(moment) || self.0.iter().any(|(_, mark)| mark.is_none())
    }

    /// Whether something of it that is there has changed after `moment`.
    fn has_changed_since(&self, moment: SystemTime) -> bool {
        let since = moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let since = (since.as_secs() as i64, i64::from(since.subsec_nanos()));
        let mut marks = self.0.iter().filter_map(|(_, mark)| *mark);
        marks.any(|(seconds, nanoseconds, _)| (seconds, nanoseconds) >= since)
    }
}

/// The path of php-fpm's configuration, below `/etc`.
pub const CONF: &str = "howdah/php-fpm.conf";
/// Where the chosen extensions' ini files are, inside.
const SCAN_DIR: &str = "/etc/howdah/php.d";
/// The first listening socket's descriptor.
pub const FIRST_LISTENER: i32 = 3;

/// Pools with the same have the same php.
fn key_of(pool: &Pool) -> (ImageRef, Option<AbsPath>) {
    (pool.image.clone(), pool.fpm.binary.clone())
}

impl Workshop {
    /// The image of `pool` and what its php-fpm says of itself; waits for that
    /// where it is not known.
    ///
    /// # Errors
    /// No image, no php-fpm, one that is too old or does not run.
    pub fn image(&mut self, pool: &Pool, places: &Places) -> Result<Rc<Known>, PrepareError> {
        if let Some(mut question) = self.question(pool, places, None)? {
            question.wait(pool.start.timeout);
            self.learn(question, pool)?;
        }
        Ok(Rc::clone(&self.images[&key_of(pool)]))
    }

    /// Whether `pool` has an image with a php-fpm; the host's own is asked what it is as well.
    ///
    /// # Errors
    /// As those of [`Workshop::image`].
    pub fn look_at(&mut self, pool: &Pool, places: &Places) -> Result<(), PrepareError> {
        match pool.image {
            ImageRef::Host => self.image(pool, places).map(drop),
            ImageRef::Directory(_) => Ok(Image::locate(&pool.image, pool.fpm.binary.as_ref()).map(drop)?),
        }
    }

    /// Whether `pool` may listen where it does. Unix sockets are always right, and nothing
    /// is read for them.
    ///
    /// # Errors
    /// A profile that cannot be had, or wants TCP held where nothing holds it.
    pub fn look_at_listeners(&mut self, pool: &Pool, places: &Places) -> Result<(), PrepareError> {
        spec::tcp_listener(pool).map_or(Ok(()), |_| self.profile(pool, places).map(drop))
    }

    /// What `pool`'s image must be asked before anything else: its php-fpm, if it is not known yet.
    ///
    /// # Errors
    /// No image, no php-fpm, or no sandbox to ask it in.
    pub fn question(
        &mut self,
        pool: &Pool,
        places: &Places,
        base: Option<&Base>,
    ) -> Result<Option<Question>, PrepareError> {
        if self.images.get(&key_of(pool)).is_some_and(|known| known.2.holds()) {
            return Ok(None);
        }
        let image = Image::locate(&pool.image, pool.fpm.binary.as_ref())?;
        let profile = self.profile(pool, places)?;
        let seccomp = self.filter(&profile)?;
        Question::begin(image, pool, (&profile, seccomp), places, base).map(Some)
    }

    /// Remembers what the image of `pool` answered.
    ///
    /// # Errors
    /// A php-fpm that is too old, or is none.
    pub fn learn(&mut self, question: Question, pool: &Pool) -> Result<(), PrepareError> {
        let (image, text) = question.finish(pool)?;
        let info = Info::parse(&text, &image.binary)
            .map_err(|error| PrepareError::Unfit { image: pool.image.clone(), error })?;
        let mut paths = vec![image.on_host(&image.binary), image.on_host(Path::new("/etc"))];
        paths.extend(image.on_host(&image.binary).parent().map(Path::to_owned));
        paths.extend(info.loaded_ini.iter().chain(&info.scan_dir).map(|path| image.on_host(path)));
        self.images.insert(key_of(pool), Rc::new((image, info, Stamp::of(paths))));
        Ok(())
    }

    fn profile(&mut self, pool: &Pool, places: &Places) -> Result<Rc<Profile>, PrepareError> {
        let known = self.profiles.get(&pool.profile).filter(|(stamp, _)| stamp.holds());
        let mut profile = match known {
            Some((_, profile)) => profile.clone(),
            None => {
                let begin = SystemTime::now();
                let profile = profile::load(&pool.profile, &places.profiles)?;
                let stamp = Stamp::of(profile.looked_for.iter().cloned());
                if !stamp.has_changed_since(begin) {
                    self.profiles.insert(pool.profile.clone(), (stamp, profile.clone()));
                }
                profile
            }
        };
        profile.listen = !spec::holds_tcp_listener(pool, &profile);
        if profile.landlock {
            landlock::demand(profile.landlock_abi)?;
        }
        refuse_sysctls_of_host(pool, &profile)?;
        refuse_unheld_ports(pool, &profile)?;
        tcp_listener::refuse(pool, &profile)?;
        let known = self.filters.iter().find(|(known, _)| **known == profile);
        Ok(known.map_or_else(|| Rc::new(profile), |(known, _)| Rc::clone(known)))
    }

    /// The profile's filter, compiled once for all pools that have it.
    fn filter(&mut self, profile: &Rc<Profile>) -> Result<Rc<[BpfProgram]>, PrepareError> {
        if let Some((_, filter)) = self.filters.iter().find(|(known, _)| Rc::ptr_eq(known, profile)) {
            return Ok(Rc::clone(filter));
        }
        let filter: Rc<[BpfProgram]> = match &profile.filter() {
            Some(seccomp) => seccomp::compile(seccomp)?.into(),
            None => Rc::new([]),
        };
        self.filters.push((Rc::clone(profile), Rc::clone(&filter)));
        Ok(filter)
    }

    /// Plans the container of `pool` with `listeners` sockets, whose root is to
    /// be `rootfs`. Nothing is made but, for an image not seen before, a sandbox
    /// in which its php-fpm is asked what it is.
    ///
    /// # Errors
    /// The first thing that is not as the pool asks.
    pub fn plan(
        &mut self,
        pool: &Pool,
        listeners: usize,
        places: &Places,
        rootfs: &Path,
    ) -> Result<Blueprint, PrepareError> {
        let known = self.image(pool, places)?;
        let (image, info, stamp) = &*known;
        let profile = self.profile(pool, places)?;
        let seccomp = self.filter(&profile)?;
        let tenant = match &pool.fpm.config {
            Some(path) => Some(read_tenant_file(path.as_path(), pool.user.uid, pool.user.gid)?),
            None => None,
        };
        let conf = conf::configuration(pool, listeners, places.drain, tenant.as_ref())?;
        let chosen = match &pool.php.extensions {
            Some(wanted) => Some(chosen_extensions(image, info, wanted)?),
            None => None,
        };
        refuse_no_own_network(pool, &profile)?;
        let services = service_directories(pool);
        let state = state_directories(pool, places);
        let targets: Vec<&Path> = state
            .iter()
            .map(|(_, target)| target.as_path())
            .chain(pool.mounts.iter().map(|mount| mount.target.as_path()))
            .chain(services.iter().copied())
            .collect();
        let layout = image.layout(&targets, &configuration_files(image, info, chosen.is_some()))?;
        let keys: Vec<_> = conf.keys.iter().cloned().zip(FIRST_LISTENER..).collect();
        let scan_dir = chosen.as_ref().map(|_| Path::new(SCAN_DIR));
        let environment = conf::environment(&keys, scan_dir);
        let asked = pool.limits.clone().over(&profile.limits).io_max;
        let io_max: Vec<String> = asked
            .iter()
            .map(|one| Ok(format!("{} {}", block::device_of(one.path.as_path())?, one.words())))
            .collect::<Result<_, BlockError>>()?;
        let spec = spec::build(&spec::Input {
            pool,
            profile: &profile,
            image: &image.root,
            layout: &layout,
            rootfs,
            state: &state,
            services: &services,
            io_max: &io_max,
            args: command(image, &profile),
            env: environment.into_iter().map(|(key, value)| format!("{key}={value}")).collect(),
        })?;
        let own_ids = own_ids(pool, &spec);
        let mut files = vec![(CONF.to_owned(), conf.text)];
        files.extend(chosen.into_iter().flatten());
        let mut stamp = stamp.clone();
        let own_file = pool.fpm.config.as_ref().map(|path| path.as_path().to_owned());
        // A database that is installed, or started for the first time, later.
        let services = pool.sockets.iter().map(|service| service.directory().to_owned());
        let host = ["/etc/resolv.conf".into()].into_iter().chain(services);
        stamp.0.extend(Stamp::of(host.chain(own_file).chain(profile.looked_for.iter().cloned())).0);
        let (version, notices) = (info.version, conf.notices);
        let outbound = match spec::network(pool, &profile) {
            Network::Outbound(outbound) => Some(outbound.clone()),
            Network::None | Network::Host(_) => None,
        };
        let prepared = Prepared {
            spec,
            seccomp,
            outbound,
            profile,
            version,
            notices,
            layout,
            files,
            ini_files: info.loaded_ini.iter().chain(&info.scanned).cloned().collect(),
            class: OnceCell::new(),
            own_ids,
            has_root: Cell::new(false),
            stamp,
        };
        Ok(Blueprint { prepared, state })
    }

    /// Makes everything that `pool` needs to be launched with `listeners` sockets, but for its
    /// [root directory](Prepared::make_root).
    ///
    /// # Errors
    /// The first thing that is not as the pool asks.
    pub fn prepare(
        &mut self,
        pool: &Pool,
        listeners: usize,
        places: &Places,
    ) -> Result<Prepared, PrepareError> {
        let rootfs = places.of_pool(pool).join("rootfs");
        let blueprint = self.plan(pool, listeners, places, &rootfs)?;
        blueprint.make_state(pool)?;
        Ok(blueprint.prepared)
    }
}

/// With the host's network, a setting of the network would be the host's.
fn refuse_sysctls_of_host(pool: &Pool, profile: &Profile) -> Result<(), PrepareError> {
    let of_network = |key: &&String| profile::namespace_of(key) == Some(Namespace::Network);
    match profile.sysctl.keys().find(of_network) {
        Some(key) if matches!(spec::network(pool, profile), Network::Host(_)) => {
            Err(PrepareError::Sysctl { profile: profile.name.clone(), key: key.clone() })
        }
        _ => Ok(()),
    }
}

/// A way out leads out of a network namespace that belongs to nobody inside.
fn refuse_no_own_network(pool: &Pool, profile: &Profile) -> Result<(), OutboundError> {
    let Network::Outbound(_) = spec::network(pool, profile) else { return Ok(()) };
    let name = || profile.name.clone();
    if !profile.namespaces.contains(&Namespace::Network) {
        return Err(OutboundError::Shared(name()));
    }
    let of_network = |key: &&String| profile::namespace_of(key) == Some(Namespace::Network);
    match profile.sysctl.keys().find(of_network) {
        Some(key) => Err(OutboundError::Sysctl { profile: name(), key: key.clone() }),
        None => Ok(()),
    }
}

/// Ports are Landlock's to hold, and nobody else does.
fn refuse_unheld_ports(pool: &Pool, profile: &Profile) -> Result<(), PrepareError> {
    let Network::Host(ports) = spec::network(pool, profile) else { return Ok(()) };
    if *ports == Ports::default() {
        return Ok(());
    }
    if !profile.landlock {
        return Err(PrepareError::PortsWithoutLandlock { profile: profile.name.clone() });
    }
    match landlock::kernel_abi() {
        kernel if kernel < spec::ABI_OF_PORTS as i32 => Err(PrepareError::PortsNeedKernel { kernel }),
        _ => Ok(()),
    }
}

/// A pool's container on paper.
pub struct Blueprint {
    /// What a launch needs, once root and state directory are made.
    pub prepared: Prepared,
    state: Vec<(PathBuf, PathBuf)>,
}

impl Blueprint {
    /// Makes the pool's state directories, which are mounts of its spec.
    ///
    /// # Errors
    /// The directory that could not be made, or is another's.
    pub fn make_state(&self, pool: &Pool) -> Result<(), PrepareError> {
        make_state(pool, &self.state)
    }

    /// Makes the root directory at `rootfs`.
    ///
    /// # Errors
    /// The file that could not be made.
    pub fn make_root(&self, pool: &Pool, rootfs: &Path) -> Result<(), PrepareError> {
        make_root(
            pool,
            spec::network(pool, &self.prepared.profile),
            rootfs,
            &self.prepared.layout,
            &self.prepared.spec,
            &self.prepared.files,
        )
    }
}

/// Makes the pool's root directory anew.
fn make_root(
    pool: &Pool,
    network: &Network,
    rootfs: &Path,
    layout: &Layout,
    spec: &Spec,
    files: &[(String, String)],
) -> Result<(), PrepareError> {
    let file = |path: &Path| {
        let path = path.to_owned();
        move |error| PrepareError::File { path, error }
    };
    if rootfs.exists() {
        fs::remove_dir_all(rootfs).map_err(file(rootfs))?;
    }
    DirBuilder::new().recursive(true).mode(0o755).create(rootfs).map_err(file(rootfs))?;
    fs::set_permissions(rootfs, fs::Permissions::from_mode(0o755)).map_err(file(rootfs))?;
    let secret: Vec<_> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    write_etc(rootfs, &owner(pool, network), &secret, pool.user.gid)?;
    layout.make_links(rootfs)?;
    mounts::make_mount_points(rootfs, spec.mounts().as_deref().unwrap_or_default())?;
    Ok(())
}

/// Who `pool` is, as its passwd tells.
pub fn owner<'a>(pool: &'a Pool, network: &'a Network) -> Owner<'a> {
    let account = &pool.user;
    let hostname = pool.name.as_str();
    Owner { name: &account.name, uid: account.uid, gid: account.gid, hostname, network }
}

/// php-fpm's command line. Where no code can be made at run time, it is not tried:
/// PCRE would warn with every expression, opcache at the start.
fn command(image: &Image, profile: &Profile) -> Vec<String> {
    let mut words = conf::command(&image.binary, &Path::new("/etc").join(CONF));
    if !profile.allows_written_code() {
        words.extend(["-d", "pcre.jit=0", "-d", "opcache.jit_buffer_size=0"].map(str::to_owned));
    }
    words
}

/// The ini files of the chosen extensions, as files of the pool's own `/etc`.
fn chosen_extensions(
    image: &Image,
    info: &Info,
    wanted: &[String],
) -> Result<Vec<(String, String)>, PrepareError> {
    let selected = probe::select_extensions(info, wanted)?;
    // An empty directory too must be there, or php would say that it cannot scan it.
    let mut files =
        vec![("howdah/php.d/00-howdah.ini".to_owned(), "; extensions chosen by the pool file\n".to_owned())];
    for path in selected {
        // The image's php-fpm named it, and whoever made the image: it must not be a file of the host.
        let text = paths::read_in_root(&image.root, &path)
            .map_err(|error| PrepareError::File { path: image.on_host(&path), error })?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        files.push((format!("howdah/php.d/{name}"), text));
    }
    Ok(files)
}

/// What php reads below `/etc`: its ini files for fpm and for programs it
/// starts, but not the pools of the host's own php-fpm.
fn configuration_files(image: &Image, info: &Info, own_extensions: bool) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = info.loaded_ini.iter().cloned().collect();
    if !own_extensions {
        paths.extend(info.scan_dir.iter().cloned());
    }
    paths.extend(info.ini_dir.parent().map(|parent| parent.join("cli")));
    for file in &info.scanned {
        let link = fs::read_link(image.on_host(file)).ok();
        paths.extend(
            link.and_then(|target| target.parent().map(Path::to_owned)).filter(|parent| parent.is_absolute()),
        );
    }
    paths.sort();
    paths.dedup();
    paths
}

/// The pool's directories that outlive its generations, where PHP keeps
/// sessions and uploads: the host's path and the path inside.
fn state_directories(pool: &Pool, places: &Places) -> Vec<(PathBuf, PathBuf)> {
    let own = places.state.join("pools").join(pool.name.as_str());
    let pairs = [("sessions", "/var/lib/php/sessions"), ("uploads", "/var/lib/php/uploads")];
    pairs.into_iter().map(|(name, target)| (own.join(name), PathBuf::from(target))).collect()
}

/// The directories of the sockets of the services that the pool is to see and that
/// are on this host; where a mount of the pool's own is in the way, that counts.
fn service_directories(pool: &Pool) -> Vec<&'static Path> {
    let is_free = |path: &&Path| {
        pool.mounts.iter().all(|mount| {
            !path.starts_with(mount.target.as_path()) && !mount.target.as_path().starts_with(path)
        })
    };
    pool.sockets
        .iter()
        .map(|service| service.directory())
        .filter(|path| path.is_dir())
        .filter(is_free)
        .collect()
}

/// The uid and gid on the host with which the sandbox of `pool`, whose spec is `spec`, must be born;
/// `None`: any will do. A database whose socket it sees may let an account in by the uid of the process
/// (SO_PEERCRED, unix(7)), and would find a stranger's.
fn own_ids(pool: &Pool, spec: &Spec) -> Option<(u32, u32)> {
    let (_, own) = spec::mounts_of(spec);
    let ends = |mount: &'_ Mount| [mount.source().clone(), Some(mount.destination().clone())];
    let mut paths = own.iter().flat_map(ends).flatten();
    let is_around = |path: &Path, socket: &Path| path.starts_with(socket) || socket.starts_with(path);
    let sees_database =
        paths.any(|path| Service::DATABASES.iter().any(|one| is_around(&path, one.directory())));
    (pool.start.template.is_none() && sees_database).then_some((pool.user.uid, pool.user.gid))
}

/// Makes the pool's state directories, each its user's alone.
fn make_state(pool: &Pool, state: &[(PathBuf, PathBuf)]) -> Result<(), PrepareError> {
    for (path, _) in state {
        let file = |error| PrepareError::File { path: path.clone(), error };
        let above = path.parent().unwrap_or(path);
        DirBuilder::new().recursive(true).mode(0o711).create(above).map_err(file)?;
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => chown(path, Some(pool.user.uid), Some(pool.user.gid)).map_err(file)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => check_state(pool, path)?,
            Err(error) => return Err(file(error)),
        }
    }
    Ok(())
}

/// A state directory that somebody else owns would show one tenant's sessions to another.
fn check_state(pool: &Pool, path: &Path) -> Result<(), PrepareError> {
    let data =
        fs::symlink_metadata(path).map_err(|error| PrepareError::File { path: path.to_owned(), error })?;
    if data.is_dir() && data.uid() == pool.user.uid {
        return Ok(());
    }
    let error = io::Error::other(format!(
        "belongs to uid {}, not to the pool's user {}: give it to the pool (chown -R) or remove it",
        data.uid(),
        pool.user.name
    ));
    Err(PrepareError::File { path: path.to_owned(), error })
}
