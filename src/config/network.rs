//! `[network]`: what a pool reaches beside its own loopback.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::str::FromStr;

use super::types::Invalid;

/// Where a pool with `outbound` finds its resolver: what arrives there goes to the host's.
pub const RESOLVER_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 3);
/// The same for a host whose resolver has an IPv6 address.
pub const RESOLVER_V6: Ipv6Addr = Ipv6Addr::new(0xfd68, 0x6f77, 0x6461, 0x6800, 0, 0, 0, 3);

/// `[network] mode`, with the keys that go with it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Network {
    /// `"none"`: a network namespace with loopback and nothing else.
    #[default]
    None,
    /// `"outbound"`: a network namespace with user-mode NAT by pasta(1).
    Outbound(Outbound),
    /// `"host"`: the host's own network.
    Host(Ports),
}

impl Network {
    /// The word of its mode.
    pub fn mode(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Outbound(_) => "outbound",
            Self::Host(_) => "host",
        }
    }

    /// The TCP ports that Landlock holds it to.
    ///
    /// Under `outbound` the packet filter is what counts; where every destination has
    /// a port, Landlock says the same a second time.
    pub fn ports(&self) -> Ports {
        match self {
            Self::None => Ports::default(),
            Self::Host(ports) => ports.clone(),
            Self::Outbound(outbound) => {
                let ports: Option<Vec<u16>> = outbound.allow.iter().map(|one| one.port).collect();
                let mut ports = ports.filter(|ports| !ports.is_empty());
                if let Some(ports) = ports.as_mut().filter(|_| outbound.dns) {
                    ports.push(53);
                }
                Ports { connect: ports.map(sorted), bind: None }
            }
        }
    }
}

/// As `check` and `ps` tell it: "outbound: the Internet, DNS".
impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.mode())?;
        match self {
            Self::None => Ok(()),
            Self::Outbound(Outbound { allow, dns }) => {
                let words: Vec<String> = allow.iter().map(ToString::to_string).collect();
                let reach = if words.is_empty() { "the Internet".to_owned() } else { words.join(", ") };
                write!(f, ": {reach}{}", if *dns { "; DNS" } else { "; no DNS" })
            }
            Self::Host(Ports { connect, bind }) => {
                for (what, ports) in [("connect", connect), ("bind", bind)] {
                    if let Some(ports) = ports {
                        let words: Vec<String> = ports.iter().map(ToString::to_string).collect();
                        let words = if words.is_empty() { "nowhere".to_owned() } else { words.join(" ") };
                        write!(f, "; TCP {what} {words}")?;
                    }
                }
                Ok(())
            }
        }
    }
}

/// The keys of mode `outbound`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outbound {
    /// `allow`: nothing else is reached; empty: the Internet.
    pub allow: Vec<Destination>,
    /// `dns`, default true: the host's resolver answers.
    pub dns: bool,
}

impl Default for Outbound {
    fn default() -> Self {
        Self { allow: Vec::new(), dns: true }
    }
}

/// The keys of mode `host`: TCP ports that Landlock allows; `None`: all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ports {
    /// `connect`
    pub connect: Option<Vec<u16>>,
    /// `bind`
    pub bind: Option<Vec<u16>>,
}

/// Ports in order, each once.
pub(super) fn sorted(mut ports: Vec<u16>) -> Vec<u16> {
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// One entry of `allow`: `"203.0.113.0/24"`, `"203.0.113.5:443"`, `"[2001:db8::]/32:443"`, `"*:443"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Destination {
    /// Address and prefix length; `None`: anywhere on the Internet.
    pub network: Option<(IpAddr, u8)>,
    /// TCP and UDP port; `None`: every port and protocol.
    pub port: Option<u16>,
}

/// Networks of which no part is ever reached, and what they are.
const NEVER: [(IpAddr, u8, &str); 8] = [
    (IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8, "loopback"),
    (IpAddr::V4(Ipv4Addr::new(0, 0, 0, 0)), 8, "no address"),
    (IpAddr::V4(Ipv4Addr::new(169, 254, 0, 0)), 16, "link-local, where cloud metadata is"),
    (IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0)), 4, "multicast"),
    (IpAddr::V6(Ipv6Addr::UNSPECIFIED), 96, "loopback"),
    (IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0)), 96, "an IPv4 address in IPv6's clothes"),
    (IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), 10, "link-local"),
    (IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0)), 8, "multicast"),
];

