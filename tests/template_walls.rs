//! The walls between templates, what they have become, and everybody else: nothing of one pool
//! comes into the next, nobody reaches what waits, and an id on the host is one sandbox's alone.
//! Each attack has its control: the same succeeds where nothing is in its way.
#![allow(missing_docs)]

mod rig;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rig::held::Held;
use rig::templates::{keep, started_by, stocked, waiting};
use rig::{OTHER, Rig, TENANT};

const LONG: &str = "[idle]\nstop = \"1h\"";
/// A pool that is cold again as soon as it has been looked at.
fn short() -> String {
    format!("[idle]\nstop = \"{}s\"", 2 * rig::patience())
}

/// The next range of ids of this file's own: an id that another test's sandbox has is given to nobody.
static NEXT: AtomicU32 = AtomicU32::new(1_879_000_000);

/// Has the next howdah keep `count` templates of each class, which share `ids` ids; the first of these.
fn keep_with(rig: &Rig, count: u32, ids: u32) -> u32 {
    let first = NEXT.fetch_add(ids, Ordering::Relaxed);
    keep_ids(rig, count, first, ids);
    first
}

fn keep_ids(rig: &Rig, count: u32, first: u32, ids: u32) {
    keep(rig, count);
    let text = fs::read_to_string(rig.path("howdah.toml")).unwrap();
    let range = format!("template_ids = \"{first}-{}\"", first + ids - 1);
    rig.write("howdah.toml", &text.replace("[serve]\n", &format!("[serve]\n{range}\n")));
}

/// The uid of a process, by the host's numbers.
fn uid_of(pid: i32) -> u32 {
    fs::metadata(format!("/proc/{pid}")).unwrap().uid()
}

/// Starts a pool, which must be by a template; its uid on the host.
fn start(rig: &Rig, pool: &str) -> u32 {
    assert_eq!(rig.php(pool, "echo 'here';"), "here");
    assert_eq!(started_by(rig, pool), "template", "{}", rig.log());
    uid_of(rig.master(pool))
}

/// What the host's own php says, as an account of the host.
fn host(code: &str, uid: u32, gid: u32) -> String {
    let mut php = Command::new("php");
    php.args(["-d", "ffi.enable=1", "-r", code]).stdin(Stdio::null()).uid(uid).gid(gid);
    String::from_utf8_lossy(&php.output().unwrap().stdout).into_owned()
}

/// PHP that calls the kernel: `$call(number, ...)` is what it answers, or minus its errno.
const CALL: &str = "error_reporting(0); \
    $libc = FFI::cdef('long syscall(long n, ...); int *__errno_location(void); unsigned umask(unsigned);'); \
    $call = function (...$all) use ($libc) { $r = $libc->syscall(...$all); return $r === -1 ? -$libc->__errno_location()[0] : $r; }; ";

/// Where a pool leaves its name, as far as it can.
const LEAVE: &str = r#"
    file_put_contents('/tmp/left', 'secret-of-one'); file_put_contents('/dev/shm/left', 'secret-of-one');
    putenv('LEFT=secret-of-one'); session_id('left'); session_start(); $_SESSION['left'] = 'secret-of-one'; session_write_close();
    $m = shmop_open(0x51ec, 'c', 0666, 100); shmop_write($m, 'secret-of-one', 0);
    msg_send(msg_get_queue(0x51ec, 0666), 1, 'secret-of-one');
    $call(248, 'user', 'left', 'secret-of-one', 13, -3); $call(248, 'user', 'left', 'secret-of-one', 13, -4);
"#;

/// Where it is to be found: a line for each place.
const FIND: &str = r#"
    $found = []; $look = function ($where, $text) use (&$found) { if (preg_match('/secret-of-one|\bone\b/', (string) $text)) $found[] = $where; };
    foreach (['/tmp/left', '/dev/shm/left', '/etc/howdah/php-fpm.conf', '/etc/hosts', '/etc/hostname', '/proc/1/environ', '/proc/1/cmdline',
        '/proc/self/mountinfo', '/proc/1/mountinfo', '/proc/self/cgroup'] as $file) $look($file, @file_get_contents($file));
    $look('host name', php_uname('n'));
    session_id('left'); session_start(); $look('session', json_encode($_SESSION)); session_write_close();
    $m = @shmop_open(0x51ec, 'a', 0, 0); $look('System V shared memory', $m ? shmop_read($m, 0, 13) : '');
    if (msg_queue_exists(0x51ec)) $look('System V message queue', 'one');
    foreach ([-3 => 'session keyring', -4 => 'user keyring'] as $ring => $name) if ($call(250, 10, $ring, 'user', 'left', 0) > 0) $look($name, 'one');
    foreach (opcache_get_status()['scripts'] ?? [] as $name => $_) $look('opcache', $name);
    foreach (array_map(fn ($fd) => @readlink("/proc/self/fd/$fd"), scandir('/proc/self/fd')) as $link) $look('descriptor', $link);
    echo implode("\n", $found);
