//! The rungs that change text, forced: they read what they are to read; and whatever process of the agent hangs, who
//! writes to a file with points goes on, and what the file holds then runs as it should.

use super::SHORT_SUM;
use super::stage::{Stage, library_in, unhurt};
use crate::support::agent;
use crate::support::expect::stop;
use crate::support::known;
use crate::support::process::{Place, Program, Spec};
use crate::support::report::Cells;
use crate::support::{all, fixtures, say, seconds, turn, wait_for};
use anyhow::{Context, Result, ensure};
use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

#[test]
fn rungs() {
    let Some(_turn) = turn("rungs") else { return };
    let mut cells = Cells::new("rungs");
    cells.check("doctor", told_by_doctor());
    for rung in ["breakpoint", "uprobe", "uprobe-host"] {
        match Stage::on_rung("rungs", rung) {
            Ok(Some(stage)) => {
                if let Err(error) = smoke(stage, rung, &mut cells) {
                    cells.check(rung, Err(error));
                }
            }
            Ok(None) => cells.skip(rung, "this agent has no choice of rungs"),
            Err(error) => cells.check(rung, Err(error)),
        }
    }
    cells.finish();
}

/// What the self-tests found.
fn told_by_doctor() -> Result<()> {
    let spec = Spec::new(agent::program()).args(["doctor", "--json"]);
    let finished = Program::start(&spec, &Place::default())?.finish()?;
    let report: serde_json::Value = serde_json::from_str(&finished.stdout.join("\n"))?;
    for rung in ["breakpoints", "keeper"] {
        ensure!(report[rung].get("Ok").is_some(), "{rung}: {}", report[rung]);
    }
    let spec = Spec::new(agent::program()).arg("doctor");
    let finished = Program::start(&spec, &Place::default())?.finish()?;
    let chosen = |line: &String| line.contains("breakpoint") && line.contains("<- chosen");
    ensure!(
        finished.stdout.iter().any(chosen),
        "doctor names no rung: {}",
        finished.stdout.join("\n")
    );
    Ok(())
}

fn smoke(mut stage: Stage, rung: &str, cells: &mut Cells) -> Result<()> {
    let library = stage.library("library")?;
    let read = stage.user(&library, &format!("{rung}-read")).map(drop);
    cells.check(&format!("{rung}-read"), read);
    let other = other(&stage)?;
    let upgraded = upgraded(&mut stage, rung);
    cells.check(&format!("{rung}-upgraded"), upgraded);
    let impatient = impatient(&mut stage, rung, &other);
    cells.check(&format!("{rung}-impatient-writer"), impatient);
    // Breakpoints hold no file, and host-wide uprobes hold it as those of one process do.
    if rung != "uprobe" && !all() {
        cells.skip(&format!("{rung}-hung"), "the rung uprobe stands for it");
        stop(stage.agent, cells);
        return Ok(());
    }
    // Each of them, by what it was started as.
    for (number, pid) in stage.agent.processes().into_iter().enumerate() {
        let name = name_of(pid);
        let hung = hangs(&mut stage, pid, &format!("{rung}-{number}"), &other);
        if let Ok(took) = &hung {
            say(&format!(
                "rungs: {rung}: the agent's process {name} hung: cp took {took:.1?}"
            ));
        }
        cells.check(&format!("{rung}-hung-{number}-{name}"), hung.map(drop));
    }
    stop(stage.agent, cells);
    Ok(())
}

/// `worker` of `tokentrail-agent worker`.
fn name_of(pid: u32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let word = line.split(|byte| *byte == 0).nth(1).unwrap_or_default();
    String::from_utf8_lossy(word).into_owned()
}

/// A sum as long as the library.
fn other(stage: &Stage) -> Result<PathBuf> {
    let other = stage.lab.path("other");
    fs::copy(fixtures::sum(SHORT_SUM)?, &other)?;
    let length = fs::metadata(fixtures::libssl()?)?.len();
    OpenOptions::new()
        .write(true)
        .open(&other)?
        .set_len(length)?;
    Ok(other)
}

/// Goes on when dropped.
struct Stopped(Pid);

impl Stopped {
    fn now(pid: u32) -> Result<Self> {
        let pid = Pid::from_raw(i32::try_from(pid)?).context("a pid")?;
        kill_process(pid, Signal::STOP)?;
        Ok(Self(pid))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

/// One process of the agent stands still while a library with points is overwritten; how long that took.
fn hangs(stage: &mut Stage, pid: u32, cell: &str, other: &Path) -> Result<std::time::Duration> {
    let library = library_in(&stage.lab.path(cell))?;
    let file = library.join("libssl.so.3");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
    // Its points are in use when the agent stops.
    let user = stage.user(&library, cell).context("before")?;
    let (inside, outside) = (stage.lab.inside(), stage.lab.outside());
    let stopped = Stopped::now(pid)?;
    let begin = Instant::now();
    let spec = Spec::new(fixtures::system("/usr/bin/cp")?)
        .arg(other)
        .arg(&file);
    let mut copy = Program::start(&spec, &Place::default())?;
    ensure!(
        copy.wait(seconds(180))
            .context("the writer waits")?
            .success(),
        "cp failed"
    );
    let took = begin.elapsed();
    for (place, name) in [(&inside, "in"), (&outside, "out of")] {
        unhurt(&Spec::new(&file), place).with_context(|| format!("{name} scope"))?;
    }
    // Whoever else asks is not held up.
    let elsewhere = library_in(&stage.lab.path(&format!("{cell}-elsewhere")))?;
    stage.curl(&elsewhere, &inside).context("while it hangs")?;
    drop(stopped);
    drop(user);
    fs::write(&file, fs::read(fixtures::libssl()?)?)?;
    known::settled(&stage.agent);
    let again = stage.user(&library, &format!("{cell}-behind"));
    again.context("behind")?;
    Ok(took)
}

/// As a package manager does it: another file under the same name, while the old one is in use.
fn upgraded(stage: &mut Stage, rung: &str) -> Result<()> {
    let name = format!("{rung}-upgraded");
    let library = library_in(&stage.lab.path(&name))?;
    let user = stage.user(&library, &name).context("before")?;
    let newer = library_in(&stage.lab.path(&format!("{name}-newer")))?;
    let file = library.join("libssl.so.3");
    fs::rename(newer.join("libssl.so.3"), &file)?;
    let again = stage.user(&library, &format!("{name}-behind"));
    again.context("the new file")?;
    drop(user);
    Ok(())
}

/// Whoever opens without waiting may be told to come again, and succeeds then.
fn impatient(stage: &mut Stage, rung: &str, other: &Path) -> Result<()> {
    let name = format!("{rung}-impatient");
    let library = library_in(&stage.lab.path(&name))?;
    let file = library.join("libssl.so.3");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
    let user = stage.user(&library, &name).context("before")?;
    let content = fs::read(other)?;
    let mut refused = 0;
    let opened = wait_for(seconds(120), || {
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let opened = OpenOptions::new()
            .write(true)
            .custom_flags(flags)
            .open(&file);
        match opened {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                refused += 1;
                None
            }
            decided => Some(decided),
        }
    });
    let mut writer = opened.context("refused for ever")??;
    writer.write_all(&content)?;
    drop(writer);
    say(&format!(
        "rungs: {rung}: O_NONBLOCK refused {refused} times"
    ));
    for place in [stage.lab.inside(), stage.lab.outside()] {
        unhurt(&Spec::new(&file), &place)?;
    }
    drop(user);
    Ok(())
}
