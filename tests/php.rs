//! What a php-fpm gets from howdah (sessions, uploads, settings, extensions)
//! and what it gives back (its lines), with the real php-fpm.
#![allow(missing_docs)]

mod rig;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, SystemTime};

use rig::held::Held;
use rig::{OTHER, Rig, TENANT, wait_for};
use serde_json::Value;

const STOPS: &str = "[idle]\nstop = \"200ms\"\n";

/// Whose session it is, for a visitor with the cookie `id`.
const WHO: &str = "<?php session_start(); echo $_SESSION['name'] ?? 'nobody';";

fn who(rig: &Rig, pool: &str, id: &str) -> String {
    let cookie = format!("PHPSESSID={id}");
    let answer = rig.ask(pool, "/who.php", "GET", &[("Cookie", &cookie)], b"").unwrap();
    String::from_utf8(answer.body).unwrap()
}

#[test]
fn a_visitor_is_still_logged_in_after_an_idle_stop_and_no_other_pool_can_be_him() {
    let mut rig = Rig::new();
    let login = "<?php session_start(); $_SESSION['name'] = 'ann'; echo session_id();";
    // Looks for the session by every way there is: PHP's own, the path inside, the path on the host.
    let thief = "<?php $id = $_GET['id']; $found = [];
        foreach ([session_save_path(), ini_get('session.save_path'), $_GET['host'], '/var/lib/php/sessions'] as $d)
            foreach (['', \"/sess_$id\"] as $f) {
                $read = $f === '' ? json_encode(@scandir($d)) : @file_get_contents($d . $f);
                if ($read && str_contains($read, $f === '' ? $id : 'ann')) $found[] = $d . $f;
            }
        echo json_encode($found);";
    for (name, owner) in [("blog", TENANT), ("twin", TENANT), ("shop", OTHER)] {
        rig.site(name, "login.php", login, owner);
        rig.site(name, "who.php", WHO, owner);
        rig.site(name, "thief.php", thief, owner);
        rig.pool_of(name, owner.0, STOPS);
    }
    rig.serve();
    let held = Held::begin(&rig, "blog", "/who.php");
    let id = rig.text("blog", "/login.php");
    assert_eq!(who(&rig, "blog", &id), "ann");
    assert_eq!(held.answer(), "nobody");
    rig.wait_state("blog", "cold");
    assert_eq!(who(&rig, "blog", &id), "ann");
    assert_eq!(rig.record("blog").generation, 2, "it was not stopped in between");

    let host = rig.path("state/pools/blog/sessions");
    let session = fs::metadata(host.join(format!("sess_{id}"))).unwrap();
    assert_eq!((session.uid(), session.mode() & 0o777), (TENANT.1, 0o600));
    let theft = format!("/thief.php?id={id}&host={}", host.display());
    for pool in ["twin", "shop"] {
        assert_eq!(rig.text(pool, &theft), "[]", "{pool} found blog's session");
        assert_eq!(who(&rig, pool, &id), "nobody", "{pool}");
    }
    // The thief is no fool: at home it finds it.
    assert!(rig.text("blog", &theft).contains("sess_"));
}

#[test]
fn expired_sessions_are_collected_and_fresh_ones_stay() {
    let mut rig = Rig::new();
    rig.site("blog", "who.php", WHO, TENANT);
    // Only how often: that it happens at all is howdah's setting, for Debian's php.ini says never.
    let often = "[php.value]\n\"session.gc_divisor\" = 1\n\"session.gc_maxlifetime\" = 3600\n";
    rig.pool("blog", often);
    rig.serve();
    who(&rig, "blog", "fresh");
    who(&rig, "blog", "expired");
    let sessions = rig.path("state/pools/blog/sessions");
    let expired = fs::File::options().write(true).open(sessions.join("sess_expired")).unwrap();
    expired.set_modified(SystemTime::now() - Duration::from_secs(7200)).unwrap();
    who(&rig, "blog", "another");
    assert!(!sessions.join("sess_expired").exists(), "an expired session was not collected");
    assert!(sessions.join("sess_fresh").exists(), "a fresh session was collected");
}

#[test]
fn sessions_are_collected_by_default_with_one_request_in_a_hundred() {
    let mut rig = Rig::new();
    rig.site(
        "blog",
        "gc.php",
        "<?php echo ini_get('session.gc_probability'), '/', ini_get('session.gc_divisor');",
        TENANT,
    );
    rig.pool("blog", "");
    rig.serve();
    assert_eq!(rig.text("blog", "/gc.php"), "1/100");
}

#[test]
fn an_upload_lands_in_the_state_directory_and_is_processed() {
    let mut rig = Rig::new();
    let script = "<?php $f = $_FILES['f']; $s = stat(dirname($f['tmp_name']));
        echo json_encode(['tmp' => $f['tmp_name'], 'dir' => $s['ino'], 'error' => $f['error'],
            'is' => is_uploaded_file($f['tmp_name']), 'sum' => md5_file($f['tmp_name']),
            'moved' => move_uploaded_file($f['tmp_name'], __DIR__ . '/store/' . basename($f['name']))]);";
    rig.site("blog", "up.php", script, TENANT);
    let store = rig.path("blog/store");
    fs::create_dir(&store).unwrap();
    chown(&store, Some(TENANT.1), Some(TENANT.2)).unwrap();
    rig.pool("blog", &format!("[[mount]]\nsource = {store:?}\naccess = \"rw\""));
    rig.serve();
    let content: Vec<u8> = (0..1_000_000u32).map(|n| (n % 251) as u8).collect();
    let mut body =
        b"--edge\r\nContent-Disposition: form-data; name=\"f\"; filename=\"cat.bin\"\r\n\r\n".to_vec();
    body.extend(&content);
    body.extend(b"\r\n--edge--\r\n");
    let form = [("Content-Type", "multipart/form-data; boundary=edge")];
    let answer = rig.ask("blog", "/up.php", "POST", &form, &body).unwrap();
    let told: Value = serde_json::from_slice(&answer.body)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&answer.body)));
    assert_eq!(
        (&told["is"], &told["moved"], &told["error"]),
        (&true.into(), &true.into(), &0.into()),
        "{told}"
    );
    let uploads = rig.path("state/pools/blog/uploads");
    assert_eq!(told["dir"], fs::metadata(&uploads).unwrap().ino(), "{told}");
    assert_eq!(fs::read(store.join("cat.bin")).unwrap(), content);
    assert_eq!(fs::read_dir(&uploads).unwrap().count(), 0, "the temporary file is left behind");
}

