//! LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES: whatever they say, each socket
//! that was passed is taken once or refused by a line, and nothing else is touched.
#![no_main]

use std::cell::OnceCell;
use std::ffi::OsStr;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use howdah::pool::activation::inherited;
use howdah::sys::close_range;
use libfuzzer_sys::fuzz_target;
use nix::fcntl::{fcntl, FcntlArg};

thread_local! {
    /// A listening socket with a number out of the way of those that are passed.
    static SOCKET: OnceCell<OwnedFd> = const { OnceCell::new() };
}

/// Passed are the descriptors 3 and 4.
const PASSED: i32 = 2;

fn pass(socket: &OwnedFd) {
    for number in 3..3 + PASSED {
        assert_eq!(fcntl(socket.as_raw_fd(), FcntlArg::F_DUPFD(number)), Ok(number));
    }
}

fn set(name: &str, value: Option<&[u8]>) {
    match value {
        Some(value) => std::env::set_var(name, OsStr::from_bytes(value)),
        None => std::env::remove_var(name),
    }
}

fuzz_target!(|bytes: &[u8]| {
    SOCKET.with(|cell| {
        let socket = cell.get_or_init(|| {
            let socket = TcpListener::bind("127.0.0.1:0").unwrap();
            let high = fcntl(socket.as_raw_fd(), FcntlArg::F_DUPFD_CLOEXEC(500)).unwrap();
            howdah::sys::owned(high)
        });
        close_range(3, 400, false).unwrap();
        pass(socket);
        // Three lines: pid ("=" is ours), count, names; a line that is not there is not set.
        let mut lines =
            bytes.split(|byte| *byte == b'\n').map(|line| line.split(|b| *b == 0).next().unwrap());
        let own = std::process::id().to_string();
        let pid = lines.next().map(|line| if line == b"=" { own.as_bytes() } else { line });
        set("LISTEN_PID", pid);
        set("LISTEN_FDS", lines.next());
        set("LISTEN_FDNAMES", lines.next());
        match inherited() {
            Ok(sockets) => {
                assert!(sockets.len() <= PASSED as usize);
                drop(sockets);
            }
            Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
        }
        assert!(socket.as_raw_fd() >= 500 && fcntl(socket.as_raw_fd(), FcntlArg::F_GETFD).is_ok());
    });
});
