//! The counters that the agent leaves behind at a clean stop, and the sums that must hold.

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

    /// Over all probes: counters are named `probe.PROBE.WHAT`, those that are 0 are left out.
    fn of_probes(&self, what: &str) -> u64 {
        let name = |key: &str| {
            key.strip_prefix("probe.")
                .and_then(|rest| rest.split_once('.'))
                .map(|pair| pair.1 == what)
        };
        self.0
            .iter()
            .filter(|(key, _)| name(key) == Some(true))
            .map(|(_, count)| count)
            .sum()
    }

    /// Calls that a probe could not report.
    pub fn lost_calls(&self) -> u64 {
        self.of_probes("lost")
    }

    /// `came`: usage events that were given out.
    ///
    /// Calls seen = ring records + losses (and what the copy policy only counts); credentials parsed = events + losses.
    pub fn check(&self, came: u64, stderr: &str) -> Result<()> {
        let (seen, reported) = (self.of_probes("seen"), self.of_probes("reported"));
        let (counted, lost) = (self.of_probes("counted_only"), self.of_probes("lost"));
        ensure!(
            seen == reported + counted + lost,
            "{seen} calls seen, {reported} reported + {counted} counted + {lost} lost: {:?}",
            self.0
        );
        let (parsed, made) = (self.get("credentials.parsed")?, self.get("events.usage")?);
        let lost = self.get("credentials.lost")?;
        ensure!(
            parsed == made + lost,
            "{parsed} credentials parsed, {made} events + {lost} lost: {:?}",
            self.0
        );
        ensure!(
            came == made,
            "{made} usage events by the agent's count, {came} came"
        );
        let (connections, read) = (self.get("connections.seen")?, self.get("connections.read")?);
        let unread = self.get("connections.unread")?;
        ensure!(
            connections == read + unread,
            "{connections} connections seen, {read} read + {unread} unread: {:?}",
            self.0
        );
        // The agent's own word, for people, must be the same.
        let (holds, broken) = (
            stderr.matches("holds: ").count(),
            stderr.matches("DOES NOT HOLD").count(),
        );
        ensure!(
            holds >= 3 && broken == 0,
            "{holds} sums hold, {broken} do not: {stderr}"
        );
        Ok(())
    }
}
