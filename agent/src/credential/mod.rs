//! Credentials in exchanges: where (carrier), how (scheme), whose (provider), fingerprinted at once.
//!
//! Invariant: knows neither processes nor disk nor network.

pub mod observation;
