//! What a connection says about itself, what was read of it, and why the rest was not.
//!
//! Invariant: nothing here holds plaintext or a secret.

use super::suite::SuiteId;
use crate::flow::{Direction, Piece};
use crate::kernel::record::PointId;
use std::fmt;

/// Which secret a key-log line holds. Others (exporter, early data) are not needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Label {
    /// `CLIENT_RANDOM`: the master secret of TLS 1.2.
    Master,
    ClientHandshake,
    ServerHandshake,
    ClientApplication,
    ServerApplication,
}

impl Label {
    /// By its name in the NSS key log.
    pub fn parse(name: &str) -> Option<Self> {
        [
            Self::Master,
            Self::ClientHandshake,
            Self::ServerHandshake,
            Self::ClientApplication,
            Self::ServerApplication,
        ]
        .into_iter()
        .find(|label| label.name() == name)
    }

    /// Its name in the NSS key log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Master => "CLIENT_RANDOM",
            Self::ClientHandshake => "CLIENT_HANDSHAKE_TRAFFIC_SECRET",
            Self::ServerHandshake => "SERVER_HANDSHAKE_TRAFFIC_SECRET",
            Self::ClientApplication => "CLIENT_TRAFFIC_SECRET_0",
            Self::ServerApplication => "SERVER_TRAFFIC_SECRET_0",
        }
    }
}

/// Why something of a TLS connection was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Its handshake was over, or half over, when the agent saw it first.
    OpenedBeforeAgent,
    /// No secret of its processes opened it.
    NoSecret,
    /// Closed before a cipher was agreed on.
    Incomplete,
    /// A fatal alert ended its handshake: the alert's description (RFC 8446 section 6).
    HandshakeFailed(u8),
    SuiteUnsupported(SuiteId),
    /// The version as on the wire: 0x0301 is TLS 1.0.
    VersionUnsupported(u16),
    /// Data before the handshake's end (0-RTT) is not read.
    EarlyData,
    /// Records are missing, and the place after them was not found again, or not all of them were opened.
    LostRecords,
    /// A second handshake within TLS 1.2.
    Renegotiation,
    /// Not TLS, or not as it should be.
    Malformed(&'static str),
    /// More than the agent holds came before a secret did.
    Overflow,
    /// So many secrets were tried that trying was stopped.
    TrialsExhausted,
}

impl Reason {
    /// A closed set of names, without what varies.
    pub fn code(self) -> &'static str {
        match self {
            Self::OpenedBeforeAgent => "opened_before_agent",
            Self::NoSecret => "no_secret",
            Self::Incomplete => "incomplete",
            Self::HandshakeFailed(_) => "handshake_failed",
            Self::SuiteUnsupported(_) => "suite_unsupported",
            Self::VersionUnsupported(_) => "version_unsupported",
            Self::EarlyData => "early_data",
            Self::LostRecords => "lost_records",
            Self::Renegotiation => "renegotiation",
            Self::Malformed(_) => "malformed",
            Self::Overflow => "overflow",
            Self::TrialsExhausted => "trials_exhausted",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())?;
        match self {
            Self::HandshakeFailed(alert) => write!(f, " (alert {alert})"),
            Self::SuiteUnsupported(suite) => write!(f, " ({suite})"),
            Self::VersionUnsupported(version) => write!(f, " ({version:#06x})"),
            Self::Malformed(what) => write!(f, " ({what})"),
            _ => Ok(()),
        }
    }
}

/// What a [`super::Session`] gives.
pub enum Output {
    /// The next piece of a direction's plaintext.
    Plain(Direction, Piece),
    /// A secret opened a record: its point is right about this label.
    Proved { point: PointId, label: Label },
    /// A direction was ended by an alert: 0 is close_notify.
    End { direction: Direction, alert: u8 },
    /// Something was not read: of one direction, or of the whole connection. Each (direction, reason) comes once.
    Unread {
        direction: Option<Direction>,
        reason: Reason,
    },
}

/// One direction's records and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records whose head was seen.
    pub records: u64,
    /// Opened and proven by their tag.
    pub opened: u64,
    /// Opened in part, without their tag.
    pub parts: u64,
    /// Need not be opened: the handshake's, and what came after the end.
    pub skipped: u64,
    /// Not opened: early data.
    pub early: u64,
    /// Not opened, because the agent was over its own budget.
    pub left_out: u64,
    /// Not opened, whatever the reason.
    pub unopened: u64,
    /// Times that the bounds of records were lost.
    pub losses: u64,
    /// Bytes of the stream, gaps included.
    pub wire: u64,
    /// Bytes of plaintext handed out.
    pub plain: u64,
    /// Bytes of plaintext handed out as gaps.
    pub gaps: u64,
}

/// What is known of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// As chosen: 0x0303 is TLS 1.2, 0x0304 is TLS 1.3.
    pub version: Option<u16>,
    pub suite: Option<SuiteId>,
    /// The name that the client asked for.
    pub sni: Option<String>,
    /// What the client offered by ALPN.
    pub alpn_offered: Vec<String>,
    /// What the server chose.
    pub alpn: Option<String>,
    /// The direction that the client sends in: [`Direction::Sent`] where the observed process is the client.
    pub client: Option<Direction>,
    /// It resumes an earlier session: by a pre-shared key (TLS 1.3), or by an abbreviated handshake (TLS 1.2).
    pub resumed: Option<bool>,
    /// The server asked for another ClientHello.
    pub retried: bool,
    /// The client sent data before the handshake's end, or wanted to.
    pub early_data: bool,
    /// A secret has opened a record.
    pub proven: bool,
    /// KeyUpdates followed, over both directions.
    pub key_updates: u64,
    /// Trials of a secret on a record.
    pub trials: u64,
    /// Sent and received.
    pub counts: [Counts; 2],
}
