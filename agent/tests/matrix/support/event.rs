//! One event as JSON. The only file that knows field names of the contract (`agent_common::event`).
//!
//! Read as JSON and not through the contract's own types: a reader of the stream sees text, and so does this test.

use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

#[derive(Clone, Debug)]
pub struct Event(Value);

impl Event {
    pub fn parse(line: &str) -> Result<Self> {
        Ok(Self(
            serde_json::from_str(line).with_context(|| format!("not an event: {line}"))?,
        ))
    }

    /// The value at a path of names joined by dots.
    fn at(&self, path: &str) -> Option<&Value> {
        let found = path
            .split('.')
            .try_fold(&self.0, |value, name| value.get(name))?;
        (!found.is_null()).then_some(found)
    }

    fn text(&self, path: &str) -> Option<&str> {
        self.at(path)?.as_str()
    }

    fn number(&self, path: &str) -> Option<u64> {
        self.at(path)?.as_u64()
    }

    pub fn kind(&self) -> &str {
        self.text("kind").unwrap_or_default()
    }

    pub fn is_usage(&self) -> bool {
        self.kind() == "usage"
    }

    pub fn epoch(&self) -> Option<u64> {
        self.number("producer.epoch")
    }

    pub fn sequence(&self) -> Option<u64> {
        self.number("producer.sequence")
    }

    /// `client` or `server`.
    pub fn direction(&self) -> &str {
        self.text("direction").unwrap_or_default()
    }

    pub fn exchange(&self) -> Option<&str> {
        self.text("exchange.id")
    }

    pub fn fingerprints(&self) -> Vec<&str> {
        let list = self.at("token.fingerprints").and_then(Value::as_array);
        list.map_or(Vec::new(), |list| {
            list.iter().filter_map(Value::as_str).collect()
        })
    }

    pub fn provider(&self) -> Option<&str> {
        self.text("token.provider")
    }

    pub fn scheme(&self) -> Option<&str> {
        self.text("token.scheme")
    }

    pub fn carrier(&self) -> Option<&str> {
        self.text("token.carrier")
    }

    /// `1.1`, `2`, ...
    pub fn protocol_version(&self) -> Option<&str> {
        self.text("network.protocol.version")
    }

    /// `socket`, `record`, ...
    pub fn evidence(&self) -> Option<&str> {
        self.text("evidence.socket")
    }

    /// The file whose key-log point gave the secret.
    pub fn library_file(&self) -> Option<&str> {
        self.text("evidence.library")
    }

    pub fn hook(&self) -> Option<&str> {
        self.text("evidence.hook")
    }

    pub fn pid(&self) -> Option<u64> {
        self.number("process.pid")
    }

    pub fn parent_pid(&self) -> Option<u64> {
        self.number("process.parent_pid")
    }

    pub fn ancestor_pids(&self) -> Vec<u64> {
        let list = self.at("process.ancestors").and_then(Value::as_array);
        list.map_or(Vec::new(), |list| {
            list.iter()
                .filter_map(|one| one.get("pid")?.as_u64())
                .collect()
        })
    }

    pub fn executable(&self) -> Option<&str> {
        self.text("process.executable.path")
    }

    pub fn executable_sha256(&self) -> Option<&str> {
        self.text("process.executable.hash.sha256")
    }

    pub fn command_args(&self) -> Vec<&str> {
        let list = self.at("process.command_args").and_then(Value::as_array);
        list.map_or(Vec::new(), |list| {
            list.iter().filter_map(Value::as_str).collect()
        })
    }

    pub fn user(&self) -> Option<u64> {
        self.number("process.real_user.id")
    }

    pub fn cgroup(&self) -> Option<&str> {
        self.text("process.linux.cgroup")
    }

    pub fn container(&self) -> Option<&str> {
        self.text("container.id")
    }

    pub fn unit(&self) -> Option<&str> {
        self.text("systemd.unit")
    }

    /// `tcp` or `unix`.
    pub fn transport(&self) -> Option<&str> {
        self.text("network.transport")
    }

    pub fn local(&self) -> Option<SocketAddr> {
        self.end("network.local")
    }

    pub fn peer(&self) -> Option<SocketAddr> {
        self.end("network.peer")
    }

    fn end(&self, path: &str) -> Option<SocketAddr> {
        let ip: IpAddr = self.text(&format!("{path}.address"))?.parse().ok()?;
        Some(SocketAddr::new(
            ip,
            self.number(&format!("{path}.port"))?.try_into().ok()?,
        ))
    }

