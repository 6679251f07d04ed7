//! Sockets that systemd passes: sd_listen_fds(3), in its own words `LISTEN_PID`,
//! `LISTEN_FDS` and `LISTEN_FDNAMES`.

use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};

use libsystemd::activation::{receive_descriptors, receive_descriptors_with_names};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt};

use super::error::{ActivationError, Passed};
use crate::config::types::Listen;
use crate::sys;

/// A listening stream socket that was passed, not yet a pool's.
#[derive(Debug)]
pub struct Inherited {
    pub(super) passed: Passed,
    pub(super) address: Listen,
    pub(super) fd: OwnedFd,
}

impl Inherited {
    /// Its number at start, name and address, for messages.
    pub fn passed(&self) -> &Passed {
        &self.passed
    }

    /// Where it listens.
    pub fn address(&self) -> &Listen {
        &self.address
    }
}

impl AsFd for Inherited {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The sockets that systemd passed to this process (sd_listen_fds(3)), each a
/// stream socket of AF_UNIX with a path, AF_INET or AF_INET6 that listens; the
/// first that is not is the error. They are close-on-exec and have new numbers;
/// the passed ones are closed, and the variables unset. No variables, or a
/// `LISTEN_PID` that is not ours, is an empty list: they are meant for another.
///
/// For the start of `serve`, before another thread runs.
pub fn inherited() -> Result<Vec<Inherited>, ActivationError> {
    let variable = |name| std::env::var_os(name);
    let announced = Announced::read(
        std::process::id(),
        variable("LISTEN_PID"),
        variable("LISTEN_FDS"),
        variable("LISTEN_FDNAMES"),
    )?;
    let failed = |error: libsystemd::errors::SdError| ActivationError::Environment {
        variable: "LISTEN_FDS",
        value: variable_text(&announced),
        reason: error.to_string(),
    };
    // With names missing receive_descriptors_with_names() would drop the sockets.
    let descriptors: Vec<(RawFd, Option<String>)> = if announced.as_ref().is_some_and(|it| it.named) {
        let named = receive_descriptors_with_names(true).map_err(failed)?;
        named.into_iter().map(|(fd, name)| (fd.into_raw_fd(), Some(name))).collect()
    } else {
        let unnamed = receive_descriptors(true).map_err(failed)?;
        unnamed.into_iter().map(|fd| (fd.into_raw_fd(), None)).collect()
    };
    descriptors.into_iter().map(|(number, name)| take(number, name)).collect()
}

/// What the variables announce to us, checked before the library reads them:
/// it reserves memory for as many descriptors as `LISTEN_FDS` says, and drops
/// sockets for which there is no name.
#[derive(Debug, PartialEq, Eq)]
struct Announced {
    count: usize,
    named: bool,
}

/// fs.nr_open as Linux has it unless the administrator raised it (proc(5)).
const MOST_DESCRIPTORS: usize = 1_048_576;

impl Announced {
    fn read(
        own_pid: u32,
        pid: Option<OsString>,
        fds: Option<OsString>,
        names: Option<OsString>,
    ) -> Result<Option<Self>, ActivationError> {
        let (Some(pid), Some(fds)) = (pid, fds) else { return Ok(None) };
        let number = text(&pid).and_then(|text| text.parse::<u32>().ok());
        match number {
            None => return Err(garbage("LISTEN_PID", &pid, "no process id")),
            Some(number) if number != own_pid => return Ok(None),
            Some(_) => {}
        }
        let count = text(&fds)
            .and_then(|text| text.parse::<usize>().ok())
            .filter(|count| *count <= MOST_DESCRIPTORS)
            .ok_or_else(|| garbage("LISTEN_FDS", &fds, "no number of descriptors"))?;
        let Some(names) = names.filter(|_| count > 0) else {
            return Ok(Some(Self { count, named: false }));
        };
        let given = text(&names)
            .map(|text| text.split(':').count())
            .ok_or_else(|| garbage("LISTEN_FDNAMES", &names, "no text in UTF-8"))?;
        if given != count {
            let reason = format!("{given} names for {count} descriptors");
            return Err(garbage("LISTEN_FDNAMES", &names, reason));
        }
        Ok(Some(Self { count, named: true }))
    }
}

fn variable_text(announced: &Option<Announced>) -> String {
    announced.as_ref().map_or_else(String::new, |it| it.count.to_string())
}

fn text(value: &OsStr) -> Option<&str> {
    value.to_str()
}

fn garbage(variable: &'static str, value: &OsStr, reason: impl Into<String>) -> ActivationError {
    let value = value.to_string_lossy().into_owned();
    ActivationError::Environment { variable, value, reason: reason.into() }
}

/// Makes the passed descriptor ours and looks at it.
fn take(number: RawFd, name: Option<String>) -> Result<Inherited, ActivationError> {
    let unknown = Passed { number, name: name.clone(), address: None };
    let fd = sys::duplicate(number).map_err(|errno| ActivationError::step("take passed", &unknown, errno))?;
    // The number was the library's and is now nobody's.
    let _ = nix::unistd::close(number);
    let local = getsockname::<SockaddrStorage>(fd.as_raw_fd());
    let passed = Passed { address: local.as_ref().ok().and_then(address_text), ..unknown };
    match examine(&fd, local) {
        Ok(address) => Ok(Inherited { passed, address, fd }),
        Err(reason) => Err(ActivationError::Passed { passed, reason }),
    }
}

/// Where `fd` listens, or why no pool can use it.
pub(super) fn examine(fd: &OwnedFd, local: Result<SockaddrStorage, Errno>) -> Result<Listen, String> {
    let kind = getsockopt(fd, sockopt::SockType);
    if kind == Err(Errno::ENOTSOCK) {
        return Err("it is no socket: remove it from the unit that starts howdah".into());
    }
    let local_is_ip = local.as_ref().is_ok_and(|local| ip_of(local).is_some());
    let listen = match local {
        Ok(local) => listen_of(&local)?,
        Err(_) => Err(OTHER_FAMILY.to_owned())?,
    };
    match kind {
        Ok(SockType::Stream) => {}
        Ok(SockType::Datagram) => {
            return Err("it is a datagram socket: write ListenStream= instead of ListenDatagram=".into());
        }
        Ok(SockType::SeqPacket) => {
            return Err(
                "it is a packet socket: write ListenStream= instead of ListenSequentialPacket=".into()
            );
        }
        _ => return Err("it is no stream socket: write ListenStream=".into()),
    }
    if local_is_ip && protocol(fd) != Ok(libc::IPPROTO_TCP) {
        return Err(OTHER_PROTOCOL.into());
    }
    match getsockopt(fd, sockopt::AcceptConn) {
        Ok(true) => listen.ok_or_else(|| OTHER_FAMILY.into()),
        _ => Err("it does not listen: write Accept=no in its socket unit".into()),
    }
}

const OTHER_FAMILY: &str = "it is neither a unix nor an IPv4 or IPv6 socket: \
    write a path or an IP address and a port after ListenStream=";

/// Of other protocols' sockets Landlock holds neither bind nor connect (landlock(7)), and a
/// pool's listener is one of the host's network.
const OTHER_PROTOCOL: &str = "its protocol is not TCP, and nothing would hold the pool's use of it: \
    take SocketProtocol= out of its socket unit";

/// SO_PROTOCOL, socket(7).
fn protocol(fd: &OwnedFd) -> nix::Result<i32> {
    let mut value = [0; size_of::<i32>()];
    sys::socket_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_PROTOCOL, &mut value)?;
    Ok(i32::from_ne_bytes(value))
}

