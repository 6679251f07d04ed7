//! `[network] mode = "outbound"`: the rules that the packet filter gets, and the
//! words that nft(8) and pasta(1) are called with. What they are for and why is in
//! `docs/network.md`.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::config::network::{Outbound, RESOLVER_V4, RESOLVER_V6};
use crate::sandbox::uplink::Programs;
use crate::sys;

/// Why there is no way out; one line each.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// A program is not installed.
    #[error(
        "network mode \"outbound\" needs {program}, which is not in {}: install it (Debian: apt-get install {package})",
        PLACES.join(", ")
    )]
    Missing {
        /// Its name.
        program: &'static str,
        /// Debian's package.
        package: &'static str,
    },
    /// Without root.
    #[error("network mode \"outbound\" needs root: run howdah as root, or write mode = \"none\" or \"host\"")]
    NotRoot,
    /// `/dev/net/tun`
    #[error("network mode \"outbound\" needs /dev/net/tun, which {0}")]
    NoTun(String),
    /// No default route.
    #[error(
        "network mode \"outbound\" needs a default route, and this host has none: connect it, or write mode = \"none\""
    )]
    NoRoute,
    /// The host's own addresses cannot be read.
    #[error("network mode \"outbound\": the host's own addresses cannot be read: {0}")]
    NoAddresses(nix::errno::Errno),
    /// A sysctl of the network, over which a pool with a way out has no right.
    #[error(
        "network mode \"outbound\": the profile {profile} sets {key} in the pool's network, which a pool with a way out \
         may not change: take it out of [sysctl]"
    )]
    Sysctl {
        /// The profile's name.
        profile: Box<str>,
        /// The setting.
        key: String,
    },
    /// The profile leaves the pool in the host's network.
    #[error(
        "network mode \"outbound\" needs a network namespace, and the profile {0} shares the host's: take \"network\" out of its share"
    )]
    Shared(Box<str>),
}

/// Where programs are looked for: not in $PATH, which is whoever's started howdah.
const PLACES: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Of each family: the pool's address, and those that pasta answers at as its gateway. From
/// 192.0.0.0/29 (RFC 7335) and a network of our own (RFC 4193), which no host is in.
const V4: [&str; 2] = ["192.0.0.2", "192.0.0.1"];
const V6: [&str; 2] = ["fd68:6f77:6461:6800::2", "fd68:6f77:6461:6800::1"];

/// Never reached, whatever is allowed: no address of another machine on the Internet, or the
/// address at which a cloud tells its machines their secrets.
const NEVER_V4: &str =
    "0.0.0.0/8, 100.100.100.200, 127.0.0.0/8, 168.63.129.16, 169.254.0.0/16, 192.0.0.0/24, 224.0.0.0/3";
const NEVER_V6: &str = "::/96, ::ffff:0:0/96, 64:ff9b::7f00:0/104, 64:ff9b::a9fe:0/112, 2002::/16, \
     fd00:ec2::254, fd20:ce::254, fd68:6f77:6461:6800::/64, fe80::/10, fec0::/10, ff00::/8";
/// Reached only where `allow` names them: private networks, also behind NAT64 (RFC 6052).
const PRIVATE_V4: &str = "10.0.0.0/8, 100.64.0.0/10, 172.16.0.0/12, 192.168.0.0/16";
const PRIVATE_V6: &str =
    "64:ff9b::a00:0/104, 64:ff9b::6440:0/106, 64:ff9b::ac10:0/108, 64:ff9b::c0a8:0/112, fc00::/7";

/// The programs that make the way out of `outbound`, as this host is now.
///
/// # Errors
/// What is missing.
pub fn programs(outbound: &Outbound) -> Result<Programs, OutboundError> {
    let nft = find("nft", "nftables")?;
    let pasta = find("pasta", "passt")?;
    check_tun()?;
    let (v4, v6) = default_routes();
    if !v4 && !v6 {
        return Err(OutboundError::NoRoute);
    }
    let hosts = host_addresses().map_err(OutboundError::NoAddresses)?;
    Ok(Programs {
        filter: words([nft.to_string_lossy().as_ref(), "-f", "-"]),
        rules: rules(outbound, &hosts),
        carrier: words(carrier(&pasta.to_string_lossy(), outbound, v4, v6).iter().map(String::as_str)),
    })
}

