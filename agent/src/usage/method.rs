//! Request methods.

/// IANA's HTTP method registry, sorted.
const REGISTERED: [&str; 41] = [
    "ACL",
    "BASELINE-CONTROL",
    "BIND",
    "CHECKIN",
    "CHECKOUT",
    "CONNECT",
    "COPY",
    "DELETE",
    "GET",
    "HEAD",
    "LABEL",
    "LINK",
    "LOCK",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MKREDIRECTREF",
    "MKWORKSPACE",
    "MOVE",
    "OPTIONS",
    "ORDERPATCH",
    "PATCH",
    "POST",
    "PRI",
    "PROPFIND",
    "PROPPATCH",
    "PUT",
    "QUERY",
    "REBIND",
    "REPORT",
    "SEARCH",
    "TRACE",
    "UNBIND",
    "UNCHECKOUT",
    "UNLINK",
    "UNLOCK",
    "UPDATE",
    "UPDATEREDIRECTREF",
    "VERSION-CONTROL",
    "_OTHER",
];

/// The method if it is registered, else `_OTHER`, as OpenTelemetry has it: an unknown one could hold anything.
pub(super) fn registered(method: &str) -> &'static str {
    REGISTERED
        .binary_search(&method)
        .map_or("_OTHER", |index| REGISTERED[index])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_registered_methods_pass() {
        assert!(REGISTERED.is_sorted());
        for method in REGISTERED {
            assert_eq!(registered(method), method);
        }
        for method in ["", "get", "GETX", "ghp_secret", "PURGE"] {
            assert_eq!(registered(method), "_OTHER");
        }
    }
}
