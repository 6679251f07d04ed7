//! FastCGI 1.0 on the wire: records and name-value pairs, both ways.
//!
//! Sections named here are those of the FastCGI Specification 1.0. Decoding
//! borrows from the bytes it is given and allocates nothing, so that what a
//! peer claims costs nothing; it knows nothing of sockets.

/// Length of a record's header (section 3.3).
pub const HEADER: usize = 8;

/// The most content one record carries: its length is two bytes (section 3.3).
pub const MAX_CONTENT: usize = 0xffff;

/// The longest record: header, content and padding, whose length is one byte.
pub const MAX_RECORD: usize = HEADER + MAX_CONTENT + 0xff;

/// The content one record of a stream is given here: a multiple of eight, so
/// that no record needs padding (section 3.3 recommends the alignment).
const CHUNK: usize = 0xfff8;

/// FCGI_KEEP_CONN, the flag of BEGIN_REQUEST (section 5.1).
pub const KEEP_CONN: u8 = 1;

/// What a record is (section 8, `#define FCGI_BEGIN_REQUEST 1` and following).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// FCGI_BEGIN_REQUEST (section 5.1)
    BeginRequest,
    /// FCGI_ABORT_REQUEST (section 5.4)
    AbortRequest,
    /// FCGI_END_REQUEST (section 5.5)
    EndRequest,
    /// FCGI_PARAMS (section 5.2)
    Params,
    /// FCGI_STDIN (section 5.3)
    Stdin,
    /// FCGI_STDOUT (section 5.3)
    Stdout,
    /// FCGI_STDERR (section 5.3)
    Stderr,
    /// FCGI_DATA (section 5.3)
    Data,
    /// FCGI_GET_VALUES (section 4.1)
    GetValues,
    /// FCGI_GET_VALUES_RESULT (section 4.1)
    GetValuesResult,
    /// Any other number.
    Other(u8),
}

/// The number of each kind in a record's header.
const KINDS: [(Kind, u8); 10] = [
    (Kind::BeginRequest, 1),
    (Kind::AbortRequest, 2),
    (Kind::EndRequest, 3),
    (Kind::Params, 4),
    (Kind::Stdin, 5),
    (Kind::Stdout, 6),
    (Kind::Stderr, 7),
    (Kind::Data, 8),
    (Kind::GetValues, 9),
    (Kind::GetValuesResult, 10),
];

impl From<u8> for Kind {
    fn from(number: u8) -> Self {
        KINDS.iter().find(|(_, n)| *n == number).map_or(Self::Other(number), |(kind, _)| *kind)
    }
}

impl From<Kind> for u8 {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Other(number) => number,
            kind => KINDS.iter().find(|(k, _)| *k == kind).map_or(0, |(_, number)| *number),
        }
    }
}

/// Bytes that are no FastCGI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The first byte of a record (section 3.3).
    #[error("the peer speaks no FastCGI: record version {0}, not 1")]
    Version(u8),
    /// A record whose content is shorter than its kind asks for.
    #[error("the peer's FastCGI record of kind {kind} has {length} bytes, too few")]
    Short {
        /// The number of its kind.
        kind: u8,
        /// The length of its content.
        length: usize,
    },
    /// A name-value pair that goes past its end (section 3.4).
    #[error("a FastCGI name-value pair is longer than what holds it")]
    Pair,
}

/// A record's header (section 3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the record is.
    pub kind: Kind,
    /// The request it belongs to; 0 is management (section 3.3).
    pub request: u16,
    /// How many bytes of content follow.
    pub content: u16,
    /// How many bytes of padding follow the content.
    pub padding: u8,
}

impl Header {
    /// Reads a header from its eight bytes.
    pub fn decode(bytes: &[u8; HEADER]) -> Result<Self, Malformed> {
        let [version, kind, request_high, request_low, length_high, length_low, padding, _reserved] = *bytes;
        if version != 1 {
            return Err(Malformed::Version(version));
        }
        Ok(Self {
            kind: kind.into(),
            request: u16::from_be_bytes([request_high, request_low]),
            content: u16::from_be_bytes([length_high, length_low]),
            padding,
        })
    }

    /// How many bytes follow the header.
    pub fn rest(&self) -> usize {
        usize::from(self.content) + usize::from(self.padding)
    }
}

/// One whole record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// What it is.
    pub kind: Kind,
    /// The request it belongs to.
    pub request: u16,
    /// Its content, without padding.
    pub content: &'a [u8],
}

impl<'a> Record<'a> {
    /// The record at the start of `bytes` and the bytes it takes; `None` while
    /// it is not whole. A caller that keeps [`MAX_RECORD`] bytes always gets on.
    pub fn decode(bytes: &'a [u8]) -> Result<Option<(Self, usize)>, Malformed> {
        if let Some(version) = bytes.first().filter(|version| **version != 1) {
            return Err(Malformed::Version(*version));
        }
        let Some((head, rest)) = bytes.split_first_chunk::<HEADER>() else { return Ok(None) };
        let header = Header::decode(head)?;
        let Some(body) = rest.get(..header.rest()) else { return Ok(None) };
        let content = &body[..usize::from(header.content)];
        Ok(Some((Self { kind: header.kind, request: header.request, content }, HEADER + body.len())))
    }
}

