//! Which values of an attribute are valid, whatever else the event says.
//!
//! Only what one look decides: text that may be any, integers, truth, the one fingerprint. The rest ([`Rule::Known`])
//! must have been accepted before with the same bytes. A path that is missing here costs time and nothing else; one
//! that allows more than the contract does is a fault, which `tests` looks for.

use super::fields::{Scalar, only, scalar};
use super::write;
use agent_common::event::Fingerprint;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// Any text.
    Text,
    /// 0 to this.
    Whole(i64),
    Bool,
    /// A list of one fingerprint.
    Fingerprint,
    /// `producer.sequence`: from 1 on.
    Sequence,
    /// Only with bytes that were accepted before.
    Known,
}

const U16: Rule = Rule::Whole(u16::MAX as i64);
const U32: Rule = Rule::Whole(u32::MAX as i64);
const U64: Rule = Rule::Whole(i64::MAX);

const RULES: &[(&str, Rule)] = &[
    ("producer.sequence", Rule::Sequence),
    ("exchange.id", Rule::Text),
    ("process.pid", U32),
    ("process.parent_pid", U32),
    ("process.executable.path", Rule::Text),
    ("process.executable.deleted", Rule::Bool),
    ("process.command_args_truncated", Rule::Bool),
    ("process.real_user.id", U32),
    ("process.real_user.name", Rule::Text),
    ("process.real_group_id", U32),
    ("process.linux.cgroup", Rule::Text),
    ("process.linux.cgroup_id", U64),
    ("process.linux.network_namespace", U32),
    ("container.id", Rule::Text),
    ("container.runtime.name", Rule::Text),
    ("systemd.unit", Rule::Text),
    ("systemd.user_unit", Rule::Text),
    ("systemd.slice", Rule::Text),
    ("systemd.owner_uid", U32),
    ("systemd.session", Rule::Text),
    ("k8s.pod.uid", Rule::Text),
    ("thread.id", U32),
    ("thread.name", Rule::Text),
    ("network.local.address", Rule::Text),
    ("network.local.port", U16),
    ("network.peer.address", Rule::Text),
    ("network.peer.port", U16),
    ("network.protocol.name", Rule::Text),
    ("network.protocol.version", Rule::Text),
    ("server.address", Rule::Text),
    ("server.port", U16),
    ("client.address", Rule::Text),
    ("client.port", U16),
    ("tls.protocol.name", Rule::Text),
    ("tls.protocol.version", Rule::Text),
    ("tls.cipher", Rule::Text),
    ("tls.next_protocol", Rule::Text),
    ("tls.client.server_name", Rule::Text),
    ("tls.resumed", Rule::Bool),
    ("http.request.method", Rule::Text),
    ("http.response.status_code", U16),
    ("rpc.system", Rule::Text),
    ("rpc.service", Rule::Text),
    ("rpc.method", Rule::Text),
    ("rpc.grpc.status_code", U16),
    ("url.scheme", Rule::Text),
    ("url.path", Rule::Text),
    ("url.query", Rule::Text),
    ("url.template", Rule::Text),
    ("user_agent.original", Rule::Text),
    ("token.fingerprints", Rule::Fingerprint),
    ("token.provider", Rule::Text),
    ("token.class", Rule::Text),
    ("token.scheme", Rule::Text),
    ("token.carrier", Rule::Text),
    ("token.user", Rule::Text),
    ("token.unresolved", Rule::Text),
    ("evidence.library", Rule::Text),
];

impl Rule {
    /// For an attribute of a usage event.
    pub fn of(key: &str) -> Self {
        let found = RULES.iter().find(|(path, _)| *path == key);
        found.map_or(Self::Known, |&(_, rule)| rule)
    }

    /// Writes the value if it is valid; `false`: nothing was decided, though something may be written.
    pub fn write(self, value: &[u8], json: &mut Vec<u8>) -> bool {
        match (self, scalar(value)) {
            (Self::Text, Some(Scalar::Text(text))) => write::string(text, json),
            (Self::Bool, Some(Scalar::Bool(value))) => {
                json.extend_from_slice(if value { b"true" } else { b"false" });
            }
            (Self::Whole(most), Some(Scalar::Int(value))) if (0..=most).contains(&value) => {
                write::whole(value.unsigned_abs(), json);
            }
            (Self::Fingerprint, None) => {
                let Some(text) = only(value).filter(|text| text.parse::<Fingerprint>().is_ok())
                else {
                    return false;
                };
                json.push(b'[');
                write::string(text, json);
                json.push(b']');
            }
            _ => return false,
        }
        true
    }

    /// `producer.sequence`.
    pub fn sequence(value: &[u8]) -> Option<u64> {
        match scalar(value)? {
            Scalar::Int(sequence) if sequence > 0 => Some(sequence.unsigned_abs()),
            _ => None,
        }
    }
}
