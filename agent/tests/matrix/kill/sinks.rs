//! The sinks of the agent that is killed, and what each of them has.

use super::shared::arrived::{of_http, of_otlp};
use super::shared::chance::Chance;
use super::shared::proxy::{Fault, Proxy};
use super::shared::server::{Request, Server};
use crate::support::agent::Options;
use crate::support::lab::Lab;
use anyhow::Result;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub struct Sinks {
    otlp: Server,
    http: Server,
    before_otlp: Proxy,
    before_http: Proxy,
    calm: Arc<AtomicBool>,
    file: PathBuf,
    /// Standard output, of all agents one after the other.
    stdout: Vec<String>,
}

/// Longer than the agent waits for an answer.
const LATE: Duration = Duration::from_millis(1_300);

fn faults(mut chance: Chance, calm: Arc<AtomicBool>) -> impl FnMut(&Request) -> Fault + Send {
    move |_| match chance.below(100) {
        _ if calm.load(Ordering::Relaxed) => Fault::None,
        0..8 => Fault::Duplicate,
        8..12 => Fault::Drop,
        12..16 => Fault::CutRequest,
        16..22 => Fault::LoseAnswer,
        22..26 => Fault::CutAnswer,
        26..28 => Fault::Delay(LATE),
        _ => Fault::None,
    }
}

impl Sinks {
    pub fn start(lab: &Lab, chance: &mut Chance) -> Result<Self> {
        let (otlp, http, calm) = (Server::start([]), Server::start([]), Arc::default());
        let mut before = |server: &Server| {
            Proxy::start(
                server.port,
                faults(Chance(chance.next()), Arc::clone(&calm)),
            )
        };
        let (before_otlp, before_http) = (before(&otlp), before(&http));
        let folder = lab.path("out");
        std::fs::create_dir(&folder)?;
        Ok(Self {
            otlp,
            http,
            before_otlp,
            before_http,
            calm,
            file: folder.join("events.ndjson"),
            stdout: Vec::new(),
        })
    }

    /// `stop` is how many seconds the sinks have at an end in good order.
    pub fn options(&self, lab: &Lab, stop: u32) -> Result<Options> {
        let mut options = Options::scope_of(lab)?;
        let path = lab.path("agent.toml");
        let remote = |name: &str, proxy: &Proxy| {
            format!(
                "[{name}]\nendpoint = \"{}\"\nconnect_seconds = 1\ntimeout_seconds = 1\nbatch_events = 50\n",
                proxy.url()
            )
        };
        let text = format!(
            "[agent]\nreport_seconds = 1\n[spool]\npath = {:?}\ngroup_ms = 20\nstop_seconds = {stop}\n[file]\npath = {:?}\n\
             [coverage]\nsocket = {:?}\n{}{}",
            lab.path("spool"),
            self.file,
            lab.path("run/agent.sock"),
            remote("otlp", &self.before_otlp),
            remote("http", &self.before_http),
        );
        std::fs::write(&path, text)?;
        options
            .args
            .extend(["--config".to_owned(), path.to_string_lossy().into_owned()]);
        Ok(options)
    }

    /// Lines of standard output; the last one of a process that was killed may be cut.
    pub fn said(&mut self, lines: Vec<String>) {
        self.stdout.extend(lines);
    }

    /// The proxies pass on everything, once.
    pub fn calm(&self) {
        self.calm.store(true, Ordering::Relaxed);
    }

    /// By name, the events of each as JSON, in the order in which they arrived.
    pub fn have(&self) -> [(&'static str, Vec<String>); 4] {
        let file = std::fs::read(&self.file).unwrap_or_default();
        let file = String::from_utf8_lossy(&file)
            .lines()
            .map(str::to_owned)
            .collect();
        [
            ("stdout", whole(self.stdout.clone())),
            ("file", whole(file)),
            ("otlp", of_otlp(&self.otlp.requests())),
            ("http", of_http(&self.http.requests())),
        ]
    }
}

/// What a kill has cut is no event: it comes again as a whole.
fn whole(lines: Vec<String>) -> Vec<String> {
    let is_event = |line: &String| serde_json::from_str::<serde::de::IgnoredAny>(line).is_ok();
    lines.into_iter().filter(is_event).collect()
}
