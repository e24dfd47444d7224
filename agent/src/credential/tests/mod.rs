//! Exchanges in, observations out: one table per kind of place, one check for all.
//!
//! Tokens are made up here from a prefix and random characters, in parts, so that no scanner takes this for a leak.

mod carriers;
mod fuzzed;
mod leak;
mod providers;
mod sanitized;
mod schemes;

use super::observation::{Observation, Observed};
use super::{Config, Observer};
use crate::flow::{Direction, Origin, Payload};
use crate::http::head::{
    BodyPrefix, Exchange, Headers, Outcome, RequestHead, ResponseHead, Version,
};
use agent_common::fingerprint::{Keyring, Secret};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::Value;
use std::cell::Cell;
use std::sync::{Arc, LazyLock};

const NOW: i64 = 1_790_000_000;

static KEYRING: LazyLock<Arc<Keyring>> = LazyLock::new(|| Arc::new(Keyring::ephemeral().unwrap()));

fn observer(config: Config) -> Observer {
    Observer::new(config, Arc::clone(&KEYRING))
}

/// Random text of that alphabet; another one each time, the same in each run.
fn random(alphabet: &str, len: usize) -> String {
    thread_local!(static STATE: Cell<u64> = const { Cell::new(0x2545_f491_4f6c_dd1d) });
    let next = || {
        let state = STATE
            .get()
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        STATE.set(state);
        (state >> 33) as usize
    };
    (0..len)
        .map(|_| char::from(alphabet.as_bytes()[next() % alphabet.len()]))
        .collect()
}

const B62: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const HEX: &str = "0123456789abcdef";
const B32: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// A key of no provider's form.
fn plain_key() -> String {
    // The digits in front keep it from beginning like one.
    format!("77{}", random(B62, 30))
}

fn jwt(payload: &str) -> String {
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    format!(
        "{}.{}.{}",
        encode(r#"{"alg":"ES256","typ":"JWT"}"#),
        encode(payload),
        random(B62, 86)
    )
}

fn basic(user: &str, password: &str) -> String {
    STANDARD.encode(format!("{user}:{password}"))
}

/// `METHOD target`, header lines, an empty line, a body; for a response: a line `---`, `status`, header lines.
/// A body that ends in `…` was not seen whole.
fn exchange(text: &str) -> Exchange {
    let (request, response) = text
        .split_once("\n---\n")
        .map_or((text, None), |(a, b)| (a, Some(b)));
    let (head, body) = request.split_once("\n\n").unwrap_or((request, ""));
    let (first, lines) = head.split_once('\n').unwrap_or((head, ""));
    let (method, target) = first.split_once(' ').unwrap();
    let origin = Origin { wire: 0, within: 0 };
    let whole = !body.ends_with('…');
    Exchange {
        request_direction: Direction::Sent,
        request: RequestHead {
            time: 0,
            origin,
            version: Version::Http11,
            method: method.to_owned(),
            target: Payload::copy_from(target.as_bytes()),
            headers: headers(lines),
        },
        request_body: BodyPrefix {
            bytes: Payload::copy_from(body.trim_end_matches('…').as_bytes()),
            whole,
        },
        response: response.map(|text| {
            let (status, lines) = text.split_once('\n').unwrap_or((text, ""));
            ResponseHead {
                time: 0,
                origin,
                version: Version::Http11,
                status: status.parse().unwrap(),
                headers: headers(lines),
            }
        }),
        response_body: BodyPrefix::default(),
        grpc_status: None,
        outcome: Outcome::Answered,
        proxy_claim: None,
    }
}

fn headers(lines: &str) -> Headers {
    let line = |line: &str| {
        // HTTP/2's pseudo-headers begin with a colon.
        let colon = line[1..].find(':').unwrap() + 1;
        let value = Payload::copy_from(line[colon + 1..].trim().as_bytes());
        (line[..colon].to_ascii_lowercase(), value)
    };
    let fields: Vec<_> = lines.lines().map(line).collect();
    Headers::of(
        fields
            .iter()
            .map(|(name, value)| (name.as_bytes(), &**value)),
    )
}

/// What is expected of one observation.
#[derive(Default)]
struct Expected {
    carrier: String,
    scheme: &'static str,
    hashed: Option<String>,
    unresolved: Option<&'static str>,
    provider: Option<String>,
    user: Option<String>,
    public: serde_json::Map<String, Value>,
    /// The hashed value is a key's public name.
    is_name: bool,
}

fn seen(carrier: &str, scheme: &'static str, hashed: &str) -> Expected {
    Expected {
        carrier: carrier.into(),
        scheme,
        hashed: Some(hashed.into()),
        ..Expected::default()
    }
}

fn unseen(carrier: &str, scheme: &'static str, reason: &'static str) -> Expected {
    Expected {
        carrier: carrier.into(),
        scheme,
        unresolved: Some(reason),
        ..Expected::default()
    }
}

impl Expected {
    /// `name/class/evidence`, the class empty if there is none.
    fn by(mut self, provider: &str) -> Self {
        self.provider = Some(provider.into());
        self
    }

    fn user(mut self, user: &str) -> Self {
        self.user = Some(user.into());
        self
    }

    fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.public.insert(name.into(), value.into());
        self
    }

    fn name(mut self) -> Self {
        self.is_name = true;
        self
    }

    fn render(&self) -> String {
        let fingerprints: Vec<String> = self
            .hashed
            .iter()
            .flat_map(|hashed| names_of(hashed))
            .collect();
        let provider = self.provider.clone().unwrap_or_default();
        let public = Value::Object(self.public.clone());
        format!(
            "{} {} {fingerprints:?} {:?} by {provider} user {:?} {public}",
            self.carrier,
            self.scheme,
            self.unresolved.unwrap_or_default(),
            self.user.as_deref().unwrap_or_default(),
        )
    }
}

