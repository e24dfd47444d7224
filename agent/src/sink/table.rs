//! Events as a table for people.
//!
//! Rows are kept until [`Sink::flush`], or up to [`ROWS`] of them, and measured together; columns only grow, and
//! never beyond the terminal. The header is repeated when the columns changed, or after a screen of rows. What is
//! not a usage event is a line of its own.
//!
//! Invariant: nothing that comes from traffic reaches the terminal as a control character.

use super::layout::{COLUMNS, COUNT, GAP, layout};
use super::outbox::{Outbox, Target};
use super::width::{clean, fit, width};
use super::{Error, Losses, Sink};
use agent_common::event::{
    Body, Coverage, Direction, Envelope, Network, Outcome, Principal, SocketEvidence, Time, Usage,
};
use std::io::{IsTerminal, Write};

/// Rows measured together.
const ROWS: usize = 64;
/// Rows after which the header is repeated.
const HEADER_EVERY: usize = 40;
/// Where nothing says how wide the output is.
const DEFAULT_WIDTH: usize = 200;
/// Of the shown digits of a container's id.
const SHORT_ID: usize = 12;

/// How the output looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Columns of the output; `None` asks the terminal, again and again.
    pub width: Option<usize>,
    pub colour: bool,
}

impl Style {
    /// As standard output is: a terminal, which may have colour, or not.
    #[must_use]
    pub fn stdout() -> Self {
        let terminal = std::io::stdout().is_terminal();
        let wished = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            width: if terminal { None } else { Some(DEFAULT_WIDTH) },
            colour: terminal && wished,
        }
    }

    fn columns(self) -> usize {
        let measured = || {
            let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
            (size.ws_col > 0).then_some(usize::from(size.ws_col))
        };
        self.width.or_else(measured).unwrap_or(DEFAULT_WIDTH)
    }
}

enum Line {
    Row(Box<[String; COUNT]>),
    Note(String),
}

/// Events as a table.
pub struct Table<T> {
    outbox: Outbox<T>,
    style: Style,
    waiting: Vec<(Time, Line)>,
    /// The widest text of each column so far.
    wanted: [usize; COUNT],
    widths: [usize; COUNT],
    since_header: usize,
}

impl<T: Target> Table<T> {
    /// Onto `target`; keeps up to `retry_bytes` while it fails.
    pub fn new(target: T, style: Style, retry_bytes: usize) -> Self {
        Self {
            outbox: Outbox::new(target, retry_bytes),
            style,
            waiting: Vec::new(),
            wanted: std::array::from_fn(|index| width(COLUMNS[index].title)),
            widths: [0; COUNT],
            since_header: 0,
        }
    }

    fn lay_out(&mut self) -> Result<(), Error> {
        for (_, line) in &self.waiting {
            if let Line::Row(row) = line {
                for (wanted, text) in self.wanted.iter_mut().zip(row.iter()) {
                    *wanted = (*wanted).max(width(text));
                }
            }
        }
        let columns = self.style.columns();
        let widths = layout(&self.wanted, columns);
        for (time, line) in std::mem::take(&mut self.waiting) {
            let text = match line {
                Line::Note(note) => fit(&note, columns).trim_end().to_owned(),
                Line::Row(row) => {
                    if widths != self.widths || self.since_header >= HEADER_EVERY {
                        self.widths = widths;
                        self.since_header = 0;
                        let header = self.header();
                        self.outbox.push_extra(header.as_bytes());
                    }
                    self.since_header += 1;
                    join(&widths, |index| match row[index].as_str() {
                        // Rather whole seconds than a cut fraction.
                        time if index == 0 && widths[0] < time.len() => {
                            time.get(..8).unwrap_or(time)
                        }
                        text => text,
                    })
                }
            };
            self.outbox
                .push(time, |buffer| writeln!(buffer, "{text}"))?;
        }
        Ok(())
    }

    fn header(&self) -> String {
        let titles = join(&self.widths, |index| COLUMNS[index].title);
        if self.style.colour {
            format!("\x1b[1m{titles}\x1b[0m\n")
        } else {
            format!("{titles}\n")
        }
    }
}

fn join<'a>(widths: &[usize; COUNT], text: impl Fn(usize) -> &'a str) -> String {
    let cells: Vec<_> = widths
        .iter()
        .enumerate()
        .filter(|(_, width)| **width > 0)
        .map(|(index, width)| fit(text(index), *width))
        .collect();
    cells.join(&" ".repeat(GAP)).trim_end().to_owned()
}

impl<T: Target> Sink for Table<T> {
    fn name(&self) -> &str {
        self.outbox.target.name()
    }

    fn write(&mut self, event: &Envelope) -> Result<(), Error> {
        let line = match &event.body {
            Body::Usage(usage) => {
                Line::Row(Box::new(row(event.time, usage).map(|text| clean(&text))))
            }
            other => Line::Note(clean(&format!("{}  {}", clock(event.time), note(other)))),
        };
        self.waiting.push((event.time, line));
        if self.waiting.len() >= ROWS {
            self.lay_out()
        } else {
            Ok(())
        }
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.lay_out()?;
        self.outbox.flush()
    }

    fn losses(&mut self) -> Option<Losses> {
        self.outbox.losses()
    }

    fn close(&mut self) -> Result<Option<Losses>, Error> {
        self.lay_out()?;
        self.outbox.close()
    }
}

