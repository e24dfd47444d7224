//! Searching: the language, and every question as a DataFusion plan over one snapshot of the store.
//!
//! | module | does |
//! |---|---|
//! | [`language`] | text to a [`language::Query`], with errors that point at characters |
//! | [`fields`] | the names that the language knows, from the store's table of columns |
//! | [`plan`] | a query as a filter expression over those columns |
//! | [`functions`] | two functions for DataFusion: an address is in a block, a list has a text |
//! | [`matcher`] | a query held against events as they come |
//! | [`engine`] | the questions: search, stats, trail, explain; their limits |
//!
//! Invariant: no SQL text is made anywhere, so nothing that people type is ever read as SQL.

pub mod engine;
pub mod fields;
pub mod functions;
pub mod language;
pub mod matcher;
pub mod plan;
#[cfg(test)]
pub mod testing;
