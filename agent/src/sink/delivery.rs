//! From events to the spool, and the couriers behind it.
//!
//! One thread drives this: it gives each event once ([`Delivery::take`]) and calls [`Delivery::tend`] whenever it has
//! nothing to give and at least at [`Delivery::due`]. Events wait in memory for a short time so that a group of them
//! costs one fsync. When the spool cannot be written (full disk) they go on waiting, in bounded memory; what is over
//! is counted.
//!
//! Losses come back as [`LossDetail`]s that the caller makes events of; when such an event comes here, it takes its
//! loss with it out of the spool's list, in the transaction that makes it durable. So each loss is told of once, and
//! not lost itself.
//!
//! Invariant: every event given is durable, or waits in memory, or is counted.

use super::batch::Receiver;
use super::courier::{self, Handle, Patience, Slot};
use crate::config;
use crate::spool::{self, Appended, Lost, Record, Signal, Spool};
use agent_common::event::{Body, Envelope, LossDetail, LossUnit, LostEvents, SinkReport, Time};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Bytes of events that are appended without waiting for more.
const GROUP: usize = 1024 * 1024;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Passed entries leave at least this often.
const TEND: Duration = Duration::from_secs(1);
/// How often it is looked whether couriers have ended.
const POLL: Duration = Duration::from_millis(5);

/// How events are delivered.
#[derive(Clone, Debug)]
pub struct Options {
    pub spool: spool::Options,
    /// How long an event waits for others to share its fsync.
    pub group: Duration,
    /// Bytes of events kept in memory while the spool cannot be written.
    pub retry_bytes: usize,
    pub patience: Patience,
}

impl Options {
    /// As configured; `None` without a path.
    #[must_use]
    pub fn new(config: &config::Spool) -> Option<Self> {
        Some(Self {
            spool: spool::Options {
                path: config.path.clone()?,
                max_bytes: config.max_bytes.get(),
                max_age: Duration::from_secs(config.max_age_seconds.get()),
                when_full: match config.when_full {
                    config::WhenFull::Refuse => spool::WhenFull::Refuse,
                    config::WhenFull::DropOldest => spool::WhenFull::DropOldest,
                },
                quarantine_bytes: config.quarantine_bytes.get(),
            },
            group: Duration::from_millis(config.group_ms.get()),
            retry_bytes: config.retry_bytes.size(),
            patience: Patience::default(),
        })
    }
}

/// The spool and its couriers.
pub struct Delivery {
    spool: Spool,
    signal: Arc<Signal>,
    couriers: Vec<Handle>,
    epoch: u64,
    group: Duration,
    retry_bytes: usize,
    waiting: Vec<Record>,
    bytes: usize,
    /// When what waits is to be appended.
    due: Option<Instant>,
    failing: Option<Duration>,
    tended: Instant,
    /// Losses whose events are on their way to here.
    handed: Vec<(LossDetail, i64)>,
    /// The last durable event.
    durable: u64,
    reports: Reports,
}

/// What each sink has done, as of a second ago at most, for whoever wants to know.
pub type Reports = Arc<Mutex<Vec<SinkReport>>>;

impl Delivery {
    /// Opens the spool, begins a run of agent `agent`, and starts a courier for each receiver. `epoch` is the run's if
    /// no earlier run had it or a later one.
    ///
    /// # Errors
    /// If the spool cannot be used, two receivers have one name, or there can be no threads.
    pub fn start(
        options: Options,
        receivers: Vec<Box<dyn Receiver>>,
        agent: &str,
        epoch: u64,
    ) -> Result<Self, Error> {
        let names: Vec<String> = receivers
            .iter()
            .map(|receiver| receiver.name().to_owned())
            .collect();
        for (index, name) in names.iter().enumerate() {
            if names[..index].contains(name) {
                return Err(Error::SameName { name: name.clone() });
            }
        }
        let mut spool = Spool::open(options.spool)?;
        let consumers = spool.register(&names)?;
        let epoch = spool.begin(agent, epoch, Time::now())?;
        let couriers = consumers
            .into_iter()
            .zip(receivers)
            .map(|(consumer, receiver)| courier::start(consumer, receiver, options.patience))
            .collect::<Result<_, _>>()
            .map_err(Error::Thread)?;
        let mut delivery = Self {
            signal: spool.signal(),
            spool,
            couriers,
            epoch,
            group: options.group,
            retry_bytes: options.retry_bytes.max(GROUP),
            waiting: Vec::new(),
            bytes: 0,
            due: None,
            failing: None,
            tended: Instant::now(),
            handed: Vec::new(),
            durable: 0,
            reports: Reports::default(),
        };
        delivery.report();
        Ok(delivery)
    }

