//! What a sandbox must have before anybody knows its pool, and what it can be given later:
//! pure. Two pools whose specs differ only in the latter are of one class, and a sandbox made
//! for the class ahead of time can become either's.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, PosixRlimitType, Spec};

use super::{
    CLOSE_DESCRIPTORS, EXECVE, IDENTITY, IMAGE, LANDLOCK, LANDLOCK_ABI, LANDLOCK_EXECUTE, LANDLOCK_TCP_BIND,
    LANDLOCK_TCP_CONNECT, LANDLOCK_WRITE, NETWORK, PREPARED_MOUNTS, annotation, mounts_of,
};

/// Where the directories are mounted that outlive a generation; below it Landlock lets a
/// template write whatever is attached there.
pub const STATE: &str = "/var/lib/php";

/// Annotations that hold for whatever is bound to it later.
const KEPT: [&str; 9] = [
    PREPARED_MOUNTS,
    IMAGE,
    EXECVE,
    NETWORK,
    CLOSE_DESCRIPTORS,
    LANDLOCK,
    LANDLOCK_ABI,
    LANDLOCK_TCP_BIND,
    LANDLOCK_TCP_CONNECT,
];

/// The host name of a sandbox that has no pool yet.
const NOBODY: &str = "template";

/// The spec of a template for the class of `spec`: its user on the host has `uid` and `gid`, which
/// belong to it alone, or are those of the pool's account; its root directory is `rootfs`. Of the pool
/// nothing else is in it: no mount of its own, name or limit.
pub fn template(spec: &Spec, uid: u32, gid: u32, rootfs: &Path) -> Spec {
    let mut made = spec.clone();
    // An account is known: nobody need be born as it, which only howdah itself could have its child be.
    let user = spec.process().as_ref().map(|process| (process.user().uid(), process.user().gid()));
    let is_account = user == Some((uid, gid));
    made.set_hostname(Some(NOBODY.to_owned()));
    made.set_annotations(Some(annotations(spec, if is_account { "account" } else { "late" })));
    made.set_mounts(Some(mounts(spec, uid, gid)));
    if let Some(root) = made.root_mut() {
        root.set_path(rootfs.to_owned());
    }
    if let Some(process) = made.process_mut() {
        process.user_mut().set_uid(uid);
        process.user_mut().set_gid(gid);
        // The stack's is part of where execve(2) puts things; the others are set later.
        let mut limits = process.rlimits().clone().unwrap_or_default();
        limits.retain(|limit| limit.typ() == PosixRlimitType::RlimitStack);
        process.set_rlimits(Some(limits));
    }
    if let Some(linux) = made.linux_mut() {
        linux.set_resources(None);
        linux.set_cgroups_path(None);
        if !is_account {
            linux.set_uid_mappings(None);
            linux.set_gid_mappings(None);
        }
    }
    made
}

/// The class of `spec` with `listeners` sockets, as a text that two pools have in common or not.
pub fn class(spec: &Spec, listeners: usize) -> String {
    // Maps are unordered: as values their keys are sorted.
    let value = serde_json::to_value(template(spec, 0, 0, Path::new("/")));
    format!("{listeners} {}", value.map(|value| value.to_string()).unwrap_or_default())
}

fn annotations(spec: &Spec, identity: &str) -> HashMap<String, String> {
    let kept = KEPT.iter().filter_map(|key| Some(((*key).to_owned(), annotation(spec, key)?.to_owned())));
    let mut annotations: HashMap<_, _> = kept.collect();
    annotations.insert(IDENTITY.to_owned(), identity.to_owned());
    let (_, own) = mounts_of(spec);
    for key in [LANDLOCK_EXECUTE, LANDLOCK_WRITE] {
        let Some(text) = annotation(spec, key) else { continue };
        let paths: Vec<PathBuf> = serde_json::from_str(text).unwrap_or_default();
        let is_own = |path: &PathBuf| own.iter().any(|mount| mount.destination() == path);
        let mut kept: Vec<PathBuf> = paths.into_iter().filter(|path| !is_own(path)).collect();
        if key == LANDLOCK_WRITE {
            kept.push(STATE.into());
        }
        annotations.insert(key.to_owned(), serde_json::to_string(&kept).unwrap_or_default());
    }
    annotations
}

/// Those of image and profile, whose file systems belong to the template's user.
fn mounts(spec: &Spec, uid: u32, gid: u32) -> Vec<Mount> {
    let owner = |option: &String| match option.split_once('=') {
        Some(("uid", _)) => format!("uid={uid}"),
        Some(("gid", _)) => format!("gid={gid}"),
        _ => option.clone(),
    };
    let of_nobody = |mount: &Mount| {
        let mut mount = mount.clone();
        let options = mount.options().as_ref().map(|options| options.iter().map(owner).collect());
        mount.set_options(options);
        mount
    };
    mounts_of(spec).0.iter().map(of_nobody).collect()
}
