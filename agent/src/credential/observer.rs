//! From an exchange to observations.
//!
//! Invariant: what leaves here holds no secret: fingerprints, listed names, and public facts that were checked against
//! every secret of the exchange.

use super::config::Config;
use super::find::{Find, Finds, Role, Unresolved};
use super::observation::{Observation, Observed, Provider};
use super::provider::{self, CARRIER, Recognised};
use super::redact::{self, Known, Target};
use super::{carrier, jwt, text};
use crate::http::head::Exchange;
use agent_common::fingerprint::{Fingerprint, Keyring, Secret, sha256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use std::sync::Arc;

/// Fewer bytes of no known form can be guessed by whoever has the fingerprint key.
const SHORT: usize = 16;
/// The longest user name that is kept, in bytes.
const USER_MAX: usize = 128;

/// Finds and fingerprints the credentials of exchanges. Cheap to clone and to share between threads.
#[derive(Clone)]
pub struct Observer {
    config: Arc<Config>,
    keyring: Arc<Keyring>,
}

impl Observer {
    pub fn new(config: Config, keyring: Arc<Keyring>) -> Self {
        Self {
            config: Arc::new(config),
            keyring,
        }
    }

    /// Everything recordable of one exchange: one observation per distinct credential and carrier, and the sanitised
    /// rest. `now_unix` (seconds) chooses the valid fingerprint keys.
    pub fn observe(&self, exchange: &Exchange, now_unix: i64) -> Observed {
        let target = Target::of(&exchange.request);
        let mut finds = Finds::new(&self.config);
        carrier::collect(exchange, &target, &mut finds);
        let known = Known::new(&finds);
        let mut observations: Vec<Observation> = finds
            .iter()
            .map(|find| self.observation(find, &known, now_unix))
            .collect();
        if finds.overflowed() {
            observations.push(Observation {
                unresolved: Some(Unresolved::TooMany.as_str().to_owned()),
                ..blank("many", "none")
            });
        }
        Observed {
            observations,
            sanitized: redact::sanitize(exchange, &target, &finds),
        }
    }

    fn observation(&self, find: &Find, known: &Known<'_>, now_unix: i64) -> Observation {
        let mut observation = blank(&find.carrier, find.scheme);
        observation.public = find.public.clone();
        let recognised = find
            .value
            .as_ref()
            .ok()
            .and_then(|secret| describe(secret, &mut observation));
        observation.provider = provider_of(find, recognised);
        match self.fingerprints(find, recognised, now_unix) {
            Ok(fingerprints) => observation.fingerprints = fingerprints,
            Err(reason) => observation.unresolved = Some(reason.as_str().to_owned()),
        }
        let user = find
            .user
            .as_deref()
            .and_then(|user| text::presentable(user, USER_MAX));
        observation.user = user.filter(|user| !known.within(user.as_bytes()));
        observation
            .public
            .retain(|_, value| !holds_secret(value, known));
        observation
    }

    fn fingerprints(
        &self,
        find: &Find,
        recognised: Option<Recognised>,
        now_unix: i64,
    ) -> Result<Vec<String>, Unresolved> {
        let secret = find.value.as_ref().map_err(|reason| *reason)?;
        let guessable =
            secret.len() < SHORT && recognised.is_none() && find.role == Role::Credential;
        if guessable && !self.config.short_keys {
            return Err(Unresolved::Short);
        }
        let names = self.keyring.fingerprints(secret, now_unix);
        if names.is_empty() {
            return Err(Unresolved::NoValidKey);
        }
        Ok(names.iter().map(Fingerprint::text).collect())
    }
}

fn blank(carrier: &str, scheme: &str) -> Observation {
    Observation {
        fingerprints: Vec::new(),
        carrier: carrier.to_owned(),
        scheme: scheme.to_owned(),
        provider: None,
        unresolved: None,
        user: None,
        public: Default::default(),
    }
}

/// Whose form the value has, with the public facts that follow from its form alone.
fn describe(secret: &Secret, observation: &mut Observation) -> Option<Recognised> {
    let recognised = provider::recognise(secret.as_bytes())?;
    match recognised.provider {
        "jwt" => {
            return Some(
                jwt::claims(secret.as_bytes(), &mut observation.public).unwrap_or(recognised),
            );
        }
        "github" => {
            let hash = STANDARD.encode(sha256(secret.as_bytes()));
            observation
                .public
                .insert("github.hashed_token".to_owned(), Value::String(hash));
        }
        _ => {}
    }
    Some(recognised)
}

/// The value's own form says more than the place where it rode; a format that belongs to nobody (JWT) says less.
fn provider_of(find: &Find, recognised: Option<Recognised>) -> Option<Provider> {
    let by_form = recognised.map(|form| Provider {
        name: form.provider.to_owned(),
        class: form.class.map(str::to_owned),
        evidence: form.evidence,
    });
    let by_carrier = find.hint.map(|(name, class)| Provider {
        name: name.to_owned(),
        class: class.map(str::to_owned),
        evidence: CARRIER,
    });
    let anyone = |provider: &Provider| {
        matches!(
            &*provider.name,
            "jwt" | "jwe" | "paseto" | "biscuit" | "macaroon"
        )
    };
    match by_form {
        Some(form) if anyone(&form) => by_carrier.or(Some(form)),
        Some(form) => Some(form),
        None => by_carrier,
    }
}

fn holds_secret(value: &Value, known: &Known<'_>) -> bool {
    match value {
        Value::String(text) => known.within(text.as_bytes()),
        Value::Array(list) => list.iter().any(|value| holds_secret(value, known)),
        _ => false,
    }
}
