//! Where people and monitoring look at the ledger while the agent runs.

use std::path::PathBuf;
use tokentrail_agent::{
    config::Coverage,
    coverage::{
        door::{self, Door},
        metrics::Metrics,
    },
};
use tracing::{info, warn};

/// What is open: made before the lockdown, which forbids to make more, and answered from after it.
pub struct Doors {
    door: Option<Door>,
    metrics: Option<Metrics>,
}

impl Doors {
    /// Without a socket that was asked for there is no start; without the usual one there is only less to see.
    pub fn open(config: &Coverage) -> anyhow::Result<Self> {
        let metrics = config.metrics.map(Metrics::bind).transpose()?;
        let usual = || {
            PathBuf::from(format!(
                "{}/agent-{}.sock",
                door::FOLDER,
                std::process::id()
            ))
        };
        let path = config.socket.clone().unwrap_or_else(usual);
        let door = match Door::open(&path) {
            Ok(door) => Some(door),
            Err(error) if config.socket.is_none() => {
                warn!(%error, "`tokentrail-agent coverage` cannot ask this agent");
                None
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Self { door, metrics })
    }

    /// The questions that come in from now on.
    pub fn serve(&mut self) -> anyhow::Result<door::Asked> {
        let (asker, asked) = door::questions();
        if let Some(door) = &self.door {
            door.serve(asker.clone())?;
        }
        if let Some(metrics) = self.metrics.take() {
            info!("metrics at http://{}/metrics", metrics.address());
            metrics.serve(asker)?;
        }
        Ok(asked)
    }
}
