//! Token forms that are told by their structure.
//!
//! Invariant: decoding is bounded by [`DECODE_MAX`]; a longer value of such a form is recognised by its outer form or
//! not at all.

use super::super::text;
use super::{Recognised, SHAPE};

/// The longest base64 text that is decoded to look inside.
const DECODE_MAX: usize = 16 * 1024;

pub(super) fn recognise(value: &[u8]) -> Option<Recognised> {
    let (provider, class) = form(value)?;
    Some(Recognised {
        provider,
        class,
        evidence: SHAPE,
        public: false,
    })
}

fn form(value: &[u8]) -> Option<(&'static str, Option<&'static str>)> {
    let found = |provider, class| Some((provider, class));
    match value.first()? {
        b'e' if jwt_like(value) => match jwt_parts(value)? {
            3 => found("jwt", None),
            _ => found("jwe", None),
        },
        b'v' if paseto(value) => found("paseto", None),
        b'0'..=b'9' if telegram(value) => found("telegram", Some("bot_token")),
        b's' if openai_legacy(value) => found("openai", Some("user_key")),
        b'M' | b'N' | b'O' if discord(value) => found("discord", Some("bot_token")),
        b'p' if airtable(value) => found("airtable", Some("personal_access_token")),
        b'b' if value.strip_prefix(b"biscuit:").is_some_and(biscuit) => found("biscuit", None),
        // What the first decoded byte of a macaroon (`0` of the packet length, or 2) and of a biscuit (field 1 or 2)
        // makes the first character.
        b'A' | b'M' if macaroon(value) => found("macaroon", None),
        b'C' | b'E' if biscuit(value) => found("biscuit", None),
        _ if terraform(value) => found("terraform", Some("api_token")),
        _ => None,
    }
}

fn url_safe(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

/// Looks like a JWT or JWE in compact form: base64url parts of which the first begins like a JSON object.
pub(in crate::credential) fn jwt_like(value: &[u8]) -> bool {
    value.starts_with(b"ey") && {
        let dots = value.iter().filter(|&&byte| byte == b'.').count();
        (dots == 2 || dots == 4)
            && value
                .iter()
                .all(|&byte| url_safe(byte) || matches!(byte, b'.' | b'='))
    }
}

/// 3 (RFC 7515 section 3.1) or 5 (RFC 7516 section 3.1) parts, if the header is a JSON object with `alg` and, for 5
/// only, `enc`.
fn jwt_parts(value: &[u8]) -> Option<usize> {
    if !jwt_like(value) {
        return None;
    }
    let parts = value.split(|&byte| byte == b'.').count();
    let header = value.split(|&byte| byte == b'.').next()?;
    if header.len() > DECODE_MAX {
        return None;
    }
    #[derive(serde::Deserialize)]
    struct Header<'a> {
        #[serde(borrow)]
        alg: Option<std::borrow::Cow<'a, str>>,
        #[serde(borrow)]
        enc: Option<std::borrow::Cow<'a, str>>,
    }
    let decoded = text::base64(header)?;
    let header: Header<'_> = serde_json::from_slice(&decoded).ok()?;
    // RFC 7516 section 9: `enc` tells the two apart.
    let fits = header.alg.is_some() && header.enc.is_some() == (parts == 5);
    fits.then_some(parts)
}

/// `v1.local.…` to `v4.public.…`, with an optional footer.
fn paseto(value: &[u8]) -> bool {
    let mut parts = value.split(|&byte| byte == b'.');
    let version = parts.next().unwrap_or_default();
    let purpose = parts.next().unwrap_or_default();
    let body = parts.next().unwrap_or_default();
    let footer = parts.next();
    matches!(version, [b'v', b'1'..=b'4'])
        && matches!(purpose, b"local" | b"public")
        && body.len() >= 32
        && body.iter().all(|&byte| url_safe(byte))
        && footer.is_none_or(|footer| footer.iter().all(|&byte| url_safe(byte)))
        && parts.next().is_none()
}

/// `<bot id>:<35 characters>`.
fn telegram(value: &[u8]) -> bool {
    let Some(colon) = value.iter().position(|&byte| byte == b':') else {
        return false;
    };
    let (id, secret) = (&value[..colon], &value[colon + 1..]);
    (6..=12).contains(&id.len())
        && id.iter().all(u8::is_ascii_digit)
        && (30..=50).contains(&secret.len())
        && secret.iter().all(|&byte| url_safe(byte))
}

/// `sk-` with OpenAI's mark in the middle.
fn openai_legacy(value: &[u8]) -> bool {
    value.starts_with(b"sk-")
        && (40..=200).contains(&value.len())
        && value.iter().all(|&byte| url_safe(byte))
        && text::contains(value, b"T3BlbkFJ")
}

