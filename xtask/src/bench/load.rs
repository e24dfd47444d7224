//! Load from wrk. It is outside of the cgroup, as clients elsewhere would be: what the agent watches is nginx.

use super::Pace;
use crate::process::{self, Group};
use crate::server::Site;
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Traffic {
    HttpsKeepAlive,
    /// A full TLS handshake for each request.
    HttpsNew,
    HttpKeepAlive,
}

impl Traffic {
    pub const ALL: [Self; 3] = [Self::HttpsKeepAlive, Self::HttpsNew, Self::HttpKeepAlive];

    pub fn name(self) -> &'static str {
        match self {
            Self::HttpsKeepAlive => "HTTPS keep-alive",
            Self::HttpsNew => "HTTPS, new connections",
            Self::HttpKeepAlive => "cleartext keep-alive",
        }
    }
}

/// Connections that wrk holds.
const CONNECTIONS: &str = "8";

/// Requests per second.
pub fn run(folder: &Path, site: &Site, traffic: Traffic, seconds: u64, pace: Pace) -> Result<f64> {
    let wrk = process::which("wrk").context("no wrk")?;
    let mut command = Command::new(&wrk);
    command
        .args(["--threads", "1", "--connections", CONNECTIONS])
        .args(["--timeout", "60s", "--duration", &format!("{seconds}s")])
        .args(["--header", "Accept: application/json"])
        .args(["--header", "User-Agent: tokentrail-bench/1"])
        // Made up, and the same always: nobody's.
        .args([
            "--header",
            "Authorization: Bearer bench-0123456789abcdefghijklmnopqrstuvwx",
        ]);
    if traffic == Traffic::HttpsNew {
        command.args(["--header", "Connection: close"]);
    }
    command.arg(match traffic {
        Traffic::HttpsKeepAlive | Traffic::HttpsNew => {
            format!("https://127.0.0.1:{}/v1/items", site.https)
        }
        Traffic::HttpKeepAlive => format!("http://127.0.0.1:{}/v1/items", site.http),
    });
    let log = folder.join("wrk.log");
    let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut group = Group::spawn(command.stdout(file.try_clone()?).stderr(file))?;
    let limit = Duration::from_secs(seconds) + pace.seconds(30);
    let status = group.wait(Some(limit))?;
    let said = fs::read_to_string(&log)?;
    anyhow::ensure!(status.success(), "wrk failed ({status}): {said}");
    rate(&said).with_context(|| format!("wrk said no rate: {said}"))
}

/// wrk's `Requests/sec:`; nothing where answers were refusals.
fn rate(said: &str) -> Option<f64> {
    if said.contains("Non-2xx") {
        return None;
    }
    let rate = said
        .lines()
        .find_map(|line| line.trim().strip_prefix("Requests/sec:"))?;
    rate.trim().parse().ok().filter(|rate| *rate > 0.0)
}

#[cfg(test)]
mod tests {
    use super::rate;

    #[test]
    fn the_rate_is_read_from_what_wrk_says() {
        let good = "Running 1s test\n  1 threads\nRequests/sec:  12345.67\nTransfer/sec: 1MB\n";
        assert_eq!(rate(good), Some(12345.67));
        assert_eq!(
            rate("  Non-2xx or 3xx responses: 3\nRequests/sec: 5\n"),
            None
        );
        assert_eq!(rate("Requests/sec:      0.00\n"), None);
        assert_eq!(rate("unable to connect"), None);
    }
}
