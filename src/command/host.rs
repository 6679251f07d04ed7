//! What this host can do.

use std::fs;
use std::path::Path;

use nix::errno::Errno;
use serde::Serialize;

use super::is_root;
use crate::config::pool::ImageRef;
use crate::image::Image;
use crate::sandbox::{cgroup, landlock};
use crate::sys;

/// The host's features, as `check` tells them.
#[derive(Debug, Serialize)]
pub(super) struct Host {
    /// uname -r
    pub(super) kernel: String,
    /// Whether howdah runs as root.
    pub(super) root: bool,
    /// Whether user namespaces can be made.
    pub(super) user_namespaces: bool,
    /// Where cgroup v2 is mounted.
    pub(super) cgroup: Option<String>,
    /// The controllers that are there.
    pub(super) cgroup_controllers: Vec<String>,
    /// 0: none.
    pub(super) landlock_abi: i32,
    /// Whether the kernel has seccomp filters.
    pub(super) seccomp: bool,
    /// The php-fpm of the image `host`.
    pub(super) php_fpm: Option<String>,
    /// Why no pool at all can run here, if so.
    pub(super) refusal: Option<String>,
}

impl Host {
    /// Looks.
    pub(super) fn look() -> Self {
        let mount = cgroup::mount_point().ok();
        let controllers =
            mount.as_ref().and_then(|mount| fs::read_to_string(mount.join("cgroup.controllers")).ok());
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let actions = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
        let namespace = sys::try_user_namespace();
        let seccomp = actions.contains("errno");
        let without = "this kernel has no seccomp filters: use one with CONFIG_SECCOMP_FILTER=y";
        Self {
            kernel: kernel.trim().to_owned(),
            root: is_root(),
            user_namespaces: namespace.is_ok(),
            cgroup: mount.map(|mount| mount.display().to_string()),
            cgroup_controllers: controllers
                .unwrap_or_default()
                .split_whitespace()
                .map(str::to_owned)
                .collect(),
            landlock_abi: landlock::kernel_abi(),
            seccomp,
            php_fpm: Image::locate(&ImageRef::Host, None)
                .ok()
                .map(|image| image.binary.display().to_string()),
            refusal: match namespace {
                Err(errno) => Some(no_user_namespaces(errno)),
                Ok(()) => (!seccomp).then(|| without.to_owned()),
            },
        }
    }

    /// Why no pool at all can run here, if so.
    pub(super) fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref()
    }
}

/// Why there is no user namespace to be had, and what to do about it.
fn no_user_namespaces(errno: Errno) -> String {
    let set = |path: &str| fs::read_to_string(Path::new("/proc/sys").join(path)).unwrap_or_default();
    let most = set("user/max_user_namespaces");
    let what = match errno {
        Errno::ENOSPC if most.trim() == "0" => {
            "user.max_user_namespaces is 0 here: raise it (sysctl -w user.max_user_namespaces=15000)"
        }
        Errno::ENOSPC => {
            "user.max_user_namespaces, here or further out, is reached, or 32 lie inside one another: raise it"
        }
        Errno::EINVAL | Errno::ENOSYS => {
            "this kernel has none: use one with CONFIG_USER_NS=y, Linux 5.9 or later"
        }
        _ if set("kernel/unprivileged_userns_clone").trim() == "0" => {
            "kernel.unprivileged_userns_clone is 0: set it to 1, or run howdah as root"
        }
        _ if set("kernel/apparmor_restrict_unprivileged_userns").trim() == "1" => {
            "kernel.apparmor_restrict_unprivileged_userns is 1: set it to 0, or run howdah as root"
        }
        _ => "a security module or the container that howdah runs in forbids it: allow it there",
    };
    format!("create a user namespace: {} ({errno:?}): {what}", errno.desc())
}
