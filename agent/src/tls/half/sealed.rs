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
use crate::tls::keys::Keys;
use crate::tls::opener::Opener;
use crate::tls::record::kind;
use crate::tls::schedule::{TrafficSecret, connection_keys};
use crate::tls::secrets::Candidate;
use crate::tls::shared::{Candidates, EarlyData, Shared};
use crate::tls::suite::{Protocol, Suite};

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
            match self.queue.front().map(|waiting| waiting.record.kind()) {
                Some(kind::CHANGE_CIPHER_SPEC) => return self.skip(shared),
                Some(kind::ALERT) => return self.step_clear(shared),
                Some(kind::HANDSHAKE) => {
                    shared.fail(Reason::Malformed("cleartext handshake after ServerHello"));
                    return Step::Blocked;
                }
                _ => {}
            }
        }
        for place in 0..self.queue.len() {
            let tried = match suite.protocol {
                Protocol::Tls13 => self.try_traffic(place, suite, shared, candidates),
                Protocol::Tls12 => self.try_master(place, suite, shared, candidates),
            };
            if tried {
                return Step::Done;
            }
        }
        Step::Blocked
    }

    /// How many sequence numbers from 0 on a first record may have.
    fn window(&self) -> u64 {
        if self.unsure || self.dropped > 0 {
            self.dropped.saturating_add(NEAR)
        } else {
            1
        }
    }

    /// Tries traffic secrets on the record at `place`; true if one proved itself, and the phase is another.
    fn try_traffic(
        &mut self,
        place: usize,
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
            && self.window() == 1
            && (place == 0 || early);
        let labels = [of_application, of_handshake];
        let window = self.window();
        let Some(waiting) = self.queue.get_mut(place) else {
            return false;
        };
        let tried = waiting.tried >= candidates.pool.last();
        if tried || !waiting.record.is_whole() || waiting.record.kind() != kind::APPLICATION_DATA {
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
            let window = if candidate.label == of_handshake {
                1
            } else {
                window
            };
            candidate
                .traffic_keys(suite)?
                .find(0, window, record.head, &mut record.first)
        });
        let Some(found) = found else { return false };
        let taken = candidates
            .pool
            .take(found.process, found.id)
            .map(Candidate::into_parts);
        let Some((secret, Some(keys))) = taken else {
            return false;
        };
        shared.proved(found.point, found.label);
        if found.label == of_handshake {
            self.drop_early(place, shared);
            self.phase = Phase::Handshake(Opener::new(suite, keys, None, 0));
        } else {
            self.drop_handshake(place, found.result, shared);
            self.begin_application(suite, keys, Some(secret), found.result);
        }
        true
    }

    /// Tries master secrets on the record at `place`; true if one proved itself: its keys are then in
    /// `shared.connection_keys`, for both directions.
    fn try_master(
        &mut self,
        place: usize,
        suite: Suite,
        shared: &mut Shared,
        candidates: &mut Candidates<'_>,
    ) -> bool {
        let client = self.is_client(shared);
        let window = self.window();
        if let Some(mut keys) = shared.connection_keys[self.direction.index()].take() {
            let record = self.queue.get_mut(place).map(|waiting| &mut waiting.record);
            // With nothing lost the first record is the first; else it has to prove its number.
            let sequence = match record {
                _ if window == 1 => Some(0),
                Some(record) if record.is_whole() => {
                    keys.find(0, window, record.head, &mut record.first)
                }
                _ => None,
            };
            let Some(sequence) = sequence else {
                shared.connection_keys[self.direction.index()] = Some(keys);
                return false;
            };
            self.drop_handshake(place, sequence, shared);
            self.begin_application(suite, keys, None, sequence);
            return true;
        }
        let Some((client_random, server_random)) = shared.randoms() else {
            return false;
        };
        let Some(waiting) = self.queue.get_mut(place) else {
            return false;
        };
        if waiting.tried >= candidates.pool.last() || !waiting.record.is_whole() {
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
            let sequence = own.find(0, window, record.head, &mut record.first)?;
            Some((own, other, sequence))
        });
        let Some(found) = found else { return false };
        let (own, other, sequence) = found.result;
        candidates
            .pool
            .keep_proven(found.process, found.id, candidates.now);
        shared.proved(found.point, found.label);
        shared.connection_keys[self.direction.opposite().index()] = Some(other);
        self.drop_handshake(place, sequence, shared);
        self.begin_application(suite, own, None, sequence);
        true
    }

    fn begin_application(
        &mut self,
        suite: Suite,
        keys: Keys,
        secret: Option<TrafficSecret>,
        sequence: u64,
    ) {
        self.messages.reset();
        self.phase = Phase::Application(Opener::new(suite, keys, secret, sequence));
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

    /// The records before the one at `place`, which has this sequence number under the application's keys:
    /// the handshake's, but for the last `sequence` of them.
    fn drop_handshake(&mut self, place: usize, sequence: u64, shared: &mut Shared) {
        let (mut missed, time) = (0u64, self.time);
        let data_from = (place as u64).saturating_sub(sequence);
        for (at, waiting) in self.drain(place).into_iter().enumerate() {
            if at as u64 >= data_from {
                missed += waiting.plain_len();
                shared.counts(self.direction).unopened += 1;
            } else {
                shared.counts(self.direction).skipped += 1;
            }
        }
        if sequence > place as u64 {
            missed += self.dropped_plain;
        }
        if sequence > 0 {
            self.plain = shared.gap(
                self.direction,
                self.plain,
                missed,
                time,
                GapReason::Unopened,
            );
            shared.report(Some(self.direction), Reason::LostRecords);
        }
        if self.is_client(shared)
            && matches!(
                shared.early_data(),
                EarlyData::Offered | EarlyData::Accepted
            )
        {
            // The handshake's secret was not there, so how many of these records held early data is not known.
            shared.report(Some(self.direction), Reason::EarlyData);
        }
        (self.dropped, self.dropped_plain, self.unsure) = (0, 0, false);
    }
}
