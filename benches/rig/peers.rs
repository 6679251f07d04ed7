//! The others: how each runs php-fpm behind its walls, as a command that the
//! activator starts with the socket at descriptor 3. Everything that can be
//! made before a connection comes (root directory, runc's bundle) is made
//! before; each is given the fastest way that its own manual has for this.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::php::{Extensions, Stage};
use super::{During, Outcome, activation};

/// Links of a merged /usr.
const LINKS: [(&str, &str); 4] =
    [("usr/bin", "bin"), ("usr/lib", "lib"), ("usr/lib64", "lib64"), ("usr/sbin", "sbin")];

/// Somebody else who can start php-fpm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// setuid and execve, nothing else: the floor.
    Bare,
    /// util-linux: seven namespaces, the host's root.
    Unshare,
    /// bubblewrap: seven namespaces, a root of read-only binds.
    Bwrap,
    /// runc: an OCI bundle with the same root.
    Runc,
    /// systemd-nspawn: the same root, its own user lookup.
    Nspawn,
}

impl Peer {
    /// The floor first.
    pub(crate) const ALL: [Self; 5] = [Self::Bare, Self::Unshare, Self::Bwrap, Self::Runc, Self::Nspawn];

    /// The word in tables and files.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Unshare => "unshare",
            Self::Bwrap => "bwrap",
            Self::Runc => "runc",
            Self::Nspawn => "systemd-nspawn",
        }
    }

    /// The program's own word on what it is; `None` where it is not installed.
    pub(crate) fn version(self, stage: &Stage) -> Option<String> {
        if self == Self::Bare {
            return stage.version().ok();
        }
        let output = Command::new(program(self.name())?).arg("--version").output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).lines().next()?.to_owned())
    }

    /// The command that starts php-fpm with `configuration` behind this peer's
    /// walls, its messages written to `log`.
    pub(crate) fn command(
        self,
        stage: &Stage,
        configuration: &Path,
        extensions: Extensions,
        log: &Path,
    ) -> Outcome<Command> {
        let program = || program(self.name()).ok_or_else(|| format!("{} is not installed", self.name()));
        let argv = stage.argv(configuration);
        let environment = stage.environment(extensions);
        let mut command = match self {
            Self::Bare => stage.bare(configuration, extensions),
            Self::Unshare => unshare(&program()?, stage, &argv),
            Self::Bwrap => bwrap(&program()?, stage, &argv),
            Self::Runc => runc(&program()?, &bundle(stage, extensions, &argv, &environment)?, stage),
            Self::Nspawn => nspawn(&program()?, stage, &argv, &environment)?,
        };
        let log = fs::File::create(log).during(log.display())?;
        command.env_clear().envs(environment).current_dir("/");
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(command)
    }

    /// Takes away what is left on disk once all of its processes are dead.
    pub(crate) fn clean_up(self, stage: &Stage) -> Outcome {
        match self {
            Self::Runc => {
                let mut delete = Command::new("runc");
                delete.arg("--root").arg(stage.dir.join("runc")).args(["delete", "--force", RUNC_NAME]);
                delete.output().during("runc delete")?;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// The container's name, for there is one at a time.
const RUNC_NAME: &str = "bench";

/// Where `name` is installed. An absolute path, so that no contestant pays for a search.
fn program(name: &str) -> Option<PathBuf> {
    ["/usr/bin", "/usr/sbin", "/usr/local/bin"]
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.exists())
}

/// Started by php-fpm's account, so that the one user inside is that one, as in howdah.
fn unshare(program: &Path, stage: &Stage, argv: &[String]) -> Command {
    let mut command = Command::new(program);
    command.args([format!("--map-user={}", stage.user.uid), format!("--map-group={}", stage.user.gid)]);
    command.args(["--user", "--mount", "--pid", "--net", "--ipc", "--uts", "--cgroup"]);
    command.args(["--fork", "--mount-proc", "--"]).args(argv);
    stage.as_user(&mut command);
    command
}

/// As above; `--as-pid-1` spares it a process that howdah has not either.
fn bwrap(program: &Path, stage: &Stage, argv: &[String]) -> Command {
    let (etc, seen) = (stage.dir.join("etc"), stage.seen());
    let mut command = Command::new(program);
    command.args(["--unshare-all", "--unshare-user", "--unshare-cgroup", "--as-pid-1", "--cap-drop", "ALL"]);
    command.args([
        "--uid".to_owned(),
        stage.user.uid.to_string(),
        "--gid".to_owned(),
        stage.user.gid.to_string(),
    ]);
    command.args(["--ro-bind", "/usr", "/usr"]);
    for (target, link) in LINKS {
        command.args(["--symlink", target, &format!("/{link}")]);
    }
    command.arg("--ro-bind").arg(etc).arg("/etc").arg("--ro-bind").arg(&seen).arg(&seen);
    command.args(["--tmpfs", "/tmp", "--tmpfs", "/run", "--proc", "/proc", "--dev", "/dev"]);
    command.args(["--chdir", "/", "--"]).args(argv);
    stage.as_user(&mut command);
    command
}

fn runc(program: &Path, bundle: &Path, stage: &Stage) -> Command {
    let mut command = Command::new(program);
    command.arg("--root").arg(stage.dir.join("runc")).args(["run", "--preserve-fds", "1", "--bundle"]);
    command.arg(bundle).arg(RUNC_NAME);
    command
}

/// nspawn hands on what LISTEN_FDS gives it, and LISTEN_PID must be its own
/// id, which only the process itself can put there: hence the shell (about
/// half a millisecond).
fn nspawn(
    program: &Path,
    stage: &Stage,
    argv: &[String],
    environment: &[(&str, String)],
) -> Outcome<Command> {
    let root = make_root(stage, "nspawn-root")?;
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"", "sh"]).arg(program);
    // --keep-unit and no registration: no machined or systemd is asked.
    command.args(["--quiet", "--keep-unit", "--register=no", "--settings=no", "--link-journal=no"]);
    command.args([
        "--console=pipe",
        "--resolv-conf=off",
        "--timezone=off",
        "--private-network",
        "--read-only",
    ]);
    command.arg("-D").arg(root).arg(format!("--bind-ro={}:/etc", stage.dir.join("etc").display()));
    command.arg("--bind-ro=/usr").arg(format!("--bind-ro={}", stage.seen().display()));
    command.args([format!("--user={}", stage.user.name), "--chdir=/".to_owned()]);
    command.args(environment.iter().map(|(name, value)| format!("--setenv={name}={value}")));
    command.args(argv);
    Ok(command)
}

