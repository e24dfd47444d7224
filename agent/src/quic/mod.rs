//! What a QUIC connection's begin says: the client's hello, from its Initial packets.
//!
//! Their keys follow from a number in the packet itself (RFC 9001 section 5.2), so that whoever sees them can open
//! them; what comes after cannot be read here. [`packet`] finds the packets of a datagram and takes their protection
//! off, [`crypto`] puts the pieces of the hello in order; [`Initials`] does so for one attempt to connect.
//!
//! Invariant: what comes from the wire is bounded: [`MAX_HELLO`] bytes of an attempt, whatever it says.

mod crypto;
#[doc(hidden)]
pub mod fuzz;
mod packet;
#[cfg(test)]
mod tests;

use crate::tls::{ClientHello, client_hello};
use crypto::Pieces;
use packet::{ClientKeys, open};
pub use packet::{ConnectionId, Initial, initials};

/// Largest hello that is put together, in bytes; those with post-quantum shares have about 1,800.
pub const MAX_HELLO: usize = 16 * 1024;

/// Handshake type of a ClientHello (RFC 8446 section 4).
const CLIENT_HELLO: u8 = 1;

/// One attempt to connect: the Initials that a client sends to one connection id of its own choice.
pub struct Initials {
    keys: ClientKeys,
    pieces: Pieces,
}

impl Initials {
    /// `None` if the packet was not sealed with its own id: it is a server's, or a client's later one.
    #[must_use]
    pub fn begin(first: &Initial<'_>) -> Option<Self> {
        let mut begun = Self {
            keys: ClientKeys::of(first),
            pieces: Pieces::default(),
        };
        begun.take(first).then_some(begun)
    }

    /// Takes one more packet to the same id. False if it is not the client's.
    pub fn take(&mut self, packet: &Initial<'_>) -> bool {
        match open(&self.keys, packet) {
            Some(frames) => {
                self.pieces.take(&frames);
                true
            }
            None => false,
        }
    }

    /// The hello, when all of it has come.
    #[must_use]
    pub fn hello(&self) -> Option<ClientHello> {
        let begin = self.pieces.begin();
        let [CLIENT_HELLO, high, middle, low, body @ ..] = &*begin else {
            return None;
        };
        let len = u32::from_be_bytes([0, *high, *middle, *low]) as usize;
        client_hello(body.get(..len)?)
    }
}
