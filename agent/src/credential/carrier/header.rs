//! Request headers (and gRPC metadata, which are headers) that hold credentials.
//!
//! Invariant: names are lower case and sorted (a test says so), because they are looked up by bisection.

use super::super::find::{Carrier, Find, Finds, Hint};
use super::super::names::Filter;
use super::super::{basic, params, scheme, text};
use super::{cookie, subprotocol};
use agent_common::fingerprint::Secret;
use zeroize::Zeroizing;

/// How a header is read.
#[derive(Clone, Copy)]
enum Kind {
    /// Scheme and credential.
    Authorization,
    /// The credential alone, or after a scheme; and whose it is if only one provider reads this header.
    ApiKey(Option<Hint>),
    /// Sentry's `Sentry sentry_key=…` without the Authorization header around it.
    Sentry,
    /// Proofs and what else changes with every request: not hashed, not to be seen elsewhere either.
    Hidden,
}

const fn key() -> Kind {
    Kind::ApiKey(None)
}

const fn of(provider: &'static str) -> Kind {
    Kind::ApiKey(Some((provider, None)))
}

const fn class(provider: &'static str, class: &'static str) -> Kind {
    Kind::ApiKey(Some((provider, Some(class))))
}

#[rustfmt::skip]
static HEADERS: &[(&str, Kind)] = &[
    ("access-token", key()),
    ("api-key", key()),
    ("api-token", key()),
    ("api_key", key()),
    ("apikey", key()),
    ("auth-token", key()),
    ("authorization", Kind::Authorization),
    ("cf-access-client-secret", class("cloudflare", "access_client_secret")),
    ("cf-access-jwt-assertion", class("cloudflare", "access_jwt")),
    ("circle-token", of("circleci")),
    ("dd-api-key", class("datadog", "api_key")),
    ("dd-application-key", class("datadog", "application_key")),
    ("deploy-token", class("gitlab", "deploy_token")),
    ("dpop", Kind::Hidden),
    ("fastly-key", of("fastly")),
    ("job-token", class("gitlab", "ci_job_token")),
    ("ocp-apim-subscription-key", class("azure", "subscription_key")),
    ("private-token", class("gitlab", "personal_access_token")),
    ("proxy-authorization", Kind::Authorization),
    ("token", key()),
    ("x-access-token", key()),
    ("x-algolia-api-key", of("algolia")),
    ("x-amz-security-token", class("aws", "session_token")),
    ("x-amz-sso_bearer_token", class("aws", "sso_token")),
    ("x-amzn-oidc-accesstoken", class("aws", "alb_oidc_access_token")),
    ("x-amzn-oidc-data", class("aws", "alb_oidc_data")),
    ("x-api-key", key()),
    ("x-api-token", key()),
    ("x-apikey", key()),
    ("x-auth-key", key()),
    ("x-auth-request-access-token", key()),
    ("x-auth-token", key()),
    ("x-auth-user-service-key", of("cloudflare")),
    ("x-authorization", Kind::Authorization),
    ("x-aws-ec2-metadata-token", class("aws", "metadata_token")),
    ("x-circleci-token", of("circleci")),
    ("x-consul-token", of("consul")),
    ("x-emby-token", of("emby")),
    ("x-figma-token", of("figma")),
    ("x-forwarded-access-token", key()),
    ("x-forwarded-authorization", Kind::Authorization),
    ("x-functions-key", class("azure", "function_key")),
    ("x-gitlab-token", class("gitlab", "webhook_token")),
    ("x-goog-api-key", class("google", "api_key")),
    ("x-goog-iam-authorization-token", of("google")),
    ("x-honeycomb-team", of("honeycomb")),
    ("x-insert-key", class("newrelic", "insert_key")),
    ("x-jfrog-art-api", of("jfrog")),
    ("x-license-key", class("newrelic", "license_key")),
    ("x-meili-api-key", of("meilisearch")),
    ("x-ms-token-aad-access-token", of("microsoft")),
    ("x-nomad-token", of("nomad")),
    ("x-original-authorization", Kind::Authorization),
    ("x-parse-master-key", of("parse")),
    ("x-parse-rest-api-key", of("parse")),
    ("x-plex-token", of("plex")),
    ("x-postmark-account-token", of("postmark")),
    ("x-postmark-server-token", of("postmark")),
    ("x-query-key", class("newrelic", "query_key")),
    ("x-rapidapi-key", of("rapidapi")),
    ("x-redmine-api-key", of("redmine")),
    ("x-rollbar-access-token", of("rollbar")),
    ("x-sentry-auth", Kind::Sentry),
    ("x-serverless-authorization", Kind::Authorization),
    ("x-session-token", key()),
    ("x-shopify-access-token", class("shopify", "access_token")),
    ("x-shopify-storefront-access-token", class("shopify", "storefront_access_token")),
    ("x-token", key()),
    ("x-typesense-api-key", of("typesense")),
    ("x-vault-token", of("vault")),
];

