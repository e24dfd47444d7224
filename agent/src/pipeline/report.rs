//! Numbers: the events' own, and the counters that must add up.

use crate::http;
use agent_common::event::{Body, CoverageReason, Envelope, Host, Producer, Time, V1};
use std::{collections::BTreeMap, sync::Arc};

/// Gives each event its number, contiguous from 1 within the run.
pub struct Numbering {
    producer: Producer,
    host: Arc<Host>,
}

impl Numbering {
    /// `id` names the installation, `epoch` the run.
    pub fn new(id: String, epoch: u64, host: Host) -> Self {
        let producer = Producer {
            id: id.into(),
            name: "tokentrail-agent".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            epoch,
            sequence: 0,
        };
        Self {
            producer,
            host: Arc::new(host),
        }
    }

    pub fn envelope(&mut self, time: Time, observed_time: Time, body: Body) -> Envelope {
        self.producer.sequence += 1;
        Envelope {
            version: V1,
            time,
            observed_time,
            producer: self.producer.clone(),
            host: self.host.clone(),
            body,
        }
    }

    pub fn last(&self) -> u64 {
        self.producer.sequence
    }
}

/// What the pipeline did since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub connections: u64,
    pub connections_read: u64,
    pub connections_unread: u64,
    pub connections_evicted: u64,
    pub secrets: u64,
    pub tls: u64,
    pub tls_opened: u64,
    pub exchanges: u64,
    pub exchanges_without_credential: u64,
    /// Over the agent's own budget; not among those seen.
    pub exchanges_skipped: u64,
    pub responses_lost: u64,
    pub heads_lost: u64,
    pub heads_malformed: u64,
    pub switched: u64,
    pub credentials: u64,
    pub credentials_lost: u64,
    pub usage_events: u64,
    pub coverage_events: u64,
    pub bytes_unseen: u64,
    pub bytes_left_out: u64,
    /// TLS connections that were open before and gave plaintext through their library's calls.
    pub bridged: u64,
    /// Records of such plaintext whose connection is not known.
    pub bridge_ignored: u64,
    /// Given up because the agent held more than it may.
    pub shed_bytes: u64,
    pub shed_processes: u64,
    /// Connections not read, by reason.
    pub unread: BTreeMap<&'static str, u64>,
}

impl Counters {
    /// Credentials parsed = events + losses.
    pub fn sums(&self) -> Result<(), String> {
        let accounted = self.usage_events + self.credentials_lost;
        if self.credentials == accounted {
            return Ok(());
        }
        Err(format!(
            "credentials parsed {} != events {} + lost {}",
            self.credentials, self.usage_events, self.credentials_lost
        ))
    }

    /// By name, for audit events.
    pub fn named(&self) -> BTreeMap<String, u64> {
        let fixed = [
            ("connections.seen", self.connections),
            ("connections.read", self.connections_read),
            ("connections.unread", self.connections_unread),
            ("connections.evicted", self.connections_evicted),
            ("tls.secrets", self.secrets),
            ("tls.connections", self.tls),
            ("tls.opened", self.tls_opened),
            ("exchanges.seen", self.exchanges),
            (
                "exchanges.without_credential",
                self.exchanges_without_credential,
            ),
            ("exchanges.skipped", self.exchanges_skipped),
            ("exchanges.response_lost", self.responses_lost),
            ("heads.lost", self.heads_lost),
            ("heads.malformed", self.heads_malformed),
            ("connections.switched", self.switched),
            ("credentials.parsed", self.credentials),
            ("credentials.lost", self.credentials_lost),
            ("events.usage", self.usage_events),
            ("events.coverage", self.coverage_events),
            ("bytes.unseen", self.bytes_unseen),
            ("bytes.left_out", self.bytes_left_out),
            ("bridge.connections", self.bridged),
            ("bridge.ignored", self.bridge_ignored),
            ("shed.bytes", self.shed_bytes),
            ("shed.processes", self.shed_processes),
        ];
        let unread = self
            .unread
            .iter()
            .map(|(reason, count)| (format!("unread.{reason}"), *count));
        fixed
            .into_iter()
            .map(|(name, count)| (name.to_owned(), count))
            .chain(unread)
            .collect()
    }
}

/// As in the JSON.
pub fn name(reason: CoverageReason) -> &'static str {
    use CoverageReason as R;
    match reason {
        R::OpenedBefore => "opened_before",
        R::AttachedLate => "attached_late",
        R::BreakpointsTaken => "breakpoints_taken",
        R::AttachLimit => "attach_limit",
        R::DescriptorsExhausted => "descriptors_exhausted",
        R::NotSearched => "not_searched",
        R::AttachRefused => "attach_refused",
        R::TextCopied => "text_copied",
        R::Quic => "quic",
        R::NoKeyLogPoint => "no_key_log_point",
        R::LibraryUnsupported => "library_unsupported",
        R::SecretUnproven => "secret_unproven",
        R::NoSecret => "no_secret",
        R::VersionUnsupported => "version_unsupported",
        R::CipherUnsupported => "cipher_unsupported",
        R::EarlyData => "early_data",
        R::HandshakeMalformed => "handshake_malformed",
        R::BytesLost => "bytes_lost",
        R::Http2 => "http2",
        R::FieldsUnresolved => "fields_unresolved",
        R::NotHttp => "not_http",
        R::KernelTls => "kernel_tls",
        R::IoUring => "io_uring",
        R::Limit => "limit",
        R::Budget => "budget",
        R::Stopped => "stopped",
    }
}

/// More about what HTTP did not read.
pub fn http_detail(reason: http::Reason) -> &'static str {
    use http::Reason as R;
    match reason {
        R::OpaqueProtocol => "opaque_protocol",
        R::RequestLost => "request_lost",
        R::ResponseWithoutRequest => "response_without_request",
        R::FramingLost => "framing_lost",
        R::HeadTooLong => "head_too_long",
        R::TooManyFields => "too_many_fields",
        R::Malformed => "malformed",
        R::HeadIncomplete => "head_incomplete",
        R::TooManyOutstanding => "too_many_outstanding",
        R::FieldsUnresolved => "fields_unresolved",
        R::OverLimit => "over_limit",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_hold_or_say_why() {
        let mut counters = Counters {
            credentials: 3,
            usage_events: 2,
            ..Default::default()
        };
        assert_eq!(
            counters.sums().unwrap_err(),
            "credentials parsed 3 != events 2 + lost 0"
        );
        counters.credentials_lost = 1;
        counters.sums().unwrap();
    }

    #[test]
    fn reasons_are_named_as_in_the_json() {
        for reason in [
            CoverageReason::OpenedBefore,
            CoverageReason::NoKeyLogPoint,
            CoverageReason::Http2,
        ] {
            assert_eq!(serde_json::to_value(reason).unwrap(), name(reason));
        }
    }
}
