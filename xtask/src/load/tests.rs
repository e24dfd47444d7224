use super::*;
use agent_common::event::{Body, Direction, Envelope};
use agent_common::otlp::restore;
use clap::Parser;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use prost::Message;
use std::collections::{BTreeMap, HashMap, HashSet};

#[derive(Parser)]
struct Typed {
    #[command(flatten)]
    options: Options,
}

fn options(words: &[&str]) -> Options {
    let words = ["load"].iter().chain(words);
    Typed::try_parse_from(words).unwrap().options
}

fn written(words: &[&str]) -> Vec<u8> {
    let options = options(words);
    let mut out = Vec::new();
    write(&options, options.events(), &mut out).unwrap();
    out
}

fn events(words: &[&str]) -> Vec<Envelope> {
    let text = String::from_utf8(written(words)).unwrap();
    text.lines()
        .map(|line| {
            let event: Envelope = serde_json::from_str(line).unwrap();
            // Canonical: what the contract writes is what is there.
            assert_eq!(serde_json::to_string(&event).unwrap(), line);
            event
        })
        .collect()
}

#[test]
fn a_seed_is_every_byte() {
    for form in ["ndjson", "otlp", "fingerprints"] {
        let words = [
            "--events", "600", "--hosts", "20", "--form", form, "--batch", "100",
        ];
        let once = written(&words);
        assert!(once == written(&words), "{form}");
        let other = written(&[&words[..], &["--seed", "2"]].concat());
        assert!(once != other, "{form}");
    }
}

#[test]
fn parts_are_the_whole() {
    let whole = written(&["--events", "300"]);
    let first = written(&["--events", "300", "--take", "120"]);
    let rest = written(&["--events", "300", "--skip", "120"]);
    assert!(whole == [first, rest].concat());
}

#[test]
fn otlp_holds_the_same_events_in_batches_of_one_agent() {
    let words = ["--events", "1000", "--hosts", "5", "--batch", "64"];
    let text = String::from_utf8(written(&words)).unwrap();
    let mut said: HashSet<&str> = text.lines().collect();
    let bodies = written(&[&words[..], &["--otlp"]].concat());
    let mut rest = &bodies[..];
    let mut sizes = Vec::new();
    while let Some((length, behind)) = rest.split_first_chunk() {
        let (body, behind) = behind.split_at(u32::from_le_bytes(*length) as usize);
        rest = behind;
        let plain = zstd::decode_all(body).unwrap();
        let request = ExportLogsServiceRequest::decode(&plain[..]).unwrap();
        assert_eq!(request.resource_logs.len(), 1, "one agent");
        let restored = restore::events(&request);
        sizes.push(restored.len());
        for event in restored {
            let event = String::from_utf8(event.unwrap()).unwrap();
            assert!(said.remove(event.as_str()), "{event}");
        }
    }
    assert!(said.is_empty(), "{} are missing", said.len());
    assert!(sizes.iter().filter(|size| **size == 64).count() > 8);
    assert!(sizes.iter().all(|size| *size <= 64));
}

#[test]
fn sequences_have_no_holes_and_times_ascend() {
    let events = events(&["--events", "3000", "--hosts", "20", "--days", "2"]);
    assert_eq!(events.len(), 3_000);
    let mut last: HashMap<(String, u64), u64> = HashMap::new();
    for pair in events.windows(2) {
        assert!(pair[0].time <= pair[1].time);
    }
    for event in &events {
        let key = (event.producer.id.to_string(), event.producer.epoch);
        let before = last.insert(key, event.producer.sequence).unwrap_or(0);
        assert_eq!(event.producer.sequence, before + 1);
        assert!(event.observed_time > event.time);
    }
    assert!(last.len() > 15);
    let span = events[2_999].time.unix_nanos() - events[0].time.unix_nanos();
    let days = span as f64 / DAY as f64;
    assert!((days - 2.0).abs() < 0.2, "{days}");
}

#[test]
fn credentials_are_used_as_zipfs_law_has_it() {
    let words = [
        "--events",
        "30000",
        "--hosts",
        "50",
        "--fingerprints",
        "400",
    ];
    let events = events(&words);
    let ranks = String::from_utf8(written(&[&words[..], &["--form", "fingerprints"]].concat()));
    let ranks = ranks.unwrap();
    let ranks: Vec<&str> = ranks.lines().collect();
    assert_eq!(ranks.len(), 400);
    let mut asked: BTreeMap<String, u32> = BTreeMap::new();
    let mut all = 0;
    let mut answered = 0;
    let mut failures = 0;
    for event in &events {
        let Body::Usage(usage) = &event.body else {
            panic!("only usage is made");
        };
        failures += u32::from(usage.http.response.as_ref().unwrap().status_code >= 400);
        if usage.direction == Direction::Server {
            answered += 1;
            continue;
        }
        let fingerprint = usage.token.fingerprints[0].to_string();
        *asked.entry(fingerprint).or_default() += 1;
        all += 1;
    }
    for rank in [0, 1, 4, 19] {
        let share = f64::from(asked[ranks[rank]]) / f64::from(all);
        let due = ((rank + 2) as f64 / (rank + 1) as f64).ln() / 401_f64.ln();
        assert!((share / due - 1.0).abs() < 0.2, "{rank}: {share} {due}");
    }
    assert!(asked.len() > 300, "{}", asked.len());
    assert!(answered > all / 10, "{answered} of {all}");
    let failures = f64::from(failures) / 30_000.0;
    assert!((0.03..0.3).contains(&failures), "{failures}");
}

#[test]
fn both_ends_of_an_exchange_have_one_name() {
    let mut ends: HashMap<String, Vec<Direction>> = HashMap::new();
    for event in events(&["--events", "2000", "--hosts", "50"]) {
        let Body::Usage(usage) = event.body else {
            panic!("only usage is made");
        };
        let directions = ends.entry(usage.exchange.id).or_default();
        directions.push(usage.direction);
    }
    let both = [Direction::Client, Direction::Server];
    let pairs = ends.values().filter(|ends| ***ends == both).count();
    assert!(pairs > 250, "{pairs}");
    let ends = ends.into_values();
    // The last exchange may have one only.
    let strange = ends.filter(|ends| *ends != both && *ends != [Direction::Client]);
    assert_eq!(strange.count(), 0);
}

#[test]
fn the_copy_for_the_collectors_tests_is_fresh() {
    // `cargo xtask load --events 24 --hosts 4 --fingerprints 12 > collector/tests/fixtures/load.ndjson` writes it.
    let words = ["--events", "24", "--hosts", "4", "--fingerprints", "12"];
    let copy = include_bytes!("../../../collector/tests/fixtures/load.ndjson");
    assert!(written(&words) == copy);
}
