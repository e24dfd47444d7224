//! Traffic secrets that wait for the connection they belong to, by process.
//!
//! A key-log point says which process derived a secret, not for which connection: a [`Pool`] keeps the candidates
//! of each process, and a connection tries them on a record until a tag proves one. Candidates are kept in the
//! order of their time and tried from the connection's hello on, so the right one is usually among the first.
//! What was proven in TLS 1.3 leaves the pool for its connection; a master secret of TLS 1.2 stays, because resumed
//! connections share it.
//!
//! Invariant: secrets are on the heap, wiped when dropped, and have no `Debug`.
//! Invariant: every secret that was handed in is counted once: kept, duplicate, or ignored; and every one that was
//! kept is, in the end, proven, expired, evicted or dropped with its process.

use super::facts::Label;
use super::keys::Keys;
use super::schedule::{MASTER_LEN, TrafficSecret, traffic_keys};
use super::suite::Suite;
use crate::flow::Nanos;
use crate::kernel::record::{PointId, ProcessKey, SecretRecord};
use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::BuildHasher;

/// A secret's number: later ones are greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SecretId(pub u64);

/// Limits of a [`Pool`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolLimits {
    /// Secrets kept of one process.
    pub per_process: usize,
    /// Secrets kept in all.
    pub total: usize,
    /// How long a secret waits to be proven: a client may connect long before it sends its first request.
    pub lifetime: Nanos,
    /// How long a proven master secret of TLS 1.2 is kept after it was last used.
    pub proven_lifetime: Nanos,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            per_process: 1024,
            total: 16 << 10,
            lifetime: 3_600_000_000_000,
            proven_lifetime: 7_200_000_000_000,
        }
    }
}

/// What became of the secrets that were handed in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolCounts {
    pub kept: u64,
    /// The same label and secret of the same process again.
    pub duplicate: u64,
    /// Of a label that is not needed (exporter, early data), or not as long as a secret is.
    pub ignored: u64,
    /// Opened a record (each secret once).
    pub proven: u64,
    /// Proved by nothing within their lifetime; or proven, and unused since.
    pub expired: u64,
    /// Pushed out by the limits.
    pub evicted: u64,
    /// Gone with their process.
    pub forgotten: u64,
}

/// What became of a secret that was handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    Kept(SecretId),
    Duplicate,
    Ignored,
}

/// One secret that waits, as a trial sees it.
pub struct Candidate {
    pub(super) id: SecretId,
    /// That gave it: more than one, where a library passes a secret in several places.
    points: Vec<PointId>,
    pub(super) label: Label,
    pub(super) secret: TrafficSecret,
    time: Nanos,
    client_random: Option<[u8; 32]>,
    proven: bool,
    used: Nanos,
    digest: u64,
    /// TLS 1.3: its keys, made once for all the records it is tried on.
    keys: Option<(Suite, Keys)>,
}

impl Candidate {
    /// Its TLS 1.3 keys under `suite`, if it is as long as they ask for.
    pub(super) fn traffic_keys(&mut self, suite: Suite) -> Option<&mut Keys> {
        if self
            .keys
            .as_ref()
            .is_none_or(|(made_for, _)| *made_for != suite)
        {
            self.keys = Some((suite, traffic_keys(suite, &self.secret)?));
        }
        self.keys.as_mut().map(|(_, keys)| keys)
    }

    /// Keeps the keys and drops their tables: there may be thousands of candidates.
    fn rest(&mut self) {
        if let Some((_, keys)) = &mut self.keys {
            keys.rest();
        }
    }

    pub(super) fn into_parts(self) -> (TrafficSecret, Option<Keys>) {
        (self.secret, self.keys.map(|(_, keys)| keys))
    }
}

/// Which candidates to try, and in which order.
pub struct Query<'a> {
    pub processes: &'a [ProcessKey],
    pub labels: &'a [Label],
    /// Only later ones: those up to here were tried.
    pub after: SecretId,
    /// Candidates from this time on come first.
    pub around: Nanos,
    /// Older ones are tried only if they were proven before, to resume by.
    pub since: Nanos,
    /// So many of those, of each process.
    pub resumable: usize,
    /// A candidate that names another client random is not tried.
    pub client_random: Option<[u8; 32]>,
}

/// A candidate that a trial has proven.
pub struct Found<T> {
    pub process: ProcessKey,
    pub id: SecretId,
    pub points: Vec<PointId>,
    pub label: Label,
    pub result: T,
}

