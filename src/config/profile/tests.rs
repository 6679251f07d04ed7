//! What profile files mean, and the exact line that is printed where one means nothing.

use std::path::Path;

use caps::Capability;
use proptest::prelude::*;
use proptest::{collection, sample};

use super::super::pool::{Network, ProfileRef};
use super::super::types::{AbsPath, Bytes};
use super::{Namespace, Proc, Profile, hosting, load};

fn named(name: &str) -> ProfileRef {
    ProfileRef::Named(name.into())
}

/// Loads `files[0]` out of a directory with all `files`; an error with the directory as DIR.
fn read(files: &[(&str, &str)]) -> Result<Profile, String> {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().display().to_string();
    for (name, text) in files {
        std::fs::write(directory.path().join(name), text.replace("DIR", &place)).unwrap();
    }
    let name = files[0].0.strip_suffix(".toml").unwrap();
    load(&named(name), directory.path()).map_err(|error| error.to_string().replace(&place, "DIR"))
}

fn refused(text: &str) -> String {
    read(&[("x.toml", text)]).unwrap_err()
}

#[test]
fn hosting_has_every_wall() {
    let profile = hosting();
    assert_eq!(profile.name.as_ref(), "hosting");
    assert_eq!(profile.base, None);
    assert!(profile.seccomp.is_some());
    assert!(profile.landlock && profile.no_new_privs && profile.close_descriptors);
    assert!(profile.capabilities.is_empty());
    assert!(Namespace::ALL.iter().all(|namespace| profile.namespaces.contains(namespace)));
    assert_eq!(profile.proc, Proc::Pid);
    assert_eq!(profile.limits.memory, Some(Bytes::new(512 << 20)));
    assert_eq!(profile.limits.swap, Some(Bytes::new(0)));
    assert_eq!(profile.limits.tasks, Some(128));
    assert_eq!(profile.limits.open_files, Some(1024));
    assert_eq!(profile.limits.tmp, Some(Bytes::new(64 << 20)));
    assert_eq!(profile.limits.cpu, None);
    assert_eq!(profile.weakened(), [""; 0]);
    let loaded = load(&named("hosting"), Path::new("/nonexistent")).unwrap();
    assert_eq!(loaded.looked_for, [Path::new("/nonexistent/hosting.toml")], "it may come to be there");
    assert_eq!(Profile { looked_for: Vec::new(), ..loaded }, profile);
}

#[test]
fn a_file_says_only_what_is_different() {
    let profile = read(&[("x.toml", "landlock = false\n[limits]\ncpu = 0.5\nmemory = \"1G\"")]).unwrap();
    let mut expected = hosting();
    expected.name = "x".into();
    expected.landlock = false;
    expected.limits.cpu = Some(0.5);
    expected.files.insert(0, profile.files[0].clone());
    expected.looked_for.clone_from(&profile.looked_for);
    expected.limits.memory = Some(Bytes::new(1 << 30));
    assert_eq!(profile, expected);
    assert_eq!(profile.weakened(), ["landlock is off", "limits.memory is 1G, above 512M"]);
}

#[test]
fn bases_are_followed_and_the_nearest_answer_counts() {
    let profile = read(&[
        ("c.toml", "base = \"b\"\nshare = []\n"),
        ("b.toml", "base = \"DIR/a.toml\"\nshare = [\"ipc\"]\nproc = \"full\"\n[limits]\ntasks = 5"),
        ("a.toml", "base = \"hosting\"\nproc = \"pid\"\ncapabilities = [\"CAP_KILL\"]\n[limits]\ntasks = 9\ntmp = 4096"),
    ])
    .unwrap();
    assert_eq!(profile.base.as_deref(), Some("b"));
    assert_eq!(profile.namespaces.len(), 7);
    assert_eq!(profile.proc, Proc::Full);
    assert_eq!(profile.capabilities, [Capability::CAP_KILL]);
    assert_eq!(profile.limits.tasks, Some(5));
    assert_eq!(profile.limits.tmp, Some(Bytes::new(4096)));
}

#[test]
fn a_file_named_hosting_builds_on_the_built_in_one() {
    let profile = read(&[("hosting.toml", "[limits]\ntasks = 3")]).unwrap();
    assert_eq!(profile.limits.tasks, Some(3));
    assert!(profile.landlock);
    let explicit = read(&[("hosting.toml", "base = \"hosting\"\n[limits]\ntasks = 3")]).unwrap();
    assert_eq!(explicit.limits, profile.limits);
    let other = read(&[("x.toml", "proc = \"full\""), ("hosting.toml", "[limits]\ntasks = 3")]).unwrap();
    assert_eq!(other.limits.tasks, Some(3), "who builds on hosting builds on the machine's");
}

