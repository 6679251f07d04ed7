//! The life of pools.

pub mod activation;
