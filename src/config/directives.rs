//! php-fpm's directives of a pool section: one table of those that a pool
//! file may set, one of those that are howdah's job, and each value in the
//! words of php-fpm (quoting is for whoever writes its configuration).
//!
//! Only what would break the configuration is refused here; whether the
//! values go together is php-fpm's own to say.

use super::keys;
use super::shapes::Plain;
use super::types::{AbsPath, Invalid, parse_duration};

/// One directive of php-fpm.
#[derive(Debug)]
pub struct Directive {
    /// Its key in `[fpm]`.
    pub key: &'static str,
    /// Its name in php-fpm's configuration.
    pub name: &'static str,
    /// What its value is.
    pub kind: DirectiveKind,
    /// The first PHP that knows it, where that is later than 7.4.
    pub since: Option<(u8, u8)>,
}

/// What a directive's value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirectiveKind {
    /// A whole number.
    Count,
    /// Whole seconds: `"10s"`, `"5m"`, or a number of them.
    Seconds,
    /// `true` or `false`.
    Switch,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// An absolute path inside.
    Path,
    /// Text.
    Text,
    /// Words, a list or one string.
    Words,
}

use DirectiveKind::{Count, OneOf, Path, Seconds, Switch, Text, Words};

const fn directive(key: &'static str, name: &'static str, kind: DirectiveKind) -> Directive {
    Directive { key, name, kind, since: None }
}

const fn since(php: (u8, u8), directive: Directive) -> Directive {
    Directive { since: Some(php), ..directive }
}

/// The directives that a pool file may set.
pub const TABLE: &[Directive] = &[
    directive("pm", "pm", OneOf(&["static", "dynamic", "ondemand"])),
    directive("max_children", "pm.max_children", Count),
    directive("start_servers", "pm.start_servers", Count),
    directive("min_spare_servers", "pm.min_spare_servers", Count),
    directive("max_spare_servers", "pm.max_spare_servers", Count),
    since((8, 1), directive("max_spawn_rate", "pm.max_spawn_rate", Count)),
    directive("process_idle_timeout", "pm.process_idle_timeout", Seconds),
    directive("max_requests", "pm.max_requests", Count),
    directive("status_path", "pm.status_path", Text),
    directive("ping_path", "ping.path", Text),
    directive("ping_response", "ping.response", Text),
    directive("access_format", "access.format", Text),
    // One path: a directive here has one value. php-fpm wants it written "name[] = value".
    since((8, 2), directive("access_suppress_path", "access.suppress_path", Text)),
    directive("request_slowlog_timeout", "request_slowlog_timeout", Seconds),
    directive("request_slowlog_trace_depth", "request_slowlog_trace_depth", Count),
    directive("request_terminate_timeout", "request_terminate_timeout", Seconds),
    directive("request_terminate_timeout_track_finished", "request_terminate_timeout_track_finished", Switch),
    directive("catch_workers_output", "catch_workers_output", Switch),
    directive("decorate_workers_output", "decorate_workers_output", Switch),
    directive("clear_env", "clear_env", Switch),
    directive("security_limit_extensions", "security.limit_extensions", Words),
    directive("chdir", "chdir", Path),
];

/// Directives that are howdah's job (a name, or with a star the beginning of
/// names), and what to do instead.
const REFUSED: &[(&str, &str)] = &[
    ("access.log", "write access_log = true: the lines come out with howdah's log"),
    ("apparmor_hat", "leave it out: the profile says what confines a pool"),
    ("chroot", "write image and [[mount]]: the sandbox has a root of its own"),
    ("daemonize", "leave it out: howdah keeps php-fpm in the foreground"),
    ("emergency_restart*", "leave it out: howdah starts a pool that fails again"),
    ("error_log", "leave it out: php-fpm's log comes out with howdah's"),
    ("group", "write user at the top of the file: it runs with that account's group"),
    ("include", "write config to bring a whole php-fpm configuration"),
    ("listen*", "write listen and [socket]: howdah makes the socket"),
    ("log_l*", "leave it out: php-fpm's log comes out with howdah's"),
    ("php_admin_flag*", "write it in [php.admin_flag]"),
    ("php_admin_value*", "write it in [php.admin_value]"),
    ("php_flag*", "write it in [php.flag]"),
    ("php_value*", "write it in [php.value]"),
    ("pid", "leave it out: howdah knows its processes"),
    ("pm.status_listen", "write status_path: howdah makes the sockets"),
    ("prefix", "write absolute paths"),
    ("process.*", "write cpu_weight in [limits]"),
    ("process_control_timeout", "write drain in [serve] of howdah.toml"),
    ("rlimit_core", "leave it out: a sandbox writes no core files"),
    ("rlimit_files", "write open_files in [limits]"),
    ("slowlog", "write request_slowlog_timeout: the slow log comes out with howdah's log"),
    ("status_listen", "write status_path: howdah makes the sockets"),
    ("syslog*", "leave it out: php-fpm's log comes out with howdah's"),
    ("user", "write user at the top of the file"),
];

