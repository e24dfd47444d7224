//! Everything that is known of a credential, by its fingerprints.
//!
//! The facets are counted over all of its events, each with when its values were seen first and last; the timeline
//! is a page of the events themselves, the oldest first.
//!
//! Invariant: all parts of one trail are of one snapshot.

use super::search::{Order, SearchQuestion};
use super::stats::Readable;
use super::{Engine, SearchError};
use crate::search::plan;
use crate::store::{Snapshot, columns};
use agent_common::event::{Fingerprint, Time};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, TimestampMicrosecondType};
use bytes::Bytes;
use datafusion::datasource::MemTable;
use datafusion::functions_aggregate::expr_fn::{count, max, min};
use datafusion::logical_expr::{Expr, lit};
use datafusion::prelude::DataFrame;
use serde::Serialize;
use serde_json::Value;
use std::sync::Arc;

/// Fingerprints of one question: a key file holds 64 keys.
pub const FINGERPRINTS_MAX: usize = 64;

/// What a trail tells of: the name of each facet, and the contract paths of its values.
pub const FACETS: [(&str, &[&str]); 7] = [
    (
        "process",
        &["process.executable.path", "process.executable.hash.sha256"],
    ),
    ("user", &["process.real_user.id", "process.real_user.name"]),
    ("host", &["host.name", "host.id"]),
    (
        "container",
        &[
            "container.id",
            "container.runtime.name",
            "k8s.pod.uid",
            "systemd.unit",
        ],
    ),
    (
        "peer",
        &["network.peer.address", "server.address", "server.port"],
    ),
    (
        "operation",
        &["direction", "http.request.method", "url.template"],
    ),
    (
        "status",
        &["http.response.status_code", "rpc.grpc.status_code"],
    ),
];

/// A question for a trail.
#[derive(Clone, Debug)]
pub struct TrailQuestion {
    /// 1 to 64, of one credential under several keys.
    pub fingerprints: Vec<Fingerprint>,
    /// Values of each facet, and events of the timeline's page.
    pub limit: usize,
    /// Of the timeline's page before.
    pub cursor: Option<String>,
    pub force: bool,
    /// Nanoseconds since the Unix epoch.
    pub now: i64,
}

/// A credential's story.
#[derive(Debug)]
pub struct Trail {
    pub events: u64,
    /// `None` if it was never seen.
    pub first: Option<Time>,
    pub last: Option<Time>,
    pub facets: Vec<Facet>,
    /// The oldest first; canonical JSON.
    pub timeline: Vec<Bytes>,
    /// Of the timeline's next page.
    pub cursor: Option<String>,
}

/// What was seen of one kind.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Facet {
    /// `process`, `user`, `host`, `container`, `peer`, `operation` or `status`.
    pub name: String,
    /// Contract paths, in the order of `values`.
    pub fields: Vec<String>,
    /// The most frequent first.
    pub rows: Vec<FacetRow>,
    /// There are more than these.
    pub more: bool,
}

/// One combination of values.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct FacetRow {
    /// `null` where the event has none.
    #[schema(value_type = Vec<Value>)]
    pub values: Vec<Value>,
    pub count: u64,
    /// To the microsecond.
    #[schema(value_type = String, format = DateTime)]
    pub first: Time,
    #[schema(value_type = String, format = DateTime)]
    pub last: Time,
}

/// Events whose facets are counted in memory: some megabytes.
const FEW: usize = 16 * 1024;

const COUNT: &str = "count";
const FIRST: &str = "first";
const LAST: &str = "last";

impl Engine {
    /// # Errors
    /// See [`SearchError`].
    pub async fn trail(&self, question: &TrailQuestion) -> Result<Trail, SearchError> {
        self.within(async {
            let snapshot = self.snapshot().await?;
            self.trail_of(&snapshot, question).await
        })
        .await
    }

