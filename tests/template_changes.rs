//! What changes under a template that waits: it is another php then than the one that it has loaded,
//! and it becomes nobody's. One that nothing has happened to is the control.
#![allow(missing_docs)]

mod rig;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use rig::templates::{keep, stocked, waiting};
use rig::{Rig, TENANT, wait_for};

const SHORT: &str = "[idle]\nstop = \"100ms\"";
const SOON: Duration = Duration::from_secs(20);
const CHANGED: &str = "what it has loaded has changed on the disk";

/// A pool with an image that has ini files as Debian has them; the file that its symlink leads to.
fn rig_of_image() -> (Rig, PathBuf) {
    let mut rig = Rig::new();
    keep(&rig, 1);
    let image = rig::image::around_php_fpm(&rig, ":");
    let fpm = howdah::image::Image::locate(&howdah::config::pool::ImageRef::Host, None).unwrap().binary;
    let told = String::from_utf8(Command::new(fpm).arg("-i").output().unwrap().stdout).unwrap();
    let scanned =
        told.lines().find_map(|line| line.strip_prefix("Scan this dir for additional .ini files => "));
    let scanned = image.join(scanned.expect("a php-fpm that scans for ini files").trim_start_matches('/'));
    fs::create_dir_all(&scanned).unwrap();
    let ini = rig.write("image/etc/php/mods/site.ini", "memory_limit = 66M\n");
    std::os::unix::fs::symlink("/etc/php/mods/site.ini", scanned.join("20-site.ini")).unwrap();
    rig.site("blog", "index.php", "<?php echo ini_get('memory_limit');", TENANT);
    rig.pool("blog", &format!("image = {image:?}\n{SHORT}"));
    rig.serve();
    (rig, ini)
}

/// Starts the pool once: what it says, by what it was, and why not by a template.
fn start(rig: &Rig) -> (String, String, String) {
    let before = rig.record("blog").starts;
    let said = rig.text("blog", "/index.php");
    let record = || Some(rig.record("blog")).filter(|record| record.starts == before + 1);
    let record = wait_for("the record of the start", SOON, record);
    rig.wait_state("blog", "cold");
    (said, record.last_start_by, record.last_start_not_by_template.unwrap_or_default())
}

fn told(said: &str, by: &str, why: &str) -> (String, String, String) {
    (said.to_owned(), by.to_owned(), why.to_owned())
}

/// It ends beside the start, which does not wait for it.
fn wait_gone(pid: i32) {
    wait_for("the end of the old one", SOON, || {
        (kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH)).then_some(())
    });
}

#[test]
fn an_ini_file_that_is_edited_in_place_is_another_php() {
    let (rig, ini) = rig_of_image();
    start(&rig);
    stocked(&rig, 1);
    assert_eq!(start(&rig), told("66M", "template", ""), "nothing has changed");
    let old = stocked(&rig, 1)[0];
    File::options().append(true).open(&ini).unwrap().write_all(b"memory_limit = 77M\n").unwrap();
    assert_eq!(start(&rig), told("77M", "cold launch", CHANGED));
    wait_gone(old);
    stocked(&rig, 1);
    assert_eq!(start(&rig), told("77M", "template", ""));
}

#[test]
fn a_library_that_is_replaced_is_another_php() {
    let (rig, _) = rig_of_image();
    start(&rig);
    let old = stocked(&rig, 1)[0];
    let maps = fs::read_to_string(format!("/proc/{old}/maps")).unwrap();
    let library = maps.lines().filter_map(|line| Some(&line[line.find('/')?..]));
    let library = library.into_iter().find(|path| path.contains("libxml2")).expect("libxml2 in php-fpm");
    let library = rig.path("image").join(library.trim_start_matches('/'));
    // As a package manager does it.
    let fresh = library.with_extension("dpkg-new");
    fs::copy(&library, &fresh).unwrap();
    fs::rename(&fresh, &library).unwrap();
    assert_eq!(start(&rig), told("66M", "cold launch", CHANGED));
    wait_gone(old);
    stocked(&rig, 1);
    assert_eq!(start(&rig), told("66M", "template", ""));
}

