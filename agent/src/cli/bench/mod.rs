//! Hidden commands that `cargo xtask bench` measures with. Each prints one JSON object to standard output.
//!
//! Invariant: nothing here observes anything: the probes that it attaches are empty, its traffic is made up.

mod find;
mod probes;
mod replay;
mod spool;
mod stats;
mod varied;

use clap::{Args, Subcommand};
use std::{path::PathBuf, process::ExitCode};
use tokentrail_agent::{
    config::Compression,
    kernel::{empty::Set, features::Rung},
};

#[derive(Subcommand)]
pub enum Command {
    /// Requests per second from chunk to usage event, on one core
    Replay(ReplayArguments),
    /// Attach empty probes until SIGTERM
    Probes(ProbesArguments),
    /// Events per second through the spool to a receiver, and what one takes of the disk
    Spool(SpoolArguments),
    /// Milliseconds that the finder takes for files
    Find(FindArguments),
    /// The kernel's run time per hit of a process's probes, over some seconds
    Stats(StatsArguments),
}

#[derive(Args)]
pub struct ReplayArguments {
    /// Keep-alive connections
    #[arg(long, default_value_t = 1_000)]
    connections: usize,
    /// Different credentials
    #[arg(long, default_value_t = 500)]
    tokens: usize,
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Begin at the ring's records instead of at chunks
    #[arg(long)]
    decode: bool,
}

#[derive(Args)]
pub struct SpoolArguments {
    #[arg(long, default_value_t = 200_000)]
    events: usize,
    /// Where the spool is made, and removed
    #[arg(long, value_name = "FOLDER", default_value = "/var/tmp")]
    folder: PathBuf,
    /// A receiver of OTLP/HTTP logs; without it one in memory
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// As in the configuration's section [otlp]
    #[arg(long, value_name = "NAME", default_value = "zstd", value_parser = compression)]
    compression: Compression,
    /// Spool and send so few events at a time, as on a quiet host
    #[arg(long, value_name = "EVENTS", value_parser = clap::value_parser!(u64).range(1..=1024))]
    group: Option<u64>,
}

#[derive(Args)]
pub struct ProbesArguments {
    /// Which empty probes
    #[arg(long)]
    set: Set,
    /// As for `run`
    #[arg(long)]
    rung: Option<Rung>,
    /// Where a line goes when they are attached
    #[arg(long, value_name = "N")]
    ready_fd: Option<i32>,
}

#[derive(Args)]
pub struct StatsArguments {
    /// Process that holds the programs
    #[arg(long)]
    pid: u32,
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
}

#[derive(Args)]
pub struct FindArguments {
    #[arg(required = true)]
    files: Vec<PathBuf>,
    #[arg(long, default_value_t = 9)]
    rounds: usize,
}

pub fn run(command: &Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Replay(arguments) => replay::replay(arguments),
        Command::Probes(arguments) => probes::probes(arguments),
        Command::Spool(arguments) => spool::spool(arguments),
        Command::Find(arguments) => find::find(arguments),
        Command::Stats(arguments) => stats::stats(arguments),
    }
}

/// By its name in the configuration.
fn compression(name: &str) -> Result<Compression, serde_json::Error> {
    serde_json::from_value(name.into())
}

fn print(value: &serde_json::Value) -> anyhow::Result<ExitCode> {
    super::print(&format!("{value}\n"))
}
