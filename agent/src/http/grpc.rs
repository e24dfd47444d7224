//! gRPC: calls as exchanges of HTTP/2 (gRPC over HTTP2, `doc/PROTOCOL-HTTP2.md` of grpc/grpc).

use super::head::RequestHead;

/// The path's parts: package and service, and method.
pub struct Called<'a> {
    pub service: &'a str,
    pub method: &'a str,
}

/// `application/grpc`, with its encoding behind it or not. What is called gRPC-Web is another protocol.
pub fn is_call(head: &RequestHead) -> bool {
    head.headers
        .first("content-type")
        .and_then(|kind| kind.strip_prefix(b"application/grpc"))
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// Path: `"/" Service-Name "/" {method name}`.
pub fn called(path: &str) -> Option<Called<'_>> {
    let (service, method) = path.strip_prefix('/')?.rsplit_once('/')?;
    (!service.is_empty() && !method.is_empty()).then_some(Called { service, method })
}

/// `grpc-status`: digits.
pub(super) fn status<'a>(mut fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Option<u16> {
    let (_, value) = fields.find(|(name, _)| *name == b"grpc-status")?;
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_service_and_method() {
        let parts = |path| called(path).map(|called| (called.service, called.method));
        assert_eq!(parts("/a.b.C/D"), Some(("a.b.C", "D")));
        assert_eq!(parts("/prefix/a.b.C/D"), Some(("prefix/a.b.C", "D")));
        for path in ["", "/", "/a", "/a/", "//b", "a/b"] {
            assert!(parts(path).is_none(), "{path}");
        }
    }

    #[test]
    fn a_status_has_digits() {
        let status_of = |value: &'static [u8]| status([(&b"grpc-status"[..], value)].into_iter());
        assert_eq!(status_of(b"16"), Some(16));
        assert_eq!(status_of(b"-1"), None);
        assert_eq!(status_of(b"70000"), None);
        assert_eq!(status([(&b"x"[..], &b"1"[..])].into_iter()), None);
    }
}