"#;

#[test]
fn what_one_pool_leaves_the_next_with_its_very_uid_does_not_have() {
    let mut rig = Rig::new();
    keep_with(&rig, 1, 2);
    // Without a filter, so that there are keyrings to leave something in.
    for name in ["one", "two", "three"] {
        rig.inside_without(name, "seccomp = \"off\"\n", &short());
    }
    let enable = "\"opcache.enable\" = \"true\"\n";
    for name in ["one", "two", "three"] {
        let file = rig.path(&format!("pools/{name}.toml"));
        let text = fs::read_to_string(&file).unwrap() + enable;
        // One profile for all: its name is part of none.
        fs::write(file, text.replace(&format!("profiles/{name}.toml"), "profiles/one.toml")).unwrap();
    }
    // Of a howdah that has a session keyring: what all its children possess would be theirs in common.
    let ring = format!("syscall({}, 1, 0) > 0 or die $!; exec @ARGV or die $!", libc::SYS_keyctl);
    rig.serve_under(&["perl", "-e", &ring], &[]);
    stocked(&rig, 1);
    let first = start(&rig, "one");
    rig.php("one", &format!("{CALL}{LEAVE}"));
    // The control: in the pool itself it is all there.
    let own = rig.php("one", &format!("{CALL}{FIND}"));
    let own: BTreeSet<&str> = own.lines().collect();
    for place in [
        "/tmp/left",
        "/dev/shm/left",
        "/etc/howdah/php-fpm.conf",
        "/proc/self/mountinfo",
        "host name",
        "session",
        "System V shared memory",
        "System V message queue",
        "session keyring",
        "user keyring",
    ] {
        assert!(own.contains(place), "{place} is not found by its own pool: {own:?}");
    }
    // The second template was made while the first one's pool ran; the third gets that one's uid.
    stocked(&rig, 1);
    rig.wait_state("one", "cold");
    let second = start(&rig, "two");
    assert_ne!(first, second);
    assert_eq!(rig.php("two", &format!("{CALL}{FIND}")), "", "of a pool that ran when its template was made");
    stocked(&rig, 1);
    assert_eq!(start(&rig, "three"), first, "the uid of the first is the only one that is left");
    assert_eq!(rig.php("three", &format!("{CALL}{FIND}")), "", "of a pool that had its uid");
}

/// PHP that tries to reach the process `{pid}` with the uid `{uid}`, its directory `{dir}` and cgroup
/// `{cgroup}`; a line for each way that succeeds. PTRACE_SEIZE and PTRACE_DETACH are harmless.
const REACH: &str = r#"
    $got = []; $try = function ($what, $yes) use (&$got) { if ($yes) $got[] = $what; };
    $try('signal', $call(62, {pid}, 0) === 0);
    $try('ptrace', $call(101, 0x4206, {pid}, 0, 0) === 0);
    $try('pidfd', $call(434, {pid}, 0) >= 0);
    $try('priority', $call(140, 0, {pid}) >= 0);
    $try('status', (bool) file_get_contents('/proc/{pid}/status'));
    $try('environ', file_get_contents('/proc/{pid}/environ') !== false);
    $try('descriptors', (bool) scandir('/proc/{pid}/fd'));
    $try('root', (bool) scandir('/proc/{pid}/root'));
    $try('directory', (bool) scandir('{dir}'));
    $try('fifo', (bool) stat('{dir}/rootfs/etc/howdah/php-fpm.conf'));
    $try('cgroup', (bool) file_get_contents('{cgroup}/cgroup.procs'));
    $try('cgroup, for writing', (bool) fopen('{cgroup}/cgroup.procs', 'r+'));
    $try('become', $call(117, {uid}, {uid}, {uid}) === 0);
    echo implode("\n", $got);
"#;

