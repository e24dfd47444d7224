//! One direction of one connection, put in order.
//!
//! Segments that wait for a hole before them are kept by offset, never overlapping: of bytes that came twice the
//! first are kept, and bytes win over a gap that the copy policy left. A hole is waited for by time, by bytes and
//! by count, whichever ends first; then it becomes a gap. The last limits are hard: a caller that does not take
//! pieces out loses bytes to [`GapReason::Evicted`], counted.
//!
//! Invariant: pieces follow one another; each begins where the one before ended.
//! Invariant: what is held never exceeds the limits, and never the shared budget.

use super::{Budget, GapReason, Nanos, Origin, Payload, Piece, Share};
use std::collections::BTreeMap;

/// Limits of one direction of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowLimits {
    /// Bytes held at most; from half of it on, holes are no longer waited for.
    pub bytes: usize,
    /// Segments held at most (at least 4); from half of it on, holes are no longer waited for.
    pub segments: usize,
    /// How long a hole is waited for: the kernel's CPUs hand over in any order, but soon.
    pub wait: Nanos,
}

impl Default for FlowLimits {
    fn default() -> Self {
        Self {
            bytes: 512 << 10,
            segments: 256,
            wait: 250_000_000,
        }
    }
}

/// Bytes of the stream by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowCounts {
    /// Handed out.
    pub data: u64,
    /// Handed out as gaps, by reason.
    pub policy: u64,
    pub unseen: u64,
    pub evicted: u64,
    /// Came again, or before the place where the flow began, or past the end of the offset space; dropped.
    pub trimmed: u64,
}

struct Segment {
    len: u64,
    time: Nanos,
    /// `None`: known to be missing for this reason.
    content: Result<Payload, GapReason>,
}

/// Puts the chunks of one direction in order. See the module.
pub struct Flow {
    limits: FlowLimits,
    share: Share,
    /// Offset of the next byte to hand out; `None` before anything was seen.
    next: Option<u64>,
    /// `next` may still move down: nothing was handed out and the beginning is not known.
    floating: bool,
    segments: BTreeMap<u64, Segment>,
    /// Since when the hole at `next` is waited for.
    hole_since: Option<Nanos>,
    end: Option<(u64, Nanos)>,
    closed: bool,
    counts: FlowCounts,
}

impl Flow {
    /// `base` is the offset of the first byte that will be handed out: `Some(0)` for a connection seen from its
    /// start; with `None` the flow begins at the lowest offset seen before the first [`Flow::pop`].
    pub fn new(limits: FlowLimits, budget: &Budget, base: Option<u64>) -> Self {
        Self {
            limits: FlowLimits {
                segments: limits.segments.max(4),
                ..limits
            },
            share: budget.share(),
            next: base,
            floating: base.is_none(),
            segments: BTreeMap::new(),
            hole_since: None,
            end: None,
            closed: false,
            counts: FlowCounts::default(),
        }
    }

    /// A chunk: `bytes` lie at `offset`, and the stream is accounted for up to `offset + covers`
    /// (a `covers` below the number of bytes is taken as that number).
    pub fn push(&mut self, offset: u64, covers: u64, bytes: Payload, time: Nanos) {
        let covers = covers.max(bytes.len() as u64);
        let Some(end) = offset.checked_add(covers) else {
            self.counts.trimmed = self.counts.trimmed.saturating_add(covers);
            return;
        };
        if covers == 0 {
            return;
        }
        let next = match self.next {
            Some(next) if !(self.floating && offset < next) => next,
            _ => {
                self.next = Some(offset);
                offset
            }
        };
        let data_end = offset + bytes.len() as u64;
        self.insert_data(offset.max(next), data_end, offset, bytes, time);
        self.insert_gap(data_end.max(next), end, GapReason::Policy, time);
        self.counts.trimmed += next.clamp(offset, end) - offset;
        self.bound_segments();
    }

