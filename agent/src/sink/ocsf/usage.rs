//! Usage as API Activity.
//!
//! The actor is who used the credential: on the client's side the observed process and its user, on the server's
//! side only the credential itself, because the process observed there is the one that was called.

use super::class::{API_ACTIVITY, Activity, OTHER, Severity};
use super::{actor, endpoint, object, plain};
use agent_common::event::{Direction, Endpoint, Envelope, Usage};
use serde_json::{Map, Value, json};
use std::net::IpAddr;

/// `api.token.type_id`: API Token.
const API_TOKEN: u32 = 7;
/// `observables.type_id`: User Credential ID.
const CREDENTIAL: u32 = 19;
/// `http_method` is a closed set (RFC 9110, and PATCH).
const METHODS: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT",
];

pub fn event(envelope: &Envelope, usage: &Usage) -> Map<String, Value> {
    let mut event = API_ACTIVITY.event(
        activity(&usage.http.request.method),
        Severity::Informational,
    );
    let end = |end: &Endpoint| endpoint::end(&end.address, end.port);
    let (local, peer) = (
        usage.network.local.as_ref().map(end),
        usage.network.peer.as_ref().map(end),
    );
    let (source, destination) = match usage.direction {
        Direction::Client => (local, peer),
        Direction::Server => (peer, local),
    };
    let source = match &usage.client {
        Some(client) => endpoint::end(&client.address, client.port),
        None => source.unwrap_or_else(|| match usage.direction {
            Direction::Client => endpoint::host(envelope),
            Direction::Server => object([("name", json!("unknown"))]),
        }),
    };
    event.insert("src_endpoint".to_owned(), Value::Object(source));
    let mut destination = destination.unwrap_or_default();
    let server = usage.server.address.as_str();
    if !server.is_empty() && server.parse::<IpAddr>().is_err() && !server.starts_with(['/', '@']) {
        destination.insert("hostname".to_owned(), json!(server));
    }
    if destination.is_empty() {
        let name = if server.is_empty() { "unknown" } else { server };
        destination = endpoint::end(name, usage.server.port);
    }
    event.insert("dst_endpoint".to_owned(), Value::Object(destination));
    event.insert("actor".to_owned(), actor_of(usage));
    event.insert("api".to_owned(), api(usage));
    event.insert("http_request".to_owned(), request(usage));
    status(&mut event, usage);
    observables(&mut event, usage);
    event.insert("unmapped".to_owned(), unmapped(usage));
    event
}

/// What a method does by RFC 9110; what POST does is the service's business.
fn activity(method: &str) -> Activity<'_> {
    match method {
        "GET" | "HEAD" | "OPTIONS" | "TRACE" => (2, "Read"),
        "PUT" | "PATCH" => (3, "Update"),
        "DELETE" => (4, "Delete"),
        other => (OTHER, other),
    }
}

fn actor_of(usage: &Usage) -> Value {
    let mut session = Map::new();
    if let Some(fingerprint) = usage.token.fingerprints.first() {
        session.insert("credential_uid".to_owned(), json!(fingerprint.as_str()));
    }
    if let Some(issuer) = usage.token.public.get("iss").and_then(Value::as_str) {
        session.insert("issuer".to_owned(), json!(issuer));
    }
    let mut actor = object([("session", Value::Object(session))]);
    match usage.direction {
        Direction::Client => {
            actor.insert(
                "process".to_owned(),
                actor::process(&usage.principal, usage.thread.as_ref()),
            );
            actor.insert("user".to_owned(), actor::user(&usage.principal.process));
        }
        Direction::Server => {
            // Whom the credential names, if it says so in the open.
            if let Some(name) = &usage.token.user {
                actor.insert("user".to_owned(), json!({ "name": name }));
            }
        }
    }
    Value::Object(actor)
}

fn api(usage: &Usage) -> Value {
    let path = usage.url.template.as_ref().unwrap_or(&usage.url.path);
    let mut token = object([("type_id", json!(API_TOKEN)), ("type", json!("API Token"))]);
    if let Some(fingerprint) = usage.token.fingerprints.first() {
        token.insert("uid".to_owned(), json!(fingerprint.as_str()));
    }
    let provider = usage.token.provider.as_deref();
    if let Some(provider) = provider {
        let name = match &usage.token.class {
            Some(class) => format!("{provider} {class}"),
            None => provider.to_owned(),
        };
        token.insert("name".to_owned(), json!(name));
    }
    let mut api = object([
        (
            "operation",
            json!(format!("{} {path}", usage.http.request.method)),
        ),
        ("token", Value::Object(token)),
    ]);
    if !usage.server.address.is_empty() {
        api.insert(
            "service".to_owned(),
            json!({ "name": usage.server.address }),
        );
    }
    if let Some(response) = &usage.http.response {
        api.insert(
            "response".to_owned(),
            json!({ "code": response.status_code }),
        );
    }
    Value::Object(api)
}

