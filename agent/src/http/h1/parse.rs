//! One whole head in contiguous bytes.
//!
//! httparse reads what follows the RFC. What real programs send and httparse refuses (folded header lines, blanks
//! before the colon, blanks or non-UTF-8 in the target, more fields than fit on the stack) is read line by line by
//! [`Head::lenient`]: we observe what two others understood, we do not enforce.
//!
//! Invariant: where both readers accept a head, they agree (property-tested).

use super::Reason;
use crate::flow::{Nanos, Origin, Payload};
use crate::http::buffer::SecretBuffer;
use crate::http::detect::{METHOD, is_token};
use crate::http::head::{Headers, RequestHead, ResponseHead, Version};
use std::mem::MaybeUninit;

/// Fields that httparse gets room for; more are read leniently.
const USUAL_FIELDS: usize = 64;

/// Where and when a head's first byte was.
pub(super) type Place = (Nanos, Origin);

/// A request's or a response's head.
pub(super) trait Head: Sized {
    /// The strict reader: the head and its length, or `None` if it is incomplete or not strictly valid.
    fn strict(bytes: &[u8], place: Place, fields: usize) -> Option<(Self, usize)>;

    /// The reader of last resort: `bytes` is the whole head, its last blank line included.
    fn lenient(bytes: &[u8], place: Place, fields: usize) -> Result<Self, Reason>;

    /// False if no continuation of `bytes` can be a head. Looks at a bounded number of bytes.
    fn plausible(bytes: &[u8]) -> bool;
}

impl Head for RequestHead {
    fn strict(bytes: &[u8], (time, origin): Place, fields: usize) -> Option<(Self, usize)> {
        let mut room = [const { MaybeUninit::uninit() }; USUAL_FIELDS];
        let mut request = httparse::Request::new(&mut []);
        let parsed =
            request.parse_with_uninit_headers(bytes, &mut room[..fields.min(USUAL_FIELDS)]);
        let Ok(httparse::Status::Complete(len)) = parsed else {
            return None;
        };
        let method = request.method.filter(|method| method.len() <= METHOD)?;
        let head = Self {
            time,
            origin,
            version: version(request.version?),
            method: method.to_owned(),
            target: Payload::copy_from(request.path?.as_bytes()),
            headers: collect(request.headers),
        };
        Some((head, len))
    }

    fn lenient(bytes: &[u8], (time, origin): Place, fields: usize) -> Result<Self, Reason> {
        let mut lines = Lines(bytes);
        let line = lines.next().unwrap_or_default().trim_ascii_end();
        let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
        let (method, rest) = line.split_at(line.iter().position(blank).ok_or(Reason::Malformed)?);
        let (target, minor) = split_version(rest).ok_or(Reason::Malformed)?;
        let target = target.trim_ascii();
        if method.is_empty()
            || method.len() > METHOD
            || !method.iter().copied().all(is_token)
            || target.is_empty()
        {
            return Err(Reason::Malformed);
        }
        Ok(Self {
            time,
            origin,
            version: version(minor),
            method: String::from_utf8_lossy(method).into_owned(),
            target: Payload::copy_from(target),
            headers: lenient_fields(lines, fields)?,
        })
    }

    fn plausible(bytes: &[u8]) -> bool {
        match bytes
            .iter()
            .take(METHOD + 1)
            .position(|byte| !is_token(*byte))
        {
            Some(end) => end > 0 && matches!(bytes[end], b' ' | b'\t'),
            None => bytes.len() <= METHOD,
        }
    }
}

impl Head for ResponseHead {
    fn strict(bytes: &[u8], (time, origin): Place, fields: usize) -> Option<(Self, usize)> {
        let mut room = [const { MaybeUninit::uninit() }; USUAL_FIELDS];
        let mut response = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        let room = &mut room[..fields.min(USUAL_FIELDS)];
        let parsed = config.parse_response_with_uninit_headers(&mut response, bytes, room);
        let Ok(httparse::Status::Complete(len)) = parsed else {
            return None;
        };
        let head = Self {
            time,
            origin,
            version: version(response.version?),
            status: response.code?,
            headers: collect(response.headers),
        };
        Some((head, len))
    }

