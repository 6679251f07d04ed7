//! What of the file system a pool has, seen from inside with the real php-fpm:
//! a read-only root, nothing of the host or of a neighbour, and its own mounts.
#![allow(missing_docs)]

mod rig;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use rig::held::Held;
use rig::{OTHER, Rig, TENANT};

/// Tries to make a file at each path and tells how it went.
fn write_each(paths: &[&str]) -> String {
    let list = paths.iter().map(|path| format!("'{path}'")).collect::<Vec<_>>().join(", ");
    format!(
        "foreach ([{list}] as $p) {{ $ok = @file_put_contents($p, 'x'); echo $p, ' ', \
         $ok ? 'written' : substr(strrchr(error_get_last()['message'], ':'), 2), \"\\n\"; }}"
    )
}

/// The mount options inside of the mount at `path`.
fn options(rig: &Rig, pool: &str, path: &str) -> String {
    let mounts = rig.php(pool, "echo file_get_contents('/proc/self/mountinfo');");
    let line = mounts.lines().rfind(|line| line.split(' ').nth(4) == Some(path));
    line.unwrap_or_else(|| panic!("no mount at {path} in:\n{mounts}")).split(' ').nth(5).unwrap().to_owned()
}

#[test]
fn the_root_and_all_of_the_image_are_read_only() {
    let mut rig = Rig::new();
    rig.inside("blog", TENANT, "");
    // Without Landlock, so that the mounts alone answer; they do not differ otherwise.
    rig.inside_without("mounts", "landlock = false", "");
    rig.serve();
    let paths = ["/x", "/usr/x", "/etc/x", "/dev/x", "/var/x", "/var/lib/php/x", "/etc/passwd", "/proc/x"];
    let told = rig.php("mounts", &write_each(&paths));
    for line in told.lines().filter(|line| !line.starts_with("/proc") && !line.starts_with("/etc/passwd")) {
        assert!(line.ends_with(" Read-only file system"), "{line}");
    }
    assert!(!rig.php("blog", &write_each(&paths)).contains("written"));
    for path in ["/", "/usr"] {
        let options = options(&rig, "blog", path);
        for word in ["ro", "nosuid", "nodev"] {
            assert!(options.split(',').any(|one| one == word), "{path}: {options}");
        }
    }
    // The control: the same words write where it may.
    assert_eq!(rig.php("blog", &write_each(&["/tmp/x"])), "/tmp/x written\n");
}

#[test]
fn nothing_of_the_host_is_to_be_seen() {
    let mut rig = Rig::new();
    rig.inside("blog", TENANT, "");
    rig.inside("shop", TENANT, "");
    rig.serve();
    let root = rig.php("blog", "echo implode(' ', array_diff(scandir('/'), ['.', '..']));");
    for name in root.split(' ') {
        let known = [
            "bin", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "run", "sbin", "tmp", "usr",
            "var",
        ];
        assert!(known.contains(&name), "/{name}");
    }
    let socket = rig.socket("shop");
    let hidden = [
        "/root",
        "/home",
        "/srv",
        "/opt",
        "/sys",
        "/boot",
        "/mnt",
        "/etc/shadow",
        "/etc/ssh",
        "/etc/howdah/pools",
        "/var/log",
        "/var/lib/dpkg",
        "/dev/tty",
        "/dev/mem",
        "/dev/kmsg",
        "/dev/pts",
        "/proc/sys",
        "/proc/cpuinfo",
        "/proc/kcore",
        "/proc/mounts/x",
        rig.path("shop").to_str().unwrap(),
        rig.path("shop/do.php").to_str().unwrap(),
        socket.to_str().unwrap(),
        rig.path("run").to_str().unwrap(),
        rig.path("state").to_str().unwrap(),
        rig.path("pools").to_str().unwrap(),
    ]
    .map(str::to_owned);
    let list = hidden.iter().map(|path| format!("'{path}'")).collect::<Vec<_>>().join(", ");
    let seen = rig.php("blog", &format!("foreach ([{list}] as $p) if (file_exists($p)) echo $p, ' ';"));
    assert_eq!(seen, "");
    // The control: the host has them.
    let there = hidden.iter().filter(|path| Path::new(path).exists()).count();
    assert!(there > 8, "{there} of {}", hidden.len());
    // The pools of the host's own php-fpm are its business; its php.ini is PHP's.
    let pools = "echo count(glob('/etc/php/*/fpm/pool.d')), ' ', count(glob('/etc/php/*/fpm/php.ini'));";
    assert_eq!(rig.php("blog", pools), "0 1");
    assert!(
        fs::read_dir("/etc/php").unwrap().flatten().any(|version| version.path().join("fpm/pool.d").exists())
    );
}

