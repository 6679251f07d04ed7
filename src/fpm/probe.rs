//! What a php-fpm says of itself (`php-fpm -i`), and which of its ini files
//! load the extensions that a pool asks for.
//!
//! Pure: the caller runs the binary.

use std::path::{Path, PathBuf};

/// The oldest php-fpm that howdah is made for.
pub const OLDEST: (u32, u32, u32) = (7, 4, 0);

/// What `php-fpm -i` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// Its version.
    pub version: (u32, u32, u32),
    /// "Configuration File (php.ini) Path"
    pub ini_dir: PathBuf,
    /// "Loaded Configuration File"
    pub loaded_ini: Option<PathBuf>,
    /// "Scan this dir for additional .ini files"
    pub scan_dir: Option<PathBuf>,
    /// "Additional .ini files parsed", in order.
    pub scanned: Vec<PathBuf>,
    /// "extension_dir"
    pub extension_dir: PathBuf,
    /// Every module that is loaded, in small letters.
    pub modules: Vec<String>,
}

/// Why a php-fpm cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// The output is not that of `php-fpm -i`.
    #[error("{0} is no php-fpm: its -i does not say {1:?}")]
    Silent(PathBuf, &'static str),
    /// It is another program of PHP.
    #[error("{0} is no php-fpm but PHP's {1:?}: name the binary of php-fpm")]
    OtherApi(PathBuf, String),
    /// It is too old.
    #[error("{binary}: php-fpm {version} is older than 7.4, which howdah needs: install a newer one")]
    TooOld {
        /// The binary.
        binary: PathBuf,
        /// Its version.
        version: String,
    },
    /// No ini file loads an extension of this name.
    #[error("[php] extensions: php-fpm has no extension {name:?} enabled{}", hint(.nearest))]
    NoExtension {
        /// The name that was asked for.
        name: String,
        /// The nearest that there is.
        nearest: Option<String>,
    },
}

fn hint(nearest: &Option<String>) -> String {
    match nearest {
        Some(name) => format!(": did you mean {name:?}?"),
        None => ": install it, or remove it from the list".to_owned(),
    }
}

impl Info {
    /// Reads the output of `binary -i` (ext/standard/info.c, `php_print_info`, as text).
    pub fn parse(text: &str, binary: &Path) -> Result<Self, ProbeError> {
        let value = |key: &'static str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" => "));
            line.ok_or_else(|| ProbeError::Silent(binary.to_owned(), key))
        };
        let path = |key| value(key).map(|path| (path != "(none)").then(|| PathBuf::from(path)));
        let api = value("Server API")?;
        if api != "FPM/FastCGI" {
            return Err(ProbeError::OtherApi(binary.to_owned(), api.to_owned()));
        }
        let named = value("PHP Version")?;
        let version = version(named).ok_or_else(|| ProbeError::Silent(binary.to_owned(), "PHP Version"))?;
        if version < OLDEST {
            return Err(ProbeError::TooOld { binary: binary.to_owned(), version: named.to_owned() });
        }
        let extension_dir = value("extension_dir")?;
        Ok(Self {
            version,
            ini_dir: value("Configuration File (php.ini) Path")?.into(),
            loaded_ini: path("Loaded Configuration File")?,
            scan_dir: path("Scan this dir for additional .ini files")?,
            scanned: scanned(text),
            extension_dir: extension_dir.split(" => ").next().unwrap_or(extension_dir).into(),
            modules: modules(text),
        })
    }
}

/// `8.2.35`, `8.5.0-dev`, `7.4.33-1+deb11u4`.
fn version(text: &str) -> Option<(u32, u32, u32)> {
    let mut numbers = text.splitn(3, '.').map(|part| {
        let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        part[..digits].parse().ok()
    });
    Some((numbers.next()??, numbers.next()??, numbers.next()??))
}

/// The list goes over several lines, each but the last ending with a comma.
fn scanned(text: &str) -> Vec<PathBuf> {
    let mut lines = text.lines();
    let first = lines.find_map(|line| line.strip_prefix("Additional .ini files parsed => "));
    let mut list = Vec::new();
    let mut next = first.filter(|line| *line != "(none)");
    while let Some(line) = next {
        let (path, more) = line.strip_suffix(',').map_or((line, false), |path| (path, true));
        list.push(PathBuf::from(path.trim()));
        next = if more { lines.next() } else { None };
    }
    list
}

