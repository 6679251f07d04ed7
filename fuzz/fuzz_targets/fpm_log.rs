//! What comes out of a pool: a line is one line, harmless to a terminal, and
//! the same however the bytes were cut.
#![no_main]

use howdah::fpm::log::{classify, reason, Lines};
use libfuzzer_sys::fuzz_target;

fn lines(bytes: &[u8], piece: usize) -> Vec<String> {
    let mut lines = Lines::default();
    let mut all: Vec<String> = bytes.chunks(piece).flat_map(|part| lines.feed(part)).collect();
    all.extend(lines.finish());
    all
}

fuzz_target!(|bytes: &[u8]| {
    let (how, bytes) = bytes.split_first().unwrap_or((&1, bytes));
    let whole = lines(bytes, bytes.len().max(1));
    assert_eq!(whole, lines(bytes, usize::from(*how).max(1)));
    let classified: Vec<_> = whole.iter().map(|line| classify(line)).collect();
    for (line, told) in whole.iter().zip(&classified) {
        assert!(!line.is_empty());
        assert!(line.chars().all(|c| c == '\t' || !c.is_control()), "{line:?}");
        assert!(line.contains(told.text.as_str()), "{line:?} {told:?}");
    }
    let _ = reason(&classified);
});
