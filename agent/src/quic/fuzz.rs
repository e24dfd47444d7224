//! Entry point for fuzzing.

use super::crypto::Pieces;
use super::{Initials, MAX_HELLO, initials};

/// Datagrams of lengths that the data says, as one attempt; and the data as frames, which no chance would seal.
pub fn fuzz(data: &[u8]) {
    let mut attempt: Option<Initials> = None;
    let mut rest = data;
    while let [len, after @ ..] = rest {
        let (datagram, after) = after.split_at(after.len().min(usize::from(*len) * 8));
        rest = after;
        for packet in initials(datagram) {
            match &mut attempt {
                Some(attempt) => _ = attempt.take(&packet),
                None => attempt = Initials::begin(&packet),
            }
        }
    }
    if let Some(attempt) = attempt {
        _ = attempt.hello();
    }
    let mut pieces = Pieces::default();
    data.chunks(64).for_each(|frames| pieces.take(frames));
    assert!(pieces.begin().len() <= MAX_HELLO);
}
