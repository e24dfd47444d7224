//! Query parameters that hold credentials, and the wider set whose values are never recorded.
//!
//! Names are compared without case, `-`, `_` and `.`: `apiKey`, `api-key` and `API_KEY` are one. A few names (`key`,
//! `token`) are ordinary words too: their value is a credential only if it looks like one, and is replaced anyway.
//!
//! Invariant: a parameter's name is recorded as it stands in the table, never from the wire.

use super::super::find::{Carrier, Find, Finds};
use super::super::redact::opaque;
use super::super::{params, provider, scheme, sigv4, text};
use zeroize::Zeroizing;

/// Pairs that are looked at.
const PAIRS_MAX: usize = 128;
/// An ordinary word's value is a credential from so many bytes on that do not read like words.
const OPAQUE_MIN: usize = 12;
const AMBIGUOUS_LEN_MIN: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Credential,
    /// A credential only if it looks like one.
    Ambiguous,
    /// `X-Amz-Credential` and the like: a credential scope.
    Scope,
    /// An access key id.
    KeyId,
}

pub(super) struct Row {
    /// Lower case, without `-`, `_` and `.`.
    plain: &'static str,
    /// As recorded.
    pub(super) name: &'static str,
    pub(super) scheme: &'static str,
    pub(super) kind: Kind,
}

const fn row(plain: &'static str, name: &'static str, scheme: &'static str) -> Row {
    Row {
        plain,
        name,
        scheme,
        kind: Kind::Credential,
    }
}

const fn kind(plain: &'static str, name: &'static str, scheme: &'static str, kind: Kind) -> Row {
    Row {
        plain,
        name,
        scheme,
        kind,
    }
}

#[rustfmt::skip]
static PARAMETERS: &[Row] = &[
    row("accesskey", "access_key", "api-key"),
    row("accesstoken", "access_token", "Bearer"),                  // RFC 6750 sections 2.2 and 2.3
    row("actortoken", "actor_token", "actor-token"),               // RFC 8693
    row("apikey", "api_key", "api-key"),
    row("apitoken", "api_token", "api-key"),
    row("assertion", "assertion", "assertion"),                    // RFC 7521
    row("authkey", "auth_key", "api-key"),
    row("authtoken", "auth_token", "api-key"),
    kind("awsaccesskeyid", "AWSAccessKeyId", "AWS", Kind::KeyId),
    row("clientassertion", "client_assertion", "client-assertion"),// RFC 7521
    row("clientsecret", "client_secret", "client-secret"),         // RFC 6749 section 2.3.1
    row("idtoken", "id_token", "id-token"),
    row("jobtoken", "job_token", "api-key"),
    row("jwt", "jwt", "Bearer"),
    kind("key", "key", "api-key", Kind::Ambiguous),
    row("oauthtoken", "oauth_token", "OAuth"),                     // RFC 5849 section 3.5.3
    kind("ossaccesskeyid", "OSSAccessKeyId", "OSS", Kind::KeyId),
    row("privatetoken", "private_token", "api-key"),
    row("refreshtoken", "refresh_token", "refresh-token"),         // RFC 6749 section 6
    kind("sentrykey", "sentry_key", "Sentry", Kind::Ambiguous),
    row("subjecttoken", "subject_token", "subject-token"),         // RFC 8693
    row("subscriptionkey", "subscription_key", "api-key"),
    kind("token", "token", "api-key", Kind::Ambiguous),
    kind("xamzcredential", "X-Amz-Credential", "AWS4-HMAC-SHA256", Kind::Scope),
    row("xamzsecuritytoken", "X-Amz-Security-Token", "AWS4-HMAC-SHA256"),
    row("xapikey", "x-api-key", "api-key"),
    kind("xgoogcredential", "X-Goog-Credential", "GOOG4-HMAC-SHA256", Kind::Scope),
    kind("xosscredential", "x-oss-credential", "OSS4-HMAC-SHA256", Kind::Scope),
];

/// The query of a target, without the question mark.
pub(super) fn collect(query: &[u8], finds: &mut Finds<'_>) {
    for (name, value) in params::pairs(query).take(PAIRS_MAX) {
        let decoded = text::percent(name);
        if let Some(row) = listed(&decoded) {
            found(Carrier::Query(row.name), row, text::percent(value), finds);
        } else if is_secret_name(&decoded) {
            hide(value, finds);
        }
    }
    scheme::sas_found(
        Carrier::Query("sig"),
        params::pairs(query).take(PAIRS_MAX),
        finds,
    );
}

/// A listed parameter with its decoded value.
pub(super) fn found(
    carrier: Carrier<'_>,
    row: &Row,
    value: Zeroizing<Vec<u8>>,
    finds: &mut Finds<'_>,
) {
    match row.kind {
        Kind::Credential => {
            let aws = row.plain == "xamzsecuritytoken";
            let hint = aws.then_some(("aws", Some("session_token")));
            finds.add(Find::new(carrier, row.scheme, value).hint(hint));
        }
        Kind::Ambiguous if looks_like_a_credential(&value) => {
            finds.add(Find::new(carrier, row.scheme, value))
        }
        Kind::Ambiguous => finds.hide(&value),
        Kind::Scope => sigv4::scope_found(carrier, row.scheme, &value, finds),
        Kind::KeyId if value.is_empty() => {}
        Kind::KeyId => finds.add(sigv4::access_key_id(carrier, row.scheme, &value)),
    }
}

