//! The options of a listening socket as they were before any tenant held it,
//! and how to have them back. They live in the socket that all copies share, and
//! most are handed on to every connection that is accepted from it.
//!
//! `docs/sockets.md` tells what each of them does to those who come later. The
//! list is every option that a process without a capability can set on a
//! listener and the kernel tells again; what it does not tell (TCP_MD5SIG) is
//! looked for in another place.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;

use crate::sys;

/// One option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SocketOption {
    level: i32,
    number: i32,
    /// Its name in the manual pages.
    pub(super) name: &'static str,
}

const fn option(level: i32, number: i32, name: &'static str) -> SocketOption {
    SocketOption { level, number, name }
}

const SOCKET: i32 = libc::SOL_SOCKET;
const TCP: i32 = libc::IPPROTO_TCP;
const IP: i32 = libc::IPPROTO_IP;
const IPV6: i32 = libc::IPPROTO_IPV6;

/// By number where libc has no name; the kernel never changes them. What a
/// kernel or a family does not know is left out when it is read.
const OPTIONS: [SocketOption; 93] = [
    option(SOCKET, libc::SO_REUSEADDR, "SO_REUSEADDR"),
    option(SOCKET, libc::SO_DONTROUTE, "SO_DONTROUTE"),
    option(SOCKET, libc::SO_BROADCAST, "SO_BROADCAST"),
    option(SOCKET, libc::SO_SNDBUF, "SO_SNDBUF"),
    option(SOCKET, libc::SO_RCVBUF, "SO_RCVBUF"),
    // After the two, which set it.
    option(SOCKET, 72, "SO_BUF_LOCK"),
    option(SOCKET, libc::SO_KEEPALIVE, "SO_KEEPALIVE"),
    option(SOCKET, libc::SO_OOBINLINE, "SO_OOBINLINE"),
    option(SOCKET, libc::SO_NO_CHECK, "SO_NO_CHECK"),
    option(SOCKET, libc::SO_PRIORITY, "SO_PRIORITY"),
    option(SOCKET, libc::SO_LINGER, "SO_LINGER"),
    option(SOCKET, libc::SO_REUSEPORT, "SO_REUSEPORT"),
    option(SOCKET, libc::SO_PASSCRED, "SO_PASSCRED"),
    option(SOCKET, libc::SO_RCVLOWAT, "SO_RCVLOWAT"),
    option(SOCKET, libc::SO_RCVTIMEO, "SO_RCVTIMEO"),
    option(SOCKET, libc::SO_SNDTIMEO, "SO_SNDTIMEO"),
    option(SOCKET, libc::SO_TIMESTAMP, "SO_TIMESTAMP"),
    option(SOCKET, libc::SO_PASSSEC, "SO_PASSSEC"),
    option(SOCKET, libc::SO_TIMESTAMPNS, "SO_TIMESTAMPNS"),
    option(SOCKET, libc::SO_MARK, "SO_MARK"),
    option(SOCKET, libc::SO_TIMESTAMPING, "SO_TIMESTAMPING"),
    option(SOCKET, libc::SO_RXQ_OVFL, "SO_RXQ_OVFL"),
    option(SOCKET, libc::SO_WIFI_STATUS, "SO_WIFI_STATUS"),
    option(SOCKET, libc::SO_PEEK_OFF, "SO_PEEK_OFF"),
    option(SOCKET, libc::SO_NOFCS, "SO_NOFCS"),
    option(SOCKET, libc::SO_LOCK_FILTER, "SO_LOCK_FILTER"),
    option(SOCKET, libc::SO_SELECT_ERR_QUEUE, "SO_SELECT_ERR_QUEUE"),
    option(SOCKET, libc::SO_BUSY_POLL, "SO_BUSY_POLL"),
    option(SOCKET, libc::SO_MAX_PACING_RATE, "SO_MAX_PACING_RATE"),
    option(SOCKET, libc::SO_INCOMING_CPU, "SO_INCOMING_CPU"),
    option(SOCKET, 60, "SO_ZEROCOPY"),
    option(SOCKET, 61, "SO_TXTIME"),
    option(SOCKET, 62, "SO_BINDTODEVICE"), // by SO_BINDTOIFINDEX, which has the index for a value
    option(SOCKET, 63, "SO_TIMESTAMP_NEW"),
    option(SOCKET, 69, "SO_PREFER_BUSY_POLL"),
    option(SOCKET, 73, "SO_RESERVE_MEM"),
    option(SOCKET, 74, "SO_TXREHASH"),
    option(SOCKET, 75, "SO_RCVMARK"),
    option(SOCKET, 76, "SO_PASSPIDFD"),
    option(SOCKET, 82, "SO_RCVPRIORITY"),
    option(SOCKET, 83, "SO_PASSRIGHTS"),
    option(TCP, libc::TCP_NODELAY, "TCP_NODELAY"),
    option(TCP, libc::TCP_MAXSEG, "TCP_MAXSEG"),
    option(TCP, libc::TCP_CORK, "TCP_CORK"),
    option(TCP, libc::TCP_KEEPIDLE, "TCP_KEEPIDLE"),
    option(TCP, libc::TCP_KEEPINTVL, "TCP_KEEPINTVL"),
    option(TCP, libc::TCP_KEEPCNT, "TCP_KEEPCNT"),
    option(TCP, libc::TCP_SYNCNT, "TCP_SYNCNT"),
    option(TCP, libc::TCP_LINGER2, "TCP_LINGER2"),
    option(TCP, libc::TCP_DEFER_ACCEPT, "TCP_DEFER_ACCEPT"),
    option(TCP, libc::TCP_WINDOW_CLAMP, "TCP_WINDOW_CLAMP"),
    option(TCP, libc::TCP_QUICKACK, "TCP_QUICKACK"),
    option(TCP, libc::TCP_CONGESTION, "TCP_CONGESTION"),
    option(TCP, libc::TCP_THIN_LINEAR_TIMEOUTS, "TCP_THIN_LINEAR_TIMEOUTS"),
    option(TCP, libc::TCP_USER_TIMEOUT, "TCP_USER_TIMEOUT"),
    option(TCP, libc::TCP_FASTOPEN, "TCP_FASTOPEN"),
    option(TCP, 25, "TCP_NOTSENT_LOWAT"),
    option(TCP, 27, "TCP_SAVE_SYN"),
    option(TCP, 34, "TCP_FASTOPEN_NO_COOKIE"),
    option(TCP, 36, "TCP_INQ"),
    option(TCP, 37, "TCP_TX_DELAY"),
    option(TCP, 44, "TCP_RTO_MAX_MS"),
    option(IP, libc::IP_TOS, "IP_TOS"),
    option(IP, libc::IP_TTL, "IP_TTL"),
    option(IP, libc::IP_OPTIONS, "IP_OPTIONS"),
    option(IP, libc::IP_RECVOPTS, "IP_RECVOPTS"),
    option(IP, libc::IP_RETOPTS, "IP_RETOPTS"),
    option(IP, libc::IP_PKTINFO, "IP_PKTINFO"),
    option(IP, libc::IP_MTU_DISCOVER, "IP_MTU_DISCOVER"),
    option(IP, libc::IP_RECVERR, "IP_RECVERR"),
    option(IP, libc::IP_RECVTTL, "IP_RECVTTL"),
    option(IP, libc::IP_RECVTOS, "IP_RECVTOS"),
    option(IP, libc::IP_FREEBIND, "IP_FREEBIND"),
    option(IP, libc::IP_TRANSPARENT, "IP_TRANSPARENT"),
    option(IP, 21, "IP_MINTTL"),
    option(IP, 24, "IP_BIND_ADDRESS_NO_PORT"),
    option(IP, 50, "IP_UNICAST_IF"),
    option(IP, 51, "IP_LOCAL_PORT_RANGE"),
    option(IPV6, libc::IPV6_UNICAST_HOPS, "IPV6_UNICAST_HOPS"),
    option(IPV6, libc::IPV6_MTU_DISCOVER, "IPV6_MTU_DISCOVER"),
    option(IPV6, libc::IPV6_RECVERR, "IPV6_RECVERR"),
    option(IPV6, libc::IPV6_V6ONLY, "IPV6_V6ONLY"),
    option(IPV6, 33, "IPV6_FLOWINFO_SEND"),
    option(IPV6, libc::IPV6_RECVPKTINFO, "IPV6_RECVPKTINFO"),
    option(IPV6, libc::IPV6_DONTFRAG, "IPV6_DONTFRAG"),
    option(IPV6, 66, "IPV6_RECVTCLASS"),
    option(IPV6, libc::IPV6_TCLASS, "IPV6_TCLASS"),
    option(IPV6, 70, "IPV6_AUTOFLOWLABEL"),
    option(IPV6, 72, "IPV6_ADDR_PREFERENCES"),
    option(IPV6, 73, "IPV6_MINHOPCOUNT"),
    option(IPV6, 75, "IPV6_TRANSPARENT"),
    option(IPV6, 76, "IPV6_UNICAST_IF"),
    option(IPV6, 78, "IPV6_FREEBIND"),
];

