//! Records under proven keys: the encrypted handshake of TLS 1.3, and application data.
//!
//! Invariant: plaintext pieces follow one another; what is not opened is a gap.

use super::{Half, MAX_FAILURES, NEAR, Phase, SHORT, Step, Waiting};
use crate::flow::{GapReason, Nanos, Origin, Payload, Piece};
use crate::tls::facts::{Output, Reason};
use crate::tls::handshake::{Message, message};
use crate::tls::opener::Plain;
use crate::tls::record::{Record, kind};
use crate::tls::shared::Shared;
use crate::tls::suite::Protocol;

impl Half {
    pub(super) fn step_handshake(&mut self, shared: &mut Shared) -> Step {
        let Phase::Handshake(opener) = &mut self.phase else {
            return Step::Blocked;
        };
        let Some(Waiting { record, .. }) = self.queue.front_mut() else {
            return Step::Blocked;
        };
        match record.kind() {
            kind::CHANGE_CIPHER_SPEC => return self.skip(shared),
            kind::ALERT => return self.step_clear(shared),
            kind::APPLICATION_DATA => {}
            _ => {
                shared.fail(Reason::Malformed("cleartext handshake after ServerHello"));
                return Step::Blocked;
            }
        }
        let plain = if record.lost.is_some() {
            None
        } else if record.is_whole() {
            opener
                .open_whole(record)
                .inspect(|_| shared.facts.counts[self.direction.index()].opened += 1)
        } else {
            opener
                .open_part(record)
                .inspect(|_| shared.facts.counts[self.direction.index()].parts += 1)
        };
        let Some(plain) = plain else {
            // Something of the handshake is lost, perhaps its end: the application's secret tells.
            self.phase = Phase::Sealed { handshake: false };
            return Step::Done;
        };
        self.pop();
        self.read_sealed(plain, shared);
        Step::Done
    }

    /// Content of the encrypted handshake of TLS 1.3.
    fn read_sealed(&mut self, plain: Plain, shared: &mut Shared) {
        match plain.kind {
            kind::HANDSHAKE => {
                for message in self.read_messages(&plain) {
                    if shared.sealed_message(self.direction, message) {
                        self.phase = Phase::Sealed { handshake: false };
                        self.messages.reset();
                        return;
                    }
                }
            }
            kind::ALERT => self.read_alert(&plain, shared),
            _ => {}
        }
    }

    fn read_messages(&mut self, plain: &Plain) -> Vec<Message> {
        let mut messages = Vec::new();
        self.messages.feed(&plain.first, &mut messages);
        self.messages.skip(plain.gap, &mut messages);
        self.messages.feed(&plain.tail, &mut messages);
        messages
    }

    fn read_alert(&mut self, plain: &Plain, shared: &mut Shared) {
        if let Some(alert) = plain.first.first_chunk() {
            self.alert(*alert, shared);
        }
    }

    /// A record of application data, or of what else comes with its keys.
    pub(super) fn open(&mut self, mut record: Record, shared: &mut Shared) {
        let Phase::Application(opener) = &mut self.phase else {
            return;
        };
        if let Some(lost) = record.lost {
            self.lost.get_or_insert(lost);
        }
        let tls13 = shared.protocol == Some(Protocol::Tls13);
        if tls13 && record.kind() != kind::APPLICATION_DATA {
            // Nothing in the clear can be believed any more; one ChangeCipherSpec may still come.
            shared.counts(self.direction).skipped += 1;
            return;
        }
        let time = record.time;
        if shared.skip
            && self.lost.is_none()
            && record.kind() == kind::APPLICATION_DATA
            && record.body_len() > SHORT
        {
            let len = opener.plain_len(&record) as u64;
            opener.skip();
            shared.counts(self.direction).left_out += 1;
            self.messages.reset();
            self.plain = shared.gap(self.direction, self.plain, len, time, GapReason::Budget);
            return;
        }
        if !record.is_whole() {
            if self.lost.is_some() {
                // Its place is not certain and nothing proves it: it belongs to what is lost.
                shared.counts(self.direction).unopened += 1;
                return;
            }
            let len = opener.plain_len(&record);
            let (at, gap) = (record.at, record.gap);
            match opener.open_part(&mut record) {
                Some(plain) => {
                    shared.counts(self.direction).parts += 1;
                    if plain.kind == kind::APPLICATION_DATA {
                        self.read(plain, at, time, gap, shared);
                    } else {
                        // Unproven, so nothing is followed from it.
                        self.messages.reset();
                    }
                }
                None => self.unopened(len, time, shared),
            }
            return;
        }
        if self.lost.is_none()
            && let Some(plain) = opener.open_whole(&mut record)
        {
            self.opened(plain, &record, shared);
            return;
        }
        let window = self.lost.map_or(NEAR, |lost| {
            let bytes = record.at.saturating_sub(lost.from);
            (bytes / opener.record_overhead() as u64)
                .saturating_add(2)
                .min(shared.limits.search)
        });
        if let Some(passed) = opener.search(&mut record, window) {
            let overhead = opener.record_overhead() as u64;
            let plain = opener.open_whole(&mut record);
            self.messages.reset();
            if let Some(lost) = self.lost.take() {
                let bytes = record.at.saturating_sub(lost.from);
                // Exact while the keys are the same, nothing was padded, and all of it was data.
                let records = passed.records.unwrap_or(bytes.div_ceil(1 << 14));
                let missing = bytes.saturating_sub(records.saturating_mul(overhead));
                self.plain = shared.gap(self.direction, self.plain, missing, time, lost.reason);
            }
            if let Some(plain) = plain {
                self.opened(plain, &record, shared);
            }
            return;
        }
        let len = opener.plain_len(&record);
        self.failures += 1;
        if self.lost.is_none() {
            opener.skip();
            self.unopened(len, time, shared);
        } else {
            shared.counts(self.direction).unopened += 1;
        }
        if self.failures >= MAX_FAILURES {
            self.flush_lost(shared);
            shared.report(Some(self.direction), Reason::LostRecords);
            self.give_up();
        }
    }

