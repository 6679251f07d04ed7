//! One profile file as it is written; nothing of this leaves the profile's room.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use caps::Capability;
use serde::Deserialize;
use toml::Spanned;

use super::super::pool::IoMax;
use super::super::types::{Bytes, parse_duration};
use super::ProfileError;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    pub(super) base: Option<Spanned<String>>,
    pub(super) seccomp: Option<Spanned<String>>,
    pub(super) dangerous: Option<Spanned<String>>,
    pub(super) execve: Option<Spanned<String>>,
    pub(super) landlock: Option<bool>,
    pub(super) landlock_abi: Option<Spanned<i64>>,
    pub(super) landlock_execute: Option<Vec<Spanned<String>>>,
    pub(super) loopback_tcp: Option<bool>,
    pub(super) tcp_listener_held: Option<bool>,
    pub(super) no_new_privs: Option<Spanned<bool>>,
    pub(super) capabilities: Option<Vec<Spanned<String>>>,
    pub(super) close_descriptors: Option<bool>,
    pub(super) share: Option<Vec<Spanned<String>>>,
    pub(super) proc: Option<Spanned<String>>,
    pub(super) masked_paths: Option<Vec<Spanned<String>>>,
    pub(super) readonly_paths: Option<Vec<Spanned<String>>>,
    pub(super) mount_flags: Option<RawMountFlags>,
    pub(super) network: Option<RawNetwork>,
    pub(super) sysctl: Option<BTreeMap<String, Spanned<Scalar>>>,
    pub(super) limits: Option<RawLimits>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMountFlags {
    pub(super) code: Option<Vec<Spanned<String>>>,
    pub(super) writable: Option<Vec<Spanned<String>>>,
    pub(super) tmp: Option<Vec<Spanned<String>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNetwork {
    pub(super) mode: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLimits {
    pub(super) memory: Option<Spanned<Amount>>,
    pub(super) memory_high: Option<Spanned<Amount>>,
    pub(super) oom_group: Option<Spanned<bool>>,
    pub(super) swap: Option<Spanned<Amount>>,
    pub(super) tasks: Option<Spanned<Amount>>,
    pub(super) cpu: Option<Spanned<f64>>,
    pub(super) cpu_weight: Option<Spanned<u64>>,
    pub(super) io_weight: Option<Spanned<u64>>,
    pub(super) io_max: Option<Vec<RawIoMax>>,
    pub(super) tmp: Option<Spanned<Amount>>,
    pub(super) run: Option<Spanned<Amount>>,
    pub(super) shm: Option<Spanned<Amount>>,
    pub(super) open_files: Option<Spanned<Amount>>,
    pub(super) file_size: Option<Spanned<Amount>>,
    pub(super) cpu_time: Option<Spanned<String>>,
    pub(super) core: Option<Spanned<Amount>>,
    pub(super) memlock: Option<Spanned<Amount>>,
    pub(super) msgqueue: Option<Spanned<Amount>>,
    pub(super) sigpending: Option<Spanned<Amount>>,
    pub(super) stack: Option<Spanned<Amount>>,
}

/// `[[limits.io_max]]`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawIoMax {
    pub(super) path: Spanned<String>,
    pub(super) rbps: Option<Spanned<Amount>>,
    pub(super) wbps: Option<Spanned<Amount>>,
    pub(super) riops: Option<Spanned<Amount>>,
    pub(super) wiops: Option<Spanned<Amount>>,
}

/// A number, a size, or `"none"`.
#[derive(Deserialize)]
#[serde(untagged, expecting = "must be a number, a size such as \"256M\", or \"none\"")]
pub(super) enum Amount {
    Number(u64),
    Word(String),
}

/// The value of a sysctl.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "must be a whole number or a string, its name in quotes: \"kernel.shmmax\" = 4096"
)]
pub(super) enum Scalar {
    Number(i64),
    Word(String),
}

/// One file.
pub(super) struct Layer {
    pub(super) file: PathBuf,
    pub(super) text: String,
    pub(super) raw: Raw,
    /// Whether it is compiled in.
    pub(super) built_in: bool,
}

impl Layer {
    pub(super) fn parse(file: PathBuf, text: String) -> Result<Self, ProfileError> {
        match toml::from_str(&text) {
            Ok(raw) => Ok(Self { file, text, raw, built_in: false }),
            Err(error) => {
                let line = line_of(&text, error.span().unwrap_or(0..0));
                Err(ProfileError::Line { file, line, reason: reason(error.message()) })
            }
        }
    }

    pub(super) fn error(&self, span: Range<usize>, reason: impl Display) -> ProfileError {
        let line = line_of(&self.text, span);
        ProfileError::Line { file: self.file.clone(), line, reason: reason.to_string() }
    }

