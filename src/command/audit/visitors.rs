//! Whoever connects to a pool that is attacked: its probe accepts them, to see what
//! can be done with an accepted connection.

use std::net::TcpStream;
use std::time::Duration;

use crate::config::types::Listen;
use crate::pool::activation::Listener;

/// Attacks that accept a connection, each one of its own: `accepted-*` of the table.
const WANTED: usize = 3;

/// Clients that wait at each TCP listener, for as long as they are held.
pub(super) fn visitors(listeners: &[Listener]) -> Vec<TcpStream> {
    let tcp = listeners.iter().filter_map(|listener| match listener.address() {
        Listen::Tcp(address) => Some(address),
        Listen::Unix(_) => None,
    });
    let each = tcp.flat_map(|address| std::iter::repeat_n(address, WANTED));
    each.filter_map(|address| TcpStream::connect_timeout(address, Duration::from_secs(1)).ok()).collect()
}
