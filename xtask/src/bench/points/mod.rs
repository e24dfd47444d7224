//! What the key-log points cost by themselves: the agent with its points, beside the agent with its socket hooks alone.
//!
//! Two cgroups: one is the agent's scope, the other is not. In the first are servers whose programs have TLS in them, so
//! that they have points, but speak cleartext: what the agent reads of them is the same with points and without, and
//! what differs is what a point costs the program that has it. In the other is nginx with TLS and cleartext. A small
//! program measures how often it can fork, make a thread and start another program, in both. Rounds and ratios are as
//! in the rest of the bench.
//!
//! Invariant: nothing that is measured sends a credential.

mod report;

use super::costs::SHAPE;
use super::variant::Running;
use super::{Pace, load, servers};
use crate::demo::cgroup::{self, Below, Cgroup};
use crate::process::{self, Group};
use crate::server::Server;
use crate::{interrupt, say, setup};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

pub use report::Report;

const FORKS: &str = include_str!("forks.c");
const RATES: &str = include_str!("rates.c");
const GO: &str = include_str!("plain.go");
const NODE: &str = include_str!("plain.mjs");
const THREADS: &str = include_str!("threads.py");

/// Connections that wrk holds; to the server with 500 threads one for each.
const CONNECTIONS: u32 = 8;
const MANY: u32 = 500;
/// For points to be attached, once the agent is ready.
const SETTLED: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Variant {
    Nothing,
    /// The agent without points.
    Hooks,
    /// The agent as it is.
    Points,
}

impl Variant {
    const ALL: [Self; 3] = [Self::Nothing, Self::Hooks, Self::Points];

    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Hooks => "hooks alone",
            Self::Points => "agent",
        }
    }
}

/// One row.
pub struct Subject {
    pub name: &'static str,
    /// Not in the agent's scope.
    pub outside: bool,
    work: Work,
}

enum Work {
    Requests {
        url: String,
        connections: u32,
        close: bool,
    },
    /// An argument of `rates.c`.
    Rate(&'static str),
}

pub struct Setting<'a> {
    pub agent: &'a Path,
    pub folder: &'a Path,
    pub cgroup: &'a Cgroup,
    pub pace: Pace,
    pub seconds: u64,
    pub rounds: u32,
}

/// Builds what has to be built: in a virtual machine nothing can be.
pub fn prepare(folder: &Path) -> Result<()> {
    servers::build_c(folder, "forks", FORKS)?;
    servers::build_c(folder, "rates", RATES)?;
    for (name, text) in [
        ("plain.go", GO),
        ("plain.mjs", NODE),
        ("threads.py", THREADS),
    ] {
        fs::write(folder.join(name), text)?;
    }
    servers::build_go(&folder.join("plain.go"), &folder.join("plain"), &[])
}

pub fn measure(setting: &Setting, report: &mut Report) -> Result<()> {
    let folder = setting.folder;
    let inside = Below::make(setting.cgroup.folder(), "inside")?;
    let outside = Below::make(setting.cgroup.folder(), "outside")?;
    let limit = setting.pace.seconds(20);
    let watched = Server::start(inside.folder(), &folder.join("nginx-inside"), &SHAPE, limit)?;
    let other = Server::start(
        outside.folder(),
        &folder.join("nginx-outside"),
        &SHAPE,
        limit,
    )?;
    let mut subjects = vec![
        requests("nginx", http(watched.site.http)),
        away("nginx, HTTPS keep-alive", https(other.site.https), false),
        away("nginx, HTTPS, new", https(other.site.https), true),
        away("nginx, cleartext", http(other.site.http), false),
    ];
    let mut groups = Vec::new();
    for (name, words) in watched_servers(folder) {
        let certificate = &watched.site.certificate;
        let started = words.and_then(|words| {
            servers::start(inside.folder(), folder, name, &words, certificate, limit)
        });
        match started {
            Ok((group, port)) => {
                groups.push(group);
                subjects.push(requests(name, http(port)));
            }
            Err(error) => say::line(&format!(" - no {name}: {error:#}")),
        }
    }
    for (outside, name, mode) in [
        (false, "fork", "fork"),
        (false, "pthread_create, join", "thread"),
        (false, "exec", "exec"),
        (true, "fork", "fork"),
        (true, "pthread_create, join", "thread"),
        (true, "exec", "exec"),
    ] {
        let work = Work::Rate(mode);
        subjects.push(Subject {
            name,
            outside,
            work,
        });
    }
    subjects.sort_by_key(|subject| subject.outside);
    let points = Points {
        setting,
        inside: inside.folder(),
        outside: outside.folder(),
        configurations: configurations(setting, inside.folder(), report)?,
    };
    points.rounds(&subjects, report)
}

