//! The host's own addresses, which no pool with a way out may reach: when they
//! change, so do the rules of those that run.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use nix::unistd::Pid;

use super::Supervisor;
use crate::config::network::{Network, Outbound};
use crate::journal::Level;
use crate::pool::machine::State;
use crate::pool::outbound;
use crate::sandbox::uplink;
use crate::sys;

/// Multicast groups of rtnetlink(7): an IPv4 address came or went, an IPv6 address did.
const GROUPS: u32 = (libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR) as u32;

/// The host's addresses, and how the kernel tells that they change.
pub(super) struct Addresses {
    socket: OwnedFd,
    known: BTreeSet<IpAddr>,
}

impl Addresses {
    /// The addresses as they are now.
    pub(super) fn watch() -> nix::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
        Ok(Self { socket, known: outbound::host_addresses()? })
    }

    /// Whether they are others than the last time. What the messages say is not read: they say that it is time to look.
    fn changed(&mut self) -> bool {
        let mut bytes = [0; 8 << 10];
        // ENOBUFS too: messages were lost, and there may be more of them.
        for _ in 0..64 {
            if recv(self.socket.as_raw_fd(), &mut bytes, MsgFlags::empty()) == Err(Errno::EAGAIN) {
                break;
            }
        }
        let now = outbound::host_addresses().unwrap_or_default();
        now != std::mem::replace(&mut self.known, now.clone())
    }
}

impl AsFd for Addresses {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Supervisor {
    pub(super) fn on_addresses(&mut self) {
        if self.addresses.as_mut().is_some_and(Addresses::changed) {
            self.renew_rules();
        }
    }

    /// Gives every pool with a way out the rules for the host's addresses as they are now.
    pub(super) fn renew_rules(&mut self) {
        for index in 0..self.slots.len() {
            let Some(slot) = &mut self.slots[index] else { continue };
            let starting = matches!(slot.machine.state(), State::Starting { .. });
            let Some(generation) = slot.generation.as_mut().filter(|one| one.uplink.is_some()) else {
                continue;
            };
            // It has a way out, so that its mode is known; what its file does not say is the mode's default.
            let outbound = match &slot.pool.network {
                Some(Network::Outbound(outbound)) => outbound.clone(),
                _ => Outbound::default(),
            };
            // While it starts another program is at the rules.
            let renewed = match starting {
                true => Err("the host's addresses changed while it started".to_owned()),
                false => renew(&outbound, generation.process.pid),
            };
            match renewed {
                Ok(()) => self.tell(index, Level::Info, "its network's rules name the host's addresses anew"),
                Err(reason) => {
                    // Better no network than one with a hole; what follows is as if pasta had died.
                    if let Some(uplink) = generation.uplink.take() {
                        for fd in uplink.signs() {
                            let _ = self.epoll.delete(fd);
                        }
                        uplink.end();
                    }
                    self.lose_uplink(index, &reason);
                }
            }
        }
    }
}

fn renew(outbound: &Outbound, pid: Pid) -> Result<(), String> {
    let programs = outbound::programs(outbound).map_err(|error| error.to_string())?;
    let namespace = std::fs::File::open(format!("/proc/{pid}/ns/net")).map_err(|error| sys::told(&error))?;
    uplink::replace_rules(namespace.as_fd(), &programs)
}
