//! Load into a collector: several connections, each with one request under way. 2xx counts, 503 is asked again.
//!
//! Bodies are made before they are sent, so that making them takes no time from the receiver that is measured; where
//! they are more than memory should hold, in waves.
//!
//! Invariant: sent = acknowledged when it ends well; anything but 2xx and 503 ends it.

use super::batch::Sending;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(120);
/// Between two attempts when the receiver has no room, whatever it asks for.
const AGAIN: Duration = Duration::from_millis(200);

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Sent {
    pub events: u64,
    pub requests: u64,
    /// Bytes of bodies, as sent, and before they were compressed.
    pub body_bytes: u64,
    pub plain_bytes: u64,
    /// Times that the receiver had no room.
    pub full: u64,
    /// While requests were under way.
    pub seconds: f64,
}

impl Sent {
    pub fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.requests += other.requests;
        self.body_bytes += other.body_bytes;
        self.plain_bytes += other.plain_bytes;
        self.full += other.full;
        self.seconds += other.seconds;
    }
}

/// A collector's door.
pub struct Door {
    agent: ureq::Agent,
    address: String,
    authorization: String,
}

impl Door {
    /// `server`: `http://127.0.0.1:PORT`. The file holds an ingest key.
    pub fn new(server: &str, key: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(key).with_context(|| format!("cannot read {}", key.display()))?;
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .timeout_global(Some(LIMIT))
            .build()
            .new_agent();
        Ok(Self {
            agent,
            address: format!("{}/v1/logs", server.trim_end_matches('/')),
            authorization: format!("Bearer {}", text.trim()),
        })
    }

    /// Sends all of it over so many connections.
    pub fn send(&self, bodies: Vec<Sending>, connections: usize) -> Result<Sent> {
        let queue = Mutex::new(bodies.into_iter());
        let start = Instant::now();
        let mut all = Sent::default();
        thread::scope(|scope| {
            let senders: Vec<_> = (0..connections.max(1))
                .map(|_| scope.spawn(|| self.work(&queue)))
                .collect();
            for sender in senders {
                let sent = sender
                    .join()
                    .map_err(|_| anyhow::anyhow!("a sender panicked"))??;
                all.add(&sent);
            }
            anyhow::Ok(())
        })?;
        all.seconds = start.elapsed().as_secs_f64();
        Ok(all)
    }

    fn work(&self, queue: &Mutex<std::vec::IntoIter<Sending>>) -> Result<Sent> {
        let mut sent = Sent::default();
        loop {
            let next = queue
                .lock()
                .map_err(|_| anyhow::anyhow!("a sender panicked"))?
                .next();
            let Some(sending) = next else {
                return Ok(sent);
            };
            sent.full += self.post(&sending)?;
            sent.events += sending.events;
            sent.requests += 1;
            sent.body_bytes += sending.body.len() as u64;
            sent.plain_bytes += sending.bytes;
        }
    }

    /// How often there was no room.
    fn post(&self, sending: &Sending) -> Result<u64> {
        let start = Instant::now();
        let mut full = 0;
        loop {
            let mut answer = self
                .agent
                .post(&self.address)
                .header("content-type", "application/x-protobuf")
                .header("content-encoding", "zstd")
                .header("authorization", &self.authorization)
                .send(&sending.body[..])
                .context("the collector was not reached")?;
            let status = answer.status().as_u16();
            let said = answer.body_mut().read_to_vec().unwrap_or_default();
            match status {
                // OTLP: an empty answer is a full success.
                200 if said.is_empty() => return Ok(full),
                200 => bail!("not all events were accepted"),
                503 if start.elapsed() < LIMIT => {
                    full += 1;
                    thread::sleep(AGAIN);
                }
                _ => bail!(
                    "the collector answered {status}: {}",
                    String::from_utf8_lossy(&said)
                        .chars()
                        .take(300)
                        .collect::<String>()
                ),
            }
        }
    }
}
