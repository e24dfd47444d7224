//! A name for an exchange that both ends of a connection give alike.
//!
//! It is the begin of a SHA-256 over the unordered pair of ends, and behind it, as it is, the request's place on the
//! wire: ids of one connection begin alike, and a collector stores that once. For TCP that place is the sequence number of the byte, or of the TLS record that carried it, which both ends see (also on two
//! hosts, unless an address is translated between them); the network namespace is added for loopback addresses,
//! because every namespace has the same ones. A Unix connection is named by its client's socket (the server's has no
//! inode number before it is accepted), and the place is the offset since the connection began, so that a connection
//! that was open before the agent may have two names.

use super::Facts;
use crate::flow::Direction;
use crate::http::head::Exchange;
use crate::kernel::record::Endpoints;
use agent_common::event;
use sha2::{Digest as _, Sha256};
use std::net::{IpAddr, SocketAddr};

pub(super) fn of(exchange: &Exchange, facts: &Facts<'_>) -> String {
    let mut hash = Sha256::new();
    let origin = exchange.request.origin;
    let place = match facts.endpoints {
        Endpoints::Tcp { local, peer } | Endpoints::Udp { local, peer } => {
            let (local, peer) = (canonical(local), canonical(peer));
            hash.update(match facts.endpoints {
                Endpoints::Udp { .. } => b"tokentrail exchange 2 udp\0",
                _ => b"tokentrail exchange 2 tcp\0",
            });
            for (address, port) in [local.min(peer), local.max(peer)] {
                match address {
                    IpAddr::V4(address) => hash.update(address.to_ipv6_mapped().octets()),
                    IpAddr::V6(address) => hash.update(address.octets()),
                }
                hash.update(port.to_be_bytes());
            }
            let loopback = local.0.is_loopback() || peer.0.is_loopback();
            let namespace = if loopback {
                facts.caller.network_namespace
            } else {
                0
            };
            hash.update(namespace.to_be_bytes());
            match facts.sequence {
                Some(sequence) => sequence,
                // No one else can name it then, but the exchanges of a connection still differ.
                None => offset(b"offset\0", &mut hash, origin.wire),
            }
        }
        Endpoints::Unix { peer_inode, .. } => {
            let client = match exchange.request_direction {
                Direction::Sent => facts.connection.inode,
                Direction::Received => *peer_inode,
            };
            hash.update(b"tokentrail exchange 2 unix\0");
            hash.update(client.to_be_bytes());
            offset(b"", &mut hash, origin.wire)
        }
    };
    let digest = hash.finalize();
    let mut connection = [0; 8];
    connection.copy_from_slice(&digest[..8]);
    event::Exchange::name(connection, place, origin.within)
}

/// The low half of an offset; the high half is a part of the connection.
fn offset(mark: &[u8], hash: &mut Sha256, wire: u64) -> u32 {
    hash.update(mark);
    hash.update((wire >> 32).to_be_bytes());
    wire as u32
}

/// A dual-stack server sees an IPv4 client as `::ffff:a.b.c.d`, and the client does not.
fn canonical(end: &SocketAddr) -> (IpAddr, u16) {
    (end.ip().to_canonical(), end.port())
}
