//! What php-fpm is started with: the text of its configuration, its arguments
//! and its environment.
//!
//! **Several sockets.** A pool of php-fpm listens at one address. A pool of
//! howdah with several gets one section for each, with the same settings:
//! `blog`, `blog-2`, `blog-3`. They are separate pools to php-fpm: each has its
//! own `pm.max_children`, status page and workers, so that n sockets may have n
//! times as many workers (`[limits]` counts them all). php-fpm's own
//! `process.max` would bound the sum, and is left alone: with all workers on one
//! socket, a request on another was not answered within 20 s (measured, 8.2,
//! `process.max = 1`, ondemand), though the first had been idle for most of it.
//!
//! **Logs.** `error_log = /dev/null` with `-O` makes the master write to the
//! descriptor 2 it was born with, whatever that is. The access log and the slow
//! log are opened by name, as `/proc/self/fd/2`: that has to be a pipe (a socket
//! cannot be opened) which belongs to the user php-fpm runs as (fchown(2)).
//! `catch_workers_output` brings what workers print by way of the master.
//! `fastcgi.logging` is off, unless it is asked for: PHP's own messages would go
//! to the web server's log, where nobody knows the pool.
//! `systemd_interval` is not written: a php-fpm that was built without systemd
//! (the official images) refuses it as unknown. One that was built with it wakes
//! every 10 s for nothing, beside the once a second that every master wakes.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::RawFd;
use std::path::Path;
use std::time::Duration;

use super::ini::{self, Unquotable};
use super::log::{ACCESS_PREFIX, LINE_LIMIT};
use super::tenant::{TenantFile, ours};
use crate::config::pool::Pool;
use crate::config::types::Listen;

/// Where sessions and uploads go: what howdah mounts there outlives the sandbox.
const DEFAULT_SETTINGS: [(&str, &str); 4] = [
    ("session.save_path", "/var/lib/php/sessions"),
    ("upload_tmp_dir", "/var/lib/php/uploads"),
    // Debian ships 0 and a cron job that knows nothing of pools: one request in a hundred collects.
    ("session.gc_probability", "1"),
    ("session.gc_divisor", "100"),
];

/// A pool that nobody tuned: no worker without a request.
const DEFAULT_DIRECTIVES: [(&str, &str); 5] = [
    ("pm", "ondemand"),
    ("pm.max_children", "5"),
    ("pm.process_idle_timeout", "10s"),
    ("catch_workers_output", "yes"),
    ("decorate_workers_output", "no"),
];

/// What an access line says behind its prefix. `%d` in seconds, `%M` in KiB.
const ACCESS_FORMAT: &str = "%R \"%m %r%Q%q\" %s %f %ds %{kilo}MK %C%%";

/// The descriptor that howdah reads, by the name that a file needs.
const STDERR: &str = "/proc/self/fd/2";

/// php-fpm reads times as `int` seconds; a day is longer than any drain.
const LONGEST_DRAIN: u64 = 86_400;

/// Why no configuration can be written for a pool.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfError {
    /// A directive that howdah decides itself.
    #[error("[fpm] {0}: {1}: remove it")]
    Ours(String, &'static str),
    /// A name that is none.
    #[error("[{0}] {1:?} is no name: write letters, digits, '_', '.' and '-'")]
    Name(&'static str, String),
    /// A value that php-fpm's configuration cannot carry.
    #[error("[{0}] {1}: {2}")]
    Value(&'static str, String, #[source] Unquotable),
    /// An empty environment variable.
    #[error("[fpm.env] {0}: php-fpm takes no empty value: leave the variable out")]
    EmptyVariable(String),
    /// `env[X] = $Y` (fpm_env.c, `fpm_env_conf_wp`).
    #[error(
        "[fpm.env] {0}: a value that begins with '$' names a variable of php-fpm's own environment, which is empty here: write the value"
    )]
    Variable(String),
}

/// A php-fpm configuration, and what goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration {
    /// The text of php-fpm.conf.
    pub text: String,
    /// For each listening socket, in order, its key in FPM_SOCKETS: goes into [`environment`].
    pub keys: Vec<String>,
    /// What of the tenant's own file is not in force, one line each.
    pub notices: Vec<String>,
}

