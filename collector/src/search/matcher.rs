//! A query held against events as they come.
//!
//! Invariant: takes what a search by the same query would find.

use super::language::Query;
use super::plan;
use crate::event::Event;
use crate::store::columns;
use arrow::array::{Array, AsArray};
use datafusion::common::{DFSchema, DataFusionError};
use datafusion::physical_plan::PhysicalExpr;
use datafusion::prelude::SessionContext;
use std::sync::Arc;

/// See the module. What is relative to now is so to the moment at which it was made.
pub struct Matcher {
    filter: Arc<dyn PhysicalExpr>,
}

impl Matcher {
    /// `now` in nanoseconds since the Unix epoch.
    ///
    /// # Errors
    /// If the query engine refuses the filter.
    pub fn new(query: &Query, now: i64) -> Result<Self, String> {
        let schema = DFSchema::try_from(columns::schema());
        schema
            .and_then(|schema| {
                SessionContext::new().create_physical_expr(plan::filter(query, now), &schema)
            })
            .map(|filter| Self { filter })
            .map_err(|error| error.strip_backtrace())
    }

    /// Those that the query takes, in their order.
    ///
    /// # Errors
    /// If the query engine cannot say.
    pub fn taken<'a>(&self, events: &'a [Event]) -> Result<Vec<&'a Event>, String> {
        let batch = columns::batch(events);
        let failed = |error: DataFusionError| error.strip_backtrace();
        let holds = self.filter.evaluate(&batch).map_err(failed)?;
        let holds = holds.into_array(events.len()).map_err(failed)?;
        let holds = holds.as_boolean();
        let taken = events.iter().enumerate();
        let taken = taken.filter(|(row, _)| holds.is_valid(*row) && holds.value(*row));
        Ok(taken.map(|(_, event)| event).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::language::parse;
    use crate::search::testing::{self, BEGIN, Dice};

    #[test]
    fn takes_what_the_language_says() {
        let events = testing::events(300, 11);
        let mut dice = Dice(12);
        for _ in 0..100 {
            let text = testing::query(&mut dice, 2);
            let query = parse(&text).unwrap();
            let matcher = Matcher::new(&query, BEGIN).unwrap();
            let taken = matcher.taken(&events).unwrap();
            let expected: Vec<&Event> = events
                .iter()
                .filter(|event| testing::takes(&query, event, BEGIN))
                .collect();
            assert_eq!(taken, expected, "{text}");
        }
        assert_eq!(
            Matcher::new(&Query::All, 0).unwrap().taken(&[]).unwrap(),
            Vec::<&Event>::new()
        );
    }
}
