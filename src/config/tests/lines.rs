//! Each rule, and the exact line that its breach prints.

use std::path::Path;

use super::super::{Defaults, load};
use super::{accounts, parse, parse_more, without_root};

/// Lines 1 and 2 are `listen` and `user`; the text begins at line 3.
#[track_caller]
fn refused(more: &str, line: &str) {
    assert_eq!(parse_more(more).expect_err("the file was taken"), line);
}

#[track_caller]
fn refused_whole(text: &str, line: &str) {
    assert_eq!(parse(text).expect_err("the file was taken"), line);
}

#[track_caller]
fn refused_howdah(text: &str, line: &str) {
    let error = load::parse_serve(text, Path::new("/h.toml"), &accounts()).expect_err("the file was taken");
    assert_eq!(error.to_string(), line);
}

#[test]
fn unknown_keys() {
    refused_whole(
        "user = \"blog\"\n\nlisen = \"/run/a.sock\"\n",
        "/p/blog.toml:3: unknown key \"lisen\": did you mean \"listen\"?",
    );
    refused(
        "[limits]\ntmp = \"1M\"\nmemroy = \"64M\"\n",
        "/p/blog.toml:5: unknown key \"limits.memroy\": did you mean \"limits.memory\"?",
    );
    refused(
        "[[mount]]\nsource = \"/a\"\n[[mount]]\nsorce = \"/b\"\n",
        "/p/blog.toml:6: unknown key \"mount.sorce\": did you mean \"mount.source\"?",
    );
    refused(
        "limits.taks = 5\n",
        "/p/blog.toml:3: unknown key \"limits.taks\": did you mean \"limits.tasks\"?",
    );
    refused("memory = \"64M\"\n", "/p/blog.toml:3: unknown key \"memory\": \"memory\" belongs in [limits]");
    refused("access = \"rw\"\n", "/p/blog.toml:3: unknown key \"access\": \"access\" belongs in [[mount]]");
    refused(
        "max_children = 5\n",
        "/p/blog.toml:3: unknown key \"max_children\": \"max_children\" belongs in [fpm]",
    );
    refused(
        "[idle]\nprofile = \"strict\"\n",
        "/p/blog.toml:4: unknown key \"idle.profile\": \"profile\" belongs above the first [table]",
    );
    refused(
        "[network]\nresolver = \"1.1.1.1\"\n",
        "/p/blog.toml:4: unknown key \"network.resolver\": the keys here are mode, allow, dns, connect, bind, sockets",
    );
    refused("[limit]\ntasks = 5\n", "/p/blog.toml:3: unknown key \"limit\": did you mean \"limits\"?");
    refused(
        "\"a\\nb\" = 1\n",
        "/p/blog.toml:3: unknown key \"a\\nb\": the keys here are listen, user, image, \
        profile, engine, socket, mount, idle, limits, network, fpm, php, start",
    );
}

#[test]
fn wrong_types() {
    refused(
        "\n\n\n[limits]\ntasks = \"64\"\n",
        "/p/blog.toml:7: limits.tasks must be a whole number, found a string",
    );
    refused(
        "[limits]\ntasks = 1.5\n",
        "/p/blog.toml:4: limits.tasks must be a whole number, found a number with a fraction",
    );
    refused(
        "[limits]\nmemory = true\n",
        "/p/blog.toml:4: limits.memory must be a size, such as \"256M\", found true or false",
    );
    refused(
        "[limits]\ncpu = \"1\"\n",
        "/p/blog.toml:4: limits.cpu must be a number of cores, such as 0.5, found a string",
    );
    refused(
        "[socket]\nmode = 660\n",
        "/p/blog.toml:4: socket.mode must be octal digits in quotes, such as \"0660\", found a whole number",
    );
    refused(
        "[idle]\nstop = 60\n",
        "/p/blog.toml:4: idle.stop must be a time span, such as \"30s\", or \"never\", found a whole number",
    );
    refused(
        "[fpm]\naccess_log = \"yes\"\n",
        "/p/blog.toml:4: fpm.access_log must be true or false, found a string",
    );
    refused("limits = [\"64M\"]\n", "/p/blog.toml:3: limits must be a table, found a list");
    refused("fpm = 5\n", "/p/blog.toml:3: fpm must be a table, found a whole number");
    refused(
        "image = { a = 1 }\n",
        "/p/blog.toml:3: image must be \"host\" or an absolute path, found a table",
    );
    refused("[mount]\nsource = \"/a\"\n", "/p/blog.toml:3: mount must be a list of tables: write [[mount]]");
    refused("mount = [\"/a\"]\n", "/p/blog.toml:3: mount must be a list of tables: write [[mount]]");
    refused("[php]\nextensions = \"gd\"\n", "/p/blog.toml:4: php.extensions must be a list, found a string");
    refused(
        "[php]\nextensions = [\n\"gd\",\n5]\n",
        "/p/blog.toml:6: php.extensions must be a string, found a whole number",
    );
    refused(
        "[php.flag]\ndisplay_errors = \"off\"\n",
        "/p/blog.toml:4: php.flag.display_errors must be true or false, found a string",
    );
    refused_whole(
        "user = 5\nlisten = \"/a\"\n",
        "/p/blog.toml:1: user must be a string, found a whole number",
    );
    refused_whole(
        "listen = 9000\n",
        "/p/blog.toml:1: listen must be an address or a list of addresses, found a whole number",
    );
    refused_whole(
        "listen = [\n\"/a\",\n2]\n",
        "/p/blog.toml:3: listen must be an address or a list of addresses, found a whole number",
    );
}

