//! One direction's record keys: open a whole record by its tag, or any part of one without.
//!
//! AES-GCM is put together here from AES and GHASH instead of taken from `aes-gcm`, because a passive reader needs
//! three things that an AEAD interface does not give, with one key schedule: bytes from the middle of a record in
//! counter mode, the tag alone while secrets are tried, and the sequence number that a tag belongs to: in TLS 1.3
//! that is one AES block a number, for GHASH does not depend on the nonce (NIST SP 800-38D section 7).
//! The tests check it against `aes-gcm`.
//!
//! Nonces: TLS 1.3 (RFC 8446 section 5.3) and ChaCha20 in TLS 1.2 (RFC 7905 section 2): IV xor sequence number.
//! AES-GCM in TLS 1.2 (RFC 5288 section 3): salt, then the 8 bytes that begin the record.
//!
//! Invariant: [`Keys::open`] changes nothing unless the tag is right.

use super::suite::{Aead, Protocol, Suite};
use aes::cipher::consts::U16;
use aes::cipher::{
    BlockCipher, BlockEncrypt, BlockSizeUser, InnerIvInit, KeyInit, KeyIvInit, StreamCipher,
    StreamCipherSeek,
};
use aes::{Aes128Enc, Aes256Enc};
use chacha20::ChaCha20;
use chacha20poly1305::ChaCha20Poly1305;
use chacha20poly1305::aead::AeadInPlace;
use ctr::CtrCore;
use ctr::cipher::StreamCipherCoreWrapper;
use ctr::flavors::Ctr32BE;
use ghash::GHash;
use ghash::universal_hash::UniversalHash;
use std::ops::Range;
use zeroize::Zeroizing;

/// Bytes of the tag that ends a record, in every cipher that is read.
pub const TAG_LEN: usize = 16;

/// Bytes of a record's head.
pub const HEAD_LEN: usize = 5;

/// Keys of one direction and one generation.
pub struct Keys {
    suite: Suite,
    /// Key, then IV (or salt).
    material: Zeroizing<Vec<u8>>,
    /// Made when needed, and again after [`Keys::rest`].
    gcm: Option<Gcm>,
}

enum Gcm {
    Aes128(Box<(Aes128Enc, GHash)>),
    Aes256(Box<(Aes256Enc, GHash)>),
}

impl Keys {
    /// `material` is the key followed by the IV: 12 bytes, or 4 for AES-GCM in TLS 1.2.
    pub(super) fn new(suite: Suite, material: Zeroizing<Vec<u8>>) -> Self {
        Self {
            suite,
            material,
            gcm: None,
        }
    }

    /// Bytes of the record before the ciphertext.
    pub fn explicit_len(&self) -> usize {
        match (self.suite.protocol, self.suite.aead) {
            (Protocol::Tls12, Aead::Aes128Gcm | Aead::Aes256Gcm) => 8,
            _ => 0,
        }
    }

    /// Bytes by which a record's body is longer than its plaintext (in TLS 1.3: than its inner plaintext).
    pub fn overhead(&self) -> usize {
        self.explicit_len() + TAG_LEN
    }

    /// Forgets what can be computed again.
    pub fn rest(&mut self) {
        self.gcm = None;
    }

    /// Decrypts the whole `body` of the record in place, if its tag is right for `sequence`, and says where in it
    /// the plaintext lies.
    pub fn open(
        &mut self,
        sequence: u64,
        head: [u8; HEAD_LEN],
        body: &mut [u8],
    ) -> Option<Range<usize>> {
        let plain = self.plain_range(body.len())?;
        let (front, tag) = body.split_at_mut(plain.end);
        let (explicit, text) = front.split_at_mut(plain.start);
        let nonce = self.nonce(sequence, explicit);
        let (aad, aad_len) = self.aad(sequence, head, text.len());
        let aad = &aad[..aad_len];
        if self.suite.aead == Aead::ChaCha20Poly1305 {
            let cipher = ChaCha20Poly1305::new_from_slice(self.key()).ok()?;
            let tag = chacha20poly1305::Tag::from_slice(tag);
            cipher
                .decrypt_in_place_detached(&nonce.into(), aad, text, tag)
                .ok()?;
        } else {
            let gcm = self.gcm()?;
            let mut expected = gcm.hash(aad, text);
            gcm.keystream(&nonce, 1, &mut expected);
            if expected != *tag {
                return None;
            }
            gcm.keystream(&nonce, 2, text);
        }
        Some(plain)
    }

