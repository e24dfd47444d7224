//! The OpenAPI document. `collector/openapi.json` is this text; a test fails when it is stale.

use super::{failure, search, stats, tail, trail};
use crate::access;
use crate::search::engine;
use crate::serve::{admin, quarantine};
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use utoipa::OpenApi;
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{Content, Ref, Required};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "tokentrail collector",
        description = "Search, counts, trails and live events; keys, and what is in quarantine."
    ),
    paths(
        search::search,
        stats::stats,
        tail::tail,
        trail::trail,
        quarantine::list,
        quarantine::show,
        admin::list,
        admin::create,
        admin::revoke,
        admin::password,
    ),
    components(schemas(
        search::SearchParameters,
        search::SearchAnswer,
        stats::StatsParameters,
        tail::TailParameters,
        trail::TrailBody,
        trail::TrailAnswer,
        quarantine::QuarantinePage,
        quarantine::QuarantineRow,
        quarantine::QuarantinePiece,
        admin::NewKey,
        admin::MadeKey,
        admin::NewPassword,
        access::KeyRow,
        access::Role,
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
    for (path, parameters) in [
        ("/v1/search", "SearchParameters"),
        ("/v1/stats", "StatsParameters"),
        ("/v1/tail", "TailParameters"),
    ] {
        if let Some(item) = document.paths.paths.get_mut(path)
            && let Some(get) = &item.get
        {
            let mut post = get.clone();
            post.parameters = None;
            post.operation_id = get.operation_id.as_ref().map(|id| format!("{id}_by_post"));
            let content = Content::new(Some(Ref::from_schema_name(parameters)));
            let body = RequestBodyBuilder::new().content("application/json", content);
            post.request_body = Some(body.required(Some(Required::True)).build());
            item.post = Some(post);
        }
    }
    let mut text = document.to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
}

pub(super) async fn serve() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], document())
}
