//! From a secret to the keys of records.
//!
//! TLS 1.3: HKDF-Expand-Label (RFC 8446 section 7.1) of a traffic secret gives key and IV (7.3) and the next
//! generation's secret (7.2). TLS 1.2: the PRF (RFC 5246 section 5) of master secret and both randoms gives the key
//! block (6.3).
//!
//! Invariant: every buffer that held a secret is wiped.

use super::keys::Keys;
use super::suite::{Aead, Hash, Suite};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use sha2::{Sha256, Sha384};
use zeroize::Zeroizing;

/// A TLS connection's key material: wiped on drop, without `Debug`, and always on the heap, so that moving it
/// leaves no copy behind.
pub struct TrafficSecret(Zeroizing<Vec<u8>>);

impl TrafficSecret {
    pub fn copy_from(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(bytes.to_vec()))
    }

    /// For [`super::secrets`] and this module only.
    pub(super) fn expose(&self) -> &[u8] {
        &self.0
    }
}

/// Keys of a TLS 1.3 traffic secret; `None` if its length is not that of the suite's hash.
pub fn traffic_keys(suite: Suite, secret: &TrafficSecret) -> Option<Keys> {
    if secret.expose().len() != suite.hash.len() {
        return None;
    }
    let mut material = Zeroizing::new(vec![0; suite.aead.key_len() + IV_LEN]);
    let (key, iv) = material.split_at_mut(suite.aead.key_len());
    expand_label(suite.hash, secret.expose(), "key", key)?;
    expand_label(suite.hash, secret.expose(), "iv", iv)?;
    Some(Keys::new(suite, material))
}

/// The traffic secret after a KeyUpdate.
pub fn next_traffic_secret(suite: Suite, secret: &TrafficSecret) -> Option<TrafficSecret> {
    let mut next = Zeroizing::new(vec![0; suite.hash.len()]);
    expand_label(suite.hash, secret.expose(), "traffic upd", &mut next)?;
    Some(TrafficSecret(next))
}

/// Keys for what the client and the server write, in TLS 1.2; `None` if the master secret has not 48 bytes.
pub fn connection_keys(
    suite: Suite,
    master: &TrafficSecret,
    client_random: &[u8; 32],
    server_random: &[u8; 32],
) -> Option<(Keys, Keys)> {
    if master.expose().len() != MASTER_LEN {
        return None;
    }
    let key_len = suite.aead.key_len();
    // RFC 5288 section 3: a salt of 4, the rest travels in the record. RFC 7905 section 2: all 12.
    let iv_len = if suite.aead == Aead::ChaCha20Poly1305 {
        IV_LEN
    } else {
        4
    };
    let mut block = Zeroizing::new(vec![0; 2 * (key_len + iv_len)]);
    let seed = [&b"key expansion"[..], server_random, client_random].concat();
    match suite.hash {
        Hash::Sha256 => prf::<Hmac<Sha256>>(master.expose(), &seed, &mut block),
        Hash::Sha384 => prf::<Hmac<Sha384>>(master.expose(), &seed, &mut block),
    }
    let (keys, ivs) = block.split_at(2 * key_len);
    let side = |place: usize| {
        let mut material = Zeroizing::new(Vec::with_capacity(key_len + iv_len));
        material.extend_from_slice(&keys[place * key_len..][..key_len]);
        material.extend_from_slice(&ivs[place * iv_len..][..iv_len]);
        Keys::new(suite, material)
    };
    Some((side(0), side(1)))
}

/// Bytes of a nonce in every cipher that is read.
const IV_LEN: usize = 12;

/// RFC 5246 section 8.1.
pub const MASTER_LEN: usize = 48;

/// `HKDF-Expand-Label` without context (RFC 8446 section 7.1); `None` if that is too much for the hash.
pub(crate) fn expand_label(hash: Hash, secret: &[u8], label: &str, out: &mut [u8]) -> Option<()> {
    let mut info = Vec::with_capacity(24);
    info.extend_from_slice(&u16::try_from(out.len()).ok()?.to_be_bytes());
    info.push(u8::try_from(label.len() + 6).ok()?);
    info.extend_from_slice(b"tls13 ");
    info.extend_from_slice(label.as_bytes());
    info.push(0);
    match hash {
        Hash::Sha256 => Hkdf::<Sha256>::from_prk(secret)
            .ok()?
            .expand(&info, out)
            .ok(),
        Hash::Sha384 => Hkdf::<Sha384>::from_prk(secret)
            .ok()?
            .expand(&info, out)
            .ok(),
    }
}

/// `P_hash` of RFC 5246 section 5; `seed` is label and seed.
fn prf<M: Mac + hmac::digest::KeyInit + Clone>(secret: &[u8], seed: &[u8], out: &mut [u8]) {
    // HMAC takes a key of any length.
    let Ok(keyed) = <M as Mac>::new_from_slice(secret) else {
        return;
    };
    let mut link = keyed.clone().chain_update(seed).finalize().into_bytes();
    for part in out.chunks_mut(link.len()) {
        let block = keyed
            .clone()
            .chain_update(&link)
            .chain_update(seed)
            .finalize()
            .into_bytes();
        part.copy_from_slice(&block[..part.len()]);
        link = keyed.clone().chain_update(&link).finalize().into_bytes();
    }
}
