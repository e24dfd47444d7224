//! Where bytes of a piece came from.

use crate::flow::Origin;

/// What [`Origin`]s mean on this connection: where a byte within a piece came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// Cleartext: each byte has its own place in the socket's stream.
    Socket,
    /// Plaintext of TLS, each piece within one record: bytes have their place in the record.
    Record,
}

impl Layer {
    pub(super) fn advance(self, origin: Origin, by: u64) -> Origin {
        match self {
            Self::Socket => Origin {
                wire: origin.wire.saturating_add(by),
                ..origin
            },
            Self::Record => {
                let by = u32::try_from(by).unwrap_or(u32::MAX);
                Origin {
                    within: origin.within.saturating_add(by),
                    ..origin
                }
            }
        }
    }
}
