//! How a credential was presented: what follows `Authorization:`, by authentication scheme.
//!
//! Every scheme of the IANA registry (HTTP Authentication Schemes) and the de facto ones. What of a value is hashed
//! is what stays the same from request to request: the credential itself for bearer-like schemes, the key's name for
//! signing ones, nothing for challenge-response ones.
//!
//! Invariant: a scheme's name is recorded only as it stands in [`table`]; an unknown one may be part of a secret.

mod ntlm;
mod sas;
mod table;

pub(super) use sas::sas_found;

use super::find::{Carrier, Find, Finds, Unresolved};
use super::params::{param, params};
use super::{basic, sigv4, text};
use agent_common::fingerprint::Secret;
use table::Form;
use zeroize::Zeroizing;

/// A credential without a scheme where one is expected.
pub(super) const BARE: &str = "none";
/// A scheme that is not in the table.
pub(super) const UNKNOWN: &str = "unknown";

/// The value of Authorization, Proxy-Authorization or a header that works like them.
pub(super) fn authorization(carrier: Carrier<'_>, value: &[u8], finds: &mut Finds<'_>) {
    let value = value.trim_ascii();
    if value.is_empty() {
        return;
    }
    let (first, rest) = split_word(value);
    if let Some(row) = table::scheme(first) {
        hide_proofs(row.form, rest, finds);
        if rest.is_empty() {
            finds.add(Find::unresolved(carrier, row.name, Unresolved::Malformed));
        } else {
            known(carrier, row.name, row.form, rest, finds);
        }
    } else if let Some(id) = first.strip_prefix(b"PVEAPIToken=") {
        proxmox(carrier, "PVEAPIToken", id, finds);
    } else if let Some(id) = first.strip_prefix(b"PBSAPIToken=") {
        proxmox(carrier, "PBSAPIToken", id, finds);
    } else if rest.is_empty() {
        finds.add(Find::new(carrier, BARE, Secret::copy_from(value)));
    } else if rest.iter().any(|byte| matches!(byte, b' ' | b',' | b'"')) {
        finds.hide(value);
        params(rest, b',').for_each(|(_, value)| finds.hide(&text::unquoted(value)));
        finds.add(Find::unresolved(
            carrier,
            UNKNOWN,
            Unresolved::UnknownScheme,
        ));
    } else {
        finds.hide(first);
        finds.add(Find::new(carrier, UNKNOWN, Secret::copy_from(rest)));
    }
}

/// The value of a header that holds an API key: some clients put a scheme before it.
pub(super) fn api_key(value: &[u8]) -> Option<(&'static str, &[u8])> {
    let value = value.trim_ascii();
    let (first, rest) = split_word(value);
    if value.is_empty() {
        return None;
    }
    match table::scheme(first) {
        Some(row) if row.form == Form::Whole && !rest.is_empty() => Some((row.name, rest)),
        _ => Some(("api-key", value)),
    }
}

/// Parameters, beside signatures, that prove knowledge of a secret.
const PROOFS: &[&[u8]] = &[
    b"cnonce",
    b"data",
    b"kc1",
    b"mac",
    b"p",
    b"response",
    b"result",
    b"vkc",
];

/// Signatures and the like are no finds, and must not be recorded from a path or query either.
fn hide_proofs(form: Form, rest: &[u8], finds: &mut Finds<'_>) {
    match form {
        Form::Whole | Form::WholeOr(_) | Form::Basic => {}
        Form::Negotiate => finds.hide(rest),
        Form::IdColonSignature { .. } => {
            let signature = rest.splitn(2, |&byte| byte == b':').nth(1);
            finds.hide(signature.unwrap_or(rest));
        }
        _ => {
            let separator = match form {
                Form::Parameter { separator, .. } => separator,
                Form::Sas => b'&',
                _ => b',',
            };
            for (name, value) in params(rest, separator) {
                let name = name.to_ascii_lowercase();
                if text::contains(&name, b"sig") || PROOFS.contains(&name.as_slice()) {
                    let value = text::unquoted(value);
                    finds.hide(&value);
                    if value.contains(&b'%') {
                        finds.hide(&text::percent(&value));
                    }
                }
            }
        }
    }
}

