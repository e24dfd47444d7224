//! Everything that a receiver or the way to it does wrong, and what comes of it.

use crate::samples;
use crate::support::arrived::unpacked;
use crate::support::server::{Server, Step};
use agent_common::otlp::restore;
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use prost::Message;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
use tokentrail_agent::config::{self, Compression, Encoding, Ranged};
use tokentrail_agent::sink::batch::{Outcome, Receiver};
use tokentrail_agent::sink::{http, otlp};

const ACCEPTED: Outcome = Outcome::Accepted {
    rejected: 0,
    reason: None,
};

/// A receiver of these tests answers by then, however busy the machine is; one that is to be given up answers later.
const SECONDS: u64 = 30;
const SHORT: u64 = 1;

fn otlp_config(server: &Server) -> config::Otlp {
    config::Otlp {
        endpoint: Some(server.url()),
        connect_seconds: Ranged::new(SECONDS),
        timeout_seconds: Ranged::new(SECONDS),
        ..config::Otlp::default()
    }
}

fn http_config(server: &Server) -> config::Http {
    config::Http {
        endpoint: Some(format!("{}/in?source=test", server.url())),
        connect_seconds: Ranged::new(SECONDS),
        timeout_seconds: Ranged::new(SECONDS),
        ..config::Http::default()
    }
}

/// The outcomes of one batch after the other at a server with these steps.
fn outcomes(steps: &[Step]) -> Vec<[Outcome; 2]> {
    let batch = samples::batch(1, 1);
    let (first, second) = (Server::start(steps.to_vec()), Server::start(steps.to_vec()));
    let mut otlp = otlp::from_config(&otlp_config(&first)).unwrap().unwrap();
    let mut http = http::from_config(&http_config(&second)).unwrap().unwrap();
    steps
        .iter()
        .map(|_| [otlp.send(&batch), http.send(&batch)])
        .collect()
}

#[test]
fn each_fault_has_its_outcome() {
    let answer = |status, headers| Step::Answer(status, headers, b"because".to_vec());
    let steps = [
        answer("503 Service Unavailable", "retry-after: 7\r\n"),
        answer(
            "429 Too Many Requests",
            "retry-after: Sat, 01 Jan 2000 00:00:00 GMT\r\n",
        ),
        answer("502 Bad Gateway", ""),
        answer("504 Gateway Timeout", "retry-after: soon\r\n"),
        Step::Drop,
        Step::CutRequest,
        Step::CutHead,
        Step::CutBody,
        Step::Garbage,
    ];
    let after = [Some(7), Some(0), None, None, None, None, None, None, None];
    for ((step, outcomes), expected) in steps.iter().zip(outcomes(&steps)).zip(after) {
        for outcome in outcomes {
            let Outcome::Retry { after, reason } = &outcome else {
                panic!("{step:?}: {outcome:?}");
            };
            assert_eq!(
                *after,
                expected.map(Duration::from_secs),
                "{step:?}: {reason}"
            );
            if matches!(step, Step::Answer(..)) {
                assert!(reason.ends_with(": because"), "{reason}");
            }
        }
    }
    for outcomes in outcomes(&[answer("413 Content Too Large", "")]) {
        for outcome in outcomes {
            assert!(matches!(outcome, Outcome::TooLarge { .. }), "{outcome:?}");
        }
    }
    let never = [
        answer("400 Bad Request", ""),
        answer("401 Unauthorized", "retry-after: 7\r\n"),
        answer("404 Not Found", ""),
        answer("500 Internal Server Error", ""),
        answer("301 Moved Permanently", "location: http://127.0.0.1:1/\r\n"),
        answer(
            "307 Temporary Redirect",
            "location: http://127.0.0.1:1/\r\n",
        ),
    ];
    for (step, outcomes) in never.iter().zip(outcomes(&never)) {
        for outcome in outcomes {
            assert!(
                matches!(outcome, Outcome::Rejected { .. }),
                "{step:?}: {outcome:?}"
            );
        }
    }
}

#[test]
fn after_any_fault_the_same_batch_is_taken() {
    let steps = [
        Step::Drop,
        Step::CutRequest,
        Step::CutHead,
        Step::Garbage,
        Step::Answer("503 Service Unavailable", "", Vec::new()),
    ];
    let batch = samples::batch(1, 1);
    let server = Server::start(steps.clone());
    let mut otlp = otlp::from_config(&otlp_config(&server)).unwrap().unwrap();
    for step in steps {
        let outcome = otlp.send(&batch);
        assert!(
            matches!(outcome, Outcome::Retry { .. }),
            "{step:?}: {outcome:?}"
        );
    }
    assert_eq!(otlp.send(&batch), ACCEPTED);
    let connections = server.connections();
    assert_eq!(otlp.send(&batch), ACCEPTED);
    assert_eq!(server.connections(), connections, "the connection is kept");
}

