//! The OpenAPI document. `collector/openapi.json` is this text; a test fails when it is stale.

use super::{failure, search, stats, tail, trail};
use crate::search::engine;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use utoipa::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "tokentrail collector",
        description = "Search, counts, trails and live events."
    ),
    paths(search::search, stats::stats, tail::tail, trail::trail),
    components(schemas(
        search::SearchParameters,
        search::SearchAnswer,
        stats::StatsParameters,
        tail::TailParameters,
        trail::TrailBody,
        trail::TrailAnswer,
        engine::Explanation,
        engine::ReadFile,
        engine::Counts,
        engine::Counted,
        engine::Facet,
        engine::FacetRow,
        failure::ErrorBody,
        failure::Code,
        failure::Span,
    ))
)]
struct Document;

/// The document as JSON text.
#[must_use]
pub fn document() -> String {
    let mut document = Document::openapi();
    let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    let components = document.components.get_or_insert_default();
    components.security_schemes.insert("key".to_owned(), scheme);
    // The same questions, with the parameters in a JSON object.
    for path in document.paths.paths.values_mut() {
        path.parameters = None;
    }
    let mut text = document.to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
}

pub(super) async fn serve() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], document())
}