    /// Path of a Unix socket, whichever end has one.
    pub fn unix_path(&self) -> Option<&str> {
        self.text("network.local.address")
            .filter(|path| path.starts_with('/'))
            .or_else(|| self.text("network.peer.address"))
    }

    pub fn method(&self) -> Option<&str> {
        self.text("http.request.method")
    }

    pub fn status(&self) -> Option<u64> {
        self.number("http.response.status_code")
    }

    /// System, service, method and gRPC status of the call.
    pub fn rpc(&self) -> (Option<&str>, Option<&str>, Option<&str>, Option<u64>) {
        (
            self.text("rpc.system"),
            self.text("rpc.service"),
            self.text("rpc.method"),
            self.number("rpc.grpc.status_code"),
        )
    }

    pub fn path(&self) -> Option<&str> {
        self.text("url.path")
    }

    pub fn query(&self) -> Option<&str> {
        self.text("url.query")
    }

    pub fn url_scheme(&self) -> Option<&str> {
        self.text("url.scheme")
    }

    pub fn host(&self) -> Option<&str> {
        self.text("server.address")
    }

    /// `1.2` or `1.3`.
    pub fn tls_version(&self) -> Option<&str> {
        self.text("tls.protocol.version")
    }

    /// What the client's hello asked for.
    pub fn server_name(&self) -> Option<&str> {
        self.text("tls.client.server_name")
    }

    pub fn tls_resumed(&self) -> Option<bool> {
        self.at("tls.resumed")?.as_bool()
    }

    /// What a proxy claims, by header name.
    pub fn forwarded(&self, claim: &str) -> Option<&str> {
        self.at("forwarded")?.get(claim)?.as_str()
    }

    /// Why a connection was not read, in coverage events.
    pub fn coverage_reason(&self) -> Option<&str> {
        self.text("coverage.reason")
    }

    pub fn coverage_detail(&self) -> Option<&str> {
        self.text("coverage.detail")
    }

    /// The TLS library's name, in coverage events.
    pub fn coverage_library(&self) -> Option<&str> {
        self.text("coverage.library")
    }

    /// About one connection, in coverage events.
    pub fn is_connection_coverage(&self) -> bool {
        self.kind() == "coverage" && self.text("coverage.scope") == Some("connection")
    }

    /// Why something was lost, in loss events.
    pub fn loss_reason(&self) -> Option<&str> {
        self.text("loss.reason")
    }

    /// How much, in loss events.
    pub fn loss_count(&self) -> Option<u64> {
        self.number("loss.count")
    }

    /// Begin and end of the span, in loss events.
    pub fn loss_span(&self) -> Option<(&str, &str)> {
        Some((self.text("loss.from")?, self.text("loss.to")?))
    }

    /// `agent_started`, `agent_stopped`, ..., in audit events.
    pub fn action(&self) -> Option<&str> {
        self.text("audit.action")
    }

    /// The hook in use, in the audit event of the start.
    pub fn started_with(&self) -> Option<&str> {
        self.text("audit.hook")
            .filter(|_| self.action() == Some("agent_started"))
    }

    /// Counters by name, in audit events.
    pub fn counters(&self) -> BTreeMap<String, u64> {
        let map = self.at("audit.counters").and_then(Value::as_object);
        map.map_or(BTreeMap::new(), |map| {
            map.iter()
                .filter_map(|(name, value)| Some((name.clone(), value.as_u64()?)))
                .collect()
        })
    }

    /// Names of the outputs behind the spool, in audit events.
    pub fn sinks(&self) -> Vec<&str> {
        let list = self.at("audit.sinks").and_then(Value::as_array);
        list.map_or(Vec::new(), |list| {
            list.iter()
                .filter_map(|sink| sink.get("name")?.as_str())
                .collect()
        })
    }

    /// For messages: who, which way, what.
    pub fn brief(&self) -> String {
        let mut text = format!("{} {}", self.kind(), self.direction());
        let parts = [
            self.executable(),
            self.method(),
            self.path(),
            self.coverage_reason(),
            self.coverage_detail(),
        ];
        for part in parts.into_iter().flatten() {
            text.push(' ');
            text.push_str(part);
        }
        format!(
            "{text} pid {:?} {:?} -> {:?}",
            self.pid(),
            self.local(),
            self.peer()
        )
    }
}
