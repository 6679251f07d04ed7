//! php-fpm's form of an ini file: what a value must look like so that php-fpm
//! reads exactly the bytes that were meant.
//!
//! php-fpm hands its file to PHP's ini parser line by line (fpm_conf.c,
//! `fpm_conf_load_ini_file`), with constants, `${VARIABLES}` and the operators
//! `| & ^ ~ !` evaluated (zend_ini_parser.y). So no value can hold a line
//! break, and everything is quoted: a `'…'` is raw up to the next `'`, and
//! quoted strings that stand side by side are one value.

/// A character that no value can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("contains {0:?}, which php-fpm's configuration cannot carry")]
pub struct Unquotable(char);

/// `value`, quoted so that php-fpm reads exactly these bytes. (Alone `$pool`
/// it still replaces, after parsing: fpm_conf.c, `fpm_conf_expand_pool_name`.)
pub fn quote(value: &str) -> Result<String, Unquotable> {
    if let Some(c) = value.chars().find(|c| matches!(c, '\n' | '\r' | '\0')) {
        return Err(Unquotable(c));
    }
    // Not '': that is no token at all there, and php-fpm says "value is NULL".
    if value.is_empty() {
        return Ok("\"\"".to_owned());
    }
    let mut out = String::with_capacity(value.len() + 2);
    for part in value.split_inclusive('\'') {
        let raw = part.strip_suffix('\'');
        let text = raw.unwrap_or(part);
        if !text.is_empty() {
            out.push('\'');
            out.push_str(text);
            out.push('\'');
        }
        if raw.is_some() {
            out.push_str("\"'\"");
        }
    }
    Ok(out)
}

/// The value of one of php-fpm's own directives: its booleans are words of the
/// parser and must stand bare (fpm_conf.c, `fpm_conf_set_boolean`).
pub fn directive(value: &str) -> Result<String, Unquotable> {
    match value.to_ascii_lowercase().as_str() {
        "yes" | "on" | "true" => Ok("yes".to_owned()),
        "no" | "off" | "false" => Ok("no".to_owned()),
        _ => quote(value),
    }
}

/// The value of PHP's setting `name`. `error_reporting` alone is written in
/// constants everywhere (`E_ALL & ~E_DEPRECATED`): those stay bare, for PHP
/// itself takes only the number.
pub fn setting(name: &str, value: &str) -> Result<String, Unquotable> {
    let of_constants = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || " _&|^~!()".contains(c);
    if name == "error_reporting" && !value.trim().is_empty() && value.chars().all(of_constants) {
        return Ok(value.to_owned());
    }
    quote(value)
}

/// Whether `name` can stand between the brackets of `php_value[…]`.
pub fn is_setting(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// Whether `name` can be an environment variable's.
pub fn is_variable(name: &str) -> bool {
    let letter = |b: u8| b.is_ascii_alphabetic() || b == b'_';
    name.bytes().next().is_some_and(letter) && name.bytes().all(|b| letter(b) || b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quotes() {
        for (value, quoted) in [
            ("", "\"\""),
            ("128M", "'128M'"),
            ("it's", "'it'\"'\"'s'"),
            ("''", "\"'\"\"'\""),
            ("a\\", "'a\\'"),
            ("${PATH};#\"", "'${PATH};#\"'"),
        ] {
            assert_eq!(quote(value).as_deref(), Ok(quoted));
        }
        assert_eq!(quote("a\nlisten=/x"), Err(Unquotable('\n')));
    }

    #[test]
    fn booleans_and_constants_stand_bare() {
        assert_eq!(directive("True").as_deref(), Ok("yes"));
        assert_eq!(directive("off").as_deref(), Ok("no"));
        assert_eq!(directive("10s").as_deref(), Ok("'10s'"));
        assert_eq!(setting("error_reporting", "E_ALL & ~E_NOTICE").as_deref(), Ok("E_ALL & ~E_NOTICE"));
        assert_eq!(setting("error_reporting", "32767; x").as_deref(), Ok("'32767; x'"));
        assert_eq!(setting("x", "E_ALL").as_deref(), Ok("'E_ALL'"));
    }

    proptest! {
        /// Reads a quoted value back as the parser does: `'raw'`, `"'"`, side by side.
        #[test]
        fn quoted_values_read_back(value in "[^\\n\\r\\x00]{0,40}") {
            let quoted = quote(&value).unwrap();
            let mut rest = quoted.as_str();
            let mut back = String::new();
            while let Some(mark) = rest.chars().next() {
                let (inside, after) = rest[1..].split_once(mark).unwrap();
                prop_assert!(mark == '\'' || inside == "'" || quoted == "\"\"");
                back.push_str(inside);
                rest = after;
            }
            prop_assert_eq!(back, value);
        }
    }
}
