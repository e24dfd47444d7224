//! What a person types.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage, or a configuration that cannot be used (the unit is not started again
//! for that). A reader of standard output that goes away ends the program with 0.

mod access;
mod ask;
mod client;
mod documents;
mod fill;
mod quarantine;
mod serve;
mod table;
#[cfg(test)]
mod tests;
mod trail;

use crate::config::{self, Config};
use clap::{Parser, Subcommand};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

/// The audit trail of API tokens: receives the agents' events, keeps them for months, and finds a leaked token's
/// trail. No token is ever kept: only its fingerprint.
#[derive(Parser)]
#[command(name = "tokentrail", version, max_term_width = 100)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Receive, keep and answer; one folder, no other service
    Serve(serve::ServeArguments),
    /// A leaked credential's story: who used it, where, when, against what
    ///
    /// Without a fingerprint the credential is read from standard input; only its fingerprints leave this machine.
    Trail(trail::TrailArguments),
    /// Find events
    Search(ask::SearchArguments),
    /// Count events
    Stats(ask::StatsArguments),
    /// Follow events as they come
    Tail(ask::TailArguments),
    /// Keys of the collector, and the admin's password
    Access(access::AccessArguments),
    /// What was acknowledged and is no event, with its reason
    Quarantine(quarantine::QuarantineArguments),
    /// Events of standard input (NDJSON) into a data folder, with no collector running: for measuring
    #[command(hide = true)]
    Fill(fill::FillArguments),
    /// Show or check the collector's configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Write man pages and completions into a folder
    #[command(hide = true)]
    Documents(documents::DocumentsArguments),
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Print every key with its documentation and value
    Show {
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Name line and column of what is wrong in a file
    Check { file: PathBuf },
    /// Print every key with its documentation and default, none of them set
    Example,
}

impl Arguments {
    /// # Errors
    /// What failed, for people.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Serve(arguments) => serve::run(arguments),
            Command::Fill(arguments) => fill::run(arguments),
            Command::Trail(arguments) => {
                let (mut input, mut out) = (std::io::stdin().lock(), std::io::stdout().lock());
                trail::trail(&arguments, &mut input, &mut out)
            }
            Command::Search(arguments) => ask::search(&arguments, &mut std::io::stdout().lock()),
            Command::Stats(arguments) => ask::stats(&arguments, &mut std::io::stdout().lock()),
            Command::Tail(arguments) => ask::tail(&arguments, &mut std::io::stdout().lock()),
            Command::Access(arguments) => access::run(&arguments),
            Command::Quarantine(arguments) => quarantine::run(&arguments),
            Command::Config(ConfigCommand::Show { config }) => {
                let config: Config = config::load_or_default(config.as_deref())?;
                print(&config.show())
            }
            Command::Config(ConfigCommand::Check { file }) => {
                let _: Config = config::load(&file)?;
                print(&format!("{}: good\n", file.display()))
            }
            Command::Config(ConfigCommand::Example) => print(&Config::example()),
            Command::Documents(arguments) => documents::documents(&arguments),
        }
    }
}

/// Whether only a person can mend it.
#[must_use]
pub fn is_misuse(error: &anyhow::Error) -> bool {
    error.is::<config::Error>()
        || error
            .downcast_ref::<crate::serve::Error>()
            .is_some_and(crate::serve::Error::is_misuse)
}

/// A reader that has gone away has read enough.
fn print(text: &str) -> anyhow::Result<ExitCode> {
    let mut stdout = std::io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}
