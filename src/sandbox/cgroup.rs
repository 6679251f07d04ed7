//! cgroup v2: where generations are born, frozen, measured and limited.
//! cgroups(7) and the kernel's admin-guide/cgroup-v2.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::Pid;

use crate::sys;

/// A cgroup that could not be made or set as asked.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No cgroup v2 hierarchy is mounted.
    #[error("no cgroup v2 is mounted (looked in /proc/self/mountinfo): mount it on /sys/fs/cgroup")]
    NotMounted,
    /// A file or directory of the hierarchy refused.
    #[error("cgroup {}: {}", path.display(), sys::told(.error))]
    Refused {
        /// The file or directory.
        path: PathBuf,
        /// The kernel's reason.
        error: io::Error,
    },
    /// A limit was asked for whose controller is not there.
    #[error(
        "limit {key} needs the cgroup v2 controller {controller:?}, which {} does not have: \
         delegate it (Delegate=yes in the unit) or take the limit out of the pool file", base.display()
    )]
    NoController {
        /// The file, "memory.max".
        key: String,
        /// Its controller, "memory".
        controller: String,
        /// The directory below which howdah makes cgroups.
        base: PathBuf,
    },
}

fn refused(path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    let path = path.to_owned();
    move |error| CgroupError::Refused { path, error }
}

/// Where cgroup v2 is mounted: the first of /proc/self/mountinfo that is to be
/// seen there. Another mount may cover it, and its path then means something else.
///
/// # Errors
/// [`CgroupError::NotMounted`]
pub fn mount_point() -> Result<PathBuf, CgroupError> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(|_| CgroupError::NotMounted)?;
    mounts
        .lines()
        .filter_map(|line| line.split_once(" - "))
        .filter(|(_, tail)| tail.starts_with("cgroup2 "))
        .filter_map(|(head, _)| head.split(' ').nth(4).map(PathBuf::from))
        .find(|path| statfs(path).is_ok_and(|data| data.filesystem_type() == CGROUP2_SUPER_MAGIC))
        .ok_or(CgroupError::NotMounted)
}

/// This process's own cgroup, relative to the mount (`0::` in /proc/self/cgroup).
fn own() -> Option<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(PathBuf::from(path.trim_start_matches('/')))
}

/// The directory below which a howdah makes one cgroup for each generation.
#[derive(Debug)]
pub struct Base {
    directory: PathBuf,
    controllers: BTreeSet<String>,
}

impl Base {
    /// Opens the base named `instance`: below howdah's own cgroup where it is
    /// delegated to it (systemd's `Delegate=yes` marks it with an extended
    /// attribute), else below `configured`, else below `/howdah` of the
    /// hierarchy. A delegated cgroup may hold no process beside child cgroups,
    /// so howdah moves itself into `supervisor` below it.
    ///
    /// # Errors
    /// No cgroup v2, or no right to make directories there.
    pub fn open(configured: Option<&Path>, instance: &str) -> Result<Self, CgroupError> {
        let mount = mount_point()?;
        let mut top = mount.clone();
        let parent = match (configured, own().map(|path| mount.join(path))) {
            (Some(path), _) => mount.join(path.strip_prefix("/").unwrap_or(path)),
            (None, Some(own)) if is_delegated(&own) => {
                let supervisor = own.join("supervisor");
                fs::create_dir_all(&supervisor).map_err(refused(&supervisor))?;
                let procs = supervisor.join("cgroup.procs");
                fs::write(&procs, "0").map_err(refused(&procs))?;
                top.clone_from(&own);
                own
            }
            _ => mount.join("howdah"),
        };
        let directory = parent.join(instance);
        fs::create_dir_all(&directory).map_err(refused(&directory))?;
        let mut base = Self { directory, controllers: BTreeSet::new() };
        base.enable_controllers(&top)?;
        Ok(base)
    }

