//! Fingerprints: how a credential is named without being kept.
//!
//! `tkf1:<kid>:<base64url-nopad HMAC-SHA-256(K_kid, "tkf1\0" || credential bytes)>`, all 256 bits. The MAC is keyed,
//! so a fingerprint cannot be tested against guesses without the key, and it is versioned by its first field. The
//! credential bytes are exact (scheme stripped, carrier decoding undone, never case-folded); what kind of credential
//! it is stays out of the MAC, so that one secret has one name wherever it rides.
//!
//! One 256-bit key per tenant is shared by the fleet. Keys are rotated by an overlap in which a credential is named
//! under both key ids, so that live traffic links the old name to the new one.
//!
//! - [`Secret`]: the credential itself, wiped when dropped.
//! - [`Keyring`]: several keys with their validity, the current one first.
//! - [`Fingerprint`]: the name.
//! - `keyfile`: the text form of a keyring (pure functions), `store`: the file's permissions and atomic replacement.
//!
//! Invariant: neither [`Secret`] nor a key has `Debug`, `Display` or `Serialize`, and no error quotes one.
//! Invariant: every buffer that held a credential or a key is wiped before its memory is given back.

mod civil;
mod digest;
mod keyfile;
mod keyring;
mod name;
mod secret;
mod store;

pub use digest::sha256;
pub use keyfile::KeyfileError;
pub use keyring::{DEFAULT_OVERLAP_SECONDS, Keyring, KeyringError, Validity};
pub use name::{Fingerprint, Kid, NameError};
pub use secret::Secret;
pub use store::StoreError;

/// Drives the parsers with arbitrary bytes: they must neither panic nor accept what they cannot write back.
#[doc(hidden)]
pub mod fuzz {
    /// The key file and the fingerprint's text form.
    pub fn fuzz(data: &[u8]) {
        let Ok(text) = std::str::from_utf8(data) else {
            return;
        };
        if let Ok(keyring) = super::Keyring::parse(text) {
            let again = super::Keyring::parse(&keyring.serialize());
            assert!(again.is_ok_and(|again| again.same_keys(&keyring)));
        }
        if let Ok(fingerprint) = text.parse::<super::Fingerprint>() {
            assert_eq!(fingerprint.to_string(), text);
        }
    }
}
