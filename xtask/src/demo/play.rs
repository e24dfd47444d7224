//! The play itself: collector, agent, server and clients, in this order, and what both said in the end.

use super::agent::Agent;
use super::cast;
use super::cgroup::Cgroup;
use super::collector::Collector;
use super::held;
use super::verdict::{self, Expected};
use crate::process::{Group, quote};
use crate::server::{Server, Shape};
use crate::workspace::Workspace;
use crate::{interrupt, say, setup};
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// What was built.
pub struct Programs {
    pub agent: PathBuf,
    pub collector: Option<PathBuf>,
}

/// Where it is played, and how fast.
pub struct Stage<'a> {
    /// What stays, for people to look at.
    pub folder: &'a Path,
    /// For databases, which a folder that a virtual machine shares with its host cannot hold; else the same.
    pub state: PathBuf,
    pub pace: Pace,
}

const SHAPE: Shape = Shape {
    main: "",
    connections: 64,
    http: "ssl_protocols TLSv1.2 TLSv1.3;",
    listen: "",
    locations: r#"location /refused/ { return 401 '{"error":"invalid_token"}\n'; }"#,
};

/// How long things may take: a machine without hardware virtualisation is ten to twenty times slower.
#[derive(Clone, Copy)]
pub struct Pace(u32);

impl Pace {
    pub const HERE: Self = Self(1);
    pub const EMULATED: Self = Self(15);

    /// For what goes on beside; nothing where that is quick.
    fn rest(self) -> Duration {
        Duration::from_secs(u64::from(self.0 - Self::HERE.0))
    }

    fn seconds(self, count: u64) -> Duration {
        Duration::from_secs(count) * self.0
    }
}

/// Returns whether everything that was expected was seen, and found.
pub fn play(workspace: &Workspace, programs: &Programs, stage: &Stage) -> Result<bool> {
    say::heading("demo");
    let start = Instant::now();
    let Stage {
        folder,
        state,
        pace,
    } = stage;
    let cgroup = Cgroup::make(&folder.join("cgroup"))?;
    // Declared in this order so that on every way out the clients and nginx end before the agent, it before the
    // collector and the cgroup.
    let mut collector = match &programs.collector {
        Some(program) => {
            let log = folder.join("collector.log");
            Some(Collector::start(program, state, &log, pace.seconds(30))?)
        }
        None => None,
    };
    let delivering = collector
        .as_ref()
        .map(|collector| collector.agent_configuration(pace.seconds(3)))
        .transpose()?;
    let mut agent = Agent::start(
        &programs.agent,
        cgroup.folder(),
        folder,
        delivering.as_deref(),
        pace.seconds(15),
    )?;
    let server = Server::start(
        cgroup.folder(),
        &folder.join("nginx"),
        &SHAPE,
        pace.seconds(5),
    )?;
    say::line(&format!(
        "   scope: the cgroup {} and nothing else\n   server: nginx at http://localhost:{} and https://localhost:{}\n",
        cgroup.folder().display(),
        server.site.http,
        server.site.https
    ));
    let acts = cast::cast(&server.site, &setup::python(workspace))?;
    rehearse(&acts, &cgroup, *pace)?;
    let mut expected = Vec::new();
    for act in acts {
        let fingerprint = agent.fingerprint(&act.secret)?;
        let (pid, failed) = perform(&act, expected.len(), &cgroup, folder, *pace)?;
        expected.push(Expected {
            act,
            fingerprint,
            pid,
            failed,
        });
    }
    wait_for_events(&agent, &expected, pace.seconds(3))?;
    let mut good = stopped("agent", agent.stop(pace.seconds(8)));
    drop(server);

    let text = fs::read_to_string(&agent.events)
        .with_context(|| format!("cannot read {}", agent.events.display()))?;
    let written = verdict::events(&text);
    let verdict = verdict::judge(&expected, &written);
    good &= verdict.is_good();
    println!();
    println!("== what was expected, and what was seen");
    for line in verdict.lines() {
        println!("{line}");
    }
    if let Some(collector) = &mut collector {
        good &= ask(collector, &agent, &expected, &written)?;
        good &= stopped("collector", collector.stop(pace.seconds(15)));
    }
    tell_where(programs, stage, &agent, &expected);
    println!("   took {}", say::elapsed(start.elapsed()));
    Ok(good)
}

