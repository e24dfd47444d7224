//! Events from exchanges whose every payload holds a canary.

use super::*;
use crate::credential::observation::Provider;
use crate::flow::{Origin, Payload};
use crate::http::head::{BodyPrefix, Headers, RequestHead, ResponseHead, Version};
use crate::identity::{Options, ProcessTable};
use crate::kernel::record::ProcessKey;
use agent_common::event::IdentitySource;
use std::collections::{BTreeMap, HashSet};

const CANARY: &str = "canary-secret-5f2a";

fn canary() -> Payload {
    Payload::copy_from(format!("/x?access_token={CANARY}").as_bytes())
}

fn exchange(direction: Direction) -> Exchange {
    let value = canary();
    let fields: [(&[u8], &[u8]); 2] = [(b"authorization", &value), (b"host", &value)];
    let headers = Headers::of(fields.into_iter());
    let body = BodyPrefix {
        bytes: canary(),
        whole: true,
    };
    Exchange {
        request_direction: direction,
        request: RequestHead {
            time: 1,
            origin: Origin {
                wire: 100,
                within: 0,
            },
            version: Version::Http11,
            method: "GET".into(),
            target: canary(),
            headers: headers.clone(),
        },
        request_body: body.clone(),
        response: Some(ResponseHead {
            time: 2,
            origin: Origin { wire: 0, within: 0 },
            version: Version::Http11,
            status: 401,
            headers,
        }),
        response_body: body,
        grpc_status: None,
        outcome: Outcome::Answered,
        proxy_claim: None,
    }
}

fn fingerprint(kid: &str) -> String {
    format!("tkf1:{kid}:{}", "a".repeat(43))
}

fn observation(carrier: &str) -> Observation {
    Observation {
        fingerprints: vec![fingerprint("new"), fingerprint("old")],
        carrier: carrier.into(),
        scheme: "Bearer".into(),
        provider: Some(Provider {
            name: "github".into(),
            class: Some("personal_access_token".into()),
            evidence: "checksum",
        }),
        unresolved: None,
        user: Some("alice".into()),
        public: BTreeMap::from([("iss".into(), "https://issuer.example".into())]),
    }
}

fn observed(observations: Vec<Observation>) -> Observed {
    Observed {
        observations,
        sanitized: Sanitized {
            path: "/x".into(),
            query: Some("access_token={secret}".into()),
            template: "/x".into(),
            host: Some("api.example".into()),
            port: None,
            user_agent: Some("curl/8".into()),
            ids: BTreeMap::from([("x-request-id".into(), "r1".into())]),
            forwarded: BTreeMap::from([("x-forwarded-for".into(), "192.0.2.1".into())]),
        },
    }
}

/// Where an event is seen from.
struct Scene {
    endpoints: Endpoints,
    inode: u64,
    sequence: Option<u32>,
    caller: Caller,
    identity: Identity,
    tls: Option<tls::Facts>,
}

fn tcp(local: &str, peer: &str) -> Endpoints {
    Endpoints::Tcp {
        local: local.parse().unwrap(),
        peer: peer.parse().unwrap(),
    }
}

fn unix(path: Option<&str>, peer_inode: u64) -> Endpoints {
    Endpoints::Unix {
        path: path.map(str::to_owned),
        peer_inode,
    }
}

impl Scene {
    fn new(endpoints: Endpoints) -> Self {
        let caller = Caller {
            process: ProcessKey {
                pid: 4711,
                start: 7,
            },
            thread: 4712,
            uid: 1000,
            gid: 1000,
            cgroup: 9,
            network_namespace: 11,
            comm: "curl".into(),
        };
        Self {
            identity: identity(&caller),
            endpoints,
            inode: 21,
            sequence: Some(5000),
            caller,
            tls: None,
        }
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            endpoints: &self.endpoints,
            connection: ConnectionKey {
                sock: 1,
                inode: self.inode,
            },
            sequence: self.sequence,
            caller: &self.caller,
            identity: &self.identity,
            tls: self.tls.as_ref(),
            library: None,
            nested: false,
            by_kernel: false,
            hook: event::Hook::Replay,
        }
    }

    fn build(&self, exchange: &Exchange) -> Usage {
        let observed = observed(vec![observation("header:authorization")]);
        build(exchange, observed, &self.facts())
            .next()
            .unwrap()
            .unwrap()
    }

    fn id(&self, exchange: &Exchange) -> String {
        self.build(exchange).exchange.id
    }
}

