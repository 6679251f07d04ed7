//! What a profile says about system calls beside the filter it names.

use nix::errno::Errno;
use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArgBuilder, LinuxSeccompOperator, LinuxSyscall,
    LinuxSyscallBuilder,
};

use super::Profile;

/// What comes of a call that only an attacker makes, if the filter refuses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dangerous {
    /// What the filter's file says: an errno.
    Errno,
    /// The kernel ends the process, all threads of it, and logs the call (SECCOMP_RET_KILL_PROCESS).
    Kill,
}

/// How often a program may be executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Execve {
    /// As often as anybody likes.
    Any,
    /// php-fpm itself, and then nothing.
    Once,
}

impl Execve {
    /// Its word in a profile.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Once => "once",
        }
    }
}

/// The calls that [`Dangerous::Kill`] is about: those that no program of a site makes, nor tries
/// to see whether it may. For a probe would be the end of an innocent process, and in php-fpm's
/// master of the pool. So these are *not* here, and stay at the errno of the filter:
///
/// - unshare, clone with CLONE_NEW*, clone3: browsers and bwrap try whether they can have namespaces;
/// - ptrace, process_vm_readv: php-fpm's own slowlog;
/// - io_uring_*: libuv (Node) and MariaDB's tools try it at start;
/// - add_key, keyctl, request_key: libkrb5, and so Debian's curl, looks for tickets there;
/// - kcmp: Mesa compares descriptors; process_madvise: newer allocators;
/// - name_to_handle_at, statmount, listmount: how systemd's and util-linux's libraries look at mounts;
/// - landlock_*, seccomp, memfd_secret: xz, ssh and others wall themselves in where they can;
/// - quotactl: quota(1); adjtimex, clock_adjtime: also how the clock is read;
/// - personality, prctl, ioctl, socket: asked about a value, not about the call;
/// - the set*id family and capset: every daemon drops what it has not.
const NEVER_INNOCENT: &[&str] = &[
    // Mounts and roots.
    "chroot",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "mount",
    "mount_setattr",
    "move_mount",
    "open_tree",
    "open_tree_attr",
    "pivot_root",
    "setns",
    "swapoff",
    "swapon",
    "umount",
    "umount2",
    // Another process's memory and descriptors.
    "pidfd_getfd",
    "process_mrelease",
    "process_vm_writev",
    // Parts of the kernel with a history of holes.
    "bpf",
    "perf_event_open",
    "userfaultfd",
    "modify_ldt",
    // Files past their names.
    "fanotify_init",
    "fanotify_mark",
    "open_by_handle_at",
    // The machine.
    "acct",
    "clock_settime",
    "create_module",
    "delete_module",
    "finit_module",
    "init_module",
    "ioperm",
    "iopl",
    "kexec_file_load",
    "kexec_load",
    "lookup_dcookie",
    "nfsservctl",
    "reboot",
    "settimeofday",
    "uselib",
    "vm86",
    "vm86old",
];

impl Profile {
    /// The filter that is in force: the file's, with what [`Profile::dangerous`] and
    /// [`Profile::listen`] change of it.
    pub fn filter(&self) -> Option<LinuxSeccomp> {
        let filter = self.seccomp.as_ref()?;
        let filter = match self.dangerous {
            Dangerous::Errno => filter.clone(),
            Dangerous::Kill => killing(filter),
        };
        Some(if self.listen { filter } else { deaf(filter) })
    }

    /// Whether a process may write code and run it, as compilers at run time do: whether the
    /// filter lets mmap(2) through whatever its arguments.
    pub fn allows_written_code(&self) -> bool {
        let Some(filter) = &self.seccomp else { return true };
        let groups = filter.syscalls().iter().flatten();
        let mut naming = groups.filter(|group| group.names().iter().any(|name| name == "mmap")).peekable();
        match naming.peek() {
            None => filter.default_action() == LinuxSeccompAction::ScmpActAllow,
            Some(_) => naming.any(|group| {
                group.action() == LinuxSeccompAction::ScmpActAllow
                    && group.args().as_ref().is_none_or(Vec::is_empty)
            }),
        }
    }
}

/// `filter`, in which nothing may be made to listen, or be connected past Landlock: by
/// sending with MSG_FASTOPEN, or by an io_uring, which sends without making a call.
fn deaf(mut filter: LinuxSeccomp) -> LinuxSeccomp {
    let mut groups = filter.syscalls().clone().unwrap_or_default();
    groups.push(refusal(&["listen", "io_uring_setup"], Errno::EPERM, None));
    // As where Fast Open is switched off (tcp(7)): programs connect instead.
    groups.push(refusal(&["sendto", "sendmmsg"], Errno::EOPNOTSUPP, Some(3)));
    groups.push(refusal(&["sendmsg"], Errno::EOPNOTSUPP, Some(2)));
    filter.set_syscalls(Some(groups));
    filter
}