    /// Hands every controller that `top` has down to the base and to its children.
    /// `top` is what was delegated to us, or the root: systemd has some controllers
    /// enabled below that, and the others when somebody asks for them.
    fn enable_controllers(&mut self, top: &Path) -> Result<(), CgroupError> {
        let mut chain: Vec<PathBuf> = self.directory.ancestors().map(Path::to_owned).collect();
        chain.retain(|directory| directory.starts_with(top));
        for directory in chain.iter().rev() {
            let file = directory.join("cgroup.controllers");
            let present = fs::read_to_string(&file).map_err(refused(&file))?;
            let wanted = ["cpu", "io", "memory", "pids"]
                .into_iter()
                .filter(|name| present.split_whitespace().any(|word| word == *name));
            self.controllers.clear();
            for name in wanted {
                let control = directory.join("cgroup.subtree_control");
                // One by one: a controller that cannot be enabled is missing, not fatal.
                if fs::write(&control, format!("+{name}")).is_ok() {
                    self.controllers.insert(name.to_owned());
                }
            }
        }
        Ok(())
    }

    /// The controllers that a generation's limits can use.
    pub fn controllers(&self) -> &BTreeSet<String> {
        &self.controllers
    }

    /// The base's directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes the cgroup `name` and writes `limits` (file name and value) into it.
    /// A limit that is not in `demanded` is left out where its controller is missing.
    ///
    /// # Errors
    /// A demanded limit without a controller, or what the kernel refuses; nothing stays behind then.
    pub fn create<'a>(
        &self,
        name: &str,
        limits: impl Iterator<Item = (&'a str, &'a str)>,
        demanded: impl Fn(&str) -> bool,
    ) -> Result<Cgroup, CgroupError> {
        let directory = self.directory.join(name);
        fs::create_dir(&directory).map_err(refused(&directory))?;
        let handle = File::open(&directory).map_err(refused(&directory))?;
        let cgroup = Cgroup { directory, handle };
        if let Err(error) = self.limit(&cgroup, limits, demanded) {
            let _ = cgroup.remove();
            return Err(error);
        }
        Ok(cgroup)
    }

    /// Writes `limits` into a cgroup that is there already.
    ///
    /// # Errors
    /// A demanded limit without a controller, or what the kernel refuses.
    pub fn limit<'a>(
        &self,
        cgroup: &Cgroup,
        mut limits: impl Iterator<Item = (&'a str, &'a str)>,
        demanded: impl Fn(&str) -> bool,
    ) -> Result<(), CgroupError> {
        limits.try_for_each(|(key, value)| self.set_limit(cgroup, key, value, demanded(key)))
    }

    fn set_limit(&self, cgroup: &Cgroup, key: &str, value: &str, demanded: bool) -> Result<(), CgroupError> {
        let controller = key.split('.').next().unwrap_or(key);
        if self.controllers.contains(controller) {
            let path = cgroup.directory.join(key);
            // One write(2) for each line: io.max takes one device at a time.
            return value.lines().try_for_each(|line| fs::write(&path, line)).map_err(refused(&path));
        }
        if demanded {
            return Err(CgroupError::NoController {
                key: key.to_owned(),
                controller: controller.to_owned(),
                base: self.directory.clone(),
            });
        }
        Ok(())
    }

    /// Removes what howdah made above its generations, if nothing is left in it. Nothing are cgroups without
    /// a process: of what took longer to end than anybody waited for it (cgroups(7) removes no other).
    pub fn remove(&self) {
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let _ = fs::remove_dir(entry.path());
        }
        let _ = fs::remove_dir(&self.directory);
        if self.directory.parent().is_some_and(|parent| parent.ends_with("howdah")) {
            let _ = self.directory.parent().map(fs::remove_dir);
        }
    }
}

/// Whether systemd has handed this cgroup over (systemd's "Control Group APIs and Delegation").
fn is_delegated(directory: &Path) -> bool {
    ["user.delegate", "trusted.delegate"].iter().any(|name| crate::sys::has_xattr(directory, name))
}

