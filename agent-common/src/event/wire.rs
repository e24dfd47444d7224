//! An [`Envelope`] read back.
//!
//! serde reads flattened and tagged types by way of a tree of everything, several times the work of what it reads
//! straight. So all names that stand at the top of an event of any kind are fields of one type here, and the kind picks
//! its own.

use super::{
    Audit, AuditDetail, Body, Client, Container, Coverage, CoverageDetail, Direction, Envelope,
    Evidence, Exchange, Host, Http, Kubernetes, Loss, LossDetail, Network, Principal, Process,
    Producer, Rpc, Server, Systemd, Thread, Time, Tls, Token, Url, Usage, UserAgent, V1,
};
use serde::de::{Deserialize, Deserializer, Error};
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Usage,
    Loss,
    Coverage,
    Audit,
}

#[derive(serde::Deserialize)]
struct Wire {
    version: V1,
    time: Time,
    observed_time: Time,
    producer: Producer,
    host: Arc<Host>,
    kind: Kind,

    audit: Option<AuditDetail>,
    coverage: Option<CoverageDetail>,
    loss: Option<LossDetail>,

    process: Option<Process>,
    container: Option<Container>,
    systemd: Option<Systemd>,
    k8s: Option<Kubernetes>,

    direction: Option<Direction>,
    exchange: Option<Exchange>,
    thread: Option<Thread>,
    network: Option<Network>,
    server: Option<Server>,
    client: Option<Client>,
    tls: Option<Tls>,
    http: Option<Http>,
    rpc: Option<Rpc>,
    url: Option<Url>,
    user_agent: Option<UserAgent>,
    token: Option<Token>,
    evidence: Option<Evidence>,
    #[serde(default)]
    forwarded: BTreeMap<String, String>,
    #[serde(default)]
    correlation: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for Envelope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = Wire::deserialize(deserializer)?;
        let principal = wire.process.map(|process| {
            Arc::new(Principal {
                process,
                container: wire.container,
                systemd: wire.systemd,
                k8s: wire.k8s,
            })
        });
        let body = match wire.kind {
            Kind::Usage => Body::Usage(Box::new(Usage {
                direction: due("direction", wire.direction)?,
                exchange: due("exchange", wire.exchange)?,
                principal: due("process", principal)?,
                thread: wire.thread,
                network: due("network", wire.network)?,
                server: due("server", wire.server)?,
                client: wire.client,
                tls: wire.tls,
                http: due("http", wire.http)?,
                rpc: wire.rpc,
                url: due("url", wire.url)?,
                user_agent: wire.user_agent,
                token: due("token", wire.token)?,
                evidence: due("evidence", wire.evidence)?,
                forwarded: wire.forwarded,
                correlation: wire.correlation,
            })),
            Kind::Loss => Body::Loss(Loss {
                loss: due("loss", wire.loss)?,
            }),
            Kind::Coverage => Body::Coverage(Box::new(Coverage {
                coverage: due("coverage", wire.coverage)?,
                principal,
                network: wire.network,
                tls: wire.tls,
            })),
            Kind::Audit => Body::Audit(Audit {
                audit: due("audit", wire.audit)?,
            }),
        };
        Ok(Self {
            version: wire.version,
            time: wire.time,
            observed_time: wire.observed_time,
            producer: wire.producer,
            host: wire.host,
            body,
        })
    }
}

fn due<T, E: Error>(name: &'static str, value: Option<T>) -> Result<T, E> {
    value.ok_or_else(|| E::missing_field(name))
}
