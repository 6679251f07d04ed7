//! A template of an account's own: what the account's processes on the host, a shell or a job of
//! cron(8), can reach of howdah while it makes and binds one.
#![allow(missing_docs)]

mod rig;

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rig::templates::{keep_as_usual, started_by, stocked};
use rig::{Rig, TENANT, wait_for};

const SOON: Duration = Duration::from_secs(20);
const STARTS: u64 = 12;

/// A process of the account on the host that tries without pause to send something to `pid`, and
/// ends when it could (kill(2): its uid is the real or the saved one of that process).
fn try_to_signal(pid: i64) -> Child {
    let mut shell = Command::new("sh");
    shell.args(["-c", "while ! kill -0 \"$0\"; do :; done", &pid.to_string()]);
    shell.uid(TENANT.1).gid(TENANT.2).stdin(Stdio::null()).stderr(Stdio::null());
    shell.spawn().unwrap()
}

#[test]
fn no_process_of_an_account_can_signal_howdah_while_it_makes_templates_for_it() {
    let mut rig = Rig::new();
    keep_as_usual(&rig, 1);
    let sockets = rig.private("mysqld", TENANT);
    let mount = format!("[[mount]]\nsource = {sockets:?}\ntarget = \"/run/mysqld\"\n");
    rig.site("blog", "index.php", "<?php echo 'hello';", TENANT);
    rig.pool("blog", &format!("[idle]\nstop = \"100ms\"\n{mount}"));
    rig.serve();
    let mut shell = try_to_signal(rig.pid().into());
    for start in 1..=STARTS {
        stocked(&rig, 1);
        assert_eq!(rig.text("blog", "/index.php"), "hello");
        wait_for("the record", SOON, || (rig.record("blog").starts == start).then_some(()));
        assert_eq!(started_by(&rig, "blog"), "template", "{}", rig.log());
        rig.wait_state("blog", "cold");
    }
    let reached = shell.try_wait().unwrap();
    let _ = shell.kill();
    shell.wait().unwrap();
    assert_eq!(reached, None, "it could signal howdah");
    // What it can signal is told by the same shell.
    let waiting = stocked(&rig, 1)[0];
    let mut shell = try_to_signal(waiting.into());
    wait_for("the control", SOON, || shell.try_wait().unwrap());
}
