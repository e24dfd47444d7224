//! What the configuration says about credentials.

use serde::{Deserialize, Serialize};

/// The `[credential]` part of the configuration. The defaults observe every carrier that always holds a credential
/// and leave out what people choose and remember.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Further request headers that hold a credential, in any case: `["X-Acme-Key"]`. Default: none.
    pub extra_headers: Vec<String>,
    /// Cookies, in requests and in Set-Cookie, that hold a credential, by exact name: `["session"]`. Default: none.
    pub cookies: Vec<String>,
    /// Fingerprint every Basic password, Basic-style userinfo and password grant, and not only those that have a
    /// provider's shape or stand beside a user name that marks a credential (`x-access-token`). A fingerprint of a
    /// password can be tested against guesses by whoever has the fingerprint key. Default: false.
    pub basic_passwords: bool,
    /// Fingerprint credentials of fewer than 16 bytes that no provider's shape fits, too. They can be guessed by
    /// whoever has the fingerprint key. Default: false.
    pub short_keys: bool,
}