    /// The first of the `count` sequence numbers from `from` on for which the tag of the whole `body` is right.
    /// `body` stays as it is. Where each number costs a pass over the record, `work` bytes are read at most.
    pub fn find(
        &mut self,
        from: u64,
        count: u64,
        work: usize,
        head: [u8; HEAD_LEN],
        body: &mut [u8],
    ) -> Option<u64> {
        let plain = self.plain_range(body.len())?;
        let last = from.saturating_add(count);
        if self.suite.protocol == Protocol::Tls13 && self.suite.aead != Aead::ChaCha20Poly1305 {
            let (text, tag) = body.split_at(plain.end);
            let hash = self.gcm()?.hash(&head, text);
            return (from..last).find(|sequence| {
                let nonce = self.nonce(*sequence, &[]);
                let mut expected = hash;
                if let Some(gcm) = self.gcm() {
                    gcm.keystream(&nonce, 1, &mut expected);
                }
                expected == *tag
            });
        }
        // Here a number costs a pass over the record: the work is bounded, not the numbers.
        let passes = (work / body.len().max(64)).max(1) as u64;
        let last = last.min(from.saturating_add(passes));
        let found = (from..last).find(|sequence| self.open(*sequence, head, body).is_some())?;
        // The same key stream again: ciphertext as before.
        let (explicit, text) = body[..plain.end].split_at_mut(plain.start);
        self.decrypt_part(found, explicit, 0, text);
        Some(found)
    }

    /// Decrypts `part`, which lies `at` bytes into the record's ciphertext, without proof. `explicit` is what came
    /// before the ciphertext, [`Keys::explicit_len`] bytes.
    pub fn decrypt_part(&mut self, sequence: u64, explicit: &[u8], at: u32, part: &mut [u8]) {
        let nonce = self.nonce(sequence, explicit);
        if self.suite.aead == Aead::ChaCha20Poly1305 {
            if let Ok(mut cipher) = ChaCha20::new_from_slices(self.key(), &nonce) {
                // Block 0 makes the tag's key (RFC 8439 section 2.8).
                cipher.seek(64 + u64::from(at));
                cipher.apply_keystream(part);
            }
        } else if let Some(gcm) = self.gcm() {
            gcm.keystream_at(&nonce, 2, at, part);
        }
    }

    fn plain_range(&self, body_len: usize) -> Option<Range<usize>> {
        let start = self.explicit_len();
        let end = body_len.checked_sub(TAG_LEN)?;
        (start <= end).then_some(start..end)
    }

    fn key(&self) -> &[u8] {
        &self.material[..self.suite.aead.key_len()]
    }

    fn nonce(&self, sequence: u64, explicit: &[u8]) -> [u8; 12] {
        let iv = &self.material[self.suite.aead.key_len()..];
        let mut nonce = [0; 12];
        nonce[..iv.len()].copy_from_slice(iv);
        let counter = if self.explicit_len() == 8 {
            explicit.try_into().unwrap_or([0; 8])
        } else {
            sequence.to_be_bytes()
        };
        for (byte, mask) in nonce[4..].iter_mut().zip(counter) {
            *byte ^= mask;
        }
        nonce
    }

    /// RFC 8446 section 5.2: the head. RFC 5246 section 6.2.3.3: sequence number, type, version, plaintext length.
    fn aad(&self, sequence: u64, head: [u8; HEAD_LEN], text_len: usize) -> ([u8; 13], usize) {
        let mut aad = [0; 13];
        if self.suite.protocol == Protocol::Tls13 {
            aad[..HEAD_LEN].copy_from_slice(&head);
            return (aad, HEAD_LEN);
        }
        aad[..8].copy_from_slice(&sequence.to_be_bytes());
        aad[8..11].copy_from_slice(&head[..3]);
        aad[11..].copy_from_slice(&(text_len as u16).to_be_bytes());
        (aad, 13)
    }

