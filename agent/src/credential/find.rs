//! Credentials as they are found in one exchange, before they are fingerprinted.
//!
//! Invariant: [`Find`] and [`Finds`] have no `Debug`; what is found is wiped with them.
//! Invariant: bounded: at most [`FINDS_MAX`] finds and [`HIDDEN_MAX`] hidden values, and more than that is remembered.

use super::config::Config;
use agent_common::fingerprint::Secret;
use serde_json::Value;
use std::collections::BTreeMap;

const FINDS_MAX: usize = 32;
const HIDDEN_MAX: usize = 256;
/// Values shorter than this are compared as a whole and not searched for inside others: `a` is in everything.
pub(super) const SEARCH_MIN: usize = 6;

/// Where a credential rode. Names are lower case and from a table or the configuration, never from the wire.
#[derive(Clone, Copy)]
pub(super) enum Carrier<'a> {
    Header(&'a str),
    Query(&'static str),
    Form(&'static str),
    Cookie(&'a str),
    SetCookie(&'a str),
    Path,
    Userinfo,
    Subprotocol,
}

impl Carrier<'_> {
    /// As recorded.
    fn text(self) -> String {
        match self {
            Self::Header(name) => ["header:", name].concat(),
            Self::Query(name) => ["query:", name].concat(),
            Self::Form(name) => ["form:", name].concat(),
            Self::Cookie(name) => ["cookie:", name].concat(),
            Self::SetCookie(name) => ["set-cookie:", name].concat(),
            Self::Path => "path".to_owned(),
            Self::Userinfo => "userinfo".to_owned(),
            Self::Subprotocol => "subprotocol".to_owned(),
        }
    }
}

/// Why a credential that is there has no fingerprint. The texts are part of the event contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unresolved {
    /// Digest, Negotiate and the like prove knowledge of a secret without sending anything that stays the same.
    NothingStable,
    /// A password, and `basic_passwords` is off.
    Password,
    /// Fewer than 16 bytes of no known shape, and `short_keys` is off.
    Short,
    /// The end was not seen.
    Cut,
    /// The carrier's syntax is broken.
    Malformed,
    /// A scheme with parameters that this program does not know.
    UnknownScheme,
    /// No fingerprint key is valid at this time.
    NoValidKey,
    /// More credentials in one exchange than are looked at.
    TooMany,
}

impl Unresolved {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::NothingStable => "nothing_stable",
            Self::Password => "password",
            Self::Short => "short",
            Self::Cut => "cut",
            Self::Malformed => "malformed",
            Self::UnknownScheme => "unknown_scheme",
            Self::NoValidKey => "no_valid_key",
            Self::TooMany => "too_many",
        }
    }
}

/// What a find's value is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Who has it can use it.
    Credential,
    /// A public name of the key that signed (AWS access key id): hashed because it stays the same, not secret.
    KeyId,
}

/// Whose it is by the place where it rode.
pub(super) type Hint = (&'static str, Option<&'static str>);

/// One credential that was found.
pub(super) struct Find {
    pub(super) carrier: String,
    pub(super) scheme: &'static str,
    pub(super) value: Result<Secret, Unresolved>,
    pub(super) role: Role,
    pub(super) user: Option<Vec<u8>>,
    pub(super) hint: Option<Hint>,
    pub(super) public: BTreeMap<String, Value>,
}

impl Find {
    pub(super) fn new(
        carrier: Carrier<'_>,
        scheme: &'static str,
        secret: impl Into<Secret>,
    ) -> Self {
        Self::make(carrier, scheme, Ok(secret.into()))
    }

    pub(super) fn unresolved(
        carrier: Carrier<'_>,
        scheme: &'static str,
        reason: Unresolved,
    ) -> Self {
        Self::make(carrier, scheme, Err(reason))
    }

    fn make(carrier: Carrier<'_>, scheme: &'static str, value: Result<Secret, Unresolved>) -> Self {
        Self {
            carrier: carrier.text(),
            scheme,
            value,
            role: Role::Credential,
            user: None,
            hint: None,
            public: BTreeMap::new(),
        }
    }

    pub(super) fn key_id(mut self) -> Self {
        self.role = Role::KeyId;
        self
    }

    /// The user name beside it; left out later if it is not presentable or a secret itself.
    pub(super) fn user(mut self, user: &[u8]) -> Self {
        self.user = (!user.is_empty()).then(|| user.to_vec());
        self
    }

    pub(super) fn hint(mut self, hint: Option<Hint>) -> Self {
        self.hint = hint;
        self
    }

    /// A public fact; left out if there is none.
    pub(super) fn public(mut self, name: &str, value: Option<String>) -> Self {
        if let Some(value) = value {
            self.public.insert(name.to_owned(), Value::String(value));
        }
        self
    }
}

/// Everything found in one exchange.
pub(super) struct Finds<'a> {
    pub(super) config: &'a Config,
    finds: Vec<Find>,
    /// Values that are no find of their own but must not be recorded either: passwords, proofs, signatures.
    hidden: Vec<Secret>,
    /// More than is looked at: nothing that rests on knowing every secret may be recorded.
    overflowed: bool,
}

impl<'a> Finds<'a> {
    pub(super) fn new(config: &'a Config) -> Self {
        Self {
            config,
            finds: Vec::new(),
            hidden: Vec::new(),
            overflowed: false,
        }
    }

    pub(super) fn add(&mut self, find: Find) {
        let repeated = self.finds.iter_mut().find(|earlier| {
            earlier.carrier == find.carrier
                && match (&earlier.value, &find.value) {
                    (Ok(earlier), Ok(value)) => earlier.same(value),
                    (Err(earlier), Err(reason)) => {
                        earlier == reason && (&earlier, &find.user) == (&reason, &find.user)
                    }
                    _ => false,
                }
        });
        if repeated.is_some() {
            return;
        }
        if matches!(&find.value, Ok(secret) if secret.is_empty()) {
            return;
        }
        if self.finds.len() >= FINDS_MAX {
            self.overflowed = true;
            return;
        }
        self.finds.push(find);
    }

    pub(super) fn hide(&mut self, value: &[u8]) {
        if value.len() < SEARCH_MIN || self.knows(value) {
            return;
        }
        if self.hidden.len() >= HIDDEN_MAX {
            self.overflowed = true;
            return;
        }
        self.hidden.push(Secret::copy_from(value));
    }

    /// Takes over what was found apart, each find changed.
    pub(super) fn absorb(&mut self, other: Finds<'_>, change: impl Fn(Find) -> Find) {
        other
            .finds
            .into_iter()
            .for_each(|find| self.add(change(find)));
        other
            .hidden
            .iter()
            .for_each(|hidden| self.hide(hidden.as_bytes()));
        self.overflowed |= other.overflowed;
    }

    fn knows(&self, value: &[u8]) -> bool {
        self.secrets().any(|secret| secret == value)
    }

    pub(super) fn overflowed(&self) -> bool {
        self.overflowed
    }

    /// Every secret value of this exchange.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &[u8]> {
        let found = self
            .finds
            .iter()
            .filter(|find| find.role == Role::Credential);
        let found = found.filter_map(|find| find.value.as_ref().ok());
        found.chain(&self.hidden).map(Secret::as_bytes)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Find> {
        self.finds.iter()
    }
}
