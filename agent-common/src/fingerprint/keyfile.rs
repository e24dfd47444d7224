//! The text form of a keyring: TOML, versioned, unknown keys refused.
//!
//! ```toml
//! version = 1
//!
//! [[keys]]
//! kid = "7f3kq2mz"                     # 1 to 32 of A-Z a-z 0-9 _ -, not beginning with run-
//! secret = "…"                         # 256 bits, base64url without padding: 43 characters
//! not_before = 2026-10-01T00:00:00Z    # names credentials from then on
//! not_after = 2026-11-01T00:00:00Z     # and no longer from then on; absent: until rotated
//! ```
//!
//! At least one key, at most 64, at most 64 KiB, in any order. The key file is the same on every host of a fleet.
//!
//! Invariant: no error quotes the file, not even a wrong value: a key pasted into the wrong line is still a key.

use super::keyring::{Entry, KEYS_MAX, Keyring, KeyringError, RUN_PREFIX, Validity};
use super::name::{Kid, NameError};
use super::{civil, store};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use std::fmt::Write as _;
use toml::value::Datetime;
use zeroize::Zeroizing;

const FILE_VERSION: u32 = 1;
/// Base64url of 32 bytes without padding.
const SECRET_CHARS: usize = 43;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyfileError {
    #[error(
        "line {line}: not a key file (`version` and [[keys]] with `kid`, `secret`, `not_before` and, if it ends, `not_after`; \
        no other keys; the line is not shown because it may hold a secret)"
    )]
    Form { line: usize },
    #[error("version {0} is not known, this program reads version {FILE_VERSION}")]
    Version(u32),
    #[error("{0} bytes is too long for a key file, at most {max}", max = store::SIZE_MAX)]
    TooLong(usize),
    #[error("holds no keys")]
    Empty,
    #[error("key {number}: {error}")]
    Kid { number: usize, error: NameError },
    #[error("key {number}: key ids that begin with {RUN_PREFIX} are for runs without a key file")]
    ReservedKid { number: usize },
    #[error(
        "key {number}: `secret` is not 256 bits in base64url without padding ({SECRET_CHARS} characters)"
    )]
    Secret { number: usize },
    #[error(
        "key {number}: `not_before` and `not_after` need a date, a time and an offset, for example 2026-10-01T00:00:00Z"
    )]
    Date { number: usize },
    #[error("key {number}: `not_after` is not later than `not_before`")]
    NeverValid { number: usize },
    #[error(transparent)]
    Keyring(#[from] KeyringError),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    #[serde(default)]
    keys: Vec<Key>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    kid: String,
    #[serde(deserialize_with = "wiped")]
    secret: Zeroizing<String>,
    not_before: Datetime,
    not_after: Option<Datetime>,
}

fn wiped<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Zeroizing<String>, D::Error> {
    String::deserialize(from).map(Zeroizing::new)
}

/// Read first, so that a file of a later version is called that, and not malformed.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

impl Keyring {
    /// Reads the text form.
    pub fn parse(text: &str) -> Result<Self, KeyfileError> {
        if text.len() > store::SIZE_MAX {
            return Err(KeyfileError::TooLong(text.len()));
        }
        let form = |error: toml::de::Error| {
            let place = error.span().map_or(0, |span| span.start).min(text.len());
            let newlines = text.as_bytes()[..place]
                .iter()
                .filter(|&&byte| byte == b'\n')
                .count();
            KeyfileError::Form { line: newlines + 1 }
        };
        let Versioned { version } = toml::from_str(text).map_err(form)?;
        if version != FILE_VERSION {
            return Err(KeyfileError::Version(version));
        }
        let file: File = toml::from_str(text).map_err(form)?;
        debug_assert_eq!(file.version, version);
        if file.keys.is_empty() {
            return Err(KeyfileError::Empty);
        }
        if file.keys.len() > KEYS_MAX {
            return Err(KeyringError::TooManyKeys(file.keys.len()).into());
        }
        let entries = (1..).zip(file.keys).map(|(number, key)| key.entry(number));
        Ok(Self::from_entries(entries.collect::<Result<_, _>>()?)?)
    }

    /// Writes the text form; [`Keyring::parse`] reads it back.
    pub fn serialize(&self) -> Zeroizing<String> {
        // Large enough that it never grows: growing would leave a copy behind.
        let mut text = Zeroizing::new(String::with_capacity(512 + self.entries.len() * 256));
        text.push_str(
            "# tokentrail fingerprint keys, the same file on every host. Whoever reads it can test guesses of\n\
             # credentials against recorded fingerprints: keep it at mode 0600.\n",
        );
        // Writing to a String does not fail.
        let _ = writeln!(text, "version = {FILE_VERSION}");
        for Entry {
            kid,
            validity,
            material,
        } in &self.entries
        {
            let mut secret = Zeroizing::new([0; SECRET_CHARS]);
            let _ = URL_SAFE_NO_PAD.encode_slice(material.key, &mut *secret);
            let secret = std::str::from_utf8(&*secret).unwrap_or_default();
            let _ = writeln!(text, "\n[[keys]]\nkid = \"{kid}\"\nsecret = \"{secret}\"");
            let _ = writeln!(
                text,
                "not_before = {}",
                civil::from_unix(validity.not_before)
            );
            if let Some(not_after) = validity.not_after {
                let _ = writeln!(text, "not_after = {}", civil::from_unix(not_after));
            }
        }
        text
    }
}

