//! What the receivers over the network have in common: certificates, protected files, HTTP POST.
//!
//! Design: everything that can be wrong in a configuration is looked at when a receiver is made: files are read,
//! certificates and keys parsed and matched, URLs and header names taken apart. What is left to go wrong while it
//! runs is the other side, and that is an [`Outcome`](super::batch::Outcome).
//!
//! Invariant: a private key or a header's secret is read only from a file that nobody but its owner may use, and
//! stands in no message.
//! Invariant: certificates are always verified; there is no switch.

pub mod file;
pub mod post;
pub mod retry;
#[cfg(test)]
mod tests;
pub mod tls;

use std::path::PathBuf;

/// What is wrong with a receiver's configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {path}: {source}")]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{path} is not a regular file")]
    NotAFile { path: PathBuf },
    #[error("{path} has more than the {limit} bytes that are read of such a file")]
    TooLarge { path: PathBuf, limit: u64 },
    #[error(
        "{path} belongs to user {owner}, neither to root nor to the agent's user {agent}; `chown {agent} {path}` would do"
    )]
    Owner {
        path: PathBuf,
        owner: u32,
        agent: u32,
    },
    #[error(
        "{path} holds a secret and may be read by others (mode {mode:04o}); `chmod 600 {path}` would do"
    )]
    Readable { path: PathBuf, mode: u32 },
    #[error("{path} is writable by others (mode {mode:04o}); `chmod go-w {path}` would do")]
    Writable { path: PathBuf, mode: u32 },
    #[error("{path} holds no certificate in PEM form")]
    NoCertificate { path: PathBuf },
    #[error("{path} holds a certificate that cannot be read: {reason}")]
    Certificate { path: PathBuf, reason: String },
    #[error("{path} holds no private key in PEM form without a password")]
    NoKey { path: PathBuf },
    #[error("the private key in {path} does not belong to the certificate: {reason}")]
    Key { path: PathBuf, reason: String },
    #[error(
        "no certificates of this system were found (looked for {looked_for}); `ca` names a file with those to trust"
    )]
    NoSystemCertificates { looked_for: String },
    #[error("`certificate` and `key` are set together or not at all")]
    HalfIdentity,
    #[error("{endpoint:?} is not a URL with http: or https: and a host: {reason}")]
    Endpoint { endpoint: String, reason: String },
    #[error("{name:?} is not the name of a header that may be set here")]
    HeaderName { name: String },
    /// Does not repeat the value: it may be a secret.
    #[error("the value of header {name:?} has characters that a header cannot have")]
    HeaderValue { name: String },
    #[error(
        "{address:?} is not an address for syslog: udp://HOST:PORT, tcp://HOST:PORT, tls://HOST:PORT, unix:PATH or unix-stream:PATH"
    )]
    Address { address: String },
}
