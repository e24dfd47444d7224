//! A batch as a request of OTLP.

use crate::sink::batch::{Batch, Outcome};
use crate::sink::severity::Severity;
use agent_common::otlp::request::{self, Request};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::logs::v1::SeverityNumber;

/// An event of a batch that is not one.
#[derive(Debug)]
pub struct Unreadable {
    pub sequence: u64,
    pub error: String,
}

impl Unreadable {
    /// Never, for this one; the others are told apart from it by halving.
    pub fn outcome(&self, batch: &Batch) -> Outcome {
        let reason = format!("event {} cannot be encoded: {}", self.sequence, self.error);
        if batch.events.len() > 1 {
            Outcome::TooLarge { reason }
        } else {
            Outcome::Rejected { reason }
        }
    }
}

/// All events of a batch, those of one resource together.
pub fn request(batch: &Batch) -> Result<ExportLogsServiceRequest, Unreadable> {
    let mut request = Request::new(request::Batch {
        agent: &batch.agent,
        epoch: batch.epoch,
        first: batch.first(),
        last: batch.last(),
    });
    for encoded in &batch.events {
        let unreadable = |error: serde_json::Error| Unreadable {
            sequence: encoded.sequence,
            error: error.to_string(),
        };
        let severity = match Severity::of(&encoded.json).map_err(unreadable)? {
            Severity::Informational => SeverityNumber::Info,
            Severity::Warning => SeverityNumber::Warn,
        };
        request.push(&encoded.json, severity).map_err(unreadable)?;
    }
    Ok(request.finish())
}
