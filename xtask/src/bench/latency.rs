//! How long it takes from a request to its event at the receiver.
//!
//! A client outside of the agent's scope sends requests to nginx in it, one after another at a steady rate over one
//! connection; the agent, with a spool and OTLP, sends to a [`Receiver`] in this process. Both ends are timed by one
//! clock: from before the request is written until the batch with its event has been read to the end. The response
//! comes in between, and so does the spool's fsync.

use super::receiver::{self, Receiver};
use super::variant::Running;
use super::{Pace, Report};
use crate::interrupt;
use anyhow::{Context, Result, ensure};
use serde::Serialize;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// `spool.group_ms`: the default, and the least that can be configured.
const GROUPS: [u64; 2] = [100, 1];
/// Requests before it counts: the executable is hashed with the first event.
const WARM: u32 = 10;

/// Milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Latency {
    pub group_ms: u64,
    pub requests_per_second: u64,
    pub requests: usize,
    pub arrived: usize,
    pub p50: f64,
    pub p99: f64,
    pub least: f64,
    pub most: f64,
}

pub struct Steady<'a> {
    pub agent: &'a Path,
    pub scope: &'a Path,
    pub folder: &'a Path,
    /// nginx, cleartext.
    pub port: u16,
    pub rate: u64,
    pub time: Duration,
    pub pace: Pace,
}

impl Steady<'_> {
    pub fn measure(&self, report: &mut Report) -> Result<()> {
        for group_ms in GROUPS {
            report.latency.push(self.run(group_ms)?);
        }
        Ok(())
    }

    fn run(&self, group_ms: u64) -> Result<Latency> {
        let receiver = Receiver::start()?;
        let spool = self.folder.join(format!("spool-{group_ms}"));
        let configuration = self.folder.join(format!("latency-{group_ms}.toml"));
        fs::write(
            &configuration,
            format!(
                "[stdout]\nformat = \"none\"\n[spool]\npath = \"{}\"\ngroup_ms = {group_ms}\n\
                 [otlp]\nendpoint = \"{}\"\ncompression = \"none\"\n",
                spool.display(),
                receiver.endpoint()
            ),
        )?;
        let limit = self.pace.seconds(20);
        let mut agent = Running::agent(self.agent, self.scope, &configuration, self.folder, limit)?;
        let sent = self.send()?;
        let start = Instant::now();
        while receiver.arrivals().len() < sent.len() && start.elapsed() < self.pace.seconds(5) {
            interrupt::check()?;
            thread::sleep(Duration::from_millis(20));
        }
        agent.stop(limit)?;
        summarise(group_ms, self.rate, &sent, &receiver.arrivals())
    }

    /// When each request was sent.
    fn send(&self) -> Result<HashMap<u32, Instant>> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(self.pace.seconds(10)))?;
        let count = u32::try_from(self.time.as_secs() * self.rate)? + WARM;
        let (start, mut sent) = (Instant::now(), HashMap::new());
        for number in 0..count {
            interrupt::check()?;
            let due = start + Duration::from_secs(1) * number / u32::try_from(self.rate)?;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let request = format!(
                "GET {} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: tokentrail-bench/1\r\n\
                 Authorization: Bearer bench-{number:030}\r\n\r\n",
                receiver::path(number)
            );
            let now = Instant::now();
            stream.write_all(request.as_bytes())?;
            let mut answer = [0; 4096];
            let read = stream.read(&mut answer)?;
            ensure!(answer[..read].starts_with(b"HTTP/1.1 200"), "not answered");
            if number >= WARM {
                sent.insert(number, now);
            }
        }
        Ok(sent)
    }
}

pub fn table(out: &mut String, measured: &[Latency]) {
    let _ = writeln!(out, "\nfrom request to receiver, milliseconds");
    for latency in measured {
        let _ = writeln!(
            out,
            "spool.group_ms {:>4}, {}/s: p50 {:.1}, p99 {:.1} ({:.1} to {:.1}; {} of {} events)",
            latency.group_ms,
            latency.requests_per_second,
            latency.p50,
            latency.p99,
            latency.least,
            latency.most,
            latency.arrived,
            latency.requests
        );
    }
}

fn summarise(
    group_ms: u64,
    rate: u64,
    sent: &HashMap<u32, Instant>,
    arrivals: &HashMap<u32, Instant>,
) -> Result<Latency> {
    let mut times: Vec<f64> = sent
        .iter()
        .filter_map(|(number, sent)| {
            let arrived = arrivals.get(number)?;
            Some(arrived.duration_since(*sent).as_secs_f64() * 1_000.0)
        })
        .collect();
    times.sort_by(f64::total_cmp);
    // The nearest rank.
    let at = |share: f64| {
        let rank = (times.len() as f64 * share).ceil() as usize;
        times.get(rank.max(1) - 1).copied()
    };
    let most = at(1.0).context("no event came to the receiver")?;
    Ok(Latency {
        group_ms,
        requests_per_second: rate,
        requests: sent.len(),
        arrived: times.len(),
        p50: at(0.5).unwrap_or(most),
        p99: at(0.99).unwrap_or(most),
        least: at(0.0).unwrap_or(most),
        most,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks() {
        let start = Instant::now();
        let sent: HashMap<u32, Instant> = (0..101).map(|number| (number, start)).collect();
        // One never came.
        let arrived = |number: u32| start + Duration::from_millis(u64::from(number) + 1);
        let arrivals = (0..100).map(|number| (number, arrived(number))).collect();
        let latency = summarise(100, 50, &sent, &arrivals).unwrap();
        assert_eq!((latency.requests, latency.arrived), (101, 100));
        assert_eq!(
            [latency.least, latency.p50, latency.p99, latency.most].map(f64::round),
            [1.0, 50.0, 99.0, 100.0]
        );
        assert!(summarise(100, 50, &sent, &HashMap::new()).is_err());
    }
}