/// A local address as a pool file would write it; `None` for one that has no
/// such form because the socket is bound to nothing.
fn listen_of(local: &SockaddrStorage) -> Result<Option<Listen>, String> {
    if let Some(unix) = local.as_unix_addr() {
        return match unix.path() {
            Some(path) => {
                let text = path.to_str().ok_or("its path is not UTF-8: choose another")?;
                if !text.starts_with('/') {
                    return Err("its path is relative: choose an absolute one".into());
                }
                text.parse().map(Some).map_err(|invalid| format!("{invalid}"))
            }
            None if unix.as_abstract().is_some() => Err("it is in the abstract namespace, \
                 where no owner and no mode protect it: write a path after ListenStream="
                .into()),
            None => Ok(None),
        };
    }
    ip_of(local).map(|address| Some(Listen::Tcp(address))).ok_or_else(|| OTHER_FAMILY.into())
}

/// Without flow information, which is no part of a listening address.
fn ip_of(local: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = local.as_sockaddr_in() {
        return Some(SocketAddr::from((v4.ip(), v4.port())));
    }
    let v6 = local.as_sockaddr_in6()?;
    Some(std::net::SocketAddrV6::new(v6.ip(), v6.port(), 0, v6.scope_id()).into())
}

fn address_text(local: &SockaddrStorage) -> Option<String> {
    if let Some(unix) = local.as_unix_addr() {
        let name = unix.as_abstract().map(|name| format!("@{}", String::from_utf8_lossy(name)));
        return unix.path().map(|path| path.display().to_string()).or(name);
    }
    let family = || local.family().map(|family| format!("{family:?}"));
    ip_of(local).map(|address| address.to_string()).or_else(family)
}