    /// The short way for what comes in order while nothing is held, which is nearly everything: the piece that
    /// [`Flow::push`] and [`Flow::pop`] would give, without keeping it between. Gives `bytes` back where it must be kept.
    pub fn pass(&mut self, offset: u64, bytes: Payload, time: Nanos) -> Result<Piece, Payload> {
        let in_order = self.next == Some(offset) && !self.floating && self.segments.is_empty();
        let len = bytes.len() as u64;
        // The same limits as for what is kept, so that both ways lose the same.
        let within = bytes.len() <= self.limits.bytes && len > 0;
        match offset.checked_add(len) {
            Some(end) if in_order && within => {
                self.next = Some(end);
                self.hole_since = None;
                self.counts.data += len;
                let origin = Origin {
                    wire: offset,
                    within: 0,
                };
                Ok(Piece::Data {
                    offset,
                    time,
                    origin,
                    bytes,
                })
            }
            _ => Err(bytes),
        }
    }

    /// The direction was closed at `offset`.
    pub fn end(&mut self, offset: u64, time: Nanos) {
        self.next.get_or_insert(offset);
        self.end.get_or_insert((offset, time));
    }

    /// Nothing more will come: holes are not waited for any more.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// The hole that is waited for now is not waited for any longer.
    pub fn give_up_hole(&mut self) {
        if !self.segments.is_empty() {
            self.hole_since = Some(0);
        }
    }

    /// Everything up to the end of the direction was handed out.
    pub fn ended(&self) -> bool {
        self.segments.is_empty()
            && self
                .end
                .is_some_and(|(end, _)| self.next.is_none_or(|next| next >= end))
    }

    /// Bytes held.
    pub fn held(&self) -> usize {
        self.share.held()
    }

    pub fn counts(&self) -> FlowCounts {
        self.counts
    }

    /// When a hole will have been waited for long enough, if one is being waited for.
    pub fn deadline(&self) -> Option<Nanos> {
        self.hole_since
            .map(|since| since.saturating_add(self.limits.wait))
    }

    /// The next piece, if it is known or no longer waited for at `now`.
    pub fn pop(&mut self, now: Nanos) -> Option<Piece> {
        let next = self.next?;
        let (start, time) = match (self.segments.first_key_value(), self.end) {
            (Some((start, segment)), _) => (*start, segment.time),
            (None, Some((end, time))) if end > next => (end, time),
            (None, _) => return None,
        };
        if start > next {
            return self.pop_hole(next, start, time, now);
        }
        self.hole_since = None;
        self.floating = false;
        let (_, segment) = self.segments.pop_first()?;
        let mut end = next + segment.len;
        let piece = match segment.content {
            Ok(bytes) => {
                self.share.shrink(bytes.len());
                self.counts.data += segment.len;
                Piece::Data {
                    offset: next,
                    time: segment.time,
                    origin: Origin {
                        wire: next,
                        within: 0,
                    },
                    bytes,
                }
            }
            Err(reason) => {
                while let Some(entry) = self.segments.first_entry()
                    && *entry.key() == end
                    && entry.get().content.as_ref().err() == Some(&reason)
                {
                    end += entry.remove().len;
                }
                self.count_gap(reason, end - next);
                Piece::Gap {
                    offset: next,
                    time: segment.time,
                    len: end - next,
                    reason,
                }
            }
        };
        self.next = Some(end);
        Some(piece)
    }

    fn pop_hole(&mut self, next: u64, start: u64, time: Nanos, now: Nanos) -> Option<Piece> {
        let since = *self.hole_since.get_or_insert(now);
        let expired = self.closed
            || now.saturating_sub(since) >= self.limits.wait
            || self.held() > self.limits.bytes / 2
            || self.segments.len() > self.limits.segments / 2;
        if !expired {
            return None;
        }
        self.hole_since = None;
        self.floating = false;
        self.next = Some(start);
        self.count_gap(GapReason::Unseen, start - next);
        Some(Piece::Gap {
            offset: next,
            time,
            len: start - next,
            reason: GapReason::Unseen,
        })
    }

