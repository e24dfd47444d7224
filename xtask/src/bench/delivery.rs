//! Events per second through the spool and the OTLP sink, and what one takes on the wire and on the disk.
//!
//! The agent's hidden `bench spool` makes the events, spools them on the disk that the target folder lies on, and sends
//! them: to memory, to a [`Receiver`] that only acknowledges, and to the OpenTelemetry Collector of the tests, which
//! hands on what it takes to such a receiver before it answers. How quickly a receiver takes the same batch again and
//! again over one connection says who it is that the other waits for.

use super::receiver::{self, Receiver};
use super::{Pace, variant};
use crate::interrupt;
use crate::process::{self, Group};
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::Value;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// Events for each second of load.
const EVENTS: u64 = 30_000;
/// Events that come together at 50 a second with the default `spool.group_ms`.
const QUIET: u64 = 5;
/// Writes that are timed.
const SYNCS: usize = 21;

/// One way.
#[derive(Serialize)]
pub struct Delivered {
    pub receiver: &'static str,
    pub compression: &'static str,
    /// What the agent's command said.
    pub agent: Value,
    /// Heads included.
    pub wire_bytes_per_event: Option<f64>,
    pub receiver_cpu_microseconds_per_event: Option<f64>,
    /// What the receiver takes by itself.
    pub own_events_per_second: Option<f64>,
}

pub struct Way<'a> {
    pub agent: &'a Path,
    pub folder: &'a Path,
    pub collector: Option<PathBuf>,
    pub seconds: u64,
    pub pace: Pace,
}

/// The collector that the tests' setup builds, if it has.
pub fn collector(workspace: &Workspace) -> Option<PathBuf> {
    let program = workspace.fixtures().join("otelcol/otelcol");
    program.exists().then_some(program)
}

impl Way<'_> {
    pub fn measure(&self, mut each: impl FnMut(Delivered)) -> Result<()> {
        each(Delivered {
            receiver: "memory",
            compression: "none",
            agent: self.spool(None, "none", None)?,
            wire_bytes_per_event: None,
            receiver_cpu_microseconds_per_event: None,
            own_events_per_second: None,
        });
        let mut sample = None;
        for compression in ["zstd", "gzip", "none"] {
            let receiver = Receiver::start()?;
            let agent = self.spool(Some(&receiver.endpoint()), compression, None)?;
            let taken = Sample::of(&receiver, &agent);
            each(self.delivered(
                "acknowledges only",
                compression,
                agent,
                receiver.port,
                &taken,
                None,
            )?);
            sample.get_or_insert(taken);
        }
        let receiver = Receiver::start()?;
        let agent = self.spool(Some(&receiver.endpoint()), "zstd", Some(QUIET))?;
        let taken = Sample::of(&receiver, &agent);
        each(self.delivered(
            "acknowledges only",
            "zstd",
            agent,
            receiver.port,
            &taken,
            None,
        )?);
        if let (Some(program), Some(sample)) = (&self.collector, sample) {
            let behind = Receiver::start()?;
            let collector = Collector::start(program, self.folder, &behind, self.pace)?;
            let before = variant::cpu(collector.group.id())?;
            let endpoint = format!("http://127.0.0.1:{}", collector.port);
            let agent = self.spool(Some(&endpoint), "zstd", None)?;
            let cpu = variant::cpu(collector.group.id())? - before;
            each(self.delivered(
                "OpenTelemetry Collector",
                "zstd",
                agent,
                collector.port,
                &sample,
                Some(cpu),
            )?);
        }
        Ok(())
    }

    /// With what the receiver at `port` does by itself.
    fn delivered(
        &self,
        receiver: &'static str,
        compression: &'static str,
        agent: Value,
        port: u16,
        sample: &Sample,
        cpu: Option<f64>,
    ) -> Result<Delivered> {
        let time = Duration::from_secs(self.seconds);
        let own = receiver::own_rate(port, &sample.request, time)?;
        Ok(Delivered {
            receiver,
            compression,
            wire_bytes_per_event: Some(sample.bytes_per_event),
            receiver_cpu_microseconds_per_event: cpu.map(|cpu| cpu / rounds(&agent)),
            own_events_per_second: Some(own * number(&agent, "largest_batch")),
            agent,
        })
    }

    fn spool(
        &self,
        endpoint: Option<&str>,
        compression: &str,
        group: Option<u64>,
    ) -> Result<Value> {
        interrupt::check()?;
        let events = self.seconds * EVENTS / u64::from(self.pace.0);
        // Each group costs an fsync.
        let events = group.map_or(events, |_| events / 30).max(1_000);
        let mut command = Command::new(self.agent);
        command
            .args(["bench", "spool", "--events", &events.to_string()])
            .arg("--folder")
            .arg(self.folder)
            .args(["--compression", compression]);
        if let Some(group) = group {
            command.args(["--group", &group.to_string()]);
        }
        if let Some(endpoint) = endpoint {
            command.args(["--endpoint", endpoint]);
        }
        let told = process::output(&mut command)?;
        serde_json::from_str(&told).with_context(|| format!("bench spool said {told:?}"))
    }
}

