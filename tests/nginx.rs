//! Debian's nginx in front of howdah's pools.
#![allow(missing_docs)]

mod rig;

use std::fs;
use std::time::Duration;

use rig::nginx::{Nginx, http};
use rig::port::free_port;
use rig::torture::{STOP, Torture, make_pool, measure};
use rig::{Rig, TENANT};

const HELLO: &str = "<?php header('X-Worker: ' . getmypid()); echo 'hello from ', posix_getuid();";

/// A pool `blog` with nginx in front of it; nginx keeps connections as `keepalive` says.
fn blog(rig: &Rig, keepalive: &str) -> (Nginx, std::net::SocketAddr) {
    let address = free_port("127.0.0.1");
    let upstream = format!("server unix:{}; {keepalive}", rig.socket("blog").display());
    let text = Nginx::conf(
        address,
        &rig.path("blog"),
        &upstream,
        // nginx must not ask twice: what is lost is to be seen.
        "fastcgi_keep_conn on; fastcgi_next_upstream off;",
    );
    let conf = rig.write("nginx.conf", &text);
    (Nginx::start(&rig.path("nginx"), &conf, address), address)
}

#[test]
fn the_first_request_to_a_cold_pool_is_answered() {
    let mut rig = Rig::new();
    rig.site("blog", "index.php", HELLO, TENANT);
    rig.pool("blog", "[idle]\nstop = \"100ms\"");
    rig.serve();
    let (_nginx, address) = blog(&rig, "");
    for life in 1..=3 {
        assert_eq!(rig.state("blog"), "cold");
        let answer = http(address, "GET", "/index.php", b"").unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (200, "hello from 33"));
        assert_eq!(rig.record("blog").generation, life);
        rig.wait_state("blog", "cold");
    }
}

#[test]
fn a_pool_stays_while_nginx_keeps_a_connection_and_stops_when_it_is_closed() {
    let mut rig = Rig::new();
    rig.site("blog", "index.php", HELLO, TENANT);
    rig.pool("blog", "[idle]\nstop = \"50ms\"");
    rig.serve();
    let (nginx, address) = blog(&rig, "keepalive 2;");
    let first = http(address, "GET", "/index.php", b"").unwrap();
    assert_eq!(first.status, 200);
    std::thread::sleep(STOP * 10);
    assert_eq!(rig.state("blog"), "warm");
    let second = http(address, "GET", "/index.php", b"").unwrap();
    let worker = |head: &str| head.lines().find(|line| line.starts_with("X-Worker")).map(str::to_owned);
    assert_eq!(worker(&first.head), worker(&second.head));
    assert!(rig.record("blog").generation == 1);
    drop(nginx);
    rig.wait_state("blog", "cold");
}

#[test]
fn nothing_is_lost_on_connections_that_nginx_keeps() {
    let mut rig = Rig::new();
    let mut target = make_pool(&rig, "blog", None, STOP, "max_children = 4");
    rig.serve();
    // nginx closes what was silent for a little less than the pool waits, in the moments in which it stops.
    let (nginx, address) = blog(&rig, "keepalive 3; keepalive_timeout 15ms;");
    target.ask_nginx_at(address);
    Torture::new(vec![target], measure(800, 10_000), measure(6, 100)).run(&mut rig, |_| {});
    assert_eq!(nginx.log(), "", "nginx complains");
    drop(nginx);
    assert_eq!(rig.end(), 0);
}

#[test]
fn the_503_of_a_pool_that_cannot_start_arrives_as_one() {
    let mut rig = Rig::new();
    rig.site("blog", "index.php", HELLO, TENANT);
    rig.pool("blog", "");
    rig.serve();
    let (_nginx, address) = blog(&rig, "");
    fs::remove_dir_all(rig.path("blog")).unwrap();
    for _ in 0..3 {
        let answer = http(address, "GET", "/index.php", b"").unwrap();
        assert_eq!(answer.status, 503, "{}\n{}", answer.head, rig.log());
        assert!(answer.head.lines().any(|line| line.starts_with("Retry-After: ")), "{}", answer.head);
        assert!(answer.body.contains("blog."), "no id to look for in the log: {}", answer.body);
    }
    rig.site("blog", "index.php", HELLO, TENANT);
    let end = std::time::Instant::now() + Duration::from_secs(20);
    while http(address, "GET", "/index.php", b"").unwrap().status != 200 {
        assert!(std::time::Instant::now() < end, "it does not recover:\n{}", rig.log());
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// As `examples/two-tenants/README.md` says, but for the directory and the ports.
#[test]
fn two_tenants_of_the_example_answer_as_different_users_and_cannot_see_each_other() {
    let mut rig = Rig::new();
    let example = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/two-tenants");
    let (blog, shop) = (free_port("127.0.0.1"), free_port("127.0.0.1"));
    let here = |text: String| {
        text.replace("/srv/", &format!("{}/", rig.path("srv").display()))
            .replace("/run/howdah/", &format!("{}/", rig.path("sockets").display()))
            .replace("127.0.0.1:8081", &blog.to_string())
            .replace("127.0.0.1:8082", &shop.to_string())
    };
    let probe = "<?php $p = $_GET['path']; echo json_encode([file_exists($p), @file_get_contents($p), \
                 @scandir(dirname($p)), array_values(array_diff(scandir(dirname($p, 2)), ['.', '..']))]);";
    for (name, account) in [("blog", "games"), ("shop", "backup")] {
        for file in ["index.php", "secret.txt"] {
            let text = fs::read_to_string(example.join("sites").join(name).join(file)).unwrap();
            rig.write(&format!("srv/{name}/{file}"), &text);
        }
        rig.write(&format!("srv/{name}/probe.php"), probe);
        rig.shell(&format!("chown -R {account}:www-data srv/{name} && chmod -R u=rwX,g=rX,o= srv/{name}"));
        let pool = fs::read_to_string(example.join(format!("pools/{name}.toml"))).unwrap();
        rig.write(&format!("pools/{name}.toml"), &here(pool));
    }
    let conf = rig.write("nginx.conf", &here(fs::read_to_string(example.join("nginx.conf")).unwrap()));
    rig.serve();
    let _nginx = Nginx::start(&rig.path("nginx"), &conf, blog);
    for (name, other, at, uid) in [("blog", "shop", blog, 5), ("shop", "blog", shop, 34)] {
        let get = |uri: &str| http(at, "GET", uri, b"").unwrap();
        let (own, foreign) = (rig.path(&format!("srv/{name}")), rig.path(&format!("srv/{other}/secret.txt")));
        assert_eq!(get("/").body, format!("{name}, as uid {uid}\n"));
        let secret = get(&format!("/?read={}/secret.txt", own.display())).body;
        assert_eq!(secret, format!("{name}, as uid {uid}\nthe secret of {name}\n"));
        let refused = get(&format!("/?read={}", foreign.display())).body;
        assert_eq!(refused, format!("{name}, as uid {uid}\ncannot read {}\n", foreign.display()));
        // Not forbidden: not there.
        let seen = get(&format!("/probe.php?path={}", foreign.display())).body;
        assert_eq!(seen, format!("[false,false,false,[\"{name}\"]]"));
        assert_eq!(get("/secret.txt").status, 404);
    }
    assert_eq!(rig.end(), 0);
}
