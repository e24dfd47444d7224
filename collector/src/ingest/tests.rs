//! Through a real socket, with curl and with what the agent's encoder makes.

mod between;

use super::*;
use crate::inbox::{self, tests::event};
use agent_common::event::Envelope;
use agent_common::otlp::value;
use async_trait::async_trait;
use axum::http::HeaderMap;
use flate2::Compression;
use flate2::write::GzEncoder;
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use serde_json::Value;
use std::io::Write;
use std::process::{Command, Stdio};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const NDJSON: &str = "content-type: application/x-ndjson";
const PROTOBUF: &str = "content-type: application/x-protobuf";

/// Knows who says `authorization: Bearer NAME`; `only-a` speaks for the agent `a`, `reader` may not send.
struct Door;

#[async_trait]
impl Authenticate for Door {
    async fn ingest(
        &self,
        headers: &HeaderMap,
        certificate: Option<&ClientCertificate>,
    ) -> Result<Sender, Denied> {
        if let Some(certificate) = certificate {
            return Ok(Sender {
                origin: certificate.subject.clone(),
                agent: None,
            });
        }
        let said = headers
            .get("authorization")
            .and_then(|said| said.to_str().ok());
        match said.and_then(|said| said.strip_prefix("Bearer ")) {
            None => Err(Denied::Unknown("no key".into())),
            Some("reader") => Err(Denied::Forbidden("reader may not send".into())),
            Some(name) => Ok(Sender {
                origin: name.into(),
                agent: (name == "only-a").then(|| "a".into()),
            }),
        }
    }
}

struct Site {
    url: String,
    inbox: Inbox,
    state: Arc<State>,
    folder: TempDir,
    _runtime: Runtime,
}

struct Answer {
    status: u16,
    headers: String,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn otlp(&self) -> (i64, String) {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        let response = ExportLogsServiceResponse::decode(&self.body[..]).unwrap();
        let partial = response.partial_success.unwrap_or_default();
        (partial.rejected_log_records, partial.error_message)
    }
}

fn site() -> Site {
    let inbox = inbox::Limits {
        bytes: 1 << 30,
        events: 1 << 20,
        quarantine: 1 << 20,
    };
    site_with(inbox, Limits::default())
}

fn site_with(waiting: inbox::Limits, limits: Limits) -> Site {
    let folder = tempfile::tempdir().unwrap();
    let inbox = Inbox::open(&folder.path().join("inbox"), waiting).unwrap();
    let state = Arc::new(State::new(inbox.clone(), Arc::new(Door), limits));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
        .unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let routes = router(Arc::clone(&state));
    runtime.spawn(async move { axum::serve(listener, routes).await });
    Site {
        url,
        inbox,
        state,
        folder,
        _runtime: runtime,
    }
}

