//! Bytes come back, from real events and from changed ones; the table is the contract's.

use super::table::{Child, Node, TREE};
use super::*;
use crate::event::{Event, EventKey};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int16Type, Int64Type, TimestampMicrosecondType};
use bytes::Bytes;
use proptest::prelude::*;
use serde_json::Value;
use std::collections::BTreeSet;

const DEMO: &str = include_str!("../../../tests/fixtures/events.ndjson");

fn demo() -> Vec<Event> {
    DEMO.lines()
        .map(|line| Event::parse(Bytes::from_static(line.as_bytes())).unwrap())
        .collect()
}

/// Any bytes as an event: columns do not rely on what the inbox lets through.
fn unchecked(json: impl Into<Bytes>) -> Event {
    Event {
        key: EventKey {
            agent: "a".into(),
            epoch: 1,
            sequence: 1,
        },
        time: 0,
        json: json.into(),
    }
}

fn raw_rows(batch: &RecordBatch) -> usize {
    let raw = batch.column_by_name(RAW).unwrap();
    raw.len() - raw.null_count()
}

fn check(json: &str) -> RecordBatch {
    let batch = batch(&[unchecked(json.to_owned())]);
    assert_eq!(String::from_utf8(Rows::new(&batch).json(0)).unwrap(), json);
    batch
}

fn text<'a>(batch: &'a RecordBatch, name: &str, row: usize) -> Option<&'a str> {
    let array = batch.column_by_name(name).unwrap().as_string_view();
    array.is_valid(row).then(|| array.value(row))
}

#[test]
fn demo_events_come_back_from_their_columns() {
    let events = demo();
    let batch = batch(&events);
    assert_eq!(raw_rows(&batch), 0, "some were kept whole");
    let rest = batch.column_by_name(REST).unwrap();
    assert_eq!(rest.null_count(), rest.len(), "something has no column");
    let rows = Rows::new(&batch);
    for (row, event) in events.iter().enumerate() {
        assert_eq!(rows.json(row), event.json);
    }
}

#[test]
fn values_stand_in_their_columns() {
    let events = demo();
    let batch = batch(&events);
    for (row, event) in events.iter().enumerate() {
        let value: Value = serde_json::from_slice(&event.json).unwrap();
        let micros = batch.column_by_name(TIME).unwrap();
        let nanos = batch.column_by_name(TIME_NANOS).unwrap();
        assert_eq!(
            micros.as_primitive::<TimestampMicrosecondType>().value(row) * 1000
                + i64::from(nanos.as_primitive::<Int16Type>().value(row)),
            event.time
        );
        let sequence = batch.column_by_name("producer_sequence").unwrap();
        assert_eq!(
            sequence.as_primitive::<Int64Type>().value(row),
            i64::try_from(event.key.sequence).unwrap()
        );
        assert_eq!(
            text(&batch, FINGERPRINT, row),
            value
                .pointer("/token/fingerprints/0")
                .and_then(Value::as_str)
        );
        assert_eq!(
            text(&batch, "token_provider", row),
            value.pointer("/token/provider").and_then(Value::as_str)
        );
        let args = text(&batch, "process_command_args", row)
            .map(|args| serde_json::from_str::<Value>(args).unwrap());
        assert_eq!(args.as_ref(), value.pointer("/process/command_args"));
    }
}

