//! What the hellos say (RFC 8446 sections 4.1.2 to 4.3.1, RFC 5246 section 7.4.1), read with tls-parser.
//!
//! Each extension is parsed by itself, so that one that the library refuses costs only itself.
//!
//! Invariant: names from the wire are printable and at most [`MAX_NAME`] characters long.

use super::suite::SuiteId;
use tls_parser::{
    TlsExtension, parse_tls_client_hello_extension, parse_tls_handshake_client_hello,
    parse_tls_handshake_server_hello, parse_tls_server_hello_extension,
};

/// Longest name kept of SNI or ALPN, in characters.
pub const MAX_NAME: usize = 255;

/// Most protocol names kept of an ALPN offer.
pub const MAX_PROTOCOLS: usize = 16;

/// SHA-256 of "HelloRetryRequest": the random of a ServerHello that is one (RFC 8446 section 4.1.3).
const RETRY_RANDOM: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
    0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

pub struct ClientHello {
    pub random: [u8; 32],
    pub sni: Option<String>,
    pub alpn: Vec<String>,
    pub early_data: bool,
}

pub struct ServerHello {
    pub random: [u8; 32],
    /// As chosen: 0x0303 is TLS 1.2, 0x0304 is TLS 1.3.
    pub version: u16,
    pub suite: SuiteId,
    /// TLS 1.2 only; in 1.3 it is among the [`EncryptedExtensions`].
    pub alpn: Option<String>,
    /// The server resumes a session by a pre-shared key (TLS 1.3).
    pub pre_shared_key: bool,
    /// It is a HelloRetryRequest.
    pub retry: bool,
}

pub struct EncryptedExtensions {
    pub alpn: Option<String>,
    /// The server accepts early data.
    pub early_data: bool,
}

/// The body of a ClientHello.
pub fn client_hello(body: &[u8]) -> Option<ClientHello> {
    let (_, contents) = parse_tls_handshake_client_hello(body).ok()?;
    let mut hello = ClientHello {
        random: contents.random.try_into().ok()?,
        sni: None,
        alpn: Vec::new(),
        early_data: false,
    };
    for extension in extensions(contents.ext.unwrap_or_default()) {
        match parse_tls_client_hello_extension(extension) {
            Ok((_, TlsExtension::SNI(names))) => {
                hello.sni = names
                    .first()
                    .filter(|(_, name)| !name.is_empty())
                    .map(|(_, name)| printable(name));
            }
            Ok((_, TlsExtension::ALPN(names))) => {
                hello.alpn = names
                    .iter()
                    .take(MAX_PROTOCOLS)
                    .map(|name| printable(name))
                    .collect();
            }
            Ok((_, TlsExtension::EarlyData(_))) => hello.early_data = true,
            _ => {}
        }
    }
    Some(hello)
}

/// The body of a ServerHello; the error is a version that has another form.
pub fn server_hello(body: &[u8]) -> Result<Option<ServerHello>, u16> {
    let legacy = match body {
        [high, low, ..] => u16::from_be_bytes([*high, *low]),
        _ => return Ok(None),
    };
    if !(0x0300..=0x0303).contains(&legacy) {
        return Err(legacy);
    }
    let Ok((_, contents)) = parse_tls_handshake_server_hello(body) else {
        return Ok(None);
    };
    let Ok(random) = contents.random.try_into() else {
        return Ok(None);
    };
    let mut hello = ServerHello {
        random,
        version: legacy,
        suite: SuiteId(contents.cipher.0),
        alpn: None,
        pre_shared_key: false,
        retry: random == RETRY_RANDOM,
    };
    for extension in extensions(contents.ext.unwrap_or_default()) {
        match parse_tls_server_hello_extension(extension) {
            Ok((_, TlsExtension::SupportedVersions(versions))) => {
                hello.version = versions.first().map_or(legacy, |version| version.0);
            }
            Ok((_, TlsExtension::ALPN(names))) => {
                hello.alpn = names.first().map(|name| printable(name))
            }
            Ok((_, TlsExtension::PreSharedKey(_))) => hello.pre_shared_key = true,
            _ => {}
        }
    }
    Ok(Some(hello))
}

/// The body of EncryptedExtensions.
pub fn encrypted_extensions(body: &[u8]) -> EncryptedExtensions {
    let mut found = EncryptedExtensions {
        alpn: None,
        early_data: false,
    };
    for extension in extensions(body.get(2..).unwrap_or_default()) {
        match parse_tls_server_hello_extension(extension) {
            Ok((_, TlsExtension::ALPN(names))) => {
                found.alpn = names.first().map(|name| printable(name))
            }
            Ok((_, TlsExtension::EarlyData(_))) => found.early_data = true,
            _ => {}
        }
    }
    found
}

/// Each extension with its type and length, as far as they go.
fn extensions(mut list: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let len = 4 + usize::from(u16::from_be_bytes([*list.get(2)?, *list.get(3)?]));
        let (extension, rest) = list.split_at_checked(len)?;
        list = rest;
        Some(extension)
    })
}

fn printable(name: &[u8]) -> String {
    name[..name.len().min(MAX_NAME)]
        .escape_ascii()
        .to_string()
        .chars()
        .take(MAX_NAME)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    #[test]
    fn the_retry_random_is_the_hash_of_its_name() {
        assert_eq!(
            Sha256::digest(b"HelloRetryRequest").as_slice(),
            RETRY_RANDOM
        );
    }

    #[test]
    fn names_are_printable_and_bounded() {
        assert_eq!(printable(b"a.example"), "a.example");
        assert_eq!(printable(b"a\n\xff"), "a\\n\\xff");
        assert_eq!(printable(&[0; 300]).len(), MAX_NAME);
    }

    #[test]
    fn a_bad_extension_costs_only_itself() {
        let sni = [0, 0, 0, 6, 0, 4, 0, 0, 1, b'x'];
        let bad = [0, 16, 0, 1, 9];
        let early = [0, 42, 0, 0];
        let extensions = [&bad[..], &sni, &early].concat();
        let body = [
            &[3, 3][..],
            &[8; 32],
            &[0],
            &[0, 2, 0x13, 1],
            &[1, 0],
            &(extensions.len() as u16).to_be_bytes(),
            &extensions,
        ]
        .concat();
        for cut in 0..body.len() {
            client_hello(&body[..cut]);
            let _ = server_hello(&body[..cut]);
            encrypted_extensions(&body[..cut]);
        }
        let hello = client_hello(&body).unwrap();
        assert_eq!(
            (hello.sni.as_deref(), hello.alpn.len(), hello.early_data),
            (Some("x"), 0, true)
        );
    }
}
