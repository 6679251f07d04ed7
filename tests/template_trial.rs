//! The trial of a class: whether a php-fpm can be a template is told by what it does, before any
//! pool relies on it. The one of Debian is the control: it can, and so can the same in an image.
#![allow(missing_docs)]

mod rig;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::errno::Errno;

use rig::fault::{Fault, Instead};
use rig::templates::{keep, stocked, waiting};
use rig::{Rig, TENANT, wait_for};

const SHORT: &str = "[idle]\nstop = \"100ms\"";
const SOON: Duration = Duration::from_secs(20);

/// The wrapper takes the configuration as php-fpm does, and has the real one wait for events by `mechanism`.
fn by(mechanism: &str) -> String {
    format!(
        "{{ echo '[global]'; echo 'events.mechanism = {mechanism}'\n\
         while IFS= read -r line; do echo \"$line\"; done; }} </etc/howdah/php-fpm.conf >/tmp/fpm.conf\n\
         set -- -F -O -y /tmp/fpm.conf"
    )
}

/// A howdah with templates and a pool with an image whose php-fpm does `first`.
fn rig_of_image(first: &str) -> Rig {
    let mut rig = Rig::new();
    keep(&rig, 1);
    let image = rig::image::around_php_fpm(&rig, first);
    rig.site("blog", "index.php", "<?php echo 'hello ', function_exists('f') ? f() : '';", TENANT);
    // php-fpm has ondemand with epoll only.
    rig.pool("blog", &format!("image = {image:?}\n{SHORT}\n[fpm]\npm = \"static\"\nmax_children = 1"));
    rig.serve();
    rig
}

/// Starts the pool once: by what, and why not by a template.
fn start(rig: &Rig, body: &str) -> (String, String) {
    let before = rig.record("blog").starts;
    assert_eq!(rig.text("blog", "/index.php"), body);
    let record = || Some(rig.record("blog")).filter(|record| record.starts == before + 1);
    let record = wait_for("the record of the start", SOON, record);
    rig.wait_state("blog", "cold");
    (record.last_start_by, record.last_start_not_by_template.unwrap_or_default())
}

fn cold(why: &str) -> (String, String) {
    ("cold launch".to_owned(), why.to_owned())
}

fn by_template() -> (String, String) {
    ("template".to_owned(), String::new())
}

/// That none is made, for longer than it takes to make one.
fn none_is_made(rig: &Rig) {
    std::thread::sleep(Duration::from_millis(800));
    assert_eq!((waiting(rig), lodgings(rig)), (Vec::new(), 0), "templates of a class that has none");
}

/// How many templates have a directory: those that are being made or tried are among them.
fn lodgings(rig: &Rig) -> usize {
    fs::read_dir(rig.path("run/templates")).into_iter().flatten().count()
}

/// Waits for the end of an attempt that came to nothing. It begins when it is quiet after the start.
fn wait_tried(rig: &Rig) {
    std::thread::sleep(Duration::from_millis(400));
    wait_for("the end of the attempt", SOON, || (lodgings(rig) == 0).then_some(()));
}

fn lines(rig: &Rig, text: &str) -> usize {
    rig.log().lines().filter(|line| line.contains(text)).count()
}

#[test]
fn a_php_fpm_that_does_what_a_template_must_is_relied_upon_after_its_trial() {
    let rig = rig_of_image(":");
    assert_eq!(start(&rig, "hello "), cold("its class has not been tried yet"));
    stocked(&rig, 1);
    assert_eq!(start(&rig, "hello "), by_template());
    assert_eq!(lines(&rig, "no templates"), 0, "{}", rig.log());
}

#[test]
fn one_that_waits_otherwise_than_by_epoll_is_recognised_and_its_pools_are_launched_cold() {
    let mut rig = rig_of_image(&by("poll"));
    assert_eq!(start(&rig, "hello "), cold("its class has not been tried yet"));
    let line = rig.wait_log("no templates of class ");
    let told = "is ready and has not called epoll_create: it sleeps in poll: its pools are launched cold";
    assert!(line.contains("php-fpm ") && line.ends_with(told), "{line}");
    for _ in 0..2 {
        let (by, why) = start(&rig, "hello ");
        assert!(by == "cold launch" && why.ends_with("epoll_create: it sleeps in poll"), "{by}: {why}");
        none_is_made(&rig);
    }
    // The image's php-fpm is another: it is tried anew.
    rig::image::around_php_fpm(&rig, &by("select"));
    start(&rig, "hello ");
    wait_for("the second verdict", SOON, || (lines(&rig, "has not called epoll_create") == 2).then_some(()));
    rig::image::around_php_fpm(&rig, ":");
    start(&rig, "hello ");
    stocked(&rig, 1);
    assert_eq!(start(&rig, "hello "), by_template());
    assert_eq!(lines(&rig, "no templates"), 2, "{}", rig.log());
}

