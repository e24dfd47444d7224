//! SIGHUP: what of a changed configuration is taken, and what needs a restart.

use super::{RunArguments, start};
use crate::cli::receivers;
use std::{fs::File, os::fd::AsFd as _, path::PathBuf};
use tokentrail_agent::{
    config::Config,
    privilege::{
        message::{Settings, Tell},
        pipe::{Error, Pipe},
    },
    sink::remote::file::Source,
};
use tracing::{info, warn};

/// Reads configuration, key file and the receivers' files again. Tells the worker, and makes `config` what holds from now
/// on; nothing changes where any of them is refused.
pub fn reload(arguments: &RunArguments, config: &mut Config, pipe: &Pipe) -> bool {
    match again(arguments, config) {
        Ok((settings, files)) => {
            if let Err(error) = tell(pipe, settings, files) {
                warn!(%error, "the worker goes on with its old configuration");
            }
            true
        }
        Err(error) => {
            warn!("the configuration stays as it was: {error:#}");
            false
        }
    }
}

/// The worker may not open files: it gets them opened.
fn tell(pipe: &Pipe, settings: Settings, files: Files) -> Result<(), Error> {
    for (path, file) in files {
        pipe.send_with(&Tell::File { path }, file.as_fd())?;
    }
    pipe.send(&Tell::Reload(settings))
}

type Files = Vec<(PathBuf, File)>;

fn again(arguments: &RunArguments, config: &mut Config) -> anyhow::Result<(Settings, Files)> {
    let read = start::configuration(arguments)?;
    let changes = config.changes(&read);
    let taken = config.with_reloadable(&read)?;
    let settings = start::settings(&taken)?;
    // Made and thrown away: what is wrong with them is said before anything changes.
    let source = Source::disk();
    receivers::remote(&taken, &source)?;
    for key in changes.iter().filter(|key| !Config::is_reloadable(key)) {
        warn!("{key} has changed, which needs a restart: it stays as it was");
    }
    let names: Vec<&str> = changes
        .iter()
        .map(String::as_str)
        .filter(|key| Config::is_reloadable(key))
        .collect();
    info!(
        changed = names.join(" "),
        "configuration, keys and the files of outputs are read again"
    );
    *config = taken;
    Ok((settings, source.into_opened()))
}
