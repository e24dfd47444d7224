//! Connection and TLS facts as events have them.

use super::text::{SHORT, bounded};
use crate::http::head::Version;
use crate::kernel::record::Endpoints;
use crate::tls;
use agent_common::event::{
    Direction, Endpoint, Network, NetworkProtocol, NetworkType, Tls, TlsClient, TlsProtocol,
    Transport,
};

/// The connection, with what is spoken on it if that is known.
#[must_use]
pub fn network(endpoints: &Endpoints, version: Option<Version>) -> Network {
    of(endpoints, version, None)
}

/// As [`network`]; the side tells which end of a Unix socket the path belongs to: the server's is bound to it.
pub(super) fn of(
    endpoints: &Endpoints,
    version: Option<Version>,
    side: Option<Direction>,
) -> Network {
    let protocol = version.map(|version| NetworkProtocol {
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
        Endpoints::Tcp { local, peer } | Endpoints::Udp { local, peer } => Network {
            transport: match endpoints {
                Endpoints::Udp { .. } => Transport::Udp,
                _ => Transport::Tcp,
            },
            network_type: Some(if local.ip().to_canonical().is_ipv4() {
                NetworkType::Ipv4
            } else {
                NetworkType::Ipv6
            }),
            local: Some(Endpoint::tcp(local.ip(), local.port())),
            peer: Some(Endpoint::tcp(peer.ip(), peer.port())),
            protocol,
        },
        Endpoints::Unix { path, .. } => {
            let bound = path.clone().map(|address| Endpoint {
                address: bounded(address, SHORT),
                port: None,
            });
            let (local, peer) = match side {
                Some(Direction::Server) => (bound, None),
                Some(Direction::Client) | None => (None, bound),
            };
            Network {
                transport: Transport::Unix,
                network_type: None,
                local,
                peer,
                protocol,
            }
        }
    }
}

/// What was agreed in the handshake.
#[must_use]
pub fn tls(facts: &tls::Facts) -> Tls {
    Tls {
        protocol: facts.version.and_then(|version| {
            let version = match version {
                0x0301 => "1.0",
                0x0302 => "1.1",
                0x0303 => "1.2",
                0x0304 => "1.3",
                _ => return None,
            };
            Some(TlsProtocol {
                name: "tls".into(),
                version: version.into(),
            })
        }),
        cipher: facts.suite.map(|suite| suite.to_string()),
        next_protocol: facts.alpn.clone().map(|protocol| bounded(protocol, SHORT)),
        client: facts.sni.clone().map(|name| TlsClient {
            server_name: bounded(name, SHORT),
        }),
        resumed: facts.resumed,
    }
}