#[test]
fn etc_is_made_for_the_pool_and_names_its_one_user() {
    let mut rig = Rig::new();
    rig.inside("blog", OTHER, "");
    rig.serve();
    let read = |file: &str| rig.php("blog", &format!("echo file_get_contents('/etc/{file}');"));
    assert_eq!(read("passwd"), "backup:x:34:34:backup:/tmp:/usr/sbin/nologin\n");
    assert_eq!(read("group"), "backup:x:34:\n");
    assert_eq!(read("hostname"), "blog\n");
    assert!(read("hosts").starts_with("127.0.0.1 localhost blog\n"));
    assert_eq!(
        rig.php("blog", "echo posix_getpwuid(34)['name'], ' ', var_export(posix_getpwnam('root'), true);"),
        "backup false"
    );
    // What the host has more of.
    assert!(fs::read_to_string("/etc/passwd").unwrap().lines().count() > 2);
}

#[test]
fn temporary_directories_are_the_pools_own_and_end_with_its_generation() {
    let mut rig = Rig::new();
    rig.inside("one", TENANT, "[idle]\nstop = \"200ms\"");
    rig.inside("two", TENANT, "");
    rig.serve();
    let mine = ["/tmp/mine", "/run/mine", "/dev/shm/mine", "/var/tmp/mine", "/var/lib/php/sessions/mine"];
    let held = Held::begin(&rig, "one", "/do.php");
    assert!(!rig.php("one", &write_each(&mine)).contains(':'));
    let list = "foreach (['/tmp', '/run', '/dev/shm', '/var/lib/php/sessions'] as $d) if (file_exists(\"$d/mine\")) echo $d, ' ';";
    assert_eq!(rig.php("one", list), "/tmp /run /dev/shm /var/lib/php/sessions ");
    assert_eq!(rig.php("two", list), "");
    for path in ["/tmp/mine", "/run/mine", "/dev/shm/mine"] {
        assert!(!Path::new(path).exists(), "{path} on the host");
    }
    for path in ["/tmp", "/run", "/dev/shm", "/var/lib/php/sessions"] {
        let options = options(&rig, "one", path);
        for word in ["rw", "nosuid", "nodev", "noexec"] {
            assert!(options.split(',').any(|one| one == word), "{path}: {options}");
        }
    }
    held.answer();
    rig.wait_state("one", "cold");
    assert_eq!(rig.php("one", list), "/var/lib/php/sessions ");
    // A tmpfs is as large as it was told.
    let fill = "$f = fopen('/tmp/big', 'w'); for ($n = 0; $n < 100 && @fwrite($f, str_repeat('x', 1 << 20)) === 1 << 20; $n++); echo $n;";
    let written: u32 = rig.php("two", fill).parse().unwrap();
    assert!((60..=64).contains(&written), "{written} MiB of 64");
    // In files as in bytes: sixteen thousand for these 64 MiB.
    let touch = "for ($n = 0; $n < 20000 && @touch(\"/run/$n\"); $n++); echo $n;";
    let files: u32 = rig.php("two", touch).parse().unwrap();
    assert!((16_000..=16_384).contains(&files), "{files} files");
}

#[test]
fn dev_holds_five_harmless_devices_and_no_other_can_be_made() {
    let mut rig = Rig::new();
    rig.inside("held", TENANT, "");
    rig.inside_without("open", "seccomp = \"off\"\nlandlock = false\ncapabilities = [\"CAP_MKNOD\"]", "");
    rig.serve();
    let list = "echo implode(' ', array_diff(scandir('/dev'), ['.', '..']));";
    assert_eq!(rig.php("held", list), "full null random shm urandom zero");
    let work = "echo strlen(file_get_contents('/dev/urandom', false, null, 0, 9)), file_put_contents('/dev/null', 'abc'), @file_put_contents('/dev/full', 'x') ? 'y' : 'n';";
    assert_eq!(rig.php("held", work), "93n");
    // The five are on this host too, among others.
    assert!(fs::read_dir("/dev").unwrap().count() > 6);
    // A device of one's own is out of reach even with the capability: the user namespace has none to give.
    let make = "echo @posix_mknod('/tmp/kmsg', POSIX_S_IFCHR | 0600, 1, 11) ? 'made' : 'refused';";
    assert_eq!(rig.php("held", make), "refused");
    assert_eq!(rig.php("open", make), "refused");
    rig.end();
    // The control: root of the host may.
    let node = rig.path("kmsg");
    let made = std::process::Command::new("mknod").arg(&node).args(["c", "1", "11"]).status().unwrap();
    assert!(made.success() && node.exists());
}

