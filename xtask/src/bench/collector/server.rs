//! A collector of the bench's own.

use crate::process::{self, Group};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

const READY: Duration = Duration::from_secs(120);
const STOP: Duration = Duration::from_secs(60);

pub struct Server {
    group: Group,
    address: String,
    pub ingest_key: PathBuf,
    analyst: String,
    agent: ureq::Agent,
}

/// What the server's process has used, by `/proc`.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Usage {
    /// User and system.
    pub cpu_seconds: f64,
    /// The most that was resident so far, in bytes.
    pub peak_memory: u64,
}

impl Usage {
    pub fn since(&self, before: &Self) -> Self {
        Self {
            cpu_seconds: self.cpu_seconds - before.cpu_seconds,
            ..*self
        }
    }
}

fn private(path: &Path, text: &str) -> Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    file.write_all(text.as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))
}

impl Server {
    /// With a data folder, and its keys beside that. `seal`: seconds between seals, with room for all that waits.
    pub fn start(collector: &Path, data: &Path, seal: Option<&str>) -> Result<Self> {
        let beside = |name: &str| data.with_extension(name);
        let config = beside("toml");
        let mut text = String::new();
        if let Some(seconds) = seal {
            text = format!("[inbox]\nmax_bytes = 17179869184\n[store]\nseal_seconds = {seconds}\n");
        }
        private(&config, &text)?;
        let log = beside("log");
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new(collector);
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--config"])
            .arg(&config)
            .arg("--data")
            .arg(data)
            .stdout(file.try_clone()?)
            .stderr(file);
        let mut group = Group::spawn(&mut command)?;
        let address = ready(&mut group, &log)?;
        let [ingest_key, analyst_key] = ["ingest", "analyst"].map(beside);
        if !ingest_key.exists() {
            let said = fs::read_to_string(&log).unwrap_or_default();
            let first = said
                .lines()
                .map(str::trim)
                .find(|line| line.starts_with("ttk_"))
                .context("the collector printed no first key")?;
            let first_key = beside("first");
            private(&first_key, first)?;
            let key = |role: &str, by: &Path| {
                process::output(
                    Command::new(collector)
                        .args(["access", "key", "--role", role, "--server"])
                        .arg(format!("http://{address}"))
                        .arg("--key-file")
                        .arg(by)
                        .arg("bench"),
                )
            };
            let admin_key = beside("admin");
            private(&admin_key, &key("admin", &first_key)?)?;
            private(&analyst_key, &key("analyst", &admin_key)?)?;
            private(&ingest_key, &key("ingest", &admin_key)?)?;
        }
        let analyst = fs::read_to_string(&analyst_key).context("cannot read the key")?;
        Ok(Self {
            group,
            address,
            ingest_key,
            analyst: format!("Bearer {}", analyst.trim()),
            agent: ureq::Agent::config_builder()
                .http_status_as_error(false)
                .proxy(None)
                .timeout_global(Some(Duration::from_secs(120)))
                .build()
                .new_agent(),
        })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The body of an answer, and how long it took.
    pub fn ask(&self, path: &str, body: &serde_json::Value) -> Result<(Vec<u8>, Duration)> {
        let text = serde_json::to_vec(body)?;
        let start = Instant::now();
        let mut answer = self
            .agent
            .post(format!("{}{path}", self.url()))
            .header("authorization", &self.analyst)
            .header("content-type", "application/json")
            .header("accept", "application/json")
            .send(&text[..])
            .with_context(|| format!("{path} was not answered"))?;
        let status = answer.status().as_u16();
        let said = answer
            .body_mut()
            .with_config()
            .limit(256 * 1024 * 1024)
            .read_to_vec()
            .context("an answer ended early")?;
        let took = start.elapsed();
        if status != 200 {
            bail!(
                "{path} {body} was answered with {status}: {}",
                String::from_utf8_lossy(&said)
            );
        }
        Ok((said, took))
    }

    pub fn usage(&self) -> Result<Usage> {
        let id = self.group.id();
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).context("the collector ended")?;
        // The name in parentheses may hold anything.
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok());
        // utime and stime, fields 14 and 15 (proc_pid_stat(5)).
        let (user, system) = (ticks(11), ticks(12));
        let used = user.zip(system).context("/proc/PID/stat is strange")?;
        let status = fs::read_to_string(format!("/proc/{id}/status"))?;
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .and_then(|peak| peak.trim().strip_suffix(" kB")?.parse::<u64>().ok())
            .context("/proc/PID/status has no VmHWM")?;
        Ok(Usage {
            cpu_seconds: (used.0 + used.1) / rustix::param::clock_ticks_per_second() as f64,
            peak_memory: peak * 1024,
        })
    }

    /// Waits until nothing waits to be sealed.
    pub fn sealed(&self, limit: Duration) -> Result<()> {
        let start = Instant::now();
        loop {
            let mut answer = self
                .agent
                .get(format!("{}/metrics", self.url()))
                .header("authorization", &self.analyst)
                .call()
                .context("no metrics")?;
            let text = answer.body_mut().read_to_string()?;
            let waiting = text
                .lines()
                .find_map(|line| line.strip_prefix("tokentrail_inbox_events "))
                .context("the metrics do not say what waits")?;
            if waiting.trim().parse::<f64>()? == 0.0 {
                return Ok(());
            }
            anyhow::ensure!(
                start.elapsed() < limit,
                "{waiting} events still wait to be sealed"
            );
            thread::sleep(Duration::from_millis(250));
        }
    }

    pub fn stop(mut self) -> Result<()> {
        let status = self.group.stop(STOP).context("the collector was gone")?;
        anyhow::ensure!(status.success(), "the collector ended with {status}");
        Ok(())
    }
}

/// The address that it listens at.
fn ready(group: &mut Group, log: &Path) -> Result<String> {
    let start = Instant::now();
    loop {
        let said = fs::read_to_string(log).unwrap_or_default();
        let ready = said
            .lines()
            .find_map(|line| line.strip_prefix("tokentrail ready: http://"));
        if let Some(address) = ready {
            return Ok(address.trim().to_owned());
        }
        if group.ended() || start.elapsed() > READY {
            bail!("the collector did not start: {said}");
        }
        thread::sleep(Duration::from_millis(20));
    }
}