fn split_word(value: &[u8]) -> (&[u8], &[u8]) {
    let end = value
        .iter()
        .position(|byte| matches!(byte, b' ' | b'\t'))
        .unwrap_or(value.len());
    (&value[..end], value[end..].trim_ascii())
}

fn known(carrier: Carrier<'_>, name: &'static str, form: Form, rest: &[u8], finds: &mut Finds<'_>) {
    match form {
        Form::Whole => finds.add(Find::new(carrier, name, text::unquoted(rest))),
        Form::WholeOr(parameter) => match param(rest, b',', parameter) {
            Some(value) => {
                finds.add(Find::new(carrier, name, value));
            }
            None => finds.add(Find::new(carrier, name, text::unquoted(rest))),
        },
        Form::Parameter {
            separator,
            name: parameter,
            public,
        } => {
            let Some(value) = param(rest, separator, parameter) else {
                finds.add(Find::unresolved(carrier, name, Unresolved::Malformed));
                return;
            };
            let shown = |(key, label): &(&str, &str)| {
                let value = param(rest, separator, key)?;
                Some(((*label).to_owned(), public_value(&value)?))
            };
            let mut find = Find::new(carrier, name, value);
            for (label, value) in public.iter().filter_map(shown) {
                find = find.public(&label, Some(value));
            }
            finds.add(find);
        }
        Form::KeyName { parameter, label } => match param(rest, b',', parameter) {
            Some(value) => {
                let shown = public_value(&value);
                finds.add(
                    Find::new(carrier, name, value)
                        .key_id()
                        .public(label, shown),
                );
            }
            None => finds.add(Find::unresolved(carrier, name, Unresolved::Malformed)),
        },
        Form::Basic => basic::encoded(carrier, rest, finds),
        Form::UserOnly => user_only(carrier, name, rest, finds),
        Form::Negotiate => {
            let user = text::base64(rest)
                .and_then(|message| ntlm::user(&message))
                .unwrap_or_default();
            let user = if basic::is_name(user.as_bytes()) {
                user.as_bytes()
            } else {
                b""
            };
            finds.add(Find::unresolved(carrier, name, Unresolved::NothingStable).user(user));
        }
        Form::Scram => scram(carrier, name, rest, finds),
        Form::Hoba => hoba(carrier, name, rest, finds),
        Form::OAuth => oauth(carrier, name, rest, finds),
        Form::CredentialScope => {
            match param(rest, b',', "credential").or_else(|| param(rest, b',', "access")) {
                Some(scope) if scope.contains(&b'/') => {
                    sigv4::scope_found(carrier, name, &scope, finds)
                }
                Some(id) if !id.is_empty() => finds.add(sigv4::access_key_id(carrier, name, &id)),
                _ => finds.add(Find::unresolved(carrier, name, Unresolved::Malformed)),
            }
        }
        Form::IdColonSignature { label } => match rest.iter().position(|&byte| byte == b':') {
            Some(colon) if colon > 0 => {
                let find = sigv4::access_key_id(carrier, name, &rest[..colon]);
                let shown = if label.is_empty() {
                    None
                } else {
                    public_value(&rest[..colon])
                };
                finds.add(find.public(label, shown));
            }
            _ => finds.add(Find::unresolved(carrier, name, Unresolved::Malformed)),
        },
        Form::Sas => sas_found(carrier, params(rest, b'&'), finds),
    }
}

/// A public parameter, if it can be one: short, and not of a credential's form.
fn public_value(value: &[u8]) -> Option<String> {
    let shaped = super::provider::recognise(value).is_some_and(|form| !form.public);
    if shaped {
        None
    } else {
        text::presentable(value, 256)
    }
}

