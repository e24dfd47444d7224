//! How long is the body? RFC 9112 section 6.3, from the receiver's side.

use crate::http::head::{Headers, RequestHead, ResponseHead};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Empty,
    Length(u64),
    Chunked,
    UntilClose,
    /// 2xx to CONNECT: what follows is a tunnel (rule 2).
    Tunnel,
    /// 101: what follows is another protocol.
    Switched,
    /// Contradictory: a recipient must not guess (rules 4 and 5).
    Broken,
}

impl Framing {
    pub fn of_request(head: &RequestHead) -> Self {
        match declared(&head.headers) {
            Declared::Nothing => Self::Empty,
            Declared::Length(len) => Self::Length(len),
            Declared::Chunked => Self::Chunked,
            // Rule 4: a request whose last coding is not chunked has no knowable length.
            Declared::OtherCoding | Declared::Contradiction => Self::Broken,
        }
    }

    /// `head_request` and `connect`: the method of the request that this answers.
    pub fn of_response(head: &ResponseHead, head_request: bool, connect: bool) -> Self {
        match head.status {
            101 => return Self::Switched,
            100..200 | 204 | 304 => return Self::Empty,
            _ if head_request => return Self::Empty,
            200..300 if connect => return Self::Tunnel,
            _ => {}
        }
        match declared(&head.headers) {
            Declared::Length(len) => Self::Length(len),
            Declared::Chunked => Self::Chunked,
            Declared::Nothing | Declared::OtherCoding => Self::UntilClose,
            Declared::Contradiction => Self::Broken,
        }
    }
}

enum Declared {
    Nothing,
    Length(u64),
    Chunked,
    OtherCoding,
    Contradiction,
}

fn declared(headers: &Headers) -> Declared {
    // One walk: this is on the path of every message.
    let mut coding: Option<&[u8]> = None;
    let mut length: Option<Option<u64>> = None;
    for (name, value) in headers.parts() {
        match name {
            b"transfer-encoding" => coding = Some(value),
            b"content-length" => {
                for part in value.split(|byte| *byte == b',') {
                    let this = decimal(part.trim_ascii());
                    length = Some(match length {
                        None => this,
                        // The same value repeated is that value, different ones are an error (rule 5).
                        Some(before) => before.filter(|_| before == this),
                    });
                }
            }
            _ => {}
        }
    }
    // Transfer-Encoding overrides Content-Length (rule 3). The last coding of the last line is the outermost.
    if let Some(value) = coding {
        let last = value
            .rsplit(|byte| *byte == b',')
            .map(<[u8]>::trim_ascii)
            .find(|part| !part.is_empty());
        let name = last
            .unwrap_or_default()
            .split(|byte| *byte == b';')
            .next()
            .unwrap_or_default();
        return if name.trim_ascii().eq_ignore_ascii_case(b"chunked") {
            Declared::Chunked
        } else {
            Declared::OtherCoding
        };
    }
    match length {
        None => Declared::Nothing,
        Some(Some(len)) => Declared::Length(len),
        Some(None) => Declared::Contradiction,
    }
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, digit| {
        value.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Origin;
    use crate::http::h1::parse::Head;

    const PLACE: (u64, Origin) = (0, Origin { wire: 0, within: 0 });

    #[track_caller]
    fn response(head: &str, head_request: bool, connect: bool, expected: Framing) {
        let text = format!("HTTP/1.1 {head}\r\n\r\n");
        let (head, _) = ResponseHead::strict(text.as_bytes(), PLACE, 64).unwrap();
        assert_eq!(
            Framing::of_response(&head, head_request, connect),
            expected,
            "{text}"
        );
    }

    #[track_caller]
    fn request(fields: &str, expected: Framing) {
        let text = format!("POST / HTTP/1.1\r\n{fields}\r\n");
        let (head, _) = RequestHead::strict(text.as_bytes(), PLACE, 64).unwrap();
        assert_eq!(Framing::of_request(&head), expected, "{text}");
    }

    #[test]
    fn responses() {
        response(
            "200 OK\r\ncontent-length: 5",
            false,
            false,
            Framing::Length(5),
        );
        response("200 OK\r\ncontent-length: 5", true, false, Framing::Empty);
        response("204 No\r\ncontent-length: 5", false, false, Framing::Empty);
        response("304 Not\r\ncontent-length: 5", false, false, Framing::Empty);
        response("103 Early\r\nlink: x", false, false, Framing::Empty);
        response(
            "101 Switching\r\nupgrade: x",
            false,
            false,
            Framing::Switched,
        );
        response("200 OK\r\ncontent-length: 5", false, true, Framing::Tunnel);
        response(
            "407 Auth\r\ncontent-length: 5",
            false,
            true,
            Framing::Length(5),
        );
        response("200 OK", false, false, Framing::UntilClose);
        response(
            "200 OK\r\ntransfer-encoding: gzip",
            false,
            false,
            Framing::UntilClose,
        );
        response(
            "200 OK\r\nTransfer-Encoding: gzip, Chunked",
            false,
            false,
            Framing::Chunked,
        );
        response(
            "200 OK\r\ncontent-length: 5, 6",
            false,
            false,
            Framing::Broken,
        );
    }

    #[test]
    fn requests() {
        request("", Framing::Empty);
        request("content-length: 0\r\n", Framing::Length(0));
        request(
            "content-length: 7, 7\r\ncontent-length: 7\r\n",
            Framing::Length(7),
        );
        request(
            "content-length: 7\r\ncontent-length: 8\r\ncontent-length: 7\r\n",
            Framing::Broken,
        );
        request(
            "content-length: 7\r\ntransfer-encoding: chunked\r\n",
            Framing::Chunked,
        );
        request(
            "transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n",
            Framing::Chunked,
        );
        request("transfer-encoding: chunked, gzip\r\n", Framing::Broken);
        request("content-length: -1\r\n", Framing::Broken);
        request("content-length: +1\r\n", Framing::Broken);
        request("content-length:\r\n", Framing::Broken);
        request("content-length: 18446744073709551616\r\n", Framing::Broken);
        request(
            "content-length: 18446744073709551615\r\n",
            Framing::Length(u64::MAX),
        );
    }
}
