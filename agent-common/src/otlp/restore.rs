//! The way back: a log record's event as its canonical JSON, byte for byte as it was sent.
//!
//! For tokentrail's collector, whose hashes are of these bytes, and for tests, which send events through an
//! OpenTelemetry Collector and compare what comes out.
//!
//! Invariant: what comes out is JSON, or an error, whatever comes in.

use super::value::{Value, whole};
use super::{EVENT_NAME, NAME, OBSERVED_TIME, SEQUENCE, TIME};
use crate::event::Time;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::logs::v1::LogRecord;

/// Levels of dotted names and of values within them; deeper ones are refused.
const DEPTH_LIMIT: usize = 64;

/// Why a log record is not an event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoEvent {
    #[error("its scope is {0:?}, not {NAME}")]
    Scope(String),
    #[error("its event name {0:?} does not begin with {EVENT_NAME}")]
    Name(String),
    #[error("it has no {SEQUENCE}")]
    Sequence,
    #[error("the attribute {0:?} is not one that an event has")]
    Attribute(String),
}

/// Every record's event, in the request's order.
#[must_use]
pub fn events(request: &ExportLogsServiceRequest) -> Vec<Result<Vec<u8>, NoEvent>> {
    let mut events = Vec::new();
    for resource in &request.resource_logs {
        let attributes = resource
            .resource
            .as_ref()
            .map_or(&[][..], |resource| &resource.attributes);
        for logs in &resource.scope_logs {
            for record in &logs.log_records {
                events.push(event(attributes, logs.scope.as_ref(), record));
            }
        }
    }
    events
}

fn event(
    resource: &[KeyValue],
    scope: Option<&InstrumentationScope>,
    record: &LogRecord,
) -> Result<Vec<u8>, NoEvent> {
    let scope_name = scope.map_or("", |scope| &scope.name);
    let version = scope
        .filter(|scope| scope.name == NAME)
        .and_then(|scope| scope.version.parse::<u64>().ok())
        .ok_or_else(|| NoEvent::Scope(scope_name.chars().take(64).collect()))?;
    let kind = record
        .event_name
        .strip_prefix(EVENT_NAME)
        .ok_or_else(|| NoEvent::Name(record.event_name.chars().take(64).collect()))?;
    let mut root = Vec::new();
    let mut put = |name: &str, value: &AnyValue| insert(&mut root, name, value);
    put("version", &whole(version))?;
    let time = |nanos: u64, name: &str| {
        let said = find(&record.attributes, name);
        said.cloned().unwrap_or_else(|| AnyValue {
            value: Some(Value::StringValue(
                Time::from_unix_nanos(nanos.into()).to_string(),
            )),
        })
    };
    put(TIME, &time(record.time_unix_nano, TIME))?;
    put(
        OBSERVED_TIME,
        &time(record.observed_time_unix_nano, OBSERVED_TIME),
    )?;
    let of_producer = |attribute: &&KeyValue| attribute.key.starts_with("producer.");
    for attribute in resource.iter().filter(of_producer) {
        put(&attribute.key, value(attribute))?;
    }
    put(
        SEQUENCE,
        find(&record.attributes, SEQUENCE).ok_or(NoEvent::Sequence)?,
    )?;
    // A collector on the way may have added others.
    let of_host = |attribute: &&KeyValue| {
        ["host.id", "host.name", "host.boot_id"].contains(&attribute.key.as_str())
    };
    for attribute in resource.iter().filter(of_host) {
        put(&attribute.key, value(attribute))?;
    }
    let kind = AnyValue {
        value: Some(Value::StringValue(kind.to_owned())),
    };
    put("kind", &kind)?;
    for attribute in &record.attributes {
        if ![SEQUENCE, TIME, OBSERVED_TIME].contains(&attribute.key.as_str()) {
            put(&attribute.key, value(attribute))?;
        }
    }
    let mut json = Vec::new();
    write_object(&root, &mut json);
    Ok(json)
}

const NULL: &AnyValue = &AnyValue { value: None };

