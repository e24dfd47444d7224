//! The ledger and the agent's counters for Prometheus, over HTTP on a local address.
//!
//! `tokentrail_connections_total{program,protocol,library,outcome,reason}` (outcome `read` or `unread`),
//! `tokentrail_connections_open{...}` (neither so far), and `tokentrail_agent_total{counter}`: every counter that the agent
//! prints when it stops. For each output behind the spool, `tokentrail_sink_{delivered,retried,refused,restarted}_total{sink}`
//! and how it stands now, `tokentrail_sink_{waiting,quarantined,last_delivered_timestamp_seconds}{sink}`. Format:
//! OpenMetrics text 1.0.

use super::door::Asker;
use super::{Snapshot, table};
use crate::kernel::points::SearchCounts;
use agent_common::event::SinkReport;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::fmt;
use std::net::{SocketAddr, TcpListener};
use tiny_http::{Header, Method, Request, Response, Server};

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Why no metrics are served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("metrics cannot be served at {address}: {source}")]
    Bind {
        address: SocketAddr,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("metrics are served on a loopback address only, and {0} is none")]
    NotLocal(SocketAddr),
}

impl Error {
    fn bind(address: SocketAddr) -> impl FnOnce(std::io::Error) -> Self {
        move |error| Self::Bind {
            address,
            source: error.into(),
        }
    }
}

/// The address at which `GET /metrics` is answered.
pub struct Metrics {
    address: SocketAddr,
    listener: TcpListener,
}