#[test]
fn nobody_but_root_reaches_a_template_that_waits_or_what_it_has_become() {
    let mut rig = Rig::new();
    keep(&rig, 1);
    rig.inside("blog", TENANT, LONG);
    // Every wall down that a template's pool can do without.
    let open = "seccomp = \"off\"\nlandlock = false\nproc = \"full\"\nmasked_paths = []\nreadonly_paths = []\n\
                share = [\"network\", \"cgroup\"]\n";
    rig.inside_without("open", open, LONG);
    rig.serve();
    stocked(&rig, 2);
    start(&rig, "blog");
    stocked(&rig, 2);
    start(&rig, "open");
    let found = stocked(&rig, 2);
    let pid = found[0];
    let code = |pid: i32| {
        let group = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let name = group.trim().rsplit('/').next().unwrap().to_owned();
        assert!(name.starts_with("template-"), "{group}");
        CALL.to_owned()
            + &REACH
                .replace("{pid}", &pid.to_string())
                .replace("{uid}", &uid_of(pid).to_string())
                .replace("{dir}", rig.path(&format!("run/templates/{name}")).to_str().unwrap())
                .replace("{cgroup}", rig.cgroup().join(&name).to_str().unwrap())
    };
    let lines = |text: String| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let (bound, code) = (code(rig.master("blog")), code(pid));
    // The controls: root gets all of it, and the account that is nobody's what only the uid holds.
    let root = lines(host(&code, 0, 0));
    assert_eq!(root.len(), 13, "{root:?}");
    let own = lines(host(&code, uid_of(pid), uid_of(pid)));
    for way in ["signal", "become"] {
        assert!(own.contains(way), "{own:?}");
    }
    for way in ["directory", "fifo", "cgroup, for writing"] {
        assert!(!own.contains(way), "{way}: a mode is in the way as well: {own:?}");
    }
    // An account of the host, the pool's own: what everybody may read of every process.
    let account = lines(host(&code, TENANT.1, TENANT.2));
    let harmless = ["pidfd", "priority", "status", "cgroup"].map(str::to_owned).into();
    assert!(account.is_subset(&harmless), "{account:?}");
    for pool in ["blog", "open"] {
        assert_eq!(rig.php(pool, &code), "", "{pool}");
    }
    // And one that has become a neighbour.
    assert_eq!(lines(host(&bound, 0, 0)).len(), 13, "root");
    assert_eq!(rig.php("open", &bound), "");
    // It is as it was, and is the next one's.
    assert!(waiting(&rig).contains(&pid));
}

#[test]
fn of_the_gate_nothing_is_left_in_any_process_and_none_of_its_descriptors_stay_with_howdah() {
    let mut rig = Rig::new();
    keep(&rig, 1);
    rig.inside("blog", TENANT, &format!("[fpm]\npm = \"static\"\nmax_children = 2\n{}", short()));
    rig.serve();
    let links = |pid: &str| -> Vec<String> {
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        fds.filter_map(|fd| Some(fs::read_link(fd.path()).ok()?.display().to_string())).collect()
    };
    let notify = |links: &[String]| links.iter().filter(|link| link.contains("seccomp notify")).count();
    stocked(&rig, 1);
    let own = rig.pid().to_string();
    let before = links(&own);
    // The control: while it waits howdah has its listener.
    assert_eq!(notify(&before), 1, "{before:?}");
    let mut counts = BTreeSet::new();
    for _ in 0..4 {
        // It is looked at for longer than it is to be idle.
        let held = Held::begin(&rig, "blog", "/do.php");
        start(&rig, "blog");
        // A process that a script started is of the generation, too.
        rig.php("blog", "exec('sleep 60 > /dev/null 2>&1 &');");
        stocked(&rig, 1);
        counts.insert(links(&own).len());
        let master = fs::read_to_string(format!("/proc/{}/cgroup", rig.master("blog"))).unwrap();
        let group = rig.cgroup().join(master.trim().rsplit('/').next().unwrap());
        let all = fs::read_to_string(group.join("cgroup.procs")).unwrap();
        assert!(all.lines().count() >= 4, "{all}");
        for pid in all.lines() {
            let links = links(pid);
            assert_eq!(notify(&links), 0, "{links:?}");
            let odd: Vec<_> =
                links.iter().filter(|link| link.contains("pidfd") || link.contains("/rootfs")).collect();
            assert!(odd.is_empty(), "{odd:?}");
        }
        assert_eq!(notify(&links(&own)), 1, "that of the next one alone");
        held.answer();
        rig.wait_state("blog", "cold");
    }
    assert_eq!(counts.len(), 1, "howdah's descriptors grow in number: {counts:?}");
}

#[test]
fn a_tenant_cannot_use_a_notification_of_its_own_nor_answer_the_gate_s() {
    let mut rig = Rig::new();
    keep(&rig, 1);
    rig.inside("blog", TENANT, LONG);
    rig.inside_without("open", "seccomp = \"off\"\n", LONG);
    rig.serve();
    stocked(&rig, 2);
    start(&rig, "blog");
    stocked(&rig, 2);
    start(&rig, "open");
    // SECCOMP_IOCTL_NOTIF_ID_VALID and _RECV on whatever it has; then a listener by a filter of its own
    // (SECCOMP_SET_MODE_FILTER, NEW_LISTENER) that allows everything.
    let code = format!(
        "{CALL} $buffer = $libc->new('char[80]'); $hits = []; \
         for ($fd = 0; $fd < 256; $fd++) {{ if ($call(16, $fd, 0x40082102, FFI::addr($buffer)) === -2) $hits[] = $fd; }} \
         $c = FFI::cdef('struct f {{ unsigned short code; unsigned char jt, jf; unsigned k; }}; struct p {{ unsigned short len; struct f *filter; }};'); \
         $f = $c->new('struct f[1]'); $f[0]->code = 6; $f[0]->k = 0x7fff0000; \
         $p = $c->new('struct p'); $p->len = 1; $p->filter = FFI::addr($f[0]); \
         $own = $call(317, 1, 8, FFI::addr($p)); \
         $is_seen = $own >= 0 && $call(16, $own, 0x40082102, FFI::addr($buffer)) === -2; \
         echo count($hits), ' ', $own >= 0 ? 'listens' : $own, ' ', $is_seen ? 'seen' : 'unseen';"
    );
    // The control: where no filter refuses it, one can be made, and the look would have seen it.
    assert_eq!(rig.php("open", &code), "0 listens seen");
    let told = rig.php("blog", &code);
    assert!(told.starts_with("0 -") && told.ends_with(" unseen"), "{told}");
}

