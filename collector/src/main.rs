//! `tokentrail`: see `--help`.

use clap::Parser as _;
use std::process::ExitCode;
use tokentrail::cli;

fn main() -> ExitCode {
    match cli::Arguments::parse().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tokentrail: {error:#}");
            if cli::is_misuse(&error) {
                ExitCode::from(2)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}