/// In the order of [`COLUMNS`].
fn row(time: Time, usage: &Usage) -> [String; COUNT] {
    let token = &usage.token;
    let fingerprint = token
        .fingerprints
        .first()
        .map_or("unresolved", |fingerprint| fingerprint.short());
    let server = &usage.server;
    // The usual port goes without saying.
    let usual = if usage.url.scheme == "https" { 443 } else { 80 };
    let host = match server.port {
        Some(port) if port != usual => format!("{}:{port}", server.address),
        _ => server.address.clone(),
    };
    let path = match &usage.url.query {
        Some(query) => format!("{}?{query}", usage.url.path),
        None => usage.url.path.clone(),
    };
    let grpc = usage.rpc.as_ref().and_then(|rpc| rpc.grpc.as_ref());
    let status = match (&usage.http.response, grpc, usage.exchange.outcome) {
        (Some(response), Some(grpc), _) => {
            format!("{} grpc {}", response.status_code, grpc.status_code)
        }
        (Some(response), None, _) => response.status_code.to_string(),
        (None, _, outcome) => outcome_name(outcome).to_owned(),
    };
    [
        clock(time),
        fingerprint.to_owned(),
        token.provider.clone().unwrap_or_else(|| "-".into()),
        token.scheme.clone(),
        process(&usage.principal),
        user(&usage.principal),
        unit(&usage.principal),
        match usage.direction {
            Direction::Client => "client".into(),
            Direction::Server => "server".into(),
        },
        peer(&usage.network),
        host,
        usage.http.request.method.clone(),
        path,
        status,
        evidence_name(usage.evidence.socket).into(),
    ]
}

/// `hh:mm:ss.mmm`.
fn clock(time: Time) -> String {
    let text = time.to_string();
    text.get(11..23).unwrap_or(&text).to_owned()
}

fn process(principal: &Principal) -> String {
    let path = principal.process.executable.path.as_deref().unwrap_or("?");
    let name = path.rsplit('/').next().unwrap_or(path);
    format!("{name}[{}]", principal.process.pid)
}

fn user(principal: &Principal) -> String {
    let user = &principal.process.real_user;
    user.name.clone().unwrap_or_else(|| user.id.to_string())
}

fn unit(principal: &Principal) -> String {
    if let Some(container) = &principal.container {
        let engine = container
            .runtime
            .as_ref()
            .map_or("container", |runtime| &runtime.name);
        let id = container.id.get(..SHORT_ID).unwrap_or(&container.id);
        return format!("{engine}:{id}");
    }
    let systemd = principal.systemd.as_ref();
    let unit = systemd.and_then(|systemd| systemd.user_unit.as_ref().or(systemd.unit.as_ref()));
    unit.or(principal.process.linux.cgroup.as_ref())
        .cloned()
        .unwrap_or_else(|| "-".into())
}

fn peer(network: &Network) -> String {
    match &network.peer {
        None => "-".into(),
        Some(peer) => match peer.port {
            Some(port) if peer.address.contains(':') => format!("[{}]:{port}", peer.address),
            Some(port) => format!("{}:{port}", peer.address),
            None => peer.address.clone(),
        },
    }
}

fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Answered => "answered",
        Outcome::Closed => "closed",
        Outcome::ResponseLost => "lost",
        Outcome::Unfinished => "none",
    }
}

fn evidence_name(evidence: SocketEvidence) -> &'static str {
    match evidence {
        SocketEvidence::Socket => "socket",
        SocketEvidence::Record => "record",
        SocketEvidence::Nested => "nested",
        SocketEvidence::SetFd => "set_fd",
        SocketEvidence::Prefix => "prefix",
        SocketEvidence::Thread => "thread",
        SocketEvidence::None => "none",
    }
}

/// What is not a usage event, in one line.
fn note(body: &Body) -> String {
    match body {
        Body::Usage(_) => String::new(),
        Body::Loss(loss) => {
            let loss = &loss.loss;
            let kind = if loss.intentional { "left out" } else { "lost" };
            let probe = loss.probe.as_deref().unwrap_or("-");
            let count = loss
                .count
                .map_or_else(|| "unknown number of".into(), |count| count.to_string());
            format!(
                "{kind}: {count} {} at {} ({probe}): {}",
                name(&loss.unit),
                name(&loss.stage),
                name(&loss.reason)
            )
        }
        Body::Coverage(coverage) => unread(coverage),
        Body::Audit(audit) => {
            let audit = &audit.audit;
            let mut text = name(&audit.action).replace('_', " ");
            if !audit.scope.is_empty() {
                text.push_str(&format!(", scope {}", audit.scope.join(", ")));
            }
            if let Some(detail) = &audit.detail {
                text.push_str(&format!(": {detail}"));
            }
            text
        }
    }
}

fn unread(event: &Coverage) -> String {
    let coverage = &event.coverage;
    let counts = &coverage.connections;
    let mut text = match (&event.principal, &event.network) {
        (Some(principal), Some(network)) => {
            let name = event
                .tls
                .as_ref()
                .and_then(|tls| tls.client.as_ref())
                .map(|client| client.server_name.as_str());
            let name = name.map_or_else(String::new, |name| format!(" ({name})"));
            format!(
                "not read: {} with {}{name}",
                process(principal),
                peer(network)
            )
        }
        (Some(principal), None) => format!(
            "{} of {} connections of {} not read",
            counts.unread,
            counts.seen,
            process(principal)
        ),
        _ => format!("{} of {} connections not read", counts.unread, counts.seen),
    };
    if let Some(reason) = &coverage.reason {
        text.push_str(&format!(": {}", name(reason)));
    }
    let more = [&coverage.detail, &coverage.library, &coverage.protocol]
        .into_iter()
        .flatten();
    for more in more {
        text.push_str(&format!(", {more}"));
    }
    text
}

/// The name that a closed set's member has in JSON.
fn name(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        _ => "?".into(),
    }
}