/// The address as bits, left-aligned, and how many bits its family has.
fn bits(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    }
}

/// The first `length` bits of the address.
fn masked(address: IpAddr, length: u8) -> u128 {
    let (bits, _) = bits(address);
    if length == 0 { 0 } else { bits & (u128::MAX << (128 - u32::from(length))) }
}

fn is_within(inner: (IpAddr, u8), outer: (IpAddr, u8)) -> bool {
    inner.0.is_ipv4() == outer.0.is_ipv4()
        && inner.1 >= outer.1
        && masked(inner.0, outer.1) == masked(outer.0, outer.1)
}

impl FromStr for Destination {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let (address, prefix, port) = split(text)?;
        let port = port
            .map(|port| match port.parse::<u16>() {
                Ok(number) if number > 0 => Ok(number),
                _ => Err(Invalid::new(format!("{text:?}: {port:?} is no port from 1 to 65535"))),
            })
            .transpose()?;
        match (address, port) {
            ("*", None) => {
                Err(Invalid::new("\"*\" is everything: take allow out, or write a port, such as \"*:443\""))
            }
            ("*", port) => Ok(Self { network: None, port }),
            (address, port) => Ok(Self { network: Some(parse_network(text, address, prefix)?), port }),
        }
    }
}

/// Address, prefix length and port of an entry, as they are written.
fn split(text: &str) -> Result<(&str, Option<&str>, Option<&str>), Invalid> {
    let port_of = |rest: &'_ str| rest.split_once(':').map_or(rest.len(), |(before, _)| before.len());
    if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) =
            rest.split_once(']').ok_or_else(|| Invalid::new(format!("{text:?}: the '[' is not closed")))?;
        let (prefix, port) = rest.split_at(port_of(rest));
        let prefix = match (prefix, prefix.strip_prefix('/')) {
            ("", _) => None,
            (_, Some(length)) => Some(length),
            _ => return Err(Invalid::new(format!("{text:?}: behind the ']' stands a /prefix or a :port"))),
        };
        return Ok((address, prefix, port.strip_prefix(':')));
    }
    let end = if text.matches(':').count() > 1 { text.len() } else { port_of(text) };
    let (network, port) = text.split_at(end);
    let (address, prefix) =
        network.split_once('/').map_or((network, None), |(address, prefix)| (address, Some(prefix)));
    Ok((address, prefix, port.strip_prefix(':')))
}

fn parse_network(text: &str, address: &str, prefix: Option<&str>) -> Result<(IpAddr, u8), Invalid> {
    let address: IpAddr = address.parse().map_err(|_| no_address(text, address))?;
    let (_, most) = bits(address);
    let length = match prefix.map(str::parse::<u8>) {
        None => most,
        Some(Ok(length)) if length <= most => length,
        Some(_) => return Err(Invalid::new(format!("{text:?}: the prefix is a number up to {most}"))),
    };
    if masked(address, length) != bits(address).0 {
        let whole = match address {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from_bits((masked(address, length) >> 96) as u32)),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(masked(address, length))),
        };
        return Err(Invalid::new(format!(
            "{text:?} is an address in {whole}/{length}: write one or the other"
        )));
    }
    if let Some((.., what)) =
        NEVER.iter().find(|(never, bits, _)| is_within((address, length), (*never, *bits)))
    {
        return Err(Invalid::new(format!("{text:?} is {what}, which no pool with outbound reaches")));
    }
    Ok((address, length))
}

