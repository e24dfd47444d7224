//! What of an exchange is recorded.

use super::*;
use crate::credential::observation::Sanitized;
use crate::http::head::ProxyClaim;

fn sanitized(text: &str) -> Sanitized {
    observer(Config::default())
        .observe(&exchange(text), NOW)
        .sanitized
}

#[test]
fn paths_and_templates() {
    let opaque = "aB3dE6gH9jK2mN5pQ8sT";
    for (path, recorded, template) in [
        ("/", "/", "/"),
        (
            "/v1/users/42/repos",
            "/v1/users/42/repos",
            "/v1/users/{id}/repos",
        ),
        (
            "/api/v1beta1/namespaces/shop/pods/api-7d9f8b6c4d-x2x9z",
            "/api/v1beta1/namespaces/shop/pods/api-7d9f8b6c4d-x2x9z",
            "/api/v1beta1/namespaces/shop/pods/{id}",
        ),
        (
            "/x/550e8400-e29b-41d4-a716-446655440000",
            "/x/550e8400-e29b-41d4-a716-446655440000",
            "/x/{id}",
        ),
        (
            "/commit/da39a3ee5e6b4b0d3255bfef95601890afd80709",
            "/commit/da39a3ee5e6b4b0d3255bfef95601890afd80709",
            "/commit/{id}",
        ),
        ("/commit/da39a3e", "/commit/da39a3e", "/commit/{id}"),
        (
            &format!("/share/{opaque}"),
            "/share/{opaque}",
            "/share/{id}",
        ),
        (
            &format!("/share/{opaque}%2F"),
            "/share/{opaque}",
            "/share/{id}",
        ),
        (
            "/a/abc123def456/ghi789jkl012",
            "/a/{opaque}/{opaque}",
            "/a/{id}/{id}",
        ),
        (
            &format!("/v2/library/nginx/blobs/sha256:{}", "0f".repeat(32)),
            &format!("/v2/library/nginx/blobs/sha256:{}", "0f".repeat(32)),
            "/v2/library/nginx/blobs/{id}",
        ),
        ("/a/sha256:0123456789abcdef", "/a/{opaque}", "/a/{id}"),
        ("/group%2Fproject/x", "/group%2Fproject/x", "/{id}/x"),
        ("/token/ab12cd34", "/token/{opaque}", "/token/{id}"),
        ("/user/ab12cd34", "/user/ab12cd34", "/user/{id}"),
        ("/a;jsessionid=abc/b", "/a;jsessionid={secret}/b", "/{id}/b"),
        ("/page;lang=en/b", "/page;lang=en/b", "/page;lang=en/b"),
        ("/a/token=abc", "/a/token={secret}", "/a/{id}"),
        (
            "/users/alice@example.test",
            "/users/alice@example.test",
            "/users/{id}",
        ),
        ("/a%20b/%00", "/a%20b/%00", "/{id}/{id}"),
        ("/a#frag", "/a", "/a"),
        ("*", "*", "*"),
    ] {
        let found = sanitized(&format!("GET {path}"));
        assert_eq!(
            (&*found.path, &*found.template),
            (recorded, template),
            "{path}"
        );
    }
    let long = sanitized(&format!("GET /{}", "a/".repeat(5000)));
    assert!(long.path.len() < 4096 && long.path.ends_with("{cut}"));
    let npm = format!("/x/{}_{}", "npm", random(B62, 36));
    assert_eq!(sanitized(&format!("GET {npm}")).path, "/x/{secret}");
    let jwt = jwt("{}");
    assert_eq!(
        sanitized(&format!("GET /verify/{jwt}")).path,
        "/verify/{secret}"
    );
}

#[test]
fn a_secret_of_the_exchange_is_replaced_wherever_it_stands() {
    for secret in [
        plain_key(),
        "my-lovely-horse-key".to_owned(),
        format!("{}/{}", random(B62, 10), random(B62, 10)),
    ] {
        let encoded: String = secret.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let twice = encoded.replace('%', "%25");
        for place in [
            &secret,
            &encoded,
            &twice,
            &format!("x{secret}y"),
            &secret[..12].to_owned(),
        ] {
            let text = format!(
                "GET /a/{place}/b?q={place}\nHost: {}.test\nUser-Agent: tool/{place}\nX-Api-Key: {secret}\nX-Request-Id: {place}\nForwarded: for={place};host={place}",
                secret.replace('/', "")
            );
            let observed = observer(Config::default()).observe(&exchange(&text), NOW);
            assert_absent(&secret, &observed, &text);
            let out = format!("{:?}", observed.sanitized);
            assert!(!out.contains(&**place), "{place} in {out}");
        }
    }
}

#[test]
fn queries() {
    for (query, recorded) in [
        (
            "page=2&per_page=100&sort=created_at",
            "page=2&per_page=100&sort=created_at",
        ),
        ("ref=main&path=a/b", "ref=main&path={redacted}"),
        ("q=hello+world", "q={redacted}"),
        ("id=550e8400-e29b-41d4-a716-446655440000", "id={redacted}"),
        ("id=5f3a9c1b2d4e", "id={redacted}"),
        (
            "code=123&state=abc&password=x&Signature=y&otp=1",
            "code={secret}&state={secret}&password={secret}&Signature={secret}&otp={secret}",
        ),
        ("flag&empty=&=x", "flag&empty=&=x"),
        ("aB3dE6gH9jK2mN5pQ8sT", "{redacted}"),
        ("aB3dE6gH9jK2mN5pQ8sT=1", "{redacted}=1"),
        ("email=a%40b.test", "email={redacted}"),
        ("", ""),
    ] {
        assert_eq!(
            sanitized(&format!("GET /?{query}")).query.as_deref(),
            Some(recorded),
            "{query}"
        );
    }
    assert_eq!(sanitized("GET /").query, None);
    let many = sanitized(&format!("GET /?{}", "a=1&".repeat(1000)))
        .query
        .unwrap();
    assert!(many.len() < 400 && many.ends_with("{cut}"));
}

