//! php-fpm's log: from the bytes on its stderr to lines that are safe to print,
//! and what each line is.
//!
//! All of it comes through one pipe: php-fpm's master, and what workers print
//! (`decorate_workers_output = no`). A tenant can therefore write a line that
//! looks like php-fpm's; it cannot write one that looks like another pool's, a
//! second line inside a line, or a terminal's control sequence. Before a request
//! was accepted no worker has run any code of a tenant, so that READY and the
//! [`reason`] of a failed start are php-fpm's own words.

/// How an access line begins: `access.format` in [`super::conf`] starts with it.
pub const ACCESS_PREFIX: &str = "howdah-access: ";

/// The longest line; what goes past it continues on the next.
pub const LINE_LIMIT: usize = 8192;

/// Splits a stream of bytes into lines safe to print.
#[derive(Debug, Clone, Default)]
pub struct Lines {
    pending: Vec<u8>,
}

impl Lines {
    /// Takes bytes; returns the lines that are complete now. Empty ones are left out.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = part.strip_suffix(b"\n").map_or((part, false), |text| (text, true));
            let mut text = text;
            while self.pending.len() + text.len() > LINE_LIMIT {
                let (fits, rest) = text.split_at(LINE_LIMIT - self.pending.len());
                self.pending.extend(fits);
                lines.extend(self.finish());
                text = rest;
            }
            self.pending.extend(text);
            if ends {
                lines.extend(self.finish());
            }
        }
        lines
    }

    /// The unfinished line at end of file, if any.
    pub fn finish(&mut self) -> Option<String> {
        let bytes = std::mem::take(&mut self.pending);
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(&bytes);
        (!bytes.is_empty()).then(|| escape(bytes))
    }
}

/// `bytes` as one line of text: bytes that are no UTF-8 as `\xNN`, and every
/// character that moves a cursor, turns a line or hides (controls of C0 and C1,
/// the separators and directions of Unicode) as `\u{N}`. The tab stays.
fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\t' => out.push(c),
                c if c.is_control() => out.extend(c.escape_unicode()),
                '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' => {
                    out.extend(c.escape_unicode());
                }
                c => out.push(c),
            }
        }
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

/// What a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// php-fpm's "ready to handle connections".
    Ready,
    /// php-fpm's NOTICE (and DEBUG).
    Notice,
    /// php-fpm's WARNING, or a warning of PHP's own start.
    Warning,
    /// php-fpm's ERROR, or an error of PHP's own start.
    Error,
    /// php-fpm's ALERT.
    Alert,
    /// What a worker printed.
    Worker,
    /// A line of the access log.
    Access,
    /// A line of the slow log.
    Slow,
}

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// What it is.
    pub kind: Kind,
    /// The text without time stamp, level and access prefix.
    pub text: String,
}

/// What php-fpm calls its levels (zlog.c, `level_names`).
const LEVELS: [(&str, Kind); 5] = [
    ("DEBUG: ", Kind::Notice),
    ("NOTICE: ", Kind::Notice),
    ("WARNING: ", Kind::Warning),
    ("ERROR: ", Kind::Error),
    ("ALERT: ", Kind::Alert),
];

/// What PHP says by itself before php-fpm has a log: problems of its start
/// (main.c, `php_error_cb`) and of ini files (zend_ini_parser.y, `ini_error`).
const STARTUP: [(&str, Kind); 8] = [
    ("PHP Warning:  ", Kind::Warning),
    ("PHP Deprecated:  ", Kind::Warning),
    ("PHP Notice:  ", Kind::Warning),
    ("Warning: PHP Startup: ", Kind::Warning),
    ("PHP Fatal error:  ", Kind::Error),
    ("PHP:  syntax error", Kind::Error),
    ("Failed loading ", Kind::Error),
    ("Cannot load ", Kind::Warning),
];

/// What `line` is.
pub fn classify(line: &str) -> Line {
    let of = |kind, text: &str| Line { kind, text: text.to_owned() };
    if let Some(text) = line.strip_prefix(ACCESS_PREFIX) {
        return of(Kind::Access, text);
    }
    if let Some(said) = after_timestamp(line) {
        if let Some((kind, text)) = level(said) {
            // What PHP says while it starts is a NOTICE to php-fpm, whatever it is.
            if let Some(php) = text.strip_prefix("PHP message: ") {
                return of(startup(php).unwrap_or(kind), php);
            }
            let ready = kind == Kind::Notice && text == "ready to handle connections";
            return of(if ready { Kind::Ready } else { kind }, text);
        }
        // The head of a slow request has no level and one more space (fpm_php_trace.c).
        if let Some(head) = said.strip_prefix(" [pool ") {
            return of(Kind::Slow, &format!("[pool {head}"));
        }
    }
    if line.starts_with("script_filename = ") || is_frame(line) {
        return of(Kind::Slow, line);
    }
    // A worker's own NOTICE has no time stamp: the master passes its bytes on as they are.
    if let Some(said) = line.strip_prefix("NOTICE: PHP message: ") {
        return of(Kind::Worker, said);
    }
    of(startup(line).unwrap_or(Kind::Worker), line)
}

