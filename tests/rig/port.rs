//! Ports for servers that bind them later.
#![allow(dead_code, missing_docs, unreachable_pub)]

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// A port that nobody has. Below those that the kernel gives to who asks for any
/// (ip_local_port_range): until it is bound, no other socket of the machine gets it.
pub fn free_port(host: &str) -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    // Test programs that run beside each other begin at different ones.
    let begin = (std::process::id() % 300) as u16 * 40;
    for _ in 0..COUNT {
        let number = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let port = FIRST + (begin + number) % COUNT;
        if let Ok(bound) = TcpListener::bind((host, port)) {
            return bound.local_addr().unwrap();
        }
    }
    panic!("no port from {FIRST} on is free");
}