/// PHP that makes everything that can be made in `{dir}`, and tries to give it to others; a line
/// for each thing and what came of it.
const MAKE: &str = r#"
    $libc->umask(0); $told = []; $tell = function ($what, $answer) use (&$told) { $told[] = "$what: " . json_encode($answer); };
    $d = '{dir}'; chdir($d);
    $owner = fn ($name) => implode(':', array_slice(lstat("$d/$name") ?: [], 2, 4));
    $tell('file', (bool) file_put_contents('file', 'x')); $tell('directory', mkdir('directory'));
    $tell('set-user-id', chmod('file', 06755)); $tell('set-group-id directory', chmod('directory', 02777));
    $tell('file in it', (bool) file_put_contents('directory/file', 'x'));
    $tell('file in another group\'s directory', (bool) file_put_contents('shared/file', 'x')); $tell('its owner', $owner('shared/file'));
    $tell('hard link', link('file', 'hard')); $tell('symlink', symlink('file', 'soft'));
    $tell('hard link to another\'s', link('others', 'hard-others')); $tell('hard link to an id\'s', link('ids', 'hard-ids'));
    $tmp = $call(2, '.', 020200002, 0600); $tell('O_TMPFILE', $tmp >= 0);
    $tell('its link', $call(265, -100, "/proc/self/fd/$tmp", -100, "$d/tmpfile", 0x400));
    $tell('fifo', $call(133, 'fifo', 0010666, 0)); $tell('device', $call(133, 'device', 0020666, 259));
    $s = stream_socket_server("unix://$d/socket"); $tell('socket', (bool) $s);
    foreach ([0, 33, 34, {self}, {other}, 65534] as $number => $id) {
        foreach (['file', 'directory', 'fifo', 'others', 'ids'] as $name) $tell("chown $name $number", [$call(94, $name, $id, -1), $call(94, $name, -1, $id), $call(94, $name, $id, $id)]);
        $tell("processes of $number", $call(140, 2, $id) > 0);
    }
    $group = $libc->new('int[1]'); $group[0] = 34; $tell('setgroups', $call(116, 1, FFI::addr($group)));
    $tell('user.', $call(188, 'file', 'user.howdah', 'x', 1, 0)); $tell('trusted.', $call(188, 'file', 'trusted.howdah', 'x', 1, 0));
    $cap = pack('V5', 0x02000001, 1, 0, 0, 0); $cap3 = pack('V6', 0x03000001, 1, 0, 0, 0, 0);
    $tell('capability', [$call(188, 'file', 'security.capability', $cap, 20, 0), $call(188, 'file', 'security.capability', $cap3, 24, 0)]);
    // u::rwx, u:0:rwx, g::r-x, m::rwx, o::r-x; then of an id, and of the tenant itself.
    foreach ([0, 34, {self}, {other}, 33] as $number => $id) {
        $acl = pack('V', 2) . pack('vvV', 1, 7, -1) . pack('vvV', 2, 7, $id) . pack('vvV', 4, 5, -1) . pack('vvV', 16, 7, -1) . pack('vvV', 32, 5, -1);
        $tell("acl $number", $call(188, 'directory', 'system.posix_acl_access', $acl, strlen($acl), 0));
    }
    foreach (['others', 'ids', 'open'] as $name) $tell("of others: $name", [$owner($name), (string) @file_get_contents($name), @chmod($name, 0666), @fopen($name, 'r+') !== false, $call(188, $name, 'user.howdah', 'x', 1, 0)]);
    foreach (['file', 'directory', 'directory/file', 'hard', 'soft', 'tmpfile', 'fifo', 'socket'] as $name) $tell("owner of $name", $owner($name));
    // Last of all, for whoever succeeds is somebody else.
    foreach ([34, {self}, {other}, 65534, 0] as $number => $id) $tell("setuid $number", [$call(119, $id, $id, $id), $call(106, $id), $call(105, $id), $call(117, $id, $id, $id), $call(122, $id)]);
    echo implode("\n", $told);
