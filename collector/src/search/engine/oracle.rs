//! DuckDB as the oracle: random searches and counts give what it gives on the same Parquet files.
//!
//! `TOKENTRAIL_PYTHON` names a Python that has `duckdb` and `numpy` (PyPI); without it, the `python3` of the path is tried. Where
//! that has none, the test says so and is skipped. `TOKENTRAIL_SEARCHES` asks for more questions.

use super::tests::{NOW, question};
use super::*;
use crate::event::Event;
use crate::search::fields::{self, Kind};
use crate::search::language::moment::Moment;
use crate::search::language::{Comparison, Query, Term, Test, Value, parse};
use crate::search::testing::{self, Dice};
use serde_json::{Value as Json, json};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

struct Duck {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Duck {
    /// `None`, with the reason printed, where there is no DuckDB.
    fn start(files: &str) -> Option<Self> {
        let python = std::env::var("TOKENTRAIL_PYTHON").unwrap_or_else(|_| "python3".to_owned());
        let probe = Command::new(&python)
            .args(["-c", "import duckdb, numpy"])
            .stderr(Stdio::null())
            .status();
        if !probe.is_ok_and(|status| status.success()) {
            eprintln!(
                "skipped: {python} lacks duckdb or numpy (pip install duckdb numpy; TOKENTRAIL_PYTHON names another)"
            );
            return None;
        }
        let mut child = Command::new(python)
            .arg(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/tests/oracle/duckdb_oracle.py"
            ))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let mut duck = Self { child, answers };
        duck.send(&json!({"files": files}));
        Some(duck)
    }

    fn send(&mut self, line: &Json) {
        let input = self.child.stdin.as_mut().unwrap();
        input.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    fn ask(&mut self, question: &Json) -> Json {
        self.send(question);
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("{error}: {line:?} to {question}"))
    }
}

impl Drop for Duck {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// The query as data, its times resolved.
fn data(query: &Query) -> Json {
    let all = |queries: &[Query]| queries.iter().map(data).collect::<Vec<_>>();
    match query {
        Query::All => json!({"is": "all"}),
        Query::And(queries) => json!({"is": "and", "queries": all(queries)}),
        Query::Or(queries) => json!({"is": "or", "queries": all(queries)}),
        Query::Not(query) => json!({"is": "not", "query": data(query)}),
        Query::Term(term) => term_data(term),
    }
}

fn term_data(Term { field, test }: &Term) -> Json {
    let kind = match field.kind {
        Kind::Text => "text",
        Kind::Integer => "integer",
        Kind::Boolean => "boolean",
        Kind::Time => "time",
        Kind::Address => "address",
        Kind::Fingerprint => "fingerprint",
        Kind::List => "list",
    };
    let span = |value: &Value| match value {
        Value::Integer(number) => (*number, number + 1),
        Value::Moment(moment) => Moment::span(*moment, NOW),
        other => panic!("{other:?}"),
    };
    let mut term = match test {
        Test::Exists => json!({"test": "exists"}),
        Test::Equals(Value::Text(text)) => json!({"test": "equals", "value": text}),
        Test::Equals(Value::Boolean(value)) => json!({"test": "equals", "value": value}),
        Test::Equals(value) => json!({"test": "range", "from": span(value).0, "to": span(value).1}),
        Test::Prefix(text) => json!({"test": "prefix", "value": text}),
        Test::Range(low, high) => {
            let mut term = json!({"test": "range"});
            if let Some(low) = low {
                term["from"] = span(low).0.into();
            }
            if let Some(high) = high {
                term["to"] = span(high).1.into();
            }
            term
        }
        Test::Compare(Comparison::Less, value) => json!({"test": "range", "to": span(value).0}),
        Test::Compare(Comparison::LessOrEqual, value) => {
            json!({"test": "range", "to": span(value).1})
        }
        Test::Compare(Comparison::Greater, value) => {
            json!({"test": "range", "from": span(value).1})
        }
        Test::Compare(Comparison::GreaterOrEqual, value) => {
            json!({"test": "range", "from": span(value).0})
        }
        Test::Within(network) => {
            let (first, last) = network.bounds();
            json!({"test": "within", "first": first.to_string(), "last": last.to_string()})
        }
        Test::Since(moment) => json!({"test": "range", "from": moment.span(NOW).0}),
        Test::Until(moment) => json!({"test": "range", "to": moment.span(NOW).0}),
    };
    term["is"] = "term".into();
    term["column"] = field.column.into();
    term["kind"] = kind.into();
    term
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_questions_have_duckdbs_answers() {
    let events = testing::events(800, 31);
    let (engine, bench) = testing::engine(&events, 0, Limits::default()).await;
    let files = format!("{}/data/**/*.parquet", bench.folder.path().display());
    let Some(mut duck) = Duck::start(&files) else {
        return;
    };
    let mut dice = Dice(32);
    let rounds: usize =
        std::env::var("TOKENTRAIL_SEARCHES").map_or(15, |count| count.parse().unwrap());
    let mut hits = 0;
    for _ in 0..rounds {
        let text = testing::query(&mut dice, 2);
        let query = parse(&text).unwrap();
        let expected = duck.ask(&json!({"where": data(&query), "by": null}));
        let page = engine.search(&question(&text)).await.unwrap();
        let found = page.events.iter().map(|event| {
            let key = Event::parse(event.clone()).unwrap().key;
            json!([&*key.agent, key.epoch, key.sequence])
        });
        let found: Vec<Json> = found.collect();
        hits += usize::from(!found.is_empty() && found.len() < events.len());
        assert_eq!(Json::from(found), expected, "{text}");

        let names = [
            "status",
            "provider",
            "host",
            "kind",
            "path",
            "src",
            "uid",
            "deleted",
            "loss.intentional",
        ];
        let by: Vec<_> = (0..dice.below(3))
            .map(|_| fields::find(dice.of(&names)).unwrap())
            .collect();
        let mut by: Vec<&'static fields::Field> = by;
        by.dedup_by_key(|field| field.path);
        let every = dice.of(&[None, Some(600), Some(3_600), Some(86_400)]);
        let columns: Vec<&str> = by.iter().map(|field| field.column).collect();
        let expected = duck.ask(&json!({
            "where": data(&query), "by": columns, "every": every.map(|seconds: u64| seconds * 1_000_000),
        }));
        let counts = engine
            .stats(&StatsQuestion {
                query,
                by,
                every: every.map(Duration::from_secs),
                limit: 10_000,
                force: false,
                now: NOW,
            })
            .await
            .unwrap();
        let rows = counts.rows.iter().map(|row| {
            let bucket = row
                .time
                .map(|time| Json::from(i64::try_from(time.unix_nanos() / 1000).unwrap()));
            let values = bucket.into_iter().chain(row.values.iter().cloned());
            Json::from(values.chain([row.count.into()]).collect::<Vec<_>>()).to_string()
        });
        let mut rows: Vec<String> = rows.collect();
        if columns.is_empty() && every.is_none() && rows.is_empty() {
            rows.push("[0]".to_owned());
        }
        rows.sort();
        assert_eq!(
            json!(rows),
            expected,
            "{text} by {columns:?} every {every:?}"
        );
    }
    assert!(
        hits > rounds / 3,
        "searches that take some, but not all: {hits}"
    );
}
