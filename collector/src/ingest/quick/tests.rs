//! The plain way is the oracle: what is taken here it takes, with the same bytes.

use super::*;
use crate::event::Event;
use agent_common::otlp::request::{Batch, Request};
use agent_common::otlp::restore;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, SeverityNumber};
use proptest::prelude::*;
use prost::Message;

const EVENTS: &str = include_str!("../../../tests/fixtures/events.ndjson");
const LOAD: &str = include_str!("../../../tests/fixtures/load.ndjson");

/// Each event as a request of its own.
fn requests() -> Vec<ExportLogsServiceRequest> {
    let lines = EVENTS.lines().chain(LOAD.lines());
    lines
        .map(|line| {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            let producer = &event["producer"];
            let sequence = producer["sequence"].as_u64().unwrap();
            let mut request = Request::new(Batch {
                agent: producer["id"].as_str().unwrap(),
                epoch: producer["epoch"].as_u64().unwrap(),
                first: sequence,
                last: sequence,
            });
            request.push(line.as_bytes(), SeverityNumber::Info).unwrap();
            request.finish()
        })
        .collect()
}

fn head(request: &ExportLogsServiceRequest) -> Option<Head> {
    let logs = &request.resource_logs[0];
    Head::of(logs.resource.as_ref(), logs.scope_logs[0].scope.as_ref())
}

fn record(request: &ExportLogsServiceRequest) -> &LogRecord {
    &request.resource_logs[0].scope_logs[0].log_records[0]
}

/// As the plain way has it.
fn plain(request: &ExportLogsServiceRequest) -> Option<(EventKey, i64, Vec<u8>)> {
    let json = restore::events(request).pop()?.ok()?;
    let (key, time) = Event::head(&json).ok()?;
    Some((key, time, json))
}

fn taught(quick: &Arc<Quick>) {
    let mut reader = Reader::new(quick);
    for request in requests() {
        let (key, _, json) = plain(&request).unwrap();
        let bytes = record(&request).encode_to_vec();
        if let Some(mut head) = head(&request) {
            reader.learn(&mut head, &bytes, (&key, &json));
        }
    }
}

/// What comes of a request after another one of the same resource.
fn quick_after(
    quick: &Arc<Quick>,
    first: &ExportLogsServiceRequest,
    request: &ExportLogsServiceRequest,
) -> Option<(EventKey, i64, Vec<u8>)> {
    let mut reader = Reader::new(quick);
    let mut head = head(request)?;
    if let Some((key, _, json)) = plain(first) {
        reader.learn(&mut head, &record(first).encode_to_vec(), (&key, &json));
    }
    if !head.is_proven() {
        return None;
    }
    let mut written = b"before".to_vec();
    let taken = reader.take(&head, &record(request).encode_to_vec(), &mut written);
    let Some(Taken { key, time }) = taken else {
        assert_eq!(written, b"before", "nothing is left behind");
        return None;
    };
    Some((key, time, written.split_off(6)))
}

#[test]
fn usage_events_are_quick_once_they_are_known() {
    let quick = Arc::default();
    taught(&quick);
    let mut usage = 0;
    for request in requests() {
        let quick = quick_after(&quick, &request, &request);
        if record(&request).event_name == "tokentrail.usage" {
            usage += 1;
            assert_eq!(quick, plain(&request));
        } else {
            assert_eq!(quick, None);
        }
    }
    assert!(usage > 20);
}

