//! `config show` and `config check`.

use super::{receivers, start};
use anyhow::Context as _;
use std::{path::Path, process::ExitCode};
use tokentrail_agent::{
    config::{self, Config},
    sink::remote::file::Source,
};

pub fn show(file: Option<&Path>) -> anyhow::Result<ExitCode> {
    let config = config::load_or_default(file)?;
    super::print(&config.show())
}

/// With `scope`: also whether `run` would start with it.
pub fn check(file: &Path, scope: bool) -> anyhow::Result<ExitCode> {
    let config: Config = config::load(file)?;
    let file = file.display();
    if !scope {
        return super::print(&format!("{file}: good\n"));
    }
    let scopes = (|| {
        start::settings(&config)?;
        start::account(&config)?;
        receivers::remote(&config, &Source::disk())?;
        anyhow::Ok(start::scopes(&config)?)
    })()
    .with_context(|| file.to_string())?;
    let named: Vec<String> = scopes.iter().map(ToString::to_string).collect();
    super::print(&format!("{file}: good, scope {}\n", named.join(" ")))
}