#[derive(Default)]
struct OfProcess {
    /// In the order of their time.
    candidates: VecDeque<Box<Candidate>>,
    digests: HashSet<u64>,
}

impl OfProcess {
    fn place(&mut self, candidate: Box<Candidate>) {
        let place = self
            .candidates
            .partition_point(|other| other.time <= candidate.time);
        self.candidates.insert(place, candidate);
    }

    /// Gives the candidate that came again a later number and time.
    fn renew(&mut self, digest: u64, id: SecretId, record: &SecretRecord) {
        let mut all = self.candidates.iter();
        if let Some(place) = all.position(|candidate| candidate.digest == digest)
            && let Some(mut candidate) = self.candidates.remove(place)
        {
            candidate.id = id;
            candidate.time = candidate.time.max(record.time);
            candidate.used = candidate.used.max(record.time);
            if !candidate.points.contains(&record.point) {
                candidate.points.push(record.point);
            }
            // Connections that resume have other randoms: it may be for either.
            if candidate.client_random != record.client_random {
                candidate.client_random = None;
            }
            self.place(candidate);
        }
    }
}

/// See the module.
pub struct Pool {
    limits: PoolLimits,
    processes: HashMap<ProcessKey, OfProcess>,
    /// All candidates in the order they came, and some that are gone.
    arrivals: VecDeque<(ProcessKey, SecretId)>,
    held: usize,
    last: SecretId,
    hasher: RandomState,
    counts: PoolCounts,
}

impl Pool {
    pub fn new(limits: PoolLimits) -> Self {
        Self {
            limits,
            processes: HashMap::new(),
            arrivals: VecDeque::new(),
            held: 0,
            last: SecretId::default(),
            hasher: RandomState::new(),
            counts: PoolCounts::default(),
        }
    }

    /// Secrets held.
    pub fn len(&self) -> usize {
        self.held
    }

    pub fn is_empty(&self) -> bool {
        self.held == 0
    }

    pub fn counts(&self) -> PoolCounts {
        self.counts
    }

    /// The last secret that was kept.
    pub fn last(&self) -> SecretId {
        self.last
    }

    #[cfg(test)]
    pub(super) fn arrivals_len(&self) -> usize {
        self.arrivals.len()
    }

    /// Keeps the secret of one hit of a key-log point.
    pub fn insert(&mut self, record: SecretRecord) -> Inserted {
        let label = Label::parse(&record.label).filter(|label| match label {
            Label::Master => record.secret.len() == MASTER_LEN,
            _ => matches!(record.secret.len(), 32 | 48),
        });
        let Some(label) = label else {
            self.counts.ignored += 1;
            return Inserted::Ignored;
        };
        let process = record.caller.process;
        let digest = self.hasher.hash_one((label, &*record.secret));
        let of_process = self.processes.entry(process).or_default();
        self.last.0 += 1;
        if !of_process.digests.insert(digest) {
            // A library may log at a resumption what it logged before: it is news for the connection that resumes.
            self.counts.duplicate += 1;
            of_process.renew(digest, self.last, &record);
            self.arrivals.push_back((process, self.last));
            self.compact();
            return Inserted::Duplicate;
        }
        let candidate = Candidate {
            id: self.last,
            points: vec![record.point],
            label,
            secret: TrafficSecret::copy_from(&record.secret),
            time: record.time,
            client_random: record.client_random,
            proven: false,
            used: record.time,
            digest,
            keys: None,
        };
        of_process.place(Box::new(candidate));
        self.arrivals.push_back((process, self.last));
        self.held += 1;
        self.counts.kept += 1;
        self.evict(process);
        Inserted::Kept(self.last)
    }

    /// Drops what has waited too long.
    pub fn expire(&mut self, now: Nanos) {
        let limits = self.limits;
        let mut expired = 0;
        self.processes.retain(|_, of_process| {
            let OfProcess {
                candidates,
                digests,
            } = of_process;
            candidates.retain(|candidate| {
                let lifetime = if candidate.proven {
                    limits.proven_lifetime
                } else {
                    limits.lifetime
                };
                let keep = now.saturating_sub(candidate.used) <= lifetime;
                if !keep {
                    expired += 1;
                    digests.remove(&candidate.digest);
                }
                keep
            });
            !candidates.is_empty()
        });
        self.held -= expired;
        self.counts.expired += expired as u64;
        self.compact();
    }

