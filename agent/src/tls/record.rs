//! Records out of a stream with gaps (RFC 8446 section 5.1, RFC 5246 section 6.2).
//!
//! Of a record the head is needed; of its body what lies before the first gap and after the last one is kept. A gap
//! that swallows heads loses the bounds of records: then the next piece that begins like a record is taken for one,
//! because programs write and read record by record. That is a guess about bounds only; what such records hold
//! counts only once a tag has proven it.
//!
//! Invariant: at most one record is held, and at most [`MAX_BODY`] bytes of it, however long its head says it is.

use super::keys::HEAD_LEN;
use crate::flow::{GapReason, Nanos, Piece};
use std::ops::ControlFlow;
use zeroize::Zeroizing;

/// Longest body of a record (RFC 5246 section 6.2.3; TLS 1.3 allows 256 beyond 2^14, not 2048).
pub const MAX_BODY: usize = (1 << 14) + 2048;

/// Content types (RFC 8446 appendix B.1).
pub mod kind {
    pub const CHANGE_CIPHER_SPEC: u8 = 20;
    pub const ALERT: u8 = 21;
    pub const HANDSHAKE: u8 = 22;
    pub const APPLICATION_DATA: u8 = 23;
}

/// Does this look like the beginning of TLS?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detect {
    Yes,
    No,
    /// So far it does, but it is too short to tell.
    More,
}

/// Looks at the first bytes of a connection. `Yes` for a record that begins with a ClientHello or ServerHello, and
/// for the head of any other record, so that a connection that was opened before is named as such.
pub fn looks_like_record(bytes: &[u8]) -> Detect {
    let first = match bytes.first() {
        None => return Detect::More,
        Some(first) => *first,
    };
    let fits = |at: usize, test: &dyn Fn(u8) -> bool| bytes.get(at).is_none_or(|byte| test(*byte));
    // ClientHello's record says 3.1 or 3.3 (3.0 from old clients); anything encrypted with what is read here, 3.3.
    let hello = first == kind::HANDSHAKE;
    if !(kind::CHANGE_CIPHER_SPEC..=kind::APPLICATION_DATA).contains(&first)
        || !fits(1, &|byte| byte == 3)
        || !fits(2, &|byte| {
            if hello {
                byte <= 3
            } else {
                (1..=3).contains(&byte)
            }
        })
        || !fits(3, &|byte| usize::from(byte) << 8 <= MAX_BODY)
    {
        return Detect::No;
    }
    match bytes.get(..HEAD_LEN) {
        None => Detect::More,
        Some(head) if (1..=MAX_BODY).contains(&body_len(head)) => Detect::Yes,
        Some(_) => Detect::No,
    }
}

fn body_len(head: &[u8]) -> usize {
    usize::from(head[3]) << 8 | usize::from(head[4])
}

/// Bytes whose records' bounds are not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Stream offset of the first of them.
    pub from: u64,
    pub reason: GapReason,
}

/// One record, or what is known of it.
pub struct Record {
    /// Stream offset of its head.
    pub at: u64,
    /// When its head came.
    pub time: Nanos,
    pub head: [u8; HEAD_LEN],
    /// What came before it back to there is not known, so its bounds are not certain either.
    pub lost: Option<Lost>,
    /// The body up to the first gap.
    pub first: Zeroizing<Vec<u8>>,
    /// Place in the body, and bytes, of what came after the last gap.
    pub tail: Option<(usize, Zeroizing<Vec<u8>>)>,
    /// Why something is missing, if it is.
    pub gap: GapReason,
}

impl Record {
    pub fn kind(&self) -> u8 {
        self.head[0]
    }

    /// Bytes of the body, known or not.
    pub fn body_len(&self) -> usize {
        body_len(&self.head)
    }

    pub fn is_whole(&self) -> bool {
        self.first.len() == self.body_len()
    }

    /// Stream offset of what follows.
    pub fn end(&self) -> u64 {
        self.at + (HEAD_LEN + self.body_len()) as u64
    }