#[test]
fn dates() {
    refused(
        "[limits]\n\nmemory = 1979-05-27\n",
        "/p/blog.toml:5: limits.memory must not be a date: write it in quotes",
    );
    refused(
        "fpm.env = [{ A = 1979-05-27 }]\n",
        "/p/blog.toml:3: fpm.env.A must not be a date: write it in quotes",
    );
}

#[test]
fn text_that_is_no_toml() {
    refused("user = \"blog\"\n", "/p/blog.toml:3: user is set twice: keep one");
    refused("[idle]\n[idle]\n", "/p/blog.toml:4: idle is set twice: keep one");
    refused("profile = \"host\n", "/p/blog.toml:3: not TOML: invalid basic string, expected `\"`");
    refused("profile hosting\n", "/p/blog.toml:3: not TOML: key with no value, expected `=`");
    refused("[socket]\nmode = 0660\n", "/p/blog.toml:4: not TOML: unexpected leading zero");
}

#[test]
fn what_must_be_there() {
    refused_whole(
        "user = \"blog\"\n",
        "/p/blog.toml: listen is missing: name a socket, such as listen = \"/run/howdah/blog.sock\"",
    );
    refused_whole(
        "",
        "/p/blog.toml: listen is missing: name a socket, such as listen = \"/run/howdah/blog.sock\"",
    );
    refused_whole(
        "listen = \"/a\"\n",
        "/p/blog.toml: user is missing: name the host account that its php-fpm runs as",
    );
    refused("[[mount]]\naccess = \"rw\"\n", "/p/blog.toml:3: mount.source is missing");
    refused_whole("user = \"blog\"\nlisten = []\n", "/p/blog.toml:2: listen is an empty list: name a socket");
}

#[test]
fn pool_names() {
    let named = |file: &str| {
        let text = "listen = \"/a\"\nuser = \"blog\"\n";
        load::parse_pool(text, Path::new(file), &Defaults::default(), &accounts()).unwrap_err().to_string()
    };
    assert_eq!(
        named("/p/My Blog.toml"),
        "/p/My Blog.toml: \"My Blog\" is no pool name: 1 to 63 of a-z, 0-9, '_' and '-', starting with a letter or digit: rename the file"
    );
    assert_eq!(
        named("/p/a\nb.toml"),
        "/p/a\\nb.toml: \"a\\nb\" is no pool name: 1 to 63 of a-z, 0-9, '_' and '-', starting with a letter or digit: rename the file"
    );
}

