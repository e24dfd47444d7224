//! Where a page ended.
//!
//! Opaque to who carries it: base64url of JSON with the key of the page's last event, the moment that the first page
//! took for now (so that `since:24h` means the same on every page), and a mark of the question that it belongs to.
//!
//! Invariant: a cursor is taken with the question that it was made for, and no other.

use super::search::Order;
use crate::event::EventKey;
use crate::search::language::Query;
use crate::search::plan::{column, micros, split};
use crate::store::columns;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use datafusion::logical_expr::{Expr, lit};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Longer ones were not made here.
const LENGTH_MAX: usize = 4 * 1024;

/// A cursor that was not made for this question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCursor {
    #[error("not a cursor of this server")]
    Form,
    #[error(
        "the cursor belongs to another question: it goes with the query and order of its first page"
    )]
    Question,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cursor {
    /// Of the last event on the page.
    pub(super) time: i64,
    pub(super) agent: String,
    pub(super) epoch: i64,
    pub(super) sequence: i64,
    /// Of the first page.
    pub(super) now: i64,
    mark: u32,
}

/// The columns that events are ordered by, after the first which nothing stands twice.
pub(super) const KEY: [&str; 5] = [
    columns::TIME,
    columns::TIME_NANOS,
    "producer_id",
    "producer_epoch",
    "producer_sequence",
];

impl Cursor {
    pub(super) fn new(key: &EventKey, time: i64, now: i64, query: &Query, order: Order) -> Self {
        // Events are read with these within i64 (`event::Event::parse`).
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        Self {
            time,
            agent: key.agent.to_string(),
            epoch: signed(key.epoch),
            sequence: signed(key.sequence),
            now,
            mark: mark(query, order),
        }
    }

    pub(super) fn write(&self) -> String {
        // Numbers and text cannot fail to be written.
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    pub(super) fn read(text: &str, query: &Query, order: Order) -> Result<Self, InvalidCursor> {
        let bytes = Some(text)
            .filter(|text| text.len() <= LENGTH_MAX)
            .and_then(|text| URL_SAFE_NO_PAD.decode(text).ok())
            .ok_or(InvalidCursor::Form)?;
        let cursor: Self = serde_json::from_slice(&bytes).map_err(|_| InvalidCursor::Form)?;
        if cursor.mark == mark(query, order) {
            Ok(cursor)
        } else {
            Err(InvalidCursor::Question)
        }
    }

    /// Events behind it, in the order.
    pub(super) fn behind(&self, order: Order) -> Expr {
        let (us, nanos) = split(self.time);
        let values = [
            micros(us),
            lit(nanos),
            lit(self.agent.clone()),
            lit(self.epoch),
            lit(self.sequence),
        ];
        let further = |name: &str, value: Expr| match order {
            Order::Newest => column(name).lt(value),
            Order::Oldest => column(name).gt(value),
        };
        // Of (a, b, c): a further, or a the same and (b further, or b the same and (c further)).
        let mut behind: Option<Expr> = None;
        for (name, value) in KEY.into_iter().zip(values).rev() {
            let here = further(name, value.clone());
            behind = Some(match behind {
                None => here,
                Some(inner) => here.or(column(name).eq(value).and(inner)),
            });
        }
        // By time alone as well: files and pages are pruned by it.
        let near = match order {
            Order::Newest => column(columns::TIME).lt_eq(micros(us)),
            Order::Oldest => column(columns::TIME).gt_eq(micros(us)),
        };
        match behind {
            Some(behind) => near.and(behind),
            None => near,
        }
    }
}

fn mark(query: &Query, order: Order) -> u32 {
    let digest = Sha256::digest(format!("{order:?} {query}"));
    digest
        .iter()
        .take(4)
        .fold(0, |mark, byte| mark << 8 | u32::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::language::parse;

    #[test]
    fn a_cursor_goes_with_its_question() {
        let key = EventKey {
            agent: "a\"ü".into(),
            epoch: 7,
            sequence: 9,
        };
        let query = parse("kind:usage").unwrap();
        let cursor = Cursor::new(&key, 1_234, 5_678, &query, Order::Newest);
        let text = cursor.write();
        assert_eq!(Cursor::read(&text, &query, Order::Newest), Ok(cursor));
        let question = Err(InvalidCursor::Question);
        assert_eq!(Cursor::read(&text, &query, Order::Oldest), question);
        let other = parse("kind:loss").unwrap();
        assert_eq!(Cursor::read(&text, &other, Order::Newest), question);
        for cut in 0..text.len() {
            let read = Cursor::read(&text[..cut], &query, Order::Newest);
            assert_eq!(read, Err(InvalidCursor::Form), "{cut}");
        }
        for text in ["", "ü", "AAAA", &"A".repeat(LENGTH_MAX + 1)] {
            assert_eq!(
                Cursor::read(text, &query, Order::Newest),
                Err(InvalidCursor::Form)
            );
        }
    }
}
