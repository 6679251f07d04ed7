//! A pool file, howdah.toml and its `[defaults]`: any text is a pool or one line.
#![no_main]

use std::path::Path;
use std::time::Duration;

use howdah::config::types::Account;
use howdah::config::{parse_pool, parse_serve, Defaults, ListedAccounts};
use howdah::fpm::conf::configuration;
use libfuzzer_sys::fuzz_target;

fn accounts() -> ListedAccounts {
    let user = |name: &str, uid, gid| Account { name: name.into(), uid, gid };
    ListedAccounts {
        users: vec![user("blog", 1000, 1000), user("root", 0, 0), user("odd", 1001, 0)],
        groups: vec![("www-data".into(), 33)],
        caller: None,
    }
}

fn one_line(line: String) {
    assert!(!line.is_empty() && !line.contains(char::is_control), "{line:?}");
}

fuzz_target!(|text: &str| {
    let accounts = accounts();
    // A file of two halves is defaults and a pool.
    let (below, text) = text.split_once("\n#---\n").unwrap_or(("", text));
    let defaults = match parse_serve(below, Path::new("/etc/howdah/howdah.toml"), &accounts) {
        Ok((_, defaults)) => defaults,
        Err(error) => {
            one_line(error.to_string());
            Defaults::default()
        }
    };
    let file = Path::new("/etc/howdah/pools/blog.toml");
    match parse_pool(text, file, &defaults, &accounts) {
        Ok(pool) => {
            assert!(!pool.listen.is_empty() && pool.user.uid != 0 && pool.user.gid != 0);
            assert_eq!(pool, parse_pool(text, file, &defaults, &accounts).unwrap());
            // What php-fpm gets has one pool section, whatever the file's values are.
            let conf = configuration(&pool, pool.listen.len(), Duration::from_secs(30), None);
            if let Ok(conf) = conf {
                let sections = conf.text.lines().filter(|line| line.trim_start().starts_with('['));
                assert!(sections.count() <= 1 + pool.listen.len(), "{}", conf.text);
            }
        }
        Err(error) => one_line(error.to_string()),
    }
});
