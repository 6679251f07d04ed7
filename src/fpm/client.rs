//! A FastCGI client for one request (`howdah request`): what a web server
//! would send, and what a browser would get.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, send};

use super::fastcgi::{Begin, End, Kind, MAX_RECORD, Malformed, Record, pair, stream};

/// The most that a response may bring, header, body and error stream together.
pub const RESPONSE_LIMIT: usize = 256 << 20;

/// The only request on its connection.
const REQUEST: u16 = 1;

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// SCRIPT_FILENAME: the script, as php-fpm sees it.
    pub script: PathBuf,
    /// DOCUMENT_ROOT
    pub document_root: PathBuf,
    /// REQUEST_URI: path and query.
    pub uri: String,
    /// REQUEST_METHOD
    pub method: String,
    /// Headers as a browser would send them.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// From the CGI header `Status:` (RFC 3875, 6.3.3); 200 without one.
    pub status: u16,
    /// Headers in their order, without `Status`.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// What the application wrote to FCGI_STDERR.
    pub stderr: Vec<u8>,
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The connection ended before END_REQUEST.
    #[error(
        "the connection was closed before the response was complete ({0} bytes had come): \
         the worker died or was stopped; look at the pool's log"
    )]
    Closed(usize),
    /// Nothing more came in time.
    #[error("no complete response within {0:?} ({1} bytes had come)")]
    Timeout(Duration, usize),
    /// The socket failed.
    #[error("{0} the pool's socket: {1}")]
    Socket(&'static str, #[source] io::Error),
    /// What came is no FastCGI.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// END_REQUEST with a protocol status (FastCGI Specification 1.0, section 5.5).
    #[error("the application refused the request: {}", refusal(*.0))]
    Refused(u8),
    /// The response has no CGI header.
    #[error("the response has no CGI header: what answers on this socket is no PHP")]
    NoHeader,
    /// More came than [`RESPONSE_LIMIT`].
    #[error("the response is longer than {} MiB: fetch it through a web server", RESPONSE_LIMIT >> 20)]
    TooLong,
}

fn refusal(protocol_status: u8) -> &'static str {
    match protocol_status {
        1 => "it does not multiplex connections",
        2 => "it is overloaded",
        3 => "it does not know the role of a responder",
        _ => "for a reason that FastCGI 1.0 has no name for",
    }
}

impl Request {
    /// The CGI variables (RFC 3875, 4.1, and those PHP expects beside them).
    fn params(&self) -> Vec<u8> {
        let (path, query) = self.uri.split_once('?').unwrap_or((&self.uri, ""));
        let script_name = match self.script.strip_prefix(&self.document_root) {
            Ok(below) => format!("/{}", below.display()),
            Err(_) => path.to_owned(),
        };
        let path_info = path.strip_prefix(&script_name).filter(|rest| rest.starts_with('/')).unwrap_or("");
        let header = |name: &str| {
            let found = self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
            found.map_or("", |(_, value)| value.as_str())
        };
        let host = Some(header("Host")).filter(|host| !host.is_empty()).unwrap_or("localhost");
        let length = match (self.body.len(), self.method.as_str()) {
            (0, "GET" | "HEAD") => String::new(),
            (length, _) => length.to_string(),
        };
        let mut out = Vec::new();
        let mut add = |name: &str, value: &[u8]| pair(&mut out, name.as_bytes(), value);
        add("SCRIPT_FILENAME", self.script.as_os_str().as_bytes());
        add("DOCUMENT_ROOT", self.document_root.as_os_str().as_bytes());
        for (name, value) in [
            ("GATEWAY_INTERFACE", "CGI/1.1"),
            ("SERVER_SOFTWARE", concat!("howdah/", env!("CARGO_PKG_VERSION"))),
            ("SERVER_PROTOCOL", "HTTP/1.1"),
            ("SERVER_NAME", host.split(':').next().unwrap_or(host)),
            ("SERVER_ADDR", "127.0.0.1"),
            ("SERVER_PORT", "80"),
            ("REMOTE_ADDR", "127.0.0.1"),
            ("REMOTE_PORT", "0"),
            ("REQUEST_SCHEME", "http"),
            ("REQUEST_METHOD", &self.method),
            ("REQUEST_URI", &self.uri),
            ("SCRIPT_NAME", &script_name),
            ("PATH_INFO", path_info),
            ("DOCUMENT_URI", path),
            ("QUERY_STRING", query),
            ("CONTENT_TYPE", header("Content-Type")),
            ("CONTENT_LENGTH", &length),
            // php-cgi refuses requests without it (cgi.force_redirect); php-fpm ignores it.
            ("REDIRECT_STATUS", "200"),
        ] {
            add(name, value.as_bytes());
        }
        for (name, value) in &self.headers {
            let variable = format!("HTTP_{}", name.to_ascii_uppercase().replace('-', "_"));
            // HTTP_PROXY would be taken for the environment variable (CVE-2016-5385).
            if !matches!(&*variable, "HTTP_PROXY" | "HTTP_CONTENT_TYPE" | "HTTP_CONTENT_LENGTH") {
                add(&variable, value.as_bytes());
            }
        }
        out
    }

