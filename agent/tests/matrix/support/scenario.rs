//! A running `scenario.py`: its steps, and the exchanges as the program itself knows them.

use super::expect::Expected;
use super::fixtures;
use super::lab::Lab;
use super::process::{Place, Program, Spec};
use super::seconds;
use super::servers::{Server, Target};
use super::token;
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

/// One exchange as the client's process knows it.
#[derive(Clone, Debug, Deserialize)]
pub struct Exchange {
    pub cell: String,
    pub pid: u32,
    pub status: u16,
    local: Option<(IpAddr, u16)>,
    peer: Option<(IpAddr, u16)>,
}

impl Exchange {
    pub fn local(&self) -> Option<SocketAddr> {
        self.local.map(SocketAddr::from)
    }

    pub fn peer(&self) -> Option<SocketAddr> {
        self.peer.map(SocketAddr::from)
    }
}

/// One request that the scenario shall make.
#[derive(Clone, Debug)]
pub struct Request {
    pub cell: String,
    pub path: String,
    pub credential: String,
    /// Further keys for the scenario, such as `way` or `form`.
    pub more: Value,
}

pub struct Scenario {
    program: Program,
    name: &'static str,
    /// Exchanges read while waiting for a step.
    done: VecDeque<Exchange>,
    /// Whatever else it said.
    pub facts: Vec<Value>,
    /// What it said of the step it stands at.
    pub at: Value,
}

/// What to run, before it runs.
pub struct Script<'a> {
    lab: &'a Lab,
    name: &'static str,
    targets: Value,
    requests: Vec<Value>,
    more: Value,
    spec: Spec,
}

impl<'a> Script<'a> {
    /// Over the system's Python.
    pub fn new(lab: &'a Lab, name: &'static str) -> Result<Self> {
        let spec = Spec::new(fixtures::python()?).arg(lab.path("scenario.py"));
        Ok(Self {
            lab,
            name,
            targets: json!({}),
            requests: Vec::new(),
            more: json!({}),
            spec,
        })
    }

    /// `scenario_http2.mjs`, over the system's node.
    pub fn node(lab: &'a Lab, name: &'static str) -> Result<Self> {
        let program = fixtures::system("/usr/bin/node")?;
        let mut script = Self::new(lab, name)?;
        script.spec = Spec::new(program).arg(lab.path("scenario_http2.mjs"));
        Ok(script)
    }

    /// `scenario_https.mjs`, over the system's node.
    pub fn node_https(lab: &'a Lab) -> Result<Self> {
        let mut script = Self::node(lab, "https")?;
        let program = script.spec.program.clone();
        script.spec = Spec::new(program).arg(lab.path("scenario_https.mjs"));
        Ok(script)
    }

    pub fn target(self, target: &Target) -> Self {
        self.named_target("main", target)
    }

    pub fn named_target(mut self, name: &str, target: &Target) -> Self {
        self.targets[name] = json!({
            "host": target.address.ip(), "port": target.address.port(), "tls": target.wire.is_tls(),
        });
        self
    }

    pub fn unix_target(mut self, path: PathBuf) -> Self {
        self.targets["main"] = json!({"unix": path});
        self
    }

    pub fn requests<'r>(mut self, requests: impl IntoIterator<Item = &'r Request>) -> Self {
        for request in requests {
            let mut value = json!({
                "cell": request.cell, "path": request.path, "credential": request.credential,
            });
            if let (Value::Object(into), Value::Object(from)) = (&mut value, &request.more) {
                into.extend(from.clone());
            }
            self.requests.push(value);
        }
        self
    }

    /// A further key of the scenario's configuration.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.more[name] = value.into();
        self
    }

    /// Another interpreter than the system's.
    pub fn program(mut self, program: PathBuf) -> Self {
        self.spec.program = program;
        self
    }

    /// Started by these words, which end by running what stands behind them.
    pub fn below(mut self, words: &[&str]) -> Self {
        let program = std::mem::replace(&mut self.spec.program, words[0].into());
        let args = std::mem::take(&mut self.spec.args);
        self.spec.args.extend(words[1..].iter().map(Into::into));
        self.spec.args.push(program.into());
        self.spec.args.extend(args);
        self
    }

    pub fn env(mut self, name: &str, value: impl Into<std::ffi::OsString>) -> Self {
        self.spec = self.spec.env(name, value);
        self
    }

    pub fn executable(&self) -> PathBuf {
        self.spec.executable()
    }

    pub fn start(self, place: &Place) -> Result<Scenario> {
        let mut config = json!({
            "scenario": self.name, "targets": self.targets, "requests": self.requests,
            "ca": self.lab.certificate(), "folder": self.lab.folder(),
        });
        if let (Value::Object(into), Value::Object(from)) = (&mut config, self.more) {
            into.extend(from);
        }
        let spec = self
            .spec
            .stdin(format!("{config}\n"))
            .folder(self.lab.folder());
        let program = Program::start(&spec, place)?;
        Ok(Scenario {
            program,
            name: self.name,
            done: VecDeque::new(),
            facts: Vec::new(),
            at: Value::Null,
        })
    }

    /// Starts it and waits for its end: a scenario without steps.
    pub fn run(self, place: &Place) -> Result<Vec<Exchange>> {
        self.start(place)?.finish()
    }
}

