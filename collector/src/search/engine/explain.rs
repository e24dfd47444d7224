//! How a search would be answered, without answering it.

use super::{Engine, SearchError, SearchQuestion};
use crate::search::language::Query;
use agent_common::event::Time;
use datafusion::physical_plan::displayable;
use serde::Serialize;

/// Files that are listed.
const FILES_MAX: usize = 200;

/// How a search would be answered.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Explanation {
    /// The query as it was understood, with contract paths.
    pub query: String,
    /// The span of time in which a hit can be, where the query says one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub from: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub to: Option<Time>,
    /// Segments that there are, and why some are not read.
    pub segments: u64,
    pub segments_excluded_by_time: u64,
    pub segments_excluded_by_fingerprint: u64,
    /// Segments that are read, at most 200 of them.
    pub files: Vec<ReadFile>,
    pub files_read: u64,
    /// Rows that are not in a segment yet.
    pub pending_rows: u64,
    /// Rows of all that is read: at most as many are looked at.
    pub rows: u64,
    /// Rows that are read without `force`.
    pub rows_without_force: u64,
    /// The engine's plan.
    pub plan: String,
}

/// A segment that is read.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct ReadFile {
    pub path: String,
    pub rows: u64,
    pub bytes: u64,
    #[schema(value_type = String, format = DateTime)]
    pub first: Time,
    #[schema(value_type = String, format = DateTime)]
    pub last: Time,
}

impl Engine {
    /// # Errors
    /// See [`SearchError`].
    pub async fn explain(&self, question: &SearchQuestion) -> Result<Explanation, SearchError> {
        self.within(async {
            self.page_size("limit", question.limit)?;
            let snapshot = self.snapshot().await?;
            let planned = self.planned(&snapshot, question).await?;
            let chosen = &planned.chosen;
            let plan = planned
                .frame
                .create_physical_plan()
                .await
                .map_err(|error| self.failed(error))?;
            let (low, high) = crate::search::plan::bounds(&question.query, planned.now);
            let time = |nanos: i64| Time::from_unix_nanos(i128::from(nanos));
            let files = chosen
                .segments
                .iter()
                .take(FILES_MAX)
                .map(|segment| ReadFile {
                    path: segment.path.to_string(),
                    rows: segment.rows,
                    bytes: segment.bytes,
                    first: time(segment.min_time),
                    last: time(segment.max_time),
                });
            Ok(Explanation {
                query: match &question.query {
                    Query::All => "everything".to_owned(),
                    query => query.to_string(),
                },
                from: (low != i64::MIN).then(|| time(low)),
                to: (high != i64::MAX).then(|| time(high)),
                segments: chosen.segments_of as u64,
                segments_excluded_by_time: chosen.by_time as u64,
                segments_excluded_by_fingerprint: chosen.by_fingerprint as u64,
                files: files.collect(),
                files_read: chosen.segments.len() as u64,
                pending_rows: chosen.pending_rows,
                rows: chosen.rows(),
                rows_without_force: self.limits.rows,
                plan: displayable(plan.as_ref()).indent(false).to_string(),
            })
        })
        .await
    }
}
