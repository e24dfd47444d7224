//! `coverage`: asks a running agent.

use super::CoverageArguments;
use std::process::ExitCode;
use tokentrail_agent::coverage::{door, table};

pub fn coverage(arguments: &CoverageArguments) -> anyhow::Result<ExitCode> {
    let snapshot = door::ask(arguments.socket.as_deref())?;
    if arguments.json {
        return super::print(&format!("{}\n", serde_json::to_string_pretty(&snapshot)?));
    }
    super::print(&table(&snapshot))
}
