//! SIGHUP: the pool files are read again while requests are in progress, with
//! the real php-fpm.
#![allow(missing_docs)]

mod rig;

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use howdah::fpm::client::{Response, exchange};
use nix::sys::signal::Signal;
use rig::{OTHER, Rig, TENANT, wait_for};

const SETTING: &str = "<?php echo ini_get('precision');";

/// A pool with a script that works for a second, one that prints a setting, and a place for marks.
fn pool(rig: &Rig, name: &str, precision: u32) {
    let marks = rig.path(&format!("marks-{name}"));
    if !marks.exists() {
        fs::create_dir(&marks).unwrap();
        chown(&marks, Some(TENANT.1), Some(TENANT.2)).unwrap();
    }
    let script = format!(
        "<?php touch('{}/' . $_GET['n']); $end = microtime(true) + 1; \
         while (microtime(true) < $end) usleep(1000); echo 'done ', ini_get('precision');",
        marks.display()
    );
    // Once: a request that reads a script while it is written anew finds it empty.
    if !rig.path(name).exists() {
        rig.site(name, "work.php", &script, TENANT);
        rig.site(name, "index.php", SETTING, TENANT);
    }
    let more =
        format!("[[mount]]\nsource = {marks:?}\naccess = \"rw\"\n[php.value]\nprecision = {precision}\n");
    rig.pool(name, &more);
}

fn work(rig: &Rig, pool: &str, n: u32) -> Result<Response, String> {
    rig.try_get(pool, &format!("/work.php?n={n}"))
}

fn wait_begun(rig: &Rig, pool: &str, n: u32) {
    let mark = rig.path(&format!("marks-{pool}/{n}"));
    wait_for("the request's begin", Duration::from_secs(20), || mark.exists().then_some(()));
}

/// A pool `blog` with the precision 7, cold.
fn served() -> Rig {
    let mut rig = Rig::new();
    pool(&rig, "blog", 7);
    rig.serve();
    rig
}

/// A request that works, and has begun to.
fn begun<'scope>(
    rig: &'scope Rig,
    scope: &'scope thread::Scope<'scope, '_>,
    pool: &'static str,
    n: u32,
) -> thread::ScopedJoinHandle<'scope, Result<Response, String>> {
    let request = scope.spawn(move || work(rig, pool, n));
    wait_begun(rig, pool, n);
    request
}

/// Whether a unix socket at `path` listens, told by the kernel's list: a file is there before it
/// does, and a connection would start the pool. Of the list's flags, 0x10000 is __SO_ACCEPTCON.
fn listens(path: &Path) -> bool {
    let all = fs::read_to_string("/proc/net/unix").unwrap();
    let mut fields = all.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    path.exists() && fields.any(|one| one.len() == 8 && Path::new(one[7]) == path && one[3] == "00010000")
}

fn reload(rig: &Rig) {
    rig.signal(Signal::SIGHUP);
}

fn remove(rig: &Rig, pool: &str) {
    fs::remove_file(rig.path(&format!("pools/{pool}.toml"))).unwrap();
}

#[test]
fn a_new_pool_appears_and_the_others_are_untouched() {
    let mut rig = Rig::new();
    pool(&rig, "blog", 7);
    pool(&rig, "sleeper", 7);
    rig.serve();
    assert_eq!(rig.text("blog", "/index.php"), "7");
    let (pid, generation) = (rig.master("blog"), rig.record("blog").generation);
    thread::scope(|scope| {
        let request = begun(&rig, scope, "blog", 1);
        pool(&rig, "shop", 8);
        reload(&rig);
        let shop = rig.socket("shop");
        wait_for("the new pool's socket", Duration::from_secs(10), || listens(&shop).then_some(()));
        assert_eq!(rig.text("shop", "/index.php"), "8");
        assert_eq!(request.join().unwrap().unwrap().body, b"done 7");
    });
    thread::sleep(Duration::from_millis(300));
    assert!(!rig.log().contains("its file has changed"), "{}", rig.log());
    assert_eq!((rig.master("blog"), rig.record("blog").generation), (pid, generation));
    assert_eq!(rig.text("blog", "/index.php"), "7");
    assert_eq!(rig.record("blog").generation, generation);
    assert_eq!(rig.state("sleeper"), "cold");
    assert_eq!(rig.ps("sleeper")["generation"], 0);
    assert_eq!(rig.text("sleeper", "/index.php"), "7");
    assert_eq!(rig.end(), 0);
}