    /// The run's epoch: its events must have it.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The number of the last event that is durable; 0 while there is none.
    #[must_use]
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// Bytes in the spool, as they are held against its cap.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.spool.used()
    }

    #[must_use]
    pub fn couriers(&self) -> &[Handle] {
        &self.couriers
    }

    #[must_use]
    pub fn reports(&self) -> Reports {
        Arc::clone(&self.reports)
    }

    /// Where other receivers can be put in the place of those that there are.
    #[must_use]
    pub fn slots(&self) -> Vec<Slot> {
        self.couriers
            .iter()
            .map(|courier| courier.slot.clone())
            .collect()
    }

    fn report(&mut self) {
        let backlogs = match self.spool.backlogs() {
            Ok(backlogs) => backlogs,
            Err(error) => return tracing::debug!(%error, "what waits could not be counted"),
        };
        let report = |courier: &Handle| {
            let found = backlogs.iter().find(|(name, _)| *name == courier.name);
            courier.report(found.map(|(_, backlog)| *backlog).unwrap_or_default())
        };
        let reports = self.couriers.iter().map(report).collect();
        *self.reports.lock().unwrap_or_else(PoisonError::into_inner) = reports;
    }

    /// Takes in one event.
    pub fn take(&mut self, event: &Envelope) {
        let settles = match &event.body {
            Body::Loss(loss) => self
                .handed
                .iter()
                .position(|(detail, _)| *detail == loss.loss)
                .map(|index| self.handed.swap_remove(index).1),
            _ => None,
        };
        let json = match serde_json::to_vec(event) {
            Ok(json) => json,
            Err(error) => {
                tracing::error!(%error, "an event could not be encoded");
                Vec::new()
            }
        };
        let encoded = !json.is_empty();
        let record = Record {
            sequence: event.producer.sequence,
            time: event.time,
            bytes: json.into(),
            settles,
        };
        let size = size(&record);
        if !encoded || (self.failing.is_some() && self.bytes + size > self.retry_bytes) {
            self.spool.give_up(&[record]);
            return;
        }
        self.bytes += size;
        self.waiting.push(record);
        if self.due.is_none() {
            self.due = Some(Instant::now() + self.group);
        }
        if self.bytes >= GROUP && self.failing.is_none() {
            self.append();
        }
    }

    /// When [`tend`](Self::tend) has something to do.
    #[must_use]
    pub fn due(&self) -> Instant {
        let tend = self.tended + TEND;
        self.due.map_or(tend, |due| due.min(tend))
    }

    /// Does what is due.
    pub fn tend(&mut self) {
        let now = Instant::now();
        if self.due.is_some_and(|due| now >= due) {
            self.append();
        }
        if now >= self.tended + TEND {
            self.tended = now;
            if let Err(error) = self.spool.tend() {
                tracing::warn!(%error, "the spool could not be tidied up");
            }
            self.report();
        }
    }

    /// Appends what waits, now.
    fn append(&mut self) {
        self.due = None;
        if self.waiting.is_empty() {
            return;
        }
        match self.append_all() {
            Ok(()) => {
                if self.failing.take().is_some() {
                    tracing::info!("events are spooled again");
                }
            }
            Err(error) => {
                let pause = match self.failing {
                    Some(pause) => {
                        tracing::debug!(%error, "events still cannot be spooled");
                        (pause * 2).min(LONGEST_PAUSE)
                    }
                    None => {
                        tracing::error!(
                            %error, kept_bytes = self.retry_bytes,
                            "events cannot be spooled; they are kept in memory and tried again"
                        );
                        FIRST_PAUSE
                    }
                };
                self.failing = Some(pause);
                self.due = Some(Instant::now() + pause);
            }
        }
    }

    /// In transactions of a bounded size.
    fn append_all(&mut self) -> Result<(), spool::Error> {
        while !self.waiting.is_empty() {
            let mut bytes = 0usize;
            let count = self
                .waiting
                .iter()
                .take_while(|record| {
                    let first = bytes == 0;
                    bytes = bytes.saturating_add(size(record));
                    first || bytes <= 2 * GROUP
                })
                .count();
            let records = self.waiting.get(..count).unwrap_or_default();
            let stored = match self.spool.append(records)? {
                Appended::Stored => count,
                Appended::Refused(refused) => count.saturating_sub(refused),
            };
            if let Some(last) = stored.checked_sub(1).and_then(|last| records.get(last)) {
                self.durable = last.sequence;
            }
            let left: usize = self
                .waiting
                .drain(..count)
                .map(|record| size(&record))
                .sum();
            self.bytes = self.bytes.saturating_sub(left);
        }
        Ok(())
    }

    /// Losses since the last call, to become events of this run.
    pub fn losses(&mut self) -> Vec<LossDetail> {
        if self.failing.is_some() {
            return Vec::new();
        }
        match self.spool.losses() {
            Ok(found) => found
                .iter()
                .map(|lost| {
                    let detail = detail(lost);
                    self.handed.push((detail.clone(), lost.id));
                    detail
                })
                .collect(),
            Err(error) => {
                tracing::warn!(%error, "the spool's losses could not be read");
                Vec::new()
            }
        }
    }

    /// The end: what waits is appended, the run ends, couriers get until `patience` has passed to deliver what they
    /// can. What they cannot stays in the spool. Losses that could not even be stored are the answer.
    pub fn close(mut self, patience: Duration) -> Vec<LossDetail> {
        self.append();
        if !self.waiting.is_empty() {
            self.spool.give_up(&self.waiting);
        }
        if let Err(error) = self.spool.end() {
            tracing::error!(%error, "the end could not be written; the next start will tell of it as of a kill");
        }
        let unsaved = self.spool.unsaved().iter().map(detail).collect();
        let deadline = Instant::now() + patience;
        self.signal.stop(deadline);
        // A receiver may block for as long as its own time-outs allow: it is not waited for, and is killed with the
        // process, which loses nothing.
        let running =
            |couriers: &[Handle]| couriers.iter().any(|courier| !courier.thread.is_finished());
        while running(&self.couriers) && Instant::now() < deadline {
            std::thread::sleep(POLL);
        }
        for courier in self.couriers {
            if !courier.thread.is_finished() {
                tracing::warn!(
                    sink = courier.name,
                    "is still busy and left behind; what it has not acknowledged stays in the spool"
                );
            } else if courier.thread.join().is_err() {
                tracing::error!(sink = courier.name, "panicked; see above");
            }
        }
        unsaved
    }
}

/// Why events cannot be delivered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Spool(#[from] spool::Error),
    #[error("two outputs are called {name}")]
    SameName { name: String },
    #[error("no thread for an output: {0}")]
    Thread(std::io::Error),
}

/// In memory.
fn size(record: &Record) -> usize {
    record.bytes.len() + size_of::<Record>()
}

fn detail(lost: &Lost) -> LossDetail {
    LossDetail {
        stage: lost.reason.stage(),
        probe: lost.consumer.clone(),
        reason: lost.reason.event(),
        count: lost.count,
        unit: LossUnit::Events,
        from: lost.from,
        to: lost.to,
        intentional: false,
        events: lost.begin.map(|(epoch, first)| LostEvents {
            agent: None,
            epoch,
            first,
            last: lost.last,
        }),
    }
}