#[test]
fn mounts_of_the_pool_file_are_what_it_says() {
    let mut rig = Rig::new();
    for name in ["code", "data", "elsewhere"] {
        fs::create_dir(rig.path(name)).unwrap();
        chown(rig.path(name), Some(33), Some(33)).unwrap();
        // A program in each: what may be executed is a matter of the mount.
        fs::copy("/bin/true", rig.path(name).join("program")).unwrap();
    }
    let file = rig.write("one-file", "of the host");
    let database = rig.path("database");
    fs::create_dir(&database).unwrap();
    let listener = UnixListener::bind(database.join("sock")).unwrap();
    fs::set_permissions(database.join("sock"), fs::Permissions::from_mode(0o777)).unwrap();
    let mounts = format!(
        "[[mount]]\nsource = {:?}\n\
         [[mount]]\nsource = {:?}\naccess = \"rw\"\n\
         [[mount]]\nsource = {:?}\ntarget = \"/app/deep\"\n\
         [[mount]]\nsource = {file:?}\ntarget = \"/app/file\"\n\
         [[mount]]\nsource = {database:?}\ntarget = \"/run/database\"\n",
        rig.path("code"),
        rig.path("data"),
        rig.path("elsewhere"),
    );
    rig.inside("blog", TENANT, &mounts);
    rig.serve();
    let (code, data) = (rig.path("code").display().to_string(), rig.path("data").display().to_string());

    let written = rig
        .php("blog", &write_each(&[&format!("{code}/x"), &format!("{data}/x"), "/app/deep/x", "/app/file"]));
    let ends: Vec<_> = written.lines().map(|line| line.split_once(' ').unwrap().1).collect();
    assert_eq!(
        ends,
        ["Read-only file system", "written", "Read-only file system", "Read-only file system"],
        "{written}"
    );
    assert_eq!(fs::read_to_string(rig.path("data/x")).unwrap(), "x");
    assert_eq!(
        rig.php("blog", "echo file_get_contents('/app/file'), count(scandir('/app'));"),
        "of the host4"
    );

    let execute =
        |path: &str| rig.php("blog", &format!("exec('{path} 2>/dev/null', $o, $status); echo $status;"));
    assert_eq!(execute(&format!("{code}/program")), "0");
    assert_eq!(execute("/app/deep/program"), "0");
    assert_eq!(execute(&format!("{data}/program")), "126");
    let of_data = options(&rig, "blog", &data);
    for word in ["rw", "nosuid", "nodev", "noexec"] {
        assert!(of_data.split(',').any(|one| one == word), "{of_data}");
    }

    let connect = "$s = stream_socket_client('unix:///run/database/sock'); fwrite($s, 'hi'); echo 'said';";
    assert_eq!(rig.php("blog", connect), "said");
    drop(listener);
}

#[test]
fn execution_from_a_writable_place_is_refused_twice() {
    let mut rig = Rig::new();
    // Neither of the two is the only wall: without Landlock the mount still refuses, and the loader as well.
    rig.inside("held", TENANT, "");
    rig.inside_without("mounts", "landlock = false", "");
    rig.serve();
    for pool in ["held", "mounts"] {
        let copy = "copy('/bin/true', '/tmp/t'); chmod('/tmp/t', 0755); exec('/tmp/t 2>/dev/null', $o, $s); echo $s;";
        assert_eq!(rig.php(pool, copy), "126", "{pool}");
        // By the loader, which maps it with PROT_EXEC.
        let load = "exec('/lib64/ld-linux-x86-64.so.2 /tmp/t 2>&1', $o, $s); echo $s ? 'refused' : 'ran';";
        if cfg!(target_arch = "x86_64") {
            assert_eq!(rig.php(pool, load), "refused", "{pool}");
        }
        // The control: the same file where programs are.
        assert_eq!(rig.php(pool, "exec('/bin/true', $o, $s); echo $s;"), "0");
    }
}

