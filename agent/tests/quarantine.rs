//! `tokentrail-agent quarantine`: of a spool in use, of one at rest, and of one whose agent was killed.

#![expect(clippy::unwrap_used, reason = "a test")]

use serde_json::{Value, json};
use std::{
    path::Path,
    process::{Command, Output},
    sync::atomic::Ordering,
    time::{Duration, Instant},
};
use tokentrail_agent::{
    sink::{
        batch::{Batch, Limits, Outcome, Receiver},
        courier::Patience,
        delivery::{Delivery, Options},
    },
    spool,
};

/// Refuses every third event for good, in words that steer a terminal.
struct Picky;

impl Receiver for Picky {
    fn name(&self) -> &str {
        "http"
    }

    fn limits(&self) -> Limits {
        Limits {
            events: 1,
            bytes: 1 << 20,
        }
    }

    fn send(&mut self, batch: &Batch) -> Outcome {
        if batch.first().is_multiple_of(3) {
            return Outcome::Rejected {
                reason: "status 400: \u{1b}[31mnot understood".into(),
            };
        }
        Outcome::Accepted {
            rejected: 0,
            reason: None,
        }
    }
}

fn start(folder: &Path) -> Delivery {
    let options = Options {
        spool: spool::Options {
            path: folder.join("spool"),
            max_bytes: 1 << 30,
            max_age: Duration::from_secs(3_600),
            when_full: spool::WhenFull::Refuse,
            quarantine_bytes: 1 << 20,
        },
        group: Duration::ZERO,
        retry_bytes: 1 << 20,
        patience: Patience::default(),
    };
    Delivery::start(options, vec![Box::new(Picky)], "agent", 17).unwrap()
}

fn event(sequence: u64) -> agent_common::event::Envelope {
    serde_json::from_value(json!({
        "version": 1, "kind": "audit", "time": "2026-09-21T14:13:20.123456789Z",
        "observed_time": "2026-09-21T14:13:20.200000000Z",
        "producer": { "id": "agent", "name": "tokentrail-agent", "version": "0", "epoch": 17, "sequence": sequence },
        "host": { "name": "h", "boot_id": "b" },
        "audit": { "action": "agent_report" }
    }))
    .unwrap()
}

fn ask(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tokentrail-agent"))
        .arg("quarantine")
        .arg("--config")
        .arg(folder.join("agent.toml"))
        .args(arguments)
        .output()
        .unwrap()
}

fn said(folder: &Path, arguments: &[&str]) -> String {
    let output = ask(folder, arguments);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn refused(folder: &Path, arguments: &[&str], words: &str) {
    let output = ask(folder, arguments);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(words), "{said}");
}

fn configure(folder: &Path, text: &str) {
    std::fs::write(folder.join("agent.toml"), text).unwrap();
}

/// Two of the seven events.
fn shows_both(folder: &Path) {
    let list: Value = serde_json::from_str(&said(folder, &["--json"])).unwrap();
    let first = &list[0];
    assert_eq!(list.as_array().unwrap().len(), 2, "{list:#}");
    assert_eq!(
        (
            &first["sink"],
            &first["first_sequence"],
            &first["last_sequence"]
        ),
        (&json!("http"), &json!(3), &json!(3))
    );
    assert_eq!(first["producer"], json!({ "id": "agent", "epoch": 17 }));
    assert_eq!(
        (&first["events_count"], &first["refused_count"]),
        (&json!(1), &json!(1))
    );
    assert!(first["reason"].as_str().unwrap().contains("not understood"));

    let table = said(folder, &["list"]);
    assert_eq!(table.lines().count(), 3, "{table}");
    assert!(table.contains("6-6") && table.contains("status 400:") && !table.contains('\u{1b}'));

    let id = first["id"].to_string();
    let whole: Value = serde_json::from_str(&said(folder, &["show", &id, "--json"])).unwrap();
    assert_eq!(whole["events"], json!([event(3)]));
    let text = said(folder, &["show", &id]);
    let last = text.lines().last().unwrap();
    assert_eq!(last, serde_json::to_string(&event(3)).unwrap());
    refused(folder, &["show", "999"], "no batch 999");
}

#[test]
fn what_was_refused_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let spool = folder.join("spool");
    configure(folder, "");
    refused(folder, &[], "names no spool");
    configure(folder, &format!("[spool]\npath = {spool:?}\n"));
    refused(folder, &[], "there is no spool");

    let mut delivery = start(folder);
    assert_eq!(said(folder, &[]), "nothing was refused for good\n");
    (1..=7).for_each(|sequence| delivery.take(&event(sequence)));
    let begin = Instant::now();
    let counters = std::sync::Arc::clone(&delivery.couriers()[0].counters);
    while counters.rejected.load(Ordering::Relaxed) < 2 {
        assert!(begin.elapsed() < Duration::from_secs(60), "not delivered");
        delivery.tend();
        std::thread::sleep(Duration::from_millis(10));
    }
    // In use, as a kill leaves it, and at rest.
    shows_both(folder);
    let killed = folder.join("killed");
    std::fs::create_dir(&killed).unwrap();
    for name in ["spool.db", "spool.db-wal"] {
        std::fs::copy(spool.join(name), killed.join(name)).unwrap();
    }
    configure(folder, &format!("[spool]\npath = {killed:?}\n"));
    shows_both(folder);
    configure(folder, &format!("[spool]\npath = {spool:?}\n"));
    assert_eq!(delivery.close(Duration::from_secs(20)), []);
    shows_both(folder);
    // Having looked is in nobody's way.
    drop(start(folder));

    let other = folder.join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("spool.db"), b"something else").unwrap();
    configure(folder, &format!("[spool]\npath = {other:?}\n"));
    refused(folder, &[], "not a database");
}
