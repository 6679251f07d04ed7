//! A process of a pool that crashes. The kernel writes no core, and starts no
//! program for it: what a piped kernel.core_pattern names would run as root, outside.
#![allow(missing_docs)]

mod rig;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use rig::{Rig, TENANT, wait_for};

const CRASH: &str = "exec('kill -SEGV $$', $said, $status); echo $status;";
/// SIGSEGV, of which the shell itself has died; wait(2) adds 128 where a core went somewhere.
const SEGV: &str = "11";
const SEGV_AND_A_CORE: &str = "139";

#[test]
fn a_core_is_limited_to_the_one_byte_that_means_none_and_no_program() {
    let mut rig = Rig::new();
    rig.inside("blog", TENANT, "");
    rig.inside("zero", TENANT, "[limits]\ncore = 0");
    rig.inside("some", TENANT, "[limits]\ncore = \"4K\"");
    rig.serve();
    for (pool, bytes) in [("blog", "1 1"), ("zero", "1 1"), ("some", "4096 4096")] {
        let asked = "$l = posix_getrlimit(); echo $l['soft core'], ' ', $l['hard core'];";
        assert_eq!(rig.php(pool, asked), bytes, "{pool}");
    }
    assert_eq!(rig.php("blog", CRASH), SEGV);
}

#[test]
#[ignore = "sets kernel.core_pattern, which is the whole machine's: for a guest of tests/vm/run"]
fn a_crash_starts_no_program_outside() {
    const PATTERN: &str = "/proc/sys/kernel/core_pattern";
    let mut rig = Rig::new();
    rig.inside("blog", TENANT, "");
    rig.inside("some", TENANT, "[limits]\ncore = \"4K\"");
    rig.serve();
    let told = rig.path("told");
    let script = format!("#!/bin/sh\ncat >/dev/null\necho \"$(id -u) $1\" >>{}\n", told.display());
    let handler = rig.write("handler", &script);
    fs::set_permissions(&handler, fs::Permissions::from_mode(0o755)).unwrap();
    let before = fs::read_to_string(PATTERN).unwrap();
    fs::write(PATTERN, format!("|{} %c", handler.display())).unwrap();
    assert_eq!(rig.php("blog", CRASH), SEGV);
    // The controls: the limit 0 outside, and a pool that asks for cores.
    let _ = Command::new("prlimit").args(["--core=0:0", "sh", "-c", "kill -SEGV $$"]).status();
    assert_eq!(rig.php("some", CRASH), SEGV_AND_A_CORE);
    let text = || fs::read_to_string(&told).unwrap_or_default();
    wait_for("the controls", Duration::from_secs(10), || (text().lines().count() >= 2).then_some(()));
    fs::write(PATTERN, before.trim_end()).unwrap();
    let mut lines: Vec<String> = text().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["0 0", "0 4096"]);
}
