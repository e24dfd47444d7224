//! Credentials in exchanges: where (carrier), how (scheme), whose (provider), fingerprinted at once.
//!
//! [`Observer::observe`] takes one exchange through three steps:
//!
//! 1. `carrier` takes every credential out of its slot, with `scheme`, `basic` and `sigv4` telling what of the slot's
//!    value is the credential (`find::Finds`);
//! 2. `observer` fingerprints each, and `provider` and `jwt` say whose it looks like;
//! 3. [`redact`] makes the recordable rest, knowing every secret that step 1 found.
//!
//! Invariant: knows neither processes nor disk nor network.
//! Invariant: nothing that comes out of here holds a credential.

mod basic;
mod carrier;
mod config;
mod find;
#[doc(hidden)]
pub mod fuzz;
mod jwt;
mod names;
pub mod observation;
mod observer;
mod params;
mod provider;
pub mod redact;
mod scheme;
mod sigv4;
mod text;

pub use config::Config;
pub use observer::Observer;

#[cfg(test)]
mod tests;
