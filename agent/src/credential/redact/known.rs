//! Is this value, or a part of it, a secret?
//!
//! Invariant: yes, when in doubt.

use super::super::find::{Finds, SEARCH_MIN};
use super::super::{provider, text};
use std::ops::Range;

/// Longer values are not searched: they are not recorded at all.
const LEN_MAX: usize = 512;
/// A part of a secret of so many bytes is as good as secret.
const PART_MIN: usize = 10;

/// The secrets that are known while one exchange is recorded.
pub(in crate::credential) struct Known<'a> {
    finds: Option<&'a Finds<'a>>,
}

impl<'a> Known<'a> {
    pub(in crate::credential) fn new(finds: &'a Finds<'a>) -> Self {
        Self { finds: Some(finds) }
    }

    /// Where there is no exchange (command lines): only forms can tell.
    pub(in crate::credential) fn nothing() -> Self {
        Self { finds: None }
    }

    /// Does the value, as it stands or percent-decoded once or twice, hold a secret?
    pub(in crate::credential) fn secret(&self, value: &[u8]) -> bool {
        value.len() > LEN_MAX
            || self.holds(value)
            || (value.contains(&b'%')
                && (self.holds(&text::decoded(value, 1)) || self.holds(&text::decoded(value, 2))))
    }

    fn holds(&self, value: &[u8]) -> bool {
        provider::credential_shaped(value) || self.known(value)
    }

    /// Is a secret of this exchange in the value, or the value in one?
    pub(in crate::credential) fn known(&self, value: &[u8]) -> bool {
        self.any(|secret| {
            is_in(secret, value) || (value.len() >= PART_MIN && is_longer_in(value, secret))
        })
    }

    /// Is a secret of this exchange in a value that is public by what it is? A name may well be part of a secret.
    pub(in crate::credential) fn within(&self, value: &[u8]) -> bool {
        self.any(|secret| is_in(secret, value))
    }

    fn any(&self, test: impl Fn(&[u8]) -> bool) -> bool {
        self.finds
            .is_some_and(|finds| finds.overflowed() || finds.secrets().any(test))
    }

    /// Nothing that rests on knowing every secret may be recorded: more was found than is looked at.
    pub(in crate::credential) fn everything(&self) -> bool {
        self.finds.is_some_and(Finds::overflowed)
    }

    /// Where in this path secrets stand that hold a slash, and so are spread over segments.
    pub(in crate::credential) fn spread(&self, path: &[u8]) -> Vec<Range<usize>> {
        let secrets = self.finds.into_iter().flat_map(Finds::secrets);
        let slashed = secrets.filter(|secret| secret.len() >= SEARCH_MIN && secret.contains(&b'/'));
        slashed
            .flat_map(|secret| {
                let places = memchr::memmem::find_iter(path, secret);
                places
                    .map(|place| place..place + secret.len())
                    .collect::<Vec<_>>()
            })
            .collect()
    }
}

fn is_in(secret: &[u8], value: &[u8]) -> bool {
    secret == value || (secret.len() >= SEARCH_MIN && is_longer_in(secret, value))
}

fn is_longer_in(part: &[u8], whole: &[u8]) -> bool {
    part.len() < whole.len() && text::contains(whole, part)
}