    fn count_gap(&mut self, reason: GapReason, len: u64) {
        match reason {
            GapReason::Policy | GapReason::Budget => self.counts.policy += len,
            GapReason::Evicted => self.counts.evicted += len,
            GapReason::Unseen | GapReason::Unopened => self.counts.unseen += len,
        }
    }

    /// Puts the bytes for `start..end` (cut from `bytes`, which lie at `origin`) where no bytes are yet.
    fn insert_data(&mut self, start: u64, end: u64, origin: u64, bytes: Payload, time: Nanos) {
        if start >= end {
            return;
        }
        let free = self.uncovered(start, end, |segment| {
            segment.content.as_ref().err() != Some(&GapReason::Policy)
        });
        let wanted: u64 = free.iter().map(|(from, to)| to - from).sum();
        self.counts.trimmed += (end - start) - wanted;
        if wanted == 0 {
            return;
        }
        // `wanted` is at most the length of `bytes`, so it fits.
        let room =
            self.held() + wanted as usize <= self.limits.bytes && self.share.grow(wanted as usize);
        if !room {
            for (from, to) in free {
                self.insert_gap(from, to, GapReason::Evicted, time);
            }
            return;
        }
        let mut bytes = Some(bytes);
        for (from, to) in free {
            self.carve(from, to);
            let whole = to - from == (end - origin);
            let part = match bytes.take_if(|_| whole) {
                Some(all) => all,
                None => match &bytes {
                    Some(all) => {
                        Payload::copy_from(&all[(from - origin) as usize..(to - origin) as usize])
                    }
                    None => continue,
                },
            };
            self.segments.insert(
                from,
                Segment {
                    len: to - from,
                    time,
                    content: Ok(part),
                },
            );
        }
    }

    /// Puts a gap wherever in `start..end` nothing is known yet.
    fn insert_gap(&mut self, start: u64, end: u64, reason: GapReason, time: Nanos) {
        if start >= end {
            return;
        }
        for (from, to) in self.uncovered(start, end, |_| true) {
            self.segments.insert(
                from,
                Segment {
                    len: to - from,
                    time,
                    content: Err(reason),
                },
            );
        }
    }

    /// The parts of `start..end` that no segment accepted by `covers` holds.
    fn uncovered(
        &self,
        start: u64,
        end: u64,
        covers: impl Fn(&Segment) -> bool,
    ) -> Vec<(u64, u64)> {
        let mut free = Vec::new();
        let mut at = start;
        let first = self
            .segments
            .range(..=start)
            .next_back()
            .map_or(start, |(key, _)| *key);
        for (&from, segment) in self.segments.range(first..end) {
            let to = from + segment.len;
            if to <= at || !covers(segment) {
                continue;
            }
            if from > at {
                free.push((at, from));
            }
            at = to;
        }
        if at < end {
            free.push((at, end));
        }
        free
    }

    /// Cuts `start..end` out of the gaps that lie there (no bytes do).
    fn carve(&mut self, start: u64, end: u64) {
        let first = self
            .segments
            .range(..=start)
            .next_back()
            .map_or(start, |(key, _)| *key);
        let hit: Vec<u64> = self
            .segments
            .range(first..end)
            .filter(|(from, segment)| **from + segment.len > start)
            .map(|(from, _)| *from)
            .collect();
        for from in hit {
            let Some(Segment {
                len,
                time,
                content: Err(reason),
            }) = self.segments.remove(&from)
            else {
                continue;
            };
            if from < start {
                self.segments.insert(
                    from,
                    Segment {
                        len: start - from,
                        time,
                        content: Err(reason),
                    },
                );
            }
            if from + len > end {
                self.segments.insert(
                    end,
                    Segment {
                        len: from + len - end,
                        time,
                        content: Err(reason),
                    },
                );
            }
        }
    }

