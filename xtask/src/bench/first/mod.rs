//! How soon a program is watched, and how often its first handshake is read.
//!
//! Each program makes one request with a credential over TLS and ends. Its file is one that the agent has met
//! ([`File::Known`]), or a copy that was written by a process of the scope a second before or just before; the copy is
//! of a build that the agent has met, or of one that nobody has. All of that on a machine with nothing else to do and on
//! one whose cores are all busy, and with a server near by and one that is a round trip of 20 ms away. Taken are the time
//! from exec to the attached point, the time from exec to the first byte at the server, and whether an event came.
//!
//! Then [`flood`]: one program again and again, 200 times a second.
//!
//! Invariant: one program of the scope runs at a time, but in the flood. Server and bench are not in the scope.

mod copies;
mod flood;
mod launch;
mod programs;
mod report;
mod server;
mod watch;

use super::Pace;
use crate::demo::cgroup::{Below, Cgroup};
use crate::demo::secret;
use crate::process::Group;
use crate::workspace::Workspace;
use crate::{interrupt, say};
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use copies::Fresh;
use launch::Launcher;
use programs::{Errand, Name, Program};
use report::{Cell, Figures};
use serde::Serialize;
use server::Server;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use watch::Watch;

pub use report::Report;

#[derive(Args, Clone)]
#[group(id = "first-handshake")]
pub struct Options {
    /// First handshake: runs of each program and case [default: 100 up to 20 MB, 20 above]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    runs: Option<u32>,
    /// First handshake: only these programs
    #[arg(long, value_name = "NAME", value_enum, value_delimiter = ',')]
    program: Vec<Name>,
    /// First handshake: only files that are this to the agent
    #[arg(long, value_name = "CASE", value_enum, value_delimiter = ',')]
    file: Vec<File>,
    /// First handshake: seconds of execs at a steady rate; 0 leaves them out
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    flood: u64,
}

impl Options {
    /// For the bench in a machine.
    pub fn words(&self) -> Vec<String> {
        let mut words = vec![format!("--flood={}", self.flood)];
        words.extend(self.runs.map(|runs| format!("--runs={runs}")));
        let names = self.program.iter().filter_map(Name::to_possible_value);
        words.extend(names.map(|name| format!("--program={}", name.get_name())));
        let files = self.file.iter().filter_map(File::to_possible_value);
        words.extend(files.map(|file| format!("--file={}", file.get_name())));
        words
    }

    fn runs(&self, bytes: u64) -> u32 {
        self.runs.unwrap_or(if bytes <= SMALL { 100 } else { 20 })
    }
}

/// Bytes of a program that is run often.
const SMALL: u64 = 20_000_000;
/// Bytes of copies that are on the disk at a time.
const BATCH_BYTES: u64 = 600_000_000;
const BATCH: u64 = 10;
const ROUND_TRIP: Duration = Duration::from_millis(20);
/// Runs before it counts: the file is met, and in the page cache.
const WARM: u32 = 2;
/// What the agent gets to know a file of whom nothing is asked yet.
const SETTLED: Duration = Duration::from_secs(1);

/// What a program's file is to the agent when the program starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum File {
    /// It has run before
    Known,
    /// A copy that has been on the disk for a second, of a build that has run before
    SettledCopy,
    /// A copy that has been on the disk for a second, of a build that nobody has met
    SettledNew,
    /// A copy that was just written, of a build that has run before
    WrittenCopy,
    /// A copy that was just written, of a build that nobody has met
    WrittenNew,
}

impl File {
    const ALL: [Self; 5] = [
        Self::Known,
        Self::SettledCopy,
        Self::SettledNew,
        Self::WrittenCopy,
        Self::WrittenNew,
    ];

    fn text(self) -> &'static str {
        match self {
            Self::Known => "known",
            Self::SettledCopy => "1 s old, build known",
            Self::SettledNew => "1 s old, never met",
            Self::WrittenCopy => "written, build known",
            Self::WrittenNew => "written, never met",
        }
    }

    fn is_settled(self) -> bool {
        matches!(self, Self::SettledCopy | Self::SettledNew)
    }

    fn is_new_build(self) -> bool {
        matches!(self, Self::SettledNew | Self::WrittenNew)
    }
}