#[test]
fn a_set_user_id_program_of_the_host_gives_nothing() {
    let mut rig = Rig::new();
    fs::create_dir(rig.path("bin")).unwrap();
    fs::copy("/usr/bin/id", rig.path("bin/id")).unwrap();
    chown(rig.path("bin/id"), Some(34), Some(34)).unwrap();
    fs::set_permissions(rig.path("bin/id"), fs::Permissions::from_mode(0o6755)).unwrap();
    rig.inside("blog", TENANT, &format!("[[mount]]\nsource = {:?}\n", rig.path("bin")));
    rig.serve();
    let run = format!("echo exec('{} -u');", rig.path("bin/id").display());
    assert_eq!(rig.php("blog", &run), "33");
    // The control: on the host it changes who runs it.
    let host = std::process::Command::new(rig.path("bin/id")).arg("-u").output().unwrap();
    assert_eq!(host.stdout, b"34\n");
}

#[test]
fn a_mount_does_not_follow_a_symlink_that_a_tenant_has_put_in_its_way() {
    let mut rig = Rig::new();
    // Readable to all, behind a door that only its owner goes through.
    let secret = rig.write("private/open/secret", "of the neighbour");
    fs::set_permissions(rig.path("private"), fs::Permissions::from_mode(0o700)).unwrap();
    let uploads = rig.path("blog/uploads");
    rig.inside("blog", TENANT, "");
    fs::create_dir(&uploads).unwrap();
    rig.inside("blog", TENANT, &format!("[idle]\nstop = \"100ms\"\n[[mount]]\nsource = {uploads:?}\ntarget = \"/uploads\"\naccess = \"rw\"\n"));
    rig.serve();
    let read = "echo @file_get_contents('/uploads/secret') ?: 'nothing';";
    assert_eq!(rig.php("blog", read), "nothing");
    rig.wait_state("blog", "cold");

    fs::remove_dir(&uploads).unwrap();
    symlink(secret.parent().unwrap(), &uploads).unwrap();
    lchown(&uploads, Some(33), Some(33)).unwrap();
    assert_eq!(rig.try_get("blog", "/do.php").unwrap().status, 503);
    let line = rig.wait_log("symlink");
    let wanted = format!(
        "howdah: pool blog: open {}: Too many symbolic links encountered (ELOOP): \
         the source goes through a symlink that does not belong to root: name the real directory [blog.2]",
        uploads.display()
    );
    assert_eq!(line, wanted);
    rig.end();

    // The control: one of root's is followed, for root means it.
    lchown(&uploads, Some(0), Some(0)).unwrap();
    rig.serve();
    assert_eq!(rig.php("blog", read), "of the neighbour");
}

#[test]
fn a_mount_target_that_a_tenant_has_made_a_symlink_is_refused() {
    let mut rig = Rig::new();
    fs::create_dir(rig.path("data")).unwrap();
    fs::create_dir(rig.path("outside")).unwrap();
    let target = rig.path("blog/uploads");
    let mount = format!("[[mount]]\nsource = {:?}\ntarget = {target:?}\n", rig.path("data"));
    rig.inside("blog", TENANT, &mount);
    symlink("/usr", &target).unwrap();
    rig.serve();
    assert_eq!(rig.try_get("blog", "/do.php").unwrap().status, 503);
    let line = rig.wait_log("[blog.1]");
    let words = "its target goes through a symlink: name the real directory";
    assert!(
        line.contains(&format!("{}: Too many symbolic links encountered (ELOOP): {words}", target.display())),
        "{line}"
    );
    std::thread::sleep(Duration::from_millis(10));
    assert_eq!(rig.end(), 0);
}

#[test]
fn a_tenant_leaves_its_mounts_to_nobody_and_gets_none_from_the_host() {
    let mut rig = Rig::new();
    let data = rig.path("blog/data");
    rig.inside("blog", TENANT, "");
    fs::create_dir(&data).unwrap();
    rig.serve();
    assert_eq!(rig.php("blog", "echo 'here';"), "here");
    let own = |pid: &str| fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    // No mount inside hears of the host's or tells it anything.
    let inside = own(&rig.master("blog").to_string());
    assert!(!inside.contains(" shared:") && !inside.contains(" master:"), "{inside}");
    // And on the host none of them is to be seen.
    let root = rig.path("run").display().to_string();
    assert!(!own("self").contains(&root) && !own(&rig.pid().to_string()).contains(&root));
    assert_eq!(rig.end(), 0);
}
