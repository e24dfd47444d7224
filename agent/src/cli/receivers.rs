//! The receivers that are configured: what stands behind the spool, and what they need of the system.

use super::start::Misuse;
use anyhow::Context as _;
use std::net::IpAddr;
use tokentrail_agent::{
    config::Config,
    sink::{RotatingFile, batch::Receiver, http, lines::Lines, otlp, remote::file::Source, syslog},
};

/// Those over the network and to other programs: none, if there is no spool. Certificates and files with secrets are read here: the worker, which may
/// not open them any more when it is locked down, is given them then.
pub fn remote(config: &Config, source: &Source) -> anyhow::Result<Vec<Box<dyn Receiver>>> {
    let mut receivers: Vec<Box<dyn Receiver>> = Vec::new();
    if let Some(receiver) = otlp::load(&config.otlp, source).context("[otlp]")? {
        receivers.push(Box::new(receiver));
    }
    if let Some(receiver) = http::load(&config.http, source).context("[http]")? {
        receivers.push(Box::new(receiver));
    }
    if let Some(receiver) = syslog::load(&config.syslog, source).context("[syslog]")? {
        receivers.push(Box::new(receiver));
    }
    match receivers.first() {
        Some(receiver) if config.spool.path.is_none() => Err(Misuse::NoSpool {
            output: receiver.name().to_owned(),
        }
        .into()),
        _ => Ok(receivers),
    }
}

/// The file, if one is configured.
pub fn file(config: &Config) -> anyhow::Result<Option<Box<dyn Receiver>>> {
    let Some(path) = &config.file.path else {
        return Ok(None);
    };
    let file = RotatingFile::open(path, &config.file)
        .with_context(|| format!("output file {}", path.display()))?;
    Ok(Some(Box::new(
        Lines::new("file", file, || {}).encoded(config.file.encoding),
    )))
}

/// Whether any of them must be looked up.
pub fn has_name(destinations: &[(String, u16)]) -> bool {
    destinations
        .iter()
        .any(|(host, _)| host.parse::<IpAddr>().is_err())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::is_misuse;

    #[test]
    fn an_output_over_the_network_needs_the_spool() {
        let mut config = Config::default();
        config.syslog.address = Some("udp://127.0.0.1:514".into());
        let refused = remote(&config, &Source::disk()).err().unwrap();
        assert!(is_misuse(&refused), "{refused:#}");
        assert!(refused.to_string().contains("syslog"), "{refused:#}");
        config.spool.path = Some("/var/spool".into());
        assert_eq!(remote(&config, &Source::disk()).unwrap().len(), 1);
    }

    #[test]
    fn names_are_told_from_addresses() {
        assert!(has_name(&[("siem".into(), 514)]));
        assert!(!has_name(&[("::1".into(), 514), ("10.0.0.1".into(), 1)]));
    }
}
