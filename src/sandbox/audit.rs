//! What the kernel's audit tells of walls: the system call that a seccomp filter
//! refused, the path that Landlock did. audit(7) by its multicast group, which
//! needs CAP_AUDIT_READ in the first user namespace and no auditd; records of
//! seccomp come also where audit is off, those of Landlock (Linux 6.15) only
//! where it is on.
//!
//! The socket has a filter of its own, so that no other record of the machine
//! wakes anybody.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};

use super::seccomp;
use crate::sys;

/// AUDIT_SECCOMP, AUDIT_LANDLOCK_ACCESS and AUDIT_LANDLOCK_DOMAIN of linux/audit.h.
const SECCOMP: u16 = 1326;
const LANDLOCK_ACCESS: u16 = 1423;
const LANDLOCK_DOMAIN: u16 = 1424;
/// AUDIT_NLGRP_READLOG
const READLOG: u32 = 1;
/// The longest record: MAX_AUDIT_MESSAGE_LENGTH and its header.
const LONGEST: usize = 8970 + 16;

/// A record, of which only what is needed is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A filter answered with anything but "allow".
    Seccomp {
        /// The process, by the first pid namespace.
        pid: i32,
        /// Its user, by the first user namespace.
        uid: u32,
        /// The system call by name, or by number where this machine has none of it.
        syscall: String,
        /// Whether the process ended by it (SIGSYS), or the call only failed.
        ended: bool,
    },
    /// Landlock refused something in a domain.
    Landlock {
        /// The domain's number.
        domain: u64,
        /// What was asked for: "fs.write_file".
        blockers: String,
        /// On what; may be empty.
        path: String,
    },
    /// Who made a Landlock domain; comes with the first refusal in it.
    Domain {
        /// The domain's number.
        domain: u64,
        /// The process, by the first pid namespace.
        pid: i32,
    },
}

impl Record {
    /// A record from its type and its text: `audit(…): key=value key="value" …`.
    pub fn parse(kind: u16, text: &str) -> Option<Self> {
        match kind {
            SECCOMP => {
                let number = field(text, "syscall")?.parse().ok()?;
                let signal: u32 = field(text, "sig")?.parse().ok()?;
                Some(Self::Seccomp {
                    pid: field(text, "pid")?.parse().ok()?,
                    uid: field(text, "uid")?.parse().ok()?,
                    syscall: syscall(field(text, "arch")?, number),
                    ended: signal != 0,
                })
            }
            LANDLOCK_ACCESS => Some(Self::Landlock {
                domain: u64::from_str_radix(field(text, "domain")?, 16).ok()?,
                blockers: field(text, "blockers")?.to_owned(),
                path: field(text, "path").map(unhex).unwrap_or_default(),
            }),
            LANDLOCK_DOMAIN => Some(Self::Domain {
                domain: u64::from_str_radix(field(text, "domain")?, 16).ok()?,
                pid: field(text, "pid")?.parse().ok()?,
            }),
            _ => None,
        }
    }

    /// A record from a netlink message (netlink(7)): the type is at its bytes 4
    /// and 5, the text behind its header of 16 bytes.
    pub fn from_message(message: &[u8]) -> Option<Self> {
        let kind = u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?);
        let text = String::from_utf8_lossy(message.get(16..)?);
        Self::parse(kind, text.trim_end_matches(['\0', '\n']))
    }
}

/// The value of ` key=value`. A name that a process has chosen stands in quotes, or in
/// hexadecimal digits if it has a quote or a space in it: it cannot pass for a key.
fn field<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    let mut rest = text;
    while let Some((word, value)) = rest.trim_start_matches(' ').split_once('=') {
        let name = word.rsplit(' ').next().unwrap_or(word);
        let (value, tail) = match value.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => value.split_once(' ').unwrap_or((value, "")),
        };
        if name == key {
            return Some(value);
        }
        rest = tail;
    }
    None
}

/// A path as audit writes it: in quotes, which [`field`] took away, or in hexadecimal digits.
fn unhex(word: &str) -> String {
    let digits = |at: usize| word.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    if word.starts_with('/') || word.len() % 2 == 1 {
        return word.to_owned();
    }
    match (0..word.len() / 2).map(|at| digits(at * 2)).collect::<Option<Vec<u8>>>() {
        Some(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        None => word.to_owned(),
    }
}

/// The name of system call `number` of the architecture `arch` (AUDIT_ARCH_*, in
/// hexadecimal digits), if it is this machine's; else its number.
fn syscall(arch: &str, number: usize) -> String {
    let own = match std::env::consts::ARCH {
        "x86_64" => "c000003e",
        "aarch64" => "c00000b7",
        "riscv64" => "c00000f3",
        _ => "",
    };
    /// __X32_SYSCALL_BIT
    const X32: usize = 0x4000_0000;
    match u32::try_from(number).ok().and_then(seccomp::name) {
        Some(name) if arch == own => name.to_owned(),
        _ if arch == own && number & X32 != 0 => format!("{} of x32", number & !X32),
        _ if arch == "40000003" => format!("{number} of the 32-bit entry"),
        _ => format!("{number} of architecture {arch}"),
    }
}

/// The socket. Readable when there is a record.
pub struct Audit(OwnedFd);

impl Audit {
    /// Joins the group; `None` where that is not allowed or there is no audit.
    pub fn open() -> Option<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkAudit).ok()?;
        sys::attach_filter(fd.as_fd(), &filter()).ok()?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 1 << (READLOG - 1))).ok()?;
        Some(Self(fd))
    }

    /// The next record; `None` when there is none any more. The kernel drops what
    /// nobody reads in time.
    pub fn next(&self) -> Option<Record> {
        let mut bytes = [0; LONGEST];
        // Bounded by what the socket's buffer holds.
        for _ in 0..1024 {
            match recv(self.0.as_raw_fd(), &mut bytes, MsgFlags::empty()) {
                Ok(length) => {
                    if let Some(record) = Record::from_message(&bytes[..length]) {
                        return Some(record);
                    }
                }
                Err(Errno::EINTR | Errno::ENOBUFS) => {}
                Err(_) => return None,
            }
        }
        None
    }

    /// Forgets what has come so far.
    pub fn skip(&self) {
        while self.next().is_some() {}
    }
}