/// The body of BEGIN_REQUEST (section 5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begin {
    /// 1 responder, 2 authorizer, 3 filter (section 6).
    pub role: u16,
    /// [`KEEP_CONN`] or nothing.
    pub flags: u8,
}

impl Begin {
    /// Reads the content of a BEGIN_REQUEST.
    pub fn decode(content: &[u8]) -> Result<Self, Malformed> {
        let short = Malformed::Short { kind: Kind::BeginRequest.into(), length: content.len() };
        let [role_high, role_low, flags, ..] = *content.first_chunk::<8>().ok_or(short)?;
        Ok(Self { role: u16::from_be_bytes([role_high, role_low]), flags })
    }

    /// Writes the whole record.
    pub fn encode(self, out: &mut Vec<u8>, request: u16) {
        let [role_high, role_low] = self.role.to_be_bytes();
        record(out, Kind::BeginRequest, request, &[role_high, role_low, self.flags, 0, 0, 0, 0, 0]);
    }
}

/// The body of END_REQUEST (section 5.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// The application's exit status.
    pub app_status: u32,
    /// 0 complete, 1 cannot multiplex, 2 overloaded, 3 unknown role.
    pub protocol_status: u8,
}

impl End {
    /// Reads the content of an END_REQUEST.
    pub fn decode(content: &[u8]) -> Result<Self, Malformed> {
        let short = Malformed::Short { kind: Kind::EndRequest.into(), length: content.len() };
        let [a, b, c, d, protocol_status, ..] = *content.first_chunk::<8>().ok_or(short)?;
        Ok(Self { app_status: u32::from_be_bytes([a, b, c, d]), protocol_status })
    }

    /// Writes the whole record.
    pub fn encode(self, out: &mut Vec<u8>, request: u16) {
        let [a, b, c, d] = self.app_status.to_be_bytes();
        record(out, Kind::EndRequest, request, &[a, b, c, d, self.protocol_status, 0, 0, 0]);
    }
}

/// Writes one record; of `content` at most [`MAX_CONTENT`] bytes.
fn record(out: &mut Vec<u8>, kind: Kind, request: u16, content: &[u8]) {
    let content = &content[..content.len().min(MAX_CONTENT)];
    let padding = content.len().wrapping_neg() % 8;
    let [request_high, request_low] = request.to_be_bytes();
    let [length_high, length_low] = (content.len() as u16).to_be_bytes();
    out.extend([1, kind.into(), request_high, request_low, length_high, length_low, padding as u8, 0]);
    out.extend(content);
    out.extend(&[0; 8][..padding]);
}

/// Writes `content` as a whole stream (section 3.3): as many records as it
/// takes, and the empty one that ends it.
pub fn stream(out: &mut Vec<u8>, kind: Kind, request: u16, content: &[u8]) {
    for chunk in content.chunks(CHUNK) {
        record(out, kind, request, chunk);
    }
    record(out, kind, request, &[]);
}

/// Writes one name-value pair (section 3.4). A name or value of 2 GiB or more
/// has no form there and is cut; nothing here comes near.
pub fn pair(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    const LONGEST: usize = 0x7fff_ffff;
    let (name, value) = (&name[..name.len().min(LONGEST)], &value[..value.len().min(LONGEST)]);
    for length in [name.len(), value.len()] {
        match u8::try_from(length) {
            Ok(short @ 0..=127) => out.push(short),
            _ => out.extend((length as u32 | 0x8000_0000).to_be_bytes()),
        }
    }
    out.extend(name);
    out.extend(value);
}

/// The name-value pairs of a whole PARAMS stream (section 3.4).
#[derive(Debug, Clone)]
pub struct Pairs<'a>(&'a [u8]);

/// Reads the name-value pairs of `bytes`; an error ends them.
pub fn pairs(bytes: &[u8]) -> Pairs<'_> {
    Pairs(bytes)
}

