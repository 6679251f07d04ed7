//! Input that is wrong, each kind with the exact line that it prints and the
//! exit status: what, where, why, what to do; and once.
#![allow(missing_docs, clippy::print_stdout)]

mod rig;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rig::{HOWDAH, OTHER, Rig, TENANT};

const CONFIGURATION: i32 = 3;
const KERNEL: i32 = 4;
const LAUNCH: i32 = 5;

/// What howdah said on stderr, and its exit status.
type Said = (i32, String);

fn said(output: &Output) -> Said {
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// `timeout` ends what should have ended by itself.
fn howdah(binary: &Path) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=10", "20"]).arg(binary).stdin(Stdio::null());
    command
}

fn check(rig: &Rig, paths: &[&str]) -> Output {
    let mut command = howdah(Path::new(HOWDAH));
    command.arg("check").arg("--config").arg(rig.path("howdah.toml"));
    command.args(paths.iter().map(|path| rig.path(path))).output().unwrap()
}

/// A serve that is to end by itself.
fn serve(rig: &Rig) -> Said {
    let mut command = howdah(Path::new(HOWDAH));
    command.args(["serve", "--runtime-dir"]).arg(rig.path("run"));
    command.arg("--config").arg(rig.path("howdah.toml")).arg(rig.path("pools"));
    let output = said(&command.output().unwrap());
    assert!(!rig.path("run").exists(), "a serve that did not serve leaves its runtime directory");
    output
}

fn line(text: &str) -> String {
    format!("howdah: {text}\n")
}

/// `check` and `serve` both say this one line, `FILE` being the pool file `NAME.toml`.
#[track_caller]
fn both_refuse(rig: &Rig, name: &str, text: &str) {
    let text = line(&text.replace("FILE", rig.path(&format!("pools/{name}.toml")).to_str().unwrap()));
    assert_eq!(said(&check(rig, &["pools"])), (CONFIGURATION, text.clone()));
    assert_eq!(serve(rig), (CONFIGURATION, text));
}

/// A pool file with this text, and nothing else.
fn only(text: &str) -> Rig {
    let rig = Rig::new();
    let text = text.replace("SOCKET", rig.socket("blog").to_str().unwrap());
    rig.write("pools/blog.toml", &text);
    rig
}

/// `FILE:LINE` of the line that begins with `key`.
fn at(file: &Path, key: &str) -> String {
    let text = fs::read_to_string(file).unwrap();
    let line = 1 + text.lines().position(|line| line.starts_with(key)).unwrap();
    format!("{}:{line}", file.display())
}

/// The lines that a running serve has said which contain `text`.
fn lines(rig: &Rig, text: &str) -> Vec<String> {
    rig.log().lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
}

/// A running serve says `text` at the first request, once, with the id of the
/// incident, and answers 503 with that id.
#[track_caller]
fn refused_at_start(rig: &mut Rig, text: &str) {
    let incident = "blog.1";
    rig.serve();
    let answer = rig.try_get("blog", "/index.php").unwrap();
    assert_eq!(answer.status, 503);
    let body = String::from_utf8(answer.body).unwrap();
    assert_eq!(body.lines().last(), Some(&*format!("Incident: {incident}")));
    let last = text.split(": ").last().unwrap();
    assert_eq!(lines(rig, last), [format!("howdah: pool blog: {text} [{incident}]")]);
    assert_eq!(rig.ps("blog")["last_error"], format!("{text} [{incident}]"));
    assert_eq!(rig.end(), 0);
}

// ---------------------------------------------------------------- the file alone

#[test]
fn an_unknown_key_is_answered_with_the_nearest() {
    let rig = only("listen = \"SOCKET\"\nuser = \"www-data\"\n[limits]\nmemroy = \"64M\"\n");
    both_refuse(&rig, "blog", "FILE:4: unknown key \"limits.memroy\": did you mean \"limits.memory\"?");
}

#[test]
fn a_key_in_the_wrong_table_is_told_its_own() {
    let rig = only("listen = \"SOCKET\"\nuser = \"www-data\"\nmax_children = 3\n");
    both_refuse(&rig, "blog", "FILE:3: unknown key \"max_children\": \"max_children\" belongs in [fpm]");
}

