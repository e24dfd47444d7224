//! JWT claims that may be kept: an allow-list of public ones (RFC 7519 section 4.1, RFC 9068, RFC 7800, Kubernetes).
//!
//! The claims are what the token says of itself; no signature is checked here, so whatever follows from them carries
//! the evidence `claim`. Only the listed claims are ever copied out of the decoded payload.
//!
//! Invariant: every kept value is bounded, and none has the form of a credential.
//! Invariant: linear in the token's length; a payload over [`PAYLOAD_MAX`] is not decoded.

use super::provider::{self, CLAIM, Recognised};
use super::text;
use serde::Deserialize;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The longest payload part (in base64) that is decoded.
const PAYLOAD_MAX: usize = 32 * 1024;
/// The longest header part.
const HEADER_MAX: usize = 8 * 1024;
/// The longest kept string, in bytes. A longer one is left out: half a subject would be another subject.
const STRING_MAX: usize = 256;
/// Scopes are lists.
const SCOPE_MAX: usize = 1024;
/// The most audiences that are kept; with more, none is.
const AUDIENCES_MAX: usize = 16;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Header<'a> {
    #[serde(borrow)]
    alg: Loose<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Claims<'a> {
    #[serde(borrow)]
    iss: Loose<'a>,
    sub: Loose<'a>,
    aud: Loose<'a>,
    azp: Loose<'a>,
    client_id: Loose<'a>,
    scope: Loose<'a>,
    exp: Loose<'a>,
    iat: Loose<'a>,
    jti: Loose<'a>,
    cnf: Loose<'a>,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Loose<'a>,
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    legacy_namespace: Loose<'a>,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    legacy_name: Loose<'a>,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    legacy_uid: Loose<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Confirmation<'a> {
    #[serde(borrow)]
    jkt: Loose<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Kubernetes<'a> {
    #[serde(borrow)]
    namespace: Loose<'a>,
    pod: Loose<'a>,
    serviceaccount: Loose<'a>,
    node: Loose<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Named<'a> {
    #[serde(borrow)]
    name: Loose<'a>,
    uid: Loose<'a>,
}

/// A claim's own text: a claim of an unexpected type must not make the others unreadable.
#[derive(Default, Deserialize)]
struct Loose<'a>(#[serde(borrow)] Option<&'a serde_json::value::RawValue>);

impl<'a> Loose<'a> {
    fn read<T: Deserialize<'a>>(&self) -> Option<T> {
        serde_json::from_str(self.0?.get()).ok()
    }

    fn string(&self, max: usize) -> Option<Value> {
        let text: Cow<'a, str> = self.read()?;
        presentable(&text, max).map(Value::String)
    }

    /// NumericDate (RFC 7519 section 2): a number, perhaps with a fraction.
    fn number(&self) -> Option<Value> {
        self.read::<serde_json::Number>().map(Value::Number)
    }

    fn audience(&self) -> Option<Value> {
        self.string(STRING_MAX).or_else(|| {
            let list: Vec<Cow<'a, str>> = self.read()?;
            let fits = (1..=AUDIENCES_MAX).contains(&list.len());
            let texts = list
                .iter()
                .map(|text| presentable(text, STRING_MAX).map(Value::String));
            fits.then(|| texts.collect::<Option<Vec<_>>>())
                .flatten()
                .map(Value::Array)
        })
    }
}

fn presentable(claim: &str, max: usize) -> Option<String> {
    let text = text::presentable(claim.as_bytes(), max)?;
    (!provider::credential_shaped(text.as_bytes())).then_some(text)
}

