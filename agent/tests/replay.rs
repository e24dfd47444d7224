//! `tokentrail-agent replay` with the example file, as a person would run it.

#![expect(clippy::unwrap_used, reason = "a test")]

use serde_json::Value;
use std::{
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// A key for tests: the fingerprints in the golden file are its.
const KEY: &str = "version = 1\n\n[[keys]]\nkid = \"replay\"\nsecret = \"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"\nnot_before = 2020-01-01T00:00:00Z\n";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/replay")
}

fn replay(file: &Path, key: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tokentrail-agent"))
        .arg("replay")
        .arg(file)
        .arg("--fingerprint-key")
        .arg(key)
        .output()
        .unwrap()
}

fn key(folder: &Path) -> PathBuf {
    use std::io::Write as _;
    let path = folder.join("key.toml");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .unwrap();
    file.write_all(KEY.as_bytes()).unwrap();
    path
}

/// Line by line with its keys in a fixed order; the agent's version changes by itself.
fn pretty(stdout: &[u8]) -> String {
    let text = std::str::from_utf8(stdout).unwrap();
    let mut out = String::new();
    for line in text.lines() {
        let mut event: Value = serde_json::from_str(line).unwrap();
        event["producer"]["version"] = Value::from("*");
        out.push_str(&serde_json::to_string_pretty(&event).unwrap());
        out.push('\n');
    }
    out
}

#[test]
fn the_example_gives_what_it_gave() {
    let temporary = tempfile::tempdir().unwrap();
    let key = key(temporary.path());
    let output = replay(&folder().join("example.ndjson"), &key);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    // `UPDATE_EXPECT=1 cargo test -p agent --test replay` writes it.
    expect_test::expect_file![folder().join("example.events.json")]
        .assert_eq(&pretty(&output.stdout));
    assert!(
        stderr.contains("tls.opened                       1\n"),
        "{stderr}"
    );
    // The same again is the same, and what it read is in none of it.
    assert_eq!(
        replay(&folder().join("example.ndjson"), &key).stdout,
        output.stdout
    );
    let example = std::fs::read_to_string(folder().join("example.ndjson")).unwrap();
    let credential = example
        .split("Bearer ")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap();
    assert!(credential.starts_with("replay-") && credential.len() > 30);
    for shown in [&output.stdout, &output.stderr] {
        assert!(!String::from_utf8_lossy(shown).contains(credential));
    }
}

#[test]
fn a_broken_line_is_named_after_the_events_before_it() {
    let temporary = tempfile::tempdir().unwrap();
    let key = key(temporary.path());
    let file = temporary.path().join("broken.ndjson");
    let example = std::fs::read_to_string(folder().join("example.ndjson")).unwrap();
    let lines = example.lines().count();
    std::fs::write(&file, format!("{example}{{\"record\":\"chunk\"}}\n")).unwrap();
    let output = replay(&file, &key);
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains(&format!("line {}: ", lines + 1)),
        "{stderr}"
    );
    assert_eq!(
        pretty(&output.stdout)
            .matches("\"kind\": \"usage\"")
            .count(),
        3
    );
}
