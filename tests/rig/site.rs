//! A site as its example sets it up: the pool file, nginx's server block and the
//! files of `/srv`, moved below the rig's directory; the application is the
//! Debian package's own, where the package has it.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use howdah::fpm::client::{Request, exchange};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::browser::Browser;
use super::nginx::Nginx;
use super::port::free_port;
use super::{Rig, wait_for};

/// A pool that runs an example, behind nginx. What writes into the rig's directory ends before it.
pub struct Site {
    pub database: Option<MariaDb>,
    pub nginx: Nginx,
    pub rig: Rig,
    pub pool: &'static str,
    host: String,
    address: SocketAddr,
}

impl Site {
    /// Sets up `examples/pools/POOL.toml` and `examples/POOL/nginx.conf` and serves
    /// them; `idle` is how long nobody must ask until the pool stops. The shell
    /// script `files` makes what the README says, in a directory that stands for `/srv`.
    pub fn start(mut rig: Rig, pool: &'static str, idle: &str, files: &str) -> Self {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
        let text = |name: String| fs::read_to_string(examples.join(name)).expect("an example");
        let nginx = text(format!("{pool}/nginx.conf"));
        let word = |key: &str| {
            let line = nginx.lines().find_map(|line| line.trim().strip_prefix(key)).expect("the directive");
            line.trim().trim_end_matches(';').to_owned()
        };
        let (host, listen, address) = (word("server_name "), word("listen "), free_port("127.0.0.1"));
        let nginx = moved(&rig, &nginx).replace(&listen, &address.to_string());
        let conf = rig.write("nginx.conf", &around(&nginx));
        let file = moved(&rig, &text(format!("pools/{pool}.toml")));
        let short = file.replace("stop = \"10m\"", &format!("stop = {idle:?}"));
        assert_ne!(file, short, "the example's idle time");
        rig.write(&format!("pools/{pool}.toml"), &short);
        rig.write("srv/.keep", "");
        rig.shell(&format!("mkdir -p sockets; E={}; cd srv; {files}", examples.join(pool).display()));
        rig.serve();
        let nginx = Nginx::start(&rig.path("nginx"), &conf, address);
        Self { database: None, nginx, rig, pool, host, address }
    }

    /// Gives the pool, which is asked nothing, another profile; the next request starts it with that.
    pub fn change_profile(&mut self, profile: &str) {
        let file = self.rig.path(&format!("pools/{}.toml", self.pool));
        let text = fs::read_to_string(&file).expect("the pool's file");
        fs::write(&file, format!("profile = {profile:?}\n{text}")).expect("the pool's file");
        self.rig.signal(Signal::SIGHUP);
        self.rig.wait_log("its file has changed");
    }

    /// The address of a page, as visitors have it.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}:{}{path}", self.host, self.address.port())
    }

    /// A visitor without cookies.
    pub fn visitor(&self, name: &str) -> Browser {
        Browser::new(self.rig.path(&format!("{name}.cookies")), &self.host, self.address)
    }

    /// What a script prints that only the pool's socket leads to, at its path inside.
    pub fn run(&self, script: &str, query: &str) -> String {
        let request = Request {
            script: script.into(),
            document_root: "/nowhere".into(),
            uri: format!("{script}?{query}"),
            method: "GET".to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
        };
        let socket = self.rig.path("sockets").join(format!("{}.sock", self.pool));
        let stream = UnixStream::connect(socket).unwrap();
        let answer = exchange(&stream, &request, Duration::from_secs(30)).unwrap();
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status, 200, "{script}: {text}");
        text
    }

    /// What the database's root is told.
    pub fn ask_database(&self, sql: &str) -> String {
        self.database.as_ref().unwrap().ask(sql).unwrap()
    }

    /// Waits until nobody has asked for long enough; the last generation's number.
    pub fn wait_cold(&self) -> u64 {
        self.rig.wait_state(self.pool, "cold");
        self.rig.record(self.pool).generation
    }

    /// What php has said in howdah's log, and what howdah has said beside it
    /// other than in the ordinary life of a pool.
    pub fn complaints(&self) -> Vec<String> {
        let log = self.rig.log();
        let ordinary = [
            ": started in ",
            ": stopped",
            "howdah: ready",
            ": php-fpm: ",
            "its file has changed",
            "howdah: ending",
        ];
        log.lines()
            .filter(|line| !ordinary.iter().any(|word| line.contains(word)))
            .map(str::to_owned)
            .collect()
    }
}

