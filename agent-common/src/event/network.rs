//! The connection: addresses, protocol, TLS.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// The connection as the observed socket has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Network {
    /// TCP or Unix stream socket.
    pub transport: Transport,
    /// IP version. Absent for Unix sockets. An IPv4 address mapped into IPv6 counts as IPv4.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub network_type: Option<NetworkType>,
    /// The observed process's end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<Endpoint>,
    /// The other end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<Endpoint>,
    /// What is spoken on top.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<NetworkProtocol>,
}

/// Transport protocol.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP, of which only QUIC's is told: as not read.
    Udp,
    /// Unix domain stream socket.
    Unix,
}

/// Network layer.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum NetworkType {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Endpoint {
    /// IP address, or a Unix socket's path (an abstract name begins with `@`).
    pub address: String,
    /// TCP port. Absent for Unix sockets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

impl Endpoint {
    /// A TCP end; an IPv4 address mapped into IPv6 is written as IPv4.
    #[must_use]
    pub fn tcp(address: IpAddr, port: u16) -> Self {
        Self {
            address: address.to_canonical().to_string(),
            port: Some(port),
        }
    }
}

/// Application protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NetworkProtocol {
    /// `http`.
    pub name: String,
    /// `1.0`, `1.1` or `2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// The server, by the name that the client used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Server {
    /// Host name from the request (Host, `:authority` or absolute form), else the TLS server name, else the
    /// server's IP address or Unix socket path. Empty if nothing names it.
    pub address: String,
    /// Port from the request, else the port of the server's end of the connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// The client, by its end of the connection. What a proxy claims about others is in `forwarded`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Client {
    /// IP address, or a Unix socket's path.
    pub address: String,
    /// Port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// The TLS connection around the exchange. Absent in cleartext.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Tls {
    /// Protocol version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<TlsProtocol>,
    /// Cipher suite by its IANA name, for example `TLS_AES_128_GCM_SHA256`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cipher: Option<String>,
    /// The protocol agreed by ALPN, for example `http/1.1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_protocol: Option<String>,
    /// What the client sent in its hello.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<TlsClient>,
    /// The connection resumed an earlier one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumed: Option<bool>,
}

/// A TLS version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TlsProtocol {
    /// `tls`.
    pub name: String,
    /// `1.2` or `1.3`.
    pub version: String,
}

/// What a TLS client said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TlsClient {
    /// Server name indication (RFC 6066).
    pub server_name: String,
}
