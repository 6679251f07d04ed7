//! Numbers, sizes and time spans as serde reads them, each within its range.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, Visitor};

use super::types::{Bytes, Invalid, Patience, parse_duration};

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

/// A time span that is not less than a second: what the kernel counts in seconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seconds(pub(super) Duration);

impl FromStr for Seconds {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let span = parse_duration(text)?;
        if span < Duration::from_secs(1) {
            Err(Invalid::new("must be at least \"1s\""))
        } else {
            Ok(Self(span))
        }
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
