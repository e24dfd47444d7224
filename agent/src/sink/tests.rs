//! Every sink over targets that fail in every way: nothing is lost that is not counted.

use super::*;
use crate::config;
use crate::config::Ranged;
use expect_test::{Expect, expect};
use serde_json::json;
use std::collections::VecDeque;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn event(sequence: u64) -> Envelope {
    let second = sequence % 60;
    serde_json::from_value(json!({
        "version": 1,
        "kind": "loss",
        "time": format!("2026-09-21T14:13:{second:02}.123456789Z"),
        "observed_time": "2026-09-21T14:13:20.200000000Z",
        "producer": { "id": "a", "name": "tokentrail-agent", "version": "0", "epoch": 1, "sequence": sequence },
        "host": { "name": "h", "boot_id": "b" },
        "loss": {
            "stage": "kernel", "reason": "ring_full", "count": sequence, "unit": "records", "intentional": false,
            "from": "2026-09-21T14:13:20.000000000Z", "to": "2026-09-21T14:13:20.000000000Z"
        }
    }))
    .unwrap()
}

/// The sequences of the events in NDJSON.
fn sequences(text: &str) -> Vec<u64> {
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines()
        .map(|line| {
            serde_json::from_str::<Envelope>(line).unwrap_or_else(|error| panic!("{error}: {line}"))
        })
        .map(|event| event.producer.sequence)
        .collect()
}

/// What the next calls of `write` do.
#[derive(Default)]
struct Script {
    written: Vec<u8>,
    steps: VecDeque<Result<usize, ErrorKind>>,
    /// When the steps are over.
    then: Option<ErrorKind>,
}

#[derive(Clone, Default)]
struct Scripted(Arc<Mutex<Script>>);

impl Scripted {
    fn new(
        steps: impl IntoIterator<Item = Result<usize, ErrorKind>>,
        then: Option<ErrorKind>,
    ) -> Self {
        Self(Arc::new(Mutex::new(Script {
            written: Vec::new(),
            steps: steps.into_iter().collect(),
            then,
        })))
    }

    fn then(&self, then: Option<ErrorKind>) {
        self.0.lock().unwrap().then = then;
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().written.clone()).unwrap()
    }
}

impl Target for Scripted {
    fn name(&self) -> &str {
        "scripted"
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut script = self.0.lock().unwrap();
        let step = script.steps.pop_front();
        let count = match (step, script.then) {
            (Some(Err(kind)), _) | (None, Some(kind)) => return Err(kind.into()),
            (Some(Ok(count)), _) => count.min(bytes.len()),
            (None, None) => bytes.len(),
        };
        script.written.extend_from_slice(&bytes[..count]);
        Ok(count)
    }
}

/// Retries at once.
fn eager<T: Target>(target: T, retry_bytes: usize) -> Ndjson<T> {
    let mut sink = Ndjson::new(target, retry_bytes);
    sink.outbox.first_pause = Duration::ZERO;
    sink
}

#[test]
fn a_target_that_fails_anywhere_gets_every_event_once() {
    let whole = {
        let target = Scripted::default();
        let mut sink = eager(target.clone(), 1 << 20);
        (1..=3).for_each(|sequence| sink.write(&event(sequence)).unwrap());
        assert_eq!(sink.close().unwrap(), None);
        target.text()
    };
    assert_eq!(sequences(&whole), [1, 2, 3]);
    for cut in 0..=whole.len() {
        for kind in [
            ErrorKind::StorageFull,
            ErrorKind::Interrupted,
            ErrorKind::WouldBlock,
            ErrorKind::WriteZero,
        ] {
            let target = Scripted::new(
                [Ok(cut), Err(kind), Err(kind)]
                    .into_iter()
                    .filter(|step| *step != Ok(0)),
                None,
            );
            let mut sink = eager(target.clone(), 1 << 20);
            for sequence in 1..=3 {
                sink.write(&event(sequence)).unwrap();
                if sequence > 1 {
                    sink.flush().unwrap();
                }
            }
            // Each may meet one of the errors.
            (0..3).for_each(|_| sink.flush().unwrap());
            assert_eq!(sink.close().unwrap(), None, "{kind} at {cut}");
            assert_eq!(target.text(), whole, "{kind} at {cut}");
        }
    }
}

