//! The loop of one receiver: reads from its position in the spool, sends, and acknowledges.
//!
//! What the receiver says decides: accepted events are acknowledged; what it cannot take now is sent again, exactly
//! so, after a growing pause with jitter, not before the receiver asks for it; what is too large is sent in halves,
//! and the limit stays lower for a while; what is refused for good goes into the spool's quarantine and is counted.
//!
//! A panic, which would be a mistake in a receiver, ends neither the process nor the sink: it is said and counted, and
//! after a pause, which grows likewise, the courier begins again at what was acknowledged last.
//!
//! Invariant: one thread per receiver, which waits for nothing but its receiver and the spool.
//! Invariant: asked to stop, it makes one last attempt and ends, without a pause.

#[cfg(test)]
mod tests;

use super::batch::{Batch, Encoded, Limits, Outcome, Receiver};
use crate::spool::{Backlog, Consumer, Page, Signal};
use agent_common::event::{SinkReport, Time};
use std::any::Any;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Looks for records at least this often.
const IDLE: Duration = Duration::from_secs(1);
/// A receiver may not ask for more patience than this.
const LONGEST_AFTER: Duration = Duration::from_secs(3_600);
/// Accepted batches after which a lowered limit is doubled.
const CALM: u32 = 64;
/// Longest text of a receiver that is kept.
const REASON: usize = 512;

/// How long failures are waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub first: Duration,
    pub longest: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(250),
            longest: Duration::from_secs(60),
        }
    }
}

/// What a courier did since it started, in events unless it says otherwise.
#[derive(Debug, Default)]
pub struct Counters {
    /// The receiver has them.
    pub delivered: AtomicU64,
    /// Refused for good.
    pub rejected: AtomicU64,
    /// Batches that were sent again.
    pub retries: AtomicU64,
    /// Batches that were accepted, at least in part.
    pub batches: AtomicU64,
    /// Times that it began again after a panic.
    pub panics: AtomicU64,
    /// When a batch was accepted last, in nanoseconds since 1970; 0: not so far.
    pub last_accepted: AtomicU64,
}

/// Where another receiver is put in the place of a courier's, which takes it before its next attempt.
#[derive(Clone)]
pub struct Slot {
    name: String,
    next: Arc<Mutex<Option<Box<dyn Receiver>>>>,
    signal: Arc<Signal>,
}

impl Slot {
    /// The consumer's.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A pause after a failure ends: what was mended is tried at once.
    pub fn put(&self, receiver: Box<dyn Receiver>) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(receiver);
        self.signal.changed();
    }

    fn take(&self) -> Option<Box<dyn Receiver>> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        next.take()
    }
}

/// A running courier.
pub struct Handle {
    pub name: String,
    pub counters: Arc<Counters>,
    pub(super) slot: Slot,
    pub(super) thread: JoinHandle<()>,
}

impl Handle {
    /// What the counters say, with what waits and what is kept aside for it.
    #[must_use]
    pub fn report(&self, backlog: Backlog) -> SinkReport {
        let counted = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let last = counted(&self.counters.last_accepted);
        SinkReport {
            name: self.name.clone(),
            delivered: counted(&self.counters.delivered),
            retried: counted(&self.counters.retries),
            refused: counted(&self.counters.rejected),
            waiting: backlog.waiting,
            quarantined: backlog.quarantined,
            restarted: counted(&self.counters.panics),
            last_delivered: (last > 0).then(|| Time::from_unix_nanos(last.into())),
        }
    }
}

/// Starts the thread. It ends when the consumer's signal says stop.
///
/// # Errors
/// If there can be no thread.
pub fn start(
    consumer: Consumer,
    receiver: Box<dyn Receiver>,
    patience: Patience,
) -> std::io::Result<Handle> {
    let name = consumer.name().to_owned();
    let counters = Arc::new(Counters::default());
    let slot = Slot {
        name: name.clone(),
        next: Arc::default(),
        signal: Arc::clone(consumer.signal()),
    };
    let courier = Courier {
        cap: receiver.limits(),
        calm: 0,
        again: None,
        pause: None,
        troubled: false,
        patience,
        consumer,
        receiver,
        counters: Arc::clone(&counters),
        slot: slot.clone(),
    };
    let thread = std::thread::Builder::new()
        // The kernel keeps 15 characters.
        .name(format!("sink {name}"))
        .spawn(move || courier.live())?;
    Ok(Handle {
        name,
        counters,
        slot,
        thread,
    })
}