impl AsFd for Audit {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Lets through the three types of records (bpf(4) in Linux's networking/filter.rst).
fn filter() -> Vec<libc::sock_filter> {
    let code = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    // The type is in the machine's order of bytes, and a load of BPF in the network's.
    let kind = |kind: u16| u32::from(kind.to_be());
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    vec![
        code(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 0, 0, 4),
        code(equal, 3, 0, kind(SECCOMP)),
        code(equal, 2, 0, kind(LANDLOCK_ACCESS)),
        code(equal, 1, 0, kind(LANDLOCK_DOMAIN)),
        code(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        code(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
    ]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KILLED: &str = "audit(1795264191.331:4): auid=4294967295 uid=33 gid=33 ses=4294967295 subj=unconfined \
                          pid=6906 comm=\"php-fpm8.2\" exe=\"/usr/sbin/php-fpm8.2\" sig=31 arch=c000003e \
                          syscall=110 compat=0 ip=0x7f5f914f34f7 code=0x80000000";

    #[test]
    fn a_record_of_seccomp_is_its_process_and_its_call() {
        let of = |text: &str| Record::parse(SECCOMP, text);
        let record = |uid, syscall: &str, ended| {
            Some(Record::Seccomp { pid: 6906, uid, syscall: syscall.to_owned(), ended })
        };
        if cfg!(target_arch = "x86_64") {
            assert_eq!(of(KILLED), record(33, "getppid", true));
            assert_eq!(of(&KILLED.replace("=110", "=1073741934")), record(33, "110 of x32", true));
        }
        let other = KILLED.replace("c000003e", "40000003").replace("sig=31", "sig=0");
        assert_eq!(of(&other), record(33, "110 of the 32-bit entry", false));
        assert_eq!(of("audit(1:2): pid=1"), None);
        assert_eq!(Record::parse(1300, KILLED), None);
    }

    /// A process chooses its name, and may put other keys in it.
    #[test]
    fn a_name_is_no_key() {
        let forged =
            KILLED.replace("php-fpm8.2\" exe", "x uid=0 pid=1 syscall=1\" exe").replace("pid=6906 ", "");
        let forged = format!("{forged} pid=6906");
        let Some(Record::Seccomp { pid, uid, .. }) = Record::parse(SECCOMP, &forged) else {
            panic!("{forged}")
        };
        assert_eq!((pid, uid), (6906, 33));
    }

    #[test]
    fn a_record_of_landlock_is_its_domain_and_its_path() {
        let text =
            "audit(1:2): domain=195ba459b blockers=fs.write_file path=\"/srv/a b.php\" dev=\"vda\" ino=9";
        let path = |path: &str| {
            let (blockers, path) = ("fs.write_file".to_owned(), path.to_owned());
            Some(Record::Landlock { domain: 0x1_95ba_459b, blockers, path })
        };
        assert_eq!(Record::parse(LANDLOCK_ACCESS, text), path("/srv/a b.php"));
        assert_eq!(
            Record::parse(LANDLOCK_ACCESS, &text.replace("\"/srv/a b.php\"", "2F73220A")),
            path("/s\"\n")
        );
        let text = "audit(1:2): domain=195ba459b status=allocated mode=enforcing pid=300 uid=0 \
                    exe=\"/root/sandboxer\" comm=\"sandboxer\"";
        let domain = Some(Record::Domain { domain: 0x1_95ba_459b, pid: 300 });
        assert_eq!(Record::parse(LANDLOCK_DOMAIN, text), domain);
    }

    #[test]
    fn a_message_is_its_type_and_its_text() {
        let mut message = vec![0; 16];
        message[4..6].copy_from_slice(&SECCOMP.to_ne_bytes());
        message.extend(KILLED.bytes());
        assert_eq!(Record::from_message(&message), Record::parse(SECCOMP, KILLED));
        assert_eq!(Record::from_message(&message[..15]), None);
    }

    proptest! {
        #[test]
        fn any_message(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0usize..3) {
            let mut message = bytes;
            if message.len() > 6 {
                message[4..6].copy_from_slice(&[SECCOMP, LANDLOCK_ACCESS, LANDLOCK_DOMAIN][kind].to_ne_bytes());
            }
            Record::from_message(&message);
        }
    }
}
