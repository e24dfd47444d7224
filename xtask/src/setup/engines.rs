//! DuckDB and chDB from PyPI, for the bench of the collector, in a Python environment of their own: together they are
//! larger than all other fixtures.

use super::{Missing, fixtures};
use crate::workspace::Workspace;
use std::fs;
use std::path::PathBuf;

const LIST: &str = include_str!("../../fixtures/engines.txt");

fn venv(workspace: &Workspace) -> PathBuf {
    workspace.cache.join("engines/venv")
}

/// Their Python.
pub fn python(workspace: &Workspace) -> PathBuf {
    venv(workspace).join("bin/python")
}

pub fn ensure(workspace: &Workspace) -> Vec<Missing> {
    let venv = venv(workspace);
    if fs::read_to_string(venv.join("installed.txt")).unwrap_or_default() == LIST {
        return Vec::new();
    }
    let installed = fixtures::install(workspace, &venv, "DuckDB and chDB", LIST);
    let failed = installed.err().map(|error| Missing {
        what: "DuckDB and chDB (what the collector is compared with; --alone does without)"
            .to_owned(),
        command: format!(
            "python3 -m venv {venv} && {venv}/bin/pip install {}",
            LIST.split_whitespace().collect::<Vec<_>>().join(" "),
            venv = venv.display()
        ),
        cause: Some(format!("{error:#}")),
        optional: false,
    });
    failed.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::LIST;

    #[test]
    fn engines_are_pinned() {
        assert!(LIST.lines().all(|line| line.split("==").count() == 2));
    }
}
