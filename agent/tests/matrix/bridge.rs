//! TLS connections that were open before the agent, of programs with different libraries: read on the exact socket where
//! the library moves the socket's bytes itself, listed where it does not, and nothing is left of it afterwards.

use crate::support::agent::{Agent, Options};
use crate::support::event::Event;
use crate::support::expect::{Expectations, Expected, Who, conclude, stop, unread_in};
use crate::support::lab::Lab;
use crate::support::process::{Program, Spec};
use crate::support::programs::{Trial, Tried};
use crate::support::report::Cells;
use crate::support::scenario::{Request, Scenario, Script, both_sides, request, requests};
use crate::support::servers::{Fact, Server, Target, Wire};
use crate::support::{fixtures, nginx, seconds, turn, wait_for};
use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::json;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Requests of each program; the first is over before the agent starts.
const REQUESTS: usize = 4;

#[test]
fn bridge() {
    let Some(_turn) = turn("bridge") else { return };
    let lab = Lab::new("bridge").unwrap();
    let mut cells = Cells::new("bridge");
    let mut expected = Expectations::default();
    let web = nginx::start(&lab, &lab.inside(), None).unwrap();

    let mut steered = Vec::new();
    let late = |client, wire, http2| Tried::both(client, "nginx", wire, http2, Trial::Late);
    for (name, client, wire) in [
        ("sockets", "python", Wire::Tls12),
        ("sockets", "python", Wire::Tls13),
        ("requests", "requests", Wire::Tls13),
    ] {
        let cell = format!("{name}-{}", wire.name());
        match Steered::start(&lab, &web, name, wire) {
            Ok(one) => {
                for request in &one.asked[1..] {
                    if request.cell.ends_with(KEPT) {
                        cells.about(&request.cell, late(client, wire, false));
                    }
                }
                steered.push(one);
            }
            Err(error) => cells.skip(&cell, &format!("{error:#}")),
        }
    }
    let mut paced = Vec::new();
    for (cell, client, listener, wire) in [
        ("curl-tls12", "curl", "tls12", Wire::Tls12),
        ("curl-tls13", "curl", "tls13", Wire::Tls13),
        ("curl-h2", "curl", "h2", Wire::Tls13),
        ("wget-tls13", "wget", "tls13", Wire::Tls13),
    ] {
        cells.about(cell, late(client, wire, listener == "h2"));
        let target = web.listener(listener, wire);
        let spec = if client == "wget" { wget } else { curl };
        match Paced::start(&lab, &web, cell, &target, spec) {
            Ok(Some(one)) => paced.push(one),
            Ok(None) => cells.skip(cell, "it was through before it could be stopped"),
            Err(error) => cells.skip(cell, &format!("{error:#}")),
        }
    }
    let node = node(&lab, &web);

    let options = Options {
        log: Some("info"),
        ..Options::scope_of(&lab).unwrap()
    };
    let mut agent = Agent::start_with(&lab, &options).unwrap();
    let attached = uprobe_links(agent.pid()).unwrap();

    let mut closed = Vec::new();
    for one in steered {
        match one.go_on(&web, &mut expected) {
            Ok(scenario) => closed.push(scenario),
            Err(error) => cells.check("steered", Err(error)),
        }
    }
    for one in paced {
        let cell = one.cell.clone();
        if let Err(error) = one.go_on(&web, &mut expected) {
            cells.check(&cell, Err(error));
        }
    }
    let mut listed = None;
    match node {
        Ok(node) => match node.go_on(&web, &mut expected) {
            Ok(ends) => listed = Some(ends),
            Err(error) => cells.check("node", Err(error)),
        },
        Err(error) => cells.skip("node", &format!("{error:#}")),
    }
    expected.check(&mut agent, &mut cells).unwrap();
    expected.no_strangers(&agent, &mut cells).unwrap();
    cells.check("removed", removed(&agent, attached));
    for mut scenario in closed {
        scenario.go().unwrap();
        scenario.finish().unwrap();
    }
    if let Some(stopped) = stop(agent, &mut cells) {
        if let Some((local, peer)) = listed {
            let unread = unread_in(&stopped.events, local, peer, &["opened_before"]);
            cells.check("node-listed", unread.map(drop));
        }
        cells.check("libraries-named", libraries(&stopped.events));
    }
    cells.finish();
}