#[test]
fn what_no_longer_fits_is_counted_and_told_when_writing_works_again() {
    let target = Scripted::new([], Some(ErrorKind::StorageFull));
    let limit = 100_000;
    let mut sink = eager(target.clone(), limit);
    let total = 1_000;
    for sequence in 1..=total {
        sink.write(&event(sequence)).unwrap();
        if sequence % 10 == 0 {
            sink.flush().unwrap();
            assert_eq!(sink.losses(), None, "told while it could not be written");
        }
        assert!(sink.outbox.kept() <= limit);
    }
    target.then(None);
    std::thread::sleep(Duration::from_millis(1));
    sink.flush().unwrap();
    let losses = sink.losses().unwrap();
    let written = sequences(&target.text());
    assert_eq!(
        written,
        (1..=written.len() as u64).collect::<Vec<_>>(),
        "the oldest are kept, in order"
    );
    assert_eq!(losses.count + written.len() as u64, total);
    assert!(losses.count > 0 && written.len() > 100);
    assert_eq!(losses.from, event(written.len() as u64 + 1).time);
    assert_eq!(losses.to, event(total).time);
    assert_eq!(sink.losses(), None, "told once");
    sink.write(&event(total + 1)).unwrap();
    assert_eq!(sink.close().unwrap(), None);
    assert_eq!(sequences(&target.text()).last(), Some(&(total + 1)));
}

#[test]
fn what_is_kept_at_the_end_is_a_loss() {
    let target = Scripted::new([Ok(5)], Some(ErrorKind::StorageFull));
    let mut sink = eager(target, 1 << 20);
    (1..=4).for_each(|sequence| sink.write(&event(sequence)).unwrap());
    let losses = sink.close().unwrap().unwrap();
    assert_eq!(
        (losses.count, losses.from, losses.to),
        (4, event(1).time, event(4).time)
    );
    assert_eq!(sink.close().unwrap(), None);
}

#[test]
fn a_pause_grows_between_attempts() {
    let target = Scripted::new([], Some(ErrorKind::StorageFull));
    let mut sink = Ndjson::new(target.clone(), 1 << 20);
    sink.outbox.first_pause = Duration::from_secs(3600);
    sink.write(&event(1)).unwrap();
    sink.flush().unwrap();
    target.then(None);
    sink.flush().unwrap();
    assert_eq!(target.text(), "", "tried again too soon");
    assert_eq!(sink.close().unwrap(), None);
    assert_eq!(sequences(&target.text()), [1], "the end does not wait");
}

#[test]
fn a_reader_that_goes_ends_it() {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut sink = Ndjson::new(Stream::new("stdout", writer), 1 << 20);
    sink.write(&event(1)).unwrap();
    sink.flush().unwrap();
    drop(reader);
    sink.write(&event(2)).unwrap();
    let error = sink.flush().unwrap_err();
    assert!(
        matches!(&error, Error::Closed { name } if name == "stdout"),
        "{error}"
    );
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut sink = Table::new(Stream::new("stdout", writer), style(100), 1 << 20);
    sink.write(&event(1)).unwrap();
    assert!(matches!(sink.close(), Err(Error::Closed { .. })));
}

fn file_config(rotate_bytes: u64, keep: u64) -> config::File {
    config::File {
        rotate_bytes: Ranged::new(rotate_bytes),
        keep: Ranged::new(keep),
        ..config::File::default()
    }
}

fn file_sink(path: &Path, config: &config::File) -> Ndjson<RotatingFile> {
    let mut file = RotatingFile::open(path, config).unwrap();
    file.tend_every = Duration::ZERO;
    eager(file, 1 << 20)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[test]
fn files_are_rotated_between_lines() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.ndjson");
    for flush_every in [1, 7, 1_000_000] {
        for old in std::fs::read_dir(folder.path()).unwrap() {
            std::fs::remove_file(old.unwrap().path()).unwrap();
        }
        let mut sink = file_sink(&path, &file_config(4096, 3));
        for sequence in 1..=100 {
            sink.write(&event(sequence)).unwrap();
            if sequence % flush_every == 0 {
                sink.flush().unwrap();
            }
        }
        assert_eq!(sink.close().unwrap(), None);
        let mut names: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(
            names,
            [
                "events.ndjson",
                "events.ndjson.1",
                "events.ndjson.2",
                "events.ndjson.3"
            ]
        );
        let mut all = Vec::new();
        for name in [
            "events.ndjson.3",
            "events.ndjson.2",
            "events.ndjson.1",
            "events.ndjson",
        ] {
            let metadata = std::fs::metadata(folder.path().join(name)).unwrap();
            assert!(metadata.len() <= 4096);
            assert_eq!(metadata.mode() & 0o7777, 0o600, "{name}");
            let part = sequences(&read(&folder.path().join(name)));
            assert!(!part.is_empty());
            all.extend(part);
        }
        let first = all[0];
        assert_eq!(
            all,
            (first..=100).collect::<Vec<_>>(),
            "contiguous over the files"
        );
    }
}

