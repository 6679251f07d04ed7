//! An OCI runtime spec, made real by the kernel.

pub mod seccomp;
