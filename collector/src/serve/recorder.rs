//! The collector's own events: its start and stop, who asked for a trail, who changed keys, and holes.
//!
//! They go the way of every other event, through the inbox, so that they are as durable, and found by the same search.
//!
//! Invariant: sequences are contiguous: one is used again if its event could not be stored.

use crate::event::Event;
use crate::inbox::{AppendError, Inbox};
use agent_common::event::{Audit, AuditDetail, Body, Envelope, Host, Producer, Time, V1};
use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::Mutex;

/// The origin of what the collector says itself.
const ORIGIN: &str = "collector";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the collector's own event cannot be stored: {0}")]
    Append(#[from] AppendError),
    #[error("the collector's own event cannot be encoded: {0}")]
    Encode(String),
}

/// See the module.
pub struct Recorder {
    inbox: Inbox,
    host: Arc<Host>,
    producer: Mutex<Producer>,
}

impl Recorder {
    /// `id` names this installation, `epoch` is its start in milliseconds since the Unix epoch.
    pub fn new(inbox: Inbox, id: &str, epoch: u64) -> Self {
        Self {
            inbox,
            host: Arc::new(host()),
            producer: Mutex::new(Producer {
                id: id.into(),
                name: "tokentrail".into(),
                version: env!("CARGO_PKG_VERSION").into(),
                epoch,
                sequence: 0,
            }),
        }
    }

    /// Durable when it returns.
    ///
    /// # Errors
    /// If the inbox is full or cannot be written.
    pub async fn audit(&self, detail: AuditDetail) -> Result<(), Error> {
        self.record(Body::Audit(Audit { audit: detail })).await
    }

    /// As [`audit`](Self::audit), any event.
    ///
    /// # Errors
    /// If the inbox is full or cannot be written.
    pub async fn record(&self, body: Body) -> Result<(), Error> {
        let mut producer = self.producer.lock().await;
        let now = now();
        let envelope = Envelope {
            version: V1,
            time: now,
            observed_time: now,
            producer: Producer {
                sequence: producer.sequence + 1,
                ..producer.clone()
            },
            host: self.host.clone(),
            body,
        };
        let json =
            serde_json::to_vec(&envelope).map_err(|error| Error::Encode(error.to_string()))?;
        let event =
            Event::parse(Bytes::from(json)).map_err(|error| Error::Encode(error.to_string()))?;
        self.inbox.append(ORIGIN.into(), vec![event]).await?;
        producer.sequence += 1;
        Ok(())
    }
}

fn now() -> Time {
    Time::from_unix_nanos(jiff::Timestamp::now().as_nanosecond())
}

fn host() -> Host {
    let read = |path: &str| {
        std::fs::read_to_string(Path::new(path))
            .map(|text| text.trim().to_owned())
            .ok()
            .filter(|text| !text.is_empty())
    };
    Host {
        id: read("/etc/machine-id"),
        name: read("/proc/sys/kernel/hostname").unwrap_or_else(|| "unknown".to_owned()),
        boot_id: read("/proc/sys/kernel/random/boot_id").unwrap_or_default(),
    }
}
