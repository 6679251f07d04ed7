//! A request that stays in progress for as long as its pool is to be looked at: a pool that is
//! idle for a moment may have stopped before anybody looks.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use howdah::fpm::client::response;
use howdah::fpm::fastcgi::{Kind, stream};

use super::{Rig, patience, wait_for};

const SOON: Duration = Duration::from_secs(20);

/// What is sent last: PHP reads it before it runs the script, which takes it for PHP (see [`Rig::inside`]).
const BODY: &[u8] = b";";

/// A request whose body is still to come.
pub struct Held {
    stream: UnixStream,
    body: Vec<u8>,
}

impl Held {
    /// Asks `pool` for `uri`, and waits until a worker waits for the rest of it. Not before that will
    /// php-fpm make another for whoever comes next: it asks no worker that is idle still.
    pub fn begin(rig: &Rig, pool: &str, uri: &str) -> Self {
        let held = Self::send(rig, pool, uri);
        wait_for("a worker that waits for a body", SOON, || {
            let master = rig.record(pool).pid?;
            let workers = fs::read_to_string(format!("/proc/{master}/task/{master}/children")).ok()?;
            let mut calls = workers.split_whitespace().filter_map(|worker| {
                let call = fs::read_to_string(format!("/proc/{worker}/syscall")).ok()?;
                call.split(' ').next()?.parse().ok()
            });
            calls.any(|call: i64| call == libc::SYS_read).then_some(())
        });
        held
    }

    /// The same, and does not wait.
    pub fn send(rig: &Rig, pool: &str, uri: &str) -> Self {
        let form = [("Content-Type", "application/x-www-form-urlencoded")];
        let bytes = rig.request(pool, uri, "POST", &form, BODY).encode();
        let mut body = Vec::new();
        // The client's only request is number 1.
        stream(&mut body, Kind::Stdin, 1, BODY);
        let head = bytes.strip_suffix(body.as_slice()).expect("the body comes last");
        let mut stream = UnixStream::connect(rig.socket(pool)).unwrap();
        stream.write_all(head).unwrap();
        Self { stream, body }
    }

    /// Lets it go on; the body of its answer, whose status must be 200.
    pub fn answer(mut self) -> String {
        self.stream.write_all(&self.body).unwrap();
        self.stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let end = Instant::now() + Duration::from_secs(30) * patience();
        let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            if let Some(answer) = response(&bytes).unwrap() {
                let body = String::from_utf8_lossy(&answer.body).into_owned();
                assert_eq!(answer.status, 200, "{body}");
                return body;
            }
            assert!(Instant::now() < end, "no answer");
            match self.stream.read(&mut buffer) {
                Ok(0) => panic!("cut after {} bytes", bytes.len()),
                Ok(length) => bytes.extend(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}
