//! Debian's nginx in front of pools, with a configuration and a directory of
//! the test's own; and a client for it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};

use super::confined::Confined;

/// A running nginx.
pub struct Nginx {
    process: Confined,
    log: PathBuf,
}

impl Nginx {
    /// Runs nginx on `conf` in `directory` until it answers at `address`.
    pub fn start(directory: &Path, conf: &Path, address: SocketAddr) -> Self {
        fs::create_dir_all(directory).unwrap();
        let log = directory.join("nginx.log");
        let mut command = Command::new("nginx");
        command.arg("-p").arg(directory).arg("-c").arg(conf).args(["-g", "daemon off;"]);
        let process = Confined::start(&command, |command| {
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log).unwrap());
        });
        let mut nginx = Self { process, log };
        let end = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(address).is_err() {
            let ended = nginx.process.ends_within(Duration::from_millis(5));
            assert!(!ended && Instant::now() < end, "nginx does not listen: {}", nginx.log());
        }
        nginx
    }

    /// Its error log.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// A configuration with one server at `address` that gives everything to
    /// `script` by the upstream `pool`, whose words are `upstream`; `location` is added.
    pub fn conf(address: SocketAddr, root: &Path, upstream: &str, location: &str) -> String {
        format!(
            "user www-data;\nworker_processes 1;\npid nginx.pid;\nerror_log stderr error;\n\
             events {{ worker_connections 256; }}\n\
             http {{\n access_log off;\n client_body_temp_path client_body;\n fastcgi_temp_path fastcgi;\n \
             proxy_temp_path proxy;\n scgi_temp_path scgi;\n uwsgi_temp_path uwsgi;\n \
             upstream pool {{ {upstream} }}\n \
             server {{\n  listen {address};\n  root {root};\n  location / {{\n   \
             include /etc/nginx/fastcgi.conf;\n   fastcgi_pass pool;\n   {location}\n  }}\n }}\n}}\n",
            root = root.display()
        )
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.process.inner().map(|pid| kill(pid, Signal::SIGTERM));
        self.process.ends_within(Duration::from_secs(10));
    }
}

/// An answer of HTTP.
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

/// One request by HTTP/1.0: the answer ends with its connection.
pub fn http(address: SocketAddr, method: &str, uri: &str, body: &[u8]) -> Result<Answer, String> {
    let failed = |error: std::io::Error| error.to_string();
    let timeout = Duration::from_secs(30);
    let mut stream = TcpStream::connect_timeout(&address, timeout).map_err(failed)?;
    stream.set_read_timeout(Some(timeout)).map_err(failed)?;
    stream.set_write_timeout(Some(timeout)).map_err(failed)?;
    let head =
        format!("{method} {uri} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(&[head.as_bytes(), body].concat()).map_err(failed)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(failed)?;
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| format!("no answer but {text:?}"))?;
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
    Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
}
