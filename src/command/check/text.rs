//! What `howdah check` prints for people.

use super::{Report, Told};
use crate::config::settings::Setting;
use crate::sandbox::landlock;
use crate::sandbox::seccomp::Allowed;

/// Everything, a person's way; `explain` adds every setting and its place.
pub(super) fn print(report: &Report, explain: bool) {
    let host = &report.host;
    let yes = |on: bool| if on { "yes" } else { "NO" };
    println!("host");
    println!("  kernel            {}", host.kernel);
    println!("  user namespaces   {}", yes(host.user_namespaces));
    println!("  seccomp           {}", yes(host.seccomp));
    match host.landlock_abi {
        0 => println!(
            "  Landlock          NO: {}",
            landlock::demand(1).err().map_or(String::new(), |e| e.to_string())
        ),
        abi => println!("  Landlock          ABI {abi}"),
    }
    let controllers = match host.cgroup_controllers.as_slice() {
        [] => "no controllers: limits of memory, processes and CPU cannot be set".to_owned(),
        some => some.join(" "),
    };
    match &host.cgroup {
        Some(mount) => println!("  cgroup v2         {mount} ({controllers})"),
        None => println!("  cgroup v2         NO: pools are frozen by SIGSTOP and have no limits"),
    }
    println!("  php-fpm           {}", host.php_fpm.as_deref().unwrap_or("none (apt-get install php-fpm)"));
    println!("  runs as           {}", if host.root { "root" } else { "an unprivileged user (rootless)" });
    match &report.no_templates {
        None => println!("  templates         {} of each class of pools", report.templates),
        Some(why) => println!("  templates         NO: {}", why.trim_start_matches("no templates: ")),
    }
    report.pools.iter().filter(|pool| pool.errors.is_empty()).for_each(|pool| print_pool(pool, explain));
    for notice in &report.notices {
        println!("notice: {notice}");
    }
}

fn print_pool(pool: &Told, explain: bool) {
    println!("pool {}", pool.pool);
    println!("  listens on        {}", pool.listen.join(", "));
    let php = pool.php.as_deref().map(|version| format!(", php-fpm {version}")).unwrap_or_default();
    println!("  runs              as {}, image {}{php}", pool.user, pool.image);
    if !pool.profile.is_empty() {
        let weaker = match pool.weakened.as_slice() {
            [] => String::new(),
            some => format!(", WEAKENED: {}", some.join("; ")),
        };
        println!("  profile           {}{weaker}", pool.profile);
        if !pool.stricter.is_empty() {
            println!("  stricter          {}", pool.stricter.join("; "));
        }
        if let Some(Allowed { calls, by_arguments }) = pool.system_calls {
            let execve = if pool.execve == "once" { "; no program after php-fpm" } else { "" };
            println!(
                "  system calls      {calls} allowed, {by_arguments} of them by their arguments{execve}"
            );
        }
        println!("  network           {}", pool.network);
        match pool.always_cold {
            None => println!("  class             {} (for [serve] templates)", pool.class),
            Some(why) => println!("  class             none, it always starts cold: {why}"),
        }
        match pool.landlock_abi {
            0 => println!("  Landlock          off"),
            abi => println!("  Landlock          ABI {abi} (demanded: {})", pool.landlock_abi_demanded),
        }
        let in_force = |key: &String| !pool.limits_not_in_force.contains(key);
        let limits: Vec<_> = pool
            .limits
            .iter()
            .filter(|(key, _)| in_force(key))
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        println!(
            "  limits in force   {}",
            if limits.is_empty() { "none by cgroup".to_owned() } else { limits.join(" ") }
        );
        if !pool.limits_not_in_force.is_empty() {
            println!(
                "  not in force      {} (default limits; no controller)",
                pool.limits_not_in_force.join(" ")
            );
        }
    }
    for notice in &pool.notices {
        println!("  notice: {notice}");
    }
    if explain {
        print_settings(&pool.settings);
    }
}

/// Every setting, one a line, its place behind it.
fn print_settings(settings: &[Setting]) {
    let shown: Vec<(String, &Setting)> = settings
        .iter()
        .map(|setting| {
            let value = &setting.value;
            // Lists of paths are for --json.
            let cut = value.char_indices().nth(48).map(|(at, _)| format!("{}...", &value[..at]));
            (format!("{} = {}", setting.key, cut.as_deref().unwrap_or(value)), setting)
        })
        .collect();
    let width = shown.iter().map(|(text, _)| text.chars().count()).max().unwrap_or(0);
    println!("  settings");
    for (text, setting) in shown {
        println!("    {text:width$}  {}", setting.from);
    }
}
