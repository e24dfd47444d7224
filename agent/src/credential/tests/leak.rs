//! A random secret in any carrier never comes out.

use super::*;
use proptest::prelude::*;

/// Every carrier, with `S` for the secret, `E` for it percent-encoded, `B` for `user:secret` in base64, `U` for it in
/// base64url; always with the secret in path, query and other headers too.
const CARRIERS: &[&str] = &[
    "GET /\nAuthorization: Bearer S",
    "GET /\nAuthorization: S",
    "GET /\nAuthorization: Odd S",
    "GET /\nAuthorization: S odd",
    "GET /\nAuthorization: Odd a=\"S\", b=S",
    "GET /\nAuthorization: Basic B",
    "GET /\nAuthorization: Digest username=\"alice\", response=\"S\"",
    "GET /\nAuthorization: Negotiate U",
    "GET /\nAuthorization: SCRAM-SHA-256 data=U",
    "GET /\nAuthorization: OAuth oauth_token=\"E\", oauth_signature=\"S\"",
    "GET /\nAuthorization: PrivateToken token=\"S\"",
    "GET /\nAuthorization: vapid t=S, k=x",
    "GET /\nAuthorization: AWS4-HMAC-SHA256 Credential=x/1/r/s/aws4_request, Signature=S",
    "GET /\nAuthorization: SharedKey account:S",
    "GET /\nAuthorization: SharedAccessSignature sr=x&sig=E&se=1",
    "GET /\nAuthorization: token token=\"S\"",
    "GET /\nProxy-Authorization: Bearer S",
    "GET /\nX-Api-Key: S",
    "GET /\nPRIVATE-TOKEN: S",
    "GET /\nX-Amz-Security-Token: S",
    "GET /\nX-Acme-Key: S",
    "GET /\nx-api-key-bin: U",
    "GET /\nDPoP: S",
    "GET /\nCookie: session=S",
    "GET /\nCookie: other=S",
    "GET /\n---\n200\nSet-Cookie: session=S; Secure",
    "GET /\nSec-WebSocket-Protocol: base64url.bearer.authorization.k8s.io.U",
    "GET /\nSec-WebSocket-Protocol: openai-insecure-api-key.S",
    "GET /?access_token=E",
    "GET /?key=E",
    "GET /?token=E",
    "GET /?sv=1&sp=r&sig=E",
    "GET /?X-Amz-Credential=x%2F1%2Fr%2Fs%2Faws4_request&X-Amz-Signature=E",
    "GET /a/token=E",
    "GET /;jsessionid=E",
    "GET /?a=1&password=E",
    "GET /?code=E&state=E",
    "GET http://alice:E@host.test/",
    "GET http://E@host.test/",
    "GET http://E:x-oauth-basic@host.test/",
    "GET /services/TAAAAAAAA/BAAAAAAAA/E\nHost: hooks.slack.com",
    "GET /bot123456789:E/getMe",
    "POST /\nContent-Type: application/x-www-form-urlencoded\n\nclient_secret=E",
    "POST /\nContent-Type: application/x-www-form-urlencoded\n\nclient_secret=E…",
    "POST /\nContent-Type: application/x-www-form-urlencoded\n\ngrant_type=password&username=alice&password=E",
];

const UNKNOWN_SLOTS: &[&str] = &[
    "GET /?unknown=E",
    "GET /?E",
    "GET /?E=1",
    "GET /E/x",
    "GET /S",
    "GET /a/b/S?x",
    "GET /a=E",
    "GET /;a=E",
    "GET /\nUser-Agent: tool/S",
    "GET /\nUser-Agent: S",
    "GET /\nX-Forwarded-For: S",
    "GET /\nForwarded: for=_S;host=S",
    "POST /\nContent-Type: application/x-www-form-urlencoded\n\nother=E",
];

/// Characters of `alphabet`, each as likely as the other.
fn text(alphabet: &str, len: std::ops::Range<usize>) -> impl Strategy<Value = String> + use<> {
    let alphabet: Vec<char> = alphabet.chars().collect();
    proptest::collection::vec(proptest::sample::select(alphabet), len).prop_map(String::from_iter)
}

