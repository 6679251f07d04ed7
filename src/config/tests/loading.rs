//! Many files together.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::super::{Defaults, Loaded, load_pool, load_pools, load_serve};
use super::accounts;

fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let file = dir.join(name);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, text).unwrap();
    file
}

fn pool(socket: &str) -> String {
    format!("user = \"blog\"\nlisten = \"{socket}\"\n")
}

fn load(paths: &[PathBuf]) -> Loaded {
    load_pools(paths, &Defaults::default(), &accounts())
}

fn names(loaded: &Loaded) -> Vec<&str> {
    loaded.pools.iter().map(|pool| pool.name.as_str()).collect()
}

fn errors(loaded: &Loaded) -> Vec<String> {
    loaded.errors.iter().map(ToString::to_string).collect()
}

#[test]
fn one_bad_file_hides_no_other() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "b.toml", &pool("/b"));
    write(dir.path(), "a.toml", "lisen = 5\n");
    write(dir.path(), "c.toml", "listen = \"x\"\n");
    write(dir.path(), "d.toml", &pool("/d"));
    write(dir.path(), ".hidden.toml", "nonsense");
    write(dir.path(), "notes.txt", "nonsense");
    let single = write(dir.path(), "other/one.conf", &pool("/one"));
    let loaded = load(&[dir.path().to_owned(), single]);
    let here = dir.path().display();
    assert_eq!(names(&loaded), ["b", "d", "one"]);
    assert_eq!(
        errors(&loaded),
        [
            format!("{here}/a.toml:1: unknown key \"lisen\": did you mean \"listen\"?"),
            format!(
                "{here}/c.toml:1: listen: \"x\" is no address: write an absolute path, \"127.0.0.1:9001\" or \"[::1]:9001\""
            ),
        ]
    );
    assert_eq!(loaded.notices, []);
}

#[test]
fn two_pools_of_one_name_or_address() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "one/blog.toml", &pool("/a"));
    write(dir.path(), "two/blog.toml", &pool("/b"));
    write(dir.path(), "two/shop.toml", "user = \"shop\"\nlisten = [\n\"/s\",\n\"/a/\"]\n");
    write(dir.path(), "two/wiki.toml", &pool("/s"));
    let loaded = load(&[dir.path().join("one"), dir.path().join("two")]);
    let here = dir.path().display();
    assert_eq!(names(&loaded), ["blog", "wiki"]);
    assert_eq!(
        errors(&loaded),
        [
            format!("{here}/two/blog.toml: pool blog is also defined by {here}/one/blog.toml: rename one"),
            format!(
                "{here}/two/shop.toml:4: listen /a is taken by {here}/one/blog.toml: give each pool its own"
            ),
        ]
    );
}

#[test]
fn an_empty_directory_is_a_notice() {
    let dir = tempfile::tempdir().unwrap();
    let loaded = load(&[dir.path().to_owned()]);
    assert_eq!(loaded.errors, []);
    let notices: Vec<String> = loaded.notices.iter().map(ToString::to_string).collect();
    assert_eq!(notices, [format!("{}: no pool files (*.toml) here yet", dir.path().display())]);
}

#[test]
fn files_that_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path().display();
    let line = |path: &Path| load_pool(path, &Defaults::default(), &accounts()).unwrap_err().to_string();
    assert_eq!(
        line(&dir.path().join("none.toml")),
        format!("{here}/none.toml: No such file or directory (ENOENT): create it, or name another")
    );
    let directory = dir.path().join("dir.toml");
    fs::create_dir(&directory).unwrap();
    assert_eq!(
        line(&directory),
        format!("{here}/dir.toml: not a file: name a pool file or a directory of them")
    );
    let fifo = dir.path().join("fifo.toml");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(line(&fifo), format!("{here}/fifo.toml: not a file: name a pool file or a directory of them"));
    let long = dir.path().join("long.toml");
    fs::File::create(&long).unwrap().set_len(2 << 20).unwrap();
    assert_eq!(
        line(&long),
        format!("{here}/long.toml: longer than 1 MiB: this is no configuration of howdah's")
    );
    let latin = dir.path().join("latin.toml");
    fs::write(&latin, b"# caf\n# caf\xe9\n").unwrap();
    assert_eq!(line(&latin), format!("{here}/latin.toml:2: not UTF-8: save the file as UTF-8"));
    let private = write(dir.path(), "private.toml", "");
    fs::set_permissions(&private, fs::Permissions::from_mode(0o000)).unwrap();
    // Root reads it all the same.
    if !nix::unistd::geteuid().is_root() {
        assert_eq!(
            line(&private),
            format!("{here}/private.toml: Permission denied (EACCES): let howdah's user read it")
        );
    }
}

#[test]
fn an_unreadable_file_is_told_with_its_cure() {
    let denied = std::io::Error::from_raw_os_error(nix::libc::EACCES);
    assert_eq!(
        super::super::ConfigError::unreadable(Path::new("/p/a.toml"), &denied).to_string(),
        "/p/a.toml: Permission denied (EACCES): let howdah's user read it"
    );
}

#[test]
fn a_howdah_toml_that_is_named_must_be_there() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("howdah.toml");
    assert_eq!(
        load_serve(Some(&file), &accounts()).unwrap_err().to_string(),
        format!("{}: No such file or directory (ENOENT): create it, or name another", file.display())
    );
    fs::write(&file, "[serve]\ndrain = \"1s\"\n").unwrap();
    assert_eq!(load_serve(Some(&file), &accounts()).unwrap().0.drain.as_secs(), 1);
}

/// The budget is for the release build; this build is several times slower
/// and the machine may be busy, so only a blow-up fails here.
#[test]
fn ten_thousand_pools_load_quickly() {
    let dir = tempfile::tempdir().unwrap();
    for n in 0..10_000 {
        let text = format!(
            "listen = \"/run/howdah/p{n}.sock\"\nuser = \"blog\"\n[[mount]]\nsource = \"/srv/p{n}\"\n[idle]\nstop = \"5m\"\n\
             [limits]\nmemory = \"128M\"\n[fpm]\nmax_children = 3\n[php.admin_value]\nmemory_limit = \"64M\"\n"
        );
        fs::write(dir.path().join(format!("p{n}.toml")), text).unwrap();
    }
    let begin = Instant::now();
    let loaded = load(&[dir.path().to_owned()]);
    assert_eq!((loaded.pools.len(), loaded.errors.len()), (10_000, 0));
    let took = begin.elapsed();
    assert!(took.as_secs() < 15, "took {took:?}");
}