impl Key {
    fn entry(self, number: usize) -> Result<Entry, KeyfileError> {
        let kid: Kid = self
            .kid
            .parse()
            .map_err(|error| KeyfileError::Kid { number, error })?;
        if kid.as_str().starts_with(RUN_PREFIX) {
            return Err(KeyfileError::ReservedKid { number });
        }
        let date = |date: &Datetime| civil::to_unix(date).ok_or(KeyfileError::Date { number });
        let not_before = date(&self.not_before)?;
        let not_after = self.not_after.as_ref().map(date).transpose()?;
        if not_after.is_some_and(|end| end <= not_before) {
            return Err(KeyfileError::NeverValid { number });
        }
        Entry::new(
            kid,
            Validity {
                not_before,
                not_after,
            },
            |key| match URL_SAFE_NO_PAD.decode_slice(self.secret.as_bytes(), key) {
                Ok(32) => Ok(()),
                _ => Err(KeyfileError::Secret { number }),
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 32 bytes of 0x55.
    const SECRET: &str = "VVVVVVVVVVVVVVVVVVVVVVVVVVVVVVVVVVVVVVVVVVU";

    fn file(keys: &[(&str, &str, &str, &str)]) -> String {
        let mut text = String::from("version = 1\n");
        for (kid, secret, not_before, not_after) in keys {
            let _ = writeln!(text, "[[keys]]\nkid = \"{kid}\"\nsecret = \"{secret}\"");
            let _ = writeln!(text, "not_before = {not_before}");
            if !not_after.is_empty() {
                let _ = writeln!(text, "not_after = {not_after}");
            }
        }
        text
    }

    #[test]
    fn reads_what_it_writes() {
        let old = "2020-01-01T00:00:00Z";
        let text = file(&[
            ("old", SECRET, old, "2027-01-01T00:00:00Z"),
            ("new", SECRET, "2026-01-01T00:00:00Z", ""),
        ]);
        let keyring = Keyring::parse(&text).unwrap();
        let kids: Vec<&str> = keyring.keys().map(|(kid, _)| kid.as_str()).collect();
        assert_eq!(
            kids,
            ["new", "old"],
            "the latest first, whatever the file's order"
        );
        let again = Keyring::parse(&keyring.serialize()).unwrap();
        assert!(again.same_keys(&keyring));
    }

    #[test]
    fn refuses_malformed_files_without_quoting_them() {
        let date = "2026-01-01T00:00:00Z";
        let good = file(&[("k", SECRET, date, "")]);
        assert!(Keyring::parse(&good).is_ok());
        let number = 1;
        for (text, expected) in [
            (String::new(), KeyfileError::Form { line: 1 }),
            ("version = 1\n".into(), KeyfileError::Empty),
            (
                "version = 2\nshape = \"new\"\n".into(),
                KeyfileError::Version(2),
            ),
            (
                good.clone() + "surprise = 1\n",
                KeyfileError::Form { line: 6 },
            ),
            (
                good.replace("kid = \"k\"\n", ""),
                KeyfileError::Form { line: 2 },
            ),
            (
                good.replace(date, &format!("\"{SECRET}\"")),
                KeyfileError::Form { line: 5 },
            ),
            (
                file(&[("k", SECRET, "2026-01-01", "")]),
                KeyfileError::Date { number },
            ),
            (
                file(&[("k", SECRET, date, date)]),
                KeyfileError::NeverValid { number },
            ),
            (
                file(&[("k", &SECRET[1..], date, "")]),
                KeyfileError::Secret { number },
            ),
            (
                file(&[("k", &(SECRET.to_owned() + "="), date, "")]),
                KeyfileError::Secret { number },
            ),
            (
                file(&[("k", &SECRET.replace('U', "V"), date, "")]),
                KeyfileError::Secret { number },
            ),
            (
                file(&[("", SECRET, date, "")]),
                KeyfileError::Kid {
                    number,
                    error: NameError::Kid(0),
                },
            ),
            (
                file(&[("a b", SECRET, date, "")]),
                KeyfileError::Kid {
                    number,
                    error: NameError::Kid(3),
                },
            ),
            (
                file(&[("run-x", SECRET, date, "")]),
                KeyfileError::ReservedKid { number },
            ),
            (
                file(&[("k", SECRET, date, ""), ("k", SECRET, date, "")]),
                KeyringError::Duplicate("k".parse().unwrap()).into(),
            ),
            (
                file(&vec![("k", SECRET, date, ""); 65]),
                KeyringError::TooManyKeys(65).into(),
            ),
            (" ".repeat(70_000), KeyfileError::TooLong(70_000)),
        ] {
            let error = Keyring::parse(&text).err();
            assert_eq!(error.as_ref(), Some(&expected), "{text}");
            assert!(!format!("{error:?} {expected}").contains(&SECRET[1..]));
        }
        for cut in 0..good.trim_end().len() - 1 {
            assert!(Keyring::parse(&good[..cut]).is_err(), "cut at {cut}");
        }
    }
}