/// Each attribute that there is, with values at every border that a rule may have.
#[test]
fn a_rule_allows_what_the_contract_does() {
    let quick = Arc::default();
    taught(&quick);
    let borders = [0, 1, 8, 16, 31, 32, 63].map(|bits| 1_i128 << bits);
    let numbers = borders
        .iter()
        .flat_map(|border| [border - 1, *border, -border]);
    let numbers = numbers.filter_map(|number| i64::try_from(number).ok());
    let mut values: Vec<Option<Value>> = numbers
        .map(|number| Some(Value::IntValue(number)))
        .collect();
    values.extend([true, false].map(|truth| Some(Value::BoolValue(truth))));
    values.extend(["", "x", "\0\"\u{e9}"].map(|text| Some(Value::StringValue(text.to_owned()))));
    values.push(None);
    let mut seen = std::collections::HashSet::new();
    let (mut same, mut left) = (0, 0);
    for request in requests() {
        for at in 0..record(&request).attributes.len() {
            let usage = record(&request).event_name == "tokentrail.usage";
            if !usage || !seen.insert(record(&request).attributes[at].key.clone()) {
                continue;
            }
            for value in &values {
                let mut changed = request.clone();
                let record = &mut changed.resource_logs[0].scope_logs[0].log_records[0];
                record.attributes[at].value = Some(AnyValue {
                    value: value.clone(),
                });
                let taken = quick_after(&quick, &request, &changed);
                match taken {
                    Some(taken) => {
                        same += 1;
                        assert_eq!(Some(taken), plain(&changed));
                    }
                    None => left += 1,
                }
            }
        }
    }
    assert!(same > 100 && left > 300, "{same} {left}");
}

#[test]
fn what_was_learned_is_bounded() {
    let quick: Arc<Quick> = Arc::default();
    let mut request = requests().swap_remove(requests().len() - 1);
    for turn in 0..40 {
        let mut reader = Reader::new(&quick);
        for number in 0..20 {
            let record = &mut request.resource_logs[0].scope_logs[0].log_records[0];
            record
                .attributes
                .retain(|attribute| !attribute.key.starts_with("extra"));
            record.attributes.push(KeyValue {
                // 800 shapes.
                key: format!("extra{turn}x{number}"),
                value: Some(AnyValue {
                    value: Some(Value::StringValue("x".repeat(100))),
                }),
                ..KeyValue::default()
            });
            let (key, _, json) = plain(&request).unwrap();
            let mut head = head(&request).unwrap();
            reader.learn(
                &mut head,
                &self::record(&request).encode_to_vec(),
                (&key, &json),
            );
        }
    }
    let learned = quick.learned.read().unwrap();
    assert!(learned.shapes() > 0 && learned.shapes() <= 512);
}

#[derive(Clone, Debug)]
enum Change {
    Value(prop::sample::Index, Any),
    Remove(prop::sample::Index),
    Repeat(prop::sample::Index),
    Swap(prop::sample::Index, prop::sample::Index),
    Rename(prop::sample::Index, prop::sample::Index),
    /// Another event's value of the attribute at that place.
    Borrow(prop::sample::Index, prop::sample::Index),
    Times(u64, u64),
    Name(String),
    Resource(prop::sample::Index, Any),
    /// Moves a member of the resource into the record.
    Demote(prop::sample::Index),
}

#[derive(Clone, Debug)]
struct Any(Option<Value>);

fn any_value() -> impl Strategy<Value = Any> {
    let text = prop_oneof![
        ".{0,6}",
        Just("client".to_owned()),
        Just("tcp".to_owned()),
        Just("2026-11-22T07:41:02.333713675Z".to_owned()),
        Just(format!("tkf1:k:{}", "A".repeat(43))),
    ];
    let whole = prop_oneof![any::<i64>(), -2..70_000_i64, Just(0), Just(1)];
    let list = |values: Vec<Option<Value>>| {
        let values = values.into_iter().map(|value| AnyValue { value });
        Value::ArrayValue(ArrayValue {
            values: values.collect(),
        })
    };
    prop_oneof![
        Just(Any(None)),
        text.clone()
            .prop_map(|text| Any(Some(Value::StringValue(text)))),
        whole.prop_map(|whole| Any(Some(Value::IntValue(whole)))),
        any::<bool>().prop_map(|truth| Any(Some(Value::BoolValue(truth)))),
        any::<f64>().prop_map(|number| Any(Some(Value::DoubleValue(number)))),
        any::<u64>().prop_map(|whole| Any(Some(Value::BytesValue(whole.to_string().into_bytes())))),
        prop::collection::vec(text.clone(), 0..3).prop_map(move |texts| Any(Some(list(
            texts
                .into_iter()
                .map(|text| Some(Value::StringValue(text)))
                .collect()
        )))),
        (text.clone(), text).prop_map(|(key, text)| Any(Some(Value::KvlistValue(KeyValueList {
            values: vec![KeyValue {
                key,
                value: Some(AnyValue {
                    value: Some(Value::StringValue(text))
                }),
                ..KeyValue::default()
            }]
        })))),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    use prop::sample::Index;
    prop_oneof![
        6 => (any::<Index>(), any_value()).prop_map(|(at, value)| Change::Value(at, value)),
        2 => (any::<Index>(), any::<Index>()).prop_map(|(at, from)| Change::Borrow(at, from)),
        1 => any::<Index>().prop_map(Change::Remove),
        1 => any::<Index>().prop_map(Change::Repeat),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(one, other)| Change::Swap(one, other)),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(one, other)| Change::Rename(one, other)),
        1 => (any::<u64>(), any::<u64>()).prop_map(|(one, other)| Change::Times(one, other)),
        1 => prop_oneof![Just("tokentrail.loss".to_owned()), "tokentrail.usage.?"].prop_map(Change::Name),
        1 => (any::<Index>(), any_value()).prop_map(|(at, value)| Change::Resource(at, value)),
        1 => any::<Index>().prop_map(Change::Demote),
    ]
}