/// Puts the public claims of a JWT into `public`, under the claims' names; gives the issuer's provider if the claims
/// name one that is known.
pub(super) fn claims(compact: &[u8], public: &mut BTreeMap<String, Value>) -> Option<Recognised> {
    let mut parts = compact.split(|&byte| byte == b'.');
    let (header, payload) = (parts.next()?, parts.next()?);
    if header.len() > HEADER_MAX || payload.len() > PAYLOAD_MAX {
        return None;
    }
    let mut keep = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            public.insert(name.to_owned(), value);
        }
    };
    let header = text::base64(header)?;
    let header: Header<'_> = serde_json::from_slice(&header).ok()?;
    keep("alg", header.alg.string(32));

    let payload = text::base64(payload)?;
    let claims: Claims<'_> = serde_json::from_slice(&payload).ok()?;
    keep("iss", claims.iss.string(STRING_MAX));
    keep("sub", claims.sub.string(STRING_MAX));
    keep("aud", claims.aud.audience());
    keep("azp", claims.azp.string(STRING_MAX));
    keep("client_id", claims.client_id.string(STRING_MAX));
    keep("scope", claims.scope.string(SCOPE_MAX));
    keep("exp", claims.exp.number());
    keep("iat", claims.iat.number());
    keep("jti", claims.jti.string(STRING_MAX));
    let confirmation: Confirmation<'_> = claims.cnf.read().unwrap_or_default();
    keep("cnf.jkt", confirmation.jkt.string(STRING_MAX));

    let kubernetes: Option<Kubernetes<'_>> = claims.kubernetes.read();
    let bound = kubernetes.is_some();
    let kubernetes = kubernetes.unwrap_or_default();
    let named = |loose: &Loose<'_>| {
        let named: Named<'_> = loose.read().unwrap_or_default();
        (named.name.string(STRING_MAX), named.uid.string(STRING_MAX))
    };
    let (pod, pod_uid) = named(&kubernetes.pod);
    let (account, account_uid) = named(&kubernetes.serviceaccount);
    let (node, _) = named(&kubernetes.node);
    let namespace = kubernetes.namespace.string(STRING_MAX);
    let legacy = claims.legacy_namespace.string(STRING_MAX);
    let service_account = (bound && account.is_some()) || legacy.is_some();
    keep("kubernetes.io/namespace", namespace.or(legacy));
    keep("kubernetes.io/pod/name", pod);
    keep("kubernetes.io/pod/uid", pod_uid);
    keep(
        "kubernetes.io/serviceaccount/name",
        account.or_else(|| claims.legacy_name.string(STRING_MAX)),
    );
    keep(
        "kubernetes.io/serviceaccount/uid",
        account_uid.or_else(|| claims.legacy_uid.string(STRING_MAX)),
    );
    keep("kubernetes.io/node/name", node);

    let recognised = |provider, class| {
        Some(Recognised {
            provider,
            class,
            evidence: CLAIM,
            public: false,
        })
    };
    if service_account {
        return recognised("kubernetes", Some("service_account"));
    }
    let issuer: Cow<'_, str> = claims.iss.read()?;
    let (provider, class) = issuer_of(&issuer)?;
    recognised(provider, class)
}

