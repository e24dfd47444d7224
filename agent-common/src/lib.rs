//! What tokentrail's programs agree on.
//!
//! - [`abi`]: the records that probes put into the ring (`no_std`).
//! - `config` (feature `config`): what configuration files are made of.
//! - `event` (feature `event`): the agent-to-collector contract.
//! - `otlp` (feature `otlp`): an event as a log record of OTLP, and back.
//! - `fingerprint` (feature `fingerprint`): what of a credential is hashed, and how.
//!
//! Invariant: `abi` knows no HTTP; `event` knows neither `abi` nor secrets.
#![cfg_attr(
    not(any(feature = "config", feature = "event", feature = "fingerprint")),
    no_std
)]

pub mod abi;
#[cfg(feature = "config")]
pub mod config;
#[cfg(feature = "event")]
pub mod event;
#[cfg(feature = "fingerprint")]
pub mod fingerprint;
#[cfg(feature = "otlp")]
pub mod otlp;
