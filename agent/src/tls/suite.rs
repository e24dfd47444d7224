//! Cipher suites: which are read, and what the others are called.
//!
//! The table is tls-parser's, made from the IANA registry.
//!
//! Invariant: a suite that is not read still has a name.

use std::fmt;
use tls_parser::{TlsCipherEnc, TlsCipherEncMode, TlsCipherKx, TlsCipherSuite, TlsPRF};

/// A suite's number on the wire; displays as its IANA name, or as `0x1234` where it has none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SuiteId(pub u16);

impl SuiteId {
    /// The IANA name.
    pub fn name(self) -> Option<&'static str> {
        TlsCipherSuite::from_id(self.0).map(|suite| suite.name)
    }
}

impl fmt::Display for SuiteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{:#06x}", self.0),
        }
    }
}

impl fmt::Debug for SuiteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The ciphers that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aead {
    Aes128Gcm,
    Aes256Gcm,
    ChaCha20Poly1305,
}

impl Aead {
    /// Bytes of the key.
    pub fn key_len(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm | Self::ChaCha20Poly1305 => 32,
        }
    }
}

/// The hash of the key schedule (TLS 1.3) or of the PRF (TLS 1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    Sha256,
    Sha384,
}

impl Hash {
    /// Bytes of its output, which is the length of a TLS 1.3 traffic secret.
    pub fn len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
        }
    }
}

/// The versions that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Tls12,
    Tls13,
}

/// A suite that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suite {
    pub id: SuiteId,
    pub protocol: Protocol,
    pub aead: Aead,
    pub hash: Hash,
}

impl Suite {
    /// `None` where the suite is not read, or does not belong to `protocol`.
    pub fn read(protocol: Protocol, id: SuiteId) -> Option<Self> {
        let row = TlsCipherSuite::from_id(id.0)?;
        if (row.kx == TlsCipherKx::Tls13) != (protocol == Protocol::Tls13) {
            return None;
        }
        let aead = match (&row.enc, &row.enc_mode, row.enc_size) {
            (TlsCipherEnc::Aes, TlsCipherEncMode::Gcm, 128) => Aead::Aes128Gcm,
            (TlsCipherEnc::Aes, TlsCipherEncMode::Gcm, 256) => Aead::Aes256Gcm,
            (TlsCipherEnc::Chacha20_Poly1305, _, _) => Aead::ChaCha20Poly1305,
            _ => return None,
        };
        let hash = match row.prf {
            TlsPRF::Sha256 => Hash::Sha256,
            TlsPRF::Sha384 => Hash::Sha384,
            _ => return None,
        };
        Some(Self {
            id,
            protocol,
            aead,
            hash,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_are_read_or_named() {
        use Protocol::{Tls12, Tls13};
        let rows = [
            (
                Tls13,
                0x1301,
                Some((Aead::Aes128Gcm, Hash::Sha256)),
                "TLS_AES_128_GCM_SHA256",
            ),
            (
                Tls13,
                0x1302,
                Some((Aead::Aes256Gcm, Hash::Sha384)),
                "TLS_AES_256_GCM_SHA384",
            ),
            (
                Tls13,
                0x1303,
                Some((Aead::ChaCha20Poly1305, Hash::Sha256)),
                "TLS_CHACHA20_POLY1305_SHA256",
            ),
            (Tls13, 0x1304, None, "TLS_AES_128_CCM_SHA256"),
            (Tls12, 0x1301, None, "TLS_AES_128_GCM_SHA256"),
            (
                Tls12,
                0x009c,
                Some((Aead::Aes128Gcm, Hash::Sha256)),
                "TLS_RSA_WITH_AES_128_GCM_SHA256",
            ),
            (
                Tls12,
                0xc02f,
                Some((Aead::Aes128Gcm, Hash::Sha256)),
                "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
            ),
            (
                Tls12,
                0xc030,
                Some((Aead::Aes256Gcm, Hash::Sha384)),
                "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
            ),
            (
                Tls12,
                0xcca8,
                Some((Aead::ChaCha20Poly1305, Hash::Sha256)),
                "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
            ),
            (Tls13, 0xc02f, None, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
            (Tls12, 0xc013, None, "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA"),
            (Tls12, 0x0a0a, None, "0x0a0a"),
        ];
        for (protocol, id, expected, name) in rows {
            let suite = Suite::read(protocol, SuiteId(id));
            assert_eq!(
                suite.map(|suite| (suite.aead, suite.hash)),
                expected,
                "{name}"
            );
            assert_eq!(SuiteId(id).to_string(), name);
        }
    }
}
