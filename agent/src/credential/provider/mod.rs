//! Whose token it looks like.
//!
//! Our own table of public token forms (prefix, alphabet, length), matched on a whole value in a known slot. There is
//! no search through text: a shape says something only about a value that a carrier presents as a credential. Forms
//! without a prefix (JWT, PASETO, Biscuit, macaroon, Telegram, Discord) are recognised by their structure.
//!
//! Check digits raise the evidence from `shape` to `checksum`; that they are wrong says nothing, because providers
//! change them without notice (GitHub did in 2026).
//!
//! Invariant: a match rests on every byte of the value. Invariant: linear in the value's length, no allocation but for
//! the bounded decoding of structural forms.

mod checksum;
mod structure;
mod table;

#[cfg(test)]
pub(super) use checksum::{base36_of, base62_of};
pub(super) use structure::jwt_like;

/// The evidence that a shape gives.
pub(super) const SHAPE: &str = "shape";
/// The evidence that right check digits give.
pub(super) const CHECKSUM: &str = "checksum";
/// The evidence that a JWT's own, unverified claims give.
pub(super) const CLAIM: &str = "claim";
/// The evidence that a header or parameter gives that only one provider reads.
pub(super) const CARRIER: &str = "carrier";

/// The longest value that is looked at: a head's limit.
const LEN_MAX: usize = 64 * 1024;
const LEN_MIN: usize = 12;

/// What a value's form tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Recognised {
    pub(super) provider: &'static str,
    pub(super) class: Option<&'static str>,
    pub(super) evidence: &'static str,
    /// A name that may be shown (AWS access key id, Twilio account SID), not a secret.
    pub(super) public: bool,
}

/// Whose form the whole value has.
pub(super) fn recognise(value: &[u8]) -> Option<Recognised> {
    if !(LEN_MIN..=LEN_MAX).contains(&value.len()) {
        return None;
    }
    table::recognise(value).or_else(|| structure::recognise(value))
}

/// Has the value the form of something that must not be recorded?
///
/// Wider than [`recognise`]: what only looks like a JWT counts too.
pub(super) fn credential_shaped(value: &[u8]) -> bool {
    value.len() >= LEN_MIN
        && (jwt_like(value) || recognise(value).is_some_and(|found| !found.public))
}
