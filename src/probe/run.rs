//! Tries each attack in a process of its own, so that what kills, hangs or
//! changes that process is a result and no end.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::attack::ATTACKS;
use crate::numbers as nr;
use crate::outcome::{Outcome, held, open};
use crate::raw::{at_mut, call, exit, fork, last_call, share_last_call};
use crate::world::World;
use crate::{files, identity, ipc, kernel, listener, mounts, network, proc, processes, programs, way_out};

/// Exit status of the probe as a program that an attack executed.
pub(crate) const HELLO: u64 = 42;
/// No attack takes longer; one that waits for an answer waits for less.
const PATIENCE: Duration = Duration::from_secs(5);
const SIGKILL: u64 = 9;
const SIGSYS: i32 = 31;

/// Tries all of them and prints a line for each.
pub(crate) fn all(world: &World) {
    let only: Vec<&str> = world.all("only").collect();
    share_last_call();
    for attack in ATTACKS {
        if !only.is_empty() && !only.contains(&attack.id) {
            continue;
        }
        let (word, detail) = words(try_one(world, attack.id));
        print(&format!("howdah-probe\t{}\t{word}\t{detail}\n", attack.id));
    }
    print("howdah-probe\tend\n");
}

/// What an attack's name means.
fn perform(world: &World, id: &str) -> Outcome {
    let subjects = [
        files::perform,
        programs::perform,
        proc::perform,
        mounts::perform,
        identity::perform,
        kernel::perform,
        processes::perform,
        network::perform,
        ipc::perform,
        way_out::perform,
        listener::perform,
    ];
    subjects
        .iter()
        .find_map(|perform| perform(world, id))
        .unwrap_or_else(|| open("the probe does not know this attack"))
}

fn try_one(world: &World, id: &str) -> Outcome {
    let Ok((reader, mut writer)) = UnixStream::pair() else { return open("unclear: no socketpair") };
    match fork(0) {
        Ok(0) => {
            drop(reader);
            let (word, detail) = words(perform(world, id));
            let _ = writer.write_all(format!("{word}\t{detail}\n").as_bytes());
            exit(0)
        }
        Ok(pid) => {
            drop(writer);
            let _ = reader.set_read_timeout(Some(PATIENCE));
            let mut line = String::new();
            let read = BufReader::new(reader).read_line(&mut line);
            // Before we call anything ourselves.
            let last = last_call();
            let _ = call(nr::KILL, &[pid, SIGKILL]);
            let status = wait(pid);
            match (read, line.trim_end().split_once('\t')) {
                (Ok(_), Some((word, detail))) => parse(word, detail.to_owned()),
                (Ok(_), None) => ended(status, last),
                (Err(_), _) => open("unclear: no answer"),
            }
        }
        Err(errno) => open(format!("unclear: cannot fork: {}", crate::outcome::name(errno))),
    }
}

/// Does `what` in a process of its own: what kills that one does not end ours.
pub(crate) fn apart(what: impl FnOnce()) {
    match fork(0) {
        Ok(0) => {
            what();
            exit(0)
        }
        Ok(pid) => drop(wait(pid)),
        Err(_) => {}
    }
}

/// Waits for a child; its status, wait(2).
pub(crate) fn wait(pid: u64) -> i32 {
    let mut status = 0_i32;
    let _ = call(nr::WAIT4, &[pid, at_mut(&mut status), 0, 0]);
    status
}

/// Of an attack that said nothing before its end.
fn ended(status: i32, last: Option<i64>) -> Outcome {
    match status & 0x7f {
        0 => open(format!("unclear: ended with status {}", status >> 8)),
        SIGSYS => match last.and_then(nr::name) {
            Some(name) => held(format!("killed by SIGSYS at {name}")),
            // The 32-bit entry and x32's numbers have no name here.
            None => held("killed by SIGSYS"),
        },
        signal => open(format!("unclear: ended by signal {signal}")),
    }
}

fn words(outcome: Outcome) -> (&'static str, String) {
    let (word, detail) = match outcome {
        Outcome::Held(detail) => ("held", detail),
        Outcome::Open(detail) => ("open", detail),
        Outcome::NotTried(detail) => ("not-tried", detail),
        Outcome::Poisoned(detail) => ("poisoned", detail),
    };
    (word, detail.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect())
}

fn parse(word: &str, detail: String) -> Outcome {
    match word {
        "held" => Outcome::Held(detail),
        "not-tried" => Outcome::NotTried(detail),
        "poisoned" => Outcome::Poisoned(detail),
        _ => Outcome::Open(detail),
    }
}

/// Writes a line at once.
pub(crate) fn print(line: &str) {
    let mut out = std::io::stdout();
    let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
}
