//! What an event costs, by column.

use super::load::Load;
use super::*;
use object_store::memory::InMemory;
use parquet::file::metadata::ParquetMetaDataReader;
use std::collections::BTreeMap;

const EVENTS: &str = "TOKENTRAIL_COST_EVENTS";

/// Prints bytes per event by column; `TOKENTRAIL_COST_EVENTS` says how many events.
#[tokio::test(flavor = "multi_thread")]
async fn bytes_by_column() {
    let events: usize = std::env::var(EVENTS).map_or(20_000, |events| events.parse().unwrap());
    let rounds = 4;
    let bench = Bench::on(Arc::new(InMemory::new()), tempfile::tempdir().unwrap()).await;
    // An hour of a fleet of 100 hosts with 5,000 credentials.
    let step = HOUR as u64 / events as u64;
    let mut load = Load::new(1, 100, 5_000, MIDNIGHT, step.max(1));
    let mut json = 0;
    for _ in 0..rounds {
        let batch = load.events(events / rounds);
        json += batch.iter().map(|event| event.json.len()).sum::<usize>();
        bench.inbox.append(batch);
        bench.store.seal().await.unwrap();
    }
    let sealed: u64 = bench.store.segments().iter().map(|it| it.bytes).sum();
    bench.store.merge(MIDNIGHT + 50 * HOUR).await.unwrap();
    let snapshot = bench.store.snapshot().await.unwrap();
    let all = events as f64;
    let mut columns: BTreeMap<String, u64> = BTreeMap::new();
    let mut bytes = 0;
    for segment in &snapshot.segments {
        bytes += segment.bytes;
        let object = bench.objects.get(&segment.path).await.unwrap();
        let object = object.bytes().await.unwrap();
        let metadata = ParquetMetaDataReader::new()
            .parse_and_finish(&object)
            .unwrap();
        for group in metadata.row_groups() {
            for column in group.columns() {
                let size = u64::try_from(column.compressed_size()).unwrap();
                *columns.entry(column.column_path().string()).or_default() += size;
                let bloom = column.bloom_filter_length().unwrap_or_default();
                let index = column.column_index_length().unwrap_or_default()
                    + column.offset_index_length().unwrap_or_default();
                *columns.entry("(bloom filter)".into()).or_default() += bloom as u64;
                *columns.entry("(page indexes)".into()).or_default() += index as u64;
            }
        }
    }
    let named: u64 = columns.values().sum();
    columns.insert("(footer)".into(), bytes - named);
    let mut table: Vec<_> = columns.into_iter().collect();
    table.sort_by_key(|&(_, size)| std::cmp::Reverse(size));
    println!("{:8.2} JSON", json as f64 / all);
    println!("{:8.2} sealed, in {rounds} rounds", sealed as f64 / all);
    println!("{:8.2} merged, of which", bytes as f64 / all);
    for (name, size) in &table {
        if *size as f64 / all >= 0.005 {
            println!("{:8.2} {name}", *size as f64 / all);
        }
    }
    let cost = |name: &str| table.iter().find(|(own, _)| own == name).unwrap().1 as f64 / all;
    assert!(
        cost("exchange_id") < 18.0,
        "random bytes have no encoding that is too large"
    );
    assert!(cost("fingerprint") < 20.0);
}