#[test]
fn every_wall_can_be_taken_down_and_is_then_listed() {
    let profile = read(&[(
        "open.toml",
        "seccomp = \"off\"\nlandlock = false\nno_new_privs = false\nclose_descriptors = false\n\
         capabilities = [\"CAP_SYS_ADMIN\"]\nproc = \"full\"\n\
         share = [\"user\", \"network\", \"ipc\", \"uts\", \"cgroup\"]\n\
         masked_paths = [\"/proc/sys\"]\nreadonly_paths = [\"/proc/bus\", \"/proc/fs\"]\n\
         [limits]\nmemory = \"none\"\nswap = \"none\"\ntasks = \"none\"\nopen_files = \"none\"\ntmp = \"none\"\n",
    )])
    .unwrap();
    assert!(profile.seccomp.is_none() && profile.namespaces == [Namespace::Mount, Namespace::Pid].into());
    let weakened = profile.weakened();
    let expected = [
        "seccomp is off",
        "landlock is off",
        "no_new_privs is off",
        "inherited descriptors are kept",
        "the host's user namespace is shared",
        "the host's network namespace is shared",
        "the host's ipc namespace is shared",
        "the host's uts namespace is shared",
        "the host's cgroup namespace is shared",
        "CAP_SYS_ADMIN is kept",
        "/proc shows the machine",
        "/proc/acpi is not masked",
    ];
    assert_eq!(weakened[..expected.len()], expected);
    let limits = ["memory", "swap", "tasks", "open_files", "tmp"];
    for name in limits {
        assert!(weakened.iter().any(|line| line.starts_with(&format!("limits.{name} is unset"))), "{name}");
    }
    let writable: Vec<_> = weakened.iter().filter(|line| line.ends_with("read-only")).collect();
    assert_eq!(writable, ["/proc/irq is not read-only"], "/proc/sys is masked instead");
}

#[test]
fn a_filter_of_ones_own_is_read_and_listed() {
    let json = "{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"comment\": \"\", \"syscalls\": [\n{\"names\": [\"bpf\"], \
                \"action\": \"SCMP_ACT_ERRNO\", \"errnoRet\": 1, \"args\": [], \"comment\": \"\"}]}";
    let profile = read(&[("x.toml", "seccomp = \"DIR/f.json\""), ("f.json", json)]).unwrap();
    assert_eq!(profile.seccomp.as_ref().unwrap().syscalls().as_ref().unwrap().len(), 1);
    assert_eq!(profile.weakened(), ["seccomp is not the filter of hosting"]);

    let refuse = |json: &str| read(&[("x.toml", "seccomp = \"DIR/f.json\""), ("f.json", json)]).unwrap_err();
    assert_eq!(
        refuse(&json.replace("\"args\": []", "\"includes\": {\"caps\": [\"CAP_BPF\"]}")),
        "DIR/f.json:2: \"includes\" is docker's, not OCI's: keep the group or leave it out (a pool has no capabilities)"
    );
    assert_eq!(
        refuse(&json.replace("\"comment\": \"\", \"syscalls", "\"archMap\": [], \"syscalls")),
        "DIR/f.json:1: \"archMap\" is docker's, not OCI's: write \"architectures\""
    );
    assert_eq!(refuse(&json.replace("errnoRet", "errno_ret")), "DIR/f.json:2: unknown key \"errno_ret\"");
    assert_eq!(
        refuse(&json.replace("ACT_ERRNO", "ACT_NO")).split(',').next(),
        Some("DIR/f.json:2: unknown variant `SCMP_ACT_NO`")
    );
    assert_eq!(refuse("{"), "DIR/f.json:1: EOF while parsing an object");
}

