//! Encrypted records without keys: secrets are tried on them.
//!
//! TLS 1.3: the handshake's secret on the first record (after early data, on each), the application's on each,
//! because both begin at sequence number 0 and the handshake's may not be known. TLS 1.2: master secrets, with the
//! connection's randoms; what one direction proves serves both.
//!
//! Invariant: the phase changes only when a tag has proven a secret, or the other direction has.

use super::{Half, NEAR, Phase, Step};
use crate::flow::GapReason;
use crate::tls::facts::{Label, Reason};
use crate::tls::opener::Opener;
use crate::tls::record::kind;
use crate::tls::schedule::connection_keys;
use crate::tls::secrets::Candidate;
use crate::tls::shared::{Candidates, EarlyData, Shared};
use crate::tls::suite::{Aead, Protocol, Suite};

/// Bytes that a trial of one secret reads at most, where every sequence number costs a pass.
const TRIAL_WORK: usize = 256 << 10;

/// Records that an encrypted handshake takes, about, in one direction.
const HANDSHAKE_RECORDS: u64 = 12;

/// A record in the queue.
#[derive(Clone, Copy)]
struct Place {
    at: usize,
    /// Records right before it that are not whole, so that no secret could be tried on them.
    parts: usize,
}

impl Half {
    pub(super) fn step_sealed(
        &mut self,
        shared: &mut Shared,
        candidates: &mut Candidates<'_>,
    ) -> Step {
        let Some(suite) = shared.suite else {
            return Step::Blocked;
        };
        if suite.protocol == Protocol::Tls13 {
            // The one-byte record of compatibility (RFC 8446 section 5), and alerts of a failed handshake.
            let front = self.queue.front().map(|waiting| &waiting.record);
            match front.map(|record| (record.kind(), record.body_len())) {
                Some((kind::CHANGE_CIPHER_SPEC, _)) => return self.skip(shared),
                Some((kind::ALERT, 2)) => return self.step_clear(shared),
                Some((kind::ALERT, _)) => {
                    shared.fail(Reason::Malformed("an alert that is not of two bytes"));
                    return Step::Blocked;
                }
                Some((kind::HANDSHAKE, _)) => {
                    shared.fail(Reason::Malformed("cleartext handshake after ServerHello"));
                    return Step::Blocked;
                }
                _ => {}
            }
        }
        let mut parts = 0;
        for place in 0..self.queue.len() {
            let record = &self.queue[place].record;
            parts = if record.lost.is_some() { 0 } else { parts };
            let (at, whole) = (Place { at: place, parts }, record.is_whole());
            let proven = match suite.protocol {
                Protocol::Tls13 => whole && self.try_traffic(at, suite, shared, candidates),
                Protocol::Tls12 => self.try_master(at, suite, shared, candidates),
            };
            if proven {
                return Step::Done;
            }
            parts = if whole { 0 } else { parts + 1 };
        }
        Step::Blocked
    }

    /// Records are missing that were never in the queue, or are no longer.
    fn is_broken(&self) -> bool {
        self.unsure || self.dropped > 0
    }

    /// The sequence numbers that the record there may have: the first and how many.
    ///
    /// Whole records before it would have proven the secret themselves, had it been theirs; only parts, and what was
    /// dropped or lost, can come before it. Of what was dropped, in TLS 1.3, some was the handshake's.
    fn sequences(&self, place: Place, suite: Suite) -> (u64, u64) {
        if !self.is_broken() {
            return (0, place.parts as u64 + 1);
        }
        let expected = self.dropped.saturating_add(place.at as u64);
        let lost = if self.unsure { NEAR } else { 0 };
        let handshake = match (suite.protocol, suite.aead) {
            (Protocol::Tls12, _) => 0,
            // A number costs a pass over the record.
            (Protocol::Tls13, Aead::ChaCha20Poly1305) => expected.min(HANDSHAKE_RECORDS),
            (Protocol::Tls13, _) => expected,
        };
        (expected - handshake, handshake.saturating_add(lost + 1))
    }

    /// Tries traffic secrets on the whole record at `place`; true if one proved itself, and the phase is another.
    fn try_traffic(
        &mut self,
        place: Place,
        suite: Suite,
        shared: &mut Shared,
        candidates: &mut Candidates<'_>,
    ) -> bool {
        let client = self.is_client(shared);
        let (of_handshake, of_application) = match client {
            true => (Label::ClientHandshake, Label::ClientApplication),
            false => (Label::ServerHandshake, Label::ServerApplication),
        };
        // The handshake's first record is the first there is, but for early data before it.
        let early = client && shared.early_data() != EarlyData::None;
        let handshake = matches!(self.phase, Phase::Sealed { handshake: true })
            && !self.is_broken()
            && (place.at == 0 || early);
        let labels = [of_application, of_handshake];
        let (from, count) = self.sequences(place, suite);
        let waiting = &mut self.queue[place.at];
        let tried = waiting.tried >= candidates.pool.last();
        if tried || waiting.record.kind() != kind::APPLICATION_DATA {
            return false;
        }
        let query = shared.query(
            candidates,
            &labels[..if handshake { 2 } else { 1 }],
            waiting.tried,
        );
        waiting.tried = candidates.pool.last();
        let (trials, record) = (&mut shared.trials, &mut waiting.record);
        let found = candidates.pool.search(&query, |candidate| {
            trials.spend()?;
            // The handshake's secret is tried only where nothing is missing.
            let count = if candidate.label == of_handshake {
                1
            } else {
                count
            };
            candidate.traffic_keys(suite)?.find(
                from,
                count,
                TRIAL_WORK,
                record.head,
                &mut record.first,
            )
        });
        let Some(found) = found else { return false };
        let taken = candidates
            .pool
            .take(found.process, found.id)
            .map(Candidate::into_parts);
        let Some((secret, Some(keys))) = taken else {
            return false;
        };
        shared.proved(&found.points, found.label);
        if found.label == of_handshake {
            self.drop_early(place.at, shared);
            self.phase = Phase::Handshake(Opener::new(suite, keys, None, 0));
        } else {
            let opener = Opener::new(suite, keys, Some(secret), found.result);
            self.begin_application(place, opener, found.result, shared);
        }
        true
    }