fn value(attribute: &KeyValue) -> &AnyValue {
    attribute.value.as_ref().unwrap_or(NULL)
}

fn find<'a>(attributes: &'a [KeyValue], name: &str) -> Option<&'a AnyValue> {
    let found = attributes.iter().find(|attribute| attribute.key == name)?;
    Some(value(found))
}

enum Node {
    Leaf(Vec<u8>),
    Object(Vec<(String, Node)>),
}

/// Puts a value at its dotted name. Members of an object follow one another, so it is nearly always the last.
fn insert(root: &mut Vec<(String, Node)>, name: &str, value: &AnyValue) -> Result<(), NoEvent> {
    let wrong = || NoEvent::Attribute(name.chars().take(64).collect());
    let mut members = root;
    let mut parts = name.split('.').peekable();
    let mut depth = 0;
    while let Some(part) = parts.next() {
        depth += 1;
        if depth > DEPTH_LIMIT {
            return Err(wrong());
        }
        let last = parts.peek().is_none();
        let at = members.iter().rposition(|(member, _)| member == part);
        if last {
            if at.is_some() {
                return Err(wrong());
            }
            let mut json = Vec::new();
            write_value(value, depth, &mut json).ok_or_else(wrong)?;
            members.push((part.to_owned(), Node::Leaf(json)));
            return Ok(());
        }
        let at = at.unwrap_or_else(|| {
            members.push((part.to_owned(), Node::Object(Vec::new())));
            members.len() - 1
        });
        let Some((_, Node::Object(inner))) = members.get_mut(at) else {
            return Err(wrong());
        };
        members = inner;
    }
    Ok(())
}

fn write_object(members: &[(String, Node)], json: &mut Vec<u8>) {
    json.push(b'{');
    for (index, (name, node)) in members.iter().enumerate() {
        if index > 0 {
            json.push(b',');
        }
        write_text(name, json);
        json.push(b':');
        match node {
            Node::Leaf(value) => json.extend_from_slice(value),
            Node::Object(members) => write_object(members, json),
        }
    }
    json.push(b'}');
}

/// Appends a value, which stands `depth` levels deep, as the JSON that it was made of; `None` for what JSON cannot say.
pub fn write_value(value: &AnyValue, depth: usize, json: &mut Vec<u8>) -> Option<()> {
    if depth > DEPTH_LIMIT {
        return None;
    }
    match &value.value {
        None => json.extend_from_slice(b"null"),
        Some(Value::StringValue(text)) => write_text(text, json),
        Some(Value::BoolValue(true)) => json.extend_from_slice(b"true"),
        Some(Value::BoolValue(false)) => json.extend_from_slice(b"false"),
        Some(Value::IntValue(number)) => json.extend_from_slice(number.to_string().as_bytes()),
        Some(Value::DoubleValue(number)) => {
            if !number.is_finite() {
                return None;
            }
            serde_json::to_writer(json, number).ok()?;
        }
        Some(Value::BytesValue(digits)) => {
            let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
            json.extend_from_slice(number.to_string().as_bytes());
        }
        Some(Value::ArrayValue(array)) => {
            json.push(b'[');
            for (index, value) in array.values.iter().enumerate() {
                if index > 0 {
                    json.push(b',');
                }
                write_value(value, depth + 1, json)?;
            }
            json.push(b']');
        }
        Some(Value::KvlistValue(list)) => {
            json.push(b'{');
            for (index, pair) in list.values.iter().enumerate() {
                if index > 0 {
                    json.push(b',');
                }
                write_text(&pair.key, json);
                json.push(b':');
                write_value(pair.value.as_ref().unwrap_or(NULL), depth + 1, json)?;
            }
            json.push(b'}');
        }
        // A reference into a table, which only profiles have.
        Some(Value::StringValueStrindex(_)) => return None,
    }
    Some(())
}

fn write_text(text: &str, json: &mut Vec<u8>) {
    // Writing to memory does not fail.
    let _ = serde_json::to_writer(json, text);
}