fn names_of(hashed: &str) -> Vec<String> {
    let names = KEYRING.fingerprints(&Secret::copy_from(hashed.as_bytes()), NOW);
    names.iter().map(ToString::to_string).collect()
}

fn render(observation: &Observation) -> String {
    let provider = observation.provider.as_ref().map(|provider| {
        format!(
            "{}/{}/{}",
            provider.name,
            provider.class.as_deref().unwrap_or_default(),
            provider.evidence
        )
    });
    // GitHub's own hash follows from the token: checked once, apart.
    let mut public = observation.public.clone();
    public.remove("github.hashed_token");
    format!(
        "{} {} {:?} {:?} by {} user {:?} {}",
        observation.carrier,
        observation.scheme,
        observation.fingerprints,
        observation.unresolved.as_deref().unwrap_or_default(),
        provider.unwrap_or_default(),
        observation.user.as_deref().unwrap_or_default(),
        serde_json::to_value(&public).unwrap(),
    )
}

/// The one check: exactly these observations; no hashed secret in what comes out; and the same for the exchange cut
/// at every byte, as far as that can be said.
fn check(name: &str, text: &str, expected: &[Expected]) -> Observed {
    check_with(Config::default(), name, text, expected)
}

fn check_with(config: Config, name: &str, text: &str, expected: &[Expected]) -> Observed {
    let observer = observer(config);
    let observed = observer.observe(&exchange(text), NOW);
    let mut found: Vec<String> = observed.observations.iter().map(render).collect();
    let mut wanted: Vec<String> = expected.iter().map(Expected::render).collect();
    found.sort();
    wanted.sort();
    assert_eq!(found, wanted, "{name}\n{text}");
    let secrets = || {
        expected
            .iter()
            .filter(|expected| !expected.is_name)
            .filter_map(|expected| expected.hashed.as_deref())
    };
    for secret in secrets() {
        assert_absent(secret, &observed, text);
    }
    let whole = exchange(text);
    let fields: Vec<(&[u8], &[u8])> = whole
        .request
        .headers
        .iter()
        .map(|(name, value)| (name.as_bytes(), value))
        .collect();
    for (index, (name, value)) in fields.iter().enumerate() {
        for cut in 0..value.len() {
            let mut exchange = whole.clone_for_test();
            let mut fields = fields.clone();
            fields[index] = (name, &value[..cut]);
            exchange.request.headers = Headers::of(fields.into_iter());
            let observed = observer.observe(&exchange, NOW);
            secrets().for_each(|secret| assert_absent(secret, &observed, text));
        }
    }
    for cut in 0..whole.request.target.len() {
        let mut exchange = whole.clone_for_test();
        exchange.request.target = Payload::copy_from(&whole.request.target[..cut]);
        let observed = observer.observe(&exchange, NOW);
        secrets().for_each(|secret| assert_absent(secret, &observed, text));
    }
    observed
}

impl Exchange {
    fn clone_for_test(&self) -> Self {
        Self {
            request_direction: self.request_direction,
            request: self.request.clone(),
            request_body: self.request_body.clone(),
            response: self.response.clone(),
            response_body: self.response_body.clone(),
            grpc_status: self.grpc_status,
            outcome: self.outcome,
            proxy_claim: self.proxy_claim,
        }
    }
}

/// The secret is nowhere in what comes out: raw, percent-encoded, in base64 (at any alignment), in hexadecimal.
fn assert_absent(secret: &str, observed: &Observed, context: &str) {
    if secret.len() < 6 {
        return;
    }
    let json = observed
        .observations
        .iter()
        .map(|observation| serde_json::to_string(&observation.public).unwrap());
    let out = format!("{observed:?}{}", json.collect::<String>());
    for form in forms_of(secret) {
        assert!(
            !out.contains(&form),
            "{form} of {secret} in {out}\n{context}"
        );
    }
}

