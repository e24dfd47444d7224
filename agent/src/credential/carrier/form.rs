//! Credentials in form bodies (`application/x-www-form-urlencoded`): token endpoints, mostly.
//!
//! Of a body that was not seen whole the last pair is cut: what its name says is reported, and nothing is hashed,
//! because half a credential has another fingerprint.
//!
//! Invariant: a compressed body is not read; a cut value is never hashed and never recorded.

use super::super::find::{Carrier, Find, Finds, Unresolved};
use super::super::{params, text};
use super::query;
use crate::http::head::{BodyPrefix, Headers};

/// Pairs that are looked at.
const PAIRS_MAX: usize = 128;

pub(super) fn collect(headers: &Headers, body: &BodyPrefix, finds: &mut Finds<'_>) {
    let is_form = headers.first("content-type").is_some_and(|value| {
        let media = value.split(|&byte| byte == b';').next().unwrap_or_default();
        media
            .trim_ascii()
            .eq_ignore_ascii_case(b"application/x-www-form-urlencoded")
    });
    let encoded = headers.first("content-encoding");
    let plain = encoded.is_none_or(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"identity"));
    if !is_form || !plain || body.bytes.is_empty() {
        return;
    }
    let (seen, cut) = if body.whole {
        (&body.bytes[..], None)
    } else {
        match body.bytes.iter().rposition(|&byte| byte == b'&') {
            Some(end) => (&body.bytes[..end], body.bytes.get(end + 1..)),
            None => (&[][..], body.bytes.get(..)),
        }
    };
    let value_of = |wanted: &[u8]| {
        let mut pairs = params::pairs(seen).take(PAIRS_MAX);
        pairs
            .find(|(name, _)| **text::form(name) == *wanted)
            .map(|(_, value)| text::form(value))
    };
    let client = value_of(b"client_id").and_then(|client| {
        let shown = super::super::basic::is_name(&client).then(|| text::presentable(&client, 128));
        shown.flatten()
    });
    for (name, value) in params::pairs(seen).take(PAIRS_MAX) {
        let name = text::form(name);
        if let Some(row) = query::listed(&name) {
            let mut of_form = Finds::new(finds.config);
            query::found(
                Carrier::Form(row.name),
                row,
                text::form(value),
                &mut of_form,
            );
            finds.absorb(of_form, |find| find.public("client_id", client.clone()));
        } else if query::is_secret_name(&name) {
            query::hide(value, finds);
        }
    }
    scheme_pairs(seen, finds);
    if value_of(b"grant_type").is_some_and(|grant| **grant == *b"password") {
        password_grant(value_of(b"username"), value_of(b"password"), finds);
    }
    if let Some(cut) = cut {
        let equals = cut
            .iter()
            .position(|&byte| byte == b'=')
            .unwrap_or(cut.len());
        finds.hide(cut.get(equals + 1..).unwrap_or_default());
        if let Some(row) = query::listed(&text::form(&cut[..equals])) {
            finds.add(Find::unresolved(
                Carrier::Form(row.name),
                row.scheme,
                Unresolved::Cut,
            ));
        }
    }
}

fn scheme_pairs(seen: &[u8], finds: &mut Finds<'_>) {
    super::super::scheme::sas_found(
        Carrier::Form("sig"),
        params::pairs(seen).take(PAIRS_MAX),
        finds,
    );
}

/// The resource owner password grant (RFC 6749 section 4.3): a password like Basic's.
fn password_grant(
    user: Option<zeroize::Zeroizing<Vec<u8>>>,
    password: Option<zeroize::Zeroizing<Vec<u8>>>,
    finds: &mut Finds<'_>,
) {
    if let Some(password) = password {
        let user = user.unwrap_or_default();
        super::super::basic::pair_found(
            Carrier::Form("password"),
            "password",
            &user,
            &password,
            finds,
        );
    }
}
