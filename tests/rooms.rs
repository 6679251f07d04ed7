//! Holds the order of the rooms: a room imports only rooms above it in the list
//! of `src/lib.rs`, `unsafe` stands in one file, and no room has a name that
//! gathers everything.
//!
//! It reads the source as words, not as Rust: enough to find each `crate::…` and
//! `super::…` path, inside and outside `use`, and nothing of it depends on what
//! the code means. Tests inside a room are held to the same order.

use std::fs;
use std::path::{Path, PathBuf};

/// Where `unsafe` may stand, below `src/`, each with its reason.
const UNSAFE_IN: &[&str] = &[
    "sys.rs",       // system calls that no library wraps
    "probe/raw.rs", // the same for the probe of `howdah audit`, a program of its own
];

/// Names of modules to which anything can be added, so that cycles begin there.
const NO_ROOM: &[&str] = &["common", "utils", "util", "helpers", "helper", "misc"];

/// Imports that the order alone would allow.
const FORBIDDEN: &[(&str, &str, &str)] = &[
    ("sandbox", "fpm", "the sandbox knows nothing of php-fpm"),
    ("sandbox", "image", "the sandbox is told its root by the spec"),
    ("sandbox", "config::pool", "the sandbox knows nothing of pools"),
    ("fpm", "image", "php-fpm's files are written the same way for every image"),
];

