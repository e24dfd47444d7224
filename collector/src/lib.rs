//! `tokentrail`: receives the agents' events, keeps them for months, and finds a leaked token's trail.
//!
//! The stages, in the order in which an event meets them:
//!
//! | module | does | may not know |
//! |---|---|---|
//! | [`ingest`] | HTTP in: OTLP logs and NDJSON become [`event::Event`]s; 2xx only after the inbox has them | columns, queries |
//! | [`inbox`] | the durable queue: SQLite, forced to the disk; knows which events of an agent it has had | HTTP, Parquet |
//! | [`store`] | events as columns, Parquet segments, the catalog; seals, merges, drops | HTTP, the search language |
//! | [`search`] | the search language, and every question as a DataFusion plan over one snapshot of the store | HTTP |
//! | [`api`] | HTTP out: search, trail, stats, tail, by the search language's words | columns |
//! | [`access`] | who may do what: API keys, roles, certificates | events |
//! | [`cli`] | what people type | |
//!
//! Invariant: an event is acknowledged only when it survives power loss, and is found once, whatever is killed.
//! Invariant: no secret comes here; `cli::trail` alone reads one, on the machine of who asks, and sends fingerprints.

/// Pieces of work of one kind that run beside one another, at most.
fn processors() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

pub mod access;
pub mod api;
pub mod cli;
pub mod config;
pub mod event;
#[doc(hidden)]
pub mod fuzz;
pub mod inbox;
pub mod ingest;
pub mod search;
pub mod serve;
pub mod store;
