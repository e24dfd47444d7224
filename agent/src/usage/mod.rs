//! Exchange, observations and identity to usage events.
//!
//! One event per observation; what an exchange's events share is made once. Text out of traffic is bounded here, so
//! that no request can make an event of any size.
//!
//! Invariant: takes only what is sanitised: no payload, no header value reaches an event from here.
//! Invariant: `exchange.id` depends on nothing but what both ends of a connection see alike ([`exchange_id`]).

pub mod exchange_id;
mod method;
pub mod network;
#[cfg(test)]
mod tests;
mod text;

pub use network::{network, tls};

use crate::{
    credential::observation::{Observation, Observed, Sanitized},
    flow::Direction,
    http::{
        grpc,
        head::{Exchange, Outcome},
    },
    identity::Identity,
    kernel::record::{Caller, ConnectionKey, Endpoints},
    tls,
};
use agent_common::event::{self, Fingerprint, Usage};
use std::path::PathBuf;
use text::{LONG, SHORT, bounded, bounded_map};

/// What is known around an exchange.
pub struct Facts<'a> {
    pub endpoints: &'a Endpoints,
    pub connection: ConnectionKey,
    /// TCP sequence number of what carried the request's first byte.
    pub sequence: Option<u32>,
    pub caller: &'a Caller,
    pub identity: &'a Identity,
    pub tls: Option<&'a tls::Facts>,
    /// The file of the point whose secret opened the connection, or of the library that gave its plaintext.
    pub library: Option<PathBuf>,
    /// The library's own calls gave it.
    pub nested: bool,
    /// The kernel makes and opens the records.
    pub by_kernel: bool,
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
    let mut observations = observed.observations.into_iter();
    let mut common = (observations.len() > 0).then(|| common(exchange, observed.sanitized, facts));
    std::iter::from_fn(move || {
        let observation = observations.next()?;
        // The last event takes what they share, the others a copy.
        let shared = if observations.len() == 0 {
            common.take()
        } else {
            common.clone()
        };
        shared.map(|shared| with_credential(shared, observation))
    })
}

fn common(exchange: &Exchange, sanitized: Sanitized, facts: &Facts<'_>) -> Usage {
    let side = match exchange.request_direction {
        Direction::Sent => event::Direction::Client,
        Direction::Received => event::Direction::Server,
    };
    let network = network::of(facts.endpoints, Some(exchange.request.version), Some(side));
    let (client_end, server_end) = match side {
        event::Direction::Client => (&network.local, &network.peer),
        event::Direction::Server => (&network.peer, &network.local),
    };
    let server = server(&sanitized, facts.tls, server_end.as_ref());
    let client = client_end.clone().map(|end| event::Client {
        address: end.address,
        port: end.port,
    });
    let comm = Some(bounded(facts.caller.comm.clone(), SHORT)).filter(|comm| !comm.is_empty());
    Usage {
        direction: side,
        exchange: event::Exchange {
            id: exchange_id::of(exchange, facts),
            outcome: outcome(exchange.outcome),
        },
        principal: facts.identity.principal.clone(),
        thread: Some(event::Thread {
            id: facts.caller.thread,
            name: comm,
        }),
        network,
        server,
        client,
        tls: facts.tls.map(network::tls),
        http: event::Http {
            request: event::HttpRequest {
                method: method::registered(&exchange.request.method).to_owned(),
            },
            response: exchange.response.as_ref().map(|head| event::HttpResponse {
                status_code: head.status,
            }),
        },
        rpc: grpc::is_call(&exchange.request).then(|| rpc(exchange, &sanitized.path)),
        url: event::Url {
            scheme: if facts.tls.is_some() { "https" } else { "http" }.into(),
            path: bounded(sanitized.path, LONG),
            query: sanitized.query.map(|query| bounded(query, LONG)),
            template: Some(bounded(sanitized.template, LONG))
                .filter(|template| !template.is_empty()),
        },
        user_agent: sanitized.user_agent.map(|original| event::UserAgent {
            original: bounded(original, SHORT),
        }),
        token: blank(),
        evidence: event::Evidence {
            socket: match facts.tls {
                _ if facts.nested => event::SocketEvidence::Nested,
                Some(_) if !facts.by_kernel => event::SocketEvidence::Record,
                _ => event::SocketEvidence::Socket,
            },
            provider: None,
            identity: facts.identity.source,
            hook: facts.hook,
            library: facts
                .library
                .as_ref()
                .map(|path| path.display().to_string()),
        },
        forwarded: bounded_map(sanitized.forwarded),
        correlation: bounded_map(sanitized.ids),
    }
}

/// By the name that the client used: in the request, in its TLS hello, else by the server's end.
fn server(
    sanitized: &Sanitized,
    tls: Option<&tls::Facts>,
    end: Option<&event::Endpoint>,
) -> event::Server {
    let address = sanitized
        .host
        .clone()
        .or_else(|| tls?.sni.clone())
        .or_else(|| Some(end?.address.clone()))
        .unwrap_or_default();
    event::Server {
        address: bounded(address, SHORT),
        port: sanitized.port.or_else(|| end?.port),
    }
}

fn rpc(exchange: &Exchange, path: &str) -> event::Rpc {
    let called = grpc::called(path);
    let name = |text: &str| bounded(text.to_owned(), SHORT);
    event::Rpc {
        system: "grpc".into(),
        service: called.as_ref().map(|called| name(called.service)),
        method: called.as_ref().map(|called| name(called.method)),
        grpc: exchange
            .grpc_status
            .map(|status_code| event::Grpc { status_code }),
    }
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
    let fingerprints: Result<Vec<Fingerprint>, _> = observation
        .fingerprints
        .into_iter()
        .map(Fingerprint::try_from)
        .collect();
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
        scheme: bounded(observation.scheme, SHORT),
        carrier: bounded(observation.carrier, SHORT),
        user: observation.user.map(|user| bounded(user, SHORT)),
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
