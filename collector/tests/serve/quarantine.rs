//! What is no event, sent by curl: acknowledged, kept with its reason, and shown to admins alone.

use crate::support::serve::{Site, program, tokentrail};
use crate::support::{curl, eventually};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use prost::Message as _;
use serde_json::Value;

fn record(name: &str) -> LogRecord {
    LogRecord {
        event_name: name.to_owned(),
        ..LogRecord::default()
    }
}

#[test]
fn what_is_no_event_is_listed_and_shown() {
    assert!(program().exists());
    let folder = tempfile::tempdir().unwrap();
    let mut site = Site::new(folder.path(), "");
    let server = site.start();
    let keys = site.keys().clone();
    let key = format!("authorization: Bearer {}", keys.ingest);
    let send = |path: &str, kind: &str, body: &[u8]| {
        let url = format!("{}{path}", server.url);
        let kind = format!("content-type: {kind}");
        curl(
            &["-H", &key, "-H", &kind, "--data-binary", "@-", &url],
            body,
        )
    };
    // Nothing that could be acknowledged: the sender is told, and keeps it.
    let (_, answer) = send("/v1/events", "application/x-ndjson", b"<html>\n");
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    // By OTLP it is acknowledged in part, and put aside.
    let request = ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs {
            scope_logs: vec![ScopeLogs {
                log_records: (0..7).map(|at| record(&format!("strange.{at}"))).collect(),
                ..ScopeLogs::default()
            }],
            ..ResourceLogs::default()
        }],
    };
    let (_, answer) = send(
        "/v1/logs",
        "application/x-protobuf",
        &request.encode_to_vec(),
    );
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let good = include_str!("../fixtures/events.ndjson")
        .lines()
        .next()
        .unwrap();
    let mixed = format!("{good}\n{{\"half\": \"\u{1b}[31m\"\n\u{0}\n");
    let (_, answer) = send("/v1/events", "application/x-ndjson", mixed.as_bytes());
    assert!(answer.contains("\"rejected\":2"), "{answer}");

    // By HTTP, in pages, the newest first.
    let page = |query: &str| -> Value {
        let (status, text) = server.get(&format!("/v1/quarantine{query}"), &keys.admin);
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap()
    };
    let mut ids = Vec::new();
    let mut query = "?limit=4".to_owned();
    loop {
        let page = page(&query);
        let rows = page["quarantined"].as_array().unwrap();
        ids.extend(rows.iter().map(|row| row["id"].as_i64().unwrap()));
        match page["before"].as_i64() {
            Some(before) => query = format!("?limit=4&before={before}"),
            None => break,
        }
    }
    assert_eq!(ids.len(), 9);
    assert!(ids.is_sorted_by(|one, other| one > other), "{ids:?}");
    let all = page("");
    let rows = all["quarantined"].as_array().unwrap();
    assert_eq!((rows.len(), all["before"].as_i64()), (9, None));
    let (newest, oldest) = (&rows[0], &rows[8]);
    assert_eq!(
        (&newest["form"], &oldest["form"]),
        (&"json".into(), &"otlp".into())
    );
    assert!(
        newest["origin"].as_str().unwrap().contains("ingest"),
        "{newest}"
    );
    assert!(!newest["reason"].as_str().unwrap().is_empty());

    // By the command: nothing that a terminal would act on.
    let admin = site.secret("admin.key", &keys.admin);
    let run = |arguments: &[&str]| {
        let output = tokentrail(arguments, &admin, &server.url, &[]);
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.success(), text)
    };
    let (done, list) = run(&["quarantine"]);
    assert!(done && list.lines().count() == 10, "{list}");
    assert!(!list.contains('\u{1b}'), "{list}");
    let (done, list) = run(&["quarantine", "list", "--limit", "3", "--json"]);
    assert!(done && list.lines().count() == 3, "{list}");
    let half = rows[1]["id"].to_string();
    let (done, shown) = run(&["quarantine", "show", &half]);
    assert!(
        done && shown.contains("{\"half\": \"\u{fffd}[31m\""),
        "{shown}"
    );
    let (done, shown) = run(&["quarantine", "show", &oldest["id"].to_string()]);
    let hex: String = b"strange.0"
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let joined: String = shown.split_whitespace().collect();
    assert!(done && joined.contains(&hex), "{shown}");
    let (done, said) = run(&["quarantine", "show", "12345"]);
    assert!(!done && said.contains("there is no 12345"), "{said}");

    // Others may not, and each look is an event.
    for (key, expected) in [
        (&keys.analyst, 403),
        (&keys.ingest, 403),
        (&String::new(), 401),
    ] {
        assert_eq!(server.get("/v1/quarantine", key).0, expected);
        assert_eq!(
            server.get(&format!("/v1/quarantine/{half}"), key).0,
            expected
        );
    }
    for wrong in ["?limit=0", "?limit=1001", "?before=x", "?no=1"] {
        let (status, text) = server.get(&format!("/v1/quarantine{wrong}"), &keys.admin);
        assert_eq!(status, 400, "{wrong}: {text}");
    }
    let looks = eventually("the audit events", || {
        let found = server.search("audit.action:trail_asked", &keys.analyst);
        let of = |event: &&String| event.contains("in the quarantine\"") && event.contains("admin");
        match found.iter().filter(of).count() {
            looks if looks >= 2 => Ok(looks),
            _ => Err(format!("{found:?}")),
        }
    });
    assert_eq!(looks, 3, "each of the pieces that were asked for");
}

#[test]
fn no_more_is_kept_than_may_be() {
    let folder = tempfile::tempdir().unwrap();
    let mut site = Site::new(folder.path(), "[inbox]\nquarantine_bytes = 3000\n");
    let server = site.start();
    let keys = site.keys().clone();
    let key = format!("authorization: Bearer {}", keys.ingest);
    let url = format!("{}/v1/events", server.url);
    let good = include_str!("../fixtures/events.ndjson")
        .lines()
        .next()
        .unwrap();
    for at in 0..40 {
        let body = format!("{good}\nno event {at}\n");
        let arguments = [
            "-H",
            &key,
            "-H",
            "content-type: application/x-ndjson",
            "--data-binary",
            "@-",
            &url,
        ];
        let (_, answer) = curl(&arguments, body.as_bytes());
        assert!(answer.contains("\"rejected\":1"), "{answer}");
    }
    let (_, text) = server.get("/v1/quarantine", &keys.admin);
    let page: Value = serde_json::from_str(&text).unwrap();
    let kept = page["quarantined"].as_array().unwrap();
    assert!((1..20).contains(&kept.len()), "{}", kept.len());
    assert_eq!(kept[0]["begin"], "no event 39");
}
