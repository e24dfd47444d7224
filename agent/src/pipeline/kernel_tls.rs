//! Plaintext of a connection whose TLS records the kernel makes or opens (kTLS), in one direction or in both.
//!
//! A direction begins with records that the program made itself (the handshake's) and goes on in plaintext, which
//! positions count as it is. Where it lies on the wire is told with it, so that both ends name an exchange alike.
//!
//! Invariant: bytes of such calls never reach a TLS session.

use crate::{
    flow::{Origin, Piece},
    kernel::record::Chunk,
};
use std::collections::VecDeque;

/// Places on the wire that are remembered of one direction.
const PLACES: usize = 1_024;

/// One direction, from where the kernel took over.
#[derive(Default)]
pub struct Taken {
    /// Offset of the first such byte.
    from: Option<u64>,
    /// From which offset on where on the wire the record begins.
    places: VecDeque<(u64, u64)>,
}

impl Taken {
    /// Remembers where the chunk's bytes lie on the wire, whose first byte has the sequence number `first`. Gives the
    /// place back.
    pub fn note(&mut self, chunk: &Chunk, first: u32) -> u64 {
        let from = self.from.get_or_insert(chunk.offset);
        *from = chunk.offset.min(*from);
        let ahead = chunk
            .sequence
            .wrapping_sub(first.wrapping_add(chunk.offset as u32));
        let wire = chunk.offset.saturating_add(u64::from(ahead));
        let at = self
            .places
            .partition_point(|(offset, _)| *offset <= chunk.offset);
        self.places.insert(at, (chunk.offset, wire));
        if self.places.len() > PLACES {
            self.places.pop_front();
        }
        wire
    }

    /// The piece is of the kernel's direction: with its place on the wire, and counted from where the kernel took over.
    ///
    /// # Errors
    /// The piece, if it is not.
    pub fn take(&mut self, mut piece: Piece) -> Result<Piece, Piece> {
        let at = piece.offset();
        let Some(from) = self.from.filter(|from| *from <= at) else {
            return Err(piece);
        };
        while self.places.get(1).is_some_and(|(offset, _)| *offset <= at) {
            self.places.pop_front();
        }
        let place = self.places.front().filter(|(offset, _)| *offset <= at);
        match &mut piece {
            Piece::Data { offset, origin, .. } => {
                if let Some((begin, wire)) = place {
                    *origin = Origin {
                        wire: *wire,
                        within: u32::try_from(at - begin).unwrap_or(u32::MAX),
                    };
                }
                *offset -= from;
            }
            Piece::Gap { offset, .. } => *offset -= from,
        }
        Ok(piece)
    }
}
