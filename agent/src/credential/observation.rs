//! What is left of a credential when the secret is gone.

use std::collections::BTreeMap;

/// One credential in one exchange, before identity. Holds no secret.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// `tkf1:<kid>:<mac>` under every valid key id, the current one first; empty when unresolved.
    pub fingerprints: Vec<String>,
    /// For example `header:authorization`, `query:access_token`, `form:client_secret`, `cookie:session`,
    /// `path`, `userinfo`, `subprotocol`.
    pub carrier: String,
    /// For example `Bearer`, `Basic`, `DPoP`, `AWS4-HMAC-SHA256`, `api-key`.
    pub scheme: String,
    /// For example `github`, `slack`, `jwt`; `None` when nothing recognised it.
    pub provider: Option<Provider>,
    /// Present but nothing stable to hash (Digest, Negotiate), or not resolvable: the reason.
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
    /// `shape` (prefix and length), `checksum` (its own check digits agree), `claim` (a JWT's issuer).
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
    /// Forwarded addresses as claimed: (`forwarded`, `x-forwarded-for`, `proxy-protocol`) -> value.
    pub forwarded: BTreeMap<String, String>,
}

/// The result of looking at one exchange.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    pub observations: Vec<Observation>,
    pub sanitized: Sanitized,
}
