//! Exchange, observations and identity to usage events.
//!
//! Invariant: takes only what is sanitised: no payload, no header value reaches an event from here.
//! Invariant: `exchange.id` depends on nothing but what both ends of a connection see alike.

use crate::{
    credential::observation::{Observation, Observed},
    flow::Direction,
    http::head::{Exchange, Outcome, Version},
    identity::Identity,
    kernel::{
        points::Attached,
        record::{Caller, ConnectionKey, Endpoints},
    },
    tls,
};
use agent_common::event::{self, Fingerprint, Network, Tls, Usage};
use sha2::{Digest as _, Sha256};
use std::net::SocketAddr;

/// What is known around an exchange.
pub struct Facts<'a> {
    pub endpoints: &'a Endpoints,
    pub connection: ConnectionKey,
    /// TCP sequence number of what carried the request's first byte.
    pub sequence: Option<u32>,
    pub caller: &'a Caller,
    pub identity: &'a Identity,
    pub tls: Option<&'a tls::Facts>,
    /// The point whose secret opened the connection.
    pub library: Option<Attached>,
    pub hook: event::Hook,
}

/// A fingerprint that has not the form of one: nothing of it is passed on.
#[derive(Debug, thiserror::Error)]
#[error("a fingerprint has not the form of one")]
pub struct NotAFingerprint;

/// One event per observation.
pub fn build(
    exchange: &Exchange,
    observed: Observed,
    facts: &Facts<'_>,
) -> impl Iterator<Item = Result<Usage, NotAFingerprint>> {
    let side = match exchange.request_direction {
        Direction::Sent => event::Direction::Client,
        Direction::Received => event::Direction::Server,
    };
    let network = network(facts.endpoints, Some(exchange.request.version));
    let (client_end, server_end) = match side {
        event::Direction::Client => (network.local.as_ref(), network.peer.as_ref()),
        event::Direction::Server => (network.peer.as_ref(), network.local.as_ref()),
    };
    let sanitized = observed.sanitized;
    let server = event::Server {
        address: sanitized
            .host
            .clone()
            .or_else(|| facts.tls.and_then(|tls| tls.sni.clone()))
            .or_else(|| server_end.map(|end| end.address.clone()))
            .unwrap_or_default(),
        port: sanitized.port.or_else(|| server_end.and_then(|end| end.port)),
    };
    let client = client_end.map(|end| event::Client { address: end.address.clone(), port: end.port });
    let common = Usage {
        direction: side,
        exchange: event::Exchange { id: exchange_id(exchange, facts), outcome: outcome(exchange.outcome) },
        principal: facts.identity.principal.clone(),
        thread: Some(event::Thread { id: facts.caller.thread, name: Some(facts.caller.comm.clone()) }),
        network,
        server,
        client,
        tls: facts.tls.map(tls),
        http: event::Http {
            request: event::HttpRequest { method: method(&exchange.request.method).to_owned() },
            response: exchange.response.as_ref().map(|head| event::HttpResponse { status_code: head.status }),
        },
        url: event::Url {
            scheme: if facts.tls.is_some() { "https" } else { "http" }.into(),
            path: sanitized.path,
            query: sanitized.query,
            template: Some(sanitized.template).filter(|template| !template.is_empty()),
        },
        user_agent: sanitized.user_agent.map(|original| event::UserAgent { original }),
        token: blank(),
        evidence: event::Evidence {
            socket: if facts.tls.is_some() { event::SocketEvidence::Record } else { event::SocketEvidence::Socket },
            provider: None,
            identity: facts.identity.source,
            hook: facts.hook,
            library: facts.library.as_ref().map(|point| point.path.display().to_string()),
        },
        forwarded: sanitized.forwarded,
        correlation: sanitized.ids,
    };
    let mut left = observed.observations.len();
    let mut common = Some(common);
    observed.observations.into_iter().filter_map(move |observation| {
        left -= 1;
        // The last one, mostly the only one, needs no copy.
        let common = if left == 0 { common.take() } else { common.clone() };
        common.map(|common| with_credential(common, observation))
    })
}

fn blank() -> event::Token {
    event::Token {
        fingerprints: Vec::new(),
        provider: None,
        class: None,
        scheme: String::new(),
        carrier: String::new(),
        user: None,
        public: Default::default(),
        unresolved: None,
    }
}