fn startup(text: &str) -> Option<Kind> {
    STARTUP.iter().find(|(start, _)| text.starts_with(start)).map(|(_, kind)| *kind)
}

/// The text behind `[21-Nov-2026 06:30:36] ` or, at log level debug,
/// `[21-Nov-2026 06:30:36.123456] ` (zlog.c, `zlog_print_time`).
fn after_timestamp(line: &str) -> Option<&str> {
    let (stamp, said) = line.strip_prefix('[')?.split_once("] ")?;
    let shape = b"dd-aaa-dddd dd:dd:dd";
    let fits = |(byte, form): (u8, &u8)| match form {
        b'd' => byte.is_ascii_digit(),
        b'a' => byte.is_ascii_alphabetic(),
        form => byte == *form,
    };
    let (seconds, fraction) = stamp.split_at_checked(shape.len())?;
    let whole = seconds.bytes().zip(shape).all(fits);
    let rest = fraction.is_empty() || fraction.starts_with('.');
    (whole && rest).then_some(said)
}

/// The level at the start of what php-fpm said; at log level debug the process
/// and the function stand before it (`DEBUG: pid 12, fpm_init(), line 3: …`).
fn level(said: &str) -> Option<(Kind, &str)> {
    LEVELS.iter().find_map(|(name, kind)| said.strip_prefix(name).map(|text| (*kind, text)))
}