impl Site {
    fn curl(&self, path: &str, headers: &[&str], body: &[u8]) -> Answer {
        let mut command = Command::new("curl");
        command
            .args(["--silent", "--show-error", "--include", "--noproxy", "*"])
            .args(["--max-time", "60", "-H", "expect:", "--data-binary", "@-"])
            .args(["-H", "authorization: Bearer someone"])
            .arg(format!("{}{path}", self.url));
        for header in headers {
            command.args(["-H", header]);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It may be answered before it has read all.
        let _ = child.stdin.take().unwrap().write_all(body);
        let output = child.wait_with_output().unwrap();
        let out = output.stdout;
        let end = out.windows(4).position(|end| end == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        let headers = String::from_utf8(out[..end].to_vec())
            .unwrap()
            .to_ascii_lowercase();
        Answer {
            status: headers[9..12].parse().unwrap(),
            headers,
            body: out[end + 4..].to_vec(),
        }
    }

    fn events(&self, body: &[u8]) -> Answer {
        self.curl("/v1/events", &[NDJSON], body)
    }

    fn stored(&self) -> Vec<String> {
        let mut stored = Vec::new();
        for entry in self.inbox.pending() {
            for event in &entry.events {
                stored.push(String::from_utf8(event.json.to_vec()).unwrap());
            }
        }
        stored
    }

    fn count(&self, name: &str) -> u64 {
        let all = self.state.counters().all();
        all.iter().find(|(each, _, _)| *each == name).unwrap().2
    }
}

fn lines(agent: &str, sequences: impl IntoIterator<Item = u64>) -> Vec<u8> {
    let mut lines = Vec::new();
    for sequence in sequences {
        lines.extend_from_slice(&event(agent, 7, sequence).json);
        lines.push(b'\n');
    }
    lines
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

/// As the agent encodes the samples (a test of its sink keeps it fresh), and the samples.
const AGENTS: &[u8] = include_bytes!("../../../agent-common/golden/otlp-request.bin");
const SAMPLES: &str = include_str!("../../../agent/tests/receivers/samples.ndjson");

/// The samples in their canonical form, which the agent sends.
fn samples() -> Vec<String> {
    let canonical = |line| serde_json::to_string(&serde_json::from_str::<Envelope>(line).unwrap());
    SAMPLES
        .lines()
        .map(|line| canonical(line).unwrap())
        .collect()
}

/// As an agent's batch is.
fn request(sequences: &[u64], stated: (i64, i64)) -> ExportLogsServiceRequest {
    let whole = |name: &str, number: i64| value::attribute(name, value::whole(number as u64));
    let text = |name: &str, said: &str| value::attribute(name, value::text(said));
    let records = sequences.iter().map(|sequence| LogRecord {
        time_unix_nano: 1_790_000_000_000_000_001,
        observed_time_unix_nano: 1_790_000_000_000_000_002,
        event_name: "tokentrail.audit".into(),
        attributes: vec![
            whole("producer.sequence", *sequence as i64),
            text("audit.action", "agent_report"),
        ],
        ..LogRecord::default()
    });
    ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs {
            resource: Some(Resource {
                attributes: vec![
                    text("service.name", "tokentrail-agent"),
                    text("producer.id", "a"),
                    text("producer.name", "tokentrail-agent"),
                    text("producer.version", "0"),
                    whole("producer.epoch", 7),
                    text("host.name", "h"),
                    text("host.boot_id", "b"),
                ],
                ..Resource::default()
            }),
            scope_logs: vec![ScopeLogs {
                scope: Some(InstrumentationScope {
                    name: "tokentrail.event".into(),
                    version: "1".into(),
                    attributes: vec![
                        text("tokentrail.agent", "a"),
                        whole("tokentrail.epoch", 7),
                        whole("tokentrail.first_sequence", stated.0),
                        whole("tokentrail.last_sequence", stated.1),
                    ],
                    ..InstrumentationScope::default()
                }),
                log_records: records.collect(),
                ..ScopeLogs::default()
            }],
            ..ResourceLogs::default()
        }],
    }
}

#[test]
fn lines_are_stored_once() {
    let site = site();
    let body = lines("a", 1..=5);
    let answer = site.events(&body);
    assert_eq!(answer.status, 200);
    let took = r#"{"accepted":5,"duplicates":0,"rejected":0,"reasons":[]}"#;
    assert_eq!(answer.json(), serde_json::from_str::<Value>(took).unwrap());
    let stored = site.stored();
    assert_eq!(
        stored.join("\n") + "\n",
        String::from_utf8(body.clone()).unwrap()
    );
    assert_eq!(&*site.inbox.pending()[0].origin, "someone");
    for (encoding, body) in [
        ("gzip", gzip(&body)),
        ("zstd", zstd::bulk::compress(&body, 3).unwrap()),
        ("identity", body.clone()),
    ] {
        let encoding = format!("content-encoding: {encoding}");
        let answer = site.curl("/v1/events", &[NDJSON, &encoding], &body);
        assert_eq!(answer.json()["duplicates"], 5, "{encoding}");
    }
    // Chunked, with Windows' ends, empty lines, and no end.
    let text = String::from_utf8(lines("a", 6..=7))
        .unwrap()
        .replace('\n', "\r\n\r\n");
    let headers = [NDJSON, "transfer-encoding: chunked"];
    let answer = site.curl("/v1/events", &headers, text.trim().as_bytes());
    assert_eq!(answer.json()["accepted"], 2);
    assert_eq!((site.count("stored"), site.count("duplicates")), (7, 15));
}

#[test]
fn what_is_no_event_is_told_of_and_kept() {
    let site = site();
    let mut body = lines("a", 1..=1);
    body.extend_from_slice(b"{\"half\":\n");
    body.extend(lines("a", 2..=2));
    body.extend_from_slice(b"\xff\xfe\n");
    let answer = site.events(&body);
    assert_eq!(answer.status, 200);
    let said = answer.json();
    assert_eq!(
        (&said["accepted"], &said["rejected"]),
        (&2.into(), &2.into())
    );
    assert_eq!(said["reasons"][0]["line"], 2);
    assert_eq!(said["reasons"][1]["line"], 4);
    let kept = site.inbox.quarantined(None, 10, 1 << 20).unwrap();
    let kept: Vec<_> = kept.iter().map(|kept| &kept.bytes[..]).collect();
    assert_eq!(kept, [&b"\xff\xfe"[..], b"{\"half\":"]);
    // Nothing that could be acknowledged: the sender keeps it.
    let answer = site.events(b"<html>\n</html>\n");
    assert_eq!(answer.status, 400);
    assert_eq!(answer.json()["reasons"][1]["line"], 2);
    assert_eq!(site.inbox.quarantined(None, 10, 1 << 20).unwrap().len(), 2);
    assert_eq!(site.events(b"\n\n").json()["accepted"], 0);
}

#[test]
fn records_are_stored_once() {
    let site = site();
    let request = request(&[1, 2, 3], (1, 3));
    for encoding in ["identity", "gzip", "zstd"] {
        let body = request.encode_to_vec();
        let body = match encoding {
            "gzip" => gzip(&body),
            "zstd" => zstd::bulk::compress(&body, 3).unwrap(),
            _ => body,
        };
        let encoding = format!("content-encoding: {encoding}");
        let answer = site.curl("/v1/logs", &[PROTOBUF, &encoding], &body);
        assert_eq!(answer.otlp(), (0, String::new()));
        assert!(answer.body.is_empty());
        assert!(
            answer
                .headers
                .contains("content-type: application/x-protobuf")
        );
    }
    let expected: Vec<String> = agent_common::otlp::restore::events(&request)
        .into_iter()
        .map(|event| String::from_utf8(event.unwrap()).unwrap())
        .collect();
    assert_eq!(site.stored(), expected);
    assert_eq!(
        (site.count("disagreements"), site.count("duplicates")),
        (0, 6)
    );
}

#[test]
fn what_the_agent_sends_is_stored_byte_for_byte() {
    let site = site();
    assert_eq!(site.curl("/v1/logs", &[PROTOBUF], AGENTS).otlp().0, 0);
    let stored = site.stored();
    assert_eq!(stored, samples());
    assert_eq!(site.count("disagreements"), 0);
    let lines = site.events(SAMPLES.as_bytes()).json();
    assert_eq!(lines["duplicates"], stored.len());
}

#[test]
fn records_that_are_no_events_are_partial() {
    let site = site();
    let mut request = request(&[1, 2, 3, 4], (1, 4));
    let records = &mut request.resource_logs[0].scope_logs[0].log_records;
    records[1].event_name = "other".into();
    records[2].attributes.pop();
    let strange: Vec<KeyValue> = (0..2_000)
        .map(|number| value::attribute(&format!("a{number}"), value::whole(1)))
        .collect();
    records[3].attributes.extend(strange);
    let answer = site.curl("/v1/logs", &[PROTOBUF], &request.encode_to_vec());
    let (rejected, reason) = answer.otlp();
    assert_eq!(rejected, 3);
    assert!(
        reason.contains("number 2") && reason.contains("\"other\""),
        "{reason}"
    );
    assert_eq!(site.stored().len(), 1);
    let kept = site.inbox.quarantined(None, 10, 1 << 20).unwrap();
    assert_eq!(kept.len(), 3);
    let first = kept.last().unwrap();
    assert_eq!(first.form, inbox::Form::Otlp);
    // What is kept can be looked at, and sent again.
    let again = ExportLogsServiceRequest::decode(&first.bytes[..]).unwrap();
    let logs = &again.resource_logs[0].scope_logs[0];
    assert_eq!(logs.log_records[0].event_name, "other");
    assert_eq!(kept[1].form, inbox::Form::Json);
    assert_eq!(site.count("disagreements"), 1);
}

#[test]
fn statements_are_compared_and_nothing_more() {
    let site = site();
    let batch = |stated| request(&[1, 2, 3], stated).encode_to_vec();
    for (stated, disagreements) in [((1, 3), 0), ((1, 4), 1), ((2, 3), 2)] {
        assert_eq!(
            site.curl("/v1/logs", &[PROTOBUF], &batch(stated)).otlp().0,
            0
        );
        assert_eq!(site.count("disagreements"), disagreements);
    }
    let headers = |first, last, epoch| {
        [
            NDJSON.to_owned(),
            "tokentrail-agent: a".to_owned(),
            format!("tokentrail-epoch: {epoch}"),
            format!("tokentrail-first-sequence: {first}"),
            format!("tokentrail-last-sequence: {last}"),
        ]
    };
    for (first, last, epoch, disagreements) in [(4, 6, 7, 2), (4, 7, 7, 3), (4, 6, 8, 4)] {
        let headers = headers(first, last, epoch);
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        assert_eq!(
            site.curl("/v1/events", &headers, &lines("a", 4..=6)).status,
            200
        );
        assert_eq!(site.count("disagreements"), disagreements);
    }
}

#[test]
fn every_malformed_request_has_its_status() {
    let limits = Limits {
        body: 20_000,
        decoded: 60_000,
        in_flight: 1 << 20,
    };
    let waiting = inbox::Limits {
        bytes: 1 << 30,
        events: 1 << 20,
        quarantine: 1 << 20,
    };
    let site = site_with(waiting, limits);
    let good = lines("a", 1..=1);
    let noise = vec![0xff; 100];
    let bomb = gzip(&vec![b' '; 1_000_000]);
    let zstd_bomb = zstd::bulk::compress(&vec![b' '; 1_000_000], 3).unwrap();
    let cut = &gzip(&good)[..40];
    let many = lines("a", 1..=200);
    let nobody = "authorization:";
    let reader = "authorization: Bearer reader";
    let of = |encoding| format!("content-encoding: {encoding}");
    let (gzipped, zstded, brotli, twice) = (of("gzip"), of("zstd"), of("br"), of("gzip, zstd"));
    for (status, path, headers, body, what) in [
        (
            415,
            "/v1/events",
            &["content-type: text/plain"][..],
            &good[..],
            "text/plain",
        ),
        (
            415,
            "/v1/logs",
            &["content-type: application/json"],
            b"{}",
            "application/json",
        ),
        (415, "/v1/events", &[NDJSON, &brotli], &good, "br"),
        (415, "/v1/events", &[NDJSON, &twice], &good, "gzip, zstd"),
        (
            400,
            "/v1/events",
            &[NDJSON, &gzipped],
            &good,
            "decompressed",
        ),
        (400, "/v1/events", &[NDJSON, &gzipped], cut, "decompressed"),
        (400, "/v1/events", &[NDJSON, &zstded], &good, "decompressed"),
        (400, "/v1/logs", &[PROTOBUF], &noise, "protobuf"),
        (
            400,
            "/v1/logs",
            &[PROTOBUF],
            b"\x0a\x05\x12\x03\x12\x01\xff",
            "no ExportLogs",
        ),
        (413, "/v1/events", &[NDJSON], &many, "20000"),
        (
            413,
            "/v1/events",
            &[NDJSON, "transfer-encoding: chunked"],
            &many,
            "20000",
        ),
        (413, "/v1/events", &[NDJSON, &gzipped], &bomb, "60000"),
        (413, "/v1/events", &[NDJSON, &zstded], &zstd_bomb, "60000"),
        (413, "/v1/logs", &[PROTOBUF, &gzipped], &bomb, "60000"),
        (404, "/v1/other", &[NDJSON], &good, ""),
    ] {
        let answer = site.curl(path, headers, body);
        let said = String::from_utf8_lossy(&answer.body);
        assert_eq!(answer.status, status, "{path} {headers:?}: {said}");
        assert!(said.contains(what), "{path} {headers:?}: {said}");
    }
    // curl's own header is replaced by what is given after it.
    let as_whom = |who: &str| {
        let output = Command::new("curl")
            .args([
                "--silent",
                "--include",
                "--noproxy",
                "*",
                "-H",
                NDJSON,
                "-H",
                who,
            ])
            .args(["--data-binary", "x"])
            .arg(format!("{}/v1/events", site.url))
            .output()
            .unwrap();
        String::from_utf8(output.stdout)
            .unwrap()
            .to_ascii_lowercase()
    };
    let said = as_whom(nobody);
    assert!(
        said.contains(" 401 ") && said.contains("www-authenticate: bearer"),
        "{said}"
    );
    let said = as_whom(reader);
    assert!(
        said.contains(" 403 ") && said.contains("reader may not send"),
        "{said}"
    );
    assert!(site.stored().is_empty());
    let counted = [
        "unsupported",
        "unreadable",
        "too_large",
        "unknown",
        "forbidden",
    ];
    assert_eq!(counted.map(|name| site.count(name)), [4, 5, 5, 1, 1]);
    // All memory is given back.
    assert_eq!(site.state.budget.free(), 1 << 20);
}

#[test]
fn a_sender_of_one_agent_speaks_for_it_alone() {
    let site = site();
    let mut body = lines("a", 1..=1);
    body.extend(lines("b", 1..=1));
    let headers = [NDJSON, "authorization: Bearer only-a"];
    let mut command = Command::new("curl");
    for header in headers {
        command.args(["-H", header]);
    }
    let path = site.folder.path().join("body");
    std::fs::write(&path, body).unwrap();
    let output = command
        .args(["--silent", "--noproxy", "*", "--data-binary"])
        .arg(format!("@{}", path.display()))
        .arg(format!("{}/v1/events", site.url))
        .output()
        .unwrap();
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&said["accepted"], &said["rejected"]),
        (&1.into(), &1.into())
    );
    assert_eq!(
        site.inbox.quarantined(None, 1, 1).unwrap()[0].form,
        inbox::Form::Json
    );
}

