//! The agent's own budget: over its CPU time it skips exchanges and counts them, and reads again when there is room;
//! where that does not help, it detaches its probes and comes back.

use crate::privilege::descriptors;
use crate::support::agent::{Agent, Options, Stopped};
use crate::support::clients::{CURL, Errand};
use crate::support::counters::Counters;
use crate::support::event::Event;
use crate::support::expect::stop;
use crate::support::lab::Lab;
use crate::support::process::{Program, Spec};
use crate::support::report::Cells;
use crate::support::servers::{Server, Wire};
use crate::support::token::Shape;
use crate::support::{fixtures, nginx, seconds, turn, wait_for};
use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use std::path::PathBuf;

/// How long anything may take that ends by itself. What is waited for, is: a slow machine only takes longer.
const LONG: u64 = 300;

/// One connection that stays open: a path and a credential on standard input, the status on standard output.
const STEADY: &str = r#"
import http.client, ssl, sys
scheme, port, authority = sys.argv[1:]
if scheme == "https":
    context = ssl.create_default_context(cafile=authority)
    connection = http.client.HTTPSConnection("localhost", int(port), context=context)
else:
    connection = http.client.HTTPConnection("localhost", int(port))
connection.connect()
connection.auto_open = False
print("open", flush=True)
for line in sys.stdin:
    path, credential = line.split()
    connection.request("GET", path, headers={"Authorization": "Bearer " + credential})
    response = connection.getresponse()
    response.read()
    print(response.status, flush=True)
"#;

struct Steady {
    wire: Wire,
    program: Program,
}

impl Steady {
    fn open(lab: &Lab, web: &Server, wire: Wire) -> Result<Self> {
        let scheme = if wire.is_tls() { "https" } else { "http" };
        let spec = Spec::new(fixtures::python()?)
            .args(["-c", STEADY, scheme])
            .arg(web.port(wire.name()).to_string())
            .arg(lab.certificate());
        let mut program = Program::start(&spec, &lab.inside())?;
        let said = program.line()?;
        ensure!(said == "open", "{said}");
        Ok(Self { wire, program })
    }

    /// One request; its credential.
    fn ask(&mut self, path: &str) -> Result<String> {
        let credential = Shape::GitHub.generate();
        self.program.send(&format!("{path} {credential}\n"))?;
        let said = self.program.line_within(seconds(LONG))?;
        ensure!(said == "200", "{said}");
        Ok(credential)
    }
}

/// More than an agent with a small budget can read. It runs out of scope; the server is in it.
fn load(lab: &Lab, web: &Server, wire: Wire) -> Result<Program> {
    let spec = Spec::new(fixtures::system("/usr/bin/wrk")?)
        .args(["-t", "1", "-c", "4", "-d", "3600s", "-H"])
        .arg(format!(
            "Authorization: Bearer {}",
            Shape::GitHub.generate()
        ))
        .arg(web.target(wire).url(&lab.cell_path("load")));
    Program::start(&spec, &lab.outside())
}

fn configure(lab: &Lab, budget: &str) -> Result<PathBuf> {
    let config = lab.path("agent.toml");
    let text = format!("[agent]\nreport_seconds = 1\n[budget]\n{budget}\n");
    std::fs::write(&config, text)?;
    Ok(config)
}

/// A budget that any machine keeps: on a slow one, and with a debug build, even being there costs more than a small one.
const PLENTY: &str = "cpu_percent = 1000";

/// Another budget while the agent runs, which is its `count`th change.
fn change(agent: &mut Agent, lab: &Lab, budget: &str, count: usize) -> Result<()> {
    configure(lab, budget)?;
    agent.signal(Signal::HUP)?;
    said(agent, "config_changed", count)
}

fn start(lab: &Lab, budget: &str) -> Result<Agent> {
    let config = configure(lab, budget)?;
    let mut options = Options::scope_of(lab)?;
    options
        .args
        .extend(["--config".to_owned(), config.display().to_string()]);
    Agent::start_with(lab, &options)
}