fn words<'a>(list: impl IntoIterator<Item = &'a str>) -> Vec<CString> {
    list.into_iter().filter_map(|word| CString::new(word).ok()).collect()
}

/// Where a program is.
pub fn find(program: &'static str, package: &'static str) -> Result<PathBuf, OutboundError> {
    let executable = |path: &PathBuf| {
        fs::metadata(path).is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
    };
    PLACES
        .iter()
        .map(|place| Path::new(place).join(program))
        .find(executable)
        .ok_or(OutboundError::Missing { program, package })
}

/// pasta opens it as the pool's account.
fn check_tun() -> Result<(), OutboundError> {
    match fs::metadata("/dev/net/tun") {
        Err(error) => Err(OutboundError::NoTun(format!(
            "cannot be looked at: {}: load the module (modprobe tun)",
            sys::told(&error)
        ))),
        Ok(data) if data.permissions().mode() & 0o006 != 0o006 => {
            Err(OutboundError::NoTun("not every account may open: chmod 666 /dev/net/tun".to_owned()))
        }
        Ok(_) => Ok(()),
    }
}

/// Whether the host has a default route, by family (proc_net(5)).
fn default_routes() -> (bool, bool) {
    let v4 = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let v6 = fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default();
    let v4 = v4.lines().skip(1).any(|line| {
        let field: Vec<&str> = line.split_whitespace().collect();
        field.get(1) == Some(&"00000000") && field.get(7) == Some(&"00000000")
    });
    let v6 = v6.lines().any(|line| {
        let field: Vec<&str> = line.split_whitespace().collect();
        let zero = |at: usize| field.get(at).is_some_and(|text| text.bytes().all(|byte| byte == b'0'));
        zero(0) && zero(1) && field.last() != Some(&"lo")
    });
    (v4, v6)
}

/// The addresses of this host's interfaces, also of those that are down.
///
/// # Errors
/// That of getifaddrs(3).
pub fn host_addresses() -> nix::Result<BTreeSet<IpAddr>> {
    let address = |one: nix::ifaddrs::InterfaceAddress| {
        let address = one.address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    };
    Ok(nix::ifaddrs::getifaddrs()?.filter_map(address).collect())
}

/// How pasta is called. Every forwarding into the namespace and out of it to the host's
/// loopback is off; what it is told must mean the same to the pasta of 2023 and to today's.
fn carrier(pasta: &str, outbound: &Outbound, v4: bool, v6: bool) -> Vec<String> {
    let mut line: Vec<&str> = vec![pasta, "--foreground", "--quiet", "--config-net", "--ns-ifname", "out0"];
    line.extend([
        "--netns",
        "/proc/self/fd/0",
        "--netns-only",
        "--no-netns-quit",
        "--pid",
        "/proc/self/fd/1",
    ]);
    line.extend(["-t", "none", "-u", "none", "-T", "none", "-U", "none", "--no-map-gw"]);
    line.extend(["--no-dhcp", "--no-dhcpv6", "--no-ra"]);
    let (resolver_v4, resolver_v6) = (RESOLVER_V4.to_string(), RESOLVER_V6.to_string());
    if v4 {
        line.extend(["--address", V4[0], "--netmask", "29", "--gateway", V4[1]]);
        line.extend(outbound.dns.then_some(["--dns-forward", &resolver_v4]).into_iter().flatten());
    } else {
        line.push("--ipv6-only");
    }
    if v6 {
        line.extend(["--address", V6[0], "--gateway", V6[1]]);
        line.extend(outbound.dns.then_some(["--dns-forward", &resolver_v6]).into_iter().flatten());
    } else {
        line.push("--ipv4-only");
    }
    line.into_iter().map(str::to_owned).collect()
}

