//! The bytes of one direction of one connection, in order, with gaps.
//!
//! Chunks of one connection come from different CPUs, so they arrive in any order, and some never arrive.
//! [`Flow`] puts them in order by their stream offsets and hands out [`Piece`]s that follow one another without a
//! hole: what is not known is a [`Piece::Gap`] with its size and its [`GapReason`]. What all connections together
//! may hold is one [`Budget`].
//!
//! Invariant: knows no protocol. Invariant: [`Payload`] is zeroized when dropped and has no `Debug`.

mod budget;
mod reassembly;
#[cfg(test)]
mod tests;

pub use budget::{Budget, Share};
pub use reassembly::{Flow, FlowCounts, FlowLimits};

use zeroize::Zeroizing;

/// Nanoseconds of `CLOCK_BOOTTIME` (`bpf_ktime_get_boot_ns`).
pub type Nanos = u64;

/// Seen from the observed socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    Sent,
    Received,
}

impl Direction {
    pub fn opposite(self) -> Self {
        match self {
            Self::Sent => Self::Received,
            Self::Received => Self::Sent,
        }
    }

    /// 0 for sent, 1 for received: to index a pair.
    pub fn index(self) -> usize {
        self as usize
    }
}

/// Other people's bytes: wiped on drop, never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Payload(Zeroizing<Vec<u8>>);

impl Payload {
    pub fn copy_from(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(bytes.to_vec()))
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl std::ops::Deref for Payload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// Where plaintext came from on the socket: names an exchange the same way on both ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    /// Offset in the socket's stream of the byte itself, or of the TLS record that carried it.
    pub wire: u64,
    /// Place within that record's plaintext; 0 in cleartext.
    pub within: u32,
}

/// The next part of a byte stream.
pub enum Piece {
    Data {
        /// Place of `bytes[0]` in this layer's stream (socket stream, or plaintext stream within TLS).
        offset: u64,
        time: Nanos,
        origin: Origin,
        bytes: Payload,
    },
    /// `len` bytes were there and are not known.
    Gap {
        offset: u64,
        time: Nanos,
        len: u64,
        reason: GapReason,
    },
}

/// Why bytes are not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GapReason {
    /// Left out by the copy policy, intentionally.
    Policy,
    /// The positions jumped: sendfile, splice, io_uring, another process, a refused copy, a full ring.
    Unseen,
    /// Pushed out of the agent's memory by its limits.
    Evicted,
    /// A TLS record that no proven secret opened.
    Unopened,
    /// Skipped, intentionally: the agent was over its own budget.
    Budget,
}

impl Piece {
    pub fn offset(&self) -> u64 {
        match self {
            Self::Data { offset, .. } | Self::Gap { offset, .. } => *offset,
        }
    }

    pub fn time(&self) -> Nanos {
        match self {
            Self::Data { time, .. } | Self::Gap { time, .. } => *time,
        }
    }

    pub fn len(&self) -> u64 {
        match self {
            Self::Data { bytes, .. } => bytes.len() as u64,
            Self::Gap { len, .. } => *len,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same piece, so many bytes further on in its stream.
    pub fn further(mut self, by: u64) -> Self {
        match &mut self {
            Self::Data { offset, .. } | Self::Gap { offset, .. } => *offset += by,
        }
        self
    }

    /// The same place without its bytes.
    pub fn skipped(self) -> Self {
        match self {
            Self::Data {
                offset,
                time,
                bytes,
                ..
            } => Self::Gap {
                offset,
                time,
                len: bytes.len() as u64,
                reason: GapReason::Budget,
            },
            gap @ Self::Gap { .. } => gap,
        }
    }
}

/// Deterministic drivers for fuzzing.
#[doc(hidden)]
pub mod fuzz {
    pub use super::reassembly::fuzz::flow;
}
