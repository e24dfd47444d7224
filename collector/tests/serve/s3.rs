//! The store on a real S3 server, `s3s-fs`: sealing, merging, retention and search by its protocol, uploads in parts, and
//! `kill -9` of either side meanwhile.

use crate::support::chance::Chance;
use crate::support::events::{self, DAY, HOUR, Source};
use crate::support::serve::{Server, Site};
use crate::support::{Program, agent, eventually, ports, stored, tool};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const BUCKET: &str = "trail";
/// What is larger is uploaded in parts.
const PART: u64 = 10 * 1024 * 1024;
const SETTINGS: &str =
    "[store]\nobjects = \"s3://trail/a/b\"\nseal_seconds = 1\ntidy_seconds = 1\n";

/// `s3s-fs`, by `cargo xtask setup --test`.
fn program() -> Option<PathBuf> {
    let tool = tool("s3s-fs");
    if tool.is_none() {
        println!("skipped: no s3s-fs (cargo xtask setup --test)");
    }
    tool
}

fn start(program: &Path, folder: &Path, port: u16) -> Program {
    fs::create_dir_all(bucket(folder)).unwrap();
    let mut command = Command::new(program);
    command
        .args([
            "--host",
            "127.0.0.1",
            "--access-key",
            "id",
            "--secret-key",
            "secret",
            "--port",
        ])
        .arg(port.to_string())
        .arg(folder.join("s3"));
    Program::start(&mut command, &folder.join("s3.log"), port)
}

fn site(folder: &Path, port: u16) -> Site {
    let mut site = Site::new(folder, SETTINGS);
    let environment = [
        ("AWS_ENDPOINT", format!("http://127.0.0.1:{port}")),
        ("AWS_ALLOW_HTTP", "true".to_owned()),
        ("AWS_ACCESS_KEY_ID", "id".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "secret".to_owned()),
        ("AWS_REGION", "us-east-1".to_owned()),
    ];
    site.environment = environment
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec();
    site
}

fn source(agent: &str, noise: usize) -> Source {
    Source {
        agent: agent.into(),
        epoch: 1,
        time: |begin, sequence| begin + (sequence % 3) as i64 * HOUR + sequence as i64 * 1_000,
        // Three hours of one day, whatever the time.
        begin: (events::now() / DAY - 2) * DAY + 8 * HOUR,
        noise,
    }
}

fn bucket(folder: &Path) -> PathBuf {
    folder.join("s3").join(BUCKET)
}

/// Objects of the bucket, but for what the server keeps beside them.
fn objects(folder: &Path) -> Vec<String> {
    let mut found = stored::files(&bucket(folder));
    found.retain(|path| path.ends_with(".parquet") && path.starts_with("a/b/segments/"));
    found
}

/// Everything is in segments, merged ones among them and one that went up in parts, and nothing but them is in the bucket.
fn settled(server: &Server, folder: &Path) {
    eventually("merged segments, and nothing else, in the bucket", || {
        let (waiting, merges) = (server.metric("inbox_events"), server.metric("merges_total"));
        let segments = server.metric("segments");
        let objects = objects(folder);
        let found = objects.len() as u64;
        // One that was merged meanwhile is gone.
        let sizes = objects
            .iter()
            .filter_map(|path| fs::metadata(bucket(folder).join(path)).ok())
            .map(|file| file.len());
        let largest = sizes.max().unwrap_or_default();
        if waiting == 0 && merges > 0 && segments == found && largest > PART {
            Ok(())
        } else {
            Err(format!(
                "{waiting} wait, {merges} merges, {segments} segments, {found} objects, the largest of {largest} bytes: {}",
                server.said()
            ))
        }
    });
}

#[test]
fn a_bucket_is_as_good_as_a_folder() {
    let Some(program) = program() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let [port] = ports();
    let mut s3 = start(&program, folder.path(), port);
    let mut site = site(folder.path(), port);
    let mut server = site.start();
    let key = site.keys().analyst.clone();
    let header = site.ingest_header();
    let deliver = |server: &Server, source: &Source, first, last, size| {
        let config = agent::config(&server.url, &header);
        agent::deliver(&config, source, first, last, size);
    };
    let small = source("small", 0);
    deliver(&server, &small, 1, 600, 100);
    server.reaches("segment_events", 600);
    deliver(&server, &small, 601, 1_200, 100);
    // A few of them are larger than a part of an upload.
    let large = source("large", 400_000);
    deliver(&server, &large, 1, 120, 10);
    settled(&server, folder.path());
    let all = |server: &Server| server.count("kind:usage", "producer.id", &key);
    let expected = [("large".to_owned(), 120), ("small".to_owned(), 1_200)];
    assert_eq!(all(&server), expected);

    // Nothing of the segments is kept on this side.
    server.kill();
    assert!(
        stored::files(&site.data)
            .iter()
            .all(|path| !path.ends_with(".parquet"))
    );
    let mut server = site.start();
    assert_eq!(all(&server), expected);
    let print = small.fingerprint(1);
    let uses = (1..=1_200)
        .filter(|sequence| small.fingerprint(*sequence) == print)
        .count() as u64;
    let query = format!("fp:{print} producer.id:small");
    assert_eq!(
        server.count(&query, "kind", &key),
        [("usage".to_owned(), uses)]
    );

    // Without the bucket events are taken all the same, and sealed when it is there again.
    s3.kill();
    deliver(&server, &small, 1_201, 1_500, 100);
    server.reaches("seal_failures_total", 1);
    server.kill();
    let mut s3 = start(&program, folder.path(), port);
    let mut server = site.start();
    // Either side is killed while it is sealed and merged.
    let mut chance = Chance(9);
    for round in 0..8 {
        let first = 1_501 + round * 100;
        deliver(&server, &small, first, first + 99, 50);
        std::thread::sleep(chance.millis(1_800));
        if round % 3 == 2 {
            s3.kill();
            s3 = start(&program, folder.path(), port);
        } else {
            server.kill();
            server = site.start();
        }
    }
    let expected = [("large".to_owned(), 120), ("small".to_owned(), 2_300)];
    assert_eq!(all(&server), expected);
    deliver(&server, &small, 2_301, 2_302, 1);
    eventually("sealed", || match server.metric("inbox_events") {
        0 => Ok(()),
        waiting => Err(format!("{waiting} wait: {}", server.said())),
    });
    std::thread::sleep(Duration::from_secs(1));
    server.stop();
    // At a start all that interrupted uploads have left goes; then retention deletes what is too much.
    site.settings = format!("{SETTINGS}keep_bytes = 2000000\n");
    let server = site.start();
    server.reaches("dropped_segments_total", 1);
    eventually("deleted objects", || {
        let (segments, bytes) = (server.metric("segments"), server.metric("segment_bytes"));
        let found = objects(folder.path()).len() as u64;
        if bytes <= 2_000_000 && segments == found {
            Ok(())
        } else {
            Err(format!(
                "{segments} segments with {bytes} bytes, {found} objects: {}",
                server.said()
            ))
        }
    });
    let left = all(&server);
    println!(
        "after retention {left:?} of {expected:?}; {} objects",
        objects(folder.path()).len()
    );
    assert!(left.iter().map(|(_, count)| count).sum::<u64>() < 2_422);
}
