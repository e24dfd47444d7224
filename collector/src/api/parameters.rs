//! Parameters, from the address or from a JSON body.
//!
//! Invariant: a parameter that is not known is refused, and not passed over.

use super::failure::Failure;
use axum::body::Body;
use axum::extract::Query;
use axum::http::Method;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

/// Bytes of a request's body.
const BODY_MAX: usize = 64 * 1024;

pub(super) async fn read<T: DeserializeOwned>(parts: &Parts, body: Body) -> Result<T, Failure> {
    if parts.method != Method::POST {
        return Query::try_from_uri(&parts.uri)
            .map(|Query(parameters)| parameters)
            .map_err(|error| Failure::Argument(error.body_text()));
    }
    let body = axum::body::to_bytes(body, BODY_MAX)
        .await
        .map_err(|_| Failure::Length { most: BODY_MAX })?;
    serde_json::from_slice(&body).map_err(|error| {
        Failure::Argument(format!(
            "the body is not the JSON object that is due: {error}"
        ))
    })
}

/// Paths of fields, parted by commas.
pub(super) fn fields(
    name: &str,
    text: &str,
) -> Result<Vec<&'static crate::search::fields::Field>, Failure> {
    let names = text
        .split(',')
        .map(str::trim)
        .filter(|field| !field.is_empty());
    names
        .map(|field| {
            crate::search::fields::find(field).ok_or_else(|| {
                let shown: String = field.chars().take(60).collect();
                let nearest = crate::search::fields::nearest(field).join(", ");
                let hint = if nearest.is_empty() {
                    String::new()
                } else {
                    format!("; did you mean {nearest}?")
                };
                Failure::Argument(format!("{name}: there is no field `{shown}`{hint}"))
            })
        })
        .collect()
}
