//! Limits in the words of php-fpm and PHP.

use super::{Effect, Reason, Witness};
use crate::fpm::log::{Kind, Line};

/// A piece of a line, the limit that it tells of, and what that did. The first that fits counts.
const WORDS: [(&str, &str, Effect); 9] = [
    // fpm_request.c
    (" execution timed out (", "request_terminate_timeout", Effect::Ended),
    // fpm_process_ctl.c
    ("server reached pm.max_children setting", "max_children", Effect::Held),
    // fpm_children.c: EAGAIN of fork(2)
    ("fork() failed: Resource temporarily unavailable", "tasks", Effect::Refused),
    // proc_open.c and exec.c: what else than a limit makes fork(2) fail?
    ("proc_open(): Fork failed", "tasks", Effect::Refused),
    ("exec(): Unable to fork [", "tasks", Effect::Refused),
    // zend_alloc.c
    ("PHP Fatal error:  Allowed memory size of ", "memory_limit", Effect::Ended),
    // zend_execute_API.c
    ("PHP Fatal error:  Maximum execution time of ", "max_execution_time", Effect::Ended),
    // EMFILE
    ("Too many open files", "open_files", Effect::Refused),
    // EFBIG, where SIGXFSZ is ignored
    ("File too large", "file_size", Effect::Refused),
];

/// Signals that are a limit's, by signal(7): number, limit, what to say.
const SIGNALS: [(u32, &str, &str); 3] = [
    (31, "seccomp", "a system call that the filter does not allow"),
    (25, "file_size", "a file longer than limits.file_size"),
    (24, "cpu_time", "more processor time than limits.cpu_time"),
];

/// What PHP says where execve(2) is ENOSYS: file.c, exec.c and mail.c of what they start by popen(3),
/// and proc_open.c, which since PHP 8.3 spawns.
const NO_PROGRAM: [&str; 6] = [
    "mail(): Could not execute mail delivery program '",
    "PHP Warning:  popen(",
    "exec(): Unable to fork [",
    "shell_exec(): Unable to execute '",
    "proc_open(): Exec failed: Function not implemented",
    "proc_open(): posix_spawn() failed: Function not implemented",
];

/// The limit that a line of a pool's log tells of; `once`: whether its profile lets php-fpm
/// be executed and nothing after it, which is then why no program can be started.
pub fn said(line: &Line, once: bool) -> Option<Reason> {
    if matches!(line.kind, Kind::Access | Kind::Slow | Kind::Ready) {
        return None;
    }
    let text = &line.text;
    if let Some((limit, what)) = signal(line) {
        let detail = format!("a worker was ended: {what}");
        return Some(Reason::new(limit, Effect::Ended, Witness::Pool, detail));
    }
    if once && NO_PROGRAM.iter().any(|words| text.contains(words)) {
        let detail = format!("execve = \"once\" in the profile lets no program be started: {text}");
        return Some(Reason::new("seccomp", Effect::Refused, Witness::Pool, detail).of("execve"));
    }
    let (_, limit, effect) = WORDS.iter().find(|(words, _, _)| text.contains(words))?;
    Some(Reason::new(limit, *effect, Witness::Pool, text.clone()))
}

/// Whether a line tells that some file system is full: then it is worth a look which.
pub fn says_full(line: &Line) -> bool {
    line.text.contains("No space left on device")
}

/// "[pool blog] child 12 exited on signal 31 (SIGSYS) after 0.2 seconds from start" (fpm_children.c).
fn signal(line: &Line) -> Option<(&'static str, &'static str)> {
    let tail = line.text.strip_prefix("[pool ")?.split_once("] child ")?.1;
    let number = tail.split_once(" exited on signal ")?.1;
    let number: u32 = number.split(' ').next()?.parse().ok()?;
    SIGNALS.iter().find(|(known, _, _)| *known == number).map(|(_, limit, what)| (*limit, *what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fpm::log::classify;

    fn limit(line: &str) -> Option<(&'static str, Effect)> {
        said(&classify(line), false).map(|reason| (reason.limit, reason.effect))
    }

    #[test]
    fn where_nothing_is_executed_after_php_fpm_that_is_why_nothing_is() {
        let line = "PHP Warning:  exec(): Unable to fork [convert] in /srv/a.php on line 1";
        assert_eq!(limit(line), Some(("tasks", Effect::Refused)));
        let reason = said(&classify(line), true).unwrap();
        assert_eq!(
            (reason.limit, reason.effect, reason.subject.as_str()),
            ("seccomp", Effect::Refused, "execve")
        );
        assert!(
            reason.is_common() && reason.detail.contains("Unable to fork [convert]"),
            "{}",
            reason.detail
        );
        let full =
            "[21-Nov-2026 06:30:36] WARNING: [pool a] fork() failed: Resource temporarily unavailable (11)";
        assert_eq!(said(&classify(full), true).unwrap().limit, "tasks");
    }

    #[test]
    fn php_fpms_words_for_its_limits() {
        let stamped = |text: &str| limit(&format!("[21-Nov-2026 06:30:36] WARNING: {text}"));
        for (text, wanted) in [
            ("[pool a] child 7 exited on signal 31 (SIGSYS) after 0.1 seconds from start", "seccomp"),
            (
                "[pool a] child 7 exited on signal 25 (SIGXFSZ - core dumped) after 1 seconds from start",
                "file_size",
            ),
            ("[pool a] child 7 exited on signal 24 (SIGXCPU) after 1 seconds from start", "cpu_time"),
            (
                "[pool a] child 7, script '/srv/a.php' (request: \"GET /a.php\") execution timed out (3.0 sec), terminating",
                "request_terminate_timeout",
            ),
        ] {
            assert_eq!(stamped(text), Some((wanted, Effect::Ended)), "{text}");
        }
        assert_eq!(
            stamped("[pool a] server reached pm.max_children setting (5), consider raising it"),
            Some(("max_children", Effect::Held))
        );
        assert_eq!(
            stamped("[pool a] fork() failed: Resource temporarily unavailable (11)"),
            Some(("tasks", Effect::Refused))
        );
        // Who else has killed a worker is not for the log to say: memory.events tells of the one case.
        for text in [
            "[pool a] child 7 exited on signal 9 (SIGKILL) after 1 seconds from start",
            "[pool a] child 7 exited on signal 11 (SIGSEGV) after 1 seconds from start",
            "[pool a] child 7 exited on signal  (SIGSYS)",
            "[pool a] child 7 exited with code 0 after 1 seconds from start",
        ] {
            assert_eq!(stamped(text), None, "{text}");
        }
    }

    #[test]
    fn phps_words_for_its_limits() {
        let memory =
            "PHP Fatal error:  Allowed memory size of 134217728 bytes exhausted (tried to allocate 9 bytes)";
        assert_eq!(limit(memory), Some(("memory_limit", Effect::Ended)));
        assert_eq!(limit(&format!("NOTICE: PHP message: {memory}")), Some(("memory_limit", Effect::Ended)));
        let files = "PHP Warning:  fopen(/tmp/a): Failed to open stream: Too many open files in /srv/a.php";
        assert_eq!(limit(files), Some(("open_files", Effect::Refused)));
        assert_eq!(limit("howdah-access: GET /Too many open files"), None);
        assert_eq!(limit("nothing of the kind"), None);
        assert!(says_full(&classify("PHP Notice:  fwrite(): No space left on device")));
    }
}
