//! A library on a file system that hangs, as one whose server is dead does: an agent that starts beside it is soon
//! ready, reads all others, those that it reads through classic probes among them, and ends.

use super::stage::{Stage, library_in, script, server};
use crate::support::expect::stop;
use crate::support::lab::Lab;
use crate::support::process::{Program, Spec};
use crate::support::report::Cells;
use crate::support::scenario::{Request, Scenario, requests};
use crate::support::{fixtures, seconds, turn, wait_for};
use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Requests of a process; the first is over before the agent starts.
const REQUESTS: usize = 3;

#[test]
fn hangs() {
    let Some(_turn) = turn("hangs") else { return };
    let lab = Lab::new("hangs").unwrap();
    let mut cells = Cells::new("hangs");
    match Mounted::start(&lab) {
        Ok(mounted) => beside(lab, &mounted, &mut cells).unwrap(),
        Err(error) => cells.skip("all", &format!("no such file system: {error:#}")),
    }
    cells.finish();
}

fn beside(lab: Lab, mounted: &Mounted, cells: &mut Cells) -> Result<()> {
    let web = server(&lab)?;
    let library = library_in(&lab.path("library"))?;
    let open = |name: &'static str, library: &Path| -> Result<_> {
        let asked = requests(&lab, name, REQUESTS);
        let mut scenario = script(&lab, &web, "bridged", library, &asked)?.start(&lab.inside())?;
        scenario.reach("opened")?;
        scenario.exchange()?;
        Ok((asked, scenario))
    };
    let (_, mut owner) = open("owner", &mounted.folder)?;
    let (asked, neighbour) = open("neighbour", &library)?;
    mounted.program.signal(Signal::STOP)?;
    let mut stage = Stage::unsettled(lab, web, |_| {})?;
    cells.check("open-before", go_on(&mut stage, neighbour, &asked[1..]));
    let anew = stage.curl_until_read(&library).map(drop);
    cells.check("opened-later", anew);
    stop(stage.agent, cells);
    // Whoever has the library goes on as before, too.
    mounted.program.signal(Signal::CONT)?;
    let unhurt = || {
        owner.go()?;
        owner.reach("closed")?;
        for _ in 1..REQUESTS {
            let done = owner.exchange()?;
            ensure!(done.status == 200, "status {}", done.status);
        }
        owner.go()?;
        owner.finish().map(drop)
    };
    cells.check("owner", unhurt());
    Ok(())
}

/// Every request on the connection that was open before the agent is read.
fn go_on(stage: &mut Stage, mut scenario: Scenario, asked: &[Request]) -> Result<()> {
    scenario.go()?;
    scenario.reach("closed")?;
    let done = asked
        .iter()
        .map(|_| scenario.exchange())
        .collect::<Result<Vec<_>>>()?;
    stage.each_was_read(asked, &done)?;
    scenario.go()?;
    scenario.finish().map(drop)
}

/// A folder with a copy of libssl, behind a file system in user space. Dropping it takes it away, hanging or not.
struct Mounted {
    folder: PathBuf,
    program: Program,
    /// Not in the lab's folder, which could not be removed while this hangs.
    _kept: TempDir,
}

impl Mounted {
    fn start(lab: &Lab) -> Result<Self> {
        let kept = tempfile::tempdir()?;
        let files = library_in(&kept.path().join("files"))?;
        let folder = kept.path().join("mounted");
        std::fs::create_dir(&folder)?;
        let spec = Spec::new(fixtures::system("/usr/bin/bindfs")?)
            .arg("-f")
            .arg(files)
            .arg(&folder);
        let mut program = Program::start(&spec, &lab.outside())?;
        let library = folder.join("libssl.so.3");
        let there = || match program.is_running() {
            true => library.exists().then_some(true),
            false => Some(false),
        };
        let is_there = wait_for(seconds(20), there).context("the library is not there")?;
        ensure!(is_there, "it ended: {}", program.stderr());
        Ok(Self {
            folder,
            program,
            _kept: kept,
        })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Who waits for an answer gets an error.
        let _ = self.program.signal(Signal::KILL);
        let _ = Command::new("umount").arg("-l").arg(&self.folder).status();
    }
}
