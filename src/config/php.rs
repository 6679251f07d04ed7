//! `[fpm]` and `[php]`, checked: known directives, names that php-fpm's
//! configuration can carry, values of one line.

use std::collections::BTreeMap;

use toml::Spanned;

use super::directives::{self, one_line};
use super::error::ConfigError;
use super::explain::Source;
use super::pool::{Fpm, Php};
use super::raw::{RawFpm, RawPhp};
use super::shapes::{Pairs, Plain};

/// `[fpm]`; `access_log` is left for the caller, who knows the defaults.
pub(super) fn fpm(raw: RawFpm, source: Source<'_>) -> Result<Fpm, ConfigError> {
    let mut settings = BTreeMap::new();
    for (key, value) in raw.directives.0 {
        let directive = directives::find(key.get_ref()).map_err(|what| source.error(&key.span(), what))?;
        let written = directive.written(value.get_ref()).map_err(|reason| {
            source.error(&value.span(), sentence(&format!("fpm.{}", key.get_ref()), &reason.to_string()))
        })?;
        if settings.insert(directive.name.to_owned(), written).is_some() {
            let what = format!("fpm.{} is set twice, also by its other name: keep one", key.get_ref());
            return Err(source.error(&key.span(), what));
        }
    }
    let env_name = |name: &str| {
        !name.starts_with(|c: char| c.is_ascii_digit())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    Ok(Fpm {
        binary: raw.binary,
        config: raw.config,
        directives: settings,
        access_log: false,
        env: texts(raw.env, "fpm.env", env_name, source)?,
    })
}

/// `[php]`
pub(super) fn php(raw: RawPhp, source: Source<'_>) -> Result<Php, ConfigError> {
    Ok(Php {
        extensions: raw.extensions.map(|list| extensions(list, source)).transpose()?,
        value: texts(raw.value, "php.value", ini_name, source)?,
        flag: flags(raw.flag, "php.flag", source)?,
        admin_value: texts(raw.admin_value, "php.admin_value", ini_name, source)?,
        admin_flag: flags(raw.admin_flag, "php.admin_flag", source)?,
    })
}

/// The name of an ini setting: `session.save_path`.
fn ini_name(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn extensions(list: Vec<Spanned<String>>, source: Source<'_>) -> Result<Vec<String>, ConfigError> {
    let mut names: Vec<String> = Vec::with_capacity(list.len());
    for item in list {
        let name = item.get_ref();
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            let what = format!("php.extensions: {name:?} is no extension's name, such as \"mbstring\"");
            return Err(source.error(&item.span(), what));
        }
        if names.contains(name) {
            return Err(source.error(&item.span(), format!("php.extensions names {name:?} twice: keep one")));
        }
        names.push(item.into_inner());
    }
    Ok(names)
}

fn texts(
    pairs: Pairs<Plain>,
    table: &str,
    named_well: impl Fn(&str) -> bool,
    source: Source<'_>,
) -> Result<BTreeMap<String, String>, ConfigError> {
    let mut map = BTreeMap::new();
    for (key, value) in pairs.0 {
        check_name(&key, table, &named_well, source)?;
        let text = text_of(value.get_ref()).map_err(|reason| {
            source.error(&value.span(), sentence(&format!("{table}.{}", key.get_ref()), &reason))
        })?;
        map.insert(key.into_inner(), text);
    }
    Ok(map)
}

fn flags(pairs: Pairs<bool>, table: &str, source: Source<'_>) -> Result<BTreeMap<String, bool>, ConfigError> {
    let mut map = BTreeMap::new();
    for (key, value) in pairs.0 {
        check_name(&key, table, &ini_name, source)?;
        map.insert(key.into_inner(), value.into_inner());
    }
    Ok(map)
}

fn check_name(
    key: &Spanned<String>,
    table: &str,
    named_well: &impl Fn(&str) -> bool,
    source: Source<'_>,
) -> Result<(), ConfigError> {
    if !key.get_ref().is_empty() && named_well(key.get_ref()) {
        return Ok(());
    }
    let what = format!(
        "{table}: {:?} is no name that php-fpm can carry: write letters, digits and '_'",
        key.get_ref()
    );
    Err(source.error(&key.span(), what))
}

/// A value as PHP's ini has it: `true` is 1 there, `false` is 0.
fn text_of(value: &Plain) -> Result<String, String> {
    match value {
        Plain::Bool(on) => Ok(if *on { "1" } else { "0" }.into()),
        Plain::Whole(number) => Ok(number.to_string()),
        Plain::Number(number) => Ok(number.to_string()),
        Plain::Text(text) => one_line(text).map(str::to_owned).map_err(|reason| reason.to_string()),
        Plain::List(_) => Err("must be a string, a number or true or false, found a list".into()),
    }
}

/// A reason behind its key, as `words` has it.
fn sentence(key: &str, reason: &str) -> String {
    if reason.starts_with("must ") { format!("{key} {reason}") } else { format!("{key}: {reason}") }
}
