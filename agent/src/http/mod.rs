//! HTTP exchanges out of plaintext pieces.
//!
//! Invariant: knows neither credentials nor pids.

pub mod head;