/// Builds what has to be built: in a virtual machine nothing can be.
pub fn prepare(folder: &Path) -> Result<()> {
    launch::prepare(folder)?;
    server::prepare(folder)?;
    programs::prepare(folder)
}

pub struct Setting<'a> {
    pub workspace: &'a Workspace,
    pub agent: &'a Path,
    pub folder: &'a Path,
    pub cgroup: &'a Cgroup,
    pub pace: Pace,
    pub options: &'a Options,
}

/// What the parts of this measurement share.
struct First<'a> {
    setting: &'a Setting<'a>,
    scope: &'a Path,
    server: Server,
    launcher: Launcher,
    credential: String,
    /// Of the next request.
    next: u32,
}

pub fn measure(setting: &Setting, report: &mut Report) -> Result<()> {
    let folder = setting.folder.join("first");
    let home = folder.join("home");
    fs::create_dir_all(&home).with_context(|| format!("cannot make {}", home.display()))?;
    let scope = Below::make(setting.cgroup.folder(), "first")?;
    let mut first = First {
        setting,
        scope: scope.folder(),
        server: Server::start(setting.folder, ROUND_TRIP, setting.pace.seconds(20))?,
        launcher: Launcher {
            folder: setting.folder.to_path_buf(),
            home,
            procs: scope.folder().join("cgroup.procs"),
        },
        credential: secret::opaque::<40>()?,
        next: 0,
    };
    let chosen =
        |name: &Name| setting.options.program.is_empty() || setting.options.program.contains(name);
    for name in Name::ALL.into_iter().filter(chosen) {
        match Program::find(name, setting.workspace, setting.folder) {
            Ok(program) => {
                if let Err(error) = first.program(&program, &folder, report) {
                    interrupt::check()?;
                    report.skip(name, format!("given up: {error:#}"));
                }
            }
            Err(error) => report.skip(name, format!("{error:#}")),
        }
    }
    if setting.options.flood > 0 {
        match first.flood(&folder) {
            Ok(flood) => report.flood = flood,
            Err(error) => {
                interrupt::check()?;
                report.skip(Name::Curl, format!("200 a second, given up: {error:#}"));
            }
        }
    }
    // Profiles and caches of the programs.
    let home = &first.launcher.home;
    fs::remove_dir_all(home).with_context(|| format!("cannot remove {}", home.display()))
}

