//! What the documents point at is there.
#![allow(missing_docs)]

use std::fs;
use std::path::Path;

#[test]
fn every_test_that_the_threat_model_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let model = fs::read_to_string(root.join("docs/threat-model.md")).expect("docs/threat-model.md");
    let mut tests = String::new();
    for entry in fs::read_dir(root.join("tests")).expect("tests/").flatten() {
        // A directory is none.
        tests.push_str(&fs::read_to_string(entry.path()).unwrap_or_default());
    }
    let rows = model.lines().filter(|line| line.starts_with("| ")).filter_map(|row| row.rsplit('|').nth(1));
    let named: Vec<&str> = rows.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    assert!(named.len() > 20, "{named:?}");
    for name in named {
        assert!(tests.contains(&format!("#[test]\nfn {name}(")), "no test {name}");
    }
}
