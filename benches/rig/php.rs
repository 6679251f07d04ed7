//! php-fpm as every contestant runs it: the same program, configuration,
//! account and script; two sets of extensions.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::User;

use super::activation::PASSED;
use super::fastcgi::Request;
use super::{During, Outcome};

/// `listen`, and the key of FPM_SOCKETS: php-fpm unlinks this path at its end,
/// so it names a file that exists nowhere.
const NOWHERE: &str = "/run/howdah/none.sock";

/// What the script prints.
pub(crate) const ANSWER: &str = "on the elephant\n";

/// Which extensions php loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extensions {
    /// All that the distribution's configuration enables.
    Full,
    /// None but those compiled in: the same php.ini, an empty directory of further ones.
    Small,
}

impl Extensions {
    /// The word in tables and file names.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Small => "small",
        }
    }
}

/// pm and its most important number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Workers {
    /// `pm`
    pub(crate) pm: &'static str,
    /// `pm.max_children`
    pub(crate) max_children: u32,
}

impl Workers {
    /// Where it is not about the workers.
    pub(crate) const USUAL: Self = Self { pm: "ondemand", max_children: 5 };
}

/// The files that contestants see, and the program they run.
///
/// ```text
/// seen/site/index.php    the script
/// seen/NAME.conf         php-fpm's configuration
/// seen/no-extensions/    scanned for further .ini files: none
/// etc/                   an /etc with what php-fpm needs, for those with a root of their own
/// ```
pub(crate) struct Stage {
    /// The scratch directory.
    pub(crate) dir: PathBuf,
    /// The php-fpm to run.
    pub(crate) php_fpm: PathBuf,
    /// The account that runs it.
    pub(crate) user: User,
}

impl Stage {
    /// Sets the files up in `dir`.
    pub(crate) fn set(dir: &Path, php_fpm: Option<PathBuf>, user: &str) -> Outcome<Self> {
        let php_fpm = php_fpm.or_else(newest_php_fpm).ok_or("no php-fpm in /usr/sbin: install php-fpm")?;
        let user = User::from_name(user)?.ok_or_else(|| format!("there is no account {user:?}"))?;
        let stage = Self { dir: dir.to_owned(), php_fpm, user };
        fs::create_dir_all(stage.seen().join("site"))?;
        fs::create_dir_all(stage.seen().join("no-extensions"))?;
        fs::write(stage.script(), format!("<?php echo {ANSWER:?};\n"))?;
        stage.make_etc().during("make /etc")?;
        Ok(stage)
    }

    /// What every contestant may read, at the same path everywhere.
    pub(crate) fn seen(&self) -> PathBuf {
        self.dir.join("seen")
    }

    /// The directory of the script: what is mounted into howdah's pool.
    pub(crate) fn site(&self) -> PathBuf {
        self.seen().join("site")
    }

    /// The script.
    pub(crate) fn script(&self) -> PathBuf {
        self.site().join("index.php")
    }

    /// The request for it.
    pub(crate) fn request(&self) -> Request {
        Request::get(&self.script())
    }

    /// A directory that belongs to php-fpm's account.
    pub(crate) fn own_dir(&self, name: &str) -> Outcome<PathBuf> {
        let path = self.dir.join(name);
        fs::create_dir_all(&path)?;
        std::os::unix::fs::chown(&path, Some(self.user.uid.as_raw()), Some(self.user.gid.as_raw()))?;
        Ok(path)
    }

    /// php-fpm's version, as it says it.
    pub(crate) fn version(&self) -> Outcome<String> {
        let output = Command::new(&self.php_fpm).arg("-v").output().during("php-fpm -v")?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
    }