    async fn trail_of(
        &self,
        snapshot: &Snapshot,
        question: &TrailQuestion,
    ) -> Result<Trail, SearchError> {
        let TrailQuestion { fingerprints, .. } = question;
        let query = plan::of_fingerprints(fingerprints)
            .filter(|_| fingerprints.len() <= FINGERPRINTS_MAX)
            .ok_or_else(|| SearchError::Argument {
                name: "fingerprints",
                value: format!("{} of them", fingerprints.len()),
                expected: format!("1 to {FINGERPRINTS_MAX}"),
            })?;
        let search = SearchQuestion {
            query,
            order: Order::Oldest,
            limit: question.limit,
            cursor: question.cursor.clone(),
            force: question.force,
            now: question.now,
        };
        let page = self.page(snapshot, &search).await?;
        let chosen = self.choose(snapshot, &search.query, search.now).await?;
        let few = self.few(self.filtered(snapshot, &chosen, &search.query, search.now)?);
        let few = few.await?;
        let counted = |paths: &'static [&'static str]| {
            let groups = paths
                .iter()
                .filter_map(|path| crate::search::fields::find(path));
            let groups: Vec<Expr> = groups.map(|field| plan::column(field.column)).collect();
            let time = || plan::column(columns::TIME);
            let counts = vec![
                count(lit(1_i64)).alias(COUNT),
                min(time()).alias(FIRST),
                max(time()).alias(LAST),
            ];
            let rows = match &few {
                Some(few) => self
                    .context(snapshot)
                    .read_table(few.clone())
                    .map_err(|error| self.failed(error))?,
                None => self.filtered(snapshot, &chosen, &search.query, search.now)?,
            };
            rows.aggregate(groups, counts)
                .map_err(|error| self.failed(error))
        };
        let whole = self.collect(counted(&[])?).await?;
        let whole = rows(&whole, 0).map_err(|error| self.failed(error.into()))?;
        let whole = whole.into_iter().next();
        let mut facets = Vec::with_capacity(FACETS.len());
        for (name, paths) in FACETS {
            let order = std::iter::once(plan::column(COUNT).sort(false, false))
                .chain(std::iter::once(plan::column(FIRST).sort(true, false)));
            let any = paths
                .iter()
                .filter_map(|path| crate::search::fields::find(path))
                .map(|field| plan::column(field.column).is_not_null())
                .reduce(Expr::or)
                .unwrap_or_else(|| lit(true));
            let frame = counted(paths)?
                .filter(any)
                .and_then(|frame| frame.sort(order.collect()))
                .and_then(|frame| frame.limit(0, Some(question.limit.saturating_add(1))))
                .map_err(|error| self.failed(error))?;
            let batches = self.collect(frame).await?;
            let mut rows =
                rows(&batches, paths.len()).map_err(|error| self.failed(error.into()))?;
            let more = rows.len() > question.limit;
            rows.truncate(question.limit);
            facets.push(Facet {
                name: name.to_owned(),
                fields: paths.iter().map(|path| (*path).to_owned()).collect(),
                rows,
                more,
            });
        }
        Ok(Trail {
            events: whole.as_ref().map_or(0, |whole| whole.count),
            first: whole.as_ref().map(|whole| whole.first),
            last: whole.map(|whole| whole.last),
            facets,
            timeline: page.events,
            cursor: page.cursor,
        })
    }
}

impl Engine {
    /// What facets are counted from, in memory, if it is little: most trails are, and each facet would look into every
    /// file again.
    async fn few(&self, rows: DataFrame) -> Result<Option<Arc<MemTable>>, SearchError> {
        let paths = FACETS.iter().flat_map(|(_, paths)| *paths);
        let mut names: Vec<&str> = paths
            .filter_map(|path| crate::search::fields::find(path))
            .map(|field| field.column)
            .chain([columns::TIME])
            .collect();
        names.sort_unstable();
        names.dedup();
        let read = async {
            let rows = rows.select(names.iter().map(|name| plan::column(name)))?;
            let schema = Arc::new(rows.schema().as_arrow().clone());
            let rows = rows.limit(0, Some(FEW + 1))?.collect().await?;
            if rows.iter().map(RecordBatch::num_rows).sum::<usize>() > FEW {
                return Ok(None);
            }
            MemTable::try_new(schema, vec![rows]).map(|table| Some(Arc::new(table)))
        };
        read.await.map_err(|error| self.failed(error))
    }
}

/// Rows of `values` columns, a count, and two times; one of nothing counted is left out.
fn rows(batches: &[RecordBatch], values: usize) -> Result<Vec<FacetRow>, arrow::error::ArrowError> {
    let mut rows = Vec::new();
    for batch in batches {
        let columns = batch.columns()[..values].iter().map(Readable::new);
        let columns: Vec<Readable> = columns.collect::<Result<_, _>>()?;
        let counts = cast(batch.column(values), &DataType::Int64)?;
        let counts = counts.as_primitive::<Int64Type>();
        let [first, last] = [1, 2].map(|place| batch.column(values + place));
        let time = |array: &arrow::array::ArrayRef, row| {
            let us = array.as_primitive::<TimestampMicrosecondType>().value(row);
            Time::from_unix_nanos(i128::from(us) * 1000)
        };
        for row in (0..batch.num_rows()).filter(|row| first.is_valid(*row)) {
            rows.push(FacetRow {
                values: columns.iter().map(|column| column.value(row)).collect(),
                count: u64::try_from(counts.value(row)).unwrap_or_default(),
                first: time(first, row),
                last: time(last, row),
            });
        }
    }
    Ok(rows)
}
