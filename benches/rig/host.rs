//! What a figure depends on and a reader wants to know.

use std::fs;

use super::Outcome;
use super::peers::Peer;
use super::php::Stage;

/// Kernel, processors, load and the versions of all contestants, in one line.
pub(crate) fn about(stage: &Stage) -> Outcome<String> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let processors = std::thread::available_parallelism()?;
    let mut words = format!("Linux {}, {processors} processors, load {}", kernel.trim(), load()?);
    for version in Peer::ALL.into_iter().filter_map(|peer| peer.version(stage)) {
        words.push_str("; ");
        words.push_str(&version);
    }
    Ok(words)
}

/// The load average of the last minute: what else the machine does.
pub(crate) fn load() -> Outcome<String> {
    let averages = fs::read_to_string("/proc/loadavg")?;
    Ok(averages.split(' ').next().unwrap_or_default().to_owned())
}
