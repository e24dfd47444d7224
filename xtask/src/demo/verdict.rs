//! What was expected against what the agent said: by fingerprint, so that nothing depends on order or luck.

use super::cast::Act;
use serde_json::Value;
use std::collections::BTreeMap;

/// An act that was played, and by whom.
pub struct Expected {
    pub act: Act,
    pub fingerprint: String,
    pub pid: u32,
    /// The program itself failed, so that nothing can be expected of it.
    pub failed: Option<String>,
}

/// Both ends of each exchange are in scope, so both have an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Client,
    Server,
}

impl End {
    const BOTH: [Self; 2] = [Self::Client, Self::Server];

    fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

/// What became of one expectation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    Seen,
    /// An event came and says something else than what happened.
    Wrong(String),
    Missing,
    /// The program failed.
    NotPlayed(String),
}

pub struct Verdict {
    pub rows: Vec<Row>,
    /// Usage events that belong to nothing that was played.
    pub strangers: usize,
    /// Connections that the agent lists as unread, by its reason.
    pub unread: BTreeMap<String, u64>,
    /// Losses that were not by policy, by stage and reason.
    pub losses: BTreeMap<String, u64>,
}

pub struct Row {
    pub name: &'static str,
    pub what: String,
    pub findings: [Finding; 2],
}

/// Every event of the file so far; a line that is being written is left for later.
pub fn events(text: &str) -> Vec<Value> {
    text.split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

/// Nothing is missing any more.
pub fn complete(expected: &[Expected], events: &[Value]) -> bool {
    judge(expected, events)
        .rows
        .iter()
        .flat_map(|row| &row.findings)
        .all(|finding| *finding != Finding::Missing)
}

pub fn judge(expected: &[Expected], events: &[Value]) -> Verdict {
    let usages: Vec<&Value> = of_kind(events, "usage").collect();
    let rows = expected
        .iter()
        .map(|expected| Row {
            name: expected.act.name,
            what: format!(
                "{} {} over {}",
                expected.act.method,
                expected.act.path,
                expected.act.wire.name()
            ),
            findings: End::BOTH.map(|end| find(expected, end, &usages)),
        })
        .collect();
    let strangers = usages
        .iter()
        .filter(|event| !expected.iter().any(|expected| is_of(event, expected)))
        .count();
    let mut unread = BTreeMap::new();
    for event in of_kind(events, "coverage") {
        if text(event, "/coverage/scope") == Some("connection") {
            let reason = text(event, "/coverage/reason").unwrap_or("unknown");
            *unread.entry(reason.to_owned()).or_default() += 1;
        }
    }
    let mut losses = BTreeMap::new();
    for event in of_kind(events, "loss") {
        if event.pointer("/loss/intentional") == Some(&Value::Bool(true)) {
            continue;
        }
        let name = |pointer| text(event, pointer).unwrap_or("unknown").to_owned();
        let count = event.pointer("/loss/count").and_then(Value::as_u64);
        *losses
            .entry(format!("{}/{}", name("/loss/stage"), name("/loss/reason")))
            .or_default() += count.unwrap_or(1);
    }
    Verdict {
        rows,
        strangers,
        unread,
        losses,
    }
}

fn of_kind<'a>(events: &'a [Value], kind: &'static str) -> impl Iterator<Item = &'a Value> {
    events
        .iter()
        .filter(move |event| text(event, "/kind") == Some(kind))
}

fn text<'a>(event: &'a Value, pointer: &str) -> Option<&'a str> {
    event.pointer(pointer)?.as_str()
}

fn is_of(event: &Value, expected: &Expected) -> bool {
    event
        .pointer("/token/fingerprints")
        .and_then(Value::as_array)
        .is_some_and(|all| all.iter().any(|one| one == expected.fingerprint.as_str()))
}

fn find(expected: &Expected, end: End, usages: &[&Value]) -> Finding {
    if let Some(cause) = &expected.failed {
        return Finding::NotPlayed(cause.clone());
    }
    let mut candidates = usages
        .iter()
        .filter(|event| is_of(event, expected) && text(event, "/direction") == Some(end.name()));
    let Some(event) = candidates.next() else {
        return Finding::Missing;
    };
    if candidates.next().is_some() {
        return Finding::Wrong("told twice".to_owned());
    }
    let number = |pointer| event.pointer(pointer).and_then(Value::as_u64);
    let act = &expected.act;
    let mut wrong = Vec::new();
    let mut compare = |what: &str, said: Option<String>, truth: String| {
        if said.as_ref() != Some(&truth) {
            let said = said.unwrap_or_else(|| "nothing".to_owned());
            wrong.push(format!("{what} {said} instead of {truth}"));
        }
    };
    let said = |pointer| text(event, pointer).map(str::to_owned);
    compare(
        "method",
        said("/http/request/method"),
        act.method.to_owned(),
    );
    compare("path", said("/url/path"), act.path.to_owned());
    compare("carrier", said("/token/carrier"), act.carrier.to_owned());
    compare(
        "status",
        number("/http/response/status_code").map(|status| status.to_string()),
        act.status.to_string(),
    );
    match end {
        End::Client => compare(
            "process",
            number("/process/pid").map(|pid| pid.to_string()),
            expected.pid.to_string(),
        ),
        End::Server => compare(
            "program",
            said("/process/executable/path")
                .and_then(|path| path.rsplit('/').next().map(str::to_owned)),
            "nginx".to_owned(),
        ),
    }
    if wrong.is_empty() {
        Finding::Seen
    } else {
        Finding::Wrong(wrong.join(", "))
    }
}