#[test]
fn a_tenant_s_own_configuration_counts_but_for_socket_daemon_and_log() {
    let mut rig = Rig::new();
    let script = "<?php error_log('the tenant speaks');
        echo json_encode([ini_get('memory_limit'), getenv('FOO'), posix_getuid(), ini_get('precision')]);";
    rig.site("blog", "index.php", script, TENANT);
    let conf = "[global]\npid = /run/x.pid\nerror_log = /var/log/nowhere/fpm.log\ndaemonize = yes\nlog_level = alert\n\
        [www]\nuser = root\ngroup = root\nlisten = 127.0.0.1:9\nlisten.mode = 0777\npm = static\npm.max_children = 1\n\
        php_admin_value[memory_limit] = 77M\nphp_value[precision] = 5\nenv[FOO] = bar\n";
    let conf = rig.write("fpm.conf", conf);
    rig.pool("blog", &format!("[fpm]\nconfig = {conf:?}\n[php.value]\nprecision = 9"));
    rig.serve();
    assert_eq!(rig.text("blog", "/index.php"), "[\"77M\",\"bar\",33,\"9\"]");
    rig.wait_log("howdah: pool blog: worker: the tenant speaks");
    let told = rig.log();
    for (line, key, why) in [
        (2, "pid", "php-fpm is process 1 of its sandbox"),
        (3, "error_log", "the log comes out of howdah"),
        (4, "daemonize", "php-fpm is process 1 of its sandbox"),
        (9, "listen", "howdah gives the pool its sockets"),
        (14, "php_value[precision]", "the pool file says otherwise"),
    ] {
        let line = format!("howdah: pool blog: {}:{line}: {key} is not in force: {why}\n", conf.display());
        assert!(told.contains(&line), "no {line:?} in:\n{told}");
    }
    let mode = fs::metadata(rig.socket("blog")).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o660);
}

