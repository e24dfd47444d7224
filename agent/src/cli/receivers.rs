//! The receivers that are configured: what stands behind the spool.

use anyhow::Context as _;
use tokentrail_agent::{
    config::Config,
    sink::{RotatingFile, batch::Receiver, lines::Lines},
};

/// One for each output that is configured, but for standard output.
pub fn receivers(config: &Config) -> anyhow::Result<Vec<Box<dyn Receiver>>> {
    let mut receivers: Vec<Box<dyn Receiver>> = Vec::new();
    if let Some(path) = &config.file.path {
        let file = RotatingFile::open(path, &config.file)
            .with_context(|| format!("output file {}", path.display()))?;
        receivers.push(Box::new(Lines::new("file", file, || {})));
    }
    Ok(receivers)
}
