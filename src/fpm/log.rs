//! php-fpm's log: from bytes to lines.

/// Splits a stream of bytes into lines safe to print.
#[derive(Debug, Clone, Default)]
pub struct Lines {}

impl Lines {
    /// Takes bytes; returns the lines that are complete now.
    pub fn feed(&mut self, _bytes: &[u8]) -> Vec<String> {
        todo!()
    }

    /// The unfinished line at end of file, if any.
    pub fn finish(&mut self) -> Option<String> {
        todo!()
    }
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
    /// php-fpm's ERROR.
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

/// What `line` is.
pub fn classify(_line: &str) -> Line {
    todo!()
}

/// The most telling of php-fpm's last lines, when it did not start.
pub fn reason(_lines: &[Line]) -> Option<String> {
    todo!()
}
