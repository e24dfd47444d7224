//! One direction's pieces that wait to be read.
//!
//! Most often one piece comes, is read, and is gone, so the first has a place of its own and the queue behind it holds
//! no memory on a quiet connection.
//!
//! Invariant: what is taken out is contiguous: a jump in offsets becomes a gap, an overlap is cut off.

use super::Layer;
use crate::flow::{Direction, GapReason, Nanos, Origin, Payload, Piece};
use std::collections::VecDeque;
use zeroize::Zeroizing;

/// What a waiting piece costs beside its bytes.
const PIECE_COST: usize = size_of::<Piece>();

#[derive(Default)]
pub(super) struct Lane {
    first: Option<Piece>,
    /// Behind the first: empty if there is no first.
    more: VecDeque<Piece>,
    /// Bytes of the first piece that were read already.
    skip: u64,
    /// Memory held by all pieces.
    held: usize,
    /// Where the next piece should begin.
    next: Option<u64>,
    /// Bytes to be thrown away before anything is read (the rest of a PROXY header).
    strip: u64,
    /// Where the inner stream begins, once one has.
    base: Option<u64>,
}

/// What lies at the front.
pub(super) enum Rest<'a> {
    Data(&'a [u8]),
    Gap(u64),
}

/// The first piece, taken out to be read.
pub(super) struct Taken {
    piece: Piece,
    skip: u64,
}

impl Taken {
    pub fn rest(&self) -> Rest<'_> {
        match &self.piece {
            Piece::Data { bytes, .. } => {
                Rest::Data(bytes.get(self.skip as usize..).unwrap_or_default())
            }
            Piece::Gap { len, .. } => Rest::Gap(len.saturating_sub(self.skip)),
        }
    }

    pub fn len(&self) -> u64 {
        self.piece.len().saturating_sub(self.skip)
    }

    pub fn time(&self) -> Nanos {
        self.piece.time()
    }

    pub fn use_up(&mut self, bytes: u64) {
        self.skip = self.skip.saturating_add(bytes);
    }

    /// A gap that the agent made itself, for its budget's sake: what was in it is counted elsewhere.
    pub fn is_skipped(&self) -> bool {
        matches!(
            &self.piece,
            Piece::Gap {
                reason: GapReason::Budget,
                ..
            }
        )
    }

    /// Nothing of the piece was read yet.
    pub fn is_whole(&self) -> bool {
        self.skip == 0
    }

    pub fn place(&self, layer: Layer) -> (Nanos, Origin) {
        (self.time(), self.origin(layer))
    }

    fn origin(&self, layer: Layer) -> Origin {
        match &self.piece {
            Piece::Data { origin, .. } => layer.advance(*origin, self.skip),
            Piece::Gap { .. } => Origin { wire: 0, within: 0 },
        }
    }
}

impl Lane {
    pub fn push(&mut self, piece: Piece, layer: Layer) {
        let offset = piece.offset();
        let expected = *self.next.get_or_insert(offset);
        if offset > expected {
            let (time, len, reason) = (piece.time(), offset - expected, GapReason::Unseen);
            self.queue(Piece::Gap {
                offset: expected,
                time,
                len,
                reason,
            });
        }
        let known = expected.saturating_sub(offset);
        if known == 0 {
            self.queue(piece);
        } else if known < piece.len() {
            self.queue(tail(piece, known, layer));
        }
    }

    fn queue(&mut self, piece: Piece) {
        self.next = Some(piece.offset().saturating_add(piece.len()));
        if !piece.is_empty() {
            self.held += cost(&piece);
            if self.first.is_none() {
                self.first = Some(piece);
            } else {
                self.more.push_back(piece);
            }
        }
    }

    /// The front piece; what is not used of it must be put back.
    pub fn take(&mut self) -> Option<Taken> {
        if !self.strip_now() {
            return None;
        }
        let skip = self.skip;
        let piece = self.pop()?;
        Some(Taken { piece, skip })
    }

    /// Throws away what is to be stripped; true if something is left to read.
    pub fn strip_now(&mut self) -> bool {
        while self.strip > 0 {
            let Some(front) = &self.first else {
                return false;
            };
            let step = self.strip.min(front.len().saturating_sub(self.skip));
            self.strip -= step;
            self.skip += step;
            if self.skip >= front.len() {
                self.drop_front();
            }
        }
        self.first.is_some()
    }

