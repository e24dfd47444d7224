//! An OpenTelemetry Collector with client certificates, which hands on what it takes to a server of these tests.

use crate::samples;
use crate::support::arrived::of_otlp;
use crate::support::server::{Server, Step};
use crate::support::{Certificates, Program, asked, fixture, listens, ports};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tokentrail_agent::config::{self, Compression, Ranged};
use tokentrail_agent::sink::batch::{Batch, Outcome, Receiver};
use tokentrail_agent::sink::otlp;

const CONFIG: &str = r#"
receivers:
  otlp:
    protocols:
      http:
        endpoint: 127.0.0.1:IN
        max_request_body_size: 1000000
        TLS
exporters:
  EXPORTER:
    endpoint: http://127.0.0.1:OUT
    compression: none
    sending_queue: { enabled: false }
    retry_on_failure: { enabled: false }
service:
  telemetry: { metrics: { level: none } }
  pipelines:
    logs: { receivers: [otlp], exporters: [EXPORTER] }
"#;

const TLS: &str = "tls: { cert_file: FOLDER/server.pem, key_file: FOLDER/server.key, client_ca_file: FOLDER/ca.pem }";

pub struct Collector {
    program: Program,
    folder: PathBuf,
    certificates: Certificates,
    port: u16,
    behind: Server,
}

/// It acknowledges what the server behind it has: it keeps nothing itself.
impl Collector {
    pub fn start(folder: &Path, steps: Vec<Step>) -> Self {
        Self::start_with(folder, steps, TLS)
    }

    pub fn in_cleartext(folder: &Path) -> Self {
        Self::start_with(folder, Vec::new(), "")
    }

    fn start_with(folder: &Path, steps: Vec<Step>, tls: &str) -> Self {
        let behind = Server::start(steps);
        let certificates = Certificates::make(folder);
        let [port] = ports();
        let text = CONFIG
            .replace("TLS", tls)
            .replace("FOLDER", &folder.display().to_string())
            .replace("EXPORTER", "otlphttp")
            .replace("IN", &port.to_string())
            .replace("OUT", &behind.port.to_string());
        let path = folder.join("collector.yaml");
        fs::write(&path, text).unwrap();
        Self {
            program: run(folder, port),
            folder: folder.to_owned(),
            certificates,
            port,
            behind,
        }
    }

    /// `kill -9`, and the same again at the same port.
    pub fn kill(&mut self) {
        self.program.kill();
        self.program = run(&self.folder, self.port);
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn behind(&self) -> &Server {
        &self.behind
    }

    pub fn config(&self) -> config::Otlp {
        config::Otlp {
            endpoint: Some(format!("https://localhost:{}", self.port)),
            ca: Some(self.certificates.certificate("ca")),
            certificate: Some(self.certificates.certificate("agent")),
            key: Some(self.certificates.key("agent")),
            connect_seconds: Ranged::new(10),
            timeout_seconds: Ranged::new(20),
            ..config::Otlp::default()
        }
    }

    /// Events that came through, each as its canonical JSON.
    pub fn arrived(&self) -> Vec<String> {
        of_otlp(&self.behind.requests())
    }
}

fn run(folder: &Path, port: u16) -> Program {
    let mut command = Command::new(fixture("otelcol/otelcol"));
    command.arg("--config").arg(folder.join("collector.yaml"));
    let mut program = Program::start(&mut command, &folder.join("collector.log"));
    program.wait_until(|| listens(port));
    program
}

fn jsons(batch: &Batch) -> Vec<String> {
    batch
        .events
        .iter()
        .map(|event| String::from_utf8(event.json.to_vec()).unwrap())
        .collect()
}

#[test]
fn events_come_through_byte_for_byte() {
    if !asked("collector") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let collector = Collector::start(folder.path(), Vec::new());
    let mut expected = Vec::new();
    for (round, compression) in [Compression::Zstd, Compression::Gzip, Compression::None]
        .into_iter()
        .enumerate()
    {
        let config = config::Otlp {
            compression,
            ..collector.config()
        };
        let mut otlp = otlp::from_config(&config).unwrap().unwrap();
        let batch = samples::batch(1 + 100 * round as u64, 5);
        let outcome = otlp.send(&batch);
        assert!(
            matches!(outcome, Outcome::Accepted { rejected: 0, .. }),
            "{compression:?}: {outcome:?}"
        );
        expected.extend(jsons(&batch));
    }
    assert_eq!(collector.arrived(), expected);
}

#[test]
fn who_is_not_known_is_not_heard() {
    if !asked("collector") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let collector = Collector::start(folder.path(), Vec::new());
    let certificates = &collector.certificates;
    let nobody = config::Otlp {
        certificate: None,
        key: None,
        ..collector.config()
    };
    let stranger = config::Otlp {
        certificate: Some(certificates.certificate("stranger")),
        key: Some(certificates.key("stranger")),
        ..collector.config()
    };
    let other_ca = config::Otlp {
        ca: Some(certificates.certificate("other-ca")),
        ..collector.config()
    };
    let other_name = config::Otlp {
        endpoint: Some(format!("https://127.0.0.2:{}", collector.port)),
        ..collector.config()
    };
    for (what, config) in [
        ("nobody", nobody),
        ("a stranger", stranger),
        ("another authority", other_ca),
        ("another name", other_name),
    ] {
        let outcome = otlp::from_config(&config)
            .unwrap()
            .unwrap()
            .send(&samples::batch(1, 1));
        assert!(
            matches!(outcome, Outcome::Retry { .. }),
            "{what}: {outcome:?}"
        );
    }
    assert!(collector.arrived().is_empty());
}

#[test]
fn a_failing_backend_is_passed_on() {
    if !asked("collector") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let collector = Collector::start(
        folder.path(),
        vec![
            Step::Answer("503 Service Unavailable", "retry-after: 7\r\n", Vec::new()),
            Step::Answer("400 Bad Request", "", Vec::new()),
        ],
    );
    let mut otlp = otlp::from_config(&collector.config()).unwrap().unwrap();
    let batch = samples::batch(1, 1);
    let outcomes = [otlp.send(&batch), otlp.send(&batch), otlp.send(&batch)];
    assert!(matches!(outcomes[0], Outcome::Retry { .. }), "{outcomes:?}");
    assert!(
        !matches!(outcomes[1], Outcome::Accepted { .. }),
        "{outcomes:?}"
    );
    assert!(
        matches!(outcomes[2], Outcome::Accepted { .. }),
        "{outcomes:?}"
    );
}

#[test]
fn what_is_too_large_for_it_is_said() {
    if !asked("collector") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let collector = Collector::start(folder.path(), Vec::new());
    for compression in [Compression::None, Compression::Zstd] {
        let config = config::Otlp {
            compression,
            ..collector.config()
        };
        let mut otlp = otlp::from_config(&config).unwrap().unwrap();
        let outcome = otlp.send(&samples::large(1, 2_000_000));
        assert!(
            matches!(outcome, Outcome::TooLarge { .. }),
            "{compression:?}: {outcome:?}"
        );
    }
}
