//! The files' shape, for serde: every key there is, and nothing else. Private
//! to this room; `draft` turns it into what the program knows.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use toml::Spanned;

use super::amounts::{AtLeast, Cores, Idleness, Seconds, Wait, Whole};
use super::network::{Destination, Service};
use super::pool::{Access, Engine, ImageRef, OnFailure, ProfileRef};
use super::shapes::{Addresses, Pairs, Plain, Table};
use super::types::{AbsPath, IdRange, Mode};

/// A pool file, or `[defaults]`.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawPool {
    pub(super) listen: Option<Spanned<Addresses>>,
    pub(super) user: Option<Spanned<String>>,
    pub(super) image: Option<ImageRef>,
    pub(super) profile: Option<ProfileRef>,
    pub(super) engine: Option<Engine>,
    pub(super) socket: Table<RawSocket>,
    pub(super) mount: Vec<Table<RawMount>>,
    pub(super) idle: Table<RawIdle>,
    pub(super) limits: Table<RawLimits>,
    pub(super) network: Table<RawNetwork>,
    pub(super) fpm: RawFpm,
    pub(super) php: Table<RawPhp>,
    pub(super) start: Table<RawStart>,
}

/// `[socket]`
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawSocket {
    pub(super) owner: Option<Spanned<String>>,
    pub(super) group: Option<Spanned<String>>,
    pub(super) mode: Option<Mode>,
    pub(super) backlog: Option<Whole<1, 65_535>>,
}

/// `[[mount]]`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMount {
    pub(super) source: Spanned<AbsPath>,
    pub(super) target: Option<Spanned<AbsPath>>,
    pub(super) access: Option<Access>,
}

/// `[idle]`
#[derive(Deserialize, Default, Clone)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawIdle {
    pub(super) freeze: Option<Idleness>,
    pub(super) stop: Option<Idleness>,
}

/// `[limits]`. The least sizes catch a forgotten unit; a tmpfs of size 0 has
/// no limit at all (tmpfs(5)); php-fpm needs a master and a worker.
#[derive(Deserialize, Default, Clone)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLimits {
    pub(super) memory: Option<AtLeast<4_194_304>>,
    pub(super) memory_high: Option<AtLeast<4_194_304>>,
    pub(super) oom_group: Option<bool>,
    pub(super) swap: Option<AtLeast<0>>,
    pub(super) tasks: Option<Whole<2, 4_194_304>>,
    pub(super) cpu: Option<Cores>,
    pub(super) cpu_weight: Option<Whole<1, 10_000>>,
    pub(super) io_weight: Option<Whole<1, 10_000>>,
    pub(super) io_max: Vec<Table<RawIoMax>>,
    pub(super) tmp: Option<AtLeast<65_536>>,
    pub(super) run: Option<AtLeast<65_536>>,
    pub(super) shm: Option<AtLeast<65_536>>,
    pub(super) open_files: Option<Whole<16, 1_073_741_816>>,
    pub(super) file_size: Option<AtLeast<65_536>>,
    pub(super) cpu_time: Option<Seconds>,
    pub(super) core: Option<AtLeast<0>>,
    pub(super) memlock: Option<AtLeast<0>>,
    pub(super) msgqueue: Option<AtLeast<0>>,
    pub(super) sigpending: Option<Whole<1, 1_000_000>>,
    pub(super) stack: Option<AtLeast<1_048_576>>,
}

/// `[[limits.io_max]]`. The kernel takes any number but 0.
#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
pub(super) struct RawIoMax {
    pub(super) path: Spanned<AbsPath>,
    pub(super) rbps: Option<AtLeast<4_096>>,
    pub(super) wbps: Option<AtLeast<4_096>>,
    pub(super) riops: Option<Whole<1, 4_294_967_295>>,
    pub(super) wiops: Option<Whole<1, 4_294_967_295>>,
}

/// `[network] mode`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NetworkMode {
    None,
    Outbound,
    Host,
}

impl NetworkMode {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Outbound => "outbound",
            Self::Host => "host",
        }
    }
}

/// `[network]`
#[derive(Deserialize, Default, Clone)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawNetwork {
    pub(super) mode: Option<NetworkMode>,
    pub(super) allow: Option<Spanned<Vec<Destination>>>,
    pub(super) dns: Option<Spanned<bool>>,
    pub(super) connect: Option<Spanned<Vec<Whole<1, 65_535>>>>,
    pub(super) bind: Option<Spanned<Vec<Whole<1, 65_535>>>>,
    pub(super) sockets: Option<Vec<Service>>,
}

/// `[php]`
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawPhp {
    pub(super) extensions: Option<Vec<Spanned<String>>>,
    pub(super) value: Pairs<Plain>,
    pub(super) flag: Pairs<bool>,
    pub(super) admin_value: Pairs<Plain>,
    pub(super) admin_flag: Pairs<bool>,
}

/// `[start]`
#[derive(Deserialize, Default, Clone)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawStart {
    pub(super) timeout: Option<Wait>,
    pub(super) on_failure: Option<OnFailure>,
    pub(super) template: Option<bool>,
}

/// `[fpm]`: four keys of howdah's; the others are for the table of
/// php-fpm's directives to judge.
#[derive(Default)]
pub(super) struct RawFpm {
    pub(super) binary: Option<AbsPath>,
    pub(super) config: Option<AbsPath>,
    pub(super) access_log: Option<bool>,
    pub(super) env: Pairs<Plain>,
    pub(super) directives: Pairs<Plain>,
}

impl<'de> Deserialize<'de> for RawFpm {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = RawFpm;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawFpm, A::Error> {
                let mut fpm = RawFpm::default();
                while let Some(key) = map.next_key::<Spanned<String>>()? {
                    match key.get_ref().as_str() {
                        "binary" => fpm.binary = Some(map.next_value()?),
                        "config" => fpm.config = Some(map.next_value()?),
                        "access_log" => fpm.access_log = Some(map.next_value()?),
                        "env" => fpm.env = map.next_value()?,
                        _ => fpm.directives.0.push((key, map.next_value()?)),
                    }
                }
                Ok(fpm)
            }
        }
        from.deserialize_any(Keys)
    }
}

/// `/etc/howdah/howdah.toml`
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawHowdah {
    pub(super) serve: Table<RawServe>,
    pub(super) defaults: Table<RawPool>,
}

/// `[serve]`
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawServe {
    pub(super) runtime_dir: Option<AbsPath>,
    pub(super) state_dir: Option<AbsPath>,
    pub(super) profile_dir: Option<AbsPath>,
    pub(super) drain: Option<Wait>,
    pub(super) parallel_starts: Option<Whole<1, 1_024>>,
    pub(super) templates: Option<Whole<0, 256>>,
    pub(super) template_memory: Option<AtLeast<0>>,
    pub(super) template_ids: Option<IdRange>,
    pub(super) cgroup: Option<AbsPath>,
}