    /// Tries master secrets on the record at `place`; true if one proved itself: its keys are then in
    /// `shared.connection_keys`, for both directions.
    fn try_master(
        &mut self,
        place: Place,
        suite: Suite,
        shared: &mut Shared,
        candidates: &mut Candidates<'_>,
    ) -> bool {
        let client = self.is_client(shared);
        let (from, count) = self.sequences(place, suite);
        let record = &mut self.queue[place.at].record;
        let whole = record.is_whole();
        if let Some(mut keys) = shared.connection_keys[self.direction.index()].take() {
            // With nothing missing the first record is the first; else one has to prove its number.
            let sequence = match (from, count) {
                (0, 1) => Some(0),
                _ if whole => keys.find(from, count, TRIAL_WORK, record.head, &mut record.first),
                _ => None,
            };
            match sequence {
                Some(sequence) => {
                    let opener = Opener::new(suite, keys, None, sequence);
                    self.begin_application(place, opener, sequence, shared);
                }
                None => shared.connection_keys[self.direction.index()] = Some(keys),
            }
            return sequence.is_some();
        }
        let Some((client_random, server_random)) = shared.randoms() else {
            return false;
        };
        let waiting = &mut self.queue[place.at];
        if !whole || waiting.tried >= candidates.pool.last() {
            return false;
        }
        let query = shared.query(candidates, &[Label::Master], waiting.tried);
        waiting.tried = candidates.pool.last();
        let (trials, record) = (&mut shared.trials, &mut waiting.record);
        let found = candidates.pool.search(&query, |candidate| {
            trials.spend()?;
            let (of_client, of_server) =
                connection_keys(suite, &candidate.secret, &client_random, &server_random)?;
            let (mut own, other) = if client {
                (of_client, of_server)
            } else {
                (of_server, of_client)
            };
            let sequence = own.find(from, count, TRIAL_WORK, record.head, &mut record.first)?;
            Some((own, other, sequence))
        });
        let Some(found) = found else { return false };
        let (own, other, sequence) = found.result;
        candidates
            .pool
            .keep_proven(found.process, found.id, candidates.now);
        shared.proved(&found.points, found.label);
        shared.connection_keys[self.direction.opposite().index()] = Some(other);
        let opener = Opener::new(suite, own, None, sequence);
        self.begin_application(place, opener, sequence, shared);
        true
    }

    /// The records before the handshake's first: early data, which is not read, and where the server has accepted
    /// it EndOfEarlyData (RFC 8446 section 4.5).
    fn drop_early(&mut self, place: usize, shared: &mut Shared) {
        let answer = shared.early_data();
        for (at, waiting) in self.drain(place).into_iter().enumerate() {
            if answer == EarlyData::Accepted && at + 1 == place {
                shared.counts(self.direction).skipped += 1;
                continue;
            }
            shared.counts(self.direction).early += 1;
            if answer != EarlyData::Refused {
                let (len, time) = (waiting.plain_len(), waiting.record.time);
                self.plain = shared.gap(self.direction, self.plain, len, time, GapReason::Unopened);
                shared.report(Some(self.direction), Reason::EarlyData);
            }
        }
        if self.is_client(shared) {
            shared.early_data_is_over();
        }
    }

    /// Application data begins: the record at `place` has this sequence number under the keys of `opener`. Parts
    /// before it that are of the same keys are opened too; what came before them was the handshake.
    fn begin_application(
        &mut self,
        place: Place,
        mut opener: Opener,
        sequence: u64,
        shared: &mut Shared,
    ) {
        // At most the length of the queue.
        let parts = (place.parts as u64).min(sequence);
        opener.rewind(parts);
        let missing = sequence - parts;
        for _ in self.drain(place.at - parts as usize) {
            shared.counts(self.direction).skipped += 1;
        }
        if let Some(first) = self.queue.front().map(|waiting| &waiting.record)
            && missing > 0
        {
            let (len, reason) = match first.lost {
                Some(lost) => {
                    let overhead = missing.saturating_mul(opener.record_overhead() as u64);
                    let bytes = first.at.saturating_sub(lost.from);
                    // In TLS 1.2 the first of them was Finished (RFC 5246 section 7.4.9).
                    let finished = if shared.protocol == Some(Protocol::Tls12) {
                        16
                    } else {
                        0
                    };
                    (
                        bytes.saturating_sub(overhead.saturating_add(finished)),
                        lost.reason,
                    )
                }
                None => (self.dropped_plain, GapReason::Evicted),
            };
            let time = first.time;
            self.plain = shared.gap(self.direction, self.plain, len, time, reason);
        }
        if let Some(first) = self.queue.front_mut() {
            first.record.lost = None;
        }
        let early = matches!(
            shared.early_data(),
            EarlyData::Offered | EarlyData::Accepted
        );
        if self.is_client(shared) && early {
            // The handshake's secret was not there, so how many of these records held early data is not known.
            shared.report(Some(self.direction), Reason::EarlyData);
        }
        (self.dropped, self.dropped_plain, self.unsure) = (0, 0, false);
        self.messages.reset();
        self.phase = Phase::Application(opener);
    }
}
