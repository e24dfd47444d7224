//! TLS libraries that are recognised, and not read: named, so that coverage can say why.
//!
//! Invariant: names what it knows by text or symbols of the file; it never yields a point.

use super::Search;
use crate::kernel::keylog::finder::{Library, LookError, Unread, UnreadReason};

/// One library by its marks: any of them is enough.
struct Mark {
    library: Library,
    reason: UnreadReason,
    sonames: &'static [&'static str],
    exports: &'static [&'static str],
    /// Text of its constants.
    texts: &'static [&'static [u8]],
    /// The texts count only beside the key log's labels, which this library has.
    with_labels: bool,
}

const MARKS: &[Mark] = &[
    Mark {
        library: Library::S2n,
        reason: UnreadReason::NoReader,
        sonames: &["libs2n.so"],
        exports: &["s2n_connection_new"],
        texts: &[b"/s2n_key_log.c"],
        with_labels: true,
    },
    Mark {
        library: Library::Nss,
        reason: UnreadReason::NoReader,
        sonames: &["libssl3.so"],
        exports: &["SSL_ImportFD"],
        texts: &[],
        with_labels: true,
    },
    Mark {
        library: Library::Jsse,
        reason: UnreadReason::NoPlace,
        sonames: &["libjvm.so"],
        exports: &[],
        texts: &[],
        with_labels: false,
    },
    Mark {
        library: Library::Mbedtls,
        reason: UnreadReason::NoReader,
        sonames: &["libmbedtls.so"],
        exports: &["mbedtls_ssl_handshake"],
        texts: &[b"mbedtls_ssl_flush_output"],
        with_labels: false,
    },
    Mark {
        library: Library::Wolfssl,
        reason: UnreadReason::NoReader,
        sonames: &["libwolfssl.so"],
        exports: &["wolfSSL_connect"],
        texts: &[b"Duplicate HandShake message Error"],
        with_labels: false,
    },
];

/// Every text of every mark.
pub(super) fn texts() -> impl Iterator<Item = &'static [u8]> {
    MARKS.iter().flat_map(|mark| mark.texts).copied()
}

pub(super) fn search(search: &mut Search<'_>) -> Result<(), LookError> {
    let labels = search.label_part()?;
    for mark in MARKS {
        let mut has_text = false;
        for &text in mark.texts {
            has_text |=
                (labels.is_some() || !mark.with_labels) && !search.standing(text)?.is_empty();
        }
        if has_text || search.is_called(mark.sonames) || exports(search, mark)? {
            search.found.unread.push(Unread {
                library: mark.library,
                version: None,
                reason: mark.reason,
            });
        }
    }
    known_but_not_found(search);
    Ok(())
}

fn exports(search: &Search<'_>, mark: &Mark) -> Result<bool, LookError> {
    for name in mark.exports {
        if search.elf.exported_function(name)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A library of a form that is read, whose point was not found.
fn known_but_not_found(search: &mut Search<'_>) {
    let has_point = search
        .found
        .points
        .iter()
        .any(|point| point.kind.is_first_choice());
    if has_point || !search.found.unread.is_empty() {
        return;
    }
    let library = if search.is_called(&["libssl.so"]) {
        Library::Openssl
    } else if search.is_called(&["libgnutls.so"]) {
        Library::Gnutls
    } else if search.referenced {
        Library::Unknown
    } else {
        return;
    };
    search.found.unread.push(Unread {
        library,
        version: None,
        reason: if search.rejected > 0 {
            UnreadReason::OtherForm
        } else {
            UnreadReason::NotFound
        },
    });
}
