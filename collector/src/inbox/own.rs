//! Events of the collector itself, numbered like an agent's.
//!
//! Invariant: a number is used up only when its event is stored: the sequence has no holes.

use crate::event::{Event, NoEvent};
use agent_common::event::{Body, Envelope, Host, Producer, Time, V1};
use rusqlite::{Connection, params};
use std::sync::Arc;

/// What the collector's own events say of it.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Stable id of the installation.
    pub id: Arc<str>,
    /// Name of the program.
    pub name: Arc<str>,
    pub version: Arc<str>,
    pub host: Arc<Host>,
}

#[derive(Clone)]
pub(super) struct Own {
    identity: Identity,
    epoch: u64,
    sequence: u64,
}

impl Own {
    /// Begins an epoch: now, but later than all former ones, also after the clock was set back.
    pub(super) fn begin(connection: &Connection, identity: Identity) -> rusqlite::Result<Self> {
        let former: i64 = connection.query_row(
            "SELECT COALESCE(MAX(epoch), 0) FROM sources WHERE agent = ?1",
            params![&*identity.id],
            |row| row.get(0),
        )?;
        let now = super::now() / 1_000_000;
        let epoch = now.max(former.saturating_add(1));
        Ok(Self {
            identity,
            epoch: u64::try_from(epoch).unwrap_or(0),
            sequence: 0,
        })
    }

    pub(super) fn origin(&self) -> Arc<str> {
        Arc::clone(&self.identity.name)
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// What is to be [restored](Self::restore) if the event is not stored.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    pub(super) fn restore(&mut self, sequence: u64) {
        self.sequence = sequence;
    }

    /// The next event.
    pub(super) fn event(&mut self, time: Time, body: Body) -> Result<Event, NoEvent> {
        let envelope = Envelope {
            version: V1,
            time,
            observed_time: Time::now(),
            producer: Producer {
                id: Arc::clone(&self.identity.id),
                name: Arc::clone(&self.identity.name),
                version: Arc::clone(&self.identity.version),
                epoch: self.epoch,
                sequence: self.sequence + 1,
            },
            host: Arc::clone(&self.identity.host),
            body,
        };
        let json =
            serde_json::to_vec(&envelope).map_err(|error| NoEvent::Json(error.to_string()))?;
        let event = Event::parse(json.into())?;
        self.sequence += 1;
        Ok(event)
    }
}
