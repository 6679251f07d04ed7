//! Applications of Debian's packages, unchanged, as `examples/` sets them up:
//! installed by their own web installers and clicked through by a visitor, in
//! the sandbox of the profile `hosting`. And, as the opposite, that the sandbox
//! was there all the time. Then the same sites under `strict`: what works there
//! unchanged, and what a site loses.
#![allow(missing_docs)]

mod rig;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::Duration;

use rig::browser::{Browser, Page};
use rig::site::{MariaDb, Site};
use rig::{Rig, wait_for};
use serde_json::{Value, json};

const PASSWORD: &str = "correct horse battery";

#[test]
fn wordpress_with_mariadb_is_installed_and_clicked_through() {
    let rig = Rig::new();
    let database = MariaDb::start(&rig);
    database
        .ask(
            "CREATE DATABASE blog CHARACTER SET utf8mb4; CREATE USER games@localhost IDENTIFIED VIA unix_socket; \
             GRANT ALL ON blog.* TO games@localhost; CREATE DATABASE shop; CREATE TABLE shop.secret (a INT)",
        )
        .unwrap();
    let mut site = Site::start(
        rig,
        "wordpress",
        "1s",
        "install -D -m 644 $E/config-default.php -t blog/etc; \
         install -d -o games -g www-data -m 2750 blog/uploads",
    );
    site.database = Some(database);
    let ann = site.visitor("ann");
    install_wordpress(&site, &ann);
    let nonce = set_permalinks(&site, &ann);
    let thumbnail = upload_to_wordpress(&site, &ann);
    let permalink = publish(&site, &ann, &nonce, &thumbnail);
    comment_and_approve(&site, &ann, &nonce, &permalink);
    run_cron(&site);
    // The server's socket is another one now, in the directory that is mounted.
    site.database.as_mut().unwrap().restart();
    ann.get(&permalink).with("What an elephant");
    let stopped = site.wait_cold();
    // Still logged in, on a generation that has never seen her.
    ann.get(&site.url("/wp-admin/")).with("Howdy, <span class=\"display-name\">ann</span>");
    assert!(site.rig.record("wordpress").generation > stopped);
    site.visitor("eve").get(&site.url("/?s=seats")).with("Springs and Åxles");
    let posts =
        site.ask_database("SELECT post_status FROM blog.wp_posts WHERE post_name = 'springs-and-axles'");
    assert_eq!(posts, "publish");
    let inside = walls_of_wordpress(&site);
    assert_eq!(inside["program"], 126, "found, and not executable: {inside}");
    wordpress_under_strict(&mut site, &ann, &nonce, &permalink);
    // No mail server here; two warnings of the installer itself; and that wordpress.org is out of reach.
    // And under strict what the probe tries: a program.
    let known = [
        "sendmail: not found",
        "install.php on line",
        "wp-includes/update.php on line",
        "[/var/lib/wordpress/wp-content/uploads/program 2",
    ];
    finish(site, &known);
}

fn install_wordpress(site: &Site, ann: &Browser) {
    let form = ann.get(&site.url("/"));
    assert!(form.url.ends_with("/wp-admin/install.php"), "{}", form.url);
    let fields = [
        ("weblog_title", "The Blog"),
        ("user_name", "ann"),
        ("admin_password", PASSWORD),
        ("admin_password2", PASSWORD),
        ("pw_weak", "on"),
        ("admin_email", "ann@example.org"),
    ];
    ann.submit(&form, "id=\"setup\"", &fields).with("WordPress has been installed");
    let login = ann.get(&site.url("/wp-login.php"));
    let wrong = ann.submit(&login, "loginform", &[("log", "ann"), ("pwd", "wrong")]);
    let inside = ann.submit(&wrong.with("is incorrect"), "loginform", &[("log", "ann"), ("pwd", PASSWORD)]);
    assert!(inside.url.ends_with("/wp-admin/"), "{}", inside.url);
    inside.with("Dashboard");
}

/// Sets readable addresses; gives the nonce with which wp-admin's own scripts ask the REST API.
fn set_permalinks(site: &Site, ann: &Browser) -> String {
    let form = ann.get(&site.url("/wp-admin/options-permalink.php"));
    let structure = "/%year%/%postname%/";
    ann.submit(
        &form,
        "options-permalink.php",
        &[("selection", structure), ("permalink_structure", structure)],
    )
    .with("Permalink structure updated");
    ann.get(&site.url("/wp-admin/post-new.php")).between("createNonceMiddleware( \"", "\"")
}

