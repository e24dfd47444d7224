//! The schema is fresh, samples validate against it and come back the same.

use super::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;

fn time(nanos: i128) -> Time {
    Time::from_unix_nanos(1_790_000_000_000_000_000 + nanos)
}

fn envelope(sequence: u64, body: Body) -> Envelope {
    Envelope {
        version: V1,
        time: time(1),
        observed_time: time(20_000_000),
        producer: Producer {
            id: "5f3c".into(),
            name: "tokentrail-agent".into(),
            version: "0.1.0".into(),
            epoch: 1_790_000_000_000,
            sequence,
        },
        host: std::sync::Arc::new(Host {
            id: Some("0123456789abcdef0123456789abcdef".into()),
            name: "build-1".into(),
            boot_id: "6fd3a1f4-3f4b-4b6a-9f0a-0d5f6ad3ae11".into(),
        }),
        body,
    }
}

fn principal() -> Principal {
    let executable = Executable {
        path: Some("/usr/bin/curl".into()),
        deleted: false,
        hash: Some(Hash {
            sha256: Hex([0xab; 32]),
        }),
        hash_absent: None,
    };
    Principal {
        process: Process {
            pid: 4711,
            creation: ProcessCreation { time: time(-5) },
            parent_pid: Some(4700),
            executable: executable.clone(),
            command_args: Some(vec!["curl".into(), "https://api.example".into()]),
            command_args_truncated: true,
            real_user: User {
                id: 1000,
                name: Some("alice".into()),
            },
            real_group_id: 1000,
            linux: Cgroup {
                cgroup: Some("/system.slice/job.service".into()),
                cgroup_id: 77,
                network_namespace: 4_026_531_840,
            },
            ancestors: vec![Ancestor {
                pid: 4700,
                creation: ProcessCreation { time: time(-9) },
                executable: Executable {
                    path: Some("/usr/bin/bash".into()),
                    hash_absent: Some(HashAbsent::Pending),
                    ..Executable::default()
                },
            }],
        },
        container: Some(Container {
            id: "c".repeat(64),
            runtime: Some(ContainerRuntime {
                name: "podman".into(),
            }),
        }),
        systemd: Some(Systemd {
            unit: Some("job.service".into()),
            slice: Some("system.slice".into()),
            ..Systemd::default()
        }),
        k8s: None,
    }
}

fn network() -> Network {
    Network {
        transport: Transport::Tcp,
        network_type: Some(NetworkType::Ipv4),
        local: Some(Endpoint::tcp("::ffff:127.0.0.1".parse().unwrap(), 40_000)),
        peer: Some(Endpoint::tcp("127.0.0.1".parse().unwrap(), 443)),
        protocol: Some(NetworkProtocol {
            name: "http".into(),
            version: Some("1.1".into()),
        }),
    }
}

fn tls() -> Tls {
    Tls {
        protocol: Some(TlsProtocol {
            name: "tls".into(),
            version: "1.3".into(),
        }),
        cipher: Some("TLS_AES_128_GCM_SHA256".into()),
        next_protocol: Some("http/1.1".into()),
        client: Some(TlsClient {
            server_name: "api.example".into(),
        }),
        resumed: Some(false),
    }
}

fn fingerprint() -> Fingerprint {
    format!("tkf1:k1:{}", "Az09_-x".repeat(7)[..43].to_owned())
        .parse()
        .unwrap()
}