    /// Drops the secrets of a process. Its connections may outlive it: call it when the last of them has closed.
    pub fn forget(&mut self, process: ProcessKey) {
        if let Some(of_process) = self.processes.remove(&process) {
            self.held -= of_process.candidates.len();
            self.counts.forgotten += of_process.candidates.len() as u64;
            self.compact();
        }
    }

    /// Tries candidates until `trial` gives a result.
    pub(super) fn search<T>(
        &mut self,
        query: &Query<'_>,
        mut trial: impl FnMut(&mut Candidate) -> Option<T>,
    ) -> Option<Found<T>> {
        for process in query.processes {
            let Some(of_process) = self.processes.get_mut(process) else {
                continue;
            };
            let candidates = &mut of_process.candidates;
            let start = candidates.partition_point(|candidate| candidate.time < query.around);
            let mut resumable = query.resumable;
            for place in (start..candidates.len()).chain((0..start).rev()) {
                let candidate = &mut candidates[place];
                if candidate.time < query.since {
                    if resumable == 0 {
                        break;
                    }
                    if !candidate.proven {
                        continue;
                    }
                    resumable -= 1;
                }
                let other_connection = candidate
                    .client_random
                    .zip(query.client_random)
                    .is_some_and(|(named, random)| named != random);
                if candidate.id <= query.after
                    || other_connection
                    || !query.labels.contains(&candidate.label)
                {
                    continue;
                }
                if let Some(result) = trial(candidate) {
                    let (id, label) = (candidate.id, candidate.label);
                    return Some(Found {
                        process: *process,
                        id,
                        points: candidate.points.clone(),
                        label,
                        result,
                    });
                }
                candidate.rest();
            }
        }
        None
    }

    /// Takes a proven candidate out.
    pub(super) fn take(&mut self, process: ProcessKey, id: SecretId) -> Option<Candidate> {
        let taken = self.remove(process, id)?;
        self.counts.proven += u64::from(!taken.proven);
        Some(*taken)
    }

    /// Marks a proven candidate, which stays.
    pub(super) fn keep_proven(&mut self, process: ProcessKey, id: SecretId, now: Nanos) {
        let candidates = self
            .processes
            .get_mut(&process)
            .map(|of_process| &mut of_process.candidates);
        if let Some(candidate) = candidates
            .into_iter()
            .flatten()
            .find(|candidate| candidate.id == id)
        {
            self.counts.proven += u64::from(!candidate.proven);
            candidate.proven = true;
            // Connections that resume have other randoms.
            candidate.client_random = None;
            candidate.used = candidate.used.max(now);
        }
    }

    fn remove(&mut self, process: ProcessKey, id: SecretId) -> Option<Box<Candidate>> {
        let of_process = self.processes.get_mut(&process)?;
        let place = of_process
            .candidates
            .iter()
            .position(|candidate| candidate.id == id)?;
        let removed = of_process.candidates.remove(place)?;
        of_process.digests.remove(&removed.digest);
        if of_process.candidates.is_empty() {
            self.processes.remove(&process);
        }
        self.held -= 1;
        Some(removed)
    }

    /// Brings `process`, and all, back within the limits. Proven master secrets, which wait for connections that resume,
    /// may fill half of a process's share: beyond it the least recently used of them goes, else the oldest unproven
    /// one, so that what has just come is never the first to go.
    fn evict(&mut self, process: ProcessKey) {
        if let Some(of_process) = self.processes.get(&process)
            && of_process.candidates.len() > self.limits.per_process
        {
            let candidates = &of_process.candidates;
            let proven = candidates.iter().filter(|candidate| candidate.proven);
            let victim = if proven.clone().count() * 2 > self.limits.per_process {
                proven.min_by_key(|candidate| candidate.used)
            } else {
                candidates.iter().find(|candidate| !candidate.proven)
            };
            let id = victim.map(|candidate| candidate.id);
            if id.and_then(|id| self.remove(process, id)).is_some() {
                self.counts.evicted += 1;
            }
        }
        while self.held > self.limits.total {
            let Some((process, id)) = self.arrivals.pop_front() else {
                break;
            };
            if self.remove(process, id).is_some() {
                self.counts.evicted += 1;
            }
        }
        self.compact();
    }

    /// Forgets the arrivals of those that are gone, when they are the most.
    fn compact(&mut self) {
        if self.arrivals.len() < 2 * self.held + 64 {
            return;
        }
        let held: HashSet<SecretId> = self
            .processes
            .values()
            .flat_map(|of_process| &of_process.candidates)
            .map(|candidate| candidate.id)
            .collect();
        self.arrivals.retain(|(_, id)| held.contains(id));
    }
}
