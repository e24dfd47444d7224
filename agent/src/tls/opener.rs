//! Opens the records of one direction under one proven secret and its successors.
//!
//! A record that is there as a whole is proven by its tag. A part is decrypted in counter mode, on the strength of
//! the records before it: the sequence number is certain as long as the bounds of records are. When a tag does not
//! fit, the number and the key generation are searched for, forward and within bounds.
//!
//! Invariant: a search moves the sequence number only with a tag's proof.

use super::keys::{Keys, TAG_LEN};
use super::record::{Record, kind};
use super::schedule::{TrafficSecret, next_traffic_secret, traffic_keys};
use super::suite::{Protocol, Suite};
use zeroize::Zeroizing;

/// A record's plaintext, as far as it is known: `first`, `gap` unknown bytes, `tail`.
pub struct Plain {
    /// Content type: the record's own, or the one inside (TLS 1.3).
    pub kind: u8,
    pub first: Zeroizing<Vec<u8>>,
    pub gap: usize,
    pub tail: Zeroizing<Vec<u8>>,
}

/// Bytes that a search reads at most, of each generation, where every number costs a pass.
const SEARCH_WORK: usize = 1 << 20;

/// Key generations that are tried beyond the present one.
const GENERATIONS: usize = 2;

pub struct Opener {
    suite: Suite,
    keys: Keys,
    /// To follow KeyUpdates with (TLS 1.3).
    secret: Option<TrafficSecret>,
    /// Of the next record.
    sequence: u64,
}

impl Opener {
    pub fn new(suite: Suite, keys: Keys, secret: Option<TrafficSecret>, sequence: u64) -> Self {
        Self {
            suite,
            keys,
            secret,
            sequence,
        }
    }

    /// Forgets what can be computed again.
    pub fn rest(&mut self) {
        self.keys.rest();
    }

    /// Plaintext bytes of a record, if it has no padding.
    pub fn plain_len(&self, record: &Record) -> usize {
        let inner = usize::from(self.suite.protocol == Protocol::Tls13);
        record
            .body_len()
            .saturating_sub(self.keys.overhead() + inner)
    }

    /// Bytes that a record takes beyond its plaintext, head included.
    pub fn record_overhead(&self) -> usize {
        super::keys::HEAD_LEN
            + self.keys.overhead()
            + usize::from(self.suite.protocol == Protocol::Tls13)
    }

    /// A record that is not opened passes.
    pub fn skip(&mut self) {
        self.sequence = self.sequence.saturating_add(1);
    }

    /// The `count` records before the next one, which were not opened yet, are to be opened after all.
    pub fn rewind(&mut self, count: u64) {
        self.sequence = self.sequence.saturating_sub(count);
    }

    /// Opens a whole record, if it is the next one.
    pub fn open_whole(&mut self, record: &mut Record) -> Option<Plain> {
        let range = self
            .keys
            .open(self.sequence, record.head, &mut record.first)?;
        self.skip();
        let mut first = std::mem::take(&mut record.first);
        first.truncate(range.end);
        first.drain(..range.start);
        let kind = match self.suite.protocol {
            Protocol::Tls12 => record.kind(),
            Protocol::Tls13 => {
                // Only padding, and no type: not a legal record, though a proven one (RFC 8446 section 5.4).
                let kind = first.iter().rposition(|byte| *byte != 0);
                let kind_at = kind.unwrap_or(0);
                let kind = kind.map_or(0, |at| first[at]);
                first.truncate(kind_at);
                kind
            }
        };
        Some(Plain {
            kind,
            first,
            gap: 0,
            tail: Zeroizing::default(),
        })
    }