    /// The whole request as records: a responder's (section 6.2), and the
    /// connection ends with it.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.body.len() + 4096);
        Begin { role: 1, flags: 0 }.encode(&mut out, REQUEST);
        stream(&mut out, Kind::Params, REQUEST, &self.params());
        stream(&mut out, Kind::Stdin, REQUEST, &self.body);
        out
    }
}

/// What has come of a response so far.
#[derive(Default)]
struct Incoming {
    pending: Vec<u8>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    end: Option<End>,
}

impl Incoming {
    fn length(&self) -> usize {
        self.stdout.len() + self.stderr.len()
    }

    fn feed(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        self.pending.extend(bytes);
        let mut taken = 0;
        while self.end.is_none() {
            let Some((record, length)) = Record::decode(&self.pending[taken..])? else { break };
            taken += length;
            match record.kind {
                Kind::Stdout => self.stdout.extend(record.content),
                Kind::Stderr => self.stderr.extend(record.content),
                Kind::EndRequest => self.end = Some(End::decode(record.content)?),
                _ => {}
            }
        }
        self.pending.drain(..taken);
        if self.length() > RESPONSE_LIMIT { Err(ClientError::TooLong) } else { Ok(()) }
    }

    fn finish(self, end: End) -> Result<Response, ClientError> {
        if end.protocol_status != 0 {
            return Err(ClientError::Refused(end.protocol_status));
        }
        let (head, body) = split_header(&self.stdout).ok_or(ClientError::NoHeader)?;
        let mut response =
            Response { status: 200, headers: Vec::new(), body: body.to_vec(), stderr: self.stderr };
        for line in String::from_utf8_lossy(head).lines() {
            let (name, value) = line.split_once(':').ok_or(ClientError::NoHeader)?;
            let (name, value) = (name.trim(), value.trim());
            if name.eq_ignore_ascii_case("Status") {
                let number = value.split(' ').next().unwrap_or_default();
                response.status = number.parse().map_err(|_| ClientError::NoHeader)?;
            } else {
                response.headers.push((name.to_owned(), value.to_owned()));
            }
        }
        Ok(response)
    }
}

/// Header and body: the header ends with an empty line (RFC 3875, 6.2), which
/// PHP ends with CR LF and others with LF.
fn split_header(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut start = 0;
    while let Some(length) = bytes[start..].iter().position(|byte| *byte == b'\n') {
        let line = &bytes[start..start + length];
        if line.is_empty() || line == b"\r" {
            return Some((&bytes[..start], &bytes[start + length + 1..]));
        }
        start += length + 1;
    }
    None
}

/// The response to the only request on a connection, of which `bytes` have come so far; `None`: not all of it yet.
///
/// # Errors
/// What came is no response.
pub fn response(bytes: &[u8]) -> Result<Option<Response>, ClientError> {
    let mut incoming = Incoming::default();
    incoming.feed(bytes)?;
    incoming.end.map(|end| incoming.finish(end)).transpose()
}

/// Sends `request` over the connected socket `stream` and waits for the whole
/// response, at most `timeout`.
///
/// Takes a descriptor and not Read and Write: it must wait for both directions
/// at once. A script that answers while it reads fills both socket buffers, and
/// whoever writes all before it reads waits for ever.
pub fn exchange(stream: &impl AsFd, request: &Request, timeout: Duration) -> Result<Response, ClientError> {
    let socket = stream.as_fd();
    let deadline = Instant::now() + timeout;
    let encoded = request.encode();
    let mut unsent = encoded.as_slice();
    let mut incoming = Incoming::default();
    let mut buffer = vec![0; MAX_RECORD];
    loop {
        if let Some(end) = incoming.end {
            return incoming.finish(end);
        }
        if !wait(socket, !unsent.is_empty(), deadline)? {
            return Err(ClientError::Timeout(timeout, incoming.length()));
        }
        unsent = &unsent[send_some(socket, unsent)?..];
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => return Err(ClientError::Closed(incoming.length())),
            Ok(length) => incoming.feed(&buffer[..length])?,
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(Errno::ECONNRESET) => return Err(ClientError::Closed(incoming.length())),
            Err(errno) => return Err(ClientError::Socket("read", errno.into())),
        }
    }
}

/// Waits until the socket can be read, or written if `to_write`; false at the deadline.
fn wait(socket: BorrowedFd<'_>, to_write: bool, deadline: Instant) -> Result<bool, ClientError> {
    let events = if to_write { PollFlags::POLLIN | PollFlags::POLLOUT } else { PollFlags::POLLIN };
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let milliseconds = i32::try_from(left.as_millis().max(1)).unwrap_or(i32::MAX);
        let timeout = PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(socket, events)], timeout) {
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(ClientError::Socket("wait for", errno.into())),
        }
    }
}

