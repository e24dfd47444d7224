//! The thread that writes events to the outputs.
//!
//! Invariant: what an output lost comes back as a loss, to become an event.

use agent_common::event::Envelope;
use anyhow::Context as _;
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::Duration,
};
use tokentrail_agent::{
    config::{Config, Format},
    sink::{Losses, Ndjson, RotatingFile, Sink, Stream, Table, table},
};

/// Outputs are flushed at least this often.
const FLUSH: Duration = Duration::from_millis(200);
/// Events that are written between two flushes.
const BATCH: usize = 1_024;

/// An output's losses, by its name.
pub type Lost = (String, Losses);

pub struct Outputs {
    events: Option<SyncSender<Envelope>>,
    lost: Arc<Mutex<Vec<Lost>>>,
    thread: Option<JoinHandle<Vec<Lost>>>,
}

impl Outputs {
    /// `closed` is called once when standard output's reader has gone.
    pub fn start(config: &Config, closed: impl Fn() + Send + 'static) -> anyhow::Result<Self> {
        let sinks = sinks(config)?;
        let (events, receiver) = sync_channel(config.limits.queued_events.size());
        let lost = Arc::new(Mutex::new(Vec::new()));
        let thread = std::thread::Builder::new().name("outputs".into()).spawn({
            let lost = Arc::clone(&lost);
            move || write(sinks, &receiver, &lost, closed)
        })?;
        Ok(Self {
            events: Some(events),
            lost,
            thread: Some(thread),
        })
    }

    /// Waits where the queue is full: the ring behind it counts what then does not fit.
    pub fn send(&self, event: Envelope) {
        if let Some(events) = &self.events {
            // The thread takes events until this end is dropped.
            let _ = events.send(event);
        }
    }

    pub fn take_lost(&self) -> Vec<Lost> {
        std::mem::take(&mut self.lost.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Writes what waits and closes the outputs; what they lost at the end.
    pub fn close(mut self) -> Vec<Lost> {
        self.events = None;
        let mut lost = self.take_lost();
        if let Some(thread) = self.thread.take() {
            lost.extend(thread.join().unwrap_or_default());
        }
        lost
    }
}

fn sinks(config: &Config) -> anyhow::Result<Vec<Box<dyn Sink>>> {
    let mut sinks: Vec<Box<dyn Sink>> = Vec::new();
    let retry = config.file.retry_bytes.size();
    match config.stdout.format {
        Format::Table => sinks.push(Box::new(Table::new(
            Stream::stdout()?,
            table::Style::stdout(),
            retry,
        ))),
        Format::Ndjson => sinks.push(Box::new(Ndjson::new(Stream::stdout()?, retry))),
        Format::None => {}
    }
    if let Some(path) = &config.file.path {
        let file = RotatingFile::open(path, &config.file)
            .with_context(|| format!("output file {}", path.display()))?;
        sinks.push(Box::new(Ndjson::new(file, retry)));
    }
    Ok(sinks)
}

fn write(
    mut sinks: Vec<Box<dyn Sink>>,
    events: &Receiver<Envelope>,
    lost: &Mutex<Vec<Lost>>,
    closed: impl Fn(),
) -> Vec<Lost> {
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
                lost.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push((sink.name().to_owned(), losses));
            }
            if result.is_err() {
                closed();
            }
            result.is_ok()
        });
    }
    let close = |mut sink: Box<dyn Sink>| {
        let losses = sink.close().ok().flatten()?;
        Some((sink.name().to_owned(), losses))
    };
    sinks.into_iter().filter_map(close).collect()
}
