//! The program `howdah`.

use std::process::ExitCode;

use clap::Parser;
use howdah::cli::Cli;
use howdah::command;

#[allow(clippy::print_stderr)]
fn main() -> ExitCode {
    match command::run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.line.is_empty() {
                eprintln!("howdah: {}", failure.line);
            }
            ExitCode::from(failure.status)
        }
    }
}
