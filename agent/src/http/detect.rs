//! What does a plaintext stream begin with?
//!
//! Each protocol is a candidate that says yes, no or "more"; the first yes wins, and the stream is opaque when all have
//! said no. No two candidates can say yes to the same bytes, so their order does not matter, but for one: what begins
//! with `PROXY TCP4 ` may end its line with `HTTP/1.1`, and is a PROXY header at its first eleven bytes.
//!
//! Invariant: an answer never changes when more bytes come (tested at every prefix length).
//! Invariant: an answer is reached within [`UNDECIDED`] bytes.

use super::h2::frame::PREFACE;
use Verdict::{More, No, Yes};

/// No stream is undecided for longer than this: the length of the request line up to which an unknown method is
/// given the benefit of the doubt.
pub const UNDECIDED: usize = 2048;

/// Longest method accepted; the longest registered one (UPDATEREDIRECTREF) has 17 bytes.
pub const METHOD: usize = 64;

/// Blank lines accepted before a first request line. RFC 9112 section 2.2 asks servers to ignore at least one.
const BLANK: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Start {
    Http1Request,
    Http1Response,
    /// The client's connection preface (RFC 9113 section 3.4).
    Http2Preface,
    /// The server's: a SETTINGS frame, not an acknowledgement, on stream 0. It may come before the client's.
    Http2Settings,
    /// Frames of a connection that was joined late; whose they are.
    Http2Frames {
        of_client: bool,
    },
    ProxyV1,
    ProxyV2,
    /// A TLS handshake record.
    Tls,
    /// Another TLS record: the connection was there before we looked.
    TlsData,
    /// None of these.
    Opaque,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detected {
    /// Undecided until more bytes come.
    More,
    Is(Start),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Yes(Start),
    More,
    No,
}

/// Looks at the first bytes of one direction of a connection.
pub fn detect(bytes: &[u8]) -> Detected {
    let bytes = &bytes[..bytes.len().min(UNDECIDED)];
    let blank = bytes
        .iter()
        .take_while(|byte| matches!(byte, b'\r' | b'\n'))
        .count();
    let mut verdicts = [proxy_v2(bytes), No, No, No, No, No, No];
    if blank == 0 {
        verdicts[1..].copy_from_slice(&[
            proxy_v1(bytes),
            request(bytes),
            response(bytes),
            preface(bytes),
            settings(bytes),
            tls(bytes),
        ]);
    } else if blank <= BLANK {
        verdicts[1..3].copy_from_slice(&[request(&bytes[blank..]), response(&bytes[blank..])]);
    }
    for verdict in verdicts {
        if let Yes(start) = verdict {
            return Detected::Is(start);
        }
    }
    if verdicts.contains(&More) && bytes.len() < UNDECIDED {
        Detected::More
    } else {
        Detected::Is(Start::Opaque)
    }
}

/// Does a request begin here, in the middle of a stream? Stricter than [`detect`]: an unknown method counts only with
/// its whole request line at hand, because any word may be the beginning of one.
pub(super) fn resumes_request(bytes: &[u8]) -> Verdict {
    let bytes = &bytes[..bytes.len().min(UNDECIDED)];
    match request(bytes) {
        More if bytes.len() < UNDECIDED && begins_known_method(bytes) => More,
        More | No => No,
        yes => yes,
    }
}

/// Does a response begin here, in the middle of a stream?
pub(super) fn resumes_response(bytes: &[u8]) -> Verdict {
    response(bytes)
}

pub(super) fn is_token(byte: u8) -> bool {
    // RFC 9110 section 5.6.2.
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Methods after which `/` or `http` settles it: those registered at IANA and the custom ones of caches.
const METHODS: [&[u8]; 44] = [
    b"GET",
    b"POST",
    b"PUT",
    b"DELETE",
    b"HEAD",
    b"PATCH",
    b"OPTIONS",
    b"CONNECT",
    b"TRACE",
    b"QUERY",
    b"ACL",
    b"BAN",
    b"BASELINE-CONTROL",
    b"BIND",
    b"CHECKIN",
    b"CHECKOUT",
    b"COPY",
    b"LABEL",
    b"LINK",
    b"LIST",
    b"LOCK",
    b"MERGE",
    b"MKACTIVITY",
    b"MKCALENDAR",
    b"MKCOL",
    b"MKREDIRECTREF",
    b"MKWORKSPACE",
    b"MOVE",
    b"NOTIFY",
    b"ORDERPATCH",
    b"PROPFIND",
    b"PROPPATCH",
    b"PURGE",
    b"REBIND",
    b"REPORT",
    b"SEARCH",
    b"SUBSCRIBE",
    b"UNBIND",
    b"UNCHECKOUT",
    b"UNLINK",
    b"UNLOCK",
    b"UNSUBSCRIBE",
    b"UPDATE",
    b"VERSION-CONTROL",
];

fn begins_known_method(bytes: &[u8]) -> bool {
    METHODS.iter().any(|method| {
        let common = bytes.len().min(method.len());
        bytes[..common] == method[..common]
            && bytes.get(method.len()).is_none_or(|byte| *byte == b' ')
    })
}

fn request(bytes: &[u8]) -> Verdict {
    let Some(end) = bytes
        .iter()
        .take(METHOD + 1)
        .position(|byte| !is_token(*byte))
    else {
        return if bytes.len() <= METHOD { More } else { No };
    };
    let (method, rest) = bytes.split_at(end);
    if method.is_empty() || !matches!(rest[0], b' ' | b'\t') {
        return No;
    }
    let rest = &rest[1..];
    if METHODS.contains(&method) {
        // RTSP and NATS share method names, but not with these targets.
        for target in [&b"/"[..], b"http://", b"https://"] {
            if rest.starts_with(target) {
                return Yes(Start::Http1Request);
            }
        }
    }
    request_line_end(rest)
}

/// `rest` follows the method: a target and `HTTP/1.x` up to the line's end.
fn request_line_end(rest: &[u8]) -> Verdict {
    let Some(end) = rest
        .iter()
        .position(|byte| *byte < b' ' && *byte != b'\t' && *byte != b'\r')
    else {
        return More;
    };
    if rest[end] != b'\n' {
        return No;
    }
    let line = rest[..end].trim_ascii();
    let Some((target, version)) = line.split_last_chunk::<8>() else {
        return No;
    };
    let separated = matches!(target.last(), Some(b' ' | b'\t')) && !target.trim_ascii().is_empty();
    if separated && version.starts_with(b"HTTP/1.") && version[7].is_ascii_digit() {
        Yes(Start::Http1Request)
    } else {
        No
    }
}

fn response(bytes: &[u8]) -> Verdict {
    matches(bytes, 12, Start::Http1Response, |at, byte| match at {
        0..=6 => byte == b"HTTP/1."[at],
        8 => byte == b' ',
        // The minor version and the status.
        7 | 9.. => byte.is_ascii_digit(),
    })
}

fn preface(bytes: &[u8]) -> Verdict {
    matches(bytes, PREFACE.len(), Start::Http2Preface, |at, byte| {
        byte == PREFACE[at]
    })
}

fn settings(bytes: &[u8]) -> Verdict {
    // RFC 9113 sections 4.1 and 6.5: 24 bits of length, type 4, no flags, stream 0. 42 settings are plenty.
    matches(bytes, 9, Start::Http2Settings, |at, byte| match at {
        2 => byte.is_multiple_of(6),
        3 => byte == 4,
        _ => byte == 0,
    })
}

fn proxy_v1(bytes: &[u8]) -> Verdict {
    let mut undecided = false;
    for start in [&b"PROXY TCP4 "[..], b"PROXY TCP6 ", b"PROXY UNKNOWN"] {
        match matches(bytes, start.len(), Start::ProxyV1, |at, byte| {
            byte == start[at]
        }) {
            No => {}
            More => undecided = true,
            yes => return yes,
        }
    }
    if undecided { More } else { No }
}

fn proxy_v2(bytes: &[u8]) -> Verdict {
    let signature = super::proxy::V2_SIGNATURE;
    matches(bytes, signature.len(), Start::ProxyV2, |at, byte| {
        byte == signature[at]
    })
}

fn tls(bytes: &[u8]) -> Verdict {
    // RFC 8446 section 5.1: content type, version 3.x, length of at most 2^14 + 256.
    match bytes.first() {
        None => More,
        Some(0x16) => matches(bytes, 3, Start::Tls, |at, byte| match at {
            0 => true,
            1 => byte == 3,
            _ => byte <= 4,
        }),
        Some(0x14 | 0x15 | 0x17) => matches(bytes, 5, Start::TlsData, |at, byte| match at {
            1 => byte == 3,
            2 => byte <= 4,
            3 => byte <= 0x41,
            _ => true,
        }),
        Some(_) => No,
    }
}

/// Yes when `len` bytes fit, no at the first that does not.
fn matches(bytes: &[u8], len: usize, start: Start, fits: impl Fn(usize, u8) -> bool) -> Verdict {
    match bytes
        .iter()
        .take(len)
        .enumerate()
        .all(|(at, byte)| fits(at, *byte))
    {
        false => No,
        true if bytes.len() < len => More,
        true => Yes(start),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The whole input is `expected`, and so is every prefix, or undecided. `needs` bytes decide.
    #[track_caller]
    fn check(input: &[u8], expected: Start, needs: usize) {
        for len in 0..=input.len() {
            let wanted = if len < needs {
                Detected::More
            } else {
                Detected::Is(expected)
            };
            assert_eq!(
                detect(&input[..len]),
                wanted,
                "first {len} bytes of {:?}",
                input.escape_ascii().to_string()
            );
        }
    }

    #[test]
    fn a_proxy_header_that_ends_as_a_request_line_does() {
        check(b"PROXY TCP4 1 HTTP/1.1\r\n", Start::ProxyV1, 11);
        check(b"PROXY UNKNOWN HTTP/1.1\r\n", Start::ProxyV1, 13);
        check(b"PROXY /x HTTP/1.1\r\n", Start::Http1Request, 19);
    }

    #[test]
    fn requests() {
        check(b"GET / HTTP/1.1\r\n", Start::Http1Request, 5);
        check(b"DELETE /v1/x HTTP/1.0\n", Start::Http1Request, 8);
        check(b"\r\n\r\nPOST /form HTTP/1.1\r\n", Start::Http1Request, 10);
        check(b"GET http://a/ HTTP/1.1\r\n", Start::Http1Request, 11);
        // Undecided until the line's end: unknown method, lower case, forms that other protocols share.
        check(b"FROB /x HTTP/1.1\r\n", Start::Http1Request, 18);
        check(b"get / HTTP/1.1\n", Start::Http1Request, 15);
        check(
            b"CONNECT a.example:443 HTTP/1.1\r\n",
            Start::Http1Request,
            32,
        );
        check(b"OPTIONS * HTTP/1.1\r\n", Start::Http1Request, 20);
        check(b"GET  /a b HTTP/1.1 \r\n", Start::Http1Request, 21);
        check(b"M-SEARCH * HTTP/1.1\r\n", Start::Http1Request, 21);
    }

    #[test]
    fn other_protocols() {
        check(b"HTTP/1.1 200 OK\r\n", Start::Http1Response, 12);
        check(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Start::Http2Preface, 24);
        check(&[0, 0, 18, 4, 0, 0, 0, 0, 0, 0, 3], Start::Http2Settings, 9);
        check(b"PROXY TCP4 127.0.0.1", Start::ProxyV1, 11);
        check(b"PROXY UNKNOWN\r\n", Start::ProxyV1, 13);
        check(b"\r\n\r\n\0\r\nQUIT\n\x21", Start::ProxyV2, 12);
        check(&[0x16, 3, 1, 2, 0, 1], Start::Tls, 3);
        check(&[0x17, 3, 3, 0, 40, 1], Start::TlsData, 5);
    }

    #[test]
    fn opaque() {
        check(b"SSH-2.0-OpenSSH_9.2\r\n", Start::Opaque, 20);
        check(b"EHLO a.example\r\n", Start::Opaque, 16);
        check(b"OPTIONS * RTSP/1.0\r\n", Start::Opaque, 20);
        check(b"CONNECT {\"verbose\":false}\r\n", Start::Opaque, 27);
        check(b"220 mail.example ESMTP\r\n", Start::Opaque, 24);
        check(b"\0\0\0\x05hello", Start::Opaque, 4);
        check(&[0x16, 2, 0], Start::Opaque, 2);
        check(b"PROXY TCP5 1\n", Start::Opaque, 13);
    }

    #[test]
    fn bounded() {
        assert_eq!(detect(&[b'\n'; 17]), Detected::Is(Start::Opaque));
        assert_eq!(detect(&[b'A'; METHOD]), Detected::More);
        assert_eq!(detect(&[b'A'; METHOD + 1]), Detected::Is(Start::Opaque));
        let mut long = b"FROB /".to_vec();
        long.resize(UNDECIDED - 1, b'x');
        assert_eq!(detect(&long), Detected::More);
        long.push(b'x');
        assert_eq!(detect(&long), Detected::Is(Start::Opaque));
        long.extend_from_slice(b" HTTP/1.1\r\n");
        assert_eq!(
            detect(&long),
            Detected::Is(Start::Opaque),
            "the answer may not change"
        );
    }

    #[test]
    fn resuming_is_stricter() {
        assert_eq!(resumes_request(b"GET /"), Yes(Start::Http1Request));
        assert_eq!(resumes_request(b"GE"), More);
        assert_eq!(resumes_request(b"word"), No);
        assert_eq!(resumes_request(b"get / HTTP/1.1"), No);
        assert_eq!(
            resumes_request(b"get / HTTP/1.1\r\n"),
            Yes(Start::Http1Request)
        );
        assert_eq!(resumes_response(b"HTT"), More);
    }

    proptest! {
        #[test]
        fn answers_never_change(bytes in proptest::collection::vec(proptest::sample::select(&b"GETHP/1.0 \r\n\0\x16\x03POX*"[..]), 0..40)) {
            let mut settled = None;
            for len in 0..=bytes.len() {
                match (detect(&bytes[..len]), settled) {
                    (Detected::Is(start), None) => settled = Some(start),
                    (now, Some(before)) => prop_assert_eq!(now, Detected::Is(before)),
                    (Detected::More, None) => {}
                }
            }
        }
    }
}
