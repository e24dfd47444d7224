//! Initial packets of QUIC 1 and 2 (RFC 9000 section 17.2.2, RFC 9369): found in a datagram, and opened as the server
//! opens them.
//!
//! Invariant: a packet's frames are given only if its tag is right.

use crate::tls::{Hash, expand_label};
use aes_gcm::aead::AeadInPlace;
use aes_gcm::aes::Aes128;
use aes_gcm::aes::cipher::{BlockEncrypt, KeyInit};
use aes_gcm::{Aes128Gcm, Nonce, Tag};
use hkdf::Hkdf;
use sha2::Sha256;
use std::fmt;

/// Longest connection id of both versions, in bytes.
const MAX_ID: usize = 20;

/// Bytes of the tag that ends a packet.
const TAG_LEN: usize = 16;

/// Bytes of ciphertext that mask the packet number (RFC 9001 section 5.4.2).
const SAMPLE_LEN: usize = 16;

/// Most Initials of one datagram that are looked at: more than one is rare.
const MAX_PACKETS: usize = 8;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    bytes: [u8; MAX_ID],
    len: u8,
}

impl ConnectionId {
    fn new(id: &[u8]) -> Option<Self> {
        let mut bytes = [0; MAX_ID];
        bytes.get_mut(..id.len())?.copy_from_slice(id);
        Some(Self {
            bytes,
            len: id.len() as u8,
        })
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes()
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    /// RFC 9000.
    V1,
    /// RFC 9369.
    V2,
}

impl Version {
    /// By number and type bits of the first byte, which differ by version: only Initials.
    fn of_initial(first: u8, number: u32) -> Option<Self> {
        match (first & 0xf0, number) {
            (0xc0, 1) => Some(Self::V1),
            (0xd0, 0x6b33_43cf) => Some(Self::V2),
            _ => None,
        }
    }

    /// RFC 9001 section 5.2, RFC 9369 section 3.3.1.
    fn salt(self) -> [u8; 20] {
        match self {
            Self::V1 => [
                0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17, 0x9a, 0xe6, 0xa4, 0xc8,
                0x0c, 0xad, 0xcc, 0xbb, 0x7f, 0x0a,
            ],
            Self::V2 => [
                0x0d, 0xed, 0xe3, 0xde, 0xf7, 0x00, 0xa6, 0xdb, 0x81, 0x93, 0x81, 0xbe, 0x6e, 0x26,
                0x9d, 0xcb, 0xf9, 0xbd, 0x2e, 0xd9,
            ],
        }
    }

    /// Labels of key, IV and header protection.
    fn labels(self) -> [&'static str; 3] {
        match self {
            Self::V1 => ["quic key", "quic iv", "quic hp"],
            Self::V2 => ["quicv2 key", "quicv2 iv", "quicv2 hp"],
        }
    }
}

/// An Initial packet as it is on the wire.
pub struct Initial<'a> {
    version: Version,
    /// Whom it is sent to; of a client's first packets a number of its own choice.
    pub destination: ConnectionId,
    /// From the first byte to the tag's last.
    bytes: &'a [u8],
    /// Where its number begins.
    number_at: usize,
}

/// The Initials that a datagram begins with, or several that were moved as one (`UDP_SEGMENT`, `UDP_GRO`): they may be
/// followed by padding, and at the end by others' packets.
pub fn initials(datagram: &[u8]) -> impl Iterator<Item = Initial<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let padding = rest.iter().take_while(|byte| **byte == 0).count();
        rest = &rest[padding..];
        let packet = initial(rest)?;
        rest = &rest[packet.bytes.len()..];
        Some(packet)
    })
    .take(MAX_PACKETS)
}

