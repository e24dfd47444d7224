//! Counts of the events that a query takes, by fields and spans of time.
//!
//! Invariant: the counts of all groups add up to `total`.

use super::Chosen;
use super::{Engine, SearchError};
use crate::search::fields::{Field, Kind};
use crate::search::language::Query;
use crate::search::plan;
use crate::store::Snapshot;
use agent_common::event::Time;
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringViewArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use arrow::error::ArrowError;
use datafusion::functions_aggregate::expr_fn::count;
use datafusion::logical_expr::{Expr, lit};
use datafusion::prelude::DataFrame;
use futures::StreamExt;
use serde::Serialize;
use serde_json::Value;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// Fields of one question.
const FIELDS_MAX: usize = 8;

/// A question for counts.
#[derive(Clone, Debug)]
pub struct StatsQuestion {
    pub query: Query,
    /// At most 8; none: one count.
    pub by: Vec<&'static Field>,
    /// Length of the spans of time, whole seconds; they begin at multiples of it since the Unix epoch.
    pub every: Option<Duration>,
    /// Groups of the answer, the largest ones (with `every`: the earliest spans, in each the largest).
    pub limit: usize,
    pub force: bool,
    /// Nanoseconds since the Unix epoch.
    pub now: i64,
}

/// Counts by group.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Counts {
    /// Contract paths of the fields, in the order of `values`.
    pub by: Vec<String>,
    /// With spans of time: by their begin, then the largest first; else the largest first.
    pub rows: Vec<Counted>,
    /// Events that the query takes.
    pub total: u64,
    /// There are more groups than these.
    pub more: bool,
}

/// One group.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Counted {
    /// Begin of the span of time; absent without `every`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub time: Option<Time>,
    /// `null`: events without the field.
    #[schema(value_type = Vec<Value>)]
    pub values: Vec<Value>,
    pub count: u64,
}

const BUCKET: &str = "bucket";
const COUNT: &str = "count";

impl Engine {
    /// # Errors
    /// See [`SearchError`].
    pub async fn stats(&self, question: &StatsQuestion) -> Result<Counts, SearchError> {
        self.within(async {
            let limit = self.page_size("limit", question.limit)?;
            let snapshot = self.snapshot().await?;
            let (chosen, frame) = self.stats_plan(&snapshot, question).await?;
            self.admit(&chosen, question.force)?;
            let failed = |error| self.failed(error);
            let mut groups = frame.execute_stream().await.map_err(failed)?;
            let mut ranking = Ranking::new(limit, question.every.is_some());
            while let Some(batch) = groups.next().await {
                let batch = batch.map_err(failed)?;
                ranking
                    .take(&batch, &question.by)
                    .map_err(|error| failed(error.into()))?;
            }
            Ok(ranking.counts(&question.by))
        })
        .await
    }

    pub(super) async fn stats_plan(
        &self,
        snapshot: &Snapshot,
        question: &StatsQuestion,
    ) -> Result<(Chosen, DataFrame), SearchError> {
        if question.by.len() > FIELDS_MAX {
            return Err(SearchError::Argument {
                name: "by",
                value: format!("{} fields", question.by.len()),
                expected: format!("at most {FIELDS_MAX}"),
            });
        }
        if let Some(time) = question.by.iter().find(|field| field.kind == Kind::Time) {
            return Err(SearchError::Argument {
                name: "by",
                value: time.path.to_owned(),
                expected: "times are counted by `every` (as in `every=1h`)".to_owned(),
            });
        }
        let every = question.every.map(width).transpose()?;
        let chosen = self.choose(snapshot, &question.query, question.now).await?;
        let frame = self.filtered(snapshot, &chosen, &question.query, question.now)?;
        let mut groups: Vec<Expr> = every
            .map(|width| plan::bucket(width).alias(BUCKET))
            .into_iter()
            .collect();
        let fields = question.by.iter().map(|field| plan::column(field.column));
        groups.extend(fields);
        let frame = frame
            .aggregate(groups, vec![count(lit(1_i64)).alias(COUNT)])
            .map_err(|error| self.failed(error))?;
        Ok((chosen, frame))
    }
}