    fn gcm(&mut self) -> Option<&Gcm> {
        if self.gcm.is_none() {
            let gcm = match self.suite.aead {
                Aead::Aes128Gcm => {
                    let aes = Aes128Enc::new_from_slice(self.key()).ok()?;
                    let hash = hash_key(&aes);
                    Gcm::Aes128(Box::new((aes, hash)))
                }
                Aead::Aes256Gcm => {
                    let aes = Aes256Enc::new_from_slice(self.key()).ok()?;
                    let hash = hash_key(&aes);
                    Gcm::Aes256(Box::new((aes, hash)))
                }
                Aead::ChaCha20Poly1305 => return None,
            };
            self.gcm = Some(gcm);
        }
        self.gcm.as_ref()
    }
}

fn hash_key(aes: &impl BlockEncrypt<BlockSize = U16>) -> GHash {
    let mut block = Zeroizing::new([0u8; 16]);
    aes.encrypt_block((&mut *block).into());
    GHash::new((&*block).into())
}

impl Gcm {
    /// GHASH over the associated data and the ciphertext: the tag but for its mask.
    fn hash(&self, aad: &[u8], text: &[u8]) -> [u8; TAG_LEN] {
        let mut hash = match self {
            Self::Aes128(made) => made.1.clone(),
            Self::Aes256(made) => made.1.clone(),
        };
        hash.update_padded(aad);
        hash.update_padded(text);
        let bits = ((aad.len() as u128 * 8) << 64) | (text.len() as u128 * 8);
        hash.update(&[bits.to_be_bytes().into()]);
        hash.finalize().into()
    }

    /// Applies the key stream from block `counter` on: 1 masks the tag, 2 begins the text.
    fn keystream(&self, nonce: &[u8; 12], counter: u32, bytes: &mut [u8]) {
        self.keystream_at(nonce, counter, 0, bytes);
    }

    fn keystream_at(&self, nonce: &[u8; 12], counter: u32, at: u32, bytes: &mut [u8]) {
        let counter = counter + at / 16;
        let skip = at as usize % 16;
        match self {
            Self::Aes128(made) => apply(&made.0, nonce, counter, skip, bytes),
            Self::Aes256(made) => apply(&made.0, nonce, counter, skip, bytes),
        }
    }
}

fn apply<A>(aes: &A, nonce: &[u8; 12], counter: u32, skip: usize, bytes: &mut [u8])
where
    A: BlockEncrypt + BlockCipher + BlockSizeUser<BlockSize = U16>,
{
    let mut block = [0; 16];
    block[..12].copy_from_slice(nonce);
    block[12..].copy_from_slice(&counter.to_be_bytes());
    let core = CtrCore::<&A, Ctr32BE>::inner_iv_init(aes, &block.into());
    let mut stream = StreamCipherCoreWrapper::from_core(core);
    stream.apply_keystream(&mut [0; 16][..skip]);
    stream.apply_keystream(bytes);
}

#[cfg(test)]
mod tests {
    use super::super::schedule::{TrafficSecret, connection_keys, traffic_keys};
    use super::super::suite::{Protocol, Suite, SuiteId};
    use super::*;
    use aes_gcm::{Aes128Gcm, Aes256Gcm};

    const WORK: usize = 1 << 20;

