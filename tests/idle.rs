//! When a pool is stopped, and that nothing is cut by it, with the real php-fpm.
#![allow(missing_docs)]

mod rig;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::chown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use howdah::fpm::fastcgi::{Begin, KEEP_CONN, Kind, Record, pair, stream};
use howdah::pool::record;
use rig::{Rig, TENANT, wait_for};

const LIMIT: Duration = Duration::from_secs(30);
const SHORT: &str = "[idle]\nstop = \"200ms\"\n";

/// A client that does with a FastCGI connection what it wants.
struct Wire {
    stream: UnixStream,
    pending: Vec<u8>,
}

impl Wire {
    fn connect(rig: &Rig, pool: &str) -> Self {
        let stream = UnixStream::connect(rig.socket(pool)).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        Self { stream, pending: Vec::new() }
    }

    /// A request without its body.
    fn begin(&mut self, rig: &Rig, pool: &str, uri: &str, flags: u8, length: usize) {
        let script = rig.path(pool).join(uri.trim_start_matches('/').split('?').next().unwrap());
        let mut params = Vec::new();
        for (name, value) in [
            ("SCRIPT_FILENAME", script.to_str().unwrap()),
            ("REQUEST_METHOD", if length > 0 { "POST" } else { "GET" }),
            ("REQUEST_URI", uri),
            ("QUERY_STRING", uri.split_once('?').map_or("", |(_, query)| query)),
            ("CONTENT_TYPE", "application/octet-stream"),
            ("CONTENT_LENGTH", &length.to_string()),
        ] {
            pair(&mut params, name.as_bytes(), value.as_bytes());
        }
        let mut bytes = Vec::new();
        Begin { role: 1, flags }.encode(&mut bytes, 1);
        stream(&mut bytes, Kind::Params, 1, &params);
        self.stream.write_all(&bytes).unwrap();
    }

    /// A piece of the body; an empty one ends it.
    fn body(&mut self, content: &[u8]) {
        let mut bytes = Vec::new();
        stream(&mut bytes, Kind::Stdin, 1, content);
        // The helper ends the stream as well; a piece must not.
        if !content.is_empty() {
            bytes.truncate(bytes.len() - 8);
        }
        self.stream.write_all(&bytes).unwrap();
    }

    fn request(&mut self, rig: &Rig, pool: &str, uri: &str, flags: u8) {
        self.begin(rig, pool, uri, flags, 0);
        self.body(b"");
    }

