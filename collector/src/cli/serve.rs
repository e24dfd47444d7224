//! `serve`, until SIGTERM or SIGINT.

use crate::access::ApiKey;
use crate::config::{self, Config};
use crate::serve::{self, Started};
use anyhow::Context as _;
use std::fs::OpenOptions;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
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
    /// At the first start, write the key that makes the first admin into this new file, for its owner alone, instead
    /// of showing it: what a service shows is kept in a journal
    #[arg(long, value_name = "FILE")]
    first_key_file: Option<PathBuf>,
}

pub fn run(arguments: ServeArguments) -> anyhow::Result<ExitCode> {
    let mut config: Config = config::load_or_default(arguments.config.as_deref())?;
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
        let file = arguments.first_key_file.as_deref();
        serve::serve(&config, |started| ready(&started, file), stop).await?;
        anyhow::Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

fn ready(started: &Started, first_key_file: Option<&Path>) {
    let scheme = if started.tls { "https" } else { "http" };
    // Before the line that says that it is ready: whoever waits for that finds the file.
    if let Some(key) = &started.first_key {
        show_first(key, first_key_file);
    }
    eprintln!("tokentrail ready: {scheme}://{}", started.address);
    // Nobody may be listening.
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]);
}

fn show_first(key: &ApiKey, file: Option<&Path>) {
    const THEN: &str = "tokentrail access key --role admin --key-file";
    if let Some(file) = file {
        match keep(key, file) {
            Ok(()) => {
                eprintln!(
                    "tokentrail: first start. The key that makes the first admin, once, is in {0}; do: {THEN} {0} NAME",
                    file.display()
                );
                return;
            }
            // It is made only once: shown rather than lost.
            Err(error) => eprintln!("tokentrail: {}: {error}", file.display()),
        }
    }
    eprintln!(
        "tokentrail: first start. This key makes the first admin, once, and is not shown again:\n    {}\n    \
         put it into a file and do: {THEN} FILE NAME",
        key.reveal()
    );
}

fn keep(key: &ApiKey, file: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)?;
    writeln!(file, "{}", key.reveal())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_first_key_is_its_owners_alone_and_replaces_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("first.key");
        let key = ApiKey::generate().unwrap();
        keep(&key, &file).unwrap();
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        let kept = std::fs::read_to_string(&file).unwrap();
        assert_eq!(kept.trim_end(), key.reveal());
        let error = keep(&ApiKey::generate().unwrap(), &file).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), kept);
    }
}
