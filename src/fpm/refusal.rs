//! The answer 503 to a connection whose pool is in backoff.
//!
//! Pure: bytes in, a decision out; the supervisor owns the socket. Nothing of
//! the request is kept: contents are skipped as they come.

use std::time::Duration;

use super::fastcgi::{Begin, End, HEADER, Header, Kind, stream};

/// The most that is read of one request before it is answered anyway. Closing
/// with bytes unread resets the connection, and nginx then says 502 instead of
/// what it was told (seen with a body of 4 MB and a limit of 1 MiB). Reading
/// costs time but no memory; the caller bounds the time.
pub const READ_LIMIT: usize = 16 << 20;

/// One refused connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    answer: String,
    read: usize,
    header: Vec<u8>,
    begin: Vec<u8>,
    current: Option<Header>,
    skip: usize,
    request: Option<(u16, Begin)>,
}

/// What to do with the connection next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Read more and feed it.
    More,
    /// Write these bytes, then close.
    Answer(Vec<u8>),
    /// Close without a word: what came is no FastCGI request, or it was taken back.
    Close,
}

impl Refusal {
    /// A refusal that asks to come back after `retry_after` (rounded up to whole
    /// seconds, at least one) and names the incident that is in the log.
    pub fn new(retry_after: Duration, incident: &str) -> Self {
        let seconds = retry_after.as_millis().div_ceil(1000).max(1);
        let incident: String = incident.chars().filter(char::is_ascii_graphic).collect();
        let body = format!("This site could not be started. Please try again later.\nIncident: {incident}\n");
        let answer = format!(
            "Status: 503 Service Unavailable\r\nRetry-After: {seconds}\r\nContent-Type: text/plain\r\n\
             Content-Length: {}\r\nCache-Control: no-store\r\n\r\n{body}",
            body.len()
        );
        Self {
            answer,
            read: 0,
            header: Vec::with_capacity(HEADER),
            begin: Vec::new(),
            current: None,
            skip: 0,
            request: None,
        }
    }