/// Waits for what the agent says of itself, `count` times since its start.
fn said(agent: &mut Agent, action: &str, count: usize) -> Result<()> {
    let there = agent.wait_until(seconds(LONG), |events| times(events, action) >= count)?;
    ensure!(there, "no audit event `{action}`: {}", agent.stderr());
    Ok(())
}

fn times(events: &[Event], action: &str) -> usize {
    let all = events.iter().filter(|event| event.action() == Some(action));
    all.count()
}

/// Usage events of this credential: of the client's end and of the server's.
fn ends(agent: &Agent, events: &[Event], credential: &str) -> Result<usize> {
    let fingerprint = agent.fingerprint(credential)?;
    let of_it = |event: &&Event| event.fingerprints().contains(&fingerprint.as_str());
    Ok(events.iter().filter(of_it).count())
}

fn is_read(agent: &mut Agent, credential: &str) -> Result<()> {
    let fingerprint = agent.fingerprint(credential)?;
    let read = agent.wait_until(seconds(60), |events| {
        let of_it = events
            .iter()
            .filter(|event| event.fingerprints().contains(&fingerprint.as_str()));
        of_it.count() == 2
    })?;
    let found = ends(agent, &agent.events, credential)?;
    ensure!(read, "{found} of 2 events");
    Ok(())
}

#[test]
fn over_budget() {
    let Some(_turn) = turn("over_budget") else {
        return;
    };
    let lab = Lab::new("over-budget").unwrap();
    let mut cells = Cells::new("over_budget");
    let web = nginx::start(&lab, &lab.inside(), None).unwrap();
    let mut agent = start(&lab, PLENTY).unwrap();
    let mut open: Vec<Steady> = Wire::ALL
        .into_iter()
        .map(|wire| Steady::open(&lab, &web, wire).unwrap())
        .collect();
    for steady in &mut open {
        let cell = format!("before-{}", steady.wire.name());
        let credential = steady.ask(&lab.cell_path(&cell)).unwrap();
        cells.check(&cell, is_read(&mut agent, &credential));
    }

    change(&mut agent, &lab, "cpu_percent = 8\nover_seconds = 86400", 1).unwrap();
    let loads = [Wire::Clear, Wire::Tls13].map(|wire| load(&lab, &web, wire).unwrap());
    said(&mut agent, "over_budget", 1).unwrap();
    // A share this small skips nearly all: as many as it takes until one was, on each connection.
    for steady in &mut open {
        let cell = format!("skipped-{}", steady.wire.name());
        let path = lab.cell_path(&cell);
        let skipped = wait_for(seconds(LONG), || {
            let credential = steady.ask(&path).ok()?;
            // What comes later is told later.
            let after = agent.events.len();
            agent
                .wait_until(seconds(60), |events| {
                    let reports = times(&events[after..], "agent_report");
                    reports >= 2
                })
                .ok()?;
            (ends(&agent, &agent.events, &credential).ok()? == 0).then_some(())
        });
        cells.check(&cell, skipped.context("every exchange is read"));
    }
    drop(loads);
    change(&mut agent, &lab, PLENTY, 2).unwrap();
    said(&mut agent, "within_budget", 1).unwrap();
    for steady in &mut open {
        // The first exchange after records that did not fit into the ring may be lost with them.
        let cell = format!("after-{}", steady.wire.name());
        let path = lab.cell_path(&cell);
        cells.check(&cell, seen_in_the_end(&mut agent, || steady.ask(&path)));
    }
    drop(open);
    if let Some(stopped) = stop(agent, &mut cells) {
        cells.check("counted", counted(&stopped));
        cells.check("no-guess", no_loss_of_bytes(&stopped));
    }
    cells.finish();
}

/// The loss events say what the counter says, and so does the ledger.
fn counted(stopped: &Stopped) -> Result<()> {
    let skipped = Counters::of(&stopped.events)?.get("exchanges.skipped")?;
    let told = stopped
        .events
        .iter()
        .filter(|event| event.loss_reason() == Some("over_budget"));
    let (mut sum, mut spans) = (0, Vec::new());
    for event in told {
        sum += event.loss_count().context("a loss without a count")?;
        spans.extend(event.loss_span());
    }
    ensure!(
        skipped > 0 && sum == skipped,
        "{skipped} skipped, {sum} told"
    );
    ensure!(spans.iter().all(|(from, to)| from <= to), "{spans:?}");
    let unread = Counters::of(&stopped.events)?.get("unread.budget")?;
    ensure!(unread >= 6, "{unread} connections");
    Ok(())
}

