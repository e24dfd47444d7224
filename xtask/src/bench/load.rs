//! Load from wrk and h2load. They are outside of the cgroup, as clients elsewhere would be: what the agent watches is the
//! server.

use super::Pace;
use super::servers::Servers;
use crate::process::{self, Group};
use crate::server::Site;
use anyhow::{Context, Result};
use clap::ValueEnum;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Traffic {
    /// nginx, HTTPS, connections that are kept
    HttpsKeepAlive,
    /// nginx, a full TLS handshake for each request
    HttpsNew,
    /// nginx, cleartext, connections that are kept
    HttpKeepAlive,
    /// nginx, HTTP/2 over TLS, many streams at once
    Http2,
    /// Go's HTTPS server, connections that are kept
    Go,
    /// node's HTTPS server, connections that are kept
    Node,
    /// gRPC for Python over TLS, many calls at once
    Grpc,
}

impl Traffic {
    pub const ALL: [Self; 7] = [
        Self::HttpsKeepAlive,
        Self::HttpsNew,
        Self::HttpKeepAlive,
        Self::Http2,
        Self::Go,
        Self::Node,
        Self::Grpc,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::HttpsKeepAlive => "HTTPS keep-alive",
            Self::HttpsNew => "HTTPS, new connections",
            Self::HttpKeepAlive => "cleartext keep-alive",
            Self::Http2 => "HTTP/2, multiplexed",
            Self::Go => "Go, HTTPS keep-alive",
            Self::Node => "node, HTTPS keep-alive",
            Self::Grpc => "gRPC, multiplexed",
        }
    }
}

/// Where load goes.
pub struct Targets<'a> {
    pub site: &'a Site,
    pub servers: &'a Servers,
}

/// What a load came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Done {
    pub per_second: f64,
    pub requests: u64,
}

/// Connections that wrk holds.
const CONNECTIONS: &str = "8";
/// Connections that h2load holds, and streams on each of them at once.
const MULTIPLEXED: (&str, &str) = ("4", "16");
/// Made up, and the same always: nobody's.
const CREDENTIAL: &str = "Authorization: Bearer bench-0123456789abcdefghijklmnopqrstuvwx";
/// Length prefix (not compressed, 12 bytes) and message.
const GRPC_MESSAGE: &[u8] = b"\0\0\0\0\x0c{\"ok\": true}";

/// `None` where its server, or what makes the load, is not there.
pub fn run(
    folder: &Path,
    targets: &Targets,
    traffic: Traffic,
    seconds: u64,
    pace: Pace,
) -> Result<Option<Done>> {
    let command = match traffic {
        Traffic::Http2 => h2load(seconds, targets.site.http2, "/v1/items"),
        Traffic::Grpc => match targets.servers.grpc {
            Some(port) => grpc(folder, seconds, port)?,
            None => None,
        },
        Traffic::Go => targets
            .servers
            .go
            .and_then(|port| wrk(seconds, &https(port))),
        Traffic::Node => targets
            .servers
            .node
            .and_then(|port| wrk(seconds, &https(port))),
        Traffic::HttpsKeepAlive => wrk(seconds, &https(targets.site.https)),
        Traffic::HttpsNew => wrk(seconds, &https(targets.site.https)).map(|mut command| {
            command.args(["--header", "Connection: close"]);
            command
        }),
        Traffic::HttpKeepAlive => {
            let url = format!("http://127.0.0.1:{}/v1/items", targets.site.http);
            wrk(seconds, &url)
        }
    };
    let Some(mut command) = command else {
        return Ok(None);
    };
    let name = traffic.name();
    let limit = Duration::from_secs(seconds) + pace.seconds(30);
    let said = said(folder, &mut command, limit).context(name)?;
    let done = match traffic {
        Traffic::Http2 | Traffic::Grpc => of_h2load(&said),
        _ => of_wrk(&said),
    };
    done.map(Some)
        .with_context(|| format!("{name}: nothing was said of the rate: {said}"))
}

/// Requests per second without a credential, so that the agent makes no events of them; `close`: each on a connection of
/// its own. `None` where there is no wrk.
pub fn anonymous(
    folder: &Path,
    url: &str,
    connections: u32,
    close: bool,
    seconds: u64,
    pace: Pace,
) -> Result<Option<f64>> {
    let Some(wrk) = process::which("wrk") else {
        return Ok(None);
    };
    let mut command = Command::new(wrk);
    command
        .args(["--threads", "1", "--connections", &connections.to_string()])
        .args(["--timeout", "60s", "--duration", &format!("{seconds}s")]);
    if close {
        command.args(["--header", "Connection: close"]);
    }
    let limit = Duration::from_secs(seconds) + pace.seconds(30);
    let said = said(folder, command.arg(url), limit)?;
    let done = of_wrk(&said).with_context(|| format!("nothing was said of the rate: {said}"))?;
    Ok(Some(done.per_second))
}

