//! Events of one agent: any of them can be made again from its sequence.

use super::chance::Chance;
use agent_common::event::{Envelope, Time};
use bytes::Bytes;
use serde_json::json;
use std::sync::Arc;
use tokentrail_agent::sink::batch::{Batch, Encoded};

pub const HOUR: i64 = 3_600_000_000_000;
pub const DAY: i64 = 24 * HOUR;
/// Credentials of all agents.
pub const CREDENTIALS: u64 = 50;

/// One run of an agent.
#[derive(Clone, Debug)]
pub struct Source {
    pub agent: Arc<str>,
    pub epoch: u64,
    /// When each of its events happened, by sequence.
    pub time: fn(begin: i64, sequence: u64) -> i64,
    pub begin: i64,
    /// Characters of noise in the path, which make an event as large as the test wants it.
    pub noise: usize,
}

pub fn fingerprint(number: u64) -> String {
    format!("tkf1:k1:{number:_>43}")
}

/// Nanoseconds since the Unix epoch.
pub fn now() -> i64 {
    i64::try_from(Time::now().unix_nanos()).unwrap()
}

impl Source {
    fn chance(&self, sequence: u64) -> Chance {
        let name = self.agent.bytes().fold(self.epoch, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(u64::from(byte))
        });
        Chance(name ^ (sequence << 20))
    }

    /// Of the credential that the event with this sequence used.
    pub fn fingerprint(&self, sequence: u64) -> String {
        fingerprint(self.chance(sequence).below(CREDENTIALS))
    }

    pub fn event(&self, sequence: u64) -> Encoded {
        let mut chance = self.chance(sequence);
        let fingerprint = fingerprint(chance.below(CREDENTIALS));
        let at = (self.time)(self.begin, sequence);
        let time = Time::from_unix_nanos(at.into());
        let noise: String = (0..self.noise)
            .map(|_| char::from(b"0123456789abcdefghijklmnopqrstuv"[chance.below(32) as usize]))
            .collect();
        let event = json!({
            "version": 1, "time": time, "observed_time": Time::from_unix_nanos((at + 1_000).into()),
            "producer": {"id": &*self.agent, "name": "tokentrail-agent", "version": "0.1.0", "epoch": self.epoch,
                "sequence": sequence},
            "host": {"name": format!("web-{}", chance.below(3)), "boot_id": "b"},
            "kind": "usage", "direction": chance.of(&["client", "server"]),
            "exchange": {"id": format!("{:032x}", chance.number()), "outcome": "answered"},
            "process": {"pid": 100 + chance.below(5), "creation": {"time": time},
                "executable": {"path": chance.of(&["/usr/bin/curl", "/usr/bin/python3"])},
                "command_args": ["curl", "-s"], "real_user": {"id": chance.below(3) * 1_000}, "real_group_id": 0,
                "linux": {"cgroup": "/", "cgroup_id": 1, "network_namespace": 1}},
            "network": {"transport": "tcp", "peer": {"address": chance.of(&["10.0.0.1", "10.1.2.3", "2001:db8::1"])}},
            "server": {"address": "api.example", "port": 443},
            "http": {"request": {"method": chance.of(&["GET", "POST"])},
                "response": {"status_code": chance.of(&[200, 200, 401, 404, 500])}},
            "url": {"scheme": "https", "path": format!("/items/{sequence}/{noise}")},
            "token": {"fingerprints": [fingerprint], "scheme": "Bearer", "carrier": "header:authorization",
                "provider": chance.of(&["github", "slack", "gitlab"])},
            "evidence": {"socket": "record", "identity": "exec", "hook": "fentry"},
            "correlation": {},
        });
        // The canonical form, which the agent sends.
        let envelope: Envelope = serde_json::from_value(event).unwrap();
        Encoded {
            sequence,
            time,
            json: Bytes::from(serde_json::to_vec(&envelope).unwrap()),
        }
    }

    pub fn batch(&self, first: u64, last: u64) -> Batch {
        Batch {
            agent: self.agent.clone(),
            epoch: self.epoch,
            events: (first..=last)
                .map(|sequence| self.event(sequence))
                .collect(),
        }
    }
}