#[test]
fn settings_flags_and_variables_arrive_and_admin_ones_cannot_be_changed() {
    let mut rig = Rig::new();
    let script = "<?php $out = [];
        foreach (['memory_limit', 'precision', 'display_errors', 'short_open_tag'] as $k) {
            $out[] = ini_get($k); @ini_set($k, '13'); $out[] = ini_get($k);
        }
        $out[] = getenv('GREETING'); $out[] = $_SERVER['GREETING'] ?? null;
        $out[] = getenv('HOWDAH_TEST_SECRET'); $out[] = shell_exec('echo \"$GREETING/$HOWDAH_TEST_SECRET\"');
        echo json_encode($out);";
    rig.site("blog", "index.php", script, TENANT);
    let more = "[php.admin_value]\nmemory_limit = \"99M\"\n[php.value]\nprecision = 7\n\
        [php.admin_flag]\ndisplay_errors = true\n[php.flag]\nshort_open_tag = true\n\
        [fpm.env]\nGREETING = \"hello; 'world' $HOME\"\n";
    rig.pool("blog", more);
    rig.start(&[], &[("HOWDAH_TEST_SECRET", "of the host")]);
    rig.wait_log("howdah: ready:");
    let told: Value = serde_json::from_str(&rig.text("blog", "/index.php")).unwrap();
    let hello = "hello; 'world' $HOME";
    let wanted = serde_json::json!([
        "99M",
        "99M",
        "7",
        "13",
        "1",
        "1",
        "1",
        "1", // short_open_tag is PHP_INI_PERDIR
        hello,
        hello,
        false,
        format!("{hello}/\n")
    ]);
    assert_eq!(told, wanted);
}

#[test]
fn only_the_chosen_extensions_are_loaded_with_what_they_need() {
    let mut rig = Rig::new();
    let script = "<?php echo json_encode(array_map('strtolower', get_loaded_extensions()));";
    for (name, more) in [
        ("all", ""),
        ("two", "[php]\nextensions = [\"mbstring\", \"pdo_mysql\"]"),
        ("none", "[php]\nextensions = []"),
    ] {
        rig.site(name, "index.php", script, TENANT);
        rig.pool(name, more);
    }
    rig.serve();
    let loaded = |pool: &str| -> Vec<String> { serde_json::from_str(&rig.text(pool, "/index.php")).unwrap() };
    let (all, two, none) = (loaded("all"), loaded("two"), loaded("none"));
    let added: Vec<_> = two.iter().filter(|name| !none.contains(name)).cloned().collect();
    assert_eq!(added.len(), 4, "{added:?}");
    for name in ["mbstring", "mysqlnd", "pdo", "pdo_mysql"] {
        assert!(added.iter().any(|one| one == name), "{name} is not in {added:?}");
    }
    assert!(all.len() > two.len() && two.iter().all(|name| all.contains(name)), "{all:?}");
}

#[test]
fn every_line_of_a_pool_comes_out_with_its_name() {
    let mut rig = Rig::new();
    let script = "<?php error_log('logged by ' . gethostname());
        exec('echo printed by a program of ' . gethostname() . ' >&2');
        file_put_contents('php://stderr', 'written by ' . gethostname() . \"\\n\");
        trigger_error('warned by ' . gethostname(), E_USER_WARNING);";
    for (name, owner) in [("blog", TENANT), ("shop", OTHER)] {
        rig.site(name, "index.php", script, owner);
        rig.pool_of(
            name,
            owner.0,
            &format!("[fpm]\naccess_log = true\nrequest_slowlog_timeout = \"1s\"\n{STOPS}"),
        );
    }
    rig.serve();
    for pool in ["blog", "shop"] {
        rig.text(pool, "/index.php?of=somebody");
        for text in ["logged by", "printed by a program of", "written by"] {
            rig.wait_log(&format!("howdah: pool {pool}: worker: {text} {pool}"));
        }
        let warned = rig.wait_log(&format!("warned by {pool}"));
        let start = format!("howdah: pool {pool}: worker: PHP Warning:  ");
        assert!(warned.starts_with(&start), "{warned}");
        let access = rig.wait_log(&format!("howdah: pool {pool}: access: "));
        assert!(access.contains("\"GET /index.php?of=somebody\" 200"), "{access}");
        // php-fpm's own.
        rig.wait_log(&format!("howdah: pool {pool}: php-fpm: fpm is running, pid 1"));
    }
}

#[test]
fn a_slow_script_is_told_and_with_its_frames_where_the_profile_lets_php_fpm_trace() {
    let mut rig = Rig::new();
    let profile = rig.profile("traced", "seccomp = \"off\"");
    let script = "<?php function dawdle() { usleep(2500000); } dawdle();";
    for (name, top) in [("blog", String::new()), ("traced", format!("profile = {profile:?}\n"))] {
        rig.site(name, "slow.php", script, TENANT);
        rig.pool(name, &format!("{top}[fpm]\nrequest_slowlog_timeout = \"1s\""));
    }
    rig.serve();
    for pool in ["blog", "traced"] {
        rig.text(pool, "/slow.php");
        let told = rig.wait_log(&format!("howdah: pool {pool}: php-fpm: [pool {pool}] child "));
        assert!(told.contains("executing too slow"), "{told}");
    }
    rig.wait_log("howdah: pool traced: slow: script_filename = ");
    rig.wait_log("dawdle() ");
    assert!(!rig.log().contains("pool blog: slow:"), "the filter lets php-fpm trace: say so in the profile");
}

/// One entry in journald's native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL).
fn fields(entry: &[u8]) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    let mut rest = entry;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let line = std::str::from_utf8(&rest[..end]).unwrap();
        rest = &rest[end + 1..];
        match line.split_once('=') {
            Some((name, value)) => fields.insert(name.to_owned(), value.to_owned()),
            None => {
                let (length, after) = rest.split_first_chunk::<8>().unwrap();
                let (value, after) = after.split_at(u64::from_le_bytes(*length) as usize);
                rest = after.strip_prefix(b"\n").unwrap();
                fields.insert(line.to_owned(), String::from_utf8(value.to_owned()).unwrap())
            }
        };
    }
    fields
}