#[test]
fn hosts() {
    for (text, host, port) in [
        ("GET /\nHost: API.test", Some("api.test"), None),
        ("GET /\nHost: api.test:8443", Some("api.test"), Some(8443)),
        (
            "GET /\nHost: [2001:db8::1]:80",
            Some("[2001:db8::1]"),
            Some(80),
        ),
        (
            "GET http://a.test/x\nHost: b.test",
            Some("a.test"),
            Some(80),
        ),
        (
            "GET https://a.test:8443?x\nHost: b.test",
            Some("a.test"),
            Some(8443),
        ),
        (
            "CONNECT a.test:443\nHost: b.test",
            Some("a.test"),
            Some(443),
        ),
        ("GET /\n:authority: h2.test:443", Some("h2.test"), Some(443)),
        ("GET /\nHost: a b", None, None),
        ("GET /\nHost: a.test:99999", Some("a.test"), None),
        ("GET /", None, None),
    ] {
        let found = sanitized(text);
        assert_eq!((found.host.as_deref(), found.port), (host, port), "{text}");
    }
    assert_eq!(sanitized("GET https://a.test?x=1").path, "/");
}

/// A WebSocket over HTTP/2 (RFC 8441): what stands in its target is no host.
#[test]
fn an_extended_connect_has_a_path() {
    let found = sanitized("CONNECT /chat?access_token=abcdefghijklmnopqrst\nHost: b.test");
    assert_eq!(found.host.as_deref(), Some("b.test"));
    assert_eq!(found.path, "/chat");
    assert_eq!(found.query.as_deref(), Some("access_token={secret}"));
}

#[test]
fn user_agents() {
    for (agent, recorded) in [
        ("curl/8.5.0", "curl/8.5.0"),
        (
            "Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0",
            "Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0",
        ),
        (
            "aws-sdk-go-v2/1.30.3 os/linux lang/go#1.22.5 md/GOARCH#amd64",
            "aws-sdk-go-v2/1.30.3 os/linux lang/go#1.22.5 md/GOARCH#amd64",
        ),
        ("tool aB3dE6gH9jK2mN5pQ8sT/1", "tool {opaque}"),
        ("tool/aB3dE6gH9jK2mN5pQ8sT x", "tool/{opaque} x"),
        ("a\u{e9}b", "a??b"),
    ] {
        let found = sanitized(&format!("GET /\nUser-Agent: {agent}"));
        assert_eq!(found.user_agent.as_deref(), Some(recorded));
    }
    let long = sanitized(&format!("GET /\nUser-Agent: {}", "word ".repeat(1000)))
        .user_agent
        .unwrap();
    assert!(long.len() < 300 && long.ends_with("{cut}"));
}

#[test]
fn request_ids_by_allow_list() {
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let key = jwt("{}");
    let found = sanitized(&format!(
        "GET /\nX-Request-Id: r1\ntraceparent: {trace}\nX-Other-Id: no\nX-Correlation-Id: {key}\nCf-Ray: has space\n---\n200\nX-Request-Id: r2\nX-Amzn-RequestId: a1\nAudit-Id: u1\nX-GitHub-Request-Id: A:B:C"
    ));
    let expected = [
        ("audit-id", "u1"),
        ("response.x-request-id", "r2"),
        ("traceparent", trace),
        ("x-amzn-requestid", "a1"),
        ("x-github-request-id", "A:B:C"),
        ("x-request-id", "r1"),
    ];
    assert_eq!(
        found.ids,
        expected.map(|(name, id)| (name.into(), id.into())).into()
    );
}

#[test]
fn forwarded_addresses() {
    let mut exchange = exchange(
        "GET /\nForwarded: for=192.0.2.43, for=\"[2001:db8::1]:4711\";proto=https;host=a.test;secret=x\nForwarded: for=_hidden;by=unknown\nX-Forwarded-For: 192.0.2.1, 2001:db8::2, evil<script>\nX-Real-IP: 192.0.2.9",
    );
    exchange.proxy_claim = Some(ProxyClaim {
        version: 2,
        source: "192.0.2.1:1234".parse().unwrap(),
        destination: "[2001:db8::9]:443".parse().unwrap(),
    });
    let found = observer(Config::default())
        .observe(&exchange, NOW)
        .sanitized
        .forwarded;
    let expected = [
        (
            "forwarded",
            "for=192.0.2.43, for=[2001:db8::1]:4711;proto=https;host=a.test, for=_hidden;by=unknown",
        ),
        ("proxy-protocol", "v2 192.0.2.1:1234 -> [2001:db8::9]:443"),
        ("x-forwarded-for", "192.0.2.1, 2001:db8::2, {redacted}"),
        ("x-real-ip", "192.0.2.9"),
    ];
    assert_eq!(
        found,
        expected
            .map(|(name, value)| (name.into(), value.into()))
            .into()
    );
}