impl Scenario {
    pub fn pid(&self) -> u32 {
        self.program.pid()
    }

    /// Waits until it stands at the step `name`.
    pub fn reach(&mut self, name: &str) -> Result<()> {
        loop {
            let value: Value = self.value()?;
            match value["step"].as_str() {
                Some(step) if step == name => {
                    self.at = value;
                    return Ok(());
                }
                Some(step) => bail!("{} stands at step {step}, not {name}", self.name),
                None => self.keep(value)?,
            }
        }
    }

    /// Lets it go on from the step it stands at.
    pub fn go(&mut self) -> Result<()> {
        self.program.send("go\n")
    }

    /// The next exchange.
    pub fn exchange(&mut self) -> Result<Exchange> {
        loop {
            if let Some(done) = self.done.pop_front() {
                return Ok(done);
            }
            let value = self.value()?;
            self.keep(value)?;
        }
    }

    /// Lets it go on to its end; whatever it says beside exchanges, which are kept.
    pub fn facts_to_the_end(&mut self) -> Result<Vec<Value>> {
        self.program.close_stdin();
        self.program.wait(seconds(120))?;
        for line in self.program.remains().0 {
            let value = serde_json::from_str(&line)
                .with_context(|| format!("scenario {} said {line}", self.name))?;
            self.keep(value)?;
        }
        Ok(std::mem::take(&mut self.facts))
    }

    /// Waits for the end of what it has become; the last that was said.
    pub fn last_words(mut self) -> Result<String> {
        self.program.close_stdin();
        let status = self.program.wait(seconds(120))?;
        let (stdout, stderr) = self.program.remains();
        ensure!(
            status.success(),
            "{}: {status}: {}",
            self.name,
            stderr.trim()
        );
        stdout.last().cloned().context("it said nothing")
    }

    /// Waits for its end and gives the exchanges not taken yet.
    pub fn finish(mut self) -> Result<Vec<Exchange>> {
        let finished = self.program.finish()?;
        if !finished.status.success() {
            bail!(
                "scenario {}: {}: {}",
                self.name,
                finished.status,
                finished.stderr.trim()
            );
        }
        for line in finished.stdout {
            let value: Value = serde_json::from_str(&line)
                .with_context(|| format!("{} said {line}", self.name))?;
            if value.get("cell").is_some() {
                self.done.push_back(serde_json::from_value(value)?);
            }
        }
        Ok(self.done.into())
    }

    fn value(&mut self) -> Result<Value> {
        let line = self.program.line()?;
        serde_json::from_str(&line).with_context(|| format!("scenario {} said {line}", self.name))
    }

    fn keep(&mut self, value: Value) -> Result<()> {
        if value.get("cell").is_some() {
            self.done.push_back(serde_json::from_value(value)?);
        } else {
            self.facts.push(value);
        }
        Ok(())
    }
}

/// Requests `NAME-00`, `NAME-01`, ..., each with its own credential.
pub fn requests(lab: &Lab, name: &str, count: usize) -> Vec<Request> {
    (0..count)
        .map(|number| request(lab, &format!("{name}-{number:02}"), json!({})))
        .collect()
}

pub fn request(lab: &Lab, cell: &str, more: Value) -> Request {
    let suffix = more
        .get("suffix")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    Request {
        cell: cell.to_owned(),
        path: lab.cell_path(cell) + &suffix,
        credential: token::opaque(),
        more,
    }
}

/// Every request by node, a stream of one connection to that listener; both events of each.
pub fn over_http2(
    lab: &Lab,
    server: &Server,
    target: &Target,
    highest: Option<&str>,
    scenario: &'static str,
    asked: &[Request],
) -> Result<Vec<Expected>> {
    let script = Script::node(lab, scenario)?;
    let executable = script.executable();
    let done = script
        .target(target)
        .requests(asked)
        .with("max_version", highest)
        .run(&lab.inside())?;
    both_sides(&done, asked, server, &executable)
}

/// Both events of every exchange of a scenario that is over.
pub fn both_sides(
    exchanges: &[Exchange],
    requests: &[Request],
    server: &Server,
    executable: &Path,
) -> Result<Vec<Expected>> {
    let mut expected = Vec::new();
    for exchange in exchanges {
        let request = requests
            .iter()
            .find(|request| request.cell == exchange.cell)
            .context("its request")?;
        let fact = server.fact(&request.path)?;
        ensure!(
            fact.status == exchange.status,
            "{}: the client got {}",
            request.cell,
            exchange.status
        );
        expected.extend(Expected::exchanged(
            &request.credential,
            &fact,
            server,
            exchange,
            executable.into(),
        )?);
    }
    ensure!(
        exchanges.len() == requests.len(),
        "{} of {} exchanges",
        exchanges.len(),
        requests.len()
    );
    Ok(expected)
}