/// The directive that `key` names, by its key or by php-fpm's own name; or
/// what to say after `fpm.KEY`.
pub(super) fn find(key: &str) -> Result<&'static Directive, String> {
    let bare = |directive: &&Directive| directive.name == key || directive.key == key;
    if let Some(directive) = TABLE.iter().find(bare) {
        return Ok(directive);
    }
    let refused = |(name, _): &&(&str, &str)| match name.strip_suffix('*') {
        Some(beginning) => key.starts_with(beginning),
        None => key == *name,
    };
    if let Some((_, instead)) = REFUSED.iter().find(refused) {
        return Err(format!("\"fpm.{key}\" is not set here: {instead}"));
    }
    let own = ["binary", "config", "access_log", "env"];
    Err(match keys::nearest(key, TABLE.iter().flat_map(|d| [d.key, d.name]).chain(own)) {
        Some(meant) => format!("unknown key \"fpm.{key}\": did you mean \"fpm.{meant}\"?"),
        None => format!("unknown key \"fpm.{key}\": php-fpm has no such directive for a pool"),
    })
}

impl Directive {
    /// `value` in php-fpm's words, unquoted.
    pub(super) fn written(&self, value: &Plain) -> Result<String, Invalid> {
        match (self.kind, value) {
            (Count, Plain::Whole(n @ 0..=2_147_483_647)) => Ok(n.to_string()),
            (Count, Plain::Whole(n)) => {
                Err(Invalid::new(format!("must be between 0 and 2147483647, found {n}")))
            }
            (Seconds, Plain::Whole(n @ 0..=2_147_483_647)) => Ok(format!("{n}s")),
            (Seconds, Plain::Text(text)) => whole_seconds(text),
            (Switch, Plain::Bool(on)) => Ok(if *on { "yes" } else { "no" }.into()),
            (OneOf(words), Plain::Text(text)) if words.contains(&text.as_str()) => Ok(text.clone()),
            (OneOf(words), Plain::Text(text)) => {
                Err(Invalid::new(format!("must be one of {}, found {text:?}", words.join(", "))))
            }
            (Path, Plain::Text(text)) => Ok(text.parse::<AbsPath>()?.to_string()),
            (Text | Words, Plain::Text(text)) => one_line(text).map(str::to_owned),
            (Words, Plain::List(words)) => one_line(&words.join(" ")).map(str::to_owned),
            (kind, value) => Err(Invalid::new(format!("must be {}, found {}", kind.told(), value.told()))),
        }
    }
}

impl DirectiveKind {
    fn told(self) -> &'static str {
        match self {
            Count => "a whole number",
            Seconds => "a time span in whole seconds, such as \"30s\"",
            Switch => "true or false",
            OneOf(_) | Text => "a string",
            Path => "an absolute path",
            Words => "a string or a list of strings",
        }
    }
}

impl Plain {
    /// What kind of value it is, for a message.
    pub(super) fn told(&self) -> &'static str {
        match self {
            Self::Bool(_) => "true or false",
            Self::Whole(_) => "a whole number",
            Self::Number(_) => "a number with a fraction",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
        }
    }
}

/// php-fpm's times are whole seconds and one unit.
fn whole_seconds(text: &str) -> Result<String, Invalid> {
    let span = parse_duration(text)?;
    if span.subsec_nanos() != 0 {
        return Err(Invalid::new(format!("must be whole seconds, found {text:?}")));
    }
    Ok(format!("{}s", span.as_secs()))
}

/// `text`, if a line of php-fpm's configuration can carry it.
pub(super) fn one_line(text: &str) -> Result<&str, Invalid> {
    match text.chars().find(|c| c.is_control()) {
        Some(c) => Err(Invalid::new(format!("must be one line of text, found {c:?} in it"))),
        None => Ok(text),
    }
}
