//! `cargo xtask load`: usage events as a fleet of agents would send them, the same ones for the same seed.
//!
//! Credentials are used as unevenly as Zipf's law has it, each by few processes of few hosts; connections are kept
//! alive; services that are watched at their own hosts give an event at either end of an exchange; some credentials
//! were revoked and are refused. Times are spread over days. An event has no header of the kind that is different in
//! every request (`x-request-id`, `traceparent`): each of these costs its own random bytes to store.
//!
//! Invariant: seed and shape alone decide every byte.

mod batch;
mod events;
mod fleet;
mod random;
mod send;
mod services;
mod shape;
#[cfg(test)]
mod tests;

pub use send::Sent;
pub use shape::{DAY, Shape};

use anyhow::{Context, Result, ensure};
use batch::{Batches, Sending};
use clap::{Args, ValueEnum};
use events::Events;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

/// 2026-11-02T00:00:00Z, in seconds since the Unix epoch.
const FROM: i64 = 1_793_577_600;
/// Bytes of bodies that are made before they are sent.
const WAVE: u64 = 512 * 1024 * 1024;

/// What a load is, and where it goes.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Events
    #[arg(long, default_value_t = 100_000)]
    pub events: u64,
    /// Of these, leave out so many of the first
    #[arg(long, default_value_t = 0)]
    pub skip: u64,
    /// Of the rest, take no more
    #[arg(long)]
    pub take: Option<u64>,
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Hosts, each with an agent
    #[arg(long, default_value_t = 200)]
    pub hosts: usize,
    /// Credentials; one for 500 events unless given
    #[arg(long)]
    pub fingerprints: Option<usize>,
    /// Days over which the events are spread
    #[arg(long, default_value_t = 3)]
    pub days: u32,
    /// First moment, in seconds since the Unix epoch
    #[arg(long, value_name = "SECONDS", default_value_t = FROM)]
    pub from: i64,
    /// Form of the events
    #[arg(long, value_enum, default_value_t = Form::Ndjson)]
    pub form: Form,
    /// As OTLP: the same as `--form otlp`
    #[arg(long)]
    pub otlp: bool,
    /// As NDJSON: the same as `--form ndjson`
    #[arg(long, conflicts_with = "otlp")]
    pub ndjson: bool,
    /// Events of a request
    #[arg(long, default_value_t = 1_024)]
    pub batch: usize,
    /// Where to write; OTLP: a request's body behind its length in 4 bytes, little-endian. Standard output unless given
    #[arg(long, value_name = "FILE", conflicts_with = "send")]
    pub file: Option<PathBuf>,
    /// A collector to send OTLP to, `http://127.0.0.1:PORT`
    #[arg(long, value_name = "URL", requires = "key_file")]
    pub send: Option<String>,
    /// File with its ingest key
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Connections to it
    #[arg(long, default_value_t = 4)]
    pub connections: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// An event a line
    Ndjson,
    /// ExportLogsServiceRequest, zstd
    Otlp,
    /// A fingerprint a line, from the one that is used most
    Fingerprints,
}

impl Options {
    fn shape(&self) -> Shape {
        Shape {
            events: self.events,
            hosts: self.hosts,
            fingerprints: self
                .fingerprints
                .unwrap_or_else(|| Shape::fingerprints_of(self.events)),
            from: self.from.saturating_mul(1_000_000_000),
            span: i64::from(self.days.max(1)) * DAY,
        }
    }

    fn events(&self) -> Events {
        let mut events = Events::new(self.seed, &self.shape());
        events.only(self.skip, self.take);
        events
    }

    fn form(&self) -> Form {
        match (self.otlp || self.send.is_some(), self.ndjson) {
            (true, _) => Form::Otlp,
            (_, true) => Form::Ndjson,
            _ => self.form,
        }
    }
}

/// Writes or sends a load.
pub fn run(options: &Options) -> Result<()> {
    let shape = options.shape();
    ensure!(
        shape.hosts > 0 && shape.fingerprints > 0,
        "there must be a host and a credential"
    );
    let events = options.events();
    if let (Some(server), Some(key)) = (&options.send, &options.key_file) {
        let sent = sent(options, events, &send::Door::new(server, key)?)?;
        println!("{}", serde_json::to_string(&sent)?);
        return Ok(());
    }
    let written = match &options.file {
        Some(path) => {
            let file =
                File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
            write(options, events, BufWriter::with_capacity(1 << 20, file))
        }
        None => write(
            options,
            events,
            BufWriter::with_capacity(1 << 20, std::io::stdout().lock()),
        ),
    };
    match written {
        // Whoever reads has had enough.
        Err(error) if broken_pipe(&error) => Ok(()),
        other => other,
    }
}

fn broken_pipe(error: &anyhow::Error) -> bool {
    let kind = error
        .downcast_ref::<std::io::Error>()
        .map(std::io::Error::kind)
        .or_else(|| {
            let json = error.downcast_ref::<serde_json::Error>()?;
            json.io_error_kind()
        });
    kind == Some(std::io::ErrorKind::BrokenPipe)
}

fn write(options: &Options, mut events: Events, mut out: impl Write) -> Result<()> {
    match options.form() {
        Form::Ndjson => {
            while let Some(made) = events.next() {
                serde_json::to_writer(&mut out, made.event)?;
                out.write_all(b"\n")?;
            }
        }
        Form::Otlp => {
            bodies(options, &mut events, |sending| {
                out.write_all(&u32::try_from(sending.body.len())?.to_le_bytes())?;
                Ok(out.write_all(&sending.body)?)
            })?;
        }
        Form::Fingerprints => {
            for credential in &events.fleet().credentials {
                writeln!(out, "{}", credential.fingerprint)?;
            }
        }
    }
    Ok(out.flush()?)
}

fn bodies(
    options: &Options,
    events: &mut Events,
    mut each: impl FnMut(Sending) -> Result<()>,
) -> Result<()> {
    let mut batches = Batches::new(options.batch)?;
    while let Some(made) = events.next() {
        if let Some(sending) = batches.push(&made)? {
            each(sending)?;
        }
    }
    while let Some(sending) = batches.rest()? {
        each(sending)?;
    }
    Ok(())
}

fn sent(options: &Options, mut events: Events, door: &send::Door) -> Result<Sent> {
    let mut all = Sent::default();
    let mut wave = Vec::new();
    let mut bytes = 0;
    bodies(options, &mut events, |sending| {
        bytes += sending.body.len() as u64;
        wave.push(sending);
        if bytes >= WAVE {
            bytes = 0;
            all.add(&door.send(std::mem::take(&mut wave), options.connections)?);
        }
        Ok(())
    })?;
    all.add(&door.send(wave, options.connections)?);
    Ok(all)
}