fn samples() -> Vec<Envelope> {
    let usage = Usage {
        direction: Direction::Client,
        exchange: Exchange {
            id: "0".repeat(32),
            outcome: Outcome::Answered,
        },
        principal: principal().into(),
        thread: Some(Thread {
            id: 4712,
            name: Some("curl".into()),
        }),
        network: network(),
        server: Server {
            address: "api.example".into(),
            port: Some(443),
        },
        client: Some(Client {
            address: "127.0.0.1".into(),
            port: Some(40_000),
        }),
        tls: Some(tls()),
        http: Http {
            request: HttpRequest {
                method: "GET".into(),
            },
            response: Some(HttpResponse { status_code: 200 }),
        },
        rpc: Some(Rpc {
            system: "grpc".into(),
            service: Some("example.Vault".into()),
            method: Some("Read".into()),
            grpc: Some(Grpc { status_code: 7 }),
        }),
        url: Url {
            scheme: "https".into(),
            path: "/v1/items/7".into(),
            query: Some("access_token={secret}".into()),
            template: Some("/v1/items/{id}".into()),
        },
        user_agent: Some(UserAgent {
            original: "curl/7.88.1".into(),
        }),
        token: Token {
            fingerprints: vec![fingerprint()],
            provider: Some("github".into()),
            class: Some("personal_access_token".into()),
            scheme: "Bearer".into(),
            carrier: "header:authorization".into(),
            user: None,
            public: BTreeMap::from([("iss".into(), json!("https://issuer.example"))]),
            unresolved: None,
        },
        evidence: Evidence {
            socket: SocketEvidence::Record,
            provider: Some(ProviderEvidence::Checksum),
            identity: IdentitySource::Exec,
            hook: Hook::RawTracepoint,
            library: Some("/usr/lib/x86_64-linux-gnu/libssl.so.3".into()),
        },
        forwarded: BTreeMap::from([("x-forwarded-for".into(), "192.0.2.1".into())]),
        correlation: BTreeMap::from([("x-request-id".into(), "r-1".into())]),
    };
    let mut bare = usage.clone();
    let mut nobody = principal();
    nobody.process.executable = Executable {
        hash_absent: Some(HashAbsent::Gone),
        ..Executable::default()
    };
    nobody.container = None;
    nobody.systemd = None;
    bare.principal = nobody.into();
    bare.thread = None;
    bare.tls = None;
    bare.http.response = None;
    bare.network = Network {
        transport: Transport::Unix,
        network_type: None,
        local: None,
        peer: Some(Endpoint {
            address: "/run/engine.sock".into(),
            port: None,
        }),
        protocol: None,
    };
    vec![
        envelope(1, Body::Usage(Box::new(usage))),
        envelope(2, Body::Usage(Box::new(bare))),
        envelope(
            3,
            Body::Loss(Loss {
                loss: LossDetail {
                    stage: Stage::Kernel,
                    probe: Some("tcp_recvmsg".into()),
                    reason: LossReason::RingFull,
                    count: Some(12),
                    unit: LossUnit::Records,
                    from: time(0),
                    to: time(1),
                    intentional: false,
                    events: None,
                },
            }),
        ),
        envelope(
            4,
            Body::Coverage(Box::new(Coverage {
                coverage: CoverageDetail {
                    scope: CoverageScope::Connection,
                    reason: Some(CoverageReason::CipherUnsupported),
                    detail: Some("TLS_AES_128_CCM_SHA256".into()),
                    protocol: Some("tls".into()),
                    library: Some("openssl".into()),
                    connections: Connections {
                        seen: 1,
                        read: 0,
                        unread: 1,
                    },
                    from: time(0),
                    to: time(1),
                },
                principal: Some(principal().into()),
                network: Some(network()),
                tls: Some(tls()),
            })),
        ),
        envelope(
            5,
            Body::Coverage(Box::new(Coverage {
                coverage: CoverageDetail {
                    scope: CoverageScope::Agent,
                    reason: None,
                    detail: None,
                    protocol: None,
                    library: None,
                    connections: Connections::default(),
                    from: time(0),
                    to: time(1),
                },
                principal: None,
                network: None,
                tls: None,
            })),
        ),
        envelope(
            6,
            Body::Audit(Audit {
                audit: AuditDetail {
                    scope: vec!["cgroup:/tokentrail-demo".into()],
                    kernel: Some("6.1.0-40-amd64".into()),
                    hook: Some(Hook::Fentry),
                    key_ids: vec!["k1".into()],
                    counters: BTreeMap::from([("ring.records".into(), 10)]),
                    sinks: vec![SinkReport {
                        name: "otlp".into(),
                        delivered: 1_000,
                        retried: 2,
                        refused: 0,
                        waiting: 17,
                        quarantined: 0,
                        restarted: 0,
                        last_delivered: Some(time(1)),
                    }],
                    detail: Some("SIGTERM".into()),
                    ..AuditDetail::of(Action::AgentStopped)
                },
            }),
        ),
        envelope(
            7,
            Body::Loss(Loss {
                loss: LossDetail {
                    stage: Stage::Pipeline,
                    probe: None,
                    reason: LossReason::UncleanEnd,
                    count: None,
                    unit: LossUnit::Events,
                    from: time(0),
                    to: time(1),
                    intentional: false,
                    events: Some(LostEvents {
                        agent: None,
                        epoch: 1_790_000_000_000,
                        first: 13,
                        last: None,
                    }),
                },
            }),
        ),
    ]
}