"#;

/// Everything below a directory: path, kind, mode, uid, gid; then the attributes in which ids may stand.
fn on_disk(directory: &Path) -> (Vec<String>, String) {
    let list = "cd \"$0\" && find . -printf '%P %y %m %U %G\\n' | sort";
    let output = Command::new("sh").args(["-c", list]).arg(directory).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let attributes = format!(
        "{CALL} $b = $libc->new('char[100]'); \
         foreach (['directory', 'file'] as $f) foreach (['system.posix_acl_access', 'security.capability', 'user.howdah'] as $name) {{ \
         $n = $call(191, '{}/' . $f, $name, FFI::addr($b), 100); echo $f, ' ', $name, ' ', $n > 0 ? bin2hex(FFI::string($b, $n)) : $n, '; '; }}",
        directory.display()
    );
    let lines = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    (lines, host(&attributes, 0, 0))
}

/// A directory of the tenant's in which others have files, too.
fn uploads(rig: &Rig, name: &str, id: u32) -> PathBuf {
    let uploads = rig.private(name, TENANT);
    for (file, owner, mode) in [("others", OTHER.1, 0o600), ("ids", id, 0o600), ("open", OTHER.1, 0o644)] {
        fs::write(uploads.join(file), "of others").unwrap();
        chown(uploads.join(file), Some(owner), Some(owner)).unwrap();
        fs::set_permissions(uploads.join(file), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::create_dir(uploads.join("shared")).unwrap();
    chown(uploads.join("shared"), Some(OTHER.1), Some(OTHER.2)).unwrap();
    fs::set_permissions(uploads.join("shared"), fs::Permissions::from_mode(0o2777)).unwrap();
    uploads
}

/// The same deeds in a pool that was launched cold and in one that a template has become: the same
/// answers inside, and the same owners on the disk.
fn same_deeds(name: &str, profile: &str) {
    let mut told = Vec::new();
    let first = NEXT.fetch_add(9, Ordering::Relaxed);
    for templates in [0, 1] {
        let mut rig = Rig::new();
        keep_ids(&rig, templates, first, 8);
        let mut id = first;
        let uploads = uploads(&rig, "uploads", id);
        let more =
            format!("{LONG}\n[[mount]]\nsource = {uploads:?}\ntarget = \"/srv/uploads\"\naccess = \"rw\"\n");
        rig.inside_without(name, profile, &more);
        // A sandbox of another id, which nobody may become.
        rig.inside_without("other", profile, LONG);
        rig.serve();
        if templates > 0 {
            stocked(&rig, 1);
            id = start(&rig, name);
        }
        // A file of the very uid that the sandbox has.
        chown(uploads.join("ids"), Some(id), Some(id)).unwrap();
        let make = MAKE.replace("{dir}", "/srv/uploads").replace("{self}", &id.to_string());
        let make = make.replace("{other}", &(first + 8).to_string());
        let inside = rig.php(name, &format!("{CALL}{make}"));
        let mut disk = on_disk(&uploads);
        disk.0.iter_mut().for_each(|line| *line = line.replace(&id.to_string(), "ID"));
        let others = ["others", "ids", "open", "shared"];
        for line in &disk.0 {
            let [file, _, _, uid, gid] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
            if !others.contains(&file) {
                assert_eq!(uid, TENANT.1.to_string(), "{name}: on the disk: {line}");
                let of_directory = file == "shared/file";
                assert!(of_directory || gid == TENANT.2.to_string(), "{name}: on the disk: {line}");
            }
        }
        assert!(
            disk.0.len() > 12
                && (profile.is_empty() || disk.1.contains("user.howdah 78"))
                && inside.contains("owner of tmpfile"),
            "{inside}\n{disk:?}"
        );
        told.push((inside, disk));
    }
    let (cold, template) = (&told[0], &told[1]);
    let differ: Vec<_> =
        cold.0.lines().zip(template.0.lines()).filter(|(cold, other)| cold != other).collect();
    assert!(differ.is_empty() && cold.0.lines().count() == template.0.lines().count(), "{name}: {differ:#?}");
    assert_eq!(cold.1, template.1, "{name}: on the disk");
}

#[test]
fn nobody_s_files_are_made_and_nobody_is_become_as_in_a_cold_launch() {
    same_deeds("blog", "");
}

#[test]
fn no_filter_is_needed_for_that() {
    same_deeds("open", "seccomp = \"off\"\nlandlock = false\n");
}

#[test]
fn root_outside_can_do_what_a_tenant_tries_with_owners() {
    let rig = Rig::new();
    let first = NEXT.fetch_add(2, Ordering::Relaxed);
    let uploads = uploads(&rig, "uploads", first);
    let make = MAKE.replace("{dir}", uploads.to_str().unwrap()).replace("{self}", &first.to_string());
    let told = host(&format!("{CALL}{}", make.replace("{other}", &(first + 1).to_string())), 0, 0);
    let told: BTreeMap<&str, &str> = told.lines().filter_map(|line| line.split_once(": ")).collect();
    for (what, answer) in [
        ("chown file 4", "[0,0,0]"),
        ("device", "0"),
        ("setgroups", "0"),
        ("setuid 0", "[0,0,0,0,34]"),
        ("trusted.", "0"),
        ("acl 3", "0"),
    ] {
        assert_eq!(told.get(what), Some(&answer), "{what}: {told:#?}");
    }
    assert!(told["capability"].starts_with("[0,"), "{}", told["capability"]);
}

/// Their generations' uids on the host, of which no two are the same.
fn uids(rig: &Rig, pools: &[&str]) -> BTreeSet<u32> {
    let all: Vec<u32> = pools.iter().map(|pool| uid_of(rig.master(pool))).collect();
    let apart: BTreeSet<u32> = all.iter().copied().collect();
    assert_eq!(apart.len(), all.len(), "two share one: {all:?}");
    apart
}

#[test]
fn an_id_is_not_given_out_while_anything_lives_that_has_it() {
    let mut rig = Rig::new();
    let first = keep_with(&rig, 1, 2);
    for name in ["one", "two", "three"] {
        rig.inside(name, TENANT, LONG);
    }
    rig.serve();
    for name in ["one", "two"] {
        stocked(&rig, 1);
        start(&rig, name);
    }
    assert_eq!(uids(&rig, &["one", "two"]), [first, first + 1].into());
    // There is none left: the third is launched cold, as its account.
    rig.wait_log("a template was not made: ");
    rig.wait_log("(all template_ids are used)");
    assert_eq!(rig.php("three", "echo 'here';"), "here");
    assert_eq!(started_by(&rig, "three"), "cold launch");
    assert_eq!(uids(&rig, &["one", "two", "three"]), [first, first + 1, TENANT.1].into());
}

#[test]
fn the_next_howdah_gives_nobody_the_id_of_a_generation_that_it_adopts() {
    let mut rig = Rig::new();
    let first = keep_with(&rig, 1, 10);
    for name in ["one", "two", "three"] {
        rig.inside(name, TENANT, LONG);
    }
    rig.serve();
    for name in ["one", "two"] {
        stocked(&rig, 1);
        start(&rig, name);
        rig.wait_state(name, "warm");
    }
    let before = uids(&rig, &["one", "two"]);
    stocked(&rig, 1);
    rig.crash();
    // As if somebody had written down that theirs come next.
    let next = before.first().unwrap();
    assert!(before.contains(&(next + 1)), "{before:?}");
    fs::write(rig.path("state/template-ids"), format!("{next}\n")).unwrap();
    rig.serve();
    assert_eq!(rig.log().matches("adopted from an earlier howdah").count(), 2, "{}", rig.log());
    let waits = stocked(&rig, 1)[0];
    assert!(!before.contains(&uid_of(waits)), "{} is somebody's", uid_of(waits));
    start(&rig, "three");
    assert_eq!(uids(&rig, &["one", "two", "three"]).len(), 3);
    // Nor that of whatever else runs as one of these.
    assert_eq!(rig.end(), 0);
    let sleep = |uid| Command::new("sleep").arg("600").uid(uid).gid(uid).spawn().unwrap();
    let mut strangers = [sleep(first), sleep(first + 1)];
    fs::write(rig.path("state/template-ids"), format!("{first}\n")).unwrap();
    rig.serve();
    let waits = uid_of(stocked(&rig, 1)[0]);
    for stranger in &mut strangers {
        let _ = stranger.kill();
        let _ = stranger.wait();
    }
    assert!(waits > first + 1, "{waits} is a stranger's");
}

/// More of what can be seen from inside than `tests/templates.rs` compares: by calls, some of which
/// need that no filter is there.
const LOOK: &str = r#"
    $told = []; $of = fn ($file) => (string) @file_get_contents($file);
    foreach (['self', '1'] as $p) {
        $stat = explode(' ', substr($of("/proc/$p/stat"), strrpos($of("/proc/$p/stat"), ')') + 2));
        // Of proc_pid_stat(5): state is 3. Process group, session, terminal and its group, nice, exit signal, policy.
        foreach ([5, 6, 7, 8, 18, 19, 38, 40, 41] as $field) $told["$p stat $field"] = $stat[$field - 3] ?? null;
        $status = $of("/proc/$p/status");
        preg_match_all('/^(Umask|TracerPid|Uid|Gid|Groups|NS\w+|Kthread|SigPnd|ShdPnd|SigBlk|SigIgn|SigCgt|Cap\w+|NoNewPrivs|Seccomp|Speculation\w*|CoreDumping|THP_enabled):\s*(.*)$/m', $status, $found, PREG_SET_ORDER);
        foreach ($found as [, $key, $value]) $told["$p status $key"] = $p === 'self' && str_starts_with($key, 'NS') ? count(explode("	", $value)) : $value;
        foreach (['comm', 'cmdline', 'limits', 'oom_score_adj', 'oom_adj', 'autogroup', 'timerslack_ns', 'coredump_filter', 'loginuid', 'personality',
            'setgroups', 'projid_map', 'cgroup', 'cpuset', 'attr/current', 'wchan', 'environ', 'timens_offsets'] as $name)
            $told["$p $name"] = preg_replace('/\/autogroup-\d+/', '/autogroup-N', $of("/proc/$p/$name"));
        foreach (['uid_map', 'gid_map'] as $name) $told["$p $name"] = preg_replace('/^(\s*\d+)\s+\d+(\s+\d+)$/m', '$1 N$2', $of("/proc/$p/$name"));
        // What execve(2) has told of ids, sizes and hardware; addresses are by chance.
        foreach (array_chunk(array_values(unpack('P*', $of("/proc/$p/auxv"))), 2) as [$key, $value]) if (in_array($key, [4, 5, 6, 8, 11, 12, 13, 14, 16, 17, 23, 26, 51])) $told["$p auxv $key"] = $value;
        foreach (['', '/fd', '/maps', '/root', '/ns/user'] as $name) { $s = @lstat("/proc/$p$name"); $told["$p lstat $name"] = [$s['mode'] ?? null, $s['uid'] ?? null, $s['gid'] ?? null]; }
        foreach (['cwd', 'root', 'exe'] as $name) $told["$p $name"] = @readlink("/proc/$p/$name");
        foreach (scandir("/proc/$p/ns") ?: [] as $name) $told["$p ns $name"] = @readlink("/proc/$p/ns/$name") === @readlink("/proc/self/ns/$name");
        // With its propagation, and where it is read-only, but for the mark and the numbers.
        $lines = explode("
", preg_replace(['/^\d+ \d+ \d+:\d+ /m', '/,idmapped/', '/,?(uid|gid)=\d+/', '/(master|shared|propagate_from):\d+/', '/howdah-test-\w+\/run\/(pools\/\w+|templates\/[\w-]+)\/rootfs/'], ['', '', '', '$1', 'ROOT'], $of("/proc/$p/mountinfo")));
        sort($lines); $told["$p mountinfo"] = $lines;
        foreach (scandir("/proc/$p/fd") ?: [] as $fd) if ($fd[0] !== '.') {
            $told["$p fd $fd"] = preg_replace(['/\d{3,}/', '/ZendSem\.\w+/'], ['N', 'ZendSem'], (string) @readlink("/proc/$p/fd/$fd"));
            preg_match('/^flags:\s*(\d+)/m', $of("/proc/$p/fdinfo/$fd"), $found); $told["$p fd $fd flags"] = $found[1] ?? null;
        }
        preg_match_all('/ (\S+) \S+ \S+ \d+\s+(\/.*)$/m', $of("/proc/$p/maps"), $found, PREG_SET_ORDER);
        $maps = []; foreach ($found as [, , $path]) if (!preg_match('/^\/(memfd|dev\/zero|SYSV)/', $path)) $maps[preg_replace('/ZendSem\.\w+/', 'ZendSem', $path)] = true;
        ksort($maps); $told["$p maps"] = array_keys($maps);
    }
    foreach (['PDEATHSIG' => 2, 'DUMPABLE' => 3, 'KEEPCAPS' => 7, 'TIMING' => 13, 'SECCOMP' => 21, 'SECUREBITS' => 27, 'TIMERSLACK' => 30,
        'MCE_KILL' => 34, 'SUBREAPER' => 37, 'NO_NEW_PRIVS' => 39, 'THP_DISABLE' => 42, 'IO_FLUSHER' => 58, 'MDWE' => 66] as $name => $option) {
        $word = $libc->new('int[2]');
        $told["prctl $name"] = [in_array($option, [2, 37]) ? $call(157, $option, FFI::addr($word)) : $call(157, $option, 0, 0, 0, 0), $word[0]];
    }
    for ($cap = 0; $cap < 42; $cap++) $told["capability $cap"] = [$call(157, 23, $cap, 0, 0, 0), $call(157, 47, 1, $cap, 0, 0)];
    foreach (['ioprio' => [252, 1, 0], 'ioprio of 1' => [252, 1, 1], 'scheduler' => [145, 0], 'scheduler of 1' => [145, 1], 'priority' => [140, 0, 0], 'priority of 1' => [140, 0, 1],
        'priority of the group' => [140, 1, 0], 'priority of the user' => [140, 2, 0], 'session' => [124, 0], 'group' => [121, 0], 'personality' => [135, 0xffffffff], 'umask' => [95, 0],
        'uid' => [102], 'euid' => [107], 'gid' => [104], 'egid' => [108]] as $name => $words) $told["call $name"] = $call(...$words);
    $sets = $libc->new('unsigned[3]'); $told['groups'] = [$call(115, 3, FFI::addr($sets))];
    $name = $libc->new('char[390]'); $call(63, FFI::addr($name)); $told['uname'] = [FFI::string($name + 0, 65 * 6)];
    $set = $libc->new('unsigned long[16]'); $told['affinity'] = [$call(204, 0, 128, FFI::addr($set)), $set[0]];
    foreach ([-1, -2, -3, -4, -5] as $ring) { $text = $libc->new('char[100]'); $length = $call(250, 6, $ring, FFI::addr($text), 100); $told["keyring $ring"] = $length > 0 ? FFI::string($text + 0, min($length, 99)) : $length; }
    foreach (['/', '/proc', '/dev', '/dev/shm', '/tmp', '/run', '/etc', '/usr', '/var/lib/php', '/var/lib/php/sessions'] as $path) {
        $s = @lstat($path); $told["lstat $path"] = [$s['mode'] ?? null, $s['uid'] ?? null, $s['gid'] ?? null];
        $b = $libc->new('unsigned long[15]'); $r = $call(137, $path, FFI::addr($b));
        // Type, size of a block, longest name, flags; and how large it is, where that is the pool's own.
        $told["statfs $path"] = [$r, dechex($b[0]), $b[1], $b[8], $b[10], $b[0] == 0x01021994 ? [$b[2], $b[5]] : null];
    }
    $told['iterated'] = array_map(fn ($d) => scandir($d), ['/', '/dev', '/run', '/var/lib/php', '/proc/self/ns']);
    $told['processes'] = array_values(array_filter(scandir('/proc'), 'ctype_digit')) >= ['1'];
    echo json_encode($told, JSON_PRETTY_PRINT | JSON_UNESCAPED_SLASHES | JSON_INVALID_UTF8_SUBSTITUTE);
"#;

/// What tells (docs/templates.md): the ids that execve(2) told php-fpm, which had no name inside yet.
const TELLS: [&str; 8] = [
    "self auxv 11",
    "self auxv 12",
    "self auxv 13",
    "self auxv 14",
    "1 auxv 11",
    "1 auxv 12",
    "1 auxv 13",
    "1 auxv 14",
];
/// And where the profile has no filter: the gate's is one, and the session keyring is made by the
/// sandbox's own uid, which it has from its birth.
const TELLS_UNFILTERED: [&str; 4] =
    ["self status Seccomp", "1 status Seccomp", "prctl SECCOMP", "keyring -3"];

#[test]
fn more_looks_do_not_tell_it_from_a_cold_launch() {
    for (name, profile) in [("blog", ""), ("open", "seccomp = \"off\"\n"), ("full", "proc = \"full\"\n")] {
        let mut told = Vec::new();
        // Of each worker process 1 has pipes.
        let more = "[limits]\nopen_files = 300\n[fpm]\npm = \"static\"\nmax_children = 1\n";
        for templates in [0, 1] {
            let mut rig = Rig::new();
            keep(&rig, templates);
            rig.inside_without(name, profile, &format!("{LONG}\n{more}"));
            // opcache has none that is younger than two seconds, and then it stays open while it runs.
            rig.shell(&format!("touch -d '1 hour ago' {name}/do.php"));
            rig.serve_under(&["nice", "-n", "3"], &[]);
            if templates > 0 {
                stocked(&rig, 1);
                start(&rig, name);
            } else {
                assert_eq!(rig.php(name, "echo 'here';"), "here");
            }
            told.push(
                rig.php(name, &format!("{CALL}{LOOK}")).replace(rig.path("").to_str().unwrap(), "/RIG/"),
            );
        }
        let parse = |text: &str| serde_json::from_str::<BTreeMap<String, serde_json::Value>>(text).unwrap();
        let (cold, template) = (parse(&told[0]), parse(&told[1]));
        assert_eq!(cold["call priority"], 17, "a nice value of 3, getpriority(2)");
        let keys: BTreeSet<&String> = cold.keys().chain(template.keys()).collect();
        assert!(keys.len() > 150, "{keys:?}");
        let differ: Vec<_> = keys
            .into_iter()
            .filter(|key| cold.get(*key) != template.get(*key))
            .filter(|key| !TELLS.contains(&key.as_str()))
            .filter(|key| name != "open" || !TELLS_UNFILTERED.contains(&key.as_str()))
            .map(|key| format!("{key}: cold {:?}, by template {:?}", cold.get(key), template.get(key)))
            .collect();
        assert!(differ.is_empty(), "{name}: {differ:#?}");
    }
}
