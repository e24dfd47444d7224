//! The demo's collector: a real one, asked by its own commands as a person would.
//!
//! It runs on loopback and outside of the agent's scope, as on a host where both are installed: in the scope, each
//! delivery would be an exchange with a credential of its own (the ingest key), whose event is the next delivery.
//!
//! Invariant: its keys lie in files for their owner alone, and pass in no argument and no log.

use super::agent::Agent;
use crate::interrupt;
use crate::process::{self, Group};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// More than a demo makes.
const EVENTS: &str = "10000";
/// What a question may take at most; its command waits for 120 seconds.
const PATIENCE: Duration = Duration::from_secs(110);
const READY: &str = "tokentrail ready: ";

pub struct Collector {
    group: Group,
    program: PathBuf,
    /// Where the collector's data, its keys, and the agent's spool lie.
    state: PathBuf,
    server: String,
}

impl Collector {
    /// Its data goes to `state/collector`, its keys to `state/keys`, what it says to `log`. `limit` is for its start and
    /// for each question.
    pub fn start(program: &Path, state: &Path, log: &Path, limit: Duration) -> Result<Self> {
        private_folder(&Self::keys(state))?;
        let configuration = state.join("collector.toml");
        let seconds = limit.min(PATIENCE).as_secs();
        private_file(&configuration, &format!("[query]\nseconds = {seconds}\n"))?;
        let first = Self::keys(state).join("first.key");
        let said = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new(program);
        command
            .arg("serve")
            .arg("--config")
            .arg(configuration)
            .arg("--data")
            .arg(Self::data(state))
            .args(["--listen", "127.0.0.1:0", "--first-key-file"])
            .arg(&first)
            .stdout(Stdio::null())
            .stderr(said);
        let group = Group::spawn(&mut command)?;
        let mut collector = Self {
            group,
            program: program.to_path_buf(),
            state: state.to_path_buf(),
            server: String::new(),
        };
        collector.server = collector.wait_until_it_is_ready(log, limit)?;
        collector.exchange_keys(&first)?;
        Ok(collector)
    }

    pub fn data(state: &Path) -> PathBuf {
        state.join("collector")
    }

    pub fn keys(state: &Path) -> PathBuf {
        state.join("keys")
    }

    pub fn analyst_key(state: &Path) -> PathBuf {
        Self::keys(state).join("analyst.key")
    }

    /// Its address, which it chose itself.
    fn wait_until_it_is_ready(&mut self, log: &Path, limit: Duration) -> Result<String> {
        let start = Instant::now();
        loop {
            interrupt::check()?;
            let ended = self.group.ended();
            let said = fs::read_to_string(log).unwrap_or_default();
            if let Some(address) = address(&said) {
                return Ok(address.to_owned());
            }
            if ended || start.elapsed() > limit {
                bail!("the collector does not start: {}", said.trim());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The first start's key makes an admin's, which makes one for the agent and one for whoever asks.
    fn exchange_keys(&self, first: &Path) -> Result<()> {
        let keys = Self::keys(&self.state);
        let file = |name: &str| keys.join(format!("{name}.key"));
        let mut with = first.to_path_buf();
        for role in ["admin", "ingest", "analyst"] {
            let made = self.ask(&with, ["access", "key", "--role", role, "demo"], "")?;
            private_file(&file(role), &made)?;
            if role == "admin" {
                with = file(role);
                // It is worth nothing any more.
                fs::remove_file(first)?;
            }
            if role == "ingest" {
                let header = format!("Bearer {}\n", made.trim());
                private_file(&keys.join("ingest.header"), &header)?;
            }
        }
        Ok(())
    }

    /// Writes a configuration by which an agent delivers here, and returns its file.
    pub fn agent_configuration(&self, stop: Duration) -> Result<PathBuf> {
        // A JSON string is a TOML string.
        let quoted = |text: String| Value::from(text).to_string();
        let path = |path: PathBuf| path.display().to_string();
        let header = path(Self::keys(&self.state).join("ingest.header"));
        let text = format!(
            "[spool]\npath = {}\nstop_seconds = {}\n\n[otlp]\nendpoint = {}\nheaders = {{ authorization = {} }}\n",
            quoted(path(self.state.join("spool"))),
            stop.as_secs(),
            quoted(self.server.clone()),
            quoted(format!("file:{header}")),
        );
        let file = self.state.join("agent.toml");
        private_file(&file, &text)?;
        Ok(file)
    }

    /// The story of a credential: the command as a person would type it, and what it said.
    pub fn trail(&self, secret: &str, agent: &Agent) -> Result<(String, String)> {
        let key = Self::analyst_key(&self.state);
        let words = [
            OsStr::new("trail"),
            OsStr::new("--fingerprint-key"),
            agent.key.as_os_str(),
        ];
        let story = self.ask(&key, words, secret)?;
        let typed = format!(
            "tokentrail trail --server {} --key-file {} --fingerprint-key {} < leaked-credential",
            self.server,
            key.display(),
            agent.key.display()
        );
        Ok((typed, story))
    }

    /// Every event that it has: the agent's and its own.
    pub fn events(&self) -> Result<Vec<Value>> {
        let key = Self::analyst_key(&self.state);
        let words = ["search", "--format", "ndjson", "--limit", EVENTS];
        let text = self.ask(&key, words, "")?;
        let events: Result<Vec<Value>, _> = text.lines().map(serde_json::from_str).collect();
        events.context("the collector answered something that is no NDJSON")
    }

    /// Runs one of its commands to the end; `input` goes by standard input.
    fn ask<W: AsRef<OsStr>>(
        &self,
        key: &Path,
        words: impl IntoIterator<Item = W>,
        input: &str,
    ) -> Result<String> {
        interrupt::check()?;
        let mut command = Command::new(&self.program);
        command
            .args(words)
            .env("TOKENTRAIL_SERVER", &self.server)
            .env("TOKENTRAIL_KEY_FILE", key)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let typed = process::display(&command);
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {typed}"))?;
        let mut stdin = child.stdin.take().context("no standard input")?;
        // A command that does not read it has something else to say.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        let output = child.wait_with_output()?;
        ensure!(
            output.status.success(),
            "{typed} failed ({}): {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A clean stop: what arrived is on the disk already.
    pub fn stop(&mut self, limit: Duration) -> Option<ExitStatus> {
        self.group.stop(limit)
    }
}

/// Of the line that says that it is ready; a line that is being written is left for later.
fn address(said: &str) -> Option<&str> {
    said.split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
        .find_map(|line| line.trim().strip_prefix(READY))
}

fn private_folder(folder: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("cannot make {}", folder.display()))
}

fn private_file(path: &Path, text: &str) -> Result<()> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_that_of_a_whole_line() {
        for (said, expected) in [
            ("", None),
            ("tokentrail ready: http://127.0.0.1:4", None),
            (
                "x\ntokentrail ready: http://127.0.0.1:43\ny",
                Some("http://127.0.0.1:43"),
            ),
            ("tokentrail: tokentrail ready: no\n", None),
        ] {
            assert_eq!(address(said), expected, "{said:?}");
        }
    }
}