fn schema_path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("schema/event-v1.json")
}

#[test]
fn schema_file_is_fresh() {
    let fresh = schema();
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        let text = serde_json::to_string_pretty(&fresh).unwrap();
        std::fs::write(
            schema_path(),
            text + "
",
        )
        .unwrap();
    }
    let stored = std::fs::read(schema_path()).unwrap();
    // As values: the order of keys depends on the features of serde_json that other crates switch on.
    assert!(
        serde_json::from_slice::<Value>(&stored).ok() == Some(fresh),
        "{} is stale: run `UPDATE_SCHEMA=1 cargo test -p agent-common --features event schema_file_is_fresh`",
        schema_path().display()
    );
}

/// Every property of every object is described, so that the schema is the reference.
#[test]
fn every_field_is_described() {
    fn walk(at: &str, schema: &Value, missing: &mut Vec<String>) {
        match schema {
            Value::Object(map) => {
                if let Some(Value::Object(properties)) = map.get("properties") {
                    for (name, property) in properties {
                        // `kind` is the tag; `$ref`ed types carry their own description.
                        if name != "kind"
                            && property.get("description").is_none()
                            && property.get("$ref").is_none()
                        {
                            missing.push(format!("{at}.{name}"));
                        }
                    }
                }
                for (name, value) in map {
                    walk(&format!("{at}/{name}"), value, missing);
                }
            }
            Value::Array(values) => values
                .iter()
                .enumerate()
                .for_each(|(index, value)| walk(&format!("{at}/{index}"), value, missing)),
            _ => {}
        }
    }
    let mut missing = Vec::new();
    walk("", &schema(), &mut missing);
    assert_eq!(missing, Vec::<String>::new());
}

/// Checks events against the schema.
struct Validator {
    schemas: boon::Schemas,
    index: boon::SchemaIndex,
}

impl Validator {
    fn new() -> Self {
        let mut schemas = boon::Schemas::new();
        let mut compiler = boon::Compiler::new();
        compiler.enable_format_assertions();
        // `schema_file_is_fresh` ties it to the stored file.
        compiler.add_resource("event-v1.json", schema()).unwrap();
        let index = compiler.compile("event-v1.json", &mut schemas).unwrap();
        Self { schemas, index }
    }

    fn check(&self, event: &Value) -> Result<(), String> {
        self.schemas
            .validate(event, self.index)
            .map_err(|error| error.to_string())
    }
}

#[test]
fn samples_are_valid_and_come_back_the_same() {
    let validator = Validator::new();
    for sample in samples() {
        let text = serde_json::to_string(&sample).unwrap();
        let value = serde_json::from_str(&text).unwrap();
        validator
            .check(&value)
            .unwrap_or_else(|error| panic!("{text}\n{error}"));
        assert_eq!(
            serde_json::from_str::<Envelope>(&text).unwrap(),
            sample,
            "{text}"
        );
        assert_eq!(value["kind"], sample.body.kind());
    }
}

#[test]
fn broken_events_are_refused() {
    let validator = Validator::new();
    type Break = fn(&mut Value);
    let cases: [(&str, usize, Break); 9] = [
        ("version", 0, |event| event["version"] = json!(2)),
        ("kind", 0, |event| event["kind"] = json!("nonsense")),
        ("no producer", 0, |event| {
            event.as_object_mut().unwrap().remove("producer");
        }),
        ("time without zone", 0, |event| {
            event["time"] = json!("2026-01-01T00:00:00")
        }),
        ("raw credential as fingerprint", 0, |event| {
            event["token"]["fingerprints"][0] = json!("ghp_000000000000000000000000000000000000");
        }),
        ("evidence outside the set", 0, |event| {
            event["evidence"]["socket"] = json!("guess")
        }),
        ("pid as text", 0, |event| {
            event["process"]["pid"] = json!("1")
        }),
        ("loss reason outside the set", 2, |event| {
            event["loss"]["reason"] = json!("shrug")
        }),
        ("no coverage", 3, |event| {
            event.as_object_mut().unwrap().remove("coverage");
        }),
    ];
    for (name, sample, break_it) in cases {
        let mut event = serde_json::to_value(&samples()[sample]).unwrap();
        break_it(&mut event);
        assert!(
            validator.check(&event).is_err(),
            "{name}: the schema accepts it"
        );
        assert!(
            serde_json::from_value::<Envelope>(event).is_err(),
            "{name}: serde accepts it"
        );
    }
}