/// Has php-fpm find `epoll_create` in a library of the image that makes system call `call`; what the
/// wrapper does for that.
fn epoll_create_by(rig: &Rig, call: &str) -> String {
    let source = rig.write(
        "epoll.c",
        &format!(
            "#include <sys/syscall.h>\n#include <unistd.h>\n\
         int epoll_create(int size) {{ return size > 0 ? syscall({call}) : -1; }}\n"
        ),
    );
    // What the shell has loaded before is not written over.
    let library = format!("/usr/lib/{}.so", call.replace(|c: char| !c.is_ascii_alphanumeric(), "_"));
    let file = rig.path("image").join(library.trim_start_matches('/'));
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    let made = Command::new("cc").args(["-shared", "-fPIC", "-O2", "-o"]).arg(&file).arg(&source).status();
    assert!(made.unwrap().success());
    format!("export LD_PRELOAD={library}")
}

#[test]
fn one_that_calls_epoll_create1_is_recognised_and_its_pools_are_launched_cold() {
    // As where the kernel knows no other: "epoll_create" of the C library makes the newer call.
    let mut rig = Rig::new();
    keep(&rig, 1);
    let preload = epoll_create_by(&rig, "SYS_epoll_create1, 0");
    let image = rig::image::around_php_fpm(&rig, &preload);
    let hello = "<?php echo 'hello';";
    rig.site("blog", "index.php", hello, TENANT);
    rig.pool("blog", &format!("image = {image:?}\n{SHORT}"));
    rig.serve();
    assert_eq!(start(&rig, "hello"), cold("its class has not been tried yet"));
    let line = rig.wait_log("no templates of class ");
    let told =
        "is ready and has not called epoll_create: it sleeps in epoll_wait: its pools are launched cold";
    assert!(line.contains("php-fpm ") && line.ends_with(told), "{line}");
    for _ in 0..2 {
        let (by, why) = start(&rig, "hello");
        assert!(by == "cold launch" && why.ends_with("epoll_create: it sleeps in epoll_wait"), "{by}: {why}");
        none_is_made(&rig);
    }
    // With a library that makes the older call it is one: the call was all that was wrong with it.
    let preload = epoll_create_by(&rig, "SYS_epoll_create, size");
    rig::image::around_php_fpm(&rig, &preload);
    assert_eq!(start(&rig, "hello").0, "cold launch");
    stocked(&rig, 1);
    assert_eq!(start(&rig, "hello"), by_template());
    assert_eq!(lines(&rig, "no templates"), 1, "{}", rig.log());
}

#[test]
fn one_that_ends_is_not_tried_without_end() {
    for first in [
        "[ -p /etc/howdah/php-fpm.conf ] && exit 3",
        "[ -p /etc/howdah/php-fpm.conf ] && read -r line \
         </etc/howdah/php-fpm.conf && exit 4",
    ] {
        let mut rig = rig_of_image(first);
        for _ in 0..3 {
            assert_eq!(start(&rig, "hello "), cold("its class has not been tried yet"));
            wait_tried(&rig);
            none_is_made(&rig);
        }
        let line = rig.wait_log("no templates of class ");
        let words = if first.ends_with("exit 3") {
            "did not ask for its configuration: it ended with status 3"
        } else {
            "did not live through its trial: it ended with status 4"
        };
        assert!(line.contains(words), "{line}");
        let (by, why) = start(&rig, "hello ");
        assert!(by == "cold launch" && why.contains(words), "{by}: {why}");
        none_is_made(&rig);
    }
}