#[test]
fn a_full_inbox_and_too_much_at_once_are_503() {
    let waiting = inbox::Limits {
        bytes: 1 << 30,
        events: 5,
        quarantine: 0,
    };
    let site = site_with(waiting, Limits::default());
    assert_eq!(site.events(&lines("a", 1..=5)).status, 200);
    let answer = site.events(&lines("a", 6..=6));
    assert_eq!(answer.status, 503);
    assert!(
        answer.headers.contains("retry-after: 5"),
        "{}",
        answer.headers
    );
    let answer = site.curl(
        "/v1/logs",
        &[PROTOBUF],
        &request(&[6], (6, 6)).encode_to_vec(),
    );
    assert_eq!(answer.status, 503);
    assert!(String::from_utf8_lossy(&answer.body).contains("again in 5 s"));
    site.inbox.remove(i64::MAX).unwrap();
    assert_eq!(site.events(&lines("a", 6..=6)).status, 200);
    assert_eq!(site.count("full"), 2);
    // Somebody holds nearly all of the memory.
    let mut held = site.state.budget.hold();
    held.grow(site.state.budget.free() - 1024).unwrap();
    let answer = site.events(&lines("a", 7..=17));
    assert_eq!((answer.status, site.count("busy")), (503, 1));
    assert!(
        answer.headers.contains("retry-after: 1"),
        "{}",
        answer.headers
    );
    drop(held);
    site.inbox.remove(i64::MAX).unwrap();
    assert_eq!(site.events(&lines("a", 7..=11)).status, 200);
}

#[test]
fn any_bytes_are_answered() {
    let site = site();
    let good = request(&[1, 2, 3, 4], (1, 4)).encode_to_vec();
    let mut state = 88_172_645_463_325_252u64;
    for _ in 0..3_000 {
        let mut bad = good.clone();
        let quick = Arc::default();
        for _ in 0..3 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let at = (state >> 8) as usize % bad.len();
            bad[at] = state as u8;
            if state.is_multiple_of(5) {
                bad.truncate(at);
            }
            if bad.is_empty() {
                break;
            }
        }
        let sender = Sender {
            origin: "x".into(),
            agent: None,
        };
        let mut decoded = Decoded::new(sender, 1 << 20, site.state.budget.hold());
        // The same that prost says, but that what it does not decode may be broken.
        let ours = otlp::decode(&bad, &quick, &mut decoded);
        if ExportLogsServiceRequest::decode(&bad[..]).is_ok() {
            assert!(ours.is_ok(), "{ours:?}");
        }
    }
}
