//! OTLP logs: each record that is an event of ours becomes its canonical JSON again.
//!
//! Invariant: one record is decoded at a time; what it takes in memory is bounded by [`SIZE_LIMIT`].

use super::answer::Failure;
use super::decoded::Decoded;
use super::quick::{Head, Quick, Reader};
use super::stated::{Span, Stated};
use super::wire::{Fields, Malformed};
use crate::event::SIZE_LIMIT;
use crate::inbox::Form;
use agent_common::otlp::restore;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Field numbers of `opentelemetry/proto/collector/logs/v1/logs_service.proto` and `logs/v1/logs.proto`.
const RESOURCE_LOGS: u64 = 1;
const RESOURCE: u64 = 1;
const SCOPE_LOGS: u64 = 2;
const SCOPE: u64 = 1;
const LOG_RECORDS: u64 = 2;
/// Of a record, and of a resource. An event has about a hundred at most; making names into objects takes time for
/// each with each.
const ATTRIBUTES: usize = 1_000;
/// Statements of one request; what is over is not compared.
const STATEMENTS: usize = 10_000;

impl From<Malformed> for Failure {
    fn from(malformed: Malformed) -> Self {
        Self::Unreadable(format!("the body: {malformed}"))
    }
}

/// All records of an ExportLogsServiceRequest.
pub(super) fn decode(
    body: &[u8],
    quick: &Arc<Quick>,
    decoded: &mut Decoded,
) -> Result<(), Failure> {
    let mut reader = Reader::new(quick);
    let mut spans: BTreeMap<Stated, Span> = BTreeMap::new();
    for resource_logs in of(body, RESOURCE_LOGS) {
        let resource_logs = resource_logs?;
        let resource: Option<Resource> = merged(resource_logs, RESOURCE)?;
        if let Some(resource) = &resource {
            few(resource.attributes.len()).map_err(Failure::Unreadable)?;
        }
        let mut one = One::new(resource);
        for scope_logs in of(resource_logs, SCOPE_LOGS) {
            let scope_logs = scope_logs?;
            let scope: Option<InstrumentationScope> = merged(scope_logs, SCOPE)?;
            let stated = scope.as_ref().and_then(Stated::scope);
            let mut span = stated.and_then(|stated| {
                let span = spans.get(&stated).copied();
                (span.is_some() || spans.len() < STATEMENTS)
                    .then(|| (stated, span.unwrap_or_default()))
            });
            let mut head = one.head(scope.as_ref());
            one.scope(scope);
            for record in of(scope_logs, LOG_RECORDS) {
                let record = record?;
                let key = match decoded.take_quick(&mut reader, head.as_ref(), record)? {
                    Some(key) => key,
                    None => match one.restore(record)? {
                        Ok(json) => {
                            let Some(key) = decoded.take(&json)? else {
                                continue;
                            };
                            if let Some(head) = &mut head {
                                reader.learn(head, record, (key, &json));
                            }
                            key
                        }
                        Err(NoEvent { reason, request }) => {
                            decoded.refuse(reason, Form::Otlp, request)?;
                            continue;
                        }
                    },
                };
                if let Some((stated, span)) = &mut span {
                    span.add(stated, key);
                }
            }
            spans.extend(span);
        }
    }
    let disagree = spans.iter().filter(|(stated, span)| !span.agrees(stated));
    decoded.disagree(disagree.count() as u64);
    Ok(())
}

/// A record that is no event.
struct NoEvent {
    reason: String,
    /// A request of it alone; the begin of the record, if it is too large for one.
    request: Vec<u8>,
}

/// A request of one record at a time.
struct One(ExportLogsServiceRequest);

impl One {
    fn new(resource: Option<Resource>) -> Self {
        Self(ExportLogsServiceRequest {
            resource_logs: vec![ResourceLogs {
                resource,
                scope_logs: vec![ScopeLogs::default()],
                ..ResourceLogs::default()
            }],
        })
    }

    /// What the records of a scope begin with.
    fn head(&self, scope: Option<&InstrumentationScope>) -> Option<Head> {
        Head::of(self.0.resource_logs.first()?.resource.as_ref(), scope)
    }

    fn scope(&mut self, scope: Option<InstrumentationScope>) {
        if let Some(logs) = self.logs() {
            logs.scope = scope;
        }
    }

    fn logs(&mut self) -> Option<&mut ScopeLogs> {
        self.0.resource_logs.first_mut()?.scope_logs.first_mut()
    }

    /// The record's event.
    fn restore(&mut self, record: &[u8]) -> Result<Result<Vec<u8>, NoEvent>, Failure> {
        if record.len() > SIZE_LIMIT {
            let reason = format!("{} bytes are more than an event may have", record.len());
            let request = record[..SIZE_LIMIT].to_vec();
            return Ok(Err(NoEvent { reason, request }));
        }
        let record = LogRecord::decode(record).map_err(|error| malformed(&error))?;
        let few = few(record.attributes.len());
        if let Some(logs) = self.logs() {
            logs.log_records.clear();
            logs.log_records.push(record);
        }
        let restored = few.and_then(|()| {
            let mut events = restore::events(&self.0);
            let event = events.pop().ok_or_else(|| "it is empty".to_owned())?;
            event.map_err(|error| error.to_string())
        });
        Ok(restored.map_err(|reason| NoEvent {
            reason,
            request: self.0.encode_to_vec(),
        }))
    }
}

fn few(attributes: usize) -> Result<(), String> {
    if attributes > ATTRIBUTES {
        return Err(format!(
            "{attributes} attributes are more than {ATTRIBUTES}"
        ));
    }
    Ok(())
}

/// Each field of that number, of a message.
fn of(message: &[u8], number: u64) -> impl Iterator<Item = Result<&[u8], Malformed>> {
    Fields::new(message).filter_map(move |field| match field {
        Ok((found, bytes)) => (found == number).then_some(Ok(bytes)),
        Err(malformed) => Some(Err(malformed)),
    })
}

/// A message that may stand in another once; protobuf says that several are merged.
fn merged<M: Message + Default>(message: &[u8], number: u64) -> Result<Option<M>, Failure> {
    let mut merged: Option<M> = None;
    let mut length = 0;
    for part in of(message, number) {
        let part = part?;
        length += part.len();
        if length > SIZE_LIMIT {
            return Err(Failure::Unreadable(format!(
                "a resource or scope has more than {SIZE_LIMIT} bytes"
            )));
        }
        merged
            .get_or_insert_default()
            .merge(part)
            .map_err(|error| malformed(&error))?;
    }
    Ok(merged)
}

fn malformed(error: &prost::DecodeError) -> Failure {
    Failure::Unreadable(format!("the body is no ExportLogsServiceRequest: {error}"))
}
