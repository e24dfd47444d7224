//! The ledger at one moment, with the connections that are open now, as it leaves the agent.

use super::Ledger;
use crate::kernel::points::SearchCounts;
use agent_common::event::{Connections, CoverageReason, SinkReport, Time};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What `tokentrail-agent coverage --json` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// When the agent began to observe.
    pub from: Time,
    /// Now.
    pub to: Time,
    /// What it observes, as `--scope` says it.
    pub scope: Vec<String>,
    /// The sum of the rows.
    pub total: Connections,
    pub rows: Vec<Row>,
    /// The outputs behind the durable queue.
    #[serde(default)]
    pub sinks: Vec<SinkReport>,
    /// Searches of files for key-log points.
    #[serde(default)]
    pub searches: SearchCounts,
    /// The agent's counters, by the names that it prints when it stops.
    pub counters: BTreeMap<String, u64>,
}

/// One program's connections over one protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Path of the executable, or the process's name where that is not known.
    pub program: String,
    /// `http`, `tls`, `quic`, or `other` for what is none of them.
    pub protocol: String,
    /// The TLS library whose secrets opened them; of unread connections the only one that the process has mapped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub library: Option<String>,
    /// `read + undecided + unread`.
    pub seen: u64,
    pub read: u64,
    /// Open, and neither read nor given up so far.
    pub undecided: u64,
    /// By reason.
    pub unread: BTreeMap<CoverageReason, u64>,
}

impl Ledger {
    /// Rows in the order of program, protocol and library.
    pub fn rows(&self) -> Vec<Row> {
        self.subjects()
            .map(|(subject, counts)| Row {
                program: subject.program.clone(),
                protocol: subject.protocol.to_owned(),
                library: subject.library.map(str::to_owned),
                seen: counts.seen,
                read: counts.read,
                undecided: counts.undecided,
                unread: counts.unread.clone(),
            })
            .collect()
    }
}
