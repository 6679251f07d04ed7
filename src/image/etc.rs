//! The made `/etc`: its own passwd and group with the one user there is, the
//! resolver of its network, and what else programs look for.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use crate::config::network::{Network, RESOLVER_V4, RESOLVER_V6};

/// The one user of a sandbox, as its passwd tells.
#[derive(Debug, Clone, Copy)]
pub struct Owner<'a> {
    /// The account's name.
    pub name: &'a str,
    /// Its uid inside.
    pub uid: u32,
    /// Its gid inside.
    pub gid: u32,
    /// The host name inside.
    pub hostname: &'a str,
    /// Its network, which decides about its resolver.
    pub network: &'a Network,
}

/// Writes `/etc` of a sandbox below `rootfs`: the made files, and `secret`
/// ones (name and text) that only the group `gid` of the host may read.
///
/// # Errors
/// An I/O error, with the path that it happened on.
pub fn write_etc(
    rootfs: &Path,
    owner: &Owner<'_>,
    secret: &[(&str, &str)],
    gid: u32,
) -> Result<(), (PathBuf, io::Error)> {
    let etc = rootfs.join("etc");
    DirBuilder::new().recursive(true).mode(0o755).create(&etc).map_err(|error| (etc.clone(), error))?;
    let Owner { name, uid, gid: inside, hostname, network } = owner;
    let resolver = resolver(network, &fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
    let files = [
        ("passwd", format!("{name}:x:{uid}:{inside}:{name}:/tmp:/usr/sbin/nologin\n")),
        ("group", format!("{name}:x:{inside}:\n")),
        ("hostname", format!("{hostname}\n")),
        ("hosts", format!("127.0.0.1 localhost {hostname}\n::1 localhost ip6-localhost\n")),
        (
            "nsswitch.conf",
            "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n".to_owned(),
        ),
        ("resolv.conf", resolver),
    ];
    for (name, text) in &files {
        write(&etc.join(name), text, 0o644, None)?;
    }
    secret.iter().try_for_each(|(name, text)| write_secret(&etc.join(name), text, gid))
}

/// Writes one file that only the group `gid` of the host may read.
///
/// # Errors
/// An I/O error, with the path that it happened on.
pub fn write_secret(path: &Path, text: &str, gid: u32) -> Result<(), (PathBuf, io::Error)> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|error| (parent.to_owned(), error))?;
    }
    write(path, text, 0o640, Some(gid))
}

/// The `resolv.conf` of a network, where `host` is the host's (resolv.conf(5)).
fn resolver(network: &Network, host: &str) -> String {
    match network {
        // Every name would be asked for in vain.
        Network::None => "# this pool has no network\n".to_owned(),
        Network::Host(_) => host.to_owned(),
        Network::Outbound(outbound) if !outbound.dns => "# dns = false in this pool's file\n".to_owned(),
        Network::Outbound(_) => forwarded(host),
    }
}

/// The host's with its nameservers replaced by the addresses that lead to the first of each family.
fn forwarded(host: &str) -> String {
    let mut text = String::new();
    let servers = host.lines().filter_map(|line| line.strip_prefix("nameserver"));
    let servers: Vec<IpAddr> = servers.filter_map(|server| server.trim().parse().ok()).collect();
    if servers.iter().any(IpAddr::is_ipv4) {
        text.push_str(&format!("nameserver {RESOLVER_V4}\n"));
    }
    if servers.iter().any(IpAddr::is_ipv6) {
        text.push_str(&format!("nameserver {RESOLVER_V6}\n"));
    }
    let kept = ["search", "domain", "options"];
    for line in host.lines().filter(|line| kept.iter().any(|word| line.starts_with(word))) {
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// Writes `path`; one that is there is replaced in one step, so that a running sandbox sees the
/// old or the new text.
fn write(path: &Path, text: &str, mode: u32, gid: Option<u32>) -> Result<(), (PathBuf, io::Error)> {
    let mut create = OpenOptions::new();
    create.write(true).mode(mode);
    let fill = |mut file: File| {
        if let Some(gid) = gid {
            fchown(&file, None, Some(gid))?;
        }
        file.write_all(text.as_bytes())
    };
    let fresh = path.with_extension("new");
    let done = match create.clone().create_new(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let file = create.create(true).truncate(true).open(&fresh);
            file.and_then(fill).and_then(|()| fs::rename(&fresh, path))
        }
        other => other.and_then(fill),
    };
    done.map_err(|error| (path.to_owned(), error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::network::{Outbound, Ports};

    const HOST: &str =
        "# by somebody\nnameserver 127.0.0.53\nnameserver 10.0.0.1\noptions edns0\nsearch example.org\n";

    #[test]
    fn the_resolver_is_that_of_the_network() {
        let outbound = |dns| Network::Outbound(Outbound { allow: Vec::new(), dns });
        assert_eq!(
            resolver(&outbound(true), HOST),
            "nameserver 192.0.0.3\noptions edns0\nsearch example.org\n"
        );
        assert!(!resolver(&outbound(false), HOST).contains("nameserver"));
        assert!(!resolver(&Network::None, HOST).contains("nameserver"));
        assert_eq!(resolver(&Network::Host(Ports::default()), HOST), HOST);
        assert_eq!(resolver(&outbound(true), "nameserver ::1\n"), "nameserver fd68:6f77:6461:6800::3\n");
    }
}
