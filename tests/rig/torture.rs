//! Clients without pause, pools that stop all the time, and every request
//! answered exactly once.
//!
//! Each request carries a token of its own. The script notes it in a file and
//! answers with it, and some go on after `fastcgi_finish_request()` and note it
//! in a second file: at the end each token stands once where it should, and each
//! client got its own back. Nobody asks twice, so a connection that was refused,
//! cut or answered by nobody is a failure.
//!
//! `HOWDAH_TEST_LONG=1` (`./test --long`) runs all of it at length.
#![allow(clippy::print_stderr)]

use std::collections::HashMap;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::nginx::http;
use super::{Rig, TENANT};
use howdah::fpm::client::exchange;

/// Notes the token, answers with it and with what came in; may sleep, and may go on after the answer.
const SCRIPT: &str = r#"<?php
function note(string $file, string $token): void {
    file_put_contents(getenv('NOTES') . "/$file", "$token\n", FILE_APPEND | LOCK_EX);
}
$body = file_get_contents('php://input');
if (isset($_GET['ms'])) {
    $end = microtime(true) + $_GET['ms'] / 1e3;
    while (($left = $end - microtime(true)) > 0) {
        usleep((int) ceil($left * 1e6));
    }
}
note('answered', $_GET['t']);
echo $_GET['t'], ' ', strlen($body), ' ', md5($body), ' ', str_repeat('x', (int) ($_GET['answer'] ?? 0));
if (isset($_GET['after'])) {
    fastcgi_finish_request();
    usleep(1000 * (int) $_GET['after']);
    note('after', $_GET['t']);
}
"#;

/// How long `stop` is where a pool is to stop all the time.
pub const STOP: Duration = Duration::from_millis(50);

fn is_long() -> bool {
    std::env::var_os("HOWDAH_TEST_LONG").is_some_and(|value| !value.is_empty())
}

/// `short` in an ordinary run, `long` in a long one.
pub fn measure<T>(short: T, long: T) -> T {
    if is_long() { long } else { short }
}

/// Half of it: what is done once with and once without something.
pub fn half<T: std::ops::Div<Output = T> + From<u8>>(whole: T) -> T {
    whole / T::from(2)
}

/// Of all starts of a rig's howdah, how many were by a template; and how many they are.
pub fn starts_by_template(rig: &Rig) -> (usize, usize) {
    let log = fs::read_to_string(rig.path("log.before")).unwrap_or_default() + &rig.log();
    let starts = log.lines().filter(|line| line.contains(": started in "));
    (starts.clone().filter(|line| line.contains(" by a template (")).count(), starts.count())
}

/// Where a pool listens.
#[derive(Clone)]
pub enum Address {
    Unix(PathBuf),
    Tcp(SocketAddr),
    /// nginx, which gives it to the pool.
    Http(SocketAddr),
}

/// A pool under torture.
pub struct Target {
    name: String,
    root: PathBuf,
    address: Address,
}

impl Target {
    /// It is reached at another socket than its file says.
    pub fn listen_at(&mut self, path: PathBuf) {
        self.address = Address::Unix(path);
    }

    /// It is reached through nginx.
    pub fn ask_nginx_at(&mut self, address: SocketAddr) {
        self.address = Address::Http(address);
    }
}

/// A run: what the clients share.
pub struct Torture {
    targets: Vec<Target>,
    clients: usize,
    requests: usize,
    stops: u64,
    by_template: usize,
    /// The clients pause together, for about as long as `stop`: until then, in milliseconds since `began`.
    lull: AtomicU64,
    began: Instant,
    next: AtomicUsize,
    over: AtomicBool,
    lost: Mutex<Vec<String>>,
    /// For each pool, the tokens that must be noted as answered, and as gone on with.
    sent: Mutex<Vec<(Vec<String>, Vec<String>)>>,
}

/// A number of its own for each call: xorshift64*.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % sides
    }
}

/// Makes a pool with the script and a directory for its notes; `more` ends with the `[fpm]` section.
pub fn make_pool(rig: &Rig, name: &str, listen: Option<SocketAddr>, stop: Duration, more: &str) -> Target {
    rig.site(name, "index.php", SCRIPT, TENANT);
    rig.private(&format!("{name}-notes"), TENANT);
    write_pool(rig, name, listen, stop, more);
    let address = listen.map_or_else(|| Address::Unix(rig.socket(name)), Address::Tcp);
    Target { name: name.to_owned(), root: rig.path(name), address }
}