/// The configuration of `pool` for `listeners` inherited sockets (in the order
/// of its `listen`), which drains for `drain` at SIGQUIT.
pub fn configuration(
    pool: &Pool,
    listeners: usize,
    drain: Duration,
    tenant: Option<&TenantFile>,
) -> Result<Configuration, ConfError> {
    let mut notices = tenant.map_or_else(Vec::new, |file| file.notices.clone());
    let section = section(pool, tenant, &mut notices)?;
    let mut text = format!(
        "; Written by howdah for pool {} ({}).\n[global]\nerror_log = /dev/null\nlog_level = notice\n\
         log_limit = {LINE_LIMIT}\ndaemonize = no\nprocess_control_timeout = {}\n",
        pool.name,
        pool.file.display().to_string().replace(char::is_control, "?"),
        drain.as_millis().div_ceil(1000).clamp(1, LONGEST_DRAIN.into()),
    );
    for entry in tenant.iter().flat_map(|file| &file.global) {
        push_line(&mut text, &entry.text);
    }
    let checks_clients = section.has("listen.allowed_clients");
    let keys: Vec<String> = (0..listeners)
        .map(|index| match pool.listen.get(index) {
            // php-fpm looks at the client's address only where its own is of that kind (fpm_php.c,
            // fpm_php_set_allowed_clients), and asks a socket of that kind for TCP_INFO every second.
            Some(Listen::Tcp(_)) | None if checks_clients => format!("127.0.0.1:{}", index + 1),
            _ => key(index),
        })
        .collect();
    for (index, key) in keys.iter().enumerate() {
        section.write(&mut text, pool, index, key);
    }
    Ok(Configuration { text, keys, notices })
}

/// The key of the `index`th listening socket (from 0): a path that exists in no
/// file system, for php-fpm unlinks the path in the key when it ends.
pub fn key(index: usize) -> String {
    match index {
        0 => "/run/howdah/none.sock".to_owned(),
        _ => format!("/run/howdah/none-{}.sock", index + 1),
    }
}

/// Lines of a section: the key that two lines may not share, and the line.
type Lines = Vec<(String, String)>;

/// A pool section without its name and `listen`.
struct Section(Lines);

impl Section {
    fn has(&self, key: &str) -> bool {
        self.0.iter().any(|(ours, _)| ours == key)
    }

    fn write(&self, text: &mut String, pool: &Pool, index: usize, key: &str) {
        match index {
            0 => push_line(text, &format!("[{}]", pool.name)),
            _ => push_line(text, &format!("[{}-{}]", pool.name, index + 1)),
        }
        push_line(text, &format!("listen = {key}"));
        for (key, line) in &self.0 {
            // An address of its own: php-fpm refuses it in a second pool.
            if index == 0 || key != "pm.status_listen" {
                push_line(text, line);
            }
        }
    }
}

fn push_line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

/// The one place where three voices become one: the pool file speaks first, then
/// the tenant's own file, then howdah's defaults.
fn section(
    pool: &Pool,
    tenant: Option<&TenantFile>,
    notices: &mut Vec<String>,
) -> Result<Section, ConfError> {
    let mut lines = Vec::new();
    let directives = directives(pool, tenant)?;
    for (name, value) in &directives {
        let value =
            ini::directive(&named(value, pool)).map_err(|e| ConfError::Value("fpm", name.clone(), e))?;
        lines.push((name.clone(), format!("{name} = {value}")));
    }
    let (settings, names) = settings(pool)?;
    lines.extend(settings);
    lines.extend(variables(pool)?);
    let mut tenants = BTreeSet::new();
    for (file, entry) in tenant.iter().flat_map(|file| file.pool.iter().map(move |entry| (file, entry))) {
        let setting = entry.setting();
        if lines.iter().any(|(key, _)| *key == entry.key) || setting.is_some_and(|name| names.contains(name))
        {
            notices.push(file.notice(entry, "the pool file says otherwise"));
            continue;
        }
        tenants.extend(setting);
        lines.push((entry.key.clone(), entry.text.clone()));
    }
    for (name, value) in DEFAULT_DIRECTIVES {
        if !lines.iter().any(|(key, _)| key == name) {
            lines.push((name.to_owned(), format!("{name} = {value}")));
        }
    }
    for (name, value) in DEFAULT_SETTINGS {
        if !names.contains(name) && !tenants.contains(name) {
            lines.push((name.to_owned(), format!("php_value[{name}] = '{value}'")));
        }
    }
    if !names.contains("fastcgi.logging") && !tenants.contains("fastcgi.logging") {
        lines.push(("fastcgi.logging".to_owned(), "php_admin_flag[fastcgi.logging] = no".to_owned()));
    }
    Ok(Section(lines))
}

