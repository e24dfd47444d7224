//! What the spool itself says of its runs, after each kill: which there were, what of each was durable, how it ended.

use crate::support::lab::Lab;
use agent_common::event::Time;
use anyhow::{Context, Result, ensure};
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Who was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Both, one right after the other.
    WorkerFirst,
    PrivilegedFirst,
    /// One of them; the other has to end by itself.
    Worker,
    Privileged,
}

/// How a run was ended by the test.
#[derive(Clone, Copy, Debug)]
pub struct Killed {
    pub who: Who,
    /// After it had said so.
    pub ready: bool,
    /// The kill was between these.
    pub before: Time,
    pub after: Time,
}

#[derive(Clone, Debug)]
pub struct Run {
    /// The last durable event; 0 if there was none.
    pub sequence: u64,
    /// Its time, or that of the begin.
    pub time: i128,
    /// In good order.
    pub ended: bool,
    /// `None`: it was left to end.
    pub killed: Option<Killed>,
}

pub struct Truth {
    spool: PathBuf,
    copy: PathBuf,
    pub runs: BTreeMap<u64, Run>,
    /// Kills before there was a run: nothing was observed.
    pub early: usize,
}

impl Truth {
    pub fn new(lab: &Lab) -> Self {
        Self {
            spool: lab.path("spool"),
            copy: lab.path("spool-copy"),
            runs: BTreeMap::new(),
            early: 0,
        }
    }

    /// Of a copy: opening the database would tidy it up.
    fn open(&self) -> Result<Option<Connection>> {
        std::fs::create_dir_all(&self.copy)?;
        for name in ["spool.db", "spool.db-wal"] {
            let copy = self.copy.join(name);
            let _ = std::fs::remove_file(&copy);
            match std::fs::copy(self.spool.join(name), copy) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error.into());
                }
                _ => {}
            }
        }
        let connection = Connection::open(self.copy.join("spool.db"))?;
        let tables: i64 =
            connection.query_row("SELECT COUNT(*) FROM sqlite_schema", [], |row| row.get(0))?;
        Ok((tables > 0).then_some(connection))
    }

    /// After the end of an agent: no process has the spool open.
    pub fn look(&mut self, killed: Option<Killed>) -> Result<()> {
        let Some(connection) = self.open()? else {
            ensure!(
                killed.is_some_and(|killed| !killed.ready),
                "there is no spool"
            );
            self.early += 1;
            return Ok(());
        };
        let found: Vec<(u64, Run)> = connection
            .prepare("SELECT epoch, sequence, time, state FROM runs ORDER BY id")?
            .query_map([], |row| {
                let run = Run {
                    sequence: row.get::<_, i64>(1)?.cast_unsigned(),
                    time: row.get::<_, i64>(2)?.into(),
                    ended: row.get::<_, i64>(3)? == 1,
                    killed,
                };
                Ok((row.get::<_, i64>(0)?.cast_unsigned(), run))
            })?
            .collect::<Result<_, _>>()?;
        let last = self.runs.last_key_value().map_or(0, |(epoch, _)| *epoch);
        let new: Vec<_> = found
            .into_iter()
            .filter(|(epoch, _)| *epoch > last)
            .collect();
        ensure!(new.len() <= 1, "two runs of one agent: {new:?}");
        if new.is_empty() {
            let killed = killed.context("an agent that was not killed has no run")?;
            ensure!(
                !killed.ready,
                "an agent that was ready has no run: {killed:?}"
            );
            self.early += 1;
        }
        self.runs.extend(new);
        Ok(())
    }

    /// Entries that some sink has not had.
    pub fn waiting(&self) -> Result<i64> {
        let connection = self.open()?.context("there is no spool")?;
        let waiting = "SELECT COUNT(*) FROM entries WHERE id >= (SELECT MIN(entry) FROM consumers)";
        Ok(connection.query_row(waiting, [], |row| row.get(0))?)
    }
}