pub fn write_pool(rig: &Rig, name: &str, listen: Option<SocketAddr>, stop: Duration, more: &str) {
    let notes = rig.path(&format!("{name}-notes"));
    let file = rig.pool(
        name,
        &format!(
            "[[mount]]\nsource = {notes:?}\naccess = \"rw\"\n[idle]\nstop = \"{}ms\"\n\
             [fpm.env]\nNOTES = {notes:?}\n[fpm]\n{more}",
            stop.as_millis()
        ),
    );
    if let Some(address) = listen {
        let text = fs::read_to_string(&file).unwrap();
        let unix = format!("listen = {:?}", rig.socket(name));
        fs::write(&file, text.replace(&unix, &format!("listen = \"{address}\""))).unwrap();
        rig.let_listen_on_tcp(name);
    }
}

impl Torture {
    pub fn new(targets: Vec<Target>, requests: usize, stops: u64) -> Self {
        let sent = Mutex::new(targets.iter().map(|_| Default::default()).collect());
        Self {
            targets,
            clients: 4,
            requests,
            stops,
            by_template: 0,
            lull: AtomicU64::new(0),
            began: Instant::now(),
            next: AtomicUsize::new(0),
            over: AtomicBool::new(false),
            lost: Mutex::default(),
            sent,
        }
    }

    /// It goes on until so many starts were by a template, which takes long to make where the machine is busy.
    pub fn until_by_template(mut self, starts: usize) -> Self {
        self.by_template = starts;
        self
    }

    /// Runs the clients, and `meanwhile` again and again beside them; then holds the notes against what was sent.
    pub fn run(&self, rig: &mut Rig, mut meanwhile: impl FnMut(&mut Rig)) {
        let limit = Duration::from_secs(measure(90, 900));
        thread::scope(|scope| {
            for client in 0..self.clients {
                scope.spawn(move || self.client(client as u64));
            }
            scope.spawn(|| self.lulls());
            while !self.is_done(rig) {
                thread::sleep(Duration::from_millis(20));
                meanwhile(rig);
                if self.began.elapsed() > limit {
                    self.lost.lock().unwrap().push(format!("not done within {limit:?}"));
                    break;
                }
            }
            self.over.store(true, Ordering::Relaxed);
        });
        self.judge(rig);
    }

    /// One request to each pool, so that all are warm.
    pub fn first_requests(&self) {
        for place in 0..self.targets.len() {
            self.request_of(place, &mut Dice(1));
        }
    }

    /// As many requests and stops as were asked for, or something is lost already.
    fn is_done(&self, rig: &Rig) -> bool {
        let stops: u64 = self.targets.iter().map(|target| rig.record(&target.name).stops).sum();
        let sent = self.next.load(Ordering::Relaxed);
        let enough = sent >= self.requests && stops >= self.stops;
        (enough && (self.by_template == 0 || starts_by_template(rig).0 >= self.by_template))
            || !self.lost.lock().unwrap().is_empty()
    }

