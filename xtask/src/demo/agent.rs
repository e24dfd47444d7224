//! The demo's agent: a real one, outside of its own scope.

use crate::interrupt;
use crate::process::{self, Group};
use anyhow::{Context, Result, bail};
use rustix::io::{FdFlags, fcntl_setfd};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

pub struct Agent {
    group: Group,
    program: PathBuf,
    /// Of its fingerprints; there as long as the value is.
    pub key: PathBuf,
    pub log: PathBuf,
    pub events: PathBuf,
}

/// The agent ended before it was ready: what it said is the reason.
#[derive(Debug)]
pub struct Refused {
    pub said: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "the agent does not start here:\n{}", self.said)
    }
}

impl std::error::Error for Refused {}

impl Agent {
    /// Its table goes to our standard output, its events to `folder/events.ndjson`, and to whatever outputs a
    /// configuration adds.
    pub fn start(
        program: &Path,
        scope: &Path,
        folder: &Path,
        configuration: Option<&Path>,
        limit: Duration,
    ) -> Result<Self> {
        let key = folder.join("fingerprint.key");
        process::output(Command::new(program).arg("keygen").arg(&key))?;
        let events = folder.join("events.ndjson");
        let log = folder.join("agent.log");
        let (mut ready, signal) = std::io::pipe().context("cannot make a pipe")?;
        // Only the agent gets this end: it is closed here before another child is started.
        fcntl_setfd(&signal, FdFlags::empty()).context("cannot hand down a pipe")?;
        let mut command = Command::new(program);
        command
            .arg("run")
            .arg("--scope")
            .arg(format!("cgroup:{}", scope.display()))
            .arg("--fingerprint-key")
            .arg(&key)
            .args(["--output", "table", "--output-file"])
            .arg(&events)
            .arg("--ready-fd")
            .arg(signal.as_raw_fd().to_string());
        if let Some(file) = configuration {
            command.arg("--config").arg(file);
        }
        command.stdout(Stdio::inherit()).stderr(File::create(&log)?);
        let group = Group::spawn(&mut command)?;
        drop(signal);
        let mut agent = Self {
            group,
            program: program.to_path_buf(),
            key,
            log,
            events,
        };
        let (sender, receiver) = channel();
        thread::spawn(move || sender.send(ready.read(&mut [0; 16]).is_ok_and(|read| read > 0)));
        let start = Instant::now();
        loop {
            interrupt::check()?;
            match receiver.try_recv() {
                Ok(true) => return Ok(agent),
                Err(TryRecvError::Empty) if start.elapsed() < limit => {
                    thread::sleep(Duration::from_millis(10));
                }
                // The pipe's other end was closed, by its end; or it takes too long.
                _ => {
                    agent.group.stop(Duration::from_secs(2));
                    let said = fs::read_to_string(&agent.log).unwrap_or_default();
                    bail!(Refused {
                        said: said.trim_end().to_owned()
                    });
                }
            }
        }
    }

    /// The fingerprint by which events name `secret`; it goes by standard input, never by an argument.
    pub fn fingerprint(&self, secret: &str) -> Result<String> {
        let mut child = Command::new(&self.program)
            .args(["fingerprint", "--fingerprint-key"])
            .arg(&self.key)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start tokentrail-agent fingerprint")?;
        child
            .stdin
            .take()
            .context("no standard input")?
            .write_all(secret.as_bytes())?;
        let output = child.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        text.split_whitespace()
            .find(|word| word.starts_with("tkf1:"))
            .map(str::to_owned)
            .with_context(|| format!("tokentrail-agent fingerprint said {:?}", text.trim()))
    }

    pub fn is_running(&self) -> bool {
        !self.group.ended()
    }

    /// A clean stop: what was read is emitted before it ends.
    pub fn stop(&mut self, limit: Duration) -> Option<ExitStatus> {
        self.group.stop(limit)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.group.stop(Duration::from_secs(3));
        // Nothing in the folder that stays is of use with this key.
        let _ = fs::remove_file(&self.key);
    }
}