/// Issuers whose URL is public knowledge, by exact host.
fn issuer_of(issuer: &str) -> Option<(&'static str, Option<&'static str>)> {
    let host = issuer.strip_prefix("https://").unwrap_or(issuer);
    let host = host.split('/').next()?;
    let known = match host {
        "token.actions.githubusercontent.com" => ("github", Some("actions_oidc")),
        "gitlab.com" => ("gitlab", Some("ci_id_token")),
        "accounts.google.com" => ("google", Some("id_token")),
        "sts.windows.net" | "login.microsoftonline.com" => ("microsoft", Some("entra")),
        "appleid.apple.com" => ("apple", Some("id_token")),
        "auth.docker.io" => ("docker", Some("registry_token")),
        "oidc.circleci.com" => ("circleci", Some("oidc")),
        "app.terraform.io" => ("terraform", Some("workload_identity")),
        _ => {
            let belongs = |domain: &str| {
                host.strip_suffix(domain)
                    .is_some_and(|left| left.ends_with('.'))
            };
            return [
                ("auth0.com", "auth0"),
                ("okta.com", "okta"),
                ("oktapreview.com", "okta"),
                ("amazonaws.com", "aws"),
                ("b2clogin.com", "microsoft"),
                ("ciamlogin.com", "microsoft"),
            ]
            .into_iter()
            .find_map(|(domain, provider)| belongs(domain).then_some((provider, None)));
        }
    };
    Some(known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::json;

    fn read(payload: &str) -> (String, Option<(&'static str, Option<&'static str>)>) {
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256","kid":"not kept"}"#);
        let compact = format!("{header}.{}.c2ln", URL_SAFE_NO_PAD.encode(payload));
        let mut public = BTreeMap::new();
        let recognised = claims(compact.as_bytes(), &mut public);
        assert_eq!(public.remove("alg"), Some(json!("RS256")));
        for cut in 0..compact.len() {
            let _ = claims(&compact.as_bytes()[..cut], &mut BTreeMap::new());
        }
        (
            json!(public).to_string(),
            recognised.map(|found| (found.provider, found.class)),
        )
    }

    #[test]
    fn the_allow_list_and_nothing_else() {
        let (public, provider) = read(
            r#"{"iss":"https://idp.test","sub":"alice","aud":["a","b"],"azp":"app","client_id":"c","scope":"r w",
                "exp":1790000000,"iat":1.5,"jti":"j1","cnf":{"jkt":"thumb","x5t#S256":"no"},
                "email":"a@b","nonce":"n","sid":"s","at_hash":"h","password":"p"}"#,
        );
        let expected = json!({
            "iss": "https://idp.test", "sub": "alice", "aud": ["a", "b"], "azp": "app", "client_id": "c",
            "scope": "r w", "exp": 1_790_000_000, "iat": 1.5, "jti": "j1", "cnf.jkt": "thumb",
        });
        assert_eq!((public, provider), (expected.to_string(), None));
    }

    #[test]
    fn a_claim_of_another_type_or_length_is_left_out_alone() {
        let (public, _) =
            read(r#"{"iss":5,"sub":["x"],"aud":{"a":1},"exp":"soon","cnf":"x","jti":"j"}"#);
        assert_eq!(public, r#"{"jti":"j"}"#);
        let long = "x".repeat(STRING_MAX + 1);
        let (public, _) = read(&format!(r#"{{"sub":"{long}","jti":"{}"}}"#, &long[1..]));
        assert_eq!(public, json!({"jti": &long[1..]}).to_string());
        let (public, _) = read(&format!(
            r#"{{"sub":"a\u0000b","jti":"{}{}"}}"#,
            "ghp_",
            "a".repeat(36)
        ));
        assert_eq!(public, "{}");
        let (public, _) = read(&json!({"aud": vec!["a"; 17]}).to_string());
        assert_eq!(public, "{}");
        assert_eq!(read("[1]").0, "{}");
        assert_eq!(read(&"[".repeat(5000)).0, "{}");
    }

    #[test]
    fn kubernetes_service_accounts_bound_and_legacy() {
        let (public, provider) = read(
            r#"{"iss":"https://kubernetes.default.svc","sub":"system:serviceaccount:shop:api",
                "kubernetes.io":{"namespace":"shop","node":{"name":"n1","uid":"u0"},"pod":{"name":"api-1","uid":"u1"},
                "serviceaccount":{"name":"api","uid":"u2"},"warnafter":5}}"#,
        );
        assert_eq!(provider, Some(("kubernetes", Some("service_account"))));
        let expected = json!({
            "iss": "https://kubernetes.default.svc", "sub": "system:serviceaccount:shop:api",
            "kubernetes.io/namespace": "shop", "kubernetes.io/node/name": "n1",
            "kubernetes.io/pod/name": "api-1", "kubernetes.io/pod/uid": "u1",
            "kubernetes.io/serviceaccount/name": "api", "kubernetes.io/serviceaccount/uid": "u2",
        });
        assert_eq!(public, expected.to_string());
        let (public, provider) = read(
            r#"{"kubernetes.io/serviceaccount/namespace":"shop","kubernetes.io/serviceaccount/secret.name":"no",
                "kubernetes.io/serviceaccount/service-account.name":"api"}"#,
        );
        assert_eq!(provider, Some(("kubernetes", Some("service_account"))));
        assert_eq!(
            public,
            json!({"kubernetes.io/namespace": "shop", "kubernetes.io/serviceaccount/name": "api"})
                .to_string()
        );
    }

    #[test]
    fn issuers_by_exact_host() {
        for (issuer, provider) in [
            (
                "https://token.actions.githubusercontent.com",
                Some("github"),
            ),
            ("https://acme.okta.com/oauth2/default", Some("okta")),
            (
                "https://login.microsoftonline.com/x/v2.0",
                Some("microsoft"),
            ),
            ("accounts.google.com", Some("google")),
            ("https://evilokta.com", None),
            ("https://okta.com.evil.test", None),
            ("https://evil.test/accounts.google.com", None),
            ("", None),
        ] {
            let (_, found) = read(&json!({ "iss": issuer }).to_string());
            assert_eq!(found.map(|(provider, _)| provider), provider, "{issuer}");
        }
    }
}
