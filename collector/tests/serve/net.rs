//! The agent's tests' proxy with faults, and what it reads requests with.
#![expect(dead_code, reason = "the agent's tests use all of it")]

#[path = "../../../agent/tests/receivers/support/proxy.rs"]
pub mod proxy;
#[path = "../../../agent/tests/receivers/support/server.rs"]
pub mod server;