/// The longest value is that of IP_OPTIONS, 40 bytes.
const LONGEST: usize = 64;
/// What a snapshot says of an option that could not be read.
const UNKNOWN: u8 = u8::MAX;

/// The values of a socket's options, one after the other: a length and that many
/// bytes. Every pool has such a one: a few hundred bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Snapshot(Box<[u8]>);

impl Snapshot {
    /// Reads all of them.
    pub(super) fn of(socket: BorrowedFd<'_>) -> Self {
        let mut all = Vec::with_capacity(512);
        // A unix socket knows those of its own level alone, IPv4 none of IPv6's.
        let unknown = |level| {
            let first = OPTIONS.iter().find(|option| option.level == level);
            first.is_none_or(|option| option.read(socket, &mut [0; LONGEST]).is_err())
        };
        let unknown = [TCP, IP, IPV6].map(|level| (level, unknown(level)));
        for option in &OPTIONS {
            let mut value = [0; LONGEST];
            if unknown.contains(&(option.level, true)) {
                break;
            }
            match option.read(socket, &mut value) {
                Ok(value) => {
                    all.push(value.len() as u8);
                    all.extend(value);
                }
                Err(_) => all.push(UNKNOWN),
            }
        }
        Self(all.into())
    }

    /// Each option with its value.
    fn values(&self) -> impl Iterator<Item = (SocketOption, &[u8])> {
        let mut rest = &self.0[..];
        OPTIONS.into_iter().filter_map(move |option| {
            let (length, after) = rest.split_first()?;
            let known = *length != UNKNOWN;
            let (value, after) = after.split_at(if known { usize::from(*length) } else { 0 });
            rest = after;
            known.then_some((option, value))
        })
    }

