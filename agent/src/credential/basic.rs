//! User name and password: Basic (RFC 7617), userinfo in URLs, and the password grant.
//!
//! A password that a person chose can be guessed by whoever has the fingerprint key, so by default only what is a
//! token is fingerprinted:
//!
//! 1. user or password has a provider's shape: that one (both, if both have), with the other kept if it is a name;
//! 2. the user name marks the password as a token (`x-access-token`, `oauth2`, ..., or it is empty): the password;
//! 3. the password marks the user name as a token (`x-oauth-basic`, ..., or it is empty) and that has no name's form:
//!    the user name;
//! 4. the user name is a provider's public account name (Twilio's account SID): the password;
//! 5. otherwise the user name is kept, and the password only hashed if the configuration asks for it.
//!
//! Invariant: a user name is kept only if it does not have the form of a credential; a password never.

use super::find::{Carrier, Find, Finds, Unresolved};
use super::provider;
use super::redact::opaque;
use super::text;
use agent_common::fingerprint::Secret;

/// User names that say that the password is a token.
const TOKEN_USERS: &[&str] = &[
    "",
    "x-access-token",
    "__token__",
    "oauth2",
    "oauth2accesstoken",
    "_json_key",
    "_token",
    "token",
    "apikey",
    "api_key",
    "api-key",
    "aws",
    "gitlab-ci-token",
    "x-token-auth",
    "x-bitbucket-api-token-auth",
    "<token>",
    "$oauthtoken",
    "00000000-0000-0000-0000-000000000000",
    "pat",
    "bearer",
    "access_token",
];
/// Passwords that say that the user name is the token.
const TOKEN_PASSWORDS: &[&str] = &["", "x-oauth-basic", "api_token", "x", "unused", "none"];
/// A user name of so many bytes that do not read like words is no name.
const OPAQUE_USER: usize = 16;

/// The base64 of `user:password`, as Basic carries it.
pub(super) fn encoded(carrier: Carrier<'_>, value: &[u8], finds: &mut Finds<'_>) {
    finds.hide(value);
    let Some(pair) = text::base64(value) else {
        finds.add(Find::unresolved(carrier, "Basic", Unresolved::Malformed));
        return;
    };
    let Some(colon) = pair.iter().position(|&byte| byte == b':') else {
        finds.hide(&pair);
        finds.add(Find::unresolved(carrier, "Basic", Unresolved::Malformed));
        return;
    };
    pair_found(carrier, "Basic", &pair[..colon], &pair[colon + 1..], finds);
}

/// A user name and a password, decoded.
pub(super) fn pair_found(
    carrier: Carrier<'_>,
    scheme: &'static str,
    user: &[u8],
    password: &[u8],
    finds: &mut Finds<'_>,
) {
    let one_of = |list: &[&str], value: &[u8]| {
        list.iter()
            .any(|marker| marker.as_bytes().eq_ignore_ascii_case(value))
    };
    let user_form = provider::recognise(user);
    let user_is_token = user_form.is_some_and(|form| !form.public);
    let password_is_token = provider::recognise(password).is_some();
    let name = if is_name(user) { user } else { b"" };
    finds.hide(password);
    if name.is_empty() {
        finds.hide(user);
    }
    if user_is_token {
        finds.add(Find::new(carrier, scheme, Secret::copy_from(user)));
    }
    if password_is_token {
        finds.add(Find::new(carrier, scheme, Secret::copy_from(password)).user(name));
    }
    if user_is_token || password_is_token {
        return;
    }
    let user_marks = one_of(TOKEN_USERS, user);
    if one_of(TOKEN_PASSWORDS, password) && name.is_empty() && !user.is_empty() {
        finds.add(Find::new(carrier, scheme, Secret::copy_from(user)));
    } else if password.is_empty() {
        finds.add(Find::unresolved(carrier, scheme, Unresolved::NothingStable).user(name));
    } else if let Some(account) = user_form {
        let find = Find::new(carrier, scheme, Secret::copy_from(password)).user(name);
        finds.add(find.hint(Some((account.provider, Some("secret")))));
    } else if user_marks || finds.config.basic_passwords {
        finds.add(Find::new(carrier, scheme, Secret::copy_from(password)).user(name));
    } else {
        finds.add(Find::unresolved(carrier, scheme, Unresolved::Password).user(name));
    }
}

/// Reads like a name, a mail address or a UUID, and not like a token?
pub(super) fn is_name(user: &[u8]) -> bool {
    !user.is_empty()
        && user.len() <= 128
        && (provider::recognise(user).is_some_and(|form| form.public)
            || opaque::is_uuid(user)
            || (!provider::credential_shaped(user)
                && !is_base64(user)
                && !is_mixed(user)
                && opaque::raw_weight(user) < OPAQUE_USER))
}

/// Long, of capitals, small letters and digits at once, and without what parts a name or an address.
fn is_mixed(user: &[u8]) -> bool {
    const SHORTEST: usize = 20;
    let has = |class: fn(&u8) -> bool| user.iter().any(class);
    user.len() >= SHORTEST
        && has(u8::is_ascii_uppercase)
        && has(u8::is_ascii_lowercase)
        && has(u8::is_ascii_digit)
        && !user.iter().any(|byte| b".@ \\".contains(byte))
}

/// Standard base64 (RFC 4648 section 4) beyond letters and digits: long names hold `/` or `+` beside dots and `@`.
fn is_base64(user: &[u8]) -> bool {
    const SHORTEST: usize = 16;
    user.len() >= SHORTEST
        && user.iter().any(|byte| b"+/=".contains(byte))
        && user
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(byte))
}