fn with_credential(mut usage: Usage, observation: Observation) -> Result<Usage, NotAFingerprint> {
    let fingerprints: Result<Vec<Fingerprint>, _> =
        observation.fingerprints.iter().map(|text| text.parse()).collect();
    let (provider, class, evidence) = match observation.provider {
        Some(provider) => (Some(provider.name), provider.class, Some(provider.evidence)),
        None => (None, None, None),
    };
    usage.evidence.provider = evidence.and_then(|evidence| match evidence {
        "shape" => Some(event::ProviderEvidence::Shape),
        "checksum" => Some(event::ProviderEvidence::Checksum),
        "claim" => Some(event::ProviderEvidence::Claim),
        _ => None,
    });
    usage.token = event::Token {
        fingerprints: fingerprints.map_err(|_| NotAFingerprint)?,
        provider,
        class,
        scheme: observation.scheme,
        carrier: observation.carrier,
        user: observation.user,
        public: observation.public,
        unresolved: observation.unresolved,
    };
    Ok(usage)
}

fn outcome(outcome: Outcome) -> event::Outcome {
    match outcome {
        Outcome::Answered => event::Outcome::Answered,
        Outcome::Closed => event::Outcome::Closed,
        Outcome::ResponseLost => event::Outcome::ResponseLost,
        Outcome::Unfinished => event::Outcome::Unfinished,
    }
}

/// Registered methods (RFC 9110, 5789, 4918, 3253, ...); others could hold anything.
fn method(method: &str) -> &str {
    const REGISTERED: &[&str] = &[
        "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "COPY", "LOCK", "MKCOL", "MOVE",
        "PROPFIND", "PROPPATCH", "UNLOCK", "SEARCH", "REPORT", "LINK", "UNLINK", "QUERY",
    ];
    if REGISTERED.contains(&method) { method } else { "_OTHER" }
}

/// The connection, with what is spoken on it if that is known.
pub fn network(endpoints: &Endpoints, version: Option<Version>) -> Network {
    let protocol = version.map(|version| event::NetworkProtocol {
        name: "http".into(),
        version: Some(
            match version {
                Version::Http10 => "1.0",
                Version::Http11 => "1.1",
                Version::Http2 => "2",
            }
            .into(),
        ),
    });
    match endpoints {
        Endpoints::Tcp { local, peer } => Network {
            transport: event::Transport::Tcp,
            network_type: Some(if local.ip().to_canonical().is_ipv4() {
                event::NetworkType::Ipv4
            } else {
                event::NetworkType::Ipv6
            }),
            local: Some(event::Endpoint::tcp(local.ip(), local.port())),
            peer: Some(event::Endpoint::tcp(peer.ip(), peer.port())),
            protocol,
        },
        Endpoints::Unix { path, .. } => {
            let end = path.clone().map(|address| event::Endpoint { address, port: None });
            Network { transport: event::Transport::Unix, network_type: None, local: end.clone(), peer: end, protocol }
        }
    }
}

pub fn tls(facts: &tls::Facts) -> Tls {
    Tls {
        protocol: facts.version.and_then(|version| {
            let version = match version {
                0x0303 => "1.2",
                0x0304 => "1.3",
                _ => return None,
            };
            Some(event::TlsProtocol { name: "tls".into(), version: version.into() })
        }),
        cipher: facts.suite.map(|suite| suite.to_string()),
        next_protocol: facts.alpn.clone(),
        client: facts.sni.clone().map(|server_name| event::TlsClient { server_name }),
        resumed: None,
    }
}

/// Names an exchange alike at both ends: the unordered pair of ends, the place of the request on the connection, and,
/// for loopback addresses, which every network namespace has, the namespace.
fn exchange_id(exchange: &Exchange, facts: &Facts<'_>) -> String {
    let mut hash = Sha256::new();
    match facts.endpoints {
        Endpoints::Tcp { local, peer } => {
            let canonical = |end: &SocketAddr| (end.ip().to_canonical(), end.port());
            let (mut first, mut second) = (canonical(local), canonical(peer));
            if first > second {
                std::mem::swap(&mut first, &mut second);
            }
            hash.update(format!("tcp {}:{} {}:{}", first.0, first.1, second.0, second.1));
            if first.0.is_loopback() || second.0.is_loopback() {
                hash.update(facts.caller.network_namespace.to_be_bytes());
            }
            hash.update(facts.sequence.unwrap_or(0).to_be_bytes());
        }
        Endpoints::Unix { peer_inode, .. } => {
            let (own, peer) = (facts.connection.inode, *peer_inode);
            hash.update(format!("unix {} {}", own.min(peer), own.max(peer)));
            hash.update(exchange.request.origin.wire.to_be_bytes());
        }
    }
    hash.update(exchange.request.origin.within.to_be_bytes());
    let mut id = String::with_capacity(32);
    for byte in &hash.finalize()[..16] {
        for digit in [byte >> 4, byte & 15] {
            id.extend(char::from_digit(u32::from(digit), 16));
        }
    }
    id
}
