//! What follows `Authorization:`.

use super::*;

const AUTH: &str = "header:authorization";

fn check_value(value: &str, expected: Expected) -> Observed {
    check(
        value,
        &format!("GET /v1/things\nHost: api.test\nAuthorization: {value}"),
        &[expected],
    )
}

#[test]
fn bearer_like_schemes_hash_what_follows_exactly() {
    for scheme in [
        "Bearer",
        "DPoP",
        "GNAP",
        "token",
        "SSWS",
        "ApiKey",
        "Splunk",
        "GenieKey",
        "OAuth",
        "Key",
        "Bot",
        "JWT",
        "Api-Token",
        "Zoho-oauthtoken",
        "FlyV1",
        "AccessKey",
    ] {
        let key = plain_key();
        for written in [
            scheme.to_owned(),
            scheme.to_uppercase(),
            scheme.to_lowercase(),
        ] {
            check_value(&format!("{written}  {key} "), seen(AUTH, scheme, &key));
        }
    }
    // Never case-folded, never decoded.
    let odd = format!("{}%41+/==", plain_key());
    check_value(&format!("Bearer {odd}"), seen(AUTH, "Bearer", &odd));
}

#[test]
fn proxy_authorization_and_its_like() {
    for header in [
        "Proxy-Authorization",
        "X-Forwarded-Authorization",
        "X-Original-Authorization",
        "X-Serverless-Authorization",
    ] {
        let key = plain_key();
        let carrier = format!("header:{}", header.to_lowercase());
        check(
            header,
            &format!("GET /\n{header}: Bearer {key}"),
            &[seen(&carrier, "Bearer", &key)],
        );
    }
}

#[test]
fn a_credential_in_a_parameter() {
    let key = plain_key();
    for (value, scheme) in [
        (
            format!("PrivateToken token=\"{key}\", challenge=\"abc\""),
            "PrivateToken",
        ),
        (format!("Token token=\"{key}\""), "token"),
        (format!("token token={key}, nonce=\"x\""), "token"),
        (format!("GoogleLogin auth={key}"), "GoogleLogin"),
        (
            format!("MediaBrowser Client=\"Web\", Device=\"x, y\", Token=\"{key}\""),
            "MediaBrowser",
        ),
        (format!("Snowflake Token=\"{key}\""), "Snowflake"),
        (
            format!("EG1-HMAC-SHA256 timestamp=1;access_token={key};signature=abc"),
            "EG1-HMAC-SHA256",
        ),
        (
            format!(
                "OAuth realm=\"x\", oauth_nonce=\"n\", oauth_token=\"{key}\", oauth_signature=\"s\""
            ),
            "OAuth",
        ),
    ] {
        check_value(&value, seen(AUTH, scheme, &key));
    }
    let consumer = format!(
        "OAuth oauth_consumer_key=\"app-key\", oauth_token=\"{key}%2B\", oauth_signature=\"s\""
    );
    check_value(
        &consumer,
        seen(AUTH, "OAuth", &format!("{key}+")).with("oauth_consumer_key", "app-key"),
    );
    let two_legged = "OAuth oauth_consumer_key=\"app-key\", oauth_signature=\"s\"";
    check_value(
        two_legged,
        seen(AUTH, "OAuth", "app-key")
            .name()
            .with("oauth_consumer_key", "app-key"),
    );
    let claims = r#"{"aud":"https://push.test","exp":1790000000,"sub":"mailto:a@b.test"}"#;
    let vapid = jwt(claims);
    check_value(
        &format!("vapid t={vapid}, k=BPublicKey"),
        seen(AUTH, "vapid", &vapid)
            .by("jwt//shape")
            .with("alg", "ES256")
            .with("aud", "https://push.test")
            .with("exp", 1_790_000_000)
            .with("sub", "mailto:a@b.test")
            .with("vapid.k", "BPublicKey"),
    );
    for broken in [
        "PrivateToken",
        "PrivateToken challenge=\"x\"",
        "Bearer",
        "vapid k=x",
        "OAuth a b",
    ] {
        let scheme = broken.split(' ').next().unwrap();
        let scheme = ["PrivateToken", "Bearer", "vapid", "OAuth"]
            .into_iter()
            .find(|name| *name == scheme)
            .unwrap();
        check_value(broken, unseen(AUTH, scheme, "malformed"));
    }
}