/// The cgroup of one generation.
#[derive(Debug)]
pub struct Cgroup {
    directory: PathBuf,
    handle: File,
}

impl Cgroup {
    /// Opens an existing one.
    ///
    /// # Errors
    /// That of open(2).
    pub fn open(directory: &Path) -> io::Result<Self> {
        Ok(Self { directory: directory.to_owned(), handle: File::open(directory)? })
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Asks the kernel to freeze or thaw all of it; `cgroup.events` tells when it is done.
    ///
    /// # Errors
    /// That of writing `cgroup.freeze`.
    pub fn set_frozen(&self, frozen: bool) -> io::Result<()> {
        fs::write(self.directory.join("cgroup.freeze"), if frozen { "1" } else { "0" })
    }

    /// Whether every process in it stands still.
    ///
    /// # Errors
    /// That of reading `cgroup.events`.
    pub fn is_frozen(&self) -> io::Result<bool> {
        Ok(fs::read_to_string(self.directory.join("cgroup.events"))?.lines().any(|line| line == "frozen 1"))
    }

    /// The processes in it, by the caller's pid namespace.
    ///
    /// # Errors
    /// That of reading `cgroup.procs`.
    pub fn processes(&self) -> io::Result<Vec<Pid>> {
        let text = fs::read_to_string(self.directory.join("cgroup.procs"))?;
        Ok(text.lines().filter_map(|line| line.parse().ok()).map(Pid::from_raw).collect())
    }

    /// Processor time used so far, microseconds (`usage_usec` of cpu.stat, there without the cpu controller).
    pub fn cpu_usec(&self) -> Option<u64> {
        let text = fs::read_to_string(self.directory.join("cpu.stat")).ok()?;
        text.lines().find_map(|line| line.strip_prefix("usage_usec "))?.parse().ok()
    }

    /// Memory in use, bytes (memory.current); `None` without the memory controller.
    pub fn memory_bytes(&self) -> Option<u64> {
        fs::read_to_string(self.directory.join("memory.current")).ok()?.trim().parse().ok()
    }

    /// Kills every process in it (`cgroup.kill`, Linux 5.14).
    pub fn kill(&self) {
        let _ = fs::write(self.directory.join("cgroup.kill"), "1");
    }

    /// The text of one of its files; empty where there is none.
    pub fn text(&self, file: &str) -> String {
        fs::read_to_string(self.directory.join(file)).unwrap_or_default()
    }

    /// The files that tell by EPOLLPRI that a limit was hit; those of missing controllers are left out.
    /// Each has been read once: a file that has not is always ready (kernfs(5)'s poll).
    pub fn event_files(&self) -> Vec<File> {
        let open = |name: &&str| {
            let file = File::open(self.directory.join(name)).ok()?;
            acknowledge(&file).ok().map(|()| file)
        };
        ["memory.events", "pids.events"].iter().filter_map(open).collect()
    }

    /// Removes it, whose last processes are ending: the kernel may need a moment, of which there are
    /// at most `moments`, 200 µs each. False: it is still there.
    pub fn remove_soon(&self, moments: u32) -> bool {
        for _ in 0..moments {
            match self.remove() {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                    std::thread::sleep(Duration::from_micros(200));
                }
                _ => return true,
            }
        }
        false
    }

    /// Removes the empty cgroup.
    ///
    /// # Errors
    /// EBUSY while a process in it is still ending.
    pub fn remove(&self) -> io::Result<()> {
        fs::remove_dir(&self.directory)
    }
}

/// Reads one of [`Cgroup::event_files`] again, so that it is ready at the next change only.
///
/// # Errors
/// That of reading; ENODEV when the cgroup is gone.
pub fn acknowledge(file: &File) -> io::Result<()> {
    file.read_at(&mut [0; 512], 0).map(drop)
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}
