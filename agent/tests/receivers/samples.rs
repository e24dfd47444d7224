//! Events of every kind, with everything and with nearly nothing in them. Shared with the unit tests of `sink`.

use agent_common::event::Envelope;
use bytes::Bytes;
use std::sync::Arc;
use tokentrail_agent::sink::batch::{Batch, Encoded};

pub const AGENT: &str = "5f3c0d1e2f3a4b5c6d7e8f9001122334";
pub const EPOCH: u64 = 1_790_000_000_000;

const SAMPLES: &str = include_str!("samples.ndjson");

/// One of each.
pub fn envelopes() -> Vec<Envelope> {
    SAMPLES
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

/// As the writer hands it to a courier.
pub fn encoded(envelope: &Envelope) -> Encoded {
    Encoded {
        sequence: envelope.producer.sequence,
        time: envelope.time,
        json: Bytes::from(serde_json::to_vec(envelope).unwrap()),
    }
}

/// All samples, `times` over, with contiguous sequences from `first`.
pub fn batch(first: u64, times: usize) -> Batch {
    let samples = envelopes();
    let events = std::iter::repeat_n(samples, times)
        .flatten()
        .zip(first..)
        .map(|(mut envelope, sequence)| {
            envelope.producer.sequence = sequence;
            encoded(&envelope)
        })
        .collect();
    Batch {
        agent: Arc::from(AGENT),
        epoch: EPOCH,
        events,
    }
}

/// Events that are not larger than a datagram.
pub fn small(first: u64, count: usize) -> Batch {
    let mut batch = batch(first, count);
    batch.events.retain(|event| event.json.len() < 2_000);
    batch.events.truncate(count);
    batch
}

/// An event of `bytes` bytes at least.
pub fn large(sequence: u64, bytes: usize) -> Batch {
    let mut batch = batch(sequence, 1);
    batch.events.truncate(1);
    let text = String::from_utf8(batch.events[0].json.to_vec()).unwrap();
    let text = text.replace("/v1/items/7", &format!("/v1/items/{}", "7".repeat(bytes)));
    batch.events[0].json = Bytes::from(text);
    batch
}
