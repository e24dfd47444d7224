//! Processes and threads that come and go around TLS, in every way that there is: nothing fails in them, and what they
//! ask is read.

use super::stage::{Stage, library_in, script, server};
use crate::support::expect::stop;
use crate::support::lab::Lab;
use crate::support::process::{Program, Spec};
use crate::support::report::Cells;
use crate::support::scenario::{Scenario, requests};
use crate::support::servers::Wire;
use crate::support::{brief, fixtures, known, repeat, say, seconds, turn};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::path::Path;

#[test]
fn lives() {
    let Some(_turn) = turn("lives") else { return };
    let mut stage = Stage::new("lives").unwrap();
    let mut cells = Cells::new("lives");
    let library = stage.library("library").unwrap();
    let read = stage.curl_until_read(&library).map(drop);
    cells.check("library-read", read);
    for scenario in ["forks", "daemon"] {
        cells.check(scenario, forked(&mut stage, &library, scenario));
    }
    cells.check("spawned", spawned(&mut stage, &library));
    cells.check("late-thread", late_thread(&mut stage, &library));
    cells.check("exec-in-thread", exec_in_thread(&mut stage, &library));
    stop(stage.agent, &mut cells);
    cells.finish();
}

/// Children of a process that has its points; the first request is over before.
fn forked(stage: &mut Stage, library: &Path, scenario: &'static str) -> Result<()> {
    let asked = requests(&stage.lab, scenario, 21);
    let place = stage.lab.inside();
    let mut running = stage.script(scenario, library, &asked)?.start(&place)?;
    running.reach("begun")?;
    running.exchange()?;
    known::settled(&stage.agent);
    let first = running.pid();
    running.go()?;
    let done = running.finish()?;
    let others = done.iter().filter(|one| one.pid != first).count();
    ensure!(others >= 10, "{others} exchanges by children");
    stage.each_was_read(&asked[1..], &done)
}

/// Children by vfork and by posix_spawn, which become another program at once.
fn spawned(stage: &mut Stage, library: &Path) -> Result<()> {
    let asked = requests(&stage.lab, "spawned", 1 + 3 * repeat(10));
    let place = stage.lab.inside();
    let mut running = stage.script("spawned", library, &asked)?.start(&place)?;
    running.reach("begun")?;
    running.exchange()?;
    known::settled(&stage.agent);
    running.go()?;
    let (done, facts) = finish(running)?;
    let own: Vec<_> = asked[1..].iter().step_by(3).cloned().collect();
    stage.each_was_read(&own, &done)?;
    let (mut read, mut children) = (0, 0);
    for fact in facts.iter().filter(|fact| fact.get("child").is_some()) {
        ensure!(
            fact["status"] == 200 && fact["exit"] == 0,
            "a child failed: {fact}"
        );
        let cell = fact["of"].as_str().context("whose")?;
        let request = asked.iter().find(|one| one.cell == cell);
        let credential = &request.context("its request")?.credential;
        children += 1;
        if stage.was_read(credential)? {
            let pid = fact["child"].as_u64().context("a pid")?;
            stage.one_event(credential, u32::try_from(pid)?)?;
            read += 1;
        }
    }
    ensure!(children == own.len() * 2, "{children} children");
    // Each of them is a process whose first handshake is its only one.
    say(&format!(
        "lives: first handshakes of children read: {read} of {children}"
    ));
    Ok(())
}

/// Its end, with everything that it said beside its exchanges.
fn finish(mut running: Scenario) -> Result<(Vec<crate::support::scenario::Exchange>, Vec<Value>)> {
    let facts = running.facts_to_the_end()?;
    let done = running.finish()?;
    Ok((done, facts))
}

fn late_thread(stage: &mut Stage, library: &Path) -> Result<()> {
    let asked = requests(&stage.lab, "late-thread", 10);
    let place = stage.lab.inside();
    let mut running = stage
        .script("late_thread", library, &asked)?
        .start(&place)?;
    running.reach("begun")?;
    running.go()?;
    running.reach("loaded")?;
    known::settled(&stage.agent);
    running.go()?;
    let done = running.finish()?;
    stage.each_was_read(&asked, &done)
}

/// Under the same process id there is another program, by a thread that was not the first.
fn exec_in_thread(stage: &mut Stage, library: &Path) -> Result<()> {
    const MOST: usize = 5;
    let mut took = None;
    for number in 0..MOST {
        let asked = requests(&stage.lab, &format!("exec-{number}"), 1);
        let place = stage.lab.inside();
        let mut running = stage
            .script("exec_in_thread", library, &asked)?
            .start(&place)?;
        running.reach("begun")?;
        known::settled(&stage.agent);
        let pid = running.pid();
        running.go()?;
        let said = running.last_words()?;
        ensure!(said.ends_with("200"), "curl said {said:?}");
        if stage.was_read(&asked[0].credential)? {
            stage.one_event(&asked[0].credential, pid)?;
            took = Some(number + 1);
            break;
        }
    }
    let took = took.context("no program that a thread has become was read")?;
    say(&format!("lives: exec in a thread: read at try {took}"));
    Ok(())
}

