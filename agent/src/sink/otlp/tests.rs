//! Requests come back as the events they were made of; answers mean what the specification says.

use super::super::batch::{Batch, Encoded, Outcome};
use super::super::remote::post::Answer;
use super::super::samples;
use super::{answer, encode};
use agent_common::event::{Envelope, Time};
use agent_common::otlp::restore;
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use proptest::prelude::*;
use prost::Message;
use serde_json::json;

fn names(attributes: &[KeyValue]) -> Vec<&str> {
    attributes.iter().map(|each| each.key.as_str()).collect()
}

fn value<'a>(attributes: &'a [KeyValue], name: &str) -> Option<&'a Value> {
    let found = attributes.iter().find(|each| each.key == name)?;
    found.value.as_ref()?.value.as_ref()
}

fn there_and_back(batch: &Batch) {
    let bytes = encode::request(batch).unwrap().encode_to_vec();
    let request = ExportLogsServiceRequest::decode(&bytes[..]).unwrap();
    let back = restore::events(&request);
    assert_eq!(back.len(), batch.events.len());
    for (event, back) in batch.events.iter().zip(back) {
        assert_eq!(
            String::from_utf8_lossy(&event.json),
            String::from_utf8_lossy(&back.unwrap())
        );
    }
}

#[test]
fn every_event_comes_back_byte_for_byte() {
    there_and_back(&samples::batch(1, 2));
}

/// The collector's tests receive this very request, and expect the samples of it.
#[test]
fn the_collector_is_tested_with_what_is_sent() {
    let fresh = encode::request(&samples::batch(1, 1))
        .unwrap()
        .encode_to_vec();
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../agent-common/golden/otlp-request.bin"
    );
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &fresh).unwrap();
    }
    assert!(
        std::fs::read(path).unwrap() == fresh,
        "{path} is stale: run `UPDATE_GOLDEN=1 cargo test -p agent --lib the_collector_is_tested`"
    );
}

#[test]
fn attributes_have_the_names_of_the_conventions() {
    let request = encode::request(&samples::batch(1, 1)).unwrap();
    // The last sample is of another host.
    assert_eq!(request.resource_logs.len(), 2);
    let logs = &request.resource_logs[0];
    let resource = &logs.resource.as_ref().unwrap().attributes;
    assert_eq!(
        names(resource),
        [
            "service.name",
            "service.version",
            "service.instance.id",
            "producer.id",
            "producer.name",
            "producer.version",
            "producer.epoch",
            "host.id",
            "host.name",
            "host.boot_id"
        ]
    );
    let scope = logs.scope_logs[0].scope.as_ref().unwrap();
    assert_eq!(
        (scope.name.as_str(), scope.version.as_str()),
        ("tokentrail.event", "1")
    );
    for (name, expected) in [
        (
            "tokentrail.agent",
            Value::StringValue(samples::AGENT.into()),
        ),
        ("tokentrail.epoch", Value::IntValue(1_790_000_000_000)),
        ("tokentrail.first_sequence", Value::IntValue(1)),
        ("tokentrail.last_sequence", Value::IntValue(16)),
    ] {
        assert_eq!(value(&scope.attributes, name), Some(&expected), "{name}");
    }
    let record = &logs.scope_logs[0].log_records[0];
    assert_eq!(record.event_name, "tokentrail.usage");
    assert_eq!(record.time_unix_nano, 1_790_000_000_000_000_001);
    assert_eq!(record.observed_time_unix_nano, 1_790_000_000_020_000_000);
    assert_eq!(
        (record.severity_number, record.severity_text.as_str()),
        (9, "INFO")
    );
    for (name, expected) in [
        ("producer.sequence", Value::IntValue(1)),
        ("process.pid", Value::IntValue(4711)),
        (
            "process.executable.path",
            Value::StringValue("/usr/bin/curl".into()),
        ),
        ("http.request.method", Value::StringValue("GET".into())),
        ("http.response.status_code", Value::IntValue(200)),
        (
            "network.peer.address",
            Value::StringValue("192.0.2.7".into()),
        ),
        ("tls.resumed", Value::BoolValue(false)),
        (
            "process.linux.cgroup_id",
            Value::BytesValue(b"18446744073709551615".to_vec()),
        ),
    ] {
        assert_eq!(value(&record.attributes, name), Some(&expected), "{name}");
    }
    // Names that are data stay within one attribute.
    assert!(matches!(
        value(&record.attributes, "token.public"),
        Some(Value::KvlistValue(_))
    ));
    let severity = |index: usize| logs.scope_logs[0].log_records[index].severity_number;
    // A loss, one on purpose, a dropped point.
    assert_eq!((severity(3), severity(4), severity(13)), (13, 9, 13));
}

#[test]
fn what_is_no_event_is_set_apart() {
    let mut batch = samples::batch(1, 1);
    let deep = format!(
        r#"{{"version":1,"time":"2026-09-21T14:13:20.000000000Z","observed_time":"2026-09-21T14:13:20.000000000Z","kind":"x","x":{}1{}}}"#,
        r#"{"a":"#.repeat(40),
        "}".repeat(40)
    );
    for wrong in ["", "null", "{}", "{\"kind\":1}", "[", deep.as_str()] {
        batch.events[3].json = wrong.to_owned().into();
        let unreadable = encode::request(&batch).unwrap_err();
        assert_eq!(unreadable.sequence, 4);
        assert!(matches!(
            unreadable.outcome(&batch),
            Outcome::TooLarge { .. }
        ));
        let alone = Batch {
            events: vec![batch.events[3].clone()],
            ..batch.clone()
        };
        let outcome = encode::request(&alone).unwrap_err().outcome(&alone);
        assert!(matches!(outcome, Outcome::Rejected { .. }), "{outcome:?}");
    }
}

