//! The request target in its four forms (RFC 9112 section 3.2).
//!
//! Invariant: borrows; decodes nothing.

use crate::http::head::RequestHead;

/// The target's parts, still encoded.
pub(in crate::credential) struct Target<'a> {
    pub(in crate::credential) userinfo: Option<&'a [u8]>,
    /// Host with port, from the target itself, else from `:authority` or Host; empty if there is none.
    pub(in crate::credential) host: &'a [u8],
    /// The port that the target's scheme implies, if it has one.
    pub(in crate::credential) port: Option<u16>,
    /// `*` and paths; empty for a CONNECT to an authority.
    pub(in crate::credential) path: &'a [u8],
    pub(in crate::credential) query: Option<&'a [u8]>,
}

impl<'a> Target<'a> {
    pub(in crate::credential) fn of(head: &'a RequestHead) -> Self {
        let target = head.target.trim_ascii();
        let headers = &head.headers;
        let host = headers
            .first(":authority")
            .or_else(|| headers.first("host"));
        let host = host.unwrap_or_default().trim_ascii();
        // An extended CONNECT has a path (RFC 8441 section 4).
        if head.method == "CONNECT" && !target.starts_with(b"/") {
            let (userinfo, authority) = split_userinfo(target);
            return Self {
                userinfo,
                host: authority,
                port: None,
                path: b"",
                query: None,
            };
        }
        match absolute(target) {
            Some((port, authority, rest)) => {
                let (userinfo, authority) = split_userinfo(authority);
                let (path, query) = split_query(rest);
                let path = if path.is_empty() { b"/" } else { path };
                Self {
                    userinfo,
                    host: authority,
                    port,
                    path,
                    query,
                }
            }
            None => {
                let (userinfo, host) = split_userinfo(host);
                let (path, query) = split_query(target);
                Self {
                    userinfo,
                    host,
                    port: None,
                    path,
                    query,
                }
            }
        }
    }
}

/// Default port, authority and the rest of `scheme://authority/rest`.
pub(super) fn absolute(target: &[u8]) -> Option<(Option<u16>, &[u8], &[u8])> {
    let colon = target.iter().position(|&byte| byte == b':')?;
    let (scheme, rest) = (&target[..colon], target[colon..].strip_prefix(b"://")?);
    let fits = scheme.first().is_some_and(u8::is_ascii_alphabetic)
        && scheme.len() <= 16
        && scheme
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    if !fits {
        return None;
    }
    let port = match scheme.to_ascii_lowercase().as_slice() {
        b"http" | b"ws" => Some(80),
        b"https" | b"wss" => Some(443),
        _ => None,
    };
    let end = rest
        .iter()
        .position(|byte| matches!(byte, b'/' | b'?' | b'#'))
        .unwrap_or(rest.len());
    Some((port, &rest[..end], &rest[end..]))
}

/// Userinfo ends at the last `@`: careless clients leave one in the password.
pub(super) fn split_userinfo(authority: &[u8]) -> (Option<&[u8]>, &[u8]) {
    match authority.iter().rposition(|&byte| byte == b'@') {
        Some(at) => (Some(&authority[..at]), &authority[at + 1..]),
        None => (None, authority),
    }
}

/// Path and query; a fragment, which should not be sent, is left out.
pub(super) fn split_query(target: &[u8]) -> (&[u8], Option<&[u8]>) {
    let end = target
        .iter()
        .position(|&byte| byte == b'#')
        .unwrap_or(target.len());
    let target = &target[..end];
    match target.iter().position(|&byte| byte == b'?') {
        Some(mark) => (&target[..mark], Some(&target[mark + 1..])),
        None => (target, None),
    }
}
