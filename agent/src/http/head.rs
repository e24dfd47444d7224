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
///
/// All lie in one block, so that a head costs two allocations and one wipe however many fields it has.
#[derive(Clone, Default)]
pub struct Headers {
    block: Payload,
    fields: Vec<Field>,
}

/// A field's name begins at `start` of the block, its value follows the name.
#[derive(Clone, Copy)]
struct Field {
    start: u32,
    name: u32,
    value: u32,
}

impl Headers {
    /// Copies fields; names are lower-cased. The iterator is walked twice.
    pub fn of<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone) -> Self {
        let (count, len) = fields.clone().fold((0, 0), |(count, len), (name, value)| {
            (count + 1, len + name.len() + value.len())
        });
        // Exact, because a block that grew would leave its bytes behind.
        let mut block = Vec::with_capacity(len);
        let mut places = Vec::with_capacity(count);
        for (name, value) in fields {
            let start = block.len();
            let place = [start, name.len(), value.len()].map(u32::try_from);
            // A head of 4 GiB is refused long before.
            let [Ok(start_at), Ok(name_len), Ok(value_len)] = place else {
                break;
            };
            block.extend_from_slice(name);
            block[start..].make_ascii_lowercase();
            block.extend_from_slice(value);
            places.push(Field {
                start: start_at,
                name: name_len,
                value: value_len,
            });
        }
        Self {
            block: Payload::from(block),
            fields: places,
        }
    }

    pub fn len(&self) -> usize {
        self.fields.len()
    }

    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> + Clone {
        let text = |name| std::str::from_utf8(name).unwrap_or_default();
        self.parts().map(move |(name, value)| (text(name), value))
    }

    /// Every value of `name` (lower case), in order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let of_name = move |(found, value)| (found == name.as_bytes()).then_some(value);
        self.parts().filter_map(of_name)
    }

    pub fn first(&self, name: &str) -> Option<&[u8]> {
        let mut parts = self.parts();
        parts
            .find(|(found, _)| *found == name.as_bytes())
            .map(|(_, value)| value)
    }

    /// As [`Self::iter`], names as bytes.
    pub(super) fn parts(&self) -> impl Iterator<Item = (&[u8], &[u8])> + Clone {
        self.fields.iter().map(|field| {
            let (start, name) = (field.start as usize, field.name as usize);
            let whole = &self.block[start..start + name + field.value as usize];
            whole.split_at(name)
        })
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
    /// `grpc-status` of the response: of its trailers, or of its head if it is nothing else.
    pub grpc_status: Option<u16>,
    pub outcome: Outcome,
    pub proxy_claim: Option<ProxyClaim>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_by_name_and_in_order() {
        let given: [(&[u8], &[u8]); 4] = [(b"A", b"1"), (b"bC", b""), (b"a", b"X"), (b"ab", b"2")];
        let headers = Headers::of(given.into_iter());
        let expected: [(&str, &[u8]); 4] = [("a", b"1"), ("bc", b""), ("a", b"X"), ("ab", b"2")];
        assert!(headers.iter().eq(expected));
        assert_eq!((headers.len(), headers.is_empty()), (4, false));
        assert!(headers.all("a").eq([&b"1"[..], b"X"]));
        assert_eq!(headers.first("bc"), Some(&b""[..]));
        assert_eq!(headers.first("b"), None);
        assert!(Headers::default().is_empty());
    }
}
