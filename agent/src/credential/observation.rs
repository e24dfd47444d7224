//! What is left of a credential when the secret is gone.

use std::collections::BTreeMap;

/// One credential in one exchange, before identity. Holds no secret.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// `tkf1:<kid>:<mac>` under every valid key id, the current one first; empty when unresolved.
    pub fingerprints: Vec<String>,
    /// `header:<name>`, `query:<name>`, `form:<name>`, `cookie:<name>`, `set-cookie:<name>`, `path`, `userinfo`,
    /// `subprotocol`; names are from our tables or the configuration. `many` where more was found than is looked at.
    pub carrier: String,
    /// The authentication scheme by its registered or usual name (`Bearer`, `Basic`, `DPoP`, `AWS4-HMAC-SHA256`, ...;
    /// `none` and `unknown` where there is none or it is not in the table), else how the place presents it: `api-key`,
    /// `cookie`, `path`, `password`, or the parameter's role (`client-secret`, `refresh-token`, ...).
    pub scheme: String,
    /// For example `github`, `slack`, `jwt`; `None` when nothing recognised it.
    pub provider: Option<Provider>,
    /// Why there is no fingerprint: `nothing_stable` (Digest, Negotiate), `password` or `short` (not asked for),
    /// `cut` (its end was not seen), `malformed`, `unknown_scheme`, `no_valid_key`, `too_many`.
    pub unresolved: Option<String>,
    /// User name of Basic or Digest, if it is not itself a credential.
    pub user: Option<String>,
    /// Public facts: AWS access key id, JWT claims by the allow-list (`iss`, `sub`, `aud`, ...), `cnf.jkt`,
    /// GitHub's `hashed_token`. Keys are the field's standard names.
    pub public: BTreeMap<String, serde_json::Value>,
}

/// Whose token it looks like, and how we know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provider {
    pub name: String,
    /// The class within the provider: `personal_access_token`, `bot_token`.
    pub class: Option<String>,
    /// `shape` (prefix and length), `checksum` (its own check digits agree), `claim` (a JWT's issuer, unverified),
    /// `carrier` (only this provider reads that header, parameter or path).
    pub evidence: &'static str,
}

/// What of an exchange is recorded, with every secret replaced.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sanitized {
    /// Path with secrets replaced by `{secret}`.
    pub path: String,
    /// Query with secrets' values replaced; `None` where the target has none.
    pub query: Option<String>,
    /// Derived guess: variable segments replaced by `{id}`.
    pub template: String,
    /// Host (no port) from the Host header, `:authority` or the absolute form, and the port if given.
    pub host: Option<String>,
    pub port: Option<u16>,
    pub user_agent: Option<String>,
    /// Allow-listed request and response ids: `x-request-id`, `traceparent`, `x-amzn-requestid`, ...
    pub ids: BTreeMap<String, String>,
    /// Forwarded addresses as claimed: `forwarded`, `x-forwarded-for`, `x-real-ip` (elements joined by `, `) and
    /// `proxy-protocol` (`v2 <source> -> <destination>`).
    pub forwarded: BTreeMap<String, String>,
}

/// The result of looking at one exchange.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    pub observations: Vec<Observation>,
    pub sanitized: Sanitized,
}
