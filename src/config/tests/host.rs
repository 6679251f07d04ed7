//! What a pool names on the host.

use std::fs;

use super::super::{Defaults, check_host, load_pool};
use super::accounts;

#[test]
fn what_is_not_there_is_told_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path().display();
    let file = dir.path().join("blog.toml");
    fs::write(dir.path().join("a"), "").unwrap();
    let text = format!(
        "listen = \"/a\"\nuser = \"blog\"\nimage = \"{here}/a\"\nprofile = \"{here}/none.toml\"\n\
         [[mount]]\nsource = \"{here}/a\"\n[[mount]]\nsource = \"{here}/none/\"\n[fpm]\nconfig = \"{here}\"\n"
    );
    fs::write(&file, text).unwrap();
    let pool = load_pool(&file, &Defaults::default(), &accounts()).unwrap();
    let lines: Vec<String> = check_host(&pool).iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            format!("{here}/blog.toml:3: image {here}/a is no directory"),
            format!(
                "{here}/blog.toml:4: profile {here}/none.toml does not exist: create it, or correct the path"
            ),
            format!(
                "{here}/blog.toml:8: mount.source {here}/none does not exist: create it, or correct the path"
            ),
            format!("{here}/blog.toml:10: fpm.config {here} is no file"),
        ]
    );
}

#[test]
fn a_pool_whose_paths_are_there_is_good() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("blog.toml");
    let here = dir.path().display();
    fs::write(&file, format!("listen = \"/a\"\nuser = \"blog\"\n[[mount]]\nsource = \"{here}\"\n")).unwrap();
    let pool = load_pool(&file, &Defaults::default(), &accounts()).unwrap();
    assert_eq!(check_host(&pool), []);
}
