//! The words of a pool file as serde reads them: each type of this room from
//! the TOML string that stands for it.
//!
//! A reason that starts with "must" is told after the key's name
//! ("limits.tasks must be …"); any other stands behind a colon.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer, Visitor};

use super::amounts::{Idleness, Seconds, Wait};
use super::network::{Destination, Network, Outbound, Ports, Service};
use super::pool::{Access, Engine, ImageRef, OnFailure, ProfileRef};
use super::raw::NetworkMode;
use super::types::{AbsPath, IdRange, Invalid, Listen, Mode};

impl FromStr for Access {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "ro" => Ok(Self::ReadOnly),
            "rw" => Ok(Self::ReadWrite),
            _ => Err(Invalid::new(format!("must be \"ro\" or \"rw\", found {text:?}"))),
        }
    }
}

impl FromStr for Engine {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "native" => Ok(Self::Native),
            "nspawn" | "lxc" | "oci" => {
                Err(Invalid::new(format!("this version has no engine {text:?}: write \"native\"")))
            }
            _ => Err(Invalid::new(format!("must be \"native\", found {text:?}"))),
        }
    }
}

impl FromStr for NetworkMode {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "none" => Ok(Self::None),
            "host" => Ok(Self::Host),
            "outbound" => Ok(Self::Outbound),
            _ => Err(Invalid::new(format!("must be \"none\", \"outbound\" or \"host\", found {text:?}"))),
        }
    }
}

/// A mode alone, as in a profile: its keys say nothing.
impl FromStr for Network {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Ok(match text.parse()? {
            NetworkMode::None => Self::None,
            NetworkMode::Outbound => Self::Outbound(Outbound::default()),
            NetworkMode::Host => Self::Host(Ports::default()),
        })
    }
}

impl FromStr for OnFailure {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "503" => Ok(Self::Answer503),
            "hold" => Ok(Self::Hold),
            _ => Err(Invalid::new(format!("must be \"503\" or \"hold\", found {text:?}"))),
        }
    }
}

impl FromStr for ImageRef {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "host" => Ok(Self::Host),
            path if path.contains('/') => path.parse().map(Self::Directory),
            name => Err(Invalid::new(format!(
                "this version has no image store to find {name:?} in: write \"host\" or an absolute directory"
            ))),
        }
    }
}

impl FromStr for ProfileRef {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-');
        if text.contains('/') {
            text.parse().map(Self::File)
        } else if !text.is_empty() && text.bytes().all(plain) {
            Ok(Self::Named(text.into()))
        } else {
            Err(Invalid::new(format!(
                "{text:?} is no profile: write a name, such as \"hosting\", or an absolute path"
            )))
        }
    }
}

/// Reads a type from a TOML string by its `FromStr`.
struct Parsed<T>(&'static str, PhantomData<T>);

impl<T: FromStr<Err = Invalid>> Visitor<'_> for Parsed<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

macro_rules! from_string {
    ($($word:ty: $expected:expr;)*) => {$(
        impl<'de> Deserialize<'de> for $word {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                from.deserialize_any(Parsed($expected, PhantomData))
            }
        }
    )*};
}

from_string! {
    Access: "\"ro\" or \"rw\"";
    Engine: "\"native\"";
    NetworkMode: "\"none\", \"outbound\" or \"host\"";
    Destination: "a destination, such as \"203.0.113.0/24:443\"";
    Service: "a service, such as \"mysql\"";
    OnFailure: "\"503\" or \"hold\"";
    ImageRef: "\"host\" or an absolute path";
    ProfileRef: "a profile's name or an absolute path";
    AbsPath: "an absolute path";
    Listen: "an address or a list of addresses";
    Mode: "octal digits in quotes, such as \"0660\"";
    IdRange: "two numbers in quotes, such as \"1879048192-1879113727\"";
    Wait: "a time span, such as \"30s\"";
    Seconds: "a time span, such as \"30s\"";
    Idleness: "a time span, such as \"30s\", or \"never\"";
}
