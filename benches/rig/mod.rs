//! What the benches share: a fence that nothing escapes from, php-fpm in the
//! same shape for every contestant, and one client for all of them.
//!
//! From the bottom up: [`figures`] and [`fastcgi`] know nothing of processes;
//! [`processes`] and [`activation`] know nothing of php; [`php`] is the thing
//! that is started, [`peers`] and [`serve`] are who starts it. [`fence`] is
//! what every bench runs in.
//!
//! Nothing here reaches into howdah's own code: it is measured from outside,
//! by its command line, as the others are.

pub(crate) mod activation;
pub(crate) mod at_rest;
pub(crate) mod fastcgi;
pub(crate) mod fence;
pub(crate) mod figures;
pub(crate) mod host;
pub(crate) mod peers;
pub(crate) mod php;
pub(crate) mod processes;
pub(crate) mod serve;
pub(crate) mod shared;
pub(crate) mod web;

use std::error::Error;
use std::fmt::Display;

/// What a step of a bench ends in. A bench has one reader, who needs a
/// sentence: no types of error.
pub(crate) type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// Says which step and which object an error belongs to.
pub(crate) trait During<T> {
    /// Puts `step` before the error's own words.
    fn during(self, step: impl Display) -> Outcome<T>;
}

impl<T, E: Display> During<T> for Result<T, E> {
    fn during(self, step: impl Display) -> Outcome<T> {
        self.map_err(|error| format!("{step}: {error}").into())
    }
}
