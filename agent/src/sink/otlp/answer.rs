//! What a receiver answered to a batch that it took, wholly or in part.

use crate::sink::batch::Outcome;
use crate::sink::remote::post::{Answer, said};
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsPartialSuccess, ExportLogsServiceResponse,
};
use prost::Message;
use serde::{Deserialize, Deserializer};

/// The same in JSON, which some receivers answer to protobuf. Protobuf's JSON writes 64 bits as text.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    #[serde(default)]
    partial_success: Option<PartialSuccess>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PartialSuccess {
    #[serde(default, deserialize_with = "number_or_text")]
    rejected_log_records: i64,
    #[serde(default)]
    error_message: String,
}

fn number_or_text<'de, D: Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(i64),
        Text(String),
    }
    match Either::deserialize(from)? {
        Either::Number(number) => Ok(number),
        Either::Text(text) => text.parse().map_err(serde::de::Error::custom),
    }
}

/// Of an answer with a status of success.
pub fn outcome(answer: &Answer) -> Outcome {
    let partial = match answer.content_type.as_str() {
        // An empty message is an empty body.
        _ if answer.body.is_empty() => Some(None),
        "application/json" => {
            serde_json::from_slice::<Response>(&answer.body)
                .ok()
                .map(|response| {
                    response
                        .partial_success
                        .map(|partial| ExportLogsPartialSuccess {
                            rejected_log_records: partial.rejected_log_records,
                            error_message: partial.error_message,
                        })
                })
        }
        "application/x-protobuf" | "application/protobuf" | "application/octet-stream" | "" => {
            ExportLogsServiceResponse::decode(&answer.body[..])
                .ok()
                .map(|response| response.partial_success)
        }
        _ => None,
    };
    match partial {
        Some(partial) => {
            let partial = partial.unwrap_or_default();
            let reason = said(partial.error_message.as_bytes());
            Outcome::Accepted {
                rejected: u64::try_from(partial.rejected_log_records).unwrap_or(0),
                reason: Some(reason).filter(|reason| !reason.is_empty()),
            }
        }
        None => Outcome::Retry {
            after: None,
            reason: format!(
                "what answers there is no receiver of OTLP (status {}, content type {:?}): {}",
                answer.status,
                said(answer.content_type.as_bytes()),
                said(&answer.body)
            ),
        },
    }
}
