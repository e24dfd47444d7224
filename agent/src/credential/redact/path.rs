//! Paths, segment by segment.
//!
//! Invariant: a segment is kept as it stands or replaced as a whole, except that the values in `name=value` and
//! `;name=value` parts are replaced alone.

use super::super::carrier::is_secret_name;
use super::super::text;
use super::{CUT, Known, OPAQUE, SECRET, opaque};

/// A path's recorded length in bytes, at most, and its segments.
const LEN_MAX: usize = 2048;
const SEGMENTS_MAX: usize = 64;
const SEGMENT_MAX: usize = 128;
/// A segment is opaque from this weight on: beyond any build or pod suffix, below every token.
const OPAQUE_MIN: usize = 16;
/// Neighbours of at least this weight count together: a secret with slashes in it is several segments.
const NEIGHBOUR_MIN: usize = 6;
/// Longer segments are hardly part of a template.
const WORDS_MAX: usize = 64;
/// After a segment like `token` or `reset-password`, less weight is enough.
const AFTER_NAME_MIN: usize = 8;

pub(super) struct Sanitized {
    pub(super) path: String,
    pub(super) template: String,
}

/// The recorded path, and the guess at its template.
pub(super) fn sanitize(path: &[u8], known: &Known<'_>) -> Sanitized {
    if path.is_empty() || path == b"*" {
        let path = String::from_utf8_lossy(path).into_owned();
        return Sanitized {
            template: path.clone(),
            path,
        };
    }
    let places = known.spread(path);
    // In an encoded path places shift: then nothing of it is kept.
    let encoded = path.contains(&b'%') && !known.spread(&text::percent(path)).is_empty();
    if known.everything() || encoded {
        let path = format!("/{SECRET}");
        return Sanitized {
            template: path.clone(),
            path,
        };
    }
    let mut parts = path.split(|&byte| byte == b'/');
    let segments: Vec<&[u8]> = parts.by_ref().take(SEGMENTS_MAX).collect();
    let cut = parts.next().is_some();
    let weights: Vec<usize> = segments.iter().map(|segment| weigh(segment)).collect();
    let opaque = opaque_segments(&weights);
    let mut start = 0;
    let mut out = Sanitized {
        path: String::with_capacity(path.len()),
        template: String::with_capacity(path.len()),
    };
    for (index, segment) in segments.iter().enumerate() {
        if index > 0 {
            out.path.push('/');
            out.template.push('/');
        }
        if out.path.len() > LEN_MAX {
            out.path.push_str(CUT);
            out.template.push_str(CUT);
            return out;
        }
        let spread = places
            .iter()
            .any(|place| place.start < start + segment.len() && start < place.end);
        start += segment.len() + 1;
        if spread {
            out.path.push_str(SECRET);
            out.template.push_str(SECRET);
            continue;
        }
        let after_name = || index > 0 && is_secret_name(segments[index - 1]);
        let heavy =
            opaque[index] || (weights[index] >= AFTER_NAME_MIN && after_name()) || is_bot(segment);
        push_segment(segment, weights[index], heavy, known, &mut out);
    }
    if cut {
        out.path.push('/');
        out.path.push_str(CUT);
        out.template.push('/');
        out.template.push_str(CUT);
    }
    out
}

/// A short segment's weight never matters.
fn weigh(segment: &[u8]) -> usize {
    if segment.len() < NEIGHBOUR_MIN {
        0
    } else {
        opaque::weight(&text::decoded(segment, 2))
    }
}

/// `bot<id>:<secret>`, as Telegram has it, whatever the secret is like.
fn is_bot(segment: &[u8]) -> bool {
    let decoded = text::decoded(segment, 2);
    let Some(token) = decoded.strip_prefix(b"bot") else {
        return false;
    };
    let digits = token.iter().take_while(|byte| byte.is_ascii_digit());
    let (id, rest) = token.split_at(digits.count());
    !id.is_empty() && rest.len() > 1 && rest[0] == b':'
}

fn opaque_segments(weights: &[usize]) -> Vec<bool> {
    let mut opaque = vec![false; weights.len()];
    let mut start = 0;
    while start < weights.len() {
        let run = weights[start..]
            .iter()
            .take_while(|&&weight| weight >= NEIGHBOUR_MIN)
            .count();
        let heavy = weights[start..start + run].iter().sum::<usize>() >= OPAQUE_MIN;
        opaque[start..start + run].fill(heavy);
        start += run.max(1);
    }
    opaque
}

fn push_segment(
    segment: &[u8],
    weight: usize,
    heavy: bool,
    known: &Known<'_>,
    out: &mut Sanitized,
) {
    if segment.iter().any(|byte| matches!(byte, b';' | b'=')) {
        let text = push_parameters(segment, known);
        out.template
            .push_str(if text == std::str::from_utf8(segment).unwrap_or("") {
                &text
            } else {
                "{id}"
            });
        out.path.push_str(&text);
        return;
    }
    let replaced = if known.secret(segment) {
        Some(SECRET)
    } else if heavy || segment.len() > SEGMENT_MAX {
        Some(OPAQUE)
    } else {
        None
    };
    match replaced {
        Some(mark) => {
            out.path.push_str(mark);
            out.template
                .push_str(if mark == SECRET { SECRET } else { "{id}" });
        }
        None => {
            let start = out.path.len();
            push_plain(segment, &mut out.path);
            if is_variable(segment, weight) {
                out.template.push_str("{id}");
            } else {
                out.template.push_str(&out.path[start..]);
            }
        }
    }
}

/// `word;name=value;…`, also `name=value` alone: values are kept if the query's rules keep them.
fn push_parameters(segment: &[u8], known: &Known<'_>) -> String {
    let mut text = String::new();
    for (index, part) in segment.split(|&byte| byte == b';').take(8).enumerate() {
        if index > 0 {
            text.push(';');
        }
        super::query::push_pair(part, known, &mut text);
    }
    text
}

/// As it stands, with whatever is not printable ASCII percent-encoded.
fn push_plain(segment: &[u8], out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in segment {
        if byte.is_ascii_graphic() {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
}

/// Looks like it differs from request to request: numbers, ids, whatever has digits in it beyond a version.
fn is_variable(segment: &[u8], weight: usize) -> bool {
    let digits = segment.iter().filter(|byte| byte.is_ascii_digit()).count();
    let version = matches!(segment, [b'v' | b'V', rest @ ..] if rest.len() <= 8
        && rest.first().is_some_and(u8::is_ascii_digit)
        && rest.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'.'));
    if segment.is_empty() || version {
        return false;
    }
    digits == segment.len()
        || opaque::is_uuid(segment)
        || segment.contains(&b'@')
        || segment.contains(&b'%')
        || !segment.is_ascii()
        || (digits > 0 && segment.len() >= 7 && segment.iter().all(u8::is_ascii_hexdigit))
        || weight >= NEIGHBOUR_MIN
        || segment.len() > WORDS_MAX
}
