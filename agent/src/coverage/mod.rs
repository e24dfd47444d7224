//! The ledger: what was on the wire against what was read, with a reason for every gap.
//!
//! Counted per subject, that is a program and what its connections were read through (a TLS library, or a protocol). Each
//! connection is recorded once, when it ends or the agent stops, as read or unread; what was missing in a connection that
//! was read besides is a part. Losses are counted by place (a probe, a stage) and reason.
//!
//! [`Ledger::summary`] gives plain values in a stable order; the pipeline makes coverage events and the final counters of
//! them. [`Sums`] are the two sums that must hold at the end.
//!
//! Invariant: seen = read + unread, for each subject and in total.
//! Invariant: memory is bounded: subjects over the limit are counted together under [`OTHERS`].

mod reason;
mod sums;

pub use reason::{Loss, Unread};
pub use sums::Sums;

use std::collections::BTreeMap;

/// Program and layer of the subjects that found no room of their own.
pub const OTHERS: &str = "(others)";

/// Subjects kept apart by default.
const SUBJECTS: usize = 1024;

/// What became of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its plaintext was read, if perhaps not all of it.
    Read,
    Unread(Unread),
}

/// See the module.
pub struct Ledger {
    subjects: BTreeMap<Subject, Counts>,
    most: usize,
    /// How many records went to [`OTHERS`].
    folded: u64,
    losses: BTreeMap<(&'static str, Loss), u64>,
}

/// Whose connections are counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    /// Executable path, or name where the path is not known.
    pub program: String,
    /// What its connections were read through or would have been: `openssl`, `gnutls`, `tls` where the library is not
    /// known, `http`, ...
    pub over: String,
}

/// What was counted for a subject, or in total.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections on which bytes were seen.
    pub seen: u64,
    /// Of these, read.
    pub read: u64,
    /// Of these, not read, by reason.
    pub unread: BTreeMap<Unread, u64>,
    /// What was missing within connections that were read, by reason; each counts as often as it happened.
    pub parts: BTreeMap<Unread, u64>,
}

/// Losses at one place for one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LossCount {
    /// A probe's or a stage's name.
    pub place: &'static str,
    pub reason: Loss,
    pub count: u64,
}

/// The whole ledger as plain values, ordered by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub subjects: Vec<(Subject, Counts)>,
    pub total: Counts,
    pub losses: Vec<LossCount>,
    /// Records that were counted under [`OTHERS`] for want of room.
    pub folded: u64,
}

impl Default for Ledger {
    fn default() -> Self {
        Self::new(SUBJECTS)
    }
}

impl Ledger {
    /// `most` subjects are kept apart.
    pub fn new(most: usize) -> Self {
        Self {
            subjects: BTreeMap::new(),
            most,
            folded: 0,
            losses: BTreeMap::new(),
        }
    }

    /// A connection has ended. Once for each.
    pub fn record(&mut self, program: &str, over: &str, verdict: Verdict) {
        let counts = self.counts(program, over);
        counts.seen += 1;
        match verdict {
            Verdict::Read => counts.read += 1,
            Verdict::Unread(reason) => *counts.unread.entry(reason).or_default() += 1,
        }
    }

    /// Something was missing in a connection that was read otherwise.
    pub fn record_part(&mut self, program: &str, over: &str, reason: Unread, count: u64) {
        add(
            self.counts(program, over).parts.entry(reason).or_default(),
            count,
        );
    }

    /// `count` more were lost at a place.
    pub fn lose(&mut self, place: &'static str, reason: Loss, count: u64) {
        if count > 0 {
            add(self.losses.entry((place, reason)).or_default(), count);
        }
    }

    /// So many were lost at a place since the start: for counters that live elsewhere (the probes' maps).
    ///
    /// Returns what is new since the last time. A counter that goes back is not believed.
    pub fn lost_so_far(&mut self, place: &'static str, reason: Loss, total: u64) -> u64 {
        let before = self
            .losses
            .get(&(place, reason))
            .copied()
            .unwrap_or_default();
        let new = total.saturating_sub(before);
        self.lose(place, reason, new);
        new
    }

    pub fn summary(&self) -> Summary {
        let mut total = Counts::default();
        for counts in self.subjects.values() {
            total.add(counts);
        }
        let loss = |(&(place, reason), &count)| LossCount {
            place,
            reason,
            count,
        };
        Summary {
            subjects: self
                .subjects
                .iter()
                .map(|(subject, counts)| (subject.clone(), counts.clone()))
                .collect(),
            total,
            losses: self.losses.iter().map(loss).collect(),
            folded: self.folded,
        }
    }

