//! The start of a php-fpm in a sandbox that was made before anybody knew its pool, call by call:
//! it sleeps in open(2) of its configuration, and gets its sockets at its one epoll_create(2).

use crate::numbers as nr;
use crate::raw::{call, exit};
use crate::run::print;

/// What it is told, word by word, once somebody tells it.
pub(crate) fn wait(file: &str) -> Vec<String> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => end(&format!("{file}: {error}")),
    };
    match call(nr::EPOLL_CREATE, &[1]) {
        // It is nobody's from here on: a descriptor too many would be an attack that succeeded.
        Ok(epoll) => drop(call(nr::CLOSE, &[epoll])),
        Err(errno) => end(&format!("epoll_create: {}", crate::outcome::name(errno))),
    }
    text.split('\0').map(str::to_owned).collect()
}

fn end(why: &str) -> ! {
    print(&format!("{why}\n"));
    exit(2)
}
