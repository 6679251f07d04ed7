//! Pool files and profiles: from text to typed values.

pub mod pool;
pub mod profile;
pub mod types;
