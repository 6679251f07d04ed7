//! The kernel's keyrings (keyrings(7)): what howdah's own session keyring holds is
//! out of a tenant's reach, also where no filter refuses the calls.
#![allow(missing_docs)]

mod rig;

use std::process::{Command, Stdio};

use rig::{Rig, TENANT};

/// Perl that takes a session keyring with a secret in it, and becomes what it is told to be.
fn with_a_secret() -> [String; 3] {
    let (keyctl, add_key) = (libc::SYS_keyctl, libc::SYS_add_key);
    // KEYCTL_JOIN_SESSION_KEYRING; KEY_SPEC_SESSION_KEYRING is -3.
    let script = format!(
        "syscall({keyctl}, 1, 0) > 0 or die $!; \
         syscall({add_key}, my $t = 'user', my $d = 'howdah-test', my $s = 'secret', 6, -3) > 0 or die $!; \
         exec @ARGV or die $!"
    );
    ["perl".to_owned(), "-e".to_owned(), script]
}

/// PHP that looks for the secret in the session keyring and reads it: KEYCTL_SEARCH, KEYCTL_READ.
fn search() -> String {
    let keyctl = libc::SYS_keyctl;
    format!(
        "$call = fn ($more) => FFI::cdef(\"long syscall(long number, long operation, long key, $more);\"); \
         $text = FFI::new('char[16]'); $length = 0; \
         $key = $call('const char *type, const char *name, long to')->syscall({keyctl}, 10, -3, 'user', 'howdah-test', 0); \
         if ($key > 0) $length = $call('char *text, long most')->syscall({keyctl}, 11, $key, $text, 16); \
         echo $key > 0 ? FFI::string($text, $length) : 'nothing', ' ', \
             $call('long make')->syscall({keyctl}, 0, -3, 0) > 0 ? 'has one' : 'has none';"
    )
}

#[test]
fn the_keys_in_howdah_s_session_keyring_are_not_the_tenant_s_also_without_a_filter() {
    let before = with_a_secret();
    let before: Vec<&str> = before.iter().map(String::as_str).collect();
    // The control: the same account, below the same keyring, without a sandbox.
    let (uid, gid) = (format!("--reuid={}", TENANT.1), format!("--regid={}", TENANT.2));
    let host = ["setpriv", &uid, &gid, "--clear-groups", "php", "-d", "ffi.enable=1", "-r", &search()];
    let mut control = Command::new(before[0]);
    let control = control.args(&before[1..]).args(host).stdin(Stdio::null()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&control.stdout), "secret has one", "{control:?}");

    let mut rig = Rig::new();
    rig.inside_without("open", "seccomp = \"off\"\n", "");
    // The user namespace is no wall for what one possesses; without one it is as with it.
    rig.inside_without("shared", "seccomp = \"off\"\nshare = [\"user\"]\n", "");
    rig.inside("blog", TENANT, "");
    rig.serve_under(&before, &[]);
    assert_eq!(rig.php("open", &search()), "nothing has one");
    assert_eq!(rig.php("shared", &search()), "nothing has one");
    assert_eq!(rig.php("blog", &search()), "nothing has none", "the filter refuses the calls besides");
    // And none is another pool's.
    let own = format!("echo FFI::cdef('long syscall(long, ...);')->syscall({}, 0, -3, 0);", libc::SYS_keyctl);
    assert_ne!(rig.php("open", &own), rig.php("shared", &own));
    assert_eq!(rig.end(), 0);
}
