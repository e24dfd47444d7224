//! The receivers of events with real programs at the other end: an OpenTelemetry Collector, rsyslog and syslog-ng as
//! children with their own configurations on loopback ports, and a server that fails in every way.
//!
//! Those with programs run where `TOKENTRAIL_RECEIVERS=1` says so (`cargo xtask test` does, and `cargo xtask setup
//! --test` brings the programs); the others always.
#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

#[path = "../delivery/chance.rs"]
mod chance;
mod collector;
mod daemons;
mod faults;
mod killed;
mod ocsf;
mod proxied;
mod samples;
mod support;
