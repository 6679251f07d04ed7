//! php-fpm: the configuration, arguments and environment it gets, what it says
//! on its log, and the protocol it speaks (FastCGI).
//!
//! Knows nothing of sandboxes, of sockets' owners or of when a pool starts and
//! stops: bytes and typed values in, bytes and typed values out. The only
//! input and output here is [`client::exchange`] and [`tenant::read_tenant_file`].

pub mod client;
pub mod conf;
pub mod fastcgi;
pub mod ini;
pub mod log;
pub mod probe;
pub mod refusal;
pub mod tenant;