#[test]
fn unknown_fields_are_accepted() {
    let validator = Validator::new();
    for sample in samples() {
        let mut event = serde_json::to_value(&sample).unwrap();
        event["later"] = json!({ "field": 1 });
        validator.check(&event).unwrap();
        assert_eq!(serde_json::from_value::<Envelope>(event).unwrap(), sample);
    }
}

#[test]
fn names_are_nested_by_convention() {
    let event = serde_json::to_value(&samples()[0]).unwrap();
    for (pointer, expected) in [
        ("/kind", json!("usage")),
        ("/process/pid", json!(4711)),
        ("/process/executable/path", json!("/usr/bin/curl")),
        ("/process/executable/hash/sha256", json!("ab".repeat(32))),
        (
            "/process/creation/time",
            json!("2026-09-21T14:13:19.999999995Z"),
        ),
        ("/process/linux/cgroup", json!("/system.slice/job.service")),
        ("/container/runtime/name", json!("podman")),
        ("/systemd/unit", json!("job.service")),
        ("/network/local/address", json!("127.0.0.1")),
        ("/network/peer/port", json!(443)),
        ("/network/type", json!("ipv4")),
        ("/http/request/method", json!("GET")),
        ("/http/response/status_code", json!(200)),
        ("/tls/client/server_name", json!("api.example")),
        ("/token/fingerprints/0", json!(fingerprint().as_str())),
        ("/evidence/socket", json!("record")),
        ("/time", json!("2026-09-21T14:13:20.000000001Z")),
    ] {
        assert_eq!(event.pointer(pointer), Some(&expected), "{pointer}");
    }
}

#[test]
fn times_keep_nanoseconds() {
    for (nanos, text) in [
        (0, "1970-01-01T00:00:00.000000000Z"),
        (-1, "1969-12-31T23:59:59.999999999Z"),
        (1_709_164_800_000_000_001, "2024-02-29T00:00:00.000000001Z"),
        (4_102_444_799_999_999_999, "2099-12-31T23:59:59.999999999Z"),
    ] {
        let time = Time::from_unix_nanos(nanos);
        assert_eq!(time.to_string(), text);
        assert_eq!(text.parse::<Time>().unwrap(), time);
        assert_eq!(time.unix_nanos(), nanos);
    }
    for bad in ["", "now", "2026-01-01", "2026-13-01T00:00:00Z"] {
        assert!(bad.parse::<Time>().is_err(), "{bad}");
    }
    assert!(Time::from_unix_nanos(i128::MAX).to_string().ends_with('Z'));
}

#[test]
fn only_fingerprints_are_fingerprints() {
    let mac = "a".repeat(43);
    assert!(
        format!("tkf1:2026-01.a:{mac}")
            .parse::<Fingerprint>()
            .is_ok()
    );
    assert_eq!(
        format!("tkf1:k:{mac}")
            .parse::<Fingerprint>()
            .unwrap()
            .short(),
        "aaaaaaaaaa"
    );
    for bad in [
        String::new(),
        "ghp_000000000000000000000000000000000000".into(),
        format!("tkf1::{mac}"),
        format!("tkf1:{}:{mac}", "k".repeat(65)),
        format!("tkf1:k k:{mac}"),
        format!("tkf1:k:{mac}a"),
        format!("tkf1:k:{}", &mac[1..]),
        format!("tkf1:k:{}=", &mac[1..]),
        format!("tkf2:k:{mac}"),
        format!("tkf1:k:x:{mac}"),
    ] {
        let error = bad.parse::<Fingerprint>().unwrap_err().to_string();
        assert!(
            bad.is_empty() || !error.contains(&bad),
            "the message repeats the value"
        );
    }
}

#[test]
fn hex_is_exact() {
    let text = "00ff10".to_owned();
    assert_eq!(text.parse::<Hex<3>>().unwrap(), Hex([0, 255, 16]));
    assert_eq!(Hex([0, 255, 16]).to_string(), text);
    for bad in ["", "00ff1", "00ff1g", "00FF10", "00ff1000", "é0ff1"] {
        assert!(bad.parse::<Hex<3>>().is_err(), "{bad}");
    }
}
