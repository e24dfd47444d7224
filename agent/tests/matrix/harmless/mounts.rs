//! One library below many mounts: containers of one image. A handshake is met as often as if there were one, and each
//! event names the library as its own process sees it.

use super::stage::{Stage, library_in};
use crate::support::expect::stop;
use crate::support::known;
use crate::support::process::{Place, Spec, run};
use crate::support::report::Cells;
use crate::support::scenario::{Request, Scenario, requests};
use crate::support::{fixtures, repeat, turn};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};

const CONTAINERS: usize = 12;

/// A process in a mount namespace of its own, which sees the image at a place of its own.
struct Container {
    asked: Vec<Request>,
    library: PathBuf,
    scenario: Scenario,
}

#[test]
fn mounts() {
    let Some(_turn) = turn("mounts") else { return };
    let mut stage = Stage::new("mounts").unwrap();
    let mut cells = Cells::new("mounts");
    for (cell, kind) in [("overlay", Kind::Overlay), ("bind", Kind::Bind)] {
        match possible(&stage, kind) {
            Ok(()) => cells.check(cell, containers(&mut stage, cell, kind)),
            Err(error) => cells.skip(cell, &format!("not on this machine: {error:#}")),
        }
    }
    stop(stage.agent, &mut cells);
    cells.finish();
}

#[derive(Clone, Copy)]
enum Kind {
    Overlay,
    Bind,
}

impl Kind {
    /// For the shell: what mounts the image, whose layers are given, at `$at`.
    fn command(self) -> &'static str {
        match self {
            Self::Overlay => r#"mount -t overlay overlay -o "lowerdir=$upper:$image" "$at""#,
            Self::Bind => r#"mount --bind "$image" "$at""#,
        }
    }
}

/// Mounts, and then becomes what is behind it.
fn script(stage: &Stage, kind: Kind, image: &Path, at: &Path) -> String {
    let upper = stage.lab.path("upper");
    format!(
        "set -e; image='{}' upper='{}' at='{}'; {}; exec \"$@\"",
        image.display(),
        upper.display(),
        at.display(),
        kind.command()
    )
}

fn possible(stage: &Stage, kind: Kind) -> Result<()> {
    let (image, at) = (stage.lab.path("image"), stage.lab.path("try"));
    for folder in [&image, &at, &stage.lab.path("upper")] {
        std::fs::create_dir_all(folder)?;
    }
    let spec = Spec::new(fixtures::system("/usr/bin/unshare")?)
        .args(["-m", "/bin/sh", "-c"])
        .arg(script(stage, kind, &image, &at))
        .args(["sh", "/bin/true"]);
    run(&spec, &Place::default()).map(drop)
}

fn containers(stage: &mut Stage, cell: &str, kind: Kind) -> Result<()> {
    let image = library_in(&stage.lab.path(&format!("image-{cell}")))?;
    let plain = stage.library(&format!("plain-{cell}"))?;
    let alone = hits_of_one(stage, &format!("{cell}-alone"), &plain)?;
    // Of each direction a handshake and an application secret, and the exporter's.
    ensure!(alone == 5, "one handshake has {alone} hits");
    let mut there = (0..repeat(CONTAINERS))
        .map(|number| start(stage, &format!("{cell}-{number}"), kind, &image))
        .collect::<Result<Vec<_>>>()?;
    // All of them have met the library before anything is counted.
    for container in &mut there {
        container.ask(0)?;
    }
    known::settled(&stage.agent);
    for container in &mut there {
        let before = stage.agent.hits()?;
        container.ask(1)?;
        let request = &container.asked[1];
        ensure!(
            stage.was_read(&request.credential)?,
            "{} was not read",
            request.cell
        );
        let hits = stage.agent.hits()? - before;
        ensure!(
            hits == alone,
            "a handshake beside {} others of the image has {hits} hits, alone {alone}",
            repeat(CONTAINERS) - 1
        );
        let fingerprint = stage.agent.fingerprint(&request.credential)?;
        let event = stage
            .agent
            .events
            .iter()
            .find(|event| event.fingerprints().contains(&fingerprint.as_str()));
        let named = event.and_then(|event| event.library_file());
        ensure!(
            named.map(Path::new) == Some(container.library.as_path()),
            "{} names the library {named:?}, its process sees {}",
            request.cell,
            container.library.display()
        );
    }
    for container in there {
        container.scenario.finish()?;
    }
    Ok(())
}

impl Container {
    fn ask(&mut self, number: usize) -> Result<()> {
        self.scenario.reach(&self.asked[number].cell)?;
        self.scenario.go()?;
        let done = self.scenario.exchange()?;
        ensure!(done.status == 200, "status {}", done.status);
        Ok(())
    }
}

fn start(stage: &Stage, cell: &str, kind: Kind, image: &Path) -> Result<Container> {
    let at = stage.lab.path(&format!("at-{cell}"));
    std::fs::create_dir(&at)?;
    let asked = requests(&stage.lab, cell, 2);
    let command = script(stage, kind, image, &at);
    let scenario = stage
        .script("anew", &at, &asked)?
        .below(&["/usr/bin/unshare", "-m", "/bin/sh", "-c", &command, "sh"])
        .start(&stage.lab.inside())?;
    Ok(Container {
        asked,
        library: at.join("libssl.so.3"),
        scenario,
    })
}

/// Hits of one handshake over a library that nobody else has.
fn hits_of_one(stage: &mut Stage, cell: &str, library: &Path) -> Result<u64> {
    let asked = requests(&stage.lab, cell, 2);
    let place = stage.lab.inside();
    let mut scenario = stage.script("anew", library, &asked)?.start(&place)?;
    let mut hits = 0;
    for request in &asked {
        let before = stage.agent.hits()?;
        scenario.reach(&request.cell)?;
        scenario.go()?;
        scenario.exchange()?;
        known::settled(&stage.agent);
        hits = stage.agent.hits()? - before;
    }
    scenario.finish()?;
    let last = asked.last().context("a request")?;
    ensure!(stage.was_read(&last.credential)?, "alone it was not read");
    ensure!(hits > 0, "a handshake that was read had no hit");
    Ok(hits)
}
