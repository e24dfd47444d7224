//! `replay`: a file of synthetic traffic, through the pipeline, to events on standard output.

use super::{ReplayArguments, start};
use anyhow::Context as _;
use std::{
    fs::File,
    io::{BufReader, BufWriter, Write as _},
    process::ExitCode,
};
use tokentrail_agent::{
    config::{self, Config},
    replay::Replay,
};

pub fn replay(arguments: &ReplayArguments) -> anyhow::Result<ExitCode> {
    let mut config: Config = config::load_or_default(arguments.config.as_deref())?;
    if let Some(file) = &arguments.fingerprint_key {
        config.agent.fingerprint_key = Some(file.clone());
    }
    let name = arguments.file.display();
    let file = File::open(&arguments.file).with_context(|| format!("cannot open {name}"))?;
    let mut replay = Replay::new(
        start::limits(&config),
        start::credential(&config),
        start::keyring(start::settings(&config)?.keys.as_ref())?,
    )?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut written = Ok(());
    let replayed = replay.run(BufReader::new(file), |event| {
        if written.is_ok() {
            written = serde_json::to_writer(&mut out, &event)
                .map_err(std::io::Error::from)
                .and_then(|()| out.write_all(b"\n"));
        }
    });
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            return Ok(ExitCode::SUCCESS);
        }
        written => written.context("cannot write events")?,
    }
    replayed.with_context(|| name.to_string())?;
    let counters = replay.counters();
    for (name, count) in counters.named().into_iter().filter(|(_, count)| *count > 0) {
        eprintln!("{name:<32} {count}");
    }
    counters.sums().map_err(anyhow::Error::msg)?;
    Ok(ExitCode::SUCCESS)
}
