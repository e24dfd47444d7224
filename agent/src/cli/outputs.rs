//! The threads that take events to the outputs.
//!
//! Without a spool, one thread writes to all of them. With one, a thread appends to the spool, whose couriers do the
//! rest ([`delivery`]), and the table, if there is one, has a thread of its own that may not hold the others up: when
//! it does not keep up, it misses events, which are counted.
//!
//! Invariant: what an output lost comes back as a loss, to become an event.

use super::receivers;
use agent_common::event::{Envelope, LossDetail, LossReason, LossUnit, SinkReport, Stage, Time};
use anyhow::Context as _;
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tokentrail_agent::{
    config::{Config, Format},
    sink::{
        Losses, Ndjson, RotatingFile, Sink, Stream, Table,
        batch::Receiver as Receive,
        courier,
        delivery::{self, Delivery},
        lines::Lines,
        table,
    },
};
use tracing::warn;

/// Outputs are flushed at least this often.
const FLUSH: Duration = Duration::from_millis(200);
/// Events that are written between two flushes.
const BATCH: usize = 1_024;

type Shared = Arc<Mutex<Vec<LossDetail>>>;

pub struct Outputs {
    direct: Option<Thread>,
    spooled: Option<Thread>,
    epoch: u64,
    reports: delivery::Reports,
    slots: Vec<courier::Slot>,
    /// What the direct outputs missed since it was last taken.
    missed: Mutex<Option<Losses>>,
}

/// One thread's queue, and what comes back.
struct Thread {
    events: Option<SyncSender<Envelope>>,
    lost: Shared,
    thread: Option<JoinHandle<Vec<LossDetail>>>,
}

impl Outputs {
    /// `remote` are the receivers behind the spool besides the file and standard output. `agent` and `epoch` are those of
    /// the events; see [`epoch`](Self::epoch). `closed` is called when standard output's reader has gone.
    pub fn start(
        config: &Config,
        remote: Vec<Box<dyn Receive>>,
        agent: &str,
        epoch: u64,
        closed: impl Fn() + Clone + Send + 'static,
    ) -> anyhow::Result<Self> {
        let Some(options) = delivery::Options::new(&config.spool) else {
            let sinks = sinks(config)?;
            return Ok(Self {
                direct: Some(Thread::start("outputs", config, move |events, lost| {
                    write(sinks, events, lost, closed)
                })?),
                spooled: None,
                epoch,
                reports: delivery::Reports::default(),
                slots: Vec::new(),
                missed: Mutex::new(None),
            });
        };
        let mut receivers = remote;
        receivers.extend(receivers::file(config)?);
        if config.stdout.format == Format::Ndjson {
            receivers.push(Box::new(Lines::new(
                "stdout",
                Stream::stdout()?,
                closed.clone(),
            )));
        }
        let direct = match config.stdout.format {
            Format::Table => {
                let sinks = vec![table(config)?];
                Some(Thread::start("outputs", config, move |events, lost| {
                    write(sinks, events, lost, closed)
                })?)
            }
            Format::Ndjson | Format::None => None,
        };
        if receivers.is_empty() {
            warn!("there is a spool, but no output that would read it: it is not used");
            return Ok(Self {
                direct,
                spooled: None,
                epoch,
                reports: delivery::Reports::default(),
                slots: Vec::new(),
                missed: Mutex::new(None),
            });
        }
        let stop = Duration::from_secs(config.spool.stop_seconds.get());
        let mut delivery =
            Delivery::start(options, receivers, agent, epoch).context("durable delivery")?;
        let (epoch, reports, slots) = (delivery.epoch(), delivery.reports(), delivery.slots());
        let first = delivery.losses();
        let spooled = Thread::start("spool", config, move |events, lost| {
            spool(delivery, events, lost, stop)
        })?;
        spooled.lock().extend(first);
        Ok(Self {
            direct,
            spooled: Some(spooled),
            epoch,
            reports,
            slots,
            missed: Mutex::new(None),
        })
    }