/// An empty root directory with places to mount on.
fn make_root(stage: &Stage, name: &str) -> Outcome<PathBuf> {
    let root = stage.dir.join(name);
    let seen = stage.seen();
    let places = ["usr", "etc", "proc", "sys", "dev", "run", "tmp", "var/lib"].map(Path::new);
    for place in places.into_iter().chain([seen.strip_prefix("/")?]) {
        fs::create_dir_all(root.join(place))?;
    }
    // runc gives a tmpfs the mode of the directory below it.
    fs::set_permissions(root.join("tmp"), Permissions::from_mode(0o1777))?;
    for (target, link) in LINKS {
        let link = root.join(link);
        if !link.is_symlink() {
            symlink(target, link)?;
        }
    }
    Ok(root)
}

/// A bundle for runc: howdah's namespaces and root, without limits or a
/// seccomp filter, which would only make it slower.
fn bundle(
    stage: &Stage,
    extensions: Extensions,
    argv: &[String],
    environment: &[(&str, String)],
) -> Outcome<PathBuf> {
    let dir = stage.dir.join(format!("bundle-{}", extensions.name()));
    let root = make_root(stage, "runc-root")?;
    let (uid, gid) = (stage.user.uid.as_raw(), stage.user.gid.as_raw());
    let bind = |source: &Path, target: &Path| -> Value {
        json!({"type": "bind", "source": source, "destination": target, "options": ["rbind", "ro", "nosuid", "nodev"]})
    };
    let mount = |kind: &str, target: &str, options: &[&str]| -> Value {
        json!({"type": kind, "source": kind, "destination": target, "options": options})
    };
    // runc becomes uid 0 of the user namespace on its way, so there must be one.
    let ids = |own: u32| json!([{"containerID": 0, "hostID": 100_000, "size": 1}, {"containerID": own, "hostID": own, "size": 1}]);
    let namespaces =
        ["user", "mount", "pid", "network", "ipc", "uts", "cgroup"].map(|kind| json!({"type": kind}));
    let none: [&str; 0] = [];
    let spec = json!({
        "ociVersion": "1.0.2",
        "hostname": "bench",
        "root": {"path": root, "readonly": true},
        "process": {
            "args": argv,
            "cwd": "/",
            "env": environment.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>(),
            "user": {"uid": uid, "gid": gid},
            "noNewPrivileges": true,
            "capabilities": {"bounding": none, "effective": none, "permitted": none, "inheritable": none, "ambient": none},
        },
        "mounts": [
            mount("proc", "/proc", &["nosuid", "nodev", "noexec"]),
            mount("tmpfs", "/dev", &["nosuid", "mode=755"]),
            mount("tmpfs", "/tmp", &["nosuid", "nodev", "noexec"]),
            mount("tmpfs", "/run", &["nosuid", "nodev", "noexec"]),
            bind(Path::new("/usr"), Path::new("/usr")),
            bind(&stage.dir.join("etc"), Path::new("/etc")),
            bind(&stage.seen(), &stage.seen()),
        ],
        "linux": {
            "namespaces": namespaces,
            "uidMappings": ids(uid),
            "gidMappings": ids(gid),
            "cgroupsPath": "/runc-bench",
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    });
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("config.json"), serde_json::to_vec_pretty(&spec)?)?;
    Ok(dir)
}

/// runc passes descriptors from 3 on, and nspawn asks for the same.
const _: () = assert!(activation::PASSED == 3);