#[test]
fn fingerprints_of_other_keys_stand_apart() {
    let batch = check(r#"{"token":{"fingerprints":["f1","f2","f3"]}}"#);
    assert_eq!(text(&batch, FINGERPRINT, 0), Some("f1"));
    assert_eq!(text(&batch, FINGERPRINTS_MORE, 0), Some(r#"["f2","f3"]"#));
    let batch = check(r#"{"token":{"fingerprints":[]}}"#);
    assert_eq!(text(&batch, FINGERPRINT, 0), None);
    assert_eq!(raw_rows(&batch), 0);
}

#[test]
fn what_no_column_holds_is_in_rest() {
    for (json, rest) in [
        (
            r#"{"kind":"usage","later":{"a":[1, 2]}}"#,
            r#"{"later":{"a":[1, 2]}}"#,
        ),
        (r#"{"tls":{"later":1}}"#, r#"{"tls.later":1}"#),
        (r#"{"tls":{}}"#, r#"{"=tls":{}}"#),
        (
            r#"{"tls":null,"url":{"path":7}}"#,
            r#"{"=tls":null,"=url.path":7}"#,
        ),
        (
            r#"{"process":{"linux":{"cgroup_id":18446744073709551615}}}"#,
            r#"{"=process.linux.cgroup_id":18446744073709551615}"#,
        ),
        (r#"{"time":"yesterday"}"#, r#"{"=time":"yesterday"}"#),
        (r#"{"forwarded":null}"#, r#"{"=forwarded":null}"#),
    ] {
        let batch = check(json);
        assert_eq!(text(&batch, REST, 0), Some(rest), "{json}");
        assert_eq!(raw_rows(&batch), 0, "{json}");
    }
}

#[test]
fn other_bytes_are_kept_whole() {
    for json in [
        r#"{ "kind":"usage"}"#,
        r#"{"kind":"us\u0061ge"}"#,
        r#"{"time":"2026-01-01T00:00:00Z"}"#,
        r#"{"host":{"name":"a"},"version":1}"#,
        r#"{"version":1,"version":2}"#,
        r#"{"process":{"pid":-0}}"#,
        r#"{"=version":1}"#,
        r#"{"host.name":"a"}"#,
        r#"{"a.b":1}"#,
        "[]",
        "",
        "{",
    ] {
        assert_eq!(raw_rows(&check(json)), 1, "{json}");
    }
}

#[test]
fn text_of_another_type_and_missing_columns_are_read() {
    let events = demo();
    let batch = batch(&events);
    let (fields, arrays): (Vec<_>, Vec<_>) = batch
        .schema()
        .fields()
        .iter()
        .zip(batch.columns())
        .rev()
        .filter(|(field, _)| field.name() != RAW && field.name() != REST)
        .map(|(field, array)| {
            let kind = match field.data_type() {
                DataType::Utf8View => DataType::Utf8,
                other => other.clone(),
            };
            let field = Field::new(field.name(), kind.clone(), true);
            (field, arrow::compute::cast(array, &kind).unwrap())
        })
        .unzip();
    let other = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap();
    for (row, event) in events.iter().enumerate() {
        assert_eq!(Rows::new(&other).json(row), event.json);
    }
}

/// Every value of the contract has a column, and every column a value of the contract.
#[test]
fn the_table_is_the_contract() {
    fn walk(at: &str, schema: &Value, root: &Value, leaves: &mut BTreeSet<String>) {
        if let Some(target) = schema.get("$ref").and_then(Value::as_str) {
            let target = root.pointer(target.trim_start_matches('#')).unwrap();
            walk(at, target, root, leaves);
        }
        for many in ["oneOf", "anyOf", "allOf"] {
            for one in schema
                .get(many)
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
            {
                walk(at, one, root, leaves);
            }
        }
        let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
            let kind = schema.get("type");
            let null = kind.and_then(Value::as_str) == Some("null");
            if !at.is_empty() && (kind.is_some() && !null || schema.get("enum").is_some()) {
                leaves.insert(at.to_owned());
            }
            return;
        };
        for (name, property) in properties {
            let dot = if at.is_empty() { "" } else { "." };
            walk(&format!("{at}{dot}{name}"), property, root, leaves);
        }
    }
    let schema = agent_common::event::schema();
    let mut contract = BTreeSet::new();
    walk("", &schema, &schema, &mut contract);
    // Of these the schema says nothing but that anything may stand there.
    contract.extend(["kind".to_owned(), "token.public".to_owned()]);
    let table: BTreeSet<_> = COLUMNS
        .iter()
        .map(|column| column.path.to_owned())
        .collect();
    let missing: Vec<_> = contract.difference(&table).collect();
    let strange: Vec<_> = table.difference(&contract).collect();
    assert!(
        missing.is_empty() && strange.is_empty(),
        "without a column: {missing:?}; not in the contract: {strange:?}"
    );
}

/// Stored files have these columns: new ones may come, these stay, and stay in this order.
#[test]
fn columns_stay() {
    let mut lines = String::new();
    for field in schema().fields() {
        lines += &format!("{} {}\n", field.name(), field.data_type());
    }
    expect_test::expect_file!["columns.txt"].assert_eq(&lines);
}

#[test]
fn words_are_of_one_column() {
    let mut seen = BTreeSet::new();
    for column in COLUMNS.iter().filter(|column| column.searchable) {
        for word in column.short {
            assert!(seen.insert(word.to_string()), "{word} twice");
            assert_eq!(field(word).unwrap().path, column.path, "{word}");
        }
        assert_eq!(field(column.path).unwrap().path, column.path);
        assert_eq!(field(&column.name).unwrap().path, column.path);
    }
    assert!(field("raw").is_none() && field("audit.counters").is_none());
}

/// JSON with the order of its keys, to change it.
#[derive(Clone, Debug)]
enum Json {
    Object(Vec<(String, Json)>),
    Other(String),
}

impl Json {
    fn parse(text: &str) -> Self {
        match super::join::entries(text) {
            Some(entries) => Self::Object(
                entries
                    .into_iter()
                    .map(|(key, value)| (key.into_owned(), Self::parse(value.get())))
                    .collect(),
            ),
            None => Self::Other(text.to_owned()),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Other(text) => text.clone(),
            Self::Object(entries) => {
                let inner: Vec<_> = entries
                    .iter()
                    .map(|(key, value)| format!("{}:{}", Value::from(key.as_str()), value.text()))
                    .collect();
                format!("{{{}}}", inner.join(","))
            }
        }
    }

    /// Changes the `at`th of the objects that the table knows (counted from 0, depth first).
    fn change(&mut self, node: &Node, at: &mut usize, change: &Change) {
        let Self::Object(entries) = self else { return };
        if *at == 0 {
            change.apply(entries);
        }
        *at = at.wrapping_sub(1);
        for (key, value) in entries {
            if let Some((_, Child::Node(below))) = node.child(key, 0) {
                value.change(below, at, change);
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Change {
    Drop(usize),
    Append(String, String),
    Insert(usize, String, String),
    Replace(usize, String),
    Swap(usize, usize),
    Twice(usize),
}

impl Change {
    fn apply(&self, entries: &mut Vec<(String, Json)>) {
        let count = entries.len().max(1);
        let other = |value: &String| Json::Other(value.clone());
        match self {
            Self::Drop(at) if !entries.is_empty() => drop(entries.remove(at % count)),
            Self::Append(key, value) => entries.push((key.clone(), other(value))),
            Self::Insert(at, key, value) => {
                entries.insert(at % count, (key.clone(), other(value)));
            }
            Self::Replace(at, value) if !entries.is_empty() => {
                entries[at % count].1 = other(value);
            }
            Self::Swap(one, two) if !entries.is_empty() => entries.swap(one % count, two % count),
            Self::Twice(at) if !entries.is_empty() => entries.push(entries[at % count].clone()),
            _ => {}
        }
    }
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("null".to_owned()),
        Just("{}".to_owned()),
        Just("[]".to_owned()),
        Just("true".to_owned()),
        Just(r#"{"a":{"b":1}}"#.to_owned()),
        Just(r#"["tkf1:a:b",1]"#.to_owned()),
        Just(r#""2026-01-01T00:00:00.000000001Z""#.to_owned()),
        Just(r#""1969-12-31T23:59:59.999999999Z""#.to_owned()),
        Just("1e3".to_owned()),
        Just("-0".to_owned()),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<u64>().prop_map(|number| number.to_string()),
        any::<String>().prop_map(|text| Value::from(text).to_string()),
    ]
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("later".to_owned()),
        Just("time".to_owned()),
        Just("=tls".to_owned()),
        Just("host.name".to_owned()),
        Just(String::new()),
        "[a-z]{1,8}",
        any::<String>(),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<usize>;
    prop_oneof![
        at().prop_map(Change::Drop),
        (key(), value()).prop_map(|(key, value)| Change::Append(key, value)),
        (at(), key(), value()).prop_map(|(at, key, value)| Change::Insert(at, key, value)),
        (at(), value()).prop_map(|(at, value)| Change::Replace(at, value)),
        (at(), at()).prop_map(|(one, two)| Change::Swap(one, two)),
        at().prop_map(Change::Twice),
    ]
}

/// What a later agent, or an older one, does to events: fields that are missing, and new ones at the end.
fn of_another_version() -> impl Strategy<Value = Change> {
    prop_oneof![
        any::<usize>().prop_map(Change::Drop),
        ("new_[a-z]{1,8}", value()).prop_map(|(key, value)| Change::Append(key, value)),
    ]
}

fn changed(event: usize, changes: &[(usize, Change)]) -> String {
    let lines: Vec<_> = DEMO.lines().collect();
    let mut json = Json::parse(lines[event % lines.len()]);
    for (at, change) in changes {
        json.change(&TREE, &mut (at % 24), change);
    }
    json.text()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn changed_events_come_back(
        event in any::<usize>(),
        changes in proptest::collection::vec((any::<usize>(), change()), 1..6),
    ) {
        check(&changed(event, &changes));
    }

    #[test]
    fn events_of_other_versions_need_no_raw(
        event in any::<usize>(),
        changes in proptest::collection::vec((any::<usize>(), of_another_version()), 1..6),
    ) {
        let json = changed(event, &changes);
        let batch = check(&json);
        // Two new fields of one name are not what an agent sends.
        let repeated = changes.iter().enumerate().any(|(place, (_, change))| {
            matches!(change, Change::Append(key, _) if changes[..place]
                .iter()
                .any(|(_, other)| matches!(other, Change::Append(earlier, _) if earlier == key)))
        });
        prop_assert!(repeated || raw_rows(&batch) == 0, "{}", json);
    }

    #[test]
    fn any_bytes_come_back(text in any::<String>()) {
        check(&text);
    }
}
