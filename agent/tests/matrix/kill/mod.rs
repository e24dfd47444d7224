//! `kill -9` of the whole agent, of its worker, or of its privileged process, at random moments of real traffic, and a
//! new start on the same spool; again and again. At the end every sink has kept its promise.
//!
//! Four sinks: standard output and a file as NDJSON, and `otlp` and `http` through proxies that fail and pass requests
//! on twice. The truth that they are held against is the spool's own account of its runs, read from a copy after each
//! kill ([`truth`]); what must hold is in [`verdict`].
//!
//! `TOKENTRAIL_KILLS` says how often (otherwise for about 100 seconds, ten times at least), `TOKENTRAIL_SEED` from which
//! seed.

#[allow(
    dead_code,
    clippy::unwrap_used,
    reason = "shared with other tests, which use the rest"
)]
mod shared;
mod sinks;
mod truth;
mod verdict;

use crate::support::agent::{Agent, Options};
use crate::support::lab::Lab;
use crate::support::report::Cells;
use crate::support::scenario::{Request, Scenario, Script, requests};
use crate::support::servers::{Server, Wire};
use crate::support::{nginx, say, seconds, turn};
use agent_common::event::Time;
use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use shared::chance::Chance;
use sinks::Sinks;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};
use truth::{Killed, Truth, Who};

const SEED: u64 = 20_261_122;
const LASTS: Duration = Duration::from_secs(100);
const AT_LEAST: u64 = 10;
/// Credentials in use.
const REQUESTS: usize = 12;
/// Seconds between two requests of a client.
const PAUSE: f64 = 0.02;
/// An agent that is ready lives for so many microseconds at most.
const ALIVE: u64 = 900_000;

#[test]
fn kill() {
    let Some(_turn) = turn("kill") else { return };
    let lab = Lab::new("kill").unwrap();
    let mut cells = Cells::new("kill");
    let web = nginx::start(&lab, &lab.inside(), None).unwrap();
    let asked = requests(&lab, "kill", REQUESTS);
    let clients: Vec<Scenario> = [Wire::Clear, Wire::Tls13]
        .into_iter()
        .map(|wire| client(&lab, &web, wire, &asked).unwrap())
        .collect();
    let seed = number("TOKENTRAIL_SEED").unwrap_or(SEED);
    say(&format!("kill: seed {seed}"));
    let mut chance = Chance(seed);
    let mut sinks = Sinks::start(&lab, &mut chance).unwrap();
    let options = sinks.options(&lab, 2).unwrap();
    let mut truth = Truth::new(&lab);

    let (begin, wanted) = (Instant::now(), number("TOKENTRAIL_KILLS"));
    let mut starting = seconds(2);
    let mut killed = 0;
    let goes_on = |killed| match wanted {
        Some(wanted) => killed < wanted,
        None => killed < AT_LEAST || begin.elapsed() < LASTS,
    };
    while goes_on(killed) {
        killed += 1;
        let one = kill_one(
            &lab,
            &options,
            &mut chance,
            &mut starting,
            &mut sinks,
            &mut truth,
        );
        if let Err(error) = one {
            cells.check(&format!("kill-{killed}"), Err(error));
            break;
        }
    }
    let took = begin.elapsed().as_secs();
    say(&format!("kill: {killed} kills in {took} s"));
    for client in clients {
        cells.check("client", client.finish().map(drop));
    }
    sinks.calm();
    cells.check("drain", drain(&lab, &mut sinks, &mut truth));
    verdict::check(&lab, &mut cells, &sinks, &truth, &asked);
    cells.finish();
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn client(lab: &Lab, web: &Server, wire: Wire, asked: &[Request]) -> Result<Scenario> {
    Script::new(lab, "steady")?
        .target(&web.target(wire))
        .requests(asked)
        .with("pause", PAUSE)
        .start(&lab.inside())
}

/// One life of an agent. `starting` is how long the last one took to be ready.
fn kill_one(
    lab: &Lab,
    options: &Options,
    chance: &mut Chance,
    starting: &mut Duration,
    sinks: &mut Sinks,
    truth: &mut Truth,
) -> Result<()> {
    let begin = Instant::now();
    let mut agent = Agent::launch(lab, options)?;
    let ready = chance.below(6) > 0 && agent.wait_until_ready()?;
    // One that takes too long on a busy machine is killed as it is.
    ensure!(
        agent.is_running(),
        "it does not start again: {}",
        agent.stderr()
    );
    if ready {
        *starting = begin.elapsed();
        std::thread::sleep(Duration::from_micros(chance.below(ALIVE)));
    } else {
        let most = u64::try_from(starting.as_micros())?.max(1);
        std::thread::sleep(Duration::from_micros(chance.below(most)));
    }
    let who = match chance.below(10) {
        0..3 => Who::WorkerFirst,
        3..6 => Who::PrivilegedFirst,
        6..8 => Who::Worker,
        _ => Who::Privileged,
    };
    let before = Time::now();
    end(&agent, who, ready)?;
    let after = Time::now();
    agent
        .both_ended()
        .with_context(|| format!("{who:?} was killed"))?;
    let (_, lines, stderr) = agent.ended()?;
    ensure!(!stderr.contains("panicked"), "{stderr}");
    sinks.said(lines);
    truth.look(Some(Killed {
        who,
        ready,
        before,
        after,
    }))
}

fn end(agent: &Agent, who: Who, ready: bool) -> Result<()> {
    let worker = worker(agent);
    ensure!(worker.is_some() || !ready, "there is no worker");
    let kill_worker = || {
        if let Some(worker) = &worker {
            // It may have ended with the other.
            let _ = pidfd_send_signal(worker, Signal::KILL);
        }
    };
    match who {
        Who::WorkerFirst => {
            kill_worker();
            agent.signal(Signal::KILL)
        }
        Who::PrivilegedFirst => {
            agent.signal(Signal::KILL)?;
            kill_worker();
            Ok(())
        }
        // In the middle of a start there may be none.
        Who::Worker if worker.is_some() => {
            kill_worker();
            Ok(())
        }
        Who::Worker | Who::Privileged => agent.signal(Signal::KILL),
    }
}

/// A handle that reaches this process and no later one of its number.
fn worker(agent: &Agent) -> Option<OwnedFd> {
    let pid = agent.worker_pid().ok()?;
    let handle = pidfd_open(Pid::from_raw(pid.cast_signed())?, PidfdFlags::empty()).ok()?;
    // It was opened while the agent still had it.
    (agent.worker_pid().ok()? == pid).then_some(handle)
}

/// The last life, which ends in good order and delivers everything.
fn drain(lab: &Lab, sinks: &mut Sinks, truth: &mut Truth) -> Result<()> {
    let agent = Agent::start_with(lab, &sinks.options(lab, 55)?)?;
    agent.signal(Signal::TERM)?;
    let (status, lines, stderr) = agent.ended()?;
    sinks.said(lines);
    truth.look(None)?;
    ensure!(status.success(), "it ended with {status}: {stderr}");
    let waits = truth.waiting()?;
    ensure!(waits == 0, "{waits} entries wait in the spool");
    Ok(())
}
