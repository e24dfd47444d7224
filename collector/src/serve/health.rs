//! `/healthz`, `/readyz` and `/metrics`: for service managers, load balancers and Prometheus. None needs a key; none
//! says anything of events but numbers.

use super::metrics::{self, Numbers};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

pub fn router(numbers: Numbers) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(show))
        .with_state(numbers)
}

/// 503 while what is sent would be refused.
async fn ready(State(numbers): State<Numbers>) -> (StatusCode, &'static str) {
    if numbers.inbox.used().0 >= numbers.inbox_limit {
        (StatusCode::SERVICE_UNAVAILABLE, "the inbox is full\n")
    } else {
        (StatusCode::OK, "ready\n")
    }
}

async fn show(State(numbers): State<Numbers>) -> Response {
    match metrics::encode(numbers) {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
