//! How many events per second go through the spool to a receiver, and what they take of the disk.
//!
//! Events ([`varied`]) are numbered, encoded, appended in groups and forced to the disk as `run` does it, and a courier
//! takes them to the receiver: OTLP/HTTP at `--endpoint`, or one in memory that takes everything. Twice, each time with
//! a spool of its own: first the receiver is held until all events wait, to see what they take; then everything goes at
//! once, which is the way of a running agent. With `--group` no more events than that share an fsync and a batch.
//!
//! Invariant: the spool is made below the folder that was named, and removed.

use super::{SpoolArguments, print, varied};
use agent_common::event::Envelope;
use anyhow::Context as _;
use serde_json::json;
use std::{
    path::Path,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokentrail_agent::{
    config::{self, Config, Ranged},
    sink::{
        batch::{Batch, Limits, Outcome, Receiver},
        courier::Patience,
        delivery::{Delivery, Options},
        otlp,
    },
};

/// Different events: more than compression would remember of an earlier group.
const DIFFERENT: usize = 8_192;
const PAUSE: Duration = Duration::from_millis(10);
/// Without an event for so long, the receiver is taken to fail.
const STUCK: Duration = Duration::from_secs(60);

/// Where the courier sends to, once it is let go.
struct Gate {
    seen: Arc<Seen>,
    otlp: Option<otlp::Otlp>,
}

#[derive(Default)]
struct Seen {
    open: AtomicBool,
    largest_batch: AtomicU64,
    /// Nanoseconds within the receiver: encoding, compressing, sending, waiting for the answer.
    sending: AtomicU64,
}

impl Receiver for Gate {
    fn name(&self) -> &str {
        "bench"
    }

    fn limits(&self) -> Limits {
        let usual = config::Otlp::default();
        self.otlp.as_ref().map_or(
            Limits {
                events: usual.batch_events.size(),
                bytes: usual.batch_bytes.size(),
            },
            Receiver::limits,
        )
    }

    fn send(&mut self, batch: &Batch) -> Outcome {
        if !self.seen.open.load(Ordering::Relaxed) {
            return Outcome::Retry {
                after: None,
                reason: "held".into(),
            };
        }
        let count = batch.events.len() as u64;
        self.seen.largest_batch.fetch_max(count, Ordering::Relaxed);
        let Some(otlp) = &mut self.otlp else {
            return Outcome::Accepted {
                rejected: 0,
                reason: None,
            };
        };
        let start = Instant::now();
        let outcome = otlp.send(batch);
        let spent = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.seen.sending.fetch_add(spent, Ordering::Relaxed);
        outcome
    }
}

pub fn spool(arguments: &SpoolArguments) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(arguments.events > 0, "nothing to spool");
    let folder = arguments
        .folder
        .join(format!("tokentrail-bench-{}", std::process::id()));
    std::fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
    let result = measure(arguments, &folder);
    std::fs::remove_dir_all(&folder)?;
    print(&result?)
}

fn measure(arguments: &SpoolArguments, folder: &Path) -> anyhow::Result<serde_json::Value> {
    let mut events = varied::events(DIFFERENT.min(arguments.events))?;
    let json: usize = events
        .iter()
        .map(|event| serde_json::to_vec(event).map_or(0, |json| json.len()))
        .sum();
    let count = arguments.events as f64;

    let held = folder.join("held");
    let mut run = Run::start(arguments, &held)?;
    let empty = size_of(&held)?;
    let append = Instant::now();
    run.give_all(&mut events, arguments.events);
    run.until_durable();
    let appended = append.elapsed().as_secs_f64();
    let (used, files) = (run.delivery.used(), size_of(&held)?);
    let drain = Instant::now();
    run.seen.open.store(true, Ordering::Relaxed);
    run.until_delivered()?;
    let drained = drain.elapsed().as_secs_f64();
    run.end()?;

    let mut run = Run::start(arguments, &folder.join("through"))?;
    run.seen.open.store(true, Ordering::Relaxed);
    let (start, cpu) = (Instant::now(), process_time());
    run.give_all(&mut events, arguments.events);
    run.until_durable();
    run.until_delivered()?;
    let (through, cpu) = (
        start.elapsed().as_secs_f64(),
        process_time().saturating_sub(cpu),
    );
    let sending = Duration::from_nanos(run.seen.sending.load(Ordering::Relaxed));
    let largest = run.seen.largest_batch.load(Ordering::Relaxed);
    let batches = run.delivery.couriers()[0]
        .counters
        .batches
        .load(Ordering::Relaxed);
    run.end()?;
    Ok(json!({
        "events": arguments.events,
        "endpoint": arguments.endpoint,
        "compression": arguments.compression,
        "json_bytes_per_event": json as f64 / events.len() as f64,
        "spool_bytes_per_event": used as f64 / count,
        "disk_bytes_per_event": files.saturating_sub(empty) as f64 / count,
        "appended_per_second": count / appended,
        "drained_per_second": count / drained,
        "through_per_second": count / through,
        "cpu_microseconds_per_event": cpu.as_secs_f64() * 1e6 / count,
        "share_of_time_in_receiver": sending.as_secs_f64() / through,
        "batches": batches,
        "largest_batch": largest,
    }))
}

