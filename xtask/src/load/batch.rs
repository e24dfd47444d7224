//! Events as agents send them: a batch is of one agent, and of consecutive events.

use super::events::Made;
use agent_common::otlp::request::{Batch, Request};
use anyhow::{Context, Result};
use opentelemetry_proto::tonic::logs::v1::SeverityNumber;
use prost::Message;

/// The agents' own level.
const ZSTD_LEVEL: i32 = 3;

/// Events of one agent that wait for their batch to be full.
#[derive(Default)]
struct Waiting {
    first: u64,
    agent: String,
    epoch: u64,
    events: Vec<Vec<u8>>,
}

/// Makes bodies of events.
pub struct Batches {
    size: usize,
    compressor: zstd::bulk::Compressor<'static>,
    /// By host.
    waiting: Vec<Waiting>,
}

/// A request's body.
pub struct Sending {
    /// ExportLogsServiceRequest, zstd.
    pub body: Vec<u8>,
    pub events: u64,
    /// Before it was compressed.
    pub bytes: u64,
}

impl Batches {
    /// Batches of `size` events.
    pub fn new(size: usize) -> Result<Self> {
        Ok(Self {
            size: size.max(1),
            compressor: zstd::bulk::Compressor::new(ZSTD_LEVEL).context("zstd")?,
            waiting: Vec::new(),
        })
    }

    /// A body, if the event fills one.
    pub fn push(&mut self, made: &Made<'_>) -> Result<Option<Sending>> {
        if self.waiting.len() <= made.host {
            self.waiting.resize_with(made.host + 1, Waiting::default);
        }
        let waiting = &mut self.waiting[made.host];
        let producer = &made.event.producer;
        if waiting.events.is_empty() {
            waiting.first = producer.sequence;
            waiting.agent = producer.id.to_string();
            waiting.epoch = producer.epoch;
        }
        waiting.events.push(serde_json::to_vec(made.event)?);
        if waiting.events.len() < self.size {
            return Ok(None);
        }
        let full = std::mem::take(waiting);
        self.body(&full).map(Some)
    }

    /// The bodies of what is left, one at a time.
    pub fn rest(&mut self) -> Result<Option<Sending>> {
        while let Some(waiting) = self.waiting.pop() {
            if !waiting.events.is_empty() {
                return self.body(&waiting).map(Some);
            }
        }
        Ok(None)
    }

    fn body(&mut self, waiting: &Waiting) -> Result<Sending> {
        let events = waiting.events.len() as u64;
        let mut request = Request::new(Batch {
            agent: &waiting.agent,
            epoch: waiting.epoch,
            first: waiting.first,
            last: waiting.first + events - 1,
        });
        for json in &waiting.events {
            // Usage alone is here.
            request.push(json, SeverityNumber::Info)?;
        }
        let plain = request.finish().encode_to_vec();
        Ok(Sending {
            body: self.compressor.compress(&plain).context("zstd")?,
            events,
            bytes: plain.len() as u64,
        })
    }
}