#[test]
fn addresses() {
    let long = format!("/run/{}", "a".repeat(110));
    refused_whole(
        &format!("listen = \"{long}\"\n"),
        &format!(
            "/p/blog.toml:1: listen: socket path {long} is 115 bytes long: the kernel takes at most 107 (unix(7)): shorten it"
        ),
    );
    refused_whole(
        "listen = \"run/a.sock\"\n",
        "/p/blog.toml:1: listen: \"run/a.sock\" is no address: write an absolute path, \"127.0.0.1:9001\" or \"[::1]:9001\"",
    );
    refused_whole(
        "listen = \"/\"\n",
        "/p/blog.toml:1: listen: \"/\" names no socket: write a path below a directory",
    );
    refused_whole(
        "listen = \"127.0.0.1:0\"\n",
        "/p/blog.toml:1: listen: \"127.0.0.1:0\" has port 0, another one at each start: write a port",
    );
    refused_whole(
        "listen = [\n  \"/run/a.sock\",\n  \"[::1]:9001\",\n  \"/run//a.sock\",\n]\nuser = \"blog\"\n",
        "/p/blog.toml:4: listen names /run/a.sock twice: keep one",
    );
    refused_whole(
        "listen = [\n  \"/run/a.sock\",\n  \"localhost:9001\"]\n",
        "/p/blog.toml:3: listen: \"localhost:9001\" is no address: write an absolute path, \"127.0.0.1:9001\" or \"[::1]:9001\"",
    );
}

#[test]
fn accounts_of_the_host() {
    let user = |name: &str| format!("listen = \"/a\"\nuser = \"{name}\"\n");
    refused_whole(
        &user("nobodyx"),
        "/p/blog.toml:2: user \"nobodyx\" does not exist on this host: create it or name another",
    );
    refused_whole(&user("root"), "/p/blog.toml:2: user \"root\" is root: name an unprivileged account");
    refused_whole(
        &user("operator"),
        "/p/blog.toml:2: user \"operator\" has root's group (gid 0): name an account with a group of its own",
    );
    refused(
        "[socket]\nowner = \"x\"\n",
        "/p/blog.toml:4: socket.owner \"x\" does not exist on this host: create it or name another",
    );
    refused(
        "[socket]\ngroup = \"blog\"\n",
        "/p/blog.toml:4: socket.group \"blog\" does not exist on this host: create it or name another",
    );
}

#[test]
fn without_root_the_user_is_oneself() {
    let parse = |text: &str| {
        load::parse_pool(text, Path::new("/p/blog.toml"), &Defaults::default(), &without_root())
            .map(|pool| pool.user.uid)
            .map_err(|error| error.to_string())
    };
    assert_eq!(parse("listen = \"/a\"\n"), Ok(1001));
    assert_eq!(parse("listen = \"/a\"\nuser = \"blog\"\n"), Ok(1001));
    for other in ["shop", "root"] {
        assert_eq!(
            parse(&format!("listen = \"/a\"\nuser = \"{other}\"\n")),
            Err(format!(
                "/p/blog.toml:2: user \"{other}\": without root howdah starts pools of \"blog\" alone: run it as root, or leave user out"
            ))
        );
    }
}

#[test]
fn choices() {
    refused(
        "engine = \"nspawn\"\n",
        "/p/blog.toml:3: engine: this version has no engine \"nspawn\": write \"native\"",
    );
    refused("engine = \"docker\"\n", "/p/blog.toml:3: engine must be \"native\", found \"docker\"");
    refused(
        "image = \"debian12\"\n",
        "/p/blog.toml:3: image: this version has no image store to find \"debian12\" in: write \"host\" or an absolute directory",
    );
    refused(
        "image = \"srv/root\"\n",
        "/p/blog.toml:3: image: \"srv/root\" is relative: write an absolute path",
    );
    refused(
        "profile = \"My own\"\n",
        "/p/blog.toml:3: profile: \"My own\" is no profile: write a name, such as \"hosting\", or an absolute path",
    );
    refused(
        "[network]\nmode = \"outbound\"\nallow = [\"example.org:443\"]\n",
        "/p/blog.toml:5: network.allow: \"example.org:443\" is a name, and where a name leads changes while the \
         pool runs: write its addresses or networks, such as \"203.0.113.0/24:443\", or \"*:443\"",
    );
    refused(
        "[network]\nmode = \"outbound\"\nallow = []\n",
        "/p/blog.toml:5: network.allow is an empty list: write mode = \"none\", or what is allowed",
    );
    refused(
        "[network]\nmode = \"outbound\"\nconnect = [443]\n",
        "/p/blog.toml:5: network.connect goes with mode = \"host\", and the mode is \"outbound\": \
         change the mode or take connect out",
    );
    refused(
        "[network]\ndns = false\n",
        "/p/blog.toml:4: network.dns goes with mode = \"outbound\": write that too",
    );
    refused(
        "[network]\nmode = \"host\"\nbind = [0]\n",
        "/p/blog.toml:5: network.bind must be between 1 and 65535, found 0",
    );
    refused(
        "[network]\nsockets = [\"mongodb\"]\n",
        "/p/blog.toml:4: network.sockets: \"mongodb\" is none of mysql, postgresql, redis, memcached: \
         for another socket's directory write a [[mount]]",
    );
    refused(
        "network.mode = \"bridge\"\n",
        "/p/blog.toml:3: network.mode must be \"none\", \"outbound\" or \"host\", found \"bridge\"",
    );
    refused(
        "[start]\non_failure = \"502\"\n",
        "/p/blog.toml:4: start.on_failure must be \"503\" or \"hold\", found \"502\"",
    );
    refused(
        "[[mount]]\nsource = \"/a\"\naccess = \"rx\"\n",
        "/p/blog.toml:5: mount.access must be \"ro\" or \"rw\", found \"rx\"",
    );
}

