//! A sandbox that was made before anybody knew for whom: its program runs already, behind all
//! walls but without a name, a file or a socket of anybody's, and waits. [`Template::bind`] gives
//! it what a pool's spec says, from outside. It serves one sandbox and is never used again.
//!
//! What makes that possible: its uid is its own from its birth and has a name inside only when
//! the map is written; mounts are made here and attached there, and show their files as its
//! own; a Landlock rule is of an inode, wherever that is attached later; and descriptors come by
//! the gate, at a call that the program makes once and waits in.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::stat::fstat;
use nix::unistd::Pid;
use oci_spec::runtime::{Mount, Spec};

use super::landlock::Use;
use super::mounts::{self, Sources, Tree};
use super::plan::{self, Plan};
use super::step::{At, Step, StepError};
use super::uplink::{Programs, Unclaimed, Uplink};
use super::users::Users;
use super::visit::Home;
use super::{Launched, SpareNetwork, borrowed, child};
use crate::spec::class::STATE;
use crate::spec::{LANDLOCK, LANDLOCK_EXECUTE, LANDLOCK_WRITE, NETWORK, annotation, mounts_of};
use crate::sys;

/// Device and inode.
type Inode = (u64, u64);

/// What a pool may have attached later: where it is on the host, open, and what for.
pub type Source = (PathBuf, OwnedFd, Use);

/// A sandbox that waits to be bound.
pub struct Template {
    /// Its process.
    pub process: Launched,
    /// Its ids on the host, which nobody else has.
    pub ids: (u32, u32),
    rootfs: PathBuf,
    root: OwnedFd,
    trees: Vec<Tree>,
    /// `None`: its ids are those of whose files it shows.
    users: Option<Users>,
    /// Its network, where that is to have a way out: nothing leads out of it yet.
    net: Option<Unclaimed>,
    /// What its Landlock allows of directories that may be attached; `None`: it is off.
    allowed: Option<HashMap<Inode, Vec<Use>>>,
    /// Where those are on the host for which it allows more than reading.
    sources: Vec<PathBuf>,
    /// Below these it allows writing whatever is attached.
    writable: Vec<PathBuf>,
}

/// What is made for a pool that nobody knows yet.
pub struct Ahead<'a> {
    /// The sandbox's root directory on the host.
    pub rootfs: &'a Path,
    /// What a pool may have attached later, and for what.
    pub sources: Vec<Source>,
    /// Whether the owner of that is somebody else on the disk.
    pub maps: bool,
    /// What would make the way out of the pool that it is most likely to become.
    pub programs: Option<&'a Programs>,
}

impl Template {
    /// Launches the program of `spec`, which has the annotation [`IDENTITY`](crate::spec::IDENTITY).
    ///
    /// # Errors
    /// The failing step; nothing of it is left then.
    pub fn launch(
        spec: &Spec,
        mut plan: Plan,
        Ahead { rootfs, sources, maps, programs }: Ahead<'_>,
        cgroup: BorrowedFd<'_>,
        stock: Option<&mut SpareNetwork>,
    ) -> Result<Self, StepError> {
        let on = plan.prepare.landlock.is_some();
        let mut allowed: HashMap<Inode, Vec<Use>> = HashMap::new();
        let mut paths = Vec::new();
        for (path, source, purpose) in sources {
            // Without the symlinks on the way: another may have gone another.
            let real = std::fs::read_link(format!("/proc/self/fd/{}", source.as_raw_fd()));
            paths.push(real.unwrap_or(path));
            let uses = allowed.entry(inode(source.as_fd())?).or_default();
            if !uses.contains(&purpose) {
                uses.push(purpose);
                plan.allow(source, purpose);
            }
        }
        let users = maps.then(Users::new).transpose().at(Step::Clone, "(a user namespace for its mounts)")?;
        let mut net = (annotation(spec, NETWORK) == Some("outbound")).then(Unclaimed::new).transpose()?;
        if let (Some(net), Some(programs)) = (&mut net, programs) {
            net.filter_ahead(programs)?;
        }
        let process = match &net {
            None => super::launch(&plan, Some(cgroup), stock)?,
            Some(net) => {
                plan.live_in_given_network();
                super::launch(&plan, Some(cgroup), Some(&mut stock_of(net, stock)?))?
            }
        };
        let identity = &plan.bind.identity;
        Ok(Self {
            process,
            ids: (identity.uid, identity.gid),
            rootfs: rootfs.to_owned(),
            users,
            net,
            allowed: on.then_some(allowed),
            sources: paths,
            writable: list(spec, LANDLOCK_WRITE),
            root: plan.prepare.root,
            trees: plan.prepare.trees,
        })
    }