fn said(folder: &Path, command: &mut Command, limit: Duration) -> Result<String> {
    let log = folder.join("load.log");
    let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut group = Group::spawn(command.stdout(file.try_clone()?).stderr(file))?;
    let status = group.wait(Some(limit))?;
    let said = fs::read_to_string(&log)?;
    anyhow::ensure!(status.success(), "{status}: {said}");
    Ok(said)
}

fn https(port: u16) -> String {
    format!("https://127.0.0.1:{port}/v1/items")
}

fn wrk(seconds: u64, url: &str) -> Option<Command> {
    let mut command = Command::new(process::which("wrk")?);
    command
        .args(["--threads", "1", "--connections", CONNECTIONS])
        .args(["--timeout", "60s", "--duration", &format!("{seconds}s")])
        .args(["--header", "Accept: application/json"])
        .args(["--header", "User-Agent: tokentrail-bench/1"])
        .args(["--header", CREDENTIAL])
        .arg(url);
    Some(command)
}

fn h2load(seconds: u64, port: u16, path: &str) -> Option<Command> {
    let (clients, streams) = MULTIPLEXED;
    let mut command = Command::new(process::which("h2load")?);
    command
        .args(["--threads", "1", "--clients", clients])
        .args(["--max-concurrent-streams", streams])
        .arg(format!("--duration={seconds}"))
        .args(["--header", CREDENTIAL])
        .arg(format!("https://127.0.0.1:{port}{path}"));
    Some(command)
}

/// Calls as HTTP/2 has them: h2load need not know that they are gRPC.
fn grpc(folder: &Path, seconds: u64, port: u16) -> Result<Option<Command>> {
    let message: PathBuf = folder.join("message.bin");
    fs::write(&message, GRPC_MESSAGE)?;
    Ok(
        h2load(seconds, port, "/bench.Items/Get").map(|mut command| {
            command
                .args(["--header", "content-type: application/grpc"])
                .args(["--header", "te: trailers", "--data"])
                .arg(message);
            command
        }),
    )
}

/// wrk's `Requests/sec:` and `N requests in`; nothing where answers were refusals.
fn of_wrk(said: &str) -> Option<Done> {
    if said.contains("Non-2xx") {
        return None;
    }
    let lines = || said.lines().map(str::trim);
    let per_second = lines().find_map(|line| line.strip_prefix("Requests/sec:"))?;
    let requests = lines().find_map(|line| line.split_once(" requests in "))?.0;
    Some(Done {
        per_second: per_second.trim().parse().ok().filter(|rate| *rate > 0.0)?,
        requests: requests.parse().ok()?,
    })
}

/// h2load's `finished in 1.00s, 8000.00 req/s, ...` and `requests: ..., 8000 succeeded, ...`; nothing where something
/// failed, but for what the end of the time has cut off.
fn of_h2load(said: &str) -> Option<Done> {
    let lines = || said.lines().map(str::trim);
    let finished = lines().find_map(|line| line.strip_prefix("finished in "))?;
    let rate = finished.split(", ").nth(1)?.strip_suffix(" req/s")?;
    let counts = lines().find_map(|line| line.strip_prefix("requests: "))?;
    let count = |what: &str| -> Option<u64> {
        let found = counts
            .split(", ")
            .find_map(|count| count.strip_suffix(what))?;
        found.trim().parse().ok()
    };
    let requests = count(" succeeded")?;
    let none_failed = count(" failed")? == 0 && count(" timeout")? == 0;
    Some(Done {
        per_second: rate
            .parse()
            .ok()
            .filter(|rate| *rate > 0.0 && none_failed)?,
        requests,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_read_from_what_wrk_says() {
        let good = "Running 1s test\n  1 threads\n  12346 requests in 1.00s, 3MB read\n\
                    Requests/sec:  12345.67\nTransfer/sec: 1MB\n";
        let done = Done {
            per_second: 12345.67,
            requests: 12346,
        };
        assert_eq!(of_wrk(good), Some(done));
        assert_eq!(
            of_wrk(&format!("  Non-2xx or 3xx responses: 3\n{good}")),
            None
        );
        assert_eq!(of_wrk(&good.replace("12345.67", "0.00")), None);
        assert_eq!(of_wrk("unable to connect"), None);
    }

    #[test]
    fn the_rate_is_read_from_what_h2load_says() {
        let good = "finished in 1.00s, 8050.00 req/s, 389.22KB/s\n\
            requests: 8050 total, 8114 started, 8050 done, 8050 succeeded, 0 failed, 0 errored, 0 timeout\n\
            status codes: 8114 2xx, 0 3xx, 0 4xx, 0 5xx\n";
        let done = Done {
            per_second: 8050.0,
            requests: 8050,
        };
        assert_eq!(of_h2load(good), Some(done));
        assert_eq!(of_h2load(&good.replace("0 failed", "8 failed")), None);
        assert_eq!(of_h2load("nothing"), None);
    }

    #[test]
    fn a_call_has_its_length_in_front() {
        let (head, message) = GRPC_MESSAGE.split_at(5);
        assert_eq!(head, [0, 0, 0, 0, message.len() as u8]);
    }
}