/// What was there before the agent: many threads, and a process that forks while the agent attaches.
#[test]
fn before() {
    const THREADS: usize = 500;
    let Some(_turn) = turn("before") else { return };
    let lab = Lab::new("before").unwrap();
    let web = server(&lab).unwrap();
    let mut cells = Cells::new("before");
    let library = library_in(&lab.path("library")).unwrap();
    let place = lab.inside();

    let of_threads = requests(&lab, "threads", 50);
    let mut threads = script(&lab, &web, "many_threads", &library, &of_threads)
        .unwrap()
        .with("threads", THREADS)
        .start(&place)
        .unwrap();
    threads.reach("begun").unwrap();
    let of_forks = requests(&lab, "forking", 10);
    let mut forking = script(&lab, &web, "forking", &library, &of_forks)
        .unwrap()
        .start(&place)
        .unwrap();
    forking.reach("begun").unwrap();

    let mut stage = Stage::of(lab, web, |_| {}).unwrap();
    threads.go().unwrap();
    let done = threads.finish();
    let read = done.and_then(|done| stage.each_was_read(&of_threads, &done));
    cells.check("many-threads", read);

    forking.go().unwrap();
    let read = forked_on(&mut stage, forking, &of_forks);
    cells.check("forking", read);
    stop(stage.agent, &mut cells);
    cells.finish();
}

fn forked_on(
    stage: &mut Stage,
    mut forking: Scenario,
    asked: &[crate::support::scenario::Request],
) -> Result<()> {
    for request in asked {
        forking.reach(&request.cell)?;
        forking.go()?;
    }
    let (done, facts) = finish(forking)?;
    let told = facts.iter().find(|fact| fact.get("forks").is_some());
    let told = told.context("what came of the forks")?;
    ensure!(told["failed"] == json!([]), "forks failed: {told}");
    ensure!(told["forks"].as_u64() > Some(10), "{told}");
    stage.each_was_read(asked, &done)
}

/// A Go program whose threads are born and end all the time, while it makes requests.
#[test]
fn go_threads() {
    const THREADS: usize = 10_000;
    /// Descriptors that one process with a few dozen threads may cost at any time.
    const MOST: usize = 300;
    let Some(_turn) = turn("go_threads") else {
        return;
    };
    let mut cells = Cells::new("go_threads");
    let program = match fixtures::go_lives() {
        Ok(program) => program,
        Err(missing) => {
            cells.skip("all", &format!("{missing:#}"));
            return cells.finish();
        }
    };
    let mut stage = Stage::new("go-threads").unwrap();
    let place = stage.lab.inside();
    let threads = if brief() { THREADS / 20 } else { THREADS };
    let asked = requests(&stage.lab, "threads", repeat(100));
    let target = stage.web.target(Wire::Tls13);
    let plan = |asked: &[crate::support::scenario::Request], threads| {
        let urls: Vec<_> = asked.iter().map(|one| target.url(&one.path)).collect();
        let credentials: Vec<_> = asked.iter().map(|one| &one.credential).collect();
        let plan = json!({
            "URLs": urls, "Credentials": credentials, "CA": stage.lab.certificate(), "Threads": threads,
        });
        Spec::new(&program).stdin(format!("{plan}\n"))
    };
    // Its file is met by a run that asks nothing.
    known::introduce(&stage.agent, &plan(&[], 1), &place).unwrap();
    let at_rest = stage.agent.descriptors();
    let mut running = Program::start(&plan(&asked, threads), &place).unwrap();
    let pid = running.pid();
    running.close_stdin();
    let mut most = 0;
    let end = std::time::Instant::now() + seconds(300);
    while running.is_running() && std::time::Instant::now() < end {
        most = most.max(stage.agent.descriptors());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let finished = running.finish().unwrap();
    let ended = if finished.status.success() {
        Ok(())
    } else {
        Err(anyhow::anyhow!("{}: {}", finished.status, finished.stderr))
    };
    cells.check("unhurt", ended);
    say(&format!(
        "go_threads: {threads} threads, {most} descriptors at most, {at_rest} at rest"
    ));
    let bounded = if most < at_rest + MOST {
        Ok(())
    } else {
        Err(anyhow::anyhow!("{most} descriptors, {at_rest} at rest"))
    };
    cells.check("bounded", bounded);
    let answered = finished.stdout.iter().filter(|line| *line == "200").count();
    let read = (|| {
        ensure!(answered == asked.len(), "{answered} answers");
        let first = stage.was_read(&asked[0].credential)?;
        say(&format!("go_threads: first handshake read: {first}"));
        for request in &asked[1..] {
            stage
                .one_event(&request.credential, pid)
                .with_context(|| request.cell.clone())?;
        }
        Ok(())
    })();
    cells.check("read", read);
    stop(stage.agent, &mut cells);
    cells.finish();
}
