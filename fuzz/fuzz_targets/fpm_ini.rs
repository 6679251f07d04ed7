//! A tenant's own php-fpm configuration, and values that are quoted for php-fpm.
#![no_main]

use std::path::Path;

use howdah::fpm::ini::{directive, quote, setting};
use howdah::fpm::tenant::TenantFile;
use libfuzzer_sys::fuzz_target;

/// What would let a tenant out of what its pool file says.
const OURS: [&str; 12] = [
    "listen",
    "listen.owner",
    "listen.group",
    "listen.mode",
    "listen.backlog",
    "user",
    "group",
    "chroot",
    "daemonize",
    "include",
    "pid",
    "process_control_timeout",
];

fuzz_target!(|text: &str| {
    for quoted in [quote(text), directive(text), setting("error_reporting", text), setting("x", text)] {
        if let Ok(quoted) = quoted {
            assert!(!quoted.contains(['\n', '\r', '\0']), "{quoted:?}");
            assert!(!quoted.is_empty());
        }
    }
    match TenantFile::parse(text, Path::new("/srv/fpm.conf")) {
        Ok(file) => {
            for entry in file.global.iter().chain(&file.pool) {
                assert!(!entry.text.contains('\n'), "{entry:?}");
                assert!(!OURS.contains(&entry.key.as_str()), "{entry:?}");
            }
            assert!(file.notices.iter().all(|notice| !notice.contains('\n')), "{:?}", file.notices);
            // What was kept is kept again: nothing hides behind what was taken out.
            let lines = |entries: &[howdah::fpm::tenant::Entry]| {
                entries.iter().map(|entry| format!("{}\n", entry.text)).collect::<String>()
            };
            let kept = format!("[global]\n{}[www]\n{}", lines(&file.global), lines(&file.pool));
            let again = TenantFile::parse(&kept, Path::new("/srv/fpm.conf")).unwrap();
            assert_eq!((lines(&again.global), lines(&again.pool)), (lines(&file.global), lines(&file.pool)));
            assert_eq!(again.notices, Vec::<String>::new());
        }
        Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
    }
});
