//! OTLP/HTTP logs, protobuf. <https://opentelemetry.io/docs/specs/otlp/#otlphttp>
//!
//! Design: an event becomes a log record with an event name (`tokentrail.usage`) and flat attributes by the dotted
//! names of its JSON (`process.pid`, `http.request.method`), which are OpenTelemetry's own where it has them, and no
//! body. That form is what an OpenTelemetry Collector filters, routes and exports without configuration, what
//! backends index, and what OpenTelemetry says of events: their details are attributes; a structured body would have
//! to be taken apart first, everywhere. Tokentrail's collector needs the canonical bytes of an event, because it seals
//! hashes of them: the mapping is reversible, byte for byte
//! ([`restore`](agent_common::otlp::restore)), so that nothing is sent twice.
//!
//! | OTLP | holds |
//! |---|---|
//! | resource | `service.*`, `host.*`, `producer.*` but the sequence: what stays the same for a run, so that backends see one stream |
//! | scope | `tokentrail.event` and the contract's version; attributes `tokentrail.agent`, `.epoch`, `.first_sequence`, `.last_sequence` of the batch |
//! | record | both times, severity, event name, `producer.sequence`, everything else of the event |
//!
//! Retries, partial success and statuses are the specification's; see [`retry`](super::remote::retry).
//!
//! Invariant: an event's JSON and its log record say the same, and each can be made of the other.
//! Invariant: an answer that is not one of OTLP's never counts as an acceptance.

mod answer;
mod encode;
#[cfg(test)]
mod tests;

use super::batch::{Batch, Limits, Outcome, Receiver};
use super::remote::Error;
use super::remote::file::Source;
use super::remote::post::{Poster, Settings};
use crate::config;
use prost::Message;

const CONTENT_TYPE: &str = "application/x-protobuf";

/// A receiver of OTLP/HTTP logs.
pub struct Otlp {
    poster: Poster,
    limits: Limits,
}

/// The receiver that `[otlp]` names; nothing if it names none.
///
/// # Errors
/// What is wrong with the section, or with the files that it names.
pub fn from_config(config: &config::Otlp) -> Result<Option<Otlp>, Error> {
    load(config, &Source::disk())
}

/// The same, with files that `source` has.
///
/// # Errors
/// As [`from_config`].
pub fn load(config: &config::Otlp, source: &Source) -> Result<Option<Otlp>, Error> {
    let Some(settings) = Settings::otlp(config) else {
        return Ok(None);
    };
    Ok(Some(Otlp {
        poster: Poster::new(&settings, source)?,
        limits: Limits {
            events: config.batch_events.size(),
            bytes: config.batch_bytes.size(),
        },
    }))
}

impl Receiver for Otlp {
    fn name(&self) -> &str {
        "otlp"
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn destination(&self) -> Option<(String, u16)> {
        self.poster.destination()
    }

    fn send(&mut self, batch: &Batch) -> Outcome {
        let request = match encode::request(batch) {
            Ok(request) => request,
            Err(unreadable) => return unreadable.outcome(batch),
        };
        match self
            .poster
            .post(CONTENT_TYPE, &[], &request.encode_to_vec())
        {
            Ok(answer) => answer::outcome(&answer),
            Err(outcome) => outcome,
        }
    }
}

/// Entry point for fuzzing.
#[doc(hidden)]
pub mod fuzz {
    use super::super::batch::{Batch, Encoded};
    use super::super::remote::post::Answer;
    use super::{answer, encode};
    use agent_common::event::{Envelope, Time};
    use agent_common::otlp::restore;
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
    use prost::Message;

    /// An answer is understood or not; an event that is encoded comes back the same; whatever a request holds, it is
    /// refused or is JSON.
    pub fn fuzz(data: &[u8]) {
        for content_type in ["application/x-protobuf", "application/json", ""] {
            let _ = answer::outcome(&Answer {
                status: 200,
                content_type: content_type.to_owned(),
                body: data.to_vec(),
            });
        }
        if let Ok(request) = ExportLogsServiceRequest::decode(data) {
            for json in restore::events(&request).into_iter().flatten() {
                assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&json).is_ok());
            }
        }
        let Ok(event) = serde_json::from_slice::<Envelope>(data) else {
            return;
        };
        let Ok(json) = serde_json::to_vec(&event) else {
            return;
        };
        let batch = Batch {
            agent: event.producer.id,
            epoch: event.producer.epoch,
            events: vec![Encoded {
                sequence: event.producer.sequence,
                time: Time::from_unix_nanos(0),
                json: json.clone().into(),
            }],
        };
        if let Ok(request) = encode::request(&batch) {
            let back = restore::events(&request).swap_remove(0);
            assert_eq!(back.as_deref(), Ok(&json[..]));
        }
    }
}
