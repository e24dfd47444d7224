//! DuckDB and ClickHouse's engine (chDB), driven by Python.

use super::questions::{Answers, Questions};
use crate::process;
use crate::setup;
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::fs;
use std::path::Path;
use std::process::Command;

const DRIVER: &str = include_str!("../../../fixtures/engines.py");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    DuckDb,
    ChDb,
}

/// What its own table costs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Loaded {
    pub version: String,
    pub load_seconds: f64,
    pub rows: u64,
    /// Of the table's files.
    pub bytes: u64,
    pub peak_memory: u64,
}

#[derive(Deserialize)]
struct Said {
    #[serde(flatten)]
    loaded: Loaded,
    answers: Answers,
}

impl Engine {
    pub const ALL: [Self; 2] = [Self::DuckDb, Self::ChDb];

    pub fn name(self) -> &'static str {
        match self {
            Self::DuckDb => "DuckDB",
            Self::ChDb => "chDB",
        }
    }

    /// Makes a table of the segments, which hold `events`, in a folder of its own, and asks it.
    pub fn ask(
        self,
        workspace: &Workspace,
        events: u64,
        segments: &Path,
        folder: &Path,
        questions: &Questions,
    ) -> Result<(Loaded, Answers)> {
        let folder = folder.join(self.name());
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let driver = folder.join("engines.py");
        fs::write(&driver, DRIVER).context("cannot write the driver")?;
        let asked = json!({
            "engine": self.name(),
            "events": events,
            "segments": segments,
            "folder": folder,
            "needles": questions.needles,
            "day": [questions.day.0, questions.day.1],
            "needle_times": questions.needle_times,
            "scan_times": questions.scan_times,
        });
        let mut command = Command::new(setup::engines_python(workspace));
        command.arg(&driver).arg(asked.to_string());
        let said = process::output(&mut command)?;
        let line = said.lines().last().unwrap_or_default();
        let Said { loaded, answers } = serde_json::from_str(line)
            .with_context(|| format!("{} said {line:.300}", self.name()))?;
        // The next engine needs the room.
        fs::remove_dir_all(&folder).context("cannot remove an engine's folder")?;
        Ok((loaded, answers))
    }
}
