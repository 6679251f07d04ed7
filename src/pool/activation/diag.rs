//! Whether a TCP listener demands signed segments: what the kernel tells to who
//! asks by sock_diag(7), and to nobody by getsockopt(2).

use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct inet_diag_msg`.
const MESSAGE: usize = 72;
/// The bit of the attributes with which the keys come.
const INET_DIAG_INFO: u8 = 1 << 1;
const INET_DIAG_MD5SIG: u16 = 18;
const TCP_LISTEN: u8 = 10;
/// Any socket with these marks, whatever its cookie.
const NO_COOKIE: [u8; 8] = [0xff; 8];

/// Whether keys of TCP_MD5SIG (tcp(7)) are on the listener at `address`, so that
/// every segment without a signature is dropped. The kernel tells it only to
/// CAP_NET_ADMIN; `false` where it does not, and where nothing listens.
pub(super) fn is_signed(address: SocketAddr) -> bool {
    let answer = exchange(&request(address)).unwrap_or_default();
    answer.get(1) == Some(&TCP_LISTEN)
        && answer.get(MESSAGE..).is_some_and(|rest| has_attribute(rest, INET_DIAG_MD5SIG))
}

/// `struct inet_diag_req_v2`.
fn request(address: SocketAddr) -> Vec<u8> {
    let (family, octets) = match address {
        SocketAddr::V4(v4) => (libc::AF_INET, v4.ip().octets().to_vec()),
        SocketAddr::V6(v6) => (libc::AF_INET6, v6.ip().octets().to_vec()),
    };
    let mut request = vec![family as u8, libc::IPPROTO_TCP as u8, INET_DIAG_INFO, 0];
    request.extend((1u32 << TCP_LISTEN).to_ne_bytes());
    request.extend(address.port().to_be_bytes());
    request.extend([0; 2]);
    request.extend(&octets);
    request.resize(48, 0); // the rest of the source, the destination, the interface
    request.extend(NO_COOKIE);
    request
}

/// The first answer to one request, without its header.
fn exchange(request: &[u8]) -> Option<Vec<u8>> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let link =
        socket(AddressFamily::Netlink, SockType::Datagram, flags, SockProtocol::NetlinkSockDiag).ok()?;
    let mut message = Vec::with_capacity(HEADER + request.len());
    message.extend(((HEADER + request.len()) as u32).to_ne_bytes());
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend(REQUEST.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(request);
    sendto(link.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty()).ok()?;
    // The kernel has answered when sendto returns.
    let mut answer = vec![0; 4096];
    let length = recv(link.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT).ok()?;
    answer.truncate(length.min(number(&answer, 0)? as usize));
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    (kind == SOCK_DIAG_BY_FAMILY).then(|| answer.split_off(HEADER.min(answer.len())))
}

/// Whether one of the attributes (netlink(7)) is of this type.
fn has_attribute(mut all: &[u8], wanted: u16) -> bool {
    while all.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([all[0], all[1]]));
        if u16::from_ne_bytes([all[2], all[3]]) == wanted {
            return true;
        }
        all = all.get(length.max(4).next_multiple_of(4)..).unwrap_or_default();
    }
    false
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}