#[test]
fn wrong_files_are_refused_in_one_line() {
    let rows = [
        ("\n\nsecomp = \"off\"", "DIR/x.toml:3: unknown key \"secomp\": did you mean \"seccomp\"?"),
        ("[limits]\nmemmory = 1", "DIR/x.toml:2: unknown key \"memmory\": did you mean \"memory\"?"),
        ("colour = 1", "DIR/x.toml:1: unknown key \"colour\""),
        ("landlock = \"yes\"", "DIR/x.toml:1: invalid type: string \"yes\", expected a boolean"),
        (
            "seccomp = \"hostin\"",
            "DIR/x.toml:1: \"hostin\" is no filter: write \"strict\", \"hosting\", \"compat\", \"off\" or an absolute path",
        ),
        ("share = [\n\"ipcs\"]", "DIR/x.toml:2: \"ipcs\" is no namespace: did you mean \"ipc\"?"),
        (
            "share = [\"ipc\", \"mount\"]",
            "DIR/x.toml:1: the mount namespace cannot be shared: take it out of the list",
        ),
        ("share = [\"pid\"]", "DIR/x.toml:1: the pid namespace cannot be shared: take it out of the list"),
        ("proc = \"some\"", "DIR/x.toml:1: \"some\" is neither \"pid\" nor \"full\""),
        ("masked_paths = [\"proc\"]", "DIR/x.toml:1: \"proc\" is relative: write an absolute path"),
        (
            "capabilities = [\"CAP_NO\"]",
            "DIR/x.toml:1: \"CAP_NO\" is no capability: write capabilities(7)'s names, such as \"CAP_KILL\"",
        ),
        (
            "[limits]\nmemory = \"lots\"",
            "DIR/x.toml:2: \"lots\" is no size: write bytes, or a number with K, M, G or T, such as \"256M\"",
        ),
        ("[limits]\nmemory = -1", "DIR/x.toml:2: must be a number, a size such as \"256M\", or \"none\""),
        ("[limits]\ntasks = 0", "DIR/x.toml:2: must be a number above 0, or \"none\""),
        ("[limits]\ncpu_weight = 0", "DIR/x.toml:2: 0 is no weight: write 1 to 10000"),
        ("[limits]\ncpu = nan", "DIR/x.toml:2: NaN is no number of cores"),
        (
            "no_new_privs = false",
            "DIR/x.toml:1: no_new_privs = false needs seccomp = \"off\": the kernel takes a filter of an unprivileged process only with it (seccomp(2))",
        ),
        ("base = \"x\"", "DIR/x.toml:1: base: DIR/x.toml is its own base"),
        (
            "base = \"hostng\"",
            "DIR/x.toml:1: base: unknown profile \"hostng\": did you mean \"hosting\"? There is no DIR/hostng.toml",
        ),
        ("base = \"../x\"", "DIR/x.toml:1: \"../x\" is no profile: write a name or an absolute path"),
    ];
    for (text, expected) in rows {
        assert_eq!(refused(text), expected);
    }
}

#[test]
fn missing_profiles_are_refused_by_name() {
    let directory = Path::new("/nonexistent");
    let refuse = |profile: &ProfileRef| load(profile, directory).unwrap_err().to_string();
    assert_eq!(
        refuse(&named("strickt")),
        "unknown profile \"strickt\": did you mean \"strict\"? There is no /nonexistent/strickt.toml"
    );
    assert_eq!(refuse(&named("x")), "unknown profile \"x\": there is no /nonexistent/x.toml");
    let file: AbsPath = "/nonexistent/y.toml".parse().unwrap();
    assert_eq!(
        refuse(&ProfileRef::File(file)),
        "/nonexistent/y.toml: No such file or directory (os error 2)"
    );
}

#[test]
fn the_built_in_profiles_are_what_their_names_say() {
    let built_in = |name: &str| load(&named(name), Path::new("/nonexistent")).unwrap();
    let [strict, compat, ci] = ["strict", "compat", "ci"].map(built_in);
    assert_eq!(strict.weakened(), [""; 0]);
    assert_eq!(hosting().stricter(), [""; 0]);
    assert_eq!(
        strict.stricter(),
        [
            "seccomp is the filter of strict",
            "dangerous system calls kill",
            "nothing is executed after php-fpm",
            "Landlock ABI 2 is demanded",
            "no TCP on its own loopback",
            "code is noexec",
            "nothing in code is executed",
            "limits.memory is 256M, below 512M",
            "limits.tasks is 48, below 128",
            "limits.tmp is 32M, below 64M",
            "limits.open_files is 512, below 1024",
        ]
    );
    assert_eq!(
        compat.weakened(),
        [
            "seccomp is the filter of compat",
            "/proc shows the machine",
            "tmp is mounted without noexec",
            "Landlock lets tmp be executed",
            "a TCP listener that nothing holds is let through",
            "limits.memory is 1G, above 512M",
            "limits.tasks is 256, above 128",
            "limits.tmp is 256M, above 64M",
            "limits.open_files is 4096, above 1024",
        ]
    );
    let stricter = ["dangerous system calls kill", "Landlock ABI 2 is demanded"];
    assert_eq!(ci.stricter(), stricter);
    assert!(ci.weakened().iter().all(|line| line.starts_with("limits.")), "{:?}", ci.weakened());
    for profile in [&strict, &compat, &ci] {
        assert!(profile.landlock && profile.no_new_privs && profile.close_descriptors);
        assert!(profile.seccomp.is_some() && profile.capabilities.is_empty());
        assert_eq!((&profile.network, profile.namespaces.len()), (&Network::None, 7));
        assert_eq!(profile.files.last().unwrap().0, Path::new("(built in)/hosting.toml"));
    }
}