fn answered(content_type: &str, body: &[u8]) -> Outcome {
    answer::outcome(&Answer {
        status: 200,
        content_type: content_type.to_owned(),
        body: body.to_vec(),
    })
}

#[test]
fn answers_are_read_by_their_type() {
    let accepted = |rejected, reason: Option<&str>| Outcome::Accepted {
        rejected,
        reason: reason.map(str::to_owned),
    };
    let partial = |count, message: &str| {
        ExportLogsServiceResponse {
            partial_success: Some(ExportLogsPartialSuccess {
                rejected_log_records: count,
                error_message: message.to_owned(),
            }),
        }
        .encode_to_vec()
    };
    let proto = "application/x-protobuf";
    let json = "application/json";
    for (content_type, body, expected) in [
        (proto, vec![], accepted(0, None)),
        ("", vec![], accepted(0, None)),
        ("text/html", vec![], accepted(0, None)),
        (proto, partial(3, "too old"), accepted(3, Some("too old"))),
        (
            proto,
            partial(0, "a warning"),
            accepted(0, Some("a warning")),
        ),
        (proto, partial(-1, ""), accepted(0, None)),
        (json, b"{}".to_vec(), accepted(0, None)),
        (
            json,
            br#"{"partialSuccess":{}}"#.to_vec(),
            accepted(0, None),
        ),
        (
            json,
            br#"{"partialSuccess":{"rejectedLogRecords":"2","errorMessage":"no\nmore"}}"#.to_vec(),
            accepted(2, Some("no more")),
        ),
        (
            json,
            br#"{"partialSuccess":{"rejectedLogRecords":2}}"#.to_vec(),
            accepted(2, None),
        ),
    ] {
        assert_eq!(
            answered(content_type, &body),
            expected,
            "{content_type} {body:?}"
        );
    }
    for (content_type, body) in [
        ("text/html", &b"<html>sign in</html>"[..]),
        ("", b"<html>"),
        (proto, b"\xff\xff"),
        (json, b"ok"),
        (json, br#"{"partialSuccess":{"rejectedLogRecords":"x"}}"#),
    ] {
        let outcome = answered(content_type, body);
        assert!(
            matches!(outcome, Outcome::Retry { after: None, .. }),
            "{outcome:?}"
        );
    }
    // At every cut: never a panic, and never more than was rejected.
    let whole = partial(3, "too old");
    for end in 0..whole.len() {
        if let Outcome::Accepted { rejected, .. } = answered(proto, &whole[..end]) {
            assert!(rejected == 0 || rejected == 3);
        }
    }
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(|value| json!(value)),
        any::<i64>().prop_map(|value| json!(value)),
        any::<u64>().prop_map(|value| json!(value)),
        any::<f64>().prop_map(|value| json!(value)),
        ".{0,8}".prop_map(|value| json!(value)),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|list| json!(list)),
            prop::collection::btree_map("[a-z.]{0,4}", inner, 0..4).prop_map(|map| json!(map)),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn any_claim_comes_back(
        claims in prop::collection::btree_map("[a-z.]{0,6}", any_json(), 0..4),
        counters in prop::collection::btree_map("[a-z.]{0,6}", any::<u64>(), 0..4),
        nanos in any::<i64>(),
        text in ".{0,20}",
    ) {
        let mut envelopes = samples::envelopes();
        let time = Time::from_unix_nanos(nanos.into());
        let edit = |envelope: &mut Envelope, pointer: &str, value: serde_json::Value| {
            let mut json = serde_json::to_value(&*envelope).unwrap();
            *json.pointer_mut(pointer).unwrap() = value;
            *envelope = serde_json::from_value(json).unwrap();
        };
        edit(&mut envelopes[0], "/token/public", json!(claims));
        edit(&mut envelopes[0], "/url/path", json!(text));
        edit(&mut envelopes[0], "/time", json!(time));
        edit(&mut envelopes[9], "/audit/counters", json!(counters));
        let mut batch = samples::batch(1, 1);
        batch.events = envelopes.iter().map(samples::encoded).collect::<Vec<Encoded>>();
        there_and_back(&batch);
    }
}

#[test]
fn restoring_refuses_what_no_event_has() {
    let request = encode::request(&samples::batch(1, 1)).unwrap();
    type Break = fn(&mut ExportLogsServiceRequest);
    let cases: [(&str, Break); 6] = [
        ("no scope", |request| {
            request.resource_logs[0].scope_logs[0].scope = None
        }),
        ("another scope", |request| {
            request.resource_logs[0].scope_logs[0]
                .scope
                .as_mut()
                .unwrap()
                .name = "x".into();
        }),
        ("another event name", |request| {
            request.resource_logs[0].scope_logs[0].log_records[0].event_name = "x".into();
        }),
        ("no sequence", |request| {
            request.resource_logs[0].scope_logs[0].log_records[0]
                .attributes
                .clear();
        }),
        ("a name below a value", |request| {
            let attributes = &mut request.resource_logs[0].scope_logs[0].log_records[0].attributes;
            let mut below = attributes[1].clone();
            below.key = format!("{}.x", below.key);
            attributes.push(below);
        }),
        ("a value twice", |request| {
            let attributes = &mut request.resource_logs[0].scope_logs[0].log_records[0].attributes;
            let twice = attributes[1].clone();
            attributes.push(twice);
        }),
    ];
    for (name, break_it) in cases {
        let mut broken = request.clone();
        break_it(&mut broken);
        assert!(restore::events(&broken)[0].is_err(), "{name}");
    }
}