    /// Bytes held in memory.
    pub fn held(&self) -> usize {
        self.first.len() + self.tail.as_ref().map_or(0, |(_, tail)| tail.len())
    }
}

/// What [`Deframer::next`] finds.
pub enum Framed {
    Record(Record),
    /// Where a record's head should be lies something else; bounds are lost.
    NotARecord,
}

enum State {
    /// Collecting a head. `certain`: it follows a record.
    Head {
        at: u64,
        time: Nanos,
        bytes: [u8; HEAD_LEN],
        have: usize,
        certain: bool,
    },
    Body {
        record: Record,
        filled: usize,
    },
    /// Waiting for a piece that begins like a record.
    Seeking,
}

/// Cuts one direction into records: [`Deframer::push`] a piece, then call [`Deframer::next`] until it has no more.
pub struct Deframer {
    state: State,
    lost: Option<Lost>,
    /// What is being read, and how much of it was.
    input: Option<Piece>,
    read: usize,
    /// Stream offset after the last piece.
    position: u64,
}

impl Deframer {
    pub fn new() -> Self {
        let state = State::Head {
            at: 0,
            time: 0,
            bytes: [0; HEAD_LEN],
            have: 0,
            certain: true,
        };
        Self {
            state,
            lost: None,
            input: None,
            read: 0,
            position: 0,
        }
    }

    /// Pieces follow one another; the one before must have been read to its end.
    pub fn push(&mut self, piece: Piece) {
        self.position = piece.offset().saturating_add(piece.len());
        self.input = Some(piece);
        self.read = 0;
    }

    /// Bytes held of the record that is not complete.
    pub fn held(&self) -> usize {
        match &self.state {
            State::Body { record, .. } => record.held(),
            _ => 0,
        }
    }

    /// Stream offset after all that was pushed.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Bytes since the bounds of records were lost, if they are.
    pub fn lost(&self) -> Option<Lost> {
        self.lost
    }

    /// Gives up the record that is being read: its bytes count as lost.
    pub fn abandon(&mut self, reason: GapReason) {
        if let State::Body { record, .. } = &self.state {
            let (at, lost) = (record.at, record.lost);
            self.lose(lost.unwrap_or(Lost { from: at, reason }));
        }
    }

    /// The direction has ended: what there is of the last record.
    pub fn finish(&mut self) -> Option<Record> {
        match std::mem::replace(&mut self.state, State::Seeking) {
            State::Body { record, .. } if record.held() > 0 => Some(record),
            _ => None,
        }
    }

    pub fn next(&mut self) -> Option<Framed> {
        let piece = self.input.take()?;
        let (found, left) = match &piece {
            Piece::Data {
                offset,
                time,
                bytes,
                ..
            } => {
                let found = self.read_data(*offset, *time, bytes);
                (found, self.read < bytes.len())
            }
            Piece::Gap {
                offset,
                len,
                reason,
                ..
            } => {
                let found = self.read_gap(*offset, *len, *reason);
                (found, (self.read as u64) < *len)
            }
        };
        if left {
            self.input = Some(piece);
        }
        found
    }

    fn lose(&mut self, lost: Lost) {
        self.lost.get_or_insert(lost);
        self.state = State::Seeking;
    }

    /// Reads on from `self.read` to the end of a record or of `bytes`.
    fn read_data(&mut self, offset: u64, time: Nanos, bytes: &[u8]) -> Option<Framed> {
        while self.read < bytes.len() {
            match self.step(offset + self.read as u64, time, &bytes[self.read..]) {
                ControlFlow::Continue(used) => self.read += used,
                ControlFlow::Break((used, framed)) => {
                    self.read += used;
                    return Some(framed);
                }
            }
        }
        None
    }

