//! The raw credential.
//!
//! Invariant: cannot be printed, copied by accident or compared in a way that ends early at the first difference.

use zeroize::Zeroizing;

/// A credential's exact bytes, wiped when dropped. Without `Debug` and `Clone` on purpose.
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    pub fn copy_from(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(bytes.to_vec()))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same bytes? In time that depends on the lengths only.
    pub fn same(&self, other: &Self) -> bool {
        self.len() == other.len()
            && self
                .0
                .iter()
                .zip(other.0.iter())
                .fold(0, |different, (a, b)| different | (a ^ b))
                == 0
    }
}

impl From<Vec<u8>> for Secret {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl From<Zeroizing<Vec<u8>>> for Secret {
    fn from(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }
}