/// The directives of the pool file, with the logs it asks for.
fn directives(pool: &Pool, tenant: Option<&TenantFile>) -> Result<BTreeMap<String, String>, ConfError> {
    let mut directives = pool.fpm.directives.clone();
    for name in directives.keys() {
        if let Some(why) = ours(&name.to_ascii_lowercase()) {
            return Err(ConfError::Ours(name.clone(), why));
        }
        if !ini::is_setting(name) {
            return Err(ConfError::Name("fpm", name.clone()));
        }
    }
    if pool.fpm.access_log {
        let format = directives.get("access.format").map_or(ACCESS_FORMAT, String::as_str);
        let format = format!("{ACCESS_PREFIX}{format}");
        directives.insert("access.format".to_owned(), format);
        directives.insert("access.log".to_owned(), STDERR.to_owned());
    }
    let tenants = |key: &str| tenant.is_some_and(|file| file.pool.iter().any(|entry| entry.key == key));
    let slow = directives.contains_key("request_slowlog_timeout") || tenants("request_slowlog_timeout");
    if slow && !tenants("slowlog") {
        directives.entry("slowlog".to_owned()).or_insert_with(|| STDERR.to_owned());
    }
    Ok(directives)
}

/// The lines of `[php.value]` and its kin, and the names of all settings in them.
fn settings(pool: &Pool) -> Result<(Lines, BTreeSet<&str>), ConfError> {
    let mut lines = Vec::new();
    let mut names = BTreeSet::new();
    for (array, table, values) in [
        ("php_value", "php.value", &pool.php.value),
        ("php_admin_value", "php.admin_value", &pool.php.admin_value),
    ] {
        for (name, value) in values {
            let value = ini::setting(name, &named(value, pool))
                .map_err(|error| ConfError::Value(table, name.clone(), error))?;
            add_setting(&mut lines, (array, table, name), &value)?;
            names.insert(name.as_str());
        }
    }
    for (array, table, flags) in
        [("php_flag", "php.flag", &pool.php.flag), ("php_admin_flag", "php.admin_flag", &pool.php.admin_flag)]
    {
        for (name, on) in flags {
            add_setting(&mut lines, (array, table, name), if *on { "yes" } else { "no" })?;
            names.insert(name.as_str());
        }
    }
    Ok((lines, names))
}

fn add_setting(
    lines: &mut Lines,
    (array, table, name): (&str, &'static str, &str),
    value: &str,
) -> Result<(), ConfError> {
    if !ini::is_setting(name) {
        return Err(ConfError::Name(table, name.to_owned()));
    }
    lines.push((format!("{array}[{name}]"), format!("{array}[{name}] = {value}")));
    Ok(())
}

/// The lines of `[fpm.env]`.
fn variables(pool: &Pool) -> Result<Lines, ConfError> {
    let line = |(name, value): (&String, &String)| {
        if !ini::is_variable(name) {
            return Err(ConfError::Name("fpm.env", name.clone()));
        }
        match value.chars().next() {
            None => return Err(ConfError::EmptyVariable(name.clone())),
            Some('$') => return Err(ConfError::Variable(name.clone())),
            Some(_) => {}
        }
        let value = ini::quote(&named(value, pool))
            .map_err(|error| ConfError::Value("fpm.env", name.clone(), error))?;
        Ok((format!("env[{name}]"), format!("env[{name}] = {value}")))
    };
    pool.fpm.env.iter().map(line).collect()
}

/// `value` with `$pool` replaced as php-fpm would, but by the same name in every
/// section (fpm_conf.c, `fpm_conf_expand_pool_name`).
fn named(value: &str, pool: &Pool) -> String {
    value.replace("$pool", pool.name.as_str())
}

/// php-fpm's arguments, its own name first: in the foreground, its log on the
/// inherited stderr (`-O`), the configuration from `conf_path`.
pub fn command(binary: &Path, conf_path: &Path) -> Vec<String> {
    [&*binary.to_string_lossy(), "-F", "-O", "-y", &*conf_path.to_string_lossy()].map(str::to_owned).to_vec()
}

/// php-fpm's environment: FPM_SOCKETS (each key and its descriptor inside),
/// PATH, and PHP_INI_SCAN_DIR when extensions are limited. Nothing of howdah's
/// own environment is in it; workers get none of it unless `clear_env = no`.
pub fn environment(listeners: &[(String, RawFd)], scan_dir: Option<&Path>) -> Vec<(String, String)> {
    let sockets: Vec<String> = listeners.iter().map(|(key, fd)| format!("{key}={fd}")).collect();
    let mut environment = vec![
        ("PATH".to_owned(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
        ("FPM_SOCKETS".to_owned(), sockets.join(",")),
    ];
    if let Some(directory) = scan_dir {
        environment.push(("PHP_INI_SCAN_DIR".to_owned(), directory.to_string_lossy().into_owned()));
    }
    environment
}
