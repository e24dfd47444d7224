//! Who may do what: API keys with roles, the local admin's password, agents' certificates.
//!
//! | role | may |
//! |---|---|
//! | ingest | deliver events, and nothing else |
//! | reader | search, count and follow events |
//! | analyst | that, and ask for a credential's trail, which is audited |
//! | admin | that, and manage keys, look at the quarantine |
//!
//! Keys are 256 random bits, so a single SHA-256 hides them as well as a slow hash would; the admin's password is a
//! person's choice, and hashed by argon2id (RFC 9106). At the first start one key is made that can do one thing, once:
//! make the first admin key, or set the admin's password.
//!
//! Invariant: neither a key nor a password is stored, logged or shown again; what is stored finds neither.
//! Invariant: a revoked or expired key does not pass, from the moment at which the call that revoked it returned.

mod key;
mod password;
mod table;

pub use key::{ApiKey, KeyId};
pub use table::{Access, Error, KeyRow};

use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What a key is for. Each role may all that those before it may, but for `Ingest`, which only delivers.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    clap::ValueEnum,
    utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Ingest,
    Reader,
    Analyst,
    Admin,
}

impl Role {
    /// Whether it may do what `needed` is for.
    #[must_use]
    pub fn allows(self, needed: Self) -> bool {
        match (self, needed) {
            (Self::Ingest, _) | (_, Self::Ingest) => self == needed,
            _ => self >= needed,
        }
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Reader => "reader",
            Self::Analyst => "analyst",
            Self::Admin => "admin",
        }
    }

    pub(crate) fn by_name(name: &str) -> Option<Self> {
        [Self::Ingest, Self::Reader, Self::Analyst, Self::Admin]
            .into_iter()
            .find(|role| role.name() == name)
    }
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// For the audit log: `key:ID (NAME)`, `admin`, `certificate:SUBJECT`.
    pub name: Arc<str>,
    pub role: Role,
    /// The key is good for making an admin, and for that alone.
    pub first_use: bool,
}

/// Why somebody is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("no credential: send `Authorization: Bearer KEY`")]
    Missing,
    #[error("the credential is not known, or no longer valid")]
    Unknown,
    #[error("this needs the role {}", needed.name())]
    Role { needed: Role },
    #[error(
        "this key makes the first admin (`tokentrail access key --role admin NAME`), and nothing else"
    )]
    FirstUse,
}

impl Caller {
    /// # Errors
    /// If the role is not enough.
    pub fn may(&self, needed: Role) -> Result<(), Denied> {
        if self.first_use {
            Err(Denied::FirstUse)
        } else if self.role.allows(needed) {
            Ok(())
        } else {
            Err(Denied::Role { needed })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_grow_and_ingest_stands_apart() {
        use Role::{Admin, Analyst, Ingest, Reader};
        let allowed = [
            (Ingest, vec![Ingest]),
            (Reader, vec![Reader]),
            (Analyst, vec![Reader, Analyst]),
            (Admin, vec![Reader, Analyst, Admin]),
        ];
        for (role, may) in allowed {
            for needed in [Ingest, Reader, Analyst, Admin] {
                assert_eq!(
                    role.allows(needed),
                    may.contains(&needed),
                    "{role:?} {needed:?}"
                );
            }
            assert_eq!(Role::by_name(role.name()), Some(role));
        }
    }
}