/// A module's part begins with its name between two empty lines; modules with
/// nothing to tell stand in a list at the end (`php_info_print_module`).
fn modules(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let headings = lines.windows(3).filter(|three| {
        three[0].is_empty() && three[2].is_empty() && !three[1].is_empty() && !three[1].contains("=>")
    });
    let quiet = lines.iter().skip_while(|line| **line != "Module Name").skip(1);
    let quiet = quiet.take_while(|line| !line.is_empty());
    headings.map(|three| three[1]).chain(quiet.copied()).map(str::to_ascii_lowercase).collect()
}

/// Extensions that do not load without others, and how that shows.
const NEEDS: [(&str, &[&str]); 7] = [
    // undefined symbol: mysqlnd_global_stats
    ("mysqli", &["mysqlnd"]),
    // undefined symbols: pdo_parse_params, mysqlnd_connection_init
    ("pdo_mysql", &["pdo", "mysqlnd"]),
    // undefined symbol: dom_node_class_entry
    ("xmlreader", &["dom"]),
    ("xsl", &["dom"]),
    // ZEND_MOD_REQUIRED, in builds that have these serializers
    ("redis", &["igbinary", "msgpack"]),
    ("memcached", &["igbinary", "msgpack"]),
    // ZEND_MOD_REQUIRED("xml")
    ("xmlrpc", &["xml"]),
];

/// What `name` needs beside itself; every driver of PDO needs PDO
/// (undefined symbol: php_pdo_unregister_driver).
fn needs(name: &str) -> Vec<&str> {
    let listed = NEEDS.iter().find(|(needing, _)| *needing == name).map(|(_, needed)| needed.to_vec());
    listed.unwrap_or_else(|| if name.starts_with("pdo_") { vec!["pdo"] } else { Vec::new() })
}

/// The ini files to load for the extensions `wanted` and what these need, in
/// the order in which php-fpm reads them: `20-pdo_mysql.ini` (Debian, Fedora),
/// `20_pdo_mysql.ini` (Alpine) and `docker-php-ext-pdo_mysql.ini` load
/// `pdo_mysql`. A file that is named after no module that is loaded holds
/// settings and stays. Modules that are built in need no file.
pub fn select_extensions(info: &Info, wanted: &[String]) -> Result<Vec<PathBuf>, ProbeError> {
    let files: Vec<(String, &PathBuf)> = info.scanned.iter().map(|path| (extension_of(path), path)).collect();
    let has_file = |name: &str| files.iter().any(|(extension, _)| extension == name);
    let mut names: Vec<String> = Vec::new();
    for name in wanted.iter().map(|name| name.to_ascii_lowercase()) {
        if !has_file(&name) && !is_module(info, &name) {
            return Err(ProbeError::NoExtension { nearest: nearest(info, &files, &name), name });
        }
        names.extend(needs(&name).into_iter().map(str::to_owned));
        names.push(name);
    }
    let stays = |extension: &String| names.contains(extension) || !is_module(info, extension);
    Ok(files.iter().filter(|(extension, _)| stays(extension)).map(|(_, path)| (*path).clone()).collect())
}

fn is_module(info: &Info, name: &str) -> bool {
    info.modules.iter().any(|module| module == name || (name == "opcache" && module == "zend opcache"))
}

/// The extension that an ini file is named after, in small letters.
fn extension_of(path: &Path) -> String {
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let name = stem.trim_start_matches(|c: char| c.is_ascii_digit());
    let name = match name.strip_prefix(['-', '_']) {
        Some(rest) if name.len() < stem.len() => rest,
        _ => &stem,
    };
    name.strip_prefix("docker-php-ext-").unwrap_or(name).to_owned()
}