/// Each by its name, with its program and the first of its arguments.
fn watched_servers(folder: &Path) -> [(&'static str, Result<Vec<PathBuf>>); 4] {
    let node = process::which("node").context("there is no node");
    let python = setup::system_python().context("there is no python3");
    [
        (GO_SERVER, Ok(vec![folder.join("plain")])),
        (
            "node",
            node.map(|node| vec![node, folder.join("plain.mjs")]),
        ),
        (
            THREAD_SERVER,
            python.map(|python| vec![python, folder.join("threads.py")]),
        ),
        (FORK_SERVER, Ok(vec![folder.join("forks")])),
    ]
}

const GO_SERVER: &str = "Go";
const THREAD_SERVER: &str = "Python, 500 threads";
const FORK_SERVER: &str = "fork per connection";

fn requests(name: &'static str, url: String) -> Subject {
    let close = name == FORK_SERVER;
    let connections = if name == THREAD_SERVER {
        MANY
    } else {
        CONNECTIONS
    };
    Subject {
        name,
        outside: false,
        work: Work::Requests {
            url,
            connections,
            close,
        },
    }
}

fn away(name: &'static str, url: String, close: bool) -> Subject {
    Subject {
        name,
        outside: true,
        work: Work::Requests {
            url,
            connections: CONNECTIONS,
            close,
        },
    }
}

fn http(port: u16) -> String {
    format!("http://127.0.0.1:{port}/v1/items")
}

fn https(port: u16) -> String {
    format!("https://127.0.0.1:{port}/v1/items")
}

/// Of each variant with an agent. One that this agent does not know is left out, and the report says so.
fn configurations(
    setting: &Setting,
    scope: &Path,
    report: &mut Report,
) -> Result<Vec<(Variant, PathBuf)>> {
    let mut configurations = Vec::new();
    for (variant, name, more) in [
        (
            Variant::Hooks,
            "hooks.toml",
            "[capture]\npoints = \"off\"\n",
        ),
        (Variant::Points, "points.toml", ""),
    ] {
        let file = setting.folder.join(name);
        let scope = format!("cgroup:{}", scope.display());
        let text = format!("[agent]\nscope = [{scope:?}]\n[stdout]\nformat = \"ndjson\"\n{more}");
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        let mut check = Command::new(setting.agent);
        match process::output(check.args(["config", "check"]).arg(&file)) {
            Ok(_) => configurations.push((variant, file)),
            Err(error) if variant == Variant::Hooks => {
                report.without_hooks = Some(format!("{error:#}"))
            }
            Err(error) => return Err(error),
        }
    }
    Ok(configurations)
}

struct Points<'a> {
    setting: &'a Setting<'a>,
    inside: &'a Path,
    outside: &'a Path,
    configurations: Vec<(Variant, PathBuf)>,
}

impl Points<'_> {
    fn rounds(&self, subjects: &[Subject], report: &mut Report) -> Result<()> {
        for round in 0..self.setting.rounds {
            let title = format!("points, round {} of {}", round + 1, self.setting.rounds);
            let mut step = say::Step::start(title);
            for turn in 0..Variant::ALL.len() {
                let variant = Variant::ALL[(turn + round as usize) % Variant::ALL.len()];
                step.tick(variant.name());
                self.round((round, variant), subjects, report)?;
            }
            step.done(say::Mark::Done);
        }
        Ok(())
    }

    fn round(
        &self,
        (round, variant): (u32, Variant),
        subjects: &[Subject],
        report: &mut Report,
    ) -> Result<()> {
        let Setting {
            agent,
            folder,
            pace,
            ..
        } = *self.setting;
        let limit = pace.seconds(120);
        let configuration = self.configurations.iter().find(|(of, _)| *of == variant);
        let mut running = match (variant, configuration) {
            (Variant::Nothing, _) => None,
            (_, None) => return Ok(()),
            (_, Some((_, file))) => Some(Running::agent(agent, self.inside, file, folder, limit)?),
        };
        thread::sleep(SETTLED);
        for subject in subjects {
            interrupt::check()?;
            if let Some(rate) = self.rate(subject)? {
                report.add(round, variant, subject, rate);
            }
        }
        if let Some(running) = &mut running {
            running.stop(limit)?;
        }
        Ok(())
    }

    fn rate(&self, subject: &Subject) -> Result<Option<f64>> {
        let Setting {
            folder,
            seconds,
            pace,
            ..
        } = *self.setting;
        match &subject.work {
            Work::Requests {
                url,
                connections,
                close,
            } => load::anonymous(folder, url, *connections, *close, seconds, pace)
                .context(subject.name),
            Work::Rate(mode) => {
                let scope = if subject.outside {
                    self.outside
                } else {
                    self.inside
                };
                let log = folder.join("rates.log");
                let file = fs::File::create(&log)?;
                let mut command = cgroup::enter(scope, &folder.join("rates"));
                command
                    .args([mode, seconds.to_string().as_str()])
                    .stdout(file.try_clone()?)
                    .stderr(file);
                let limit = Duration::from_secs(seconds) + pace.seconds(30);
                let status = Group::spawn(&mut command)?.wait(Some(limit))?;
                let said = fs::read_to_string(&log)?;
                anyhow::ensure!(status.success(), "{}: {status}: {said}", subject.name);
                let rate = said.trim().parse();
                Ok(Some(rate.with_context(|| format!("no rate: {said:?}"))?))
            }
        }
    }
}
