//! `howdah serve` with pools of a bench's own, seen from outside: its
//! command line, its notify message and `howdah ps --json`.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use serde_json::Value;

use super::php::{Extensions, Stage, Workers};
use super::{During, Outcome, processes};

/// The program that `cargo bench` built.
const HOWDAH: &str = env!("CARGO_BIN_EXE_howdah");

/// A pool file's content: `listen` is all that differs between the pools of a bench.
pub(crate) fn pool_file(
    stage: &Stage,
    listen: &Path,
    extensions: Extensions,
    workers: Workers,
    stop: &str,
) -> String {
    let Workers { pm, max_children } = workers;
    let php = match extensions {
        Extensions::Full => "",
        Extensions::Small => "\n[php]\nextensions = []\n",
    };
    format!(
        "listen = {listen:?}\nuser = {user:?}\n\
         \n[socket]\nmode = \"0666\"\n\
         \n[[mount]]\nsource = {site:?}\n\
         \n[idle]\nfreeze = \"never\"\nstop = {stop:?}\n\
         \n[fpm]\nbinary = {php_fpm:?}\npm = {pm:?}\nmax_children = {max_children}\n{php}",
        user = stage.user.name,
        site = stage.site(),
        php_fpm = stage.php_fpm,
    )
}

/// A running `howdah serve`; ended when dropped.
pub(crate) struct Serve {
    /// Its process id.
    pub(crate) pid: u32,
    /// From its start to READY=1.
    pub(crate) took: Duration,
    dir: PathBuf,
    /// On the fence's own tmpfs, as /run is one on a host.
    runtime: PathBuf,
}

impl Serve {
    /// Starts it in `stage.dir/name` with `pools` (name and content of each
    /// file); returns once it has said READY=1.
    pub(crate) fn start(
        stage: &Stage,
        name: &str,
        pools: impl Iterator<Item = (String, String)>,
    ) -> Outcome<Self> {
        Self::start_with(stage, name, pools, 0)
    }

