//! The text of an API key: `ttk_ID_SECRET`, where ID (8 characters) is public and SECRET is 256 random bits.
//!
//! The fixed beginning lets scanners of leaked secrets know one when they see it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use std::fmt;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

const PREFIX: &str = "ttk_";
const ID_BYTES: usize = 6;
const SECRET_BYTES: usize = 32;

/// The public part of a key, by which it is named and revoked: 8 characters of base64url.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(String);

impl KeyId {
    /// `None` if it cannot be one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        (bytes.len() == ID_BYTES).then(|| Self(text.to_owned()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What its owner holds. Without `Debug` and wiped: it is a power key itself.
pub struct ApiKey {
    id: KeyId,
    text: Zeroizing<String>,
}

impl ApiKey {
    /// A new one.
    ///
    /// # Errors
    /// If the system gives no random bytes.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut id = [0; ID_BYTES];
        let mut secret = Zeroizing::new([0; SECRET_BYTES]);
        getrandom::fill(&mut id)?;
        getrandom::fill(&mut *secret)?;
        let id = URL_SAFE_NO_PAD.encode(id);
        let secret = Zeroizing::new(URL_SAFE_NO_PAD.encode(*secret));
        Ok(Self {
            text: Zeroizing::new(format!("{PREFIX}{id}_{}", *secret)),
            id: KeyId(id),
        })
    }

    /// `None` if it cannot be one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix(PREFIX)?;
        // base64url has `_` itself, so the id ends by its length.
        let (id, secret) = rest.split_at_checked(ID_BYTES * 8 / 6)?;
        let secret = secret.strip_prefix('_')?;
        let secret = Zeroizing::new(URL_SAFE_NO_PAD.decode(secret).ok()?);
        if secret.len() != SECRET_BYTES {
            return None;
        }
        Some(Self {
            id: KeyId::parse(id)?,
            text: Zeroizing::new(text.to_owned()),
        })
    }

    #[must_use]
    pub fn id(&self) -> &KeyId {
        &self.id
    }

    /// For its owner, once.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// What is stored in its place.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.text.as_bytes()).into()
    }

    /// Takes the same time wherever they differ.
    #[must_use]
    pub fn matches(&self, hash: &[u8]) -> bool {
        self.hash().ct_eq(hash).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_was_made() {
        let made = ApiKey::generate().unwrap();
        let read = ApiKey::parse(made.reveal()).unwrap();
        assert_eq!(read.id(), made.id());
        assert!(read.matches(&made.hash()));
        assert!(!ApiKey::generate().unwrap().matches(&made.hash()));
    }

    #[test]
    fn what_is_no_key_is_not_taken() {
        let made = ApiKey::generate().unwrap();
        let text = made.reveal();
        for end in 0..text.len() {
            assert!(ApiKey::parse(&text[..end]).is_none(), "{end} characters");
        }
        for wrong in [
            format!("{text}A"),
            text.replacen("ttk_", "ghp_", 1),
            text.replace('_', "é"),
            String::new(),
        ] {
            assert!(ApiKey::parse(&wrong).is_none(), "{} bytes", wrong.len());
        }
    }
}
