//! The probe of `howdah audit`: a static program that attacks what is around it,
//! from inside a sandbox, and says what came of it.
//!
//! It is compiled by `build.rs` and embedded into howdah, which executes it in
//! php-fpm's place. Whatever the image's C library is, it runs. Every attack is
//! **harmless where it succeeds**: the controls run them on the host, as root.
//!
//! - `attack KEY=VALUE...` tries the table of `src/attack.rs`, a line for each.
//! - `canary KEY=VALUE...` holds what attacks look for, until its standard input ends.
//! - `neighbour KEY=VALUE...` the same, as another sandbox.
//! - `template FILE` waits until it is told by the file which of these it is, as a php-fpm that
//!   was started before anybody knew its pool.
#![allow(dead_code, unreachable_pub)] // of the shared table, what only howdah reads

#[path = "../attack.rs"]
mod attack;
mod canary;
mod files;
mod identity;
mod ipc;
mod kernel;
mod listener;
mod mounts;
mod network;
mod numbers;
mod outcome;
mod proc;
mod processes;
mod programs;
mod raw;
mod run;
mod template;
mod way_out;
mod world;

use world::World;

fn main() {
    let mut words = std::env::args().skip(1).collect::<Vec<_>>();
    if let [mode, file] = &words[..] {
        if mode == "template" {
            words = template::wait(file);
        }
    }
    let mut words = words.into_iter();
    let mode = words.next();
    let world = World::look(words);
    match mode.as_deref() {
        Some("attack") => run::all(&world),
        Some("canary") => canary::hold(&world, false),
        Some("neighbour") => canary::hold(&world, true),
        // What an attack executes to see whether it can.
        Some("hello") => raw::exit(run::HELLO),
        _ => {
            let _ = std::io::Write::write_all(
                &mut std::io::stderr(),
                b"this is howdah's probe: see howdah audit\n",
            );
            raw::exit(2)
        }
    }
}