    fn counts(&mut self, program: &str, over: &str) -> &mut Counts {
        let mut subject = Subject {
            program: program.to_owned(),
            over: over.to_owned(),
        };
        if self.subjects.len() >= self.most && !self.subjects.contains_key(&subject) {
            self.folded += 1;
            subject = Subject {
                program: OTHERS.to_owned(),
                over: OTHERS.to_owned(),
            };
        }
        self.subjects.entry(subject).or_default()
    }
}

impl Counts {
    /// All unread connections.
    pub fn unread_total(&self) -> u64 {
        self.unread
            .values()
            .fold(0, |sum, count| sum.saturating_add(*count))
    }

    fn add(&mut self, other: &Self) {
        add(&mut self.seen, other.seen);
        add(&mut self.read, other.read);
        for (reason, count) in &other.unread {
            add(self.unread.entry(*reason).or_default(), *count);
        }
        for (reason, count) in &other.parts {
            add(self.parts.entry(*reason).or_default(), *count);
        }
    }
}

fn add(counter: &mut u64, count: u64) {
    *counter = counter.saturating_add(count);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(program: &str, over: &str) -> Subject {
        Subject {
            program: program.to_owned(),
            over: over.to_owned(),
        }
    }

    #[test]
    fn connections_and_parts() {
        let mut ledger = Ledger::default();
        ledger.record("/usr/bin/curl", "openssl", Verdict::Read);
        ledger.record(
            "/usr/bin/curl",
            "openssl",
            Verdict::Unread(Unread::OpenedBefore),
        );
        ledger.record(
            "/usr/bin/curl",
            "openssl",
            Verdict::Unread(Unread::OpenedBefore),
        );
        ledger.record("/usr/bin/curl", "http", Verdict::Unread(Unread::Http2));
        ledger.record_part("/usr/bin/curl", "openssl", Unread::BytesLost, 3);
        let summary = ledger.summary();
        let openssl = Counts {
            seen: 3,
            read: 1,
            unread: BTreeMap::from([(Unread::OpenedBefore, 2)]),
            parts: BTreeMap::from([(Unread::BytesLost, 3)]),
        };
        let http = Counts {
            seen: 1,
            unread: BTreeMap::from([(Unread::Http2, 1)]),
            ..Counts::default()
        };
        let expected = [
            (subject("/usr/bin/curl", "http"), http),
            (subject("/usr/bin/curl", "openssl"), openssl),
        ];
        assert_eq!(summary.subjects, expected);
        assert_eq!(
            (
                summary.total.seen,
                summary.total.read,
                summary.total.unread_total()
            ),
            (4, 1, 3)
        );
        assert_eq!(
            summary.total.unread,
            BTreeMap::from([(Unread::OpenedBefore, 2), (Unread::Http2, 1)])
        );
        assert_eq!(summary.folded, 0);
    }

    #[test]
    fn subjects_are_bounded_and_nothing_goes_uncounted() {
        let mut ledger = Ledger::new(10);
        for at in 0..100 {
            ledger.record(&format!("program{at}"), "http", Verdict::Read);
            ledger.record_part(&format!("program{at}"), "http", Unread::Malformed, 1);
        }
        // One that has its place keeps it.
        ledger.record("program3", "http", Verdict::Read);
        let summary = ledger.summary();
        assert_eq!(summary.subjects.len(), 11);
        assert_eq!(
            (summary.total.seen, summary.total.parts[&Unread::Malformed]),
            (101, 100)
        );
        assert_eq!(summary.folded, 180);
        let counts: BTreeMap<_, _> = summary.subjects.into_iter().collect();
        assert_eq!(counts[&subject("program3", "http")].seen, 2);
        assert_eq!(counts[&subject(OTHERS, OTHERS)].seen, 90);
    }

    #[test]
    fn losses() {
        let mut ledger = Ledger::default();
        ledger.lose("send", Loss::RingFull, 2);
        ledger.lose("send", Loss::RingFull, 3);
        ledger.lose("send", Loss::Oversize, 0);
        assert_eq!(ledger.lost_so_far("receive", Loss::CopyRefused, 7), 7);
        assert_eq!(ledger.lost_so_far("receive", Loss::CopyRefused, 9), 2);
        assert_eq!(ledger.lost_so_far("receive", Loss::CopyRefused, 8), 0);
        ledger.lose("flow", Loss::Evicted, u64::MAX);
        ledger.lose("flow", Loss::Evicted, 1);
        let expected = [
            LossCount {
                place: "flow",
                reason: Loss::Evicted,
                count: u64::MAX,
            },
            LossCount {
                place: "receive",
                reason: Loss::CopyRefused,
                count: 9,
            },
            LossCount {
                place: "send",
                reason: Loss::RingFull,
                count: 5,
            },
        ];
        assert_eq!(ledger.summary().losses, expected);
    }
}