    /// Moves to the sequence number, of the next `window` and of the next generations, that proves the whole
    /// `record`. True if there is one; `passed` is then how many records lie between, if that is known.
    pub fn search(&mut self, record: &mut Record, window: u64) -> Option<Passed> {
        if let Some(found) = self.keys.find(
            self.sequence,
            window,
            SEARCH_WORK,
            record.head,
            &mut record.first,
        ) {
            let passed = found - self.sequence;
            self.sequence = found;
            return Some(Passed {
                records: Some(passed),
            });
        }
        let mut next: Option<(TrafficSecret, Keys)> = None;
        for _ in 0..GENERATIONS {
            let secret = next_traffic_secret(
                self.suite,
                next.as_ref()
                    .map(|(secret, _)| secret)
                    .or(self.secret.as_ref())?,
            )?;
            let mut keys = traffic_keys(self.suite, &secret)?;
            if let Some(found) = keys.find(0, window, SEARCH_WORK, record.head, &mut record.first) {
                (self.secret, self.keys, self.sequence) = (Some(secret), keys, found);
                return Some(Passed { records: None });
            }
            next = Some((secret, keys));
        }
        None
    }

    /// Decrypts what is there of the next record, and moves past it. `None` if the type cannot be told.
    pub fn open_part(&mut self, record: &mut Record) -> Option<Plain> {
        let sequence = self.sequence;
        self.skip();
        let explicit_len = self.keys.explicit_len();
        let text_len = record.body_len().checked_sub(explicit_len + TAG_LEN)?;
        if record.first.len() < explicit_len {
            // TLS 1.2: nothing can be decrypted, but type and length are known.
            return Some(Plain {
                kind: record.kind(),
                first: Zeroizing::default(),
                gap: text_len,
                tail: Zeroizing::default(),
            });
        }
        let mut first = std::mem::take(&mut record.first);
        let explicit: Vec<u8> = first.drain(..explicit_len).collect();
        first.truncate(text_len);
        self.keys.decrypt_part(sequence, &explicit, 0, &mut first);
        let (tail_at, mut tail) = record
            .tail
            .take()
            .unwrap_or((record.body_len(), Zeroizing::default()));
        let tail_at = tail_at.checked_sub(explicit_len)?;
        // Bytes with unknown ones on both sides are left out: one gap is told.
        let reaches_end = tail_at < text_len && tail_at + tail.len() >= text_len;
        tail.truncate(if reaches_end { text_len - tail_at } else { 0 });
        // At most `MAX_BODY`.
        self.keys
            .decrypt_part(sequence, &explicit, tail_at as u32, &mut tail);
        let (kind, len) = match self.suite.protocol {
            Protocol::Tls12 => (record.kind(), text_len),
            Protocol::Tls13 if first.len() == text_len => {
                let at = first.iter().rposition(|byte| *byte != 0)?;
                (first[at], at)
            }
            Protocol::Tls13 if reaches_end => {
                let at = tail.iter().rposition(|byte| *byte != 0)?;
                (tail[at], tail_at + at)
            }
            // The type lies in what was not copied. After the handshake it is data, but for tickets and the like,
            // which are short and so are copied whole.
            Protocol::Tls13 => (kind::APPLICATION_DATA, text_len.checked_sub(1)?),
        };
        if self.suite.protocol == Protocol::Tls13
            && !(kind::ALERT..=kind::APPLICATION_DATA).contains(&kind)
        {
            return None;
        }
        first.truncate(len);
        tail.truncate(len.saturating_sub(tail_at));
        let gap = len - first.len() - tail.len();
        Some(Plain {
            kind,
            first,
            gap,
            tail,
        })
    }

    /// Follows a KeyUpdate (RFC 8446 section 7.2).
    pub fn update(&mut self) -> Option<()> {
        let secret = next_traffic_secret(self.suite, self.secret.as_ref()?)?;
        self.keys = traffic_keys(self.suite, &secret)?;
        (self.secret, self.sequence) = (Some(secret), 0);
        Some(())
    }
}

/// Records that a search has gone past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed {
    /// `None` where the keys have changed since.
    pub records: Option<u64>,
}
