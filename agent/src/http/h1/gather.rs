//! A head out of any number of pieces.
//!
//! The usual head lies in one piece and is parsed where it lies, in one pass. Otherwise its bytes are gathered, each
//! looked at once for the blank line that ends the head, and parsed when that has come.
//!
//! Invariant: linear in the head's length, however it is cut.

use super::Reason;
use super::parse::{Head, Place};
use crate::flow::{Nanos, Origin};
use crate::http::buffer::SecretBuffer;

#[derive(Default)]
pub(super) struct Gather {
    buffer: SecretBuffer,
    scan: Scan,
    place: Option<Place>,
}

pub(super) enum Fed<H> {
    /// All bytes taken, the head goes on.
    More,
    /// The head, and how many of the bytes belong to it.
    Head(H, usize),
    /// There is no head to be had here.
    Bad(Reason),
}

impl Gather {
    /// A head has begun and not ended.
    pub fn is_begun(&self) -> bool {
        self.place.is_some()
    }

    /// When its first byte came.
    pub fn since(&self) -> Option<Nanos> {
        self.place.map(|(time, _)| time)
    }

    /// Bytes gathered so far; none while the head lies in one piece.
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Forgets what was gathered.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Takes the next bytes, none of them blank lines before the head. `place` is that of `bytes[0]`.
    pub fn feed<H: Head>(
        &mut self,
        bytes: &[u8],
        place: (Nanos, Origin),
        limits: &super::Limits,
    ) -> Fed<H> {
        let place = *self.place.get_or_insert(place);
        if self.buffer.is_empty()
            && let Some((head, len)) = H::strict(bytes, place, limits.fields)
        {
            self.clear();
            return if len <= limits.head {
                Fed::Head(head, len)
            } else {
                Fed::Bad(Reason::HeadTooLong)
            };
        }
        let Some(used) = self.scan.end(bytes) else {
            if self.buffer.len() + bytes.len() > limits.head {
                self.clear();
                return Fed::Bad(Reason::HeadTooLong);
            }
            self.buffer.append(bytes);
            if !H::plausible(&self.buffer) {
                self.clear();
                return Fed::Bad(Reason::Malformed);
            }
            return Fed::More;
        };
        let parsed = if self.buffer.len() + used > limits.head {
            Err(Reason::HeadTooLong)
        } else if self.buffer.is_empty() {
            H::lenient(&bytes[..used], place, limits.fields)
        } else {
            self.buffer.append(&bytes[..used]);
            match H::strict(&self.buffer, place, limits.fields) {
                Some((head, _)) => Ok(head),
                None => H::lenient(&self.buffer, place, limits.fields),
            }
        };
        self.clear();
        match parsed {
            Ok(head) => Fed::Head(head, used),
            Err(reason) => Fed::Bad(reason),
        }
    }
}

/// Looks for LF LF or LF CR LF, remembering across calls how much of it has come.
#[derive(Clone, Copy, Default)]
enum Scan {
    #[default]
    InLine,
    AfterLf,
    AfterLfCr,
}

impl Scan {
    /// The place after the blank line.
    fn end(&mut self, bytes: &[u8]) -> Option<usize> {
        for (at, byte) in bytes.iter().enumerate() {
            *self = match (*self, byte) {
                (Self::AfterLf | Self::AfterLfCr, b'\n') => return Some(at + 1),
                (_, b'\n') => Self::AfterLf,
                (Self::AfterLf, b'\r') => Self::AfterLfCr,
                _ => Self::InLine,
            };
        }
        None
    }
}