#[test]
fn without_rotated_files_the_file_is_emptied() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.ndjson");
    let mut sink = file_sink(&path, &file_config(4096, 0));
    (1..=100).for_each(|sequence| sink.write(&event(sequence)).unwrap());
    assert_eq!(sink.close().unwrap(), None);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    assert_eq!(sequences(&read(&path)).last(), Some(&100));
    assert!(std::fs::metadata(&path).unwrap().len() <= 4096);
}

#[test]
fn a_rotation_that_fails_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.ndjson");
    // A folder that is not empty cannot be replaced by a file.
    std::fs::create_dir_all(folder.path().join("events.ndjson.1/x")).unwrap();
    let mut sink = file_sink(&path, &file_config(4096, 1));
    (1..=100).for_each(|sequence| {
        sink.write(&event(sequence)).unwrap();
        sink.flush().unwrap();
    });
    std::fs::remove_dir_all(folder.path().join("events.ndjson.1")).unwrap();
    assert_eq!(sequences(&read(&path)), (1..=100).collect::<Vec<_>>());
    (101..=150).for_each(|sequence| sink.write(&event(sequence)).unwrap());
    assert_eq!(sink.close().unwrap(), None);
    let mut all = sequences(&read(&folder.path().join("events.ndjson.1")));
    assert!(!all.is_empty(), "it is tried again");
    all.extend(sequences(&read(&path)));
    assert_eq!(all.last(), Some(&150));
}

#[test]
fn a_line_larger_than_a_file_is_still_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.ndjson");
    let mut large = event(2);
    std::sync::Arc::make_mut(&mut large.host).name = "h".repeat(10_000);
    let mut sink = file_sink(&path, &file_config(4096, 5));
    for event in [event(1), large, event(3)] {
        sink.write(&event).unwrap();
    }
    assert_eq!(sink.close().unwrap(), None);
    for (name, expected) in [
        ("events.ndjson.2", 1),
        ("events.ndjson.1", 2),
        ("events.ndjson", 3),
    ] {
        assert_eq!(
            sequences(&read(&folder.path().join(name))),
            [expected],
            "{name}"
        );
    }
}

#[test]
fn a_file_that_was_moved_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.ndjson");
    let moved = folder.path().join("moved");
    let mut sink = file_sink(&path, &file_config(1 << 20, 1));
    sink.write(&event(1)).unwrap();
    sink.flush().unwrap();
    std::fs::rename(&path, &moved).unwrap();
    sink.write(&event(2)).unwrap();
    sink.flush().unwrap();
    sink.write(&event(3)).unwrap();
    assert_eq!(sink.close().unwrap(), None);
    assert_eq!(sequences(&read(&moved)), [1, 2]);
    assert_eq!(sequences(&read(&path)), [3]);
}

#[test]
fn a_cut_last_line_spoils_only_itself() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.ndjson");
    std::fs::write(&path, "{\"version\":1,\"ki").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let mut sink = file_sink(&path, &file_config(1 << 20, 1));
    sink.write(&event(1)).unwrap();
    assert_eq!(sink.close().unwrap(), None);
    let text = read(&path);
    let (cut, rest) = text.split_once('\n').unwrap();
    assert_eq!(cut, "{\"version\":1,\"ki");
    assert_eq!(sequences(rest), [1]);
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    // And a whole one gets no empty line.
    let mut sink = file_sink(&path, &file_config(1 << 20, 1));
    sink.write(&event(2)).unwrap();
    assert_eq!(sink.close().unwrap(), None);
    assert_eq!(read(&path).lines().count(), 3);
}

