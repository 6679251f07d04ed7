//! Holds what howdah is built from: licences, one version of each crate, the
//! minimum Rust, and a written reason for each direct dependency.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// The Rust that Debian 13 packages.
const MINIMUM_RUST: &str = "1.85";

/// Licences that a program under MIT OR Apache-2.0 may be linked with, without
/// more than keeping their text.
const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Crates that come in two versions, and why that is borne.
const DOUBLED: &[(&str, &str)] = &[(
    "syn",
    "only compiles derives: clap, serde and thiserror are at 3, oci-spec and landlock's derives still at 2",
)];

/// Crates that do not say which Rust they need, at the version that was built
/// and tested with the minimum. One that is updated is to be built with it again:
/// syscalls 0.7 needed Rust 1.87 and did not say so.
const BUILT_WITH_MINIMUM: &[&str] = &[
    "block-buffer 0.10.4",
    "cfg_aliases 0.2.2",
    "cpufeatures 0.2.17",
    "crypto-common 0.1.7",
    "derive_builder 0.20.2",
    "derive_builder_core 0.20.2",
    "derive_builder_macro 0.20.2",
    "digest 0.10.7",
    "fnv 1.0.7",
    "generic-array 0.14.7",
    "getset 0.1.7",
    "hmac 0.12.1",
    "ident_case 1.0.1",
    "konst 0.2.20",
    "konst_macro_rules 0.2.19",
    "memoffset 0.9.1",
    "oci-spec 0.10.0",
    "seccompiler 0.5.0",
    "sha2 0.10.9",
    "subtle 2.6.1",
    "syscalls 0.6.18",
    "unarray 0.1.4",
    "utf8parse 0.2.2",
    "version_check 0.9.5",
];

#[test]
fn every_licence_is_one_of_the_list() {
    let refused: Vec<String> = packages(&metadata())
        .filter(|package| !package["license"].as_str().is_some_and(is_allowed))
        .map(|package| format!("{} {}: {}", package["name"], package["version"], package["license"]))
        .collect();
    assert!(refused.is_empty(), "licences outside the list:\n{}", refused.join("\n"));
}

#[test]
fn no_crate_is_built_in_two_versions() {
    let metadata = metadata();
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in built(&metadata) {
        versions.entry(text(&package["name"])).or_default().insert(text(&package["version"]));
    }
    assert!(versions.len() > 20, "the graph has {} crates: it was not read", versions.len());
    versions.retain(|_, found| found.len() > 1);
    let expected: BTreeSet<&str> = DOUBLED.iter().map(|(name, _)| *name).collect();
    let found: BTreeSet<&str> = versions.keys().copied().collect();
    assert_eq!(
        found, expected,
        "doubled crates (left) and the list of those with a reason (right): {versions:?}"
    );
}

#[test]
fn nothing_asks_for_a_newer_rust() {
    let metadata = metadata();
    let limit = rust_version(MINIMUM_RUST);
    for package in packages(&metadata) {
        let name = format!("{} {}", text(&package["name"]), text(&package["version"]));
        match package["rust_version"].as_str() {
            Some(asked) => assert!(rust_version(asked) <= limit, "{name} asks for Rust {asked}"),
            None => assert!(
                BUILT_WITH_MINIMUM.contains(&name.as_str()),
                "{name} does not say which Rust it needs: build it with {MINIMUM_RUST}, then list it"
            ),
        }
    }
    assert_eq!(root(&metadata)["rust_version"], MINIMUM_RUST, "Cargo.toml: rust-version");
}

#[test]
fn every_direct_dependency_has_its_reason() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/dependencies.md"))
        .expect("docs/dependencies.md");
    let metadata = metadata();
    let direct: BTreeSet<&str> =
        array(&root(&metadata)["dependencies"]).map(|dep| text(&dep["name"])).collect();
    let sections: BTreeMap<&str, &str> =
        page.split("\n### ").skip(1).filter_map(|section| section.split_once('\n')).collect();
    let explained: BTreeSet<&str> = sections.keys().copied().collect();
    assert_eq!(explained, direct, "headings of docs/dependencies.md (left), Cargo.toml (right)");
    for (name, reason) in sections {
        assert!(reason.split_whitespace().count() >= 8, "docs/dependencies.md: {name} has no reason");
    }
}

