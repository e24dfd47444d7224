//! The ledger: connections that were on the wire against what was read of them, with a reason for every gap.
//!
//! By program, protocol and TLS library; the pipeline records each connection once, when it ends, and turns the summary
//! into events. People look at it through a [`door`], monitoring through [`metrics`]; both show a [`Snapshot`].
//!
//! Invariant: seen = read + unread + undecided, for every subject. Invariant: bounded; what is over goes to [`OTHERS`].

pub mod door;
pub mod metrics;
mod snapshot;
mod table;

pub use snapshot::{Row, Snapshot};
pub use table::table;

use agent_common::event::{Connections, CoverageReason};
use std::collections::BTreeMap;

/// Programs beyond the ledger's size.
pub const OTHERS: &str = "(others)";

/// Whose connections, over what.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    /// Path of the executable, or the process's name where that is not known.
    pub program: String,
    /// `http`, `tls`, `quic`, or `other` for what is none of them.
    pub protocol: &'static str,
    /// The TLS library whose secret opened it; of an unread connection the only one that the process has mapped.
    pub library: Option<&'static str>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub seen: u64,
    pub read: u64,
    /// Open, and neither read nor given up so far. Never so in the ledger itself, whose connections have ended.
    pub undecided: u64,
    /// By the first reason of each connection.
    pub unread: BTreeMap<CoverageReason, u64>,
}

impl Counts {
    pub fn connections(&self) -> Connections {
        Connections {
            seen: self.seen,
            read: self.read,
            unread: self.unread.values().sum(),
        }
    }
}

/// See the module.
#[derive(Clone)]
pub struct Ledger {
    subjects: BTreeMap<Subject, Counts>,
    most: usize,
}

impl Ledger {
    /// Keeps at most `most` subjects apart.
    pub fn new(most: usize) -> Self {
        Self {
            subjects: BTreeMap::new(),
            most,
        }
    }

    /// A connection has ended: read, or not (or only partly) for this reason.
    pub fn record(&mut self, subject: Subject, unread: Option<CoverageReason>) {
        let counts = self.counts(subject);
        counts.seen += 1;
        match unread {
            None => counts.read += 1,
            Some(reason) => *counts.unread.entry(reason).or_default() += 1,
        }
    }

    /// A connection that is open, for a ledger that is shown and thrown away: [`Ledger::clone`].
    pub fn record_open(&mut self, subject: Subject, read: bool, unread: Option<CoverageReason>) {
        if read || unread.is_some() {
            return self.record(subject, unread);
        }
        let counts = self.counts(subject);
        counts.seen += 1;
        counts.undecided += 1;
    }

    fn counts(&mut self, subject: Subject) -> &mut Counts {
        let known = self.subjects.contains_key(&subject) || self.subjects.len() < self.most;
        let subject = if known {
            subject
        } else {
            Subject {
                program: OTHERS.to_owned(),
                library: None,
                ..subject
            }
        };
        self.subjects.entry(subject).or_default()
    }

    pub fn subjects(&self) -> impl Iterator<Item = (&Subject, &Counts)> {
        self.subjects.iter()
    }

    pub fn total(&self) -> Connections {
        self.subjects
            .values()
            .map(Counts::connections)
            .fold(Connections::default(), |sum, next| Connections {
                seen: sum.seen + next.seen,
                read: sum.read + next.read,
                unread: sum.unread + next.unread,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(program: &str) -> Subject {
        Subject {
            program: program.to_owned(),
            protocol: "tls",
            library: None,
        }
    }

    #[test]
    fn seen_is_read_and_unread() {
        let mut ledger = Ledger::new(8);
        ledger.record(subject("/bin/a"), None);
        ledger.record(subject("/bin/a"), Some(CoverageReason::NoSecret));
        ledger.record(subject("/bin/b"), Some(CoverageReason::NotHttp));
        let total = ledger.total();
        assert_eq!((total.seen, total.read, total.unread), (3, 1, 2));
        let (_, counts) = ledger.subjects().next().unwrap();
        assert_eq!(
            counts.unread,
            BTreeMap::from([(CoverageReason::NoSecret, 1)])
        );
    }

    #[test]
    fn what_is_over_the_limit_is_counted_together() {
        let mut ledger = Ledger::new(1);
        for program in ["/bin/a", "/bin/b", "/bin/c", "/bin/a"] {
            ledger.record(subject(program), None);
        }
        let seen: Vec<_> = ledger
            .subjects()
            .map(|(subject, counts)| (subject.program.as_str(), counts.seen))
            .collect();
        assert_eq!(seen, [(OTHERS, 2), ("/bin/a", 2)]);
    }
}