#[test]
fn a_wrong_type_is_told_with_what_is_wanted_and_what_is_there() {
    let rig = only("listen = \"SOCKET\"\nuser = \"www-data\"\n[limits]\ntasks = \"64\"\n");
    both_refuse(&rig, "blog", "FILE:4: limits.tasks must be a whole number, found a string");
    let rig = only("listen = \"SOCKET\"\nuser = \"www-data\"\n[idle]\nstop = 60\n");
    both_refuse(
        &rig,
        "blog",
        "FILE:4: idle.stop must be a time span, such as \"30s\", or \"never\", found a whole number",
    );
}

#[test]
fn text_that_is_no_toml_is_told_by_its_line() {
    let rig = only("listen = \"SOCKET\"\nuser = \"www-data\n");
    both_refuse(&rig, "blog", "FILE:2: not TOML: invalid basic string, expected `\"`");
}

#[test]
fn relative_paths_are_refused_wherever_they_stand() {
    let rig = only("listen = \"run/blog.sock\"\nuser = \"www-data\"\n");
    both_refuse(
        &rig,
        "blog",
        "FILE:1: listen: \"run/blog.sock\" is no address: \
         write an absolute path, \"127.0.0.1:9001\" or \"[::1]:9001\"",
    );
    let rig = only("listen = \"SOCKET\"\nuser = \"www-data\"\n[[mount]]\nsource = \"srv/blog\"\n");
    both_refuse(&rig, "blog", "FILE:4: mount.source: \"srv/blog\" is relative: write an absolute path");
    let rig = only("listen = \"SOCKET\"\nuser = \"www-data\"\nimage = \"srv/root\"\n");
    both_refuse(&rig, "blog", "FILE:3: image: \"srv/root\" is relative: write an absolute path");
}

#[test]
fn a_socket_path_that_the_kernel_cannot_hold_is_told_with_its_length() {
    let long = format!("/run/{}.sock", "x".repeat(98));
    assert_eq!(long.len(), 108);
    let rig = only(&format!("listen = {long:?}\nuser = \"www-data\"\n"));
    let text = format!(
        "FILE:1: listen: socket path {long} is 108 bytes long: \
         the kernel takes at most 107 (unix(7)): shorten it"
    );
    both_refuse(&rig, "blog", &text);
    // One byte less is right.
    let rig = only(&format!("listen = \"/run/{}.sock\"\nuser = \"www-data\"\n", "x".repeat(97)));
    assert_eq!(said(&check(&rig, &["pools"])), (0, String::new()));
}

#[test]
fn howdah_toml_is_held_to_the_same() {
    let rig = only("listen = \"SOCKET\"\nuser = \"www-data\"\n");
    let file = rig.write("howdah.toml", "[serve]\nstate_dri = \"/x\"\n");
    let text = line(&format!(
        "{}:2: unknown key \"serve.state_dri\": did you mean \"serve.state_dir\"?",
        file.display()
    ));
    assert_eq!(said(&check(&rig, &["pools"])), (CONFIGURATION, text.clone()));
    assert_eq!(serve(&rig), (CONFIGURATION, text));
}

// ---------------------------------------------------------------- several files

#[test]
fn a_pool_name_that_is_taken_names_the_other_file() {
    let rig = Rig::new();
    let first = rig.pool("blog", "");
    let second = rig.write("more/blog.toml", "listen = \"/run/x.sock\"\nuser = \"www-data\"\n");
    let text = |one: &Path, other: &Path| {
        format!("{}: pool blog is also defined by {}: rename one", one.display(), other.display())
    };
    assert_eq!(said(&check(&rig, &["pools", "more"])), (CONFIGURATION, line(&text(&second, &first))));
    // serve goes on with the one that was named first.
    let mut rig = rig.with(&[second.to_str().unwrap()]);
    rig.write("more/blog.toml", &fs::read_to_string(&first).unwrap());
    rig.serve();
    assert_eq!(lines(&rig, "also defined"), [format!("howdah: {}", text(&first, &second))]);
    assert_eq!(lines(&rig, "ready:"), ["howdah: ready: 1 pool listens"]);
    assert_eq!(rig.end(), 0);
}