/// Of a process that nobody knows, made without a table where there is no cgroup v2.
fn identity(caller: &Caller) -> Identity {
    let principal = serde_json::json!({
        "process": {
            "pid": caller.process.pid, "creation": { "time": "2026-01-01T00:00:00Z" }, "executable": {},
            "real_user": { "id": caller.uid }, "real_group_id": caller.gid,
            "linux": { "cgroup_id": caller.cgroup, "network_namespace": caller.network_namespace }
        }
    });
    Identity {
        principal: std::sync::Arc::new(serde_json::from_value(principal).unwrap()),
        source: IdentitySource::Call,
    }
}

#[test]
fn an_event_has_everything_and_no_canary() {
    let mut scene = Scene::new(tcp("[::ffff:127.0.0.1]:40000", "127.0.0.1:8443"));
    scene.tls = Some(tls::Facts {
        version: Some(0x0304),
        sni: Some("sni.example".into()),
        alpn: Some("http/1.1".into()),
        proven: true,
        ..tls::Facts::default()
    });
    let usage = scene.build(&exchange(Direction::Sent));
    let text = serde_json::to_string(&usage).unwrap();
    assert!(!text.contains("canary"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (pointer, expected) in [
        ("/direction", "client"),
        ("/exchange/outcome", "answered"),
        ("/network/transport", "tcp"),
        ("/network/type", "ipv4"),
        ("/network/local/address", "127.0.0.1"),
        ("/network/peer/address", "127.0.0.1"),
        ("/network/protocol/version", "1.1"),
        ("/server/address", "api.example"),
        ("/client/address", "127.0.0.1"),
        ("/tls/protocol/version", "1.3"),
        ("/tls/client/server_name", "sni.example"),
        ("/http/request/method", "GET"),
        ("/url/scheme", "https"),
        ("/url/query", "access_token={secret}"),
        ("/token/provider", "github"),
        ("/token/user", "alice"),
        ("/evidence/socket", "record"),
        ("/evidence/provider", "checksum"),
        ("/evidence/identity", "call"),
        ("/forwarded/x-forwarded-for", "192.0.2.1"),
        ("/correlation/x-request-id", "r1"),
        ("/thread/name", "curl"),
    ] {
        assert_eq!(
            json.pointer(pointer).and_then(|value| value.as_str()),
            Some(expected),
            "{pointer}"
        );
    }
    for (pointer, expected) in [
        ("/server/port", 8443),
        ("/client/port", 40_000),
        ("/http/response/status_code", 401),
        ("/thread/id", 4712),
        ("/process/pid", 4711),
    ] {
        assert_eq!(
            json.pointer(pointer).and_then(|value| value.as_u64()),
            Some(expected),
            "{pointer}"
        );
    }
    assert_eq!(usage.token.fingerprints.len(), 2);
}

#[test]
fn cleartext_from_the_servers_side() {
    let scene = Scene::new(tcp("10.0.0.1:80", "10.0.0.2:40000"));
    let usage = scene.build(&exchange(Direction::Received));
    assert_eq!(usage.direction, event::Direction::Server);
    assert_eq!(usage.url.scheme, "http");
    assert_eq!(usage.evidence.socket, event::SocketEvidence::Socket);
    assert_eq!(usage.server.port, Some(80));
    let client = usage.client.unwrap();
    assert_eq!(
        (client.address.as_str(), client.port),
        ("10.0.0.2", Some(40_000))
    );
    assert_eq!(usage.tls, None);
}

#[test]
fn both_ends_of_a_connection_give_one_name() {
    let named = |endpoints: Endpoints, inode: u64, direction: Direction| {
        let mut scene = Scene::new(endpoints);
        scene.inode = inode;
        scene.id(&exchange(direction))
    };
    for (client, server) in [
        (
            tcp("127.0.0.1:40000", "127.0.0.1:80"),
            tcp("127.0.0.1:80", "127.0.0.1:40000"),
        ),
        (
            tcp("127.0.0.1:40000", "127.0.0.1:80"),
            tcp("[::ffff:127.0.0.1]:80", "[::ffff:127.0.0.1]:40000"),
        ),
        (
            tcp("[::1]:40000", "[::1]:80"),
            tcp("[::1]:80", "[::1]:40000"),
        ),
        (
            tcp("10.0.0.1:80", "10.0.0.1:80"),
            tcp("10.0.0.1:80", "10.0.0.1:80"),
        ),
        (unix(Some("/run/x"), 22), unix(None, 21)),
    ] {
        let (own, peer) = match client {
            Endpoints::Unix { .. } => (21, 22),
            Endpoints::Tcp { .. } | Endpoints::Udp { .. } => (31, 32),
        };
        assert_eq!(
            named(client.clone(), own, Direction::Sent),
            named(server, peer, Direction::Received),
            "{client:?}"
        );
    }
}

#[test]
fn different_exchanges_have_different_names() {
    let mut names = HashSet::new();
    let mut other = |scene: &Scene, exchange: &Exchange| {
        let name = scene.id(exchange);
        assert!(
            name.len() == 32
                && name
                    .bytes()
                    .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        );
        assert!(
            names.insert(name),
            "{:?} {:?}",
            scene.endpoints,
            scene.sequence
        );
    };
    let local = "127.0.0.1:40000";
    let mut scene = Scene::new(tcp(local, "127.0.0.1:80"));
    let mut request = exchange(Direction::Sent);
    other(&scene, &request);
    scene.sequence = Some(5001);
    other(&scene, &request);
    scene.caller.network_namespace = 12;
    other(&scene, &request);
    request.request.origin.within = 7;
    other(&scene, &request);
    scene.sequence = None;
    other(&scene, &request);
    request.request.origin.wire = 101;
    other(&scene, &request);
    other(&Scene::new(tcp(local, "127.0.0.1:81")), &request);
    other(
        &Scene::new(tcp("127.0.0.1:40001", "127.0.0.1:80")),
        &request,
    );
    let mut scene = Scene::new(unix(None, 22));
    other(&scene, &request);
    request.request.origin.wire = 102;
    other(&scene, &request);
    scene.inode = 23;
    other(&scene, &request);
    // The namespace says nothing about addresses that are the same everywhere.
    let mut scene = Scene::new(tcp("10.0.0.1:40000", "10.0.0.2:80"));
    let name = scene.id(&request);
    scene.caller.network_namespace = 13;
    assert_eq!(scene.id(&request), name);
}

#[test]
fn the_path_of_a_unix_socket_is_the_servers() {
    let scene = Scene::new(unix(Some("/run/engine.sock"), 22));
    let client = scene.build(&exchange(Direction::Sent)).network;
    assert_eq!(
        (client.local, client.peer.unwrap().address.as_str()),
        (None, "/run/engine.sock")
    );
    let server = scene.build(&exchange(Direction::Received)).network;
    assert_eq!(
        (server.local.unwrap().address.as_str(), server.peer),
        ("/run/engine.sock", None)
    );
    let unknown = network(&scene.endpoints, None);
    assert_eq!(unknown.transport, event::Transport::Unix);
}

#[test]
fn each_observation_is_an_event() {
    let scene = Scene::new(tcp("127.0.0.1:40000", "127.0.0.1:80"));
    let many = (0..5)
        .map(|number| observation(&format!("header:x-{number}")))
        .collect();
    let events: Vec<_> = build(&exchange(Direction::Sent), observed(many), &scene.facts())
        .map(|usage| usage.unwrap())
        .collect();
    let carriers: Vec<_> = events
        .iter()
        .map(|usage| usage.token.carrier.as_str())
        .collect();
    assert_eq!(
        carriers,
        [
            "header:x-0",
            "header:x-1",
            "header:x-2",
            "header:x-3",
            "header:x-4"
        ]
    );
    assert!(
        events
            .iter()
            .all(|usage| usage.exchange.id == events[0].exchange.id)
    );
    assert!(events.iter().all(|usage| usage.url.path == "/x"));
    assert_eq!(
        build(
            &exchange(Direction::Sent),
            observed(Vec::new()),
            &scene.facts()
        )
        .count(),
        0
    );
}

#[test]
fn a_raw_credential_cannot_pass_as_a_fingerprint() {
    let scene = Scene::new(tcp("127.0.0.1:40000", "127.0.0.1:80"));
    let mut raw = observation("header:authorization");
    raw.fingerprints.push(CANARY.into());
    let both = observed(vec![raw, observation("query:access_token")]);
    let results: Vec<_> = build(&exchange(Direction::Sent), both, &scene.facts()).collect();
    let error = results[0].as_ref().unwrap_err().to_string();
    assert!(!error.contains("canary"));
    assert!(results[1].is_ok());
}

#[test]
fn names_fall_back_in_order() {
    let mut scene = Scene::new(tcp("127.0.0.1:40000", "127.0.0.1:8443"));
    scene.tls = Some(tls::Facts {
        sni: Some("sni.example".into()),
        ..tls::Facts::default()
    });
    let address = |scene: &Scene, host: Option<&str>| {
        let mut observed = observed(vec![observation("path")]);
        observed.sanitized.host = host.map(str::to_owned);
        let usage = build(&exchange(Direction::Sent), observed, &scene.facts())
            .next()
            .unwrap()
            .unwrap();
        usage.server.address
    };
    assert_eq!(address(&scene, Some("host.example")), "host.example");
    assert_eq!(address(&scene, None), "sni.example");
    scene.tls = None;
    assert_eq!(address(&scene, None), "127.0.0.1");
    scene.endpoints = unix(None, 0);
    assert_eq!(address(&scene, None), "");
}

#[test]
fn no_request_makes_an_event_of_any_size() {
    let scene = Scene::new(tcp("127.0.0.1:40000", "127.0.0.1:80"));
    let mut request = exchange(Direction::Sent);
    request.request.method = "M".repeat(60_000);
    let huge = "é".repeat(30_000);
    let mut observed = observed(vec![observation(&huge)]);
    let sanitized = &mut observed.sanitized;
    sanitized.path = huge.clone();
    sanitized.template = huge.clone();
    sanitized.query = Some(huge.clone());
    sanitized.user_agent = Some(huge.clone());
    sanitized.host = Some(huge.clone());
    sanitized.ids = (0..1000)
        .map(|number| (number.to_string(), huge.clone()))
        .collect();
    let usage = build(&request, observed, &scene.facts())
        .next()
        .unwrap()
        .unwrap();
    assert!(serde_json::to_string(&usage).unwrap().len() < 100_000);
    assert_eq!(usage.http.request.method, "_OTHER");
}

#[test]
fn a_real_process_is_its_own_principal() {
    let Ok(mut table) = ProcessTable::new(Options::new(|_, _| Vec::new())) else {
        println!("skipped: no cgroup v2 hierarchy here");
        return;
    };
    let mut scene = Scene::new(tcp("127.0.0.1:40000", "127.0.0.1:80"));
    scene.identity = table.resolve(&scene.caller, 1, &crate::identity::Clock::start());
    let usage = scene.build(&exchange(Direction::Sent));
    assert_eq!(usage.principal.process.pid, 4711);
    assert_eq!(usage.evidence.identity, IdentitySource::Call);
}