    /// Keeps the number of segments within its limit: the two furthest become one gap, hole between included.
    fn bound_segments(&mut self) {
        while self.segments.len() > self.limits.segments {
            let (Some((last, tail)), Some((start, head))) =
                (self.segments.pop_last(), self.segments.pop_last())
            else {
                return;
            };
            for bytes in [&head.content, &tail.content].into_iter().flatten() {
                self.share.shrink(bytes.len());
            }
            let len = last + tail.len - start;
            self.segments.insert(
                start,
                Segment {
                    len,
                    time: head.time,
                    content: Err(GapReason::Evicted),
                },
            );
        }
    }
}

#[doc(hidden)]
pub mod fuzz {
    use super::{Budget, Flow, FlowLimits, Payload, Piece};

    /// The stream's byte at `offset`: what every chunk of the driver holds there.
    fn truth(offset: u64) -> u8 {
        (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
    }

    /// Five bytes an operation: kind, offset (2), length, covers. Asserts the module's invariants.
    pub fn flow(data: &[u8]) {
        let limits = FlowLimits {
            bytes: 700,
            segments: 12,
            wait: 40,
        };
        let budget = Budget::new(1000);
        let mut flow = Flow::new(
            limits,
            &budget,
            data.first().is_some_and(|b| b & 1 == 0).then_some(0),
        );
        let (mut next, mut handed, mut now) = (None, 0u64, 0u64);
        for step in data.chunks_exact(5) {
            now += u64::from(step[0] >> 4);
            let offset = u64::from(u16::from_le_bytes([step[1], step[2]]) % 4096);
            match step[0] % 16 {
                0 => flow.close(),
                1 => flow.end(offset, now),
                2 => flow.push(
                    u64::MAX - offset,
                    u64::from(step[4]),
                    Payload::default(),
                    now,
                ),
                3..8 => {
                    while let Some(piece) = flow.pop(now) {
                        check(&piece, &mut next, &mut handed);
                    }
                }
                _ => {
                    let bytes: Vec<u8> = (offset..offset + u64::from(step[3])).map(truth).collect();
                    let bytes = Payload::from(bytes);
                    // Two of three times by the short way first, where it is open.
                    match step[4] % 3 {
                        0 => flow.push(offset, u64::from(step[4]) * 2, bytes, now),
                        _ => match flow.pass(offset, bytes, now) {
                            Ok(piece) => check(&piece, &mut next, &mut handed),
                            Err(bytes) => flow.push(offset, u64::from(step[4]) * 2, bytes, now),
                        },
                    }
                }
            }
            assert!(flow.held() <= limits.bytes && flow.segments.len() <= limits.segments);
            assert_eq!(budget.used(), flow.held());
            let kept: usize = flow
                .segments
                .values()
                .flat_map(|segment| &segment.content)
                .map(|b| b.len())
                .sum();
            assert_eq!(kept, flow.held());
        }
        flow.close();
        while let Some(piece) = flow.pop(now) {
            check(&piece, &mut next, &mut handed);
        }
        assert!(flow.segments.is_empty() && flow.held() == 0);
        let counts = flow.counts();
        assert_eq!(
            handed,
            counts.data + counts.policy + counts.unseen + counts.evicted
        );
    }

    fn check(piece: &Piece, next: &mut Option<u64>, handed: &mut u64) {
        assert!(!piece.is_empty());
        assert_eq!(piece.offset(), next.unwrap_or(piece.offset()));
        *next = Some(piece.offset() + piece.len());
        *handed += piece.len();
        if let Piece::Data {
            offset,
            bytes,
            origin,
            ..
        } = piece
        {
            assert_eq!((origin.wire, origin.within), (*offset, 0));
            for (place, byte) in bytes.iter().enumerate() {
                assert_eq!(*byte, truth(offset + place as u64));
            }
        }
    }
}