#[test]
fn a_file_that_is_named_twice_says_so() {
    let rig = Rig::new();
    let file = rig.pool("blog", "");
    let text = line(&format!("{}: is named twice: name it once", file.display()));
    assert_eq!(said(&check(&rig, &["pools", "pools/blog.toml"])), (CONFIGURATION, text));
}

#[test]
fn two_pools_on_one_address_are_told_and_the_first_is_served() {
    let mut rig = Rig::new();
    rig.site("blog", "index.php", "<?php echo posix_getuid();", TENANT);
    let first = rig.pool("blog", "");
    let second = rig.write(
        "pools/shop.toml",
        &format!("user = \"backup\"\nlisten = [\"/run/shop.sock\",\n{:?}]\n", rig.socket("blog")),
    );
    let text = line(&format!(
        "{}:3: listen {} is taken by {}: give each pool its own",
        second.display(),
        rig.socket("blog").display(),
        first.display()
    ));
    assert_eq!(said(&check(&rig, &["pools"])), (CONFIGURATION, text.clone()));
    rig.serve();
    assert_eq!(lines(&rig, "is taken by"), [text.trim_end()]);
    assert_eq!(rig.text("blog", "/index.php"), "33");
    assert_eq!(rig.end(), 0);
}

#[test]
fn an_empty_directory_of_pools_is_a_notice_and_no_error() {
    let mut rig = Rig::new();
    let notice = format!("{}: no pool files (*.toml) here yet", rig.path("pools").display());
    let output = check(&rig, &["pools"]);
    assert_eq!(said(&output), (0, String::new()));
    let told = String::from_utf8(output.stdout).unwrap();
    assert_eq!(told.lines().last(), Some(&*format!("notice: {notice}")));
    rig.serve();
    assert_eq!(lines(&rig, "no pool files"), [format!("howdah: {notice}")]);
    assert_eq!(lines(&rig, "ready:"), ["howdah: ready: 0 pools listen"]);
    assert_eq!(rig.end(), 0);
}

#[test]
fn a_path_that_is_not_there_is_told() {
    let rig = Rig::new();
    let text = line(&format!(
        "{}: No such file or directory (ENOENT): create it, or name another",
        rig.path("pols").display()
    ));
    assert_eq!(said(&check(&rig, &["pols"])), (CONFIGURATION, text));
}

#[test]
fn what_is_no_file_is_not_waited_for() {
    let rig = Rig::new();
    let fifo = rig.path("pools/blog.toml");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap();
    both_refuse(&rig, "blog", "FILE: not a file: name a pool file or a directory of them");
}

// ---------------------------------------------------------------- the host

#[test]
fn an_unknown_user_is_named() {
    let rig = only("listen = \"SOCKET\"\nuser = \"no-such-user\"\n");
    both_refuse(
        &rig,
        "blog",
        "FILE:2: user \"no-such-user\" does not exist on this host: create it or name another",
    );
}

#[test]
fn root_is_no_pool_s_user() {
    let rig = only("listen = \"SOCKET\"\nuser = \"root\"\n");
    both_refuse(&rig, "blog", "FILE:2: user \"root\" is root: name an unprivileged account");
}

#[test]
fn a_mount_source_that_is_missing_is_told_by_check_and_at_start() {
    let mut rig = Rig::new();
    let missing = rig.path("nowhere").display().to_string();
    let file = rig.pool("blog", &format!("[[mount]]\nsource = {missing:?}\n"));
    let text = format!(
        "{}: mount.source {missing} does not exist: create it, or correct the path",
        at(&file, "source")
    );
    assert_eq!(said(&check(&rig, &["pools"])), (CONFIGURATION, line(&text)));
    let text = format!(
        "open {missing}: No such file or directory (ENOENT): \
         create it, or take the mount out of the pool file"
    );
    refused_at_start(&mut rig, &text);
}

