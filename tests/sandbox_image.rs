//! Images that are directories: a small one serves, a hostile one leads howdah nowhere.
#![allow(missing_docs)]

mod rig;

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use howdah::config::pool::ImageRef;
use howdah::image::Image;
use rig::{OTHER, Rig, TENANT};

/// Copies `program` and the libraries that it is linked with below `root`.
fn copy_program(root: &Path, program: &Path) {
    let output = Command::new("ldd").arg(program).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let words = text.split_whitespace().filter(|word| word.starts_with('/'));
    let files: BTreeSet<PathBuf> = words.map(PathBuf::from).chain([program.to_owned()]).collect();
    for file in files {
        let inside = root.join(file.strip_prefix("/").unwrap());
        fs::create_dir_all(inside.parent().unwrap()).unwrap();
        if !inside.exists() {
            let real = file.canonicalize().unwrap();
            // A link is as good as a copy of a library; but it changes the file's
            // change time, by which howdah sees that a php-fpm is another.
            let linked = if file == *program { Err(()) } else { fs::hard_link(&real, &inside).map_err(drop) };
            linked.or_else(|()| fs::copy(&real, &inside).map(drop)).unwrap();
        }
    }
}

/// A root file system with a php-fpm without extensions, and a shell; no php.ini.
fn make_image(root: &Path) {
    let host = Image::locate(&ImageRef::Host, None).unwrap();
    copy_program(root, &host.binary);
    fs::rename(root.join(host.binary.strip_prefix("/").unwrap()), root.join("usr/sbin/php-fpm")).unwrap();
    copy_program(root, Path::new("/bin/dash"));
    fs::create_dir_all(root.join("etc")).unwrap();
    let release = fs::read_to_string("/etc/os-release").unwrap();
    fs::write(root.join("etc/os-release"), release).unwrap();
}

/// Puts a program in the place of the image's php-fpm that says of itself what `answer` does.
fn let_it_say(root: &Path, answer: &str) {
    let (place, real) = (root.join("usr/sbin/php-fpm"), root.join("usr/libexec/real"));
    if !real.exists() {
        fs::create_dir_all(real.parent().unwrap()).unwrap();
        fs::rename(&place, &real).unwrap();
    }
    let script = format!(
        "#!/bin/dash\nif [ \"$1\" != -i ]; then exec /usr/libexec/real \"$@\"; fi\n\
         echo 'Server API => FPM/FastCGI\nPHP Version => 8.2.0\n\
         Configuration File (php.ini) Path => /etc/php\nextension_dir => /usr/lib/php\n{answer}'\n"
    );
    fs::write(&place, script).unwrap();
    fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).unwrap();
}

const ORDINARY: &str = "Loaded Configuration File => (none)\nScan this dir for additional .ini files => (none)\n\
     Additional .ini files parsed => (none)";

/// A pool of the image at `image` whose site is what [`Rig::php`] needs.
fn pool(rig: &Rig, image: &Path, more: &str) {
    rig.site("blog", "do.php", "<?php eval(file_get_contents('php://input'));", TENANT);
    rig.pool("blog", "");
    let text = fs::read_to_string(rig.path("pools/blog.toml")).unwrap();
    rig.write("pools/blog.toml", &format!("image = {image:?}\n{text}\n{more}"));
}

/// Everything below `path`, to be compared.
fn tree(path: &Path) -> Vec<PathBuf> {
    let mut all = vec![path.to_owned()];
    let mut next = 0;
    while next < all.len() {
        if all[next].symlink_metadata().unwrap().is_dir() {
            let entries = fs::read_dir(&all[next]).unwrap().flatten().map(|entry| entry.path());
            all.extend(entries.collect::<Vec<_>>());
        }
        next += 1;
    }
    all.sort();
    all
}

