//! What holds for every text.

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::super::types::{AbsPath, Bytes, Listen, Mode, Patience, PoolName, duration_text, parse_duration};
use super::super::{directives, keys, load};
use super::{accounts, parse, parse_more};

/// Text that looks more like a pool file than noise does.
fn toml_like() -> impl Strategy<Value = String> {
    let key = prop_oneof![
        proptest::sample::select(keys::POOL.iter().flat_map(|(_, keys)| keys.iter()).collect::<Vec<_>>())
            .prop_map(|key| key.to_string()),
        proptest::sample::select(directives::TABLE.iter().map(|d| d.key).collect::<Vec<_>>())
            .prop_map(str::to_owned),
        "[a-z_]{1,8}",
    ];
    let value = prop_oneof![
        Just("\"/a\"".to_owned()),
        Just("\"blog\"".to_owned()),
        Just("[]".to_owned()),
        Just("[\"/a\", 5]".to_owned()),
        Just("{ a = 1 }".to_owned()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_map(|n| format!("{n:?}")),
        any::<bool>().prop_map(|b| b.to_string()),
        any::<String>().prop_map(|s| format!("{s:?}")),
        Just("1979-05-27".to_owned()),
    ];
    let table = proptest::sample::select(keys::POOL.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    let line = prop_oneof![
        4 => (key, value).prop_map(|(key, value)| format!("{key} = {value}\n")),
        1 => table.clone().prop_map(|table| format!("[{table}]\n")),
        1 => table.prop_map(|table| format!("[[{table}]]\n")),
    ];
    proptest::collection::vec(line, 0..12).prop_map(|lines| lines.concat())
}

fn never_panics_and_prints_one_line(text: &str) {
    if let Err(line) = parse(text) {
        assert!(line.starts_with("/p/blog.toml:"), "{line}");
        assert!(!line.contains('\n'), "{line}");
    }
    if let Err(error) = load::parse_serve(text, Path::new("/h.toml"), &accounts()) {
        assert!(!error.to_string().contains('\n'), "{error}");
    }
}

/// Every way to get one letter wrong.
fn misspelled(word: String) -> impl Strategy<Value = String> {
    let letter = proptest::char::range('a', 'z');
    (0..word.len(), letter, 0..4u8).prop_map(move |(at, letter, how)| {
        let mut letters: Vec<char> = word.chars().collect();
        match how {
            0 => letters[at] = letter,
            1 => letters.insert(at, letter),
            2 => drop(letters.remove(at)),
            _ if at > 0 => letters.swap(at, at - 1),
            _ => letters[at] = letter,
        }
        letters.into_iter().collect()
    })
}

fn every_key() -> Vec<(String, String)> {
    let own = keys::POOL
        .iter()
        .flat_map(|(table, keys)| keys.iter().map(|key| (table.to_string(), key.to_string())));
    own.chain(directives::TABLE.iter().map(|d| ("fpm".to_owned(), d.key.to_owned()))).collect()
}

proptest! {
    #[test]
    fn any_text(text in any::<String>()) {
        never_panics_and_prints_one_line(&text);
    }

    #[test]
    fn any_bytes_of_toml(text in toml_like()) {
        never_panics_and_prints_one_line(&text);
    }

    #[test]
    fn a_key_with_one_letter_wrong_is_recognised(
        ((table, key), wrong) in proptest::sample::select(every_key())
            .prop_flat_map(|(table, key)| (Just((table, key.clone())), misspelled(key)))
    ) {
        let is_key = |word: &str| every_key().iter().any(|(name, key)| *name == table && key == word);
        // "pm" has neighbours that are no words; "" is a key of its own kind.
        prop_assume!(!is_key(&wrong) && wrong.len() > 1);
        // Nor can anybody tell which of rbps and wbps was meant by "xbps".
        let near = |word: &str| strsim::damerau_levenshtein(&wrong, word) <= 1;
        prop_assume!(every_key().iter().filter(|(name, key)| *name == table && near(key)).count() == 1);
        let header = match table.as_str() {
            "" => String::new(),
            "mount" => "[[mount]]\nsource = \"/a\"\n".into(),
            "limits.io_max" => "[[limits.io_max]]\n".into(),
            table => format!("[{table}]\n"),
        };
        let line = parse_more(&format!("{header}{wrong} = 1\n")).unwrap_err();
        let full = if table.is_empty() { key } else { format!("{table}.{key}") };
        prop_assert!(line.ends_with(&format!("did you mean {full:?}?")), "{wrong}: {line}");
    }

    #[test]
    fn bytes(count in 0..=i64::MAX as u64) {
        let size = Bytes::new(count);
        prop_assert_eq!(size.to_string().parse(), Ok(size));
    }

    #[test]
    fn round_bytes(count in 0u64..1 << 20, shift in 0u32..=40) {
        let size = Bytes::new(count << shift);
        prop_assert_eq!(size.to_string().parse(), Ok(size));
    }

    #[test]
    fn durations(ms in 0u64..=3_650 * 86_400_000) {
        let span = Duration::from_millis(ms);
        prop_assert_eq!(parse_duration(&duration_text(span)), Ok(span));
        let patience = Patience::After(span);
        prop_assert_eq!(patience.to_string().parse(), Ok(patience));
    }

    #[test]
    fn modes(bits in 0u32..=0o777) {
        prop_assert_eq!(Mode::new(bits).to_string().parse(), Ok(Mode::new(bits)));
    }

    #[test]
    fn paths(text in "(/[^/\"'\\\\]{0,12}){1,6}/?") {
        if let Ok(path) = text.parse::<AbsPath>() {
            prop_assert_eq!(path.to_string().parse(), Ok(path));
        }
    }

    #[test]
    fn names(text in "[a-z0-9_-]{1,70}") {
        if let Ok(name) = text.parse::<PoolName>() {
            prop_assert_eq!(name.to_string(), text);
        }
    }

    #[test]
    fn addresses(address in any::<std::net::SocketAddr>(), path in "(/[a-z. ]{1,9}){1,9}") {
        for text in [address.to_string(), path] {
            if let Ok(listen) = text.parse::<Listen>() {
                prop_assert_eq!(listen.to_string().parse(), Ok(listen));
            }
        }
    }

    #[test]
    fn types_take_any_text(text in any::<String>()) {
        let _ = (text.parse::<AbsPath>(), text.parse::<Bytes>(), text.parse::<Mode>());
        let _ = (text.parse::<Listen>(), text.parse::<Patience>(), text.parse::<PoolName>());
    }
}

#[test]
fn never_is_a_patience() {
    assert_eq!(Patience::Never.to_string().parse(), Ok(Patience::Never));
}

/// The list of keys is what the serde structs take: none is unknown to them.
#[test]
fn every_key_of_the_list_is_known() {
    for (table, key) in every_key() {
        let header = match table.as_str() {
            "" => String::new(),
            "mount" | "limits.io_max" => format!("[[{table}]]\n"),
            table => format!("[{table}]\n"),
        };
        if let Err(line) = parse(&format!("{header}{key} = nan\n")) {
            assert!(!line.contains("unknown key"), "{line}");
        }
    }
    for (table, key) in keys::HOWDAH.iter().flat_map(|(table, keys)| keys.iter().map(move |key| (table, key)))
    {
        let header = if table.is_empty() { String::new() } else { format!("[{table}]\n") };
        let text = format!("{header}{key} = nan\n");
        let line = load::parse_serve(&text, Path::new("/h.toml"), &accounts()).unwrap_err().to_string();
        assert!(!line.contains("unknown key"), "{line}");
    }
}

/// Nesting without end must be an error, not the end of the stack.
#[test]
fn deep_nesting_is_refused() {
    for open in ["[", "{a=", "{a=["] {
        never_panics_and_prints_one_line(&format!("listen = {}", open.repeat(100_000)));
    }
    never_panics_and_prints_one_line(&format!("{}a = 1", "a.".repeat(500_000)));
}