/// What cargo knows of the whole graph, tests included, on this platform (the
/// crates of others need not even be downloaded).
fn metadata() -> Value {
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", &platform])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo metadata");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().expect("an array").iter()
}

fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}

fn packages(metadata: &Value) -> impl Iterator<Item = &Value> {
    let used: BTreeSet<&str> = array(&metadata["resolve"]["nodes"]).map(|node| text(&node["id"])).collect();
    array(&metadata["packages"]).filter(move |package| used.contains(text(&package["id"])))
}

fn root(metadata: &Value) -> &Value {
    let id = &metadata["resolve"]["root"];
    packages(metadata).find(|package| package["id"] == *id).expect("the root package")
}

/// The crates that a build of howdah compiles: its normal and build dependencies.
fn built(metadata: &Value) -> Vec<&Value> {
    let nodes: BTreeMap<&str, &Value> =
        array(&metadata["resolve"]["nodes"]).map(|node| (text(&node["id"]), node)).collect();
    let mut reached = BTreeSet::new();
    let mut next = vec![text(&metadata["resolve"]["root"])];
    while let Some(id) = next.pop() {
        if reached.insert(id) {
            let used = array(&nodes[id]["deps"])
                .filter(|dep| array(&dep["dep_kinds"]).any(|kind| kind["kind"].as_str() != Some("dev")));
            next.extend(used.map(|dep| text(&dep["pkg"])));
        }
    }
    packages(metadata).filter(|package| reached.contains(text(&package["id"]))).collect()
}

/// `1.85` and `1.85.0` as (1, 85); the third number never decides here.
fn rust_version(version: &str) -> (u32, u32) {
    let mut numbers = version.split('.').map(|number| number.parse().expect("a number"));
    (numbers.next().expect("major"), numbers.next().unwrap_or(0))
}

/// Whether an SPDX expression can be fulfilled by the list: one side of an OR,
/// both of an AND, which binds closer. The old `MIT/Apache-2.0` means OR.
fn is_allowed(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    any_of(&mut rest) == Some(true) && rest.is_empty()
}

fn any_of(words: &mut &[&str]) -> Option<bool> {
    let mut allowed = all_of(words)?;
    while let ["OR", rest @ ..] = *words {
        *words = rest;
        allowed |= all_of(words)?;
    }
    Some(allowed)
}

fn all_of(words: &mut &[&str]) -> Option<bool> {
    let mut allowed = licence(words)?;
    while let ["AND", rest @ ..] = *words {
        *words = rest;
        allowed &= licence(words)?;
    }
    Some(allowed)
}

fn licence(words: &mut &[&str]) -> Option<bool> {
    match *words {
        ["(", rest @ ..] => {
            *words = rest;
            let allowed = any_of(words)?;
            let [")", rest @ ..] = *words else { return None };
            *words = rest;
            Some(allowed)
        }
        [name, "WITH", exception, rest @ ..] => {
            *words = rest;
            Some(LICENCES.contains(&format!("{name} WITH {exception}").as_str()))
        }
        [name, rest @ ..] => {
            *words = rest;
            Some(LICENCES.contains(name))
        }
        [] => None,
    }
}

#[test]
fn licence_expressions_are_understood() {
    for good in [
        "MIT",
        "MIT/Apache-2.0",
        "Fnord OR MIT",
        "MIT OR Apache-2.0 OR LGPL-2.1-or-later",
        "(MIT OR Apache-2.0) AND Unicode-3.0",
        "Apache-2.0 WITH LLVM-exception OR Fnord",
        "GPL-3.0-only AND MIT OR ISC",
    ] {
        assert!(is_allowed(good), "{good}");
    }
    for bad in [
        "",
        "GPL-3.0-only",
        "MIT AND GPL-3.0-only",
        "(MIT OR ISC) AND Fnord",
        "MIT WITH Fnord",
        "(MIT",
        "MIT ISC",
        "MIT OR",
        "AND MIT",
    ] {
        assert!(!is_allowed(bad), "{bad}");
    }
}
