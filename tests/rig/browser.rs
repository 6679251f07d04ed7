//! What a visitor does: pages, forms and cookies, by curl.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

/// A visitor with cookies of their own.
pub struct Browser {
    jar: PathBuf,
    resolve: String,
}

/// A page, after the redirects that led to it.
pub struct Page {
    pub status: u16,
    pub url: String,
    pub body: String,
}

impl Browser {
    /// A visitor for whom `host` is at `address`, with cookies in `jar`.
    pub fn new(jar: PathBuf, host: &str, address: SocketAddr) -> Self {
        Self { jar, resolve: format!("{host}:{}:{}", address.port(), address.ip()) }
    }

    /// Runs curl with these words, which name the URL among them.
    pub fn ask(&self, words: &[&str]) -> Page {
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--location", "--compressed", "--max-time", "60"])
            .args([
                "--noproxy",
                "*",
                "--resolve",
                &self.resolve,
                "--write-out",
                "\n%{http_code} %{url_effective}",
            ])
            .arg("--cookie")
            .arg(&self.jar)
            .arg("--cookie-jar")
            .arg(&self.jar)
            .args(words)
            .output()
            .expect("curl, of Debian's package curl");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "curl {words:?}: {said}");
        let text = String::from_utf8_lossy(&output.stdout);
        let (body, end) = text.rsplit_once('\n').unwrap();
        let (status, url) = end.split_once(' ').unwrap();
        Page { status: status.parse().unwrap(), url: url.to_owned(), body: body.to_owned() }
    }

    /// A page that must be there.
    pub fn get(&self, url: &str) -> Page {
        self.ask(&[url]).ok()
    }

    /// Fills in the form of `page` whose tag contains `which`, and submits it;
    /// what the form itself says stands for what `fields` do not name.
    pub fn submit(&self, page: &Page, which: &str, fields: &[(&str, &str)]) -> Page {
        let form = Form::of(page, which);
        let mut words = vec![form.action.clone()];
        let own = form.fields.iter().filter(|(name, _)| !fields.iter().any(|(other, _)| other == name));
        let own = own.map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in own.chain(fields.iter().copied()) {
            // "@FILE" sends a file, as curl says it.
            let how = if value.starts_with('@') { "--form" } else { form.how() };
            words.extend([how.to_owned(), format!("{name}={value}")]);
        }
        self.ask(&words.iter().map(String::as_str).collect::<Vec<_>>()).ok()
    }
}

impl Page {
    /// The same page, which must have the status 200.
    pub fn ok(self) -> Self {
        assert_eq!(self.status, 200, "{}: {}", self.url, self.words());
        self
    }

    /// The same page, which must contain `text`.
    pub fn with(self, text: &str) -> Self {
        assert!(self.body.contains(text), "no {text:?} on {}:\n{}", self.url, self.words());
        self
    }

    /// What stands between the first `before` and the next `after`.
    pub fn between(&self, before: &str, after: &str) -> String {
        let found = self.body.split_once(before).and_then(|(_, rest)| rest.split_once(after));
        found.unwrap_or_else(|| panic!("no {before:?} on {}:\n{}", self.url, self.words())).0.to_owned()
    }

    /// The page without markup, shortened: for whoever reads why a test failed.
    fn words(&self) -> String {
        let mut text = String::new();
        for part in self.body.split('<') {
            let (tag, after) = part.split_once('>').unwrap_or(("", part));
            if !tag.starts_with("script") && !tag.starts_with("style") {
                text.push_str(after);
            }
        }
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        lines.join("\n").chars().take(1500).collect()
    }
}

/// A form with what it would send if nobody filled it in.
struct Form {
    action: String,
    multipart: bool,
    fields: Vec<(String, String)>,
}

impl Form {
    fn of(page: &Page, which: &str) -> Self {
        let mut forms = page.body.split("<form").skip(1).map(|rest| rest.split("</form>").next().unwrap());
        let form = forms
            .find(|form| form.split('>').next().is_some_and(|tag| tag.contains(which)))
            .unwrap_or_else(|| panic!("no form {which:?} on {}:\n{}", page.url, page.words()));
        let tag = form.split('>').next().unwrap();
        let action = attribute(tag, "action").unwrap_or_default();
        let mut fields = Vec::new();
        let mut select = None;
        for (at, _) in form.match_indices('<') {
            let (tag, text) = form[at..].split_once('>').unwrap_or((&form[at..], ""));
            let name = attribute(tag, "name");
            let value = attribute(tag, "value");
            let is = |word: &str| tag.split_whitespace().any(|part| part.split('=').next() == Some(word));
            match tag.split_whitespace().next().unwrap_or_default() {
                "<input" => match (attribute(tag, "type").as_deref(), name) {
                    (Some("submit" | "button" | "file" | "image"), _) | (_, None) => {}
                    (Some("checkbox" | "radio"), Some(_)) if !is("checked") => {}
                    (kind, Some(name)) => {
                        let on = matches!(kind, Some("checkbox" | "radio")).then(|| "on".to_owned());
                        fields.push((name, value.or(on).unwrap_or_default()));
                    }
                },
                "<textarea" => fields.extend(name.map(|name| (name, unescape(before(text, "<"))))),
                "<select" => select = name,
                "<option" if is("selected") => {
                    fields.extend(select.clone().map(|name| (name, value.unwrap_or_default())));
                }
                _ => {}
            }
        }
        Self { action: join(&page.url, &action), multipart: tag.contains("multipart/form-data"), fields }
    }

    /// curl's word for one field that is no file.
    fn how(&self) -> &'static str {
        if self.multipart { "--form-string" } else { "--data-urlencode" }
    }
}

/// The link `to` on the page `from`.
fn join(from: &str, to: &str) -> String {
    let host = from.match_indices('/').nth(2).map_or(from.len(), |(at, _)| at);
    let directory = from[..from.find(['?', '#']).unwrap_or(from.len())].rfind('/').map_or(host, |at| at + 1);
    match to {
        "" => from.to_owned(),
        _ if to.starts_with("http") => to.to_owned(),
        _ if to.starts_with('/') => format!("{}{to}", &from[..host]),
        _ => format!("{}{to}", &from[..directory.max(host)]),
    }
}

/// The value of an attribute in `<tag …`.
fn attribute(tag: &str, name: &str) -> Option<String> {
    let starts = tag.match_indices(name).map(|(at, _)| at);
    for at in starts.filter(|&at| tag[..at].ends_with(char::is_whitespace)) {
        let Some(value) = tag[at + name.len()..].strip_prefix('=') else { continue };
        let quoted = |quote: char| value.strip_prefix(quote).and_then(|rest| rest.split(quote).next());
        let bare = || value.split(char::is_whitespace).next();
        return quoted('"').or_else(|| quoted('\'')).or_else(bare).map(unescape);
    }
    None
}

fn before<'a>(text: &'a str, end: &str) -> &'a str {
    text.split(end).next().unwrap()
}

fn unescape(text: &str) -> String {
    let marks =
        [("&quot;", "\""), ("&#039;", "'"), ("&#39;", "'"), ("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")];
    marks.iter().fold(text.to_owned(), |text, (mark, letter)| text.replace(mark, letter))
}