    pub(super) fn word<T: FromStr<Err: Display>>(&self, word: &Spanned<String>) -> Result<T, ProfileError> {
        word.get_ref().parse().map_err(|error: T::Err| self.error(word.span(), error))
    }

    pub(super) fn words<T: FromStr<Err: Display>>(
        &self,
        words: &[Spanned<String>],
    ) -> Result<Vec<T>, ProfileError> {
        words.iter().map(|word| self.word(word)).collect()
    }

    pub(super) fn capabilities(&self, words: &[Spanned<String>]) -> Result<Vec<Capability>, ProfileError> {
        let parse = |word: &Spanned<String>| {
            let name = word.get_ref();
            name.parse().map_err(|_| {
                let reason =
                    format!("{name:?} is no capability: write capabilities(7)'s names, such as \"CAP_KILL\"");
                self.error(word.span(), reason)
            })
        };
        words.iter().map(parse).collect()
    }

    pub(super) fn bytes(&self, amount: &Spanned<Amount>) -> Result<Option<Bytes>, ProfileError> {
        match amount.get_ref() {
            Amount::Number(number) => Ok(Some(Bytes::new(*number))),
            Amount::Word(word) if word == "none" => Ok(None),
            Amount::Word(word) => word.parse().map(Some).map_err(|error| self.error(amount.span(), error)),
        }
    }

    pub(super) fn count(&self, amount: &Spanned<Amount>) -> Result<Option<u64>, ProfileError> {
        match amount.get_ref() {
            Amount::Number(number) if *number > 0 => Ok(Some(*number)),
            Amount::Word(word) if word == "none" => Ok(None),
            _ => Err(self.error(amount.span(), "must be a number above 0, or \"none\"")),
        }
    }

    /// A time span of whole seconds, or `"none"`.
    pub(super) fn span(&self, word: &Spanned<String>) -> Result<Option<Duration>, ProfileError> {
        if word.get_ref() == "none" {
            return Ok(None);
        }
        match parse_duration(word.get_ref()) {
            Ok(span) if span < Duration::from_secs(1) => {
                Err(self.error(word.span(), "must be at least \"1s\", or \"none\""))
            }
            other => other.map(Some).map_err(|error| self.error(word.span(), error)),
        }
    }

    /// What one block device may be asked for.
    pub(super) fn io_max(&self, raw: &RawIoMax) -> Result<IoMax, ProfileError> {
        let bytes =
            |amount: &Option<Spanned<Amount>>| amount.as_ref().map_or(Ok(None), |amount| self.bytes(amount));
        let count =
            |amount: &Option<Spanned<Amount>>| amount.as_ref().map_or(Ok(None), |amount| self.count(amount));
        let one = IoMax {
            path: self.word(&raw.path)?,
            rbps: bytes(&raw.rbps)?,
            wbps: bytes(&raw.wbps)?,
            riops: count(&raw.riops)?,
            wiops: count(&raw.wiops)?,
        };
        if one.is_empty() {
            let reason = "io_max limits nothing: write rbps, wbps, riops or wiops";
            return Err(self.error(raw.path.span(), reason));
        }
        Ok(one)
    }

    pub(super) fn weight(&self, weight: &Spanned<u64>) -> Result<Option<u64>, ProfileError> {
        match *weight.get_ref() {
            weight @ 1..=10_000 => Ok(Some(weight)),
            other => Err(self.error(weight.span(), format!("{other} is no weight: write 1 to 10000"))),
        }
    }

    pub(super) fn cores(&self, cores: &Spanned<f64>) -> Result<Option<f64>, ProfileError> {
        match *cores.get_ref() {
            cores if cores.is_finite() && cores >= 0.01 => Ok(Some(cores)),
            other => Err(self.error(cores.span(), format!("{other} is no number of cores"))),
        }
    }
}

/// serde's words about a key, as ours.
fn reason(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    match quoted.next() {
        Some(key) if message.starts_with("unknown field") => {
            format!("unknown key {key:?}{}", near(key, quoted))
        }
        _ => message.replace('\n', " "),
    }
}

/// `: did you mean "WORD"?`, where one of `words` is near to `word`.
pub(super) fn near<'w>(word: &str, words: impl IntoIterator<Item = &'w str>) -> String {
    let scored = words.into_iter().map(|other| (strsim::damerau_levenshtein(word, other), other));
    match scored.min() {
        Some((distance, other)) if distance <= 1 + other.len() / 4 => format!(": did you mean \"{other}\"?"),
        _ => String::new(),
    }
}

fn line_of(text: &str, span: Range<usize>) -> usize {
    1 + text.as_bytes().iter().take(span.start).filter(|byte| **byte == b'\n').count()
}
