//! `/v1/stats`.

use super::door::Asked;
use super::failure::{ErrorBody, Failure};
use super::format::{self, Format};
use super::{State, parameters};
use crate::search::engine::{self, Counts, StatsQuestion};
use crate::search::language::{self, moment::Moment};
use axum::body::Body;
use axum::extract;
use axum::http::{Request, Response};
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

const LIMIT: usize = 1_000;

#[derive(Debug, Deserialize, utoipa::IntoParams, utoipa::ToSchema)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct StatsParameters {
    /// The query; without one every event is counted.
    #[serde(default)]
    q: String,
    /// Fields, parted by commas; at most 8.
    #[serde(default)]
    by: String,
    /// Length of spans of time, such as `1h`.
    every: Option<String>,
    /// Groups of the answer, 1 to 10000; 1000 unless given.
    limit: Option<usize>,
    /// Also if very many events have to be read.
    #[serde(default)]
    force: bool,
    /// `json` unless Accept says otherwise.
    #[param(inline)]
    format: Option<Format>,
}

/// Counts of events, by fields and spans of time.
#[utoipa::path(
    get,
    path = "/v1/stats",
    params(StatsParameters),
    responses(
        (status = 200, description = "counts", content(
            (Counts = "application/json"), (String = "application/x-ndjson"), (String = "text/csv"))),
        (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 422, body = ErrorBody), (status = 500, body = ErrorBody), (status = 503, body = ErrorBody),
        (status = 504, body = ErrorBody),
    ),
    security(("key" = []))
)]
pub(super) async fn stats(
    extract::State(state): extract::State<Arc<State>>,
    request: Request<Body>,
) -> Result<Response<Body>, Failure> {
    let (parts, body) = request.into_parts();
    state.reader(&parts).await?;
    let asked: StatsParameters = parameters::read(&parts, body).await?;
    let query = language::parse(&asked.q)?;
    state.admit(&parts, &query, Asked::Stats).await?;
    let every = match asked
        .every
        .as_deref()
        .map(|every| (every, Moment::parse(every)))
    {
        None => None,
        Some((_, Some(Moment::Ago(seconds)))) => Some(Duration::from_secs(seconds)),
        Some((every, _)) => {
            let shown: String = every.chars().take(60).collect();
            return Err(Failure::Argument(format!(
                "every: `{shown}` is not a length of time such as `30m` or `1h`"
            )));
        }
    };
    let question = StatsQuestion {
        query,
        by: parameters::fields("by", &asked.by)?,
        every,
        limit: asked.limit.unwrap_or(LIMIT),
        force: asked.force,
        now: engine::now(),
    };
    let _turn = state.turn().await?;
    let counts = state.engine.stats(&question).await?;
    let format = Format::of(asked.format, &parts);
    let body = match format {
        Format::Json => format::json(&counts)?,
        Format::Ndjson => {
            let rows = counts.rows.iter().map(format::json);
            format::lines(rows.collect::<Result<Vec<_>, _>>()?)
        }
        Format::Csv => csv(&counts, every.is_some()),
    };
    Ok(format.respond(body, None))
}

fn csv(counts: &Counts, timed: bool) -> Vec<u8> {
    let mut text = Vec::new();
    let time = timed.then(|| Value::from("time"));
    let by = counts.by.iter().map(|path| Value::from(path.as_str()));
    format::row(
        &mut text,
        time.into_iter().chain(by).chain(["count".into()]),
    );
    for row in &counts.rows {
        let time = row.time.map(|time| Value::from(time.to_string()));
        let values = row.values.iter().cloned();
        format::row(
            &mut text,
            time.into_iter().chain(values).chain([row.count.into()]),
        );
    }
    text
}
