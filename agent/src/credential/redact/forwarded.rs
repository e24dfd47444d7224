//! Forwarded addresses, as claims.
//!
//! Every element is parsed and written again: what is no address, `unknown` or a short obfuscated name (RFC 7239
//! section 6) becomes `{redacted}`.
//!
//! Invariant: nothing but addresses, protocols, host names and marks comes out.

use super::super::params;
use super::super::text;
use super::{CUT, Known, REDACTED, opaque};
use crate::http::head::{Headers, ProxyClaim};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// Elements per header that are kept.
const ELEMENTS_MAX: usize = 16;
/// Characters of an obfuscated name or host.
const NAME_MAX: usize = 64;

pub(super) fn collect(
    headers: &Headers,
    claim: Option<&ProxyClaim>,
    known: &Known<'_>,
) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    let mut add = |name: &str, render: &dyn Fn(&[u8]) -> String| {
        let mut elements = headers
            .all(name)
            .flat_map(|value| value.split(|&byte| byte == b','))
            .peekable();
        if elements.peek().is_none() {
            return;
        }
        let mut list: Vec<String> = elements
            .by_ref()
            .take(ELEMENTS_MAX)
            .map(|element| render(element.trim_ascii()))
            .collect();
        if elements.peek().is_some() {
            list.push(CUT.to_owned());
        }
        out.insert(name.to_owned(), list.join(", "));
    };
    add("forwarded", &|element| forwarded(element, known));
    add("x-forwarded-for", &|element| {
        address(element).unwrap_or_else(|| REDACTED.to_owned())
    });
    add("x-real-ip", &|element| {
        address(element).unwrap_or_else(|| REDACTED.to_owned())
    });
    if let Some(ProxyClaim {
        version,
        source,
        destination,
    }) = claim
    {
        let text = format!("v{version} {source} -> {destination}");
        out.insert("proxy-protocol".to_owned(), text);
    }
    out
}

/// An address, with or without port and brackets, or `unknown`.
fn address(element: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(element).ok()?;
    if text.eq_ignore_ascii_case("unknown") {
        return Some("unknown".to_owned());
    }
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    let ip = bare.parse::<IpAddr>().map(|ip| ip.to_string());
    ip.or_else(|_| text.parse::<SocketAddr>().map(|socket| socket.to_string()))
        .ok()
}

/// One element of Forwarded: `for=…;by=…;host=…;proto=…`.
fn forwarded(element: &[u8], known: &Known<'_>) -> String {
    let mut parts = Vec::new();
    for (name, value) in params::params(element, b';').take(8) {
        let name = match name.to_ascii_lowercase().as_slice() {
            b"for" => "for",
            b"by" => "by",
            b"host" => "host",
            b"proto" => "proto",
            _ => continue,
        };
        let value = text::unquoted(value);
        let shown = match name {
            "for" | "by" => address(&value).or_else(|| name_like(&value, known)),
            _ => name_like(&value, known),
        };
        parts.push(format!("{name}={}", shown.as_deref().unwrap_or(REDACTED)));
    }
    if parts.is_empty() {
        REDACTED.to_owned()
    } else {
        parts.join(";")
    }
}

/// An obfuscated name, a host or a protocol: short and of words.
fn name_like(value: &[u8], known: &Known<'_>) -> Option<String> {
    let allowed =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b':');
    let plain = value.len() <= NAME_MAX
        && value.iter().all(|&byte| allowed(byte))
        && opaque::weight(value) < 12
        && !known.secret(value);
    if plain {
        text::presentable(value, NAME_MAX)
    } else {
        None
    }
}
