//! Who cleans up after a test that can do so no more: killed by a signal, by a time limit,
//! by Ctrl-C; or that panicked, so that nobody knows what it had started. A process that
//! waits for the end of a pipe, which comes with the end of the test's process.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// $1: the rig's directory; $2: where howdah's cgroups are; $3: how the names of this rig's
/// begin. What belongs to the rig has its directory in its command line or is in its cgroups.
const CLEAN_UP: &str = r#"
trap '' HUP INT TERM
read -r all_is_well && exit
for try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    left=
    for process in /proc/[0-9]*; do
        [ "$process" != "/proc/$$" ] && grep -qsaF -- "$1/" "$process/cmdline" || continue
        kill -KILL "${process#/proc/}" 2>/dev/null && left=1
    done
    for cgroup in "$2/$3" "$2/$3"-*; do
        [ -d "$cgroup" ] || continue
        left=1
        [ ! -e "$cgroup/cgroup.kill" ] || echo 1 >"$cgroup/cgroup.kill"
        find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null
    done
    [ -n "$left" ] || break
    sleep 0.2
done
rm -rf --one-file-system -- "$1"
"#;

/// It cleans up when this value goes, in whatever way, unless told that nothing is to be done.
pub struct Guard(Child);

impl Guard {
    /// For a rig in `directory`, whose cgroups are `base`/`name` and `base`/`name`-SOMETHING.
    pub fn new(directory: &Path, base: &Path, name: &str) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", CLEAN_UP, "sh"]).arg(directory).arg(base).arg(name);
        // A group of its own: what ends the test's group shall not end it.
        shell.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(shell.spawn().expect("a shell"))
    }

    /// All has been cleaned up.
    pub fn release(&mut self) {
        let _ = self.0.stdin.take().map(|mut pipe| pipe.write_all(b"yes\n"));
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