#[test]
fn ranges() {
    refused("[socket]\nbacklog = 0\n", "/p/blog.toml:4: socket.backlog must be between 1 and 65535, found 0");
    refused(
        "[socket]\nbacklog = 65536\n",
        "/p/blog.toml:4: socket.backlog must be between 1 and 65535, found 65536",
    );
    refused(
        "[limits]\ncpu_weight = 10001\n",
        "/p/blog.toml:4: limits.cpu_weight must be between 1 and 10000, found 10001",
    );
    refused(
        "[limits]\nio_weight = -1\n",
        "/p/blog.toml:4: limits.io_weight must be between 1 and 10000, found -1",
    );
    refused("[limits]\ntasks = 1\n", "/p/blog.toml:4: limits.tasks must be between 2 and 4194304, found 1");
    refused(
        "[limits]\nopen_files = 3\n",
        "/p/blog.toml:4: limits.open_files must be between 16 and 1073741816, found 3",
    );
    refused("[limits]\ncpu = 0\n", "/p/blog.toml:4: limits.cpu must be between 0.01 and 4096 cores, found 0");
    refused(
        "[limits]\ncpu = nan\n",
        "/p/blog.toml:4: limits.cpu must be between 0.01 and 4096 cores, found NaN",
    );
    refused("[limits]\nmemory = 256\n", "/p/blog.toml:4: limits.memory must be at least \"4M\", found 256");
    refused("[limits]\ncpu_time = \"500ms\"\n", "/p/blog.toml:4: limits.cpu_time must be at least \"1s\"");
    refused(
        "[[limits.io_max]]\npath = \"/srv\"\n",
        "/p/blog.toml:4: limits.io_max limits nothing: write rbps, wbps, riops or wiops",
    );
    refused(
        "[[limits.io_max]]\npath = \"/srv\"\nwiops = 1\n[[limits.io_max]]\npath = \"/srv/\"\nriops = 1\n",
        "/p/blog.toml:7: limits.io_max names /srv twice: keep one",
    );
    refused(
        "[limits]\nio_max = \"10M\"\n",
        "/p/blog.toml:4: limits.io_max must be a list of tables: write [[limits.io_max]]",
    );
    refused("[limits]\ntmp = \"0\"\n", "/p/blog.toml:4: limits.tmp must be at least \"64K\", found 0");
    refused(
        "[limits]\nswap = -1\n",
        "/p/blog.toml:4: limits.swap: \"-1\" is no size: write bytes, or a number with K, M, G or T, such as \"256M\"",
    );
    refused(
        "[limits]\nmemory = \"1Q\"\n",
        "/p/blog.toml:4: limits.memory: \"1Q\" is no size: write bytes, or a number with K, M, G or T, such as \"256M\"",
    );
    refused("[idle]\nstop = \"0s\"\n", "/p/blog.toml:4: idle.stop must be at least \"1ms\", or \"never\"");
    refused(
        "[idle]\nfreeze = \"soon\"\n",
        "/p/blog.toml:4: idle.freeze: \"soon\" is no time span: write a number with ms, s, m, h or d, such as \"30s\"",
    );
    refused("[start]\ntimeout = \"0s\"\n", "/p/blog.toml:4: start.timeout must be at least \"1ms\"");
    refused(
        "[start]\ntimeout = \"never\"\n",
        "/p/blog.toml:4: start.timeout: \"never\" is no time span: write a number with ms, s, m, h or d, such as \"30s\"",
    );
    refused(
        "[socket]\nmode = \"0888\"\n",
        "/p/blog.toml:4: socket.mode: \"0888\" is no mode: write it in octal, such as \"0660\"",
    );
}