#[test]
fn a_trial_that_comes_to_nothing_by_accident_is_repeated_with_the_next_start() {
    let rig = rig_of_image(":");
    let cut_off = Arc::new(AtomicBool::new(false));
    let seen = cut_off.clone();
    let howdah = rig.pid() as i32;
    // As when its worker is killed in the middle of the request: howdah has no other stream to read.
    let fault = Fault::at(howdah, Instead::Fails(Errno::ECONNRESET), move |call| {
        let file = || fs::read_link(format!("/proc/{howdah}/fd/{}", call.arguments[0])).unwrap_or_default();
        let is_unix = |file: &Path| {
            let inode = file.to_string_lossy().trim_matches(|c: char| !c.is_ascii_digit()).to_owned();
            fs::read_to_string("/proc/net/unix").unwrap().split_whitespace().any(|word| word == inode)
        };
        let asks = call.number == libc::SYS_recvfrom && is_unix(&file());
        seen.fetch_or(asks, Ordering::SeqCst);
        asks
    });
    assert_eq!(start(&rig, "hello "), cold("its class has not been tried yet"));
    wait_for("the end of the trial", SOON, || cut_off.load(Ordering::SeqCst).then_some(()));
    assert!(fault.has_happened());
    wait_tried(&rig);
    none_is_made(&rig);
    assert_eq!(start(&rig, "hello "), cold("its class has not been tried yet"));
    stocked(&rig, 1);
    assert_eq!(start(&rig, "hello "), by_template());
    assert_eq!(lines(&rig, "no templates"), 0, "{}", rig.log());
}

#[test]
fn code_that_php_runs_when_it_starts_is_no_tenants_and_is_there_in_both() {
    // opcache.preload: run before php-fpm reads its configuration, template or not.
    let mut rig = Rig::new();
    keep(&rig, 1);
    let set =
        "set -- -d zend_extension=/usr/lib/php/opcache.so -d opcache.preload=/usr/share/preload.php \"$@\"";
    let image = rig::image::around_php_fpm(&rig, set);
    rig.write("image/usr/share/preload.php", "<?php function f() { return 'preloaded'; }");
    let extensions = fs::read_dir("/usr/lib/php").unwrap().flatten();
    let opcache = extensions.map(|entry| entry.path().join("opcache.so")).find(|path| path.exists());
    fs::create_dir_all(image.join("usr/lib/php")).unwrap();
    fs::copy(
        opcache.expect("opcache.so, of Debian's package php-opcache"),
        image.join("usr/lib/php/opcache.so"),
    )
    .unwrap();
    rig.site("blog", "index.php", "<?php echo 'hello ', function_exists('f') ? f() : '';", TENANT);
    rig.pool("blog", &format!("image = {image:?}\n{SHORT}"));
    rig.serve();
    assert_eq!(start(&rig, "hello preloaded"), cold("its class has not been tried yet"));
    stocked(&rig, 1);
    assert_eq!(start(&rig, "hello preloaded"), by_template());
}

#[test]
fn a_tenants_configuration_that_takes_epoll_away_is_no_templates() {
    let mut rig = Rig::new();
    keep(&rig, 1);
    for (name, mechanism) in [("blog", "epoll"), ("shop", "poll")] {
        rig.site(name, "index.php", "<?php echo 'hello';", TENANT);
        let text =
            format!("[global]\nevents.mechanism = {mechanism}\n[www]\npm = static\npm.max_children = 2\n");
        let file = rig.write(&format!("{name}/fpm.conf"), &text);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        rig.pool(name, &format!("{SHORT}\n[fpm]\nconfig = {file:?}\n"));
    }
    rig.serve();
    stocked(&rig, 1);
    rig.text("blog", "/index.php");
    wait_for("a start by a template", SOON, || {
        (rig.record("blog").last_start_by == "template").then_some(())
    });
    stocked(&rig, 1);
    let waits = waiting(&rig);
    rig.text("shop", "/index.php");
    let record = wait_for("a start", SOON, || Some(rig.record("shop")).filter(|record| record.starts == 1));
    assert_eq!(record.last_start_by, "cold launch");
    let why = record.last_start_not_by_template.unwrap();
    assert!(why.contains("events.mechanism"), "{why}");
    assert_eq!(waiting(&rig), waits, "none was spent on it");
    let pools = rig.path("pools");
    let told = rig.howdah(&["check", pools.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&told.stdout).contains("always starts cold: its php-fpm configuration"));
}
