//! The steps of a launch by name, and the error that names one.

use std::fmt;

use nix::errno::Errno;

macro_rules! steps {
    ($($(#[$doc:meta])* $name:ident = $words:literal,)*) => {
        /// One step between clone3(2) and execve(2). The order of the variants is that of the child.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Step { $($(#[$doc])* $name,)* }

        impl Step {
            /// Every step, in the child's order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The step in words: what was being done to the error's object.
            pub const fn words(self) -> &'static str {
                match self { $(Self::$name => $words,)* }
            }
        }
    };
}

steps! {
    /// In the parent: clone3(2).
    Clone = "create namespaces",
    /// In the parent: the source of a mount is opened and copied.
    OpenSource = "open",
    /// In the parent: a copied mount shows its files as another's (MOUNT_ATTR_IDMAP).
    MapOwners = "map the owners of",
    /// In the parent: `/proc/PID/uid_map` and `gid_map`.
    MapIdentity = "map the uid and gid",
    /// Default signal dispositions and an empty mask.
    ResetSignals = "reset signals",
    /// setsid(2), umask(2).
    StartSession = "start a session",
    /// keyctl(2), KEYCTL_JOIN_SESSION_KEYRING.
    JoinKeyring = "join a session keyring of its own",
    /// unshare(CLONE_NEWCGROUP) in the pool's own cgroup.
    UnshareCgroup = "create a cgroup namespace",
    /// The copied mounts stop hearing of the host's.
    CutPropagation = "make mounts private",
    /// A setting of a namespace's own is written.
    SetSysctl = "set the sysctl",
    /// The new root is attached over the old.
    AttachRoot = "attach the root",
    /// One mount is attached in the new root.
    AttachMount = "mount",
    /// procfs of the new pid namespace.
    MountProc = "mount proc",
    /// A path of the profile is hidden or made read-only.
    MaskPath = "mask",
    /// pivot_root(2).
    PivotRoot = "pivot_root",
    /// The old root goes.
    DetachOldRoot = "detach the old root",
    /// sethostname(2).
    SetHostname = "set the host name",
    /// Loopback up.
    RaiseLoopback = "raise loopback",
    /// The packet filter of a network with a way out.
    FilterNetwork = "filter the network by",
    /// The way out is there.
    AwaitNetwork = "wait for the network",
    /// Descriptors 0, 1, 2 and the listening sockets; all else close-on-exec.
    ArrangeDescriptors = "arrange descriptors",
    /// setrlimit(2).
    SetLimit = "set",
    /// In the parent: prlimit(2).
    RaiseLimit = "raise",
    /// The parent has written the id maps.
    AwaitIdentity = "wait for the id map",
    /// setgroups(2), setresgid(2), setresuid(2).
    TakeIdentity = "become",
    /// The bounding set.
    DropBoundingSet = "drop the bounding set",
    /// All other capability sets.
    DropCapabilities = "drop capabilities",
    /// prctl(PR_SET_NO_NEW_PRIVS).
    SetNoNewPrivs = "set no_new_privs",
    /// landlock_restrict_self(2).
    RestrictFiles = "apply Landlock",
    /// What must hold by now is read back.
    VerifyWalls = "verify",
    /// Calls that may be made once wait for howdah: the seccomp listener and its answers.
    AwaitCalls = "let a waiting system call through",
    /// The seccomp filters.
    FilterSyscalls = "install the seccomp filter",
    /// execve(2).
    Execute = "execute",
}

/// A step that failed, on what, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepError {
    /// The step.
    pub step: Step,
    /// What it was done to ("/srv/blog on /app"); may be empty.
    pub object: String,
    /// The kernel's reason.
    pub errno: Errno,
}

impl StepError {
    /// An error of `step` on `object`.
    pub fn new(step: Step, object: impl Into<String>, errno: Errno) -> Self {
        Self { step, object: object.into(), errno }
    }

    /// What to do about it, with its colon, where we know it.
    fn hint(&self) -> &'static str {
        match (self.step, self.errno) {
            (Step::Clone, Errno::ENOSPC) => {
                ": the limit of user.max_user_namespaces (or of another namespace) is reached: raise it with sysctl"
            }
            (Step::Clone, Errno::EPERM | Errno::EINVAL) => {
                ": this kernel or its settings do not allow user namespaces: see `howdah check`"
            }
            (Step::OpenSource, Errno::ELOOP) => {
                ": the source goes through a symlink that does not belong to root: name the real directory"
            }
            (Step::RaiseLimit, Errno::EPERM) => {
                ": it is above howdah's own hard limit: lower it in [limits], raise howdah's \
                 (LimitNOFILE= and its kin in its unit), or give howdah CAP_SYS_RESOURCE"
            }
            (Step::AttachMount | Step::OpenSource, Errno::ENOENT) => {
                ": create it, or take the mount out of the pool file"
            }
            (Step::AttachMount, Errno::ELOOP) => {
                ": its target goes through a symlink: name the real directory"
            }
            (Step::SetSysctl, Errno::ENOENT) => {
                ": a pool's namespaces have no such setting: take it out of the profile's [sysctl]"
            }
            (Step::SetSysctl, Errno::EACCES | Errno::EPERM) => {
                ": this kernel does not let a pool's namespaces have it: take it out of the profile's [sysctl]"
            }
            _ => "",
        }
    }

    /// The error as bytes for the status pipe; at most PIPE_BUF of them, so that one write(2) is whole (pipe(7)).
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.step as u8];
        bytes.extend((self.errno as i32).to_ne_bytes());
        bytes.extend(self.object.bytes().take(2048));
        bytes
    }

    /// The error that [`Self::to_bytes`] wrote.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (head, object) = bytes.split_at_checked(5)?;
        let step = *Step::ALL.get(usize::from(head[0]))?;
        let errno = Errno::from_raw(i32::from_ne_bytes(head[1..].try_into().ok()?));
        Some(Self { step, object: String::from_utf8_lossy(object).into_owned(), errno })
    }
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.step.words())?;
        if !self.object.is_empty() {
            write!(f, " {}", self.object)?;
        }
        write!(f, ": {} ({:?}){}", self.errno.desc(), self.errno, self.hint())
    }
}

impl std::error::Error for StepError {}

impl From<Errno> for StepError {
    /// One of becoming somebody else for a moment.
    fn from(errno: Errno) -> Self {
        Self::new(Step::TakeIdentity, "another user", errno)
    }
}

/// Names the step and its object where the kernel gave only an errno.
pub(super) trait At<T> {
    /// Turns an errno into a [`StepError`] of `step` on `object`.
    fn at(self, step: Step, object: impl Into<String>) -> Result<T, StepError>;
}

impl<T> At<T> for nix::Result<T> {
    fn at(self, step: Step, object: impl Into<String>) -> Result<T, StepError> {
        self.map_err(|errno| StepError::new(step, object, errno))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_survives_the_status_pipe() {
        for step in Step::ALL {
            let error = StepError::new(*step, "/srv/blog on /app", Errno::EACCES);
            assert_eq!(StepError::from_bytes(&error.to_bytes()), Some(error));
        }
        assert_eq!(StepError::from_bytes(b""), None);
        assert_eq!(StepError::from_bytes(&[255, 0, 0, 0, 0]), None);
    }

    #[test]
    fn an_error_names_step_object_and_errno() {
        let error = StepError::new(Step::AttachMount, "/srv/blog on /app", Errno::EACCES);
        assert_eq!(error.to_string(), "mount /srv/blog on /app: Permission denied (EACCES)");
    }
}