    /// Takes some of `bytes`, which lie at `at`.
    fn step(&mut self, at: u64, time: Nanos, bytes: &[u8]) -> ControlFlow<(usize, Framed), usize> {
        match &mut self.state {
            State::Seeking => {
                if self.read > 0 {
                    return ControlFlow::Continue(bytes.len());
                }
                self.state = State::Head {
                    at,
                    time,
                    bytes: [0; HEAD_LEN],
                    have: 0,
                    certain: false,
                };
                ControlFlow::Continue(0)
            }
            State::Head {
                at: head_at,
                time: head_time,
                bytes: head,
                have,
                certain,
            } => {
                if *have == 0 {
                    (*head_at, *head_time) = (at, time);
                }
                let used = bytes.len().min(HEAD_LEN - *have);
                head[*have..*have + used].copy_from_slice(&bytes[..used]);
                *have += used;
                let (head_at, head_time, head, have, certain) =
                    (*head_at, *head_time, *head, *have, *certain);
                if !plausible(&head[..have], certain) {
                    self.lose(Lost {
                        from: head_at,
                        reason: GapReason::Unseen,
                    });
                    return match certain {
                        true => ControlFlow::Break((bytes.len(), Framed::NotARecord)),
                        false => ControlFlow::Continue(bytes.len()),
                    };
                }
                if have == HEAD_LEN {
                    let record = Record {
                        at: head_at,
                        time: head_time,
                        head,
                        lost: self.lost.take(),
                        first: Zeroizing::default(),
                        tail: None,
                        gap: GapReason::Unseen,
                    };
                    self.state = State::Body { record, filled: 0 };
                }
                ControlFlow::Continue(used)
            }
            State::Body { record, filled } => {
                let missing = record.body_len() - *filled;
                let used = bytes.len().min(missing);
                let tail_at = *filled;
                let target = match &mut record.tail {
                    Some((_, tail)) => tail,
                    None if record.first.len() < tail_at => {
                        &mut record.tail.insert((tail_at, Zeroizing::default())).1
                    }
                    None => &mut record.first,
                };
                if target.is_empty() {
                    // Not on the head's word alone: the bytes are here, or at most one record's worth more is.
                    target.reserve_exact(if used < missing {
                        missing.min(used * 2)
                    } else {
                        used
                    });
                }
                target.extend_from_slice(&bytes[..used]);
                *filled += used;
                match self.complete() {
                    Some(record) => ControlFlow::Break((used, Framed::Record(record))),
                    None => ControlFlow::Continue(used),
                }
            }
        }
    }

    fn read_gap(&mut self, offset: u64, len: u64, reason: GapReason) -> Option<Framed> {
        let at = offset + self.read as u64;
        let left = len - self.read as u64;
        match &mut self.state {
            State::Body { record, filled } => {
                // At most `MAX_BODY`.
                let used = left.min((record.body_len() - *filled) as u64) as usize;
                *filled += used;
                record.gap = reason;
                // Of more than two parts the first and the last are kept.
                record.tail = None;
                self.read += used;
                self.complete().map(Framed::Record)
            }
            State::Head {
                at: head_at, have, ..
            } => {
                let from = if *have == 0 { at } else { *head_at };
                self.lose(Lost { from, reason });
                self.read = usize::try_from(len).unwrap_or(usize::MAX);
                None
            }
            State::Seeking => {
                self.read = usize::try_from(len).unwrap_or(usize::MAX);
                None
            }
        }
    }

    fn complete(&mut self) -> Option<Record> {
        let State::Body { record, filled } = &self.state else {
            return None;
        };
        if *filled < record.body_len() {
            return None;
        }
        let next = State::Head {
            at: record.end(),
            time: 0,
            bytes: [0; HEAD_LEN],
            have: 0,
            certain: true,
        };
        match std::mem::replace(&mut self.state, next) {
            State::Body { record, .. } => Some(record),
            _ => None,
        }
    }
}

/// May `head`, or its first bytes, begin a record? Where bounds were lost the test is stricter: only what the
/// ciphers that are read here can have made.
fn plausible(head: &[u8], certain: bool) -> bool {
    match looks_like_record(head) {
        Detect::No => false,
        Detect::More => certain || head.get(2).is_none_or(|minor| *minor == 3),
        Detect::Yes => certain || (head[2] == 3 && body_len(head) > super::keys::TAG_LEN),
    }
}
