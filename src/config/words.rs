//! The words of a pool file as serde reads them: each type of this room from
//! the TOML value that stands for it, and the ranges of numbers.
//!
//! A reason that starts with "must" is told after the key's name
//! ("limits.tasks must be …"); any other stands behind a colon.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;
use std::time::Duration;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use toml::Spanned;

use super::pool::{Access, Engine, ImageRef, Network, OnFailure, ProfileRef};
use super::types::{AbsPath, Bytes, Invalid, Listen, Mode, Patience, parse_duration};

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

impl FromStr for Network {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "none" => Ok(Self::None),
            "host" => Ok(Self::Host),
            "outbound" => Err(Invalid::new("this version has no \"outbound\": write \"none\" or \"host\"")),
            _ => Err(Invalid::new(format!("must be \"none\" or \"host\", found {text:?}"))),
        }
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
    Network: "\"none\" or \"host\"";
    OnFailure: "\"503\" or \"hold\"";
    ImageRef: "\"host\" or an absolute path";
    ProfileRef: "a profile's name or an absolute path";
    AbsPath: "an absolute path";
    Listen: "an address or a list of addresses";
    Mode: "octal digits in quotes, such as \"0660\"";
    Wait: "a time span, such as \"30s\"";
    Idleness: "a time span, such as \"30s\", or \"never\"";
}

/// A time span that is not nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wait(pub(super) Duration);

impl FromStr for Wait {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let span = parse_duration(text)?;
        if span.is_zero() { Err(Invalid::new("must be at least \"1ms\"")) } else { Ok(Self(span)) }
    }
}

/// A [`Patience`] that is not nothing: with zero a pool would end before its
/// first answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Idleness(pub(super) Patience);

impl FromStr for Idleness {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text.parse()? {
            Patience::After(span) if span.is_zero() => {
                Err(Invalid::new("must be at least \"1ms\", or \"never\""))
            }
            patience => Ok(Self(patience)),
        }
    }
}

/// A whole number from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Whole<const MIN: u64, const MAX: u64>(pub(super) u64);

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Whole<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct InRange<const MIN: u64, const MAX: u64>;
        impl<const MIN: u64, const MAX: u64> Visitor<'_> for InRange<MIN, MAX> {
            type Value = Whole<MIN, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Self::Value, E> {
                match u64::try_from(number) {
                    Ok(n) if (MIN..=MAX).contains(&n) => Ok(Whole(n)),
                    _ => Err(E::custom(format_args!("must be between {MIN} and {MAX}, found {number}"))),
                }
            }
        }
        from.deserialize_any(InRange)
    }
}

/// A size of at least `MIN` bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct AtLeast<const MIN: u64>(pub(super) Bytes);

impl<'de, const MIN: u64> Deserialize<'de> for AtLeast<MIN> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Size<const MIN: u64>;
        impl<const MIN: u64> Visitor<'_> for Size<MIN> {
            type Value = AtLeast<MIN>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size, such as \"256M\"")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Self::Value, E> {
                self.visit_str(&number.to_string())
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                let size: Bytes = text.parse().map_err(E::custom)?;
                if size.get() < MIN {
                    let least = Bytes::new(MIN);
                    return Err(E::custom(format_args!("must be at least \"{least}\", found {size}")));
                }
                Ok(AtLeast(size))
            }
        }
        from.deserialize_any(Size)
    }
}

/// A number of cores: a hundredth (below it the kernel refuses the quota) to 4096.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cores(pub(super) f64);

impl<'de> Deserialize<'de> for Cores {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Number;
        impl Visitor<'_> for Number {
            type Value = Cores;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of cores, such as 0.5")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Cores, E> {
                self.visit_f64(number as f64)
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Cores, E> {
                if (0.01..=4096.0).contains(&number) {
                    Ok(Cores(number))
                } else {
                    Err(E::custom(format_args!("must be between 0.01 and 4096 cores, found {number}")))
                }
            }
        }
        from.deserialize_any(Number)
    }
}

/// A table that is a table: serde's derived structs would take a list too.
#[derive(Debug, Clone, Default)]
pub(super) struct Table<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Table<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Keys<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Keys<T> {
            type Value = Table<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Table)
            }
        }
        from.deserialize_any(Keys(PhantomData))
    }
}

/// A table whose keys are the file's own, with the place of each.
#[derive(Debug, Clone)]
pub(super) struct Pairs<V>(pub(super) Vec<(Spanned<String>, Spanned<V>)>);

impl<V> Default for Pairs<V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Pairs<V> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Keys<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Keys<V> {
            type Value = Pairs<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        from.deserialize_any(Keys(PhantomData))
    }
}

/// `listen`: one address or a list, the place of each.
#[derive(Debug, Clone, Default)]
pub(super) struct Addresses(pub(super) Vec<Spanned<Listen>>);

impl<'de> Deserialize<'de> for Addresses {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        enum OneOrMany {
            One(Listen),
            Many(Vec<Spanned<Listen>>),
        }
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = OneOrMany;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address or a list of addresses")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<OneOrMany, E> {
                text.parse().map(OneOrMany::One).map_err(E::custom)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<OneOrMany, A::Error> {
                let mut all = Vec::new();
                while let Some(address) = list.next_element()? {
                    all.push(address);
                }
                Ok(OneOrMany::Many(all))
            }
        }
        impl<'de> Deserialize<'de> for OneOrMany {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                from.deserialize_any(Either)
            }
        }
        let all = Spanned::<OneOrMany>::deserialize(from)?;
        let span = all.span();
        Ok(Self(match all.into_inner() {
            OneOrMany::One(address) => vec![Spanned::new(span, address)],
            OneOrMany::Many(list) => list,
        }))
    }
}

/// A plain value whose kind its key decides.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Plain {
    /// `true`
    Bool(bool),
    /// `5`
    Whole(i64),
    /// `0.5`
    Number(f64),
    /// `"text"`
    Text(String),
    /// `["text", "text"]`
    List(Vec<String>),
}

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Plain;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a number or true or false")
            }

            fn visit_bool<E>(self, v: bool) -> Result<Plain, E> {
                Ok(Plain::Bool(v))
            }

            fn visit_i64<E>(self, v: i64) -> Result<Plain, E> {
                Ok(Plain::Whole(v))
            }

            fn visit_f64<E>(self, v: f64) -> Result<Plain, E> {
                Ok(Plain::Number(v))
            }

            fn visit_str<E>(self, v: &str) -> Result<Plain, E> {
                Ok(Plain::Text(v.into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Plain, A::Error> {
                let mut all = Vec::new();
                while let Some(text) = list.next_element()? {
                    all.push(text);
                }
                Ok(Plain::List(all))
            }
        }
        from.deserialize_any(Any)
    }
}
