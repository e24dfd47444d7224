//! Many open connections, each after one request with a credential of its own, and what the agent then holds.
//!
//! The client is outside of the cgroup: the agent follows the server's end of each connection.

use crate::interrupt;
use crate::process::{self, Group};
use crate::server::Site;
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const CLIENT: &str = include_str!("idle.py");

/// Holds its connections open until it is dropped.
pub struct Client {
    _group: Group,
}

impl Client {
    /// Returns when every connection has had its answer.
    pub fn start(
        folder: &Path,
        site: &Site,
        https: bool,
        count: u32,
        limit: Duration,
    ) -> Result<Self> {
        let script = folder.join("idle.py");
        fs::write(&script, CLIENT)?;
        let said = folder.join("idle.log");
        let python = process::which("python3").context("no python3")?;
        let port = if https { site.https } else { site.http };
        let mut command = Command::new(python);
        command
            .arg(&script)
            .arg(port.to_string())
            .arg(if https { "https" } else { "http" })
            .arg(count.to_string())
            .stdout(File::create(&said)?)
            .stderr(Stdio::inherit());
        let group = Group::spawn(&mut command)?;
        let start = Instant::now();
        while !fs::read_to_string(&said)?.contains("ready") {
            interrupt::check()?;
            if group.ended() || start.elapsed() > limit {
                bail!("{count} connections could not be opened");
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(Self { _group: group })
    }
}

/// Resident memory in KiB (proc_pid_status(5)).
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Memory {
    /// All of it; the ring that the kernel shares with the agent is in `file` or `shared`.
    pub total: u64,
    pub anonymous: u64,
    pub file: u64,
    pub shared: u64,
}

/// A process and all that it has started, and those in turn: the agent is several. The parents come first.
pub fn family(pid: u32) -> Result<Vec<u32>> {
    let processes = fs::read_dir("/proc").context("/proc")?.flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let parent = |child: u32| {
        let stat = fs::read_to_string(format!("/proc/{child}/stat")).ok()?;
        let parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?;
        parent.parse::<u32>().ok()
    };
    let pairs: Vec<(u32, u32)> = numbers
        .filter_map(|child| Some((parent(child)?, child)))
        .collect();
    let mut family = vec![pid];
    let mut next = 0;
    while let Some(&of) = family.get(next) {
        next += 1;
        let children = pairs.iter().filter(|(parent, _)| *parent == of);
        family.extend(children.map(|(_, child)| *child));
    }
    Ok(family)
}

/// Of an agent, all processes together: what they share, their program and the ring, is counted twice.
pub fn memory(pid: u32) -> Result<Memory> {
    family(pid)?
        .into_iter()
        .try_fold(Memory::default(), |sum, pid| {
            let one = memory_of(pid)?;
            Ok(Memory {
                total: sum.total + one.total,
                anonymous: sum.anonymous + one.anonymous,
                file: sum.file + one.file,
                shared: sum.shared + one.shared,
            })
        })
}

fn memory_of(pid: u32) -> Result<Memory> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok())
            .unwrap_or(0)
    };
    Ok(Memory {
        total: field("VmRSS:"),
        anonymous: field("RssAnon:"),
        file: field("RssFile:"),
        shared: field("RssShmem:"),
    })
}
