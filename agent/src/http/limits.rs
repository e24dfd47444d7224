//! Bounds of what is held of one connection.

/// Bounds of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest head, in bytes.
    pub head: usize,
    /// Most header fields in a head.
    pub fields: usize,
    /// Bytes of each body that are handed on.
    pub body_prefix: usize,
    /// Most requests that wait for their response.
    pub outstanding: usize,
    /// Most bytes in exchanges that are not given out yet; over it the oldest are given out unfinished.
    pub queued: usize,
    /// Most memory of pieces that wait for the other direction.
    pub held: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: 64 * 1024,
            fields: 256,
            body_prefix: 16 * 1024,
            outstanding: 256,
            queued: 1024 * 1024,
            held: 256 * 1024,
        }
    }
}
