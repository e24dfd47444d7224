//! Somebody has very many files with points: the agent goes on to read others, says of each that it cannot read why, and
//! ends soon.

use super::stage::{NOBODY, Stage};
use crate::support::agent::Agent;
use crate::support::cgroup::Cgroup;
use crate::support::expect::{stop, unread_in};
use crate::support::fakes::Fake;
use crate::support::known;
use crate::support::process::{Place, Program, Spec, run};
use crate::support::report::Cells;
use crate::support::scenario::requests;
use crate::support::{all, fixtures, repeat, say, seconds, turn, wait_for};
use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Descriptors that each process of the agent has at most from now on. The finder gives itself fewer, which not every
/// root may raise.
fn limit_descriptors(agent: &Agent, most: u64) -> Result<()> {
    for pid in agent.processes() {
        if hard_limit(pid)? <= most {
            continue;
        }
        let limit = Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        let process = Pid::from_raw(i32::try_from(pid)?);
        prlimit(process, Resource::Nofile, limit).context("limit the agent's descriptors")?;
    }
    Ok(())
}

fn soft_limit(pid: u32) -> Result<u64> {
    limit_of(pid, 0)
}

fn hard_limit(pid: u32) -> Result<u64> {
    limit_of(pid, 1)
}

fn limit_of(pid: u32, column: usize) -> Result<u64> {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let mut lines = limits.lines();
    let line = lines.find_map(|line| line.strip_prefix("Max open files"));
    let limit = line.and_then(|line| line.split_whitespace().nth(column));
    let limit = limit.with_context(|| format!("no limit of files in {limits}"))?;
    Ok(limit.parse()?)
}

/// So many small programs in a folder of the lab.
fn fakes(stage: &Stage, name: &str, count: usize) -> Result<Vec<PathBuf>> {
    let folder = stage.lab.path(name);
    std::fs::create_dir(&folder)?;
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755))?;
    (0..count)
        .map(|number| {
            let path = folder.join(format!("program-{number:04}"));
            Fake::small(number as u64).write(&path)?;
            Ok(path)
        })
        .collect()
}

