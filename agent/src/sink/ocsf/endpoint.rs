//! Ends of connections, TLS, times.

use super::object;
use agent_common::event::{Envelope, Network, NetworkType, Time, Tls, Transport};
use serde_json::{Map, Value, json};
use std::net::IpAddr;

/// Milliseconds since the Unix epoch, OCSF's `timestamp_t`.
pub fn millis(time: Time) -> i64 {
    i64::try_from(time.unix_nanos().div_euclid(1_000_000)).unwrap_or(i64::MAX)
}

/// One end: an address that is one is `ip`, a socket's path and everything else is `name`.
pub fn end(address: &str, port: Option<u16>) -> Map<String, Value> {
    let name = match address.parse::<IpAddr>() {
        Ok(_) => "ip",
        Err(_) => "name",
    };
    let mut end = object([(name, json!(address))]);
    if let Some(port) = port {
        end.insert("port".to_owned(), json!(port));
    }
    end
}

/// This host as an end, where no address is known.
pub fn host(envelope: &Envelope) -> Map<String, Value> {
    object([("hostname", json!(envelope.host.name))])
}

/// `direction` as OCSF has it: 0 unknown, 1 inbound, 2 outbound.
pub fn connection(network: &Network, direction: u32) -> Value {
    let mut info = object([
        ("direction_id", json!(direction)),
        (
            "direction",
            json!(match direction {
                1 => "Inbound",
                2 => "Outbound",
                _ => "Unknown",
            }),
        ),
    ]);
    match network.transport {
        Transport::Tcp => {
            info.insert("protocol_name".to_owned(), json!("tcp"));
            info.insert("protocol_num".to_owned(), json!(6));
        }
        Transport::Udp => {
            info.insert("protocol_name".to_owned(), json!("udp"));
            info.insert("protocol_num".to_owned(), json!(17));
        }
        Transport::Unix => {
            info.insert("protocol_name".to_owned(), json!("unix"));
        }
    }
    let version = match network.network_type {
        Some(NetworkType::Ipv4) => Some((4, "Internet Protocol version 4 (IPv4)")),
        Some(NetworkType::Ipv6) => Some((6, "Internet Protocol version 6 (IPv6)")),
        None => None,
    };
    if let Some((id, name)) = version {
        info.insert("protocol_ver_id".to_owned(), json!(id));
        info.insert("protocol_ver".to_owned(), json!(name));
    }
    Value::Object(info)
}

/// OCSF asks for the version, so without one there is nothing.
pub fn tls(tls: &Tls) -> Option<Value> {
    let protocol = tls.protocol.as_ref()?;
    let mut object = object([("version", json!(protocol.version))]);
    if let Some(cipher) = &tls.cipher {
        object.insert("cipher".to_owned(), json!(cipher));
    }
    if let Some(client) = &tls.client {
        object.insert("sni".to_owned(), json!(client.server_name));
    }
    Some(Value::Object(object))
}
