//! Forms of answers: JSON, NDJSON, CSV.
//!
//! CSV is that of RFC 4180 with a header line; nothing stands for an absent value, lists and maps as JSON.

use super::failure::Failure;
use crate::search::fields::Field;
use axum::body::Body;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Response};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a table of events shows unless told otherwise, by contract paths.
pub const EVENT_FIELDS: [&str; 12] = [
    "time",
    "host.name",
    "process.real_user.name",
    "process.executable.path",
    "container.id",
    "token.provider",
    "token.fingerprints",
    "http.request.method",
    "server.address",
    "url.path",
    "http.response.status_code",
    "network.peer.address",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Format {
    Json,
    Ndjson,
    Csv,
}

impl Format {
    /// As the parameter says; else the first that Accept names; else JSON.
    pub(super) fn of(parameter: Option<Self>, parts: &Parts) -> Self {
        parameter.unwrap_or_else(|| {
            let accepted = parts.headers.get_all(ACCEPT).iter();
            let accepted = accepted.filter_map(|value| value.to_str().ok());
            let mut types = accepted.flat_map(|value| value.split(','));
            let known = types.find_map(|accepted| {
                match accepted.split(';').next().unwrap_or_default().trim() {
                    "application/json" => Some(Self::Json),
                    "application/x-ndjson" | "application/ndjson" => Some(Self::Ndjson),
                    "text/csv" => Some(Self::Csv),
                    _ => None,
                }
            });
            known.unwrap_or(Self::Json)
        })
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Ndjson => "application/x-ndjson",
            Self::Csv => "text/csv; charset=utf-8; header=present",
        }
    }

    pub(super) fn respond(self, body: Vec<u8>, cursor: Option<&str>) -> Response<Body> {
        let mut response = Response::new(Body::from(body));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type()));
        // Base64url, which a header can hold.
        if let Some(cursor) = cursor.and_then(|cursor| HeaderValue::from_str(cursor).ok()) {
            headers.insert(super::CURSOR_HEADER, cursor);
        }
        response
    }
}

pub(super) fn json(value: &impl Serialize) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(value)
        .map_err(|error| crate::search::engine::SearchError::Store(error.to_string()).into())
}

pub(super) fn lines<T: AsRef<[u8]>>(lines: impl IntoIterator<Item = T>) -> Vec<u8> {
    let mut text = Vec::new();
    for line in lines {
        text.extend_from_slice(line.as_ref());
        text.push(b'\n');
    }
    text
}

/// Events by these fields.
pub(super) fn events_csv(events: &[Bytes], fields: &[&Field]) -> Result<Vec<u8>, Failure> {
    let pointers: Vec<String> = fields
        .iter()
        .map(|field| format!("/{}", field.path.replace('.', "/")))
        .collect();
    let mut text = Vec::new();
    row(
        &mut text,
        fields.iter().map(|field| Value::from(field.path)),
    );
    for event in events {
        let event: Value = serde_json::from_slice(event)
            .map_err(|error| crate::search::engine::SearchError::Store(error.to_string()))?;
        let values = pointers.iter();
        row(
            &mut text,
            values.map(|pointer| event.pointer(pointer).cloned().unwrap_or_default()),
        );
    }
    Ok(text)
}

pub(super) fn row(text: &mut Vec<u8>, values: impl IntoIterator<Item = Value>) {
    for (index, value) in values.into_iter().enumerate() {
        if index > 0 {
            text.push(b',');
        }
        let cell = match value {
            Value::Null => continue,
            Value::String(cell) => cell,
            other => other.to_string(),
        };
        if cell.contains(['"', ',', '\n', '\r']) || cell.is_empty() {
            text.extend_from_slice(format!("\"{}\"", cell.replace('"', "\"\"")).as_bytes());
        } else {
            text.extend_from_slice(cell.as_bytes());
        }
    }
    text.extend_from_slice(b"\r\n");
}