#[test]
fn a_room_imports_only_rooms_above_it() {
    let found = violations(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

/// Every way in which the tree below `src` breaks the rules, one line each.
fn violations(src: &Path) -> Vec<String> {
    let lib = fs::read_to_string(src.join("lib.rs")).expect("src/lib.rs");
    let order = listed_rooms(&lib);
    let mut found = unlisted_rooms(&lib, &order);
    for file in rust_files(src) {
        let name = file.strip_prefix(src).expect("a file below src").display().to_string();
        let words = words(&fs::read_to_string(&file).expect("readable source"));
        let modules = module_of(&name);
        found.extend(forbidden_names(&name, &modules, &words));
        if words.iter().any(|word| word.text == "unsafe") && !UNSAFE_IN.contains(&name.as_str()) {
            found.push(format!("{name}: unsafe stands only in {}", UNSAFE_IN.join(", ")));
        }
        if let Some(room) = modules.first() {
            found.extend(forbidden_imports(&name, room, &modules, &words, &order));
        }
    }
    found
}

/// The rooms in the order of the list in lib.rs's documentation.
fn listed_rooms(lib: &str) -> Vec<String> {
    let documentation = lib.lines().filter_map(|line| line.strip_prefix("//! - "));
    documentation
        .flat_map(|line| {
            line.split("[`").skip(1).filter_map(|rest| Some(rest.split_once("`]")?.0.to_owned()))
        })
        .collect()
}

/// Modules that lib.rs declares and does not list, and the other way round.
fn unlisted_rooms(lib: &str, order: &[String]) -> Vec<String> {
    let words = words(lib);
    let declared: Vec<&str> =
        words.windows(2).filter(|pair| pair[0].text == "mod").map(|pair| pair[1].text.as_str()).collect();
    let unlisted = declared.iter().filter(|room| !order.iter().any(|listed| listed == *room));
    let undeclared = order.iter().filter(|room| !declared.contains(&room.as_str()));
    unlisted
        .map(|room| format!("lib.rs: room {room} is not in the list of rooms"))
        .chain(undeclared.map(|room| format!("lib.rs: {room} is in the list of rooms and no module")))
        .collect()
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory of source") {
        let path = entry.expect("a directory entry").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// `config/pool.rs` is `config::pool`; lib.rs and main.rs are no room.
fn module_of(name: &str) -> Vec<String> {
    let stem = name.strip_suffix(".rs").unwrap_or(name);
    let stem = stem.strip_suffix("/mod").unwrap_or(stem);
    if matches!(stem, "lib" | "main") { Vec::new() } else { stem.split('/').map(str::to_owned).collect() }
}

fn forbidden_names(name: &str, modules: &[String], words: &[Word]) -> Vec<String> {
    let inline = words.windows(2).filter(|pair| pair[0].text == "mod").map(|pair| &pair[1].text);
    modules
        .iter()
        .chain(inline)
        .filter(|module| NO_ROOM.contains(&module.as_str()))
        .map(|module| format!("{name}: a module named {module} says nothing of what is in it"))
        .collect()
}

fn forbidden_imports(
    name: &str,
    room: &str,
    modules: &[String],
    words: &[Word],
    order: &[String],
) -> Vec<String> {
    let place = |wanted: &str| order.iter().position(|listed| listed == wanted);
    let Some(own) = place(room) else {
        return Vec::new(); // lib.rs is told of it
    };
    let mut found = Vec::new();
    for (line, path) in crate_paths(modules, words) {
        let target = path.split("::").next().unwrap_or_default();
        match place(target) {
            None => found.push(format!("{name}:{line}: crate::{path} names no room")),
            Some(there) if there > own => {
                found.push(format!("{name}:{line}: {room} imports {path}, which is below it"));
            }
            Some(_) => {}
        }
        found.extend(
            FORBIDDEN.iter().filter(|(from, to, _)| *from == room && reaches(&path, to)).map(
                |(_, to, why)| format!("{name}:{line}: {room} imports {path}, which reaches {to}: {why}"),
            ),
        );
    }
    found
}

/// Whether an import of `path` gives a way to `target`: it is inside it, or it
/// is a module around it.
fn reaches(path: &str, target: &str) -> bool {
    let path = path.strip_suffix("::*").unwrap_or(path);
    let inside = |inner: &str, outer: &str| {
        inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    inside(path, target) || inside(target, path)
}

/// Every path from the crate's root, with its line: `crate::a::{b, c::d}` gives
/// `a::b` and `a::c::d`, and `super::super::a` the same as `crate::a` where it
/// climbs that far.
fn crate_paths(modules: &[String], words: &[Word]) -> Vec<(usize, String)> {
    let mut paths = Vec::new();
    let mut blocks: Vec<bool> = Vec::new(); // for each open brace: is it a module's?
    let mut at = 0;
    while at < words.len() {
        let depth = modules.len() + blocks.iter().filter(|is_module| **is_module).count();
        match words[at].text.as_str() {
            "{" => blocks.push(at >= 2 && words[at - 2].text == "mod"),
            "}" => {
                blocks.pop();
            }
            "crate" if text(words, at + 1) == "::" => {
                expand(words, at + 2, "", &mut paths);
            }
            "super" if at == 0 || words[at - 1].text != "::" => {
                let climbed = words[at..].chunks(2).take_while(|step| is_step_up(step)).count();
                if climbed == depth {
                    expand(words, at + 2 * climbed, "", &mut paths);
                }
            }
            _ => {}
        }
        at += 1;
    }
    paths
}

fn is_step_up(step: &[Word]) -> bool {
    step.len() == 2 && step[0].text == "super" && step[1].text == "::"
}

fn text(words: &[Word], at: usize) -> &str {
    words.get(at).map_or("", |word| &word.text)
}

/// Reads the path or group that begins at `at`, below `prefix`; returns where it ends.
fn expand(words: &[Word], mut at: usize, prefix: &str, paths: &mut Vec<(usize, String)>) -> usize {
    let line = words.get(at).map_or(0, |word| word.line);
    let mut path = prefix.to_owned();
    loop {
        match text(words, at) {
            "{" => {
                at += 1;
                while !matches!(text(words, at), "}" | "") {
                    at = expand(words, at, &path, paths);
                    if text(words, at) == "as" {
                        at += 2;
                    }
                    if text(words, at) == "," {
                        at += 1;
                    } else if text(words, at) != "}" {
                        return at; // no list of imports after all
                    }
                }
                return at + 1;
            }
            "self" => at += 1,
            name => {
                if !path.is_empty() {
                    path.push_str("::");
                }
                path.push_str(name);
                at += 1;
            }
        }
        if text(words, at) != "::" || text(words, at + 1) == "<" {
            paths.push((line, path));
            return at;
        }
        at += 1;
    }
}

/// A word of Rust: a name, `::`, or one character of punctuation.
struct Word {
    text: String,
    line: usize,
}

/// The source without comments, strings and characters.
fn words(source: &str) -> Vec<Word> {
    let mut words = Vec::new();
    let mut rest = source;
    let mut line = 1;
    while let Some(first) = rest.chars().next() {
        let (length, is_word) = piece(rest, first);
        let (text, after) = rest.split_at(length);
        if is_word {
            words.push(Word { text: text.strip_prefix("r#").unwrap_or(text).to_owned(), line });
        }
        line += text.matches('\n').count();
        rest = after;
    }
    words
}

/// How long the piece at the beginning of `rest` is, and whether it is a word.
fn piece(rest: &str, first: char) -> (usize, bool) {
    let name_length =
        |text: &str| text.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(text.len());
    if rest.starts_with("//") {
        return (rest.find('\n').unwrap_or(rest.len()), false);
    }
    if rest.starts_with("/*") {
        return (block_comment(rest), false);
    }
    if let Some(length) = raw_string(rest) {
        return (length, false);
    }
    match first {
        '"' => (quoted(rest, '"'), false),
        // 'a' and '\n' are characters, 'a alone is a lifetime.
        '\'' if rest[1..].starts_with('\\') => (quoted(rest, '\''), false),
        '\'' if rest[1..].chars().nth(1) == Some('\'') => {
            (rest[1..].find('\'').map_or(1, |end| end + 2), false)
        }
        '\'' => (1 + name_length(&rest[1..]), false),
        _ if rest.starts_with("::") => (2, true),
        _ if rest.starts_with("r#") => (2 + name_length(&rest[2..]), true),
        _ if first == '_' || first.is_alphanumeric() => (name_length(rest), true),
        _ => (first.len_utf8(), !first.is_whitespace()),
    }
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    loop {
        let here = &rest[at..];
        if here.starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if here.starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
        } else {
            at += here.chars().next().map_or(0, char::len_utf8);
        }
        if depth == 0 || at >= rest.len() {
            return at.min(rest.len());
        }
    }
}

fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        if !escaped && c == quote {
            return at + 1;
        }
        escaped = !escaped && c == '\\';
    }
    rest.len()
}

/// The length of `r"…"`, `r#"…"#`, `br"…"` or `cr"…"`.
fn raw_string(rest: &str) -> Option<usize> {
    let after = rest.strip_prefix(['b', 'c']).unwrap_or(rest).strip_prefix('r')?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    let body = after[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let begin = rest.len() - body.len();
    Some(body.find(&end).map_or(rest.len(), |at| begin + at + end.len()))
}

/// A tree of source that keeps every rule; the tests below break one each.
const KEEPS_THE_RULES: &[(&str, &str)] = &[
    (
        "lib.rs",
        "//! - [`sys`]: a\n//! - [`config`]: b\n//! - [`fpm`]: c\n//! - [`image`]: d\n//! - [`sandbox`]: e\n\
         //! - [`pool`]: f\n//! - [`command`] and [`cli`]: g\n\
         pub mod cli; pub mod command; pub mod config; pub mod fpm; pub mod image; pub mod pool;\n\
         pub mod sandbox; pub mod sys;\n",
    ),
    ("main.rs", "fn main() { howdah::cli::run() }"),
    ("sys.rs", "pub fn f() { unsafe { g() } }"),
    ("config/mod.rs", "pub mod pool; pub mod types;"),
    ("config/pool.rs", "use super::types::PoolName; mod tests { use super::super::types::*; use super::*; }"),
    ("config/types.rs", "// crate::pool in a comment\nconst S: &str = \"crate::pool unsafe\"; /* unsafe */"),
    ("fpm/mod.rs", "use crate::config::{pool::{Fpm, Php}, types::AbsPath};"),
    (
        "image.rs",
        "fn f<'a>(c: char) -> &'a str { if c == '\"' { r#\"crate::cli\"# } else { \"\\\"unsafe\" } }",
    ),
    ("sandbox/mod.rs", "use crate::{config::types::AbsPath, sys};"),
    ("pool/mod.rs", "use crate::sandbox::launch as start; fn f() { crate::fpm::get::<u8>() }"),
    ("command.rs", "use crate::{config, pool};"),
    ("cli.rs", "use super::command;"),
];

/// What is found when `file` of the tree above reads `source` instead.
fn with(file: &str, source: &str) -> Vec<String> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let others = KEEPS_THE_RULES.iter().filter(|(name, _)| *name != file);
    for (name, content) in others.chain([&(file, source)]) {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(path, content).expect("a file");
    }
    violations(dir.path())
}

#[test]
fn a_tree_that_keeps_the_rules_passes() {
    assert_eq!(with("cli.rs", "use super::command;"), Vec::<String>::new());
}

#[test]
fn each_way_to_break_the_rules_is_found() {
    let broken = [
        ("sys.rs", "use crate::config::types;", "sys.rs:1: sys imports config::types, which is below it"),
        (
            "fpm/mod.rs",
            "\n use crate::{sys, pool::P};",
            "fpm/mod.rs:2: fpm imports pool::P, which is below it",
        ),
        ("fpm/mod.rs", "fn f() { super::pool::go() }", "fpm imports pool::go"),
        ("fpm/deep/er.rs", "use super::super::super::cli;", "fpm imports cli"),
        ("fpm/mod.rs", "mod tests { use super::super::cli::Args; }", "fpm imports cli::Args"),
        ("fpm/mod.rs", "type T = crate::pool::Pool;", "fpm imports pool::Pool"),
        ("fpm/mod.rs", "use crate::image;", "fpm imports image, which is below it"),
        ("config/types.rs", "use crate::*;", "crate::* names no room"),
        ("config/types.rs", "use crate::Pool;", "crate::Pool names no room"),
        ("sandbox/mod.rs", "use crate::fpm::Client;", "the sandbox knows nothing of php-fpm"),
        ("sandbox/mod.rs", "use crate::image;", "the sandbox is told its root by the spec"),
        (
            "sandbox/mod.rs",
            "use crate::config::{types::A, pool::Pool};",
            "the sandbox knows nothing of pools",
        ),
        ("sandbox/mod.rs", "use crate::config;", "sandbox imports config, which reaches config::pool"),
        ("sandbox/mod.rs", "use crate::config::*;", "which reaches config::pool"),
        ("sandbox/mod.rs", "use crate::config::{self, types};", "which reaches config::pool"),
        ("sandbox/child.rs", "fn f() { unsafe {} }", "sandbox/child.rs: unsafe stands only in sys.rs"),
        ("main.rs", "fn main() { unsafe {} }", "main.rs: unsafe stands only in sys.rs"),
        ("config/common.rs", "", "config/common.rs: a module named common"),
        ("helpers/mod.rs", "", "helpers/mod.rs: a module named helpers"),
        ("image.rs", "mod utils { }", "image.rs: a module named utils"),
        ("lib.rs", "//! - [`sys`]: a\npub mod sys; mod extra;", "lib.rs: room extra is not in the list"),
        ("lib.rs", "//! - [`gone`]: a\n", "lib.rs: gone is in the list of rooms and no module"),
    ];
    for (file, source, expected) in broken {
        let found = with(file, source);
        assert!(found.iter().any(|line| line.contains(expected)), "{source:?} in {file}: {found:#?}");
    }
}