    /// The same, with `templates` of each class.
    pub(crate) fn start_with(
        stage: &Stage,
        name: &str,
        pools: impl Iterator<Item = (String, String)>,
        templates: usize,
    ) -> Outcome<Self> {
        let dir = stage.dir.join(name);
        fs::create_dir_all(dir.join("pools"))?;
        for (pool, content) in pools {
            fs::write(dir.join("pools").join(pool).with_extension("toml"), content)?;
        }
        let runtime = Path::new("/run/howdah-bench").join(name);
        fs::create_dir_all("/run/howdah-bench")?;
        let state = dir.join("state");
        fs::write(
            dir.join("howdah.toml"),
            format!(
                "[serve]\nstate_dir = {state:?}\ntemplates = {templates}\n[defaults.start]\ntemplate = true\n"
            ),
        )?;
        let notify = dir.join("notify.sock");
        let notified = UnixDatagram::bind(&notify).during("bind the notify socket")?;
        notified.set_read_timeout(Some(Duration::from_millis(50)))?;

        let log = File::create(dir.join("log"))?;
        let began = Instant::now();
        let mut child = Command::new(HOWDAH)
            .arg("serve")
            .args(["--runtime-dir".as_ref(), runtime.as_os_str()])
            .args(["--config".as_ref(), dir.join("howdah.toml").as_os_str()])
            .arg(dir.join("pools"))
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("NOTIFY_SOCKET", &notify)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .during("start howdah serve")?;
        // Ended by Drop, also when it never gets ready.
        let mut serve = Self { pid: child.id(), took: Duration::ZERO, dir, runtime };
        let mut message = [0; 4096];
        while began.elapsed() < Duration::from_secs(60) {
            match notified.recv(&mut message) {
                Ok(length) if message[..length].split(|b| *b == b'\n').any(|line| line == b"READY=1") => {
                    serve.took = began.elapsed();
                    return Ok(serve);
                }
                Err(error) if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    return Err(error.into());
                }
                _ => {}
            }
            if let Some(status) = child.try_wait()? {
                return Err(
                    format!("serve ended before it was ready ({status}){}", serve.last_words()).into()
                );
            }
        }
        Err(format!("serve did not say READY=1 in a minute{}", serve.last_words()).into())
    }

    /// What it knows of `pool`, by `howdah ps --json`.
    pub(crate) fn pool(&self, pool: &str) -> Outcome<Value> {
        let output = Command::new(HOWDAH)
            .args(["ps", "--json", "--runtime-dir"])
            .arg(&self.runtime)
            .output()
            .during("howdah ps")?;
        let pools: Vec<Value> = serde_json::from_slice(&output.stdout)
            .during(format!("howdah ps --json ({})", String::from_utf8_lossy(&output.stderr).trim()))?;
        let found = pools.into_iter().find(|entry| entry["pool"] == pool);
        found.ok_or_else(|| format!("howdah ps does not list {pool}").into())
    }

    /// Waits until nothing of `pool` runs; what `ps` says of it then.
    pub(crate) fn wait_until_cold(&self, pool: &str) -> Outcome<Value> {
        self.wait_until(pool, "cold")
    }

    /// Waits until `pool` is in `state`; what `ps` says of it then.
    pub(crate) fn wait_until(&self, pool: &str, state: &str) -> Outcome<Value> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let seen = self.pool(pool)?;
            if seen["state"] == state {
                return Ok(seen);
            }
            if Instant::now() > deadline {
                return Err(format!("{pool} is {} ten seconds after its request", seen["state"]).into());
            }
            sleep(Duration::from_millis(20));
        }
    }

    /// Waits until `count` templates wait.
    pub(crate) fn wait_for_templates(&self, count: usize) -> Outcome {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.templates().len() < count {
            if Instant::now() > deadline {
                return Err(format!("no {count} templates after twenty seconds{}", self.last_words()).into());
            }
            sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// The php-fpm's that wait for a pool.
    pub(crate) fn templates(&self) -> Vec<u32> {
        let text = fs::read_to_string(self.runtime.join("templates.json")).unwrap_or_default();
        let stock: Value = serde_json::from_str(&text).unwrap_or_default();
        let classes = stock["classes"].as_array().into_iter().flatten();
        let waiting = classes.filter_map(|class| class["waiting"].as_array()).flatten();
        let pids = waiting.filter_map(Value::as_u64).filter_map(|pid| u32::try_from(pid).ok());
        // One that has just been taken may be told of a moment longer.
        pids.filter(|pid| processes::sleeps_in_open(*pid)).collect()
    }

    /// The end of its log, to be put behind an error.
    pub(crate) fn last_words(&self) -> String {
        last_words(&self.dir.join("log"))
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        processes::end(self.pid, Duration::from_secs(5));
    }
}

/// The last line of a log, to be put behind an error.
pub(crate) fn last_words(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.lines().next_back().map(|line| format!(": {line}")).unwrap_or_default()
}

/// What the clock of [`time_line`] shows now, microseconds.
pub(crate) fn monotonic_us() -> Outcome<f64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).during("read the clock")?;
    Ok(Duration::from(now).as_secs_f64() * 1e6)
}

/// Where the `took` of a request went that was sent at `sent_us` to the cold pool whose entry in
/// `ps --json` is `pool` now: what each step took, ms, in their order.
///
/// The steps between are howdah's own account, `"last_start_steps_ms": [["check", 0.1], …]`. Before them
/// it had to wake up, and after php-fpm was ready the rest was php-fpm's; that howdah saw the
/// connection accepted is no step of the visitor's.
pub(crate) fn time_line(pool: &Value, sent_us: f64, took: Duration) -> Vec<(String, f64)> {
    let Some(began_us) = pool["last_start_monotonic_us"].as_f64() else { return Vec::new() };
    let mut line = vec![("wake".to_owned(), (began_us - sent_us) / 1e3)];
    let steps = pool["last_start_steps_ms"].as_array().into_iter().flatten();
    let steps = steps.filter_map(|step| Some((step[0].as_str()?.to_owned(), step[1].as_f64()?)));
    line.extend(steps.filter(|(name, _)| name != "accepted"));
    let before: f64 = line.iter().map(|(_, ms)| ms).sum();
    line.push(("worker and script".to_owned(), took.as_secs_f64() * 1e3 - before));
    line
}
