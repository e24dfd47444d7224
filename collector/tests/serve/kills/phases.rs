//! In the middle of what it was killed, as it shows in the folder; what merges and retention did, as its log says.

use super::Agent;
use crate::support::stored::{Reader, Stored};
use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use tokentrail::event::EventKey;

/// How often each was found.
#[derive(Default)]
pub struct Phases {
    /// Batches were on the way that nobody acknowledged.
    receiving: u64,
    /// A sealed segment is written, in part or whole, and not in the catalog.
    sealing: u64,
    /// It is in the catalog, and its events wait in the inbox, too.
    sealed: u64,
    /// A merged segment is written and not in the catalog.
    merging: u64,
    /// The catalog has dropped segments whose files are still there.
    dropping: u64,
    unanswered: u64,
}

impl Phases {
    pub fn add(&mut self, stored: &Stored, agents: &[Agent]) {
        let unanswered = agents.iter().map(|agent| agent.unanswered).sum();
        let written = |sealed: bool| {
            let mut strangers = stored.strangers.iter();
            strangers.any(|path| path.contains("-sealed-") == sealed)
        };
        self.receiving += u64::from(unanswered > self.unanswered);
        self.unanswered = unanswered;
        self.sealing += u64::from(written(true));
        self.sealed += u64::from(stored.sealed_and_waiting > 0);
        self.merging += u64::from(written(false));
        self.dropping += u64::from(!stored.catalog.dropped.is_empty());
    }

    pub fn all_happened(&self) {
        for count in [
            self.receiving,
            self.sealing,
            self.sealed,
            self.merging,
            self.dropping,
        ] {
            assert!(
                count > 0,
                "it was never killed in the middle of one of these: {self}"
            );
        }
    }
}

impl fmt::Display for Phases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "while receiving {}, writing a sealed segment {}, before the inbox let go {}, writing a merged segment {}, \
             before dropped files were deleted {}",
            self.receiving, self.sealing, self.sealed, self.merging, self.dropping
        )
    }
}

/// Segments that were made by merging, by the log.
pub fn merges(said: &str) -> u64 {
    let wholes = said
        .lines()
        .filter_map(|line| line.split_once("wholes: ")?.1.split_once(','));
    wholes.map(|(count, _)| count.parse::<u64>().unwrap()).sum()
}

/// What retention has dropped.
#[derive(Default)]
pub struct Dropped {
    pub rows: u64,
    /// Each is counted once.
    paths: BTreeSet<String>,
}

impl Dropped {
    /// What one run has dropped: by its log, and, where the kill came between the drop and the log's line, by the
    /// files, which are deleted after that line.
    pub fn add(&mut self, said: &str, stored: &Stored, reader: &mut Reader, data: &Path) {
        for line in said
            .lines()
            .filter(|line| line.contains("retention drops a segment"))
        {
            let field = |name: &str| {
                let (_, rest) = line.split_once(name).unwrap_or_else(|| panic!("{line}"));
                rest.split_whitespace().next().unwrap()
            };
            if self.paths.insert(field("path=").to_owned()) {
                self.rows += field("events=").parse::<u64>().unwrap();
            }
        }
        for segment in &stored.catalog.dropped {
            let path = segment.path.as_ref();
            let Ok(keys) = reader.segment(data, path) else {
                continue;
            };
            // Parts of a merge are dropped as well; their events are in the whole.
            let gone = |key: &&EventKey| !stored.events.contains_key(*key);
            let count = keys.iter().filter(gone).count() as u64;
            assert!(
                count == 0 || count == segment.rows,
                "{path} is dropped in part"
            );
            if count > 0 && self.paths.insert(path.to_owned()) {
                self.rows += count;
            }
        }
    }
}
