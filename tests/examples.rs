//! Every example is one that works: pool files pass `howdah check`, systemd's
//! units pass `systemd-analyze verify`, nginx's configuration passes `nginx -t`.
//!
//! The examples name paths of a server (`/srv/blog`, `/run/howdah`). Each test
//! copies what it needs to a temporary directory and moves those paths below it,
//! so that nothing of the machine is touched.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
const HOWDAH: &str = env!("CARGO_BIN_EXE_howdah");

#[test]
fn every_pool_file_passes_howdah_check() {
    let dir = workplace();
    let pools = below(Path::new(EXAMPLES), "toml");
    assert!(pools.len() >= 4, "{pools:?}");
    for pool in pools {
        let copy = moved_copy(&pool, dir.path());
        let output = check(&copy);
        assert!(output.status.success(), "howdah check {}: {}", pool.display(), told(&output));
        // The same file with a key that does not exist: so it was read at all.
        fs::write(&copy, format!("no_such_key = 1\n{}", fs::read_to_string(&copy).expect("the copy")))
            .expect("the copy");
        assert!(!check(&copy).status.success(), "howdah check {} does not read it", pool.display());
    }
}

fn check(pool: &Path) -> Output {
    Command::new(HOWDAH).arg("check").arg(pool).output().expect("howdah")
}

#[test]
fn units_pass_systemd_analyze_verify() {
    for set in ["systemd/one-howdah", "systemd/unit-per-pool"] {
        let dir = workplace();
        let mut units = Vec::new();
        for extension in ["service", "socket"] {
            for unit in below(&Path::new(EXAMPLES).join(set), extension) {
                let text = fs::read_to_string(&unit).expect("a unit");
                assert!(extension == "socket" || text.contains("ExecStart=/usr/local/bin/howdah "));
                // A template is verified as an instance of it.
                let name = unit.file_name().expect("a name").to_string_lossy().replace("@.", "@blog.");
                let copy = dir.path().join(name);
                fs::write(&copy, text.replace("/usr/local/bin/howdah", HOWDAH)).expect("a copy");
                units.push(copy);
            }
        }
        assert!(units.len() >= 2, "{set}: {units:?}");
        // Units that the machine itself has are none of ours to judge.
        let output = Command::new("systemd-analyze")
            .args(["verify", "--man=no", "--recursive-errors=no"])
            .args(&units)
            .output()
            .expect("systemd-analyze, of Debian's package systemd");
        let said = told(&output);
        assert!(output.status.success() && !said.contains("howdah"), "systemd-analyze verify {set}: {said}");
    }
}

#[test]
fn nginx_accepts_the_configuration_of_two_tenants() {
    let dir = workplace();
    let copy = moved_copy(&Path::new(EXAMPLES).join("two-tenants/nginx.conf"), dir.path());
    let output = Command::new("nginx")
        .args(["-t", "-q", "-p"])
        .arg(dir.path())
        .arg("-c")
        .arg(&copy)
        .output()
        .expect("nginx, of Debian's package nginx");
    assert!(output.status.success(), "nginx -t: {}", told(&output));
}

/// A directory that stands for the server: `srv/` has a site for each example.
fn workplace() -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("mode 0755");
    for site in ["site", "blog", "shop"] {
        fs::create_dir_all(dir.path().join("srv").join(site)).expect("a site");
    }
    dir
}

/// Copies `file` into `dir`, with the server's paths below `dir`.
fn moved_copy(file: &Path, dir: &Path) -> PathBuf {
    let text = fs::read_to_string(file).expect("an example");
    let here = dir.display();
    let moved = text
        .replace("/srv/", &format!("{here}/srv/"))
        .replace("/run/howdah/", &format!("{here}/run/howdah/"));
    let copy = dir.join(file.file_name().expect("a name"));
    fs::write(&copy, moved).expect("a copy");
    copy
}

/// The files below `dir` with this extension.
fn below(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory of examples") {
        let path = entry.expect("a directory entry").path();
        if path.is_dir() {
            files.extend(below(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), output.stderr.as_slice()].concat()).into_owned()
}
