//! The collector's numbers for Prometheus: OpenMetrics text 1.0.

use crate::inbox::Inbox;
use crate::ingest;
use crate::store::Store;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the tasks did.
#[derive(Debug, Default)]
pub struct Done {
    pub seals: AtomicU64,
    pub seal_failures: AtomicU64,
    pub merges: AtomicU64,
    pub merge_failures: AtomicU64,
    pub retain_failures: AtomicU64,
    pub dropped_segments: AtomicU64,
}

/// Where numbers come from.
#[derive(Clone)]
pub struct Numbers {
    pub inbox: Inbox,
    /// Bytes that the inbox may hold.
    pub inbox_limit: u64,
    pub store: Store,
    pub ingest: Arc<ingest::Counters>,
    pub done: Arc<Done>,
}

/// # Errors
/// If they cannot be written as text.
pub fn encode(numbers: Numbers) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("tokentrail");
    registry.register_collector(Box::new(Families(numbers)));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

struct Families(Numbers);

impl fmt::Debug for Families {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Families")
    }
}

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Numbers {
            inbox,
            inbox_limit,
            store,
            ingest,
            done,
        } = &self.0;
        let mut counter = |name: &str, help: &str, value: u64| {
            let metric = ConstCounter::new(value);
            let family = encoder.encode_descriptor(name, help, None, metric.metric_type())?;
            metric.encode(family)
        };
        for (name, help, value) in ingest.all() {
            counter(&format!("ingest_{name}"), help, value)?;
        }
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        for (name, help, value) in [
            ("seals", "Times that what waits was sealed", &done.seals),
            (
                "seal_failures",
                "Times that it could not be",
                &done.seal_failures,
            ),
            (
                "merges",
                "Segments that were made of smaller ones",
                &done.merges,
            ),
            (
                "merge_failures",
                "Times that segments could not be merged",
                &done.merge_failures,
            ),
            (
                "retain_failures",
                "Times that old segments could not be dropped",
                &done.retain_failures,
            ),
            (
                "dropped_segments",
                "Segments dropped by age or size",
                &done.dropped_segments,
            ),
        ] {
            counter(name, help, read(value))?;
        }
        let segments = store.segments();
        let (bytes, events) = inbox.used();
        let rows: u64 = segments.iter().map(|segment| segment.rows).sum();
        let stored: u64 = segments.iter().map(|segment| segment.bytes).sum();
        for (name, help, value) in [
            ("inbox_events", "Events that wait to be sealed", events),
            ("inbox_bytes", "Bytes of them in memory", bytes),
            ("inbox_limit_bytes", "Bytes that they may be", *inbox_limit),
            ("segments", "Segments", segments.len() as u64),
            ("segment_events", "Events in segments", rows),
            ("segment_bytes", "Bytes of segments", stored),
        ] {
            // A gauge of this library is signed.
            let metric = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            let family = encoder.encode_descriptor(name, help, None, metric.metric_type())?;
            metric.encode(family)?;
        }
        Ok(())
    }
}
