//! What a person types: arguments parsed low, made whole in each command's file.
//!
//! Exit codes: 0 done, 1 failed or a check did not hold, 2 wrong usage, or a configuration or key that cannot be used
//! (the unit is not started again for that). A reader of
//! standard output that goes away ends the program with 0.

mod bench;
mod config;
mod coverage;
mod doctor;
mod keys;
mod outputs;
mod quarantine;
mod receivers;
mod replay;
mod run;
mod start;
mod watchdog;

pub use start::is_misuse;

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::{path::PathBuf, process::ExitCode};
use tokentrail_agent::kernel::{features::Rung, scope::Scope};

/// An audit trail of API tokens for this host: which process used which token, against what, and what came of it.
/// No token is ever kept: only its fingerprint.
#[derive(Parser)]
#[command(name = "tokentrail-agent", version, max_term_width = 100)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Observe, and write events to standard output
    Run(Box<RunArguments>),
    /// Say what this kernel allows, and what that means for what will be seen
    Doctor(DoctorArguments),
    /// Show what a running agent reads and what it does not, by program, protocol and TLS library
    Coverage(CoverageArguments),
    /// Show what receivers refused for good: batches that the spool has put aside, with the receiver's reason
    ///
    /// It reads the spool beside a running agent, or without one, and changes nothing.
    Quarantine(QuarantineArguments),
    /// Print the fingerprint of a secret read from standard input, under every key
    Fingerprint(FingerprintArguments),
    /// Make the file with the fingerprint key, or add a key to it
    Keygen(KeygenArguments),
    /// Run a file of synthetic traffic through the pipeline, and print its events as NDJSON
    ///
    /// Nothing is observed and no privilege is needed. The file is text, one JSON object in a line; its form is
    /// documented in `agent/src/replay/mod.rs`, with an example in `agent/tests/replay`. It ends at the first line that
    /// is not understood, with its number. There is no way to record such a file: what the agent observes has no form
    /// in which it could be written.
    Replay(ReplayArguments),
    /// Show or check the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// The process that `run` starts to parse and deliver
    #[command(hide = true)]
    Worker,
    /// The process that `run` starts to hold uprobes
    #[command(hide = true)]
    Keeper,
    /// The processes that `run` starts to search files
    #[command(hide = true)]
    Finder(FinderArguments),
    /// Tries what a locked down worker must not be able to do
    #[command(hide = true)]
    Attempt(AttemptArguments),
    /// What `cargo xtask bench` measures with
    #[command(subcommand, hide = true)]
    Bench(bench::Command),
}

#[derive(Args)]
struct RunArguments {
    /// What may be observed; repeat it for several. Without a scope there is no start
    #[arg(
        long,
        value_name = "cgroup:PATH|unit:NAME|pid:N[,N...]|container:ID|host"
    )]
    scope: Vec<Scope>,
    /// Key file made by `keygen`; without it a key is made for this run alone
    #[arg(long, value_name = "FILE")]
    fingerprint_key: Option<PathBuf>,
    /// Configuration file (see `config show`)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Form of the events on standard output
    #[arg(long, value_name = "FORM")]
    output: Option<Output>,
    /// Also write the events to this file, as NDJSON
    #[arg(long, value_name = "FILE")]
    output_file: Option<PathBuf>,
    /// File descriptor to which a line is written when the agent is ready
    #[arg(long, value_name = "N")]
    ready_fd: Option<i32>,
    /// Force a socket rung (fentry or tracepoints) instead of the best that works
    #[arg(long, value_name = "RUNG")]
    rung: Option<Rung>,
    /// Use OpenSSL's exported key derivation instead of its key-log point: for trying the fallback
    #[arg(long, hide = true)]
    only_fallback: bool,
}

