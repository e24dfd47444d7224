//! `cargo xtask bench collector`: what the collector takes in, what an event costs to keep, and how long questions
//! take, beside DuckDB and ClickHouse's engine on the same events in the same run.
//!
//! 1. *Acknowledged*: a generated load over OTLP, several connections; nothing is sealed meanwhile, so that the CPU
//!    time is that of taking events in: bytes of OTLP to 2xx after fsync.
//! 2. *Kept*: all of the load into another folder, sealed as it comes, over OTLP again, or (from `STORE_FROM` events on)
//!    by `tokentrail fill`, which is the same way without HTTP; then merged.
//! 3. *Asked*: the server's API over HTTP, each question again and again.
//! 4. *Beside*: DuckDB's and chDB's own tables, made of the collector's Parquet files, asked the same in one process
//!    without HTTP; and their answers compared with the collector's.
//!
//! At 100 million events 2 takes more than an hour, so it is done in slices, and a run in the folder of an earlier one
//! (`--folder`) goes on where that one was, or asks at once if it was done.
//!
//! Invariant: a timing never fails the command; answers that differ do.
//! Invariant: everything is on loopback and in a folder of the run's own.

mod engines;
mod questions;
mod report;
mod server;

use crate::build::{self, Profile};
use crate::load::{DAY, Sent};
use crate::process;
use crate::setup::{self, Needs};
use crate::workspace::Workspace;
use crate::{interrupt, say};
use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use questions::Questions;
use report::Report;
use serde::{Deserialize, Serialize};
use server::{Server, Usage};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Events that are filled at once: what is lost when a run is interrupted. Those before are made again for each.
const SLICE: u64 = 25_000_000;
/// Events that are sent while nothing is sealed: they are held in memory.
const ACKNOWLEDGED: u64 = 500_000;
/// From so many events on they are not sent over HTTP, unless that is asked for.
const STORE_FROM: u64 = 4_000_000;

#[derive(Args, Clone)]
pub struct Options {
    /// Events to keep and to ask for; 10000000 and 100000000 are the sizes of the goals
    #[arg(long, default_value_t = 1_000_000)]
    events: u64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Days over which they are spread
    #[arg(long, default_value_t = 3)]
    days: u32,
    /// Events of a request
    #[arg(long, default_value_t = 1_024)]
    batch: usize,
    /// Connections that send
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// How they get there; by default over OTLP as far as that is quick
    #[arg(long, value_enum)]
    fill: Option<Fill>,
    /// Times that each question is asked
    #[arg(long, default_value_t = 200)]
    repeat: usize,
    /// Without DuckDB and chDB
    #[arg(long)]
    alone: bool,
    /// Use this collector, with an `xtask` beside it, instead of building both
    #[arg(long, value_name = "FILE")]
    collector: Option<PathBuf>,
    /// Keep the data folder
    #[arg(long)]
    keep: bool,
    /// Fill a folder and keep it, and ask nothing yet
    #[arg(long)]
    fill_only: bool,
    /// Go on in the folder of an earlier run, which is kept
    #[arg(long, conflicts_with_all = ["events", "seed", "days", "fill"])]
    folder: Option<PathBuf>,
}

/// What a folder holds.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Kept {
    load: Load,
    filled: Filled,
}

/// The load of a run.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
struct Load {
    events: u64,
    seed: u64,
    days: u32,
    /// First moment, in seconds since the Unix epoch.
    from: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Fill {
    /// Over HTTP
    Otlp,
    /// By the collector's own way from the inbox on, without HTTP
    Store,
}

/// What `tokentrail fill` says.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Filled {
    /// Events of the load that it was given, all that this knows of.
    #[serde(default)]
    offered: u64,
    /// Those of them that were new.
    appended: u64,
    fill_seconds: f64,
    merge_seconds: f64,
    segments: u64,
    /// Those of the collector about itself included.
    events: u64,
    bytes: u64,
}

struct Bench<'a> {
    workspace: &'a Workspace,
    options: &'a Options,
    collector: PathBuf,
    loader: PathBuf,
    folder: PathBuf,
    load: Load,
}

/// What a kept folder says of itself.
const KEPT: &str = "kept.json";

pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    say::heading("setup");
    setup::require(
        workspace,
        Needs {
            engines: !options.alone,
            ..Needs::default()
        },
    )?;
    let (collector, loader) = programs(workspace, options)?;
    let bench = match &options.folder {
        Some(folder) => {
            let folder = fs::canonicalize(folder)
                .with_context(|| format!("cannot find {}", folder.display()))?;
            let kept = Kept::read(&folder)?;
            Bench {
                workspace,
                options,
                collector,
                loader,
                folder,
                load: kept.load,
            }
        }
        None => Bench::fresh(workspace, options, collector, loader)?,
    };
    let report = bench.measure()?;
    if options.fill_only {
        println!("{}", serde_json::to_string_pretty(&report.json())?);
        println!(
            "\nask it: cargo xtask bench collector --folder {}",
            bench.folder.display()
        );
        return Ok(());
    }
    println!("{}", report.table());
    println!("\nall numbers: {}", bench.numbers().display());
    if !options.keep && options.folder.is_none() {
        for data in ["acknowledged", "data", "engines"] {
            // What is not there is gone already.
            let _ = fs::remove_dir_all(bench.folder.join(data));
        }
    }
    let differ = report.differences();
    ensure!(differ.is_empty(), "answers differ: {}", differ.join("; "));
    Ok(())
}

/// The collector as `cargo xtask dist` builds it, and this program built with optimisation, which makes the load.
fn programs(workspace: &Workspace, options: &Options) -> Result<(PathBuf, PathBuf)> {
    if let Some(collector) = &options.collector {
        let collector = fs::canonicalize(collector)
            .with_context(|| format!("cannot find {}", collector.display()))?;
        let loader = collector.with_file_name("xtask");
        ensure!(loader.exists(), "there is no {}", loader.display());
        return Ok((collector, loader));
    }
    say::heading("build");
    let profile = Profile {
        release: true,
        ..Profile::DEV
    };
    Ok((
        build::collector(workspace, profile)?,
        build::itself(workspace, profile)?,
    ))
}

impl Kept {
    fn read(folder: &Path) -> Result<Self> {
        let file = folder.join(KEPT);
        let text = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("cannot read {}", file.display()))
    }

    fn write(&self, folder: &Path) -> Result<()> {
        let file = folder.join(KEPT);
        fs::write(&file, serde_json::to_string_pretty(self)?)
            .with_context(|| format!("cannot write {}", file.display()))
    }
}