/// What stays, and how to go on with it.
fn tell_where(programs: &Programs, stage: &Stage, agent: &Agent, expected: &[Expected]) {
    println!();
    println!("   events as NDJSON: {}", agent.events.display());
    println!("   the agent's log:  {}", agent.log.display());
    let (Some(program), Some(leaked)) = (&programs.collector, expected.first()) else {
        return;
    };
    let word = |path: &Path| quote(&path.to_string_lossy());
    let (program, data) = (word(program), Collector::data(stage.folder));
    println!("   the collector's data: {}", data.display());
    println!("   to start it again, and to ask it in another shell:");
    println!("     {program} serve --data {}", word(&data));
    println!(
        "     {program} trail --key-file {} {}",
        word(&Collector::analyst_key(stage.folder)),
        leaked.fingerprint
    );
}

/// What a person would ask it after a leak, and then everything that it has.
fn ask(
    collector: &Collector,
    agent: &Agent,
    expected: &[Expected],
    written: &[Value],
) -> Result<bool> {
    let leaked = expected.first().context("nobody played")?;
    let (typed, story) = collector.trail(&leaked.act.secret, agent)?;
    println!();
    println!("== the first of the credentials has leaked: its trail, found by the collector");
    println!("$ {typed}");
    print!("{story}");
    let found = collector.events()?;
    let verdict = verdict::judge(expected, &found);
    let held = held::compare(written, &found);
    println!();
    println!("== what was expected, and what the collector found");
    for line in verdict.lines().iter().filter(|line| line.starts_with(" !")) {
        println!("{line}");
    }
    println!(
        "   {} of {} expected events found, each once, {} unexpected",
        verdict.seen(),
        verdict.wanted(),
        verdict.strangers
    );
    println!("   {}", held.line());
    Ok(verdict.is_good() && held.is_good())
}

/// Says so if it did not end well.
fn stopped(name: &str, status: Option<ExitStatus>) -> bool {
    let good = status.is_some_and(|status| status.success());
    if !good {
        println!(
            " ! the {name} did not stop cleanly ({})",
            status.map_or_else(|| "unknown".to_owned(), |status| status.to_string())
        );
    }
    good
}

/// Starts each program once. The first handshake of a file that the agent has never met may be over before the file is
/// searched (README, "What it cannot see"), and a file whose search takes too long is given up: of node, whose TLS is
/// inside of it, 100 MB are searched, so an emulated machine gets the time to do nothing else meanwhile.
fn rehearse(acts: &[cast::Act], cgroup: &Cgroup, pace: Pace) -> Result<()> {
    let programs: BTreeSet<&Path> = acts.iter().map(cast::Act::program).collect();
    for program in programs {
        let mut command = cgroup.command(program);
        command.arg("--version").env_clear();
        let mut group = Group::spawn(command.stdout(Stdio::null()).stderr(Stdio::null()))?;
        // A program that cannot even do this says why when it plays.
        let _ = group.wait(Some(pace.seconds(10)));
        let start = Instant::now();
        while start.elapsed() < pace.rest() {
            interrupt::check()?;
            thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

/// Runs one client to its end and returns its process id, and how it failed if it did.
fn perform(
    act: &cast::Act,
    number: usize,
    cgroup: &Cgroup,
    folder: &Path,
    pace: Pace,
) -> Result<(u32, Option<String>)> {
    let programs = folder.join("programs");
    fs::create_dir_all(&programs)?;
    let name = act.name.replace(' ', "-");
    let log = programs.join(format!("{:02}-{name}.log", number + 1));
    let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = act.command(cgroup);
    let mut group = Group::spawn(command.stdout(file.try_clone()?).stderr(file))?;
    let outcome = group.wait(Some(pace.seconds(10)));
    interrupt::check()?;
    let failed = match outcome {
        Ok(status) if status.success() => None,
        Ok(status) => Some(format!("{status}, see {}", log.display())),
        // Not the error's own words: they hold the command line, and that holds the credential.
        Err(_) => Some("it did not end in time".to_owned()),
    };
    Ok((group.id(), failed))
}

/// Until every expected event is there, or `limit` is over.
fn wait_for_events(agent: &Agent, expected: &[Expected], limit: Duration) -> Result<()> {
    let start = Instant::now();
    while agent.is_running() && start.elapsed() < limit {
        interrupt::check()?;
        let text = fs::read_to_string(&agent.events).unwrap_or_default();
        if verdict::complete(expected, &verdict::events(&text)) {
            break;
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
