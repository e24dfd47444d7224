//! The event contract between agent and collector, version 1.
//!
//! Purpose: one self-contained JSON object per event, an [`Envelope`], that a person can read, a search
//! engine can index and a later version can still understand.
//!
//! Design:
//! - Nested objects by OpenTelemetry's semantic-convention names where they exist (`process.pid`,
//!   `network.peer.address`, `http.request.method`); what they have no name for is ours (`token.*`,
//!   `evidence.*`, `exchange.*`, `systemd.*`). The executable's hash follows ECS's `hash.sha256`.
//! - [`Body`] is the kind: usage, loss, coverage, audit. Each event carries its whole context, so that no
//!   event needs another one to be understood.
//! - A field that is absent is not known. Nothing is filled with a guess: what was derived says so in
//!   `evidence.*` or in its own description.
//! - Closed sets are enums. Readers accept fields they do not know (a later agent may add some) but not
//!   another `version`.
//! - The JSON Schema in `schema/event-v1.json` is generated from these types, descriptions included;
//!   a test fails when it is stale.
//!
//! No secret can be in an event, by construction: there is no field for bytes, header values, bodies or a
//! request target as it was sent; no type here converts from the agent's payload or secret types, which have
//! neither `Display` nor `Debug`; [`Fingerprint`] accepts only the form `tkf1:<kid>:<mac>`, so a raw
//! credential cannot stand in its place; text out of traffic comes only through the agent's `Sanitized`
//! and `Observation`, where secrets are replaced before a `String` exists.
//!
//! Invariant: knows neither `abi` nor secrets.
//! Invariant: (`producer.id`, `producer.epoch`, `producer.sequence`) names one event, and sequence is contiguous
//! from 1 within (id, epoch): a hole is a lost event.

mod audit;
mod coverage;
mod loss;
mod network;
mod principal;
mod scalar;
#[cfg(test)]
mod tests;
mod usage;
mod wire;

pub use audit::{Action, Audit, AuditDetail, SinkReport};
pub use coverage::{Connections, Coverage, CoverageDetail, CoverageReason, CoverageScope};
pub use loss::{Loss, LossDetail, LossReason, LossUnit, LostEvents, Stage};
pub use network::{
    Client, Endpoint, Network, NetworkProtocol, NetworkType, Server, Tls, TlsClient, TlsProtocol,
    Transport,
};
pub use principal::{
    Ancestor, Cgroup, Container, ContainerRuntime, Executable, Hash, HashAbsent, IdentitySource,
    Kubernetes, Pod, Principal, Process, ProcessCreation, Systemd, Thread, User,
};
pub use scalar::{Fingerprint, Hex, InvalidFingerprint, InvalidHex, InvalidTime, Sha256, Time, V1};
pub use usage::{
    Direction, Evidence, Exchange, Grpc, Hook, Http, HttpRequest, HttpResponse, Outcome,
    ProviderEvidence, Rpc, SocketEvidence, Token, Url, Usage, UserAgent,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// One event of tokentrail: what happened, when, who says so, and on which host.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(title = "tokentrail event, version 1")]
pub struct Envelope {
    /// Version of this contract.
    pub version: V1,
    /// When it happened: for usage the request's first byte, for loss and coverage the end of the span.
    /// RFC 3339, UTC, nine digits of nanoseconds.
    pub time: Time,
    /// When the agent made the event, by the same host's clock.
    pub observed_time: Time,
    /// Who says so, and the event's number.
    pub producer: Producer,
    /// Where it happened.
    pub host: Arc<Host>,
    /// What happened.
    #[serde(flatten)]
    pub body: Body,
}

/// Who made the event, and its number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Producer {
    /// Stable id of the agent's installation.
    pub id: Arc<str>,
    /// Name of the program, `tokentrail-agent`.
    pub name: Arc<str>,
    /// Version of the program.
    pub version: Arc<str>,
    /// One run of the agent: its start in milliseconds since the Unix epoch. A later run has a greater one.
    pub epoch: u64,
    /// The event's number, contiguous from 1 within the epoch.
    pub sequence: u64,
}

/// The host that the agent runs on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Host {
    /// The machine id (`/etc/machine-id`), as OpenTelemetry says for hosts outside a cloud. Absent where the
    /// host has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The host's name as the kernel has it.
    pub name: String,
    /// This boot (`/proc/sys/kernel/random/boot_id`): pids and start times mean something within it.
    pub boot_id: String,
}

/// What happened, by kind.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Body {
    /// A credential was used in an HTTP exchange. One event per credential and end of the connection.
    Usage(Box<Usage>),
    /// Something was lost, with its count and reason.
    Loss(Loss),
    /// A connection that was not read, or a summary of what was.
    Coverage(Box<Coverage>),
    /// Something about the agent itself.
    Audit(Audit),
}

impl Body {
    /// The `kind` as it stands in the JSON.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Usage(_) => "usage",
            Self::Loss(_) => "loss",
            Self::Coverage(_) => "coverage",
            Self::Audit(_) => "audit",
        }
    }
}

/// The JSON Schema of [`Envelope`] (draft 2020-12), as in `schema/event-v1.json`.
#[must_use]
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(Envelope).to_value()
}
