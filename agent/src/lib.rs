//! tokentrail-agent: reads what the probes hand it and turns it into usage events.
//!
//! Data crosses these doors once, in this order:
//! [`kernel`] (ring records) -> [`flow`] (bytes in order) -> [`tls`] (records opened) -> [`http`] (exchanges)
//! -> [`credential`] (observations) -> [`usage`] with [`identity`] (events) -> [`sink`].
//! [`pipeline`] is the only file that wires them. [`budget`] says how much of it the agent can afford.
//!
//! Invariant: a stage imports only earlier stages' types. Parsers own no I/O: they take bytes and time and return values.

// Tests share files with `tests/`, which name the crate so.
#[cfg(test)]
extern crate self as tokentrail_agent;

pub mod budget;
pub mod config;
pub mod coverage;
pub mod credential;
pub mod flow;
#[doc(hidden)]
pub mod fuzz;
pub mod http;
pub mod identity;
pub mod kernel;
pub mod pipeline;
pub mod privilege;
pub mod quic;
pub mod replay;
pub mod sink;
pub mod spool;
pub mod tls;
pub mod usage;
