//! Queries: names are kept, values hardly.
//!
//! A value is kept if it is at most 32 characters of `A-Z a-z 0-9 _ . , : -` that read like words and numbers, and its
//! name does not say that it is secret. A name is kept under much the same rule: some clients send `?<token>`.
//!
//! Invariant: the value of a secret parameter is replaced whatever it looks like.

use super::super::carrier::is_secret_name;
use super::super::text;
use super::{CUT, Known, REDACTED, SECRET, opaque};

const PAIRS_MAX: usize = 64;
const LEN_MAX: usize = 2048;
const VALUE_MAX: usize = 32;
const NAME_MAX: usize = 64;
/// A value or name of this weight does not read like words.
const OPAQUE_MIN: usize = 10;

pub(super) fn sanitize(query: &[u8], known: &Known<'_>) -> String {
    if known.everything() {
        return SECRET.to_owned();
    }
    let mut out = String::new();
    for (index, pair) in query.split(|&byte| byte == b'&').enumerate() {
        if index > 0 {
            out.push('&');
        }
        if index >= PAIRS_MAX || out.len() > LEN_MAX {
            out.push_str(CUT);
            break;
        }
        push_pair(pair, known, &mut out);
    }
    out
}

/// `name=value`, or a bare value.
pub(super) fn push_pair(pair: &[u8], known: &Known<'_>, out: &mut String) {
    let Some(equals) = pair.iter().position(|&byte| byte == b'=') else {
        out.push_str(judge(pair, false, known));
        return;
    };
    let (name, value) = (&pair[..equals], &pair[equals + 1..]);
    out.push_str(judge_name(name, known));
    out.push('=');
    let secret = is_secret_name(&text::percent(name));
    out.push_str(judge(value, secret, known));
}

/// The value itself, or the mark that stands for it.
fn judge<'v>(value: &'v [u8], secret: bool, known: &Known<'_>) -> &'v str {
    if value.is_empty() {
        return "";
    }
    if secret || known.secret(value) {
        return SECRET;
    }
    let allowed =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b',' | b':' | b'-');
    let plain = value.len() <= VALUE_MAX
        && value.iter().all(|&byte| allowed(byte))
        && (value.len() < OPAQUE_MIN || opaque::weight(value) < OPAQUE_MIN);
    std::str::from_utf8(value)
        .ok()
        .filter(|_| plain)
        .unwrap_or(REDACTED)
}

fn judge_name<'v>(name: &'v [u8], known: &Known<'_>) -> &'v str {
    if known.secret(name) {
        return SECRET;
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-[]$:~%@".contains(&byte);
    let plain = name.len() <= NAME_MAX
        && name.iter().all(|&byte| allowed(byte))
        && (name.len() < OPAQUE_MIN || opaque::weight(name) < OPAQUE_MIN);
    std::str::from_utf8(name)
        .ok()
        .filter(|_| plain)
        .unwrap_or(REDACTED)
}
