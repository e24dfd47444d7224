//! The frames of an Initial packet (RFC 9000 section 12.4), of which CRYPTO's pieces of the hello are kept.
//!
//! Clients cut their hellos and shuffle the pieces, over packets too; the same piece may come twice.
//!
//! Invariant: pieces that lie beyond [`MAX_HELLO`] are not kept, one place has one piece, and there are at most
//! [`PIECES`].

use super::MAX_HELLO;
use super::packet::Reader;
use std::collections::BTreeMap;

/// Most pieces of one hello; clients make some tens.
const PIECES: usize = 512;

/// The frames that Initial packets may have; 0x1c is CONNECTION_CLOSE, behind which nothing matters.
mod frame {
    pub const PADDING: u64 = 0x00;
    pub const PING: u64 = 0x01;
    pub const ACK: u64 = 0x02;
    pub const ACK_ECN: u64 = 0x03;
    pub const CRYPTO: u64 = 0x06;
}

/// Pieces of the handshake's bytes, by place.
#[derive(Default)]
pub struct Pieces {
    by_place: BTreeMap<usize, Vec<u8>>,
    kept: usize,
}

impl Pieces {
    /// Takes what the frames of one packet have; what cannot be understood ends them.
    pub fn take(&mut self, frames: &[u8]) {
        let mut reader = Reader::new(frames);
        while self.frame(&mut reader).is_some() {}
    }

    fn frame(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        match reader.integer()? {
            frame::PADDING | frame::PING => {}
            of_type @ (frame::ACK | frame::ACK_ECN) => {
                // Largest, delay, count of ranges, the first of them; then two for each, and three counts of ECN.
                let [_, _, ranges, _] = [(); 4].map(|()| reader.integer());
                let ranges = ranges?.checked_mul(2)?;
                let counts = if of_type == frame::ACK_ECN { 3 } else { 0 };
                for _ in 0..ranges + counts {
                    reader.integer()?;
                }
            }
            frame::CRYPTO => {
                let place = usize::try_from(reader.integer()?).ok()?;
                let len = usize::try_from(reader.integer()?).ok()?;
                self.keep(place, reader.take(len)?);
            }
            _ => return None,
        }
        Some(())
    }

    fn keep(&mut self, place: usize, piece: &[u8]) {
        let ends_within = place
            .checked_add(piece.len())
            .is_some_and(|end| end <= MAX_HELLO);
        let before = self.by_place.get(&place).map_or(0, Vec::len);
        let full = before == 0 && self.by_place.len() >= PIECES;
        if !ends_within || full || piece.len() <= before || self.kept + piece.len() > 2 * MAX_HELLO
        {
            return;
        }
        self.kept += piece.len() - before;
        self.by_place.insert(place, piece.to_vec());
    }

    /// The bytes from the first on, as far as they have come.
    pub fn begin(&self) -> Vec<u8> {
        let mut begin = Vec::new();
        for (place, piece) in &self.by_place {
            let Some(known) = begin.len().checked_sub(*place) else {
                break;
            };
            begin.extend(piece.get(known..).unwrap_or_default());
        }
        begin
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_pieces_as_there_may_be_are_kept() {
        let mut pieces = Pieces::default();
        for place in (0..PIECES + 100).rev() {
            pieces.keep(place, b"x");
        }
        assert_eq!(pieces.by_place.len(), PIECES);
        // A longer one at a place that there is.
        let last = *pieces.by_place.last_key_value().unwrap().0;
        pieces.keep(last, b"yz");
        assert_eq!(pieces.by_place[&last], b"yz");
        assert_eq!(pieces.kept, PIECES + 1);
    }
}