fn looks_like_a_credential(value: &[u8]) -> bool {
    provider::recognise(value).is_some()
        || (value.len() >= AMBIGUOUS_LEN_MIN && opaque::raw_weight(value) >= OPAQUE_MIN)
}

/// What a secret parameter holds must not be seen elsewhere either, if it is long enough to be told from a word.
pub(super) fn hide(value: &[u8], finds: &mut Finds<'_>) {
    let value = text::percent(value);
    if value.len() >= AMBIGUOUS_LEN_MIN {
        finds.hide(&value);
    }
}

/// The longest name that is compared.
const NAME_MAX: usize = 64;

fn plain(name: &[u8]) -> impl Iterator<Item = u8> {
    let kept = name
        .iter()
        .filter(|byte| !matches!(byte, b'-' | b'_' | b'.'));
    kept.map(u8::to_ascii_lowercase)
}

/// The row of a decoded parameter name.
pub(super) fn listed(name: &[u8]) -> Option<&'static Row> {
    if name.len() > NAME_MAX {
        return None;
    }
    let place = PARAMETERS
        .binary_search_by(|row| row.plain.bytes().cmp(plain(name)))
        .ok()?;
    PARAMETERS.get(place)
}

/// Is this the name of a parameter, option or path part whose value may be a secret? Rather once too often.
pub(in crate::credential) fn is_secret_name(name: &[u8]) -> bool {
    const WHOLE: &[&str] = &[
        "auth", "code", "cred", "creds", "hash", "mac", "magic", "pass", "pin", "proof", "pw",
        "salt", "seed", "sid", "sig", "sign", "state",
    ];
    if name.len() > NAME_MAX {
        return true;
    }
    // What is asked may itself be a secret in a name's place.
    let mut buffer = Zeroizing::new([0; NAME_MAX]);
    let mut len = 0;
    for (place, byte) in buffer.iter_mut().zip(plain(name)) {
        *place = byte;
        len += 1;
    }
    let plain = &buffer[..len];
    let holds = |place: usize| {
        telling(plain[place])
            .iter()
            .any(|part| plain[place..].starts_with(part.as_bytes()))
    };
    plain.ends_with(b"key")
        || WHOLE.iter().any(|whole| whole.as_bytes() == plain)
        || (0..len).any(holds)
}

/// Parts that tell a secret's name, by their first letter: every place of every path segment is asked for them.
fn telling(first: u8) -> &'static [&'static str] {
    match first {
        b'a' => &[
            "accesskey",
            "apikey",
            "assertion",
            "authentic",
            "authkey",
            "authoriz",
        ],
        b'b' => &["bearer"],
        b'c' => &["cookie", "credential", "csrf"],
        b'h' => &["hmac"],
        b'i' => &["invite"],
        b'j' => &["jwt"],
        b'n' => &["nonce"],
        b'o' => &["oauth", "otp"],
        b'p' => &["passcode", "passphrase", "passw", "privatekey", "pwd"],
        b's' => &["saml", "secret", "sessid", "session", "signature"],
        b't' => &["ticket", "token"],
        b'v' => &["verif"],
        b'w' => &["webhook"],
        b'x' => &["xsrf"],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_and_compared_without_case_and_separators() {
        for pair in PARAMETERS.windows(2) {
            assert!(
                pair[0].plain < pair[1].plain,
                "{} {}",
                pair[0].plain,
                pair[1].plain
            );
        }
        for row in PARAMETERS {
            assert_eq!(
                plain(row.name.as_bytes()).collect::<Vec<_>>(),
                row.plain.as_bytes()
            );
            for name in [
                row.name.to_owned(),
                row.name.to_uppercase(),
                row.plain.to_owned(),
            ] {
                assert!(
                    listed(name.as_bytes()).is_some_and(|found| found.name == row.name),
                    "{name}"
                );
            }
            assert!(
                is_secret_name(row.name.as_bytes()) || row.kind == Kind::KeyId,
                "{}",
                row.name
            );
        }
    }

    #[test]
    fn telling_parts_begin_with_their_letter() {
        for letter in 0..=u8::MAX {
            assert!(
                telling(letter)
                    .iter()
                    .all(|part| part.as_bytes()[0] == letter)
            );
            for part in telling(letter) {
                for name in [
                    (*part).to_owned(),
                    format!("x-{part}"),
                    format!("{}_x", part.to_uppercase()),
                ] {
                    assert!(is_secret_name(name.as_bytes()), "{name}");
                }
            }
        }
        assert!(is_secret_name(&[b'a'; NAME_MAX + 1]) && !is_secret_name(&[b'a'; NAME_MAX]));
    }

    #[test]
    fn ordinary_names_are_not_secret() {
        for name in [
            "page", "per_page", "q", "id", "ref", "sort", "limit", "offset", "format", "lang",
            "author", "sp",
        ] {
            assert!(!is_secret_name(name.as_bytes()), "{name}");
        }
    }
}
