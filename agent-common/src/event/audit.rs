//! Agent and collector about themselves.

use super::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Something about the program itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Audit {
    /// What happened to it.
    pub audit: AuditDetail,
}

/// What happened to the program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditDetail {
    /// What happened.
    pub action: Action,
    /// What the agent may observe, as given: `cgroup:PATH`, `unit:NAME`, `pid:N`, `container:ID`, `host`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scope: Vec<String>,
    /// The kernel's release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// The kind of kernel hook in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<super::Hook>,
    /// Ids of the fingerprint keys in use, the current one first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key_ids: Vec<String>,
    /// Counters since the start, by name (`calls.seen`, `ring.records`, `events.usage`, `losses.ring_full`, ...).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub counters: BTreeMap<String, u64>,
    /// Who asked the collector: `key:ID (NAME)`, `admin`, `certificate:NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// The fingerprints that were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fingerprints: Vec<super::Fingerprint>,
    /// The outputs behind the durable queue.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sinks: Vec<SinkReport>,
    /// What it was about, for people: the signal, the changed keys of the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl AuditDetail {
    /// With nothing but what happened.
    #[must_use]
    pub fn of(action: Action) -> Self {
        Self {
            action,
            scope: Vec::new(),
            kernel: None,
            hook: None,
            key_ids: Vec::new(),
            counters: BTreeMap::new(),
            sinks: Vec::new(),
            actor: None,
            fingerprints: Vec::new(),
            detail: None,
        }
    }
}

/// What an output behind the durable queue has done since the agent started, and what waits for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SinkReport {
    /// `otlp`, `http`, `syslog`, `file`, `stdout`.
    pub name: String,
    /// Events that its receiver has taken.
    pub delivered: u64,
    /// Batches that were sent again.
    pub retried: u64,
    /// Events that its receiver has refused for good.
    pub refused: u64,
    /// Events that wait for it in the durable queue.
    pub waiting: u64,
    /// Events of refused batches that are kept for looking at, those of earlier runs included.
    pub quarantined: u64,
    /// Times that it began again after a mistake in the agent (a panic).
    pub restarted: u64,
    /// When its receiver last took something. Absent: not since the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_delivered: Option<Time>,
}

/// What happened to an agent or a collector.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It is ready and observes.
    AgentStarted,
    /// It has stopped observing; the counters are final.
    AgentStopped,
    /// It reports its counters and goes on.
    AgentReport,
    /// Its configuration changed.
    ConfigChanged,
    /// What it may observe changed.
    ScopeChanged,
    /// A key-log point was attached.
    PointAttached,
    /// A key-log point was dropped, because it did not prove itself.
    PointDropped,
    /// The collector is ready and receives.
    CollectorStarted,
    /// The collector stops.
    CollectorStopped,
    /// Somebody asked the collector for a credential's trail.
    TrailAsked,
    /// A key of the collector was made or revoked, or its admin's password set.
    AccessChanged,
    /// It passed its own budget of CPU time: from here on it skips exchanges, and counts them.
    OverBudget,
    /// It is within its own budget again: nothing is skipped any more.
    WithinBudget,
    /// It was over its own budget for long: the probes are detached for a while.
    ProbesDetached,
    /// The probes are attached again.
    ProbesAttached,
}
