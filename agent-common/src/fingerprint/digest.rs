//! SHA-256 and HMAC-SHA-256 that leave nothing behind.
//!
//! `sha2::Sha256` buffers up to 64 input bytes in a block that it does not wipe, and `hmac::Hmac` keeps key-equivalent
//! state the same way: both would leave parts of a credential on the stack, where a core dump finds them. So only the
//! compression function is taken from `sha2` (with its hardware forms), and padding (FIPS 180-4 section 5.1.1) and
//! HMAC (RFC 2104) are written here over blocks that are wiped. Keeping the two compressed key blocks also makes a
//! fingerprint cost two compressions less.
//!
//! Invariant: every block and every chaining state is wiped on drop.

use sha2::compress256;
use sha2::digest::generic_array::GenericArray;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

const BLOCK: usize = 64;

/// FIPS 180-4 section 5.3.3.
const INITIAL: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// SHA-256 in progress.
#[derive(Zeroize, ZeroizeOnDrop)]
struct Hasher {
    state: [u32; 8],
    block: [u8; BLOCK],
    filled: usize,
    total: u64,
}

impl Hasher {
    /// `total`: bytes that `state` already stands for.
    fn resume(state: [u32; 8], total: u64) -> Self {
        Self {
            state,
            block: [0; BLOCK],
            filled: 0,
            total,
        }
    }

    fn update(&mut self, mut bytes: &[u8]) {
        self.total = self.total.wrapping_add(bytes.len() as u64);
        while !bytes.is_empty() {
            let take = bytes.len().min(BLOCK - self.filled);
            self.block[self.filled..self.filled + take].copy_from_slice(&bytes[..take]);
            self.filled += take;
            bytes = &bytes[take..];
            if self.filled == BLOCK {
                self.compress();
            }
        }
    }

    fn compress(&mut self) {
        compress256(
            &mut self.state,
            std::slice::from_ref(GenericArray::from_slice(&self.block)),
        );
        self.filled = 0;
    }

    /// In place: moving the block would leave a copy of it behind.
    fn finish(&mut self) -> [u8; 32] {
        let bits = self.total.wrapping_mul(8);
        self.block[self.filled] = 0x80;
        self.block[self.filled + 1..].fill(0);
        if self.filled + 9 > BLOCK {
            self.compress();
            self.block.fill(0);
        }
        self.block[BLOCK - 8..].copy_from_slice(&bits.to_be_bytes());
        self.compress();
        let mut digest = [0; 32];
        for (bytes, word) in digest.chunks_exact_mut(4).zip(self.state) {
            bytes.copy_from_slice(&word.to_be_bytes());
        }
        digest
    }
}

/// SHA-256 of `bytes`, for public hashes that a provider itself gives out (GitHub's `hashed_token`).
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hasher = Hasher::resume(INITIAL, 0);
    hasher.update(bytes);
    hasher.finish()
}

/// HMAC-SHA-256 under a 256-bit key, with both key blocks compressed in advance.
#[derive(Default, Zeroize, ZeroizeOnDrop)]
pub(super) struct Mac {
    inner: [u32; 8],
    outer: [u32; 8],
}

impl Mac {
    /// In place, so that no copy is left behind where it is moved from.
    pub(super) fn set_key(&mut self, key: &[u8; 32]) {
        Self::key_block(&mut self.inner, key, 0x36);
        Self::key_block(&mut self.outer, key, 0x5c);
    }

    fn key_block(state: &mut [u32; 8], key: &[u8; 32], pad: u8) {
        let mut block = Zeroizing::new([pad; BLOCK]);
        for (byte, key) in block.iter_mut().zip(key) {
            *byte ^= key;
        }
        *state = INITIAL;
        compress256(
            state,
            std::slice::from_ref(GenericArray::from_slice(&*block)),
        );
    }

    /// The MAC of `prefix || bytes`.
    pub(super) fn compute(&self, prefix: &[u8], bytes: &[u8]) -> [u8; 32] {
        let mut inner = Hasher::resume(self.inner, BLOCK as u64);
        inner.update(prefix);
        inner.update(bytes);
        let mut outer = Hasher::resume(self.outer, BLOCK as u64);
        outer.update(&inner.finish());
        outer.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn sha256_agrees_with_fips_180_4_examples() {
        for (input, expected) in [
            (
                "",
                "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            ),
            (
                "abc",
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            ),
            (
                "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
                "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
            ),
        ] {
            assert_eq!(hex(&sha256(input.as_bytes())), expected);
        }
    }

    #[test]
    fn sha256_agrees_with_sha2_at_every_length_and_split() {
        use sha2::Digest as _;
        let data: Vec<u8> = (0..200).map(|n| (n * 7 + 3) as u8).collect();
        for len in 0..data.len() {
            let expected: [u8; 32] = sha2::Sha256::digest(&data[..len]).into();
            assert_eq!(sha256(&data[..len]), expected, "length {len}");
        }
        let expected: [u8; 32] = sha2::Sha256::digest(&data).into();
        for split in 0..=data.len() {
            let mut hasher = Hasher::resume(INITIAL, 0);
            hasher.update(&data[..split]);
            hasher.update(&data[split..]);
            assert_eq!(hasher.finish(), expected, "split {split}");
        }
    }

    /// RFC 4231 test case 1, its 20-byte key padded with zeros to 32 bytes (RFC 2104 pads it the same way).
    #[test]
    fn hmac_agrees_with_rfc_4231() {
        let mut key = [0; 32];
        key[..20].fill(0x0b);
        let mut mac = Mac::default();
        mac.set_key(&key);
        assert_eq!(
            hex(&mac.compute(b"Hi ", b"There")),
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
        );
    }
}
