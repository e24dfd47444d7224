//! Replays of made-up lines. The example, with what comes of it, is `agent/tests/replay.rs`.

use super::{Error, Replay};
use crate::{credential, pipeline};
use agent_common::{
    event::{Body, Envelope},
    fingerprint::Keyring,
};
use std::sync::Arc;

const HEAD: &str = r#"{"record":"format","version":1}
{"record":"process","process":1,"time":0,"pid":7,"name":"a","file":"/bin/a"}
{"record":"connection","connection":1,"process":1,"local":"192.0.2.1:4000","peer":"192.0.2.2:80"}
"#;

fn replay(text: &[u8]) -> (Vec<Envelope>, Result<(), Error>) {
    let mut replay = Replay::new(
        pipeline::synthetic::limits(16),
        credential::Config::default(),
        Arc::new(Keyring::ephemeral().unwrap()),
    )
    .unwrap();
    let mut events = Vec::new();
    let result = replay.run(text, |event| events.push(event));
    (events, result)
}

/// Paths of the usage events of the head and these lines.
fn paths(lines: &str) -> Vec<String> {
    let (events, result) = replay(format!("{HEAD}{lines}").as_bytes());
    result.unwrap();
    events
        .into_iter()
        .filter_map(|event| match event.body {
            Body::Usage(usage) => Some(usage.url.path),
            _ => None,
        })
        .collect()
}

fn refusal(text: &str) -> String {
    replay(text.as_bytes()).1.unwrap_err().to_string()
}

/// A request, from its byte `from` on.
fn request(path: &str, time: u64, more: &str) -> String {
    format!(
        r#"{{"record":"chunk","connection":1,"direction":"sent","time":{time}{more},"text":"GET /{path} HTTP/1.1\r\nHost: api.example\r\nAuthorization: Bearer synthetic-0123456789abcdef\r\n\r\n"}}"#
    ) + "\n"
}

#[test]
fn a_place_that_is_not_said_follows_the_last_one() {
    let lines = request("a", 10, "") + &request("b", 20, "");
    assert_eq!(paths(&lines), ["/a", "/b"]);
    // Out of order, by places that are said.
    let length = "GET /a HTTP/1.1\r\nHost: api.example\r\nAuthorization: Bearer synthetic-0123456789abcdef\r\n\r\n".len();
    let lines =
        request("b", 10, &format!(",\"offset\":{length}")) + &request("a", 20, ",\"offset\":0");
    assert_eq!(paths(&lines), ["/a", "/b"]);
}

#[test]
fn comments_blank_lines_and_line_ends_of_either_kind() {
    let lines = format!(
        "# {{\n\n  \r\n{}",
        request("a", 1, "").replace('\n', "\r\n")
    );
    assert_eq!(paths(&lines), ["/a"]);
}

#[test]
fn time_passes_between_records() {
    // The response never comes; the request is given out when its time is over, before the file's end.
    let late = r#"{"record":"exit","process":1,"time":600000000}"#;
    let text = format!("{HEAD}{}{late}\n{{\"record\":\"exit\"", request("a", 1, ""));
    let (events, result) = replay(text.as_bytes());
    assert!(result.is_err());
    assert_eq!(events.len(), 1);
}

#[test]
fn a_pause_of_any_length_ends() {
    let lines = format!(
        r#"{{"record":"closed","connection":1,"time":{}}}"#,
        u64::MAX
    );
    assert_eq!(paths(&lines), Vec::<String>::new());
}

