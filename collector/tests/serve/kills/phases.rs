//! When it is killed; in the middle of what that was, as it shows in the folder; what retention has dropped.

use super::Agent;
use crate::support::chance::Chance;
use crate::support::stored::{Reader, Stored, files};
use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};
use tokentrail::event::EventKey;

/// When it is killed; a little after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    Start,
    Any,
    /// A sealed segment's file appears, maybe not whole.
    Seal,
    /// A merged one's.
    Merge,
    /// A file is deleted.
    Drop,
}

/// A run without the moment that was chosen ends then.
const LONGEST: Duration = Duration::from_secs(6);

impl Moment {
    pub fn any(chance: &mut Chance) -> Self {
        use Moment::{Any, Drop, Merge, Seal, Start};
        chance.of(&[Start, Any, Any, Any, Seal, Seal, Merge, Merge, Merge, Drop])
    }

    /// Milliseconds after it, at most.
    pub fn most(self) -> u64 {
        match self {
            Self::Start => 200,
            Self::Any => 1_500,
            Self::Seal | Self::Merge => 150,
            Self::Drop => 20,
        }
    }

    pub fn wait(self, store: &Path) {
        let begin: BTreeSet<String> = files(store).into_iter().collect();
        let start = Instant::now();
        while start.elapsed() < LONGEST {
            let now: BTreeSet<String> = files(store).into_iter().collect();
            let fresh = |sealed: bool| {
                let mut fresh = now.difference(&begin);
                fresh.any(|path| path.contains("-sealed-") == sealed)
            };
            let come = match self {
                Self::Start | Self::Any => true,
                Self::Seal => fresh(true),
                Self::Merge => fresh(false),
                Self::Drop => begin.difference(&now).next().is_some(),
            };
            if come {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

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
