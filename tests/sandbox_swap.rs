//! An image and a site whose owner changes them while sandboxes are made of
//! them: every directory that howdah goes through becomes a symlink to a
//! victim's, and a directory again, thousands of times a second. What comes of
//! a start may be an error, but never the victim's file.
#![allow(missing_docs, clippy::print_stdout)]

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use howdah::config::network::Network;
use howdah::config::pool::Pool;
use howdah::config::{Defaults, HostAccounts, load_pools, profile};
use howdah::image::{Image, Owner, write_etc};
use howdah::sandbox::{self, Outcome, Plan, mounts, seccomp};
use howdah::spec;
use nix::fcntl::{OFlag, RenameFlags, renameat2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;

/// The account that the attacker acts as, and the pool.
const TENANT: (u32, u32) = (33, 33);

/// What is swapped, below the test's directory: parts of the image, a mount
/// target in it, the places of what howdah makes itself, and a mount's source.
const SWAPPED: [&str; 8] = [
    "image/srv",
    "image/opt/deep",
    "image/var/lib/app",
    "image/proc",
    "image/dev",
    "image/tmp",
    "image/etc/ssl",
    "site/www",
];

/// Runs the ignored test `name` of this program on the directory `place`, as another process.
fn role(name: &str, place: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", name, "--nocapture", "--test-threads=1"]);
    command.env("HOWDAH_TEST_PLACE", place).stdin(Stdio::null());
    command
}

fn place() -> Option<PathBuf> {
    std::env::var_os("HOWDAH_TEST_PLACE").map(PathBuf::from)
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "run by the tests below, as another process"]
fn swapper() {
    let Some(place) = place() else { return };
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).unwrap();
    let end = Instant::now() + Duration::from_secs(600);
    while Instant::now() < end {
        for name in SWAPPED {
            let (one, other) = (place.join(name), place.join(format!("{name}.other")));
            renameat2(None, &one, None, &other, RenameFlags::RENAME_EXCHANGE).unwrap();
        }
    }
}

/// A program with its libraries below `root`.
fn copy_program(root: &Path, program: &Path) {
    let text = String::from_utf8(Command::new("ldd").arg(program).output().unwrap().stdout).unwrap();
    let words = text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
    for file in words.chain([program.to_owned()]).collect::<BTreeSet<_>>() {
        let inside = root.join(file.strip_prefix("/").unwrap());
        fs::create_dir_all(inside.parent().unwrap()).unwrap();
        fs::copy(file.canonicalize().unwrap(), &inside).unwrap();
    }
}

/// Image, site and victim; everything that is swapped has its symlink beside it.
fn set_up() -> tempfile::TempDir {
    let directory = tempfile::Builder::new().prefix("howdah-test-").tempdir_in("/tmp").unwrap();
    let place = directory.path();
    copy_program(&place.join("image"), Path::new("/bin/dash"));
    let victim = place.join("victim");
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("name"), "victim\n").unwrap();
    for name in SWAPPED {
        fs::create_dir_all(place.join(name)).unwrap();
        fs::write(place.join(name).join("name"), "own\n").unwrap();
        symlink(&victim, place.join(format!("{name}.other"))).unwrap();
    }
    let text = format!(
        "listen = \"/nowhere/blog.sock\"\nuser = \"www-data\"\nimage = {:?}\n\
         [[mount]]\nsource = {:?}\ntarget = \"/www\"\n\
         [[mount]]\nsource = {:?}\ntarget = \"/var/lib/app/own\"\naccess = \"rw\"\n",
        place.join("image"),
        place.join("site/www"),
        place.join("site/kept"),
    );
    fs::create_dir(place.join("site/kept")).unwrap();
    fs::create_dir(place.join("image/www")).unwrap();
    fs::create_dir(place.join("image/var/lib/app/own")).unwrap();
    fs::write(place.join("blog.toml"), text).unwrap();
    let all = Command::new("chown").args(["-R", "33:33"]).args(["image", "site"]).current_dir(place).status();
    assert!(all.unwrap().success());
    chown(place, Some(TENANT.0), Some(TENANT.1)).unwrap();
    fs::set_permissions(place, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    directory
}

/// What the shell inside tells of every place that was swapped.
const LOOK: &str = "for place in /srv /opt/deep /var/lib/app /var/lib/app/own /proc /dev /tmp /etc/ssl /etc/ssl/certs /www; do \
     word=none; [ -r $place/name ] && read -r word < $place/name; echo $place $word; done; \
     [ -c /dev/null ] || echo /dev/null is no device; read -r word < /proc/1/comm; echo comm $word";