/// Connections that are open at once in one process, and requests on each; the first is over before the agent starts.
const LANES: usize = 16;
const LANE: usize = 6;

#[test]
fn bridge_of_many() {
    let Some(_turn) = turn("bridge_of_many") else {
        return;
    };
    let lab = Lab::new("bridge-of-many").unwrap();
    let cells = Cells::new("bridge_of_many");
    let mut expected = Expectations::default();
    let web = nginx::start(&lab, &lab.inside(), None).unwrap();
    let asked: Vec<_> = (0..LANES * LANE)
        .map(|number| {
            let (lane, place) = (number / LANE, number % LANE);
            let cell = format!("lane-{lane}-{place}");
            request(&lab, &cell, json!({ "lane": lane }))
        })
        .collect();
    let script = Script::new(&lab, "lanes")
        .unwrap()
        .target(&web.target(Wire::Tls13))
        .requests(&asked);
    let executable = script.executable();
    let mut scenario = script.start(&lab.inside()).unwrap();
    scenario.reach("opened").unwrap();
    for _ in 0..LANES {
        scenario.exchange().unwrap();
    }
    let agent = Agent::start(&lab).unwrap();
    scenario.go().unwrap();
    let done = scenario.finish().unwrap();
    let (before, after): (Vec<_>, Vec<_>) = asked
        .into_iter()
        .partition(|request| request.cell.ends_with("-0"));
    for request in &before {
        expected.never(&request.cell, &request.credential);
    }
    for mut one in both_sides(&done, &after, &web, &executable).unwrap() {
        one.nested = true;
        expected.add([one]);
    }
    conclude(&expected, agent, cells);
}

/// A request on the connection that was open before the agent.
const KEPT: &str = "kept";

/// Programs that wait for the test, with their first request done.
struct Steered {
    asked: Vec<Request>,
    executable: PathBuf,
    scenario: Scenario,
}

impl Steered {
    /// Every other request is on a connection of its own.
    fn start(lab: &Lab, web: &Server, name: &str, wire: Wire) -> Result<Self> {
        let asked: Vec<_> = (0..REQUESTS)
            .map(|number| {
                let form = if number == 2 { "new" } else { KEPT };
                let cell = format!("{name}-{}-{number}-{form}", wire.name());
                request(lab, &cell, json!({ "form": form }))
            })
            .collect();
        let mut script = Script::new(lab, "bridged")?
            .target(&web.target(wire))
            .with("way", name)
            .requests(&asked);
        if name == "requests" {
            script = script.program(fixtures::venv_python()?);
        }
        let executable = script.executable();
        let mut scenario = script.start(&lab.inside())?;
        scenario.reach("opened")?;
        scenario.exchange()?;
        Ok(Self {
            asked,
            executable,
            scenario,
        })
    }

    /// Through to the end of its connection; the program itself stays.
    fn go_on(mut self, web: &Server, expected: &mut Expectations) -> Result<Scenario> {
        expected.never(&self.asked[0].cell, &self.asked[0].credential);
        self.scenario.go()?;
        self.scenario.reach("closed")?;
        let rest = &self.asked[1..];
        let done = rest
            .iter()
            .map(|_| self.scenario.exchange())
            .collect::<Result<Vec<_>>>()?;
        for mut one in both_sides(&done, rest, web, &self.executable)? {
            one.nested = one.cell.ends_with(KEPT);
            expected.add([one]);
        }
        Ok(self.scenario)
    }
}

