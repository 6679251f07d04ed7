//! php-fpm's scoreboard is memory that master and workers share: a worker that
//! was taken over writes into it what it likes (CVE-2021-21703 made the master
//! obey). Whatever the master makes of it happens inside the pool's pid namespace:
//! at worst the tenant has locked up a pool of its own.
#![allow(missing_docs)]

mod rig;

use std::fs;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use howdah::fpm::client::{Response, exchange};
use nix::sys::signal::Signal;
use rig::{OTHER, Rig, TENANT, wait_for};

/// A process of the tenant's own account on the host.
struct Bystander(Child);

impl Bystander {
    fn new() -> Self {
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "sleep", "600"])
            .uid(TENANT.1)
            .gid(TENANT.2)
            .stdin(Stdio::null());
        Self(command.spawn().unwrap())
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn lives(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// PHP that fills every small piece of shared memory of its process with `$word`,
/// 32 bits again and again, and prints how many bytes that were.
const SCRIBBLE: &str = "function scribble(int $word): int {
    $c = FFI::cdef('void *memcpy(void *to, const char *from, size_t length);');
    $bytes = 0;
    foreach (file('/proc/self/maps') as $line) {
        if (!preg_match('/^([0-9a-f]+)-([0-9a-f]+) rw-s /', $line, $at)) continue;
        [$from, $to] = [hexdec($at[1]), hexdec($at[2])];
        if ($to - $from > 1 << 20) continue;
        $c->memcpy(FFI::cast('void *', $from), str_repeat(pack('V', $word), ($to - $from) / 4), $to - $from);
        $bytes += $to - $from;
    }
    return $bytes;
}";

/// A request whose answer may never come.
fn ask_shortly(rig: &Rig, code: &str) -> Result<Response, String> {
    let stream = UnixStream::connect(rig.socket("blog")).map_err(|error| error.to_string())?;
    let request = rig.request("blog", "/do.php", "POST", &[], code.as_bytes());
    exchange(&stream, &request, Duration::from_secs(2)).map_err(|error| error.to_string())
}

/// A pool whose master looks at the scoreboard all the time.
const WATCHED: &str = "[fpm]\npm = \"dynamic\"\nmax_children = 4\nstart_servers = 2\nmin_spare_servers = 1\n\
     max_spare_servers = 3\nrequest_terminate_timeout = \"1s\"\n[idle]\nstop = \"never\"\n[start]\ntimeout = \"5s\"\n";

#[test]
fn a_worker_that_writes_over_the_scoreboard_reaches_nobody_outside() {
    let mut rig = Rig::new();
    let mut bystander = Bystander::new();
    rig.inside("blog", TENANT, WATCHED);
    // The site's directory, to be written: what was done is told there, for the answer may never come.
    let text = fs::read_to_string(rig.path("pools/blog.toml")).unwrap();
    let mount = format!("source = {:?}\n", rig.path("blog"));
    let file = text.replace(&mount, &format!("{mount}access = \"rw\"\n"));
    rig.write("pools/blog.toml", &file);
    rig.inside("shop", OTHER, "");
    rig.serve();
    let pid = bystander.pid();
    // A number that means somebody on the host, -1 (everybody), and 1 (the master itself).
    for word in [pid, u32::MAX, 1] {
        let told = rig.path("blog/written");
        let _ = ask_shortly(&rig, &format!("{SCRIBBLE} file_put_contents({told:?}, scribble({word}));"));
        let written = fs::read_to_string(&told).unwrap_or_default();
        assert!(written.parse::<u64>().is_ok_and(|bytes| bytes > 0), "nothing was written: {written:?}");
        fs::remove_file(&told).unwrap();
        // What makes the master look: its clock (once a second), and a request over its time.
        let _ = ask_shortly(&rig, "while (true) {}");
        std::thread::sleep(Duration::from_millis(1500));
        assert!(bystander.lives(), "{word:#x} in the scoreboard ended a process of the host");
        assert_eq!(rig.php("shop", "echo 'shop';"), "shop");
        // It may have locked its own master up for ever. What an operator does brings the pool
        // back: a reload of a changed file starts a generation beside it, with memory of its own.
        rig.write("pools/blog.toml", &format!("{file}\n[fpm.env]\nWORD = \"{word}\"\n"));
        rig.signal(Signal::SIGHUP);
        let back = || ask_shortly(&rig, "echo 'blog';").ok().filter(|response| response.body == b"blog");
        wait_for("an answer of the pool after the attack", Duration::from_secs(30), back);
    }
}

#[test]
fn a_process_of_the_same_account_on_the_host_cannot_be_signalled() {
    let mut rig = Rig::new();
    let mut bystander = Bystander::new();
    rig.inside("blog", TENANT, "");
    rig.serve();
    let pid = bystander.pid();
    let kill = format!("var_dump(posix_kill({pid}, 9));");
    assert_eq!(rig.php("blog", &kill), "bool(false)\n");
    assert!(bystander.lives());
    // The control: the same account, the same words, no sandbox.
    let mut php = Command::new("php");
    let output = php.args(["-r", &kill]).uid(TENANT.1).gid(TENANT.2).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "bool(true)\n");
    wait_for("its end", Duration::from_secs(5), || (!bystander.lives()).then_some(()));
}
