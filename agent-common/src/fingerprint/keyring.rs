//! Several fingerprint keys with their validity.
//!
//! The current key is the valid one that became valid last; it comes first. A key that is no longer valid stays in
//! the ring: a leaked credential is looked up under every key id that ever named it.
//!
//! Invariant: key ids are unique, and the keys are sorted by `not_before`, the latest first.
//! Invariant: key material lives in one heap allocation per key that never moves and is wiped on drop.

use super::digest::Mac;
use super::name::{Fingerprint, Kid};
use super::{Secret, civil};
use std::fmt;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// How long the old key stays valid after a rotation, unless told otherwise: 30 days.
pub const DEFAULT_OVERLAP_SECONDS: u64 = 30 * 24 * 3600;
/// More keys than this in one ring is a mistake: each valid one costs a MAC per credential.
pub(super) const KEYS_MAX: usize = 64;
/// Key ids of rings that live as long as one run. No key file may hold one.
pub(super) const RUN_PREFIX: &str = "run-";
const KID_RANDOM_CHARS: usize = 8;
/// Without the letters and digits that are mistaken for one another.
const KID_ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// Unix seconds from (inclusive) and to (exclusive) which a key names credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub not_before: i64,
    /// `None`: until rotated.
    pub not_after: Option<i64>,
}

impl Validity {
    pub fn contains(self, unix: i64) -> bool {
        self.not_before <= unix && self.not_after.is_none_or(|end| unix < end)
    }
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    #[error("the system gives no random bytes: {0}")]
    Random(String),
    #[error(
        "{0} keys are too many, at most {KEYS_MAX}: remove keys whose fingerprints nobody looks up any more"
    )]
    TooManyKeys(usize),
    #[error("key id {0} occurs twice")]
    Duplicate(Kid),
}

#[derive(Default, Zeroize, ZeroizeOnDrop)]
pub(super) struct Material {
    pub(super) key: [u8; 32],
    mac: Mac,
}

pub(super) struct Entry {
    pub(super) kid: Kid,
    pub(super) validity: Validity,
    pub(super) material: Box<Material>,
}

impl Entry {
    /// `fill` writes the key in place.
    pub(super) fn new<E>(
        kid: Kid,
        validity: Validity,
        fill: impl FnOnce(&mut [u8; 32]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut material = Box::<Material>::default();
        let Material { key, mac } = &mut *material;
        fill(key)?;
        mac.set_key(key);
        Ok(Self {
            kid,
            validity,
            material,
        })
    }

    fn random(kid: Kid, not_before: i64) -> Result<Self, KeyringError> {
        let validity = Validity {
            not_before,
            not_after: None,
        };
        Self::new(kid, validity, |key| random(key))
    }
}

/// The keys, the latest first.
pub struct Keyring {
    pub(super) entries: Vec<Entry>,
}

impl Keyring {
    /// One new key, valid from `now_unix` on.
    pub fn generate(now_unix: i64) -> Result<Self, KeyringError> {
        let kid = random_kid("")?;
        Ok(Self {
            entries: vec![Entry::random(kid, now_unix.clamp(civil::MIN, civil::MAX))?],
        })
    }

    /// A key for one run, always valid. Its fingerprints join with nothing, and its key id (`run-...`) says so.
    pub fn ephemeral() -> Result<Self, KeyringError> {
        Ok(Self {
            entries: vec![Entry::random(random_kid(RUN_PREFIX)?, i64::MIN)?],
        })
    }

