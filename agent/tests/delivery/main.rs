//! Durable delivery under `kill -9` and on a full disk: the real spool, the real couriers, and receivers with faults.
//!
//! The tests start their own binary again as the agent's stand-in ([`child`]), give it synthetic events, and end it by
//! its own handle only.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on is to fail there"
)]

mod chance;
mod child;
mod crash;
mod full;
mod verdict;
