//! A real OpenTelemetry Collector in between, where `TOKENTRAIL_RECEIVERS=1` says so (`cargo xtask setup --test`
//! brings it): it joins batches, splits them, and comes again when it is told to.

use super::{AGENTS, NDJSON, PROTOBUF, SAMPLES, request, samples, site_with};
use crate::inbox;
use crate::ingest::Limits;
use prost::Message;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
const CONFIG: &str = r#"
receivers:
  otlp: { protocols: { http: { endpoint: "127.0.0.1:IN" } } }
exporters:
  otlphttp:
    endpoint: OUT
    compression: gzip
    headers: { authorization: "Bearer between" }
    sending_queue: { enabled: false }
    retry_on_failure: { enabled: false }
service:
  telemetry: { metrics: { level: none } }
  pipelines:
    logs: { receivers: [otlp], exporters: [otlphttp] }
"#;

/// Ended with its test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_collector_in_between_changes_nothing() {
    if std::env::var("TOKENTRAIL_RECEIVERS").as_deref() != Ok("1") {
        println!("skipped: set TOKENTRAIL_RECEIVERS=1 (after `cargo xtask setup --test`)");
        return;
    }
    let fixtures = std::env::var_os("TOKENTRAIL_FIXTURES").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/tokentrail/fixtures"),
        PathBuf::from,
    );
    let waiting = inbox::Limits {
        bytes: 1 << 30,
        // What was sent before needs room, too, until that is known.
        events: 2 * SAMPLES.lines().count() as u64,
        quarantine: 0,
    };
    let site = site_with(waiting, Limits::default());
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let config = CONFIG
        .replace("IN", &port.to_string())
        .replace("OUT", &site.url);
    let path = site.folder.path().join("between.yaml");
    std::fs::write(&path, config).unwrap();
    let log = std::fs::File::create(site.folder.path().join("between.log")).unwrap();
    let mut program = Program(
        Command::new(fixtures.join("otelcol/otelcol"))
            .arg("--config")
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap(),
    );
    let end = Instant::now() + PATIENCE;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < end && program.0.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(20));
    }
    let through = |body: &[u8]| {
        let path = site.folder.path().join("request");
        std::fs::write(&path, body).unwrap();
        let output = Command::new("curl")
            .args([
                "--silent",
                "--include",
                "--noproxy",
                "*",
                "-H",
                PROTOBUF,
                "--data-binary",
            ])
            .arg(format!("@{}", path.display()))
            .arg(format!("http://127.0.0.1:{port}/v1/logs"))
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let answer = through(AGENTS);
    assert!(answer.contains(" 200 OK"), "{answer}");
    assert_eq!(site.stored(), samples());
    assert_eq!(&*site.inbox.pending()[0].origin, "between");
    // Again, and directly: stored once.
    through(AGENTS);
    assert_eq!(
        site.curl("/v1/events", &[NDJSON], SAMPLES.as_bytes())
            .status,
        200
    );
    assert_eq!(site.stored().len(), SAMPLES.lines().count());
    // Full: the sender is told to come again, through it.
    let sequences: Vec<u64> = (1..=SAMPLES.lines().count() as u64 + 1).collect();
    let last = sequences.len() as i64;
    let more = request(&sequences, (1, last)).encode_to_vec();
    let answer = through(&more);
    assert!(answer.contains(" 503 "), "{answer}");
    site.inbox.remove(i64::MAX).unwrap();
    let answer = through(&more);
    assert!(answer.contains(" 200 OK"), "{answer}");
    assert_eq!(site.stored().len(), sequences.len());
}