/// Closes every descriptor above 2 that is not in `keep` (close_range(2)):
/// what the parent forgot to close would otherwise live in howdah for ever.
///
/// For the start of `serve`, right after [`inherited`]: no value of this
/// process may own a descriptor that is not in `keep`.
pub fn close_other_descriptors(keep: &[BorrowedFd<'_>]) -> Result<(), ActivationError> {
    let numbers = keep.iter().map(|fd| fd.as_raw_fd().unsigned_abs()).collect();
    for (first, last) in gaps(numbers) {
        sys::close_range(first, last, false).map_err(|errno| {
            ActivationError::step("close_range", format!("{first} to {last}"), errno)
                .advise("howdah needs Linux 5.9")
        })?;
    }
    Ok(())
}

/// The ranges of numbers from 3 up that hold none of `kept`.
fn gaps(mut kept: Vec<u32>) -> Vec<(u32, u32)> {
    kept.sort_unstable();
    let mut ranges = Vec::new();
    let mut next = 3;
    for number in kept {
        if number > next {
            ranges.push((next, number - 1));
        }
        next = next.max(number + 1);
    }
    ranges.push((next, u32::MAX));
    ranges
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use proptest::prelude::*;

    use super::*;

    fn read(pid: &str, fds: &str, names: Option<&str>) -> Result<Option<Announced>, String> {
        Announced::read(7, Some(pid.into()), Some(fds.into()), names.map(OsString::from))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn what_systemd_writes_is_understood() {
        assert_eq!(read("7", "2", Some("a:b")), Ok(Some(Announced { count: 2, named: true })));
        assert_eq!(read("7", "2", None), Ok(Some(Announced { count: 2, named: false })));
        assert_eq!(read("7", "0", Some("")), Ok(Some(Announced { count: 0, named: false })));
        assert_eq!(read("8", "2", Some("a:b")), Ok(None), "meant for another process");
        assert_eq!(Announced::read(7, None, Some("x".into()), None), Ok(None));
    }

    #[test]
    fn garbage_is_named() {
        let rest = ": start howdah from a socket unit, or unset the variable";
        let line = |text: &str| Err(format!("{text}{rest}"));
        assert_eq!(read("seven", "1", None), line(r#"LISTEN_PID="seven": no process id"#));
        assert_eq!(read("7", "-1", None), line(r#"LISTEN_FDS="-1": no number of descriptors"#));
        let many = "99999999999999";
        assert_eq!(read("7", many, None), line(&format!("LISTEN_FDS={many:?}: no number of descriptors")));
        assert_eq!(read("7", "2", Some("a")), line(r#"LISTEN_FDNAMES="a": 1 names for 2 descriptors"#));
    }

    #[test]
    fn everything_but_the_kept_is_closed() {
        assert_eq!(gaps(vec![]), [(3, u32::MAX)]);
        assert_eq!(gaps(vec![0, 2]), [(3, u32::MAX)]);
        assert_eq!(gaps(vec![7, 3, 4, 7]), [(5, 6), (8, u32::MAX)]);
    }

    proptest! {
        #[test]
        fn no_variable_makes_it_panic_or_promise_too_much(
            own in prop_oneof![Just(None), Just(Some(b"7".to_vec())), any::<Option<Vec<u8>>>()],
            fds in prop_oneof!["[0-9]{1,20}".prop_map(String::into_bytes), any::<Vec<u8>>()],
            names in any::<Option<Vec<u8>>>(),
        ) {
            let os = OsString::from_vec;
            if let Ok(Some(it)) = Announced::read(7, own.map(os), Some(os(fds)), names.clone().map(os)) {
                prop_assert!(it.count <= MOST_DESCRIPTORS);
                let given = names.map_or(0, |names| names.split(|byte| *byte == b':').count());
                prop_assert!(!it.named || given == it.count);
            }
        }

        #[test]
        fn a_number_is_either_kept_or_in_one_gap(
            kept in prop::collection::vec(0u32..40, 0..20),
            number in 3u32..50,
        ) {
            let closed = gaps(kept.clone()).iter().filter(|(a, b)| (*a..=*b).contains(&number)).count();
            prop_assert_eq!(closed, usize::from(!kept.contains(&number)));
        }
    }
}
