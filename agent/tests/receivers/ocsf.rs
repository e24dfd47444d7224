//! Every kind of event as OCSF, against the official schema.

use crate::samples;
use crate::support::{asked, fixture};
use serde_json::{Value, json};
use std::io::Write;
use std::process::{Command, Stdio};
use tokentrail_agent::sink::ocsf;

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
