//! What begins before the agent, or before it can know: open connections, libraries mapped late, private copies.

use crate::support::agent::Agent;
use crate::support::event::Event;
use crate::support::expect::{Expectations, Expected, LATE, conclude, stop, unread_in};
use crate::support::lab::Lab;
use crate::support::programs::{Trial, Tried};
use crate::support::report::Cells;
use crate::support::scenario::{Exchange, Request, Scenario, Script, both_sides, requests};
use crate::support::servers::{Server, Wire};
use crate::support::{known, nginx, turn};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};

#[test]
fn late_attach() {
    let Some(_turn) = turn("late_attach") else {
        return;
    };
    let lab = Lab::new("late-attach").unwrap();
    let mut cells = Cells::new("late_attach");
    let mut expected = Expectations::default();
    let web = nginx::start(&lab, &lab.inside(), None).unwrap();
    let mut open = Vec::new();
    for wire in Wire::ALL {
        let asked = requests(&lab, &format!("late-{}", wire.name()), 4);
        let script = Script::new(&lab, "late")
            .unwrap()
            .target(&web.target(wire))
            .requests(&asked);
        let executable = script.executable();
        let mut scenario = script.start(&lab.inside()).unwrap();
        scenario.reach("opened").unwrap();
        scenario.exchange().unwrap();
        expected.never(&format!("before-{}", wire.name()), &asked[0].credential);
        open.push((wire, asked, executable, scenario));
    }
    let agent = Agent::start(&lab).unwrap();
    for (wire, asked, executable, mut scenario) in open {
        scenario.go().unwrap();
        let done = scenario.finish().unwrap();
        cells.about(
            &format!("late-{}", wire.name()),
            Tried::both("python", "nginx", wire, false, Trial::Late),
        );
        let mut both = both_sides(&done, &asked[1..], &web, &executable).unwrap();
        for one in &mut both {
            one.nested = wire.is_tls();
        }
        expected.add(both);
    }
    conclude(&expected, agent, cells);
}

/// One library that is mapped while its program runs.
struct Mapped {
    cell: &'static str,
    folder: Option<PathBuf>,
}

#[test]
fn late_library() {
    let Some(_turn) = turn("late_library") else {
        return;
    };
    let lab = Lab::new("late-library").unwrap();
    let mut cells = Cells::new("late_library");
    let mut expected = Expectations::default();
    let private = private_libraries(&lab, "private").unwrap();
    let web = nginx::start(&lab, &lab.inside(), None).unwrap();
    let mut agent = Agent::start(&lab).unwrap();
    let later = private_libraries(&lab, "later").unwrap();
    let table = [
        Mapped {
            cell: "system",
            folder: None,
        },
        Mapped {
            cell: "private",
            folder: Some(private),
        },
        Mapped {
            cell: "made-later",
            folder: Some(later),
        },
    ];
    let mut first_handshakes = Vec::new();
    for wire in [Wire::Tls12, Wire::Tls13] {
        for mapped in &table {
            let cell = format!("{}-{}", mapped.cell, wire.name());
            let asked = requests(&lab, &cell, 3);
            match late_run(&lab, &agent, &web, wire, mapped, &asked) {
                Ok((done, executable)) => {
                    let mut both = both_sides(&done, &asked, &web, &executable).unwrap();
                    if mapped.folder.is_some() {
                        // The first handshake may be over before the file is known. The server's end is always read.
                        let first = both.remove(0);
                        expected.whatever(&first.credential);
                        first_handshakes.push(first);
                    }
                    expected.add(both);
                }
                Err(error) => cells.check(&cell, Err(error)),
            }
        }
    }
    expected.check(&mut agent, &mut cells).unwrap();
    expected.no_strangers(&agent, &mut cells).unwrap();
    let fingerprints: Vec<_> = first_handshakes
        .iter()
        .map(|first| agent.fingerprint(&first.credential).unwrap())
        .collect();
    for mapped in &table {
        let read = agent
            .events
            .iter()
            .filter(|event| event.direction() == "client");
        let files: Vec<_> = read
            .filter(|event| event.path().is_some_and(|path| path.contains(mapped.cell)))
            .collect();
        cells.check(
            &format!("{}-named", mapped.cell),
            names_its_file(mapped, &files),
        );
    }
    if let Some(stopped) = stop(agent, &mut cells) {
        for (first, fingerprint) in first_handshakes.iter().zip(fingerprints) {
            let read = stopped.events.iter().any(|event| {
                event.fingerprints().contains(&fingerprint.as_str())
                    && event.direction() == "client"
            });
            let result = if read {
                Ok(())
            } else {
                is_late(first, &stopped.events)
            };
            cells.check(&format!("{}-first", first.cell), result);
        }
    }
    cells.finish();
}

fn is_late(first: &Expected, events: &[Event]) -> Result<()> {
    let (local, peer) = first.ends.context("its ends")?;
    unread_in(events, local, peer, &LATE)
        .map(drop)
        .context("neither event nor listed")
}

/// The events say which file's key-log point gave the secret.
fn names_its_file(mapped: &Mapped, events: &[&Event]) -> Result<()> {
    ensure!(!events.is_empty(), "no event");
    for event in events {
        let file = Path::new(event.library_file().unwrap_or_default());
        let right = match &mapped.folder {
            Some(folder) => file.starts_with(folder),
            None => file.ends_with("libssl.so.3") && file.starts_with("/usr/lib"),
        };
        ensure!(
            right,
            "the secret of {} came from {}",
            mapped.cell,
            file.display()
        );
    }
    Ok(())
}

/// Steps through the scenario; after every handshake the agent gets to know the library.
fn late_run(
    lab: &Lab,
    agent: &Agent,
    web: &Server,
    wire: Wire,
    mapped: &Mapped,
    asked: &[Request],
) -> Result<(Vec<Exchange>, PathBuf)> {
    let mut script = Script::new(lab, "late_library")?
        .target(&web.target(wire))
        .requests(asked);
    if let Some(folder) = &mapped.folder {
        script = script.env("LD_LIBRARY_PATH", folder);
    }
    let executable = script.executable();
    let mut scenario = script.start(&lab.inside())?;
    scenario.reach("without")?;
    scenario.go()?;
    let mut done = Vec::new();
    for request in asked {
        scenario.reach(&request.cell)?;
        done.push(scenario.exchange()?);
        known::settled(agent);
        scenario.go()?;
    }
    check_mapped(&scenario, mapped)?;
    scenario.finish()?;
    Ok((done, executable))
}

/// The program really runs on the copy that the cell is about.
fn check_mapped(scenario: &Scenario, mapped: &Mapped) -> Result<()> {
    let fact = scenario
        .facts
        .iter()
        .find_map(|fact| fact["mapped"].as_array())
        .context("what was mapped")?;
    let path = fact
        .iter()
        .find_map(|path| path.as_str())
        .context("a path")?;
    if let Some(folder) = &mapped.folder {
        ensure!(
            Path::new(path).starts_with(folder),
            "{path} is mapped, not the copy"
        );
    }
    Ok(())
}

/// Copies of the system's OpenSSL in a folder of their own: other inodes, same content.
fn private_libraries(lab: &Lab, name: &str) -> Result<PathBuf> {
    let folder = lab.path(name);
    std::fs::create_dir(&folder)?;
    for file in ["libssl.so.3", "libcrypto.so.3"] {
        let from = Path::new("/usr/lib/x86_64-linux-gnu").join(file);
        std::fs::copy(&from, folder.join(file))
            .with_context(|| format!("copy {}", from.display()))?;
    }
    Ok(folder)
}