    /// Every now and then all clients pause until about the moment at which the pool stops.
    fn lulls(&self) {
        let mut dice = Dice(0x5EED_0001);
        while !self.over.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(30 + dice.roll(90)));
            // What was running when it began eats into it.
            let length = STOP.as_millis() as u64 + 10 + dice.roll(60);
            self.lull.store(self.began.elapsed().as_millis() as u64 + length, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(length));
        }
    }

    fn client(&self, number: u64) {
        let mut dice = Dice(0x9E37_79B9_7F4A_7C15 ^ (number + 1));
        while !self.over.load(Ordering::Relaxed) {
            let now = self.began.elapsed().as_millis() as u64;
            let lull = self.lull.load(Ordering::Relaxed);
            if lull > now {
                // Not to the millisecond together.
                thread::sleep(
                    Duration::from_millis(lull - now) + Duration::from_micros(100 * dice.roll(100)),
                );
            }
            self.request(&mut dice);
        }
    }

    fn request(&self, dice: &mut Dice) {
        self.request_of(dice.roll(self.targets.len() as u64) as usize, dice);
    }

    fn request_of(&self, place: usize, dice: &mut Dice) {
        let token = format!("t{:06}", self.next.fetch_add(1, Ordering::Relaxed));
        let (mut query, mut body, mut after) = (format!("t={token}"), Vec::new(), false);
        match dice.roll(100) {
            0..=9 => query += &format!("&ms={}", dice.roll(80)),
            10..=15 => body = vec![b'b'; dice.roll(300_000) as usize],
            16..=19 => query += &format!("&answer={}", dice.roll(300_000)),
            20..=27 => {
                after = true;
                query += &format!("&after={}", dice.roll(120));
            }
            _ => {}
        }
        let began = Instant::now();
        let answer = self.ask(&self.targets[place], &query, &body);
        let wanted = format!("{token} {} ", body.len());
        match answer {
            Ok(text) if text.starts_with(&wanted) => {}
            Ok(text) => self.lose(format!("{query}: answered {:?}", &text[..text.len().min(80)])),
            Err(error) => self.lose(format!("{query}: {error} after {:?}", began.elapsed())),
        }
        let mut sent = self.sent.lock().unwrap();
        if after {
            sent[place].1.push(token.clone());
        }
        sent[place].0.push(token);
    }

    fn lose(&self, what: String) {
        self.lost.lock().unwrap().push(format!("at {:?} {what}", self.began.elapsed()));
    }

    fn ask(&self, target: &Target, query: &str, body: &[u8]) -> Result<String, String> {
        let request = howdah::fpm::client::Request {
            script: target.root.join("index.php"),
            document_root: target.root.clone(),
            uri: format!("/index.php?{query}"),
            method: if body.is_empty() { "GET" } else { "POST" }.to_owned(),
            headers: vec![("Content-Type".to_owned(), "application/octet-stream".to_owned())],
            body: body.to_vec(),
        };
        let timeout = Duration::from_secs(30);
        let failed = |error: std::io::Error| format!("connect: {error}");
        let response = match &target.address {
            Address::Unix(path) => exchange(&UnixStream::connect(path).map_err(failed)?, &request, timeout),
            Address::Tcp(at) => {
                exchange(&TcpStream::connect_timeout(at, timeout).map_err(failed)?, &request, timeout)
            }
            Address::Http(at) => {
                let answer = http(*at, &request.method, &request.uri, body)?;
                return match answer.status {
                    200 => Ok(answer.body),
                    _ => Err(answer.head),
                };
            }
        };
        let response = response.map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&response.body).into_owned();
        if response.status == 200 { Ok(text) } else { Err(format!("status {}: {text}", response.status)) }
    }

    fn judge(&self, rig: &Rig) {
        // Work after the answer keeps a pool up: when all are cold, all is noted.
        self.targets.iter().for_each(|target| rig.wait_state(&target.name, "cold"));
        let mut lost = self.lost.lock().unwrap();
        for (target, (answered, after)) in self.targets.iter().zip(self.sent.lock().unwrap().iter()) {
            for (file, tokens) in [("answered", answered), ("after", after)] {
                let path = rig.path(&format!("{}-notes", target.name)).join(file);
                lost.extend(differences(
                    &target.name,
                    file,
                    tokens,
                    &fs::read_to_string(path).unwrap_or_default(),
                ));
            }
        }
        let records: Vec<_> = self.targets.iter().map(|target| rig.record(&target.name)).collect();
        let sum = |field: fn(&howdah::pool::record::Record) -> u64| records.iter().map(field).sum::<u64>();
        eprintln!(
            "torture: {} requests, {} starts, {} stops, {} busy looks, {} lost, {:.1} s",
            self.next.load(Ordering::Relaxed),
            sum(|record| record.starts),
            sum(|record| record.stops),
            sum(|record| record.busy_looks),
            lost.len(),
            self.began.elapsed().as_secs_f64()
        );
        assert!(lost.is_empty(), "lost {}:\n{}", lost.len(), lost[..lost.len().min(20)].join("\n"));
    }
}

/// What is noted not exactly once, or was never sent.
fn differences(pool: &str, file: &str, tokens: &[String], text: &str) -> Vec<String> {
    let mut noted: HashMap<&str, usize> = HashMap::new();
    text.lines().for_each(|line| *noted.entry(line).or_default() += 1);
    let mut wrong = Vec::new();
    for token in tokens {
        match noted.remove(token.as_str()) {
            Some(1) => {}
            count => wrong.push(format!("{pool}: {token} is noted {} times in {file}", count.unwrap_or(0))),
        }
    }
    wrong.extend(noted.into_keys().map(|token| format!("{pool}: {token} in {file} was never sent there")));
    wrong
}
