//! SIGHUP: what of a changed configuration is taken, and what needs a restart.

use super::{RunArguments, start};
use tokentrail_agent::{config::Config, privilege::message::Settings};
use tracing::{info, warn};

/// Reads configuration and key file again. Gives what to tell the worker, and makes `config` what holds from now on;
/// nothing changes where either is refused.
pub fn reload(arguments: &RunArguments, config: &mut Config) -> Option<Settings> {
    match again(arguments, config) {
        Ok(settings) => Some(settings),
        Err(error) => {
            warn!("the configuration stays as it was: {error:#}");
            None
        }
    }
}

fn again(arguments: &RunArguments, config: &mut Config) -> anyhow::Result<Settings> {
    let read = start::configuration(arguments)?;
    let changes = config.changes(&read);
    let taken = config.with_reloadable(&read)?;
    let settings = start::settings(&taken)?;
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
        "configuration and keys are read again"
    );
    *config = taken;
    Ok(settings)
}
