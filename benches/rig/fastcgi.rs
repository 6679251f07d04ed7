//! The client of every contestant: one FastCGI request on a connection of its
//! own, from connect(2) to the last byte.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{During, Outcome};

/// Longer than any start that works.
const PATIENCE: Duration = Duration::from_secs(10);

const BEGIN_REQUEST: u8 = 1;
const END_REQUEST: u8 = 3;
const PARAMS: u8 = 4;
const STDIN: u8 = 5;
const STDOUT: u8 = 6;

/// A GET of `script`, ready to be written, so that the clock sees no encoding.
pub(crate) struct Request(Vec<u8>);

impl Request {
    /// Asks for `script`, which need not be seen from here.
    pub(crate) fn get(script: &Path) -> Self {
        let script = script.to_string_lossy();
        let mut params = Vec::new();
        for (name, value) in [
            ("SCRIPT_FILENAME", &*script),
            ("SCRIPT_NAME", "/index.php"),
            ("REQUEST_METHOD", "GET"),
            ("REQUEST_URI", "/"),
            ("SERVER_PROTOCOL", "HTTP/1.1"),
        ] {
            // Lengths below 128 take one byte, and all of these are.
            params.extend([name.len() as u8, value.len() as u8]);
            params.extend(name.bytes().chain(value.bytes()));
        }
        // Role 1 (responder), no flags: php-fpm closes after the answer.
        let mut bytes = record(BEGIN_REQUEST, &[0, 1, 0, 0, 0, 0, 0, 0]);
        bytes.extend(record(PARAMS, &params));
        bytes.extend(record(PARAMS, &[]));
        bytes.extend(record(STDIN, &[]));
        Self(bytes)
    }

    /// Sends it to the socket at `address`; tells how long it took from before
    /// connect(2) to the last byte, once the answer is known to be `expected`.
    pub(crate) fn timed(&self, address: &Path, expected: &str) -> Outcome<Duration> {
        let began = Instant::now();
        let mut connection = UnixStream::connect(address).during("connect")?;
        connection.set_read_timeout(Some(PATIENCE))?;
        connection.write_all(&self.0).during("send the request")?;
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer).during("read the answer")?;
        let took = began.elapsed();

        let page = page(&answer)?;
        if page.ends_with(expected) { Ok(took) } else { Err(format!("answered {page:?}").into()) }
    }
}

/// One record of request 1.
fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u16).to_be_bytes();
    let mut bytes = vec![1, kind, 0, 1, length[0], length[1], 0, 0];
    bytes.extend(content);
    bytes
}

/// Headers and body of a whole answer: one that stops before END_REQUEST is none.
fn page(mut answer: &[u8]) -> Outcome<String> {
    let mut page = Vec::new();
    while let Some((header, rest)) = answer.split_first_chunk::<8>() {
        let [_, kind, _, _, high, low, padding, _] = *header;
        let length = usize::from(u16::from_be_bytes([high, low]));
        let content = rest.get(..length).ok_or("the answer ends inside a record")?;
        match kind {
            STDOUT => page.extend(content),
            END_REQUEST => return Ok(String::from_utf8_lossy(&page).into_owned()),
            _ => {}
        }
        answer = rest.get(length + usize::from(padding)..).unwrap_or_default();
    }
    Err("the answer ends before END_REQUEST".into())
}