#[test]
fn a_mount_target_through_a_symlink_of_the_host_is_refused() {
    let mut rig = Rig::new();
    fs::create_dir(rig.path("site")).unwrap();
    let mount = format!("[[mount]]\nsource = {:?}\ntarget = \"/bin/tools\"\n", rig.path("site"));
    let file = rig.pool("blog", &mount);
    let text = "mount target /bin/tools goes through the symlink /bin: \
        name the real directory, for a symlink can lead out of the root";
    let told = line(&format!("{}: {text}", file.display()));
    assert_eq!(said(&check(&rig, &["pools"])), (CONFIGURATION, told));
    refused_at_start(&mut rig, text);
}

#[test]
fn a_mount_target_through_a_symlink_out_of_an_image_is_refused() {
    let rig = Rig::new();
    let image = php_like(&rig, "8.2.0");
    fs::create_dir_all(image.join("srv")).unwrap();
    symlink("/etc", image.join("srv/out")).unwrap();
    fs::create_dir(rig.path("site")).unwrap();
    let mount = format!(
        "image = {image:?}\n[[mount]]\nsource = {:?}\ntarget = \"/srv/out/cron.d\"\n",
        rig.path("site")
    );
    let file = rig.pool("blog", &mount);
    let text = format!(
        "{}: mount target /srv/out/cron.d goes through the symlink /srv/out: \
         name the real directory, for a symlink can lead out of the root",
        file.display()
    );
    assert_eq!(said(&check(&rig, &["pools"])), (CONFIGURATION, line(&text)));
    assert!(!Path::new("/etc/cron.d/index.php").exists());
}

#[test]
fn an_image_without_php_fpm_is_told_where_it_was_looked_for() {
    let mut rig = Rig::new();
    let image = rig.path("image");
    fs::create_dir(&image).unwrap();
    let file = rig.pool("blog", &format!("image = {image:?}\n"));
    let text = format!(
        "image {}: no php-fpm in /usr/sbin, /usr/local/sbin, /usr/bin or /usr/local/bin: \
         install it (Debian: apt-get install php-fpm) or name it with [fpm] binary",
        image.display()
    );
    let told = line(&format!("{}: {text}", file.display()));
    assert_eq!(said(&check(&rig, &["pools"])), (CONFIGURATION, told));
    rig.serve();
    assert_eq!(lines(&rig, "no php-fpm"), [format!("howdah: pool blog: {text}")], "at the start of serve");
    assert_eq!(rig.end(), 0);
}

#[test]
fn an_image_that_is_not_there_is_told_by_its_line() {
    let rig = Rig::new();
    let image = rig.path("image");
    let file = rig.pool("blog", &format!("image = {image:?}\n"));
    let text = format!(
        "{}: image {} does not exist: create it, or correct the path",
        at(&file, "image"),
        image.display()
    );
    assert_eq!(said(&check(&rig, &["pools"])), (CONFIGURATION, line(&text)));
}

#[test]
fn a_php_fpm_that_is_too_old_is_told_with_its_version() {
    let mut rig = Rig::new();
    let image = php_like(&rig, "7.3.33");
    let file = rig.pool("blog", &format!("image = {image:?}\n"));
    let text = format!(
        "image {}: /usr/sbin/php-fpm: php-fpm 7.3.33 is older than 7.4, which howdah needs: install a newer one",
        image.display()
    );
    let told = line(&format!("{}: {text}", file.display()));
    assert_eq!(said(&check(&rig, &["pools"])), (CONFIGURATION, told));
    rig.serve();
    assert_eq!(rig.try_get("blog", "/").unwrap().status, 503);
    assert_eq!(lines(&rig, "older than"), [format!("howdah: pool blog: {text} [blog.1]")]);
    assert_eq!(rig.end(), 0);
}

#[test]
fn a_program_that_is_no_php_fpm_is_told() {
    let rig = Rig::new();
    let image = image_with(&rig, "#!/bin/sh\necho 'usage: something else'\n");
    let file = rig.pool("blog", &format!("image = {image:?}\n"));
    let text = format!(
        "{}: image {}: /usr/sbin/php-fpm is no php-fpm: its -i does not say \"Server API\"",
        file.display(),
        image.display()
    );
    assert_eq!(said(&check(&rig, &["pools"])), (CONFIGURATION, line(&text)));
}

