//! `config show` and `config check`.

use std::{path::Path, process::ExitCode};
use tokentrail_agent::config::{self, Config};

pub fn show(file: Option<&Path>) -> anyhow::Result<ExitCode> {
    let config = file.map(config::load).transpose()?.unwrap_or_default();
    super::print(&config.show())
}

pub fn check(file: &Path) -> anyhow::Result<ExitCode> {
    let _: Config = config::load(file)?;
    super::print(&format!("{}: good\n", file.display()))
}
