//! Every place a credential rides in.

use super::*;

#[test]
fn api_key_headers() {
    for (header, provider) in [
        ("X-Api-Key", ""),
        ("Api-Key", ""),
        ("X-Auth-Token", ""),
        ("X-Access-Token", ""),
        ("PRIVATE-TOKEN", "gitlab/personal_access_token/carrier"),
        ("JOB-TOKEN", "gitlab/ci_job_token/carrier"),
        ("Deploy-Token", "gitlab/deploy_token/carrier"),
        ("X-Vault-Token", "vault//carrier"),
        ("X-Amz-Security-Token", "aws/session_token/carrier"),
        ("X-Goog-Api-Key", "google/api_key/carrier"),
        ("DD-API-KEY", "datadog/api_key/carrier"),
        ("DD-APPLICATION-KEY", "datadog/application_key/carrier"),
        ("X-Shopify-Access-Token", "shopify/access_token/carrier"),
        (
            "Ocp-Apim-Subscription-Key",
            "azure/subscription_key/carrier",
        ),
        ("X-Consul-Token", "consul//carrier"),
        ("X-Functions-Key", "azure/function_key/carrier"),
    ] {
        let key = plain_key();
        let carrier = format!("header:{}", header.to_lowercase());
        let expected = || {
            let expected = seen(&carrier, "api-key", &key);
            if provider.is_empty() {
                expected
            } else {
                expected.by(provider)
            }
        };
        check(header, &format!("GET /\n{header}: {key}"), &[expected()]);
        // gRPC metadata: the same names, and base64 under `-bin`, or bytes behind a NUL.
        check(
            header,
            &format!("POST /pkg.Service/Method\n{header}-bin: \0{key}"),
            &[expected()],
        );
        check(
            header,
            &format!(
                "POST /pkg.Service/Method\n{header}-bin: {}",
                STANDARD.encode(&key)
            ),
            &[expected()],
        );
    }
    let key = plain_key();
    check(
        "scheme in a key header",
        &format!("GET /\nX-Api-Key: Bearer {key}"),
        &[seen("header:x-api-key", "Bearer", &key)],
    );
    check(
        "basic in a key header",
        &format!("GET /\nX-Api-Key: Basic {}", basic("oauth2", &key)),
        &[seen("header:x-api-key", "Basic", &key).user("oauth2")],
    );
    check(
        "sentry",
        &format!("POST /api/1/envelope/\nX-Sentry-Auth: Sentry sentry_version=7, sentry_key={key}"),
        &[seen("header:x-sentry-auth", "Sentry", &key).by("sentry/dsn_key/carrier")],
    );
}

#[test]
fn extra_headers_from_the_configuration() {
    let key = plain_key();
    let config = Config {
        extra_headers: vec!["X-Acme-Key".into()],
        ..Config::default()
    };
    let text = format!("GET /\nx-acme-key: {key}");
    check_with(
        config,
        "extra",
        &text,
        &[seen("header:x-acme-key", "api-key", &key)],
    );
    check("not extra", &text, &[]);
}

#[test]
fn cookies_by_name_in_both_directions() {
    let (one, other) = (plain_key(), plain_key());
    let config = Config {
        cookies: vec!["session".into()],
        ..Config::default()
    };
    let text = format!(
        "GET /\nCookie: theme=dark; session={one}; sessions=x\n---\n200\nSet-Cookie: session=\"{other}\"; Path=/; HttpOnly\nSet-Cookie: other={one}"
    );
    let expected = [
        seen("cookie:session", "cookie", &one),
        seen("set-cookie:session", "cookie", &other),
    ];
    check_with(config, "cookies", &text, &expected);
    let observed = check(
        "not asked for",
        &text.replace("GET /", &format!("GET /x/{one}")),
        &[],
    );
    assert_absent(&one, &observed, "a cookie's value in a path");
}