#[test]
fn the_binary_that_is_replaced_is_another_php() {
    let (rig, _) = rig_of_image();
    start(&rig);
    let old = stocked(&rig, 1)[0];
    let real = rig.path("image/usr/sbin/php-fpm.real");
    fs::copy(&real, real.with_extension("new")).unwrap();
    fs::rename(real.with_extension("new"), &real).unwrap();
    assert_eq!(start(&rig), told("66M", "cold launch", CHANGED));
    wait_gone(old);
    // What the image is was asked anew at that start.
    stocked(&rig, 1);
    assert_eq!(start(&rig), told("66M", "template", ""));
}

#[test]
fn one_that_is_killed_while_it_waits_is_replaced_though_nobody_asks() {
    let rig = {
        let mut rig = Rig::new();
        keep(&rig, 1);
        rig.site("blog", "index.php", "<?php echo 'hello';", TENANT);
        rig.pool("blog", SHORT);
        rig.serve();
        rig
    };
    let old = stocked(&rig, 1)[0];
    kill(Pid::from_raw(old), Signal::SIGKILL).unwrap();
    let fresh = wait_for("another", SOON, || waiting(&rig).pop().filter(|pid| *pid != old));
    assert!(Path::new(&format!("/proc/{fresh}")).exists());
    wait_gone(old);
    stocked(&rig, 1);
    assert_eq!(start(&rig), told("hello", "template", ""));
}

/// In front of the C library's own: CLOCK_MONOTONIC is ahead by as many seconds as stand in the file
/// that $AHEAD names.
const CLOCK: &str = r#"
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
static const volatile long *ahead;
__attribute__((constructor)) static void find(void) {
    ahead = mmap(0, sizeof *ahead, PROT_READ, MAP_SHARED, open(getenv("AHEAD"), O_RDONLY | O_CLOEXEC), 0);
}
int clock_gettime(clockid_t which, struct timespec *now) {
    int result = syscall(SYS_clock_gettime, which, now);
    if (which == CLOCK_MONOTONIC && ahead) now->tv_sec += *ahead;
    return result;
}
"#;

#[test]
fn one_that_has_waited_for_a_day_becomes_nobodys_and_another_takes_its_place() {
    let mut rig = Rig::new();
    keep(&rig, 1);
    rig.site("blog", "index.php", "<?php echo 'hello';", TENANT);
    rig.pool("blog", SHORT);
    let (source, clock) = (rig.write("clock.c", CLOCK), rig.path("clock.so"));
    let made = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&clock, &source]).status();
    assert!(made.unwrap().success());
    let ahead = rig.path("ahead");
    let file = File::options().write(true).create_new(true).open(&ahead).unwrap();
    // In place: howdah has it mapped.
    let set = |hours: i64| file.write_all_at(&(hours * 3600).to_ne_bytes(), 0).unwrap();
    set(0);
    rig.serve_under(&[], &[("LD_PRELOAD", clock.to_str().unwrap()), ("AHEAD", ahead.to_str().unwrap())]);
    stocked(&rig, 1);
    set(23);
    assert_eq!(start(&rig), told("hello", "template", ""), "after 23 hours");
    // Looked at when somebody wants it.
    let old = stocked(&rig, 1)[0];
    set(23 + 24);
    let (said, by, why) = start(&rig);
    assert_eq!((said.as_str(), by.as_str()), ("hello", "cold launch"));
    assert!(why == "it was too old" || why == "none was ready", "{why}");
    wait_gone(old);
    // And when nobody does.
    let old = stocked(&rig, 1)[0];
    set(23 + 24 + 24);
    // howdah waits by a clock that this one does not move: anything wakes it.
    rig.signal(Signal::SIGHUP);
    wait_for("another", SOON, || waiting(&rig).pop().filter(|pid| *pid != old));
    wait_gone(old);
    stocked(&rig, 1);
    assert_eq!(start(&rig), told("hello", "template", ""));
}