    /// The response's header and body; `each` is called before each read.
    fn response(&mut self, mut each: impl FnMut()) -> Vec<u8> {
        let (mut stdout, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
        loop {
            while let Some((record, length)) = Record::decode(&self.pending).unwrap() {
                let (kind, content) = (record.kind, record.content.to_vec());
                self.pending.drain(..length);
                match kind {
                    Kind::Stdout => stdout.extend(content),
                    Kind::EndRequest => return stdout,
                    _ => {}
                }
            }
            each();
            let length = self.stream.read(&mut buffer).unwrap();
            assert_ne!(length, 0, "cut after {} bytes", stdout.len());
            self.pending.extend(&buffer[..length]);
        }
    }
}

/// A directory that the pool may write.
fn writable(rig: &Rig, name: &str) -> (PathBuf, String) {
    let path = rig.path(name);
    fs::create_dir(&path).unwrap();
    chown(&path, Some(TENANT.1), Some(TENANT.2)).unwrap();
    let mount = format!("[[mount]]\nsource = {path:?}\naccess = \"rw\"\n");
    (path, mount)
}

fn wait_cold(rig: &Rig, pool: &str) {
    let cold = || (rig.record(pool).state == "cold").then_some(());
    wait_for(&format!("the stop of {pool}:\n{}", rig.log()), LIMIT, cold);
}

/// From `since` (seconds since 1970) until the pool was cold, by the time at which howdah wrote so.
fn stopped_after(rig: &Rig, pool: &str, since: f64) -> f64 {
    let file = record::record_file(&rig.path("run"), pool);
    wait_cold(rig, pool);
    let written = fs::metadata(file).unwrap().modified().unwrap();
    written.duration_since(UNIX_EPOCH).unwrap().as_secs_f64() - since
}

/// A file's time is that of the last tick of the clock: at most 10 ms old (HZ=100).
const TICK: f64 = 0.010;

#[test]
fn a_pool_is_never_stopped_before_its_time_and_soon_after_it() {
    let stops = [("shorter", 0.2), ("short", 0.5), ("long", 1.0), ("longer", 2.0)];
    let mut rig = Rig::new();
    for (name, stop) in stops {
        rig.site(name, "index.php", "<?php echo microtime(true);", TENANT);
        rig.pool(name, &format!("[idle]\nstop = \"{}ms\"", stop * 1000.0));
    }
    rig.serve();
    let rig = &rig;
    let measure = |name: &str, stop: f64, round: u32| {
        // Howdah looks at times of its own: the last request is not always as far from them.
        rig.text(name, "/index.php");
        thread::sleep(Duration::from_secs_f64(stop * f64::from(round) * 0.043));
        // The script's clock is read before the request's end: the lower bound is strict.
        let began: f64 = rig.text(name, "/index.php").parse().unwrap();
        let ended = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let lived = stopped_after(rig, name, began);
        assert!(lived + TICK >= stop, "stop = {stop}: after {lived}");
        lived - (ended - began) - stop
    };
    thread::scope(|scope| {
        for (name, stop) in stops {
            scope.spawn(move || {
                // The machine has other work, which only ever makes it later.
                let soon = |late: &[f64]| late.iter().any(|late| *late <= stop / 4.0 + 0.05);
                let mut late = Vec::new();
                while late.len() < 3 || (!soon(&late) && late.len() < 12) {
                    late.push(measure(name, stop, late.len() as u32));
                }
                assert!(soon(&late), "stop = {stop}: late by {late:?}");
            });
        }
    });
}

#[test]
fn requests_closer_than_stop_keep_a_pool_up() {
    let mut rig = Rig::new();
    rig.site("blog", "index.php", "<?php echo 1;", TENANT);
    rig.pool("blog", "[idle]\nstop = \"2s\"");
    rig.serve();
    for _ in 0..10 {
        rig.text("blog", "/index.php");
        thread::sleep(Duration::from_millis(400));
    }
    assert_eq!(rig.record("blog").starts, 1, "{}", rig.log());
    wait_cold(&rig, "blog");
}

#[test]
fn a_pool_that_is_never_to_stop_stays() {
    let mut rig = Rig::new();
    rig.site("blog", "index.php", "<?php echo 1;", TENANT);
    rig.pool("blog", "[idle]\nstop = \"never\"");
    rig.serve();
    rig.text("blog", "/index.php");
    thread::sleep(Duration::from_secs(1));
    assert_eq!(rig.state("blog"), "warm");
}

#[test]
fn a_request_longer_than_stop_is_never_cut() {
    let mut rig = Rig::new();
    rig.site("blog", "sleep.php", "<?php sleep(1); echo 'done';", TENANT);
    rig.site(
        "blog",
        "work.php",
        "<?php $e = microtime(true) + 1; while (microtime(true) < $e); echo 'done';",
        TENANT,
    );
    rig.site("blog", "child.php", "<?php echo trim(shell_exec('sleep 1; echo done'));", TENANT);
    rig.site("blog", "silent.php", "<?php ob_end_flush(); echo 'do'; flush(); sleep(1); echo 'ne';", TENANT);
    rig.pool("blog", SHORT);
    rig.serve();
    for uri in ["/sleep.php", "/work.php", "/child.php", "/silent.php"] {
        let before = rig.record("blog").starts;
        assert_eq!(rig.text("blog", uri), "done", "{uri}");
        assert_eq!(rig.record("blog").starts, before + 1, "{uri}");
        wait_cold(&rig, "blog");
    }
}

#[test]
fn a_client_that_reads_slowly_gets_everything() {
    let mut rig = Rig::new();
    rig.site(
        "blog",
        "big.php",
        "<?php for ($i = 0; $i < 64; $i++) echo str_repeat(chr(97 + $i % 26), 65536);",
        TENANT,
    );
    rig.pool("blog", SHORT);
    rig.serve();
    let mut wire = Wire::connect(&rig, "blog");
    wire.request(&rig, "blog", "/big.php", 0);
    let mut reads = 0;
    let answer = wire.response(|| {
        reads += 1;
        // Three pauses, each several times as long as `stop`.
        if [2, 12, 24].contains(&reads) {
            thread::sleep(Duration::from_millis(900));
        }
    });
    let body = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    assert_eq!(answer.len() - body, 64 * 65536);
    assert!(reads > 24, "{reads}: the pauses did not happen");
    assert_eq!(rig.record("blog").starts, 1);
    // php-fpm's worker waits for the client's end.
    drop(wire);
    wait_cold(&rig, "blog");
}

#[test]
fn a_slow_upload_arrives_whole() {
    let mut rig = Rig::new();
    rig.site("blog", "up.php", "<?php echo strlen(file_get_contents('php://input'));", TENANT);
    rig.pool("blog", SHORT);
    rig.serve();
    let mut wire = Wire::connect(&rig, "blog");
    wire.begin(&rig, "blog", "/up.php", 0, 5 * 1000);
    for _ in 0..5 {
        thread::sleep(Duration::from_millis(500));
        wire.body(&[b'x'; 1000]);
    }
    thread::sleep(Duration::from_millis(500));
    wire.body(b"");
    let answer = wire.response(|| {});
    assert!(answer.ends_with(b"\r\n\r\n5000"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(rig.record("blog").starts, 1);
    drop(wire);
    wait_cold(&rig, "blog");
}

#[test]
fn a_slow_request_header_is_no_reason_to_stop() {
    let mut rig = Rig::new();
    rig.site("blog", "index.php", "<?php echo 'hello';", TENANT);
    rig.pool("blog", SHORT);
    rig.serve();
    let mut wire = Wire::connect(&rig, "blog");
    let mut bytes = Vec::new();
    Begin { role: 1, flags: 0 }.encode(&mut bytes, 1);
    wire.stream.write_all(&bytes[..4]).unwrap();
    // php-fpm itself gives up after five seconds.
    thread::sleep(Duration::from_millis(1500));
    wire.stream.write_all(&bytes[4..]).unwrap();
    let mut rest = Vec::new();
    let script = rig.path("blog/index.php");
    let mut params = Vec::new();
    pair(&mut params, b"SCRIPT_FILENAME", script.to_str().unwrap().as_bytes());
    pair(&mut params, b"REQUEST_METHOD", b"GET");
    stream(&mut rest, Kind::Params, 1, &params);
    stream(&mut rest, Kind::Stdin, 1, b"");
    wire.stream.write_all(&rest).unwrap();
    assert!(wire.response(|| {}).ends_with(b"hello"));
    assert_eq!(rig.record("blog").starts, 1);
}

#[test]
fn work_after_the_answer_is_never_cut() {
    let mut rig = Rig::new();
    let (marks, mount) = writable(&rig, "marks");
    let works = [
        ("sleep", "sleep(1); mark();"),
        ("compute", "$e = microtime(true) + 1; while (microtime(true) < $e); mark();"),
        ("child", "exec('sleep 1'); mark();"),
        (
            "wait",
            "$pair = stream_socket_pair(STREAM_PF_UNIX, STREAM_SOCK_STREAM, 0);
             stream_set_timeout($pair[0], 1); fread($pair[0], 1); mark();",
        ),
        ("shutdown", "register_shutdown_function(function () { sleep(1); mark(); });"),
    ];
    for (name, work) in works {
        let mark = marks.join(name);
        let script = format!(
            "<?php function mark() {{ file_put_contents({mark:?}, 'x'); }}
             echo 'ok'; fastcgi_finish_request(); {work}"
        );
        rig.site("blog", &format!("{name}.php"), &script, TENANT);
    }
    rig.pool("blog", &format!("{mount}{SHORT}"));
    rig.serve();
    for (name, _) in works {
        assert_eq!(rig.text("blog", &format!("/{name}.php")), "ok");
        assert!(!marks.join(name).exists(), "{name}: the work was done before the answer");
        wait_cold(&rig, "blog");
        assert!(marks.join(name).exists(), "{name} was cut:\n{}", rig.log());
    }
    assert_eq!(rig.record("blog").starts, works.len() as u64);
}

#[test]
fn a_client_that_says_nothing_costs_nobody_a_request() {
    let mut rig = Rig::new();
    rig.site("blog", "index.php", "<?php echo 'hello';", TENANT);
    rig.pool("blog", &format!("[fpm]\nmax_children = 2\n{SHORT}"));
    rig.serve();
    // It may even be the one who starts the pool, again and again.
    for _ in 0..3 {
        let silent = Wire::connect(&rig, "blog");
        for _ in 0..10 {
            assert_eq!(rig.text("blog", "/index.php"), "hello");
            thread::sleep(Duration::from_millis(30));
        }
        drop(silent);
        wait_cold(&rig, "blog");
    }
    let silent = Wire::connect(&rig, "blog");
    wait_for("php-fpm's patience with it", LIMIT, || {
        let mut byte = [0];
        let mut stream = &silent.stream;
        matches!(stream.read(&mut byte), Ok(0)).then_some(())
    });
    wait_cold(&rig, "blog");
}

/// Processes on this host with this argument.
fn running(argument: &str) -> usize {
    let all = fs::read_dir("/proc").unwrap().flatten();
    all.filter(|entry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == argument.as_bytes())
    })
    .count()
}

#[test]
fn a_script_s_background_process_keeps_no_pool_up_and_ends_with_it() {
    let mut rig = Rig::new();
    // A number of seconds that nobody else sleeps.
    let seconds = format!("1000.{}", std::process::id());
    let script = format!(
        "<?php exec('sleep {seconds} >/dev/null 2>&1 &'); exec('setsid sleep {seconds} >/dev/null 2>&1 </dev/null &');"
    );
    rig.site("blog", "index.php", &script, TENANT);
    rig.pool("blog", "[idle]\nstop = \"2s\"\n");
    rig.serve();
    rig.text("blog", "/index.php");
    // The request is over when the shell has forked, a moment before that becomes sleep(1).
    wait_for("both", LIMIT, || (running(&seconds) == 2).then_some(()));
    assert_eq!(rig.state("blog"), "warm");
    wait_cold(&rig, "blog");
    assert_eq!(running(&seconds), 0, "it outlived its pool");
    // The next life is not disturbed by it.
    rig.text("blog", "/index.php");
    assert_eq!(rig.record("blog").generation, 2);
    assert_eq!(rig.end(), 0);
    assert_eq!(running(&seconds), 0, "it outlived howdah");
}

#[test]
fn a_connection_that_is_kept_never_loses_a_request() {
    let mut rig = Rig::new();
    rig.site("blog", "index.php", "<?php echo getmypid(), ' ', $_GET['n'];", TENANT);
    rig.pool("blog", SHORT);
    rig.serve();
    let rig = &rig;
    thread::scope(|scope| {
        for client in 0..3u64 {
            scope.spawn(move || {
                let mut wire = Wire::connect(rig, "blog");
                let mut workers = BTreeSet::new();
                for n in 0..12u64 {
                    wire.request(rig, "blog", &format!("/index.php?n={n}"), KEEP_CONN);
                    let answer = String::from_utf8(wire.response(|| {})).unwrap();
                    let (pid, number) = answer.rsplit_once("\r\n\r\n").unwrap().1.split_once(' ').unwrap();
                    assert_eq!(number, n.to_string());
                    workers.insert(pid.to_owned());
                    // Shorter and longer than `stop`.
                    thread::sleep(Duration::from_millis((client * 131 + n * 89) % 500));
                }
                assert_eq!(workers.len(), 1, "the connection was not kept");
            });
        }
    });
    assert_eq!(rig.record("blog").starts, 1);
    wait_cold(rig, "blog");
}

#[test]
fn clients_without_pause_and_stops_all_the_time_lose_nothing() {
    let mut rig = Rig::new();
    rig.site(
        "blog",
        "index.php",
        "<?php if (rand(0, 9) == 0) usleep(rand(0, 60000)); echo $_GET['n'];",
        TENANT,
    );
    rig.pool("blog", "[fpm]\nmax_children = 3\n[idle]\nstop = \"20ms\"");
    rig.serve();
    let shared = &rig;
    let began = Instant::now();
    // On a busy machine it takes longer until there is something to be seen.
    let is_over = || match began.elapsed() {
        time if time < Duration::from_secs(5) => false,
        time => shared.record("blog").starts >= 5 || time > LIMIT,
    };
    let is_over = &is_over;
    let answered: usize = thread::scope(|scope| {
        let clients = (0..3u64).map(|client| {
            scope.spawn(move || {
                let mut count = 0;
                while !is_over() {
                    let n = format!("{client}-{count}");
                    assert_eq!(shared.text("blog", &format!("/index.php?n={n}")), n);
                    count += 1;
                    if count % 5 == 0 {
                        thread::sleep(Duration::from_millis(
                            15 + (count * 7 + client as usize * 13) as u64 % 60,
                        ));
                    }
                }
                count
            })
        });
        let clients: Vec<_> = clients.collect();
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    let starts = rig.record("blog").starts;
    assert!(starts >= 5 && answered > 100, "{answered} requests, {starts} starts: nothing was shown");
    assert_eq!(rig.end(), 0);
}