/// What was skipped is not told as if it had been lost.
fn no_loss_of_bytes(stopped: &Stopped) -> Result<()> {
    let lost = Counters::of(&stopped.events)?.get("heads.lost")?;
    // A ring that overflowed under the load loses heads as well.
    let overflowed = stopped
        .events
        .iter()
        .any(|event| event.loss_reason() == Some("ring_full"));
    ensure!(lost == 0 || overflowed, "{lost} heads are lost");
    Ok(())
}

/// Links of probes, and perf events of key-log points, that a process holds.
fn attached(pid: u32) -> Result<usize> {
    let open = descriptors(pid)?;
    let is_link = |one: &&String| {
        one.contains("bpf_link") || one.contains("perf_event") || one.contains("bpf-raw-tracepoint")
    };
    Ok(open.iter().filter(is_link).count())
}

#[test]
fn rest_and_return() {
    let Some(_turn) = turn("rest_and_return") else {
        return;
    };
    let lab = Lab::new("rest").unwrap();
    let mut cells = Cells::new("rest_and_return");
    let web = nginx::start(&lab, &lab.inside(), None).unwrap();
    let budget = "cpu_percent = 2\nover_seconds = 1\nrest_seconds = 5";
    let mut agent = start(&lab, budget).unwrap();
    let before = attached(agent.pid()).unwrap();
    cells.check(
        "links-are-seen",
        (before > 5)
            .then_some(())
            .with_context(|| format!("{before} links")),
    );
    let mut open: Vec<Steady> = [Wire::Clear, Wire::Tls13]
        .into_iter()
        .map(|wire| Steady::open(&lab, &web, wire).unwrap())
        .collect();
    let load = load(&lab, &web, Wire::Clear).unwrap();
    said(&mut agent, "probes_detached", 1).unwrap();
    let pid = agent.pid();
    let none = wait_for(seconds(LONG), || (attached(pid).ok()? == 0).then_some(()));
    cells.check("nothing-is-attached", none.context("links are left"));
    drop(load);
    change(&mut agent, &lab, PLENTY, 1).unwrap();
    // However often it has rested by now: this one was the last.
    let rests = times(&agent.events, "probes_detached");
    said(&mut agent, "probes_attached", rests).unwrap();
    cells.check(
        "new-connection",
        seen_in_the_end(&mut agent, || {
            let errand = Errand {
                lab: &lab,
                target: web.target(Wire::Tls13),
                path: lab.cell_path("after"),
                credential: Shape::GitHub.generate(),
            };
            CURL.run(&errand, &lab.inside())?;
            Ok(errand.credential)
        }),
    );
    let [clear, sealed] = open.as_mut_slice() else {
        unreachable!()
    };
    let path = lab.cell_path("opened-before");
    cells.check(
        "cleartext-lives-on",
        seen_in_the_end(&mut agent, || clear.ask(&path)),
    );
    let path = lab.cell_path("sealed");
    cells.check(
        "tls-lives-on",
        seen_in_the_end(&mut agent, || sealed.ask(&path)),
    );
    let outsider = Errand {
        lab: &lab,
        target: web.target(Wire::Clear),
        path: lab.cell_path("outside"),
        credential: Shape::GitHub.generate(),
    };
    CURL.run(&outsider, &lab.outside()).unwrap();
    drop(open);
    if let Some(stopped) = stop(agent, &mut cells) {
        cells.check("span", spans(&stopped));
        cells.check("said", said_to_people(&stopped));
        cells.check("bridge", through_the_bridge(&stopped));
        cells.check("scope", within_scope(&stopped));
    }
    cells.finish();
}

