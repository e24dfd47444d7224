//! The agent that watches: with an empty cache of its own, its events as they come, and what it says of its points.
//!
//! Its cache is a folder of the bench, mounted over /var/cache in a mount namespace of its own: what this host's agents
//! know does not help it, and what it learns is of no use to them.
//!
//! Invariant: only lines with [`POINT`] are read of its log.

use super::{Run, server};
use crate::bench::variant;
use crate::process::Group;
use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// What the agent says when a point is attached: to a process where it says `pid=`, else to the file that it names by
/// `path=`; at the time since boot that it gives by `attached=` (0: not attached), else at the time of the line.
const POINT: &str = "key-log point";

pub struct Watch {
    group: Group,
    log: PathBuf,
    read: Arc<Mutex<HashMap<u32, Instant>>>,
}

impl Watch {
    /// `folder`: empty, and its own.
    pub fn start(agent: &Path, scope: &Path, folder: &Path, limit: Duration) -> Result<Self> {
        let cache = folder.join("cache");
        fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
        let log = folder.join("agent.log");
        let (hears, says) = std::io::pipe().context("cannot make a pipe")?;
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "/bin/sh", "-c"])
            .arg("mount --bind \"$0\" /var/cache && exec \"$@\"")
            .arg(&cache)
            .arg(agent)
            .args(["run", "--output", "ndjson"])
            .arg("--scope")
            .arg(format!("cgroup:{}", scope.display()))
            .env("TOKENTRAIL_LOG", "info")
            .stdout(says);
        let group = variant::until_ready(&mut command, "the agent", &log, limit)?;
        drop(command);
        let read = Arc::new(Mutex::new(HashMap::new()));
        let noting = Arc::clone(&read);
        thread::spawn(move || {
            for line in BufReader::new(hears).lines().map_while(Result::ok) {
                if let Some(number) = of_event(&line) {
                    let mut read = noting.lock().unwrap_or_else(PoisonError::into_inner);
                    read.entry(number).or_insert_with(Instant::now);
                }
            }
        });
        Ok(Self { group, log, read })
    }

    pub fn id(&self) -> u32 {
        self.group.id()
    }

    /// When the event of this request came, if it has.
    pub fn read(&self, number: u32) -> Option<Instant> {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        read.get(&number).copied()
    }

    /// Waits until every one of these has its event, or none has come for a while. The last one's time, if one came.
    pub fn settle(&self, numbers: &[u32], quiet: Duration) -> Result<Option<Instant>> {
        let mut since = Instant::now();
        let mut before = 0;
        loop {
            crate::interrupt::check()?;
            let times: Vec<Instant> = numbers.iter().filter_map(|n| self.read(*n)).collect();
            if times.len() != before {
                (before, since) = (times.len(), Instant::now());
            }
            if times.len() == numbers.len() || since.elapsed() > quiet {
                return Ok(times.into_iter().max());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// What it has said of points so far.
    pub fn attached(&self) -> Result<Vec<Attached>> {
        let file =
            File::open(&self.log).with_context(|| format!("cannot read {}", self.log.display()))?;
        let lines = BufReader::new(file).split(b'\n').map_while(Result::ok);
        let boot = boot()?;
        Ok(lines
            .filter_map(|line| attached(&String::from_utf8_lossy(&line), boot))
            .collect())
    }

    /// Ends it; what it said is returned where it did not run to now.
    pub fn stop(mut self, limit: Duration) -> Result<()> {
        let ran = !self.group.ended();
        self.group.stop(limit);
        let said = || fs::read_to_string(&self.log).unwrap_or_default();
        anyhow::ensure!(ran, "the agent ended by itself:\n{}", said().trim_end());
        Ok(())
    }
}

/// A client's request that was read: it has a credential.
fn of_event(line: &str) -> Option<u32> {
    let event: Value = serde_json::from_str(line).ok()?;
    let fingerprints = event["token"]["fingerprints"].as_array()?;
    let is_clients = event["direction"] == "client" && !fingerprints.is_empty();
    server::number(event["url"]["path"].as_str().filter(|_| is_clients)?)
}

/// A point was attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Nanoseconds since the epoch.
    pub time: u64,
    /// In this process, or, where it is not said, wherever its file is mapped.
    pub pid: Option<u32>,
    /// What is said of it.
    fields: String,
}

/// `boot`: when that was, in nanoseconds since the epoch.
fn attached(line: &str, boot: u64) -> Option<Attached> {
    let (time, said) = line.trim_start().split_once(' ')?;
    let (_, fields) = said.split_once(POINT)?;
    let number = |name: &str| -> Option<u64> {
        let mut words = fields.split_ascii_whitespace();
        words.find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
    };
    let time = match number("attached") {
        Some(0) => return None,
        Some(since) => boot + since,
        None => {
            fields.strip_prefix(" attached ")?;
            let time: jiff::Timestamp = time.parse().ok()?;
            u64::try_from(time.as_nanosecond()).ok()?
        }
    };
    Some(Attached {
        time,
        pid: number("pid").and_then(|pid| pid.try_into().ok()),
        fields: fields.to_owned(),
    })
}

/// When the machine was started, in nanoseconds since the epoch.
fn boot() -> Result<u64> {
    let up = clock_gettime(ClockId::Boottime);
    let up = u64::try_from(up.tv_sec)? * 1_000_000_000 + u64::try_from(up.tv_nsec)?;
    Ok(super::now()?.saturating_sub(up))
}

/// When a run had its first point, in nanoseconds after its exec. One that is of no process counts where its file is one
/// of the run's: one program of the scope runs at a time.
pub fn first_of(all: &[Attached], run: &Run) -> Option<u64> {
    let mut during = all
        .iter()
        .filter(|one| (run.executed..=run.ended).contains(&one.time));
    let names = |one: &Attached| {
        let of_file = |file: &PathBuf| one.fields.contains(&format!("path={} ", file.display()));
        one.pid.is_none() && run.files.iter().any(of_file)
    };
    let own = during.clone().find(|one| one.pid == Some(run.pid));
    let first = own.or_else(|| during.find(|one| names(one)))?;
    Some(first.time - run.executed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_counts_with_its_credential() {
        let event = |direction: &str, tokens: &str| {
            of_event(&format!(
                r#"{{"kind":"usage","direction":"{direction}","token":{{"fingerprints":[{tokens}]}},"url":{{"path":"/v1/first/00000042"}}}}"#
            ))
        };
        assert_eq!(event("client", r#""tkf1:a:b""#), Some(42));
        assert_eq!(event("server", r#""tkf1:a:b""#), None);
        assert_eq!(event("client", ""), None);
        assert_eq!(of_event(r#"{"kind":"audit"}"#), None);
        assert_eq!(of_event("no event"), None);
    }

    #[test]
    fn points_are_read_of_the_log() {
        let line = "2026-11-30T02:14:05.000250Z  INFO key-log point attached path=/usr/bin/x library=\"OpenSSL\"";
        let time = 1_796_004_845_000_250_000;
        let without = attached(line, 9).unwrap();
        assert_eq!((without.time, without.pid), (time, None));
        let of = |said: &str| {
            let point = attached(
                &format!("2026-11-30T02:14:05Z  INFO key-log point {said}"),
                9,
            )?;
            Some((point.time, point.pid))
        };
        let process = of("pid=71 path=/usr/bin/x offset=0x1 attached=1000 refused=None");
        assert_eq!(process, Some((1_009, Some(71))));
        assert_eq!(
            of("pid=71 path=/usr/bin/x attached=0 refused=Some(Slots)"),
            None
        );
        assert_eq!(of("dropped path=/usr/bin/x"), None);
        assert_eq!(attached("2026-11-30T02:14:05Z  INFO ready", 9), None);
        assert_eq!(
            attached("yesterday  INFO key-log point attached path=/x", 9),
            None
        );
    }

    #[test]
    fn a_point_of_the_process_goes_before_one_of_its_file() {
        let at = |time, pid, path: &str| Attached {
            time,
            pid,
            fields: format!(" path={path} library=\"x\""),
        };
        let all = [
            at(5, None, "/a"),
            at(11, None, "/a.old"),
            at(12, None, "/a"),
            at(15, Some(8), "/a"),
            at(17, Some(7), "/a"),
        ];
        let first = |pid, executed, file: &str| {
            let run = Run {
                number: 0,
                pid,
                files: vec![file.into()],
                executed,
                ended: 30,
                failure: None,
            };
            first_of(&all, &run)
        };
        assert_eq!(first(7, 10, "/a"), Some(7));
        assert_eq!(first(9, 10, "/a"), Some(2));
        assert_eq!(first(9, 10, "/b"), None);
        assert_eq!(first(9, 13, "/a"), None);
    }
}