#[test]
fn query_parameters() {
    for (name, carrier, scheme) in [
        ("access_token", "access_token", "Bearer"),
        ("api_key", "api_key", "api-key"),
        ("apiKey", "api_key", "api-key"),
        ("API-KEY", "api_key", "api-key"),
        ("key", "key", "api-key"),
        ("private_token", "private_token", "api-key"),
        ("refresh_token", "refresh_token", "refresh-token"),
        ("client_secret", "client_secret", "client-secret"),
        ("client_assertion", "client_assertion", "client-assertion"),
        ("token", "token", "api-key"),
        ("oauth_token", "oauth_token", "OAuth"),
        ("subscription-key", "subscription_key", "api-key"),
        ("%61pi_key", "api_key", "api-key"),
    ] {
        let key = format!("{}+/=", plain_key());
        let encoded = key.replace('+', "%2B").replace('=', "%3d");
        let carrier = format!("query:{carrier}");
        for target in [
            format!("/v1?page=1&{name}={encoded}&sort=name"),
            format!("http://api.test/?{name}={encoded}"),
        ] {
            let observed = check(
                name,
                &format!("GET {target}"),
                &[seen(&carrier, scheme, &key)],
            );
            assert!(observed.sanitized.query.unwrap().contains("={secret}"));
        }
    }
}

#[test]
fn presigned_requests() {
    let id = format!("AS{}{}", "IA", "QNZGKIQY56JQ7WML");
    let (security, signature) = (random(B62, 200), random(HEX, 64));
    let by_aws = |expected: Expected| {
        expected
            .name()
            .by("aws/temporary_access_key/shape")
            .with("aws.access_key_id", &*id)
            .with("aws.account_id", "029608264753")
    };
    let observed = check(
        "s3",
        &format!(
            "GET /bucket/file.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={id}%2F20260101%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Security-Token={security}&X-Amz-Signature={signature}&X-Amz-Expires=3600"
        ),
        &[
            by_aws(seen("query:X-Amz-Credential", "AWS4-HMAC-SHA256", &id))
                .with("aws.region", "us-east-1")
                .with("aws.service", "s3"),
            seen("query:X-Amz-Security-Token", "AWS4-HMAC-SHA256", &security)
                .by("aws/session_token/carrier"),
        ],
    );
    assert_eq!(
        observed.sanitized.query.as_deref(),
        Some(
            "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={secret}&X-Amz-Security-Token={secret}&X-Amz-Signature={secret}&X-Amz-Expires=3600"
        )
    );
    check(
        "s3 version 2",
        &format!("GET /b/f?AWSAccessKeyId={id}&Expires=1&Signature=abc"),
        &[by_aws(seen("query:AWSAccessKeyId", "AWS", &id))],
    );
    let signature = format!("{}/+=", random(B62, 41));
    let encoded = signature
        .replace('/', "%2F")
        .replace('+', "%2B")
        .replace('=', "%3D");
    check(
        "sas",
        &format!(
            "GET /c/blob.txt?sv=2024-11-04&se=2026-12-01T00%3A00%3A00Z&sr=b&sp=r&sig={encoded}"
        ),
        &[seen("query:sig", "SharedAccessSignature", &signature)
            .by("azure/shared_access_signature/carrier")
            .with("sas.sv", "2024-11-04")
            .with("sas.se", "2026-12-01T00:00:00Z")
            .with("sas.sr", "b")
            .with("sas.sp", "r")],
    );
}

fn form(body: &str) -> String {
    format!("POST /token\nContent-Type: application/x-www-form-urlencoded; charset=utf-8\n\n{body}")
}

