//! The life of pools.