struct Courier {
    consumer: Consumer,
    receiver: Box<dyn Receiver>,
    /// The receiver's limits, lowered for a while by what was too large.
    cap: Limits,
    /// Batches accepted since the cap was changed.
    calm: u32,
    /// So many events are to be sent again, the same.
    again: Option<usize>,
    /// The last pause, while the receiver fails.
    pause: Option<Duration>,
    /// The spool failed, and that was said.
    troubled: bool,
    patience: Patience,
    counters: Arc<Counters>,
    slot: Slot,
}

impl Courier {
    /// Works until it is to stop, whatever panics.
    fn live(mut self) {
        // What a panic leaves behind is made good: the consumer begins anew, and a receiver's connection is its own.
        while let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.work())) {
            self.counters.panics.fetch_add(1, Ordering::Relaxed);
            self.consumer.rewind();
            self.again = None;
            let pause = self.grown();
            tracing::error!(
                sink = self.consumer.name(),
                panic = said(&*panic),
                ?pause,
                "THE OUTPUT PANICKED, which is a mistake in the agent: it begins again at what was acknowledged last"
            );
            if self.consumer.signal().stopping().is_some() {
                break;
            }
            let changes = self.consumer.signal().changes();
            self.consumer.signal().pause(changes, pause);
        }
    }

    fn work(&mut self) {
        loop {
            let stopping = self.consumer.signal().stopping();
            if stopping.is_some_and(|deadline| Instant::now() >= deadline) {
                break;
            }
            let mark = self.consumer.signal().mark();
            let changes = self.consumer.signal().changes();
            if let Some(receiver) = self.slot.take() {
                self.cap = receiver.limits();
                (self.calm, self.again) = (0, None);
                self.receiver = receiver;
            }
            let (events, bytes) = match self.again {
                Some(events) => (events, usize::MAX),
                None => (self.cap.events, self.cap.bytes),
            };
            match self.consumer.page(events, bytes) {
                Ok(Some(page)) => {
                    let pause = self.deliver(page);
                    if let Some(pause) = pause {
                        if stopping.is_some() {
                            break;
                        }
                        self.consumer.signal().pause(changes, pause);
                    }
                }
                Ok(None) if stopping.is_some() => break,
                Ok(None) => {
                    let saved = self.consumer.save();
                    self.spool(saved);
                    self.consumer.signal().wait(mark, IDLE);
                }
                Err(error) => {
                    self.spool(Err(error));
                    if stopping.is_some() {
                        break;
                    }
                    let pause = self.grown();
                    self.consumer.signal().pause(changes, pause);
                }
            }
        }
        let saved = self.consumer.save();
        self.spool(saved);
    }

    /// Sends; how long to wait, if it is to be sent again.
    fn deliver(&mut self, page: Page) -> Option<Duration> {
        let count = page.records.len();
        let batch = Batch {
            agent: page.agent,
            epoch: page.epoch,
            events: page
                .records
                .into_iter()
                .map(|record| Encoded {
                    sequence: record.sequence,
                    time: record.time,
                    json: record.bytes,
                })
                .collect(),
        };
        match self.receiver.send(&batch) {
            Outcome::Accepted { rejected, reason } => {
                let rejected = rejected.min(count as u64);
                let stored = if rejected > 0 {
                    let reason = reason.unwrap_or_else(|| "the receiver gave no reason".into());
                    self.refused(&batch, rejected, &reason)
                } else {
                    self.consumer.acknowledge(count)
                };
                // Without its place in the quarantine nothing of it is passed: the whole batch is sent again.
                if rejected > 0 && stored.is_err() {
                    self.spool(stored);
                    self.again = Some(count);
                    return Some(self.grown());
                }
                self.counters
                    .delivered
                    .fetch_add(count as u64 - rejected, Ordering::Relaxed);
                self.counters.batches.fetch_add(1, Ordering::Relaxed);
                let now = u64::try_from(Time::now().unix_nanos()).unwrap_or_default();
                self.counters.last_accepted.store(now, Ordering::Relaxed);
                self.spool(stored);
                self.went_well();
                None
            }
            Outcome::Retry { after, reason } => {
                self.counters.retries.fetch_add(1, Ordering::Relaxed);
                if self.pause.is_none() {
                    tracing::warn!(
                        sink = self.consumer.name(),
                        reason = short(&reason),
                        "events cannot be delivered now; they wait in the spool"
                    );
                }
                self.again = Some(count);
                let pause = self.grown();
                Some(pause.max(after.unwrap_or_default().min(LONGEST_AFTER)))
            }
            Outcome::TooLarge { reason } if count > 1 => {
                tracing::debug!(
                    sink = self.consumer.name(),
                    count,
                    reason = short(&reason),
                    "a batch is split"
                );
                self.again = None;
                self.calm = 0;
                let bytes: usize = batch.events.iter().map(|event| event.json.len()).sum();
                self.cap = Limits {
                    events: count.div_ceil(2),
                    bytes: bytes.div_ceil(2).min(self.cap.bytes),
                };
                None
            }
            Outcome::TooLarge { reason } | Outcome::Rejected { reason } => {
                let stored = self.refused(&batch, count as u64, &reason);
                if stored.is_err() {
                    self.spool(stored);
                    self.again = Some(count);
                    return Some(self.grown());
                }
                self.went_well();
                None
            }
        }
    }

    fn refused(
        &mut self,
        batch: &Batch,
        rejected: u64,
        reason: &str,
    ) -> Result<(), crate::spool::Error> {
        let reason = short(reason);
        self.consumer
            .quarantine(batch.events.len(), rejected, reason)?;
        self.counters
            .rejected
            .fetch_add(rejected, Ordering::Relaxed);
        tracing::error!(
            sink = self.consumer.name(),
            epoch = batch.epoch,
            first = batch.first(),
            last = batch.last(),
            rejected,
            reason,
            "the receiver refused events for good; they are in the spool's quarantine"
        );
        Ok(())
    }

    fn went_well(&mut self) {
        self.again = None;
        if self.pause.take().is_some() {
            tracing::info!(sink = self.consumer.name(), "events are delivered again");
        }
        let limits = self.receiver.limits();
        if self.cap != limits {
            self.calm += 1;
            if self.calm >= CALM {
                self.calm = 0;
                self.cap = Limits {
                    events: self.cap.events.saturating_mul(2).min(limits.events),
                    bytes: self.cap.bytes.saturating_mul(2).min(limits.bytes),
                };
            }
        }
    }

    /// Says once that the spool fails, and once that it works again.
    fn spool(&mut self, result: Result<(), crate::spool::Error>) {
        match result {
            Ok(()) if self.troubled => {
                self.troubled = false;
                tracing::info!(sink = self.consumer.name(), "the spool works again");
            }
            Ok(()) => {}
            Err(error) if !self.troubled => {
                self.troubled = true;
                tracing::error!(sink = self.consumer.name(), %error, "the spool fails; it is tried again");
            }
            Err(_) => {}
        }
    }

    /// The next pause: twice the last one, and between half of that and all of it by chance, so that agents do not
    /// come back together.
    fn grown(&mut self) -> Duration {
        let pause = self
            .pause
            .map_or(self.patience.first, |pause| pause * 2)
            .min(self.patience.longest);
        self.pause = Some(pause);
        let chance = RandomState::new().build_hasher().finish() % 1_024;
        pause / 2 + pause.mul_f64(chance as f64 / 2_048.0)
    }
}

/// The message of a panic, which is a text unless somebody made an effort.
fn said(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
}

/// A receiver's text, not longer than is reasonable.
fn short(reason: &str) -> &str {
    reason
        .char_indices()
        .nth(REASON)
        .map_or(reason, |(end, _)| &reason[..end])
}