#[test]
fn a_pool_is_served_from_a_directory_with_a_root_file_system() {
    let mut rig = Rig::new();
    let image = rig.path("image");
    make_image(&image);
    for name in ["srv", "home/somebody", "proc", "dev", "tmp", "run", "sys", "root"] {
        fs::create_dir_all(image.join(name)).unwrap();
        fs::write(image.join(name).join("of-the-image"), "").unwrap();
    }
    pool(&rig, &image, "");
    rig.serve();
    assert_eq!(rig.php("blog", "echo 'php ', PHP_MAJOR_VERSION;"), "php 8");
    let look = |path: &str| rig.php("blog", &format!("echo file_exists('{path}') ? 'there' : 'not';"));
    assert_eq!(look("/srv/of-the-image"), "there");
    // Not the host's programs, and not the image's idea of what howdah makes.
    for path in [
        "/usr/bin/sleep",
        "/usr/share",
        "/proc/of-the-image",
        "/dev/of-the-image",
        "/tmp/of-the-image",
        "/run/of-the-image",
    ] {
        assert_eq!(look(path), "not", "{path}");
    }
    assert!(Path::new("/usr/bin/sleep").exists());
    assert_eq!(rig.php("blog", "var_dump(@file_put_contents('/srv/x', 'x'));"), "bool(false)\n");
    assert_eq!(rig.php("blog", "echo file_get_contents('/etc/group');"), "www-data:x:33:\n");
    assert_eq!(rig.end(), 0);
}

#[test]
fn an_image_without_php_fpm_is_one_line() {
    let mut rig = Rig::new();
    let image = rig.path("image");
    fs::create_dir_all(image.join("usr/bin")).unwrap();
    pool(&rig, &image, "");
    rig.serve();
    assert_eq!(rig.try_get("blog", "/do.php").unwrap().status, 503);
    let wanted = format!(
        "howdah: pool blog: image {}: no php-fpm in /usr/sbin, /usr/local/sbin, /usr/bin or /usr/local/bin: \
         install it (Debian: apt-get install php-fpm) or name it with [fpm] binary",
        image.display()
    );
    assert_eq!(rig.wait_log("no php-fpm"), wanted);
}

#[test]
fn symlinks_in_the_place_of_what_howdah_makes_are_harmless() {
    let mut rig = Rig::new();
    let (image, victim) = (rig.path("image"), rig.path("victim"));
    make_image(&image);
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("of-the-host"), "").unwrap();
    for name in ["proc", "dev", "tmp", "run", "sys", "srv", "opt"] {
        symlink(&victim, image.join(name)).unwrap();
    }
    let before = tree(&victim);
    pool(&rig, &image, "");
    rig.serve();
    let first = "echo implode(' ', array_diff(scandir('/dev'), ['.', '..'])), ' ', file_exists('/proc/1/comm') ? 'proc' : '';";
    assert_eq!(rig.php("blog", first), "full null random shm urandom zero proc");
    // What the others say leads to what it would lead to inside: nowhere.
    assert_eq!(rig.php("blog", "var_dump(@scandir('/srv'), is_link('/srv'));"), "bool(false)\nbool(true)\n");
    assert_eq!(
        rig.php("blog", "echo file_put_contents('/tmp/x', 'x'), file_put_contents('/run/x', 'x');"),
        "11"
    );
    assert_eq!(tree(&victim), before);
}

#[test]
fn a_mount_target_below_an_images_symlink_is_refused_by_its_name() {
    let mut rig = Rig::new();
    let (image, victim) = (rig.path("image"), rig.path("victim"));
    make_image(&image);
    fs::create_dir_all(image.join("var")).unwrap();
    fs::create_dir(&victim).unwrap();
    // Where howdah itself wants to mount the pool's sessions.
    symlink(&victim, image.join("var/lib")).unwrap();
    pool(&rig, &image, "");
    rig.serve();
    assert_eq!(rig.try_get("blog", "/do.php").unwrap().status, 503);
    let line = rig.wait_log("[blog.1]");
    let words = "mount target /var/lib/php/sessions goes through the symlink /var/lib";
    assert!(line.starts_with(&format!("howdah: pool blog: {words}: ")), "{line}");
    assert_eq!(tree(&victim), [victim]);
}

#[test]
fn an_image_cannot_make_howdah_read_a_file_of_the_host_for_it() {
    let mut rig = Rig::new();
    let image = rig.path("image");
    make_image(&image);
    let secret = rig.write("20-secret.ini", "secret = of the host\n");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    fs::create_dir_all(image.join("etc/php")).unwrap();
    symlink(&secret, image.join("etc/php/20-secret.ini")).unwrap();
    let up = "../".repeat(12);
    for named in [
        "/etc/php/20-secret.ini".to_owned(),
        format!("/{up}{}", secret.display()),
        secret.display().to_string(),
    ] {
        let parsed = format!(
            "Scan this dir for additional .ini files => /etc/php\nLoaded Configuration File => (none)\nAdditional .ini files parsed => {named}"
        );
        let_it_say(&image, &parsed);
        pool(&rig, &image, "[php]\nextensions = [\"secret\"]\n");
        rig.serve();
        assert_eq!(rig.try_get("blog", "/do.php").unwrap().status, 503);
        let line = rig.wait_log("[blog.1]");
        assert!(
            line.ends_with("ENOENT: No such file or directory [blog.1]") || line.contains("No such file"),
            "{line}"
        );
        let made = tree(&rig.path("run/pools"));
        assert!(
            !made.iter().any(|path| fs::read_to_string(path).is_ok_and(|text| text.contains("of the host")))
        );
        assert_eq!(rig.end(), 0);
    }
}