    fn bytes(len: usize, seed: u8) -> Vec<u8> {
        (0..len)
            .map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed))
            .collect()
    }

    /// Every suite that is read, as `aes-gcm` and `chacha20poly1305` make its records.
    fn all() -> Vec<Keys> {
        let suites = [
            (Protocol::Tls13, 0x1301),
            (Protocol::Tls13, 0x1302),
            (Protocol::Tls13, 0x1303),
            (Protocol::Tls12, 0xc02f),
            (Protocol::Tls12, 0xc030),
            (Protocol::Tls12, 0xcca8),
        ];
        suites
            .into_iter()
            .map(|(protocol, id)| {
                let suite = Suite::read(protocol, SuiteId(id)).unwrap();
                match protocol {
                    Protocol::Tls13 => traffic_keys(
                        suite,
                        &TrafficSecret::copy_from(&bytes(suite.hash.len(), 3)),
                    )
                    .unwrap(),
                    Protocol::Tls12 => {
                        connection_keys(
                            suite,
                            &TrafficSecret::copy_from(&bytes(48, 5)),
                            &[6; 32],
                            &[7; 32],
                        )
                        .unwrap()
                        .0
                    }
                }
            })
            .collect()
    }

    /// What a peer would send: head and body.
    pub(super) fn seal(
        keys: &Keys,
        sequence: u64,
        kind: u8,
        plain: &[u8],
    ) -> ([u8; HEAD_LEN], Vec<u8>) {
        let explicit = bytes(keys.explicit_len(), 9);
        let len = (plain.len() + keys.overhead()) as u16;
        let head = [kind, 3, 3, (len >> 8) as u8, len as u8];
        let nonce = keys.nonce(sequence, &explicit);
        let (aad, aad_len) = keys.aad(sequence, head, plain.len());
        let aad = &aad[..aad_len];
        let mut text = plain.to_vec();
        let tag = match keys.suite.aead {
            Aead::Aes128Gcm => Aes128Gcm::new_from_slice(keys.key())
                .unwrap()
                .encrypt_in_place_detached(&nonce.into(), aad, &mut text),
            Aead::Aes256Gcm => Aes256Gcm::new_from_slice(keys.key())
                .unwrap()
                .encrypt_in_place_detached(&nonce.into(), aad, &mut text),
            Aead::ChaCha20Poly1305 => ChaCha20Poly1305::new_from_slice(keys.key())
                .unwrap()
                .encrypt_in_place_detached(&nonce.into(), aad, &mut text),
        };
        (head, [&explicit[..], &text, &tag.unwrap()].concat())
    }

    #[test]
    fn whole_records_open_and_only_they() {
        for mut keys in all() {
            for len in [0, 1, 15, 16, 17, 333, 16384] {
                let plain = bytes(len, 1);
                let (head, sealed) = seal(&keys, 77, 23, &plain);
                let mut body = sealed.clone();
                assert!(keys.open(76, head, &mut body).is_none());
                let mut bent = head;
                bent[0] ^= 1;
                assert!(keys.open(77, bent, &mut body).is_none());
                assert!(body == sealed, "a wrong tag changes nothing");
                let range = keys.open(77, head, &mut body).unwrap();
                assert!(body[range] == plain);
                let mut short = sealed[..sealed.len() - 1].to_vec();
                assert!(keys.open(77, head, &mut short).is_none());
            }
            for len in 0..keys.overhead() {
                assert!(
                    keys.open(0, [23, 3, 3, 0, len as u8], &mut vec![0; len])
                        .is_none()
                );
            }
        }
    }

    #[test]
    fn any_part_decrypts_without_the_tag() {
        for mut keys in all() {
            let plain = bytes(600, 2);
            let (_, body) = seal(&keys, 5, 23, &plain);
            let (explicit, text) = body.split_at(keys.explicit_len());
            for (from, to) in [
                (0, 600),
                (0, 1),
                (1, 600),
                (15, 40),
                (16, 32),
                (584, 600),
                (255, 257),
                (599, 600),
            ] {
                let mut part = text[from..to].to_vec();
                keys.decrypt_part(5, explicit, from as u32, &mut part);
                assert!(part == plain[from..to], "{from}..{to}");
            }
        }
    }

    #[test]
    fn the_sequence_number_is_found() {
        for mut keys in all() {
            let (head, mut body) = seal(&keys, 1234, 23, &bytes(100, 8));
            let before = body.clone();
            assert_eq!(keys.find(1200, 64, WORK, head, &mut body), Some(1234));
            assert_eq!(keys.find(1200, 34, WORK, head, &mut body), None);
            assert_eq!(keys.find(1235, 64, WORK, head, &mut body), None);
            assert_eq!(keys.find(u64::MAX, 64, WORK, head, &mut body), None);
            assert!(body == before);
        }
    }

    #[test]
    fn keys_work_again_after_a_rest() {
        for mut keys in all() {
            let (head, mut body) = seal(&keys, 0, 23, b"after a rest");
            assert!(keys.open(1, head, &mut body).is_none());
            keys.rest();
            assert!(keys.open(0, head, &mut body).is_some());
        }
    }
}
