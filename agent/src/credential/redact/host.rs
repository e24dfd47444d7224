//! Host and port.
//!
//! Host labels are not judged by how random they look: load balancers, buckets and clusters have random names, and
//! which host it was is what the record is for.
//!
//! Invariant: a host name, an address, or nothing.

use super::super::provider;
use super::{Known, SECRET};

/// RFC 1035 section 2.3.4, with brackets for IPv6.
const LEN_MAX: usize = 255;

pub(super) fn sanitize(authority: &[u8], known: &Known<'_>) -> (Option<String>, Option<u16>) {
    let (host, port) = split_port(authority);
    let port = port.and_then(|port| std::str::from_utf8(port).ok()?.parse().ok());
    let allowed = |byte: u8| {
        byte.is_ascii_alphanumeric()
            || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']' | b'%')
    };
    let plain = !host.is_empty() && host.len() <= LEN_MAX && host.iter().all(|&byte| allowed(byte));
    let Some(text) = std::str::from_utf8(host).ok().filter(|_| plain) else {
        return (None, port);
    };
    let secret = known.everything()
        || known.secret(host)
        || host
            .split(|&byte| byte == b'.')
            .any(|label| known.known(label) || provider::credential_shaped(label));
    (
        Some(if secret {
            SECRET.to_owned()
        } else {
            text.to_ascii_lowercase()
        }),
        port,
    )
}

fn split_port(authority: &[u8]) -> (&[u8], Option<&[u8]>) {
    if authority.first() == Some(&b'[') {
        let end = authority
            .iter()
            .position(|&byte| byte == b']')
            .map_or(authority.len(), |end| end + 1);
        let (host, rest) = authority.split_at(end);
        return (host, rest.strip_prefix(b":"));
    }
    match authority.iter().position(|&byte| byte == b':') {
        Some(colon) => (&authority[..colon], Some(&authority[colon + 1..])),
        None => (authority, None),
    }
}