#[test]
fn errors_name_their_line_and_quote_nothing() {
    for (line, expected) in [
        ("{", "column 1: EOF"),
        ("[]", "missing field `record`"),
        (r#"{"record":"nothing-of-mine"}"#, "unknown variant"),
        (
            r#"{"record":"closed","connection":1,"time":1,"nothing-of-mine":2}"#,
            "unknown field",
        ),
        (
            r#"{"record":"closed","connection":1}"#,
            "missing field `time`",
        ),
        (
            r#"{"record":"closed","connection":9,"time":1}"#,
            "connection 9 was not introduced",
        ),
        (
            r#"{"record":"exit","process":9,"time":1}"#,
            "process 9 was not introduced",
        ),
        (
            r#"{"record":"closed","connection":"nothing-of-mine","time":1}"#,
            "invalid type: string, expected u32",
        ),
        (
            r#"{"record":"closed","connection":"nothing-of-mine, expected \" nothing-of-mine","time":1}"#,
            "expected u32",
        ),
        (
            r#"{"record":"closed","connection":1,"time":-1}"#,
            "expected u64",
        ),
        (r#"{"record":"format","version":1}"#, "a second record"),
        (
            r#"{"record":"process","process":1,"time":0,"pid":7,"name":"a","file":"/bin/a"}"#,
            "process 1 was introduced before",
        ),
        (
            r#"{"record":"process","process":2,"time":0,"pid":0,"name":"a","file":"/bin/a"}"#,
            "`pid` is 0",
        ),
        (
            r#"{"record":"process","process":2,"time":0,"pid":1,"name":"0123456789abcdef","file":"/bin/a"}"#,
            "more than 15 bytes",
        ),
        (
            r#"{"record":"process","process":2,"time":0,"pid":1,"name":"a","file":"/bin/a","library":"nothing-of-mine"}"#,
            "unknown variant",
        ),
        (
            r#"{"record":"connection","connection":1,"process":1,"unix":"/x"}"#,
            "connection 1 was introduced before",
        ),
        (
            r#"{"record":"connection","connection":2,"process":3,"unix":"/x"}"#,
            "process 3 was not introduced",
        ),
        (
            r#"{"record":"connection","connection":2,"process":1}"#,
            "either",
        ),
        (
            r#"{"record":"connection","connection":2,"process":1,"unix":"/x","local":"192.0.2.1:1"}"#,
            "either",
        ),
        (
            r#"{"record":"connection","connection":2,"process":1,"local":"nothing-of-mine","peer":"192.0.2.1:1"}"#,
            "column",
        ),
        (
            r#"{"record":"chunk","connection":1,"direction":"sent","time":1}"#,
            "no bytes",
        ),
        (
            r#"{"record":"chunk","connection":1,"direction":"sent","time":1,"text":"a","base64":"YQ=="}"#,
            "both",
        ),
        (
            r#"{"record":"chunk","connection":1,"direction":"sent","time":1,"base64":"nothing-of-mine"}"#,
            "not base64",
        ),
        (
            r#"{"record":"chunk","connection":1,"direction":"sent","time":1,"text":["nothing-of-mine"]}"#,
            "expected a string",
        ),
        (
            r#"{"record":"chunk","connection":1,"direction":"sent","time":1,"text":"ab","offset":18446744073709551615}"#,
            "2^64",
        ),
        (
            r#"{"record":"chunk","connection":1,"direction":"up","time":1,"text":"a"}"#,
            "unknown variant",
        ),
        (
            r#"{"record":"secret","process":1,"time":1,"label":"CLIENT_RANDOM","base64":"YQ==","client_random":"YQ=="}"#,
            "32 bytes",
        ),
    ] {
        let text = format!("{HEAD}\n{line}\n");
        let error = refusal(&text);
        assert!(error.starts_with("line 5: "), "{line}: {error}");
        assert!(error.contains(expected), "{line}: {error}");
        assert!(!error.contains("nothing-of-mine"), "{line}: {error}");
    }
}

#[test]
fn the_first_record_is_the_format() {
    assert_eq!(
        refusal(HEAD.split_once('\n').unwrap().1).split(':').next(),
        Some("line 1")
    );
    let newer = refusal("# a newer one\n{\"record\":\"format\",\"version\":2}\n");
    assert_eq!(newer, "line 2: version 2 of the format; this agent reads 1");
    for empty in ["", "\n", "# nothing"] {
        assert!(refusal(empty).contains("no record"), "{empty:?}");
    }
}

#[test]
fn lines_are_text_and_not_too_long() {
    let (_, result) = replay(b"\xff\xfe\n");
    assert_eq!(result.unwrap_err().to_string(), "line 1: not UTF-8");
    let long = vec![b' '; super::LINE + 1];
    let (_, result) = replay(&long);
    assert!(result.unwrap_err().to_string().contains("longer than"));
    let (_, result) = replay(&[&long[1..], b"\n", HEAD.as_bytes()].concat());
    result.unwrap();
}

#[test]
fn every_cut_is_harmless() {
    let text = format!("{HEAD}{}", request("a", 1, ""));
    for cut in 0..text.len() {
        super::fuzz::fuzz(&text.as_bytes()[..cut]);
    }
}

#[test]
fn nothing_stays_behind() {
    let count = || {
        let mark = format!("tokentrail-replay-{}-", std::process::id());
        std::fs::read_dir(std::env::temp_dir())
            .unwrap()
            .filter(|entry| {
                entry
                    .as_ref()
                    .unwrap()
                    .file_name()
                    .to_string_lossy()
                    .starts_with(&mark)
            })
            .count()
    };
    let empty = super::EmptyProc::make().unwrap();
    let folder = empty.path().to_owned();
    assert!(count() >= 1 && folder.join("self/mountinfo").exists());
    drop(empty);
    assert!(!folder.exists());
}