#[test]
fn files_that_others_could_exchange_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let open = |name: &str| {
        let path = folder.path().join(name);
        RotatingFile::open(&path, &config::File::default())
            .map(|_| ())
            .unwrap_err()
    };
    std::os::unix::fs::symlink("/dev/null", folder.path().join("link")).unwrap();
    assert!(matches!(open("link"), Error::Open { .. }));
    let pipe = folder.path().join("pipe");
    rustix::fs::mkfifoat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::Mode::from_raw_mode(0o600),
    )
    .unwrap();
    assert!(matches!(open("pipe"), Error::NotAFile { .. }));
    std::fs::create_dir(folder.path().join("folder")).unwrap();
    assert!(matches!(open("folder"), Error::Open { .. }));
    assert!(matches!(open("missing/x"), Error::Open { .. }));
    if rustix::process::geteuid().is_root() {
        let theirs = folder.path().join("theirs");
        std::fs::write(&theirs, "").unwrap();
        std::os::unix::fs::chown(&theirs, Some(12_345), None).unwrap();
        assert!(matches!(open("theirs"), Error::Owner { owner: 12_345, .. }));
    }
    for (mode, fits) in [
        (0o777, false),
        (0o770, false),
        (0o1777, true),
        (0o755, true),
    ] {
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        let result = RotatingFile::open(&folder.path().join("x"), &config::File::default());
        assert_eq!(
            !matches!(result, Err(Error::Folder { .. })),
            fits,
            "{mode:o}"
        );
    }
}

