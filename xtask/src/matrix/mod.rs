//! `cargo xtask matrix`: real programs by protocol, as clients and as servers, and what the agent read of each.
//!
//! The end-to-end tests say of each cell which program, protocol and trial it is about (`agent/tests/matrix/support/
//! programs.rs`); this runs those that do, and lays their cells out as a table.
//!
//! Invariant: the table holds what the cells said in one run, and nothing else.

mod table;

use crate::say;
use crate::test;
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use clap::Args;
use std::fs;
use std::path::{Path, PathBuf};
use table::Table;

#[derive(Args)]
pub struct Options {
    /// Print it as Markdown
    #[arg(long)]
    markdown: bool,
    /// Write it into README.md, between its two marks
    #[arg(long)]
    readme: bool,
    /// Of a run that was (target/matrix/host.ndjson), without running anything
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
}

/// The tests whose cells say what they are about.
const TESTS: [&str; 10] = [
    "bridge::bridge",
    "clients::",
    "serving::",
    "http2::http2",
    "grpc::",
    "connections::connections",
    "crowd::crowd",
    "late::late_attach",
    "repeated::repeated",
    "unread::unread",
];

const BEGIN: &str = "<!-- matrix -->\n";
const END: &str = "<!-- end of matrix -->\n";

/// Returns whether nothing failed.
pub fn run(workspace: &Workspace, options: &Options) -> Result<bool> {
    let cells = match &options.from {
        Some(file) => file.clone(),
        None => test::some_end_to_end(workspace, &TESTS)?,
    };
    let text = fs::read_to_string(&cells).with_context(|| format!("{}", cells.display()))?;
    let table = Table::of(&text)?;
    if options.readme {
        let readme = workspace.root.join("README.md");
        refresh(&readme, &table.markdown())?;
        say::line(&format!(" + {}", readme.display()));
    }
    let shown = if options.markdown {
        table.markdown()
    } else {
        table.text()
    };
    println!("{shown}");
    for line in table.reasons() {
        println!("{line}");
    }
    println!("{}", table.counts());
    Ok(table.failed() == 0)
}

fn refresh(readme: &Path, table: &str) -> Result<()> {
    let text = fs::read_to_string(readme)?;
    let fresh = between(&text, table)
        .with_context(|| format!("{} has not both marks", readme.display()))?;
    fs::write(readme, fresh).with_context(|| format!("cannot write {}", readme.display()))
}

/// `text` with `new` between the marks.
fn between(text: &str, new: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{new}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_keeps_what_is_around_the_table() {
        let text = format!("a\n{BEGIN}old\n{END}z\n");
        assert_eq!(
            between(&text, "new\n").unwrap(),
            format!("a\n{BEGIN}new\n{END}z\n")
        );
        assert_eq!(between("a\n", "new\n"), None);
    }

    #[test]
    fn the_readme_has_its_marks() {
        assert!(between(include_str!("../../../README.md"), "").is_some());
    }
}
