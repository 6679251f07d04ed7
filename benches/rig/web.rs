//! nginx in front of the contestants, and wrk in front of nginx.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::php::Stage;
use super::{During, Outcome, processes, serve};

/// A running nginx, one server for each socket it was given; ended when dropped.
pub(crate) struct Nginx {
    pid: u32,
    /// On 127.0.0.1, in the order of the sockets.
    pub(crate) ports: Vec<u16>,
}

impl Nginx {
    /// Starts Debian's nginx as php-fpm's account, with one server on
    /// 127.0.0.1 for each of `sockets`.
    pub(crate) fn start(stage: &Stage, sockets: &[&Path]) -> Outcome<Self> {
        let dir = stage.own_dir("nginx")?;
        let ports = free_ports(sockets.len())?;
        fs::write(dir.join("nginx.conf"), configuration(stage, &dir, sockets, &ports)?)?;
        let errors = dir.join("error.log");
        let mut command = Command::new("/usr/sbin/nginx");
        command.arg("-p").arg(&dir).arg("-e").arg(&errors).arg("-c").arg(dir.join("nginx.conf"));
        command.env_clear().current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::create(dir.join("stderr.log"))?);
        stage.as_user(&mut command);
        let nginx = Self { pid: command.spawn().during("start nginx")?.id(), ports };

        let deadline = Instant::now() + Duration::from_secs(5);
        for port in &nginx.ports {
            while let Err(error) = TcpStream::connect(("127.0.0.1", *port)) {
                if Instant::now() > deadline {
                    return Err(format!("nginx: {error}{}", serve::last_words(&errors)).into());
                }
                sleep(Duration::from_millis(10));
            }
        }
        Ok(nginx)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        processes::end(self.pid, Duration::from_secs(2));
    }
}

/// One worker, for the other processors have php and the client to run; a
/// connection for each request to php-fpm, as nginx does unless told.
fn configuration(stage: &Stage, dir: &Path, sockets: &[&Path], ports: &[u16]) -> Outcome<String> {
    let mut text = format!("daemon off;\nworker_processes 1;\npid {}/pid;\n", dir.display());
    text.push_str(
        "events { worker_connections 512; }\nhttp {\naccess_log off;\nkeepalive_requests 1000000;\n",
    );
    for kind in ["client_body", "fastcgi", "proxy", "scgi", "uwsgi"] {
        writeln!(text, "{kind}_temp_path {}/{kind};", dir.display())?;
    }
    for (socket, port) in sockets.iter().zip(ports) {
        writeln!(
            text,
            "server {{ listen 127.0.0.1:{port}; location / {{\n  \
               include /etc/nginx/fastcgi_params;\n  \
               fastcgi_param SCRIPT_FILENAME {};\n  \
               fastcgi_pass unix:{};\n}} }}",
            stage.script().display(),
            socket.display()
        )?;
    }
    text.push_str("}\n");
    Ok(text)
}

/// Ports that nobody had a moment ago.
fn free_ports(count: usize) -> Outcome<Vec<u16>> {
    let held: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    Ok(held.iter().map(|socket| Ok(socket.local_addr()?.port())).collect::<std::io::Result<_>>()?)
}

/// What wrk saw.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// Requests answered in a second.
    pub(crate) per_second: f64,
    /// 99 of 100 requests took less, ms.
    pub(crate) p99_ms: f64,
}

/// Runs wrk against `port` for `seconds`; any request that was not answered well is an error.
pub(crate) fn wrk(port: u16, connections: u32, seconds: u32) -> Outcome<Load> {
    let program = PathBuf::from("/usr/bin/wrk");
    let output = Command::new(program)
        .args(["--latency", "--threads", "1", "--connections", &connections.to_string()])
        .args(["--duration", &format!("{seconds}s"), &format!("http://127.0.0.1:{port}/")])
        .output()
        .during("wrk (package wrk)")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if let Some(bad) = text.lines().find(|line| line.contains("Socket errors") || line.contains("Non-2xx")) {
        return Err(format!("wrk: {}", bad.trim()).into());
    }
    let after = |word: &str| text.lines().find_map(|line| line.trim().strip_prefix(word)).map(str::trim);
    let per_second = after("Requests/sec:").and_then(|number| number.parse().ok());
    let p99_ms = after("99%").and_then(milliseconds);
    match (per_second, p99_ms) {
        (Some(per_second), Some(p99_ms)) => Ok(Load { per_second, p99_ms }),
        _ => Err(format!("wrk printed no result: {text}{}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}

/// `"850.00us"`, `"1.29ms"`, `"2.00s"`.
fn milliseconds(text: &str) -> Option<f64> {
    let unit = text.find(|c: char| c.is_ascii_alphabetic())?;
    let number: f64 = text[..unit].parse().ok()?;
    match &text[unit..] {
        "us" => Some(number / 1e3),
        "ms" => Some(number),
        "s" => Some(number * 1e3),
        _ => None,
    }
}