/// A file system of 64 KiB, unmounted with its owner.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k,mode=755", "tokentrail-test"])
            .arg(folder.path())
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            Some(Self(folder))
        } else {
            println!("skipped: mounting a tmpfs needs root");
            None
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_loses_nothing_silently() {
    for (retry_bytes, expect_loss) in [(1 << 20, false), (70_000, true)] {
        let Some(disk) = SmallDisk::mount() else {
            return;
        };
        let filler = disk.0.path().join("filler");
        std::fs::write(&filler, vec![0; 40_000]).unwrap();
        let path = disk.0.path().join("events.ndjson");
        let mut file = RotatingFile::open(&path, &file_config(8192, 100)).unwrap();
        file.tend_every = Duration::ZERO;
        let mut sink = eager(file, retry_bytes);
        let mut failed = false;
        for sequence in 1..=400 {
            sink.write(&event(sequence)).unwrap();
            sink.flush().unwrap();
            failed |= sink.outbox.kept() > 0;
        }
        assert!(failed, "the disk was never full");
        assert_eq!(sink.losses(), None);
        // Someone makes room: removes the filler, then collects what was rotated, again and again.
        std::fs::remove_file(&filler).unwrap();
        let mut all = Vec::new();
        let collect = |all: &mut Vec<u64>| {
            for number in (1..=100).rev() {
                let rotated = disk.0.path().join(format!("events.ndjson.{number}"));
                if rotated.exists() {
                    all.extend(sequences(&read(&rotated)));
                    std::fs::remove_file(rotated).unwrap();
                }
            }
        };
        for _ in 0..50 {
            std::thread::sleep(Duration::from_millis(1));
            sink.flush().unwrap();
            collect(&mut all);
        }
        let lost = sink.losses().map_or(0, |losses| losses.count);
        assert_eq!(sink.close().unwrap(), None);
        collect(&mut all);
        all.extend(sequences(&read(&path)));
        assert_eq!(all.len() as u64 + lost, 400);
        assert_eq!(lost > 0, expect_loss, "{lost} lost");
        assert_eq!(all, (1..=all.len() as u64).collect::<Vec<_>>());
    }
}

fn style(width: usize) -> table::Style {
    table::Style {
        width: Some(width),
        colour: false,
    }
}

fn usage(sequence: u64, path: &str) -> Envelope {
    let side = if sequence.is_multiple_of(2) {
        "server"
    } else {
        "client"
    };
    let mac = "Qm9ndXMtZml4LW1hYzAxMjM0NTY3ODlhYmNkZWZnaGk";
    serde_json::from_value(json!({
        "version": 1,
        "kind": "usage",
        "time": "2026-09-21T14:13:20.123456789Z",
        "observed_time": "2026-09-21T14:13:20.200000000Z",
        "producer": { "id": "a", "name": "tokentrail-agent", "version": "0", "epoch": 1, "sequence": sequence },
        "host": { "name": "h", "boot_id": "b" },
        "direction": side,
        "exchange": { "id": "00000000000000000000000000000000", "outcome": "answered" },
        "process": {
            "pid": 4711, "creation": { "time": "2026-09-21T14:13:20Z" },
            "executable": { "path": "/usr/bin/curl" },
            "real_user": { "id": 1000, "name": "alice" }, "real_group_id": 1000,
            "linux": { "cgroup": "/system.slice/job.service", "cgroup_id": 5, "network_namespace": 6 }
        },
        "systemd": { "unit": "job.service", "slice": "system.slice" },
        "network": {
            "transport": "tcp", "type": "ipv4",
            "local": { "address": "127.0.0.1", "port": 40000 }, "peer": { "address": "127.0.0.1", "port": 8443 }
        },
        "server": { "address": "api.example", "port": 8443 },
        "http": { "request": { "method": "GET" }, "response": { "status_code": 200 } },
        "url": { "scheme": "https", "path": path, "query": "page=2" },
        "token": {
            "fingerprints": [format!("tkf1:k1:{mac}")], "provider": "github", "scheme": "Bearer",
            "carrier": "header:authorization"
        },
        "evidence": { "socket": "record", "identity": "exec", "hook": "fentry" }
    }))
    .unwrap()
}

fn shown(width: usize, events: &[Envelope]) -> String {
    let target = Scripted::default();
    let mut sink = Table::new(target.clone(), style(width), 1 << 20);
    events.iter().for_each(|event| sink.write(event).unwrap());
    assert_eq!(sink.close().unwrap(), None);
    target.text()
}

fn check_table(width: usize, events: &[Envelope], expected: &Expect) {
    let text = shown(width, events);
    assert!(
        text.lines().all(|line| super::width::width(line) <= width),
        "{text}"
    );
    expected.assert_eq(&text);
}

#[test]
fn tables() {
    let mut unanswered = usage(
        2,
        "/v1/items/with/a/rather/long/path/that/goes/on/and/on/for/ever",
    );
    if let agent_common::event::Body::Usage(usage) = &mut unanswered.body {
        usage.http.response = None;
        usage.exchange.outcome = agent_common::event::Outcome::Closed;
        usage.token.fingerprints.clear();
        usage.token.provider = None;
        usage.token.scheme = "Digest".into();
        usage.server.port = Some(443);
    }
    let events = [usage(1, "/user"), unanswered, event(7)];
    check_table(
        180,
        &events,
        &expect![[r#"
            TIME UTC     TOKEN      PROVIDER SCHEME PROCESS    USER  UNIT        SIDE   PEER           HOST             METHOD PATH                                              STATUS EVIDENCE
            14:13:20.123 Qm9ndXMtZm github   Bearer curl[4711] alice job.service client 127.0.0.1:8443 api.example:8443 GET    /user?page=2                                      200    record
            14:13:20.123 unresolved -        Digest curl[4711] alice job.service server 127.0.0.1:8443 api.example      GET    /v1/items/with/a/rather/long/path/that/goes/on/a… closed record
            14:13:07.123  lost: 7 records at kernel (-): ring_full
        "#]],
    );
    check_table(
        80,
        &events,
        &expect![[r#"
            TIME UTC  TOKEN      PROVID… PROCESS    SIDE   HOST       METH… PATH      STATUS
            14:13:20  Qm9ndXMtZm github  curl[4711] client api.examp… GET   /user?pa… 200
            14:13:20  unresolved -       curl[4711] server api.examp… GET   /v1/item… closed
            14:13:07.123  lost: 7 records at kernel (-): ring_full
        "#]],
    );
}

#[test]
fn tables_fit_every_terminal() {
    let events: Vec<_> = (1..100)
        .map(|sequence| usage(sequence, &"/漢é".repeat(sequence as usize)))
        .collect();
    for width in [70, 80, 100, 132, 200, 300] {
        let text = shown(width, &events);
        for line in text.lines() {
            assert!(super::width::width(line) <= width, "{width}: {line}");
        }
        let headers = text.lines().filter(|line| line.starts_with("TIME")).count();
        assert!((2..=5).contains(&headers), "{headers} headers");
        assert_eq!(text.lines().count(), headers + events.len());
    }
}

#[test]
fn tables_cannot_be_made_to_command_the_terminal() {
    let mut hostile = usage(1, "/\u{1b}]0;owned\u{7}\r\n\u{202e}x");
    if let agent_common::event::Body::Usage(usage) = &mut hostile.body {
        usage.server.address = "\u{1b}[2J".into();
        usage.http.request.method = "G\nT".into();
    }
    let text = shown(200, &[hostile]);
    assert_eq!(text.lines().count(), 2);
    assert!(
        text.chars()
            .all(|character| character == '\n' || !character.is_control()),
        "{text:?}"
    );
    assert!(!text.contains('\u{202e}'));
}

#[test]
fn colour_is_only_in_the_header() {
    let target = Scripted::default();
    let mut sink = Table::new(
        target.clone(),
        table::Style {
            width: Some(120),
            colour: true,
        },
        1 << 20,
    );
    sink.write(&usage(1, "/")).unwrap();
    sink.flush().unwrap();
    let text = target.text();
    assert!(
        text.starts_with("\u{1b}[1mTIME") && text.lines().next().unwrap().ends_with("\u{1b}[0m")
    );
    assert!(!text.lines().nth(1).unwrap().contains('\u{1b}'));
}

#[test]
fn stdout_is_a_stream() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut sink = Ndjson::new(Stream::new("stdout", writer), 0);
    sink.write(&event(1)).unwrap();
    assert_eq!(sink.close().unwrap(), None);
    drop(sink);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(sequences(&text), [1]);
    assert!(Stream::stdout().is_ok());
}

/// Events as a batch.
fn batch(sequences: impl IntoIterator<Item = u64>) -> batch::Batch {
    batch::Batch {
        agent: "a".into(),
        epoch: 1,
        events: sequences
            .into_iter()
            .map(|sequence| {
                let event = event(sequence);
                batch::Encoded {
                    sequence,
                    time: event.time,
                    json: serde_json::to_vec(&event).unwrap().into(),
                }
            })
            .collect(),
    }
}

#[test]
fn lines_are_accepted_when_all_of_them_are_written_wherever_writing_failed() {
    use batch::{Outcome, Receiver};
    let length = {
        let target = Scripted::default();
        lines::Lines::new("file", target.clone(), || {}).send(&batch(1..=3));
        assert_eq!(sequences(&target.text()), [1, 2, 3]);
        target.text().len()
    };
    for cut in 1..length {
        let target = Scripted::new([Ok(cut), Err(ErrorKind::StorageFull)], None);
        let mut lines = lines::Lines::new("file", target.clone(), || {});
        let first = lines.send(&batch(1..=3));
        assert!(matches!(first, Outcome::Retry { .. }), "{first:?}");
        let second = lines.send(&batch(1..=3));
        assert!(
            matches!(second, Outcome::Accepted { rejected: 0, .. }),
            "{second:?}"
        );
        assert!(matches!(
            lines.send(&batch(4..=4)),
            Outcome::Accepted { .. }
        ));
        assert_eq!(sequences(&target.text()), [1, 2, 3, 4], "{cut}");
    }
}

#[test]
fn a_reader_that_has_gone_is_told_of_and_the_batch_kept() {
    use batch::{Outcome, Receiver};
    let target = Scripted::new([], Some(ErrorKind::BrokenPipe));
    let told = Arc::new(Mutex::new(0));
    let mut lines = lines::Lines::new("stdout", target, {
        let told = Arc::clone(&told);
        move || *told.lock().unwrap() += 1
    });
    assert!(matches!(lines.send(&batch(1..=3)), Outcome::Retry { .. }));
    assert_eq!(*told.lock().unwrap(), 1);
}

#[test]
fn lines_in_a_file_are_rotated_between_lines() {
    use batch::{Outcome, Receiver};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.ndjson");
    let config = config::File {
        rotate_bytes: Ranged::new(4_096),
        ..config::File::default()
    };
    let file = RotatingFile::open(&path, &config).unwrap();
    let mut lines = lines::Lines::new("file", file, || {});
    for first in (1..=40).step_by(4) {
        assert!(matches!(
            lines.send(&batch(first..first + 4)),
            Outcome::Accepted { .. }
        ));
    }
    let mut all = Vec::new();
    for number in (0..=8).rev() {
        let path = if number == 0 {
            path.clone()
        } else {
            path.with_extension(format!("ndjson.{number}"))
        };
        if let Ok(text) = std::fs::read_to_string(path) {
            assert!(text.len() <= 4_096);
            all.extend(sequences(&text));
        }
    }
    assert_eq!(all, (1..=40).collect::<Vec<_>>());
}
