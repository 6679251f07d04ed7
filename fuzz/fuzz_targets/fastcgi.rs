//! FastCGI from a stranger: records, name-value pairs, a request that is
//! refused, a response that is read.
#![no_main]

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use howdah::fpm::client::{exchange, Request};
use howdah::fpm::fastcgi::{pair, pairs, Begin, End, Record};
use howdah::fpm::refusal::{Progress, Refusal};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let (how, bytes) = bytes.split_first().unwrap_or((&0, bytes));
    records(bytes);
    names_and_values(bytes);
    refusal(bytes, usize::from(*how).max(1));
    response(bytes);
});

fn records(mut bytes: &[u8]) {
    while let Ok(Some((record, taken))) = Record::decode(bytes) {
        assert!(taken >= 8 && record.content.len() < taken);
        let _ = Begin::decode(record.content);
        let _ = End::decode(record.content);
        bytes = &bytes[taken..];
    }
}

/// What can be read is the same after it has been written.
fn names_and_values(bytes: &[u8]) {
    let read: Vec<_> = pairs(bytes).map_while(Result::ok).collect();
    let mut written = Vec::new();
    read.iter().for_each(|(name, value)| pair(&mut written, name, value));
    let again: Result<Vec<_>, _> = pairs(&written).collect();
    assert_eq!(again.unwrap(), read);
}

/// The same decision, in whatever pieces the bytes come.
fn refusal(bytes: &[u8], piece: usize) {
    let decide = |piece: usize| {
        let mut refusal = Refusal::new(Duration::from_millis(1500), "blog.1");
        for part in bytes.chunks(piece) {
            match refusal.feed(part) {
                Progress::More => {}
                decided => return decided,
            }
        }
        refusal.feed(b"")
    };
    let decided = decide(bytes.len().max(1));
    assert_eq!(decided, decide(piece));
    if let Progress::Answer(answer) = decided {
        let mut rest = answer.as_slice();
        while let Some((_, taken)) = Record::decode(rest).unwrap() {
            rest = &rest[taken..];
        }
        assert!(rest.is_empty(), "an answer of whole records");
    }
}

fn response(bytes: &[u8]) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(bytes).unwrap();
    theirs.shutdown(Shutdown::Write).unwrap();
    let request = Request {
        script: "/srv/index.php".into(),
        document_root: "/srv".into(),
        uri: "/".into(),
        method: "GET".into(),
        headers: Vec::new(),
        body: Vec::new(),
    };
    if let Err(error) = exchange(&ours, &request, Duration::from_secs(5)) {
        assert!(!error.to_string().contains('\n'), "{error}");
    }
}