#[test]
fn every_weakening_of_compat_has_its_reason_above_it() {
    let text = include_str!("../../../profiles/compat.toml");
    let body = text.split_once("base = \"hosting\"").unwrap().1;
    for block in body.split("\n\n").map(str::trim).filter(|block| !block.is_empty()) {
        let told = block.starts_with('#') || block.starts_with("[mount_flags]");
        assert!(told, "no reason above:\n{block}");
    }
}

#[test]
fn a_file_of_a_built_in_name_builds_on_the_built_in_unless_it_says_another() {
    let over = read(&[("strict.toml", "[limits]\ntasks = 9")]).unwrap();
    assert_eq!((over.limits.tasks, over.landlock_abi, over.loopback_tcp), (Some(9), 2, false));
    let explicit = read(&[("strict.toml", "base = \"strict\"\n[limits]\ntasks = 9")]).unwrap();
    assert_eq!((explicit.limits, explicit.landlock_abi), (over.limits.clone(), 2));
    let other = read(&[("strict.toml", "base = \"hosting\"\n[limits]\ntasks = 9")]).unwrap();
    assert_eq!((other.landlock_abi, other.loopback_tcp), (1, true));
    // ci is on top of the built-in strict, not of the machine's; a file of one's own is on the machine's.
    let files = [("strict.toml", "[limits]\nopen_files = 99"), ("x.toml", "base = \"strict\"")];
    let ci = read(&[("ci.toml", ""), files[0]]).unwrap();
    assert_eq!(ci.limits.open_files, Some(4096));
    let own = read(&[files[1], files[0]]).unwrap();
    assert_eq!(own.limits.open_files, Some(99));
    let names: Vec<_> =
        own.files.iter().map(|(file, _)| file.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["x.toml", "strict.toml", "strict.toml", "hosting.toml"]);
}

#[test]
fn loops_are_refused_where_they_close() {
    let two = read(&[("a.toml", "base = \"b\""), ("b.toml", "\nbase = \"a\"")]).unwrap_err();
    assert_eq!(two, "DIR/b.toml:2: base: DIR/a.toml is its own base");
    let by_path = read(&[("a.toml", "base = \"b\""), ("b.toml", "base = \"DIR/a.toml\"")]).unwrap_err();
    assert_eq!(by_path, "DIR/b.toml:1: base: DIR/a.toml is its own base");
    // Through a built-in's name there is a way out: the built-in itself.
    let through = read(&[("hosting.toml", "base = \"x\""), ("x.toml", "proc = \"full\"")]).unwrap();
    assert_eq!(through.proc, Proc::Full);
}