    /// Its root directory on the host.
    pub fn rootfs(&self) -> &Path {
        &self.rootfs
    }

    /// Begins to make its way out, in `cgroup`, with `account` (uid and gid) as its network's owner.
    /// The program goes on as far as to where it asks for its descriptors, and gets them only after
    /// [`Launched::network_is_up`].
    ///
    /// # Errors
    /// It is none that is to have a way out, or the failing step: it must be killed then.
    pub fn connect(
        &mut self,
        account: (u32, u32),
        programs: &Programs,
        cgroup: BorrowedFd<'_>,
    ) -> Result<Uplink, StepError> {
        let refuse = |errno| StepError::new(Step::AwaitNetwork, "(of a template)", errno);
        let net = self.net.take().ok_or_else(|| refuse(Errno::EPROTO))?;
        match &mut self.process.gate {
            Some(gate) if gate.awaits_gift() => gate.withhold().map_err(refuse)?,
            _ => return Err(refuse(Errno::EPROTO)),
        }
        net.belong_to(account.0, account.1)?.serve(programs, Some(cgroup))
    }

    /// Gives it what is the pool's own in `spec`: mounts, host name, ids, limits.
    ///
    /// # Errors
    /// The failing step: it must be killed then, for half of it may be done.
    pub fn bind(&mut self, spec: &Spec, home: &Home) -> Result<(), StepError> {
        let missing =
            |what: &str| StepError::new(Step::Clone, format!("(the spec has no {what})"), Errno::EINVAL);
        let process = spec.process().as_ref().ok_or_else(|| missing("process"))?;
        let inside = (process.user().uid(), process.user().gid());
        let (image, own) = mounts_of(spec);
        let exchange = |users: &Users| users.exchange(inside, self.ids);
        let users = self.users.as_ref().map(exchange).transpose().at(Step::MapIdentity, "(of its mounts)")?;
        let users = users.as_ref().map(AsFd::as_fd);
        let trees = own
            .iter()
            .map(|mount| mounts::prepare(mount, Sources::Host, users))
            .collect::<Result<Vec<_>, _>>()?;
        self.check_rules(spec, own, &trees)?;
        mounts::make_points_in_tmpfs(&self.trees, own)?;
        mounts::make_own_mount_points(&self.rootfs, image, own).map_err(|(path, error)| {
            let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
            StepError::new(Step::AttachMount, path.display().to_string(), errno)
        })?;
        let hostname = spec.hostname().clone().unwrap_or_default();
        home.visit(self.process.pidfd.as_fd(), || {
            child::attach_all(&trees, self.root.as_fd())?;
            nix::unistd::sethostname(&hostname).at(Step::SetHostname, &hostname)
        })?;
        let limits = plan::rlimits(spec, process)?;
        let pid = self.process.pid;
        let lower = || {
            limits.iter().filter(|limit| !limit.raises).try_for_each(|limit| {
                sys::set_limit_of(pid, limit.resource, limit.soft, limit.hard)
                    .at(Step::SetLimit, limit.words())
            })
        };
        if self.users.is_some() {
            let line = |inside: u32, outside: u32| format!("{inside} {outside} 1\n");
            let (uids, gids) = (line(inside.0, self.ids.0), line(inside.1, self.ids.1));
            super::write_maps(self.process.pid, &uids, &gids)?;
            borrowed::act_as(self.ids.0, self.ids.1, lower)?;
        } else {
            // howdah owns its user namespace, and by that has every right over it. As an account howdah
            // must never be, not for a moment: any process of that could kill it (kill(2)).
            lower()?;
        }
        for limit in limits.iter().filter(|limit| limit.raises) {
            sys::set_limit_of(pid, limit.resource, limit.soft, limit.hard)
                .at(Step::RaiseLimit, limit.words())?;
        }
        Ok(())
    }

    /// Gives it `descriptors`, which it finds at `first` and on when it asks for them: the last
    /// thing that it needs.
    ///
    /// # Errors
    /// It does not wait for any.
    pub fn give(&mut self, first: u32, descriptors: Vec<OwnedFd>) -> Result<(), StepError> {
        match &mut self.process.gate {
            Some(gate) if gate.awaits_gift() => gate.give(first, descriptors),
            _ => return Err(StepError::new(Step::AwaitCalls, "(it does not wait)", Errno::EPROTO)),
        }
        Ok(())
    }

