//! A file's text with its name: turns what toml and serde say into one line
//! with a place, in the words of a pool file.

use std::ops::Range;
use std::path::Path;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use super::error::ConfigError;
use super::keys::{self, Kind};

/// A file that is being read.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) file: &'a Path,
    pub(super) text: &'a str,
    pub(super) kind: Kind,
}

impl Source<'_> {
    /// The file's text as `T`.
    pub(super) fn parse<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        let document = self.document()?;
        // No key takes a date, and toml shows one to serde as a table.
        if let Some((path, place)) = date_in(document.get_ref()) {
            let what = format!("{} must not be a date: write it in quotes", path.join("."));
            return Err(self.error(&place, what));
        }
        T::deserialize(Deserializer::from(document)).map_err(|error| self.explain(&error))
    }

    /// The file's text as TOML, before any key is looked at.
    pub(super) fn document(&self) -> Result<Spanned<DeTable<'_>>, ConfigError> {
        DeTable::parse(self.text).map_err(|error| self.broken_syntax(&error))
    }

    /// The line of a place in the text, counted from 1.
    pub(super) fn line(&self, place: &Range<usize>) -> u32 {
        let before = self.text.as_bytes().iter().take(place.start);
        1 + before.filter(|byte| **byte == b'\n').count() as u32
    }

    /// An error at a place.
    pub(super) fn error(&self, place: &Range<usize>, what: impl Into<String>) -> ConfigError {
        ConfigError::new(self.file, Some(self.line(place)), what)
    }

    /// An error of the file as a whole: something is not there.
    pub(super) fn missing(&self, what: impl Into<String>) -> ConfigError {
        ConfigError::new(self.file, None, what)
    }

    fn explain(&self, error: &toml::de::Error) -> ConfigError {
        let message = error.message().lines().next().unwrap_or_default();
        let Some(place) = error.span() else {
            return self.missing(message);
        };
        // Parsed again, only now: serde used the first up.
        let document = DeTable::parse(self.text).unwrap_or_else(|_| Spanned::new(0..0, DeTable::new()));
        let path = path_at(document.get_ref(), place.start).unwrap_or_default();
        let what = if message.starts_with("unknown field ") {
            keys::unknown(&path, self.kind)
        } else if let Some(field) = message.strip_prefix("missing field ") {
            format!("{}.{} is missing", path.join("."), field.trim_matches('`'))
        } else {
            wrong_value(&path.join("."), message)
        };
        self.error(&place, what)
    }

    fn broken_syntax(&self, error: &toml::de::Error) -> ConfigError {
        let message = error.message().lines().next().unwrap_or_default();
        let message = message.strip_suffix(", expected nothing").unwrap_or(message);
        let place = error.span().unwrap_or_default();
        match self.text.get(place.clone()) {
            Some(key) if message == "duplicate key" => {
                self.error(&place, format!("{key} is set twice: keep one"))
            }
            _ => self.error(&place, format!("not TOML: {message}")),
        }
    }
}

/// What is wrong with the value of `key`.
fn wrong_value(key: &str, message: &str) -> String {
    let mismatch = message.strip_prefix("invalid type: ").and_then(|rest| rest.rsplit_once(", expected "));
    match mismatch {
        Some((_, "a table" | "a sequence")) if key.ends_with("mount") || key.ends_with("io_max") => {
            format!("{key} must be a list of tables: write [[{key}]]")
        }
        Some((found, expected)) => {
            let expected = match expected {
                "a boolean" => "true or false",
                "a sequence" => "a list",
                other => other,
            };
            format!("{key} must be {expected}, found {}", kind_of(found))
        }
        None if message.starts_with("must ") => format!("{key} {message}"),
        None => format!("{key}: {message}"),
    }
}

/// serde's word for a TOML value's type, in TOML's words.
fn kind_of(found: &str) -> &str {
    match found.split_once(' ').map_or(found, |(first, _)| first) {
        "string" => "a string",
        "integer" => "a whole number",
        "floating" => "a number with a fraction",
        "boolean" => "true or false",
        "sequence" => "a list",
        "map" => "a table",
        _ => found,
    }
}

/// The keys that lead to the key or value at `offset`.
fn path_at(table: &DeTable<'_>, offset: usize) -> Option<Vec<String>> {
    table.iter().find_map(|(key, value)| {
        let name = || key.get_ref().to_string();
        if key.span().contains(&offset) {
            return Some(vec![name()]);
        }
        if let Some(rest) = path_in(value.get_ref(), offset) {
            return Some([vec![name()], rest].concat());
        }
        value.span().contains(&offset).then(|| vec![name()])
    })
}

fn path_in(value: &DeValue<'_>, offset: usize) -> Option<Vec<String>> {
    match value {
        DeValue::Table(table) => path_at(table, offset),
        DeValue::Array(list) => list.iter().find_map(|item| {
            path_in(item.get_ref(), offset).or_else(|| item.span().contains(&offset).then(Vec::new))
        }),
        _ => None,
    }
}

/// The first value that is a date, and the keys that lead to it.
fn date_in(table: &DeTable<'_>) -> Option<(Vec<String>, Range<usize>)> {
    fn within(value: &Spanned<DeValue<'_>>) -> Option<(Vec<String>, Range<usize>)> {
        match value.get_ref() {
            DeValue::Datetime(_) => Some((Vec::new(), value.span())),
            DeValue::Table(table) => date_in(table),
            DeValue::Array(list) => list.iter().find_map(within),
            _ => None,
        }
    }
    table.iter().find_map(|(key, value)| {
        let (rest, place) = within(value)?;
        Some(([vec![key.get_ref().to_string()], rest].concat(), place))
    })
}