fn initial(bytes: &[u8]) -> Option<Initial<'_>> {
    let mut reader = Reader::new(bytes);
    let first = reader.byte()?;
    let number = u32::from_be_bytes(reader.take(4)?.try_into().ok()?);
    let version = Version::of_initial(first, number)?;
    let destination = reader.short_vector()?;
    let destination = ConnectionId::new(destination)?;
    ConnectionId::new(reader.short_vector()?)?;
    let retry = reader.integer()?;
    reader.take(usize::try_from(retry).ok()?)?;
    let len = usize::try_from(reader.integer()?).ok()?;
    let number_at = reader.at;
    reader.take(len)?;
    Some(Initial {
        version,
        destination,
        bytes: &bytes[..reader.at],
        number_at,
    })
}

/// What a client seals its Initials with.
pub struct ClientKeys {
    seal: Aes128Gcm,
    iv: [u8; 12],
    header: Aes128,
}

impl ClientKeys {
    /// The keys that follow from whom the packet is sent to (RFC 9001 section 5.2).
    pub fn of(packet: &Initial<'_>) -> Self {
        let salt = packet.version.salt();
        let (initial, _) = Hkdf::<Sha256>::extract(Some(&salt), packet.destination.as_bytes());
        let client: [u8; 32] = derive(&initial, "client in");
        let [seal, iv, header] = packet.version.labels();
        Self {
            seal: Aes128Gcm::new(&derive::<16>(&client, seal).into()),
            iv: derive(&client, iv),
            header: Aes128::new(&derive::<16>(&client, header).into()),
        }
    }
}

/// `HKDF-Expand-Label` of SHA-256 without context, which has at most 255 times 32 bytes to give.
fn derive<const N: usize>(secret: &[u8], label: &str) -> [u8; N] {
    let mut out = [0; N];
    let derived = expand_label(Hash::Sha256, secret, label, &mut out);
    debug_assert!(derived.is_some(), "{label}");
    out
}

/// The packet's frames, if these are its keys.
pub fn open(keys: &ClientKeys, packet: &Initial<'_>) -> Option<Vec<u8>> {
    let mut bytes = packet.bytes.to_vec();
    // The sample is taken as if the number had four bytes (RFC 9001 section 5.4.2).
    let sample = bytes.get(packet.number_at + 4..)?.get(..SAMPLE_LEN)?;
    let mut mask: [u8; SAMPLE_LEN] = sample.try_into().ok()?;
    keys.header.encrypt_block((&mut mask).into());
    let first = bytes.first_mut()?;
    *first ^= mask[0] & 0x0f;
    let number_len = usize::from(*first & 3) + 1;
    let (head, sealed) = bytes.split_at_mut_checked(packet.number_at + number_len)?;
    // An Initial's number is small enough to be whole on the wire.
    let mut nonce = keys.iv;
    let number = &mut head[packet.number_at..];
    for (byte, mask) in number.iter_mut().zip(&mask[1..]) {
        *byte ^= mask;
    }
    for (byte, of_number) in nonce[12 - number_len..].iter_mut().zip(&*number) {
        *byte ^= of_number;
    }
    let (text, tag) = sealed.split_at_mut_checked(sealed.len().checked_sub(TAG_LEN)?)?;
    keys.seal
        .decrypt_in_place_detached(Nonce::from_slice(&nonce), head, text, Tag::from_slice(tag))
        .ok()?;
    Some(text.to_vec())
}

/// Integers and vectors of the wire, in order.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..)?.get(..len)?;
        self.at += len;
        Some(taken)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|byte| byte[0])
    }

    /// A length in one byte, and so many bytes.
    fn short_vector(&mut self) -> Option<&'a [u8]> {
        let len = self.byte()?;
        self.take(len.into())
    }

    /// 1, 2, 4 or 8 bytes, as the first two bits say (RFC 9000 section 16).
    pub(super) fn integer(&mut self) -> Option<u64> {
        let first = self.byte()?;
        let more = self.take((1 << (first >> 6)) - 1)?;
        Some(more.iter().fold(u64::from(first & 0x3f), |value, byte| {
            value << 8 | u64::from(*byte)
        }))
    }
}