    /// The run's: with a spool it is greater than that of every run before, whatever the clock says.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// What those behind the spool have done; none without it.
    pub fn sinks(&self) -> Vec<SinkReport> {
        let reports = self.reports.lock();
        reports.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Receivers, by their names, in the place of those that there are.
    pub fn replace(&self, remote: Vec<Box<dyn Receive>>) {
        for receiver in remote {
            if let Some(slot) = self
                .slots
                .iter()
                .find(|slot| slot.name() == receiver.name())
            {
                slot.put(receiver);
            }
        }
    }

    /// Waits where the queue is full: the ring behind it counts what then does not fit.
    pub fn send(&self, event: Envelope) {
        match (&self.direct, &self.spooled) {
            (Some(direct), None) => direct.send(event),
            (None, Some(spooled)) => spooled.send(event),
            (Some(direct), Some(spooled)) => {
                if !direct.offer(event.clone()) {
                    self.miss(event.time);
                }
                spooled.send(event);
            }
            (None, None) => {}
        }
    }

    fn miss(&self, time: Time) {
        let mut missed = self.missed.lock().unwrap_or_else(PoisonError::into_inner);
        let missed = missed.get_or_insert(Losses {
            count: 0,
            from: time,
            to: time,
        });
        missed.count += 1;
        missed.to = time;
    }

    pub fn take_lost(&self) -> Vec<LossDetail> {
        let missed = self
            .missed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        missed
            .map(|losses| lost("stdout", LossReason::QueueFull, losses))
            .into_iter()
            .chain(
                self.threads()
                    .flat_map(|thread| std::mem::take(&mut *thread.lock())),
            )
            .collect()
    }

    fn threads(&self) -> impl Iterator<Item = &Thread> {
        self.direct.iter().chain(&self.spooled)
    }

    /// Writes what waits and closes the outputs; what they lost at the end.
    pub fn close(mut self) -> Vec<LossDetail> {
        let mut lost = self.take_lost();
        // Both are told before one is waited for.
        for thread in self.direct.iter_mut().chain(&mut self.spooled) {
            thread.events = None;
        }
        for thread in self.direct.iter_mut().chain(&mut self.spooled) {
            lost.extend(thread.close());
        }
        lost
    }
}

impl Drop for Thread {
    /// A start that failed later ends the spool's run cleanly nevertheless.
    fn drop(&mut self) {
        self.close();
    }
}

impl Thread {
    fn start(
        name: &str,
        config: &Config,
        work: impl FnOnce(&Receiver<Envelope>, &Shared) -> Vec<LossDetail> + Send + 'static,
    ) -> anyhow::Result<Self> {
        let (events, receiver) = sync_channel(config.limits.queued_events.size());
        let lost = Shared::default();
        let thread = std::thread::Builder::new().name(name.into()).spawn({
            let lost = Arc::clone(&lost);
            move || work(&receiver, &lost)
        })?;
        Ok(Self {
            events: Some(events),
            lost,
            thread: Some(thread),
        })
    }

    fn send(&self, event: Envelope) {
        if let Some(events) = &self.events {
            // The thread takes events until this end is dropped.
            let _ = events.send(event);
        }
    }

    /// `false` if there is no place in the queue.
    fn offer(&self, event: Envelope) -> bool {
        self.events
            .as_ref()
            .is_none_or(|events| !matches!(events.try_send(event), Err(TrySendError::Full(_))))
    }

    fn close(&mut self) -> Vec<LossDetail> {
        self.events = None;
        self.thread
            .take()
            .and_then(|thread| thread.join().ok())
            .unwrap_or_default()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<LossDetail>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn table(config: &Config) -> anyhow::Result<Box<dyn Sink>> {
    Ok(Box::new(Table::new(
        Stream::stdout()?,
        table::Style::stdout(),
        config.file.retry_bytes.size(),
    )))
}

fn sinks(config: &Config) -> anyhow::Result<Vec<Box<dyn Sink>>> {
    let mut sinks: Vec<Box<dyn Sink>> = Vec::new();
    let retry = config.file.retry_bytes.size();
    match config.stdout.format {
        Format::Table => sinks.push(table(config)?),
        Format::Ndjson => sinks.push(Box::new(Ndjson::new(Stream::stdout()?, retry))),
        Format::None => {}
    }
    if let Some(path) = &config.file.path {
        let file = RotatingFile::open(path, &config.file)
            .with_context(|| format!("output file {}", path.display()))?;
        sinks.push(Box::new(
            Ndjson::new(file, retry).encoded(config.file.encoding),
        ));
    }
    Ok(sinks)
}

fn lost(name: &str, reason: LossReason, losses: Losses) -> LossDetail {
    LossDetail {
        stage: Stage::Sink,
        probe: Some(name.to_owned()),
        reason,
        count: Some(losses.count),
        unit: LossUnit::Events,
        from: losses.from,
        to: losses.to,
        intentional: false,
        events: None,
    }
}

fn write(
    mut sinks: Vec<Box<dyn Sink>>,
    events: &Receiver<Envelope>,
    shared: &Mutex<Vec<LossDetail>>,
    closed: impl Fn(),
) -> Vec<LossDetail> {
    let mut last = false;
    while !last {
        let first = match events.recv_timeout(FLUSH) {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                last = true;
                None
            }
        };
        // What waits already goes out together, and is flushed once.
        let batch: Vec<Envelope> = first
            .into_iter()
            .chain(events.try_iter())
            .take(BATCH)
            .collect();
        sinks.retain_mut(|sink| {
            let written = batch.iter().try_for_each(|event| sink.write(event));
            let result = written.and_then(|()| sink.flush());
            if let Some(losses) = sink.losses() {
                shared
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(lost(sink.name(), LossReason::OutputFailed, losses));
            }
            if result.is_err() {
                closed();
            }
            result.is_ok()
        });
    }
    let close = |mut sink: Box<dyn Sink>| {
        let losses = sink.close().ok().flatten()?;
        Some(lost(sink.name(), LossReason::OutputFailed, losses))
    };
    sinks.into_iter().filter_map(close).collect()
}

fn spool(
    mut delivery: Delivery,
    events: &Receiver<Envelope>,
    shared: &Mutex<Vec<LossDetail>>,
    stop: Duration,
) -> Vec<LossDetail> {
    loop {
        let wait = delivery.due().saturating_duration_since(Instant::now());
        match events.recv_timeout(wait.min(FLUSH)) {
            Ok(event) => {
                delivery.take(&event);
                events
                    .try_iter()
                    .take(BATCH)
                    .for_each(|event| delivery.take(&event));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        delivery.tend();
        // Only when the last ones were taken: until then losses of one kind become one.
        let taken = shared
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty();
        if taken {
            let losses = delivery.losses();
            shared
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .extend(losses);
        }
    }
    delivery.close(stop)
}