#[test]
fn new_walls_are_read_compared_and_refused_in_one_line() {
    let profile = read(&[(
        "x.toml",
        "landlock_execute = [\"code\", \"writable\", \"tmp\"]\n[mount_flags]\ncode = []\nwritable = [\"nosuid\"]\n\
         [network]\nmode = \"host\"\n[sysctl]\n\"kernel.shmmax\" = 4096\n\"fs.mqueue.msg_max\" = \"5\"",
    )])
    .unwrap();
    assert_eq!(profile.sysctl["kernel.shmmax"], "4096");
    assert_eq!(profile.sysctl["fs.mqueue.msg_max"], "5");
    assert_eq!(
        profile.weakened(),
        [
            "code is mounted without ro",
            "code is mounted without nosuid",
            "code is mounted without nodev",
            "writable is mounted without nodev",
            "writable is mounted without noexec",
            "Landlock lets writable be executed",
            "Landlock lets tmp be executed",
            "network.mode is \"host\" by default",
        ]
    );
    let rows = [
        ("landlock_abi = 0", "1: 0 is no ABI of Landlock: write 1 or more (landlock = false is off)"),
        ("landlock_execute = [\"temp\"]", "1: \"temp\" is no kind of mount: did you mean \"tmp\"?"),
        ("[mount_flags]\ntmp = [\"noexek\"]", "2: \"noexek\" is no mount flag: did you mean \"noexec\"?"),
        ("[mount_flags]\ntmp = [\"ro\"]", "2: \"ro\" is for code: the others are there to be written in"),
        ("[network]\nmode = \"some\"", ""),
        (
            "[sysctl]\n\"vm.overcommit_memory\" = 1",
            "2: sysctl \"vm.overcommit_memory\": is the whole machine's: only kernel.shm*, kernel.msg*, kernel.sem, fs.mqueue.* and net.* are a pool's own",
        ),
        (
            "[sysctl]\n\"kernel.core_pattern\" = \"|/x\"",
            "2: sysctl \"kernel.core_pattern\": is the whole machine's",
        ),
        ("[sysctl]\n\"net/../kernel\" = 1", "2: sysctl \"net/../kernel\": is no name of sysctl(8)"),
        ("[sysctl]\n\"net..x\" = 1", "2: sysctl \"net..x\": is no name of sysctl(8)"),
        (
            "[sysctl]\n\"net.core.somaxconn\" = \"\"",
            "2: sysctl \"net.core.somaxconn\": must be one line of text, or a number",
        ),
        (
            "share = [\"ipc\"]\n[sysctl]\n\"kernel.sem\" = \"1 2 3 4\"",
            "3: sysctl \"kernel.sem\": the ipc namespace is shared, and the setting would be the host's",
        ),
    ];
    for (text, expected) in rows {
        let line = refused(text);
        assert!(line.starts_with(&format!("DIR/x.toml:{expected}")), "{line}");
    }
}

#[test]
fn limits_of_one_process_and_of_devices_are_a_profiles_too() {
    let text = "[limits]\nmemory_high = \"64M\"\noom_group = true\nfile_size = \"none\"\ncpu_time = \"1m\"\n\
                stack = \"none\"\nmsgqueue = 1\n[[limits.io_max]]\npath = \"/srv\"\nrbps = \"1M\"\n";
    let profile = read(&[("x.toml", text)]).unwrap();
    let limits = &profile.limits;
    assert_eq!((limits.memory_high, limits.oom_group), (Some(Bytes::new(64 << 20)), Some(true)));
    assert_eq!((limits.file_size, limits.stack), (None, None));
    assert_eq!(limits.cpu_time, Some(std::time::Duration::from_secs(60)));
    assert_eq!(limits.io_max[0].words(), "rbps=1048576");
    let weaker = ["limits.msgqueue is 1, above 0", "limits.stack is unset, above 8M"];
    assert_eq!(profile.weakened(), weaker);
    let error = read(&[("x.toml", "[[limits.io_max]]\npath = \"/srv\"\n")]).unwrap_err();
    assert!(error.ends_with(":2: io_max limits nothing: write rbps, wbps, riops or wiops"), "{error}");
}

/// Text that looks more like a profile than noise does.
fn toml_like() -> impl Strategy<Value = String> {
    let key = sample::select(vec![
        "base",
        "seccomp",
        "dangerous",
        "execve",
        "landlock",
        "landlock_abi",
        "landlock_execute",
        "share",
        "proc",
        "capabilities",
        "code",
        "tmp",
        "mode",
        "memory",
        "tasks",
        "\"net.a\"",
        "\"kernel.sem\"",
        "\"a\\nb\"",
    ]);
    let value = prop_oneof![
        Just("\"hosting\"".to_owned()),
        Just("[\"tmp\", \"noexec\", \"ipc\"]".to_owned()),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<bool>().prop_map(|on| on.to_string()),
        any::<String>().prop_map(|text| format!("{text:?}")),
    ];
    let table = sample::select(vec!["mount_flags", "network", "sysctl", "limits", "other"]);
    let line = prop_oneof![
        4 => (key, value).prop_map(|(key, value)| format!("{key} = {value}\n")),
        1 => table.prop_map(|table| format!("[{table}]\n")),
    ];
    collection::vec(line, 0..6).prop_map(|lines| lines.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn any_text_is_a_profile_or_one_line(text in prop_oneof![3 => toml_like(), 1 => any::<String>()]) {
        if let Err(line) = read(&[("x.toml", &text)]) {
            prop_assert!(!line.contains(char::is_control), "{line:?}");
        }
    }
}
