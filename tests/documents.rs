//! What the documents point at is there.
#![allow(missing_docs)]

use std::fs;
use std::path::Path;

use howdah::attack::ATTACKS;

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
        // One that is run in several ways stands in the list of a macro.
        let in_list =
            tests.lines().any(|line| line.trim() == name) && tests.contains(&format!("\nfn {name}("));
        assert!(tests.contains(&format!("#[test]\nfn {name}(")) || in_list, "no test {name}");
    }
}

/// Attacks that were added since, or taken away: `tools/peers.sh --markdown` makes the table anew.
#[test]
fn the_table_of_peers_has_every_attack() {
    let document = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/peers.md"))
        .expect("docs/peers.md");
    let table = document.split("<!-- tools/peers.sh --markdown -->").nth(1).expect("a table");
    let total = format!("| **all {}** |", ATTACKS.len());
    let total = table.lines().find(|line| line.starts_with(&total)).expect("a row for all attacks there are");
    // The last column is the profile strict, of which nothing is open.
    let strict = total.split('|').map(str::trim).rev().nth(1).expect("columns");
    let (held, tried) = strict.split_once('/').expect("held/tried");
    assert_eq!(held, tried, "{total}");
    // Of each peer the card adds up: what it names and what it counts.
    let columns = total.split('|').count() - 3;
    let lists: Vec<&str> = table.lines().filter(|line| line.starts_with("- **")).collect();
    assert_eq!(lists.len(), columns);
    for (list, cell) in lists.iter().zip(total.split('|').skip(2)) {
        let cell = cell.trim().replace('*', "");
        let (held, tried) = cell.split_once('/').expect("held/tried");
        let [held, tried] = [held, tried].map(|word| word.parse::<usize>().expect("a number"));
        let named: Vec<&str> = list.split('`').skip(1).step_by(2).collect();
        assert_eq!(named.len(), ATTACKS.len() - held, "{list}");
        assert!(tried <= ATTACKS.len());
        for name in named {
            assert!(ATTACKS.iter().any(|attack| attack.id == name), "no attack {name}");
        }
    }
}
