//! Others read the directory as it is, while the collector runs: DuckDB and Spark count what the collector counts.
//!
//! `TOKENTRAIL_PYTHON` names a Python with duckdb and pyspark; without it the one that `cargo xtask setup --test` makes
//! is taken. Spark needs Java.

use crate::support::events::{self, HOUR, Source};
use crate::support::serve::{Server, Site};
use crate::support::{agent, eventually, python, stored};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const EVENTS: u64 = 4_000;
/// What is counted, by the collector's words and by the column.
const BY: [(&str, &str); 4] = [
    ("status", "http_response_status_code"),
    ("provider", "token_provider"),
    ("host", "host_name"),
    ("fingerprint", "fingerprint"),
];

/// Both print {column: {value: count}} of usage events, and the number of distinct ones.
const DUCKDB: &str = r#"
import duckdb, json, sys
folder, columns = sys.argv[1], sys.argv[2:]
events = f"read_parquet('{folder}/**/*.parquet') WHERE kind = 'usage'"
answer = {c: {str(v): n for v, n in duckdb.sql(f"SELECT {c}, count(*) FROM {events} GROUP BY 1").fetchall()} for c in columns}
answer["all"] = {"distinct": duckdb.sql(f"SELECT count(DISTINCT (producer_id, producer_epoch, producer_sequence)) FROM {events}").fetchall()[0][0]}
print(json.dumps(answer))
"#;
const SPARK: &str = r#"
import json, sys
from pyspark.sql import SparkSession
from pyspark.sql.functions import countDistinct
folder, columns = sys.argv[1], sys.argv[2:]
local = {"spark.ui.enabled": "false", "spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1",
         "spark.sql.shuffle.partitions": "2", "spark.driver.memory": "512m"}
builder = SparkSession.builder.master("local[2]")
for name, value in local.items():
    builder = builder.config(name, value)
spark = builder.getOrCreate()
events = spark.read.option("recursiveFileLookup", "true").parquet(folder).where("kind = 'usage'")
answer = {c: {str(row[0]): row[1] for row in events.groupBy(c).count().collect()} for c in columns}
answer["all"] = {"distinct": events.select(countDistinct("producer_id", "producer_epoch", "producer_sequence")).first()[0]}
print(json.dumps(answer))
spark.stop()
"#;

type Counts = BTreeMap<String, BTreeMap<String, u64>>;

fn ask(python: &Path, script: &str, folder: &Path) -> Result<Counts, String> {
    let mut command = Command::new(python);
    command.args(["-c", script]).arg(folder);
    let output = command.args(BY.map(|(_, column)| column)).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let end = said.len().saturating_sub(2_000);
    if !output.status.success() {
        return Err(said.get(end..).unwrap_or(&said).to_owned());
    }
    let out = String::from_utf8(output.stdout).unwrap();
    let counts = serde_json::from_str(out.lines().last().unwrap());
    Ok(counts.unwrap_or_else(|error| panic!("{error}: {out}")))
}

fn own(server: &Server, key: &str) -> Counts {
    let mut counts = Counts::new();
    for (field, column) in BY {
        let rows = server.count("kind:usage", field, key);
        counts.insert(column.to_owned(), rows.into_iter().collect());
    }
    counts.insert(
        "all".to_owned(),
        BTreeMap::from([("distinct".to_owned(), EVENTS)]),
    );
    counts
}

fn listed(store: &Path) -> Vec<String> {
    let mut files = stored::files(store);
    files.sort();
    files
}

#[test]
fn duckdb_and_spark_count_what_the_collector_counts() {
    let folder = tempfile::tempdir().unwrap();
    let readers = [("duckdb", DUCKDB), ("pyspark", SPARK)];
    let readers = readers.map(|(module, script)| (module, python(module), script));
    for (module, _, _) in readers.iter().filter(|(_, python, _)| python.is_none()) {
        println!(
            "skipped: no Python with {module} (cargo xtask setup --test; TOKENTRAIL_PYTHON names another)"
        );
    }
    if readers.iter().all(|(_, python, _)| python.is_none()) {
        return;
    }
    let mut site = Site::new(
        folder.path(),
        "[store]\nseal_seconds = 1\ntidy_seconds = 1\n",
    );
    let server = site.start();
    let key = site.keys().analyst.clone();
    let source = Source {
        agent: "read-by-others".into(),
        epoch: 1,
        time: |begin, sequence| begin + (sequence % 4) as i64 * HOUR + sequence as i64 * 1_001,
        begin: events::now() / HOUR * HOUR - 30 * HOUR,
        noise: 20,
    };
    let config = agent::config(&server.url, &site.ingest_header());
    agent::deliver(&config, &source, 1, EVENTS / 2, 500);
    server.reaches("segment_events", EVENTS / 2);
    agent::deliver(&config, &source, EVENTS / 2 + 1, EVENTS, 500);
    // A merged file and its parts lie beside each other for a moment: until nothing has changed for some seconds.
    let store = site.data.join("store");
    let mut before = (Vec::new(), Instant::now());
    eventually("all of it in merged segments", || {
        let files = listed(&store);
        let (waiting, merges) = (server.metric("inbox_events"), server.metric("merges_total"));
        if before.0 != files || waiting > 0 || merges == 0 {
            before = (files, Instant::now());
        }
        let still = before.1.elapsed();
        if still > Duration::from_secs(4) && server.metric("segments") == before.0.len() as u64 {
            Ok(())
        } else {
            Err(format!("{waiting} wait, {merges} merges: {:?}", before.0))
        }
    });
    let expected = own(&server, &key);
    let statuses: u64 = expected["http_response_status_code"].values().sum();
    assert_eq!(statuses, EVENTS);
    for (module, python, script) in readers {
        let Some(python) = python else {
            continue;
        };
        // Segments that are merged meanwhile would be counted twice, or be gone.
        let found = eventually("the same files before and behind", || {
            let before = listed(&store);
            let found = ask(&python, script, &store);
            if listed(&store) == before {
                Ok(found.unwrap())
            } else {
                Err("merged meanwhile".to_owned())
            }
        });
        for (column, counts) in &expected {
            let begin = |counts: &BTreeMap<String, u64>| format!("{:?}", counts.iter().take(3));
            let (own, theirs) = (begin(counts), begin(&found[column]));
            assert!(
                found[column] == *counts,
                "{module} {column}: {theirs}, not {own}"
            );
        }
        println!(
            "{module}: {} columns, {EVENTS} events, the same counts",
            BY.len()
        );
    }
    // What they read are the events themselves.
    let found = server.search("kind:usage", &key);
    let values = found
        .iter()
        .map(|event| serde_json::from_str::<Value>(event).unwrap());
    assert_eq!(
        values
            .filter(|event| event["producer"]["id"] == "read-by-others")
            .count() as u64,
        EVENTS
    );
}