#[test]
fn form_bodies() {
    let (secret, refresh) = (format!("{}+ ", plain_key()), plain_key());
    let encoded = secret.replace('+', "%2B").replace(' ', "+");
    check(
        "refresh",
        &form(&format!(
            "grant_type=refresh_token&client_id=app&client_secret={encoded}&refresh_token={refresh}"
        )),
        &[
            seen("form:client_secret", "client-secret", &secret).with("client_id", "app"),
            seen("form:refresh_token", "refresh-token", &refresh).with("client_id", "app"),
        ],
    );
    let assertion = jwt(r#"{"iss":"app"}"#);
    check(
        "assertion",
        &form(&format!(
            "client_assertion_type=x&client_assertion={assertion}&assertion={assertion}"
        )),
        &["client_assertion", "assertion"].map(|name| {
            let scheme = if name == "assertion" {
                "assertion"
            } else {
                "client-assertion"
            };
            seen(&format!("form:{name}"), scheme, &assertion)
                .by("jwt//shape")
                .with("alg", "ES256")
                .with("iss", "app")
        }),
    );
    check(
        "revocation",
        &form(&format!("token={refresh}&token_type_hint=refresh_token")),
        &[seen("form:token", "api-key", &refresh)],
    );
    let password = "correct horse battery";
    let text = form("grant_type=password&username=alice&password=correct+horse+battery");
    check(
        "password grant",
        &text,
        &[unseen("form:password", "password", "password").user("alice")],
    );
    let asked = Config {
        basic_passwords: true,
        ..Config::default()
    };
    check_with(
        asked,
        "password grant, asked",
        &text,
        &[seen("form:password", "password", password).user("alice")],
    );
}

#[test]
fn a_form_cut_anywhere_hashes_nothing_wrong_and_leaks_nothing() {
    let (secret, refresh) = (plain_key(), plain_key());
    let body = format!("grant_type=refresh_token&client_secret={secret}&refresh_token={refresh}");
    let observer = observer(Config::default());
    let whole: Vec<String> = [&secret, &refresh]
        .into_iter()
        .flat_map(|secret| names_of(secret))
        .collect();
    for cut in 0..=body.len() {
        // The path repeats what was seen of the last value: it must not come out there.
        let text =
            form(&format!("{}…", &body[..cut])).replace("/token", &format!("/{secret}/{refresh}"));
        let observed = observer.observe(&exchange(&text), NOW);
        for observation in &observed.observations {
            match observation.unresolved.as_deref() {
                None => assert!(whole.contains(&observation.fingerprints[0]), "cut at {cut}"),
                reason => assert_eq!(reason, Some("cut"), "cut at {cut}"),
            }
        }
        assert!(
            !observed.sanitized.path.contains(&secret[..8]),
            "{}",
            observed.sanitized.path
        );
    }
    check(
        "cut",
        &form(&format!("a=b&client_secret={}…", &secret[..20])),
        &[unseen("form:client_secret", "client-secret", "cut")],
    );
}

#[test]
fn userinfo() {
    let key = plain_key();
    check(
        "absolute form",
        &format!("GET http://x-access-token:{key}%2B@git.test:8080/a/b.git HTTP/1.1"),
        &[seen("userinfo", "Basic", &format!("{key}+")).user("x-access-token")],
    );
    let observed = check(
        "people",
        "GET http://alice:s3cret-word@api.test/",
        &[unseen("userinfo", "Basic", "password").user("alice")],
    );
    assert_absent("s3cret-word", &observed, "password");
    assert_eq!(observed.sanitized.host.as_deref(), Some("api.test"));
}

#[test]
fn git_over_https() {
    let app = format!("{}_{}", "ghs", random(B62, 36));
    let observed = check(
        "git",
        &format!(
            "GET /o/r.git/info/refs?service=git-upload-pack\nHost: github.com\nAuthorization: Basic {}",
            basic("x-access-token", &app)
        ),
        &[seen("header:authorization", "Basic", &app)
            .by("github/server_token/shape")
            .user("x-access-token")],
    );
    assert_eq!(observed.sanitized.path, "/o/r.git/info/refs");
    assert_eq!(
        observed.sanitized.query.as_deref(),
        Some("service=git-upload-pack")
    );
}

#[test]
fn websocket_subprotocols() {
    let account = jwt(
        r#"{"kubernetes.io":{"namespace":"shop","pod":{"name":"api-0"},"serviceaccount":{"name":"api"}}}"#,
    );
    check(
        "kubernetes",
        &format!(
            "GET /api/v1/watch\nSec-WebSocket-Protocol: base64url.bearer.authorization.k8s.io.{}, v4.channel.k8s.io",
            URL_SAFE_NO_PAD.encode(&account)
        ),
        &[seen("subprotocol", "Bearer", &account)
            .by("kubernetes/service_account/claim")
            .with("alg", "ES256")
            .with("kubernetes.io/namespace", "shop")
            .with("kubernetes.io/pod/name", "api-0")
            .with("kubernetes.io/serviceaccount/name", "api")],
    );
    let key = plain_key();
    check(
        "openai",
        &format!(
            "GET /v1/realtime\nSec-WebSocket-Protocol: realtime, openai-insecure-api-key.{key}, openai-beta.realtime-v1"
        ),
        &[seen("subprotocol", "api-key", &key).by("openai//carrier")],
    );
    let bare = jwt(r#"{"sub":"x"}"#);
    check(
        "bare",
        &format!("GET /\nSec-WebSocket-Protocol: bearer, {bare}"),
        &[seen("subprotocol", "api-key", &bare)
            .by("jwt//shape")
            .with("alg", "ES256")
            .with("sub", "x")],
    );
    check(
        "broken",
        "GET /\nSec-WebSocket-Protocol: base64url.bearer.authorization.k8s.io.!",
        &[unseen("subprotocol", "Bearer", "malformed")],
    );
}

#[test]
fn secrets_in_paths() {
    let bot = format!("{}:{}", "123456789", random(B62, 35));
    let by_telegram = |bot: &str| {
        seen("path", "path", bot)
            .by("telegram/bot_token/shape")
            .with("telegram.bot_id", "123456789")
    };
    for (path, recorded) in [
        (format!("/bot{bot}/sendMessage"), "/{secret}/sendMessage"),
        (
            format!("/bot{}/sendMessage", bot.replace(':', "%3A")),
            "/{secret}/sendMessage",
        ),
        (
            format!("/file/bot{bot}/photos/file_0.jpg"),
            "/file/{secret}/photos/file_0.jpg",
        ),
    ] {
        let observed = check(
            "telegram",
            &format!("POST {path}\nHost: api.telegram.org"),
            &[by_telegram(&bot)],
        );
        assert_eq!(observed.sanitized.path, recorded);
    }
    let slack = format!(
        "T{}/B{}/{}",
        random(B32, 9),
        random(B32, 10),
        random(B62, 24)
    );
    let observed = check(
        "slack",
        &format!("POST /services/{slack}\nHost: hooks.slack.com"),
        &[seen("path", "path", &slack).by("slack/incoming_webhook/carrier")],
    );
    assert_eq!(
        observed.sanitized.path,
        "/services/{secret}/{secret}/{secret}"
    );
    slack
        .split('/')
        .for_each(|part| assert_absent(part, &observed, "part"));
    let discord = random(B62, 68);
    for path in ["/api/webhooks/", "/api/v10/webhooks/"] {
        let observed = check(
            "discord",
            &format!("POST {path}1234567890123456/{discord}?wait=true\nHost: discord.com"),
            &[seen("path", "path", &discord)
                .by("discord/webhook/carrier")
                .with("discord.webhook_id", "1234567890123456")],
        );
        assert_eq!(
            observed.sanitized.path,
            format!("{path}1234567890123456/{{secret}}")
        );
    }
    let hook = random(HEX, 32);
    check(
        "teams",
        &format!("POST /webhookb2/a@b/IncomingWebhook/{hook}/c\nHost: acme.webhook.office.com:443"),
        &[seen("path", "path", &hook).by("microsoft/teams_webhook/carrier")],
    );
    check(
        "infura",
        &format!("POST /v3/{hook}\nHost: mainnet.infura.io"),
        &[seen("path", "path", &hook).by("infura/project_key/carrier")],
    );
    let elsewhere = check(
        "another host",
        &format!("POST /v3/{hook}\nHost: notinfura.io"),
        &[],
    );
    assert_eq!(elsewhere.sanitized.path, "/v3/{opaque}");
}

/// The name of a key, a region or a service is in hosts and paths too, and is no secret.
#[test]
fn what_is_public_in_a_signed_request_stays_elsewhere() {
    let id = format!("AK{}{}", "IA", "QNZGKIQY56JQ7WML");
    let expected = || {
        seen("header:authorization", "AWS4-HMAC-SHA256", &id)
            .name()
            .by("aws/access_key/shape")
            .with("aws.access_key_id", &*id)
            .with("aws.account_id", "029608264753")
            .with("aws.region", "eu-central-1")
            .with("aws.service", "s3")
    };
    let observed = check(
        "s3",
        &format!(
            "GET /bucket/eu-central-1/logs?list-type=2&prefix=aws4_request\nHost: s3.eu-central-1.amazonaws.com\nAuthorization: AWS4-HMAC-SHA256 Credential={id}/20260101/eu-central-1/s3/aws4_request, SignedHeaders=host, Signature={}",
            random(HEX, 64)
        ),
        &[expected()],
    );
    let sanitized = observed.sanitized;
    assert_eq!(
        sanitized.host.as_deref(),
        Some("s3.eu-central-1.amazonaws.com")
    );
    assert_eq!(sanitized.path, "/bucket/eu-central-1/logs");
    assert_eq!(
        sanitized.query.as_deref(),
        Some("list-type=2&prefix=aws4_request")
    );
}

#[test]
fn words_in_a_cookie_stay_in_paths() {
    let text =
        "GET /preferences/dashboard\nCookie: settings=preferences%3Ddashboard%26theme%3Ddark; a=b";
    let observed = check("cookie", text, &[]);
    assert_eq!(observed.sanitized.path, "/preferences/dashboard");
}
