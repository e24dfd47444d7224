//! Handshake messages in the clear, and where they end.
//!
//! TLS 1.3: after ServerHello, and after the client's last ClientHello, with the first record of application data.
//! TLS 1.2: with ChangeCipherSpec.

use super::{Half, Phase, Step, Waiting};
use crate::tls::facts::Reason;
use crate::tls::record::kind;
use crate::tls::shared::{Said, Shared};
use crate::tls::suite::Protocol;

impl Half {
    pub(super) fn step_clear(&mut self, shared: &mut Shared) -> Step {
        let Some(Waiting { record, .. }) = self.queue.front() else {
            return Step::Blocked;
        };
        match (record.kind(), shared.protocol) {
            (kind::HANDSHAKE, _) => self.read_clear(shared),
            // Two bytes in the clear; more when encrypted.
            (kind::ALERT, _) if record.body_len() == 2 => {
                let alert = record
                    .first
                    .get(..2)
                    .and_then(|body| body.first_chunk().copied());
                let step = self.skip(shared);
                if let Some(alert) = alert {
                    self.alert(alert, shared);
                }
                step
            }
            (_, None | Some(Protocol::Tls12)) if self.hellos == 0 => {
                shared.fail(self.missed_hello());
                Step::Blocked
            }
            (_, None) => Step::Blocked,
            (kind::CHANGE_CIPHER_SPEC, Some(Protocol::Tls13)) => self.skip(shared),
            (kind::CHANGE_CIPHER_SPEC, Some(Protocol::Tls12)) => {
                self.phase = Phase::Sealed { handshake: false };
                self.skip(shared)
            }
            (_, Some(Protocol::Tls13)) if shared.facts.retried && self.hellos == 1 => {
                // Early data that the HelloRetryRequest refuses; the second ClientHello is still to come.
                self.pop();
                shared.counts(self.direction).early += 1;
                Step::Done
            }
            (_, Some(Protocol::Tls13)) => {
                self.phase = Phase::Sealed { handshake: true };
                Step::Done
            }
            (_, Some(Protocol::Tls12)) if self.unsure => {
                self.phase = Phase::Sealed { handshake: false };
                Step::Done
            }
            (_, Some(Protocol::Tls12)) => {
                shared.fail(Reason::Malformed(
                    "application data before ChangeCipherSpec",
                ));
                Step::Blocked
            }
        }
    }

    fn read_clear(&mut self, shared: &mut Shared) -> Step {
        let Some(Waiting { record, .. }) = self.pop() else {
            return Step::Blocked;
        };
        if record.lost.is_some() {
            self.messages.reset();
        }
        let mut messages = Vec::new();
        self.messages.feed(&record.first, &mut messages);
        if !record.is_whole() {
            let (tail_at, tail) = record
                .tail
                .as_ref()
                .map_or((record.body_len(), &[][..]), |(at, tail)| (*at, tail));
            self.messages
                .skip(tail_at - record.first.len(), &mut messages);
            self.messages.feed(tail, &mut messages);
            self.messages
                .skip(record.body_len() - tail_at - tail.len(), &mut messages);
        }
        shared.counts(self.direction).skipped += 1;
        for message in messages {
            match shared.clear_message(self.direction, message, &record) {
                Said::Hello => self.hellos += 1,
                Said::Sealed => {
                    self.hellos += 1;
                    self.phase = Phase::Sealed { handshake: true };
                    if !self.messages.is_idle() {
                        shared.fail(Reason::Malformed("bytes after ServerHello"));
                    }
                }
                // TLS 1.2 cannot be read without both hellos; in TLS 1.3 the server's is enough.
                Said::Other if self.hellos == 0 && shared.protocol != Some(Protocol::Tls13) => {
                    shared.fail(self.missed_hello());
                }
                Said::Other => {}
            }
        }
        Step::Done
    }

    fn missed_hello(&self) -> Reason {
        match self.unsure {
            true => Reason::LostRecords,
            false => Reason::OpenedBeforeAgent,
        }
    }
}