/// Programs that nobody runs, one after the other, each to its end, which comes at once.
#[test]
fn many_that_end() {
    const COUNT: usize = 1_100;
    /// systemd's limit where a unit sets none.
    const LIMIT: u64 = 1_024;
    /// Descriptors that the agent may have more than at rest when all are gone.
    const FEW: usize = 20;
    let Some(_turn) = turn("many_that_end") else {
        return;
    };
    let mut stage = Stage::new("many-that-end").unwrap();
    let mut cells = Cells::new("many_that_end");
    let library = stage.library("library").unwrap();
    stage.curl_until_read(&library).unwrap();
    limit_descriptors(&stage.agent, LIMIT).unwrap();
    let at_rest = stage.agent.descriptors();
    let programs = fakes(&stage, "programs", repeat(COUNT)).unwrap();
    let spec = Spec::new("/bin/sh")
        .args(["-c", r#"for program; do "$program" || exit 1; done"#, "sh"])
        .args(&programs);
    let ran = run(&spec, &stage.lab.inside_as(NOBODY)).map(drop);
    cells.check("programs-ran", ran);
    known::settled(&stage.agent);
    let later = stage.library("later").unwrap();
    cells.check("read-later", read(&mut stage, &later));
    let few = wait_for(seconds(60), || {
        (stage.agent.descriptors() <= at_rest + FEW).then_some(())
    });
    let held = stage.agent.descriptors();
    let few = few.with_context(|| format!("{held} descriptors, {at_rest} at rest"));
    cells.check("few-descriptors", few);
    end(stage.agent, &mut cells);
    cells.finish();
}

fn read(stage: &mut Stage, library: &Path) -> Result<()> {
    let took = stage.curl_until_read(library)?;
    say(&format!(
        "a library that came later: read at request {took}"
    ));
    Ok(())
}

/// Processes of nobody with more files than the agent may have descriptors: another user's program is read, or listed
/// with a reason that says that.
#[test]
fn limit() {
    const LIMIT: u64 = 128;
    const COUNT: usize = 200;
    /// Reasons that say something of the program.
    const ITS_OWN: [&str; 5] = [
        "attached_late",
        "no_key_log_point",
        "no_secret",
        "library_unsupported",
        "opened_before",
    ];
    let Some(_turn) = turn("limit") else { return };
    let stage = Stage::new("limit").unwrap();
    let mut cells = Cells::new("limit");
    limit_descriptors(&stage.agent, LIMIT).unwrap();
    let library = stage.library("library").unwrap();
    let programs = fakes(&stage, "programs", COUNT).unwrap();
    // Each of them an owner of its own.
    let scope = stage.lab.scope().unwrap();
    let (many, one) = (scope.child("many.service"), scope.child("one.service"));
    let (many, one) = (many.unwrap(), one.unwrap());
    let place = |group: &Cgroup, user| Place {
        procs: Some(group.procs()),
        user,
    };
    let held = mapped(&programs, &place(&many, Some(NOBODY))).unwrap();
    known::settled(&stage.agent);
    // One process, which stays: its last connection is past every doubt about a first handshake.
    let asked = requests(&stage.lab, "limit-user", 4);
    let script = stage.script("anew", &library, &asked).unwrap();
    let mut user = script.start(&place(&one, None)).unwrap();
    for request in &asked {
        user.reach(&request.cell).unwrap();
        user.go().unwrap();
        assert_eq!(user.exchange().unwrap().status, 200);
        known::settled(&stage.agent);
    }
    let last = asked.last().unwrap();
    let fact = stage.web.fact(&last.path).unwrap();
    let credential = last.credential.clone();
    user.finish().unwrap();
    let fingerprint = stage.agent.fingerprint(&credential).unwrap();
    drop(held);
    if let Some(stopped) = end(stage.agent, &mut cells) {
        let read = stopped
            .events
            .iter()
            .any(|event| event.is_usage() && event.fingerprints().contains(&&*fingerprint));
        let listed = (|| {
            let (server, client) = fact.local().zip(fact.remote()).context("its ends")?;
            let event = stopped.events.iter().find(|event| {
                event.is_connection_coverage()
                    && event.local() == Some(client)
                    && event.peer() == Some(server)
            });
            let reason = event.and_then(|event| event.coverage_reason());
            let reason = reason.context("neither read nor listed")?;
            ensure!(
                !ITS_OWN.contains(&reason),
                "listed as {reason}, which is not so"
            );
            unread_in(&stopped.events, client, server, &[reason]).map(drop)
        })();
        say(&format!("limit: another user's program read: {read}"));
        cells.check("read-or-listed", if read { Ok(()) } else { listed });
    }
    cells.finish();
}

/// A process for each of these files, which has it mapped as code.
fn mapped(files: &[PathBuf], place: &Place) -> Result<Program> {
    let spec = Spec::new(fixtures::mapped()?).args(files);
    let mut program = Program::start(&spec, place)?;
    ensure!(program.line()? == "mapped", "not mapped");
    Ok(program)
}

/// Very many points, of users who may have their share each, at the time of the agent's end.
#[test]
fn many_at_the_end() {
    const COUNT: usize = 2_000;
    /// The finder of an agent without optimisation takes its time for each.
    const FEW: usize = 400;
    const USERS: usize = 8;
    /// Of users that nobody is.
    const FIRST_USER: u32 = 61_000;
    let Some(_turn) = turn("many_at_the_end") else {
        return;
    };
    let stage = Stage::new("many-at-the-end").unwrap();
    let mut cells = Cells::new("many_at_the_end");
    let count = if all() { COUNT } else { repeat(FEW) };
    let programs = fakes(&stage, "programs", count).unwrap();
    let at_rest = stage.agent.descriptors();
    let held: Vec<_> = programs
        .chunks(programs.len().div_ceil(USERS))
        .zip(FIRST_USER..)
        .map(|(share, user)| mapped(share, &stage.lab.inside_as(user)).unwrap())
        .collect();
    known::settled(&stage.agent);
    // All of them have one owner.
    let limit = soft_limit(stage.agent.pid()).unwrap();
    let share = usize::try_from(limit - limit.div_ceil(2).min(256)).unwrap_or(usize::MAX) / 4;
    let attached = wait_for(seconds(60), || {
        let attached = stage.agent.descriptors().saturating_sub(at_rest);
        (attached >= programs.len().min(share)).then_some(attached)
    });
    say(&format!(
        "many_at_the_end: {} processes, {attached:?} descriptors for them",
        programs.len()
    ));
    cells.check("attached", attached.map(drop).context("too few points"));
    end(stage.agent, &mut cells);
    drop(held);
    cells.finish();
}

/// Ends the agent and says how long that took.
fn end(agent: Agent, cells: &mut Cells) -> Option<crate::support::agent::Stopped> {
    let begin = Instant::now();
    let stopped = stop(agent, cells);
    say(&format!(
        "it ended after {:.1?} (goal: 5 s)",
        begin.elapsed()
    ));
    stopped
}
