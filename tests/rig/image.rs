//! A root file system of a test's own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Rig;

/// A root file system with the host's php-fpm, a shell, and a wrapper around php-fpm that does `first`.
pub fn around_php_fpm(rig: &Rig, first: &str) -> PathBuf {
    let image = rig.path("image");
    let put = |source: &Path, target: &str| {
        let target = image.join(target.trim_start_matches('/'));
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        if !target.exists() {
            let source = fs::canonicalize(source).unwrap();
            // A link would change the time of change of the host's own, which templates rest on.
            fs::copy(&source, &target).unwrap();
        }
    };
    let fpm = howdah::image::Image::locate(&howdah::config::pool::ImageRef::Host, None).unwrap().binary;
    let sleep = Path::new("/bin/sleep");
    for (program, target) in
        [(fpm.as_path(), "/usr/sbin/php-fpm.real"), (Path::new("/bin/sh"), "/bin/sh"), (sleep, "/bin/sleep")]
    {
        put(program, target);
        let libraries = Command::new("ldd").arg(program).output().unwrap();
        for word in String::from_utf8(libraries.stdout)
            .unwrap()
            .split_whitespace()
            .filter(|word| word.starts_with('/'))
        {
            put(Path::new(word), word);
        }
    }
    let wrapper = rig.write(
        "image/usr/sbin/php-fpm",
        &format!("#!/bin/sh\nif [ \"$1\" != -i ]; then\n{first}\nfi\nexec /usr/sbin/php-fpm.real \"$@\"\n"),
    );
    fs::set_permissions(wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    image
}
