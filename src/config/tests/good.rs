//! Files that are right, and what they become.

use std::path::Path;
use std::time::Duration;

use super::super::network::Ports;
use super::super::pool::{Access, Engine, ImageRef, Network, OnFailure, Pool, ProfileRef, ServeConfig};
use super::super::types::{Bytes, Listen, Patience};
use super::super::{Defaults, load};
use super::{accounts, parse, parse_more, parse_over};

fn seconds(n: u64) -> Patience {
    Patience::After(Duration::from_secs(n))
}

fn defaults(text: &str) -> Defaults {
    load::parse_serve(text, Path::new("/h.toml"), &accounts()).unwrap().1
}

#[test]
fn the_smallest_pool_has_safe_defaults() {
    let pool = parse_more("").unwrap();
    assert_eq!(pool.name.as_str(), "blog");
    assert_eq!(pool.file, Path::new("/p/blog.toml"));
    assert_eq!(pool.listen, ["/run/blog.sock".parse::<Listen>().unwrap()]);
    assert_eq!((pool.user.uid, pool.user.gid), (1001, 1001));
    assert_eq!(pool.image, ImageRef::Host);
    assert_eq!(pool.profile, ProfileRef::Named("hosting".into()));
    assert_eq!(pool.engine, Engine::Native);
    assert_eq!((pool.socket.owner, pool.socket.group), (1001, 1001));
    assert_eq!((pool.socket.mode.bits(), pool.socket.backlog), (0o660, 511));
    assert_eq!(pool.mounts, []);
    assert_eq!((pool.idle.freeze, pool.idle.stop), (seconds(30), seconds(600)));
    assert_eq!(pool.limits, Default::default());
    assert_eq!(pool.network, None);
    assert_eq!((pool.fpm, pool.php), Default::default());
    assert_eq!(pool.start.timeout, Duration::from_secs(10));
    assert_eq!(pool.start.on_failure, OnFailure::Answer503);
}

