//! Whose token it is, through the whole observer.

use super::*;

fn check_bearer(credential: &str, provider: &str) -> Observed {
    check(
        provider,
        &format!("GET /\nAuthorization: Bearer {credential}"),
        &[seen("header:authorization", "Bearer", credential).by(provider)],
    )
}

#[test]
fn the_named_providers() {
    for (parts, body, provider) in [
        (
            ["gh", "p_"],
            random(B62, 36),
            "github/personal_access_token/shape",
        ),
        (
            ["gh", "o_"],
            random(B62, 36),
            "github/oauth_access_token/shape",
        ),
        (
            ["gh", "u_"],
            random(B62, 36),
            "github/user_access_token/shape",
        ),
        (["gh", "s_"], random(B62, 36), "github/server_token/shape"),
        (
            ["gh", "s_"],
            format!(
                "{}.{}-{}",
                random(B62, 40),
                random(B62, 200),
                random(B62, 43)
            ),
            "github/server_token/shape",
        ),
        (["gh", "r_"], random(B62, 76), "github/refresh_token/shape"),
        (
            ["github", "_pat_"],
            format!("{}_{}", random(B62, 22), random(B62, 59)),
            "github/fine_grained_personal_access_token/shape",
        ),
        (
            ["gl", "pat-"],
            random(B62, 20),
            "gitlab/personal_access_token/shape",
        ),
        (["gl", "dt-"], random(B62, 20), "gitlab/deploy_token/shape"),
        (
            ["gl", "cbt-"],
            format!("64_{}", random(B62, 20)),
            "gitlab/ci_job_token/shape",
        ),
        (
            ["xo", "xb-"],
            format!("1234567890-1234567890-{}", random(B62, 24)),
            "slack/bot_token/shape",
        ),
        (
            ["xo", "xp-"],
            format!("1234567890-1234567890-{}", random(B62, 24)),
            "slack/user_token/shape",
        ),
        (
            ["xa", "pp-"],
            format!("1-A{}-{}", random(B32, 10), random(HEX, 64)),
            "slack/app_token/shape",
        ),
        (["sk_", "live_"], random(B62, 24), "stripe/secret_key/shape"),
        (
            ["rk_", "live_"],
            random(B62, 24),
            "stripe/restricted_key/shape",
        ),
        (
            ["sk-", "proj-"],
            random(B62, 120),
            "openai/project_key/shape",
        ),
        (
            ["sk-", "ant-api03-"],
            random(B62, 95),
            "anthropic/api_key/shape",
        ),
        (["AI", "za"], random(B62, 35), "google/api_key/shape"),
        (["ya", "29."], random(B62, 120), "google/access_token/shape"),
        (["np", "m_"], random(B62, 36), "npm/access_token/shape"),
        (["py", "pi-"], random(B62, 150), "pypi/api_token/shape"),
        (
            ["h", "f_"],
            random("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", 34),
            "huggingface/user_access_token/shape",
        ),
        (
            ["dop", "_v1_"],
            random(HEX, 64),
            "digitalocean/personal_access_token/shape",
        ),
        (
            ["S", "G."],
            format!("{}.{}", random(B62, 22), random(B62, 43)),
            "sendgrid/api_key/shape",
        ),
        (
            ["da", "pi"],
            random(HEX, 32),
            "databricks/personal_access_token/shape",
        ),
        (
            ["da", "pi"],
            format!("{}-2", random(HEX, 32)),
            "databricks/personal_access_token/shape",
        ),
        (
            ["shp", "at_"],
            random(HEX, 32),
            "shopify/access_token/shape",
        ),
        (["hv", "s."], random(B62, 95), "vault/service_token/shape"),
        (["hv", "b."], random(B62, 150), "vault/batch_token/shape"),
        (["v4.", "local."], random(B62, 80), "paseto//shape"),
    ] {
        check_bearer(&[&parts.concat(), &*body].concat(), provider);
    }
}

#[test]
fn check_digits_raise_the_evidence() {
    use crate::credential::provider::{base36_of, base62_of};
    for (prefix, provider) in [
        ("ghp_", "github/personal_access_token"),
        ("npm_", "npm/access_token"),
    ] {
        let body = random(B62, 30);
        let credential = format!("{prefix}{body}{}", base62_of(body.as_bytes()));
        check_bearer(&credential, &format!("{provider}/checksum"));
    }
    let payload = format!("{}-{}.01.12", "glpat", random(B62, 38));
    let credential = format!("{payload}{}", base36_of(payload.as_bytes()));
    check_bearer(&credential, "gitlab/personal_access_token/checksum");
}

#[test]
fn github_gives_its_own_public_hash() {
    use sha2::Digest as _;
    let credential = format!("{}_{}", "ghp", random(B62, 36));
    let observed = check_bearer(&credential, "github/personal_access_token/shape");
    let expected = STANDARD.encode(sha2::Sha256::digest(&credential));
    assert_eq!(
        observed.observations[0].public["github.hashed_token"],
        expected
    );
    let other = format!("{}-{}", "glpat", random(B62, 20));
    let observed = check_bearer(&other, "gitlab/personal_access_token/shape");
    assert!(observed.observations[0].public.is_empty());
}

#[test]
fn jwt_claims_and_issuers() {
    for (payload, provider, public) in [
        (
            r#"{"iss":"https://idp.test","sub":"alice","email":"a@b.test"}"#,
            "jwt//shape",
            r#"{"iss":"https://idp.test","sub":"alice"}"#,
        ),
        (
            r#"{"iss":"https://token.actions.githubusercontent.com","sub":"repo:o/r:ref:refs/heads/main"}"#,
            "github/actions_oidc/claim",
            r#"{"iss":"https://token.actions.githubusercontent.com","sub":"repo:o/r:ref:refs/heads/main"}"#,
        ),
    ] {
        let credential = jwt(payload);
        let mut expected = seen("header:authorization", "Bearer", &credential)
            .by(provider)
            .with("alg", "ES256");
        let public: serde_json::Map<String, Value> = serde_json::from_str(public).unwrap();
        expected.public.extend(public);
        check(
            "jwt",
            &format!("GET /\nAuthorization: Bearer {credential}"),
            &[expected],
        );
    }
    // A claim that repeats a secret of the same exchange goes.
    let key = plain_key();
    let credential = jwt(&format!(r#"{{"sub":"{key}","jti":"x"}}"#));
    let text = format!("GET /\nAuthorization: Bearer {credential}\nX-Api-Key: {key}");
    let observed = observer(Config::default()).observe(&exchange(&text), NOW);
    assert_absent(&key, &observed, &text);
    let claims: Vec<&String> = observed.observations[0].public.keys().collect();
    assert_eq!(claims, ["alg", "jti"]);
}