    pub(super) fn from_entries(mut entries: Vec<Entry>) -> Result<Self, KeyringError> {
        if entries.len() > KEYS_MAX {
            return Err(KeyringError::TooManyKeys(entries.len()));
        }
        for (index, entry) in entries.iter().enumerate() {
            if entries[..index]
                .iter()
                .any(|earlier| earlier.kid == entry.kid)
            {
                return Err(KeyringError::Duplicate(entry.kid.clone()));
            }
        }
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.validity.not_before));
        Ok(Self { entries })
    }

    /// Made by [`Keyring::ephemeral`].
    pub fn is_ephemeral(&self) -> bool {
        self.entries
            .iter()
            .all(|entry| entry.kid.as_str().starts_with(RUN_PREFIX))
    }

    /// Every key's id and validity, the latest first.
    pub fn keys(&self) -> impl Iterator<Item = (&Kid, Validity)> {
        self.entries
            .iter()
            .map(|entry| (&entry.kid, entry.validity))
    }

    /// The key that names credentials first at that time; `None` if none is valid then.
    pub fn current(&self, now_unix: i64) -> Option<&Kid> {
        self.valid(now_unix).next().map(|entry| &entry.kid)
    }

    fn valid(&self, now_unix: i64) -> impl Iterator<Item = &Entry> {
        self.entries
            .iter()
            .filter(move |entry| entry.validity.contains(now_unix))
    }

    /// The credential's names under every key that is valid at that time, the current one first.
    pub fn fingerprints(&self, credential: &Secret, now_unix: i64) -> Vec<Fingerprint> {
        self.valid(now_unix)
            .map(|entry| entry.fingerprint(credential))
            .collect()
    }

    /// The credential's names under every key, valid or not: for looking up a leaked credential.
    pub fn fingerprints_ever(&self, credential: &Secret) -> Vec<Fingerprint> {
        self.entries
            .iter()
            .map(|entry| entry.fingerprint(credential))
            .collect()
    }

    /// Adds a key that is valid from `now_unix` on; those already valid end `overlap_seconds` later, if not before.
    pub fn add_key(&mut self, now_unix: i64, overlap_seconds: u64) -> Result<Kid, KeyringError> {
        if self.entries.len() >= KEYS_MAX {
            return Err(KeyringError::TooManyKeys(self.entries.len() + 1));
        }
        let now_unix = now_unix.clamp(civil::MIN, civil::MAX);
        let kid = loop {
            let kid = random_kid("")?;
            if self.entries.iter().all(|entry| entry.kid != kid) {
                break kid;
            }
        };
        let added = Entry::random(kid.clone(), now_unix)?;
        let overlap = i64::try_from(overlap_seconds).unwrap_or(i64::MAX);
        let end = now_unix.saturating_add(overlap).min(civil::MAX);
        for entry in &mut self.entries {
            let Validity {
                not_before,
                not_after,
            } = &mut entry.validity;
            if *not_before <= now_unix {
                *not_after = Some(not_after.map_or(end, |earlier| earlier.min(end)));
            }
        }
        // Before those of equal `not_before`: a second rotation within one second must still yield a new current key.
        let place = self
            .entries
            .partition_point(|entry| entry.validity.not_before > now_unix);
        self.entries.insert(place, added);
        Ok(kid)
    }

    /// The same keys with the same validity?
    #[doc(hidden)]
    pub fn same_keys(&self, other: &Self) -> bool {
        self.entries.len() == other.entries.len()
            && self.entries.iter().zip(&other.entries).all(|(a, b)| {
                a.kid == b.kid && a.validity == b.validity && a.material.key == b.material.key
            })
    }
}

impl Entry {
    fn fingerprint(&self, credential: &Secret) -> Fingerprint {
        let mac = self.material.mac.compute(DOMAIN, credential.as_bytes());
        Fingerprint {
            kid: self.kid.clone(),
            mac,
        }
    }
}

/// Domain separation: the version, NUL terminated.
const DOMAIN: &[u8] = b"tkf1\0";

/// Key ids only.
impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys()).finish()
    }
}

fn random(bytes: &mut [u8]) -> Result<(), KeyringError> {
    getrandom::fill(bytes).map_err(|error| KeyringError::Random(error.to_string()))
}

fn random_kid(prefix: &str) -> Result<Kid, KeyringError> {
    let mut bytes = [0; KID_RANDOM_CHARS];
    random(&mut bytes)?;
    let letters = bytes
        .iter()
        .map(|byte| char::from(KID_ALPHABET[usize::from(byte % 32)]));
    let text: String = prefix.chars().chain(letters).collect();
    // Cannot fail: prefix and letters are of the allowed alphabet.
    text.parse()
        .map_err(|error: super::NameError| KeyringError::Random(error.to_string()))
}
