//! `howdah request`: a page of a pool, by FastCGI.

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::ps::read_roll;
use super::{Failure, runtime_dir};
use crate::cli::Request as Arguments;
use crate::config::types::Listen;
use crate::fpm::client::{Request, Response, exchange};
use crate::sys;

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let runtime = runtime_dir(&arguments.runtime, None)?;
    let roll = read_roll(&runtime)?;
    let entry = roll.pools.iter().find(|entry| entry.pool == arguments.pool).ok_or_else(|| {
        let names: Vec<&str> = roll.pools.iter().map(|entry| entry.pool.as_str()).take(10).collect();
        Failure::new(
            1,
            format!("no pool {:?} is served there; there are: {}", arguments.pool, names.join(", ")),
        )
    })?;
    let no = |line: String| Failure::new(1, format!("pool {}: {line}", arguments.pool));
    let address: Listen = entry
        .listen
        .first()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| no("it listens nowhere".to_owned()))?;
    let root = entry.document_root.clone().unwrap_or_else(|| PathBuf::from("/"));
    let request = make(arguments, &root).map_err(no)?;
    let stream =
        connect(&address).map_err(|error| no(format!("connect to {address}: {}", sys::told(&error))))?;
    let response = exchange(&stream, &request, Duration::from_secs(arguments.timeout))
        .map_err(|error| no(error.to_string()))?;
    print(&response, arguments.include).map_err(|error| no(error.to_string()))?;
    if response.status < 400 {
        return Ok(());
    }
    Err(no(format!("{} answered with status {}", arguments.target, response.status)))
}

fn connect(address: &Listen) -> io::Result<OwnedFd> {
    Ok(match address {
        Listen::Unix(path) => UnixStream::connect(path.as_path())?.into(),
        Listen::Tcp(address) => TcpStream::connect(address)?.into(),
    })
}

/// The request of what was typed: a script by its path inside, or a URI below the document root.
fn make(arguments: &Arguments, root: &Path) -> Result<Request, String> {
    let target = &arguments.target;
    if !target.starts_with('/') {
        return Err(format!("{target:?} is neither a URI nor a script: it must begin with '/'"));
    }
    let (path, _) = target.split_once('?').unwrap_or((target, ""));
    let is_script = Path::new(path).starts_with(root) && root != Path::new("/");
    let uri = if is_script { target.replacen(&root.display().to_string(), "", 1) } else { target.clone() };
    let below = uri.split_once('?').map_or(uri.as_str(), |(path, _)| path).trim_start_matches('/');
    let mut script = root.join(below);
    if below.is_empty() || below.ends_with('/') {
        script.push("index.php");
    }
    let body = match &arguments.data {
        None => Vec::new(),
        Some(text) => body_of(text).map_err(|error| format!("--data {text}: {}", sys::told(&error)))?,
    };
    let headers = arguments.headers.iter().map(|header| {
        let (name, value) =
            header.split_once(':').ok_or_else(|| format!("--header {header:?}: write \"Name: value\""))?;
        Ok((name.trim().to_owned(), value.trim().to_owned()))
    });
    let default = if arguments.data.is_some() { "POST" } else { "GET" };
    let mut headers: Vec<(String, String)> = headers.collect::<Result<_, String>>()?;
    if arguments.data.is_some() && !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type"))
    {
        headers.push(("Content-Type".to_owned(), "application/x-www-form-urlencoded".to_owned()));
    }
    Ok(Request {
        script,
        document_root: root.to_owned(),
        uri: if uri.is_empty() { "/".to_owned() } else { uri },
        method: arguments.method.clone().unwrap_or_else(|| default.to_owned()),
        headers,
        body,
    })
}

fn body_of(text: &str) -> io::Result<Vec<u8>> {
    match text.strip_prefix('@') {
        None => Ok(text.as_bytes().to_vec()),
        Some("-") => {
            let mut body = Vec::new();
            io::stdin().read_to_end(&mut body)?;
            Ok(body)
        }
        Some(file) => fs::read(file),
    }
}

fn print(response: &Response, include: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if include {
        writeln!(out, "Status: {}", response.status)?;
        for (name, value) in &response.headers {
            writeln!(out, "{name}: {value}")?;
        }
        writeln!(out)?;
    }
    out.write_all(&response.body)?;
    io::stderr().write_all(&response.stderr)
}
