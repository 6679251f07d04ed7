//! Why there are no templates.

use std::path::PathBuf;

use nix::errno::Errno;

use crate::config::types::IdRange;

/// Why there are no templates although they are wanted; one line.
#[derive(Debug, thiserror::Error)]
pub enum NoTemplates {
    /// Nobody wants any.
    #[error("no templates: [serve] templates = 0, or serve ends when it is idle")]
    Unwanted,
    /// Nothing can be entered and left again.
    #[error("no templates: howdah may not enter namespaces ({}): run it as root", .0.desc())]
    Rights(Errno),
    /// There is nowhere to be born.
    #[error("no templates: they need a cgroup v2 that howdah may write")]
    Cgroup,
    /// Their ids cannot be kept from other howdahs.
    #[error("no templates: {}: {told}: howdah locks there which of their ids are taken", path.display())]
    Claims {
        /// The file.
        path: PathBuf,
        /// Why it cannot be opened.
        told: String,
    },
    /// Some of their ids are somebody's.
    #[error("no templates: {whose} in {file} lies in [serve] template_ids ({range}): choose another range")]
    Taken {
        /// "uid 1879048200 of blog"
        whose: String,
        /// Where that is said.
        file: &'static str,
        /// The range.
        range: IdRange,
    },
}