#[test]
fn mounts() {
    refused(
        "[[mount]]\nsource = \"srv/x\"\n",
        "/p/blog.toml:4: mount.source: \"srv/x\" is relative: write an absolute path",
    );
    refused(
        "[[mount]]\nsource = \"/srv/../x\"\n",
        "/p/blog.toml:4: mount.source: \"/srv/../x\" contains '..': write the path itself",
    );
    refused(
        "[[mount]]\nsource = \"/\"\n",
        "/p/blog.toml:4: mount.target is \"/\": write image to say what the root is",
    );
    refused(
        "[[mount]]\nsource = \"/a\"\ntarget = \"/proc/x\"\n",
        "/p/blog.toml:5: mount.target /proc/x is the sandbox's own: name another",
    );
    refused(
        "[[mount]]\nsource = \"/a\"\n[[mount]]\nsource = \"/b\"\ntarget = \"/a/\"\n",
        "/p/blog.toml:7: mount.target /a is taken by a mount above: keep one",
    );
}

#[test]
fn fpm() {
    refused(
        "[fpm]\nmax_childen = 5\n",
        "/p/blog.toml:4: unknown key \"fpm.max_childen\": did you mean \"fpm.max_children\"?",
    );
    refused(
        "[fpm]\n\"pm.max_childen\" = 5\n",
        "/p/blog.toml:4: unknown key \"fpm.pm.max_childen\": did you mean \"fpm.pm.max_children\"?",
    );
    refused(
        "[fpm]\ncolour = 5\n",
        "/p/blog.toml:4: unknown key \"fpm.colour\": php-fpm has no such directive for a pool",
    );
    refused(
        "[fpm]\nmax_children = \"5\"\n",
        "/p/blog.toml:4: fpm.max_children must be a whole number, found a string",
    );
    refused(
        "[fpm]\nmax_children = -5\n",
        "/p/blog.toml:4: fpm.max_children must be between 0 and 2147483647, found -5",
    );
    refused(
        "[fpm]\npm = \"lazy\"\n",
        "/p/blog.toml:4: fpm.pm must be one of static, dynamic, ondemand, found \"lazy\"",
    );
    refused(
        "[fpm]\nclear_env = 1\n",
        "/p/blog.toml:4: fpm.clear_env must be true or false, found a whole number",
    );
    refused(
        "[fpm]\nrequest_terminate_timeout = \"1500ms\"\n",
        "/p/blog.toml:4: fpm.request_terminate_timeout must be whole seconds, found \"1500ms\"",
    );
    refused(
        "[fpm]\nrequest_slowlog_timeout = \"fast\"\n",
        "/p/blog.toml:4: fpm.request_slowlog_timeout: \"fast\" is no time span: write a number with ms, s, m, h or d, such as \"30s\"",
    );
    refused(
        "[fpm]\nchdir = \"www\"\n",
        "/p/blog.toml:4: fpm.chdir: \"www\" is relative: write an absolute path",
    );
    refused(
        "[fpm]\naccess_format = \"%m\\nx\"\n",
        "/p/blog.toml:4: fpm.access_format must be one line of text, found '\\n' in it",
    );
    refused(
        "[fpm]\nmax_children = 5\n\"pm.max_children\" = 6\n",
        "/p/blog.toml:5: fpm.pm.max_children is set twice, also by its other name: keep one",
    );
    refused(
        "[fpm]\npm.max_children = 6\n",
        "/p/blog.toml:4: fpm.pm must be a string, a number or true or false, found a table",
    );
    refused(
        "[fpm.env]\n\"A B\" = \"1\"\n",
        "/p/blog.toml:4: fpm.env: \"A B\" is no name that php-fpm can carry: write letters, digits and '_'",
    );
    refused(
        "[fpm.env]\nA = \"1\\u0000\"\n",
        "/p/blog.toml:4: fpm.env.A must be one line of text, found '\\0' in it",
    );
    refused(
        "[fpm]\nbinary = \"php-fpm\"\n",
        "/p/blog.toml:4: fpm.binary: \"php-fpm\" is relative: write an absolute path",
    );
}