#[test]
fn a_removed_pool_ends_when_its_request_in_progress_is_answered() {
    let mut rig = Rig::new();
    pool(&rig, "blog", 7);
    pool(&rig, "shop", 8);
    rig.serve();
    let pid = thread::scope(|scope| {
        let request = begun(&rig, scope, "blog", 1);
        let pid = rig.master("blog");
        remove(&rig, "blog");
        reload(&rig);
        assert_eq!(request.join().unwrap().unwrap().body, b"done 7");
        pid
    });
    let socket = rig.socket("blog");
    wait_for("its end", Duration::from_secs(10), || (!socket.exists()).then_some(()));
    wait_for("its php-fpm's end", Duration::from_secs(10), || {
        (!Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    });
    assert!(UnixStream::connect(&socket).is_err());
    rig.wait_state("blog", "absent");
    assert_eq!(rig.text("shop", "/index.php"), "8");
    // It may come back.
    pool(&rig, "blog", 9);
    reload(&rig);
    wait_for("its return", Duration::from_secs(10), || listens(&socket).then_some(()));
    assert_eq!(rig.text("blog", "/index.php"), "9");
    assert_eq!(rig.end(), 0);
}

#[test]
fn a_changed_pool_is_started_anew_with_the_new_settings_and_loses_nothing() {
    let mut rig = served();
    assert_eq!(rig.text("blog", "/index.php"), "7");
    thread::scope(|scope| {
        let request = begun(&rig, scope, "blog", 1);
        pool(&rig, "blog", 8);
        reload(&rig);
        assert_eq!(request.join().unwrap().unwrap().body, b"done 7");
    });
    wait_for("the new settings", Duration::from_secs(10), || {
        (rig.text("blog", "/index.php") == "8").then_some(())
    });
    assert_eq!(rig.record("blog").generation, 2);
    rig.wait_log(
        "howdah: pool blog: its file has changed: the next connection starts it as the file says now",
    );
    assert_eq!(rig.end(), 0);
}

#[test]
fn a_changed_pool_under_load_loses_nothing() {
    let mut rig = Rig::new();
    pool(&rig, "blog", 1);
    rig.serve();
    let shared = &rig;
    let until = Instant::now() + Duration::from_secs(4);
    let answered: usize = thread::scope(|scope| {
        let clients = (0..3).map(|_| {
            scope.spawn(move || {
                let (mut count, mut last) = (0, 1);
                while Instant::now() < until {
                    // Settings only ever get newer.
                    let now: u32 = shared.text("blog", "/index.php").parse().unwrap();
                    assert!(now >= last, "{now} after {last}");
                    (count, last) = (count + 1, now);
                    thread::sleep(Duration::from_millis(2));
                }
                count
            })
        });
        let clients: Vec<_> = clients.collect();
        for precision in 2..=5 {
            thread::sleep(Duration::from_millis(700));
            pool(shared, "blog", precision);
            reload(shared);
        }
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    assert!(answered > 50, "{answered}");
    wait_for("the last settings", Duration::from_secs(20), || {
        (rig.text("blog", "/index.php") == "5").then_some(())
    });
    assert!(!rig.log().contains("cut"), "{}", rig.log());
    assert_eq!(rig.end(), 0);
}

#[test]
fn a_changed_pool_that_sleeps_is_what_its_file_says_at_its_next_start() {
    let mut rig = served();
    pool(&rig, "blog", 8);
    reload(&rig);
    rig.wait_log("pool blog: its file has changed");
    assert_eq!((rig.state("blog").as_str(), rig.record("blog").generation), ("cold", 0));
    assert_eq!(rig.text("blog", "/index.php"), "8");
}

#[test]
fn a_pool_that_listens_elsewhere_now_leaves_the_old_address() {
    let mut rig = served();
    assert_eq!(rig.text("blog", "/index.php"), "7");
    let text = fs::read_to_string(rig.path("pools/blog.toml")).unwrap();
    let (old, new) = (rig.socket("blog"), rig.socket("elsewhere"));
    rig.write("pools/blog.toml", &text.replace(old.to_str().unwrap(), new.to_str().unwrap()));
    reload(&rig);
    wait_for("the new address", Duration::from_secs(10), || listens(&new).then_some(()));
    wait_for("the old one's end", Duration::from_secs(10), || (!old.exists()).then_some(()));
    fs::rename(rig.path("elsewhere.sock"), &old).unwrap();
    assert_eq!(rig.text("blog", "/index.php"), "7");
    fs::rename(&old, &new).unwrap();
    wait_for("ps to know it", Duration::from_secs(10), || {
        (rig.ps("blog")["listen"] == serde_json::json!([new])).then_some(())
    });
    assert_eq!(rig.end(), 0);
    assert!(!new.exists());
}

#[test]
fn a_pool_whose_file_is_broken_stays_as_it_was_and_the_fault_is_told() {
    let mut rig = Rig::new();
    pool(&rig, "blog", 7);
    pool(&rig, "shop", 7);
    rig.serve();
    assert_eq!(rig.text("blog", "/index.php"), "7");
    let (pid, generation) = (rig.master("blog"), rig.record("blog").generation);
    let good = fs::read_to_string(rig.path("pools/blog.toml")).unwrap();
    rig.write("pools/blog.toml", &format!("lisen = 1\n{good}"));
    pool(&rig, "shop", 8);
    reload(&rig);
    let line = rig.wait_log("(its pool stays as it was)");
    let file = rig.path("pools/blog.toml");
    assert_eq!(
        line,
        format!(
            "howdah: {}:1: unknown key \"lisen\": did you mean \"listen\"? (its pool stays as it was)",
            file.display()
        )
    );
    // The others do not wait for it.
    rig.wait_log("pool shop: its file has changed");
    assert_eq!(rig.text("shop", "/index.php"), "8");
    assert_eq!((rig.master("blog"), rig.record("blog").generation), (pid, generation));
    assert_eq!(rig.text("blog", "/index.php"), "7");
    // Repaired, it is what it says.
    rig.write("pools/blog.toml", &good.replace("precision = 7", "precision = 9"));
    reload(&rig);
    rig.wait_log("pool blog: its file has changed");
    assert_eq!(rig.text("blog", "/index.php"), "9");
}

#[test]
fn a_directory_of_pools_that_is_gone_ends_no_pool() {
    let mut rig = served();
    assert_eq!(rig.text("blog", "/index.php"), "7");
    let pid = rig.master("blog");
    fs::rename(rig.path("pools"), rig.path("moved")).unwrap();
    reload(&rig);
    rig.wait_log("(its pool stays as it was)");
    assert_eq!(rig.text("blog", "/index.php"), "7");
    assert_eq!(rig.master("blog"), pid);
    fs::rename(rig.path("moved"), rig.path("pools")).unwrap();
}

#[test]
fn a_pool_that_changes_its_user_serves_as_the_new_one() {
    let mut rig = Rig::new();
    rig.site("blog", "index.php", "<?php echo posix_getuid();", TENANT);
    rig.pool("blog", "");
    rig.serve();
    assert_eq!(rig.text("blog", "/index.php"), TENANT.1.to_string());
    rig.pool_of("blog", OTHER.0, "");
    reload(&rig);
    rig.wait_log("pool blog: its file has changed");
    // Its state directory is the old user's, with sessions that the new one must not read.
    let answer = rig.get("blog", "/index.php");
    assert_eq!(answer.status, 503);
    let error = rig.ps("blog")["last_error"].to_string();
    assert!(error.contains("belongs to uid 33, not to the pool's user backup"), "{error}");
    fs::remove_dir_all(rig.path("state/pools/blog")).unwrap();
    wait_for("the backoff's end", Duration::from_secs(10), || (rig.state("blog") == "cold").then_some(()));
    assert_eq!(rig.text("blog", "/index.php"), OTHER.1.to_string());
}

#[test]
fn a_pool_that_is_renamed_while_it_serves_keeps_its_address() {
    let rig = served();
    thread::scope(|scope| {
        let request = begun(&rig, scope, "blog", 1);
        fs::rename(rig.path("pools/blog.toml"), rig.path("pools/diary.toml")).unwrap();
        reload(&rig);
        assert_eq!(request.join().unwrap().unwrap().body, b"done 7");
    });
    wait_for("the new name", Duration::from_secs(10), || {
        rig.try_get("blog", "/index.php").is_ok_and(|answer| answer.body == b"7").then_some(())
    });
    rig.wait_state("blog", "absent");
    rig.wait_state("diary", "warm");
}

#[test]
fn two_reloads_at_once_end_as_the_last_file_says() {
    let mut rig = served();
    thread::scope(|scope| {
        let request = begun(&rig, scope, "blog", 1);
        for precision in [8, 9, 10] {
            pool(&rig, "blog", precision);
            reload(&rig);
            thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(request.join().unwrap().unwrap().body, b"done 7");
    });
    wait_for("the last settings", Duration::from_secs(10), || {
        (rig.text("blog", "/index.php") == "10").then_some(())
    });
    // Changed and changed back before it had ended.
    thread::scope(|scope| {
        let request = begun(&rig, scope, "blog", 2);
        pool(&rig, "blog", 11);
        reload(&rig);
        thread::sleep(Duration::from_millis(50));
        pool(&rig, "blog", 10);
        reload(&rig);
        assert_eq!(request.join().unwrap().unwrap().body, b"done 10");
    });
    thread::sleep(Duration::from_millis(500));
    assert_eq!(rig.text("blog", "/index.php"), "10");
    assert_eq!(rig.end(), 0);
}

#[test]
fn a_pool_that_is_back_before_it_had_ended_is_served_again_and_loses_nothing() {
    let mut rig = served();
    thread::scope(|scope| {
        let request = begun(&rig, scope, "blog", 1);
        let socket = rig.socket("blog");
        // In the queue of the socket that is about to go.
        let busy: Vec<_> = (2..6)
            .map(|n| {
                scope.spawn({
                    let rig = &rig;
                    move || work(rig, "blog", n)
                })
            })
            .collect();
        (2..6).for_each(|n| wait_begun(&rig, "blog", n));
        let stream = UnixStream::connect(&socket).unwrap();
        let last = rig.request("blog", "/work.php?n=6", "GET", &[], b"");
        let waiting = scope.spawn(move || {
            exchange(&stream, &last, Duration::from_secs(30)).map_err(|error| error.to_string())
        });
        remove(&rig, "blog");
        reload(&rig);
        wait_for("its removal", Duration::from_secs(10), || (!socket.exists()).then_some(()));
        pool(&rig, "blog", 7);
        reload(&rig);
        assert_eq!(request.join().unwrap().unwrap().body, b"done 7");
        for one in busy.into_iter().chain([waiting]) {
            assert_eq!(one.join().unwrap().unwrap().body, b"done 7");
        }
    });
    // A file at the old place is no proof: it is there before the new socket listens.
    let answer = wait_for("its return", Duration::from_secs(10), || rig.try_get("blog", "/index.php").ok());
    assert_eq!(answer.body, b"7");
    assert_eq!(rig.record("blog").generation, 2);
    assert_eq!(rig.end(), 0);
}

#[test]
fn sigterm_during_a_reload_s_drain_ends_all() {
    let mut rig = served();
    thread::scope(|scope| {
        let request = begun(&rig, scope, "blog", 1);
        pool(&rig, "blog", 8);
        reload(&rig);
        thread::sleep(Duration::from_millis(100));
        rig.signal(Signal::SIGTERM);
        assert_eq!(request.join().unwrap().unwrap().body, b"done 7");
    });
    assert_eq!(rig.wait_end(Duration::from_secs(10)), 0);
    assert!(!rig.path("run").exists() && !rig.socket("blog").exists() && !rig.cgroup().exists());
}
