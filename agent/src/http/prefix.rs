//! The first bytes of a body.
//!
//! Invariant: memory is at most the limit.

use super::buffer::SecretBuffer;
use super::head::BodyPrefix;

/// The first bytes of a body.
#[derive(Default)]
pub(super) struct Prefix {
    bytes: SecretBuffer,
    limit: usize,
    cut: bool,
    ended: bool,
}

impl Prefix {
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            ..Self::default()
        }
    }

    /// One that was read already.
    pub fn read(body: &BodyPrefix) -> Self {
        let mut bytes = SecretBuffer::default();
        bytes.append(&body.bytes);
        Self {
            limit: bytes.len(),
            bytes,
            cut: !body.whole,
            ended: body.whole,
        }
    }

    /// Nothing that comes can change it any more.
    pub fn is_settled(&self) -> bool {
        self.cut || self.ended
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn add(&mut self, bytes: &[u8]) {
        if self.is_settled() {
            return;
        }
        let room = self.limit - self.bytes.len();
        self.bytes.append(&bytes[..bytes.len().min(room)]);
        self.cut = bytes.len() > room;
    }

    /// So many more bytes are sure to come.
    pub fn expect(&mut self, more: u64) {
        self.cut |= more > 0 && self.bytes.len() >= self.limit;
    }

    /// The body's end was seen.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// What follows is not known, or no longer waited for.
    pub fn cut(&mut self) {
        self.cut |= !self.ended;
    }

    pub fn take(&mut self) -> BodyPrefix {
        BodyPrefix {
            bytes: self.bytes.take(),
            whole: self.ended && !self.cut,
        }
    }
}
