//! Compiles the probe of `howdah audit` (`src/probe`) into a static program,
//! which howdah embeds. It must run in every image, whatever C library that has,
//! so it cannot be a second binary of the package: those are linked as howdah is.

use std::env;
use std::path::PathBuf;
use std::process::{Command, exit};

fn main() {
    println!("cargo::rerun-if-changed=src/probe");
    println!("cargo::rerun-if-changed=src/attack.rs");
    let variable = |name: &str| env::var(name).unwrap_or_default();
    let output = PathBuf::from(variable("OUT_DIR")).join("probe");
    let mut rustc = Command::new(variable("RUSTC"));
    rustc.args(["--crate-name", "howdah_probe", "--crate-type", "bin", "--edition", "2024"]);
    rustc.args(["--target", &variable("TARGET"), "--cap-lints", "allow"]);
    for option in
        ["target-feature=+crt-static", "opt-level=s", "panic=abort", "strip=symbols", "codegen-units=1"]
    {
        rustc.args(["-C", option]);
    }
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.arg("-C").arg(format!("linker={linker}"));
    }
    rustc.arg("-o").arg(output).arg("src/probe/main.rs");
    match rustc.output() {
        Ok(done) if done.status.success() => {}
        Ok(done) => {
            let said = String::from_utf8_lossy(&done.stderr);
            let hint = if said.contains("-lc") || said.contains("cannot find") {
                ": it is linked statically, which needs the C library's libc.a (Debian: apt-get install libc6-dev)"
            } else {
                ""
            };
            fail(&format!("the probe of `howdah audit` does not compile{hint}\n{said}"))
        }
        Err(error) => fail(&format!("{}: {error}", variable("RUSTC"))),
    }
}

#[allow(clippy::print_stderr)] // what cargo shows of a build script that fails
fn fail(line: &str) -> ! {
    eprintln!("{line}");
    exit(1)
}