fn nearest(info: &Info, files: &[(String, &PathBuf)], name: &str) -> Option<String> {
    let known = files.iter().map(|(extension, _)| extension).chain(&info.modules);
    let scored = known.map(|known| (strsim::damerau_levenshtein(known, name), known));
    scored.filter(|(distance, _)| *distance <= 1 + name.len() / 4).min().map(|(_, known)| known.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "phpinfo()\nPHP Version => 8.2.35\n\nSystem => Linux\nServer API => FPM/FastCGI\n\
        Configuration File (php.ini) Path => /etc/php/8.2/fpm\n\
        Loaded Configuration File => /etc/php/8.2/fpm/php.ini\n\
        Scan this dir for additional .ini files => /etc/php/8.2/fpm/conf.d\n\
        Additional .ini files parsed => /e/10-mysqlnd.ini,\n/e/10-opcache.ini,\n/e/10-pdo.ini,\n\
        /e/20-dom.ini,\n/e/20-mbstring.ini,\n/e/20-pdo_mysql.ini,\n/e/20-xsl.ini,\n/e/99-site.ini\n\n\
        PHP API => 20220829\n\n_____\n\nConfiguration\n\nCore\n\n\
        extension_dir => /usr/lib/php/20220829 => /usr/lib/php/20220829\n\n\
        dom\n\nDOM/XML => enabled\n\njson\n\njson support => enabled\n\nmbstring\n\nx => y\n\n\
        mysqlnd\n\nx => y\n\nPDO\n\nx => y\n\npdo_mysql\n\nx => y\n\nxsl\n\nx => y\n\n\
        Zend OPcache\n\nx => y\n\nAdditional Modules\n\nModule Name\nquiet\n\nEnvironment\n\nA => b\n";

    fn info() -> Info {
        Info::parse(TEXT, Path::new("/usr/sbin/php-fpm8.2")).unwrap()
    }

    fn error(text: &str) -> String {
        Info::parse(text, Path::new("/bin/x")).unwrap_err().to_string()
    }

    fn select(wanted: &[&str]) -> Result<Vec<String>, String> {
        let wanted: Vec<String> = wanted.iter().map(|&name| name.to_owned()).collect();
        match select_extensions(&info(), &wanted) {
            Ok(files) => Ok(files.iter().map(|file| file.display().to_string()).collect()),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn reads_what_php_fpm_says() {
        let info = info();
        assert_eq!(info.version, (8, 2, 35));
        assert_eq!(info.loaded_ini.as_deref(), Some(Path::new("/etc/php/8.2/fpm/php.ini")));
        assert_eq!(info.scanned.len(), 8);
        assert_eq!(info.scanned[7], Path::new("/e/99-site.ini"));
        assert_eq!(info.extension_dir, Path::new("/usr/lib/php/20220829"));
        for module in ["core", "pdo", "zend opcache", "quiet"] {
            assert!(info.modules.iter().any(|m| m == module), "{module}");
        }
        let bare = TEXT.replace("/etc/php/8.2/fpm/conf.d", "(none)").replace("/e/10-mysqlnd.ini,", "(none)");
        let bare = Info::parse(&bare, Path::new("/bin/x")).unwrap();
        assert_eq!((bare.scan_dir, bare.scanned), (None, Vec::new()));
    }

    #[test]
    fn versions() {
        assert_eq!(version("8.5.0-dev"), Some((8, 5, 0)));
        assert_eq!(version("7.4.33-1+deb11u4"), Some((7, 4, 33)));
        assert_eq!(version("8.2"), None);
        assert_eq!(
            error(&TEXT.replace("8.2.35", "7.3.33")),
            "/bin/x: php-fpm 7.3.33 is older than 7.4, which howdah needs: install a newer one"
        );
    }

    #[test]
    fn what_is_no_php_fpm_is_named() {
        assert_eq!(error("sh: -i: invalid"), "/bin/x is no php-fpm: its -i does not say \"Server API\"");
        assert_eq!(
            error(&TEXT.replace("FPM/FastCGI", "Command Line Interface")),
            "/bin/x is no php-fpm but PHP's \"Command Line Interface\": name the binary of php-fpm"
        );
    }

    #[test]
    fn extensions_bring_what_they_need_and_settings_stay() {
        let wanted = ["/e/10-mysqlnd.ini", "/e/10-pdo.ini", "/e/20-pdo_mysql.ini", "/e/99-site.ini"];
        assert_eq!(select(&["PDO_mysql"]), Ok(wanted.map(str::to_owned).to_vec()));
        let wanted = ["/e/10-opcache.ini", "/e/20-dom.ini", "/e/20-xsl.ini", "/e/99-site.ini"];
        assert_eq!(select(&["xsl", "opcache", "json"]), Ok(wanted.map(str::to_owned).to_vec()));
        assert_eq!(select(&[]), Ok(vec!["/e/99-site.ini".to_owned()]));
    }

    #[test]
    fn an_unknown_extension_is_answered_with_the_nearest() {
        assert_eq!(
            select(&["mbstrng"]),
            Err("[php] extensions: php-fpm has no extension \"mbstrng\" enabled: did you mean \"mbstring\"?"
                .to_owned())
        );
        assert_eq!(
            select(&["imagick"]),
            Err("[php] extensions: php-fpm has no extension \"imagick\" enabled: install it, or remove it from the list"
                .to_owned())
        );
    }

    #[test]
    fn names_of_ini_files_of_several_distributions() {
        for (file, name) in [
            ("20-pdo_mysql.ini", "pdo_mysql"),
            ("00_mbstring.ini", "mbstring"),
            ("docker-php-ext-sodium.ini", "sodium"),
            ("xdebug.ini", "xdebug"),
            ("3des.ini", "3des"),
        ] {
            assert_eq!(extension_of(&Path::new("/etc").join(file)), name);
        }
    }
}