    /// Writes the configuration that howdah writes for [`super::serve::pool_file`],
    /// for those who are started without howdah.
    pub(crate) fn configure(&self, workers: Workers) -> Outcome<PathBuf> {
        let Workers { pm, max_children } = workers;
        let path = self.seen().join(format!("{pm}.conf"));
        let text = format!(
            "[global]
error_log = /dev/null
log_level = notice
log_limit = 8192
daemonize = no
process_control_timeout = 30
[bench]
listen = {NOWHERE}
pm = {pm}
pm.max_children = {max_children}
pm.process_idle_timeout = 10s
catch_workers_output = yes
decorate_workers_output = no
php_value[session.save_path] = '/var/lib/php/sessions'
php_value[upload_tmp_dir] = '/var/lib/php/uploads'
php_value[session.gc_probability] = '1'
php_value[session.gc_divisor] = '100'
php_admin_flag[fastcgi.logging] = no
"
        );
        fs::write(&path, text)?;
        Ok(path)
    }

    /// php-fpm's program and arguments. `-O`: its messages go to stderr, which
    /// it could not open by name.
    pub(crate) fn argv(&self, configuration: &Path) -> Vec<String> {
        let [program, configuration] = [&self.php_fpm, configuration].map(|path| path.display().to_string());
        vec![program, "-F".into(), "-O".into(), "-y".into(), configuration]
    }

    /// php-fpm's environment: the socket at descriptor 3, and which extensions.
    pub(crate) fn environment(&self, extensions: Extensions) -> Vec<(&'static str, String)> {
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let mut environment = vec![("PATH", path.to_owned()), ("FPM_SOCKETS", format!("{NOWHERE}={PASSED}"))];
        if extensions == Extensions::Small {
            environment.push(("PHP_INI_SCAN_DIR", self.seen().join("no-extensions").display().to_string()));
        }
        environment
    }

    /// php-fpm with no walls at all: another account, `/` as its directory, and that is it.
    pub(crate) fn bare(&self, configuration: &Path, extensions: Extensions) -> Command {
        let argv = self.argv(configuration);
        let mut command = Command::new(&argv[0]);
        command.args(&argv[1..]).env_clear().envs(self.environment(extensions)).current_dir("/");
        self.as_user(&mut command);
        command
    }

    /// Lets `command` run as php-fpm's account, without supplementary groups.
    pub(crate) fn as_user(&self, command: &mut Command) {
        command.uid(self.user.uid.as_raw()).gid(self.user.gid.as_raw());
    }

    /// An `/etc` in which root and one account exist, with php's configuration and the linker's cache.
    fn make_etc(&self) -> Outcome {
        let etc = self.dir.join("etc");
        fs::create_dir_all(&etc)?;
        let (name, uid, gid) = (&self.user.name, self.user.uid, self.user.gid);
        fs::write(
            etc.join("passwd"),
            format!("root:x:0:0::/:/bin/false\n{name}:x:{uid}:{gid}::/:/bin/false\n"),
        )?;
        fs::write(etc.join("group"), format!("root:x:0:\n{name}:x:{gid}:\n"))?;
        fs::write(etc.join("nsswitch.conf"), "passwd: files\ngroup: files\nhosts: files dns\n")?;
        for wanted in ["ld.so.cache", "php", "localtime"] {
            let from = Path::new("/etc").join(wanted);
            if from.exists() {
                copy_tree(&from, &etc.join(wanted)).during(from.display())?;
            }
        }
        Ok(())
    }
}

/// `/usr/sbin/php-fpm8.2` and its like, the highest version of them.
fn newest_php_fpm() -> Option<PathBuf> {
    let version = |path: &PathBuf| -> Option<Vec<u32>> {
        let name = path.file_name()?.to_str()?.strip_prefix("php-fpm")?;
        name.split('.').map(|part| part.parse().ok()).collect()
    };
    let entries = fs::read_dir("/usr/sbin").ok()?;
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter_map(|path| Some((version(&path)?, path)))
        .max()
        .map(|found| found.1)
}

/// Copies files, directories and links, readable for all.
fn copy_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    let kind = fs::symlink_metadata(from)?.file_type();
    if kind.is_symlink() {
        return symlink(fs::read_link(from)?, to);
    }
    if kind.is_file() {
        fs::copy(from, to)?;
        return fs::set_permissions(to, Permissions::from_mode(0o644));
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        copy_tree(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}