impl First<'_> {
    /// All cases of one program, with an agent that has met nothing yet.
    fn program(&mut self, program: &Program, folder: &Path, report: &mut Report) -> Result<()> {
        let setting = self.setting;
        let folder = folder.join(program.name.text().replace([',', ' '], ""));
        let runs = setting.options.runs(program.bytes());
        let mut step = say::Step::start(format!("first handshake, {}", program.name.text()));
        let watch = Watch::start(
            setting.agent,
            self.scope,
            &folder,
            setting.pace.seconds(120),
        )?;
        // Known by its runs, or there is nothing to measure.
        let mut failure = None;
        for _ in 0..WARM {
            let run = self.run(program, None, false)?;
            failure = run.failure.or(failure);
        }
        if let Some(failure) = failure {
            step.done(say::Mark::Failed);
            report.skip(program.name, format!("it does not run here: {failure}"));
            return watch.stop(setting.pace.seconds(20));
        }
        thread::sleep(SETTLED);
        let places = copies::build_ids(&program.files)?;
        let wanted = &setting.options.file;
        for file in File::ALL {
            if !wanted.is_empty() && !wanted.contains(&file) {
                continue;
            }
            for busy in [false, true] {
                let _busy = busy.then(Busy::start).transpose()?;
                for far in [false, true] {
                    step.tick(file.text());
                    let mut measured = Vec::new();
                    self.case(program, (file, far), runs, &places, &folder, &mut measured)?;
                    let figures = self.figures(&watch, &measured)?;
                    report.add(Cell {
                        program: program.name,
                        bytes: program.bytes(),
                        file,
                        busy,
                        far,
                        figures,
                    });
                }
            }
        }
        step.done(say::Mark::Done);
        watch.stop(setting.pace.seconds(20))
    }

    /// So many runs of one case.
    fn case(
        &mut self,
        program: &Program,
        (file, far): (File, bool),
        runs: u32,
        places: &[u64],
        folder: &Path,
        measured: &mut Vec<Run>,
    ) -> Result<()> {
        let limit = self.setting.pace.seconds(60);
        let places = file.is_new_build().then_some(places);
        let fresh = |number: u32| Fresh::make(program, &folder.join(number.to_string()), places);
        let batch = (BATCH_BYTES / program.bytes().max(1)).clamp(1, BATCH) as u32;
        while (measured.len() as u32) < runs {
            interrupt::check()?;
            if !file.is_settled() {
                let copy = match file {
                    File::Known => None,
                    _ => Some(fresh(self.next)?),
                };
                measured.push(self.run(program, copy.as_ref().map(|copy| (copy, true)), far)?);
                continue;
            }
            let count = batch.min(runs - measured.len() as u32);
            let copies = (0..count).map(|number| fresh(self.next + number));
            let copies = copies.collect::<Result<Vec<Fresh>>>()?;
            for copy in &copies {
                self.launcher.write(&copy.copies, limit)?;
            }
            thread::sleep(SETTLED);
            for copy in &copies {
                measured.push(self.run(program, Some((copy, false)), far)?);
            }
        }
        Ok(())
    }

    /// One run of the program, or of its copy, which is written first if it is to be.
    fn run(&mut self, program: &Program, copy: Option<(&Fresh, bool)>, far: bool) -> Result<Run> {
        let number = self.next;
        self.next += 1;
        let url = self.server.url(far, number);
        let (words, variables) = program.call(&Errand {
            url: &url,
            credential: &self.credential,
            certificate: &self.server.certificate,
            folder: self.setting.folder,
            home: &self.launcher.home,
        });
        let file = match copy {
            Some((copy, _)) => copy.program(),
            None => program.files.first().context("a program is a file")?,
        };
        let written = match copy {
            Some((copy, true)) => copy.copies.as_slice(),
            _ => &[],
        };
        let mut command = self.launcher.command(written, file, &words);
        command.envs(variables);
        if let Some((copy, _)) = copy {
            command.env("LD_LIBRARY_PATH", copy.folder());
        }
        let limit = self.setting.pace.seconds(60);
        let ran = self.launcher.run(&mut command, limit)?;
        let files = match copy {
            Some((copy, _)) => copy.copies.iter().map(|copy| copy.to.clone()).collect(),
            None => program.files.clone(),
        };
        Ok(Run {
            number,
            pid: ran.pid,
            files,
            executed: ran.executed,
            ended: now()?,
            failure: ran.failure,
        })
    }

    /// What became of these runs.
    fn figures(&self, watch: &Watch, measured: &[Run]) -> Result<Figures> {
        let numbers: Vec<u32> = measured.iter().map(|run| run.number).collect();
        watch.settle(&numbers, self.setting.pace.seconds(2))?;
        let attached = watch.attached()?;
        let mut figures = Figures::default();
        for run in measured {
            figures.runs += 1;
            let milliseconds = |time: u64| time as f64 / 1e6;
            let hello = self.server.hello(run.number);
            let Some(hello) = hello.filter(|hello| *hello >= run.executed) else {
                let failure = run.failure.clone();
                figures.failure = failure.or(figures.failure);
                continue;
            };
            figures.asked += 1;
            figures.read += u32::from(watch.read(run.number).is_some());
            figures.hello.push(milliseconds(hello - run.executed));
            let point = watch::first_of(&attached, run);
            figures.attached.extend(point.map(milliseconds));
        }
        figures.sort();
        Ok(figures)
    }
}

/// One run that is over.
struct Run {
    number: u32,
    pid: u32,
    /// That it was made of.
    files: Vec<PathBuf>,
    /// Nanoseconds since the epoch.
    executed: u64,
    ended: u64,
    failure: Option<String>,
}

fn now() -> Result<u64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(u64::try_from(since.as_nanos())?)
}

/// A process for each core that does nothing else than use it; ended with its value.
struct Busy(#[expect(dead_code, reason = "held until they are ended")] Vec<Group>);

impl Busy {
    fn start() -> Result<Self> {
        let cores = thread::available_parallelism()?.get();
        let spin = || Group::spawn(Command::new("/bin/sh").args(["-c", "while :; do :; done"]));
        Ok(Self((0..cores).map(|_| spin()).collect::<Result<_>>()?))
    }
}