/// A frame of the slow log: `[0x00007f5bd5e1d110] sleep() /srv/slow.php:2`.
fn is_frame(line: &str) -> bool {
    let address = line.strip_prefix("[0x").and_then(|rest| rest.split_once("] "));
    address.is_some_and(|(digits, _)| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// How little a line says of why php-fpm did not start: it ends its failure
/// with up to three lines that only say that there was one (fpm_conf.c, fpm.c).
const EMPTY_WORDS: [&str; 3] =
    ["FPM initialization failed", "failed to post process the configuration", "failed to load configuration"];

/// The most telling of php-fpm's last lines, when it did not start: an ALERT or
/// ERROR that names a thing before one that does not, then a WARNING; of equals
/// the first, for the others are its consequence.
pub fn reason(lines: &[Line]) -> Option<String> {
    let is_empty = |text: &str| EMPTY_WORDS.iter().any(|empty| text.starts_with(empty));
    let rank = |line: &Line| match (line.kind, worker_error(line)) {
        (_, Some(text)) if !text.ends_with(CHILD_FAILED) => 1,
        (Kind::Alert | Kind::Error, _) if is_empty(&line.text) => 3,
        (Kind::Alert | Kind::Error, _) => 1,
        (Kind::Warning, _) => 2,
        (Kind::Worker, _) => 4,
        (Kind::Ready | Kind::Notice | Kind::Access | Kind::Slow, _) => 5,
    };
    let best = lines.iter().min_by_key(|line| rank(line))?;
    (rank(best) < 5).then(|| worker_error(best).unwrap_or(&best.text).to_owned())
}

/// What follows on the error of a worker that cannot begin (fpm_children.c, `fpm_child_init`).
const CHILD_FAILED: &str = "child failed to initialize";

/// The error of a worker that died before it could accept: it has no time stamp,
/// for the master passes a worker's bytes on as they are.
fn worker_error(line: &Line) -> Option<&str> {
    let said = ["ERROR: ", "ALERT: "].iter().find_map(|level| line.text.strip_prefix(level))?;
    (line.kind == Kind::Worker && said.starts_with("[pool ")).then_some(said)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kind(line: &str) -> (Kind, String) {
        let line = classify(line);
        (line.kind, line.text)
    }

    #[test]
    fn lines_are_put_together_and_made_harmless() {
        let mut lines = Lines::default();
        assert!(lines.feed(b"half").is_empty());
        assert_eq!(
            lines.feed(b" line\r\n\n\x1b[31mred\x07\ncaf\xe9 \xc3\xa9\tx\n"),
            ["half line", "\\u{1b}[31mred\\u{7}", "caf\\xe9 é\tx"]
        );
        assert_eq!(lines.feed("a\u{2028}b\u{202e}c\u{85}d".as_bytes()), Vec::<String>::new());
        assert_eq!(lines.finish().as_deref(), Some("a\\u{2028}b\\u{202e}c\\u{85}d"));
        assert_eq!(lines.finish(), None);
    }

    #[test]
    fn a_line_without_end_does_not_grow() {
        let mut lines = Lines::default();
        let out = lines.feed(&vec![b'x'; 3 * LINE_LIMIT + 5]);
        assert_eq!(out.iter().map(String::len).collect::<Vec<_>>(), [LINE_LIMIT; 3]);
        assert_eq!(lines.finish().as_deref(), Some("xxxxx"));
    }

    #[test]
    fn php_fpms_lines() {
        for (line, kind_wanted, text) in [
            ("NOTICE: ready to handle connections", Kind::Ready, "ready to handle connections"),
            ("NOTICE: fpm is running, pid 1", Kind::Notice, "fpm is running, pid 1"),
            ("WARNING: [pool a] child 7 exited", Kind::Warning, "[pool a] child 7 exited"),
            ("ERROR: unknown entry 'foo'", Kind::Error, "unknown entry 'foo'"),
            ("ALERT: [pool a] pm", Kind::Alert, "[pool a] pm"),
            (
                "NOTICE: PHP message: PHP Warning:  PHP Startup: x",
                Kind::Warning,
                "PHP Warning:  PHP Startup: x",
            ),
            (" [pool a] pid 12", Kind::Slow, "[pool a] pid 12"),
        ] {
            for stamp in ["[21-Nov-2026 06:30:36] ", "[21-Nov-2026 06:30:36.123456] "] {
                assert_eq!(kind(&format!("{stamp}{line}")), (kind_wanted, text.to_owned()));
            }
        }
    }

    #[test]
    fn other_lines() {
        for (line, wanted, text) in [
            ("howdah-access: 1 2", Kind::Access, "1 2"),
            ("script_filename = /srv/a.php", Kind::Slow, "script_filename = /srv/a.php"),
            (
                "[0x00007f5bd5e1d110] sleep() /srv/a.php:2",
                Kind::Slow,
                "[0x00007f5bd5e1d110] sleep() /srv/a.php:2",
            ),
            ("NOTICE: PHP message: PHP Warning:  x", Kind::Worker, "PHP Warning:  x"),
            ("PHP Warning:  PHP Startup: x", Kind::Warning, "PHP Warning:  PHP Startup: x"),
            ("NOTICE: ready to handle connections", Kind::Worker, "NOTICE: ready to handle connections"),
            ("[x] NOTICE: hello", Kind::Worker, "[x] NOTICE: hello"),
            ("[€-Nov-2026 06:30:36] NOTICE: hello", Kind::Worker, "[€-Nov-2026 06:30:36] NOTICE: hello"),
        ] {
            assert_eq!(kind(line), (wanted, text.to_owned()));
        }
    }

    #[test]
    fn the_reason_is_the_first_line_that_names_a_thing() {
        let said = |lines: &[&str]| {
            let stamped = |l: &&str| classify(&format!("[21-Nov-2026 06:30:36] {l}"));
            reason(&lines.iter().map(stamped).collect::<Vec<_>>())
        };
        let wanted = "[pool g] the chdir path '/x' does not exist or is not a directory";
        let chdir = format!("ERROR: {wanted}");
        let post = "ERROR: failed to post process the configuration";
        let last = "ERROR: FPM initialization failed";
        assert_eq!(said(&["WARNING: w", &chdir, post, last]).as_deref(), Some(wanted));
        assert_eq!(said(&["WARNING: w", last]).as_deref(), Some("w"));
        assert_eq!(said(&[last]).as_deref(), Some("FPM initialization failed"));
        assert_eq!(said(&["NOTICE: fpm is running, pid 1"]), None);
        assert_eq!(reason(&[]), None);
        let dying = [
            classify("ERROR: [pool g] child failed to initialize"),
            classify(
                "[21-Nov-2026 06:30:36] WARNING: [pool g] child 2 exited with code 70 after 0.01 seconds",
            ),
            classify("ERROR: [pool g] failed to chdir(/x): Permission denied (13)"),
            classify("ERROR: [pool g] child failed to initialize"),
        ];
        let wanted = "[pool g] failed to chdir(/x): Permission denied (13)";
        assert_eq!(reason(&dying).as_deref(), Some(wanted));
        let worker = [classify("error while loading shared libraries: libc.so.6")];
        assert_eq!(reason(&worker).as_deref(), Some("error while loading shared libraries: libc.so.6"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_line_that_is_not_one(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 0..9)) {
            let mut lines = Lines::default();
            let mut all: Vec<_> = pieces.iter().flat_map(|piece| lines.feed(piece)).collect();
            all.extend(lines.finish());
            for line in all {
                prop_assert!(!line.is_empty() && !line.chars().any(|c| c.is_control() && c != '\t'));
                classify(&line);
            }
        }

        #[test]
        fn where_the_bytes_are_split_changes_nothing(
            bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'\n')], 0..300), cut: prop::sample::Index) {
            let cut = if bytes.is_empty() { 0 } else { cut.index(bytes.len()) };
            let (mut whole, mut split) = (Lines::default(), Lines::default());
            let one = whole.feed(&bytes);
            let two = [split.feed(&bytes[..cut]), split.feed(&bytes[cut..])].concat();
            prop_assert_eq!(one, two);
            prop_assert_eq!(whole.finish(), split.finish());
        }
    }
}