/// Sends what the socket takes now and says how much that was. A peer that has
/// stopped reading is no error: php-fpm may answer (and close its side) before
/// it has read a body that no script asked for.
fn send_some(socket: BorrowedFd<'_>, unsent: &[u8]) -> Result<usize, ClientError> {
    if unsent.is_empty() {
        return Ok(0);
    }
    match send(socket.as_raw_fd(), unsent, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
        Ok(length) => Ok(length),
        Err(Errno::EAGAIN | Errno::EINTR) => Ok(0),
        Err(Errno::EPIPE | Errno::ECONNRESET) => Ok(unsent.len()),
        Err(errno) => Err(ClientError::Socket("write to", errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::thread;

    use super::*;
    use crate::fpm::fastcgi::pairs;

    const TIMEOUT: Duration = Duration::from_secs(10);

    fn request(uri: &str) -> Request {
        Request {
            script: "/srv/blog/index.php".into(),
            document_root: "/srv/blog".into(),
            uri: uri.into(),
            method: "GET".into(),
            headers: vec![
                ("Host".into(), "blog.example:8080".into()),
                ("X-Forwarded-For".into(), "a".into()),
                ("Proxy".into(), "http://evil".into()),
                ("Content-Type".into(), "text/x".into()),
            ],
            body: Vec::new(),
        }
    }

    fn answer(stdout: &[u8], protocol_status: u8) -> Vec<u8> {
        let mut out = Vec::new();
        stream(&mut out, Kind::Stdout, 1, stdout);
        stream(&mut out, Kind::Stderr, 1, b"PHP message: oh");
        End { app_status: 0, protocol_status }.encode(&mut out, 1);
        out
    }

    /// Runs an exchange with a peer that writes `answer` at once and closes.
    fn exchange_with(answer: Vec<u8>) -> Result<Response, ClientError> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let peer = thread::spawn(move || {
            theirs.write_all(&answer).unwrap();
            theirs.shutdown(std::net::Shutdown::Write).unwrap();
            let _ = theirs.read_to_end(&mut Vec::new());
        });
        let result = exchange(&ours, &request("/"), TIMEOUT);
        drop(ours);
        peer.join().unwrap();
        result
    }

    #[test]
    fn the_variables_php_expects() {
        let params = request("/index.php/more?a=1&b").params();
        let all: BTreeMap<_, _> = pairs(&params).map(|p| p.map(|(n, v)| (str(n), str(v))).unwrap()).collect();
        for (name, value) in [
            ("SCRIPT_FILENAME", "/srv/blog/index.php"),
            ("SCRIPT_NAME", "/index.php"),
            ("PATH_INFO", "/more"),
            ("QUERY_STRING", "a=1&b"),
            ("SERVER_NAME", "blog.example"),
            ("HTTP_X_FORWARDED_FOR", "a"),
            ("CONTENT_TYPE", "text/x"),
            ("CONTENT_LENGTH", ""),
        ] {
            assert_eq!(all.get(name).copied(), Some(value), "{name}");
        }
        assert!(!all.contains_key("HTTP_PROXY") && !all.contains_key("HTTP_CONTENT_TYPE"));
    }

    fn str(bytes: &[u8]) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn status_headers_body_and_error_stream() {
        let response =
            exchange_with(answer(b"Status: 404 Not Found\r\nX-A: b: c\r\n\r\nbody\r\n\r\n", 0)).unwrap();
        assert_eq!(response.status, 404);
        assert_eq!(response.headers, [("X-A".to_owned(), "b: c".to_owned())]);
        assert_eq!((&*response.body, &*response.stderr), (&b"body\r\n\r\n"[..], &b"PHP message: oh"[..]));
        assert_eq!(exchange_with(answer(b"A: b\n\nx", 0)).unwrap().status, 200);
    }

    #[test]
    fn each_way_to_fail_has_its_own_error() {
        let cut = answer(b"A: b\r\n\r\nx", 0);
        let cut = cut[..cut.len() - 16].to_vec();
        assert!(matches!(exchange_with(cut), Err(ClientError::Closed(24))));
        assert!(matches!(exchange_with(Vec::new()), Err(ClientError::Closed(0))));
        assert!(matches!(exchange_with(answer(b"A: b\r\n\r\n", 2)), Err(ClientError::Refused(2))));
        assert!(matches!(exchange_with(answer(b"hello", 0)), Err(ClientError::NoHeader)));
        assert!(matches!(exchange_with(b"HTTP/1.1 400".to_vec()), Err(ClientError::Malformed(_))));
    }

    #[test]
    fn silence_ends_at_the_timeout() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let result = exchange(&ours, &request("/"), Duration::from_millis(30));
        assert!(matches!(result, Err(ClientError::Timeout(_, 0))));
    }

    #[test]
    fn a_peer_that_answers_while_it_reads_does_not_deadlock() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let echo = thread::spawn(move || {
            // Writes first: with both buffers full, only a client that reads in between gets on.
            theirs.write_all(&answer(&[b"A: b\r\n\r\n", &[b'y'; 3 << 20][..]].concat(), 0)).unwrap();
            let mut all = Vec::new();
            let _ = theirs.read_to_end(&mut all);
        });
        let mut big = request("/");
        big.body = vec![b'x'; 3 << 20];
        let response = exchange(&ours, &big, TIMEOUT).unwrap();
        assert_eq!(response.body.len(), 3 << 20);
        drop(ours);
        echo.join().unwrap();
    }
}