/// A program that asks one thing after the other, with a pause, stopped by a signal behind the first.
struct Paced {
    cell: String,
    asked: Vec<Request>,
    executable: PathBuf,
    program: Program,
}

impl Paced {
    fn start(
        lab: &Lab,
        web: &Server,
        cell: &str,
        target: &Target,
        spec: fn(&Lab, &Target, &[Request]) -> Result<Spec>,
    ) -> Result<Option<Self>> {
        let mut asked = requests(lab, cell, REQUESTS);
        if cell.starts_with("wget") {
            // It has one set of header fields for all.
            let credential = asked[0].credential.clone();
            asked[1..]
                .iter_mut()
                .for_each(|request| request.credential.clone_from(&credential));
        }
        let spec = spec(lab, target, &asked)?;
        let executable = spec.executable();
        let program = Program::start(&spec, &lab.inside())?;
        web.fact(&asked[0].path)?;
        program.signal(Signal::STOP)?;
        let last = &asked[REQUESTS - 1].path;
        Ok(web.known(last).is_empty().then_some(Self {
            cell: cell.to_owned(),
            asked,
            executable,
            program,
        }))
    }

    fn go_on(self, web: &Server, expected: &mut Expectations) -> Result<()> {
        // One may have been on its way when the signal came.
        let (before, after): (Vec<_>, Vec<_>) = self
            .asked
            .iter()
            .partition(|request| !web.known(&request.path).is_empty());
        for request in before {
            expected.whatever(&request.credential);
        }
        let pid = self.program.pid();
        self.program.signal(Signal::CONT)?;
        let finished = self.program.finish()?;
        ensure!(finished.status.success(), "{}", finished.stderr);
        let mut ends = None;
        for request in after {
            let fact = web.fact(&request.path)?;
            ensure!(
                *ends.get_or_insert(fact.remote()) == fact.remote(),
                "it does not keep its connection"
            );
            let mut both = of_both(request, &fact, web, Who::Is(pid), &self.executable);
            both.iter_mut().for_each(|one| one.nested = true);
            expected.add(both);
        }
        Ok(())
    }
}

fn of_both(
    request: &Request,
    fact: &Fact,
    web: &Server,
    who: Who,
    executable: &std::path::Path,
) -> [Expected; 2] {
    let Request {
        cell, credential, ..
    } = request;
    [
        Expected::client(cell, credential, fact, who, executable.into()),
        Expected::server(cell, credential, fact, web),
    ]
}

/// Over OpenSSL: a transfer in a second, each with its own header.
fn curl(lab: &Lab, target: &Target, asked: &[Request]) -> Result<Spec> {
    let mut spec = Spec::new(fixtures::system("/usr/bin/curl")?);
    for (number, request) in asked.iter().enumerate() {
        if number > 0 {
            spec = spec.arg("--next");
        }
        spec = spec
            .args(["-q", "-sS", "--rate", "60/m", "-o", "/dev/null", "--cacert"])
            .arg(lab.certificate())
            .arg("-H")
            .arg(format!("Authorization: Bearer {}", request.credential))
            .arg(target.url(&request.path));
    }
    Ok(spec)
}

/// Over GnuTLS.
fn wget(lab: &Lab, target: &Target, asked: &[Request]) -> Result<Spec> {
    let spec = Spec::new(fixtures::system("/usr/bin/wget")?)
        .args(["--no-config", "--no-hsts", "--no-proxy", "-q", "--wait=1"])
        .args(["-O", "/dev/null"])
        .arg(format!("--ca-certificate={}", lab.certificate().display()))
        .arg(format!(
            "--header=Authorization: Bearer {}",
            asked[0].credential
        ));
    Ok(spec.args(asked.iter().map(|request| target.url(&request.path))))
}

/// Its library never meets the socket: the client's end must be listed, the server's is read.
struct Node {
    asked: Vec<Request>,
    executable: PathBuf,
    scenario: Scenario,
}

