//! A passive decoder of TLS 1.2 and 1.3: records in, plaintext out, if a key-log point gave the secret.
//!
//! It sees both directions of a connection, in order and with gaps: of a large record perhaps only its first bytes,
//! its head and its last 32 bytes. It decrypts with AES-128-GCM, AES-256-GCM and ChaCha20-Poly1305; other suites and
//! versions are reported by name. A secret belongs to a connection only when it has opened one of its records by
//! the tag: never by time, order or process alone. After that, parts of records are enough, because the ciphers are
//! stream modes.
//!
//! - [`Pool`]: the secrets that wait, by process.
//! - [`Session`]: one connection. [`Session::push`] pieces, [`Session::offer`] when a secret has come,
//!   [`Session::pop`] the outputs, [`Session::close`].
//! - [`looks_like_record`]: for who decides whether a connection is TLS.
//!
//! Invariant: no plaintext from an unproven secret. Invariant: memory is bounded per connection, and in total by the
//! budget. Invariant: what is not read is told, with a [`Reason`] of a closed set.

mod facts;
#[doc(hidden)]
pub mod fuzz;
mod half;
mod handshake;
mod hello;
mod keys;
mod opener;
mod record;
mod schedule;
mod secrets;
mod session;
mod shared;
mod suite;

#[cfg(test)]
mod tests;

pub use facts::{Counts, Facts, Label, Output, Reason};
pub(crate) use hello::{ClientHello, client_hello};
pub use record::{Detect, looks_like_record};
pub use schedule::TrafficSecret;
pub(crate) use schedule::expand_label;
pub use secrets::{Inserted, Pool, PoolCounts, PoolLimits, SecretId};
pub use session::{Session, SessionLimits};
pub(crate) use suite::Hash;
pub use suite::SuiteId;