    fn unopened(&mut self, len: usize, time: Nanos, shared: &mut Shared) {
        shared.counts(self.direction).unopened += 1;
        shared.report(Some(self.direction), Reason::LostRecords);
        self.messages.reset();
        self.plain = shared.gap(
            self.direction,
            self.plain,
            len as u64,
            time,
            GapReason::Unopened,
        );
    }

    fn opened(&mut self, plain: Plain, record: &Record, shared: &mut Shared) {
        self.failures = 0;
        shared.counts(self.direction).opened += 1;
        self.read(plain, record.at, record.time, record.gap, shared);
    }

    fn read(
        &mut self,
        plain: Plain,
        wire: u64,
        time: Nanos,
        reason: GapReason,
        shared: &mut Shared,
    ) {
        match plain.kind {
            kind::APPLICATION_DATA => {
                let (first, gap) = (plain.first.len(), plain.gap);
                let data = |within: usize, mut bytes: zeroize::Zeroizing<Vec<u8>>| {
                    // At most `MAX_BODY`.
                    (within as u32, Payload::from(std::mem::take(&mut *bytes)))
                };
                for (place, (within, bytes)) in
                    [data(0, plain.first), data(first + gap, plain.tail)]
                        .into_iter()
                        .enumerate()
                {
                    if place == 1 {
                        self.plain =
                            shared.gap(self.direction, self.plain, gap as u64, time, reason);
                    }
                    if !bytes.is_empty() {
                        let len = bytes.len() as u64;
                        let origin = Origin { wire, within };
                        shared.counts(self.direction).plain += len;
                        shared.push(Output::Plain(
                            self.direction,
                            Piece::Data {
                                offset: self.plain,
                                time,
                                origin,
                                bytes,
                            },
                        ));
                        self.plain += len;
                    }
                }
            }
            kind::HANDSHAKE => {
                for message in self.read_messages(&plain) {
                    if shared.protocol == Some(Protocol::Tls13)
                        && message.kind == message::KEY_UPDATE
                        && self.messages.is_idle()
                    {
                        self.update_keys(shared);
                    }
                }
            }
            kind::ALERT => self.read_alert(&plain, shared),
            kind::CHANGE_CIPHER_SPEC => {
                // Only in TLS 1.2, where a second handshake under the first one's keys has come this far.
                shared.report(Some(self.direction), Reason::Renegotiation);
                self.give_up();
            }
            _ => {}
        }
    }

    fn update_keys(&mut self, shared: &mut Shared) {
        let Phase::Application(opener) = &mut self.phase else {
            return;
        };
        match opener.update() {
            Some(()) => shared.facts.key_updates += 1,
            None => self.give_up(),
        }
        self.messages.reset();
    }

    /// The bounds of records are lost, and nothing follows that could find them again.
    fn flush_lost(&mut self, shared: &mut Shared) {
        let lost = self.lost.take().or(self.deframer.lost());
        if let (Some(lost), Phase::Application(_)) = (lost, &self.phase) {
            let bytes = self.deframer.position().saturating_sub(lost.from);
            self.plain = shared.gap(self.direction, self.plain, bytes, self.time, lost.reason);
            shared.report(Some(self.direction), Reason::LostRecords);
        }
    }

    /// The stream has ended: reads what there is of the last record.
    pub fn end(&mut self, shared: &mut Shared) {
        if let Some(record) = self.deframer.finish() {
            shared.counts(self.direction).records += 1;
            if matches!(self.phase, Phase::Application(_)) && self.queue.is_empty() {
                self.open(record, shared);
            }
        }
        self.flush_lost(shared);
    }
}