    pub fn put_back(&mut self, taken: Taken) {
        if taken.len() > 0 {
            self.held += cost(&taken.piece);
            self.skip = taken.skip;
            if let Some(second) = self.first.replace(taken.piece) {
                self.more.push_front(second);
            }
        }
    }

    pub fn drop_front(&mut self) {
        self.pop();
    }

    fn pop(&mut self) -> Option<Piece> {
        let piece = self.first.take()?;
        self.held -= cost(&piece);
        self.skip = 0;
        self.first = self.more.pop_front();
        if self.first.is_none() && self.more.capacity() > 0 {
            // After a burst.
            self.more = VecDeque::new();
        }
        Some(piece)
    }

    /// Throws away the next `bytes`, whenever they come.
    pub fn strip(&mut self, bytes: u64) {
        self.strip += bytes;
    }

    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub fn pieces(&self) -> usize {
        usize::from(self.first.is_some()) + self.more.len()
    }

    pub fn held(&self) -> usize {
        self.held
    }

    /// When the front piece came.
    pub fn since(&self) -> Option<Nanos> {
        self.first.as_ref().map(Piece::time)
    }

    /// The bytes at the front, across pieces if there are several: at most `most`, up to the first gap.
    /// `None` if a gap is first.
    pub fn view<R>(&self, most: usize, look: impl FnOnce(Option<&[u8]>) -> R) -> R {
        let mut skip = self.skip as usize;
        let Some(Piece::Data { bytes, .. }) = &self.first else {
            return look(None);
        };
        let first = bytes.get(skip..).unwrap_or_default();
        if first.len() >= most || self.more.is_empty() {
            return look(Some(&first[..first.len().min(most)]));
        }
        let mut joined = Zeroizing::new(Vec::with_capacity(most));
        for piece in self.first.iter().chain(&self.more) {
            let Piece::Data { bytes, .. } = piece else {
                break;
            };
            let bytes = bytes.get(std::mem::take(&mut skip)..).unwrap_or_default();
            let room = most - joined.len();
            joined.extend_from_slice(&bytes[..bytes.len().min(room)]);
            if joined.len() == most {
                break;
            }
        }
        look(Some(&joined))
    }

    /// The piece as one of the inner stream, whose offsets begin at 0.
    pub fn rebase(&mut self, taken: Taken, layer: Layer) -> Piece {
        let mut piece = tail(taken.piece, taken.skip, layer);
        let base = *self.base.get_or_insert(piece.offset());
        match &mut piece {
            Piece::Data { offset, .. } | Piece::Gap { offset, .. } => {
                *offset = offset.saturating_sub(base)
            }
        }
        piece
    }
}

/// What is left of a piece without its first `skip` bytes (fewer than it has).
fn tail(piece: Piece, skip: u64, layer: Layer) -> Piece {
    match piece {
        piece if skip == 0 => piece,
        Piece::Data {
            offset,
            time,
            origin,
            bytes,
        } => Piece::Data {
            offset: offset.saturating_add(skip),
            time,
            origin: layer.advance(origin, skip),
            bytes: Payload::copy_from(bytes.get(skip as usize..).unwrap_or_default()),
        },
        Piece::Gap {
            offset,
            time,
            len,
            reason,
        } => Piece::Gap {
            offset: offset.saturating_add(skip),
            time,
            len: len.saturating_sub(skip),
            reason,
        },
    }
}

fn cost(piece: &Piece) -> usize {
    match piece {
        Piece::Data { bytes, .. } => PIECE_COST + bytes.len(),
        Piece::Gap { .. } => PIECE_COST,
    }
}

/// Both directions' lanes.
#[derive(Default)]
pub(super) struct Lanes([Lane; 2]);

impl std::ops::Index<Direction> for Lanes {
    type Output = Lane;

    fn index(&self, direction: Direction) -> &Lane {
        &self.0[direction.index()]
    }
}

impl std::ops::IndexMut<Direction> for Lanes {
    fn index_mut(&mut self, direction: Direction) -> &mut Lane {
        &mut self.0[direction.index()]
    }
}
