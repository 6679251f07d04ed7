//! `[sysctl]`: kernel settings that a namespace has for itself.

use std::collections::{BTreeMap, BTreeSet};

use super::raw::{Layer, Scalar};
use super::{Namespace, ProfileError};

/// The namespace that has the setting `key` for itself (ipc_namespaces(7),
/// network_namespaces(7)); `None`: it is the machine's. The host name is left
/// out, for that is the pool's name.
pub fn namespace_of(key: &str) -> Option<Namespace> {
    const SYSTEM_V: [&str; 10] = [
        "kernel.msg_next_id",
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.sem_next_id",
        "kernel.shm_next_id",
        "kernel.shm_rmid_forced",
        "kernel.shmall",
        "kernel.shmmax",
    ];
    if SYSTEM_V.contains(&key) || key == "kernel.shmmni" || key.starts_with("fs.mqueue.") {
        Some(Namespace::Ipc)
    } else if key.starts_with("net.") {
        Some(Namespace::Network)
    } else {
        None
    }
}

/// All settings of a stack of files; of one that several name, the first counts.
pub(super) fn all(
    stack: &[Layer],
    own: &BTreeSet<Namespace>,
) -> Result<BTreeMap<String, String>, ProfileError> {
    let mut settings = BTreeMap::new();
    for layer in stack {
        for (key, value) in layer.raw.sysctl.iter().flatten() {
            let refuse = |reason: String| Err(layer.error(value.span(), format!("sysctl {key:?}: {reason}")));
            // It becomes a path below /proc/sys.
            let plain = |part: &str| {
                !part.is_empty()
                    && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
            };
            if !key.split('.').all(plain) {
                return refuse("is no name of sysctl(8), such as \"kernel.shmmax\"".into());
            }
            let Some(namespace) = namespace_of(key) else {
                return refuse(
                    "is the whole machine's: only kernel.shm*, kernel.msg*, kernel.sem, fs.mqueue.* and net.* are a pool's own".into(),
                );
            };
            if !own.contains(&namespace) {
                return refuse(format!(
                    "the {namespace} namespace is shared, and the setting would be the host's"
                ));
            }
            let text = match value.get_ref() {
                Scalar::Number(number) => number.to_string(),
                Scalar::Word(word) => word.clone(),
            };
            if text.is_empty() || text.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
                return refuse("must be one line of text, or a number".into());
            }
            settings.entry(key.clone()).or_insert(text);
        }
    }
    Ok(settings)
}
