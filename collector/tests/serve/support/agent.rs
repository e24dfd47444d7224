//! An agent that delivers until everything is acknowledged.

use super::PATIENCE;
use super::events::Source;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokentrail_agent::config::{self, Ranged};
use tokentrail_agent::sink::batch::{Outcome, Receiver as _};
use tokentrail_agent::sink::otlp;

/// As an agent's `[otlp]` that delivers by a key.
pub fn config(url: &str, header: &str) -> config::Otlp {
    config::Otlp {
        endpoint: Some(url.to_owned()),
        headers: BTreeMap::from([("authorization".to_owned(), header.to_owned())]),
        timeout_seconds: Ranged::new(60),
        ..config::Otlp::default()
    }
}

/// Delivers events `first` to `last` by batches of `size`, each again until it is acknowledged.
pub fn deliver(config: &config::Otlp, source: &Source, first: u64, last: u64, size: u64) {
    let mut otlp = otlp::from_config(config).unwrap().unwrap();
    let start = Instant::now();
    let mut from = first;
    while from <= last {
        let to = last.min(from + size - 1);
        match otlp.send(&source.batch(from, to)) {
            Outcome::Accepted { rejected: 0, .. } => from = to + 1,
            Outcome::Retry { reason, .. } => {
                assert!(start.elapsed() < PATIENCE, "{}: {reason}", source.agent);
                std::thread::sleep(Duration::from_millis(50));
            }
            other => panic!("{} {from}..={to}: {other:?}", source.agent),
        }
    }
}