impl<'a> Bench<'a> {
    /// In a folder of its own.
    fn fresh(
        workspace: &'a Workspace,
        options: &'a Options,
        collector: PathBuf,
        loader: PathBuf,
    ) -> Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let day = DAY / 1_000_000_000;
        let folder = workspace.target.join("bench").join(now.to_string());
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self {
            workspace,
            options,
            collector,
            loader,
            folder,
            load: Load {
                events: options.events,
                seed: options.seed,
                days: options.days,
                // All of it has passed, so that it is merged as far as it will ever be.
                from: (i64::try_from(now)? / day - i64::from(options.days) - 2) * day,
            },
        })
    }

    fn measure(&self) -> Result<Report> {
        say::heading("bench collector");
        let mut report = Report::new(self.load.events);
        let data = self.folder.join("data");
        if self.options.folder.is_some() {
            report.filled = Kept::read(&self.folder)?.filled;
        } else {
            self.acknowledged(&mut report)?;
        }
        let through_http = match self.options.fill {
            Some(fill) => fill == Fill::Otlp,
            None => self.load.events < STORE_FROM,
        };
        if !through_http {
            self.fill(&data, &mut report)?;
        } else if self.options.folder.is_none() {
            self.sent(&data, &mut report)?;
            report.filled = self.settle(&data, Stdio::null())?;
            self.keep(&report)?;
        }
        interrupt::check()?;
        if !self.options.fill_only {
            self.asked(&data, &mut report)?;
        }
        Ok(report)
    }

    fn keep(&self, report: &Report) -> Result<()> {
        let kept = Kept {
            load: self.load,
            filled: report.filled.clone(),
        };
        kept.write(&self.folder)
    }

    /// Slice by slice, each merged.
    fn fill(&self, data: &Path, report: &mut Report) -> Result<()> {
        while report.filled.offered < self.load.events {
            interrupt::check()?;
            let before = report.filled.clone();
            let step = say::Step::start(format!(
                "events from {} of {} on into the store",
                before.offered, self.load.events
            ));
            let mut load = Command::new(&self.loader);
            load.args(["load", "--ndjson"]).args(self.load_words());
            load.args([
                format!("--skip={}", before.offered),
                format!("--take={SLICE}"),
            ]);
            let mut child = load
                .stdout(Stdio::piped())
                .spawn()
                .with_context(|| format!("cannot start {}", process::display(&load)))?;
            let events = child.stdout.take().context("a pipe was asked for")?;
            let filled = self.settle(data, events.into());
            let made = child.wait().context("cannot wait for the load")?;
            let filled = filled?;
            ensure!(made.success(), "making the load failed ({made})");
            report.filled = Filled {
                offered: (before.offered + SLICE).min(self.load.events),
                appended: before.appended + filled.appended,
                fill_seconds: before.fill_seconds + filled.fill_seconds,
                merge_seconds: before.merge_seconds + filled.merge_seconds,
                ..filled
            };
            self.keep(report)?;
            step.done(say::Mark::Done);
        }
        Ok(())
    }

    fn load_words(&self) -> Vec<String> {
        let load = self.load;
        vec![
            format!("--events={}", load.events),
            format!("--seed={}", load.seed),
            format!("--days={}", load.days),
            format!("--from={}", load.from),
            format!("--batch={}", self.options.batch),
        ]
    }

    /// Sends so many events of the load.
    fn send(&self, server: &Server, events: u64) -> Result<Sent> {
        let mut command = Command::new(&self.loader);
        command.arg("load").args(self.load_words());
        let (options, load) = (self.options, self.load);
        if events != load.events {
            // The same credentials, at the same pace.
            let fingerprints = crate::load::Shape::fingerprints_of(load.events);
            let days = (u64::from(load.days) * events).div_ceil(load.events.max(1));
            command = Command::new(&self.loader);
            command.args(["load", &format!("--events={events}")]);
            command.args([
                format!("--seed={}", load.seed),
                format!("--days={days}"),
                format!("--from={}", load.from),
                format!("--batch={}", options.batch),
                format!("--fingerprints={fingerprints}"),
            ]);
        }
        command.args(["--send", &server.url(), "--key-file"]);
        command.arg(&server.ingest_key);
        command.args(["--connections", &options.connections.to_string()]);
        let said = process::output(&mut command)?;
        serde_json::from_str(&said).with_context(|| format!("the load said {said}"))
    }

    fn acknowledged(&self, report: &mut Report) -> Result<()> {
        let events = self.load.events.min(ACKNOWLEDGED);
        let step = say::Step::start(format!("{events} events to acknowledged"));
        let data = self.folder.join("acknowledged");
        let server = Server::start(&self.collector, &data, Some("3600"))?;
        let before = server.usage()?;
        let sent = self.send(&server, events)?;
        let after = server.usage()?;
        ensure!(sent.events == events, "{} were sent", sent.events);
        report.acknowledged = Some((sent, after.since(&before)));
        server.stop()?;
        fs::remove_dir_all(&data).context("cannot remove the first folder")?;
        step.done(say::Mark::Done);
        Ok(())
    }

    /// All of it over OTLP, until it is sealed.
    fn sent(&self, data: &Path, report: &mut Report) -> Result<()> {
        let step = say::Step::start(format!("{} events over OTLP", self.load.events));
        let server = Server::start(&self.collector, data, None)?;
        let before = server.usage()?;
        let sent = self.send(&server, self.load.events)?;
        server.sealed(Duration::from_secs(600))?;
        let used: Usage = server.usage()?.since(&before);
        report.kept = Some((sent, used));
        server.stop()?;
        step.done(say::Mark::Done);
        Ok(())
    }

    /// What is given, and what waits, is sealed and merged.
    fn settle(&self, data: &Path, events: Stdio) -> Result<Filled> {
        let output = Command::new(&self.collector)
            .args(["fill", "--data"])
            .arg(data)
            .stdin(events)
            .output()
            .context("cannot start the collector")?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success(),
            "tokentrail fill failed ({}): {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_str(&said).with_context(|| format!("tokentrail fill said {said}"))
    }

    fn numbers(&self) -> PathBuf {
        self.folder.join("collector.json")
    }

    /// All numbers so far: an engine may take long.
    fn write(&self, report: &Report) -> Result<()> {
        let file = self.numbers();
        fs::write(&file, serde_json::to_string_pretty(&report.json())?)
            .with_context(|| format!("cannot write {}", file.display()))
    }

    fn asked(&self, data: &Path, report: &mut Report) -> Result<()> {
        let mut words = vec![
            "load".to_owned(),
            "--form".to_owned(),
            "fingerprints".to_owned(),
        ];
        words.extend(self.load_words());
        let ranks = process::output(Command::new(&self.loader).args(words))?;
        let ranks: Vec<&str> = ranks.lines().collect();
        let questions = Questions::new(&ranks, self.load.from, self.load.days, self.options.repeat);
        let server = Server::start(&self.collector, data, None)?;
        let mut step = say::Step::start("questions");
        let asked = questions.ask(&server, |name| step.tick(name))?;
        report.question_memory = server.usage()?.peak_memory;
        step.done(say::Mark::Done);
        server.stop()?;
        report.answers.push(("tokentrail".to_owned(), asked));
        self.write(report)?;
        if self.options.alone {
            return Ok(());
        }
        for engine in engines::Engine::ALL {
            interrupt::check()?;
            let step = say::Step::start(engine.name());
            let (load, asked) = engine.ask(
                self.workspace,
                self.load.events,
                &data.join("store"),
                &self.folder.join("engines"),
                &questions,
            )?;
            report.engines.push((engine.name(), load));
            report.answers.push((engine.name().to_owned(), asked));
            self.write(report)?;
            step.done(say::Mark::Done);
        }
        Ok(())
    }
}
