//! The commands beside `serve`, as they are typed: what they print, to whom,
//! and their exit status.
#![allow(missing_docs)]

mod rig;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::chown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use howdah::fpm::client::exchange;
use oci_spec::runtime::Spec;
use rig::{HOWDAH, Rig, TENANT, wait_for};
use serde_json::{Value, json};

fn howdah(words: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=10", "60", HOWDAH]).args(words).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Exit status, stdout, stderr.
fn said(output: &Output) -> (i32, String, String) {
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

// ---------------------------------------------------------------- help and usage

const COMMANDS: [&str; 6] = ["serve", "check", "ps", "request", "spec", "completions"];

#[test]
fn the_help_of_each_command_has_an_example_that_it_takes_itself() {
    for command in COMMANDS {
        let (status, help, _) = said(&howdah(&[command, "--help"]));
        assert_eq!(status, 0);
        let example = help.lines().skip_while(|line| *line != "Example:").nth(1);
        let example = example.unwrap_or_else(|| panic!("{command} --help has no example:\n{help}")).trim();
        assert!(example.starts_with(&format!("howdah {command}")), "{example}");
        // The example's own words are words that the command knows: no usage error.
        let words: Vec<&str> = example.split(['|', '>']).next().unwrap().split_whitespace().skip(1).collect();
        let known = <howdah::cli::Cli as clap::Parser>::try_parse_from(["howdah"].iter().chain(&words));
        assert!(known.is_ok(), "{example}: {known:?}");
        assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
    }
    let (status, help, _) = said(&howdah(&["--help"]));
    assert_eq!(status, 0);
    for command in COMMANDS {
        assert!(help.lines().any(|line| line.trim_start().starts_with(command)), "{command} in {help}");
    }
    assert!(help.contains("Example:"));
}

#[test]
fn what_cannot_be_understood_is_a_usage_error_with_exit_status_2() {
    for (words, line) in [
        (&["serv"][..], "error: unrecognized subcommand 'serv'"),
        (&["ps", "--jsn"], "error: unexpected argument '--jsn' found"),
        (&["request", "blog"], "error: the following required arguments were not provided:"),
        (&["completions", "tcsh"], "error: invalid value 'tcsh' for '<SHELL>'"),
        (
            &["request", "blog", "/", "--timeout", "soon"],
            "error: invalid value 'soon' for '--timeout <TIMEOUT>'",
        ),
    ] {
        let (status, out, err) = said(&howdah(words));
        assert_eq!((status, out.as_str()), (2, ""), "{err}");
        assert!(err.starts_with(line), "{err}");
        assert!(err.contains("--help") || err.contains("possible values"), "{err}");
    }
    let (_, _, err) = said(&howdah(&["serv"]));
    assert!(err.contains("tip: a similar subcommand exists: 'serve'"), "{err}");
    let (_, _, err) = said(&howdah(&["ps", "--jsn"]));
    assert!(err.contains("tip: a similar argument exists: '--json'"), "{err}");
    let (status, _, err) = said(&howdah(&[]));
    assert_eq!(status, 2);
    assert!(err.contains("Usage: howdah"), "{err}");
}

#[test]
fn the_version_is_the_package_s() {
    let (status, out, _) = said(&howdah(&["--version"]));
    assert_eq!((status, out), (0, format!("howdah {}\n", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn completions_are_what_each_shell_can_read() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (status, script, err) = said(&howdah(&["completions", shell]));
        assert_eq!((status, err.as_str()), (0, ""));
        for word in COMMANDS.iter().chain(&["runtime-dir", "exit-when-idle"]) {
            assert!(script.contains(word), "no {word} for {shell}");
        }
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("howdah");
        fs::write(&file, &script).unwrap();
        // The shells that are here read it without a word.
        if let Ok(output) = Command::new(shell).arg("-n").arg(&file).stdin(Stdio::null()).output() {
            assert!(output.status.success(), "{shell}: {}", text(&output.stderr));
        }
    }
    let complete = "source /dev/stdin; COMP_WORDS=(howdah re); COMP_CWORD=1; _howdah howdah re howdah; echo ${COMPREPLY[@]}";
    let mut bash = Command::new("bash")
        .args(["-c", complete])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let script = howdah(&["completions", "bash"]).stdout;
    bash.stdin.take().unwrap().write_all(&script).unwrap();
    assert_eq!(text(&bash.wait_with_output().unwrap().stdout), "request\n");
}

#[test]
fn output_that_nobody_reads_to_its_end_is_no_failure() {
    for words in ["completions bash", "--help", "serve --help"] {
        let script = format!("{HOWDAH} {words} | head -1");
        let output = Command::new("bash").args(["-c", &script]).stdin(Stdio::null()).output().unwrap();
        assert_eq!(text(&output.stderr), "", "{words}");
    }
}

// ---------------------------------------------------------------- check

fn check_json(rig: &Rig) -> (i32, Value) {
    let (config, pools) = (rig.path("howdah.toml"), rig.path("pools"));
    let output = howdah(&["check", "--json", "--config", config.to_str().unwrap(), pools.to_str().unwrap()]);
    let (status, out, err) = said(&output);
    assert_eq!(err, "", "what is wrong stands in the JSON");
    (status, serde_json::from_str(&out).unwrap())
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn check_in_json_tells_the_host_and_each_pool() {
    let rig = Rig::new();
    rig.pool("blog", "");
    let bad = rig.pool("shop", "[limits]\ntaks = 3\n");
    let (status, report) = check_json(&rig);
    assert_eq!(status, 3);
    assert_eq!(
        keys(&report),
        BTreeSet::from(["errors", "host", "no_templates", "notices", "pools", "templates"])
    );
    let host = &report["host"];
    for key in
        ["kernel", "user_namespaces", "cgroup", "cgroup_controllers", "landlock_abi", "seccomp", "php_fpm"]
    {
        assert!(keys(host).contains(key), "{key} in {host}");
    }
    assert_eq!(
        (&host["root"], &host["user_namespaces"], &host["seccomp"]),
        (&json!(true), &json!(true), &json!(true))
    );
    assert_eq!(host["refusal"], Value::Null);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(host["kernel"], kernel.trim());
    let error = report["errors"][0].as_str().unwrap();
    assert!(error.starts_with(&format!("{}:", bad.display())), "{error}");
    assert!(error.ends_with("unknown key \"limits.taks\": did you mean \"limits.tasks\"?"), "{error}");
    let pool = &report["pools"][0];
    assert_eq!(pool["pool"], "blog");
    assert_eq!(pool["listen"], json!([rig.socket("blog")]));
    assert_eq!(
        (&pool["user"], &pool["image"], &pool["profile"]),
        (&json!("www-data"), &json!("host"), &json!("hosting"))
    );
    assert!(pool["php"].as_str().unwrap().starts_with(|c: char| c.is_ascii_digit()), "{pool}");
    assert_eq!((&pool["errors"], &pool["notices"]), (&json!([]), &json!([])));
    assert_eq!(report["pools"].as_array().unwrap().len(), 1);
}

#[test]
fn check_in_json_tells_what_is_wrong_on_this_host_with_its_pool() {
    let rig = Rig::new();
    rig.pool("blog", "[[mount]]\nsource = \"/nowhere\"\n");
    let (status, report) = check_json(&rig);
    assert_eq!((status, &report["errors"]), (3, &json!([])));
    let error = report["pools"][0]["errors"][0].as_str().unwrap();
    assert!(
        error.ends_with("mount.source /nowhere does not exist: create it, or correct the path"),
        "{error}"
    );
}

#[test]
fn check_touches_nothing() {
    let rig = Rig::new();
    rig.pool("blog", "");
    let before: BTreeSet<_> =
        fs::read_dir(rig.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let temporary = tempfile::tempdir().unwrap();
    let output = Command::new(HOWDAH)
        .arg("check")
        .arg("--config")
        .arg(rig.path("howdah.toml"))
        .arg(rig.path("pools"))
        .env("TMPDIR", temporary.path())
        .output()
        .unwrap();
    let (status, out, err) = said(&output);
    assert_eq!((status, err.as_str()), (0, ""));
    for line in ["host", "pool blog", "  profile           hosting"] {
        assert!(out.lines().any(|one| one == line), "no line {line:?} in\n{out}");
    }
    let after: BTreeSet<_> =
        fs::read_dir(rig.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(before, after);
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0, "its scratch directory is left behind");
}

// ---------------------------------------------------------------- ps and request

/// A running serve with the pools `blog` and `shop`.
fn running() -> Rig {
    let mut rig = Rig::new();
    rig.site("blog", "index.php", "<?php echo 'hello ', $_SERVER['REQUEST_URI'];", TENANT);
    rig.site("blog", "sub/index.php", "<?php echo 'sub';", TENANT);
    rig.site("blog", "post.php", "<?php header('X-Method: ' . $_SERVER['REQUEST_METHOD']); \
        echo $_SERVER['CONTENT_TYPE'], '|', file_get_contents('php://input'), '|', $_SERVER['HTTP_X_TEST'] ?? 'none';", TENANT);
    rig.site("blog", "status.php", "<?php http_response_code((int)$_GET['s']); echo 'body';", TENANT);
    rig.site("blog", "where.php", "<?php echo $_SERVER['SCRIPT_FILENAME'], ' ', $_SERVER['SCRIPT_NAME'], ' ', $_SERVER['QUERY_STRING'];", TENANT);
    rig.site("blog", "sleep.php", "<?php sleep(5);", TENANT);
    rig.site("blog", "loud.php", "<?php error_log('a word'); echo 'said';", TENANT);
    rig.pool("blog", "[php.admin_value]\nlog_errors = true\n");
    rig.pool("shop", "");
    rig.serve();
    rig
}

fn request(rig: &Rig, words: &[&str]) -> (i32, String, String) {
    let run = rig.path("run");
    said(&howdah(&[&["request", "--runtime-dir", run.to_str().unwrap()], words].concat()))
}

#[test]
fn request_takes_a_uri_or_a_script_and_prints_the_body() {
    let rig = running();
    let ok = |body: &str| (0, body.to_owned(), String::new());
    assert_eq!(request(&rig, &["blog", "/index.php?page=2"]), ok("hello /index.php?page=2"));
    assert_eq!(request(&rig, &["blog", "/"]), ok("hello /"));
    assert_eq!(request(&rig, &["blog", "/sub/"]), ok("sub"));
    let script = rig.path("blog/where.php").display().to_string();
    assert_eq!(request(&rig, &["blog", "/where.php?a=b"]), ok(&format!("{script} /where.php a=b")));
    assert_eq!(request(&rig, &["blog", &script]), ok(&format!("{script} /where.php ")));
}

#[test]
fn request_sends_a_body_a_method_and_headers() {
    let rig = running();
    let form = "application/x-www-form-urlencoded";
    assert_eq!(request(&rig, &["blog", "/post.php", "--data", "a=b"]).1, format!("{form}|a=b|none"));
    let file = rig.write("body.json", "{}");
    let from_file = format!("@{}", file.display());
    let words =
        ["blog", "/post.php", "-d", &from_file, "-H", "content-type: application/json", "-H", "X-Test: é"];
    assert_eq!(request(&rig, &words).1, "application/json|{}|é");
    let (status, out, err) = request(&rig, &["blog", "/post.php", "-X", "PUT", "-d", "x", "--include"]);
    assert_eq!((status, err.as_str()), (0, ""));
    assert!(out.starts_with("Status: 200\n") && out.contains("\nX-Method: PUT\n"), "{out}");
    assert!(out.ends_with(&format!("\n\n{form}|x|none")), "{out}");
    // From standard input.
    let mut child = Command::new(HOWDAH)
        .args(["request", "blog", "/post.php", "-d", "@-", "--runtime-dir"])
        .arg(rig.path("run"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"from a pipe").unwrap();
    assert_eq!(text(&child.wait_with_output().unwrap().stdout), format!("{form}|from a pipe|none"));
}

#[test]
fn request_ends_with_1_where_a_browser_would_see_a_failure() {
    let rig = running();
    let (status, out, err) = request(&rig, &["blog", "/status.php?s=399"]);
    assert_eq!((status, out.as_str(), err.as_str()), (0, "body", ""));
    for code in [404, 500] {
        let uri = format!("/status.php?s={code}");
        let line = format!("howdah: pool blog: {uri} answered with status {code}\n");
        assert_eq!(request(&rig, &["blog", &uri]), (1, "body".into(), line));
    }
    let (status, out, err) = request(&rig, &["blog", "/not-there.php"]);
    assert_eq!((status, out.as_str()), (1, "File not found.\n"));
    assert!(err.ends_with("howdah: pool blog: /not-there.php answered with status 404\n"), "{err}");
}

#[test]
fn request_tells_in_one_line_what_it_cannot_do() {
    let rig = running();
    let refused = |words: &[&str], line: &str| {
        assert_eq!(request(&rig, words), (1, String::new(), format!("howdah: {line}\n")));
    };
    refused(&["wiki", "/"], "no pool \"wiki\" is served there; there are: blog, shop");
    refused(
        &["blog", "index.php"],
        "pool blog: \"index.php\" is neither a URI nor a script: it must begin with '/'",
    );
    refused(&["blog", "/", "-H", "X-Test"], "pool blog: --header \"X-Test\": write \"Name: value\"");
    refused(
        &["blog", "/", "-d", "@/not/there"],
        "pool blog: --data @/not/there: No such file or directory (ENOENT)",
    );
    refused(
        &["blog", "/sleep.php", "--timeout", "1"],
        "pool blog: no complete response within 1s (0 bytes had come)",
    );
}

#[test]
fn without_a_running_serve_ps_and_request_say_where_they_looked() {
    let mut rig = Rig::new();
    let file = rig.path("run/serve.json").display().to_string();
    let run = rig.path("run").display().to_string();
    let line = format!(
        "howdah: {file}: No such file or directory (ENOENT): \
         is `howdah serve` running there? (--runtime-dir DIR names another)\n"
    );
    for words in [&["ps", "--runtime-dir", &run][..], &["request", "blog", "/", "--runtime-dir", &run]] {
        assert_eq!(said(&howdah(words)), (1, String::new(), line.clone()));
    }
    // One that was killed leaves its files, and they say so.
    rig.pool("blog", "");
    rig.serve();
    let pid = rig.pid();
    rig.signal(nix::sys::signal::Signal::SIGKILL);
    rig.wait_end(Duration::from_secs(10));
    let line = format!("howdah: {file}: the serve that wrote it (pid {pid}) is gone: start it again\n");
    assert_eq!(said(&howdah(&["ps", "--runtime-dir", &run])), (1, String::new(), line));
}

#[test]
fn ps_tells_each_pool_in_a_row_and_in_json() {
    let rig = running();
    let run = rig.path("run").display().to_string();
    let ps = || said(&howdah(&["ps", "--runtime-dir", &run]));
    let (blog, shop) = (rig.socket("blog").display().to_string(), rig.socket("shop").display().to_string());
    let (status, out, err) = ps();
    assert_eq!((status, err.as_str()), (0, ""));
    assert_eq!(
        out,
        format!(
            "POOL  STATE        PID     MEMORY  STARTS      START  BY        LANDLOCK  LISTEN\n\
             blog  cold           -          -       0          -  -                -  {blog}\n\
             shop  cold           -          -       0          -  -                -  {shop}\n"
        )
    );
    rig.text("blog", "/index.php");
    rig.wait_state("blog", "warm");
    let (_, out, _) = ps();
    let row: Vec<&str> = out.lines().nth(1).unwrap().split_whitespace().collect();
    let [pool, state, pid, memory, starts, start, by, abi, number, listen] = row[..] else { panic!("{out}") };
    assert_eq!(by, "cold");
    let in_force = howdah::sandbox::landlock::abi_in_force().to_string();
    assert_eq!((abi, number), ("ABI", &*in_force));
    assert_eq!((pool, state, starts, listen), ("blog", "warm", "1", &*blog));
    assert_eq!(pid, rig.master("blog").to_string());
    let memory: f64 = memory.strip_suffix('M').unwrap().parse().unwrap();
    assert!((1.0..512.0).contains(&memory), "{out}");
    assert!(start.strip_suffix("ms").unwrap().parse::<f64>().unwrap() > 0.0, "{out}");
    // Columns stand where their headings are.
    let heading = out.lines().next().unwrap();
    for line in out.lines() {
        assert_eq!(line.find("LISTEN").or(line.find('/')), heading.find("LISTEN"), "{out}");
    }

    let entry = rig.ps("blog");
    for key in [
        "pool",
        "state",
        "listen",
        "generation",
        "pid",
        "memory_bytes",
        "cpu_usec",
        "starts",
        "last_start_ms",
        "last_start_monotonic_us",
        "last_start_by",
        "last_start_not_by_template",
        "last_start_steps_ms",
        "last_error",
        "weakened",
        "stricter",
        "landlock_abi",
        "limits_not_in_force",
    ] {
        assert!(keys(&entry).contains(key), "{key} in {entry}");
    }
    assert_eq!(
        (&entry["generation"], &entry["starts"], &entry["last_error"]),
        (&json!(1), &json!(1), &Value::Null)
    );
    assert_eq!(entry["listen"], json!([blog]));
    assert!(entry["memory_bytes"].as_u64().unwrap() > 1 << 20, "{entry}");
    let cold = rig.ps("shop");
    assert_eq!(
        (&cold["state"], &cold["pid"], &cold["generation"]),
        (&json!("cold"), &Value::Null, &json!(0))
    );
}

#[test]
fn ps_tells_below_a_row_why_the_last_start_failed() {
    let mut rig = Rig::new();
    rig.pool("blog", "[[mount]]\nsource = \"/nowhere\"\n");
    rig.serve();
    assert_eq!(rig.try_get("blog", "/").unwrap().status, 503);
    let (_, out, _) = said(&howdah(&["ps", "--runtime-dir", rig.path("run").to_str().unwrap()]));
    let last = out.lines().last().unwrap();
    assert!(
        last.starts_with("      last error: ") && last.contains("/nowhere") && last.ends_with("[blog.1]"),
        "{out}"
    );
    assert_eq!(out.lines().nth(1).unwrap().split_whitespace().nth(1), Some("backoff"));
}

// ---------------------------------------------------------------- spec

/// A pool whose spec is to be printed.
fn spec_of(more: &str) -> (Rig, PathBuf) {
    let rig = Rig::new();
    rig.site("blog", "index.php", "<?php echo 'hello from ', posix_getuid(), ' ', gethostname();", TENANT);
    let file = rig.pool("blog", more);
    (rig, file)
}

fn spec(rig: &Rig, file: &Path, more: &[&str]) -> Output {
    let config = rig.path("howdah.toml");
    howdah(&[&["spec", "--config", config.to_str().unwrap(), file.to_str().unwrap()], more].concat())
}

#[test]
fn spec_is_an_oci_runtime_spec_that_reads_back_the_same() {
    let (rig, file) = spec_of("[limits]\ntasks = 40\n[network]\nmode = \"host\"\n");
    let (status, out, err) = said(&spec(&rig, &file, &[]));
    assert_eq!((status, err.as_str()), (0, ""));
    let parsed: Spec = serde_json::from_str(&out).unwrap();
    let again = serde_json::to_value(&parsed).unwrap();
    assert_eq!(again, serde_json::from_str::<Value>(&out).unwrap(), "something is not of the spec");
    let linux = parsed.linux().as_ref().unwrap();
    let namespaces = again["linux"]["namespaces"].as_array().unwrap();
    let namespaces: Vec<&str> = namespaces.iter().map(|one| one["type"].as_str().unwrap()).collect();
    assert_eq!(namespaces, ["user", "mount", "pid", "ipc", "uts", "cgroup"], "network mode is host");
    let process = parsed.process().as_ref().unwrap();
    assert_eq!((process.user().uid(), process.user().gid()), (33, 33));
    assert_eq!(process.no_new_privileges(), Some(true));
    let unified = linux.resources().as_ref().unwrap().unified().as_ref().unwrap();
    assert_eq!(unified.get("pids.max").map(String::as_str), Some("40"));
    assert!(linux.seccomp().is_some());
    assert!(!rig.path("state").exists(), "printing makes nothing");
    assert!(out == text(&spec(&rig, &file, &[]).stdout), "the same file is not the same spec");
}

#[test]
fn a_bundle_that_cannot_be_written_is_one_line() {
    let (rig, file) = spec_of("");
    let place = rig.write("file", "").join("bundle");
    let line = format!("howdah: {}: Not a directory (ENOTDIR)\n", place.display());
    let output = spec(&rig, &file, &["--bundle", place.to_str().unwrap()]);
    assert_eq!(said(&output), (5, String::new(), line));
}

#[test]
fn a_spec_that_cannot_hold_what_the_profile_says_tells_so() {
    let (rig, _) = spec_of("");
    let once = rig.profile("once", "execve = \"once\"\n");
    let file = rig.pool("blog", &format!("profile = {once:?}\n"));
    let bundle = rig.path("bundle");
    for more in [&[][..], &["--bundle", bundle.to_str().unwrap()]] {
        let (status, out, err) = said(&spec(&rig, &file, more));
        assert_eq!((status, out.is_empty()), (0, !more.is_empty()));
        let start = "howdah: pool blog: the spec does not hold execve = \"once\": ";
        assert!(err.starts_with(start) && err.lines().count() == 1, "{err}");
    }
    // howdah itself holds it: tests/execve_once.rs. And who does not ask for it is told nothing.
    let any = rig.pool("blog", "");
    assert_eq!(said(&spec(&rig, &any, &[])).2, "");
}

#[test]
fn check_tells_that_a_slow_log_will_lack_its_frames() {
    let rig = Rig::new();
    rig.site("blog", "index.php", "<?php", TENANT);
    let told = |pool: &str| {
        let file = rig.pool("blog", pool);
        let (status, out, err) = said(&howdah(&["check", file.to_str().unwrap()]));
        assert_eq!((status, err.as_str()), (0, ""));
        out
    };
    let slow = "[fpm]\nrequest_slowlog_timeout = \"1s\"\n";
    let notice = "  notice: fpm.request_slowlog_timeout: the log tells that a script was slow and not where, for the \
                  profile hosting does not let php-fpm trace its workers";
    assert!(told(slow).contains(notice), "{}", told(slow));
    // tests/php.rs has what the log tells in both.
    assert!(!told(&format!("profile = \"compat\"\n{slow}")).contains("slowlog_timeout: "));
    assert!(!told("[fpm]\nrequest_slowlog_timeout = 0\n").contains("slowlog_timeout: "));
    assert!(!told("").contains("slowlog_timeout: "));
}

#[test]
fn spec_of_a_wrong_file_is_that_file_s_line() {
    let (rig, file) = spec_of("[idle]\nstop = 5\n");
    let (status, out, err) = said(&spec(&rig, &file, &[]));
    assert_eq!((status, out.as_str()), (3, ""));
    assert!(
        err.ends_with("idle.stop must be a time span, such as \"30s\", or \"never\", found a whole number\n")
    );
    assert_eq!(err.lines().count(), 1);
}

/// A bundle of `blog`, with what no OCI runtime does without: they run their own
/// part as uid 0 of the user namespace (runc: "no user mapping found"), and set
/// only limits whose controllers are there. Everything else is as `spec` has it.
fn bundle(rig: &Rig, file: &Path, arguments: Option<&[&str]>) -> PathBuf {
    let bundle = rig.path("bundle");
    let (status, out, err) = said(&spec(rig, file, &["--bundle", bundle.to_str().unwrap()]));
    assert_eq!((status, out.as_str(), err.as_str()), (0, "", ""));
    let config = bundle.join("config.json");
    let mut spec: Value = serde_json::from_str(&fs::read_to_string(&config).unwrap()).unwrap();
    for map in ["uidMappings", "gidMappings"] {
        let root = json!({"containerID": 0, "hostID": 0, "size": 1});
        spec["linux"][map].as_array_mut().unwrap().push(root);
    }
    spec["linux"]["resources"]["unified"] = json!({});
    // A cgroup of this test's own.
    let own = rig.path("").display().to_string().replace('/', "-");
    spec["linux"]["cgroupsPath"] = json!(format!("/howdah-oci{own}"));
    if let Some(arguments) = arguments {
        spec["process"]["args"] = json!(arguments);
    }
    fs::write(config, spec.to_string()).unwrap();
    bundle
}

/// A runtime that runs a bundle, in a mount namespace with nothing but cgroup v2
/// on /sys/fs/cgroup; `stdin` is passed as descriptor 3.
fn runtime(rig: &Rig, runtime: &str, bundle: &Path, stdin: Stdio) -> Child {
    let script = "mount -t tmpfs none /sys/fs && mkdir /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && \
        cd \"$2\" && exec 3<&0 0</dev/null && exec \"$1\" --root \"$3\" run --preserve-fds 1 --bundle . howdah-test";
    let mut command = Command::new("timeout");
    command.args(["--kill-after=10", "60", "unshare", "-m", "bash", "-c", script, "bash", runtime]);
    command.arg(bundle).arg(rig.path("oci")).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// The OCI runtimes that are installed; runc must be.
fn runtimes() -> Vec<&'static str> {
    let is_there = |name: &&str| Command::new(name).arg("--version").output().is_ok();
    let found: Vec<&str> = ["runc", "crun"].into_iter().filter(is_there).collect();
    assert!(found.contains(&"runc"), "install runc (./test does)");
    found
}

#[test]
fn oci_runtimes_run_a_bundle_with_the_walls_that_it_says() {
    for name in runtimes() {
        let (rig, file) = spec_of("");
        let bundle =
            bundle(&rig, &file, Some(&["/usr/bin/cat", "/proc/self/status", "/proc/self/mountinfo"]));
        let null = fs::File::open("/dev/null").unwrap();
        let output = runtime(&rig, name, &bundle, null.into()).wait_with_output().unwrap();
        let (status, out, err) = said(&output);
        assert_eq!(status, 0, "{name}: {err}");
        for line in [
            "Pid:\t1",
            "Uid:\t33\t33\t33\t33",
            "Gid:\t33\t33\t33\t33",
            "CapBnd:\t0000000000000000",
            "CapEff:\t0000000000000000",
            "NoNewPrivs:\t1",
            "Seccomp:\t2",
        ] {
            assert!(out.lines().any(|one| one == line), "{name}: no {line:?} in\n{out}");
        }
        let site = rig.path("blog").display().to_string();
        let mount = out.lines().find(|line| line.split(' ').nth(4) == Some(&*site));
        assert!(mount.is_some_and(|line| line.contains(" ro,nosuid,nodev")), "{name}: {out}");
        assert!(!out.lines().any(|line| line.split(' ').nth(4) == Some("/home")), "{name}: {out}");
    }
}

#[test]
fn a_bundle_serves_the_pool_s_site_in_oci_runtimes() {
    for name in runtimes() {
        let (rig, file) = spec_of("");
        let bundle = bundle(&rig, &file, None);
        let socket = UnixListener::bind(rig.socket("blog")).unwrap();
        chown(rig.socket("blog"), Some(33), Some(33)).unwrap();
        let mut child = runtime(&rig, name, &bundle, OwnedFd::from(socket).into());
        let request = rig.request("blog", "/index.php", "GET", &[], b"");
        let stream = UnixStream::connect(rig.socket("blog")).unwrap();
        let answer = exchange(&stream, &request, Duration::from_secs(30));
        // php-fpm is process 1 of its pid namespace; the runtime passes the signal on.
        let stop = |child: &mut Child| {
            let mut command = Command::new(name);
            command.arg("--root").arg(rig.path("oci")).args(["kill", "howdah-test", "KILL"]);
            let _ = command.output();
            wait_for("the end of the container", Duration::from_secs(20), || child.try_wait().unwrap())
        };
        stop(&mut child);
        let output = child.wait_with_output().unwrap();
        let answer = answer.unwrap_or_else(|error| panic!("{name}: {error}: {}", text(&output.stderr)));
        assert_eq!(text(&answer.body), "hello from 33 blog", "{name}");
    }
}
