//! The receivers that are configured: what stands behind the spool, and what they need of the system.

use anyhow::Context as _;
use std::net::IpAddr;
use tokentrail_agent::{
    config::Config,
    sink::{RotatingFile, batch::Receiver, http, lines::Lines, otlp, syslog},
};

/// Those over the network and to other programs. Certificates and files with secrets are read here, which the worker may
/// not do any more when it is locked down.
pub fn remote(config: &Config) -> anyhow::Result<Vec<Box<dyn Receiver>>> {
    let mut receivers: Vec<Box<dyn Receiver>> = Vec::new();
    if let Some(receiver) = otlp::from_config(&config.otlp).context("[otlp]")? {
        receivers.push(Box::new(receiver));
    }
    if let Some(receiver) = http::from_config(&config.http).context("[http]")? {
        receivers.push(Box::new(receiver));
    }
    if let Some(receiver) = syslog::from_config(&config.syslog).context("[syslog]")? {
        receivers.push(Box::new(receiver));
    }
    Ok(receivers)
}

/// The file, if one is configured.
pub fn file(config: &Config) -> anyhow::Result<Option<Box<dyn Receiver>>> {
    let Some(path) = &config.file.path else {
        return Ok(None);
    };
    let file = RotatingFile::open(path, &config.file)
        .with_context(|| format!("output file {}", path.display()))?;
    Ok(Some(Box::new(Lines::new("file", file, || {}))))
}

/// Host and port of every receiver that is reached over IP. What has no form of an address is refused by [`remote`].
pub fn destinations(config: &Config) -> Vec<(String, u16)> {
    [
        &config.otlp.endpoint,
        &config.http.endpoint,
        &config.syslog.address,
    ]
    .into_iter()
    .flatten()
    .filter_map(|address| destination(address))
    .collect()
}

fn destination(address: &str) -> Option<(String, u16)> {
    let (scheme, rest) = address.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let authority = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    let usual = match scheme.to_ascii_lowercase().as_str() {
        "https" => 443,
        "http" => 80,
        "udp" | "tcp" => 514,
        "tls" => 6514,
        _ => return None,
    };
    // The colons of an IPv6 address stand in brackets.
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        _ => (authority, usual),
    };
    Some((host.trim_matches(['[', ']']).to_owned(), port))
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

    #[test]
    fn destinations_of_every_form() {
        for (address, host, port) in [
            (
                "https://collector.example:4318/v1/logs",
                "collector.example",
                4318,
            ),
            ("https://collector.example", "collector.example", 443),
            ("http://127.0.0.1/x:9", "127.0.0.1", 80),
            ("https://[::1]:8443/", "::1", 8443),
            ("https://[::1]/", "::1", 443),
            ("tls://10.0.0.1:6514", "10.0.0.1", 6514),
            ("udp://siem:514", "siem", 514),
        ] {
            assert_eq!(
                destination(address),
                Some((host.to_owned(), port)),
                "{address}"
            );
        }
        for address in ["unix:/dev/log", "unix-stream:/run/x", "nothing"] {
            assert_eq!(destination(address), None, "{address}");
        }
        assert!(has_name(&[("siem".into(), 514)]));
        assert!(!has_name(&[("::1".into(), 514), ("10.0.0.1".into(), 1)]));
    }
}