/// The file of the design, with everything in it.
#[test]
fn the_whole_of_a_pool_file() {
    let pool = parse(
        r#"
listen  = ["/run/howdah/blog.sock", "127.0.0.1:9001", "[::1]:9001"]
user    = "blog"
image   = "/srv/images/debian"
profile = "/etc/my.toml"
engine  = "native"
[socket]
owner = "www-data"
group = "www-data"
mode = "0600"
backlog = 128
[[mount]]
source = "/srv/blog/"
[[mount]]
source = "/srv/blog/uploads"
target = "/uploads"
access = "rw"
[idle]
freeze = "never"
stop = "1m 30s"
[limits]
memory = "256M"
memory_high = "200M"
oom_group = true
swap = 0
tasks = 64
cpu = 1
cpu_weight = 100
io_weight = 50
open_files = 1024
tmp = "64M"
run = "1M"
shm = "2M"
file_size = "1G"
cpu_time = "2m"
core = 0
memlock = "64K"
msgqueue = 0
sigpending = 100
stack = "8M"
[[limits.io_max]]
path = "/dev/vda"
rbps = "10M"
wiops = 100
[[limits.io_max]]
path = "/srv"
wbps = "1M"
riops = 1
[network]
mode = "host"
[fpm]
max_children = 5
"pm.max_requests" = 500
request_terminate_timeout = "2m"
request_slowlog_timeout = 5
access_log = true
access_format = "%R \"%m\" ${x}"
clear_env = true
security_limit_extensions = [".php", ".phar"]
binary = "/usr/sbin/php-fpm8.2"
[fpm.env]
APP_ENV = "prod"
WORKERS = 3
[php]
extensions = ["mbstring", "pdo_mysql"]
[php.value]
precision = 14
[php.flag]
display_errors = false
[php.admin_value]
memory_limit = "128M"
html_errors = false
[start]
timeout = "500ms"
on_failure = "hold"
template = true
"#,
    )
    .unwrap();
    assert_eq!(
        pool.listen.iter().map(Listen::to_string).collect::<Vec<_>>(),
        ["/run/howdah/blog.sock", "127.0.0.1:9001", "[::1]:9001"]
    );
    assert_eq!(pool.image, ImageRef::Directory("/srv/images/debian".parse().unwrap()));
    assert_eq!(pool.profile, ProfileRef::File("/etc/my.toml".parse().unwrap()));
    assert_eq!((pool.socket.owner, pool.socket.group, pool.socket.backlog), (33, 33, 128));
    assert_eq!(pool.mounts[0].target.to_string(), "/srv/blog");
    assert_eq!(pool.mounts[0].access, Access::ReadOnly);
    assert_eq!(pool.mounts[1].target.to_string(), "/uploads");
    assert_eq!(pool.mounts[1].access, Access::ReadWrite);
    assert_eq!((pool.idle.freeze, pool.idle.stop), (Patience::Never, seconds(90)));
    assert_eq!(pool.limits.memory, Some(Bytes::new(256 << 20)));
    assert_eq!((pool.limits.swap, pool.limits.cpu), (Some(Bytes::new(0)), Some(1.0)));
    assert_eq!(pool.network, Some(Network::Host(Ports::default())));
    let directives: Vec<(&str, &str)> =
        pool.fpm.directives.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(
        directives,
        [
            ("access.format", r#"%R "%m" ${x}"#),
            ("clear_env", "yes"),
            ("pm.max_children", "5"),
            ("pm.max_requests", "500"),
            ("request_slowlog_timeout", "5s"),
            ("request_terminate_timeout", "120s"),
            ("security.limit_extensions", ".php .phar"),
        ]
    );
    assert!(pool.fpm.access_log);
    assert_eq!(pool.fpm.env["WORKERS"], "3");
    assert_eq!(pool.php.extensions, Some(vec!["mbstring".into(), "pdo_mysql".into()]));
    assert_eq!((pool.php.value["precision"].as_str(), pool.php.flag["display_errors"]), ("14", false));
    assert_eq!((pool.php.admin_value["html_errors"].as_str(), pool.start.on_failure), ("0", OnFailure::Hold));
    assert_eq!(pool.start.template, Some(true));
}

#[test]
fn a_pool_stands_over_the_defaults() {
    let below = defaults(
        r#"
[defaults]
user = "shop"
network.mode = "host"
[[defaults.mount]]
source = "/run/mysqld"
[[defaults.mount]]
source = "/srv/common"
target = "/common"
[defaults.limits]
memory = "64M"
tasks = 10
[defaults.fpm]
max_children = 2
access_log = true
[defaults.fpm.env]
A = "below"
B = "below"
[defaults.php]
extensions = ["gd"]
[defaults.start]
timeout = "1s"
"#,
    );
    let pool: Pool = parse_over(
        r#"
listen = "/a"
[[mount]]
source = "/srv/own"
target = "/common"
[limits]
tasks = 20
[fpm]
access_log = false
env.A = "own"
"#,
        &below,
    )
    .unwrap();
    assert_eq!((&*pool.user.name, pool.socket.owner), ("shop", 1002));
    assert_eq!((pool.limits.memory, pool.limits.tasks), (Some(Bytes::new(64 << 20)), Some(20)));
    assert_eq!(
        pool.mounts.iter().map(|m| m.source.to_string()).collect::<Vec<_>>(),
        ["/run/mysqld", "/srv/own"]
    );
    assert_eq!((pool.fpm.directives["pm.max_children"].as_str(), pool.fpm.access_log), ("2", false));
    assert_eq!((pool.fpm.env["A"].as_str(), pool.fpm.env["B"].as_str()), ("own", "below"));
    assert_eq!(pool.php.extensions, Some(vec!["gd".into()]));
    assert_eq!(pool.network, Some(Network::Host(Ports::default())));
    assert_eq!(pool.start.timeout, Duration::from_secs(1));
}

#[test]
fn howdah_toml() {
    let text = "[serve]\nruntime_dir = \"/r\"\nstate_dir = \"/s\"\nprofile_dir = \"/d\"\ndrain = \"5s\"\nparallel_starts = 3\ntemplates = 2\ntemplate_memory = \"1G\"\ntemplate_ids = \"70000-70009\"\ncgroup = \"/c\"\n";
    let (serve, _) = load::parse_serve(text, Path::new("/h.toml"), &accounts()).unwrap();
    let path = |text: &str| Some(text.parse().unwrap());
    let expected = ServeConfig {
        runtime_dir: path("/r"),
        state_dir: path("/s"),
        profile_dir: path("/d"),
        drain: Duration::from_secs(5),
        parallel_starts: Some(3),
        templates: Some(2),
        template_memory: Bytes::new(1 << 30),
        template_ids: "70000-70009".parse().unwrap(),
        cgroup: path("/c"),
    };
    assert_eq!(serve, expected);
    let (empty, _) = load::parse_serve("", Path::new("/h.toml"), &accounts()).unwrap();
    assert_eq!((empty.drain, empty.runtime_dir), (Duration::from_secs(30), None));
}