    /// The options of `socket` that have another value now.
    pub(super) fn changed(&self, socket: BorrowedFd<'_>) -> Vec<SocketOption> {
        let differs = |(option, before): &(SocketOption, &[u8])| {
            let mut value = [0; LONGEST];
            option.read(socket, &mut value).is_ok_and(|now| now != *before)
        };
        self.values().filter(differs).map(|(option, _)| option).collect()
    }

    /// Gives those that have another value now the old one, as far as the kernel
    /// allows; [`Snapshot::changed`] tells what that did.
    pub(super) fn restore(&self, socket: BorrowedFd<'_>) {
        let changed = self.changed(socket);
        for (option, value) in self.values().filter(|(option, _)| changed.contains(option)) {
            let _ = option.write(socket, value);
        }
    }
}

impl SocketOption {
    fn read<'a>(&self, socket: BorrowedFd<'_>, value: &'a mut [u8; LONGEST]) -> Result<&'a [u8], Errno> {
        let length = sys::socket_option(socket, self.level, self.number, value)?;
        Ok(&value[..length])
    }

    fn write(&self, socket: BorrowedFd<'_>, value: &[u8]) -> Result<(), Errno> {
        let force = match (self.level, self.number) {
            (SOCKET, libc::SO_SNDBUF) => libc::SO_SNDBUFFORCE,
            (SOCKET, libc::SO_RCVBUF) => libc::SO_RCVBUFFORCE,
            _ => return sys::set_socket_option(socket, self.level, self.number, value),
        };
        // The kernel tells twice what it was told (socket(7)).
        let half = <[u8; 4]>::try_from(value).map(|bytes| i32::from_ne_bytes(bytes) / 2);
        let half = half.map_err(|_| Errno::EINVAL)?.to_ne_bytes();
        sys::set_socket_option(socket, SOCKET, force, &half)
            .or_else(|_| sys::set_socket_option(socket, SOCKET, self.number, &half))
    }
}
