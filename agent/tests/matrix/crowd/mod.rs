//! The false-match rate: many processes, threads and connections at once, their handshakes interleaved, and not one event
//! on a wrong socket, of a wrong process, or with a wrong status.
//!
//! Go, node, Python and curl ask nginx, Go, node and Python over cleartext, TLS 1.2 and 1.3, HTTP/1.1 and HTTP/2, on new
//! connections and kept ones. The clock is cut into slots, and every lane of every process begins an exchange with each
//! slot, so that the handshakes of all fall together. Each exchange has a credential of its own; both its programs say
//! what they know of its socket ([`people`]), and each event is held against that ([`verdict`]). What is missing has to
//! be accounted for by the agent.
//!
//! The same again with a ring so small that many calls are lost: what is told must be as true then.
//!
//! `TOKENTRAIL_CROWD` says how many exchanges.

mod people;
mod verdict;

use crate::support::agent::{Agent, Options};
use crate::support::lab::Lab;
use crate::support::programs::{Trial, Tried};
use crate::support::report::Cells;
use crate::support::servers;
use crate::support::{brief, known, nginx, pause, say, turn};
use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::Instant;
use verdict::Verdict;

/// Larger than by default, as on a host as busy as this.
const RING: u32 = 64 << 20;
/// So small that bursts do not fit.
const SMALL_RING: u32 = 256 << 10;

/// Exchanges unless `TOKENTRAIL_CROWD` says how many: for 25 seconds.
const EXCHANGES: u64 = 10_000;
/// Before the others, so that no file is new to the agent any more.
const WARM: u64 = 400;

#[test]
fn crowd() {
    let Some(_turn) = turn("crowd") else { return };
    gather("crowd", RING, EXCHANGES).unwrap();
}

#[test]
fn crowd_with_losses() {
    let Some(_turn) = turn("crowd_with_losses") else {
        return;
    };
    gather("crowd_with_losses", SMALL_RING, EXCHANGES / 4).unwrap();
}

fn gather(test: &'static str, ring: u32, count: u64) -> Result<()> {
    let lab = Lab::new(test)?;
    let mut cells = Cells::new(test);
    let place = lab.inside();
    let web = nginx::start(&lab, &place, None)?;
    let python = servers::python(&lab, &place)?;
    let others = [servers::go(&lab, &place), servers::node(&lab, &place)];
    let mut there = vec![&web, &python];
    for (name, other) in ["go", "node"].into_iter().zip(&others) {
        match other {
            Ok(server) => there.push(server),
            Err(missing) => cells.skip(&format!("server-{name}"), &format!("{missing:#}")),
        }
    }
    let listeners = people::listeners(&there);
    let agent = start(&lab, ring)?;
    known::usual(&agent, &lab)?;

    let mut done = people::run(&lab, &listeners, 0, WARM, &mut cells)?;
    known::settled(&agent);
    let begin = Instant::now();
    let count = std::env::var("TOKENTRAIL_CROWD")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(if brief() { WARM } else { count });
    done.extend(people::run(
        &lab,
        &listeners,
        done.len() as u64,
        count,
        &mut cells,
    )?);
    let took = begin.elapsed();
    say(&format!(
        "crowd: {} exchanges by {}, {} at once at most, in {took:.0?}",
        done.len(),
        people::census(&done),
        people::most_at_once(&done)
    ));

    let pairs: BTreeSet<_> = done
        .iter()
        .filter_map(|one| {
            let to = listeners
                .iter()
                .position(|listener| listener.target.address == one.peer())?;
            Some((one.program, to))
        })
        .collect();
    let expected = verdict::Expected::of(&lab, done, &listeners, &there)?;
    let verdict = stop(agent, &lab, expected)?;
    for line in verdict.told() {
        say(&format!("crowd: {line}"));
    }
    cells.check("nothing-wrong", verdict.nothing_wrong());
    cells.check("accounted-for", verdict.accounted_for());
    if ring == SMALL_RING {
        cells.check("lossy", verdict.lossy());
        cells.finish();
        return Ok(());
    }
    cells.check("enough", verdict.enough());
    for (program, to) in pairs {
        let to = &listeners[to];
        let pair = verdict::pair(program, to);
        let tried = Tried::both(program, to.server, to.target.wire, to.http2, Trial::Crowd);
        cells.about(&pair, tried);
        cells.check(&pair, verdict.of(&pair));
    }
    cells.finish();
    Ok(())
}

const EVENTS: &str = "crowd.ndjson";

/// An agent with a ring of that size, whose events go to a file: they are many.
fn start(lab: &Lab, ring: u32) -> Result<Agent> {
    let config = lab.path("agent.toml");
    std::fs::write(&config, format!("[capture]\nring_bytes = {ring}\n"))?;
    let mut options = Options::scope_of(lab)?;
    options.stdout = Some(lab.path(EVENTS));
    options
        .args
        .extend(["--config".to_owned(), config.display().to_string()]);
    Agent::start_with(lab, &options)
}

/// Waits until the agent has said all that it has to say of what lies behind it: it may be long behind.
fn settle(path: &Path) {
    let length = || std::fs::metadata(path).map_or(0, |file| file.len());
    let mut before = 0;
    while before != length() {
        before = length();
        pause(2);
    }
}

/// Ends the agent and judges all that it has written.
fn stop(agent: Agent, lab: &Lab, expected: verdict::Expected) -> Result<Verdict> {
    settle(&lab.path(EVENTS));
    agent.signal(Signal::TERM)?;
    let (status, _, stderr) = agent.ended()?;
    if let Some(folder) = std::env::var_os("TOKENTRAIL_KEEP").map(PathBuf::from) {
        std::fs::create_dir_all(&folder)?;
        std::fs::copy(lab.path(EVENTS), folder.join(EVENTS))?;
        std::fs::write(folder.join("crowd.stderr"), &stderr)?;
    }
    ensure!(status.success(), "the agent ended with {status}: {stderr}");
    read(&lab.path(EVENTS), expected, &stderr)
}

fn read(path: &Path, expected: verdict::Expected, stderr: &str) -> Result<Verdict> {
    let file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
    let mut judge = verdict::Judge::new(expected);
    for line in BufReader::new(file).lines() {
        judge.hear(&line?)?;
    }
    judge.close(stderr)
}