impl<'a> Pairs<'a> {
    fn length(&mut self) -> Option<usize> {
        let (&first, rest) = self.0.split_first()?;
        if first < 0x80 {
            self.0 = rest;
            return Some(usize::from(first));
        }
        let (four, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        usize::try_from(u32::from_be_bytes(*four) & 0x7fff_ffff).ok()
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn pair(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        let (name, value) = (self.length()?, self.length()?);
        Some((self.take(name)?, self.take(value)?))
    }
}

impl<'a> Iterator for Pairs<'a> {
    type Item = Result<(&'a [u8], &'a [u8]), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let pair = self.pair();
        if pair.is_none() {
            self.0 = &[];
        }
        Some(pair.ok_or(Malformed::Pair))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode_all(mut bytes: &[u8]) -> Vec<(Kind, u16, Vec<u8>)> {
        let mut records = Vec::new();
        while let Some((record, taken)) = Record::decode(bytes).unwrap() {
            records.push((record.kind, record.request, record.content.to_vec()));
            bytes = &bytes[taken..];
        }
        assert!(bytes.is_empty(), "a whole stream leaves nothing over");
        records
    }

    #[test]
    fn begin_request_as_the_specification_writes_it() {
        let mut out = Vec::new();
        Begin { role: 1, flags: KEEP_CONN }.encode(&mut out, 0x0102);
        assert_eq!(out, [1, 1, 1, 2, 0, 8, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_pair_of_127_and_128_bytes() {
        let mut out = Vec::new();
        pair(&mut out, &[b'n'; 127], &[b'v'; 128]);
        assert_eq!(out[..5], [127, 0x80, 0, 0, 128]);
        assert_eq!(pairs(&out).collect::<Vec<_>>(), [Ok((&[b'n'; 127][..], &[b'v'; 128][..]))]);
    }

    #[test]
    fn a_pair_that_claims_two_gigabytes_is_an_error_and_the_end() {
        let mut claims = pairs(&[0xff, 0xff, 0xff, 0xff, 0, b'x']);
        assert_eq!(claims.next(), Some(Err(Malformed::Pair)));
        assert_eq!(claims.next(), None);
    }

    #[test]
    fn another_version_is_refused_at_its_first_byte() {
        assert_eq!(Record::decode(b"GET / HTTP/1.1\r\n"), Err(Malformed::Version(b'G')));
        assert_eq!(Record::decode(b"G"), Err(Malformed::Version(b'G')));
    }

    #[test]
    fn short_bodies_are_errors() {
        assert_eq!(End::decode(&[0; 7]), Err(Malformed::Short { kind: 3, length: 7 }));
        assert_eq!(Begin::decode(&[]), Err(Malformed::Short { kind: 1, length: 0 }));
    }

    proptest! {
        #[test]
        fn kinds_round_trip(number: u8) {
            prop_assert_eq!(u8::from(Kind::from(number)), number);
        }

        #[test]
        fn streams_round_trip(number: u8, request: u16, length in 0..200_000usize) {
            let content: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
            let mut out = Vec::new();
            stream(&mut out, number.into(), request, &content);
            let mut records = decode_all(&out);
            let last = records.pop().unwrap();
            prop_assert_eq!(last, (Kind::from(number), request, Vec::new()));
            let ours = |(kind, id, part): &(Kind, u16, Vec<u8>)| {
                *kind == Kind::from(number) && *id == request && !part.is_empty()
            };
            prop_assert!(records.iter().all(ours));
            prop_assert_eq!(records.into_iter().flat_map(|(_, _, part)| part).collect::<Vec<_>>(), content);
        }

        #[test]
        fn bodies_round_trip(role: u16, flags: u8, app_status: u32, protocol_status: u8) {
            let mut out = Vec::new();
            Begin { role, flags }.encode(&mut out, 1);
            End { app_status, protocol_status }.encode(&mut out, 1);
            let records = decode_all(&out);
            prop_assert_eq!(Begin::decode(&records[0].2), Ok(Begin { role, flags }));
            prop_assert_eq!(End::decode(&records[1].2), Ok(End { app_status, protocol_status }));
        }

        #[test]
        fn pairs_round_trip(list in proptest::collection::vec(
            (proptest::collection::vec(any::<u8>(), 0..300), proptest::collection::vec(any::<u8>(), 0..300)), 0..20)) {
            let mut out = Vec::new();
            list.iter().for_each(|(name, value)| pair(&mut out, name, value));
            let back: Vec<_> =
                pairs(&out).map(|p| p.map(|(n, v)| (n.to_vec(), v.to_vec())).unwrap()).collect();
            prop_assert_eq!(back, list);
        }

        #[test]
        fn arbitrary_bytes_never_panic_and_never_give_more_than_there_is(
            bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(Some((record, taken))) = Record::decode(&bytes) {
                prop_assert!(taken <= bytes.len() && record.content.len() + HEADER <= taken);
            }
            let inside: usize = pairs(&bytes).flatten().map(|(n, v)| n.len() + v.len()).sum();
            prop_assert!(inside <= bytes.len());
        }

        #[test]
        fn a_record_split_anywhere_is_waited_for(length in 0..2000usize, cut: prop::sample::Index) {
            let mut out = Vec::new();
            record(&mut out, Kind::Stdout, 1, &vec![7; length]);
            let cut = cut.index(out.len());
            prop_assert_eq!(Record::decode(&out[..cut]), Ok(None));
            let (record, taken) = Record::decode(&out).unwrap().unwrap();
            prop_assert_eq!((record.content.len(), taken), (length, out.len()));
        }
    }
}
