//! Which library a point belongs to, for names in reports and coverage. Nothing depends on it being right.
//!
//! Invariant: a name is given only for text that stands in the file.

use super::Search;
use crate::kernel::keylog::finder::{Library, LookError};
use crate::kernel::keylog::scan::Part;

/// A reason string that BoringSSL and its forks have and OpenSSL does not (`ssl/ssl.errordata`).
const BORINGSSL: &[u8] = b"PSK_IDENTITY_BINDER_COUNT_MISMATCH";
/// OpenSSL's source folder, in its error records.
const OPENSSL: &[u8] = b"ssl/statem/";
const OPENSSL_VERSION: &[u8] = b"OpenSSL ";
const GNUTLS_VERSION: &[u8] = b"Enabled GnuTLS ";
pub(super) const TEXTS: [&[u8]; 4] = [BORINGSSL, OPENSSL, OPENSSL_VERSION, GNUTLS_VERSION];

/// Library and version of a key-log point of this file.
pub(super) fn of_point(search: &mut Search<'_>) -> Result<(Library, Option<String>), LookError> {
    if search.is_called(&["libgnutls.so", "libgnutls-"]) {
        let version = search.version_after(GNUTLS_VERSION)?;
        return Ok((Library::Gnutls, version));
    }
    if !search.standing(BORINGSSL)?.is_empty() {
        return Ok((Library::Boringssl, None));
    }
    if let Some(version) = search.version_after(OPENSSL_VERSION)? {
        return Ok((Library::Openssl, Some(version)));
    }
    if let Some(version) = soname_version(search, "libssl.so.") {
        return Ok((Library::Openssl, Some(version)));
    }
    if let Some(version) = search.version_after(GNUTLS_VERSION)? {
        return Ok((Library::Gnutls, Some(version)));
    }
    if !search.standing(OPENSSL)?.is_empty() {
        return Ok((Library::Openssl, None));
    }
    Ok((Library::Unknown, None))
}

/// OpenSSL's version, where its name is known already.
pub(super) fn of_openssl(search: &mut Search<'_>) -> Result<(Library, Option<String>), LookError> {
    for part in [Part::Data, Part::Code] {
        if let Some(version) = search.version_in(part, OPENSSL_VERSION)? {
            return Ok((Library::Openssl, Some(version)));
        }
    }
    Ok((Library::Openssl, soname_version(search, "libcrypto.so.")))
}

fn soname_version(search: &Search<'_>, prefix: &str) -> Option<String> {
    let soname = search.soname()?;
    let version = soname.strip_prefix(prefix)?;
    version
        .chars()
        .all(|character| character.is_ascii_digit() || character == '.')
        .then(|| version.to_owned())
}