#[test]
fn a_receiver_that_says_nothing_is_given_up() {
    let silent = || Server::start([Step::Delay(Duration::from_secs(600))]);
    let (first, second) = (silent(), silent());
    let otlp = config::Otlp {
        timeout_seconds: Ranged::new(SHORT),
        ..otlp_config(&first)
    };
    let http = config::Http {
        timeout_seconds: Ranged::new(SHORT),
        ..http_config(&second)
    };
    let mut otlp = otlp::from_config(&otlp).unwrap().unwrap();
    let mut http = http::from_config(&http).unwrap().unwrap();
    // Whoever waits for the answer does not come back here.
    for outcome in [
        otlp.send(&samples::batch(1, 1)),
        http.send(&samples::batch(1, 1)),
    ] {
        assert!(
            matches!(outcome, Outcome::Retry { after: None, .. }),
            "{outcome:?}"
        );
    }
}

#[test]
fn partial_success_is_counted() {
    let answer = ExportLogsServiceResponse {
        partial_success: Some(ExportLogsPartialSuccess {
            rejected_log_records: 3,
            error_message: "too old".to_owned(),
        }),
    };
    let server = Server::start([Step::Answer(
        "200 OK",
        "content-type: application/x-protobuf\r\n",
        answer.encode_to_vec(),
    )]);
    let mut otlp = otlp::from_config(&otlp_config(&server)).unwrap().unwrap();
    let expected = Outcome::Accepted {
        rejected: 3,
        reason: Some("too old".to_owned()),
    };
    assert_eq!(otlp.send(&samples::batch(1, 1)), expected);
}

#[test]
fn what_is_sent_is_what_was_to_be_sent() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "Bearer synthetic-0000\n").unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let headers = BTreeMap::from([
        ("x-scope".to_owned(), "a b".to_owned()),
        (
            "authorization".to_owned(),
            format!("file:{}", secret.display()),
        ),
    ]);
    let batch = samples::batch(1, 3);
    for (compression, name) in [
        (Compression::Zstd, Some("zstd")),
        (Compression::Gzip, Some("gzip")),
        (Compression::None, None),
    ] {
        let server = Server::start([]);
        let config = config::Otlp {
            compression,
            headers: headers.clone(),
            ..otlp_config(&server)
        };
        let mut otlp = otlp::from_config(&config).unwrap().unwrap();
        assert_eq!(otlp.send(&batch), ACCEPTED);
        let request = server.requests().remove(0);
        assert_eq!(request.line, "POST /v1/logs HTTP/1.1");
        assert_eq!(
            request.header("content-type"),
            Some("application/x-protobuf")
        );
        assert_eq!(request.header("content-encoding"), name);
        assert_eq!(request.header("x-scope"), Some("a b"));
        assert_eq!(
            request.header("authorization"),
            Some("Bearer synthetic-0000")
        );
        let body = unpacked(name, &request.body);
        let sent = restore::events(&ExportLogsServiceRequest::decode(&body[..]).unwrap());
        let sent: Vec<Vec<u8>> = sent.into_iter().map(Result::unwrap).collect();
        let expected: Vec<Vec<u8>> = batch.events.iter().map(|each| each.json.to_vec()).collect();
        assert_eq!(sent, expected);

        let server = Server::start([Step::Answer("202 Accepted", "", Vec::new())]);
        let config = config::Http {
            compression,
            ..http_config(&server)
        };
        let mut http = http::from_config(&config).unwrap().unwrap();
        assert_eq!(http.send(&batch), ACCEPTED);
        let request = server.requests().remove(0);
        assert_eq!(request.line, "POST /in?source=test HTTP/1.1");
        for (name, value) in [
            ("content-type", "application/x-ndjson"),
            ("tokentrail-agent", samples::AGENT),
            ("tokentrail-epoch", "1790000000000"),
            ("tokentrail-first-sequence", "1"),
            ("tokentrail-last-sequence", "48"),
        ] {
            assert_eq!(request.header(name), Some(value), "{name}");
        }
        let body = unpacked(name, &request.body);
        let lines: Vec<Vec<u8>> = body
            .split_inclusive(|byte| *byte == b'\n')
            .map(|line| line.strip_suffix(b"\n").unwrap().to_vec())
            .collect();
        assert_eq!(lines, expected);
    }
}

#[test]
fn ocsf_is_an_encoding_of_http() {
    let server = Server::start([]);
    let config = config::Http {
        encoding: Encoding::Ocsf,
        compression: Compression::None,
        ..http_config(&server)
    };
    let mut http = http::from_config(&config).unwrap().unwrap();
    let mut batch = samples::batch(1, 1);
    assert_eq!(http.send(&batch), ACCEPTED);
    let body = server.requests().remove(0).body;
    let classes: Vec<u64> = String::from_utf8(body)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|event| event["class_uid"].as_u64().unwrap())
        .collect();
    assert_eq!(
        classes[..9],
        [6003, 6003, 6003, 6008, 6008, 4001, 4001, 4001, 6002]
    );
    // One that is none is told apart by halving, and nothing of its batch is sent.
    batch.events[2].json = b"{}".as_slice().into();
    assert!(matches!(http.send(&batch), Outcome::TooLarge { .. }));
    batch.events = vec![batch.events.remove(2)];
    assert!(matches!(http.send(&batch), Outcome::Rejected { .. }));
    assert_eq!(server.requests().len(), 1);
}