fn fill(template: &str, secret: &str) -> String {
    let encoded = percent_encoding::utf8_percent_encode(secret, percent_encoding::NON_ALPHANUMERIC)
        .to_string();
    let mut text = String::new();
    let bytes = template.as_bytes();
    for (place, character) in template.char_indices() {
        let edge = |other: Option<&u8>| {
            other.is_none_or(|byte| !byte.is_ascii_alphanumeric() && *byte != b'-' && *byte != b'_')
        };
        let alone = edge(place.checked_sub(1).and_then(|before| bytes.get(before)))
            && edge(bytes.get(place + 1));
        match character {
            'S' if alone => text.push_str(secret),
            'E' if alone => text.push_str(&encoded),
            'B' if alone => text.push_str(&basic("alice", secret)),
            'U' if alone => text.push_str(&URL_SAFE_NO_PAD.encode(secret)),
            _ => text.push(character),
        }
    }
    text
}

fn configurations() -> [Config; 2] {
    let asked = Config {
        extra_headers: vec!["x-acme-key".into()],
        cookies: vec!["session".into()],
        basic_passwords: true,
        short_keys: true,
    };
    [Config::default(), asked]
}

/// Was shown as a user's name: its parts between the slashes are short.
#[test]
fn base64_in_the_place_of_a_user() {
    let secret = "AAAAAAAAAAAAAA/AAAAAAAAAAA";
    for config in configurations() {
        let observer = observer(config);
        for template in CARRIERS.iter().filter(|template| template.contains("://E")) {
            let text = fill(template, secret);
            let observed = observer.observe(&exchange(&text), NOW);
            assert_absent(secret, &observed, &text);
        }
    }
}

/// Reads like words, but for ten characters of it.
#[test]
fn a_bot_whose_secret_reads_like_words() {
    let secret = "agqeA-fip-81EhtLi2Do-CUr";
    for config in configurations() {
        let observer = observer(config);
        for text in [
            format!("GET /bot123456789:{secret}/getMe"),
            format!("GET /file/bot1%3A{}/a", secret.replace('-', "%2D")),
        ] {
            let observed = observer.observe(&exchange(&text), NOW);
            assert_absent(secret, &observed, &text);
        }
    }
}

#[test]
fn every_template_holds_the_secret() {
    for template in CARRIERS {
        assert_ne!(fill(template, "x1"), *template);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn in_every_carrier(secret in prop_oneof![
        text(B62, 20..60),
        text(&format!("{B62}-_"), 24..80),
        text(&format!("{B62}+/"), 26..60),
        text(HEX, 24..64),
        text(B62, 36..37).prop_map(|body| format!("{}_{body}", "ghp")),
    ]) {
        for config in configurations() {
            let observer = observer(config);
            for template in CARRIERS {
                let text = fill(template, &secret);
                let observed = observer.observe(&exchange(&text), NOW);
                assert_absent(&secret, &observed, &text);
            }
        }
    }

    /// In slots that hold no credential by name only its look can tell: long secrets, so that chance has no part in it.
    #[test]
    fn in_unknown_slots(secret in prop_oneof![
        text(B62, 40..60),
        text(&format!("{B62}-_"), 48..80),
        text(&format!("{B62}+/"), 48..80),
        text(HEX, 48..64),
    ]) {
        let observer = observer(Config::default());
        for template in UNKNOWN_SLOTS {
            let text = fill(template, &secret);
            let observed = observer.observe(&exchange(&text), NOW);
            assert_absent(&secret, &observed, &text);
        }
    }

    /// A credential in a known slot is not recorded from anywhere else either, even a short or wordy one.
    #[test]
    fn known_secrets_everywhere(secret in prop_oneof!["[a-z]{8,30}", "[a-z]{3,8}-[a-z]{3,8}-[a-z]{3,8}", "[A-Za-z0-9]{16,40}"]) {
        let observer = observer(Config { short_keys: true, ..Config::default() });
        for slot in ["Authorization: Bearer S", "X-Api-Key: S", "Authorization: Basic B", "Proxy-Authorization: Basic B"] {
            let slot = fill(slot, &secret);
            let text = format!(
                "GET /x/{secret}/{secret}.json?a={secret}&{secret}=1\nHost: {secret}.test\nUser-Agent: {secret}\nX-Request-Id: {secret}\nForwarded: for=_{secret}\n{slot}"
            );
            let observed = observer.observe(&exchange(&text), NOW);
            assert_absent(&secret, &observed, &text);
        }
    }
}