/// Digest (RFC 7616) and Mutual (RFC 8120): the user name, unless it is hashed or of a token's form.
fn user_only(carrier: Carrier<'_>, name: &'static str, rest: &[u8], finds: &mut Finds<'_>) {
    let hashed =
        param(rest, b',', "userhash").is_some_and(|value| value.eq_ignore_ascii_case(b"true"));
    // RFC 8187: `username*=UTF-8''J%C3%A4s%C3%B8n`.
    let extended = || {
        let value = param(rest, b',', "username*")?;
        let place = value.iter().rposition(|&byte| byte == b'\'')?;
        Some(text::percent(&value[place + 1..]))
    };
    let plain = param(rest, b',', "username").or_else(|| param(rest, b',', "user"));
    let user: Zeroizing<Vec<u8>> = plain.or_else(extended).unwrap_or_default();
    let user: &[u8] = if !hashed && basic::is_name(&user) {
        &user
    } else {
        b""
    };
    finds.add(Find::unresolved(carrier, name, Unresolved::NothingStable).user(user));
}

/// SCRAM (RFC 7804): `data` of the first message is `n,,n=<user>,r=<nonce>` in base64, with `=2C` and `=3D` escaped.
fn scram(carrier: Carrier<'_>, name: &'static str, rest: &[u8], finds: &mut Finds<'_>) {
    let message = param(rest, b',', "data")
        .and_then(|data| text::base64(&data))
        .unwrap_or_default();
    let user = message
        .split(|&byte| byte == b',')
        .find_map(|field| field.strip_prefix(b"n="));
    let user = user.map(|user| {
        String::from_utf8_lossy(user)
            .replace("=2C", ",")
            .replace("=3D", "=")
    });
    let user = user
        .filter(|user| basic::is_name(user.as_bytes()))
        .unwrap_or_default();
    finds.add(Find::unresolved(carrier, name, Unresolved::NothingStable).user(user.as_bytes()));
}

/// HOBA (RFC 7486 section 3): `result="<kid>.<challenge>.<nonce>.<signature>"`; the key id stays the same.
fn hoba(carrier: Carrier<'_>, name: &'static str, rest: &[u8], finds: &mut Finds<'_>) {
    let result = param(rest, b',', "result").unwrap_or_default();
    match result.split(|&byte| byte == b'.').next() {
        Some(kid) if result.contains(&b'.') && !kid.is_empty() => {
            let shown = public_value(kid);
            finds.add(
                Find::new(carrier, name, Secret::copy_from(kid))
                    .key_id()
                    .public("hoba.kid", shown),
            );
        }
        _ => finds.add(Find::unresolved(carrier, name, Unresolved::Malformed)),
    }
}

/// OAuth 1.0 (RFC 5849 section 3.5.1): the token's name, else the client's; the secrets behind them only sign. Or,
/// from the time before Bearer, the access token itself.
fn oauth(carrier: Carrier<'_>, name: &'static str, rest: &[u8], finds: &mut Finds<'_>) {
    let decoded = |key| {
        param(rest, b',', key)
            .map(|value| text::percent(&value))
            .filter(|value| !value.is_empty())
    };
    let client = decoded("oauth_consumer_key");
    let shown = client.as_ref().and_then(|client| public_value(client));
    if let Some(value) = decoded("oauth_token") {
        finds.add(Find::new(carrier, name, value).public("oauth_consumer_key", shown));
    } else if let Some(client) = client {
        finds.add(
            Find::new(carrier, name, client)
                .key_id()
                .public("oauth_consumer_key", shown),
        );
    } else if rest.contains(&b' ') || rest.contains(&b',') {
        finds.add(Find::unresolved(carrier, name, Unresolved::Malformed));
    } else {
        finds.add(Find::new(carrier, name, text::unquoted(rest)));
    }
}

/// Proxmox: `user@realm!tokenid=uuid`, where the UUID is the secret. The whole is what people copy.
fn proxmox(carrier: Carrier<'_>, name: &'static str, value: &[u8], finds: &mut Finds<'_>) {
    let Some(end) = value.iter().position(|byte| matches!(byte, b'=' | b':')) else {
        finds.add(Find::unresolved(carrier, name, Unresolved::Malformed));
        return;
    };
    finds.hide(&value[end + 1..]);
    let user = if basic::is_name(&value[..end]) {
        &value[..end]
    } else {
        b""
    };
    finds.add(
        Find::new(carrier, name, Secret::copy_from(&value[end + 1..]))
            .user(user)
            .hint(Some(("proxmox", None))),
    );
}
