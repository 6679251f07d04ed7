//! The `fpm` room against a real php-fpm: what is written is accepted, what is
//! said arrives exactly, and everything php-fpm and PHP print comes out.
//!
//! php-fpm runs as process 1 of a pid namespace, as a user that is not root, so
//! that nothing of it outlives its test, however that ends.

#[path = "rig/port.rs"]
mod port;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use howdah::config::pool::{
    Engine, Fpm, Idle, ImageRef, Limits, OnFailure, Php, Pool, ProfileRef, Socket, Start,
};
use howdah::config::types::{Account, Listen, Mode, Patience};
use howdah::fpm::client::{ClientError, Request, Response, exchange};
use howdah::fpm::conf::{Configuration, command, configuration, environment};
use howdah::fpm::log::{Kind, Line, Lines, classify, reason};
use howdah::fpm::probe::{Info, select_extensions};
use howdah::fpm::refusal::{Progress, Refusal};
use howdah::fpm::tenant::TenantFile;
use nix::fcntl::OFlag;
use nix::unistd::{Gid, Uid, fchown, geteuid, pipe2};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(15);

/// The newest php-fpm of this machine.
fn binary() -> PathBuf {
    let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("php-fpm");
    let mut found: Vec<_> =
        fs::read_dir("/usr/sbin").unwrap().map(|entry| entry.unwrap().path()).filter(name).collect();
    found.sort();
    found.pop().expect("these tests need php-fpm: apt-get install php-fpm")
}

/// A directory that the pool's user can read, with the scripts in it.
fn site(scripts: &[(&str, &str)]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for (name, script) in scripts {
        fs::write(directory.path().join(name), script).unwrap();
    }
    directory
}

fn pool(listen: &[&str]) -> Pool {
    let state = [("session.save_path".to_owned(), "/tmp".to_owned())];
    Pool {
        name: "blog".parse().unwrap(),
        file: "/etc/howdah/pools/blog.toml".into(),
        listen: listen.iter().map(|address| address.parse::<Listen>().unwrap()).collect(),
        user: Account { name: "nobody".into(), uid: 65534, gid: 65534 },
        image: ImageRef::Host,
        profile: ProfileRef::Named("hosting".into()),
        engine: Engine::Native,
        socket: Socket { owner: 0, group: 0, mode: Mode::new(0o660), backlog: 511 },
        mounts: Vec::new(),
        idle: Idle { freeze: Patience::Never, stop: Patience::Never },
        limits: Limits::default(),
        network: None,
        sockets: Vec::new(),
        fpm: Fpm::default(),
        php: Php { value: BTreeMap::from(state), ..Php::default() },
        start: Start { timeout: PATIENCE, on_failure: OnFailure::Answer503, template: None },
    }
}

/// A php-fpm and what it has said.
struct Running {
    child: Child,
    said: Arc<Mutex<Vec<Line>>>,
    reader: Option<std::thread::JoinHandle<()>>,
    _conf: TempDir,
}

