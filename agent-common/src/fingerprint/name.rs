//! The text form of a fingerprint.
//!
//! Invariant: parsing accepts exactly what `Display` writes.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::fmt;
use std::str::FromStr;

/// The version field and, with a NUL, the MAC's domain separation.
const VERSION: &str = "tkf1";
const KID_MAX: usize = 32;
/// Base64url of 32 bytes without padding.
const MAC_CHARS: usize = 43;
/// How much of the MAC people are shown.
const SHORT_CHARS: usize = 10;

/// A key id: 1 to 32 characters of `A-Z a-z 0-9 _ -`. Public.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Kid(String);

/// Why a text is no fingerprint or key id. The text is public, but what a person pastes by mistake may not be: it is
/// not quoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("a key id has 1 to {KID_MAX} characters of A-Z a-z 0-9 _ - (this has {0} bytes)")]
    Kid(usize),
    #[error("a fingerprint reads {VERSION}:<kid>:<{MAC_CHARS} base64url characters>")]
    Form,
    #[error("unknown fingerprint version, expected {VERSION}")]
    Version,
}

impl Kid {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Kid {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if (1..=KID_MAX).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::Kid(text.len()))
        }
    }
}

impl fmt::Display for Kid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The keyed name of one credential under one key. Public.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint {
    pub kid: Kid,
    pub mac: [u8; 32],
}

impl Fingerprint {
    /// The text form, as `Display` writes it, in one allocation.
    pub fn text(&self) -> String {
        let mut text = String::with_capacity(VERSION.len() + 2 + self.kid.0.len() + MAC_CHARS);
        text.push_str(VERSION);
        text.push(':');
        text.push_str(&self.kid.0);
        text.push(':');
        URL_SAFE_NO_PAD.encode_string(self.mac, &mut text);
        text
    }

    /// The first 10 characters of the MAC part, for tables: 60 bits, enough to tell apart, not to look up.
    pub fn short(&self) -> String {
        let mut text = URL_SAFE_NO_PAD.encode(self.mac);
        text.truncate(SHORT_CHARS);
        text
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

impl FromStr for Fingerprint {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let mut fields = text.splitn(3, ':');
        let (version, kid, mac) = (fields.next(), fields.next(), fields.next());
        let (Some(version), Some(kid), Some(mac)) = (version, kid, mac) else {
            return Err(NameError::Form);
        };
        if version != VERSION {
            return Err(NameError::Version);
        }
        let mac = URL_SAFE_NO_PAD.decode(mac).map_err(|_| NameError::Form)?;
        let mac = mac.try_into().map_err(|_| NameError::Form)?;
        Ok(Self {
            kid: kid.parse()?,
            mac,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_and_nothing_else_parses() {
        let name = Fingerprint {
            kid: "k_1-A".parse().unwrap(),
            mac: [0xfb; 32],
        };
        let text = name.to_string();
        assert_eq!(
            text,
            "tkf1:k_1-A:-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_s"
        );
        assert_eq!(text.parse(), Ok(name.clone()));
        assert_eq!(name.short(), "-_v7-_v7-_");
        for cut in 0..text.len() {
            assert!(text[..cut].parse::<Fingerprint>().is_err(), "cut at {cut}");
        }
        // `t` as the last character would decode to the same bytes with stray bits.
        for wrong in [
            text.clone() + "A",
            text.replace("tkf1", "tkf2"),
            text.replace("k_1-A", "k 1"),
            text.replace("k_1-A", ""),
            format!("{}t", &text[..text.len() - 1]),
        ] {
            assert!(wrong.parse::<Fingerprint>().is_err(), "{wrong}");
        }
    }
}
