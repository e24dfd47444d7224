//! `serve`, until SIGTERM or SIGINT.

use crate::config::{self, Config};
use crate::serve::{self, Started};
use anyhow::Context as _;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

#[derive(clap::Args)]
pub struct ServeArguments {
    /// Configuration file (see `config show`)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of everything; replaces `data` in [server]
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// Address to listen at; replaces `listen` in [server]. Port 0 takes any free one
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<std::net::SocketAddr>,
}

pub fn run(arguments: ServeArguments) -> anyhow::Result<ExitCode> {
    let mut config: Config = arguments
        .config
        .as_deref()
        .map(config::load)
        .transpose()?
        .unwrap_or_default();
    config.server.data = arguments.data.unwrap_or(config.server.data);
    config.server.listen = arguments.listen.unwrap_or(config.server.listen);
    let filter = EnvFilter::try_from_env("TOKENTRAIL_LOG")
        .or_else(|_| EnvFilter::try_new(&config.server.log))
        .context("log in [server]")?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let mut term = signal(SignalKind::terminate()).context("SIGTERM")?;
        let mut int = signal(SignalKind::interrupt()).context("SIGINT")?;
        let stop = async move {
            tokio::select! {
                _ = term.recv() => "SIGTERM".to_owned(),
                _ = int.recv() => "SIGINT".to_owned(),
            }
        };
        serve::serve(&config, ready, stop).await?;
        anyhow::Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

fn ready(started: Started) {
    let scheme = if started.tls { "https" } else { "http" };
    eprintln!("tokentrail ready: {scheme}://{}", started.address);
    if let Some(key) = &started.first_key {
        eprintln!(
            "tokentrail: first start. This key makes the first admin, once, and is not shown again:\n    {}\n    \
             put it into a file and do: tokentrail access key --role admin --key-file FILE NAME",
            key.reveal()
        );
    }
    // Nobody may be listening.
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]);
}
