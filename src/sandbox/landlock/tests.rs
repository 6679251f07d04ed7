//! What the rules refuse, each beside the same deed without them. A ruleset binds
//! the thread that takes it, so each attempt has a thread of its own.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use nix::fcntl::{OFlag, open};
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::kill;
use nix::sys::stat::Mode;
use nix::sys::termios::tcgetattr;
use nix::unistd::{Pid, truncate};

use super::*;

/// `deed` with nothing in its way, and then behind `rules`.
fn both<T: Send + 'static>(rules: Rules, deed: impl Fn() -> T + Send + 'static) -> (T, T) {
    let restricted = move || {
        let free = deed();
        apply(&rules, true).unwrap();
        (free, deed())
    };
    thread::spawn(restricted).join().unwrap()
}

/// Reading everywhere, and writing below `writable`.
fn rules(writable: &[&Path]) -> Rules {
    let mut files = vec![(PathBuf::from("/"), Use::Read)];
    files.extend(writable.iter().map(|path| (path.to_path_buf(), Use::Write)));
    Rules { files, least: 1, ..Rules::default() }
}

fn two_directories() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let (a, b) = (directory.path().join("a"), directory.path().join("b"));
    fs::create_dir(&a).unwrap();
    fs::create_dir(&b).unwrap();
    fs::write(a.join("file"), "text").unwrap();
    (directory, a, b)
}

#[test]
fn a_file_is_executed_only_where_a_rule_says_so() {
    let (_directory, a, b) = two_directories();
    for place in [&a, &b] {
        fs::copy("/bin/true", place.join("true")).unwrap();
    }
    let run = |path: PathBuf| move || Command::new(&path).status().map(|status| status.success()).ok();
    let mut only_b = rules(&[&a, &b]);
    let image = ["/usr", "/lib", "/lib64", "/bin"].map(PathBuf::from);
    only_b.files.extend(image.into_iter().filter(|path| path.exists()).map(|path| (path, Use::Execute)));
    only_b.files.push((b.clone(), Use::Execute));
    assert_eq!(both(only_b.clone(), run(a.join("true"))), (Some(true), None));
    assert_eq!(both(only_b, run(b.join("true"))), (Some(true), Some(true)));
}

#[test]
fn truncation_needs_the_right_to_write() {
    if kernel_abi() < 3 {
        return;
    }
    let (_directory, a, b) = two_directories();
    let cut = |a: PathBuf| move || truncate(&a.join("file"), 1).err();
    assert_eq!(both(rules(&[&b]), cut(a.clone())), (None, Some(Errno::EACCES)));
    assert_eq!(both(rules(&[&a]), cut(a)), (None, None));
}

#[test]
fn a_link_across_directories_must_not_gain_rights() {
    if kernel_abi() < 2 {
        return;
    }
    let (_directory, a, b) = two_directories();
    let link = |a: &Path, b: &Path| {
        let (from, to) = (a.join("file"), b.join("file"));
        move || {
            let _ = fs::remove_file(&to);
            fs::hard_link(&from, &to).err().map(|error| error.kind())
        }
    };
    let mut more_in_b = rules(&[&a, &b]);
    more_in_b.files.push((b.clone(), Use::Execute));
    assert_eq!(both(more_in_b, link(&a, &b)), (None, Some(ErrorKind::CrossesDevices)));
    assert_eq!(both(rules(&[&a, &b]), link(&a, &b)), (None, None));
}

#[test]
fn a_device_takes_no_ioctl_but_where_it_is_one_of_the_five() {
    if kernel_abi() < 5 {
        return;
    }
    let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let terminal = ptsname_r(&master).unwrap();
    let path = terminal.clone();
    let ask = move || {
        let file = open(path.as_str(), OFlag::O_RDONLY | OFlag::O_NOCTTY, Mode::empty()).unwrap();
        tcgetattr(crate::sys::owned(file).as_fd()).err()
    };
    assert_eq!(both(rules(&[]), ask.clone()), (None, Some(Errno::EACCES)));
    let mut allowed = rules(&[]);
    allowed.files.push((terminal.into(), Use::Device));
    assert_eq!(both(allowed, ask), (None, None));
}

#[test]
fn ports_are_bound_and_connected_to_only_where_a_rule_names_them() {
    if kernel_abi() < 4 {
        return;
    }
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = service.local_addr().unwrap().port();
    let connect = move || TcpStream::connect(("127.0.0.1", port)).err().map(|error| error.kind());
    let bind = || TcpListener::bind("127.0.0.1:0").err().map(|error| error.kind());
    let denied = Some(ErrorKind::PermissionDenied);
    let none = Rules { tcp_bind: Some(vec![]), tcp_connect: Some(vec![]), ..rules(&[]) };
    assert_eq!(both(none.clone(), connect), (None, denied));
    assert_eq!(both(none, bind), (None, denied));
    let this_one = Rules { tcp_connect: Some(vec![port]), ..rules(&[]) };
    assert_eq!(both(this_one.clone(), connect), (None, None));
    // Of what no list speaks, nothing is refused.
    assert_eq!(both(this_one, bind), (None, None));
    assert_eq!(both(rules(&[]), connect), (None, None));
}

#[test]
fn abstract_sockets_and_processes_outside_are_out_of_reach() {
    if kernel_abi() < 6 {
        return;
    }
    let name = format!("howdah-unit-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let _service = UnixListener::bind_addr(&address).unwrap();
    let connect = move || UnixStream::connect_addr(&address).err().map(|error| error.kind());
    assert_eq!(both(rules(&[]), connect), (None, Some(ErrorKind::PermissionDenied)));

    let mut other = Command::new("sleep").arg("60").stdout(Stdio::null()).spawn().unwrap();
    let pid = Pid::from_raw(other.id() as i32);
    let signal = move || kill(pid, None).err();
    let seen = both(rules(&[]), signal);
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!(seen, (None, Some(Errno::EPERM)));
}

#[test]
fn writing_needs_a_rule_whoever_owns_the_file() {
    let (_directory, a, b) = two_directories();
    let write = |a: PathBuf| move || File::create(a.join("new")).err().map(|error| error.kind());
    assert_eq!(both(rules(&[&b]), write(a.clone())), (None, Some(ErrorKind::PermissionDenied)));
    assert_eq!(both(rules(&[&a]), write(a)), (None, None));
}

#[test]
fn a_demand_that_the_kernel_cannot_meet_says_what_to_do() {
    let line = |kernel, least| judge(kernel, least).err().map(|error| error.to_string());
    assert_eq!(line(Ok(2), 2), None);
    assert_eq!(line(Ok(7), 6), None);
    let own = "or lower landlock_abi in a profile of your own";
    assert_eq!(
        line(Ok(2), 6).unwrap(),
        format!("the profile demands Landlock ABI 6 and this kernel has 2: use Linux 6.12 or later, {own}")
    );
    assert!(line(Ok(40), 99).unwrap().contains("use a howdah that knows it (this one knows up to 7)"));
    let off = line(Err(Errno::EOPNOTSUPP), 1).unwrap();
    assert!(off.starts_with("Landlock is switched off in this kernel: add landlock to lsm="), "{off}");
    let absent = line(Err(Errno::ENOSYS), 1).unwrap();
    assert!(absent.starts_with("this kernel has no Landlock: use one with CONFIG_SECURITY_LANDLOCK=y"));
}
