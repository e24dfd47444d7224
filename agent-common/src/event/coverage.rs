//! What was on the wire against what was read.

use super::{Network, Principal, Time, Tls};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A connection that was not read, with the reason; or a summary per process, or of the whole run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Coverage {
    /// What was not read, and why.
    pub coverage: CoverageDetail,
    /// Whose connection it was. Absent in a summary of the whole run.
    #[serde(default, flatten, skip_serializing_if = "Option::is_none")]
    pub principal: Option<Arc<Principal>>,
    /// The connection. Absent in summaries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// What its TLS hello said, as far as it was seen. Absent in summaries and in cleartext.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

/// What was not read, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CoverageDetail {
    /// What this event is about.
    pub scope: CoverageScope,
    /// Why it was not read. Absent in a summary where everything was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<CoverageReason>,
    /// More about the reason by name: the cipher suite, the protocol version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The protocol that was met: `tls`, `http`, `h2`, ... Absent if it was not recognised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// The TLS library in use, where it is known: `openssl`, `gnutls`, `boringssl`, `jsse`, `go`, ...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub library: Option<String>,
    /// Connections counted by this event.
    pub connections: Connections,
    /// Begin of the span: the connection's first byte seen, or the begin of the summary.
    pub from: Time,
    /// End of the span.
    pub to: Time,
}

/// What a coverage event is about.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum CoverageScope {
    /// One connection that was not read, or not wholly.
    Connection,
    /// One process's connections of one reason.
    Process,
    /// Everything of this run so far.
    Agent,
}

/// Counts of connections; `seen = read + unread`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Connections {
    /// Connections on which bytes were seen.
    pub seen: u64,
    /// Of these, read.
    pub read: u64,
    /// Of these, not read, or only partly.
    pub unread: u64,
}

/// Why a connection was not read.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum CoverageReason {
    /// Its TLS handshake was over before the agent saw it.
    OpenedBefore,
    /// Its TLS handshake ran before the library's key-log point had been attached.
    AttachedLate,
    /// All hardware breakpoints that the agent may take of the process are taken, by other points or by a debugger.
    BreakpointsTaken,
    /// The bound on what is attached for the processes of one owner, or for all, was reached.
    AttachLimit,
    /// The agent had no file descriptor left to attach with.
    DescriptorsExhausted,
    /// A file that the process has mapped as code was not searched to the end (it is too large, changed meanwhile, or
    /// cannot be read), or not yet when the connection had ended.
    NotSearched,
    /// Nothing that this kernel allows could be attached to the process.
    AttachRefused,
    /// The process runs a copy or a translation of its code, where no attached point is reached.
    TextCopied,
    /// No key-log point is known in the process's files.
    NoKeyLogPoint,
    /// A TLS library that this agent knows and cannot read.
    LibraryUnsupported,
    /// Secrets came, and none opened a record of this connection.
    SecretUnproven,
    /// Key-log points are attached, and no secret came.
    NoSecret,
    /// A TLS version that this agent does not read.
    VersionUnsupported,
    /// A cipher suite that this agent does not read.
    CipherUnsupported,
    /// TLS 1.3 early data is not read.
    EarlyData,
    /// The handshake could not be understood.
    HandshakeMalformed,
    /// Bytes that were needed were not seen.
    BytesLost,
    /// HTTP/2 is not read. Of agents before they read it.
    Http2,
    /// HTTP/2 header fields refer to what was sent before the agent could read it; what is known of the exchange is told.
    FieldsUnresolved,
    /// A QUIC connection, which is not read: what its client's hello asks for is in `tls` and `detail`. Without them, a
    /// UDP socket that sends from or to port 443, told once.
    Quic,
    /// Neither HTTP nor TLS.
    NotHttp,
    /// The kernel opens the records (kTLS).
    KernelTls,
    /// The bytes went through io_uring, which the hook in use does not see.
    IoUring,
    /// A limit of connections or memory was reached.
    Limit,
    /// The agent was over its own budget of CPU time and skipped some or all of its exchanges.
    Budget,
    /// The agent stopped before the connection showed what it was.
    Stopped,
}