#[derive(Args)]
struct CoverageArguments {
    /// The agent's socket; without it the only one in /run/tokentrail that answers
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// As JSON, with the agent's counters
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct QuarantineArguments {
    /// The agent's configuration file, which names the spool
    #[arg(
        long,
        value_name = "FILE",
        global = true,
        default_value = "/etc/tokentrail/agent.toml"
    )]
    config: PathBuf,
    /// As JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Option<QuarantineCommand>,
}

#[derive(Subcommand)]
enum QuarantineCommand {
    /// One line per batch: when, which output, which events, why (this is done if nothing else is asked for)
    List,
    /// One batch with its events, one JSON object per line
    Show {
        /// Its number in the list
        id: i64,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    /// For people
    Table,
    /// One JSON object per line
    Ndjson,
    None,
}

#[derive(Args)]
struct DoctorArguments {
    /// Say what is found in this program and the libraries that it is linked with
    #[arg(long, value_name = "PATH")]
    program: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct FingerprintArguments {
    /// Key file made by `keygen`
    #[arg(long, value_name = "FILE")]
    fingerprint_key: PathBuf,
}

#[derive(Args)]
struct ReplayArguments {
    /// The file
    file: PathBuf,
    /// Key file made by `keygen`; without it a key is made for this run alone
    #[arg(long, value_name = "FILE")]
    fingerprint_key: Option<PathBuf>,
    /// Configuration file: its limits and which credentials are looked for
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Args)]
struct KeygenArguments {
    /// The file: made with mode 0600, refused if others may read it
    file: PathBuf,
    /// Add a new key to the file; the old ones stay valid for the overlap
    #[arg(long)]
    rotate: bool,
    /// Days that the old keys stay valid
    #[arg(long, value_name = "DAYS", default_value_t = 30, requires = "rotate")]
    overlap: u32,
}

#[derive(Args)]
struct AttemptArguments {
    what: String,
    /// As this process of the finder instead of as a worker
    #[arg(long)]
    finder: Option<FinderProcess>,
    #[arg(long)]
    user: Option<u32>,
    #[arg(long)]
    write: Vec<PathBuf>,
    #[arg(long)]
    connect: Vec<u16>,
}

#[derive(Args)]
struct FinderArguments {
    /// Become this user
    #[arg(long, requires = "group")]
    user: Option<u32>,
    #[arg(long, requires = "user")]
    group: Option<u32>,
}

#[derive(Clone, Copy, ValueEnum)]
enum FinderProcess {
    Supervisor,
    Searcher,
    /// Its files alone, without a filter of system calls
    Landlock,
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Print every key with its documentation and its value
    Show {
        /// Configuration file; without it the defaults are shown
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Check a file
    Check {
        file: PathBuf,
        /// Also that `run` can start with it here: a scope, the keys, the user, what the outputs need
        #[arg(long)]
        scope: bool,
    },
}

impl Arguments {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Run(arguments) => run::run(*arguments),
            Command::Worker => run::worker::worker(),
            Command::Keeper => Ok(tokentrail_agent::kernel::keeper::run()),
            Command::Finder(arguments) => run::finder::finder(&arguments),
            Command::Attempt(arguments) => run::attempt::attempt(arguments),
            Command::Doctor(arguments) => doctor::doctor(&arguments),
            Command::Coverage(arguments) => coverage::coverage(&arguments),
            Command::Quarantine(arguments) => quarantine::quarantine(&arguments),
            Command::Fingerprint(arguments) => keys::fingerprint(&arguments),
            Command::Keygen(arguments) => keys::keygen(&arguments),
            Command::Replay(arguments) => replay::replay(&arguments),
            Command::Bench(command) => bench::run(&command),
            Command::Config(ConfigCommand::Show { config }) => config::show(config.as_deref()),
            Command::Config(ConfigCommand::Check { file, scope }) => config::check(&file, scope),
        }
    }
}

/// Prints to standard output; a reader that has gone is no error.
fn print(text: &str) -> anyhow::Result<ExitCode> {
    use std::io::Write as _;
    let mut stdout = std::io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}