#[test]
fn directives_that_are_howdahs_job() {
    for (key, instead) in [
        ("listen", "write listen and [socket]: howdah makes the socket"),
        ("listen.owner", "write listen and [socket]: howdah makes the socket"),
        ("user", "write user at the top of the file"),
        ("group", "write user at the top of the file: it runs with that account's group"),
        ("chroot", "write image and [[mount]]: the sandbox has a root of its own"),
        ("daemonize", "leave it out: howdah keeps php-fpm in the foreground"),
        ("error_log", "leave it out: php-fpm's log comes out with howdah's"),
        ("prefix", "write absolute paths"),
        ("rlimit_files", "write open_files in [limits]"),
        ("rlimit_core", "leave it out: a sandbox writes no core files"),
        ("slowlog", "write request_slowlog_timeout: the slow log comes out with howdah's log"),
        ("access.log", "write access_log = true: the lines come out with howdah's log"),
        ("php_admin_value[memory_limit]", "write it in [php.admin_value]"),
    ] {
        refused(
            &format!("[fpm]\n\"{key}\" = \"x\"\n"),
            &format!("/p/blog.toml:4: \"fpm.{key}\" is not set here: {instead}"),
        );
    }
}

#[test]
fn php() {
    refused(
        "[php]\nextensions = [\"gd\",\n \"gd\"]\n",
        "/p/blog.toml:5: php.extensions names \"gd\" twice: keep one",
    );
    refused(
        "[php]\nextensions = [\"../gd\"]\n",
        "/p/blog.toml:4: php.extensions: \"../gd\" is no extension's name, such as \"mbstring\"",
    );
    refused(
        "[php.admin_value]\nmemory_limit = [\"1M\"]\n",
        "/p/blog.toml:4: php.admin_value.memory_limit must be a string, a number or true or false, found a list",
    );
    refused(
        "[php.value]\n\"a]b\" = 1\n",
        "/p/blog.toml:4: php.value: \"a]b\" is no name that php-fpm can carry: write letters, digits and '_'",
    );
    refused(
        "[php.value]\na = \"x\\ny\"\n",
        "/p/blog.toml:4: php.value.a must be one line of text, found '\\n' in it",
    );
    refused("[php.vale]\na = 1\n", "/p/blog.toml:3: unknown key \"php.vale\": did you mean \"php.value\"?");
}

#[test]
fn howdah_toml() {
    refused_howdah("[server]\n", "/h.toml:1: unknown key \"server\": did you mean \"serve\"?");
    refused_howdah(
        "[serve]\ndrian = \"5s\"\n",
        "/h.toml:2: unknown key \"serve.drian\": did you mean \"serve.drain\"?",
    );
    refused_howdah(
        "[serve]\nruntime_dir = \"run\"\n",
        "/h.toml:2: serve.runtime_dir: \"run\" is relative: write an absolute path",
    );
    refused_howdah(
        "[serve]\nparallel_starts = 0\n",
        "/h.toml:2: serve.parallel_starts must be between 1 and 1024, found 0",
    );
    for wrong in ["5", "1000-2000", "70009-70000", "70000-4294967295", "70000 - 70009"] {
        refused_howdah(
            &format!("[serve]\ntemplate_ids = {wrong:?}\n"),
            &format!(
                "/h.toml:2: serve.template_ids: {wrong:?} is no range of ids: write the first and the last, \
                 each at least 65536, such as \"1879048192-1879113727\""
            ),
        );
    }
    refused_howdah(
        "[defaults.limits]\nmemroy = 1\n",
        "/h.toml:2: unknown key \"defaults.limits.memroy\": did you mean \"defaults.limits.memory\"?",
    );
    refused_howdah(
        "[defaults]\nfpm.clear_env = 5\n",
        "/h.toml:2: fpm.clear_env must be true or false, found a whole number",
    );
    refused_howdah(
        "[defaults]\nlisten = \"/a\"\n",
        "/h.toml:2: defaults.listen: an address belongs to one pool: write listen in the pool's file",
    );
    refused_howdah(
        "[defaults]\n\nuser = \"nobodyx\"\n",
        "/h.toml:3: user \"nobodyx\" does not exist on this host: create it or name another",
    );
    refused_howdah("user = \"blog\"\n", "/h.toml:1: unknown key \"user\": \"user\" belongs in [defaults]");
}