#[test]
fn an_image_cannot_make_howdah_write_anywhere_on_the_host() {
    let mut rig = Rig::new();
    // As deep as this, so that a link with as many ".." as lead from the pool's root
    // to the victim leads to a place of the tenant's own where the image is.
    let (image, victim) = (rig.path("a/b/c/d/e/image"), rig.path("victim"));
    make_image(&image);
    fs::create_dir(&victim).unwrap();
    for name in ["a/b/victim", "a/b/c/d/e/image/victim"] {
        fs::create_dir(rig.path(name)).unwrap();
        fs::write(rig.path(name).join("file"), "").unwrap();
        fs::create_dir(rig.path(name).join("directory")).unwrap();
        symlink("/tmp/evil.so", rig.path(name).join("ld.so.preload")).unwrap();
    }
    symlink("../../../../../victim", image.join("etc/pki")).unwrap();
    let answer = "Loaded Configuration File => /etc/pki/file\nScan this dir for additional .ini files => /etc/pki/directory\n\
         Additional .ini files parsed => /etc/pki/ld.so.preload";
    let_it_say(&image, answer);
    pool(&rig, &image, "");
    rig.serve();
    let _ = rig.try_get("blog", "/do.php");
    assert_eq!(tree(&victim).len(), 1, "{:?}\n{}", tree(&victim), rig.log());
    assert_eq!(rig.end(), 0);
    let named = answer.replace("/etc/pki/file", "/etc/pki/ld.so.preload");
    let_it_say(&image, &named);
    rig.serve();
    let _ = rig.try_get("blog", "/do.php");
    assert_eq!(tree(&victim).len(), 1, "{:?}\n{}", tree(&victim), rig.log());
}

#[test]
fn an_image_that_changes_after_the_first_start_shows_nothing_of_the_host() {
    let mut rig = Rig::new();
    let (image, secret) = (rig.path("image"), rig.write("private/secret", "of the host"));
    make_image(&image);
    fs::create_dir(image.join("srv")).unwrap();
    pool(&rig, &image, "[idle]\nstop = \"100ms\"\n");
    rig.serve();
    let read = "echo @file_get_contents('/srv/secret') ?: 'nothing';";
    assert_eq!(rig.php("blog", read), "nothing");
    rig.wait_state("blog", "cold");
    fs::remove_dir(image.join("srv")).unwrap();
    symlink(secret.parent().unwrap(), image.join("srv")).unwrap();
    assert_eq!(rig.try_get("blog", "/do.php").unwrap().status, 503);
    let line = rig.wait_log("[blog.2]");
    assert!(
        line.contains(&format!("open {}: No such file or directory (ENOENT)", image.join("srv").display())),
        "{line}"
    );
    assert_eq!(rig.end(), 0);

    // The image's own directory, likewise.
    fs::remove_file(image.join("srv")).unwrap();
    fs::create_dir(image.join("srv")).unwrap();
    rig.serve();
    assert_eq!(rig.php("blog", read), "nothing");
    rig.wait_state("blog", "cold");
    let moved = rig.path("moved");
    fs::rename(&image, &moved).unwrap();
    symlink("/", &image).unwrap();
    chown(&moved, Some(33), Some(33)).unwrap();
    std::os::unix::fs::lchown(&image, Some(33), Some(33)).unwrap();
    assert_eq!(rig.try_get("blog", "/do.php").unwrap().status, 503);
    let wanted = format!(
        "howdah: pool blog: image {}: the way to it goes through a symlink that does not belong to root: \
         name the real directory [blog.2]",
        image.display()
    );
    assert_eq!(rig.wait_log("symlink"), wanted);
}

