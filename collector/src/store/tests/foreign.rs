//! Others read the directory as it is: DuckDB counts and sums what we count and sum.

use super::load::Load;
use super::*;
use crate::store::columns;
use std::path::{Path as FilePath, PathBuf};
use std::process::Command;

/// Prints the rows of questions as JSON.
const SCRIPT: &str = r#"
import duckdb, json, sys
events = f"read_parquet('{sys.argv[1]}/**/*.parquet')"
one = lambda sql: [list(row) for row in duckdb.sql(sql.replace("EVENTS", events)).fetchall()]
print(json.dumps({
    "rows": one("SELECT count(*), count(DISTINCT (producer_id, producer_epoch, producer_sequence)) FROM EVENTS"),
    "statuses": one("SELECT http_response_status_code, count(*) FROM EVENTS GROUP BY 1 ORDER BY 1"),
    "top": one("SELECT fingerprint, count(*) FROM EVENTS GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 5"),
    "span": one("SELECT epoch_us(min(time)) * 1000, max(epoch_us(time) * 1000 + time_nanos) // 1000 * 1000 FROM EVENTS"),
    "hours": one("SELECT host_name, count(DISTINCT date_trunc('hour', time)) FROM EVENTS GROUP BY 1 ORDER BY 1"),
    "columns": one("SELECT column_name, column_type FROM (DESCRIBE SELECT * FROM EVENTS)"),
}))
"#;

/// The Python that `cargo xtask setup` prepares.
fn python() -> Option<PathBuf> {
    let python = PathBuf::from(std::env::var_os("TOKENTRAIL_FIXTURES")?).join("venv/bin/python");
    let has = Command::new(&python).args(["-c", "import duckdb"]).output();
    has.is_ok_and(|output| output.status.success())
        .then_some(python)
}

fn ask(python: &FilePath, folder: &FilePath) -> serde_json::Value {
    let output = Command::new(python)
        .args(["-c", SCRIPT])
        .arg(folder)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn duckdb_reads_the_directory() {
    let Some(python) = python() else {
        println!(
            "skipped: TOKENTRAIL_FIXTURES names no venv with duckdb; `cargo xtask setup` makes it"
        );
        return;
    };
    let bench = Bench::directory().await;
    let data = bench._folder.path().join("data/segments");
    let mut load = Load::new(4, 6, 50, MIDNIGHT, 2 * MINUTE as u64 / 10);
    let mut all = Vec::new();
    for round in 0..4 {
        let events = load.events(400);
        all.extend(events.clone());
        bench.inbox.append(events);
        bench.store.seal().await.unwrap();
        if round == 2 {
            bench.store.merge(load.now).await.unwrap();
        }
    }
    let values: Vec<serde_json::Value> = all
        .iter()
        .map(|event| serde_json::from_slice(&event.json).unwrap())
        .collect();
    let counted = |pointer: &str| {
        let mut counts = std::collections::BTreeMap::<String, u64>::new();
        for value in &values {
            *counts
                .entry(value.pointer(pointer).unwrap().to_string())
                .or_default() += 1;
        }
        counts
    };
    let found = ask(&python, &data);
    assert_eq!(found["rows"], serde_json::json!([[1_600, 1_600]]));
    for row in found["statuses"].as_array().unwrap() {
        let counts = counted("/http/response/status_code");
        assert_eq!(counts[&row[0].to_string()], row[1].as_u64().unwrap());
    }
    let mut top: Vec<_> = counted("/token/fingerprints/0").into_iter().collect();
    top.sort_by(|(one, ones), (other, others)| others.cmp(ones).then(one.cmp(other)));
    for (row, (fingerprint, count)) in found["top"].as_array().unwrap().iter().zip(top) {
        assert_eq!(
            (row[0].to_string(), row[1].as_u64()),
            (fingerprint, Some(count))
        );
    }
    let micros = |time: i64| time / 1_000 * 1_000;
    let first = all.iter().map(|event| event.time).min().unwrap();
    let last = all.iter().map(|event| event.time).max().unwrap();
    assert_eq!(
        found["span"],
        serde_json::json!([[micros(first), micros(last)]])
    );
    let mut hours = std::collections::BTreeMap::<String, std::collections::BTreeSet<i64>>::new();
    for (event, value) in all.iter().zip(&values) {
        let host = value["host"]["name"].as_str().unwrap().to_owned();
        hours.entry(host).or_default().insert(event.time / HOUR);
    }
    let hours: Vec<_> = hours
        .into_iter()
        .map(|(host, hours)| (host, hours.len()))
        .collect();
    assert_eq!(found["hours"], serde_json::json!(hours));
    // Every column, and none of a type that others do not have.
    let types = found["columns"].as_array().unwrap();
    assert_eq!(types.len(), columns::schema().fields().len());
    for (row, field) in types.iter().zip(columns::schema().fields()) {
        assert_eq!(row[0], *field.name());
        let kind = row[1].as_str().unwrap();
        let known = [
            "VARCHAR",
            "SMALLINT",
            "INTEGER",
            "BIGINT",
            "BOOLEAN",
            "TIMESTAMP WITH TIME ZONE",
        ];
        assert!(known.contains(&kind), "{row}");
    }
}
