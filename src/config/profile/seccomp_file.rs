//! Filters in the JSON form of OCI's runtime specification.
//!
//! What such a file says is taken at its word or not at all: a member that OCI
//! does not have is refused. Docker's own form has some that decide whether a
//! group counts (`includes`, `excludes`); who ignores them allows mount(2).

use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxSeccomp;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::ProfileError;

/// The filters that are compiled in.
const BUILT_IN: [(&str, &str); 3] = [
    ("strict", include_str!("../../../profiles/seccomp/strict.json")),
    ("hosting", include_str!("../../../profiles/seccomp/hosting.json")),
    ("compat", include_str!("../../../profiles/seccomp/compat.json")),
];

/// Their names, as an error lists them.
pub(super) const NAMES: &str = "\"strict\", \"hosting\", \"compat\"";

/// The filter that is compiled in under this name.
pub(super) fn built_in(name: &str) -> Option<LinuxSeccomp> {
    let (_, text) = BUILT_IN.iter().find(|(known, _)| *known == name)?;
    Some(parse(text).expect("compiled in, and a test reads it"))
}

/// The name of the built-in filter that `filter` is.
pub(super) fn name_of(filter: &LinuxSeccomp) -> Option<&'static str> {
    BUILT_IN.into_iter().map(|(name, _)| name).find(|name| built_in(name).as_ref() == Some(filter))
}

/// The filter in `file`.
pub(super) fn read(file: &Path) -> Result<LinuxSeccomp, ProfileError> {
    let text = std::fs::read_to_string(file)
        .map_err(|source| ProfileError::Read { file: file.to_owned(), source })?;
    parse(&text).map_err(|error| ProfileError::Line {
        file: PathBuf::from(file),
        line: error.line(),
        reason: reason(&error),
    })
}

fn parse(text: &str) -> serde_json::Result<LinuxSeccomp> {
    serde_json::from_str::<Filter>(text)?;
    serde_json::from_str(text)
}

fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or_default();
    match text.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next()) {
        Some("archMap") => "\"archMap\" is docker's, not OCI's: write \"architectures\"".into(),
        Some(key @ ("includes" | "excludes" | "minKernel")) => format!(
            "{key:?} is docker's, not OCI's: keep the group or leave it out (a pool has no capabilities)"
        ),
        Some(key) => format!("unknown key {key:?}"),
        None => text.to_owned(),
    }
}

/// The members that OCI has, and `comment`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[expect(dead_code, reason = "only its shape is of use: oci_spec's own type takes unknown members silently")]
struct Filter {
    default_action: IgnoredAny,
    default_errno_ret: Option<IgnoredAny>,
    architectures: Option<IgnoredAny>,
    flags: Option<IgnoredAny>,
    listener_path: Option<IgnoredAny>,
    listener_metadata: Option<IgnoredAny>,
    syscalls: Option<Vec<Group>>,
    comment: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[expect(dead_code, reason = "as above")]
struct Group {
    names: IgnoredAny,
    action: IgnoredAny,
    errno_ret: Option<IgnoredAny>,
    args: Option<Vec<Arg>>,
    comment: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[expect(dead_code, reason = "as above")]
struct Arg {
    index: IgnoredAny,
    value: IgnoredAny,
    value_two: Option<IgnoredAny>,
    op: IgnoredAny,
}
