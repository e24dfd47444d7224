//! curl, 200 times a second for a minute: the share that is read, what is behind at the end, and the agent's CPU.

use super::programs::curl_words;
use super::watch::Watch;
use super::{First, launch};
use crate::bench::variant;
use crate::demo::cgroup;
use crate::process::{self, Group};
use crate::say;
use anyhow::{Result, ensure};
use serde::Serialize;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

const RATE: u64 = 200;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Flood {
    pub wanted_per_second: u64,
    pub per_second: f64,
    pub execs: u32,
    /// Requests that the server saw.
    pub asked: u32,
    pub read: u32,
    /// Events that came when the last program had ended.
    pub behind: u32,
    /// How long after that the last of them came.
    pub behind_milliseconds: f64,
    /// Of all the agent's processes, while programs were started.
    pub agent_cpu_seconds: f64,
    pub seconds: f64,
}

impl First<'_> {
    pub(super) fn flood(&mut self, folder: &Path) -> Result<Option<Flood>> {
        let Some(curl) = process::which("curl") else {
            return Ok(None);
        };
        let setting = self.setting;
        let (pace, seconds) = (setting.pace, setting.options.flood);
        let step = say::Step::start(format!("{RATE} execs of curl a second for {seconds} s"));
        let folder = folder.join("flood");
        let watch = Watch::start(setting.agent, self.scope, &folder, pace.seconds(120))?;
        let first = self.next;
        self.next += u32::try_from(RATE * seconds)?;
        let mut words: Vec<OsString> = vec![
            RATE.to_string().into(),
            seconds.to_string().into(),
            first.to_string().into(),
            self.server.address(false).into(),
            fs::canonicalize(curl)?.into(),
        ];
        words.extend(curl_words(&self.server.certificate, &self.credential));
        let program = self.launcher.folder.join(launch::FLOOD_PROGRAM);
        let log = folder.join("flood.log");
        let mut command = cgroup::enter(self.scope, &program);
        command
            .args(words)
            .stdout(File::create(&log)?)
            .stderr(File::create(folder.join("flood.err"))?);
        let cpu = variant::cpu(watch.id())?;
        let mut group = Group::spawn(&mut command)?;
        let limit = Duration::from_secs(seconds) + pace.seconds(120);
        let status = group.wait(Some(limit))?;
        let end = Instant::now();
        let cpu = variant::cpu(watch.id())? - cpu;
        let said = fs::read_to_string(&log)?;
        ensure!(status.success(), "the flood ended with {status}: {said}");
        let told: Vec<u64> = said
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        let [execs, _, milliseconds] = told[..] else {
            anyhow::bail!("the flood said {said:?}");
        };
        let numbers: Vec<u32> = (first..first + u32::try_from(execs)?).collect();
        let last = watch.settle(&numbers, pace.seconds(5))?;
        let read: Vec<Instant> = numbers.iter().filter_map(|n| watch.read(*n)).collect();
        let asked = numbers.iter().filter(|n| self.server.hello(**n).is_some());
        let flood = Flood {
            wanted_per_second: RATE,
            per_second: execs as f64 * 1_000.0 / milliseconds.max(1) as f64,
            execs: u32::try_from(execs)?,
            asked: asked.count() as u32,
            read: read.len() as u32,
            behind: read.iter().filter(|time| **time > end).count() as u32,
            behind_milliseconds: last.map_or(0.0, |last| {
                last.saturating_duration_since(end).as_secs_f64() * 1_000.0
            }),
            agent_cpu_seconds: cpu / 1e6,
            seconds: milliseconds as f64 / 1_000.0,
        };
        watch.stop(pace.seconds(20))?;
        step.done(say::Mark::Done);
        Ok(Some(flood))
    }
}