#[test]
fn signing_schemes_hash_the_name_of_the_key() {
    let id = format!("AK{}{}", "IA", "QNZGKIQY56JQ7WML");
    let signature = random(HEX, 64);
    for scheme in ["AWS4-HMAC-SHA256", "AWS3"] {
        let observed = check_value(
            &format!(
                "{scheme} Credential={id}/20260101/eu-west-1/s3/aws4_request, SignedHeaders=host;x-amz-date, Signature={signature}"
            ),
            seen(AUTH, scheme, &id)
                .name()
                .by("aws/access_key/shape")
                .with("aws.access_key_id", &*id)
                .with("aws.account_id", "029608264753")
                .with("aws.region", "eu-west-1")
                .with("aws.service", "s3"),
        );
        assert_absent(&signature, &observed, "signature");
    }
    check_value(
        &format!(
            "AWS4-ECDSA-P256-SHA256 Credential={id}/20260101/s3/aws4_request, Signature={signature}"
        ),
        seen(AUTH, "AWS4-ECDSA-P256-SHA256", &id)
            .name()
            .by("aws/access_key/shape")
            .with("aws.access_key_id", &*id)
            .with("aws.account_id", "029608264753")
            .with("aws.service", "s3"),
    );
    check_value(
        &format!("AWS {id}:{signature}"),
        seen(AUTH, "AWS", &id)
            .name()
            .by("aws/access_key/shape")
            .with("aws.access_key_id", &*id)
            .with("aws.account_id", "029608264753"),
    );
    check_value(
        &format!(
            "AWS4-HMAC-SHA256 Credential=minioadmin/20260101/x/s3/aws4_request, Signature={signature}"
        ),
        seen(AUTH, "AWS4-HMAC-SHA256", "minioadmin")
            .name()
            .with("aws.region", "x")
            .with("aws.service", "s3"),
    );
    for scheme in ["SharedKey", "SharedKeyLite"] {
        check_value(
            &format!("{scheme} myaccount:{signature}"),
            seen(AUTH, scheme, "myaccount")
                .name()
                .with("azure.storage_account", "myaccount"),
        );
    }
    check_value(
        &format!("HMAC-SHA256 Credential=app-id&SignedHeaders=host&Signature={signature}"),
        seen(
            AUTH,
            "HMAC-SHA256",
            &format!("app-id&SignedHeaders=host&Signature={signature}"),
        )
        .name(),
    );
    check_value(
        "Concealed k=a2V5, a=cHVi, s=2055, v=dg, p=cHJvb2Y",
        seen(AUTH, "Concealed", "a2V5")
            .name()
            .with("concealed.k", "a2V5"),
    );
    check_value(
        "HOBA result=\"kid1.Y2g.bm9uY2U.c2ln\"",
        seen(AUTH, "HOBA", "kid1").name().with("hoba.kid", "kid1"),
    );
    check_value(
        "Signature keyId=\"key-1\",algorithm=\"hs2019\",signature=\"c2ln\"",
        seen(AUTH, "Signature", "key-1")
            .name()
            .with("signature.key_id", "key-1"),
    );
    check_value(
        "Hawk id=\"client\", ts=\"1\", mac=\"bWFj\"",
        seen(AUTH, "Hawk", "client")
            .name()
            .with("hawk.id", "client"),
    );
    for broken in [
        "AWS4-HMAC-SHA256 x",
        "SharedKey :x",
        "HOBA result=\"x\"",
        "Concealed a=b",
        "AWS4-HMAC-SHA256 Credential=/",
    ] {
        let name = ["AWS4-HMAC-SHA256", "SharedKey", "HOBA", "Concealed"]
            .into_iter()
            .find(|name| broken.starts_with(name));
        check_value(broken, unseen(AUTH, name.unwrap(), "malformed"));
    }
}

