//! `tools/peers.sh`, of which docs/peers.md has the table: other launchers are really attacked.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use howdah::attack::ATTACKS;
use serde_json::Value;

/// Each peer's attacks and their outcomes.
fn measured(peers: &[&str]) -> BTreeMap<String, BTreeMap<String, String>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/peers.sh");
    let mut command = Command::new(script);
    command.args(["--here", "--json", "--howdah", env!("CARGO_BIN_EXE_howdah")]).args(peers);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{:?}: {errors}", output.status);
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    let lines = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let card: Value = serde_json::from_slice(line).unwrap();
            let findings = card["card"]["attacks"].as_array().unwrap().iter();
            let outcomes = findings.map(|finding| (word(&finding["attack"]), word(&finding["outcome"])));
            (word(&card["peer"]), outcomes.collect())
        })
        .collect()
}

#[test]
fn each_peer_is_attacked_from_inside_and_differs_where_its_walls_do() {
    let seen = measured(&["php-fpm", "chroot", "bwrap", "hosting"]);
    let row =
        |attack: &str| ["php-fpm", "chroot", "bwrap", "hosting"].map(|peer| seen[peer][attack].as_str());
    for (attack, outcomes) in [
        // php-fpm alone is the control of them all.
        ("other-tenant-file", ["open", "held", "held", "held"]),
        ("host-tcp", ["open", "open", "held", "held"]),
        ("host-sysv-shm", ["open", "open", "held", "held"]),
        ("memfd-execute", ["open", "open", "open", "held"]),
        ("execute-written", ["open", "open", "open", "held"]),
        ("leaked-directory", ["open", "open", "open", "held"]),
        // The socket is passed to each of them, and the attack arrives at it.
        ("listener-shutdown", ["open", "open", "open", "held"]),
    ] {
        assert_eq!(row(attack), outcomes, "{attack}");
    }
    for (peer, outcomes) in seen {
        assert_eq!(outcomes.len(), ATTACKS.len(), "{peer}");
        let tried = outcomes.values().filter(|outcome| *outcome != "not-tried").count();
        assert!(tried + 15 > ATTACKS.len(), "{peer}: {tried} tried");
    }
}
