//! Every kind of event as OCSF, against the official schema.

use crate::samples;
use crate::support::{asked, fixture};
use serde_json::{Value, json};
use std::io::Write;
use std::process::{Command, Stdio};
use tokentrail_agent::config::{self, Encoding};
use tokentrail_agent::sink::batch::{Outcome, Receiver};
use tokentrail_agent::sink::lines::Lines;
use tokentrail_agent::sink::{Ndjson, RotatingFile, Sink, ocsf};

const VALIDATE: &str = include_str!("../programs/ocsf_validate.py");

/// Of each event, what is wrong with it.
fn validate(events: &[Value]) -> Vec<Vec<String>> {
    let mut python = Command::new(fixture("venv/bin/python"))
        .args(["-c", VALIDATE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = python.stdin.take().unwrap();
    let lines: String = events.iter().map(|event| format!("{event}\n")).collect();
    let writer = std::thread::spawn(move || stdin.write_all(lines.as_bytes()));
    let output = python.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success());
    let verdicts = String::from_utf8(output.stdout).unwrap();
    verdicts
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn every_kind_is_valid_by_the_official_schema() {
    if !asked("ocsf") {
        return;
    }
    let envelopes = samples::envelopes();
    let events: Vec<Value> = envelopes.iter().map(ocsf::event).collect();
    let verdicts = validate(&events);
    assert_eq!(verdicts.len(), events.len());
    for (event, errors) in events.iter().zip(verdicts) {
        assert!(errors.is_empty(), "{event:#}\n{}", errors.join("\n"));
    }
}

/// Without a spool and behind one.
#[test]
fn what_the_file_holds_is_valid_by_the_official_schema() {
    let folder = tempfile::tempdir().unwrap();
    let config = config::File::default();
    let open = |name| RotatingFile::open(&folder.path().join(name), &config).unwrap();
    let envelopes = samples::envelopes();

    let mut direct = Ndjson::new(open("direct"), 1 << 20).encoded(Encoding::Ocsf);
    for envelope in &envelopes {
        direct.write(envelope).unwrap();
    }
    assert!(direct.close().unwrap().is_none());
    let mut spooled = Lines::new("file", open("spooled"), || {}).encoded(Encoding::Ocsf);
    let mut batch = samples::batch(1, 1);
    let outcome = spooled.send(&batch);
    assert!(matches!(outcome, Outcome::Accepted { .. }), "{outcome:?}");
    // One that is none is told apart by halving, and nothing of its batch is written.
    batch.events[2].json = b"{}".as_slice().into();
    assert!(matches!(spooled.send(&batch), Outcome::TooLarge { .. }));
    batch.events = vec![batch.events.remove(2)];
    assert!(matches!(spooled.send(&batch), Outcome::Rejected { .. }));

    let mut written: Vec<Value> = Vec::new();
    for name in ["direct", "spooled"] {
        let text = std::fs::read_to_string(folder.path().join(name)).unwrap();
        let events: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let expected: Vec<Value> = envelopes.iter().map(ocsf::event).collect();
        assert_eq!(events, expected, "{name}");
        written.extend(events);
    }
    if !asked("ocsf") {
        return;
    }
    for (event, errors) in written.iter().zip(validate(&written)) {
        assert!(errors.is_empty(), "{event:#}\n{}", errors.join("\n"));
    }
}

#[test]
fn the_schema_refuses_what_is_wrong() {
    if !asked("ocsf") {
        return;
    }
    let event = ocsf::event(&samples::envelopes()[0]);
    type Break = fn(&mut Value);
    let breaks: [Break; 6] = [
        |event| {
            event.as_object_mut().unwrap().remove("api");
        },
        |event| event["nonsense"] = json!(1),
        |event| event["severity_id"] = json!(42),
        |event| event["actor"]["process"]["pid"] = json!("1"),
        |event| event["src_endpoint"] = json!({ "port": 1 }),
        |event| event["type_uid"] = json!(600_301),
    ];
    let broken: Vec<Value> = breaks
        .iter()
        .map(|break_it| {
            let mut event = event.clone();
            break_it(&mut event);
            event
        })
        .collect();
    for (event, errors) in broken.iter().zip(validate(&broken)) {
        assert!(!errors.is_empty(), "{event:#}");
    }
}