// ---------------------------------------------------------------- sockets and rights

#[test]
fn a_port_in_use_is_told_with_its_pool() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let mut rig = only(&format!("listen = \"{address}\"\nuser = \"www-data\"\n"));
    let text = format!(
        "pool blog: bind {address}: Address already in use (EADDRINUSE): \
         another program listens there: stop it or choose another port"
    );
    assert_eq!(serve(&rig), (LAUNCH, line(&text)));
    // The others are served.
    rig.site("shop", "index.php", "<?php echo posix_getuid();", OTHER);
    rig.pool_of("shop", OTHER.0, "");
    rig.serve();
    assert_eq!(lines(&rig, "EADDRINUSE"), [format!("howdah: {text}")]);
    assert_eq!(lines(&rig, "ready:"), ["howdah: ready: 1 pool listens"]);
    assert_eq!(rig.text("shop", "/index.php"), "34");
    assert_eq!(rig.end(), 0);
}

#[test]
fn a_live_server_at_the_socket_is_left_alone() {
    let rig = Rig::new();
    rig.pool("blog", "");
    let _live = std::os::unix::net::UnixListener::bind(rig.socket("blog")).unwrap();
    let text = format!(
        "pool blog: bind {}: Address already in use (EADDRINUSE): \
         a live server listens there: stop it or choose another path",
        rig.socket("blog").display()
    );
    assert_eq!(serve(&rig), (LAUNCH, line(&text)));
    std::os::unix::net::UnixStream::connect(rig.socket("blog")).unwrap();
}

#[test]
fn a_second_serve_in_one_runtime_directory_is_refused() {
    let mut rig = Rig::new();
    rig.serve();
    let mut command = howdah(Path::new(HOWDAH));
    command.args(["serve", "--runtime-dir"]).arg(rig.path("run")).arg(rig.path("pools"));
    let text = format!(
        "{}: another serve has it: stop that one or give --runtime-dir DIR",
        rig.path("run").display()
    );
    let (status, said) = said(&command.output().unwrap());
    assert_eq!((status, said.lines().last()), (LAUNCH, Some(&*format!("howdah: {text}"))));
    assert!(rig.path("run/serve.json").exists(), "the first one's files are untouched");
    assert_eq!(rig.end(), 0);
}

/// The account nobody, its gid, and a directory of its own with a copy of howdah,
/// for what root is never refused.
struct Nobody {
    rig: Rig,
    binary: PathBuf,
}

const NOBODY: u32 = 65_534;

