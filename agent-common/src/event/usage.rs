//! A credential's use.

use super::{Client, Fingerprint, IdentitySource, Network, Principal, Server, Thread, Tls};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// One credential in one HTTP exchange, as seen at one end of the connection.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Usage {
    /// The side that the observed process was on.
    pub direction: Direction,
    /// The exchange, named the same at both ends.
    pub exchange: Exchange,
    /// Who did it on this host.
    #[serde(flatten)]
    pub principal: Arc<Principal>,
    /// The thread that wrote or read the request's first byte.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<Thread>,
    /// The connection.
    pub network: Network,
    /// The server, by the name that the client used.
    pub server: Server,
    /// The client's end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<Client>,
    /// The TLS connection around it. Absent in cleartext.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Request and response.
    pub http: Http,
    /// The remote procedure call that the exchange is. Absent if it is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpc: Option<Rpc>,
    /// The request's target, secrets replaced.
    pub url: Url,
    /// The client's software.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<UserAgent>,
    /// The credential.
    pub token: Token,
    /// How each part is known.
    pub evidence: Evidence,
    /// Addresses that the request claims it was forwarded for, as it states them, not verified: by
    /// `forwarded` (RFC 7239), `x-forwarded-for`, `proxy-protocol`, ...
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub forwarded: BTreeMap<String, String>,
    /// Request and trace ids of request and response, by an allow-list of header names (`x-request-id`,
    /// `traceparent`, `x-amzn-requestid`, ...): to join with other logs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub correlation: BTreeMap<String, String>,
}

/// The side that the observed process was on.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// It sent the request.
    Client,
    /// It received the request.
    Server,
}

/// One request and its response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Exchange {
    /// 32 hexadecimal digits. Equal in the events of both ends, so that they can be joined, and in all events
    /// of one exchange with several credentials.
    pub id: String,
    /// How the exchange ended, as far as it was seen.
    pub outcome: Outcome,
}

impl Exchange {
    /// An id of its parts, in this order: the connection, which the exchanges of one have in common (so that ids that
    /// are stored together cost little), the request's place on the wire, and the place within the TLS record there.
    #[must_use]
    pub fn name(connection: [u8; 8], place: u32, within: u32) -> String {
        let connection = u128::from(u64::from_be_bytes(connection));
        let name = connection << 64 | u128::from(place) << 32 | u128::from(within);
        format!("{name:032x}")
    }
}

/// How an exchange ended, as far as it was seen.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The final response's head was read.
    Answered,
    /// The connection closed before a final response was seen.
    Closed,
    /// Bytes in which the response's head lay are not known.
    ResponseLost,
    /// The agent stopped, or ran out of room, before a response was seen.
    Unfinished,
}

/// HTTP request and response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Http {
    /// The request.
    pub request: HttpRequest,
    /// The response. Absent if it was not seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<HttpResponse>,
}

/// HTTP request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HttpRequest {
    /// A method registered with IANA, in capitals; `_OTHER` for any other.
    pub method: String,
}

/// HTTP response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HttpResponse {
    /// Status code, 100 to 999.
    pub status_code: u16,
}

/// A remote procedure call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Rpc {
    /// `grpc`.
    pub system: String,
    /// Package and service, as in the request's path. Absent where the path is not of that form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Method of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// What gRPC says of the call beyond the HTTP response. Absent if it was not seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<Grpc>,
}

/// How a gRPC call ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Grpc {
    /// Status code: 0 is OK, 7 PERMISSION_DENIED, 16 UNAUTHENTICATED.
    pub status_code: u16,
}

/// The request's target, secrets replaced by `{secret}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Url {
    /// `http` or `https`, by what was on the connection.
    pub scheme: String,
    /// Path.
    pub path: String,
    /// Query without `?`. Absent where the target has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// The path with variable segments replaced by `{id}`: a guess, derived from the path alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
}

/// The client's software.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UserAgent {
    /// The User-Agent header, secrets replaced.
    pub original: String,
}

/// The credential, without its secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Token {
    /// Its fingerprint under every valid key id, the current one first. Empty if it could not be resolved.
    pub fingerprints: Vec<Fingerprint>,
    /// Whose it looks like: `github`, `slack`, `jwt`, ... Absent if nothing recognised it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Its class within the provider, for example `personal_access_token`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// How it was presented: `Bearer`, `Basic`, `DPoP`, `AWS4-HMAC-SHA256`, `api-key`, ...
    pub scheme: String,
    /// Where it rode: `header:authorization`, `query:access_token`, `form:client_secret`, `cookie:NAME`, `path`,
    /// `userinfo`, `subprotocol`.
    pub carrier: String,
    /// User name that came with it (Basic, Digest), where it is not itself a credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Public facts by their standard names: AWS access key id, JWT claims by an allow-list, a provider's own
    /// public hash.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub public: BTreeMap<String, serde_json::Value>,
    /// Why there is no fingerprint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unresolved: Option<String>,
}

/// How each part of the event is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Evidence {
    /// How the credential is known to belong to this socket.
    pub socket: SocketEvidence,
    /// How the provider is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<ProviderEvidence>,
    /// Where the process's facts come from.
    pub identity: IdentitySource,
    /// The kind of kernel hook that saw the bytes.
    pub hook: Hook,
    /// The file whose key-log point gave the TLS secret, as the agent found it, or with `nested` the library whose calls
    /// gave the plaintext. Absent in cleartext.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub library: Option<String>,
}

/// How a credential is known to belong to a socket.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum SocketEvidence {
    /// Cleartext, read on the socket itself.
    Socket,
    /// A TLS record of this socket, opened by a secret that proved itself by the record's tag.
    Record,
    /// Bridge: the TLS library's own calls gave the plaintext, and made the calls on this socket, on the same thread. Of
    /// connections that were open before the agent; their TLS version and cipher are not known.
    Nested,
    /// Bridge: the program gave the TLS library this descriptor.
    SetFd,
    /// Bridge: the ciphertext's prefix was met on this socket.
    Prefix,
    /// Bridge: the same thread used this socket next. Not certain.
    Thread,
    /// Nothing ties it to a socket.
    None,
}

/// How a provider is known.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum ProviderEvidence {
    /// Prefix, alphabet and length fit.
    Shape,
    /// The token's own check digits agree as well.
    Checksum,
    /// A claim within it names the issuer. Its signature is not verified.
    Claim,
}

/// The kind of kernel hook that saw the bytes.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Hook {
    /// fentry and fexit on the socket functions.
    Fentry,
    /// Raw tracepoints on system calls.
    RawTracepoint,
    /// Replayed from a file, in tests.
    Replay,
}