/// Uploads a picture by the form that needs no script; gives the address of the one that gd made of it.
fn upload_to_wordpress(site: &Site, ann: &Browser) -> String {
    let picture = picture(site, "howdah.png");
    let form = ann.get(&site.url("/wp-admin/media-new.php?browser-uploader"));
    let fields = [("async-upload", picture.as_str()), ("html-upload", "Upload")];
    ann.submit(&form, "file-form", &fields).with("Media Library");
    let listed = json_of(&ann.get(&site.url("/wp-json/wp/v2/media")));
    let medium = &listed[0]["media_details"]["sizes"]["medium"];
    assert_eq!((&medium["width"], &medium["height"]), (&json!(300), &json!(169)), "{listed}");
    let address = medium["source_url"].as_str().unwrap().to_owned();
    // By nginx, out of a directory that it may read and the other tenants may not.
    assert_eq!(size_of_picture(site, &address), (300, 169));
    let file = site.rig.path("srv/blog").join(address.split_once("/wp-content/").unwrap().1);
    let data = fs::metadata(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    assert_eq!((data.uid(), data.mode() & 0o777), (5, 0o640), "{}", file.display());
    address
}

/// Publishes a post as the editor does; gives its permalink.
fn publish(site: &Site, ann: &Browser, nonce: &str, picture: &str) -> String {
    let content = format!("<p>One howdah, two seats.</p><img src=\"{picture}\">");
    let post = json!({ "title": "Springs and Åxles", "content": content, "status": "publish" }).to_string();
    let token = format!("X-WP-Nonce: {nonce}");
    let words = ["--header", &token, "--header", "Content-Type: application/json", "--data", &post];
    let posts = site.url("/wp-json/wp/v2/posts");
    // A wrong token is no token: the session's cookie alone publishes nothing.
    let forged = ann.ask(&[&["--header", "X-WP-Nonce: 0123456789"], &words[2..], &[posts.as_str()]].concat());
    assert_eq!(forged.status, 403, "{}", forged.body);
    let made = ann.ask(&[&words[..], &[posts.as_str()]].concat());
    assert_eq!(made.status, 201, "{}", made.body);
    let permalink = json_of(&made)["link"].as_str().unwrap().to_owned();
    assert!(permalink.ends_with("/springs-and-axles/"), "{permalink}");
    permalink
}

fn comment_and_approve(site: &Site, ann: &Browser, nonce: &str, permalink: &str) {
    let bob = site.visitor("bob");
    let page = bob.get(permalink).with("Springs and Åxles").with("howdah-300x169.png");
    let comment =
        [("author", "Bob"), ("email", "bob@example.org"), ("comment", "What an elephant! 🐘"), ("url", "")];
    bob.submit(&page, "commentform", &comment).with("awaiting moderation");
    let seen = || site.visitor("eve").get(permalink).body.contains("What an elephant! 🐘");
    assert!(!seen(), "a comment that nobody has approved");
    let waiting = ann.get(&site.url("/wp-admin/edit-comments.php?comment_status=moderated"));
    waiting.with("What an elephant");
    let token = format!("X-WP-Nonce: {nonce}");
    let held = site.url("/wp-json/wp/v2/comments?status=hold");
    let held = json_of(&ann.ask(&["--header", &token, &held]).ok());
    let address = site.url(&format!("/wp-json/wp/v2/comments/{}", held[0]["id"]));
    ann.ask(&["--header", &token, "--data", "status=approved", &address]).ok();
    assert!(seen(), "an approved comment");
    let feed = bob.get(&site.url("/comments/feed/"));
    feed.with("What an elephant");
}

/// The work that a publication leaves for later is done when a timer asks for it, as the README says.
fn run_cron(site: &Site) {
    let waiting = "SELECT option_value LIKE '%do_pings%' FROM blog.wp_options WHERE option_name = 'cron'";
    assert_eq!(site.ask_database(waiting), "1");
    let run = site.rig.path("run");
    let words = ["request", "--runtime-dir", run.to_str().unwrap(), "wordpress", "/wp-cron.php"];
    let output = site.rig.howdah(&[&words[..], &["--header", "Host: blog.example.org"]].concat());
    assert!(output.status.success(), "{output:?}");
    // It answers first (fastcgi_finish_request) and works then.
    let done = || (site.ask_database(waiting) == "0").then_some(());
    wait_for("wp-cron.php", Duration::from_secs(20), done);
}

/// The same blog, with everything that is in it, and not a line of it or of its pool file
/// changed but the profile's name.
fn wordpress_under_strict(site: &mut Site, ann: &Browser, nonce: &str, permalink: &str) {
    site.change_profile("strict");
    site.visitor("eve").get(permalink).with("What an elephant").with("howdah-300x169.png");
    assert!(is_strict(site));
    // A new session, by a password; the old one is still good.
    let carl = site.visitor("carl");
    let login = carl.get(&site.url("/wp-login.php"));
    carl.submit(&login, "loginform", &[("log", "ann"), ("pwd", PASSWORD)]).with("Dashboard");
    ann.get(&site.url("/wp-admin/")).with("Howdy, <span class=\"display-name\">ann</span>");
    upload_to_wordpress(site, ann);
    let token = format!("X-WP-Nonce: {nonce}");
    let found = json_of(&ann.get(&site.url("/wp-json/wp/v2/posts")));
    let post = site.url(&format!("/wp-json/wp/v2/posts/{}", found[0]["id"]));
    ann.ask(&["--header", &token, "--data", "title=Strict+Springs", &post]).ok();
    // By ann: a visitor who comments twice within 15 seconds is too quick for WordPress.
    let page = ann.get(permalink).with("Strict Springs");
    ann.submit(&page, "commentform", &[("comment", "Once more!")]).with("Once more!");
    let bob = site.visitor("bob");
    bob.get(&site.url("/?s=springs")).with("Strict Springs");
    // The walls are those of hosting, and no program starts at all.
    let inside = walls_of_wordpress(site);
    assert_eq!(inside["program"], -1, "not even a shell: {inside}");
}

/// Whether the pool's generation is one of the profile `strict`.
fn is_strict(site: &Site) -> bool {
    let said = site.rig.ps(site.pool)["stricter"].to_string();
    said.contains("nothing is executed after php-fpm") && said.contains("seccomp is the filter of strict")
}

#[test]
fn mediawiki_with_sqlite_is_installed_and_clicked_through() {
    let mut site = Site::start(
        Rig::new(),
        "mediawiki",
        "1s",
        "mkdir -p wiki/etc; install -d -o backup -g www-data -m 2750 wiki/images; \
         install -d -o backup -g backup -m 700 wiki/cache wiki/data",
    );
    let ann = site.visitor("ann");
    install_mediawiki(&site, &ann);
    log_in_to_mediawiki(&site, &ann);
    edit_mediawiki(&site, &ann);
    upload_to_mediawiki(&site, &ann);
    read_mediawiki(&site);
    let stopped = site.wait_cold();
    // Still logged in, on a generation that has never seen her.
    ann.get(&site.url("/index.php/Gallery")).with("pt-logout").with("300px-Howdah.png");
    assert!(site.rig.record("mediawiki").generation > stopped);
    maintain_mediawiki(&site);
    mediawiki_under_strict(&mut site, &ann);
    finish(site, &[]);
}

/// The same wiki with the profile `strict`, and told that there is no diff3 to merge two edits
/// with: it shows them one below the other instead.
fn mediawiki_under_strict(site: &mut Site, ann: &Browser) {
    site.rig.shell("echo '$wgDiff3 = false;' >> srv/wiki/etc/LocalSettings.php");
    site.change_profile("strict");
    ann.get(&site.url("/index.php/Gallery")).with("pt-logout").with("300px-Howdah.png");
    assert!(is_strict(site));
    log_in_to_mediawiki(site, &site.visitor("carl"));
    let edit = site.url("/index.php?title=Howdah&action=edit");
    let save = |who: &Browser, page: &Page, text: &str| who.submit(page, "editform", &[("wpTextbox1", text)]);
    let earlier = ann.get(&edit);
    std::thread::sleep(Duration::from_millis(1_100));
    let bob = site.visitor("bob");
    let other = "A mahout sits in front.\n\nMiddle.\n\nÅxles creak.\n";
    save(&bob, &bob.get(&edit), other).with("A mahout sits");
    save(ann, &earlier, "A mahout rides in front.\n\nMiddle.\n\nÅxles sing.\n").with("Edit conflict");
    save(ann, &ann.get(&edit), "A mahout rides in front.\n\nMiddle.\n\nÅxles creak.\n").with("Åxles creak");
    let difference = ann.get(&site.url("/index.php?title=Howdah&diff=cur&oldid=prev"));
    difference.with("diff-deletedline").with("diff-addedline").with("rides");
    let page = ann.get(&site.url("/index.php?title=Gallery&action=edit"));
    let text = [("wpTextbox1", "[[File:Howdah.png|thumb|200px|A smaller seat]]")];
    let address = ann.submit(&page, "editform", &text).between("src=\"/images/thumb/", "\"");
    assert_eq!(size_of_picture(site, &site.url(&format!("/images/thumb/{address}"))), (200, 113));
    bob.get(&site.url("/index.php?search=mahout&fulltext=1")).with("searchresults");
    let told = json_of(&bob.get(&site.url("/rest.php/v1/page/Howdah")));
    assert!(told["source"].as_str().is_some_and(|text| text.contains("rides")), "{told}");
}

/// By mw-config, as the package's README.Debian tells: the installer gives
/// LocalSettings.php to whoever installs, and that is put into /etc/mediawiki.
fn install_mediawiki(site: &Site, ann: &Browser) {
    let data = site.rig.path("srv/wiki/data").display().to_string();
    ann.get(&site.url("/")).with("LocalSettings.php not found");
    let mut page = ann.get(&site.url("/mw-config/index.php"));
    let steps: [(&str, &[(&str, &str)]); 7] = [
        ("page=Language", &[("ContLang", "en")]),
        ("page=Welcome", &[]),
        (
            "page=DBConnect",
            &[("DBType", "sqlite"), ("sqlite_wgSQLiteDataDir", &data), ("sqlite_wgDBname", "wiki")],
        ),
        (
            "page=Name",
            &[
                ("config_wgSitename", "The Wiki"),
                ("config__AdminName", "Ann"),
                ("config__AdminPassword", PASSWORD),
                ("config__AdminPasswordConfirm", PASSWORD),
                ("config__SkipOptional", "continue"),
            ],
        ),
        ("page=Options", &[("config_wgEnableUploads", "1"), ("config_wgDefaultSkin", "vector")]),
        ("page=Install", &[]),
        ("page=Install", &[]),
    ];
    for (form, fields) in steps {
        page = ann.submit(&page, form, &[&[("submit-continue", "Continue")], fields].concat());
    }
    let page = page.with("Congratulations");
    let settings =
        ann.get(&site.url("/mw-config/index.php?localsettings=1")).with("$wgSitename = \"The Wiki\"");
    drop(page);
    // By gd, also where the installer has found ImageMagick's `convert`.
    let settings = settings.body.replace("$wgUseImageMagick = true;", "$wgUseImageMagick = false;");
    site.rig.write("srv/wiki/etc/LocalSettings.php", &settings);
    ann.get(&site.url("/")).with("MediaWiki has been installed");
}

fn log_in_to_mediawiki(site: &Site, ann: &Browser) {
    let form = ann.get(&site.url("/index.php?title=Special:UserLogin"));
    let wrong = ann.submit(&form, "userlogin", &[("wpName", "Ann"), ("wpPassword", "wrong")]);
    let wrong = wrong.with("Incorrect username or password entered");
    ann.submit(&wrong, "userlogin", &[("wpName", "Ann"), ("wpPassword", PASSWORD)]).with("pt-logout");
}

/// Two edits one after the other; their difference, and a third that began
/// before the second and is merged with it: by diff3, a program that MediaWiki runs.
fn edit_mediawiki(site: &Site, ann: &Browser) {
    let edit = site.url("/index.php?title=Howdah&action=edit");
    let save = |page: &Page, text: &str| ann.submit(page, "editform", &[("wpTextbox1", text)]);
    save(&ann.get(&edit), "First line.\n\nMiddle.\n\nLast line.\n").with("Middle.");
    let earlier = ann.get(&edit);
    // MediaWiki asks by the second whether somebody else has edited since, and with
    // one's own edits nobody is in conflict.
    std::thread::sleep(Duration::from_millis(1_100));
    let (bob, other) = (site.visitor("bob"), "A mahout rides in front.\n\nMiddle.\n\nLast line.\n");
    bob.submit(&bob.get(&edit), "editform", &[("wpTextbox1", other)]).with("A mahout rides");
    save(&earlier, "First line.\n\nMiddle.\n\nÅxles creak.\n").with("A mahout rides").with("Åxles creak");
    // Without the token that belongs to her session, nothing is saved.
    let token = [("wpTextbox1", "Forged."), ("wpEditToken", "forged+\\")];
    ann.submit(&ann.get(&edit), "editform", &token).with("Sorry! We could not process your edit");
    let history = ann.get(&site.url("/index.php?title=Howdah&action=history"));
    assert_eq!(history.body.matches("<li data-mw-revid=").count(), 3, "{}", history.body);
    let difference = ann.get(&site.url("/index.php?title=Howdah&diff=cur&oldid=prev"));
    difference.with("diff-deletedline").with("diff-addedline").with("Åxles creak");
}

/// A picture, and a page that shows it smaller.
fn upload_to_mediawiki(site: &Site, ann: &Browser) {
    let picture = picture(site, "howdah.png");
    let form = ann.get(&site.url("/index.php?title=Special:Upload"));
    let fields =
        [("wpUploadFile", picture.as_str()), ("wpDestFile", "Howdah.png"), ("wpUpload", "Upload file")];
    ann.submit(&form, "mw-upload-form", &fields).with("1,600 × 900 pixels");
    let page = ann.get(&site.url("/index.php?title=Gallery&action=edit"));
    let text = [("wpTextbox1", "[[File:Howdah.png|thumb|300px|The empty seat]]")];
    let shown = ann.submit(&page, "editform", &text).with("The empty seat");
    let address = shown.between("src=\"/images/thumb/", "\"");
    assert!(address.ends_with("/300px-Howdah.png"), "{address}");
    assert_eq!(size_of_picture(site, &site.url(&format!("/images/thumb/{address}"))), (300, 169));
}

/// What a visitor reads, who is not logged in: a page, the search, both interfaces for programs.
fn read_mediawiki(site: &Site) {
    let bob = site.visitor("bob");
    bob.get(&site.url("/index.php/Howdah")).with("A mahout rides in front").with("pt-login");
    // The index is brought up to date after the answer to an edit, and of edits that follow each
    // other closely in any order: a word that all of them have.
    let search = || bob.get(&site.url("/index.php?search=middle&fulltext=1")).with("searchresults");
    let found = || search().body.contains("title=\"Howdah\"").then_some(());
    wait_for("the search index", Duration::from_secs(20), found);
    let asked = "/api.php?action=query&prop=info&titles=Howdah&format=json&formatversion=2";
    let told = json_of(&bob.get(&site.url(asked)));
    assert_eq!(told["query"]["pages"][0]["title"], "Howdah", "{told}");
    let told = json_of(&bob.get(&site.url("/rest.php/v1/page/Howdah")));
    assert!(told["source"].as_str().is_some_and(|text| text.contains("Åxles creak")), "{told}");
    let styles = "/load.php?lang=en&modules=site.styles%7Cskins.vector.styles&only=styles&skin=vector";
    bob.get(&site.url(styles)).with("{");
    let private =
        ["/images/deleted/", "/vendor/composer/installed.json", "/includes/WebStart.php", "/cache/"];
    for path in private {
        assert_eq!(bob.ask(&[&site.url(path)]).status, 404, "{path}");
    }
}

/// A script of the package's, outside of the pool and as its account, as the README says.
fn maintain_mediawiki(site: &Site) {
    let output = Command::new("setpriv")
        .args(["--reuid", "backup", "--regid", "backup", "--clear-groups", "php"])
        .args(["/usr/share/mediawiki/maintenance/update.php", "--quick", "--conf"])
        .arg(site.rig.path("srv/wiki/etc/LocalSettings.php"))
        .current_dir("/")
        .output()
        .expect("setpriv, of Debian's package util-linux");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("Done in"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    site.visitor("bob").get(&site.url("/index.php/Howdah")).with("A mahout rides in front");
}

/// What code could do that an attacker has brought into the site.
const PROBE: &str = r#"<?php
parse_str($_SERVER['QUERY_STRING'], $ask);
function program(string $path): int {
    copy('/bin/true', $path) && chmod($path, 0755);
    exec("$path 2>&1", $said, $status);
    unlink($path);
    return $status;
}
function sockets(string $below): array {
    $all = new RecursiveIteratorIterator(new RecursiveDirectoryIterator($below, FilesystemIterator::SKIP_DOTS));
    $all = array_map(strval(...), iterator_to_array($all, false));
    return array_values(array_filter($all, fn($path) => @filetype($path) === 'socket'));
}
function ask(string $user, string $question): array|string {
    try {
        $server = new mysqli('localhost', $user, socket: $_SERVER['DATABASE'] ?? null);
        return array_column($server->query($question)->fetch_all(), 0);
    } catch (mysqli_sql_exception $error) {
        return $error->getMessage();
    }
}
echo json_encode([
    'neighbour' => @file_get_contents($ask['neighbour']),
    'web server' => (bool) @stream_socket_client("tcp://{$ask['server']}", timeout: 2),
    'program' => program(__DIR__ . '/program'),
    'sockets' => isset($_SERVER['DATABASE']) ? null : sockets('/run'),
    'themes' => is_writable('/var/lib/wordpress/wp-content/themes'),
    'account' => ask('games', 'SELECT current_user()'),
    'databases' => ask('games', 'SHOW DATABASES'),
    'root' => ask('root', 'SELECT 1'),
]);
"#;

/// That the sandbox is in force around this site: a probe where the site may
/// write, asked for by the pool's socket; and what it finds outside, as the same account.
fn walls_of_wordpress(site: &Site) -> Value {
    let neighbour = site.rig.write("srv/wiki/etc/LocalSettings.php", "the neighbour's");
    let probe = site.rig.write("srv/blog/uploads/probe.php", PROBE);
    let question =
        format!("neighbour={}&server={}", neighbour.display(), site.url("").trim_start_matches("http://"));
    let question = question.replace("blog.example.org", "127.0.0.1");
    let outside = Command::new("setpriv")
        .args(["--reuid", "games", "--regid", "games", "--clear-groups", "php"])
        .arg(&probe)
        .env("QUERY_STRING", &question)
        .env("DATABASE", site.rig.path("mysqld/mysqld.sock"))
        .output()
        .expect("setpriv, of Debian's package util-linux");
    let outside: Value = serde_json::from_slice(&outside.stdout).unwrap_or_else(|_| panic!("{outside:?}"));
    assert_eq!(outside["neighbour"], "the neighbour's", "the control: {outside}");
    assert_eq!(
        (&outside["web server"], &outside["program"]),
        (&json!(true), &json!(0)),
        "the control: {outside}"
    );
    let inside = "/var/lib/wordpress/wp-content/uploads/probe.php";
    let inside = site.run(inside, &question);
    let inside: Value = serde_json::from_str(&inside).unwrap_or_else(|_| panic!("{inside}"));
    let only = json!({
        "neighbour": false,
        "web server": false,
        "program": inside["program"],
        "sockets": ["/run/mysqld/mysqld.sock"],
        "themes": false,
        "account": ["games@localhost"],
        "databases": ["blog", "information_schema"],
        "root": "Access denied for user 'root'@'localhost'",
    });
    assert_eq!(inside, only);
    inside
}

/// What was weakened (nothing), what php and howdah had to say (but for `known`), and the end.
fn finish(mut site: Site, known: &[&str]) {
    assert_eq!(site.rig.ps(site.pool)["weakened"], json!([]), "{}", site.rig.ps(site.pool));
    let complaints: Vec<String> = site.complaints();
    let unknown: Vec<&String> =
        complaints.iter().filter(|line| !known.iter().any(|word| line.contains(word))).collect();
    assert!(unknown.is_empty(), "{unknown:#?}");
    assert_eq!(site.nginx.log(), "", "nginx complains");
    assert_eq!(site.rig.end(), 0);
}

fn json_of(page: &Page) -> Value {
    serde_json::from_str(&page.body).unwrap_or_else(|error| panic!("{}: {error}: {}", page.url, page.body))
}

/// A PNG of 1600 by 900 pixels; how curl sends it.
fn picture(site: &Site, name: &str) -> String {
    let file = site.rig.path(name);
    let code = "$i = imagecreatetruecolor(1600, 900); imagefilledellipse($i, 800, 450, 900, 600, 0x8899aa); \
                imagepng($i, $argv[1]);";
    let done =
        Command::new("php").args(["-r", code]).arg(&file).status().expect("php, of Debian's package php-cli");
    assert!(done.success());
    format!("@{}", file.display())
}

/// Width and height of the PNG at an address (RFC 2083, 4.1.1).
fn size_of_picture(site: &Site, address: &str) -> (u32, u32) {
    let file = site.rig.path("picture");
    site.visitor("eve").ask(&["--output", file.to_str().unwrap(), address]).ok();
    let bytes = fs::read(file).unwrap();
    assert!(bytes.starts_with(b"\x89PNG\r\n\x1a\n"), "{address} is no PNG");
    let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    (number(16), number(20))
}