fn apply(request: &mut ExportLogsServiceRequest, all: &[ExportLogsServiceRequest], change: Change) {
    let logs = &mut request.resource_logs[0];
    let resource = &mut logs.resource.as_mut().unwrap().attributes;
    let record = &mut logs.scope_logs[0].log_records[0];
    let attributes = &mut record.attributes;
    let value = |Any(value)| Some(AnyValue { value });
    match change {
        Change::Value(at, to) if !attributes.is_empty() => {
            let at = at.index(attributes.len());
            attributes[at].value = value(to);
        }
        Change::Borrow(at, from) if !attributes.is_empty() => {
            let at = at.index(attributes.len());
            let others = &all[from.index(all.len())].resource_logs[0].scope_logs[0].log_records[0];
            let key = &attributes[at].key;
            let found = others.attributes.iter().find(|other| other.key == *key);
            if let Some(found) = found {
                attributes[at].value = found.value.clone();
            }
        }
        Change::Remove(at) if !attributes.is_empty() => {
            attributes.remove(at.index(attributes.len()));
        }
        Change::Repeat(at) if !attributes.is_empty() => {
            let again = attributes[at.index(attributes.len())].clone();
            attributes.push(again);
        }
        Change::Swap(one, other) if !attributes.is_empty() => {
            let length = attributes.len();
            attributes.swap(one.index(length), other.index(length));
        }
        Change::Rename(one, other) if !attributes.is_empty() => {
            let length = attributes.len();
            attributes[one.index(length)].key = attributes[other.index(length)].key.clone();
        }
        Change::Times(one, other) => {
            record.time_unix_nano = one;
            record.observed_time_unix_nano = other;
        }
        Change::Name(name) => record.event_name = name,
        Change::Resource(at, to) if !resource.is_empty() => {
            let at = at.index(resource.len());
            resource[at].value = value(to);
        }
        Change::Demote(at) if !resource.is_empty() => {
            let moved = resource.remove(at.index(resource.len()));
            attributes.push(moved);
        }
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]
    #[test]
    fn what_is_quick_is_what_the_plain_way_takes(
        at in any::<prop::sample::Index>(),
        first in prop::collection::vec(change(), 0..2),
        second in prop::collection::vec(change(), 0..3),
    ) {
        thread_local! {
            static TAUGHT: (Arc<Quick>, Vec<ExportLogsServiceRequest>) = {
                let quick = Arc::default();
                taught(&quick);
                (quick, requests())
            };
        }
        TAUGHT.with(|(quick, all)| {
            let mut one = at.get(all).clone();
            for change in first {
                apply(&mut one, all, change);
            }
            // The second record is of the first one's resource, whatever that is now.
            let mut other = one.clone();
            let records = at.get(all).resource_logs[0].scope_logs[0].log_records.clone();
            other.resource_logs[0].scope_logs[0].log_records = records;
            for change in second {
                if !matches!(change, Change::Resource(..) | Change::Demote(_)) {
                    apply(&mut other, all, change);
                }
            }
            if let Some(quick) = quick_after(quick, &one, &other) {
                prop_assert_eq!(Some(quick), plain(&other));
            }
            Ok(())
        })?;
    }
}