/// `program` as process 1 of a pid namespace, as uid 65534 (or ours, if we are not root).
fn confined(program: &[String]) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"]);
    if geteuid().is_root() {
        command.args(["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        command.args(["--pdeathsig", "KILL"]);
    } else {
        command.args(["--user", "--map-current-user"]);
    }
    // The standard library maps descriptors 0 to 2 only: the listeners come as 0 and 1 and move up.
    command.args(["sh", "-c", "exec 3<&0 4>&1 </dev/null >/dev/null; exec \"$@\"", "sh"]).args(program);
    command.env_clear();
    command
}

/// A pipe whose name can be opened by php-fpm.
fn log_pipe() -> (File, OwnedFd) {
    let (read, write) = pipe2(OFlag::O_CLOEXEC).unwrap();
    if geteuid().is_root() {
        fchown(write.as_raw_fd(), Some(Uid::from_raw(65534)), Some(Gid::from_raw(65534))).unwrap();
    }
    (read.into(), write)
}

impl Running {
    fn start(conf: &Configuration, listeners: Vec<OwnedFd>, scan_dir: Option<&Path>) -> Self {
        let directory = site(&[("php-fpm.conf", &conf.text)]);
        let path = directory.path().join("php-fpm.conf");
        let (mut read, write) = log_pipe();
        let keys: Vec<_> = conf.keys.iter().cloned().zip(3..).collect();
        assert_eq!(keys.len(), listeners.len());
        let mut listeners = listeners.into_iter();
        let mut stdio = || listeners.next().map_or_else(Stdio::null, Stdio::from);
        let child = confined(&command(&binary(), &path))
            .envs(environment(&keys, scan_dir))
            .stdin(stdio())
            .stdout(stdio())
            .stderr(write)
            .spawn()
            .unwrap();
        let said = Arc::<Mutex<Vec<Line>>>::default();
        let shared = Arc::clone(&said);
        let reader = std::thread::spawn(move || {
            let (mut lines, mut buffer) = (Lines::default(), [0; 4096]);
            while let Ok(length @ 1..) = read.read(&mut buffer) {
                let new = lines.feed(&buffer[..length]);
                shared.lock().unwrap().extend(new.iter().map(|line| classify(line)));
            }
        });
        Self { child, said, reader: Some(reader), _conf: directory }
    }

    /// Starts php-fpm for `pool` on a unix socket and waits until it is ready.
    fn serve(pool: &Pool, tenant: Option<&TenantFile>, directory: &Path) -> (Self, PathBuf) {
        let socket = directory.join("fpm.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let conf = configuration(pool, 1, Duration::from_secs(5), tenant).unwrap();
        let running = Self::start(&conf, vec![listener.into()], None);
        running.wait_for(|line| line.kind == Kind::Ready);
        (running, socket)
    }

    fn said(&self) -> Vec<Line> {
        self.said.lock().unwrap().clone()
    }

    fn wait_for(&self, wanted: impl Fn(&Line) -> bool) -> Line {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(line) = self.said().into_iter().find(&wanted) {
                return line;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("not said in {PATIENCE:?}: {:#?}", self.said());
    }

    /// The status of a php-fpm that ends by itself.
    fn end(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                self.reader.take().map(std::thread::JoinHandle::join);
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("still running: {:#?}", self.said());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Kills unshare, whose death kills process 1, whose death kills the rest.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // End of file on the pipe: nothing of it lives any more.
        self.reader.take().map(std::thread::JoinHandle::join);
    }
}

fn request(root: &Path, uri: &str) -> Request {
    let script = uri.split('?').next().unwrap().trim_start_matches('/');
    Request {
        script: root.join(script),
        document_root: root.into(),
        uri: uri.into(),
        method: "GET".into(),
        headers: Vec::new(),
        body: Vec::new(),
    }
}

fn get(socket: &Path, root: &Path, uri: &str) -> Response {
    exchange(&UnixStream::connect(socket).unwrap(), &request(root, uri), PATIENCE).unwrap()
}

fn text(response: &Response) -> String {
    String::from_utf8_lossy(&response.body).into_owned()
}

fn strings(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn configured(pool: &Pool, listeners: usize) -> Result<Configuration, String> {
    configuration(pool, listeners, Duration::from_millis(29_001), None).map_err(|error| error.to_string())
}

#[test]
fn the_configuration_of_a_pool_that_nobody_tuned() {
    let mut pool = pool(&["/run/blog.sock", "127.0.0.1:9001"]);
    pool.php.value.clear();
    let section = |name: &str, listen: &str| {
        format!(
            "[{name}]\nlisten = {listen}\npm = ondemand\npm.max_children = 5\n\
             pm.process_idle_timeout = 10s\ncatch_workers_output = yes\ndecorate_workers_output = no\n\
             php_value[session.save_path] = '/var/lib/php/sessions'\n\
             php_value[upload_tmp_dir] = '/var/lib/php/uploads'\n\
             php_value[session.gc_probability] = '1'\nphp_value[session.gc_divisor] = '100'\n\
             php_admin_flag[fastcgi.logging] = no\n"
        )
    };
    let global = "; Written by howdah for pool blog (/etc/howdah/pools/blog.toml).\n[global]\n\
        error_log = /dev/null\nlog_level = notice\nlog_limit = 8192\ndaemonize = no\n\
        process_control_timeout = 30\n";
    let first = section("blog", "/run/howdah/none.sock");
    let second = section("blog-2", "/run/howdah/none-2.sock");
    assert_eq!(configured(&pool, 2).unwrap().text, format!("{global}{first}{second}"));
}

#[test]
fn what_cannot_be_configured_is_one_line() {
    let refused = |change: &dyn Fn(&mut Pool), line: &str| {
        let mut pool = pool(&["/run/blog.sock"]);
        change(&mut pool);
        assert_eq!(configured(&pool, 1), Err(line.to_owned()));
    };
    let set = |map: &mut BTreeMap<String, String>, name: &str, value: &str| {
        map.insert(name.to_owned(), value.to_owned());
    };
    refused(
        &|pool| set(&mut pool.fpm.directives, "Listen", "9000"),
        "[fpm] Listen: howdah gives the pool its sockets: remove it",
    );
    refused(
        &|pool| set(&mut pool.fpm.directives, "pm", "static\nlisten = 9000"),
        "[fpm] pm: contains '\\n', which php-fpm's configuration cannot carry",
    );
    refused(
        &|pool| set(&mut pool.php.value, "a]\nlisten = 9000\nb[", "x"),
        "[php.value] \"a]\\nlisten = 9000\\nb[\" is no name: write letters, digits, '_', '.' and '-'",
    );
    refused(
        &|pool| set(&mut pool.php.admin_value, "x", "a\rb"),
        "[php.admin_value] x: contains '\\r', which php-fpm's configuration cannot carry",
    );
    refused(
        &|pool| set(&mut pool.fpm.env, "A B", "x"),
        "[fpm.env] \"A B\" is no name: write letters, digits, '_', '.' and '-'",
    );
    refused(
        &|pool| set(&mut pool.fpm.env, "A", ""),
        "[fpm.env] A: php-fpm takes no empty value: leave the variable out",
    );
    refused(
        &|pool| set(&mut pool.fpm.env, "A", "$HOME"),
        "[fpm.env] A: a value that begins with '$' names a variable of php-fpm's own environment, \
         which is empty here: write the value",
    );
}

#[test]
fn arguments_and_environment() {
    assert_eq!(
        command(Path::new("/usr/sbin/php-fpm8.2"), Path::new("/run/howdah/php-fpm.conf")),
        ["/usr/sbin/php-fpm8.2", "-F", "-O", "-y", "/run/howdah/php-fpm.conf"]
    );
    let environment =
        environment(&[("/none".to_owned(), 3), ("/none-2".to_owned(), 4)], Some(Path::new("/ini")));
    assert!(environment.contains(&("FPM_SOCKETS".to_owned(), "/none=3,/none-2=4".to_owned())));
    assert!(environment.contains(&("PHP_INI_SCAN_DIR".to_owned(), "/ini".to_owned())));
    assert_eq!(environment.len(), 3);
}

#[test]
fn values_of_the_pool_file_arrive_exactly() {
    let site = site(&[(
        "get.php",
        "<?php echo isset($_GET['env']) ? getenv($_GET['env']) : ini_get($_GET['ini']);",
    )]);
    let nasty = [
        ("user_agent", "it's \"quoted\" $x ${PATH} $(id) `id`"),
        ("error_prepend_string", "; = & | ^ ~ ! ( ) { } [ ] < > # , : ? @ % * + - /"),
        ("error_append_string", "back\\slash \\\\ \\n \\\" \\' end\\"),
        ("docref_root", "  spaces around\tand a tab  "),
        ("docref_ext", "'"),
        ("from", "''\"\"''"),
        ("highlight.comment", "none"),
        ("highlight.string", "E_ALL"),
        ("highlight.html", "été € 日本"),
        ("highlight.keyword", "$"),
    ];
    let mut pool = pool(&["/run/blog.sock"]);
    pool.php.value.extend(strings(&nasty));
    pool.php.value.insert("unserialize_callback_func".into(), "of_$pool".into());
    pool.php.value.insert("error_reporting".into(), "E_ALL & ~E_DEPRECATED".into());
    pool.php.admin_value = strings(&[("memory_limit", "33M"), ("auto_append_file", "")]);
    pool.php.flag.insert("display_errors".into(), false);
    pool.php.admin_flag.insert("short_open_tag".into(), true);
    pool.fpm.env = strings(&[("SECRET", "a'b\"c $d \\ ; = #")]);
    let (_running, socket) = Running::serve(&pool, None, site.path());
    let ini = |name: &str| text(&get(&socket, site.path(), &format!("/get.php?ini={name}")));
    for (name, value) in nasty {
        assert_eq!(ini(name), value, "{name}");
    }
    for (name, value) in [
        ("unserialize_callback_func", "of_blog"),
        ("error_reporting", "24575"),
        ("memory_limit", "33M"),
        ("auto_append_file", ""),
        ("display_errors", "0"),
        ("short_open_tag", "1"),
        ("upload_tmp_dir", "/var/lib/php/uploads"),
        ("session.gc_probability", "1"),
        ("session.gc_divisor", "100"),
        ("session.save_path", "/tmp"),
    ] {
        assert_eq!(ini(name), value, "{name}");
    }
    let env = |name: &str| text(&get(&socket, site.path(), &format!("/get.php?env={name}")));
    assert_eq!(env("SECRET"), "a'b\"c $d \\ ; = #");
    assert_eq!(
        (env("FPM_SOCKETS"), env("PATH")),
        (String::new(), String::new()),
        "clear_env is php-fpm's default"
    );
}

#[test]
fn everything_that_is_printed_comes_out() {
    let site = site(&[(
        "say.php",
        "<?php error_log('to the log'); file_put_contents('php://stderr', \"one\\ntwo \\e[31mred\\n\");\n\
         echo $undefined; if (isset($_GET['slow'])) usleep(2500000); echo 'ok';",
    )]);
    let mut pool = pool(&["/run/blog.sock"]);
    pool.fpm.access_log = true;
    pool.fpm.directives = strings(&[("request_slowlog_timeout", "1s"), ("pm.max_requests", "1000")]);
    pool.php.flag.insert("display_errors".into(), false);
    let (running, socket) = Running::serve(&pool, None, site.path());
    let response = get(&socket, site.path(), "/say.php?a=%1b&slow");
    assert_eq!((text(&response).as_str(), response.stderr.as_slice()), ("ok", &b""[..]));
    let worker = |part: &str| running.wait_for(|line| line.kind == Kind::Worker && line.text.contains(part));
    assert_eq!(worker("to the log").text, "to the log");
    worker("Undefined variable $undefined");
    assert_eq!(worker("one").text, "one");
    assert_eq!(worker("two").text, "two \\u{1b}[31mred");
    let access = running.wait_for(|line| line.kind == Kind::Access);
    assert!(access.text.contains("\"GET /say.php?a=%1b&slow\" 200 "), "{}", access.text);
    running.wait_for(|line| line.kind == Kind::Slow && line.text.starts_with("[pool blog] pid "));
    running.wait_for(|line| line.kind == Kind::Slow && line.text.contains("usleep()"));
    running.wait_for(|line| line.kind == Kind::Warning && line.text.contains("executing too slow"));
}

#[test]
fn php_fpm_says_itself_why_it_does_not_start() {
    let site = site(&[]);
    for (name, value, wanted) in [
        ("chdir", "/nowhere/at/all", "the chdir path '/nowhere/at/all' does not exist or is not a directory"),
        ("pm.max_chidlren", "3", "unknown entry 'pm.max_chidlren'"),
        ("pm", "static; x", "unable to parse value for entry 'pm': invalid process manager"),
        ("pm.max_children", "0", "pm.max_children must be a positive value"),
    ] {
        let mut pool = pool(&["/run/blog.sock"]);
        pool.fpm.directives.insert(name.into(), value.into());
        let conf = configuration(&pool, 1, Duration::from_secs(5), None).unwrap();
        let listener = UnixListener::bind(site.path().join(format!("{name}.sock"))).unwrap();
        let mut running = Running::start(&conf, vec![listener.into()], None);
        assert_eq!(running.end(), Some(78));
        let said = reason(&running.said()).unwrap();
        assert!(said.contains(wanted), "{said}");
    }
}

#[test]
fn each_of_several_sockets_is_served() {
    let site = site(&[("pid.php", "<?php echo getmypid();")]);
    let (unix, tcp) =
        (UnixListener::bind(site.path().join("a.sock")).unwrap(), TcpListener::bind("[::1]:0").unwrap());
    let address = tcp.local_addr().unwrap();
    let mut pool = pool(&["/run/blog.sock", &address.to_string()]);
    // An address of its own can stand in one section only.
    pool.fpm.directives.insert("pm.status_listen".into(), site.path().join("s.sock").display().to_string());
    fs::set_permissions(site.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let conf = configuration(&pool, 2, Duration::from_secs(5), None).unwrap();
    assert_eq!(conf.keys, ["/run/howdah/none.sock", "/run/howdah/none-2.sock"]);
    let running = Running::start(&conf, vec![unix.into(), tcp.into()], None);
    running.wait_for(|line| line.kind == Kind::Ready);
    let first = get(&site.path().join("a.sock"), site.path(), "/pid.php");
    let tcp = TcpStream::connect(address).unwrap();
    let second = exchange(&tcp, &request(site.path(), "/pid.php"), PATIENCE).unwrap();
    assert_eq!((first.status, second.status), (200, 200));
    assert_ne!(first.body, second.body, "each socket has workers of its own");
}

#[test]
fn allowed_clients_are_in_force_on_an_inherited_tcp_socket() {
    let site = site(&[("ok.php", "<?php echo 'ok';")]);
    for (allowed, served) in [("127.0.0.1", true), ("192.0.2.1", false)] {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        let mut pool = pool(&[&address.to_string()]);
        pool.fpm.directives.insert("listen.allowed_clients".into(), allowed.into());
        let conf = configuration(&pool, 1, Duration::from_secs(5), None).unwrap();
        let running = Running::start(&conf, vec![tcp.into()], None);
        running.wait_for(|line| line.kind == Kind::Ready);
        let stream = TcpStream::connect(address).unwrap();
        match exchange(&stream, &request(site.path(), "/ok.php"), PATIENCE) {
            Ok(response) => assert!(served && response.body == b"ok"),
            Err(error) => assert!(!served && matches!(error, ClientError::Closed(0)), "{error}"),
        }
    }
}

#[test]
fn a_megabyte_goes_there_and_back() {
    let site = site(&[
        (
            "echo.php",
            "<?php header('X-Length: ' . $_SERVER['CONTENT_LENGTH']); http_response_code(201);\n\
             echo file_get_contents('php://input');",
        ),
        ("die.php", "<?php posix_kill(getmypid(), 9);"),
    ]);
    let (_running, socket) = Running::serve(&pool(&["/run/blog.sock"]), None, site.path());
    let body: Vec<u8> = (0..1 << 20).map(|i: u32| (i * 7 % 253) as u8).collect();
    let mut post = request(site.path(), "/echo.php");
    post.method = "POST".into();
    post.headers.push(("Content-Type".into(), "application/octet-stream".into()));
    post.body = body.clone();
    let response = exchange(&UnixStream::connect(&socket).unwrap(), &post, PATIENCE).unwrap();
    assert_eq!(response.status, 201);
    assert!(response.headers.contains(&("X-Length".to_owned(), (1 << 20).to_string())));
    assert!(response.body == body, "{} bytes came back", response.body.len());
    assert_eq!(get(&socket, site.path(), "/none.php").status, 404);
    let dies = exchange(&UnixStream::connect(&socket).unwrap(), &request(site.path(), "/die.php"), PATIENCE);
    assert!(matches!(dies, Err(ClientError::Closed(0))));
}

#[test]
fn a_tenants_own_file_is_in_force_but_for_what_is_ours() {
    let site = site(&[(
        "x.php",
        "<?php echo ini_get('memory_limit'), ' ', getenv('MINE'), ' ', ini_get('user_agent'), ' ', ini_get('session.gc_divisor');",
    )]);
    let text_of = "error_log = /nowhere/x.log\n[www]\nlisten = 9000\nuser = root\npm = static\npm.max_children = 1\n\
        env[MINE] = \"my own\"\nphp_value[memory_limit] = 44M ; of mine\nphp_value[user_agent] = mine\n\
        php_value[session.gc_divisor] = 7\nrequest_slowlog_timeout = 5\n";
    let tenant = TenantFile::parse(text_of, Path::new("/srv/fpm.conf")).unwrap();
    let mut pool = pool(&["/run/blog.sock"]);
    pool.php.admin_value.insert("user_agent".into(), "the operator's".into());
    let conf = configuration(&pool, 1, Duration::from_secs(5), Some(&tenant)).unwrap();
    assert_eq!(
        conf.notices,
        [
            "/srv/fpm.conf:1: error_log is not in force: the log comes out of howdah",
            "/srv/fpm.conf:3: listen is not in force: howdah gives the pool its sockets",
            "/srv/fpm.conf:4: user is not in force: the pool file's user decides",
            "/srv/fpm.conf:9: php_value[user_agent] is not in force: the pool file says otherwise",
        ]
    );
    let (_running, socket) = Running::serve(&pool, Some(&tenant), site.path());
    assert_eq!(text(&get(&socket, site.path(), "/x.php")), "44M my own the operator's 7");
}

#[test]
fn only_the_extensions_asked_for_are_loaded() {
    let said = Command::new(binary()).arg("-i").env_clear().output().unwrap();
    let info = Info::parse(&String::from_utf8_lossy(&said.stdout), &binary()).unwrap();
    assert!(info.version >= (7, 4, 0) && info.ini_dir.is_dir() && info.extension_dir.is_dir());
    let wanted = ["pdo_mysql".to_owned(), "xsl".to_owned(), "json".to_owned()];
    let site = site(&[("x.php", "<?php echo implode(' ', get_loaded_extensions());")]);
    let scan = site.path().join("conf.d");
    fs::create_dir(&scan).unwrap();
    for file in select_extensions(&info, &wanted).unwrap() {
        fs::copy(&file, scan.join(file.file_name().unwrap())).unwrap();
    }
    let socket = site.path().join("fpm.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let conf = configuration(&pool(&["/run/blog.sock"]), 1, Duration::from_secs(5), None).unwrap();
    let running = Running::start(&conf, vec![listener.into()], Some(&scan));
    running.wait_for(|line| line.kind == Kind::Ready);
    let loaded = text(&get(&socket, site.path(), "/x.php"));
    let has = |name: &str| loaded.split(' ').any(|extension| extension == name);
    assert!(has("pdo_mysql") && has("PDO") && has("mysqlnd") && has("xsl") && has("dom"), "{loaded}");
    assert!(!has("mbstring") && !has("gd") && !has("curl"), "{loaded}");
    assert!(!running.said().iter().any(|line| line.kind == Kind::Warning), "{:#?}", running.said());
}

/// nginx in front of a pool in backoff, with and without a body.
#[test]
fn a_browser_behind_nginx_sees_the_refusal() {
    let site = site(&[]);
    let socket = site.path().join("backoff.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let door = port::free_port("127.0.0.1");
    fs::write(
        site.path().join("nginx.conf"),
        format!(
            "daemon off; master_process off; pid {0}/pid; error_log {0}/error.log; events {{}}\n\
             http {{ access_log off; client_max_body_size 8m; client_body_temp_path {0}/body;\n\
             fastcgi_temp_path {0}/f; proxy_temp_path {0}/p; uwsgi_temp_path {0}/u; scgi_temp_path {0}/s;\n\
             server {{ listen {door}; location / {{ fastcgi_pass unix:{1}; fastcgi_keep_conn on;\n\
             include /etc/nginx/fastcgi_params; }} }} }}",
            site.path().display(),
            socket.display()
        ),
    )
    .unwrap();
    let nginx = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "nginx", "-e", "stderr", "-c"])
        .arg(site.path().join("nginx.conf"))
        .stderr(Stdio::null())
        .spawn();
    let mut nginx = nginx.expect("this test needs nginx: apt-get install nginx-light");
    let deadline = Instant::now() + PATIENCE;
    let connect = || loop {
        match TcpStream::connect(door) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    for length in [0, 200_000, 4_000_000] {
        let mut browser = connect();
        let mut sender = browser.try_clone().unwrap();
        let head = format!(
            "POST /x.php HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        );
        let sending = std::thread::spawn(move || {
            let _ = sender.write_all(head.as_bytes()).and_then(|()| sender.write_all(&vec![b'x'; length]));
        });
        let (mut peer, _) = listener.accept().unwrap();
        let mut refusal = Refusal::new(Duration::from_secs(7), "blog-42");
        let mut buffer = vec![0; 65_536];
        let answer = loop {
            let read = peer.read(&mut buffer).unwrap();
            match refusal.feed(&buffer[..read]) {
                Progress::More => {}
                Progress::Answer(bytes) => break bytes,
                Progress::Close => panic!("nginx speaks FastCGI"),
            }
        };
        peer.write_all(&answer).unwrap();
        drop(peer);
        let mut seen = String::new();
        browser.read_to_string(&mut seen).unwrap();
        sending.join().unwrap();
        assert!(seen.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{length}: {seen}");
        assert!(seen.contains("Retry-After: 7\r\n") && seen.ends_with("Incident: blog-42\n"), "{seen}");
    }
    nginx.kill().unwrap();
    nginx.wait().unwrap();
}