/// The packet filter of a pool on a host with these addresses. The first rule that fits a packet counts.
pub fn rules(outbound: &Outbound, hosts: &BTreeSet<IpAddr>) -> String {
    let mut text = String::new();
    // One transaction (nft(8)): a table that is there is replaced, and at no moment is there none.
    text.push_str("table inet howdah\ndelete table inet howdah\ntable inet howdah {\n chain output {\n");
    let mut line = |words: &str| {
        let _ = writeln!(text, "  {words}");
    };
    line("type filter hook output priority 0; policy drop;");
    line("oifname \"lo\" accept");
    // Finding the gateway; without it there is no IPv6 (RFC 4861).
    line("icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept");
    if outbound.dns {
        line(&format!("ip daddr {RESOLVER_V4} meta l4proto {{ tcp, udp }} th dport 53 accept"));
        line(&format!("ip6 daddr {RESOLVER_V6} meta l4proto {{ tcp, udp }} th dport 53 accept"));
    }
    let refuse = "reject with icmpx admin-prohibited";
    for host in hosts {
        let family = if host.is_ipv4() { "ip" } else { "ip6" };
        line(&format!("{family} daddr {host} {refuse}"));
    }
    line(&format!("ip daddr {{ {NEVER_V4} }} {refuse}"));
    line(&format!("ip6 daddr {{ {NEVER_V6} }} {refuse}"));
    let port = |port: Option<u16>| {
        port.map(|port| format!("meta l4proto {{ tcp, udp }} th dport {port} ")).unwrap_or_default()
    };
    for one in &outbound.allow {
        if let Some((address, length)) = one.network {
            let family = if address.is_ipv4() { "ip" } else { "ip6" };
            line(&format!("{family} daddr {address}/{length} {}accept", port(one.port)));
        }
    }
    line(&format!("ip daddr {{ {PRIVATE_V4} }} {refuse}"));
    line(&format!("ip6 daddr {{ {PRIVATE_V6} }} {refuse}"));
    for one in outbound.allow.iter().filter(|one| one.network.is_none()) {
        line(&format!("{}accept", port(one.port)));
    }
    line(if outbound.allow.is_empty() { "accept" } else { refuse });
    text.push_str(" }\n}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outbound(allow: &[&str]) -> Outbound {
        Outbound { allow: allow.iter().map(|one| one.parse().unwrap()).collect(), dns: true }
    }

    #[test]
    fn what_is_never_reached_stands_before_what_is_allowed_and_private_networks_between() {
        let hosts = BTreeSet::from(["10.1.2.3".parse().unwrap(), "2001:db8::5".parse().unwrap()]);
        let text = rules(&outbound(&["10.0.0.0/8:3306", "*:443"]), &hosts);
        let place = |part: &str| text.find(part).unwrap_or_else(|| panic!("{part} in {text}"));
        let order = [
            place("ip daddr 192.0.0.3"),
            place("ip daddr 10.1.2.3 reject"),
            place("ip6 daddr 2001:db8::5 reject"),
            place("169.254.0.0/16"),
            place("ip daddr 10.0.0.0/8 meta l4proto { tcp, udp } th dport 3306 accept"),
            place("192.168.0.0/16"),
            place("  meta l4proto { tcp, udp } th dport 443 accept"),
            place("  reject"),
        ];
        assert!(order.is_sorted(), "{order:?}\n{text}");
    }

    #[test]
    fn without_a_list_the_internet_is_allowed_and_only_at_the_end() {
        let text = rules(&outbound(&[]), &BTreeSet::new());
        assert_eq!(text.lines().rev().nth(2), Some("  accept"));
        let text = rules(&Outbound { allow: Vec::new(), dns: false }, &BTreeSet::new());
        assert!(!text.contains("dport"), "{text}");
    }

    #[test]
    fn pasta_is_told_to_forward_nothing_inward_and_nothing_to_loopback() {
        let line = carrier("/usr/bin/pasta", &outbound(&[]), true, false).join(" ");
        assert!(line.contains("-t none -u none -T none -U none --no-map-gw"), "{line}");
        assert!(line.contains("--dns-forward 192.0.0.3") && line.ends_with("--ipv4-only"), "{line}");
    }
}
