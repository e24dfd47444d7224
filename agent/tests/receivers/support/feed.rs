//! The delivery as the agent has it, fed with events of these tests: spool, couriers, receivers.

use super::arrived::first_copies;
use crate::samples;
use std::path::Path;
use std::time::{Duration, Instant};
use tokentrail_agent::sink::batch::Receiver;
use tokentrail_agent::sink::courier::Patience;
use tokentrail_agent::sink::delivery::{Delivery, Options};
use tokentrail_agent::spool;

/// Events in one go, which is one group of the spool.
const GROUP: usize = 12;
/// Everything must have left by then.
const DRAINED: Duration = Duration::from_secs(120);

pub struct Feed {
    delivery: Delivery,
    /// Each event as its canonical JSON, in the order of their sequences.
    pub given: Vec<String>,
}

impl Feed {
    pub fn start(folder: &Path, receivers: Vec<Box<dyn Receiver>>) -> Self {
        let options = Options {
            spool: spool::Options {
                path: folder.join("spool"),
                max_bytes: 1 << 30,
                max_age: Duration::from_secs(3_600),
                when_full: spool::WhenFull::Refuse,
                quarantine_bytes: 1 << 20,
            },
            group: Duration::ZERO,
            retry_bytes: 1 << 20,
            patience: Patience {
                first: Duration::from_millis(5),
                longest: Duration::from_millis(100),
            },
        };
        let delivery = Delivery::start(options, receivers, samples::AGENT, samples::EPOCH).unwrap();
        Self {
            delivery,
            given: Vec::new(),
        }
    }

    /// So many events, one group after the other, with `between` each.
    pub fn give(&mut self, count: usize, between: Duration) {
        let samples = samples::envelopes();
        for number in 0..count {
            let mut event = samples[self.given.len() % samples.len()].clone();
            event.producer.epoch = self.delivery.epoch();
            event.producer.sequence = self.given.len() as u64 + 1;
            self.given.push(serde_json::to_string(&event).unwrap());
            self.delivery.take(&event);
            if number % GROUP == GROUP - 1 || number + 1 == count {
                self.delivery.tend();
                std::thread::sleep(between);
            }
        }
    }

    /// Waits until every receiver has everything, and ends.
    pub fn drain(mut self) -> Vec<String> {
        let end = Instant::now() + DRAINED;
        while self.delivery.used() > 0 {
            assert!(
                Instant::now() < end,
                "{} bytes wait still",
                self.delivery.used()
            );
            std::thread::sleep(Duration::from_millis(20));
            self.delivery.tend();
        }
        assert_eq!(self.delivery.close(Duration::from_secs(20)), []);
        self.given
    }
}

/// What a receiver has of `given`, where it may have any of them more than once: every copy is the same, and those that
/// came first are in order. How many copies there were beyond the first.
pub fn at_least_once(sink: &str, given: &[String], has: &[String]) -> usize {
    let kept = first_copies(sink, has);
    for (given, kept) in given.iter().zip(&kept) {
        assert_eq!(given, kept, "{sink}");
    }
    assert_eq!(kept.len(), given.len(), "{sink}");
    has.len() - kept.len()
}