/// In microseconds.
fn width(every: Duration) -> Result<i64, SearchError> {
    const LONGEST: u64 = 366 * 86_400;
    let seconds = every.as_secs();
    if every.subsec_nanos() == 0 && (1..=LONGEST).contains(&seconds) {
        return Ok(i64::try_from(seconds).unwrap_or(i64::MAX) * 1_000_000);
    }
    Err(SearchError::Argument {
        name: "every",
        value: format!("{every:?}"),
        expected: "whole seconds, at most 366 days".to_owned(),
    })
}

/// The first groups by their order, of any number that goes by.
struct Ranking {
    limit: usize,
    timed: bool,
    /// The last one on top.
    kept: BinaryHeap<Ranked>,
    seen: usize,
    total: u64,
}

/// Begin of the span in microseconds (0 without spans), the larger count, the values as text, and the values.
type Ranked = (i64, Reverse<u64>, String, Values);

/// Stands in a tuple that is ordered; what stands before it decides.
struct Values(Vec<Value>);

impl PartialEq for Values {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Values {}

impl PartialOrd for Values {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Values {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

impl Ranking {
    fn new(limit: usize, timed: bool) -> Self {
        Self {
            limit,
            timed,
            kept: BinaryHeap::with_capacity(limit.min(1024)),
            seen: 0,
            total: 0,
        }
    }

    fn take(&mut self, batch: &RecordBatch, by: &[&'static Field]) -> Result<(), ArrowError> {
        let Some((counts, keys)) = batch.columns().split_last() else {
            return Ok(());
        };
        let counts = cast(counts, &DataType::Int64)?;
        let counts: &Int64Array = counts.as_primitive::<Int64Type>();
        let (buckets, keys) = match keys.split_first() {
            Some((buckets, keys)) if self.timed => (Some(cast(buckets, &DataType::Int64)?), keys),
            _ => (None, keys),
        };
        let columns: Vec<Readable> = keys.iter().map(Readable::new).collect::<Result<_, _>>()?;
        debug_assert_eq!(columns.len(), by.len());
        for row in 0..batch.num_rows() {
            let count = u64::try_from(counts.value(row)).unwrap_or_default();
            // An aggregate without groups has one row, also of nothing.
            if count == 0 && by.is_empty() {
                continue;
            }
            self.seen += 1;
            self.total = self.total.saturating_add(count);
            let bucket = buckets
                .as_ref()
                .map_or(0, |buckets| buckets.as_primitive::<Int64Type>().value(row));
            let full = self.kept.len() == self.limit;
            if full
                && self
                    .kept
                    .peek()
                    .is_some_and(|last| (bucket, Reverse(count)) > (last.0, last.1))
            {
                continue;
            }
            let values: Vec<Value> = columns.iter().map(|column| column.value(row)).collect();
            let text = serde_json::to_string(&values).unwrap_or_default();
            self.kept
                .push((bucket, Reverse(count), text, Values(values)));
            if full {
                self.kept.pop();
            }
        }
        Ok(())
    }

    fn counts(self, by: &[&'static Field]) -> Counts {
        let more = self.seen > self.kept.len();
        let rows = self.kept.into_sorted_vec().into_iter();
        let rows = rows.map(|(bucket, Reverse(count), _, Values(values))| Counted {
            time: self
                .timed
                .then(|| Time::from_unix_nanos(i128::from(bucket) * 1000)),
            values,
            count,
        });
        Counts {
            by: by.iter().map(|field| field.path.to_owned()).collect(),
            rows: rows.collect(),
            total: self.total,
            more,
        }
    }
}

/// A column of the table, whose values can be had as JSON.
pub(super) enum Readable {
    Text(StringViewArray),
    Integer(Int64Array),
    Boolean(BooleanArray),
}

impl Readable {
    pub(super) fn new(array: &ArrayRef) -> Result<Self, ArrowError> {
        Ok(match array.data_type() {
            DataType::Boolean => Self::Boolean(array.as_boolean().clone()),
            data if data.is_integer() => Self::Integer(
                cast(array, &DataType::Int64)?
                    .as_primitive::<Int64Type>()
                    .clone(),
            ),
            _ => Self::Text(cast(array, &DataType::Utf8View)?.as_string_view().clone()),
        })
    }

    pub(super) fn value(&self, row: usize) -> Value {
        match self {
            Self::Text(array) if array.is_valid(row) => array.value(row).into(),
            Self::Integer(array) if array.is_valid(row) => array.value(row).into(),
            Self::Boolean(array) if array.is_valid(row) => array.value(row).into(),
            _ => Value::Null,
        }
    }
}
