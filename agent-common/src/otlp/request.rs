//! Events as one request of OTLP: what an agent sends, and what a load that claims to be agents' must be.
//!
//! | OTLP | holds |
//! |---|---|
//! | resource | `service.*`, `host.*`, `producer.*` but the sequence: what stays the same for a run |
//! | scope | [`NAME`] and the contract's version; attributes `tokentrail.agent`, `.epoch`, `.first_sequence`, `.last_sequence` of the batch |
//! | record | both times, severity, event name, `producer.sequence`, everything else of the event |
//!
//! Invariant: [`restore`](super::restore) makes each event's bytes of it again.

use super::value::{self, Attributes, text, whole};
use super::{EVENT_NAME, NAME, OBSERVED_TIME, SEQUENCE, TIME};
use crate::event::Time;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber};
use opentelemetry_proto::tonic::resource::v1::Resource;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;

/// Resource attributes by OpenTelemetry's names, each with ours.
const SERVICE: [(&str, &str); 3] = [
    ("service.name", "producer.name"),
    ("service.version", "producer.version"),
    ("service.instance.id", "producer.id"),
];

/// What a batch says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch<'a> {
    /// `producer.id`.
    pub agent: &'a str,
    /// `producer.epoch`.
    pub epoch: u64,
    /// Sequences of its first and last event.
    pub first: u64,
    pub last: u64,
}

/// A request, as it grows.
pub struct Request<'a> {
    batch: Batch<'a>,
    groups: Vec<Group>,
}

impl<'a> Request<'a> {
    #[must_use]
    pub fn new(batch: Batch<'a>) -> Self {
        Self {
            batch,
            groups: Vec::new(),
        }
    }

    /// Appends an event by its canonical JSON.
    ///
    /// # Errors
    /// It is none; the request is as it was.
    pub fn push(&mut self, json: &[u8], severity: SeverityNumber) -> Result<(), serde_json::Error> {
        let event: Event = serde_json::from_slice(json)?;
        let same =
            |group: &Group| group.version == event.version && group.resource == event.resource;
        if !self.groups.last().is_some_and(same) {
            self.groups.push(Group {
                version: event.version,
                resource: event.resource.clone(),
                records: Vec::new(),
            });
        }
        if let Some(group) = self.groups.last_mut() {
            group.records.push(record(event, severity));
        }
        Ok(())
    }

    /// All of it, events of one resource that follow each other together.
    #[must_use]
    pub fn finish(self) -> ExportLogsServiceRequest {
        let Self { batch, groups } = self;
        ExportLogsServiceRequest {
            resource_logs: groups
                .into_iter()
                .map(|group| group.into_logs(&batch))
                .collect(),
        }
    }
}

/// One event, taken apart.
struct Event {
    version: u64,
    time: Time,
    observed_time: Time,
    /// `producer.*` without the sequence, and `host.*`.
    resource: Vec<KeyValue>,
    sequence: Option<KeyValue>,
    kind: String,
    attributes: Vec<KeyValue>,
}

struct Group {
    version: u64,
    resource: Vec<KeyValue>,
    records: Vec<LogRecord>,
}

impl Group {
    fn into_logs(self, batch: &Batch<'_>) -> ResourceLogs {
        let mut attributes = Vec::with_capacity(self.resource.len() + SERVICE.len());
        for (name, ours) in SERVICE {
            if let Some(found) = self.resource.iter().find(|attribute| attribute.key == ours) {
                attributes.push(KeyValue {
                    key: name.to_owned(),
                    ..found.clone()
                });
            }
        }
        attributes.extend(self.resource);
        let scope = InstrumentationScope {
            name: NAME.to_owned(),
            version: self.version.to_string(),
            attributes: vec![
                value::attribute("tokentrail.agent", text(batch.agent)),
                value::attribute("tokentrail.epoch", whole(batch.epoch)),
                value::attribute("tokentrail.first_sequence", whole(batch.first)),
                value::attribute("tokentrail.last_sequence", whole(batch.last)),
            ],
            ..InstrumentationScope::default()
        };
        ResourceLogs {
            resource: Some(Resource {
                attributes,
                ..Resource::default()
            }),
            scope_logs: vec![ScopeLogs {
                scope: Some(scope),
                log_records: self.records,
                ..ScopeLogs::default()
            }],
            ..ResourceLogs::default()
        }
    }
}

fn record(event: Event, severity: SeverityNumber) -> LogRecord {
    let mut attributes = Vec::with_capacity(event.attributes.len() + 1);
    let mut nanos = |time: Time, name: &str| {
        // 0 means that it is not known, so the epoch itself has to be said too.
        let nanos = u64::try_from(time.unix_nanos()).unwrap_or(0);
        if nanos == 0 {
            attributes.push(value::attribute(name, text(&time.to_string())));
        }
        nanos
    };
    let time_unix_nano = nanos(event.time, TIME);
    let observed_time_unix_nano = nanos(event.observed_time, OBSERVED_TIME);
    attributes.extend(event.sequence);
    attributes.extend(event.attributes);
    LogRecord {
        time_unix_nano,
        observed_time_unix_nano,
        severity_number: severity.into(),
        severity_text: match severity {
            SeverityNumber::Warn => "WARN",
            _ => "INFO",
        }
        .to_owned(),
        event_name: format!("{EVENT_NAME}{}", event.kind),
        attributes,
        ..LogRecord::default()
    }
}

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(EventVisitor)
    }
}

struct EventVisitor;

impl<'de> Visitor<'de> for EventVisitor {
    type Value = Event;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Event, A::Error> {
        let mut version = None;
        let mut time = None;
        let mut observed_time = None;
        let mut producer = Vec::new();
        let mut host = Vec::new();
        let mut kind = None;
        let mut attributes = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            match name.as_str() {
                "version" => version = Some(map.next_value()?),
                "time" => time = Some(map.next_value()?),
                "observed_time" => observed_time = Some(map.next_value()?),
                "kind" => kind = Some(map.next_value()?),
                "producer" => map.next_value_seed(Attributes::new(&name, &mut producer))?,
                "host" => map.next_value_seed(Attributes::new(&name, &mut host))?,
                _ => map.next_value_seed(Attributes::new(&name, &mut attributes))?,
            }
        }
        let sequence = producer
            .iter()
            .position(|attribute: &KeyValue| attribute.key == SEQUENCE)
            .map(|at| producer.remove(at));
        producer.append(&mut host);
        Ok(Event {
            version: version.ok_or_else(|| A::Error::missing_field("version"))?,
            time: time.ok_or_else(|| A::Error::missing_field("time"))?,
            observed_time: observed_time.ok_or_else(|| A::Error::missing_field("observed_time"))?,
            resource: producer,
            sequence,
            kind: kind.ok_or_else(|| A::Error::missing_field("kind"))?,
            attributes,
        })
    }
}