#[test]
fn an_image_that_talks_for_ever_is_told_to_stop() {
    let mut rig = Rig::new();
    let image = rig.path("image");
    make_image(&image);
    let_it_say(
        &image,
        &format!("{ORDINARY}'\nwhile :; do echo 'more and more and more and more'; done; echo '"),
    );
    pool(&rig, &image, "");
    rig.serve();
    // It is asked before anybody is served, and that is over soon; it has said enough to be served.
    assert_eq!(rig.php("blog", "echo 'here';"), "here");
    assert!(!rig.path("run/probe-blog").exists());
}

#[test]
fn an_images_php_fpm_is_asked_behind_the_walls() {
    let mut rig = Rig::new();
    let image = rig.path("image");
    make_image(&image);
    // What it sees of itself goes to where the test can read it: into the version's line, which is in the error.
    let look = "'\nwhile read -r key value rest; do case $key in Seccomp:|NoNewPrivs:|CapBnd:) echo \"Server API => $key$value\"; exit;; esac; done < /proc/self/status; echo '";
    for (key, wanted) in
        [("Seccomp", "Seccomp:2"), ("NoNewPrivs", "NoNewPrivs:1"), ("CapBnd", "CapBnd:0000000000000000")]
    {
        let place = image.join("usr/sbin/php-fpm");
        let_it_say(&image, "");
        let script = format!(
            "#!/bin/dash\necho '{}",
            look.replace("Seccomp:|NoNewPrivs:|CapBnd:", &format!("{key}:"))
        );
        fs::write(&place, format!("{script}'\n")).unwrap();
        pool(&rig, &image, "");
        rig.serve();
        assert_eq!(rig.try_get("blog", "/do.php").unwrap().status, 503);
        let line = rig.wait_log("is no php-fpm but");
        assert!(line.contains(wanted), "{line}");
        assert_eq!(rig.end(), 0);
    }
}

#[test]
fn an_image_with_a_thousand_directories_in_its_root_is_refused_by_one_line() {
    let mut rig = Rig::new();
    let image = rig.path("image");
    make_image(&image);
    for number in 0..1000 {
        fs::create_dir(image.join(format!("d{number}"))).unwrap();
    }
    pool(&rig, &image, "");
    rig.serve();
    assert_eq!(rig.try_get("blog", "/do.php").unwrap().status, 503);
    let line = rig.wait_log("[blog.1]");
    let wanted = format!(
        "howdah: pool blog: image {}: its root has more than 256 entries to mount: put them into a directory [blog.1]",
        image.display()
    );
    assert_eq!(line, wanted);
}

#[test]
fn an_image_whose_php_fpm_hangs_keeps_nobody_else_waiting() {
    let mut rig = Rig::new();
    let image = rig.path("image");
    make_image(&image);
    let_it_say(&image, "'\nwhile :; do :; done; echo '");
    pool(&rig, &image, "[start]\ntimeout = \"3s\"\n");
    rig.inside("shop", OTHER, "");
    rig.serve();
    let mut waiting = UnixStream::connect(rig.socket("blog")).unwrap();
    rig.wait_state("blog", "starting");
    // It is asked in a cgroup of its own, which holds what it uses to the pool's limits.
    let asked = rig.cgroup().join("blog.ask/cgroup.procs");
    assert_ne!(fs::read_to_string(&asked).unwrap(), "");
    assert_eq!(rig.php("shop", "echo 'shop';"), "shop");
    assert_eq!(rig.state("blog"), "starting", "the neighbour's answer had to wait for it:\n{}", rig.log());
    let wanted = format!(
        "howdah: pool blog: image {}: /usr/sbin/php-fpm -i did not end within 3 s: try it by hand [blog.1]",
        image.display()
    );
    assert_eq!(rig.wait_log("did not end"), wanted);
    rig::wait_for("the end of its cgroup", std::time::Duration::from_secs(5), || {
        (!asked.exists()).then_some(())
    });
    let mut answer = Vec::new();
    let _ = waiting.read_to_end(&mut answer);
    assert_eq!(rig.try_get("blog", "/do.php").unwrap().status, 503);
    // Repaired, it serves.
    fs::rename(image.join("usr/libexec/real"), image.join("usr/sbin/php-fpm")).unwrap();
    let mended = || rig.try_get("blog", "/do.php").ok().filter(|response| response.status == 200);
    rig::wait_for("the mended image", std::time::Duration::from_secs(20), mended);
    assert_eq!(rig.end(), 0);
}
