//! Cookies (RFC 6265), by names that the configuration lists.
//!
//! The value is hashed as it stands between `=` and `;`, because cookies have no encoding of their own; only the
//! quotes that section 4.1.1 allows are taken off. Every other cookie's value is hidden if it is long and one
//! word, in case that it stands in a path or query too.
//!
//! Invariant: a cookie's name is recorded only if the configuration lists it.

use super::super::find::{Carrier, Find, Finds};
use agent_common::fingerprint::Secret;

/// Shorter values (`dark`, `en-US`) are settings, which may well stand in a path.
const HIDE_MIN: usize = 16;
/// How a cookie is presented.
const SCHEME: &str = "cookie";

/// The value of a Cookie header.
pub(super) fn request(value: &[u8], finds: &mut Finds<'_>) {
    for pair in value.split(|&byte| byte == b';').take(128) {
        if let Some((name, value)) = split(pair) {
            found(Carrier::Cookie, name, value, finds);
        }
    }
}

/// The value of a Set-Cookie header.
pub(super) fn response(value: &[u8], finds: &mut Finds<'_>) {
    let pair = value.split(|&byte| byte == b';').next().unwrap_or_default();
    if let Some((name, value)) = split(pair) {
        found(Carrier::SetCookie, name, value, finds);
    }
}

fn split(pair: &[u8]) -> Option<(&[u8], &[u8])> {
    let equals = pair.iter().position(|&byte| byte == b'=')?;
    let (name, value) = (pair[..equals].trim_ascii(), pair[equals + 1..].trim_ascii());
    let unquoted = value
        .strip_prefix(b"\"")
        .and_then(|value| value.strip_suffix(b"\""));
    Some((name, unquoted.unwrap_or(value)))
}

fn found<'a>(
    carrier: impl Fn(&'a str) -> Carrier<'a>,
    name: &[u8],
    value: &[u8],
    finds: &mut Finds<'a>,
) {
    let config = finds.config;
    match config
        .cookies
        .iter()
        .find(|listed| listed.as_bytes() == name)
    {
        Some(listed) => finds.add(Find::new(carrier(listed), SCHEME, Secret::copy_from(value))),
        None if value.len() >= HIDE_MIN && is_one_word(value) => finds.hide(value),
        None => {}
    }
}

/// Not a list of settings (`a%3D1%26b%3D2`), whose words stand in paths too.
fn is_one_word(value: &[u8]) -> bool {
    value
        .iter()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-_.~+/=:".contains(byte))
}
