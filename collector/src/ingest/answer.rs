//! What a sender is told.
//!
//! To OTLP errors are answered as `google.rpc.Status` in protobuf, as its specification says; to NDJSON as JSON.

use super::decoded::Summary;
use super::door::Denied;
use crate::inbox::{AppendError, Appended};
use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode};
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsPartialSuccess, ExportLogsServiceResponse,
};
use prost::Message;
use serde::Serialize;
use std::time::Duration;

/// After this the memory that was missing may be there.
const BUSY: Duration = Duration::from_secs(1);
/// A failing disk is looked at by a person; a full one by the retention.
const DISK: Duration = Duration::from_secs(10);

/// What is spoken at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speech {
    Otlp,
    Ndjson,
}

/// Why nothing of a request was taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{0}")]
    Unknown(String),
    #[error("{0}")]
    Forbidden(String),
    #[error("{0}")]
    Unreadable(String),
    #[error("none of its {} lines is an event: {}", .0.rejected, .0.first())]
    NoEvents(Summary),
    #[error("{0}")]
    TooLarge(String),
    #[error("{0}")]
    Unsupported(String),
    #[error("too many requests at once")]
    Busy,
    #[error("the body came too slowly")]
    Slow,
    #[error(transparent)]
    Inbox(#[from] AppendError),
}

impl From<Denied> for Failure {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Unknown(reason) => Self::Unknown(reason),
            Denied::Forbidden(reason) => Self::Forbidden(reason),
        }
    }
}

impl Failure {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Unknown(_) => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::Unreadable(_) | Self::NoEvents(_) => StatusCode::BAD_REQUEST,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Unsupported(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Busy | Self::Slow | Self::Inbox(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy | Self::Slow => Some(BUSY),
            Self::Inbox(AppendError::Full { retry_after }) => Some(*retry_after),
            Self::Inbox(_) => Some(DISK),
            _ => None,
        }
    }

    /// By google.rpc.Code.
    fn code(&self) -> u8 {
        match self {
            Self::Unreadable(_) | Self::NoEvents(_) | Self::Unsupported(_) => 3,
            Self::Forbidden(_) => 7,
            Self::TooLarge(_) => 8,
            Self::Busy | Self::Slow | Self::Inbox(_) => 14,
            Self::Unknown(_) => 16,
        }
    }
}

impl Speech {
    /// The content type that it has to have.
    pub(super) fn check(self, headers: &HeaderMap) -> Result<(), Failure> {
        let said = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        let said = String::from_utf8_lossy(said.unwrap_or_default()).to_ascii_lowercase();
        let essence = said.split(';').next().unwrap_or_default().trim();
        let (known, wanted) = match self {
            Self::Otlp => (&["application/x-protobuf"][..], "application/x-protobuf"),
            Self::Ndjson => (
                &[
                    "application/x-ndjson",
                    "application/ndjson",
                    "application/jsonl",
                ][..],
                "application/x-ndjson",
            ),
        };
        if known.contains(&essence) {
            return Ok(());
        }
        let said: String = said.chars().take(80).collect();
        Err(Failure::Unsupported(format!(
            "the content type is {said:?}, not {wanted}"
        )))
    }

    fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Otlp => "application/x-protobuf",
            Self::Ndjson => "application/json",
        })
    }
}

#[derive(Serialize)]
struct Took<'a> {
    accepted: usize,
    duplicates: usize,
    #[serde(flatten)]
    summary: &'a Summary,
}

#[derive(Serialize)]
struct Refused<'a> {
    error: String,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    summary: Option<&'a Summary>,
}

pub(super) fn success(speech: Speech, appended: &Appended, summary: &Summary) -> Response<Body> {
    let body = match speech {
        Speech::Otlp => ExportLogsServiceResponse {
            partial_success: (summary.rejected > 0).then(|| ExportLogsPartialSuccess {
                rejected_log_records: i64::try_from(summary.rejected).unwrap_or(i64::MAX),
                error_message: format!(
                    "{} records are no events: {}",
                    summary.rejected,
                    summary.first()
                ),
            }),
        }
        .encode_to_vec(),
        Speech::Ndjson => json(&Took {
            accepted: appended.stored,
            duplicates: appended.duplicates,
            summary,
        }),
    };
    respond(StatusCode::OK, speech, body)
}

pub(super) fn failure(speech: Speech, failure: &Failure) -> Response<Body> {
    let body = match speech {
        Speech::Otlp => status(failure.code(), &failure.to_string()),
        Speech::Ndjson => json(&Refused {
            error: failure.to_string(),
            summary: match failure {
                Failure::NoEvents(summary) => Some(summary),
                _ => None,
            },
        }),
    };
    let mut response = respond(failure.status(), speech, body);
    let headers = response.headers_mut();
    if let Some(after) = failure.retry_after() {
        let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    }
    if matches!(failure, Failure::Unknown(_)) {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

fn respond(status: StatusCode, speech: Speech, body: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, speech.content_type());
    response
}

/// Numbers and texts always are JSON.
fn json(value: &impl Serialize) -> Vec<u8> {
    let mut json = serde_json::to_vec(value).unwrap_or_default();
    json.push(b'\n');
    json
}

/// `google.rpc.Status`: code (1), message (2).
fn status(code: u8, message: &str) -> Vec<u8> {
    let mut status = vec![0x08, code, 0x12];
    prost::encode_length_delimiter(message.len(), &mut status).unwrap_or_default();
    status.extend_from_slice(message.as_bytes());
    status
}
