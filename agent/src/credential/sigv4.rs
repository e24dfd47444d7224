//! AWS Signature Version 4 and what imitates it: `Credential=<access key id>/<date>/<region>/<service>/<terminator>`.
//!
//! The signature differs in every request; what stays the same is the access key id. It is hashed, and shown if it has
//! AWS's form, because AWS itself shows it everywhere. Ids that are newer than 2019 carry the account id in base32.
//!
//! Invariant: the signature is never kept.

use super::find::{Carrier, Find, Finds, Unresolved};
use super::provider;
use super::text;
use agent_common::fingerprint::Secret;

/// A credential scope (`Credential=`, `X-Amz-Credential`), decoded.
pub(super) fn scope_found(
    carrier: Carrier<'_>,
    scheme: &'static str,
    scope: &[u8],
    finds: &mut Finds<'_>,
) {
    // An access key id may itself hold a slash in systems that imitate AWS; the scope is counted from its end:
    // date, region, service, terminator. SigV4A has no region.
    let mut parts = scope.rsplitn(5, |&byte| byte == b'/');
    let (terminator, service, region, _date) =
        (parts.next(), parts.next(), parts.next(), parts.next());
    let (regional, id) = match parts.next() {
        Some(id) => (true, Some(id)),
        None => (false, scope.split(|&byte| byte == b'/').next()),
    };
    let Some(id) = id.filter(|id| !id.is_empty() && terminator != Some(*id)) else {
        finds.add(Find::unresolved(carrier, scheme, Unresolved::Malformed));
        return;
    };
    let word = |part: Option<&[u8]>| {
        let part = part.filter(|part| {
            part.iter()
                .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
        });
        part.and_then(|part| text::presentable(part, 32))
    };
    let region = if regional { word(region) } else { None };
    finds.add(
        access_key_id(carrier, scheme, id)
            .public("aws.region", region)
            .public("aws.service", word(service)),
    );
}

/// An access key id, hashed; shown with its account if it has AWS's form.
pub(super) fn access_key_id(carrier: Carrier<'_>, scheme: &'static str, id: &[u8]) -> Find {
    let find = Find::new(carrier, scheme, Secret::copy_from(id)).key_id();
    let Some(form) = provider::recognise(id).filter(|form| form.public) else {
        return find;
    };
    let shown = text::presentable(id, 128);
    if form.provider != "aws" {
        return find.public("access_key_id", shown);
    }
    let account = account_id(id).map(|account| format!("{account:012}"));
    find.public("aws.access_key_id", shown)
        .public("aws.account_id", account)
}

/// The account id within an access key id: 16 characters of base32 after the 4 of the prefix, 80 bits, of which bits
/// 1 to 40 are the account (the highest bit is set in the ids that hold one: their fifth character is `Q` or later).
fn account_id(id: &[u8]) -> Option<u64> {
    let body = id.get(4..).filter(|body| body.len() == 16)?;
    let mut bits: u128 = 0;
    for &byte in body {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'2'..=b'7' => byte - b'2' + 26,
            _ => return None,
        };
        bits = bits << 5 | u128::from(digit);
    }
    let holds_account = bits >> 79 == 1;
    let account = (bits >> 39 & ((1 << 40) - 1)) as u64;
    (holds_account && account < 1_000_000_000_000).then_some(account)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The id and account of a published write-up of the encoding, in parts for scanners' sake.
    #[test]
    fn account_ids() {
        let id = ["ASIA", "QNZGKIQY", "56JQ7WML"].concat();
        assert_eq!(account_id(id.as_bytes()), Some(29_608_264_753));
        let old = ["AKIA", "IOSFODNN", "7EXAMPLE"].concat();
        assert_eq!(
            account_id(old.as_bytes()),
            None,
            "from before accounts were encoded"
        );
        for cut in 0..id.len() {
            assert_eq!(account_id(&id.as_bytes()[..cut]), None);
        }
        assert_eq!(account_id(b"ASIAQNZGKIQY56JQ7WM1"), None);
    }
}