    /// Whether its program has been executed and only the call is to come that it is bound at.
    pub fn awaits_gift(&self) -> bool {
        self.process.gate.as_ref().is_some_and(super::gate::Gate::awaits_gift)
    }

    /// Whether nothing but its program is at work in it.
    pub fn is_settled(&self) -> bool {
        self.net.as_ref().is_none_or(Unclaimed::is_settled)
    }

    /// Its process, and those that keep the user namespaces of its mounts and of its network.
    pub fn processes(&self) -> impl Iterator<Item = Pid> {
        let keepers = [self.users.as_ref().map(Users::pid), self.net.as_ref().map(Unclaimed::pid)];
        std::iter::once(self.process.pid).chain(keepers.into_iter().flatten())
    }

    /// Its process; what is left of the making of it ends here.
    pub fn into_process(self) -> Launched {
        self.process
    }

    /// What Landlock allows of each mount has to be what it would of a sandbox made for this
    /// pool: not less, or the site breaks; not more, or a wall is lower.
    fn check_rules(&self, spec: &Spec, own: &[Mount], trees: &[Tree]) -> Result<(), StepError> {
        let is_off = annotation(spec, LANDLOCK) == Some("off");
        let Some(allowed) = &self.allowed else {
            return if is_off { Ok(()) } else { Err(unfit("(it has no Landlock)")) };
        };
        let (write, execute) = (list(spec, LANDLOCK_WRITE), list(spec, LANDLOCK_EXECUTE));
        // Only to compare them: what is attached was opened by way of symlinks of root alone.
        let real = |source: &PathBuf| std::fs::canonicalize(source).unwrap_or_else(|_| source.clone());
        let sources: Vec<_> = own.iter().filter_map(|mount| mount.source().as_ref()).map(real).collect();
        sources.iter().try_for_each(|source| self.check_below(source, &sources))?;
        for (mount, tree) in own.iter().zip(trees) {
            let target = mount.destination();
            let (write, execute) = (write.contains(target), execute.contains(target));
            // Rights add up along a path: what is attached below a writable tmpfs is so in every sandbox.
            let below = |above: &PathBuf| target.starts_with(above) && target != above;
            let covered = self.writable.iter().any(below);
            let only_here = covered && target.starts_with(STATE);
            let mounts::Source::Detached(source) = &tree.source else {
                return Err(unfit(&tree.words));
            };
            let uses = allowed.get(&inode(source.as_fd())?).map(Vec::as_slice).unwrap_or_default();
            let writes = covered || write == uses.contains(&Use::Write);
            if !writes || only_here && !write || execute != uses.contains(&Use::Execute) {
                return Err(unfit(&tree.words));
            }
        }
        Ok(())
    }

    /// A directory within what is attached for which there is a rule, because another pool brings
    /// it, would be more than this pool is to have: mounts of its own there have been looked at.
    fn check_below(&self, source: &Path, own: &[PathBuf]) -> Result<(), StepError> {
        let mut below = self.sources.iter().filter(|path| path.starts_with(source) && !own.contains(path));
        match below.next() {
            Some(path) => Err(unfit(&format!("{} in {}", path.display(), source.display()))),
            None => Ok(()),
        }
    }
}

/// A stock from which a sandbox is born in `net`.
fn stock_of(net: &Unclaimed, stock: Option<&mut SpareNetwork>) -> Result<SpareNetwork, StepError> {
    let made = stock.ok_or(Errno::EPERM).and_then(|stock| stock.of(net.namespace()));
    made.at(Step::Clone, "(the network with a way out)")
}

fn unfit(object: &str) -> StepError {
    StepError::new(Step::RestrictFiles, format!("to {object}: the template has other rules"), Errno::EXDEV)
}

fn inode(fd: BorrowedFd<'_>) -> Result<Inode, StepError> {
    fstat(fd.as_raw_fd()).map(|data| (data.st_dev, data.st_ino)).at(Step::OpenSource, "(what it is open on)")
}

/// A JSON list of paths in an annotation; one that is not there is empty.
fn list(spec: &Spec, key: &str) -> Vec<PathBuf> {
    annotation(spec, key).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}
