//! URLs outside of requests: arguments of programs.
//!
//! They are looked at like a request's target: what a carrier finds in the URL is replaced everywhere in it.
//!
//! Invariant: userinfo and fragment never come out, path and query only as they do from a request.

use super::super::carrier;
use super::super::config::Config;
use super::super::find::Finds;
use super::target::{absolute, split_query, split_userinfo};
use super::{Known, REDACTED, SECRET, Target, host, path, query};

/// The URL with its secrets replaced; `None` if the text is no absolute URL.
pub(super) fn sanitize(url: &[u8]) -> Option<String> {
    let (default_port, authority, rest) = absolute(url)?;
    let colon = url.iter().position(|&byte| byte == b':')?;
    let scheme = std::str::from_utf8(&url[..colon])
        .ok()?
        .to_ascii_lowercase();
    let (userinfo, authority) = split_userinfo(authority);
    let (path, search) = split_query(rest);
    let target = Target {
        userinfo,
        host: authority,
        port: default_port,
        path,
        query: search,
    };

    let config = Config::default();
    let mut finds = Finds::new(&config);
    carrier::collect_target(&target, &mut finds);
    let known = Known::new(&finds);

    let (host, port) = host::sanitize(authority, &known);
    let mut out = format!("{scheme}://");
    if userinfo.is_some() {
        out.push_str(SECRET);
        out.push('@');
    }
    out.push_str(
        host.as_deref()
            .unwrap_or(if authority.is_empty() { "" } else { REDACTED }),
    );
    if let Some(port) = port {
        out.push_str(&format!(":{port}"));
    }
    if !path.is_empty() {
        out.push_str(&path::sanitize(path, &known).path);
    }
    if let Some(search) = search {
        out.push('?');
        out.push_str(&query::sanitize(search, &known));
    }
    Some(out)
}