impl Verdict {
    pub fn seen(&self) -> usize {
        self.findings()
            .filter(|found| **found == Finding::Seen)
            .count()
    }

    pub fn wanted(&self) -> usize {
        self.findings().count()
    }

    pub fn is_good(&self) -> bool {
        self.seen() == self.wanted() && self.strangers == 0
    }

    fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.rows.iter().flat_map(|row| &row.findings)
    }

    /// The summary, as lines.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for row in &self.rows {
            let state = |end: End, finding: &Finding| match finding {
                Finding::Seen => format!("{} seen", end.name()),
                Finding::Missing => format!("{} NOT SEEN", end.name()),
                Finding::Wrong(how) => format!("{} WRONG: {how}", end.name()),
                Finding::NotPlayed(cause) => format!("{} not played: {cause}", end.name()),
            };
            lines.push(format!(
                " {} {:<10}  {:<44}  {}",
                if row.findings.iter().all(|found| *found == Finding::Seen) {
                    '+'
                } else {
                    '!'
                },
                row.name,
                row.what,
                End::BOTH
                    .iter()
                    .zip(&row.findings)
                    .map(|(end, finding)| state(*end, finding))
                    .collect::<Vec<_>>()
                    .join(", ")
            ));
        }
        lines.push(format!(
            "   {} of {} expected events seen, {} unexpected",
            self.seen(),
            self.wanted(),
            self.strangers
        ));
        for (reason, count) in &self.unread {
            lines.push(format!("   connections not read: {count} ({reason})"));
        }
        for (reason, count) in &self.losses {
            lines.push(format!("   lost: {count} ({reason})"));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::cast::cast;
    use crate::server::Site;
    use serde_json::json;
    use std::path::Path;

    fn expected() -> Option<Expected> {
        let site = Site {
            http: 8080,
            https: 8443,
            http2: 3,
            certificate: "/demo/localhost.crt".into(),
        };
        // Without the demo's programs there are no acts to judge.
        let act = cast(&site, Path::new("/usr/bin/python3"))
            .ok()?
            .swap_remove(0);
        Some(Expected {
            act,
            fingerprint: "tkf1:k:AAA".into(),
            pid: 42,
            failed: None,
        })
    }

    fn usage(direction: &str, change: impl Fn(&mut Value)) -> Value {
        let mut event = json!({
            "kind": "usage",
            "direction": direction,
            "token": {"fingerprints": ["tkf1:k:AAA"], "carrier": "header:authorization"},
            "http": {"request": {"method": "GET"}, "response": {"status_code": 200}},
            "url": {"path": "/user/repos"},
            "process": {"pid": 42, "executable": {"path": "/usr/sbin/nginx"}},
        });
        change(&mut event);
        event
    }

    #[test]
    fn an_event_counts_only_if_it_is_right() {
        let Some(expected) = expected() else { return };
        let expected = [expected];
        let good = [usage("client", |_| ()), usage("server", |_| ())];
        assert!(judge(&expected, &good).is_good());
        assert!(complete(&expected, &good));
        type Change = fn(&mut Value);
        let changes: [(&str, Change); 6] = [
            ("status", |e| {
                e["http"]["response"]["status_code"] = json!(0)
            }),
            ("method", |e| e["http"]["request"]["method"] = json!("PUT")),
            ("path", |e| e["url"]["path"] = json!("/")),
            ("carrier", |e| e["token"]["carrier"] = json!("path")),
            ("process", |e| e["process"]["pid"] = json!(43)),
            ("status", |e| e["http"]["response"] = Value::Null),
        ];
        for (what, change) in changes {
            let verdict = judge(
                &expected,
                &[usage("client", change), usage("server", |_| ())],
            );
            assert!(!verdict.is_good());
            let Finding::Wrong(how) = &verdict.rows[0].findings[0] else {
                panic!("{what} was not noticed");
            };
            assert!(how.contains(what), "{how}");
        }
    }

    #[test]
    fn what_is_missing_twice_or_strange_is_told() {
        let Some(expected) = expected() else { return };
        let expected = [expected];
        let verdict = judge(&expected, &[usage("client", |_| ())]);
        assert_eq!(verdict.rows[0].findings[1], Finding::Missing);
        assert!(!complete(&expected, &[]));
        let both = usage("server", |_| ());
        let twice = [usage("client", |_| ()), both.clone(), both];
        assert!(!judge(&expected, &twice).is_good());
        let strange = usage("server", |e| {
            e["token"]["fingerprints"] = json!(["tkf1:k:BBB"])
        });
        let verdict = judge(
            &expected,
            &[usage("client", |_| ()), usage("server", |_| ()), strange],
        );
        assert_eq!((verdict.strangers, verdict.is_good()), (1, false));
    }

    #[test]
    fn half_a_line_is_left_for_later() {
        assert_eq!(events("{\"kind\":\"audit\"}\n{\"kind\":").len(), 1);
    }

    #[test]
    fn unread_connections_and_losses_are_summed() {
        let events = [
            json!({"kind": "coverage", "coverage": {"scope": "connection", "reason": "http2"}}),
            json!({"kind": "coverage", "coverage": {"scope": "agent"}}),
            json!({"kind": "loss", "loss": {"stage": "kernel", "reason": "ring_full", "count": 3, "intentional": false}}),
            json!({"kind": "loss", "loss": {"stage": "kernel", "reason": "policy", "count": 9, "intentional": true}}),
        ];
        let verdict = judge(&[], &events);
        assert_eq!(verdict.unread, BTreeMap::from([("http2".to_owned(), 1)]));
        assert_eq!(
            verdict.losses,
            BTreeMap::from([("kernel/ring_full".to_owned(), 3)])
        );
    }
}
