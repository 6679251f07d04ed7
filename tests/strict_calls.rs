//! A site below the filter `strict`, with `execve = "once"` and `dangerous = "kill"`:
//! what it still can do, and what an attacker in it cannot, each time beside `hosting`.
#![allow(missing_docs)]

mod rig;

use std::collections::BTreeMap;
use std::fs;

use rig::{Rig, TENANT};

const STRICT: &str = "seccomp = \"strict\"\nexecve = \"once\"\ndangerous = \"kill\"\n";

/// A pool that runs everything.php in a directory of its own.
fn everything(rig: &Rig, name: &str, profile: &str) {
    rig.site(name, "everything.php", include_str!("php/everything.php"), TENANT);
    let data = rig.private(&format!("data-{name}"), TENANT);
    let file = rig.profile(name, profile);
    rig.pool(
        name,
        &format!(
            "profile = {file:?}\n[[mount]]\nsource = {data:?}\naccess = \"rw\"\n[fpm.env]\nSCRATCH = {data:?}\n\
             [php.admin_value]\nsendmail_path = \"/usr/bin/tee {}/mail\"\n",
            data.display()
        ),
    );
}

fn run(rig: &Rig, name: &str) -> BTreeMap<String, String> {
    let body = "--B\r\nContent-Disposition: form-data; name=\"f\"; filename=\"x\"\r\n\r\nhi\r\n--B--\r\n";
    let form = [("Content-Type", "multipart/form-data; boundary=B")];
    let answer = rig.ask(name, "/everything.php", "POST", &form, body.as_bytes()).unwrap();
    let text = String::from_utf8_lossy(&answer.body).replace(&format!("data-{name}"), "DATA");
    let lines = text.lines().filter_map(|line| line.split_once(": "));
    lines.map(|(name, told)| (name.to_owned(), told.to_owned())).collect()
}

/// What strict takes from a site, thing by thing, and nothing else: programs (and mail by one),
/// links, owners, FIFOs, servers, System V objects.
#[test]
fn a_site_misses_what_strict_is_there_to_take_and_nothing_else() {
    let mut rig = Rig::new();
    everything(&rig, "free", "");
    everything(&rig, "held", STRICT);
    rig.serve();
    let (expected, found) = (run(&rig, "free"), run(&rig, "held"));
    let missing: Vec<&str> = expected
        .iter()
        .filter(|(name, told)| found.get(*name) != Some(told))
        .map(|(name, _)| name.as_str())
        .collect();
    let taken = [
        "curl", // whose server is a program
        "fifo",
        "links",
        "mail",
        "mailed",
        "owners",
        "proc_open",
        "programs",
        "shmop",
        "sockets",
        "sysv",
    ];
    assert_eq!(missing, taken, "{expected:#?}{found:#?}");
    for (name, told) in [
        ("sqlite", "3"),
        ("session", "[true,true,true,1,true]"),
        ("upload", "[0,true]"),
        ("curl by name", "[false,6]"),
        ("memory", "31457280"),
    ] {
        assert_eq!(found[name], told, "{name}");
    }
    let after = rig.path("data-held/after");
    rig::wait_for("the work after the answer", std::time::Duration::from_secs(10), || {
        after.exists().then_some(())
    });
}

/// Machine code that returns 42, put where it could run.
const NATIVE: &str = r#"
    $c = FFI::cdef('long syscall(long, long, long, long, long, long, long); extern int errno;');
    $map = fn ($access) => $c->syscall(9, 0, 4096, $access, 0x22, -1, 0);
    $told = [$map(7) === -1 ? $c->errno : 'mapped'];
    $page = FFI::new('long');
    $page->cdata = $map(3);
    $at = FFI::cast('char **', FFI::addr($page))[0];
    FFI::memcpy($at, "\xb8\x2a\x00\x00\x00\xc3", 6);
    $told[] = $c->syscall(10, $page->cdata, 4096, 5, 0, 0, 0) === 0
        ? FFI::cast('int (**)(void)', FFI::addr($page))[0]() : $c->errno;
    echo json_encode($told);
"#;

#[cfg(target_arch = "x86_64")]
#[test]
fn code_that_was_written_is_not_run() {
    let mut rig = Rig::new();
    rig.inside_without("held", STRICT, "");
    rig.inside_without("free", "", "");
    rig.serve();
    assert_eq!(rig.php("free", NATIVE), r#"["mapped",42]"#);
    assert_eq!(rig.php("held", NATIVE), "[13,13]");
}

/// A call that nobody makes innocently, and one that browsers try.
const CALLS: &str = r#"
    $c = FFI::cdef('long syscall(long, ...); extern int errno;');
    $try = fn ($number) => $c->syscall($number, 0, 0, 0) . '/' . $c->errno;
    echo $_GET['n'], ' ', $try((int) $_GET['n']);
"#;

#[test]
#[cfg(target_arch = "x86_64")]
fn a_dangerous_call_is_refused_or_kills_by_the_profile() {
    let mut rig = Rig::new();
    for (name, profile) in [("errno", "dangerous = \"errno\"\n"), ("kill", "dangerous = \"kill\"\n")] {
        rig.inside_without(name, profile, "");
        fs::write(rig.path(&format!("{name}/call.php")), format!("<?php {CALLS}")).unwrap();
    }
    rig.serve();
    let (unshare, bpf) = (libc::SYS_unshare, libc::SYS_bpf);
    assert_eq!(rig.text("errno", &format!("/call.php?n={unshare}")), format!("{unshare} -1/1"));
    assert_eq!(rig.text("errno", &format!("/call.php?n={bpf}")), format!("{bpf} -1/1"));
    assert_eq!(rig.text("kill", &format!("/call.php?n={unshare}")), format!("{unshare} -1/1"), "it is tried");
    let killed = rig.try_get("kill", &format!("/call.php?n={bpf}"));
    assert!(killed.as_ref().map_or(true, |answer| answer.status != 200), "{:?}", killed.map(|a| a.status));
    rig.wait_log("SIGSYS");
    // The worker, and not the pool.
    assert_eq!(rig.php("kill", "echo 6 * 7;"), "42");
}