fn forms_of(secret: &str) -> Vec<String> {
    let mut forms = vec![secret.to_owned()];
    forms.push(secret.bytes().map(|byte| format!("%{byte:02X}")).collect());
    forms.push(secret.bytes().map(|byte| format!("{byte:02x}")).collect());
    forms.push(
        percent_encoding::utf8_percent_encode(secret, percent_encoding::NON_ALPHANUMERIC)
            .to_string(),
    );
    for shift in 0..3 {
        // The part of the encoding that does not depend on what stands around the secret.
        let text = URL_SAFE_NO_PAD.encode([&b"xyz"[..shift], secret.as_bytes()].concat());
        forms.push(text[usize::from(shift > 0) * 4..text.len() - 2].to_owned());
    }
    forms.retain(|form| form.len() >= 6);
    forms
}

#[test]
fn only_one_observation_per_credential_and_carrier() {
    let (one, other) = (plain_key(), plain_key());
    check(
        "repeated",
        &format!(
            "GET /\nX-Api-Key: {one}\nX-Api-Key: {one}\nX-Api-Key: {other}\nAuthorization: Bearer {one}"
        ),
        &[
            seen("header:x-api-key", "api-key", &one),
            seen("header:x-api-key", "api-key", &other),
            seen("header:authorization", "Bearer", &one),
        ],
    );
}

#[test]
fn several_keys_give_several_fingerprints_and_none_gives_a_reason() {
    let mut keyring = Keyring::generate(NOW - 10).unwrap();
    keyring.add_key(NOW, 5).unwrap();
    let kids: Vec<String> = keyring.keys().map(|(kid, _)| kid.to_string()).collect();
    let observer = Observer::new(Config::default(), Arc::new(keyring));
    let exchange = exchange(&format!("GET /\nAuthorization: Bearer {}", plain_key()));
    for (now, expected) in [
        (NOW - 11, &kids[..0]),
        (NOW - 1, &kids[1..]),
        (NOW, &kids[..]),
        (NOW + 5, &kids[..1]),
    ] {
        let observation = observer.observe(&exchange, now).observations.remove(0);
        let found: Vec<&str> = observation
            .fingerprints
            .iter()
            .map(|name| name.split(':').nth(1).unwrap())
            .collect();
        assert_eq!(found, expected, "at {}", now - NOW);
        assert_eq!(
            observation.unresolved.as_deref(),
            expected.is_empty().then_some("no_valid_key")
        );
    }
}

#[test]
fn too_many_credentials_are_said_and_nothing_of_the_rest_is_recorded() {
    let keys: Vec<String> = (0..40).map(|_| plain_key()).collect();
    let lines: String = keys
        .iter()
        .map(|key| format!("\nX-Api-Key: {key}"))
        .collect();
    let last = &keys[39];
    let text = format!(
        "GET /a/{last}?x={}{lines}\nUser-Agent: a\nHost: a.test\nX-Request-Id: {last}",
        &last[..9]
    );
    let observed = observer(Config::default()).observe(&exchange(&text), NOW);
    assert_eq!(observed.observations.len(), 33);
    assert_eq!(
        observed.observations[32].unresolved.as_deref(),
        Some("too_many")
    );
    for key in &keys {
        assert_absent(key, &observed, &text);
    }
    assert_eq!(observed.sanitized.path, "/{secret}");
    assert_eq!(observed.sanitized.host.as_deref(), Some("{secret}"));
}

#[test]
fn an_exchange_without_credentials_has_no_observations() {
    for text in [
        "GET /",
        "GET /search?key=color&token=next&page=2&sig=abc&q=api_key%3Dvalue",
        "GET /a?key=internationalization\nX-Request-Id: 550e8400-e29b-41d4-a716-446655440000",
        "GET /commit/da39a3ee5e6b4b0d3255bfef95601890afd80709\nIf-None-Match: \"abcdef0123456789abcdef\"",
        "GET /\nCookie: session=aB3dE6gH9jK2mN5pQ8sT; theme=dark\n---\n200\nSet-Cookie: sid=aB3dE6gH9jK2mN5pQ8sT",
        "GET /bot/status\nX-Custom: ordinary\nAccept: text/html",
        "GET /services/Team/Build/deployment\nHost: ci.test",
        "GET /chat\nSec-WebSocket-Protocol: v4.channel.k8s.io, graphql-ws",
        "POST /login\nContent-Type: application/json\n\n{\"password\":\"access_token=x&client_secret=abcdefghijklmnopqrst\"}",
        "POST /a\nContent-Type: text/plain\n\nclient_secret=abcdefghijklmnopqrst",
        "POST /a\nContent-Type: application/x-www-form-urlencoded\nContent-Encoding: gzip\n\nclient_secret=abcdefghijklmnopqrst",
        "GET /?description=access_token%3Dabcdefghijklmnopqrst",
        "GET /\nAuthorization:",
        "CONNECT api.test:443",
        "OPTIONS *",
        "GET /\nX-Api-Key:",
        "GET /\nDPoP: proof.only.here",
    ] {
        check("negative", text, &[]);
    }
}