/// One start as howdah makes it, of a program that looks around; what it said.
fn start(pool: &Pool, place: &Path, number: usize) -> Result<String, String> {
    let told = |error: &dyn std::fmt::Display| error.to_string();
    let image = Image::locate(&pool.image, Some(&"/bin/dash".parse().unwrap())).map_err(|e| told(&e))?;
    let profile = profile::load(&pool.profile, Path::new("/nowhere")).map_err(|e| told(&e))?;
    let filter = profile.seccomp.as_ref().map_or(Ok(Vec::new()), seccomp::compile).map_err(|e| told(&e))?;
    let targets: Vec<&Path> = pool.mounts.iter().map(|mount| mount.target.as_path()).collect();
    let layout = image.layout(&targets, &[]).map_err(|e| told(&e))?;
    let rootfs = place.join(format!("rootfs-{}", number % 2));
    let spec = spec::build(&spec::Input {
        pool,
        profile: &profile,
        image: &image.root,
        layout: &layout,
        rootfs: &rootfs,
        services: &[],
        state: &[],
        io_max: &[],
        args: ["/bin/dash", "-c", LOOK].map(str::to_owned).to_vec(),
        env: Vec::new(),
    })
    .map_err(|e| told(&e))?;
    let _ = fs::remove_dir_all(&rootfs);
    fs::create_dir(&rootfs).unwrap();
    let owner =
        Owner { name: "www-data", uid: TENANT.0, gid: TENANT.1, hostname: "blog", network: &Network::None };
    write_etc(&rootfs, &owner, &[], TENANT.1).map_err(|(path, e)| format!("{}: {e}", path.display()))?;
    layout.make_links(&rootfs).map_err(|(path, e)| format!("{}: {e}", path.display()))?;
    mounts::make_mount_points(&rootfs, spec.mounts().as_deref().unwrap_or_default())
        .map_err(|(path, e)| format!("{}: {e}", path.display()))?;
    run(&spec, filter)
}

fn run(spec: &oci_spec::runtime::Spec, filter: Vec<seccompiler::BpfProgram>) -> Result<String, String> {
    let (answer, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
    let null = File::open("/dev/null").unwrap().into();
    let plan = Plan::new(spec, filter.into(), vec![null, writer.try_clone().unwrap(), writer])
        .map_err(|error| error.to_string())?;
    let launched = sandbox::launch(&plan, None, None).map_err(|error| error.to_string())?;
    drop(plan);
    let mut text = String::new();
    let mut ends = [PollFd::new(launched.pidfd.as_fd(), PollFlags::POLLIN)];
    let ended = poll(&mut ends, PollTimeout::from(10_000u16)).unwrap();
    launched.kill();
    nix::sys::wait::waitpid(launched.pid, None).unwrap();
    assert_eq!(ended, 1, "the program inside hangs");
    if let Outcome::Failed(error) = launched.outcome() {
        return Err(error.to_string());
    }
    File::from(answer).read_to_string(&mut text).unwrap();
    Ok(text)
}

#[test]
#[ignore = "run by the test below, as another process: a child of a program with threads could hang"]
fn starter() {
    let Some(place) = place() else { return };
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).unwrap();
    let wanted: usize = std::env::var("HOWDAH_TEST_STARTS").unwrap().parse().unwrap();
    let loaded = load_pools(&[place.join("blog.toml")], &Defaults::default(), &HostAccounts::default());
    assert!(loaded.errors.is_empty(), "{:?}", loaded.errors);
    let (mut good, mut refused) = (0, 0);
    for number in 0..wanted {
        match start(&loaded.pools[0], &place, number) {
            Ok(text) => {
                assert!(!text.contains("victim"), "start {number} shows the victim's file:\n{text}");
                assert!(text.contains("comm dash") && !text.contains("no device"), "start {number}:\n{text}");
                good += 1;
            }
            Err(line) => {
                assert!(!line.is_empty() && !line.contains('\n'), "{line:?}");
                refused += 1;
            }
        }
        let inside: Vec<_> = fs::read_dir(place.join("victim")).unwrap().flatten().collect();
        assert_eq!(inside.len(), 1, "start {number} wrote into the victim's directory: {inside:?}");
    }
    println!("{good} started, {refused} refused");
    assert!(good > 0, "nothing started: the test shows nothing");
    assert!(refused > 0, "nothing was refused: nothing was swapped in time");
}

#[test]
fn what_is_swapped_while_a_sandbox_starts_never_leads_to_the_victim() {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root: run ./test");
    let long = std::env::var_os("HOWDAH_TEST_LONG").is_some_and(|value| !value.is_empty());
    let starts = if long { "10000" } else { "1000" };
    let directory = set_up();
    let _swapper = Killed(role("swapper", directory.path()).stdout(Stdio::null()).spawn().unwrap());
    // The control: whoever goes there by path is led to the victim, soon.
    let end = Instant::now() + Duration::from_secs(20);
    for name in SWAPPED {
        let file = CString::new(directory.path().join(name).join("name").to_str().unwrap()).unwrap();
        while fs::read(file.to_str().unwrap()).unwrap_or_default() != b"victim\n" {
            assert!(Instant::now() < end, "{name} never led anybody astray");
        }
    }
    let by_path =
        "mount --bind \"$1/image/srv\" \"$1/at\" && read -r word < \"$1/at/name\" && [ \"$word\" = victim ]";
    fs::create_dir(directory.path().join("at")).unwrap();
    let astray = || {
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", by_path, "sh"]).arg(directory.path());
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
    };
    assert!((0..500).any(|_| astray()), "mounting by path was never led astray");
    let mut starter = role("starter", directory.path());
    let output = starter.env("HOWDAH_TEST_STARTS", starts).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    print!("{text}");
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
}
