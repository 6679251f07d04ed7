//! Every key of a pool file and of howdah.toml, by table, and what to say of
//! a key that is none of them. A test holds this list against the serde structs.

use super::directives;

/// Which file a key stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A pool file.
    Pool,
    /// `howdah.toml`.
    Howdah,
}

/// The tables of a pool file.
pub(super) const POOL: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "listen", "user", "image", "profile", "engine", "socket", "mount", "idle", "limits", "network",
            "fpm", "php", "start",
        ],
    ),
    ("socket", &["owner", "group", "mode", "backlog"]),
    ("mount", &["source", "target", "access"]),
    ("idle", &["freeze", "stop"]),
    (
        "limits",
        &[
            "memory",
            "memory_high",
            "oom_group",
            "swap",
            "tasks",
            "cpu",
            "cpu_weight",
            "io_weight",
            "io_max",
            "tmp",
            "run",
            "shm",
            "open_files",
            "file_size",
            "cpu_time",
            "core",
            "memlock",
            "msgqueue",
            "sigpending",
            "stack",
        ],
    ),
    ("limits.io_max", &["path", "rbps", "wbps", "riops", "wiops"]),
    ("network", &["mode", "allow", "dns", "connect", "bind", "sockets"]),
    ("fpm", &["binary", "config", "access_log", "env"]),
    ("php", &["extensions", "value", "flag", "admin_value", "admin_flag"]),
    ("start", &["timeout", "on_failure", "template"]),
];

/// The tables of `howdah.toml` beside those below `[defaults]`.
pub(super) const HOWDAH: &[(&str, &[&str])] = &[
    ("", &["serve", "defaults"]),
    (
        "serve",
        &[
            "runtime_dir",
            "state_dir",
            "profile_dir",
            "drain",
            "parallel_starts",
            "templates",
            "template_memory",
            "template_ids",
            "cgroup",
        ],
    ),
];

/// The line for the unknown key at `path`.
pub(super) fn unknown(path: &[String], kind: Kind) -> String {
    let Some((key, table)) = path.split_last() else {
        return "unknown key".into();
    };
    let full = |key: &str| [table, &[key.to_owned()]].concat().join(".");
    let tables = tables(kind);
    let table_name = table.join(".");
    let here: Vec<&str> =
        tables.iter().find(|(name, _)| *name == table_name).map(|(_, keys)| keys.clone()).unwrap_or_default();
    let begin = format!("unknown key {:?}", full(key));
    if let Some(meant) = nearest(key, here.iter().copied()) {
        return format!("{begin}: did you mean {:?}?", full(meant));
    }
    match tables.iter().find(|(_, keys)| keys.contains(&key.as_str())) {
        Some((name, _)) if name.is_empty() => format!("{begin}: {key:?} belongs above the first [table]"),
        Some((name, _)) if name.ends_with("mount") || name.ends_with("io_max") => {
            format!("{begin}: {key:?} belongs in [[{name}]]")
        }
        Some((name, _)) => format!("{begin}: {key:?} belongs in [{name}]"),
        None => format!("{begin}: the keys here are {}", here.join(", ")),
    }
}

/// The candidate that `word` was most likely meant to be: at most a third of
/// its letters wrong, swapped, missing or too many, and never more than three.
pub(super) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).clamp(1, 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The tables of a file of this kind and the keys of each.
fn tables(kind: Kind) -> Vec<(String, Vec<&'static str>)> {
    let below = |prefix: &str, name: &str| match (prefix, name) {
        ("", name) => name.to_owned(),
        (prefix, "") => prefix.to_owned(),
        (prefix, name) => format!("{prefix}.{name}"),
    };
    let prefix = if kind == Kind::Pool { "" } else { "defaults" };
    let whole = HOWDAH.iter().filter(|_| kind == Kind::Howdah);
    let mut all: Vec<_> = whole.map(|(name, keys)| (name.to_string(), keys.to_vec())).collect();
    all.extend(POOL.iter().map(|(name, keys)| (below(prefix, name), keys.to_vec())));
    for (_, keys) in all.iter_mut().filter(|(name, _)| *name == below(prefix, "fpm")) {
        keys.extend(directives::TABLE.iter().map(|directive| directive.key));
    }
    all
}