/// The server's paths below the rig's directory.
pub fn moved(rig: &Rig, text: &str) -> String {
    let below = |name: &str| format!("{}/", rig.path(name).display());
    let mysqld = format!("source = {:?}\ntarget = \"/run/mysqld\"", rig.path("mysqld"));
    text.replace("/srv/", &below("srv"))
        .replace("/run/howdah/", &below("sockets"))
        .replace("source = \"/run/mysqld\"", &mysqld)
}

/// A configuration around a server block, as Debian's nginx.conf is one.
fn around(server: &str) -> String {
    format!(
        "user www-data;\nworker_processes 1;\npid nginx.pid;\nerror_log stderr error;\n\
         events {{ worker_connections 256; }}\n\
         http {{\ninclude /etc/nginx/mime.types;\naccess_log off;\nclient_body_temp_path client_body;\n\
         fastcgi_temp_path fastcgi;\nproxy_temp_path proxy;\nscgi_temp_path scgi;\nuwsgi_temp_path uwsgi;\n\
         {server}\n}}\n"
    )
}

/// A MariaDB of the test's own, without network: its socket is `mysqld/mysqld.sock` of the rig.
pub struct MariaDb {
    child: Child,
    directory: PathBuf,
}

/// Neither root nor the account of a pool.
const SERVER: (&str, u32) = ("list", 38);

impl MariaDb {
    /// Makes a data directory and runs the server on it.
    pub fn start(rig: &Rig) -> Self {
        let directory = rig.path("");
        fs::create_dir(rig.path("mysqld")).unwrap();
        std::os::unix::fs::chown(rig.path("mysqld"), Some(SERVER.1), None).unwrap();
        let made = Self::command(&directory, "mariadb-install-db")
            .args(["--skip-test-db", "--skip-name-resolve", "--force"])
            .arg("--auth-root-authentication-method=socket")
            .status()
            .expect("mariadb-install-db, of Debian's package mariadb-server-core");
        assert!(made.success(), "{}", fs::read_to_string(rig.path("mariadb.log")).unwrap());
        Self { child: Self::spawn(&directory), directory }
    }

    /// Stops the server and starts it anew, as an upgrade of the package does.
    pub fn restart(&mut self) {
        kill(self.pid(), Signal::SIGTERM).unwrap();
        self.child.wait().unwrap();
        self.child = Self::spawn(&self.directory);
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    /// A program of the server's, with what all of them are told.
    fn command(directory: &Path, program: &str) -> Command {
        let log =
            || fs::File::options().create(true).append(true).open(directory.join("mariadb.log")).unwrap();
        let mut command = Command::new(program);
        command.arg("--no-defaults").arg(format!("--user={}", SERVER.0));
        command.arg(format!("--datadir={}", directory.join("mariadb").display()));
        command.stdin(Stdio::null()).stdout(log()).stderr(log());
        command
    }

    /// Runs the server until it answers.
    fn spawn(directory: &Path) -> Child {
        let mut child = Self::command(directory, "mariadbd")
            .arg("--skip-networking")
            .arg(format!("--socket={}", directory.join("mysqld/mysqld.sock").display()))
            .arg(format!("--pid-file={}", directory.join("mariadb/pid").display()))
            .spawn()
            .expect("mariadbd, of Debian's package mariadb-server-core");
        wait_for("MariaDB", Duration::from_secs(30), || {
            let told = || fs::read_to_string(directory.join("mariadb.log")).unwrap_or_default();
            assert!(matches!(child.try_wait(), Ok(None)), "it ended: {}", told());
            ask(directory, "SELECT 1").ok()
        });
        child
    }

    /// Asks as root, whom the server knows by the socket.
    pub fn ask(&self, sql: &str) -> Result<String, String> {
        ask(&self.directory, sql)
    }
}

fn ask(directory: &Path, sql: &str) -> Result<String, String> {
    let output = Command::new("mariadb")
        .args(["--no-defaults", "--batch", "--skip-column-names"])
        .arg(format!("--socket={}", directory.join("mysqld/mysqld.sock").display()))
        .args(["--execute", sql])
        .output()
        .expect("mariadb, of Debian's package mariadb-client-core");
    let told = |text: Vec<u8>| String::from_utf8_lossy(&text).trim_end().to_owned();
    if output.status.success() { Ok(told(output.stdout)) } else { Err(told(output.stderr)) }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        // It holds nothing that outlives the test.
        let _ = kill(self.pid(), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}
