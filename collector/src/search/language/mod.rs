//! The search language: `provider:github status:401 src:10.0.0.0/8 since:24h`.
//!
//! Terms that stand next to each other hold together; `or`, `not` or `-`, and parentheses join and turn them.
//!
//! | term | holds for events |
//! |---|---|
//! | `status:401`, `path:"/a b"` | with this value; text is compared exactly |
//! | `status:400..499`, `status:>=500` | with a value in the range, both ends included |
//! | `path:/admin*` | whose value begins so |
//! | `container:*` | that have the field; `-container:*` that have not |
//! | `src:10.0.0.0/8` | whose address is in the block |
//! | `since:24h`, `until:2026-11-22T10:00Z` | from then on, before then |
//! | `time:2026-11-01` | of that day (see [`moment`]) |
//! | `args:--verbose` | in whose list or map this text stands |
//! | `fingerprint:tkf1:…` | whose credential has this fingerprint under any key |
//!
//! A negation also holds for events without the field: `-status:401` finds what has no status.
//!
//! Design: own lexer and recursive-descent parser, so that every error knows its characters. Names of fields and
//! the kinds of their values are resolved while parsing (`super::fields`); what is relative to now stays so.
//!
//! Invariant: knows nothing of the query engine.
//! Invariant: printing a [`Query`] and parsing that gives the same [`Query`].

mod ast;
mod error;
mod lexer;
pub mod moment;
pub mod network;
mod parser;
#[cfg(test)]
mod tests;
mod value;

pub use ast::{Comparison, Query, Term, Test, Value};
pub use error::QueryError;
pub use parser::{DEPTH_MAX, LENGTH_MAX, TERMS_MAX, parse};

/// Drives the parser with arbitrary text: it must not panic, its errors must point into the text, and what it
/// understood must be the same when written and read again.
#[doc(hidden)]
pub mod fuzz {
    pub fn fuzz(data: &[u8]) {
        let Ok(text) = std::str::from_utf8(data) else {
            return;
        };
        match super::parse(text) {
            Ok(query) => {
                let written = query.to_string();
                // Contract paths are longer than short names.
                if written.len() <= super::LENGTH_MAX {
                    assert_eq!(super::parse(&written).as_ref(), Ok(&query), "{written}");
                }
            }
            Err(error) => {
                assert!(text.get(error.span.clone()).is_some(), "{:?}", error.span);
                assert!(!error.render(text).to_string().is_empty());
            }
        }
    }
}
