//! The counters that the agent leaves behind at a clean stop, and the two sums that must hold.

use super::event::Event;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;

pub struct Counters(BTreeMap<String, u64>);

impl Counters {
    /// From the audit event of the stop.
    pub fn of(events: &[Event]) -> Result<Self> {
        let stopped = events
            .iter()
            .rev()
            .find(|event| event.action() == Some("agent_stopped"));
        Ok(Self(
            stopped
                .context("no audit event `agent_stopped`")?
                .counters(),
        ))
    }

    pub fn get(&self, name: &str) -> Result<u64> {
        self.0
            .get(name)
            .copied()
            .with_context(|| format!("no counter {name} in {:?}", self.0))
    }

    /// `NAME` itself, or by reason: `NAME.REASON`.
    fn sum_of(&self, name: &str) -> u64 {
        let parts = format!("{name}.");
        self.0
            .iter()
            .filter(|(key, _)| *key == name || key.starts_with(&parts))
            .map(|(_, count)| count)
            .sum()
    }

    /// Calls seen = ring records + losses; credentials parsed = events + losses.
    pub fn check(&self) -> Result<()> {
        let (seen, records) = (self.get("calls.seen")?, self.get("ring.records")?);
        let lost = self.sum_of("calls.lost");
        ensure!(
            seen == records + lost,
            "{seen} calls seen, {records} ring records + {lost} lost: {:?}",
            self.0
        );
        let (parsed, events) = (self.get("credentials.parsed")?, self.get("events.usage")?);
        let lost = self.sum_of("credentials.lost");
        ensure!(
            parsed == events + lost,
            "{parsed} credentials parsed, {events} events + {lost} lost: {:?}",
            self.0
        );
        Ok(())
    }
}