/// One request header.
pub(super) fn request(name: &str, value: &[u8], finds: &mut Finds<'_>) {
    match name {
        "cookie" => cookie::request(value, finds),
        "sec-websocket-protocol" => subprotocol::collect(value, finds),
        _ => {
            if let Some((name, kind)) = listed(name) {
                read(name, kind, value, finds);
            } else if let Some((name, kind)) = name.strip_suffix("-bin").and_then(listed) {
                if let Some(bytes) = binary(value) {
                    finds.hide(value.trim_ascii());
                    read(name, kind, &bytes, finds);
                }
            } else {
                let extra = finds.config.extra_headers.iter();
                if let Some(name) = extra
                    .into_iter()
                    .find(|extra| extra.eq_ignore_ascii_case(name))
                {
                    read(&name.to_ascii_lowercase(), key(), value, finds);
                }
            }
        }
    }
}

/// What a gRPC header whose name ends in `-bin` carries: base64, or the bytes themselves behind a NUL, where both ends
/// have agreed on that (`doc/PROTOCOL-HTTP2.md` of grpc/grpc, "True Binary Metadata").
fn binary(value: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    match value.strip_prefix(b"\0") {
        Some(bytes) => Some(Zeroizing::new(bytes.to_vec())),
        None => text::base64(value.trim_ascii()),
    }
}

/// Every name of the table, to say no quickly.
static FILTER: Filter = {
    let mut filter = Filter::none();
    let mut row = 0;
    while row < HEADERS.len() {
        filter = filter.with(HEADERS[row].0);
        row += 1;
    }
    filter
};

fn listed(name: &str) -> Option<(&'static str, Kind)> {
    if !FILTER.may_hold(name.as_bytes()) {
        return None;
    }
    let place = HEADERS
        .binary_search_by(|(listed, _)| (*listed).cmp(name))
        .ok()?;
    HEADERS.get(place).copied()
}

fn read(name: &str, kind: Kind, value: &[u8], finds: &mut Finds<'_>) {
    let carrier = Carrier::Header(name);
    match kind {
        Kind::Authorization => scheme::authorization(carrier, value, finds),
        Kind::Hidden => finds.hide(value.trim_ascii()),
        Kind::Sentry => {
            let list = value.strip_prefix(b"Sentry ").unwrap_or(value);
            if let Some(key) = params::param(list, b',', "sentry_key") {
                finds
                    .add(Find::new(carrier, "Sentry", key).hint(Some(("sentry", Some("dsn_key")))));
            }
        }
        Kind::ApiKey(hint) => {
            if value
                .trim_ascii()
                .get(..6)
                .is_some_and(|start| start.eq_ignore_ascii_case(b"basic "))
            {
                basic::encoded(carrier, value.trim_ascii()[6..].trim_ascii(), finds);
            } else if let Some((scheme, credential)) = scheme::api_key(value) {
                finds.add(Find::new(carrier, scheme, Secret::copy_from(credential)).hint(hint));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_and_lower_case() {
        for pair in HEADERS.windows(2) {
            assert!(pair[0].0 < pair[1].0, "{} {}", pair[0].0, pair[1].0);
        }
        for (name, _) in HEADERS {
            assert_eq!(*name, name.to_ascii_lowercase());
            assert!(listed(name).is_some() && listed(&format!("{name}x")).is_none());
        }
    }
}