fn node(lab: &Lab, web: &Server) -> Result<Node> {
    let asked = requests(lab, "node", REQUESTS);
    let script = Script::node_https(lab)?
        .target(&web.target(Wire::Tls13))
        .requests(&asked);
    let executable = script.executable();
    let mut scenario = script.start(&lab.inside())?;
    scenario.reach("opened")?;
    scenario.exchange()?;
    Ok(Node {
        asked,
        executable,
        scenario,
    })
}

impl Node {
    /// The client's ends.
    fn go_on(
        mut self,
        web: &Server,
        expected: &mut Expectations,
    ) -> Result<(SocketAddr, SocketAddr)> {
        expected.never(&self.asked[0].cell, &self.asked[0].credential);
        self.scenario.go()?;
        let done = self.scenario.finish()?;
        let first = done.first().context("its exchanges")?;
        let ends = first.local().zip(first.peer()).context("its ends")?;
        let rest = &self.asked[1..];
        for mut one in both_sides(&done, rest, web, &self.executable)? {
            one.nested = true;
            if one.ends != Some(ends) {
                expected.add([one]);
            }
        }
        Ok(ends)
    }
}

/// Links of uprobes that the agent's keeper, a child of its child, holds at present: in each thread's own descriptors.
fn uprobe_links(agent: u32) -> Result<usize> {
    let children = |parents: &[u32]| -> Result<Vec<u32>> {
        let processes = std::fs::read_dir("/proc")?.flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        Ok(pids
            .filter(|pid| parent(*pid).is_some_and(|parent| parents.contains(&parent)))
            .collect())
    };
    let keepers = children(&children(&[agent])?)?;
    let threads = keepers
        .iter()
        .filter_map(|pid| std::fs::read_dir(format!("/proc/{pid}/task")).ok())
        .flat_map(|threads| threads.flatten());
    let descriptors = threads
        .filter_map(|thread| std::fs::read_dir(thread.path().join("fdinfo")).ok())
        .flat_map(|descriptors| descriptors.flatten());
    Ok(descriptors
        .filter_map(|one| std::fs::read_to_string(one.path()).ok())
        .filter(|text| {
            text.contains("link_type:\tperf") || text.contains("link_type:\tuprobe_multi")
        })
        .count())
}

fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    fields.nth(1)?.parse().ok()
}

/// Every process had its probes, and with its connections they are gone, by the agent's word and by the kernel's.
fn removed(agent: &Agent, attached: usize) -> Result<()> {
    let count = |what: &str| agent.stderr().matches(what).count();
    let attaching = count("bridge attached");
    ensure!(attaching > 3, "{attaching} processes had a bridge");
    ensure!(attached > 0, "no uprobe was attached");
    let ended = || count("bridge removed") + count("bridge lost");
    let left = || {
        let left = uprobe_links(agent.pid()).ok()?;
        (ended() == count("bridge attached") && left < attached).then_some(left)
    };
    wait_for(seconds(90), left).with_context(|| {
        format!(
            "{} of {} removed, {:?} uprobes are left of {attached}",
            ended(),
            count("bridge attached"),
            uprobe_links(agent.pid())
        )
    })?;
    Ok(())
}

/// The events say whose calls gave the plaintext.
fn libraries(events: &[Event]) -> Result<()> {
    for (program, library) in [
        ("python3", "libssl"),
        ("nginx", "libssl"),
        ("wget", "libgnutls"),
    ] {
        let nested = events
            .iter()
            .filter(|event| event.evidence() == Some("nested"))
            .filter(|event| {
                event
                    .executable()
                    .is_some_and(|path| path.contains(program))
            });
        for event in nested {
            let file = event.library_file().unwrap_or_default();
            ensure!(file.contains(library), "{program}'s plaintext by {file:?}");
        }
    }
    Ok(())
}
