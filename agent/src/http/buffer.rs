//! A byte buffer for secrets.
//!
//! Invariant: no byte that was ever in it stays in freed memory: a `Vec` that grows leaves its old block unwiped, this does not.

use crate::flow::Payload;
use zeroize::Zeroizing;

/// Grows by doubling; wiped when it moves and when it is dropped.
#[derive(Default)]
pub(super) struct SecretBuffer(Zeroizing<Vec<u8>>);

impl SecretBuffer {
    pub fn append(&mut self, bytes: &[u8]) {
        let needed = self.0.len() + bytes.len();
        if needed > self.0.capacity() {
            // The first block is exact (most bodies come in one piece), later ones double.
            let capacity = needed.max(self.0.capacity() * 2);
            let mut grown = Zeroizing::new(Vec::with_capacity(capacity));
            grown.extend_from_slice(&self.0);
            self.0 = grown;
        }
        self.0.extend_from_slice(bytes);
    }

    /// The content; the buffer is empty afterwards.
    pub fn take(&mut self) -> Payload {
        Payload::from(std::mem::take(&mut *self.0))
    }
}

impl std::ops::Deref for SecretBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_and_is_taken() {
        let mut buffer = SecretBuffer::default();
        let expected: Vec<u8> = (0..=255).cycle().take(5000).collect();
        for part in expected.chunks(7) {
            buffer.append(part);
        }
        assert!(*buffer == *expected);
        assert!(*buffer.take() == *expected);
        assert!(buffer.is_empty());
    }
}