fn no_address(text: &str, address: &str) -> Invalid {
    let is_name = address.bytes().any(|byte| byte.is_ascii_alphabetic()) && !address.contains(':');
    Invalid::new(if is_name {
        format!(
            "{text:?} is a name, and where a name leads changes while the pool runs: \
             write its addresses or networks, such as \"203.0.113.0/24:443\", or \"*:443\""
        )
    } else {
        format!("{text:?} is no destination: write \"203.0.113.0/24\", \"[2001:db8::1]:443\" or \"*:443\"")
    })
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.network {
            None => f.write_str("*")?,
            Some((address, length)) => {
                let brackets = address.is_ipv6() && self.port.is_some();
                if brackets {
                    write!(f, "[{address}]")?
                } else {
                    write!(f, "{address}")?
                }
                if length != bits(address).1 {
                    write!(f, "/{length}")?;
                }
            }
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// A service of the host that is spoken to by a unix socket: an entry of `sockets`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// MariaDB or MySQL.
    Mysql,
    /// PostgreSQL.
    Postgresql,
    /// Redis or Valkey; it asks nobody who he is unless it is told to.
    Redis,
    /// memcached, which asks nobody who he is.
    Memcached,
}

impl Service {
    /// Those that ask every client who he is, and that a pool therefore has unless its file says otherwise.
    pub const DATABASES: [Self; 2] = [Self::Mysql, Self::Postgresql];

    /// Its word in a pool file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mysql => "mysql",
            Self::Postgresql => "postgresql",
            Self::Redis => "redis",
            Self::Memcached => "memcached",
        }
    }

    /// The directory of its socket, as distributions have it and as its clients look for it.
    ///
    /// The directory, not the socket: a service that is started again makes a new socket.
    pub fn directory(self) -> &'static Path {
        Path::new(match self {
            Self::Mysql => "/run/mysqld",
            Self::Postgresql => "/run/postgresql",
            Self::Redis => "/run/redis",
            Self::Memcached => "/run/memcached",
        })
    }
}

impl FromStr for Service {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let all = [Self::Mysql, Self::Postgresql, Self::Redis, Self::Memcached];
        all.into_iter().find(|one| one.as_str() == text).ok_or_else(|| {
            Invalid::new(format!(
                "{text:?} is none of mysql, postgresql, redis, memcached: for another socket's directory write a [[mount]]"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_says_what_it_was_told() {
        for text in [
            "203.0.113.0/24",
            "203.0.113.5:443",
            "203.0.113.5",
            "203.0.113.0/24:443",
            "*:443",
            "0.0.0.0/0",
            "2001:db8::/32",
            "[2001:db8::]/32:443",
            "[2001:db8::1]:443",
            "2001:db8::1",
            "10.1.2.3:3306",
        ] {
            assert_eq!(text.parse::<Destination>().unwrap().to_string(), text);
        }
        assert_eq!("[2001:db8::1]".parse::<Destination>().unwrap().to_string(), "2001:db8::1");
        assert_eq!("[2001:db8::]/32".parse::<Destination>().unwrap().to_string(), "2001:db8::/32");
    }

    #[test]
    fn a_destination_that_is_none_says_why() {
        for (text, part) in [
            ("api.example.org:443", "is a name"),
            ("203.0.113.5/24", "203.0.113.0/24: write one or the other"),
            ("203.0.113.0/33", "a number up to 32"),
            ("203.0.113.5:0", "no port"),
            ("203.0.113.5:http", "no port"),
            ("*", "everything"),
            ("", "no destination"),
            ("[2001:db8::1", "not closed"),
            ("[2001:db8::1]443", "prefix"),
            ("127.0.0.1:80", "loopback"),
            ("169.254.169.254", "metadata"),
            ("[::1]:80", "loopback"),
            ("[::ffff:127.0.0.1]:80", "clothes"),
            ("fe80::/10", "link-local"),
            ("203.0.113.0/24/24", "a number"),
        ] {
            let error = text.parse::<Destination>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn landlock_names_ports_only_where_every_destination_has_one() {
        let network = |allow: &[&str], dns| {
            Network::Outbound(Outbound { allow: allow.iter().map(|one| one.parse().unwrap()).collect(), dns })
        };
        assert_eq!(network(&["*:443", "10.0.0.1:25"], true).ports().connect, Some(vec![25, 53, 443]));
        assert_eq!(network(&["*:443", "*:443"], false).ports().connect, Some(vec![443]));
        assert_eq!(network(&["*:443", "10.0.0.1"], true).ports().connect, None);
        assert_eq!(network(&[], true).ports().connect, None);
    }
}