#[test]
fn challenge_response_schemes_hash_nothing_and_keep_the_user() {
    let response = random(HEX, 32);
    let observed = check_value(
        &format!(
            "Digest username=\"alice\", realm=\"r\", nonce=\"n\", uri=\"/\", response=\"{response}\", cnonce=\"c\""
        ),
        unseen(AUTH, "Digest", "nothing_stable").user("alice"),
    );
    assert_absent(&response, &observed, "digest response");
    check_value(
        "Digest username*=UTF-8''J%C3%A4s%C3%B8n, nonce=\"n\"",
        unseen(AUTH, "Digest", "nothing_stable").user("Jäsøn"),
    );
    check_value(
        "Digest username=\"488869477bf257147b804c45308cd62a\", userhash=true",
        unseen(AUTH, "Digest", "nothing_stable"),
    );
    check_value(
        "Mutual user=\"bob\", sid=\"x\", vkc=\"y\"",
        unseen(AUTH, "Mutual", "nothing_stable").user("bob"),
    );
    check_value(
        "Negotiate YIIJvwYGKwYBBQUCoIIJ",
        unseen(AUTH, "Negotiate", "nothing_stable"),
    );
    let first = STANDARD.encode("n,,n=al=2Cice,r=fyko+d2lbbFgONRv9qkxdawL");
    for scheme in ["SCRAM-SHA-1", "SCRAM-SHA-256"] {
        check_value(
            &format!("{scheme} realm=\"x\", data={first}"),
            unseen(AUTH, scheme, "nothing_stable").user("al,ice"),
        );
    }
    check_value(
        "SCRAM-SHA-256 sid=x, data=Yz1iaXdz",
        unseen(AUTH, "SCRAM-SHA-256", "nothing_stable"),
    );
}

#[test]
fn shared_access_signatures() {
    let signature = format!("{}+/=", random(B62, 41));
    let encoded = signature
        .replace('+', "%2B")
        .replace('/', "%2F")
        .replace('=', "%3D");
    check_value(
        &format!(
            "SharedAccessSignature sr=hub.azure-devices.net%2Fdevices%2Fd1&sig={encoded}&se=1790000000&skn=policy"
        ),
        seen(AUTH, "SharedAccessSignature", &signature)
            .by("azure/shared_access_signature/carrier")
            .with("sas.sr", "hub.azure-devices.net/devices/d1")
            .with("sas.se", "1790000000")
            .with("sas.skn", "policy"),
    );
}

