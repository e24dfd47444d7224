//! The whole of `tokentrail serve`, started as its users start it, and tried by programs that are not ours.
//!
//! The agent's own outputs deliver to it (the crate `agent`); curl, openssl, DuckDB, Spark, an S3 server and an
//! OpenTelemetry Collector stand around it. `cargo xtask setup --test` brings what is not a part of Debian; where one
//! is missing its test says so and is skipped. Everything is on loopback, and every process is a child of its test.
#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod between;
#[path = "../../../agent/tests/receivers/support/certificates.rs"]
mod certificates;
mod foreign;
mod fuzz_smoke;
mod kills;
mod net;
mod power;
mod quarantine;
mod s3;
mod support;
mod tls;
