//! Heads and exchanges: what HTTP/1 and HTTP/2 both end in.
//!
//! Invariant: values are [`Payload`]: a header may be a secret, so nothing here has a `Debug` that shows one.

use crate::flow::{Direction, Nanos, Origin, Payload};
use std::net::SocketAddr;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    Http10,
    Http11,
    Http2,
}

/// Header fields in order; names in lower case.
#[derive(Clone, Default)]
pub struct Headers(pub Vec<(String, Payload)>);

impl Headers {
    /// Every value of `name` (lower case), in order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.0
            .iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| &**value)
    }

    pub fn first(&self, name: &str) -> Option<&[u8]> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| &**value)
    }
}

#[derive(Clone)]
pub struct RequestHead {
    pub time: Nanos,
    pub origin: Origin,
    pub version: Version,
    pub method: String,
    /// As on the request line: path with query, absolute form, authority form (CONNECT) or `*`.
    pub target: Payload,
    pub headers: Headers,
}

#[derive(Clone)]
pub struct ResponseHead {
    pub time: Nanos,
    pub origin: Origin,
    pub version: Version,
    pub status: u16,
    pub headers: Headers,
}

/// The first bytes of a body (after de-chunking, before content decoding), up to the configured limit.
#[derive(Clone, Default)]
pub struct BodyPrefix {
    pub bytes: Payload,
    /// The whole body is in `bytes`.
    pub whole: bool,
}

/// Addresses that a PROXY protocol header claims (version 1 or 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyClaim {
    pub version: u8,
    pub source: SocketAddr,
    pub destination: SocketAddr,
}

/// How an exchange ended, as far as it was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// The final response's head was read.
    Answered,
    /// The connection closed before a final response was seen.
    Closed,
    /// Bytes in which the response's head lay are not known.
    ResponseLost,
    /// The agent stopped, or ran out of room, before a response was seen.
    Unfinished,
}

/// One request and its response, if seen.
pub struct Exchange {
    /// Direction in which the request went: `Sent` means that the observed process is the client.
    pub request_direction: Direction,
    pub request: RequestHead,
    pub request_body: BodyPrefix,
    pub response: Option<ResponseHead>,
    pub response_body: BodyPrefix,
    pub outcome: Outcome,
    pub proxy_claim: Option<ProxyClaim>,
}
