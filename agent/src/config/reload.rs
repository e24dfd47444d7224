//! What of a configuration may change while the agent runs.

use super::Config;
use toml::{Table, Value};

/// Keys, or whole sections, that are taken over by SIGHUP. All others need a restart: what is observed (scope, hook,
/// ring) is in the kernel's maps, memory is divided at the start, files and places to connect to are fixed when the worker
/// is locked down.
pub(super) const RELOADABLE: &[&str] = &[
    "agent.fingerprint_key",
    "agent.log",
    "agent.report_seconds",
    "budget",
    "credential",
    "http.batch_bytes",
    "http.batch_events",
    "http.ca",
    "http.certificate",
    "http.compression",
    "http.connect_seconds",
    "http.encoding",
    "http.headers",
    "http.key",
    "http.timeout_seconds",
    "limits.body_bytes",
    "limits.connection_bytes",
    "limits.head_bytes",
    "limits.order_wait_ms",
    "limits.response_wait_seconds",
    "limits.secret_wait_ms",
    "otlp.batch_bytes",
    "otlp.batch_events",
    "otlp.ca",
    "otlp.certificate",
    "otlp.compression",
    "otlp.connect_seconds",
    "otlp.headers",
    "otlp.key",
    "otlp.timeout_seconds",
    "syslog.batch_bytes",
    "syslog.batch_events",
    "syslog.ca",
    "syslog.certificate",
    "syslog.connect_seconds",
    "syslog.datagram_bytes",
    "syslog.encoding",
    "syslog.enterprise",
    "syslog.facility",
    "syslog.key",
    "syslog.timeout_seconds",
];

impl Config {
    /// Names of the keys that differ, as `section.key`.
    #[must_use]
    pub fn changes(&self, other: &Self) -> Vec<String> {
        let mut names = Vec::new();
        for ((section, ours), (_, theirs)) in self.sections().into_iter().zip(other.sections()) {
            for (our, their) in ours.keys().into_iter().zip(theirs.keys()) {
                if our.value != their.value {
                    names.push(format!("{section}.{}", our.name));
                }
            }
        }
        names
    }

    /// Whether a key (`section.key`) may change while the agent runs.
    #[must_use]
    pub fn is_reloadable(key: &str) -> bool {
        let section = key.split('.').next().unwrap_or_default();
        RELOADABLE.contains(&key) || RELOADABLE.contains(&section)
    }

    /// This configuration with what of `other` may be taken over.
    ///
    /// # Errors
    /// Where a configuration has no form as TOML, which none that was read lacks.
    pub fn with_reloadable(&self, other: &Self) -> Result<Self, toml::ser::Error> {
        let (mut ours, theirs) = (Table::try_from(self)?, Table::try_from(other)?);
        for name in self.changes(other) {
            let Some((section, key)) = name.split_once('.').filter(|_| Self::is_reloadable(&name))
            else {
                continue;
            };
            let Some(Value::Table(ours)) = ours.get_mut(section) else {
                continue;
            };
            match theirs.get(section).and_then(|section| section.get(key)) {
                Some(value) => ours.insert(key.to_owned(), value.clone()),
                None => ours.remove(key),
            };
        }
        ours.try_into().map_err(serde::ser::Error::custom)
    }
}
