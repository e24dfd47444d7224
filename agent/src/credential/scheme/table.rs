//! The schemes by name.
//!
//! Invariant: names are sorted without regard to case (a test says so), because they are looked up by bisection.

use std::cmp::Ordering;

/// What stands after a scheme's name, and what of it is hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The credential and nothing else.
    Whole,
    /// The credential in a parameter, or nothing but it.
    WholeOr(&'static str),
    /// The credential in a parameter; `public` ones beside it (name, name in the record) are kept.
    Parameter {
        separator: u8,
        name: &'static str,
        public: &'static [(&'static str, &'static str)],
    },
    /// A signature; the parameter that names the key is hashed.
    KeyName {
        parameter: &'static str,
        label: &'static str,
    },
    Basic,
    /// Challenge and response: nothing is hashed, the user name is kept.
    UserOnly,
    /// SPNEGO or NTLM: nothing is hashed, NTLM's user name is kept.
    Negotiate,
    Scram,
    Hoba,
    OAuth,
    /// `Credential=<access key id>/<scope>`.
    CredentialScope,
    /// `<id>:<signature>`.
    IdColonSignature {
        label: &'static str,
    },
    /// Azure's signed parameters.
    Sas,
}

pub(super) struct Row {
    /// As the registry or the product writes it.
    pub(super) name: &'static str,
    pub(super) form: Form,
}

const fn row(name: &'static str, form: Form) -> Row {
    Row { name, form }
}

const fn parameter(
    separator: u8,
    name: &'static str,
    public: &'static [(&'static str, &'static str)],
) -> Form {
    Form::Parameter {
        separator,
        name,
        public,
    }
}

const fn key_name(parameter: &'static str, label: &'static str) -> Form {
    Form::KeyName { parameter, label }
}

#[rustfmt::skip]
static SCHEMES: &[Row] = &[
    row("AccessKey", Form::Whole),
    row("Api-Key", Form::Whole),
    row("Api-Token", Form::Whole),
    row("ApiKey", Form::Whole),
    row("Apitoken", Form::Whole),
    row("AWS", Form::IdColonSignature { label: "" }),
    row("AWS3", Form::CredentialScope),
    row("AWS4-ECDSA-P256-SHA256", Form::CredentialScope),
    row("AWS4-HMAC-SHA256", Form::CredentialScope),
    row("Basic", Form::Basic),                                     // RFC 7617
    row("Bearer", Form::Whole),                                    // RFC 6750
    row("Bot", Form::Whole),                                       // Discord
    row("Concealed", key_name("k", "concealed.k")),                // RFC 9729
    row("Digest", Form::UserOnly),                                 // RFC 7616
    row("DPoP", Form::Whole),                                      // RFC 9449: the access token, never the proof
    row("EG1-HMAC-SHA256", parameter(b';', "access_token", &[("client_token", "client_token")])), // Akamai
    row("FlyV1", Form::Whole),
    row("GenieKey", Form::Whole),                                  // Opsgenie
    row("GNAP", Form::Whole),                                      // RFC 9635
    row("GOOG1", Form::IdColonSignature { label: "" }),
    row("GOOG4-HMAC-SHA256", Form::CredentialScope),
    row("GOOG4-RSA-SHA256", Form::CredentialScope),
    row("GoogleLogin", parameter(b',', "auth", &[])),
    row("Hawk", key_name("id", "hawk.id")),
    row("HMAC-SHA256", Form::CredentialScope),                     // Azure App Configuration
    row("HOBA", Form::Hoba),                                       // RFC 7486
    row("JWT", Form::Whole),
    row("Key", Form::Whole),
    row("Klaviyo-API-Key", Form::Whole),
    row("MAC", key_name("id", "mac.id")),
    row("MediaBrowser", parameter(b',', "token", &[])),            // Jellyfin, Emby
    row("Mutual", Form::UserOnly),                                 // RFC 8120
    row("Negotiate", Form::Negotiate),                             // RFC 4559
    row("NTLM", Form::Negotiate),
    row("OAuth", Form::OAuth),                                     // RFC 5849
    row("OSS", Form::IdColonSignature { label: "" }),
    row("OSS4-HMAC-SHA256", Form::CredentialScope),
    row("PrivateToken", parameter(b',', "token", &[])),            // RFC 9577
    row("SCRAM-SHA-1", Form::Scram),                               // RFC 7804
    row("SCRAM-SHA-256", Form::Scram),                             // RFC 7804
    row("SDK-HMAC-SHA256", Form::CredentialScope),                 // Huawei
    row("Sentry", parameter(b',', "sentry_key", &[("sentry_client", "sentry_client")])),
    row("SharedAccessSignature", Form::Sas),
    row("SharedKey", Form::IdColonSignature { label: "azure.storage_account" }),
    row("SharedKeyLite", Form::IdColonSignature { label: "azure.storage_account" }),
    row("Signature", key_name("keyid", "signature.key_id")),
    row("Snowflake", parameter(b',', "token", &[])),
    row("Splunk", Form::Whole),
    row("SSWS", Form::Whole),                                      // Okta
    row("TC3-HMAC-SHA256", Form::CredentialScope),                 // Tencent
    row("token", Form::WholeOr("token")),                          // GitHub; PagerDuty and Rails have token="…"
    row("vapid", parameter(b',', "t", &[("k", "vapid.k")])),       // RFC 8292
    row("Zoho-oauthtoken", Form::Whole),
];

/// The scheme of that name, in any case.
pub(super) fn scheme(name: &[u8]) -> Option<&'static Row> {
    let place = SCHEMES
        .binary_search_by(|row| compare(row.name.as_bytes(), name))
        .ok()?;
    SCHEMES.get(place)
}

fn compare(a: &[u8], b: &[u8]) -> Ordering {
    a.iter()
        .map(u8::to_ascii_lowercase)
        .cmp(b.iter().map(u8::to_ascii_lowercase))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_and_found_in_any_case() {
        for pair in SCHEMES.windows(2) {
            let order = compare(pair[0].name.as_bytes(), pair[1].name.as_bytes());
            assert_eq!(order, Ordering::Less, "{} {}", pair[0].name, pair[1].name);
        }
        for row in SCHEMES {
            for name in [
                row.name.to_owned(),
                row.name.to_uppercase(),
                row.name.to_lowercase(),
            ] {
                assert_eq!(
                    scheme(name.as_bytes()).map(|found| found.name),
                    Some(row.name)
                );
                assert!(
                    scheme(&name.as_bytes()[..name.len() - 1])
                        .is_none_or(|found| found.name != row.name)
                );
            }
        }
    }

    #[test]
    fn the_iana_registry_is_whole() {
        for name in [
            "Basic",
            "Bearer",
            "Concealed",
            "Digest",
            "DPoP",
            "GNAP",
            "HOBA",
            "Mutual",
            "Negotiate",
            "OAuth",
            "PrivateToken",
            "SCRAM-SHA-1",
            "SCRAM-SHA-256",
            "vapid",
        ] {
            assert!(
                scheme(name.as_bytes()).is_some_and(|row| row.name == name),
                "{name}"
            );
        }
    }
}