/// A group that refuses these calls; with the number of the argument with their flags
/// only where MSG_FASTOPEN is among those.
fn refusal(names: &[&str], errno: Errno, flags: Option<usize>) -> LinuxSyscall {
    let group = LinuxSyscallBuilder::default()
        .names(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
        .action(LinuxSeccompAction::ScmpActErrno)
        .errno_ret(errno as u32);
    let group = match flags {
        None => group,
        Some(index) => group.args(vec![
            LinuxSeccompArgBuilder::default()
                .index(index)
                .value(MSG_FASTOPEN)
                .value_two(MSG_FASTOPEN)
                .op(LinuxSeccompOperator::ScmpCmpMaskedEq)
                .build()
                .expect("an index, a value and a comparison are all that it needs"),
        ]),
    };
    group.build().expect("names and action are all that a group needs")
}

/// send(2): sends with the first packet, and so connects.
const MSG_FASTOPEN: u64 = 0x2000_0000;

/// `filter`, in which the calls that are never innocent kill unless some group lets them through.
fn killing(filter: &LinuxSeccomp) -> LinuxSeccomp {
    use LinuxSeccompAction as Action;
    let refuses = |action: Action| matches!(action, Action::ScmpActErrno | Action::ScmpActTrap);
    let groups = filter.syscalls().clone().unwrap_or_default();
    // Whatever its arguments: else a killing group would say more than the file does.
    let refused = |name: &str| {
        let naming: Vec<_> =
            groups.iter().filter(|group| group.names().iter().any(|one| one == name)).collect();
        let otherwise = refuses(filter.default_action()) || naming.iter().any(|group| group.args().is_none());
        otherwise && naming.iter().all(|group| refuses(group.action()))
    };
    let killed: Vec<String> =
        NEVER_INNOCENT.iter().filter(|name| refused(name)).map(|name| (*name).to_owned()).collect();
    let mut kept = Vec::with_capacity(groups.len() + 1);
    for mut group in groups {
        // A call in several groups means different things to different runtimes.
        let names: Vec<_> = group.names().iter().filter(|name| !killed.contains(name)).cloned().collect();
        if !names.is_empty() {
            group.set_names(names);
            kept.push(group);
        }
    }
    if !killed.is_empty() {
        let group = LinuxSyscallBuilder::default().names(killed).action(Action::ScmpActKillProcess).build();
        kept.push(group.expect("names and action are all that a group needs"));
    }
    let mut filter = filter.clone();
    filter.set_syscalls(Some(kept));
    filter
}

#[cfg(test)]
mod tests {
    use super::super::hosting;
    use super::*;

    fn action_of(filter: &LinuxSeccomp, name: &str) -> Vec<LinuxSeccompAction> {
        let groups = filter.syscalls().as_deref().unwrap().iter();
        groups
            .filter(|group| group.names().iter().any(|one| one == name))
            .map(|group| group.action())
            .collect()
    }

    #[test]
    fn killing_replaces_refusals_and_nothing_else() {
        let text = r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            {"names": ["mount", "read"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["bpf", "unshare", "kexec_load"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
            {"names": ["reboot"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}]}]}"#;
        let filter = killing(&serde_json::from_str(text).unwrap());
        assert_eq!(action_of(&filter, "mount"), [LinuxSeccompAction::ScmpActAllow], "the file's own word");
        assert_eq!(action_of(&filter, "reboot"), [LinuxSeccompAction::ScmpActAllow], "under a condition");
        assert_eq!(action_of(&filter, "bpf"), [LinuxSeccompAction::ScmpActKillProcess]);
        assert_eq!(action_of(&filter, "swapon"), [LinuxSeccompAction::ScmpActKillProcess], "by default");
        assert_eq!(action_of(&filter, "unshare"), [LinuxSeccompAction::ScmpActErrno], "browsers try it");
    }

    #[test]
    fn a_list_of_refusals_kills_only_what_it_refuses_whatever_the_arguments() {
        let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["bpf"], "action": "SCMP_ACT_ERRNO"},
            {"names": ["mount"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}]}]}"#;
        let filter = killing(&serde_json::from_str(text).unwrap());
        assert_eq!(action_of(&filter, "bpf"), [LinuxSeccompAction::ScmpActKillProcess]);
        assert_eq!(action_of(&filter, "mount"), [LinuxSeccompAction::ScmpActErrno]);
        assert_eq!(action_of(&filter, "setns"), []);
    }

    #[test]
    fn only_kill_changes_the_file() {
        let mut profile = hosting();
        assert_eq!(profile.filter(), profile.seccomp);
        profile.dangerous = Dangerous::Kill;
        let filter = profile.filter().unwrap();
        assert!(
            NEVER_INNOCENT
                .iter()
                .all(|name| action_of(&filter, name) == [LinuxSeccompAction::ScmpActKillProcess])
        );
        profile.listen = false;
        let refused = [LinuxSeccompAction::ScmpActAllow, LinuxSeccompAction::ScmpActErrno];
        assert_eq!(action_of(&profile.filter().unwrap(), "listen"), refused, "the stricter one counts");
        profile.seccomp = None;
        assert_eq!(profile.filter(), None);
    }

    #[test]
    fn a_filter_of_the_user_s_own_refuses_what_goes_past_landlock_as_well() {
        let open = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}"#;
        let mut profile = Profile { seccomp: serde_json::from_str(open).unwrap(), ..hosting() };
        let past = ["listen", "io_uring_setup", "sendto", "sendmmsg", "sendmsg"];
        let refused = |profile: &Profile| {
            let filter = profile.filter().unwrap();
            past.map(|name| action_of(&filter, name) == [LinuxSeccompAction::ScmpActErrno])
        };
        assert_eq!(refused(&profile), [false; 5]);
        profile.listen = false;
        assert_eq!(refused(&profile), [true; 5]);
        let groups = profile.filter().unwrap().syscalls().clone().unwrap();
        let of =
            |name: &str| groups.iter().find(|group| group.names().iter().any(|one| one == name)).unwrap();
        let flags = |name: &str| of(name).args().as_ref().map(|args| (args[0].index(), args[0].value()));
        assert_eq!(flags("listen"), None);
        assert_eq!((flags("sendto"), flags("sendmmsg")), (Some((3, 0x2000_0000)), Some((3, 0x2000_0000))));
        assert_eq!(flags("sendmsg"), Some((2, 0x2000_0000)));
    }
}