/// One spool with its courier.
struct Run {
    delivery: Delivery,
    seen: Arc<Seen>,
    given: u64,
    /// After so many events it is seen to what is due.
    group: u64,
}

impl Run {
    fn start(arguments: &SpoolArguments, folder: &Path) -> anyhow::Result<Self> {
        let mut config = Config::default().spool;
        config.path = Some(folder.to_owned());
        let mut options = Options::new(&config).context("the spool has no path")?;
        if arguments.group.is_some() {
            options.group = Duration::ZERO;
        }
        options.patience = Patience {
            first: PAUSE,
            longest: PAUSE,
        };
        let seen = Arc::new(Seen::default());
        let gate = Gate {
            seen: Arc::clone(&seen),
            otlp: otlp::from_config(&config::Otlp {
                endpoint: arguments.endpoint.clone(),
                compression: arguments.compression,
                batch_events: arguments
                    .group
                    .map_or(config::Otlp::default().batch_events, Ranged::new),
                ..config::Otlp::default()
            })?,
        };
        Ok(Self {
            delivery: Delivery::start(options, vec![Box::new(gate)], "bench", 1)?,
            seen,
            given: 0,
            group: arguments.group.unwrap_or(1),
        })
    }

    fn give_all(&mut self, events: &mut [Envelope], most: usize) {
        while self.given < most as u64 {
            for event in events.iter_mut().take(most - self.given as usize) {
                self.given += 1;
                event.producer.sequence = self.given;
                event.producer.epoch = self.delivery.epoch();
                self.delivery.take(event);
                if self.given.is_multiple_of(self.group) {
                    self.delivery.tend();
                }
            }
        }
    }

    fn until_durable(&mut self) {
        while self.delivery.durable() < self.given {
            self.delivery.tend();
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn until_delivered(&mut self) -> anyhow::Result<()> {
        let counters = Arc::clone(&self.delivery.couriers()[0].counters);
        let (mut last, mut changed) = (0, Instant::now());
        loop {
            let delivered = counters.delivered.load(Ordering::Relaxed);
            let refused = counters.rejected.load(Ordering::Relaxed);
            anyhow::ensure!(refused == 0, "the receiver refused {refused} events");
            if delivered >= self.given {
                return Ok(());
            }
            if delivered != last {
                (last, changed) = (delivered, Instant::now());
            }
            anyhow::ensure!(
                changed.elapsed() < STUCK,
                "the receiver has taken {delivered} of {} events, and takes no more",
                self.given
            );
            self.delivery.tend();
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn end(self) -> anyhow::Result<()> {
        let lost = self.delivery.close(Duration::from_secs(10));
        anyhow::ensure!(lost.is_empty(), "events were lost: {lost:?}");
        Ok(())
    }
}

/// CPU time of this process, all of its threads.
fn process_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(
        time.tv_sec.try_into().unwrap_or_default(),
        time.tv_nsec.try_into().unwrap_or_default(),
    )
}

/// What the files of a folder take of the disk.
fn size_of(folder: &Path) -> std::io::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::read_dir(folder)?
        .map(|entry| Ok(entry?.metadata()?.blocks() * 512))
        .sum()
}