impl Nobody {
    /// `None`, with a word, where the host gives unprivileged users no namespaces.
    fn new() -> Option<Self> {
        let rig = Rig::new();
        for name in ["pools", "own"] {
            fs::create_dir_all(rig.path(name)).unwrap();
            chown(rig.path(name), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let binary = rig.path("bin");
        rig::copy_howdah(&binary);
        let allowed = Command::new("unshare").args(["-U", "true"]).uid(NOBODY).gid(NOBODY).output().unwrap();
        if !allowed.status.success() {
            println!("skipped: this host gives unprivileged users no user namespaces");
            return None;
        }
        Some(Self { rig, binary })
    }

    fn command(&self, before: &[&str], words: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.args(["--kill-after=10", "20"]).args(before).arg(&self.binary).args(words);
        command.env("XDG_RUNTIME_DIR", self.rig.path("own")).env("HOME", self.rig.path("own"));
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> Said {
        said(&self.command(&[], words).uid(NOBODY).gid(NOBODY).output().unwrap())
    }

    /// The same in a network namespace, where ports below 1024 are root's.
    fn run_with_own_ports(&self, words: &[&str]) -> Said {
        let id = NOBODY.to_string();
        let ids = format!("--reuid={id}");
        let groups = format!("--regid={id}");
        let before = ["unshare", "-n", "setpriv", &ids, &groups, "--clear-groups"];
        said(&self.command(&before, words).output().unwrap())
    }
}

/// The last line, for where a notice of a missing cgroup comes before.
fn last(said: &str) -> &str {
    said.lines().last().unwrap_or_default()
}

#[test]
fn an_unreadable_pool_file_is_told() {
    let Some(nobody) = Nobody::new() else { return };
    let file = nobody.rig.pool("blog", "");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let text = line(&format!("{}: Permission denied (EACCES): let howdah's user read it", file.display()));
    let pools = nobody.rig.path("pools");
    let pools = pools.to_str().unwrap();
    assert_eq!(nobody.run(&["check", pools]), (CONFIGURATION, text.clone()));
    assert_eq!(nobody.run(&["serve", pools]), (CONFIGURATION, text));
}

#[test]
fn an_unreadable_directory_of_pools_is_told() {
    let Some(nobody) = Nobody::new() else { return };
    let pools = nobody.rig.path("pools");
    fs::set_permissions(&pools, fs::Permissions::from_mode(0o311)).unwrap();
    chown(&pools, Some(0), Some(0)).unwrap();
    let text = line(&format!("{}: Permission denied (EACCES): let howdah's user read it", pools.display()));
    assert_eq!(nobody.run(&["check", pools.to_str().unwrap()]), (CONFIGURATION, text));
}

#[test]
fn an_unreadable_mount_source_is_told() {
    let Some(nobody) = Nobody::new() else { return };
    let site = nobody.rig.path("site");
    fs::create_dir(&site).unwrap();
    fs::set_permissions(&site, fs::Permissions::from_mode(0o700)).unwrap();
    let file = nobody.rig.pool_of("blog", "nobody", &format!("[[mount]]\nsource = {site:?}\n"));
    let text = format!(
        "{}: mount.source {} cannot be read: Permission denied (EACCES): let howdah's user read it",
        at(&file, "source"),
        site.display()
    );
    assert_eq!(nobody.run(&["check", file.to_str().unwrap()]), (CONFIGURATION, line(&text)));
}

#[test]
fn without_root_another_s_pool_is_refused() {
    let Some(nobody) = Nobody::new() else { return };
    let file = nobody.rig.pool("blog", "");
    let text = format!(
        "{}: user \"www-data\": without root howdah starts pools of \"nobody\" alone: \
         run it as root, or leave user out",
        at(&file, "user")
    );
    assert_eq!(nobody.run(&["check", file.to_str().unwrap()]), (CONFIGURATION, line(&text)));
}

#[test]
fn a_port_below_1024_needs_rights() {
    let Some(nobody) = Nobody::new() else { return };
    let file = nobody.rig.write("pools/blog.toml", "listen = \"0.0.0.0:81\"\nuser = \"nobody\"\n");
    let (status, said) = nobody.run_with_own_ports(&["serve", file.to_str().unwrap()]);
    let text = "howdah: pool blog: bind 0.0.0.0:81: Permission denied (EACCES): \
        port 81 needs CAP_NET_BIND_SERVICE: run as root or choose a port from 1024";
    assert_eq!((status, last(&said)), (LAUNCH, text));
    assert!(!nobody.rig.path("own/howdah").exists(), "the runtime directory is left behind");
}

#[test]
fn a_socket_s_directory_that_cannot_be_written_is_told() {
    let Some(nobody) = Nobody::new() else { return };
    let file = nobody.rig.pool_of("blog", "nobody", "");
    let socket = nobody.rig.socket("blog");
    let (status, said) = nobody.run(&["serve", file.to_str().unwrap()]);
    let text = format!(
        "howdah: pool blog: bind {}: Permission denied (EACCES): \
         needs write permission on {}: run as root or choose another path",
        socket.display(),
        socket.parent().unwrap().display()
    );
    assert_eq!((status, last(&said)), (LAUNCH, &*text));
}

#[test]
fn without_root_a_socket_cannot_be_given_away() {
    let Some(nobody) = Nobody::new() else { return };
    let socket = nobody.rig.path("own/blog.sock");
    let text = format!("listen = {socket:?}\nuser = \"nobody\"\n[socket]\ngroup = \"www-data\"\n");
    let file = nobody.rig.write("pools/blog.toml", &text);
    let (status, said) = nobody.run(&["serve", file.to_str().unwrap()]);
    let text = format!(
        "howdah: pool blog: chown {} to 65534:33: Invalid argument (EINVAL): \
         only root can give a socket away: run as root, or choose owner and group of this user",
        socket.display()
    );
    assert_eq!((status, last(&said)), (LAUNCH, &*text));
    assert!(!socket.exists());
}

#[test]
fn a_runtime_directory_that_cannot_be_made_is_told() {
    let Some(nobody) = Nobody::new() else { return };
    let run = nobody.rig.path("run");
    let file = nobody.rig.pool_of("blog", "nobody", "");
    let words = ["serve", "--runtime-dir", run.to_str().unwrap(), file.to_str().unwrap()];
    let text = format!(
        "make {}: Permission denied (EACCES): run howdah as root or give --runtime-dir DIR",
        run.display()
    );
    assert_eq!(nobody.run(&words), (LAUNCH, line(&text)));
}

#[test]
fn without_root_check_works_too() {
    let Some(nobody) = Nobody::new() else { return };
    let file = nobody.rig.pool_of("blog", "nobody", "");
    assert_eq!(nobody.run(&["check", file.to_str().unwrap()]), (0, String::new()));
}

// ---------------------------------------------------------------- the kernel

#[test]
fn a_kernel_that_gives_no_user_namespaces_is_exit_status_4() {
    let rig = Rig::new();
    rig.pool("blog", "");
    let text = line(
        "create a user namespace: No space left on device (ENOSPC): \
         user.max_user_namespaces is 0 here: raise it (sysctl -w user.max_user_namespaces=15000)",
    );
    let script = "echo 0 > /proc/sys/user/max_user_namespaces; exec \"$@\"";
    for words in [&["check", "--config"][..], &["serve", "--runtime-dir", "RUN", "--config"]] {
        let mut command = Command::new("timeout");
        command.args(["20", "unshare", "-U", "-r", "sh", "-c", script, "sh", HOWDAH]);
        let run = rig.path("run").display().to_string();
        command.args(words.iter().map(|word| if *word == "RUN" { run.as_str() } else { word }));
        command.arg(rig.path("howdah.toml")).arg(rig.path("pools"));
        assert_eq!(said(&command.stdin(Stdio::null()).output().unwrap()), (KERNEL, text.clone()));
    }
}

// ---------------------------------------------------------------- an image without php

/// A directory image whose `/usr/sbin/php-fpm` says of itself what php-fpm of `version` would.
fn php_like(rig: &Rig, version: &str) -> PathBuf {
    let script = format!(
        "#!/bin/sh\ncat <<EOF\nphpinfo()\nPHP Version => {version}\n\nServer API => FPM/FastCGI\n\
         Configuration File (php.ini) Path => /etc/php\nLoaded Configuration File => (none)\n\
         Scan this dir for additional .ini files => (none)\nAdditional .ini files parsed => (none)\n\
         extension_dir => /usr/lib/php => /usr/lib/php\nEOF\n"
    );
    image_with(rig, &script.replace("cat <<EOF\n", "echo '").replace("\nEOF\n", "'\n"))
}

/// A directory image with the host's `/bin/sh`, and `script` as its php-fpm.
fn image_with(rig: &Rig, script: &str) -> PathBuf {
    let image = rig.path("image");
    fs::create_dir_all(image.join("usr/sbin")).unwrap();
    for name in ["bin", "lib", "lib64"] {
        fs::create_dir_all(image.join("usr").join(name)).unwrap();
        symlink(Path::new("usr").join(name), image.join(name)).unwrap();
    }
    let ldd = Command::new("ldd").arg("/bin/sh").output().unwrap();
    let needed = String::from_utf8(ldd.stdout).unwrap();
    let libraries = needed.split_whitespace().filter(|word| word.starts_with('/'));
    for file in libraries.chain(["/bin/sh"]) {
        let copy = image.join(file.trim_start_matches('/'));
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(file, copy).unwrap();
    }
    let program = image.join("usr/sbin/php-fpm");
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    image
}