/// Everything in one table, and below it what holds for all of it. `fsync`: [`sync_time`].
pub fn table(out: &mut String, delivered: &[Delivered], fsync: f64) {
    let _ = writeln!(
        out,
        "\nevents per second through spool and OTLP/HTTP; bytes of an event on the wire (heads included) and on the disk\n\n\
         {:<24} {:<5} {:>6} {:>9} {:>10} {:>11} {:>11} {:>11} {:>8} {:>11}",
        "receiver",
        "",
        "batch",
        "through",
        "drained",
        "wire bytes",
        "disk bytes",
        "agent CPU",
        "its CPU",
        "by itself"
    );
    let or_dash = |value: Option<f64>, unit: &str| {
        value.map_or_else(|| "-".to_owned(), |value| format!("{value:.0}{unit}"))
    };
    for way in delivered {
        let _ = writeln!(
            out,
            "{:<24} {:<5} {:>6.0} {:>7.0}/s {:>8.0}/s {:>11} {:>11.0} {:>8.1} us {:>8} {:>11}",
            way.receiver,
            way.compression,
            number(&way.agent, "largest_batch"),
            number(&way.agent, "through_per_second"),
            number(&way.agent, "drained_per_second"),
            or_dash(way.wire_bytes_per_event, ""),
            number(&way.agent, "spool_bytes_per_event"),
            number(&way.agent, "cpu_microseconds_per_event"),
            or_dash(way.receiver_cpu_microseconds_per_event, " us"),
            or_dash(way.own_events_per_second, "/s"),
        );
    }
    if let Some(first) = delivered.first().map(|way| &way.agent) {
        let more = number(first, "disk_bytes_per_event") - number(first, "spool_bytes_per_event");
        let _ = writeln!(
            out,
            "\n{:.0} events of {:.0} bytes of JSON, appended at {:.0}/s; beside what waits the spool's files (log, reserve) \
             have {:.1} MB; a write of 4 KiB is on this disk after {fsync:.1} ms",
            number(first, "events"),
            number(first, "json_bytes_per_event"),
            number(first, "appended_per_second"),
            more * number(first, "events") / 1e6,
        );
    }
}

/// Milliseconds until 4 KiB more of a file are on the disk of `folder`; the median of some.
pub fn sync_time(folder: &Path) -> Result<f64> {
    let path = folder.join("sync");
    let mut file =
        File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut times = Vec::new();
    for _ in 0..SYNCS {
        let start = Instant::now();
        file.write_all(&[0; 4096])?;
        file.sync_data()?;
        times.push(start.elapsed().as_secs_f64() * 1_000.0);
    }
    fs::remove_file(&path)?;
    Ok(super::report::median(&mut times).unwrap_or_default())
}

/// What a receiver saw of a run: the same events are sent to every receiver.
struct Sample {
    request: Vec<u8>,
    bytes_per_event: f64,
}

impl Sample {
    fn of(receiver: &Receiver, agent: &Value) -> Self {
        let wire = receiver.wire();
        Self {
            request: receiver.largest(),
            bytes_per_event: (wire.head_bytes + wire.body_bytes) as f64 / rounds(agent),
        }
    }
}

/// Events that the receiver had: the agent's command sends all of them twice.
fn rounds(agent: &Value) -> f64 {
    2.0 * number(agent, "events")
}

fn number(value: &Value, name: &str) -> f64 {
    value[name].as_f64().unwrap_or(0.0)
}

/// An OpenTelemetry Collector in front of a receiver; ended with its value.
struct Collector {
    group: Group,
    port: u16,
}

impl Collector {
    fn start(program: &Path, folder: &Path, behind: &Receiver, pace: Pace) -> Result<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let configuration = folder.join("collector.yaml");
        fs::write(&configuration, configure(port, behind.port))?;
        let log = folder.join("collector.log");
        let file = File::create(&log)?;
        let mut command = Command::new(program);
        command
            .arg("--config")
            .arg(&configuration)
            .stdout(file.try_clone()?)
            .stderr(file);
        let group = Group::spawn(&mut command)?;
        let start = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            interrupt::check()?;
            if group.ended() || start.elapsed() > pace.seconds(20) {
                let said = fs::read_to_string(&log).unwrap_or_default();
                bail!("the collector does not listen: {}", said.trim());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(Self { group, port })
    }
}

/// It acknowledges what the receiver behind it has: nothing waits in it.
fn configure(port: u16, behind: u16) -> String {
    format!(
        r"receivers:
  otlp: {{ protocols: {{ http: {{ endpoint: 127.0.0.1:{port} }} }} }}
exporters:
  otlphttp:
    endpoint: http://127.0.0.1:{behind}
    compression: none
    sending_queue: {{ enabled: false }}
    retry_on_failure: {{ enabled: false }}
service:
  telemetry: {{ metrics: {{ level: none }}, logs: {{ level: error }} }}
  pipelines:
    logs: {{ receivers: [otlp], exporters: [otlphttp] }}
"
    )
}