/// `<base64 of the user id>.<time>.<hmac>`.
fn discord(value: &[u8]) -> bool {
    let mut parts = value.split(|&byte| byte == b'.').map(<[u8]>::len);
    let lengths = [parts.next(), parts.next(), parts.next(), parts.next()];
    matches!(lengths, [Some(23..=28), Some(6..=7), Some(27..=40), None])
        && value.iter().all(|&byte| url_safe(byte) || byte == b'.')
}

/// `pat<14>.<64 hex>`.
fn airtable(value: &[u8]) -> bool {
    value.len() == 82
        && value.starts_with(b"pat")
        && value[3..17].iter().all(u8::is_ascii_alphanumeric)
        && value[17] == b'.'
        && value[18..].iter().all(u8::is_ascii_hexdigit)
}

/// `<14>.atlasv1.<60 to 70>`.
fn terraform(value: &[u8]) -> bool {
    (83..=94).contains(&value.len())
        && value[..14].iter().all(u8::is_ascii_alphanumeric)
        && value[14..].starts_with(b".atlasv1.")
        && value[23..]
            .iter()
            .all(|&byte| url_safe(byte) || byte == b'=')
}

/// libmacaroons v1 (packets of `<4 hex length><name> <value>\n`) or v2 (typed fields), in base64.
fn macaroon(value: &[u8]) -> bool {
    if value.len() > DECODE_MAX {
        return false;
    }
    let Some(bytes) = text::base64(value) else {
        return false;
    };
    match bytes.first() {
        Some(2) => macaroon_v2(&bytes[1..]),
        Some(b'0') => macaroon_v1(&bytes),
        _ => false,
    }
}

fn macaroon_v1(mut bytes: &[u8]) -> bool {
    let mut last = &b""[..];
    let mut first = true;
    while let Some((length, _)) = bytes.split_first_chunk::<4>() {
        let length = std::str::from_utf8(length)
            .ok()
            .and_then(|text| usize::from_str_radix(text, 16).ok());
        let Some(packet) = length
            .filter(|&length| length > 5)
            .and_then(|length| bytes.get(..length))
        else {
            return false;
        };
        bytes = &bytes[packet.len()..];
        last = &packet[4..];
        if std::mem::take(&mut first)
            && !last.starts_with(b"location ")
            && !last.starts_with(b"identifier ")
        {
            return false;
        }
    }
    bytes.is_empty() && last.starts_with(b"signature ")
}

/// A header section and caveat sections, each ended by a 0, then a 0, then field 6 (signature) of 32 bytes.
fn macaroon_v2(bytes: &[u8]) -> bool {
    let Some(body) = bytes.len().checked_sub(34).map(|end| bytes.split_at(end)) else {
        return false;
    };
    let (mut fields, signature) = body;
    if !signature.starts_with(&[6, 32]) {
        return false;
    }
    let mut ends = 0;
    while let Some((&kind, rest)) = fields.split_first() {
        if kind == 0 {
            ends += 1;
            fields = rest;
            continue;
        }
        let Some((length, rest)) = varint(rest) else {
            return false;
        };
        let Some(after) = usize::try_from(length)
            .ok()
            .and_then(|length| rest.get(length..))
        else {
            return false;
        };
        if !matches!(kind, 1 | 2 | 4) {
            return false;
        }
        fields = after;
    }
    ends >= 2
}

/// The protobuf message `Biscuit`: optional 1 (varint), 2 (authority block), any number of 3 (blocks), 4 (proof).
fn biscuit(value: &[u8]) -> bool {
    if value.len() > DECODE_MAX || value.len() < 100 {
        return false;
    }
    let Some(decoded) = text::base64(value) else {
        return false;
    };
    let mut bytes = &decoded[..];
    let (mut authority, mut proof) = (false, false);
    while let Some((&tag, rest)) = bytes.split_first() {
        let Some((number, rest)) = varint(rest) else {
            return false;
        };
        match tag {
            0x08 if !authority => bytes = rest,
            0x12 | 0x1a | 0x22 => {
                let Some(after) = usize::try_from(number)
                    .ok()
                    .and_then(|length| rest.get(length..))
                else {
                    return false;
                };
                authority |= tag == 0x12;
                proof |= tag == 0x22;
                bytes = after;
            }
            _ => return false,
        }
    }
    authority && proof
}

/// LEB128 of up to 5 bytes: nothing here is longer than 4 GiB.
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (index, &byte) in bytes.iter().take(5).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[index + 1..]));
        }
    }
    None
}

#[cfg(test)]
#[path = "structure_tests.rs"]
mod tests;
