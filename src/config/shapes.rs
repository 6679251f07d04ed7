//! Tables, lists and plain values as serde reads them, with their places.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use toml::Spanned;

use super::types::Listen;

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