    fn lenient(bytes: &[u8], (time, origin): Place, fields: usize) -> Result<Self, Reason> {
        let mut lines = Lines(bytes);
        let line = lines.next().unwrap_or_default();
        let minor = line
            .strip_prefix(b"HTTP/1.")
            .and_then(|rest| rest.first())
            .filter(|byte| byte.is_ascii_digit());
        let rest = line.get(8..).unwrap_or_default();
        let code = rest.trim_ascii_start();
        let (Some(minor), [hundreds, tens, ones, after @ ..]) = (minor, code) else {
            return Err(Reason::Malformed);
        };
        let digits = [hundreds, tens, ones];
        let apart = rest.len() > code.len()
            && after
                .first()
                .is_none_or(|byte| !byte.is_ascii_alphanumeric());
        if !digits.iter().all(|digit| digit.is_ascii_digit()) || !apart {
            return Err(Reason::Malformed);
        }
        Ok(Self {
            time,
            origin,
            version: version(minor - b'0'),
            status: digits
                .iter()
                .fold(0, |code, digit| code * 10 + u16::from(**digit - b'0')),
            headers: lenient_fields(lines, fields)?,
        })
    }

    fn plausible(bytes: &[u8]) -> bool {
        let start = b"HTTP/1.";
        let common = bytes.len().min(start.len());
        bytes[..common] == start[..common] && bytes.get(7).is_none_or(u8::is_ascii_digit)
    }
}

/// A higher minor version than 1 is to be read as 1.1 (RFC 9110 section 2.5).
fn version(minor: u8) -> Version {
    if minor == 0 {
        Version::Http10
    } else {
        Version::Http11
    }
}

fn collect(fields: &[httparse::Header<'_>]) -> Headers {
    Headers::of(
        fields
            .iter()
            .map(|field| (field.name.as_bytes(), field.value)),
    )
}

/// What precedes a request line's version, and the minor version.
fn split_version(line: &[u8]) -> Option<(&[u8], u8)> {
    let (before, version) = line.split_last_chunk::<8>()?;
    let digit = version
        .strip_prefix(b"HTTP/1.")?
        .first()
        .filter(|digit| digit.is_ascii_digit())?;
    matches!(before.last(), Some(b' ' | b'\t')).then_some((before, digit - b'0'))
}

/// Lines up to the first blank one; LF or CR LF ends a line.
struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|byte| *byte == b'\n')?;
        let line = &self.0[..end];
        self.0 = &self.0[end + 1..];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        (!line.is_empty()).then_some(line)
    }
}

/// Header fields of any quality. A line without a colon or with an impossible name is not a field: servers drop it or
/// refuse the message, and its text could be anything.
fn lenient_fields<'a>(lines: Lines<'a>, most: usize) -> Result<Headers, Reason> {
    let mut fields: Vec<(&'a [u8], SecretBuffer)> = Vec::new();
    // Whether the last line was a field: only then does a folded line (RFC 9112 section 5.2) belong to it.
    let mut unfolds = false;
    for line in lines {
        if let Some((_, value)) = fields.last_mut().filter(|_| unfolds)
            && matches!(line, [b' ' | b'\t', ..])
        {
            let more = trim(line);
            if !value.is_empty() && !more.is_empty() {
                value.append(b" ");
            }
            value.append(more);
            continue;
        }
        unfolds = false;
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let name = trim(&line[..colon]);
        if name.is_empty() || !name.iter().copied().all(is_token) {
            continue;
        }
        if fields.len() == most {
            return Err(Reason::TooManyFields);
        }
        let mut value = SecretBuffer::default();
        value.append(trim(&line[colon + 1..]));
        fields.push((name, value));
        unfolds = true;
    }
    Ok(Headers::of(
        fields.iter().map(|(name, value)| (*name, &**value)),
    ))
}

fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t' | b'\r', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t' | b'\r'] = bytes {
        bytes = rest;
    }
    bytes
}
