//! How many events per second go through the spool, and what they take of the disk.
//!
//! Events are those that the pipeline makes of made-up requests, with new numbers. They are encoded, appended in
//! groups as `run` does, and read by a courier whose receiver takes everything. First nobody reads, to see what waiting
//! events take; then the courier is let go.

use super::{SpoolArguments, print, replay};
use agent_common::event::Envelope;
use serde_json::json;
use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokentrail_agent::{
    config::Config,
    sink::{
        batch::{Batch, Limits, Outcome, Receiver},
        courier::Patience,
        delivery::{Delivery, Options},
    },
};

/// Different events: more than compression would remember of an earlier group.
const DIFFERENT: usize = 8_192;

/// Takes everything, once it is let go.
struct Sink {
    open: Arc<AtomicBool>,
}

impl Receiver for Sink {
    fn name(&self) -> &str {
        "bench"
    }

    fn limits(&self) -> Limits {
        Limits {
            events: 4_096,
            bytes: 1024 * 1024,
        }
    }

    fn send(&mut self, _: &Batch) -> Outcome {
        if self.open.load(Ordering::Relaxed) {
            Outcome::Accepted {
                rejected: 0,
                reason: None,
            }
        } else {
            Outcome::Retry {
                after: None,
                reason: "held".into(),
            }
        }
    }
}

pub fn spool(arguments: &SpoolArguments) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(arguments.events > 0, "nothing to spool");
    let folder = arguments
        .folder
        .join(format!("tokentrail-bench-{}", std::process::id()));
    std::fs::create_dir(&folder)?;
    let result = measure(arguments, &folder);
    std::fs::remove_dir_all(&folder)?;
    print(&result?)
}

fn measure(
    arguments: &SpoolArguments,
    folder: &std::path::Path,
) -> anyhow::Result<serde_json::Value> {
    let mut events = replay::events(DIFFERENT.min(arguments.events))?;
    let mut config = Config::default().spool;
    config.path = Some(folder.join("spool"));
    let mut options =
        Options::new(&config).ok_or_else(|| anyhow::anyhow!("the spool has no path"))?;
    options.patience = Patience {
        first: Duration::from_millis(10),
        longest: Duration::from_millis(10),
    };
    let open = Arc::new(AtomicBool::new(false));
    let receiver = Sink {
        open: Arc::clone(&open),
    };
    let mut delivery = Delivery::start(options, vec![Box::new(receiver)], "bench", 1)?;
    let json: usize = events
        .iter()
        .map(|event| serde_json::to_vec(event).map_or(0, |json| json.len()))
        .sum();
    let each = json as f64 / events.len() as f64;
    let append = Instant::now();
    let mut sequence = 0;
    while sequence < arguments.events as u64 {
        give(&mut delivery, &mut events, &mut sequence, arguments.events);
    }
    while delivery.durable() < sequence {
        delivery.tend();
        std::thread::sleep(Duration::from_millis(1));
    }
    let appended = append.elapsed().as_secs_f64();
    let disk = delivery.used();
    let deliver = Instant::now();
    open.store(true, Ordering::Relaxed);
    let counters = Arc::clone(&delivery.couriers()[0].counters);
    while counters.delivered.load(Ordering::Relaxed) < sequence {
        std::thread::sleep(Duration::from_millis(1));
    }
    let delivered = deliver.elapsed().as_secs_f64();
    let lost = delivery.close(Duration::from_secs(10));
    anyhow::ensure!(lost.is_empty(), "events were lost: {lost:?}");
    let count = arguments.events as f64;
    Ok(json!({
        "events": arguments.events,
        "appended_per_second": count / appended,
        "delivered_per_second": count / delivered,
        "through_per_second": count / (appended + delivered),
        "json_bytes_per_event": each,
        "disk_bytes_per_event": disk as f64 / count,
    }))
}

fn give(delivery: &mut Delivery, events: &mut [Envelope], sequence: &mut u64, most: usize) {
    for event in events {
        if *sequence == most as u64 {
            break;
        }
        *sequence += 1;
        event.producer.sequence = *sequence;
        event.producer.epoch = delivery.epoch();
        delivery.take(event);
        delivery.tend();
    }
}
