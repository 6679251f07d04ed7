//! What this host can do.

use std::fs;

use serde::Serialize;

use super::is_root;
use crate::config::pool::ImageRef;
use crate::image::Image;
use crate::sandbox::{cgroup, landlock};

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
}

impl Host {
    /// Looks.
    pub(super) fn look() -> Self {
        let mount = cgroup::mount_point().ok();
        let controllers =
            mount.as_ref().and_then(|mount| fs::read_to_string(mount.join("cgroup.controllers")).ok());
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let actions = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
        Self {
            kernel: kernel.trim().to_owned(),
            root: is_root(),
            user_namespaces: user_namespaces_allowed(),
            cgroup: mount.map(|mount| mount.display().to_string()),
            cgroup_controllers: controllers
                .unwrap_or_default()
                .split_whitespace()
                .map(str::to_owned)
                .collect(),
            landlock_abi: landlock::kernel_abi(),
            seccomp: actions.contains("errno"),
            php_fpm: Image::locate(&ImageRef::Host, None)
                .ok()
                .map(|image| image.binary.display().to_string()),
        }
    }

    /// Why no pool at all can run here, if so.
    pub(super) fn refusal(&self) -> Option<&'static str> {
        if !self.user_namespaces {
            return Some(
                "this kernel or its settings do not allow user namespaces: enable CONFIG_USER_NS, \
                 sysctl user.max_user_namespaces, and for rootless use kernel.unprivileged_userns_clone \
                 or AppArmor's kernel.apparmor_restrict_unprivileged_userns=0",
            );
        }
        (!self.seccomp).then_some("this kernel has no seccomp filters: enable CONFIG_SECCOMP_FILTER")
    }
}

/// Asks the kernel itself, in a child: settings and security modules have too many ways to say no.
fn user_namespaces_allowed() -> bool {
    crate::sys::can_make_user_namespace()
}