    /// Takes bytes that were read; none means end of file.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Progress {
        if bytes.is_empty() {
            return self.request.map_or(Progress::Close, |(request, _)| self.answer(request));
        }
        self.read = self.read.saturating_add(bytes.len());
        while !bytes.is_empty() {
            let step = match self.current {
                None => self.take_header(&mut bytes),
                Some(header) => self.take_content(header, &mut bytes),
            };
            if let Some(decided) = step {
                return decided;
            }
        }
        match self.request {
            _ if self.read < READ_LIMIT => Progress::More,
            Some((request, _)) => self.answer(request),
            None => Progress::Close,
        }
    }

    fn take_header(&mut self, bytes: &mut &[u8]) -> Option<Progress> {
        let (taken, rest) = bytes.split_at(bytes.len().min(HEADER - self.header.len()));
        self.header.extend(taken);
        *bytes = rest;
        if self.header.first().is_some_and(|version| *version != 1) {
            return Some(Progress::Close);
        }
        let whole: [u8; HEADER] = self.header.as_slice().try_into().ok()?;
        self.header.clear();
        let Ok(header) = Header::decode(&whole) else { return Some(Progress::Close) };
        self.skip = header.rest();
        self.current = Some(header);
        // A record without content is whole already: the end of a stream has no more bytes to wait for.
        if self.skip == 0 { self.end_of_record(header) } else { None }
    }

    fn take_content(&mut self, header: Header, bytes: &mut &[u8]) -> Option<Progress> {
        let (taken, rest) = bytes.split_at(bytes.len().min(self.skip));
        if header.kind == Kind::BeginRequest {
            let room = usize::from(header.content).min(8) - self.begin.len();
            self.begin.extend(&taken[..taken.len().min(room)]);
        }
        self.skip -= taken.len();
        *bytes = rest;
        if self.skip == 0 { self.end_of_record(header) } else { None }
    }

    /// The table of what may come; a peer that multiplexes (section 4.1: it
    /// must ask first) is not served.
    fn end_of_record(&mut self, header: Header) -> Option<Progress> {
        self.current = None;
        match (header.kind, self.request) {
            (Kind::BeginRequest, None) => match Begin::decode(&std::mem::take(&mut self.begin)) {
                Ok(begin) if header.request != 0 => {
                    self.request = Some((header.request, begin));
                    None
                }
                _ => Some(Progress::Close),
            },
            (Kind::GetValues, _) => None,
            (_, Some((request, _))) if request != header.request => Some(Progress::Close),
            // An authorizer's request ends with its parameters (section 6.3).
            (Kind::Params, Some((request, Begin { role: 2, .. }))) if header.content == 0 => {
                Some(self.answer(request))
            }
            (Kind::Stdin, Some((request, _))) if header.content == 0 => Some(self.answer(request)),
            (Kind::Params | Kind::Stdin | Kind::Data, Some(_)) => None,
            _ => Some(Progress::Close),
        }
    }

    fn answer(&self, request: u16) -> Progress {
        let mut out = Vec::new();
        stream(&mut out, Kind::Stdout, request, self.answer.as_bytes());
        End { app_status: 0, protocol_status: 0 }.encode(&mut out, request);
        Progress::Answer(out)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fpm::fastcgi::{Record, pair};

    fn refusal() -> Refusal {
        Refusal::new(Duration::from_millis(4_200), "blog-17")
    }

    fn request(role: u16, id: u16, body: &[u8]) -> Vec<u8> {
        let mut params = Vec::new();
        pair(&mut params, b"REQUEST_METHOD", b"POST");
        let mut out = Vec::new();
        Begin { role, flags: 1 }.encode(&mut out, id);
        stream(&mut out, Kind::Params, id, &params);
        stream(&mut out, Kind::Stdin, id, body);
        out
    }

    /// The text of an answer to request `id`, checked to be complete.
    fn text(progress: Progress, id: u16) -> String {
        let Progress::Answer(bytes) = progress else { panic!("{progress:?}") };
        let (first, taken) = Record::decode(&bytes).unwrap().unwrap();
        let (empty, more) = Record::decode(&bytes[taken..]).unwrap().unwrap();
        let (last, end) = Record::decode(&bytes[taken + more..]).unwrap().unwrap();
        assert_eq!((first.kind, empty.kind, last.kind), (Kind::Stdout, Kind::Stdout, Kind::EndRequest));
        assert_eq!((first.request, last.request, taken + more + end), (id, id, bytes.len()));
        assert_eq!(End::decode(last.content), Ok(End { app_status: 0, protocol_status: 0 }));
        String::from_utf8(first.content.to_vec()).unwrap()
    }

    #[test]
    fn a_request_is_answered_when_its_body_has_ended() {
        let bytes = request(1, 1, b"name=value");
        let mut refusal = refusal();
        assert_eq!(refusal.feed(&bytes[..bytes.len() - 1]), Progress::More);
        let text = text(refusal.feed(&bytes[bytes.len() - 1..]), 1);
        assert!(text.starts_with("Status: 503 Service Unavailable\r\nRetry-After: 5\r\n"), "{text}");
        assert!(text.ends_with("Incident: blog-17\n"), "{text}");
    }

    #[test]
    fn an_authorizer_has_no_body_to_wait_for() {
        let mut bytes = Vec::new();
        Begin { role: 2, flags: 0 }.encode(&mut bytes, 9);
        stream(&mut bytes, Kind::Params, 9, b"");
        text(refusal().feed(&bytes), 9);
    }

    #[test]
    fn an_endless_body_is_answered_at_the_limit() {
        let mut endless = request(1, 1, &[]);
        endless.truncate(endless.len() - HEADER);
        let mut refusal = refusal();
        assert_eq!(refusal.feed(&endless), Progress::More);
        let part = [&[1, 5, 0, 1, 0xff, 0xff, 0, 0][..], &[b'x'; 0xffff]].concat();
        for _ in 0..READ_LIMIT / part.len() {
            assert_eq!(refusal.feed(&part), Progress::More);
        }
        text(refusal.feed(&part), 1);
    }

    #[test]
    fn what_is_no_request_is_closed() {
        assert_eq!(refusal().feed(b"GET / HTTP/1.1\r\n"), Progress::Close);
        assert_eq!(refusal().feed(b""), Progress::Close);
        let body_first = [1, 5, 0, 1, 0, 0, 0, 0];
        assert_eq!(refusal().feed(&body_first), Progress::Close);
        let empty_begin = [1, 1, 0, 1, 0, 0, 0, 0];
        assert_eq!(refusal().feed(&empty_begin), Progress::Close);
        let mut aborted = request(1, 1, b"");
        aborted.truncate(aborted.len() - HEADER);
        aborted.extend([1, 2, 0, 1, 0, 0, 0, 0]);
        assert_eq!(refusal().feed(&aborted), Progress::Close);
    }

    #[test]
    fn a_peer_that_half_closes_early_still_hears_why() {
        let mut refusal = refusal();
        let bytes = request(1, 3, b"");
        assert_eq!(refusal.feed(&bytes[..bytes.len() - HEADER]), Progress::More);
        text(refusal.feed(b""), 3);
    }

    #[test]
    fn an_incident_cannot_add_a_header_or_a_line() {
        let text = text(Refusal::new(Duration::ZERO, "a\r\nb: c").feed(&request(1, 1, b"")), 1);
        assert!(text.contains("Retry-After: 1\r\n") && text.ends_with("Incident: ab:c\n"), "{text}");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_in_arbitrary_pieces_never_panic(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..20)) {
            let mut refusal = refusal();
            for piece in pieces {
                if refusal.feed(&piece) != Progress::More {
                    break;
                }
            }
        }

        #[test]
        fn nearly_valid_records_never_panic(records in proptest::collection::vec(
            (1..12u8, 0..3u16, proptest::collection::vec(any::<u8>(), 0..20)), 0..12)) {
            let mut bytes = Vec::new();
            for (kind, request, content) in records {
                stream(&mut bytes, kind.into(), request, &content);
            }
            let mut refusal = refusal();
            for byte in bytes {
                if refusal.feed(&[byte]) != Progress::More {
                    break;
                }
            }
        }

        #[test]
        fn where_the_bytes_are_split_changes_nothing(
            body in proptest::collection::vec(any::<u8>(), 0..300), size in 1..50usize, id in 1..=u16::MAX) {
            let bytes = request(1, id, &body);
            let whole = refusal().feed(&bytes);
            let mut split = refusal();
            let last = bytes.chunks(size).map(|chunk| split.feed(chunk)).last();
            prop_assert_eq!(last, Some(whole));
        }
    }
}