fn request(usage: &Usage) -> Value {
    let url = &usage.url;
    let mut parts = object([("scheme", json!(url.scheme)), ("path", json!(url.path))]);
    if let Some(query) = &url.query {
        parts.insert("query_string".to_owned(), json!(query));
    }
    if !usage.server.address.is_empty() {
        parts.insert("hostname".to_owned(), json!(usage.server.address));
    }
    if let Some(port) = usage.server.port {
        parts.insert("port".to_owned(), json!(port));
    }
    let mut request = object([("url", Value::Object(parts))]);
    let method = usage.http.request.method.as_str();
    if METHODS.contains(&method) {
        request.insert("http_method".to_owned(), json!(method));
    }
    let version = usage.network.protocol.as_ref();
    if let Some(version) = version.and_then(|protocol| protocol.version.as_ref()) {
        request.insert("version".to_owned(), json!(version));
    }
    if let Some(agent) = &usage.user_agent {
        request.insert("user_agent".to_owned(), json!(agent.original));
    }
    let forwarded: Vec<&str> = usage
        .forwarded
        .get("x-forwarded-for")
        .into_iter()
        .flat_map(|list| list.split(','))
        .map(str::trim)
        .filter(|address| address.parse::<IpAddr>().is_ok())
        .collect();
    if !forwarded.is_empty() {
        request.insert("x_forwarded_for".to_owned(), json!(forwarded));
    }
    Value::Object(request)
}

fn status(event: &mut Map<String, Value>, usage: &Usage) {
    let (id, status) = match &usage.http.response {
        Some(response) if response.status_code < 400 => (1, "Success"),
        Some(_) => (2, "Failure"),
        None => (0, "Unknown"),
    };
    event.insert("status_id".to_owned(), json!(id));
    event.insert("status".to_owned(), json!(status));
    if let Some(response) = &usage.http.response {
        let code = response.status_code;
        event.insert("status_code".to_owned(), json!(code.to_string()));
        event.insert("http_response".to_owned(), json!({ "code": code }));
    }
}

/// Every fingerprint, so that a search by one of a key that was rotated out finds it too.
fn observables(event: &mut Map<String, Value>, usage: &Usage) {
    if usage.token.fingerprints.is_empty() {
        return;
    }
    let observables: Vec<Value> = usage
        .token
        .fingerprints
        .iter()
        .map(|fingerprint| {
            json!({
                "name": "actor.session.credential_uid",
                "type_id": CREDENTIAL,
                "type": "User Credential ID",
                "value": fingerprint.as_str(),
            })
        })
        .collect();
    event.insert("observables".to_owned(), Value::Array(observables));
}

/// By tokentrail's names: what has no place above, or only a part of it.
fn unmapped(usage: &Usage) -> Value {
    let mut unmapped = object([
        ("direction", plain(&usage.direction)),
        ("exchange", plain(&usage.exchange)),
        ("token", plain(&usage.token)),
        ("evidence", plain(&usage.evidence)),
        ("process", actor::unmapped(&usage.principal.process)),
        ("network", plain(&usage.network)),
    ]);
    if usage.direction == Direction::Server {
        unmapped.insert(
            "server_process".to_owned(),
            actor::process(&usage.principal, usage.thread.as_ref()),
        );
    }
    let mut put = |name: &str, value: Value| {
        if !value.is_null() && value != json!({}) {
            unmapped.insert(name.to_owned(), value);
        }
    };
    put("tls", plain(&usage.tls));
    put("thread", plain(&usage.thread));
    put("systemd", plain(&usage.principal.systemd));
    put("k8s", plain(&usage.principal.k8s));
    put("template", plain(&usage.url.template));
    put("forwarded", plain(&usage.forwarded));
    put("correlation", plain(&usage.correlation));
    Value::Object(unmapped)
}