#[test]
fn under_systemd_lines_go_to_the_journal_with_pool_and_generation() {
    let mut rig = Rig::new();
    rig.site("blog", "index.php", "<?php error_log('said in the journal');", TENANT);
    rig.pool("blog", &format!("[fpm]\naccess_log = true\n{STOPS}"));
    let directory = rig.path("journal");
    fs::create_dir(&directory).unwrap();
    let journal = UnixDatagram::bind(directory.join("socket")).unwrap();
    journal.set_read_timeout(Some(Duration::from_secs(20))).unwrap();

    // In a mount namespace of its own, the test's socket stands where journald's stands.
    let place = format!(
        "mount -t tmpfs none /run && mkdir -p /run/systemd/journal && \
         mount --bind {} /run/systemd/journal && exec \"$@\"",
        directory.display()
    );
    let log = fs::metadata(rig.write("log", "")).unwrap();
    let stream = format!("{}:{}", log.dev(), log.ino());
    let before = ["unshare", "--mount", "sh", "-c", &place, "sh"];
    rig.start(&before, &[("JOURNAL_STREAM", &stream)]);

    let mut buffer = vec![0; 1 << 20];
    let mut entries = Vec::new();
    // Worker lines and the access line come by different ways, in any order.
    let mut wait_entry = |generation: Option<&str>, text: &str| {
        let wanted = |entry: &BTreeMap<String, String>| {
            entry["MESSAGE"].contains(text) && entry.get("GENERATION").map(String::as_str) == generation
        };
        while !entries.iter().any(wanted) {
            let length = journal.recv(&mut buffer).unwrap_or_else(|error| panic!("{text:?}: {error}"));
            entries.push(fields(&buffer[..length]));
        }
        entries.iter().find(|entry| wanted(entry)).unwrap().clone()
    };
    let ready = wait_entry(None, "ready: 1 pool listens");
    assert_eq!((ready["SYSLOG_IDENTIFIER"].as_str(), ready["PRIORITY"].as_str()), ("howdah", "5"));
    assert!(!ready.contains_key("POOL"), "{ready:?}");
    for generation in ["1", "2"] {
        rig.text("blog", "/index.php");
        let said = wait_entry(Some(generation), "worker: ");
        assert_eq!(said["MESSAGE"], "pool blog: worker: said in the journal");
        assert_eq!((said["POOL"].as_str(), said["PRIORITY"].as_str()), ("blog", "5"), "{said:?}");
        let access = wait_entry(Some(generation), "access: ");
        assert_eq!((access["POOL"].as_str(), access["PRIORITY"].as_str()), ("blog", "6"), "{access:?}");
        wait_for("cold", Duration::from_secs(20), || (rig.record("blog").state == "cold").then_some(()));
    }
    assert_eq!(rig.end(), 0);
    assert_eq!(rig.log(), "", "a line went to stderr as well");
}

#[test]
fn a_journal_stream_that_is_not_our_stderr_is_no_journal() {
    let mut rig = Rig::new();
    rig.pool("blog", "");
    rig.start(&[], &[("JOURNAL_STREAM", "1:1")]);
    rig.wait_log("howdah: ready: 1 pool listens");
}
