//! What was lost.

use super::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Something was lost, or left out on purpose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Loss {
    /// What, how much, why.
    pub loss: LossDetail,
}

/// What was lost, how much of it, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LossDetail {
    /// Where it was lost.
    pub stage: Stage,
    /// The probe, for losses in the kernel; the sink, for losses in an output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<String>,
    /// Why.
    pub reason: LossReason,
    /// How many. Absent: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Of what.
    pub unit: LossUnit,
    /// Begin of the span in which it was lost.
    pub from: Time,
    /// End of the span.
    pub to: Time,
    /// Left out by a policy rather than lost.
    pub intentional: bool,
    /// For lost events that had their numbers already: where among them the lost ones are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<LostEvents>,
}

/// A span of events' numbers in which some were lost: all of them if `count` says as many.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LostEvents {
    /// `producer.id` of the events. Absent: this event's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<Arc<str>>,
    /// `producer.epoch` of the events.
    pub epoch: u64,
    /// Number of the first one.
    pub first: u64,
    /// Number of the last one. Absent: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<u64>,
}

/// A stage of the agent, or the collector.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Probes and ring.
    Kernel,
    /// Bytes of connections.
    Flow,
    /// TLS records.
    Tls,
    /// HTTP exchanges.
    Http,
    /// Credentials.
    Credential,
    /// Processes.
    Identity,
    /// Events.
    Usage,
    /// Between stages.
    Pipeline,
    /// The durable queue in front of the outputs.
    Spool,
    /// Outputs.
    Sink,
    /// The collector, which receives what agents send.
    Collector,
}

/// Why something was lost.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum LossReason {
    /// The ring buffer was full.
    RingFull,
    /// Memory of the watched program could not be read at that moment.
    CopyRefused,
    /// Longer than what one record holds.
    Oversize,
    /// The agent was over its own budget of CPU time or memory, and did less.
    OverBudget,
    /// A map of the probes was full.
    MapFull,
    /// Left out by the copy policy.
    Policy,
    /// Positions jumped: the bytes went a way that the hooks do not see.
    Unseen,
    /// Pushed out of the agent's memory by its limits.
    Evicted,
    /// A TLS record that no proven secret opened.
    Unopened,
    /// A record of the ring that this agent does not understand.
    UnknownRecord,
    /// Bytes that are not what their place calls for.
    Malformed,
    /// Over a limit of count or size.
    Limit,
    /// A queue between stages was full.
    QueueFull,
    /// The output could not be written.
    OutputFailed,
    /// A fingerprint had not the form of one.
    InvalidFingerprint,
    /// The agent stopped before it was done.
    Stopped,
    /// The durable queue held as much as it may.
    SpoolFull,
    /// It waited in the durable queue for longer than it may.
    SpoolExpired,
    /// What the durable queue held was damaged.
    SpoolDamaged,
    /// The durable queue could not be written.
    SpoolFailed,
    /// The receiver refused it for good.
    Rejected,
    /// The agent ended without stopping: it was killed, or the host lost power.
    UncleanEnd,
    /// Later events of the agent arrived, and these did not. They may still.
    NotReceived,
    /// The probes were detached, because the agent was over its own budget for long. What went by is not known.
    Detached,
}

/// What is counted.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum LossUnit {
    /// Calls of a probed function.
    Calls,
    /// Records of the ring.
    Records,
    /// Bytes of a stream.
    Bytes,
    /// Connections.
    Connections,
    /// HTTP exchanges.
    Exchanges,
    /// Credentials.
    Credentials,
    /// Events.
    Events,
    /// Processes.
    Processes,
}
