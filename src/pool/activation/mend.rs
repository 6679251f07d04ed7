//! A listener that a generation has had: what was done to it, and how it is
//! made what it was. `docs/sockets.md` has the measurements.
//!
//! A real connection would be the best proof that it accepts, and would start
//! the pool. So everything that decides whether it accepts is looked at, in the
//! copy that howdah holds: it is the same socket.

use std::fmt;
use std::os::fd::AsFd;

use nix::errno::Errno;

use super::bind::bind;
use super::error::ActivationError;
use super::listener::{CHANGEABLE, Health, Listener, Origin};
use crate::config::pool::Socket;
use crate::config::types::Listen;
use crate::sys;

/// Something a process of the pool did to a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harm {
    /// shutdown(2), or on TCP connect(2) to AF_UNSPEC: it refuses every connection.
    ShutDown,
    /// A program that looks at each packet and may drop it (socket(7), SO_ATTACH_FILTER).
    Filter,
    /// Keys of TCP_MD5SIG (tcp(7)): only signed segments are heard.
    Signatures,
    /// O_NONBLOCK or O_ASYNC (fcntl(2), F_SETFL).
    Flags,
    /// listen(2) with another backlog, on TCP.
    Backlog,
    /// An option has another value.
    Option(&'static str),
}

impl fmt::Display for Harm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ShutDown => "shutdown",
            Self::Filter => "SO_ATTACH_FILTER",
            Self::Signatures => "TCP_MD5SIG",
            Self::Flags => "O_NONBLOCK",
            Self::Backlog => "backlog",
            Self::Option(name) => name,
        })
    }
}

/// What [`Listener::mend`] found and did.
#[derive(Debug)]
pub struct Mended {
    /// What was wrong; nothing in nearly every case.
    pub harms: Vec<Harm>,
    /// Whether a new socket took the place of the old one, of which a running
    /// generation has a copy that nobody connects to any more.
    pub renewed: bool,
    /// Whether it is as it should be now.
    pub result: Result<(), ActivationError>,
}

impl Mended {
    /// "was shut down", "was changed (SO_LINGER, O_NONBLOCK)".
    pub fn told(&self) -> String {
        if self.harms.contains(&Harm::ShutDown) {
            return "was shut down".to_owned();
        }
        let names: Vec<String> = self.harms.iter().map(Harm::to_string).collect();
        format!("was changed ({})", names.join(", "))
    }
}

impl Listener {
    /// What is not as it was before any tenant had it.
    pub fn harms(&self) -> Vec<Harm> {
        if self.health() != Health::Accepting {
            // Its options are those of a dead socket.
            return vec![Harm::ShutDown];
        }
        // Nobody has had it.
        let Some(before) = &self.options else { return Vec::new() };
        let mut harms: Vec<Harm> =
            before.changed(self.as_fd()).iter().map(|option| Harm::Option(option.name)).collect();
        let mut also = |is: bool, harm| harms.extend(is.then_some(harm));
        also(self.has_filter(), Harm::Filter);
        also(self.flags().is_ok_and(|flags| flags.intersects(CHANGEABLE)), Harm::Flags);
        also(self.is_signed(), Harm::Signatures);
        also(self.backlog.is_some() && self.queue_limit() != self.backlog, Harm::Backlog);
        harms
    }

    /// Makes it what it was before any tenant had it: in place, so that who waits
    /// goes on waiting, and where that is not enough by a new socket at the same
    /// address, if it is howdah's own; connections that wait in the old one are
    /// refused. What systemd passed and cannot be put right is an error that says
    /// who can.
    pub fn mend(&mut self, socket: &Socket) -> Mended {
        if self.options.is_some() && matches!(self.address(), Listen::Unix(_)) {
            // How many may wait on a unix socket is not told; to say it again costs nothing.
            let _ = sys::listen(self.as_fd(), self.wanted_backlog(socket));
        }
        let harms = self.harms();
        if harms.is_empty() {
            return Mended { harms, renewed: false, result: Ok(()) };
        }
        self.put_right(socket);
        let left = self.harms();
        if left.is_empty() {
            return Mended { harms, renewed: false, result: Ok(()) };
        }
        if *self.origin() != Origin::Own {
            return Mended { harms, renewed: false, result: Err(self.beyond_repair(&left)) };
        }
        let renewed = self.renew(socket);
        Mended { harms, renewed: renewed.is_ok(), result: renewed }
    }

    /// Everything that can be done to the socket that it is. What fails shows in [`Listener::harms`].
    fn put_right(&self, socket: &Socket) {
        let _ = self.make_blocking();
        let _ = self.detach_filter();
        // An error that nobody fetches is told by poll(2) again and again.
        let _ = nix::sys::socket::getsockopt(&self.as_fd(), nix::sys::socket::sockopt::SocketError);
        let dead = self.health() != Health::Accepting;
        if dead && matches!(self.address(), Listen::Tcp(_)) {
            // It may be connected by now, from which there is no way to listen but this.
            let _ = sys::disconnect(self.as_fd());
        }
        self.options.iter().for_each(|before| before.restore(self.as_fd()));
        let _ = sys::listen(self.as_fd(), self.wanted_backlog(socket));
    }

    /// systemd's own word for a backlog is "as long as allowed".
    fn wanted_backlog(&self, socket: &Socket) -> u32 {
        let own = if *self.origin() == Origin::Own { socket.backlog } else { u32::MAX };
        self.backlog.unwrap_or(own)
    }

    /// Puts a new socket in the place of this one.
    fn renew(&mut self, socket: &Socket) -> Result<(), ActivationError> {
        // The old one must not be taken for a server that is alive, nor keep the port.
        let _ = match self.address() {
            Listen::Unix(_) => {
                let both = nix::sys::socket::Shutdown::Both;
                nix::sys::socket::shutdown(std::os::fd::AsRawFd::as_raw_fd(&self.as_fd()), both)
            }
            Listen::Tcp(_) => sys::disconnect(self.as_fd()).and_then(|()| {
                nix::sys::socket::setsockopt(&self.as_fd(), nix::sys::socket::sockopt::ReuseAddr, &true)
            }),
        };
        *self = bind(self.address(), socket)?;
        Ok(())
    }

    fn beyond_repair(&self, left: &[Harm]) -> ActivationError {
        let advice = match (left, self.origin()) {
            ([Harm::ShutDown, ..], _) => "a process shut it down for good".to_owned(),
            _ => {
                let names: Vec<String> = left.iter().map(Harm::to_string).collect();
                format!("a process changed it for good ({})", names.join(", "))
            }
        };
        let unit = match self.origin() {
            Origin::Systemd { name: Some(name) } if !name.ends_with(".socket") => format!("{name}.socket"),
            Origin::Systemd { name: Some(name) } => name.clone(),
            _ => "NAME.socket".to_owned(),
        };
        let errno = if left.contains(&Harm::ShutDown) { Errno::ESHUTDOWN } else { Errno::EPERM };
        ActivationError::step("listen again on", self.address(), errno).advise(format!(
            "{advice}: restart its socket unit, and howdah with it (systemctl restart {unit} howdah.service)"
        ))
    }
}
