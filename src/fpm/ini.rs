//! php-fpm's form of an ini file: quoting values.

/// `value` quoted so that php-fpm reads exactly these bytes.
pub fn quote(_value: &str) -> String {
    todo!()
}
