//! Agents deliver to a real OpenTelemetry Collector, which joins, splits and repeats on the way to the collector of
//! these tests: everything arrives once, byte for byte.

use crate::net::proxy::{Fault, Proxy};
use crate::support::chance::Chance;
use crate::support::events::{self, HOUR, Source};
use crate::support::serve::Site;
use crate::support::{Program, agent, eventually, fixture, ports};
use serde_json::Value;
use std::fs;
use std::process::Command;

/// Its queue joins what agents send to batches of its own; what was not acknowledged is sent again.
const CONFIG: &str = r#"
receivers:
  otlp: { protocols: { http: { endpoint: "127.0.0.1:IN" } } }
exporters:
  otlphttp:
    endpoint: OUT
    headers: { authorization: "Bearer KEY" }
    timeout: 20s
    sending_queue: { enabled: true, batch: { flush_timeout: 200ms, min_size: 500, max_size: 700 } }
    retry_on_failure: { enabled: true, initial_interval: 50ms, max_interval: 200ms, max_elapsed_time: 0 }
service:
  telemetry: { metrics: { level: none } }
  pipelines:
    logs: { receivers: [otlp], exporters: [otlphttp] }
"#;
const EVENTS: u64 = 1_500;

#[test]
fn a_collector_in_between_that_joins_and_repeats_changes_nothing() {
    let Some(program) = fixture("otelcol/otelcol") else {
        println!("skipped: no OpenTelemetry Collector (cargo xtask setup --test)");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut site = Site::new(
        folder.path(),
        "[store]\nseal_seconds = 1\ntidy_seconds = 1\n",
    );
    let server = site.start();
    let keys = site.keys().clone();
    // Between the two: answers are lost, requests cut, dropped and doubled.
    let upstream: u16 = server.url.rsplit(':').next().unwrap().parse().unwrap();
    let mut chance = Chance(5);
    let proxy = Proxy::start(upstream, move |_| {
        use Fault::{CutAnswer, CutRequest, Drop, Duplicate, LoseAnswer, None};
        chance.of(&[
            None, None, Drop, CutRequest, LoseAnswer, LoseAnswer, CutAnswer, Duplicate,
        ])
    });
    let [port] = ports();
    let config = CONFIG
        .replace("IN", &port.to_string())
        .replace("OUT", &proxy.url())
        .replace("KEY", &keys.ingest);
    let path = folder.path().join("between.yaml");
    fs::write(&path, config).unwrap();
    let mut command = Command::new(program);
    command.arg("--config").arg(&path);
    let between = Program::start(&mut command, &folder.path().join("between.log"), port);
    let source = |agent: &str| Source {
        agent: agent.into(),
        epoch: 3,
        time: |begin, sequence| begin + sequence as i64 * 1_000_000,
        begin: events::now() - 3 * HOUR,
        noise: 0,
    };
    let sources = ["near", "far", "third"].map(source);
    let to = format!("http://127.0.0.1:{port}");
    std::thread::scope(|scope| {
        for (source, size) in sources.iter().zip([7, 100, 900]) {
            let config = agent::config(&to, &site.ingest_header());
            scope.spawn(move || agent::deliver(&config, source, 1, EVENTS, size));
        }
    });
    // It has acknowledged what it holds in memory; what arrives is counted.
    for source in &sources {
        let query = format!("producer.id:{}", source.agent);
        eventually(&query, || {
            match server.count(&query, "kind", &keys.analyst).first() {
                Some((_, EVENTS)) => Ok(()),
                other => Err(format!("{other:?}; {}", between.said())),
            }
        });
        let mut found = server.search(&query, &keys.analyst);
        found.sort();
        let sent = (1..=EVENTS).map(|sequence| {
            let json: Value = serde_json::from_slice(&source.event(sequence).json).unwrap();
            json.to_string()
        });
        let mut sent: Vec<String> = sent.collect();
        sent.sort();
        assert!(found == sent, "{query}: {} found", found.len());
    }
    let done = proxy.done();
    let repeated = done
        .iter()
        .filter(|fault| matches!(fault, Fault::LoseAnswer | Fault::Duplicate));
    let repeated = repeated.count();
    assert!(
        repeated > 0 && server.metric("ingest_duplicates_total") > 0,
        "{done:?}"
    );
    println!(
        "{} requests from the collector in between, {repeated} of them twice",
        done.len()
    );
}
