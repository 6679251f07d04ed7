//! The answer 503.
use std::time::Duration;

/// One refused connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {}

/// What to do with the connection next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Read more and feed it.
    More,
    /// Write these bytes, then close.
    Answer(Vec<u8>),
    /// Close without a word: what came is no FastCGI request.
    Close,
}

impl Refusal {
    /// A refusal with `Retry-After` and the id of the incident in the log.
    pub fn new(_retry_after: Duration, _incident: &str) -> Self {
        todo!()
    }

    /// Takes bytes that were read (none at end of file).
    pub fn feed(&mut self, _bytes: &[u8]) -> Progress {
        todo!()
    }
}