/// Asks again until both ends of what was asked are read.
fn seen_in_the_end(agent: &mut Agent, mut ask: impl FnMut() -> Result<String>) -> Result<()> {
    let mut failure = None;
    let seen = wait_for(seconds(LONG), || {
        let credential = match ask() {
            Ok(credential) => credential,
            Err(error) => {
                failure = Some(error);
                return Some(false);
            }
        };
        let fingerprint = agent.fingerprint(&credential).ok()?;
        let ends = |events: &[Event]| {
            let of_it = events
                .iter()
                .filter(|event| event.fingerprints().contains(&fingerprint.as_str()));
            of_it.count() >= 2
        };
        agent.wait_until(seconds(5), ends).ok()?.then_some(true)
    });
    match failure {
        Some(error) => Err(error),
        None => seen.map(drop).context("never seen"),
    }
}

fn spans(stopped: &Stopped) -> Result<()> {
    let events = &stopped.events;
    let lost: Vec<&Event> = events
        .iter()
        .filter(|event| event.loss_reason() == Some("detached"))
        .collect();
    let (left, back) = (
        times(events, "probes_detached"),
        times(events, "probes_attached"),
    );
    ensure!(
        left > 0 && lost.len() == left,
        "{} losses, {left} rests",
        lost.len()
    );
    ensure!(
        back == left || back + 1 == left,
        "{back} of {left} times back"
    );
    for loss in lost {
        let (from, to) = loss.loss_span().context("no span")?;
        ensure!(from < to && loss.loss_count().is_none(), "{from} to {to}");
    }
    let detached = Counters::of(events)?.get("probes.detached")?;
    ensure!(detached == left as u64, "{detached} by the counter");
    Ok(())
}

fn said_to_people(stopped: &Stopped) -> Result<()> {
    for line in [
        "over its budget (CPU ",
        ": the probes are detached for 5 s",
        "the probes are attached again",
    ] {
        ensure!(
            stopped.stderr.contains(line),
            "no {line:?}: {}",
            stopped.stderr
        );
    }
    Ok(())
}

/// The TLS connection that was open over the rest is read by its library's calls.
fn through_the_bridge(stopped: &Stopped) -> Result<()> {
    let of_it = |event: &&Event| event.path().is_some_and(|path| path.ends_with("-sealed"));
    for event in stopped.events.iter().filter(of_it) {
        ensure!(event.evidence() == Some("nested"), "{}", event.brief());
    }
    Ok(())
}

/// What ran outside is not named.
fn within_scope(stopped: &Stopped) -> Result<()> {
    for event in stopped.events.iter().filter(|event| event.is_usage()) {
        let path = event.path().unwrap_or_default();
        if path.ends_with("-outside") || path.ends_with("-load") {
            ensure!(event.direction() == "server", "{}", event.brief());
        }
    }
    Ok(())
}

/// The agent is stopped while its probes are detached.
#[test]
fn stop_at_rest() {
    let Some(_turn) = turn("stop_at_rest") else {
        return;
    };
    let lab = Lab::new("stop-at-rest").unwrap();
    let mut cells = Cells::new("stop_at_rest");
    let web = nginx::start(&lab, &lab.inside(), None).unwrap();
    let mut agent = start(
        &lab,
        "cpu_percent = 2\nover_seconds = 1\nrest_seconds = 86400",
    )
    .unwrap();
    let load = load(&lab, &web, Wire::Tls13).unwrap();
    said(&mut agent, "probes_detached", 1).unwrap();
    drop(load);
    if let Some(stopped) = stop(agent, &mut cells) {
        cells.check("span", spans(&stopped));
    }
    cells.finish();
}

/// Over its memory it gives up what waits, and says so; the unit tests know what.
#[test]
fn memory() {
    let Some(_turn) = turn("memory") else { return };
    let lab = Lab::new("memory").unwrap();
    let mut cells = Cells::new("memory");
    let mut agent = start(
        &lab,
        "memory_bytes = 33554432\nover_seconds = 1\nrest_seconds = 86400",
    )
    .unwrap();
    said(&mut agent, "probes_detached", 1).unwrap();
    if let Some(stopped) = stop(agent, &mut cells) {
        cells.check("span", spans(&stopped));
        let named = stopped.stderr.contains("(memory ");
        cells.check("named", named.then_some(()).context(stopped.stderr));
    }
    cells.finish();
}
