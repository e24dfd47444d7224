//! An agent's side: delivers in its order, and repeats what was not acknowledged.

use crate::support::PATIENCE;
use crate::support::chance::Chance;
use crate::support::events::Source;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokentrail_agent::config::{self, Compression, Ranged};
use tokentrail_agent::sink::batch::{Outcome, Receiver};
use tokentrail_agent::sink::{http, otlp};

pub struct Agent {
    pub source: Source,
    /// Everything up to this sequence.
    pub acknowledged: u64,
    /// The last that was ever on the way.
    pub sent: u64,
    /// Events of a batch.
    pub most: u64,
    /// Batches that were not acknowledged: the collector was killed, or full.
    pub unanswered: u64,
}

impl Agent {
    pub fn new(source: Source, most: u64) -> Self {
        Self {
            source,
            most,
            acknowledged: 0,
            sent: 0,
            unanswered: 0,
        }
    }

    /// Until it is told to stop.
    pub fn deliver(&mut self, url: &str, header: &str, mut chance: Chance, stop: &AtomicBool) {
        let mut receiver = receiver(url, header, &mut chance);
        while !stop.load(Ordering::Relaxed) {
            // Behind what is acknowledged, or over its end: the answer to a batch may have been lost before.
            let back = if chance.below(4) == 0 {
                chance.below(30)
            } else {
                0
            };
            let first = (self.acknowledged + 1).saturating_sub(back).max(1);
            let last = self.acknowledged + 1 + chance.below(self.most);
            self.send(&mut *receiver, first, last);
            std::thread::sleep(chance.millis(300));
        }
    }

    /// What was sent and not acknowledged.
    pub fn finish(&mut self, url: &str, header: &str) {
        let mut receiver = receiver(url, header, &mut Chance(1));
        let start = Instant::now();
        while self.acknowledged < self.sent {
            assert!(
                start.elapsed() < PATIENCE,
                "{} cannot deliver",
                self.source.agent
            );
            let last = self.sent.min(self.acknowledged + 1_000);
            self.send(&mut *receiver, self.acknowledged + 1, last);
        }
    }

    fn send(&mut self, receiver: &mut dyn Receiver, first: u64, last: u64) {
        self.sent = self.sent.max(last);
        match receiver.send(&self.source.batch(first, last)) {
            Outcome::Accepted { rejected: 0, .. } => {
                self.acknowledged = self.acknowledged.max(last);
            }
            Outcome::Retry { .. } => {
                self.unanswered += 1;
                std::thread::sleep(Duration::from_millis(50));
            }
            other => panic!("{} {first}..={last}: {other:?}", self.source.agent),
        }
    }
}

/// One of the agent's own outputs.
fn receiver(url: &str, header: &str, chance: &mut Chance) -> Box<dyn Receiver> {
    let headers = BTreeMap::from([("authorization".to_owned(), header.to_owned())]);
    let compression = chance.of(&[Compression::Zstd, Compression::Gzip, Compression::None]);
    if chance.below(3) == 0 {
        let config = config::Http {
            endpoint: Some(format!("{url}/v1/events")),
            headers,
            compression,
            timeout_seconds: Ranged::new(60),
            ..config::Http::default()
        };
        return Box::new(http::from_config(&config).unwrap().unwrap());
    }
    let config = config::Otlp {
        endpoint: Some(url.to_owned()),
        headers,
        compression,
        timeout_seconds: Ranged::new(60),
        ..config::Otlp::default()
    };
    Box::new(otlp::from_config(&config).unwrap().unwrap())
}
