//! Events in the Open Cybersecurity Schema Framework, 1.8.0. <https://schema.ocsf.io/1.8.0>
//!
//! | event | class | why |
//! |---|---|---|
//! | usage | API Activity 6003 | it asks what a security team asks: which actor, with which credential (`api.token`, `actor.session.credential_uid`), which operation, from where. Audit logs of clouds and identity providers come as the same class, so that a token's use on a host and its use as the service saw it are found by one query. HTTP Activity 4002 is what proxies write: it knows methods and TLS, and neither an operation nor whose credential it was |
//! | loss | Application Error 6008 | the agent reports that something of its own work is missing; `count`, `start_time` and `end_time` say how much |
//! | coverage | Network Activity 4001 | connections that were seen, one or many (`count`), with or without their ends |
//! | audit | Application Lifecycle 6002 | the agent started, stopped, or was changed |
//!
//! Design: typed events in, a JSON object out; what OCSF has no place for is in `unmapped` by tokentrail's names, so
//! that nothing is lost on the way. `metadata.uid` is the event's key, `producer.id/epoch/sequence`, whatever became
//! of the batch. POST is mapped to no activity: it creates only sometimes, and a guess is not presented as a fact.
//!
//! Invariant: every event is valid against the official schema with the profiles in its `metadata.profiles`
//! (`tests/receivers` validates each kind).

mod actor;
mod class;
mod endpoint;
mod other;
#[cfg(test)]
mod tests;
mod usage;

use agent_common::event::{Body, Envelope};
use serde_json::{Map, Value, json};

pub const VERSION: &str = "1.8.0";

/// What is added to the classes: the host and the process on it, and containers.
const PROFILES: [&str; 2] = ["host", "container"];

/// An event that this version cannot read.
#[derive(Debug, thiserror::Error)]
#[error("not an event of version 1: {0}")]
pub struct Error(#[from] serde_json::Error);

/// An envelope's JSON as OCSF's, without a newline.
///
/// # Errors
/// If it is not an envelope.
pub fn encode(json: &[u8]) -> Result<Vec<u8>, Error> {
    let envelope: Envelope = serde_json::from_slice(json)?;
    Ok(serde_json::to_vec(&event(&envelope))?)
}

/// An envelope as an object of OCSF.
#[must_use]
pub fn event(envelope: &Envelope) -> Value {
    let mut event = match &envelope.body {
        Body::Usage(usage) => usage::event(envelope, usage),
        Body::Loss(loss) => other::loss(loss),
        Body::Coverage(coverage) => other::coverage(envelope, coverage),
        Body::Audit(audit) => other::audit(envelope, audit),
    };
    event.insert("time".to_owned(), json!(endpoint::millis(envelope.time)));
    event.insert("metadata".to_owned(), metadata(envelope));
    event.insert("device".to_owned(), device(envelope));
    Value::Object(event)
}

fn metadata(envelope: &Envelope) -> Value {
    let producer = &envelope.producer;
    let mut metadata = object([
        ("version", json!(VERSION)),
        ("product", product(envelope)),
        ("profiles", json!(PROFILES)),
        (
            "uid",
            json!(format!(
                "{}/{}/{}",
                producer.id, producer.epoch, producer.sequence
            )),
        ),
        ("event_code", json!(envelope.body.kind())),
        ("log_name", json!("tokentrail")),
        ("log_version", json!("1")),
        ("original_time", json!(envelope.time.to_string())),
        (
            "logged_time",
            json!(endpoint::millis(envelope.observed_time)),
        ),
    ]);
    // An integer of OCSF has 32 bits with a sign.
    if let Ok(sequence) = i32::try_from(producer.sequence) {
        metadata.insert("sequence".to_owned(), json!(sequence));
    }
    if let Body::Usage(usage) = &envelope.body {
        metadata.insert("correlation_uid".to_owned(), json!(usage.exchange.id));
    }
    Value::Object(metadata)
}

fn product(envelope: &Envelope) -> Value {
    json!({
        "name": envelope.producer.name,
        "vendor_name": "tokentrail",
        "version": envelope.producer.version,
        "uid": envelope.producer.id,
    })
}

/// The host. Whether it is a server or a laptop is not known.
fn device(envelope: &Envelope) -> Value {
    let host = &envelope.host;
    let mut device = object([
        ("type_id", json!(0)),
        ("type", json!("Unknown")),
        ("hostname", json!(host.name)),
        ("boot_uid", json!(host.boot_id)),
    ]);
    if let Some(id) = &host.id {
        device.insert("uid".to_owned(), json!(id));
    }
    Value::Object(device)
}

fn object<const N: usize>(members: [(&str, Value); N]) -> Map<String, Value> {
    members
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// As it stands in the event's own JSON; types of events always have one.
fn plain(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}