#[test]
fn basic_rules() {
    let github = format!("{}_{}", "ghp", random(B62, 36));
    let stripe = format!("{}_{}_{}", "sk", "live", random(B62, 24));
    let by_github = "github/personal_access_token/shape";
    let key = plain_key();
    let account = format!("AC{}", random(HEX, 32));
    let rows = [
        // 1. a provider's shape on either side
        (
            "alice",
            &*github,
            seen(AUTH, "Basic", &github).by(by_github).user("alice"),
        ),
        (
            &*github,
            "x-oauth-basic",
            seen(AUTH, "Basic", &github).by(by_github),
        ),
        (
            &*stripe,
            "",
            seen(AUTH, "Basic", &stripe).by("stripe/secret_key/shape"),
        ),
        // 2. a user name that marks a token
        (
            "x-access-token",
            &*key,
            seen(AUTH, "Basic", &key).user("x-access-token"),
        ),
        (
            "__token__",
            &*key,
            seen(AUTH, "Basic", &key).user("__token__"),
        ),
        ("oauth2", &*key, seen(AUTH, "Basic", &key).user("oauth2")),
        ("AWS", &*key, seen(AUTH, "Basic", &key).user("AWS")),
        ("", &*key, seen(AUTH, "Basic", &key)),
        // 3. a password that marks the user name
        (&*key, "x-oauth-basic", seen(AUTH, "Basic", &key)),
        (&*key, "", seen(AUTH, "Basic", &key)),
        (&*key, "api_token", seen(AUTH, "Basic", &key)),
        // 4. a public account name
        (
            &*account,
            &*key,
            seen(AUTH, "Basic", &key)
                .by("twilio/secret/carrier")
                .user(&account),
        ),
        // 5. people
        (
            "alice",
            "correct horse battery",
            unseen(AUTH, "Basic", "password").user("alice"),
        ),
        (
            "alice@example.test",
            "a:b",
            unseen(AUTH, "Basic", "password").user("alice@example.test"),
        ),
        (
            "alice",
            "",
            unseen(AUTH, "Basic", "nothing_stable").user("alice"),
        ),
        (
            "x-access-token",
            "short",
            unseen(AUTH, "Basic", "short").user("x-access-token"),
        ),
    ];
    for (user, password, expected) in rows {
        let observed = check_value(&format!("Basic {}", basic(user, password)), expected);
        assert_absent(password, &observed, "password");
    }
    for broken in ["Basic !!!", "Basic YWxpY2U=", "Basic"] {
        check_value(broken, unseen(AUTH, "Basic", "malformed"));
    }
    let asked = Config {
        basic_passwords: true,
        ..Config::default()
    };
    let text = format!(
        "GET /\nAuthorization: Basic {}",
        basic("alice", "correct horse battery")
    );
    check_with(
        asked,
        "asked",
        &text,
        &[seen(AUTH, "Basic", "correct horse battery").user("alice")],
    );
    // Both sides a token.
    let gitlab = format!("{}-{}", "glpat", random(B62, 20));
    check(
        "both",
        &format!("GET /\nAuthorization: Basic {}", basic(&github, &gitlab)),
        &[
            seen(AUTH, "Basic", &github).by(by_github),
            seen(AUTH, "Basic", &gitlab).by("gitlab/personal_access_token/shape"),
        ],
    );
}

#[test]
fn short_keys_only_when_asked_for() {
    let text = "GET /\nAuthorization: Bearer hunter2";
    check("short", text, &[unseen(AUTH, "Bearer", "short")]);
    let asked = Config {
        short_keys: true,
        ..Config::default()
    };
    check_with(
        asked,
        "short, asked",
        text,
        &[seen(AUTH, "Bearer", "hunter2")],
    );
    let (under, enough) = (random(B62, 15), random(B62, 16));
    check_value(&format!("Bearer {under}"), unseen(AUTH, "Bearer", "short"));
    check_value(&format!("Bearer {enough}"), seen(AUTH, "Bearer", &enough));
}

#[test]
fn bare_and_unknown_schemes() {
    let key = plain_key();
    check_value(&key, seen(AUTH, "none", &key));
    check_value(&format!("Frobnicate {key}"), seen(AUTH, "unknown", &key));
    check_value(
        &format!("Frobnicate a={key}, b=2"),
        unseen(AUTH, "unknown", "unknown_scheme"),
    );
    let proxmox = "PVEAPIToken=root@pam!monitoring=aaaaaaaa-bbbb-cccc-dddd-ef1234567890";
    check_value(
        proxmox,
        seen(AUTH, "PVEAPIToken", "aaaaaaaa-bbbb-cccc-dddd-ef1234567890")
            .by("proxmox//carrier")
            .user("root@pam!monitoring"),
    );
    let observed = check_value(
        &format!("{key} {key}x"),
        seen(AUTH, "unknown", &format!("{key}x")),
    );
    assert_absent(&key, &observed, "a secret in the scheme's place");
}

#[test]
fn dpop_hashes_the_access_token_and_shows_its_binding() {
    let access = jwt(
        r#"{"iss":"https://idp.test","cnf":{"jkt":"0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}}"#,
    );
    let proof = jwt(r#"{"jti":"x","htm":"GET","htu":"https://api.test/"}"#);
    let observed = check(
        "dpop",
        &format!("GET /\nAuthorization: DPoP {access}\nDPoP: {proof}"),
        &[seen(AUTH, "DPoP", &access)
            .by("jwt//shape")
            .with("alg", "ES256")
            .with("iss", "https://idp.test")
            .with("cnf.jkt", "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I")],
    );
    assert_absent(&proof, &observed, "proof");
}