impl Metrics {
    /// Takes the address; with port 0 the system chooses one.
    ///
    /// # Errors
    /// If the address is not local, or taken.
    pub fn bind(address: SocketAddr) -> Result<Self, Error> {
        if !address.ip().is_loopback() {
            return Err(Error::NotLocal(address));
        }
        let listener = TcpListener::bind(address).map_err(Error::bind(address))?;
        let address = listener.local_addr().map_err(Error::bind(address))?;
        Ok(Self { address, listener })
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers from a thread of its own, which lives as long as the process.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn serve(self, asker: Asker) -> Result<(), Error> {
        let address = self.address;
        let server = Server::from_listener(self.listener, None)
            .map_err(|source| Error::Bind { address, source })?;
        std::thread::Builder::new()
            .name("metrics".into())
            .spawn(move || {
                for request in server.incoming_requests() {
                    answer(request, &asker);
                }
            })
            .map_err(Error::bind(address))?;
        Ok(())
    }
}

fn answer(request: Request, asker: &Asker) {
    let path = request.url().split('?').next();
    let (status, text) = match (request.method(), path) {
        (Method::Get, Some("/metrics")) => match asker.ask() {
            Some(snapshot) => match encode(snapshot) {
                Ok(text) => (200, text),
                Err(error) => (500, format!("{error}\n")),
            },
            None => (503, "the agent is busy or stopping\n".to_owned()),
        },
        (_, Some("/metrics")) => (405, "only GET\n".to_owned()),
        _ => (404, "only /metrics\n".to_owned()),
    };
    let mut response = Response::from_string(text).with_status_code(status);
    if status == 200
        && let Ok(header) = Header::from_bytes("Content-Type", CONTENT_TYPE)
    {
        response.add_header(header);
    }
    // The other end may have gone.
    let _ = request.respond(response);
}

fn encode(snapshot: Snapshot) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("tokentrail");
    registry.register_collector(Box::new(Families(snapshot)));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Families(Snapshot);

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let counter = ConstCounter::new(0u64);
        let mut family = encoder.encode_descriptor(
            "connections",
            "Connections that were read, or not, with the reason",
            None,
            counter.metric_type(),
        )?;
        for row in &self.0.rows {
            let library = row.library.as_deref().unwrap_or("");
            let labels = |outcome, reason| {
                [
                    ("program", row.program.clone()),
                    ("protocol", row.protocol.clone()),
                    ("library", library.to_owned()),
                    ("outcome", outcome),
                    ("reason", reason),
                ]
            };
            let read = [("read".to_owned(), String::new(), row.read)];
            let unread = row
                .unread
                .iter()
                .map(|(why, count)| ("unread".to_owned(), table::reason(*why), *count));
            for (outcome, reason, count) in read.into_iter().chain(unread) {
                ConstCounter::new(count).encode(family.encode_family(&labels(outcome, reason))?)?;
            }
        }
        let gauge = ConstGauge::new(0u64);
        let mut family = encoder.encode_descriptor(
            "connections_open",
            "Open connections, neither read nor given up so far",
            None,
            gauge.metric_type(),
        )?;
        for row in self.0.rows.iter().filter(|row| row.undecided > 0) {
            let labels = [("program", &row.program), ("protocol", &row.protocol)];
            ConstGauge::new(row.undecided).encode(family.encode_family(&labels)?)?;
        }
        let mut family = encoder.encode_descriptor(
            "agent",
            "The agent's own counters",
            None,
            counter.metric_type(),
        )?;
        for (name, count) in &self.0.counters {
            ConstCounter::new(*count).encode(family.encode_family(&[("counter", name)])?)?;
        }
        for (name, help, of) in SEARCH_COUNTERS {
            let mut family = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
            ConstCounter::new(of(&self.0.searches)).encode(family.encode_family(&NO_LABELS)?)?;
        }
        for (name, help, of) in SEARCH_GAUGES {
            let mut family = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            ConstGauge::new(of(&self.0.searches)).encode(family.encode_family(&NO_LABELS)?)?;
        }
        for (name, help, of) in SINK_COUNTERS {
            let mut family = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
            for sink in &self.0.sinks {
                let labels = [("sink", sink.name.as_str())];
                ConstCounter::new(of(sink)).encode(family.encode_family(&labels)?)?;
            }
        }
        for (name, help, of) in SINK_GAUGES {
            let mut family = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            for sink in &self.0.sinks {
                if let Some(value) = of(sink) {
                    let labels = [("sink", sink.name.as_str())];
                    ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }
}

const NO_LABELS: [(&str, &str); 0] = [];

type OfSearches = (&'static str, &'static str, fn(&SearchCounts) -> u64);

const SEARCH_COUNTERS: [OfSearches; 2] = [
    (
        "searches_done",
        "Files that processes have executed or mapped and that were searched",
        |searches| searches.done,
    ),
    (
        "searches_ahead_done",
        "Files that were searched ahead of use",
        |searches| searches.ahead_done,
    ),
];

const SEARCH_GAUGES: [OfSearches; 2] = [
    (
        "searches_waiting",
        "Files that processes have executed or mapped and that wait to be searched, or are being",
        |searches| searches.waiting,
    ),
    (
        "searches_ahead_waiting",
        "Files that wait to be searched ahead of use, or are being",
        |searches| searches.ahead_waiting,
    ),
];

/// Name, help and value.
type Of<T> = (&'static str, &'static str, fn(&SinkReport) -> T);

const SINK_COUNTERS: [Of<u64>; 4] = [
    (
        "sink_delivered",
        "Events that the output's receiver has taken",
        |sink| sink.delivered,
    ),
    ("sink_retried", "Batches that were sent again", |sink| {
        sink.retried
    }),
    (
        "sink_refused",
        "Events that the output's receiver has refused for good",
        |sink| sink.refused,
    ),
    (
        "sink_restarted",
        "Times that the output began again after a panic",
        |sink| sink.restarted,
    ),
];

const SINK_GAUGES: [Of<Option<f64>>; 3] = [
    (
        "sink_waiting",
        "Events that wait for the output in the spool",
        |sink| Some(sink.waiting as f64),
    ),
    (
        "sink_quarantined",
        "Events of refused batches that are kept for looking at",
        |sink| Some(sink.quarantined as f64),
    ),
    (
        "sink_last_delivered_timestamp_seconds",
        "When the output's receiver last took something",
        |sink| Some(sink.last_delivered?.unix_nanos() as f64 / 1e9),
    ),
];

#[cfg(test)]
pub(super) mod tests {
    use super::super::{Ledger, Subject, door};
    use super::*;
    use agent_common::event::{CoverageReason, Time};
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;

    pub fn sink() -> SinkReport {
        SinkReport {
            name: "otlp".to_owned(),
            delivered: 1_000,
            retried: 2,
            refused: 3,
            waiting: 17,
            quarantined: 5,
            restarted: 0,
            last_delivered: Some(Time::from_unix_nanos(1_790_000_000_500_000_000)),
        }
    }

    fn snapshot() -> Snapshot {
        let mut ledger = Ledger::new(8);
        let subject = || Subject {
            program: "/bin/a \"b\"".into(),
            protocol: "tls",
            library: Some("openssl"),
        };
        ledger.record(subject(), None);
        ledger.record(subject(), Some(CoverageReason::NoSecret));
        ledger.record_open(subject(), false, None);
        Snapshot {
            from: Time::now(),
            to: Time::now(),
            scope: Vec::new(),
            total: ledger.total(),
            rows: ledger.rows(),
            sinks: vec![sink()],
            searches: SearchCounts {
                done: 3,
                waiting: 2,
                ..SearchCounts::default()
            },
            counters: [("events.usage".to_owned(), 7)].into(),
        }
    }

    #[test]
    fn text_is_as_prometheus_reads_it() {
        let text = encode(snapshot()).unwrap();
        let labels = r#"program="/bin/a \"b\"",protocol="tls",library="openssl""#;
        for line in [
            format!("tokentrail_connections_total{{{labels},outcome=\"read\",reason=\"\"}} 1"),
            format!(
                "tokentrail_connections_total{{{labels},outcome=\"unread\",reason=\"no_secret\"}} 1"
            ),
            "tokentrail_agent_total{counter=\"events.usage\"} 7".to_owned(),
            "tokentrail_sink_delivered_total{sink=\"otlp\"} 1000".to_owned(),
            "tokentrail_sink_waiting{sink=\"otlp\"} 17.0".to_owned(),
            "tokentrail_sink_last_delivered_timestamp_seconds{sink=\"otlp\"} 1790000000.5"
                .to_owned(),
            "# EOF".to_owned(),
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} is not in\n{text}"
            );
        }
        assert!(text.contains("tokentrail_connections_open{program="));
    }

    fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn served_on_loopback_only() {
        let (asker, asked) = door::questions();
        let everywhere: SocketAddr = "0.0.0.0:0".parse().unwrap();
        assert!(matches!(Metrics::bind(everywhere), Err(Error::NotLocal(_))));
        let metrics = Metrics::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = metrics.address();
        metrics.serve(asker).unwrap();
        let (answers, over) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            while over.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                if let Some(waiting) = asked.waiting() {
                    waiting.answer(&snapshot());
                }
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        });
        let answer = get(address, "/metrics");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("openmetrics-text") && answer.contains("# EOF"));
        assert!(get(address, "/other").starts_with("HTTP/1.1 404"));
        drop(answers);
        thread.join().unwrap();
    }
}
